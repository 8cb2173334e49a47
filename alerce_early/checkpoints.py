"""Checkpoints from anyone: read whole or not at all, without running anything of theirs, and made a task again.

A checkpoint holds `format`, the name of its `task` class, `hyper_parameters` (plain: net, spec with the recipe,
...), `state_dict` and, of a finished run, `calibration`, `conformal` and `trained_on`, the hashes of the objects that
trained or chose the network (see `names.hash_objects`; files from before they were kept have none). `FORMAT` is raised
when a change makes others unreadable.
"""

import io
import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_module_registration_hook

from alerce_early import files
from alerce_early.construct import module_class
from alerce_early.data import bounds
from alerce_early.errors import InputError, one_line
from alerce_early.tasks.base import FORMAT, Task

Checkpoint = dict[str, Any]

# What a checkpoint of tensors and plain values names. Torch's own list also has callables that take memory at will.
ALLOWED = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
STORAGES = {f"torch {name}Storage" for name in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")}
LEAST_SHARE = 0.1  # of a task's parameters, that a run which starts from a checkpoint must get from it
MODULES = 1000  # a net may have that many, and more only as its weights do


def read(path: str | Path) -> Checkpoint:
    """Read what a checkpoint holds; tensors on the CPU, mapped from the file and not copied.

    Takes less memory than 64 MiB plus 20 times the file's size. Raises `InputError` for what is not there, damaged,
    no checkpoint of ours, or of another format.
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
    _check_format(found, path)
    return found


def task(path: str | Path) -> Task:
    """Return the task that a checkpoint holds, in eval mode on the CPU. Raises `InputError` as `read`, and for a
    checkpoint whose weights do not fit its own net."""
    return task_from(read(path), path)


def task_from(checkpoint: Checkpoint, path: str | Path) -> Task:
    """Return the task of a checkpoint that `read` gave; path: where it was, for messages."""
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


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; a reader, also after a kill in the middle, finds the new one or the one before."""
    content = io.BytesIO()  # torch's own writer dies without a clear error on a full disk
    torch.save(checkpoint, content)
    files.write_bytes(path, content.getbuffer())


def add(path: Path, values: Checkpoint) -> None:
    """Put plain values beside what a checkpoint holds; a reader sees the whole file before or after."""
    save(read(path) | values, path)


def _check_container(path: Path) -> None:
    """Refuse an archive that grows when unpacked, a part whose checksum is not that of its bytes, which torch does
    not look at, and pickled names that tensors and plain values do not need."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError(f"{path} is no checkpoint: its archive is compressed.")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise InputError(f"{path} is no checkpoint: parts of its archive overlap.")
        if damaged := archive.testzip():
            raise InputError(f"{path} is damaged: the checksum of {damaged} is not that of its bytes.")
        (pickled,) = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        named = {str(arg) for op, arg, _ in pickletools.genops(archive.read(pickled)) if "GLOBAL" in op.name}
    if strange := named - ALLOWED - STORAGES:
        raise InputError(
            f"{path} names {sorted(strange)[0].replace(' ', '.')!r}, which a checkpoint has no use for. "
            "Refused before any of it ran."
        )


def _check_format(found: Any, path: Path) -> None:
    if not isinstance(found, dict) or not {"hyper_parameters", "state_dict"} <= set(found):
        raise InputError(f"{path} is no checkpoint of alerce_early: it has no net with its weights.")
    if found.get("format") != FORMAT:
        raise InputError(f"{path} has format {str(found.get('format'))[:20]}; this version reads format {FORMAT}.")
    if "task" not in found:
        raise InputError(f"{path} is damaged: it names no task.")


@contextmanager
def _no_more_modules_than(most: int) -> Iterator[None]:
    """Refuse more submodules than so many: a net described in a few bytes may ask for billions."""
    counted = count(1)

    def refuse(*_: Any) -> None:
        if next(counted) > most:
            raise InputError("it has more layers than weights")

    hook = register_module_module_registration_hook(refuse)
    try:
        yield
    finally:
        hook.remove()
