"""Build objects from plain configs, with signatures as the schema of their values."""

import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from alerce_early.errors import InputError, one_line

if TYPE_CHECKING:
    from torch import nn
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Literal, TypeVar, Union, get_args, get_origin, get_type_hints

PACKAGE = __name__.split(".")[0]
# Modules and functions that checkpoints and run folders name, as they were called before, and what they are now.
RENAMED = {
    "alerce_early.data.readers.alerts": "alerce_early.data.readers.packets.stream",
    "alerce_early.models.deep_hits": "alerce_early.models.rotinv",
    "alerce_early.simulation.hits_survey": "alerce_early.simulation.hits",
    "alerce_early.simulation.rubin_survey.read": "alerce_early.simulation.survey.read_rubin",
    "alerce_early.simulation.sdss_survey": "alerce_early.simulation.sdss",
}
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
        if isinstance(target := config.get("_target_"), str):
            yield target
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
    """Return the `nn.Module` class of this dotted name; see the module's docstring for what is let in."""
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


def current_name(target: str) -> str:
    """Return the dotted name by which a class or function is found today; see `RENAMED`."""
    module_name, _, name = target.rpartition(".")
    return RENAMED.get(target) or f"{RENAMED.get(module_name, module_name)}.{name}"


def find(target: str, within: str = PACKAGE) -> Any:
    """Return what this dotted name stands for; raises InputError where it is not to be imported or cannot be.

    within: the package whose modules are let in, besides those that are trusted.
    """
    target = current_name(target)
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
    """Call a constructor whose signature is the schema: a key it does not know is refused by name."""
    check_call(cls, *arguments, **options)
    try:
        return cls(*arguments, **options)
    except TypeError as error:  # of a base class, to which a subclass hands on what it does not know itself
        if "unexpected keyword argument" not in str(error):
            raise
        raise InputError(f"{cls.__name__}: {error}.") from None


def check_call(cls: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Raise InputError for arguments that its signature does not take, without calling it."""
    signature = inspect.signature(cls)
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise InputError(f"{cls.__name__}: {error}. It takes {', '.join(signature.parameters)}.") from None
    asked: Any = cls.__init__ if isinstance(cls, type) else cls  # type: ignore[misc]
    hints = get_type_hints(asked)
    for name, value in options.items():
        if not fits_hint(value, hints.get(name, Any)):
            raise InputError(f"{cls.__name__}: {name}={str(value)[:60]}: {_ask(hints[name])}.")


def fits_hint(value: Any, hint: Any) -> bool:
    """Is a plain value of the type that a signature asks for? Types that are not plain let everything in."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits_hint(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if hint is None or hint is type(None):
        return value is None
    if hint in (int, float):
        return isinstance(value, int | hint) and (hint is not int or not isinstance(value, bool))
    if hint in (str, bool):
        return isinstance(value, hint)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits_hint(one, inner[1]) for one in value.values())
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        if origin is tuple and inner[-1:] != (Ellipsis,):  # of that many, each of its own type
            return len(value) == len(inner) and all(map(fits_hint, value, inner))
        return all(fits_hint(one, inner[0]) for one in value)
    return True


def _ask(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"choose from {', '.join(map(str, get_args(hint)))}"
    return f"expected {describe_hint(hint)}"


def describe_hint(hint: Any) -> str:
    """Return what a type hint asks for in words, in the singular, with the names of yaml for the values."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(describe_hint, inner)))
    plain: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    plain |= {None: "null", type(None): "null"}
    if (kind := origin or hint) in plain:
        return plain[kind]
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "a mapping"
    if isinstance(kind, type) and issubclass(kind, Sequence):
        several = inner if kind is tuple and inner[-1:] != (Ellipsis,) else inner[:1]  # of that many, or all alike
        return f"a list of {', '.join(map(describe_hint, several))}" if inner else "a list"
    return getattr(hint, "__name__", str(hint))
