"""Composition of configs.

This module does not import torch, so that a misspelt option is reported at once.
"""

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

MAX_NAME_LENGTH = 120  # characters of a folder name; file systems allow 255 bytes


def folder_name(overrides: str) -> str:
    """Return the overrides of a job as a folder name; long names are truncated and hashed."""
    name = re.sub(r"[^\w.,=+-]+", "_", overrides)
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[:MAX_NAME_LENGTH]}-{sha256(name.encode()).hexdigest()[:8]}"


def explain_options(chosen: DictConfig, groups: Sequence[str] = (), *, _root_: DictConfig) -> str:
    """Describe the options of a config for --help: each key with its meaning, then the chosen yaml of each group.

    Parameters
    ----------
    chosen : DictConfig
        Name of the chosen yaml by group.
    groups : sequence of str
        Show only these groups; all by default.
    _root_ : DictConfig
        The composed config; Hydra passes it.

    Returns
    -------
    str
        The text, with each `$` doubled for Hydra.
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
    return "\n".join(parts).replace("$", "$$")  # Hydra substitutes names after a single one


OmegaConf.register_new_resolver("explain_options", explain_options, replace=True)
OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn errors of Hydra and OmegaConf, such as an unknown key or a wrong type, into an `InputError`."""
    try:
        yield
    except HydraException as error:
        raise InputError(_describe_error(error)) from None
    except OmegaConfBaseException as error:
        raise InputError(f"config: {one_line(error)}.") from None
    except MarkedYAMLError as error:
        where = f"{error.problem_mark.name}, line {error.problem_mark.line + 1}" if error.problem_mark else "config"
        raise InputError(f"{where}: {error.problem}. Correct the yaml.") from None
    except ValueError as error:
        if "Config group override" not in str(error):  # raised by Hydra if a choice is a number
            raise
        raise InputError(f"options: {one_line(error)}.") from None


def _describe_error(error: HydraException) -> str:
    """Return a message for an error of Hydra, with the nearest valid option instead of its advice to add a +."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        hint = next((f"; did you mean {name}?" for name in get_close_matches(choice, error.options, n=1)), ".")
        return f"{group}={choice} is not a choice. Choose from {', '.join(error.options)}{hint}"
    cause = error.__cause__
    parent = cause.parent_node if isinstance(cause, OmegaConfBaseException) else None
    if isinstance(cause, OmegaConfBaseException) and isinstance(parent, DictConfig):
        path = [*filter(None, parent._get_full_key(None).split(".")), str(cause.key)]
        return str(schema.refuse(path, cast(DictConfig, parent._get_root()), ".".join(path)))
    if isinstance(error, OverrideParseException):
        return f"{error.override} is not an option. Write KEY=VALUE, with quotes around brackets, commas and spaces."
    return f"options: {one_line(error)}."


def compose_config(*options: str, hydra: bool = False) -> DictConfig:
    """Compose and check a config as the train command does.

    Parameters
    ----------
    *options : str
        Options as on the command line.
    hydra : bool
        Include the `hydra` node.

    Returns
    -------
    DictConfig
        The composed config.

    Raises
    ------
    InputError
        If an option is invalid.
    """
    given = quote_options(options)
    with translate_errors():
        # inside a command Hydra is already initialised
        initialised = GlobalHydra.instance().is_initialized()
        with nullcontext() if initialised else initialize_config_dir(CONF, version_base="1.3"):
            config = compose("train", overrides=list(given), return_hydra_config=hydra)
            schema.check(config, given)
            adopt(config, given)
            return config


def adopt(config: DictConfig, given: Sequence[str]) -> None:
    """Trust the names in a composed config, and drop the arguments of classes replaced on the command line.

    Parameters
    ----------
    config : DictConfig
        The composed config, changed in place.
    given : sequence of str
        Options that it was composed with.
    """
    construct.trust(OmegaConf.to_container(config))
    typed = OverridesParser.create().parse_overrides(list(given))
    if named := [option for option in typed if option.key_or_group.endswith("._target_")]:
        before = compose("train", overrides=[option.input_line or "" for option in typed if option not in named])
        construct.trust(OmegaConf.to_container(before))
        for option in named:
            _drop_replaced(config, before, option.key_or_group.rpartition(".")[0], typed)


def _drop_replaced(config: DictConfig, before: DictConfig, where: str, typed: Sequence[Override]) -> None:
    """Drop the arguments of the class that was replaced at `where`, but keep those given on the command line.

    A subclass keeps all arguments. A reader, an optimiser or a task keeps the arguments that it also accepts.
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
    """Quote a text so that Hydra reads it as the value of an option."""
    if re.fullmatch(r"[\w/.+@-]+", text := str(value), re.ASCII):
        return text
    return '"' + re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + found[2].replace('"', '\\"'), text) + '"'


def quote_options(options: Sequence[str]) -> list[str]:
    """Quote values that contain a =, such as a checkpoint's name, and remove quotes around the keys of dicts.

    Hydra's grammar accepts neither. Options are returned in the same order.
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
    """Return a config node as plain containers, with references resolved."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
