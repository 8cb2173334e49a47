"""What the processes of one run must know of each other before, between and after its training.

A launcher (torchrun, srun) starts the same command once for each device. These processes meet at the launcher's
address, so that what the first decides (the run folder's name, whether to run at all) holds for all. Processes
that Lightning starts itself are told by their first: they need no meeting.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count

import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

_asked = count()


def first() -> bool:
    """Whether this process is the one that writes."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def agreed(decide: Callable[[], str]) -> str:
    """What the first process decides, in all of them; every process must ask the same questions in the same order."""
    store = _meeting()
    if store is None:
        return decide()
    question = str(next(_asked))
    if first():
        store.set(question, decide())
    return store.get(question).decode()


@contextmanager
def left_as_found() -> Iterator[None]:
    """Forget afterwards the processes that Lightning starts for a job: the next job of a sweep starts its own."""
    before = dict(os.environ)
    yield
    if "LOCAL_RANK" in os.environ and "LOCAL_RANK" not in before:
        if dist.is_initialized():
            dist.destroy_process_group()
        for key in os.environ.keys() - before.keys():
            del os.environ[key]


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
