"""What the processes of one run must know of each other before they train together.

A launcher (torchrun, srun) starts the same command once for each device. These processes meet at the launcher's
address, so that what the first decides (the run folder's name, whether to run at all) holds for all. Processes
that Lightning starts itself come when the first has decided.
"""

import os
from collections.abc import Callable
from functools import cache
from itertools import count

import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

_questions = count()


def first() -> bool:
    """Whether this process is the one that decides and writes."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def launched() -> bool:
    """Whether a launcher started this process beside others."""
    return _meeting() is not None


def agreed(decide: Callable[[], str]) -> str:
    """What the first process decides, in all of them; each must ask the same questions in the same order.

    Empty in a process that Lightning started: it is there because the first decided to go on.
    """
    store = _meeting()
    if store is None:
        return decide() if first() else ""
    question = str(next(_questions))
    if first():
        store.set(question, decide())
    return store.get(question).decode()


@cache
def _meeting() -> dist.Store | None:
    """The store of the launcher's processes, or None of one that was started alone."""
    for environment in (TorchElasticEnvironment, SLURMEnvironment):
        if environment.detect():
            here = environment()
            if here.world_size() == 1:
                return None
            address = f"tcp://{here.main_address}:{here.main_port}"
            store, _, _ = next(iter(dist.rendezvous(address, here.global_rank(), here.world_size())))
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            return dist.PrefixStore(f"alerce_early/{attempt}", store)
    return None
