"""What is typed and the config it makes: mistakes are refused before any data are read, with the nearest right key."""

from collections.abc import Sequence
from difflib import get_close_matches
from inspect import signature
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from alerce_early.errors import InputError

# Below these a key may be added with +: what it names takes more options than its yaml tells, or any.
OPEN = (
    *("trainer.", "model.net.", "model.task.", "optim.optimizer.", "optim.schedule.", "optim.groups."),
    *("hydra.", "data.groups.", "data.keep.", "callbacks."),
)


def check_added(added: Sequence[Override], config: DictConfig) -> None:
    """Raise InputError for a key added with + that nothing reads; config: without what is added."""
    known = _keys(OmegaConf.to_container(config))
    for option in added:
        if option.key_or_group not in known:
            raise InputError(f"{option.input_line}: nothing reads this{suggest(option.key_or_group, config)}")


def suggest(key: str, config: DictConfig) -> str:
    """Return the key that a misspelt one is nearest to, as words that end a message."""
    known = _keys(OmegaConf.to_container(config))
    near = _nearest(key, known)
    if not near:  # only now, since it takes seconds to know of them
        import lightning as L

        near = _nearest(key, [f"trainer.{option}" for option in signature(L.Trainer).parameters])
    return f"; did you mean {'' if near in known else '+'}{near}?" if near else "."


def _nearest(key: str, known: Sequence[str]) -> str | None:
    last = {name: name.rpartition(".")[2] for name in known}
    wanted = key.rpartition(".")[2]
    near = [name for name in known if last[name] == wanted] or get_close_matches(key, known, n=1)
    near = near or [name for name in known if last[name] in get_close_matches(wanted, last.values(), n=1)]
    return near[0] if near else None


def _keys(config: Any, above: str = "") -> list[str]:
    """All dotted keys, but for Hydra's own."""
    if not isinstance(config, dict):
        return []
    names = [name for name in map(str, config) if above or name != "hydra"]
    return [key for name in names for key in (above + name, *_keys(config[name], f"{above}{name}."))]


def drop_replaced(config: DictConfig, before: DictConfig, where: str, typed: Sequence[Override]) -> None:
    """Drop the options of the class that `where` named before, but for those typed, where it now names another one.

    What a subclass replaces stays. A reader, an optimiser or a task keeps what it takes itself: a path, a rate.
    """
    from alerce_early.construct import find

    node, former = OmegaConf.select(config, where), OmegaConf.select(before, where)
    if not former or former.get("_target_") in (None, node["_target_"]):
        return
    new, old = find(node["_target_"]), find(former["_target_"])
    if isinstance(new, type) and isinstance(old, type) and issubclass(new, old):
        return
    kept = {"_target_", *(option.key_or_group.removeprefix(f"{where}.").split(".")[0] for option in typed)}
    if where != "model.net":
        kept |= set(signature(new).parameters)
    with open_dict(node):
        for key in former.keys() - kept:
            node.pop(key, None)
