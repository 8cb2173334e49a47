"""Processes that decode packets: encoded blocks go in and stamps come back through memory that all of them share."""

import mmap
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import accumulate, chain, islice
from multiprocessing import connection, get_context, parent_process

import numpy as np

from alerce_early.data.packets import PLANES, Packets, Work, decode
from alerce_early.errors import InputError
from alerce_early.machine import cores

IN_FLIGHT = 3  # batches a process: one at work, one before it and one behind

_slots: list[np.ndarray] = []  # of a worker: the shared memory


def decoded(batches: Iterator[Work], largest: int, workers: int | None) -> Iterator[tuple[Packets, np.ndarray]]:
    """Decode batches of at most `largest` packets, in order; yields each with its stamps (n, 3, 63, 63) float32.

    The stamps are overwritten after the next step. workers: processes, 0: none but this; default: one a core.
    """
    first = list(islice(batches, 2))
    workers = cores() if workers is None else workers
    if not workers or len(first) < 2:  # not worth a process
        planes = np.empty((largest, *PLANES), np.float32)
        for batch in chain(first, batches):
            yield decode(batch, planes), planes
        return
    shape = (IN_FLIGHT * workers, largest, *PLANES)
    slots = np.frombuffer(mmap.mmap(-1, 4 * int(np.prod(shape))), np.float32).reshape(shape)
    # forked, so that the memory is shared and a worker starts without importing what its parent runs
    pool = ProcessPoolExecutor(workers, get_context("fork"), initializer=_begin, initargs=(slots,))
    waiting: deque[tuple[int, Future[Packets]]] = deque()
    try:
        for number, batch in enumerate(chain(first, batches)):
            slot = number % len(slots)
            if len(waiting) == len(slots):
                slot, done = waiting.popleft()
                yield done.result(), slots[slot]
            waiting.append((slot, pool.submit(_decode, slot, *_laid(batch, slots[slot]))))
        for slot, done in waiting:
            yield done.result(), slots[slot]
    except BrokenProcessPool:
        raise InputError("a process that decodes packets was killed, for lack of memory perhaps; try again.") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(slots: np.ndarray) -> None:
    _slots.extend(slots)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not by what the parent does about it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot end its workers, which would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _laid(work: Work, slot: np.ndarray) -> tuple[Work, list[int]]:
    """A batch whose encoded bytes lie in the slot, one block after the other, and where each ends.

    To send them would take a fifth of the time that decoding takes. A batch that does not fit stays as it is.
    """
    data = b"".join(block.data for block, _ in work)
    if len(data) > slot.nbytes:
        return work, []
    _bytes(slot)[: len(data)] = np.frombuffer(data, np.uint8)
    schemas = {block.schema: block.schema for block, _ in work}  # one object, so that it is sent once
    empty = [(replace(block, data=b"", schema=schemas[block.schema]), wanted) for block, wanted in work]
    return empty, list(accumulate(len(block.data) for block, _ in work))


def _decode(slot: int, work: Work, ends: list[int]) -> Packets:
    if ends:  # copies, since the stamps come where these lie
        data = [_bytes(_slots[slot])[start:end].tobytes() for start, end in zip([0, *ends], ends, strict=False)]
        work = [(replace(block, data=some), wanted) for (block, wanted), some in zip(work, data, strict=True)]
    return decode(work, _slots[slot])


def _bytes(slot: np.ndarray) -> np.ndarray:
    return slot.view(np.uint8).reshape(-1)
