"""Consumers of one group killed at random moments, or held up until others have their partitions.

`OMP_NUM_THREADS=1 python -m tests.end_to_end.stream_kills RUN 100000 50` by hand: 100,000 messages,
two consumers, no kill and then 50; the suite takes a few. More options are those of `serve`.
"""

import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from alerce_early.data.readers.packets.fields import CUTOUTS
from alerce_early.simulation import packets
from alerce_early.simulation.survey import simulate
from tests.helpers.broker import broker, make_topic, send, settings_file
from tests.helpers.command import Command
from tests.helpers.networks import wait_for

PARTITIONS = 4
HELD = 2.5  # seconds that a consumer is stopped for: longer than its session, so that it loses its partitions


@cache
def _draw_packets() -> list[dict[str, Any]]:
    """Return 30 packets. Simulating them forks, which a process that has had a consumer may not survive."""
    survey, pool = simulate(30, 0), [packet for packet, _ in packets.alerts(30)]
    for packet, image in zip(pool, survey["images"], strict=True):
        rounded = np.round(np.asarray(image) / 5) * 5
        for i, name in enumerate(CUTOUTS.values()):
            packet[name] = {"fileName": name, "stampData": packets.gzipped_fits(rounded[..., i])}
        packet["prv_candidates"] = None
    return pool


def messages(first: int = 1) -> Iterator[bytes]:
    """Packets with candids that count up, of 10 kB: without their history, and pixels rounded to 5."""
    pool = _draw_packets()
    while True:
        yield packets.encode({**pool[first % len(pool)], "candid": first})
        first += 1


def rows_in(out: Path) -> pyarrow.Table:
    """Return the rows of all parts, which are one dataset."""
    there = any(out.glob("*/*.parquet"))
    return parquet.read_table(out) if there else pyarrow.table({"candid": pyarrow.array([], pyarrow.string())})


def count_rows(out: Path) -> int:
    return sum(parquet.read_metadata(part).num_rows for part in out.glob("*/[0-9]*.parquet"))


def consume(
    where: str, run: object, folder: Path, n: int, kills: int, pause: float, *more: str, seed: int = 0
) -> dict[str, Any]:
    """Let two consumers classify n messages, and meanwhile kill one of them, or hold it up, `kills` times.

    pause: seconds between two kills, on average. Returns what there is to judge: how often each candid is there, the
    seconds from the first part to the last row, and the exit status of both when they are asked to stop.
    """
    rng, topic, out = random.Random(seed), f"kills{kills}", folder / f"out{kills}"
    make_topic(where, topic, PARTITIONS)
    send(where, topic, ((i % PARTITIONS, message) for i, message in enumerate(islice(messages(), n))))
    given = [f"kafka://{where}/{topic}", f"--group={topic}", f"--out={out}", f"--kafka={settings_file(folder)}", *more]

    def start() -> Command:
        return Command("alerce_early.serve", run, *given)

    running, done, began = [start(), start()], Counter[str](), 0.0
    until = time.monotonic() + 600 + n / 50 + 10 * kills
    try:
        while (there := count_rows(out)) < n or done.total() < kills:
            assert time.monotonic() < until, (there, [one.stderr for one in running])
            began = began or (time.monotonic() if there else 0.0)
            time.sleep(rng.uniform(0, 2 * pause) if kills else 0.2)
            if done.total() < kills:
                i = rng.randrange(2)
                if rng.random() < 0.2:
                    running[i].send_signal(signal.SIGSTOP)
                    time.sleep(HELD)
                    running[i].send_signal(signal.SIGCONT)
                    done["held up"] += 1
                else:
                    running[i].__exit__()  # with SIGKILL
                    running[i] = start()
                    done["killed"] += 1
        seconds = time.monotonic() - began
        for one in running:
            wait_for(lambda one=one: one.stdout)  # one that has just begun heeds no signal yet
            one.terminate()
        statuses = [one.wait(60) for one in running]
    finally:
        for one in running:
            one.__exit__()
    rows = rows_in(out)
    times = Counter(map(int, rows["candid"].to_pylist()))
    return {
        **{"messages": n, "rows": len(rows), **done, "seconds": round(seconds, 1), "statuses": statuses},
        "lost": sorted(set(range(1, n + 1)) - set(times))[:10],
        "twice": [candid for candid, number in times.items() if number > 1][:10],
        "offsets": len(set(rows["source"].to_pylist())),
        "rejected": len(rows) - rows["rejected"].null_count,
        "said": [one.stderr for one in running],
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch, broker(Path(scratch)) as address:
        for number in (0, int(sys.argv[3])):
            found = consume(address, sys.argv[1], Path(scratch), int(sys.argv[2]), number, 3, *sys.argv[4:])
            print(json.dumps(found | {"alerts/s": round(found["messages"] / found["seconds"])}), flush=True)
