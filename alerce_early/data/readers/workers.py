"""Processes that decode packets: encoded blocks go in, stamps and columns come back, in order."""

from collections.abc import Callable, Iterator
from itertools import chain, islice

from alerce_early.data.readers.packets import Packet, Work
from alerce_early.data.records import Rejected
from alerce_early.machine import cores, map_in_processes


def decode_all(
    decode: Callable[[Work], list[Packet | Rejected]], batches: Iterator[Work], workers: int | None
) -> Iterator[Packet | Rejected]:
    """Yield the packets of these batches in order. workers: processes, 0: none but this; default: one for each core."""
    first = list(islice(batches, 2))
    batches, workers = chain(first, batches), cores() if workers is None else workers
    alone = not workers or len(first) < 2  # not worth a process
    for packets in map(decode, batches) if alone else map_in_processes(decode, batches, workers):
        yield from packets
