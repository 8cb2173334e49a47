"""Coordination of the processes of one run before they train together.

A launcher (torchrun, srun) starts the same command once per device. The processes connect to a store at the launcher's
address, through which the first process distributes its decisions, such as the name of the run folder. Processes
started by Lightning itself exist only after the first process has decided.
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

PARENT_VARIABLE = "ALERCE_EARLY_FIRST_PROCESS"  # process id of the parent that starts the others with Lightning
COUNT_VARIABLES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # number of processes, set by launchers
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # as read by Lightning
LAUNCHER_VARIABLES = ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", *COUNT_VARIABLES)  # a launcher sets at least one
MAX_WAIT_SECONDS = 86400.0  # for the first process to prepare the data

_questions = count()


@atexit.register
def _leave_group() -> None:
    """Destroy the process group before the interpreter ends.

    A gloo thread that frees a tensor while the interpreter ends would abort the process. Destroying the group joins
    these threads.
    """
    dist = sys.modules.get("torch.distributed")
    if dist and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def is_first() -> bool:
    """Return True if this process has rank 0, according to Lightning if it is loaded, else to `RANK_VARIABLES`."""
    lightning = sys.modules.get("lightning.pytorch.utilities.rank_zero")
    rank = next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), 0)
    return int(getattr(lightning.rank_zero_only, "rank", 0) if lightning else rank) == 0


def is_launched() -> bool:
    """Return True if a launcher started this process together with others."""
    return _connect_store() is not None


def broadcast_from_first(decide: Callable[[], Any]) -> Any:
    """Call a function in the first process and return its result in all processes.

    All processes must make the same calls in the same order.

    Parameters
    ----------
    decide : callable
        Takes no arguments and returns a value that can be written as JSON.

    Returns
    -------
    Any
        The result; "" in a process started by Lightning, which exists only after the first process has decided.

    Raises
    ------
    InputError
        In all processes, if the function raises an error in the first.
    """
    if (store := _connect_store()) is None:
        return decide() if is_first() else ""
    from torch.distributed.elastic.utils.store import synchronize

    cluster, failed, answer = environment(), None, {}
    assert cluster
    if is_first():
        try:
            answer = {"said": decide()}
        except Exception as error:
            failed, answer = error, {"failed": str(error) if isinstance(error, InputError) else one_line(error)}
    place = cluster.global_rank(), cluster.world_size(), f"{next(_questions)}/"
    first = json.loads(synchronize(store, json.dumps(answer).encode(), *place, MAX_WAIT_SECONDS)[0])
    if failed:
        raise failed
    if "failed" in first:
        raise InputError(first["failed"])
    return first["said"]


def environment() -> "ClusterEnvironment | None":
    """Return the cluster environment of torchrun or srun; None for a process started alone or by Lightning.

    Raises InputError for any other launcher.
    """
    if not any(name in os.environ for name in LAUNCHER_VARIABLES):
        os.environ[PARENT_VARIABLE] = str(os.getpid())
        return None
    from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if _is_task_of_srun() and SLURMEnvironment.detect():
        try:
            # otherwise Lightning writes its own checkpoint within an epoch and resumes from it
            return SLURMEnvironment(auto_requeue=False)
        except RuntimeError as error:  # it needs --ntasks-per-node
            raise InputError(f"srun: {one_line(error)}.") from None
    own = {str(os.getpid()), str(os.getppid())}
    for name in COUNT_VARIABLES:
        if os.environ.get(name, "1") != "1" and os.environ.get(PARENT_VARIABLE) not in own:
            raise InputError(
                f"{name}={os.environ[name]}: set by a launcher other than torchrun or srun. Use one of these, or "
                f"unset {name}."
            )
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    return None


def _is_task_of_srun() -> bool:
    """Return True if srun started this process as one of all tasks of the allocation.

    A shell in salloc, a notebook or an sbatch script is a single process in an allocation of several tasks.
    """
    return os.environ.get("SLURM_STEP_NUM_TASKS") == os.environ.get("SLURM_NTASKS")


def make_plugin() -> "ClusterEnvironment":
    """Return the environment as a plugin for the trainer; without a launcher, Lightning's default.

    Without a plugin, Lightning assumes that srun started every process in a SLURM allocation.
    """
    from lightning.fabric.plugins.environments import LightningEnvironment

    return environment() or LightningEnvironment()


def check_process_count(devices: int) -> None:
    """Raise InputError if the number of processes of a launcher is not the number of devices."""
    cluster = environment()
    if cluster and cluster.world_size() != devices:
        raise InputError(
            f"trainer.devices: {devices} devices in all, but {cluster.world_size()} processes were started. Make them "
            "equal with torchrun --nproc-per-node, sbatch --ntasks-per-node or hydra.launcher.tasks_per_node."
        )


@cache
def _connect_store() -> "Store | None":
    """Connect to the store of the launcher's processes; return None for a single process."""
    cluster = environment()
    if cluster is None or cluster.world_size() == 1:
        return None
    import torch.distributed as dist

    signals.end_at_once(cluster.global_rank() == 0)  # also while it waits for another process
    address = f"tcp://{cluster.main_address}:{cluster.main_port}"
    store, _, _ = next(iter(dist.rendezvous(address, cluster.global_rank(), cluster.world_size())))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"alerce_early/{attempt}", store)
