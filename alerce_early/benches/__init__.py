"""What `bench` measures, a file for each part; and how: ours and the rival take turns, the median ratio counts."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

ROUNDS = 3
GIGABYTE = 1 << 30


@dataclass(frozen=True)
class Row:
    """One line of the table; ratio is ours / rival, aim in words."""

    what: str
    ours: str
    rival: str
    ratio: float
    aim: str


def taking_turns(ours: Callable[[], Any], rival: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of ours and of the rival's, in the round of the median ratio."""
    rounds = [(_seconds(ours), _seconds(rival)) for _ in range(ROUNDS)]
    middle = median(theirs / mine for mine, theirs in rounds)
    return min(rounds, key=lambda pair: abs(pair[1] / pair[0] - middle))


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
