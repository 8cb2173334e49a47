"""Build objects from the plain options of configs and checkpoints, checked against signatures and type hints."""

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
# Current names of modules and functions that older checkpoints and run folders refer to.
RENAMED = {
    "alerce_early.data.readers.alerts": "alerce_early.data.readers.packets.stream",
    "alerce_early.models.deep_hits": "alerce_early.models.rotinv",
    "alerce_early.simulation.hits_survey": "alerce_early.simulation.hits",
    "alerce_early.simulation.rubin_survey.read": "alerce_early.simulation.survey.read_rubin",
    "alerce_early.simulation.sdss_survey": "alerce_early.simulation.sdss",
}
NAMING = ("_target_", "loss", "metrics")  # keys of a config whose values may be dotted names
TRUST = "ALERCE_EARLY_TRUST"  # comma-separated packages that checkpoints and run folders may import from
_trusted: set[str] = set()


def trust(config: Any) -> None:
    """Allow importing the names in a config, except those of Hydra.

    Parameters
    ----------
    config : mapping
        A config composed by the user, never one read from a run folder.
    """
    _trusted.update(_targets({key: part for key, part in config.items() if key != "hydra"}))


def own_packages(config: Any) -> list[str]:
    """Return the user's packages that a config names: neither this one nor torch, torchvision and lightning."""
    packages = {target.split(".")[0] for target in _targets(config)}
    return sorted(packages - {PACKAGE, "torch", "lightning", "torchvision", "__main__"})


def _targets(config: Any) -> Iterator[str]:
    """Yield all dotted names in a config."""
    if isinstance(config, Mapping):
        for named in map(config.get, NAMING):
            names = named if isinstance(named, list) else [named]
            yield from (name for name in names if isinstance(name, str) and "." in name)
        config = list(config.values())
    if isinstance(config, list):
        for inner in config:
            yield from _targets(inner)


def build(config: Mapping[str, Any], **arguments: Any) -> Any:
    """Construct the torch module described by a config.

    Parameters
    ----------
    config : mapping of str
        "_target_" is the dotted name of the class; other keys are arguments.
    **arguments
        Additional arguments.

    Returns
    -------
    torch.nn.Module
        The module.

    Raises
    ------
    InputError
        If there is no such class, or it does not accept an argument.
    """
    options = {**config, **arguments}
    return construct(module_class(str(options.pop("_target_", ""))), **options)


def module_class(target: str) -> "type[nn.Module]":
    """Import a class derived from `torch.nn.Module`; raise InputError for anything else. See `find` for limits."""
    from torch import nn  # a slow import, not needed to compose a config

    imported = target.rpartition(".")[0]
    found = find(target, imported if imported in sys.modules else PACKAGE)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"_target_ {target!r}: not a torch module class. Name a class derived from torch.nn.Module.")
    return found


def function(target: str) -> Any:
    """Import a function of this package or a trusted one; raise InputError for anything else."""
    found = find(target)
    if not inspect.isfunction(found) or not (target in _trusted or _is_within(found.__module__, PACKAGE)):
        raise InputError(f"_target_ {target!r}: not a function of {PACKAGE}. {_advice(target)}")
    return found


def library_class(target: str, kind: type, within: str = "torch.optim") -> Any:
    """Import a class of a library or of the user's own code.

    Parameters
    ----------
    target : str
        Dotted name.
    kind : type
        Required base class.
    within : str
        Package of the library.

    Returns
    -------
    type
        The class.

    Raises
    ------
    InputError
        If it cannot be imported or is not derived from `kind`.
    """
    found = find(target, within)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise InputError(f"_target_ {target!r}: not a subclass of {kind.__name__}. Name a class of {within}.")
    return found


