# Two commands do everything on a fresh machine: `make train` and `make test`.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup train test engines check format board systems docs bench clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(READY)  ## create the environment (.venv) with pinned versions

# uv installs the same wheels as pip in a tenth of the time; pip is the way out where it cannot be had.
$(READY): pyproject.toml versions.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; found $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv && \
	  $(VENV)/bin/uv pip install --quiet --python $(RUN) --constraint versions.txt --editable '.[dev,alerts,export,fast,stream,label,sweep]' || \
	  $(RUN) -m pip install --quiet --disable-pip-version-check --constraint versions.txt --editable '.[dev,alerts,export,fast,stream,label,sweep]'
	@touch $@

train: $(READY)  ## train rotinv on the simulated survey, up to the HTML report (ARGS="model=preliminary_cnn ...")
	$(RUN) -m alerce_early.train model=rotinv $(ARGS)

# A run that several tests of a file need is trained once: a file stays with one worker. The slow files come first.
test: $(READY)  ## the test suite (ARGS="-k invariance ...")
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# Overrides, not constraints: of MLflow no release allows the pinned pyarrow yet, with which it runs.
engines: $(READY)  ## install Ray, Dask, MLflow and wandb too, and run the tests that are skipped without them
	$(VENV)/bin/uv pip install --quiet --python $(RUN) --override versions.txt --editable '.[cluster,loggers]' 'dask[dataframe]'
	$(RUN) -m pytest tests/end_to_end/test_engines.py tests/training/test_loggers.py $(ARGS)

check: $(READY)  ## lint, format, types and arrows, changing nothing
	$(RUN) -m ruff check alerce_early tests
	$(RUN) -m ruff format --check alerce_early tests
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-cache

format: $(READY)  ## format the code and sort imports
	$(RUN) -m ruff check --fix alerce_early tests
	$(RUN) -m ruff format alerce_early tests

board: $(READY)  ## TensorBoard over all runs
	$(VENV)/bin/tensorboard --logdir outputs

systems: $(READY)  ## every system briefly on simulated data, and one table of them
	$(RUN) -m alerce_early.train sweep=systems $(ARGS)
	$(RUN) -m alerce_early.compare outputs/sweeps/systems

docs: $(READY)  ## build the documentation site in outputs/docs; a broken link is an error
	$(VENV)/bin/uv pip install --quiet --python $(RUN) --constraint versions.txt --editable '.[docs]'
	$(VENV)/bin/mkdocs build --strict --quiet --config-file .mkdocs.yml

bench: $(READY)  ## speed and memory, as ratios against a rival measured in the same run
	$(RUN) -m tests.bench $(ARGS)

clean:  ## remove caches and builds; runs and stores in outputs/ stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find alerce_early tests -name __pycache__ -type d -exec rm -rf {} +
