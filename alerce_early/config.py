"""Where the configs are, and how one is composed; nothing here waits for torch, nor does a misspelt option."""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from functools import wraps
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra import main as hydra_main
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alerce_early import construct, files, overrides
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError, exit_on_input_error, one_line
from alerce_early.files import VERSION
from alerce_early.training import signals, sweeps
from alerce_early.training.processes import agree, is_first

log = logging.getLogger(__name__)

_INSTALLED, _CHECKOUT = Path(__file__).parent / "conf", Path(__file__).parent.parent / "conf"
CONF = str(_INSTALLED if _INSTALLED.is_dir() else _CHECKOUT)

LONGEST_NAME = 120  # characters of a folder's name; file systems allow 255 bytes


def folder_name(overrides: str) -> str:
    """Return a job's overrides as one folder name: no path inside, and a hash for what is too long to read."""
    name = re.sub(r"[^\w.,=+-]+", "_", overrides)
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{sha256(name.encode()).hexdigest()[:8]}"


@exit_on_input_error
def run_folder(resume: str | None, new: str) -> str:
    """Return the folder that a run writes to: that of the run to resume, or a new one that no other process has got.

    All processes of one run get the same.
    """
    return agree(lambda: str(Run.find(resume).path if resume else Run.new(Path(new)).path))


def explain_options(chosen: DictConfig, groups: Sequence[str] = ()) -> str:
    """Return train.yaml and the chosen yaml of each group as written, with what their comments say of every key.

    groups: show the yamls of these groups alone.
    """
    text = (Path(CONF) / "train.yaml").read_text(encoding="utf-8")
    parts = [] if groups else [text[text.index("seed:") : text.index("hydra:\n")]]
    for group, name in ((str(group), str(name)) for group, name in chosen.items()):
        if groups and group not in groups:
            continue
        file = Path(CONF) / group / f"{name}.yaml"
        if file.exists():
            own = file.read_text(encoding="utf-8")
            place = "" if "@package _global_" in own else f": write its keys as {group}.KEY"
            parts.append(f"# {group}={name}{place}\n" + own.replace("# @package _global_\n", ""))
    return "\n".join(parts).replace("$", "$$")  # Hydra fills in what a single one names


OmegaConf.register_new_resolver("explain_options", explain_options, replace=True)
OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)


def command(job: Callable[[DictConfig], None]) -> Callable[[], None]:
    """Make a job a command composed by Hydra from train.yaml and the command line.

    A user's mistake ends it with one line and status 2, a signal with one line and status 128 + its number.
    Of a sweep, a mistake ends one job, see `sweeps`.
    """
    launch = sweeps.LAUNCH  # travels with a job that is sent to another machine

    @wraps(job)
    def guarded(config: DictConfig) -> None:
        full = files.translate_refusals(Path(config.outputs), files.FULL)
        with signals.unwinding(), translate_errors(), full:  # Hydra prints an error that leaves the job
            _adopt(config, HydraConfig.get().overrides.task)
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
        discard()  # what prepares data alone leaves no run

    @wraps(job)
    def one_or_many(config: DictConfig) -> None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            sweeps.run(guarded, config, launch)
        else:
            exit_on_input_error(alone)(config)

    composing = hydra_main(version_base="1.3", config_path=CONF, config_name="train")(one_or_many)

    @exit_on_input_error
    def main() -> None:
        if "--version" in sys.argv:  # Hydra would tell its own
            print(f"alerce-early {VERSION}")
            return
        # a shell leaves the ~ of KEY=~/FILE as it is, and Hydra takes it for no value
        sys.argv[1:] = [re.sub("=~(?=/|$)", lambda _: f"={Path.home()}", option) for option in sys.argv[1:]]
        sys.argv[1:] = quote_options(sys.argv[1:])
        if {"-h", "--help"} & {*sys.argv}:
            sys.argv.append(f"hydra/help={job.__globals__['__spec__'].name.rpartition('.')[2]}")
        os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints what it refuses, in several lines, and exits itself
        given = get_args_parser().parse_args()
        with signals.listen(is_first), translate_errors():
            _check_added(given.overrides, given.config_dir)
            composing()

    return main


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn what Hydra says of the options and OmegaConf of a config (an unknown key, a list for a number) into an
    `InputError`.
    """
    try:
        yield
    except HydraException as error:
        raise InputError(_refused(error)) from None
    except OmegaConfBaseException as error:
        raise InputError(f"config: {one_line(error)}.") from None


def _refused(error: HydraException) -> str:
    """Say what Hydra refused and what there is instead; its own advice, a +, hides a misspelling."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        meant = next((f"; did you mean {name}?" for name in get_close_matches(choice, error.options, n=1)), ".")
        return f"{group}={choice} is no choice; wanted one of {', '.join(error.options)}{meant}"
    cause = error.__cause__
    parent = cause.parent_node if isinstance(cause, OmegaConfBaseException) else None
    if isinstance(cause, OmegaConfBaseException) and isinstance(parent, DictConfig):
        known = ", ".join(str(key) for key in parent if key not in ("hydra", "source", "steps"))
        where, root = parent._get_full_key(None), cast(DictConfig, parent._get_root())
        near = overrides.suggest(f"{where}.{cause.key}".lstrip("."), root)
        return f"{where or 'the config'} has no key {cause.key}; wanted one of {known}{near}"
    if isinstance(error, OverrideParseException):
        return f"{error.override} is no option; wanted KEY=VALUE, quoted where it has brackets, commas or spaces."
    return f"options: {one_line(error)}."


