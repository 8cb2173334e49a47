"""Restore a task from a checkpoint, or initialise one with its weights."""

from __future__ import annotations

from pathlib import Path

from alerce_early.artifacts.checkpoints import LEAST_SHARE, Checkpoint, read
from alerce_early.construct import module_class
from alerce_early.errors import InputError, one_line
from alerce_early.tasks.base import Task


def task(path: str | Path, held: Checkpoint | None = None) -> Task:
    """Restore the task of a checkpoint.

    Parameters
    ----------
    path : str or Path
        The checkpoint, a run or the name of a pretrained network.
    held : Checkpoint, optional
        Its content, if it was read already.

    Returns
    -------
    Task
        In eval mode, on the CPU.

    Raises
    ------
    InputError
        As `read`, and if the weights do not fit the network or are not finite.
    """
    held = read(path) if held is None else held
    try:
        made = module_class(held["task"])
        if not issubclass(made, Task):
            raise InputError(f"{held['task']} is not a task.")
        restored = made(**held["hyper_parameters"])
        restored.load_state_dict(held["state_dict"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:
        raise InputError(f"{path}: the weights do not fit the network that it describes: {one_line(error)}.") from None
    check_weights(restored, path)
    return restored.eval()


def start_from(task: Task, path: str | Path) -> tuple[str, list[str]]:
    """Copy the weights of a checkpoint into a task, where name and shape agree.

    From an ensemble, a task with a single network takes the first member.

    Parameters
    ----------
    task : Task
        Changed in place.
    path : str or Path
        The checkpoint, a run or the name of a pretrained network.

    Returns
    -------
    summary : str
        Summary of the copied weights for the log.
    missing : list of str
        Names of the task's other weights, which keep their initial values.

    Raises
    ------
    InputError
        As `read`, and if fewer than `LEAST_SHARE` of the weights agree.
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
        raise InputError(f"init_from={path}: the checkpoint has no network config ({one_line(error)}).") from None
    share = sum(own[name].numel() for name in fitting) / sum(weight.numel() for weight in own.values())
    if share < LEAST_SHARE:
        raise InputError(
            f"init_from={path}: only {share:.0%} of the weights of {type(task.net).__name__} agree in name and shape. "
            f"Choose the network and the options that it was trained with ({net}), or another init_from."
        )
    task.load_state_dict(fitting, strict=False)
    check_weights(task, path)
    return f"{share:.0%} of the parameters come from {what} ({net})", [name for name in own if name not in fitting]


def check_weights(task: Task, path: str | Path) -> None:
    """Raise InputError if a weight of the task, read from `path`, is not finite."""
    for name, weight in task.state_dict().items():
        if not weight.isfinite().all():
            raise InputError(f"{path}: {name} has values that are not finite. Train again, or use another checkpoint.")
