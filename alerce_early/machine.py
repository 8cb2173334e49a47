"""How much of the machine this process may use."""

import os


def cores() -> int:
    """How many cores this process may use, which on a shared machine are not all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """How many of them one computation takes: all, or as many as OMP_NUM_THREADS says, which torch heeds too.

    Of a list as "4,2", one number a level of nesting, the first counts.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(asked) if asked.isdecimal() and int(asked) else cores()
