"""A signature as the schema of plain values: what is called with the values of a config or a file."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from alerce_early.errors import InputError

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
