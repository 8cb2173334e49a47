"""Commands composed by Hydra: a single job or a sweep, with one-line messages for errors and signals."""

import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from hydra import main as hydra_main
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from alerce_early import files
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError, exit_on_input_error
from alerce_early.experiments import schema, sweep
from alerce_early.experiments.config import CONF, adopt, quote_options, translate_errors
from alerce_early.files import VERSION
from alerce_early.training import signals
from alerce_early.training.processes import broadcast_from_first, is_first


@exit_on_input_error
def run_folder(resume: str | None, new: str) -> str:
    """Choose the folder of a run, the same in all its processes.

    Parameters
    ----------
    resume : str or None
        Folder of the run to resume.
    new : str
        Path of a new folder; a number is appended if another process has claimed it.

    Returns
    -------
    str
        Path of the run folder.
    """
    return broadcast_from_first(lambda: str(Run.find(resume).path if resume else Run.new(Path(new)).path))


OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)


def command(job: Callable[[DictConfig], None]) -> Callable[[], None]:
    """Turn a job into a command whose config is composed from train.yaml and the command line.

    An `InputError` ends the command with one line and status 2, a signal with one line and status 128 + its number. In
    a sweep, an error ends only its job, see `sweep`.

    Parameters
    ----------
    job : callable
        Takes the composed config.

    Returns
    -------
    callable
        The command; it takes no arguments and reads `sys.argv`.
    """

    @wraps(job)
    def guarded(config: DictConfig) -> None:
        full = files.translate_refusals(Path(config.outputs), files.FULL)
        with signals.reraise_stopped(), translate_errors(), full:  # Hydra prints errors that leave the job
            options = list(HydraConfig.get().overrides.task)
            schema.check(config, options)
            adopt(config, options)
            job(config)

    def discard() -> None:
        if is_first():
            Run(Path(HydraConfig.get().runtime.output_dir)).discard_if_unused()

    def alone(config: DictConfig) -> None:
        try:
            guarded(config)
        except files.BusyError:
            raise
        except InputError:
            discard()
            raise
        discard()  # preparing data makes no run

    @wraps(job)
    def one_or_many(config: DictConfig) -> None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            sweep.run(guarded, config)
        else:
            exit_on_input_error(alone)(config)

    composing = hydra_main(version_base="1.3", config_path=CONF, config_name="train")(one_or_many)

    @exit_on_input_error
    def main() -> None:
        if "--version" in sys.argv:  # otherwise Hydra prints its own version
            print(f"alerce-early {VERSION}")
            return
        # a shell does not expand the ~ of KEY=~/FILE, and Hydra reads it as an empty value
        sys.argv[1:] = [re.sub("=~(?=/|$)", lambda _: f"={Path.home()}", option) for option in sys.argv[1:]]
        sys.argv[1:] = quote_options(sys.argv[1:])
        os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints an error in several lines and exits
        given = get_args_parser().parse_args()
        if given.help:  # show the help of this command; argparse accepts options only in one place
            place = sys.argv.index(given.overrides[0]) if given.overrides else len(sys.argv)
            sys.argv.insert(place, f"hydra/help={job.__globals__['__spec__'].name.rpartition('.')[2]}")
        with signals.listen(is_first), translate_errors():
            for option in OverridesParser.create().parse_overrides(given.overrides):
                added = option.is_sweep_override() and (option.is_add() or option.is_force_add())
                if added and not schema.knows(option.key_or_group):  # otherwise reported only by each job
                    raise schema.refuse(option.key_or_group.split("."), DictConfig({}), option.input_line or "")
            composing()

    return main
