"""Train a network and write a report: `python -m alerce_early.train model=rotinv`.

The steps of a run are in `experiments.run`, a slow import that composing the config does not need.
"""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from alerce_early.artifacts.run_folder import Run, describe_differences, flatten_config, logs_inside
from alerce_early.errors import InputError
from alerce_early.experiments import schema
from alerce_early.experiments.command import command
from alerce_early.experiments.config import compose_config


@command
def main(config: DictConfig) -> None:
    """Train with this config, or resume the run that it names."""
    run = Run.find(config.resume) if config.resume else Run(Path(HydraConfig.get().runtime.output_dir))
    _train(config, run, HydraConfig.get().overrides.task)


def train_options(*options: str) -> Run:
    """Train with options as on the command line.

    Parameters
    ----------
    *options : str
        Options such as "model=rotinv"; "resume=FOLDER" resumes a run.

    Returns
    -------
    Run
        The finished run.

    Raises
    ------
    InputError
        If an option is invalid, or the options are a sweep.
    """
    config = compose_config(*options, hydra=True)
    if config.hydra.mode == RunMode.MULTIRUN:
        raise InputError(f"{' '.join(options)}: a sweep. Use python -m alerce_early.train with the same options.")
    run, level = Run(Path(config.hydra.run.dir)), config.hydra.job_logging.root.level
    with open_dict(config):
        del config.hydra
    with run.log(level):
        return _train(config, run, options)


def _train(config: DictConfig, run: Run, options: Sequence[str]) -> Run:
    """Train or resume a run."""
    if config.resume:
        config = _config_of_resumed_run(config, run, options)
    from alerce_early.experiments.run import train

    return train(config, run.path, overrides=options)


def _config_of_resumed_run(config: DictConfig, run: Run, options: Sequence[str]) -> DictConfig:
    """Return the config in the run folder, with the logger of the options if they choose one.

    Raises InputError if other options differ from it, or if its logger may write outside the run folder: the folder may
    come from anyone.
    """
    own = run.config()
    schema.check(own, file=run.config_file)
    default, given = compose_config(), flatten_config(config)
    plain = flatten_config(default)
    typed = [key for key in plain | given if given.get(key) != plain.get(key)]
    if differ := [key for key in typed if given.get(key) != flatten_config(own).get(key)]:
        raise InputError(
            f"{run.path}: cannot resume with different options: "
            f"{describe_differences(differ, flatten_config(own), given)}. "
            f"To continue training with these, start a new run with init_from={run.path}."
        )
    if config.outputs != default.outputs:
        own.outputs = config.outputs
    if any(option.lstrip("+~").startswith("logger") for option in options):
        own.logger = config.logger
    elif not logs_inside(own):
        raise InputError(
            f"{run.path}: its logger writes outside the run folder. Choose a logger, e.g. logger=tensorboard."
        )
    return own


if __name__ == "__main__":
    main()
