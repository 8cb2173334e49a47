"""How much of the machine this process may use, and the processes that share its work."""

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

STOPS = (signal.SIGTERM, signal.SIGINT)  # the signals that ask a process to end
CPU_FACTS = Path("/proc/cpuinfo")  # of Linux
IN_FLIGHT = 3  # pieces of work for each process: one at work, one before it and one behind

T = TypeVar("T")  # the 3.12 syntax for generics would shut out Python 3.11
R = TypeVar("R")


def cores() -> int:
    """How many cores this process may use, which on a shared machine are not all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """How many of them one computation takes: all, or as many as OMP_NUM_THREADS says, which torch heeds too.

    Of a list as "4,2", one number a level of nesting, the first counts.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(asked) if asked.isdecimal() and int(asked) else cores()


def multiplies_bfloat16() -> bool:
    """Return whether the processor computes networks faster in bfloat16 than in float32: by AMX alone.

    With the instructions that AVX-512 has for it, a step of training and a prediction take 1.4 times as long.
    """
    return CPU_FACTS.exists() and "amx_bf16" in CPU_FACTS.read_text()


def map_in_processes(function: Callable[[T], R], work: Iterable[T], workers: int) -> Iterator[R]:
    """Yield what a function returns for each piece of work, in order, computed by forked worker processes.

    The workers end with the iterator, also when it is left by an exception, and with this process, however it ends.

    Raises
    ------
    InputError
        If a worker is killed.
    """
    # forked, so that a worker starts without importing what its parent runs
    pool = ProcessPoolExecutor(workers, get_context("fork"), initializer=_begin)
    waiting: deque[Future[R]] = deque()
    try:
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # no worker runs this process's handlers
        gc.freeze()  # nor collects its garbage: a Kafka client would wait for threads that a fork does not have
        try:
            pool.submit(os.getpid)  # the first submit starts all workers
            # else, of a worker that is ended while it writes a result, the other half would be waited for
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
        raise InputError("a worker process was killed, perhaps for lack of memory; try again.") from None
    except BaseException:
        for worker in list((pool._processes or {}).values()):  # terminate_workers() of Python 3.14
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """Set up a worker: it ends on SIGTERM, without a word, and with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process with its parent, which when killed cannot end its workers; they would wait for ever."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
