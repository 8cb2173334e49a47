# On a new machine, `make train` or `make test` is enough: each creates the environment first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup train test engines check format board systems docs bench clean

help:  ## list these targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(READY)  ## create a virtual environment (.venv) with pinned versions

# uv installs the same wheels as pip in a tenth of the time; pip is the fallback if uv is unavailable.
$(READY): pyproject.toml versions.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; found $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv && \
	  $(VENV)/bin/uv pip install --quiet --python $(RUN) --constraint versions.txt --editable '.[dev,alerts,export,fast,stream,label,sweep]' || \
	  $(RUN) -m pip install --quiet --disable-pip-version-check --constraint versions.txt --editable '.[dev,alerts,export,fast,stream,label,sweep]'
	@touch $@

train: $(READY)  ## train rotinv on simulated data and write its report (ARGS="model=preliminary_cnn ...")
	$(RUN) -m alerce_early.train model=rotinv $(ARGS)

# Tests of one file share trained runs, so each file stays with one worker. Files with slow tests run first.
test: $(READY)  ## run the tests (ARGS="-k invariance ...")
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# Overrides instead of constraints: MLflow works with the pinned pyarrow, but no release declares it yet.
engines: $(READY)  ## install Ray, Dask, MLflow and wandb, and run the tests that need them
	$(VENV)/bin/uv pip install --quiet --python $(RUN) --override versions.txt --editable '.[cluster,loggers]' 'dask[dataframe]'
	$(RUN) -m pytest tests/end_to_end/test_engines.py tests/training/test_loggers.py $(ARGS)

check: $(READY)  ## check lint, format, types and import contracts
	$(RUN) -m ruff check alerce_early tests
	$(RUN) -m ruff format --check alerce_early tests
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-cache

format: $(READY)  ## format the code and apply lint fixes
	$(RUN) -m ruff check --fix alerce_early tests
	$(RUN) -m ruff format alerce_early tests

board: $(READY)  ## open TensorBoard for all runs
	$(VENV)/bin/tensorboard --logdir outputs

systems: $(READY)  ## train every system briefly on simulated data and compare them
	$(RUN) -m alerce_early.train sweep=systems $(ARGS)
	$(RUN) -m alerce_early.compare outputs/sweeps/systems

docs: $(READY)  ## build the documentation in outputs/docs; broken links are errors
	$(VENV)/bin/uv pip install --quiet --python $(RUN) --constraint versions.txt --editable '.[docs]'
	$(VENV)/bin/mkdocs build --strict --quiet --config-file .mkdocs.yml

bench: $(READY)  ## measure speed and memory relative to simple baselines
	$(RUN) -m tests.bench $(ARGS)

clean:  ## remove caches and builds, but keep outputs/
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find alerce_early tests -name __pycache__ -type d -exec rm -rf {} +
