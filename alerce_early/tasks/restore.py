"""Rebuild a task from a checkpoint, or start one from its weights."""

from __future__ import annotations

from pathlib import Path

from alerce_early.artifacts.checkpoints import LEAST_SHARE, Checkpoint, read
from alerce_early.construct import module_class
from alerce_early.errors import InputError, one_line
from alerce_early.tasks.base import Task


def task(path: str | Path, held: Checkpoint | None = None) -> Task:
    """Return the task of a checkpoint, in eval mode on the CPU; held: its content, if it was read already.

    Raises `InputError` as `read`, and for a checkpoint whose weights do not fit its own net.
    """
    held = read(path) if held is None else held
    try:
        made = module_class(held["task"])
        if not issubclass(made, Task):
            raise InputError(f"{held['task']} is no task.")
        restored = made(**held["hyper_parameters"])
        restored.load_state_dict(held["state_dict"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:
        raise InputError(f"{path}: its weights do not fit the net it describes: {one_line(error)}.") from None
    check_weights(restored, path)
    return restored.eval()


def start_from(task: Task, path: str | Path) -> tuple[str, list[str]]:
    """Give a task those weights of a checkpoint that have the name and shape of one of its own.

    Of several networks joined, a task of one network takes the first. Returns what was taken, in words, and the names
    of the task's other weights, which stay as they were. Raises `InputError` as `read`, and where next to none fit.
    """
    found, own = read(path), task.state_dict()
    first = "net.members.0."
    try:
        held, options, what = found["state_dict"], found["hyper_parameters"]["net"], str(path)
        if any(name.startswith(first) for name in held) and not any(name.startswith(first) for name in own):
            held = {name.replace(first, "", 1): weight for name, weight in held.items() if name.startswith(first)}
            what = f"the first of {len(options['members'])} networks in {path}"
            options = options["members"][0]["net"]
        fitting = {name: held[name] for name, one in own.items() if name in held and held[name].shape == one.shape}
        net = " ".join(f"{key}={value}" for key, value in options.items()).replace("_target_=", "")
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"init_from={path}: it does not describe its network ({one_line(error)}).") from None
    share = sum(own[name].numel() for name in fitting) / sum(weight.numel() for weight in own.values())
    if share < LEAST_SHARE:
        raise InputError(
            f"init_from={path}: {share:.0%} of the weights of {type(task.net).__name__} would come from it. "
            f"Choose the network and the options that it was made with ({net}), or another start."
        )
    task.load_state_dict(fitting, strict=False)
    check_weights(task, path)
    return f"{share:.0%} of the parameters come from {what} ({net})", [name for name in own if name not in fitting]


def check_weights(task: Task, path: str | Path) -> None:
    """Raise `InputError` where a task's weights, read from `path`, are not all finite: its answers would be NaN."""
    for name, weight in task.state_dict().items():
        if not weight.isfinite().all():
            raise InputError(f"{path}: {name} is not finite, so it can tell nothing. Train again, or take another one.")
