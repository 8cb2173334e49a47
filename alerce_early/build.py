"""From a plain config with a `_target_` to the module it names.

Configs also come out of checkpoints, and a checkpoint may come from anyone. So only `nn.Module` classes are
built, and only from this package or from a module that the running program has itself imported.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

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
    return cls(*arguments, **options)


def module_class(target: str) -> type[nn.Module]:
    """The `nn.Module` class of this dotted name; see the module's docstring for what is let in."""
    module_name, _, name = target.rpartition(".")
    try:
        ours = module_name.split(".")[0] == PACKAGE
        module = importlib.import_module(module_name) if ours else sys.modules[module_name]
        found = getattr(module, name)
    except (ImportError, KeyError, AttributeError, ValueError):
        raise InputError(f"_target_ {target!r}: there is no such class in {PACKAGE}.") from None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"_target_ {target!r} is not a torch module class.")
    return found


def function(target: str) -> Any:
    """The function this dotted name of this package stands for."""
    module_name, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"_target_ {target!r} cannot be imported: {error}.") from None
