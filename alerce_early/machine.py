"""CPU cores and threads available to this process, and work divided between worker processes."""

import gc
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import TypeVar

from alerce_early.errors import InputError

STOPS = (signal.SIGTERM, signal.SIGINT)  # signals that end a process
CPU_FACTS = Path("/proc/cpuinfo")  # Linux only
IN_FLIGHT = 3  # pieces of work per process: one waiting, one in work, one finished

T = TypeVar("T")  # Python 3.11 lacks the new syntax for generics
R = TypeVar("R")


def cores() -> int:
    """Return the number of cores available to this process, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Return the number of threads of one computation: OMP_NUM_THREADS, as in torch, or else the number of cores.

    In a list with one number per nesting level, such as "4,2", the first one counts.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(given) if given.isdecimal() and int(given) else cores()


def multiplies_bfloat16() -> bool:
    """Return True if the processor has AMX and so computes networks faster in bfloat16 than in float32.

    With only the bfloat16 instructions of AVX-512, training and prediction take 1.4 times as long as in float32.
    """
    return CPU_FACTS.exists() and "amx_bf16" in CPU_FACTS.read_text()


def map_in_processes(function: Callable[[T], R], work: Iterable[T], workers: int) -> Iterator[R]:
    """Map a function over pieces of work in forked worker processes.

    The workers stop when the iterator ends or raises, and when this process exits, even if it is killed.

    Parameters
    ----------
    function : callable
        Takes one piece of work.
    work : iterable
        The pieces, read as needed.
    workers : int
        Number of worker processes.

    Yields
    ------
    Any
        Results in the order of the work.

    Raises
    ------
    InputError
        If a worker is killed.
    """
    # forked, so that a worker starts without importing modules again
    pool = ProcessPoolExecutor(workers, get_context("fork"), initializer=_begin)
    waiting: deque[Future[R]] = deque()
    try:
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # workers must not run the handlers of this process
        gc.freeze()  # nor collect its garbage: a Kafka client would wait for threads that a fork lacks
        try:
            pool.submit(os.getpid)  # the first submit starts all workers
            # otherwise, if a worker is ended while writing a result, its reader would wait for the other half
            pool._result_queue._writer.close()  # type: ignore[attr-defined]
        finally:
            gc.unfreeze()
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        for piece in work:
            waiting.append(pool.submit(function, piece))
            if len(waiting) == IN_FLIGHT * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed, perhaps for lack of memory. Free some memory and try again."
        ) from None
    except BaseException:
        for worker in list((pool._processes or {}).values()):  # as terminate_workers() of Python 3.14
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """Set up a worker that ends silently on SIGTERM, and with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent also receives it and ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent ends; a killed parent cannot end its workers itself."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
