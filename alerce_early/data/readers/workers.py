"""Processes that decode packets: encoded blocks go in, stamps and columns come back, in order."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import connection, get_context, parent_process

from alerce_early.data.readers.packets import Packet, Work
from alerce_early.data.records import Rejected
from alerce_early.errors import InputError
from alerce_early.machine import cores

IN_FLIGHT = 3  # batches for each process: one at work, one before it and one behind


def decode_all(
    decode: Callable[[Work], list[Packet | Rejected]], batches: Iterator[Work], workers: int | None
) -> Iterator[Packet | Rejected]:
    """Yield the packets of these batches in order. workers: processes, 0: none but this; default: one for each core."""
    first = list(islice(batches, 2))
    batches, workers = chain(first, batches), cores() if workers is None else workers
    if not workers or len(first) < 2:  # not worth a process
        for batch in batches:
            yield from decode(batch)
        return
    # forked, so that a worker starts without importing what its parent runs
    pool = ProcessPoolExecutor(workers, get_context("fork"), initializer=_begin)
    waiting: deque[Future[list[Packet | Rejected]]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(decode, batch))
            if len(waiting) == IN_FLIGHT * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool:
        raise InputError("a process that decodes packets was killed, for lack of memory perhaps; try again.") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not by what the parent does about it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process with its parent, which when killed cannot end its workers; they would wait for ever."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
