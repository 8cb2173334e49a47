"""Where the configs are, and how one is composed; nothing here waits for torch, nor does a misspelt option."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alerce_early import construct, files
from alerce_early.errors import InputError, one_line
from alerce_early.experiments import overrides

log = logging.getLogger(__name__)

_INSTALLED, _CHECKOUT = files.PACKAGE / "conf", files.PACKAGE.parent / "conf"
CONF = str(_INSTALLED if _INSTALLED.is_dir() else _CHECKOUT)

LONGEST_NAME = 120  # characters of a folder's name; file systems allow 255 bytes


def folder_name(overrides: str) -> str:
    """Return a job's overrides as one folder name: no path inside, and a hash for what is too long to read."""
    name = re.sub(r"[^\w.,=+-]+", "_", overrides)
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{sha256(name.encode()).hexdigest()[:8]}"


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
