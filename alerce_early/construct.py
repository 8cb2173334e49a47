"""From a plain config with a `_target_` to the module it names.

Configs also come out of checkpoints, and a checkpoint may come from anyone. So only `nn.Module` classes are
built, and only from this package or from a module that the running program has itself imported.
"""

import importlib
import inspect
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from alerce_early.errors import InputError
from alerce_early.schema import construct

PACKAGE = __name__.split(".")[0]


def build(config: Mapping[str, Any], **arguments: Any) -> Any:
    """Construct the class that `config["_target_"]` names, with the config's other keys and `arguments`.

    Raises InputError if there is no such module class, or a key does not fit its constructor.
    """
    options = {**config, **arguments}
    return construct(module_class(str(options.pop("_target_", ""))), **options)


def module_class(target: str) -> type[nn.Module]:
    """Return the `nn.Module` class of this dotted name; see the module's docstring for what is let in."""
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
    """Return the function of this package that this dotted name stands for; raises InputError for anything else.

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


def library_class(target: str, kind: type, within: str = "torch.optim") -> Any:
    """Return the class of these modules that this dotted name stands for, a `kind`; raises InputError for others."""
    module_name, _, name = str(target).rpartition(".")
    found = getattr(sys.modules.get(module_name), name, None) if module_name.startswith(within) else None
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise InputError(f"_target_ {target!r} is no {kind.__name__} of {within}.")
    return found


def _ours(module_name: str) -> bool:
    return module_name.split(".")[0] == PACKAGE
