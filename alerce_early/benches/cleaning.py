"""Reading and cleaning a stamps file against `pickle.load` of it: time and peak memory, each in its own process."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from alerce_early.benches import GIGABYTE, ROUNDS, Row
from alerce_early.configs import composed, plain
from alerce_early.data.simulation.survey import simulate


def child(code: str, *arguments: str) -> dict[str, float]:
    """Run Python in a process of its own; it sets `told`, to which its peak memory in bytes is added."""
    # not getrusage: its peak starts from that of the parent process
    code += "\npeak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))"
    code += "\nimport json; print(json.dumps(told | {'peak': int(peak.split()[1]) * 1024}))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


LOAD = (
    "import pickle, sys, time, numpy; start = time.perf_counter(); "
    "held = pickle.load(open(sys.argv[1], 'rb')); told = {'seconds': time.perf_counter() - start}"
)
# The modules that clean and no others, so that the peak memory is theirs; no pictures are drawn.
PREPARE = """
import json, sys, time
from alerce_early.data import alerce
from alerce_early.data.store import open_or_prepare
file, outputs, steps = sys.argv[1:]
source = {"_target_": "alerce_early.data.alerce.read", "path": file}
start = time.perf_counter()
store = open_or_prepare(outputs, "bench", source, lambda: alerce.read(file), json.loads(steps), 0, lambda *_: None)
first = float(store.images[0].mean())
told = {"seconds": time.perf_counter() - start, "first": first}
"""


def time_and_memory(n: int, folder: Path) -> Iterator[Row]:
    """Reading and cleaning a stamps file against `pickle.load` of it, and opening the finished store again."""
    file = folder / "stamps.pkl"
    with file.open("wb") as out:
        pickle.dump(simulate(n), out, protocol=4)
    size = f"{n:,} stamps, {file.stat().st_size / GIGABYTE:.2f} GiB"
    child(LOAD, str(file))  # once before it counts, so that both find the file in the page cache
    steps = json.dumps(plain(composed().recipe.steps))
    rounds = []
    for index in range(ROUNDS):
        ours = child(PREPARE, str(file), str(folder / str(index)), steps)
        again = child(PREPARE, str(file), str(folder / str(index)), steps)
        rounds.append((ours, child(LOAD, str(file)), again))
        shutil.rmtree(folder / str(index))
    ours, rival, again = min(rounds, key=lambda r: abs(_ratio(r) - median(map(_ratio, rounds))))
    seconds = [f"{r['seconds']:.2f} s" for r in (ours, rival, again)]
    memory = [f"{r['peak'] / GIGABYTE:.2f} GiB" for r in (ours, rival)]
    yield Row(f"clean {size}: time", seconds[0], f"{seconds[1]} pickle.load", _ratio((ours, rival)), "<= 1.5")
    yield Row("  peak memory", memory[0], memory[1], ours["peak"] / rival["peak"], "<= 1.3")
    yield Row("open its store again", seconds[2], f"{seconds[0]} clean", _ratio((again, ours)), "under 1 s")


def _ratio(pair: tuple[dict[str, float], ...]) -> float:
    return pair[0]["seconds"] / pair[1]["seconds"]
