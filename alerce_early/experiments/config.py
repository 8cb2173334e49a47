"""Where the configs are, and how one is composed; nothing here waits for torch, nor does a misspelt option."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from alerce_early import construct, files
from alerce_early.errors import InputError, one_line
from alerce_early.experiments import schema

log = logging.getLogger(__name__)

_INSTALLED, _CHECKOUT = files.PACKAGE / "conf", files.PACKAGE.parent / "conf"
CONF = str(_INSTALLED if _INSTALLED.is_dir() else _CHECKOUT)

LONGEST_NAME = 120  # characters of a folder's name; file systems allow 255 bytes


def folder_name(overrides: str) -> str:
    """Return a job's overrides as one folder name: no path inside, and a hash for what is too long to read."""
    name = re.sub(r"[^\w.,=+-]+", "_", overrides)
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{sha256(name.encode()).hexdigest()[:8]}"


def explain_options(chosen: DictConfig, groups: Sequence[str] = (), *, _root_: DictConfig) -> str:
    """Return what the schema says of each key, and the chosen yaml of each group as written.

    groups: show the keys and yamls of these groups alone.
    """
    keys = [
        (f"{key}={value}", meaning)
        for key, value, meaning in schema.describe(_root_)
        if value is not None and (not groups or key.split(".")[0] in groups)
    ]
    parts = ["".join(f"{option:26}  # {meaning}\n" for option, meaning in keys)]
    for group, name in ((str(group), str(name)) for group, name in chosen.items()):
        if groups and group not in groups:
            continue
        file = Path(CONF) / group / f"{name}.yaml"
        if file.exists():
            own = file.read_text(encoding="utf-8")
            package = re.match("# @package (.*)\n", own)
            place = package[1] if package else group
            where = "" if place == "_global_" else f": write its keys as {place}.KEY"
            parts.append(f"# {group}={name}{where}\n" + own.removeprefix(package[0] if package else ""))
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
    except MarkedYAMLError as error:
        where = f"{error.problem_mark.name}, line {error.problem_mark.line + 1}" if error.problem_mark else "config"
        raise InputError(f"{where}: {error.problem}. Correct the yaml.") from None
    except ValueError as error:
        if "Config group override" not in str(error):  # Hydra's of a choice that is a number
            raise
        raise InputError(f"options: {one_line(error)}.") from None


def _refused(error: HydraException) -> str:
    """Say what Hydra refused and what there is instead; its own advice, a +, hides a misspelling."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        meant = next((f"; did you mean {name}?" for name in get_close_matches(choice, error.options, n=1)), ".")
        return f"{group}={choice} is no choice; wanted one of {', '.join(error.options)}{meant}"
    cause = error.__cause__
    parent = cause.parent_node if isinstance(cause, OmegaConfBaseException) else None
    if isinstance(cause, OmegaConfBaseException) and isinstance(parent, DictConfig):
        path = [*filter(None, parent._get_full_key(None).split(".")), str(cause.key)]
        return str(schema.refuse(path, cast(DictConfig, parent._get_root()), ".".join(path)))
    if isinstance(error, OverrideParseException):
        return f"{error.override} is no option; wanted KEY=VALUE, quoted where it has brackets, commas or spaces."
    return f"options: {one_line(error)}."


def compose_config(*options: str, hydra: bool = False) -> DictConfig:
    """Compose train.yaml with these options as train does; raises InputError for an option that train would refuse.

    hydra: keep Hydra's own part of it.
    """
    given = quote_options(options)
    with translate_errors():
        # within a command Hydra is there already
        there = GlobalHydra.instance().is_initialized()
        with nullcontext() if there else initialize_config_dir(CONF, version_base="1.3"):
            config = compose("train", overrides=list(given), return_hydra_config=hydra)
            schema.check(config, given)
            adopt(config, given)
            return config


def adopt(config: DictConfig, given: Sequence[str]) -> None:
    """Trust the names in a composed config, and drop the options of a class that a typed `_target_` replaces."""
    construct.trust(OmegaConf.to_container(config))
    typed = OverridesParser.create().parse_overrides(list(given))
    if named := [option for option in typed if option.key_or_group.endswith("._target_")]:
        before = compose("train", overrides=[option.input_line or "" for option in typed if option not in named])
        construct.trust(OmegaConf.to_container(before))
        for option in named:
            _drop_replaced(config, before, option.key_or_group.rpartition(".")[0], typed)


def _drop_replaced(config: DictConfig, before: DictConfig, where: str, typed: Sequence[Override]) -> None:
    """Drop the options of the class that `where` named before, but for those typed, where it now names another one.

    What a subclass replaces stays. A reader, an optimiser or a task keeps what it takes itself: a path, a rate.
    """
    node, former = OmegaConf.select(config, where), OmegaConf.select(before, where)
    if not former or former.get("_target_") in (None, node["_target_"]):
        return
    new, old = construct.find(node["_target_"]), construct.find(former["_target_"])
    if isinstance(new, type) and isinstance(old, type) and issubclass(new, old):
        return
    kept = {"_target_", *(option.key_or_group.removeprefix(f"{where}.").split(".")[0] for option in typed)}
    if where != "model.net":
        kept |= set(signature(new).parameters)
    with open_dict(node):
        for key in former.keys() - kept:
            node.pop(key, None)


def quote_value(value: str | Path) -> str:
    """Return a text as Hydra reads it back as the value of an option."""
    if re.fullmatch(r"[\w/.+@-]+", text := str(value), re.ASCII):
        return text
    return '"' + re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + found[2].replace('"', '\\"'), text) + '"'


def quote_options(options: Sequence[str]) -> list[str]:
    """Quote the values that have a =, such as the name of a checkpoint, for which Hydra's grammar has no place.

    The keys of a dict, which it takes without quotes alone, lose theirs.
    """

    def unquote(key: re.Match[str]) -> str:
        return key[1] + re.sub(r"([()\[\]{},:=\\])", r"\\\1", key[3])

    def quote(option: str) -> str:
        option = re.sub(r"""([{,]\s*)(["'])([^"']*)\2(?=\s*:)""", unquote, option)
        key, _, value = option.partition("=")
        if "=" not in value or option.startswith("-") or re.search(r"[\[\]{}()'\"]", value):
            return option
        return f"{key}={','.join(quote_value(part) if '=' in part else part for part in value.split(','))}"

    return [quote(option) for option in options]


def to_plain(config: Any) -> Any:
    """Return a config node as plain containers, references resolved."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