def compose_config(*options: str, hydra: bool = False) -> DictConfig:
    """Compose train.yaml with these options as train does; raises InputError for an option that train would refuse.

    hydra: keep Hydra's own part of it.
    """
    given = quote_options(options)
    with translate_errors():
        _check_added(given)
        # within a command Hydra is there already
        there = GlobalHydra.instance().is_initialized()
        with nullcontext() if there else initialize_config_dir(CONF, version_base="1.3"):
            config = compose("train", overrides=list(given), return_hydra_config=hydra)
            _adopt(config, given)
            return config


def _adopt(config: DictConfig, given: Sequence[str]) -> None:
    """Trust the names in a composed config, and drop the options of a class that a typed `_target_` replaces."""
    construct.trust(OmegaConf.to_container(config))
    typed = OverridesParser.create().parse_overrides(list(given))
    if named := [option for option in typed if option.key_or_group.endswith("._target_")]:
        before = compose_config(*[option.input_line or "" for option in typed if option not in named])
        for option in named:
            overrides.drop_replaced(config, before, option.key_or_group.rpartition(".")[0], typed)


def _check_added(given: Sequence[str], more_configs: str | None = None) -> None:
    """Refuse what is added with + where nothing would read it; more_configs: a folder of the user's own yamls."""
    parsed = OverridesParser.create().parse_overrides(list(given))
    added = [o for o in parsed if (o.is_add() or o.is_force_add()) and not o.key_or_group.startswith(overrides.OPEN)]
    if added:
        rest = [o.input_line or "" for o in parsed if o not in added and not o.is_sweep_override()]
        found = [f"hydra.searchpath=['file://{Path(more_configs).absolute()}']"] if more_configs else []
        overrides.check_added(added, compose_config(*rest, *found))


def quote_value(value: str | Path) -> str:
    """Return a text as Hydra reads it back as the value of an option."""
    if re.fullmatch(r"[\w/.+@-]+", text := str(value), re.ASCII):
        return text
    return '"' + re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + found[2].replace('"', '\\"'), text) + '"'


def quote_options(options: Sequence[str]) -> list[str]:
    """Quote the values that have a =, such as the name of a checkpoint, for which Hydra's grammar has no place."""

    def quote(option: str) -> str:
        key, _, value = option.partition("=")
        if "=" not in value or option.startswith("-") or re.search(r"[\[\]{}()'\"]", value):
            return option
        return f"{key}={','.join(quote_value(part) if '=' in part else part for part in value.split(','))}"

    return [quote(option) for option in options]


def to_plain(config: Any) -> Any:
    """Return a config node as plain containers, references resolved."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
