"""What the processes of one run must know of each other before they train together.

A launcher (torchrun, srun) starts the same command once for each device. These processes meet at the launcher's
address, so that what the first decides (the run folder's name, whether to run at all) holds for all. Processes
that Lightning starts itself come when the first has decided.
"""

import atexit
import json
import os
import sys
from collections.abc import Callable
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any

from alerce_early.errors import InputError, one_line
from alerce_early.training import signals

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments import ClusterEnvironment
    from torch.distributed import Store

OURS = "ALERCE_EARLY_FIRST_PROCESS"  # for the processes that Lightning starts: the process that did
COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # how launchers tell how many processes they started
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # what Lightning takes a rank from
LAUNCHED = ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", *COUNTS)  # one of them, if a launcher is at work
LONGEST = 86400.0  # seconds that the first process may take to prepare the data

_questions = count()


@atexit.register
def _leave_group() -> None:
    """Destroy the process group before the interpreter ends.

    A thread of gloo that frees a tensor while the interpreter ends would abort the process; destroying the group
    joins these threads.
    """
    dist = sys.modules.get("torch.distributed")
    if dist and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the one that decides and writes: of rank 0 by Lightning, or, before it, by RANKS."""
    lightning = sys.modules.get("lightning.pytorch.utilities.rank_zero")
    rank = next((os.environ[name] for name in RANKS if name in os.environ), 0)
    return int(getattr(lightning.rank_zero_only, "rank", 0) if lightning else rank) == 0


def is_launched() -> bool:
    """Whether a launcher started this process beside others."""
    return _meeting() is not None


def agree(decide: Callable[[], Any]) -> Any:
    """Return in every process what the first one decides, a plain value, while the others wait.

    Every process must make the same calls of this function in the same order. Returns "" in a process that Lightning
    started, which exists only because the first has already decided to continue. Raises InputError in
    all if the first fails.
    """
    if (store := _meeting()) is None:
        return decide() if is_first() else ""
    from torch.distributed.elastic.utils.store import synchronize

    here, failed, answer = environment(), None, {}
    assert here
    if is_first():
        try:
            answer = {"said": decide()}
        except Exception as error:
            failed, answer = error, {"failed": str(error) if isinstance(error, InputError) else one_line(error)}
    place = here.global_rank(), here.world_size(), f"{next(_questions)}/"
    first = json.loads(synchronize(store, json.dumps(answer).encode(), *place, LONGEST)[0])
    if failed:
        raise failed
    if "failed" in first:
        raise InputError(first["failed"])
    return first["said"]


def environment() -> "ClusterEnvironment | None":
    """Return what the launcher of this process tells, or None of one that was started alone or by Lightning.

    Raises InputError for a launcher that is neither torchrun nor srun.
    """
    if not any(name in os.environ for name in LAUNCHED):
        os.environ[OURS] = str(os.getpid())
        return None
    from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if _is_task_of_srun() and SLURMEnvironment.detect():
        try:
            # Lightning would write a checkpoint of its own in the middle of an epoch, and later prefer it to the best
            return SLURMEnvironment(auto_requeue=False)
        except RuntimeError as error:  # it wants --ntasks-per-node
            raise InputError(f"srun: {one_line(error)}.") from None
    ours = {str(os.getpid()), str(os.getppid())}
    for name in COUNTS:
        if os.environ.get(name, "1") != "1" and os.environ.get(OURS) not in ours:
            raise InputError(
                f"{name}={os.environ[name]}: a launcher that is neither torchrun nor srun started this process. "
                f"Start it with one of these, or with unset {name}."
            )
    os.environ[OURS] = str(os.getpid())
    return None


def _is_task_of_srun() -> bool:
    """Return whether srun started this process, one for each task of the allocation.

    The shell of salloc, a notebook and the script of sbatch are one process, whatever number of tasks was asked for.
    """
    return os.environ.get("SLURM_STEP_NUM_TASKS") == os.environ.get("SLURM_NTASKS")


def make_plugin() -> "ClusterEnvironment":
    """Return the environment as the trainer's plugin, Lightning's own where no launcher is at work.

    Without one Lightning takes every process within an allocation of SLURM for a task that srun started.
    """
    from lightning.fabric.plugins.environments import LightningEnvironment

    return environment() or LightningEnvironment()


def check_number(devices: int) -> None:
    """Raise InputError if the launcher started more or fewer processes than the trainer has devices."""
    here = environment()
    if here and here.world_size() != devices:
        raise InputError(
            f"trainer.devices: {devices} in all, but {here.world_size()} processes were started. Let them be equal: "
            "torchrun --nproc-per-node, sbatch --ntasks-per-node, of a sweep hydra.launcher.tasks_per_node."
        )


@cache
def _meeting() -> "Store | None":
    """Return the store of the launcher's processes, or None of one that was started alone."""
    here = environment()
    if here is None or here.world_size() == 1:
        return None
    import torch.distributed as dist

    signals.end_at_once(here.global_rank() == 0)  # while it waits for another, too
    address = f"tcp://{here.main_address}:{here.main_port}"
    store, _, _ = next(iter(dist.rendezvous(address, here.global_rank(), here.world_size())))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"alerce_early/{attempt}", store)
