"""Speed and memory, each as a ratio against a rival measured in the same run: `python -m alerce_early.bench`.

Machines differ and are noisy, so no number here is an absolute one: ours and the rival's take turns, and the
median ratio of the rounds counts.
"""

import argparse
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback

from alerce_early.benches import GIGABYTE, ROUNDS, Row
from alerce_early.build import build
from alerce_early.configs import CONF, data_of, plain
from alerce_early.data.simulation.survey import simulate
from alerce_early.errors import InputError, at_the_door
from alerce_early.runs import watch
from alerce_early.runs.folder import Run
from alerce_early.train import assemble


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


def cleaning(n: int, folder: Path) -> Iterator[Row]:
    """Reading and cleaning a stamps file against `pickle.load` of it, and opening the finished store again."""
    file = folder / "stamps.pkl"
    with file.open("wb") as out:
        pickle.dump(simulate(n), out, protocol=4)
    size = f"{n:,} stamps, {file.stat().st_size / GIGABYTE:.2f} GiB"
    child(LOAD, str(file))  # once before it counts, so that both find the file in the page cache
    with initialize_config_dir(CONF, version_base="1.3"):
        steps = json.dumps(plain(compose("train").recipe.steps))
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


class TakingTurns(Callback):
    """Before each epoch of a real run, a bare loop of as many batches with a net of the same kind."""

    def __init__(self, bare: Callable[[], None]):
        self.bare, self.ours, self.rival = bare, [0.0], [0.0]
        self.started = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.perf_counter()
        self.bare()
        self.rival.append(time.perf_counter() - self.started)
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.is_last_batch:  # validation, which the bare loop has not, is left out
            self.ours.append(time.perf_counter() - self.started)


def training(model: str, batches: int, folder: Path) -> Iterator[Row]:
    """Throughput of `train` against a bare loop of the same net, batch size and precision on data in memory."""
    overrides = [f"model={model}", "data.n=2000", f"batches_per_epoch={batches}", f"outputs={folder}"]
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("train", overrides=[*overrides, f"trainer.max_epochs={ROUNDS + 1}", "patience=100"])
    data = data_of(config)
    data.setup()
    taken = [data.rows[rows] for rows in data.train_dataloader().sampler or ()]

    turns = TakingTurns(lambda: None)
    fitting, trainer, _ = assemble(config, data, Run(folder / model), turns)
    net = build(plain(config.model.net), spec=fitting.task.spec).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=config.optim.optimizer.lr)

    def bare() -> None:
        for batch in taken:
            loss = torch.nn.functional.cross_entropy(net(batch), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    turns.bare = bare
    trainer.fit(fitting, datamodule=data)
    ours, rival = turns.ours[2:], turns.rival[2:]  # the first epoch warms both up
    ratio = median(r / o for o, r in zip(ours, rival, strict=True))
    shown = batches * config.batch_size
    speeds = [f"{shown / median(seconds):.0f} stamps/s" for seconds in (ours, rival)]
    yield Row(f"train {model}: throughput", speeds[0], f"{speeds[1]} bare loop", ratio, ">= 0.95")


def show(rows: Iterator[Row]) -> None:
    for row in rows:
        print(f"{row.what:44} {row.ours:>16} {row.rival:>28} {row.ratio:8.2f}   {row.aim}", flush=True)


def _training(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    yield from training("rotinv", options.batches, folder)
    yield from training("course_cnn", 4 * options.batches, folder)


def _inference(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    from alerce_early.benches import inference  # needs what the extra `export` installs

    list(training("rotinv", options.batches, folder))  # a network to run; its speed is another part's
    yield from inference.classifying(Run(folder / "rotinv").best, options.seconds, folder, options.tensorflow)


def _packets(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    from alerce_early.benches import packets  # needs what the extra `alerts` installs

    yield from packets.reading(options.packets, folder)


PARTS: dict[str, Callable[[argparse.Namespace, Path], Iterator[Row]]] = {
    "training": _training,
    "cleaning": lambda options, folder: cleaning(options.n, folder),
    "inference": _inference,
    "packets": _packets,
}


@at_the_door
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m alerce_early.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--n", type=int, default=52_244, help="stamps of the file that is cleaned")
    parser.add_argument("--packets", type=int, default=4_000, help="alert packets of the night that is read")
    parser.add_argument("--batches", type=int, default=50, help="batches of a round of training")
    parser.add_argument("--seconds", type=float, default=5, help="of a round of one runtime")
    parser.add_argument("--tensorflow", default=sys.executable, help="a Python that has tensorflow, for the rival")
    parser.add_argument("--folder", help="where to work; several gigabytes, removed afterwards")
    options = parser.parse_args()
    if strangers := [part for part in options.parts if part not in PARTS]:
        raise InputError(f"there is no part {', '.join(strangers)}; there are {', '.join(PARTS)}.")
    watch.quiet()
    print(f"{torch.get_num_threads()} threads, median of {ROUNDS} rounds")
    print(f"{'':44} {'ours':>16} {'rival':>28} {'ratio':>8}   aim")
    for part in options.parts or PARTS:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            show(PARTS[part](options, Path(folder)))


if __name__ == "__main__":
    main()
