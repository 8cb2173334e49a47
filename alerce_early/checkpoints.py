"""Checkpoints from any year and from anyone: read without running anything of theirs, and made a task again.

A checkpoint holds `format`, the name of its `task` class, `hyper_parameters` (plain: net, spec with the recipe,
...), `state_dict` and, of a finished run, `calibration` and `conformal`. `FORMAT` is raised when a change makes
older ones unreadable; what mends them is then added to `UPGRADES`.
"""

import io
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_module_registration_hook

from alerce_early import disk
from alerce_early.build import module_class
from alerce_early.data import bounds
from alerce_early.errors import InputError, one_line
from alerce_early.tasks.base import FORMAT, Task

Checkpoint = dict[str, Any]

# What a checkpoint of tensors and plain values names. Torch's own list also has callables that take memory at will.
ALLOWED = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
STORAGES = {f"torch {name}Storage" for name in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")}
WANTED = ("task", "hyper_parameters", "state_dict")
MODULES = 1000  # a net may have that many, and more only as its weights do

TASKS_OF_NETS = {
    "FlipoutMLP": "bayes.BayesTask",
    "StampVAE": "generate.GenerateTask",
    "SpectraLines": "lines.LinesTask",
    "SpectraRedshift": "regress.RegressTask",
}


def _name_the_task(checkpoint: Checkpoint) -> Checkpoint:
    """From the time before formats: which task it was, only its net tells."""
    net = str(checkpoint["hyper_parameters"]["net"]["_target_"]).rpartition(".")[2]
    return checkpoint | {"task": f"alerce_early.tasks.{TASKS_OF_NETS.get(net, 'classify.ClassifyTask')}"}


# From each format to the next.
UPGRADES: dict[int, Callable[[Checkpoint], Checkpoint]] = {0: _name_the_task}


def read(path: str | Path) -> Checkpoint:
    """What a checkpoint of any format up to `FORMAT` holds, as the present format has it; tensors on the CPU.

    Tensors are mapped from the file, not copied. Takes less memory than 64 MiB plus 20 times the file's size.
    Raises `InputError` for what is not there, damaged, no checkpoint of ours, or of a later format.
    """
    path = Path(path)
    try:
        _check_container(path)
        found = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        bounds.check(found, path.stat().st_size)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # a damaged file may raise nearly anything
        raise InputError(f"{path} is no checkpoint, or is damaged: {one_line(error)}.") from None
    return _upgraded(found, path)


def task(path: str | Path) -> Task:
    """The task that a checkpoint holds, in eval mode on the CPU. Raises `InputError` as `read`, and for a
    checkpoint whose weights do not fit its own net."""
    return task_from(read(path), path)


def task_from(checkpoint: Checkpoint, path: str | Path) -> Task:
    """The task of a checkpoint that `read` gave; path: where it was, for messages."""
    weights = checkpoint["state_dict"]
    try:
        made = module_class(checkpoint["task"])
        if not issubclass(made, Task):
            raise InputError(f"{checkpoint['task']} is no task")
        # first without memory, to compare the shapes
        with torch.device("meta"), _no_more_modules_than(MODULES + len(weights)):
            shapes = {name: weight.to("meta") for name, weight in weights.items()}
            made(**checkpoint["hyper_parameters"]).load_state_dict(shapes)
        restored = made(**checkpoint["hyper_parameters"])
        restored.load_state_dict(weights)
    except Exception as error:
        raise InputError(f"{path}: its weights do not fit the net it describes: {one_line(error)}.") from None
    return restored.eval()


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; a reader, also after a kill in the middle, finds the new one or the one before."""
    content = io.BytesIO()  # torch's own writer dies without a clear error on a full disk
    torch.save(checkpoint, content)
    disk.write_bytes(path, content.getbuffer())


def add(path: Path, values: Checkpoint) -> None:
    """Put plain values beside what a checkpoint holds; a reader sees the whole file before or after."""
    save(read(path) | values, path)


def _check_container(path: Path) -> None:
    """Refuse an archive that grows when unpacked, and pickled names that tensors and plain values do not need."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError(f"{path} is no checkpoint: its archive is compressed.")
        (pickled,) = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        named = {str(arg) for op, arg, _ in pickletools.genops(archive.read(pickled)) if "GLOBAL" in op.name}
    if strange := named - ALLOWED - STORAGES:
        raise InputError(
            f"{path} names {sorted(strange)[0].replace(' ', '.')!r}, which a checkpoint has no use for. "
            "Refused before any of it ran."
        )


def _upgraded(found: Any, path: Path) -> Checkpoint:
    known = found.get("format", 0) if isinstance(found, dict) else None
    if not isinstance(known, int) or not {"hyper_parameters", "state_dict"} <= set(found):
        raise InputError(f"{path} is no checkpoint of alerce_early: it has no net with its weights.")
    if known > FORMAT:
        raise InputError(
            f"{path} was made by a later version: format {known}, this knows up to {FORMAT}; upgrade alerce_early."
        )
    try:
        for step in range(known, FORMAT):
            found = UPGRADES[step](found)
        assert all(name in found for name in WANTED)
    except Exception as error:
        raise InputError(f"{path}: format {known} is damaged: {one_line(error)}.") from None
    return found | {"format": FORMAT}


@contextmanager
def _no_more_modules_than(most: int) -> Iterator[None]:
    """Registering more submodules is an error here: a net described in a few bytes may ask for billions."""
    counted = count(1)

    def refuse(*_: Any) -> None:
        if next(counted) > most:
            raise InputError("it has more layers than weights")

    hook = register_module_module_registration_hook(refuse)
    try:
        yield
    finally:
        hook.remove()
