"""Build objects from the plain options of configs and checkpoints, each checked against the signature it is for."""

import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from alerce_early.errors import InputError, one_line

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails
    from torch import nn

PACKAGE = __name__.split(".")[0]
# Modules and functions that checkpoints and run folders name, as they were called before, and what they are now.
RENAMED = {
    "alerce_early.data.readers.alerts": "alerce_early.data.readers.packets.stream",
    "alerce_early.models.deep_hits": "alerce_early.models.rotinv",
    "alerce_early.simulation.hits_survey": "alerce_early.simulation.hits",
    "alerce_early.simulation.rubin_survey.read": "alerce_early.simulation.survey.read_rubin",
    "alerce_early.simulation.sdss_survey": "alerce_early.simulation.sdss",
}
NAMING = ("_target_", "loss", "metrics")  # keys of a config whose values may be dotted names
TRUST = "ALERCE_EARLY_TRUST"  # packages of the user's own that a checkpoint or run folder may name, by comma
_trusted: set[str] = set()


def trust(config: Any) -> None:
    """Let the names in a config be imported, Hydra's own apart: a config composed by the user, never a run folder's."""
    _trusted.update(_targets({key: part for key, part in config.items() if key != "hydra"}))


def own_packages(config: Any) -> list[str]:
    """Return the packages outside of this one and its libraries that a config names."""
    packages = {target.split(".")[0] for target in _targets(config)}
    return sorted(packages - {PACKAGE, "torch", "lightning", "torchvision", "__main__"})


def _targets(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        for named in map(config.get, NAMING):
            names = named if isinstance(named, list) else [named]
            yield from (name for name in names if isinstance(name, str) and "." in name)
        config = list(config.values())
    if isinstance(config, list):
        for inner in config:
            yield from _targets(inner)


def build(config: Mapping[str, Any], **arguments: Any) -> Any:
    """Construct the class that `config["_target_"]` names, with the config's other keys and `arguments`.

    Raises InputError if there is no such module class, or a key does not fit its constructor.
    """
    options = {**config, **arguments}
    return construct(module_class(str(options.pop("_target_", ""))), **options)


def module_class(target: str) -> "type[nn.Module]":
    """Return the `nn.Module` class of this dotted name; see `find` for what is let in."""
    from torch import nn  # which composing a config need not wait for

    imported = target.rpartition(".")[0]
    found = find(target, imported if imported in sys.modules else PACKAGE)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"_target_ {target!r}: not a torch module class. Name a class derived from torch.nn.Module.")
    return found


def function(target: str) -> Any:
    """Return the function that this dotted name stands for: the reader of a data set; raises InputError for others."""
    found = find(target)
    if not inspect.isfunction(found) or not (target in _trusted or _is_within(found.__module__, PACKAGE)):
        raise InputError(f"_target_ {target!r}: not a function of {PACKAGE}. {_advice(target)}")
    return found


def library_class(target: str, kind: type, within: str = "torch.optim") -> Any:
    """Return the class that this dotted name stands for, a `kind` of these modules or of the user's own.

    Raises InputError for others.
    """
    found = find(target, within)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise InputError(f"_target_ {target!r}: not a subclass of {kind.__name__}. Name a class of {within}.")
    return found


def find(target: str, within: str = PACKAGE) -> Any:
    """Return what this dotted name stands for; raises InputError where it is not to be imported or cannot be.

    within: the package whose modules are let in, besides those that are trusted.
    """
    module_name, _, name = target.rpartition(".")
    target = RENAMED.get(target) or f"{RENAMED.get(module_name, module_name)}.{name}"
    module_name, _, name = target.rpartition(".")
    if target not in _trusted and not _is_within(module_name, within):
        raise InputError(f"_target_ {target!r}: not part of {within}. {_advice(target)}")
    try:
        return getattr(importlib.import_module(module_name), name)
    except Exception as error:  # a module of the user's own may fail in any way
        why = one_line(error) if isinstance(error, ImportError | AttributeError) else repr(error)
        raise InputError(
            f"_target_ {target!r}: {why}. Own code must be importable: start in the folder that holds its package."
        ) from None


def _is_within(module_name: str, package: str) -> bool:
    let_in = (package, *filter(None, os.environ.get(TRUST, "").split(",")))
    return any(f"{module_name}.".startswith(f"{name}.") for name in let_in)


def _advice(target: str) -> str:
    """Say how to let in a name that a checkpoint or run folder gives."""
    return f"If it is your own code, set {TRUST}={target.split('.')[0] or 'PACKAGE'} in the environment."


T = TypeVar("T")


def construct(cls: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call a class or function after `check` of its options; raises InputError for one that it does not take."""
    check(cls, *arguments, **options)
    try:
        return cls(*arguments, **options)
    except TypeError as error:  # of a base class, to which a subclass hands on what it does not know itself
        if "unexpected keyword argument" not in str(error):
            raise
        raise InputError(f"{cls.__name__}: {error}.") from None


def check(cls: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Raise InputError for options that a signature or its type hints do not allow, without the call.

    Only plain values are compared with their hints: what a config or a checkpoint holds.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    try:
        inspect.signature(cls).bind(*arguments, **options)
    except TypeError as error:
        raise InputError(f"{cls.__name__}: {error}. {_advise(options, _parameters(cls))}") from None
    if (known := _parameters(cls)) and (unknown := [name for name in options if name not in known]):
        raise InputError(f"{cls.__name__}: takes no {unknown[0]!r}. {_advise(options, known)}")
    hints = get_type_hints(cls.__init__ if isinstance(cls, type) else cls)  # type: ignore[misc]
    for name in filter(hints.__contains__, options):
        with suppress(TypeError):  # no JSON holds the value, or pydantic knows no schema of the hint
            plain = json.dumps(options[name])
            try:  # as JSON, where a list may be a tuple and nothing else changes its type
                hint = TypeAdapter(hints[name], config=ConfigDict(arbitrary_types_allowed=True))
                hint.validate_json(plain, strict=True)
            except ValidationError as error:
                raise InputError(
                    f"{cls.__name__}: {name}={str(options[name])[:60]}: {explain(error.errors())[1]}."
                ) from None


def _parameters(cls: Callable[..., Any]) -> list[str]:
    """Return the names of what a call takes, of a class also what its bases take; [] if that is anything."""
    known: list[str] = []
    for one in cls.__mro__ if isinstance(cls, type) else [cls]:
        if not isinstance(one, type) or "__init__" in vars(one):
            own = inspect.signature(one).parameters.values()
            known += [each.name for each in own if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
            if not any(each.kind is each.VAR_KEYWORD for each in own):
                return known
    return []


def _advise(options: Mapping[str, Any], known: Sequence[str]) -> str:
    near = [close for name in options if name not in known for close in get_close_matches(name, known, n=1)]
    return f"Did you mean {near[0]}?" if near else f"It takes {', '.join(known) or 'other options'}."


def explain(errors: "Sequence[ErrorDetails]") -> tuple[list[Any], str]:
    """Return where the first value is that pydantic refuses, and what it should be."""
    first = errors[0]
    path = [key for key in first["loc"] if not re.fullmatch(r"\w+\[.*\]|int|float|str|bool", str(key))]
    union = [
        error["msg"] for error in errors if error["loc"][:-1] == first["loc"][:-1] and error["input"] is first["input"]
    ]
    asked = " or ".join(dict.fromkeys(words.removeprefix("Input ") for words in union))
    return path, re.sub(r"valid dictionary( or instance of \w+)?", "mapping", asked)
