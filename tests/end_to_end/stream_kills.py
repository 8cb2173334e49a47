"""Kill or pause consumers of one Kafka group at random moments, and check that no message is lost or repeated.

`OMP_NUM_THREADS=1 python -m tests.end_to_end.stream_kills RUN 100000 50` has two consumers classify 100,000 messages,
first without kills and then with 50; the test suite uses fewer. Further options are passed to `serve`.
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
PAUSE_SECONDS = 2.5  # longer than the session timeout, so that a paused consumer loses its partitions


@cache
def _draw_packets() -> list[dict[str, Any]]:
    """Return 30 packets; cached, because simulating them forks, which is unsafe once this process had a consumer."""
    survey, pool = simulate(30, 0), [packet for packet, _ in packets.alerts(30)]
    for packet, image in zip(pool, survey["images"], strict=True):
        rounded = np.round(np.asarray(image) / 5) * 5
        for i, name in enumerate(CUTOUTS.values()):
            packet[name] = {"fileName": name, "stampData": packets.gzipped_fits(rounded[..., i])}
        packet["prv_candidates"] = None
    return pool


def messages(first: int = 1) -> Iterator[bytes]:
    """Yield packets of about 10 kB with consecutive candids; no history, and pixels rounded to multiples of 5."""
    pool = _draw_packets()
    while True:
        yield packets.encode({**pool[first % len(pool)], "candid": first})
        first += 1


def rows_in(out: Path) -> pyarrow.Table:
    """Read the rows of all parts as one table."""
    there = any(out.glob("*/*.parquet"))
    return parquet.read_table(out) if there else pyarrow.table({"candid": pyarrow.array([], pyarrow.string())})


def count_rows(out: Path) -> int:
    """Count the rows of all parts from their metadata."""
    return sum(parquet.read_metadata(part).num_rows for part in out.glob("*/[0-9]*.parquet"))


def consume(
    where: str, run: object, folder: Path, n: int, kills: int, pause: float, *more: str, seed: int = 0
) -> dict[str, Any]:
    """Classify messages with two consumers while killing or pausing one of them at random.

    Parameters
    ----------
    where : str
        Address of the broker, HOST:PORT.
    run : path-like
        Run folder of the network.
    folder : Path
        Folder for the output.
    n : int
        Number of messages.
    kills : int
        Number of kills and pauses together.
    pause : float
        Mean time between them, in seconds.
    *more : str
        Further options of `serve`.
    seed : int, optional
        Seed of the random times and choices.

    Returns
    -------
    dict of str to Any
        Number of messages, rows, distinct offsets and rejected rows; numbers of kills and pauses; seconds from the
        first part to the last row; up to ten candids that are lost or appear twice; exit statuses and standard error
        of both consumers.
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
                    time.sleep(PAUSE_SECONDS)
                    running[i].send_signal(signal.SIGCONT)
                    done["paused"] += 1
                else:
                    running[i].__exit__()  # sends SIGKILL
                    running[i] = start()
                    done["killed"] += 1
        seconds = time.monotonic() - began
        for one in running:
            wait_for(lambda one=one: one.stdout)  # before its first output it may not yet handle SIGTERM
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
