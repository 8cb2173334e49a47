"""From a plain config with a `_target_` to the module it names.

Configs also come out of checkpoints, and a checkpoint may come from anyone. So only `nn.Module` classes are
built, and only from this package or from a module that the running program has itself imported.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import nn

from alerce_early.errors import InputError

PACKAGE = __name__.split(".")[0]

T = TypeVar("T")


def build(config: Mapping[str, Any], **arguments: Any) -> Any:
    """Construct the class that `config["_target_"]` names, with the config's other keys and `arguments`.

    Raises InputError if there is no such module class, or a key does not fit its constructor.
    """
    options = {**config, **arguments}
    return construct(module_class(str(options.pop("_target_", ""))), **options)


def construct(cls: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call a constructor whose signature is the schema: a key it does not know is refused by name."""
    signature = inspect.signature(cls)
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise InputError(
            f"{getattr(cls, '__name__', cls)}: {error}. It takes {', '.join(signature.parameters)}."
        ) from None
    asked: Any = cls.__init__ if isinstance(cls, type) else cls  # type: ignore[misc]
    hints = get_type_hints(asked)
    for name, value in options.items():
        if not _fits(value, hints.get(name, Any)):
            raise InputError(f"{cls.__name__}: {name}={str(value)[:60]!r}; wanted {_told(hints[name])}.")
    try:
        return cls(*arguments, **options)
    except TypeError as error:  # of a base class, to which a subclass hands on what it does not know itself
        if "unexpected keyword argument" not in str(error):
            raise
        raise InputError(f"{cls.__name__}: {error}.") from None


def _fits(value: Any, hint: Any) -> bool:
    """Is a plain value of the type that a signature asks for? Types that are not plain let everything in."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if hint is None or hint is type(None):
        return value is None
    if hint in (int, float):
        return isinstance(value, int | hint) and (hint is not int or not isinstance(value, bool))
    if hint in (str, bool):
        return isinstance(value, hint)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(one, inner[1]) for one in value.values())
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(one, inner[0]) for one in value)
    return True


def _told(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "").replace("collections.abc.", "")


def module_class(target: str) -> type[nn.Module]:
    """The `nn.Module` class of this dotted name; see the module's docstring for what is let in."""
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name) if _ours(module_name) else sys.modules[module_name]
        found = getattr(module, name)
    except (ImportError, KeyError, AttributeError, ValueError):
        raise InputError(f"_target_ {target!r}: there is no such class in {PACKAGE}.") from None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"_target_ {target!r} is not a torch module class.")
    return found


def function(target: str) -> Any:
    """The function of this package that this dotted name stands for; raises InputError for anything else.

    A run folder may come from anyone, and its config names the reader of its data.
    """
    module_name, _, name = str(target).rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name) if _ours(module_name) else None
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"_target_ {target!r} cannot be imported: {error}.") from None
    if not (inspect.isfunction(found) and _ours(found.__module__)):
        raise InputError(f"_target_ {target!r} is no function of {PACKAGE}.")
    return found


def torch_class(target: str, kind: type) -> Any:
    """The class of torch.optim that this dotted name stands for, a `kind`; raises InputError for anything else."""
    module_name, _, name = str(target).rpartition(".")
    found = getattr(sys.modules.get(module_name), name, None) if module_name.startswith("torch.optim") else None
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise InputError(f"_target_ {target!r} is no {kind.__name__} of torch.optim.")
    return found


def _ours(module_name: str) -> bool:
    return module_name.split(".")[0] == PACKAGE