def find(target: str, within: str = PACKAGE) -> Any:
    """Import an object by its dotted name.

    Parameters
    ----------
    target : str
        Dotted name; renamed modules are translated.
    within : str
        Package from which imports are allowed, in addition to trusted names.

    Returns
    -------
    Any
        The object.

    Raises
    ------
    InputError
        If the import is not allowed or fails.
    """
    module_name, _, name = target.rpartition(".")
    target = RENAMED.get(target) or f"{RENAMED.get(module_name, module_name)}.{name}"
    module_name, _, name = target.rpartition(".")
    if target not in _trusted and not _is_within(module_name, within):
        raise InputError(f"_target_ {target!r}: not part of {within}. {_advice(target)}")
    try:
        return getattr(importlib.import_module(module_name), name)
    except Exception as error:  # the user's module may raise anything
        why = one_line(error) if isinstance(error, ImportError | AttributeError) else repr(error)
        raise InputError(
            f"_target_ {target!r}: {why}. Start the command in the folder that contains your package."
        ) from None


def _is_within(module_name: str, package: str) -> bool:
    """Return True if a module belongs to a package or to one named in the environment variable `TRUST`."""
    allowed = (package, *filter(None, os.environ.get(TRUST, "").split(",")))
    return any(f"{module_name}.".startswith(f"{name}.") for name in allowed)


def _advice(target: str) -> str:
    """Explain how to trust a name in a checkpoint or run folder."""
    return f"If it is your own code, set {TRUST}={target.split('.')[0] or 'PACKAGE'} in the environment."


T = TypeVar("T")


def construct(cls: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Check the options of a class or function, and call it; raise InputError for an option that it does not accept."""
    check(cls, *arguments, **options)
    try:
        return cls(*arguments, **options)
    except TypeError as error:  # from a base class, if a subclass passes on unknown options
        if "unexpected keyword argument" not in str(error):
            raise
        raise InputError(f"{cls.__name__}: {error}.") from None


def check(cls: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Check options against a signature and its type hints, without a call.

    Parameters
    ----------
    cls : callable
        A class or function.
    *arguments
        Positional arguments; their types are not checked.
    **options
        Options. Types are checked only of plain values, as in a config or a checkpoint.

    Raises
    ------
    InputError
        If an option is unknown or missing, or a value has the wrong type.
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
        with suppress(TypeError):  # not a JSON value, or a hint without a schema in pydantic
            plain = json.dumps(options[name])
            try:  # as JSON, so that a list may be a tuple and other types must match
                hint = TypeAdapter(hints[name], config=ConfigDict(arbitrary_types_allowed=True))
                hint.validate_json(plain, strict=True)
            except ValidationError as error:
                raise InputError(
                    f"{cls.__name__}: {name}={str(options[name])[:60]}: {explain(error.errors())[1]}."
                ) from None


def _parameters(cls: Callable[..., Any]) -> list[str]:
    """Return the parameter names of a function, or of a class and its bases; [] if any name is accepted."""
    known: list[str] = []
    for one in cls.__mro__ if isinstance(cls, type) else [cls]:
        if not isinstance(one, type) or "__init__" in vars(one):
            own = inspect.signature(one).parameters.values()
            known += [each.name for each in own if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
            if not any(each.kind is each.VAR_KEYWORD for each in own):
                return known
    return []


def _advise(options: Mapping[str, Any], known: Sequence[str]) -> str:
    """Suggest the parameter most similar to an unknown one, or list all."""
    near = [close for name in options if name not in known for close in get_close_matches(name, known, n=1)]
    return f"Did you mean {near[0]}?" if near else f"It takes {', '.join(known) or 'other options'}."


def explain(errors: "Sequence[ErrorDetails]") -> tuple[list[Any], str]:
    """Describe the first validation error of pydantic.

    Parameters
    ----------
    errors : sequence of pydantic_core.ErrorDetails
        Errors of one validation.

    Returns
    -------
    path : list
        Keys and indices that lead to the value.
    expected : str
        Requirement that the value violates, e.g. "should be a valid integer".
    """
    first = errors[0]
    path = [key for key in first["loc"] if not re.fullmatch(r"\w+\[.*\]|int|float|str|bool", str(key))]
    union = [
        error["msg"] for error in errors if error["loc"][:-1] == first["loc"][:-1] and error["input"] is first["input"]
    ]
    expected = " or ".join(dict.fromkeys(words.removeprefix("Input ") for words in union))
    return path, re.sub(r"valid dictionary( or instance of \w+)?", "mapping", expected)
