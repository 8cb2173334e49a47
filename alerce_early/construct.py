"""From a plain config with a `_target_` to the class or function it names.

Configs also come out of checkpoints and run folders, which may come from anyone, so a name is imported only from this
package, from the packages that the environment variable `TRUST` lists, or where `trust` has seen it in a config that
the user has composed. A module class may besides be of any module that the running program has itself imported.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from alerce_early.errors import InputError, one_line
from alerce_early.schema import construct

if TYPE_CHECKING:
    from torch import nn

PACKAGE = __name__.split(".")[0]
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


def find(target: str, within: str = PACKAGE) -> Any:
    """Return what this dotted name stands for; raises InputError where it is not to be imported or cannot be.

    within: the package whose modules are let in, besides those that are trusted.
    """
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
