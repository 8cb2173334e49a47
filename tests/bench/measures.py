"""Measures of `make bench`. This package and a baseline run alternately; the result is the median ratio over rounds."""

import argparse
import gzip
import io
import json
import pickle
import subprocess
import sys
import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, TensorDataset

from alerce_early.__main__ import VERBS
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError
from alerce_early.experiments.config import compose_config, to_plain
from alerce_early.experiments.instantiate import make_data, make_task
from alerce_early.experiments.run import train
from alerce_early.simulation.survey import simulate
from alerce_early.training.callbacks import silence_libraries
from alerce_early.training.trainer import choose_precision

ROUNDS = 3
BATCH = 256  # stamps per call of a runtime
N_BASELINE_PACKETS = 512  # packets for the baseline of reading, which is slow
CUTOUTS = ("Science", "Template", "Difference")


def announce() -> None:
    """Print the number of threads and the header of the table."""
    silence_libraries()
    print(f"{torch.get_num_threads()} threads, median of {ROUNDS} rounds")
    print(f"{'':44} {'ours':>16} {'baseline':>32} {'ratio':>8}   aim")


def show(what: str, ours: str, rival: str, ratio: float, aim: str) -> None:
    """Print one row of the table."""
    print(f"{what:44} {ours:>16} {rival:>32} {ratio:8.2f}   {aim}", flush=True)


def measure_seconds(work: Callable[[], Any], least: float = 0) -> float:
    """Return the seconds per call, averaged over calls that take at least `least` seconds in total."""
    started, times = time.perf_counter(), 0
    while not times or time.perf_counter() - started < least:
        work()
        times += 1
    return (time.perf_counter() - started) / times


def run_alone(code: str, *arguments: object) -> dict[str, float]:
    """Run code in a new process and measure its memory.

    Parameters
    ----------
    code : str
        Python code that sets `seconds`.
    *arguments : object
        Command-line arguments of the code, converted to str.

    Returns
    -------
    dict of str to float
        `seconds` as set by the code and `peak`, the peak memory in GiB.
    """
    # getrusage would include the peak of the parent process
    code += "\npeak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))"
    code += "\nimport json; print(json.dumps({'seconds': seconds, 'peak': int(peak.split()[1]) / (1 << 20)}))"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


class TakingTurns(Callback):
    """Run baselines before each epoch of a training run, on the same number of batches.

    Parameters
    ----------
    rivals : dict of str to callable
        Baselines by name; each trains for one epoch.

    Attributes
    ----------
    rounds : list of dict of str to float
        Seconds per epoch of each baseline and of the run ("ours").
    """

    def __init__(self, rivals: dict[str, Callable[[], object]]):
        self.rivals, self.rounds = rivals, list[dict[str, float]]()
        self.started = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Run and time the baselines."""
        self.rounds.append({name: measure_seconds(rival) for name, rival in self.rivals.items()})
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Store the duration of the epoch after its last batch."""
        if trainer.is_last_batch:  # before validation, which the baselines lack
            self.rounds[-1]["ours"] = time.perf_counter() - self.started


def train_against_loops(model: str, batches: int, folder: Path, *options: str) -> Run:
    """Compare the throughput of `train` with training loops without a Trainer.

    The loops apply the same training step: to whole batches in the precision of the run and in float32, and to
    batches that a DataLoader collates row by row.

    Parameters
    ----------
    model : str
        Name of the model's config.
    batches : int
        Batches per epoch.
    folder : Path
        Folder for the run.
    *options : str
        Further overrides of the config.

    Returns
    -------
    Run
        The finished run.
    """
    overrides = [f"model={model}", "data.n=2000", *options, f"data.batches_per_epoch={batches}", f"outputs={folder}"]
    config = compose_config(*overrides, "patience=100", f"trainer.max_epochs={ROUNDS + 1}")
    data = make_data(config)
    data.setup()
    order = list(data.train_dataloader().sampler or ())
    rows = data.rows
    assert rows
    task = make_task(config, data.spec)
    optimizer = torch.optim.Adam(task.parameters(), lr=config.optim.optimizer.lr, fused=True)
    half = choose_precision(to_plain(config.trainer)) == "bf16-mixed"

    def step(batch: dict[str, torch.Tensor], half: bool = half) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = task.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def by_batches(half: bool = half) -> None:
        task.on_train_epoch_start()
        for batch in order:
            step(rows[batch], half)

    def by_rows() -> None:
        task.on_train_epoch_start()
        whole = rows[np.concatenate(order)]
        share = whole.pop("share")
        for values in DataLoader(TensorDataset(*whole.values()), batch_size=len(order[0]), shuffle=True):
            step(dict(zip(whole, values, strict=True)) | {"share": share})

    rivals: dict[str, Callable[[], object]] = {"bare loop": by_batches}
    if half:
        rivals["bare float32 loop"] = partial(by_batches, half=False)
    turns = TakingTurns(rivals | {"DataLoader of rows": by_rows})
    run = train(config, folder / "run", turns)
    for name in turns.rivals:
        rounds = turns.rounds[1:]  # the first epoch is a warm-up
        ours, rival = (sum(map(len, order)) / median(r[k] for r in rounds) for k in ("ours", name))
        ratio = median(r[name] / r["ours"] for r in rounds)
        show(f"train {model}", f"{ours:.0f} stamps/s", f"{rival:.0f} {name}", ratio, ">= 0.97")
    return run


def train_as_it_grows(batches: int, folder: Path) -> None:
    """Measure how the throughput of `train` scales with rows, pixels and processes."""
    usual = ("model=rotinv", f"data.batches_per_epoch={batches}", "trainer.max_epochs=3", "data.n=1000")
    for what, *each in (
        ("rows", "data.n=1000", "data.n=10000", "data.n=52244"),
        ("pixels", "recipe.size=21 recipe=joint", "recipe.size=31 recipe=joint", "recipe.size=63 recipe=joint"),
        ("processes", "trainer.devices=1", "trainer=ddp trainer.accelerator=cpu trainer.devices=2"),
    ):
        rates: list[float] = []
        for i, options in enumerate(each):
            command = [sys.executable, "-m", "alerce_early.train", *usual, *options.split(), f"outputs={folder}"]
            run = folder / f"{what}{i}"
            subprocess.run([*command, f"hydra.run.dir={run}"], stdout=subprocess.DEVNULL, check=True)
            rates.append(json.loads((run / "metrics.json").read_text())["training_stamps_per_second"])
            show(f"  {options}", f"{rates[-1]:.0f} stamps/s", f"{rates[0]:.0f} {each[0]}", rates[-1] / rates[0], "")


LOAD = """
import pickle, sys, time, numpy
start = time.perf_counter()
held = pickle.load(open(sys.argv[1], 'rb'))
seconds = time.perf_counter() - start
"""
# Only the modules needed for cleaning are imported, so that the peak memory is theirs.
CLEAN = """
import json, sys, time
from alerce_early.data.readers import stamps_file
from alerce_early.data.store import open_or_prepare
file, outputs, steps = sys.argv[1:]
source = {"_target_": "alerce_early.data.readers.stamps_file.read", "path": file}
start = time.perf_counter()
open_or_prepare(outputs, "bench", source, lambda: stamps_file.read(file), json.loads(steps), 0)
seconds = time.perf_counter() - start
"""


def clean_against_pickle(n: int, folder: Path) -> None:
    """Compare reading and cleaning a stamps file with `pickle.load`, in time and peak memory."""
    file = folder / "stamps.pkl"
    with file.open("wb") as out:
        pickle.dump(simulate(n), out, protocol=4)
    steps = json.dumps(to_plain(compose_config().recipe.steps))
    run_alone(LOAD, file)  # warm-up, so that the file is in the page cache
    rounds = [(run_alone(CLEAN, file, folder / str(i), steps), run_alone(LOAD, file)) for i in range(ROUNDS)]
    size = f"{n:,} stamps, {file.stat().st_size / (1 << 30):.2f} GiB"
    for what, key, unit, aim in ((f"clean {size}", "seconds", "s", "<= 1.5"), ("  memory", "peak", "GiB", "<= 1.3")):
        ours, rival = (median(r[i][key] for r in rounds) for i in range(2))
        ratio = median(r[0][key] / r[1][key] for r in rounds)
        show(what, f"{ours:.2f} {unit}", f"{rival:.2f} {unit} pickle.load", ratio, aim)


def classify_against_net(checkpoint: Path, seconds: float) -> None:
    """Compare the throughput of each runtime on raw stamps with the bare torch network on cleaned stamps."""
    from alerce_early.serving import export  # needs the extra `export`
    from alerce_early.serving.deployed import Deployed
    from alerce_early.serving.runtimes import RUNTIMES, open_exported

    whole = Deployed.load(checkpoint)
    if whole.spec.raw_shape != (3, 63, 63) or whole.features:
        raise InputError(
            f"--run {checkpoint}: the network needs other inputs than 63 x 63 stamps. Choose a run without metadata."
        )
    images = [image for image in simulate(2 * BATCH, seed=5)["images"] if image.shape == (63, 63, 3)][:BATCH]
    stamps = np.ascontiguousarray(np.moveaxis(np.stack(images).astype(np.float32), -1, 1))
    batch = {"image": whole.task.recipe(torch.from_numpy(stamps)), "features": torch.zeros(len(stamps), 0)}

    def network() -> None:
        with torch.inference_mode():
            whole.task.net(batch)

    runtimes = {name: start(whole) for name, start in RUNTIMES.items() if name != "openvino" or find_spec("openvino")}
    runtimes["recipe alone"] = lambda images, _: {"": whole.task.recipe(torch.from_numpy(images)).numpy()}
    runtimes["exported"] = open_exported(export.content_of(whole)[0], "model.onnx")[1]
    for name, runtime in runtimes.items():
        works = (partial(runtime, stamps, None), network)
        rounds = [[len(stamps) / measure_seconds(work, seconds) for work in works] for _ in range(ROUNDS)]
        ours, rival = (median(r[i] for r in rounds) for i in range(2))
        ratio = median(r[0] / r[1] for r in rounds)
        show(f"classify raw stamps: {name}", f"{ours:.0f} stamps/s", f"{rival:.0f} network alone", ratio, "")


PREDICT = """
import sys, time
from alerce_early.predict import main
start = time.perf_counter()
main()
seconds = time.perf_counter() - start
"""


def classify_archive(checkpoint: Path, n: int, folder: Path) -> None:
    """Measure reading and classifying an archive of alert packets.

    The baseline of reading is a loop with fastavro and astropy; the baseline of classifying is `--runtime torch`.

    Parameters
    ----------
    checkpoint : Path
        Network to classify with.
    n : int
        Number of packets.
    folder : Path
        Folder for the archive and its table.
    """
    from alerce_early.data.readers.packets import stream  # needs the extra `alerts`
    from alerce_early.simulation import packets

    archive, _ = packets.write(folder / "night.tar.gz", n)

    def classify(runtime: str) -> dict[str, float]:
        given = (checkpoint, archive, "--out", folder / "night.parquet", "--overwrite", "--runtime", runtime)
        return run_alone(PREDICT, *given)

    def by_us() -> None:
        deque(stream.stream([archive], workers=0), maxlen=0)

    def by_libraries() -> None:
        deque(read_by_libraries(archive), maxlen=0)

    taken = min(n, N_BASELINE_PACKETS)
    rounds = [(n / measure_seconds(by_us), taken / measure_seconds(by_libraries)) for _ in range(ROUNDS)]
    mine, rival = (median(r[i] for r in rounds) for i in range(2))
    size = f"{n:,} packets, {archive.stat().st_size / (1 << 30):.2f} GiB"
    show(
        f"read {size}", f"{mine:,.0f}/s", f"{rival:,.0f}/s astropy, fastavro", median(m / r for m, r in rounds), ">= 2"
    )
    turns = [[classify(runtime) for runtime in ("auto", "torch")] for _ in range(ROUNDS)]
    quick, plain = (median(n / turn[i]["seconds"] for turn in turns) for i in range(2))
    ratio, peak = median(b["seconds"] / a["seconds"] for a, b in turns), max(a["peak"] for a, _ in turns)
    show("  classify it", f"{quick:,.0f}/s", f"{plain:,.0f}/s --runtime torch", ratio, ">= 2 with AMX")
    show("", f"{quick:,.0f}/s", f"{mine:,.0f}/s read alone", quick / mine, f"memory {peak:.2f} GiB")


def read_by_libraries(archive: Path) -> Iterator[np.ndarray]:
    """Yield the cutouts (3, H, W) of the first packets, read with fastavro and astropy."""
    import fastavro
    from astropy.io import fits

    with tarfile.open(archive, "r|gz") as members:
        for member in islice(members, N_BASELINE_PACKETS):
            content: Any = members.extractfile(member)
            packet: Any = next(fastavro.reader(content))
            stamps = (gzip.decompress(packet[f"cutout{name}"]["stampData"]) for name in CUTOUTS)
            yield np.stack([fits.getdata(io.BytesIO(stamp)).astype(np.float32) for stamp in stamps])


def start_against_imports(folder: Path) -> None:
    """Compare the start-up of `--help`, a first prediction and a one-step run with importing torch and lightning."""
    from alerce_early.simulation import packets  # needs the extra `alerts`

    python = (sys.executable, "-m")
    small = ("data.n=100", "data.split.validation=.2", "data.split.test=.2", f"outputs={folder}")
    commands: dict[str, tuple[str, ...]] = {
        f"{verb} --help": (*python, f"alerce_early.{verb}", "--help") for verb in VERBS
    }
    step = ("model=preliminary_cnn", "data.batches_per_epoch=1", "trainer.max_epochs=1")
    night, _ = packets.write(folder / "night.tar.gz", 256)
    to_table = ("--out", str(folder / "night.parquet"), "--overwrite")
    commands["predict ztf, 256 alerts"] = (*python, "alerce_early.predict", "ztf", str(night), *to_table)
    commands["train, one step"] = (*python, "alerce_early.train", *small, *step)
    rival = (sys.executable, "-c", "import torch, lightning")
    for what, command in commands.items():
        works = [partial(subprocess.run, each, stdout=subprocess.DEVNULL, check=True) for each in (command, rival)]
        rounds = [[measure_seconds(work) for work in works] for _ in range(ROUNDS)]
        ours, imports = (median(r[i] for r in rounds) for i in range(2))
        aim = "<= 1.5 s" if "help" in what else ""
        show(what, f"{ours:.1f} s", f"{imports:.1f} s imports alone", median(r[0] / r[1] for r in rounds), aim)


def measure_training(options: argparse.Namespace, folder: Path) -> None:
    """Measure the training of a large and a small network, and its scaling."""
    train_against_loops("rotinv", options.batches, folder / "rotinv")
    train_against_loops("preliminary_cnn", 4 * options.batches, folder / "preliminary_cnn")
    train_as_it_grows(options.batches, folder)


def measure_classifying(options: argparse.Namespace, folder: Path) -> None:
    """Measure the runtimes and the classification of an archive, with the network of `--run` or a new one."""
    run = Run.find(options.run) if options.run else train_against_loops("rotinv", options.batches, folder)
    classify_against_net(run.trained(), options.seconds)
    classify_archive(run.trained(), options.packets, folder)


# Milliseconds from a key press until the label page shows the next alert, and of a request that does nothing.
KEY_TO_ALERT = """async n => {
    const body = document.body, ours = [], rival = [];
    for (let i = 0; i < n; i++) {
        let started = performance.now();
        const drawn = new Promise(resolve => new MutationObserver((_, seen) => { seen.disconnect(); resolve(); })
            .observe(body, {attributeFilter: ["data-row"]}));
        document.dispatchEvent(new KeyboardEvent("keydown", {key: "2", bubbles: true}));
        await drawn;
        await new Promise(requestAnimationFrame);
        ours.push(performance.now() - started);
        started = performance.now();
        await fetch("session");
        rival.push(performance.now() - started);
    }
    return [ours, rival];
}"""


def label_against_requests(n: int, folder: Path) -> None:
    """Compare the time from a key press to the next alert on the label page with the time of a bare request."""
    from alerce_early.simulation import packets
    from tests.helpers.browser import open_page
    from tests.helpers.command import Command

    night, _ = packets.write(folder / "night.tar.gz", n + 20)
    options = ("--model", "ztf_simulated", "--out", folder / "labels.csv", "--no-browser")
    with Command("alerce_early.label", night, *options) as server:
        address = next(line.split()[-1] for line in server.lines() if "token=" in line)
        with open_page(address) as page:
            page.locator("body[data-row]").wait_for(state="attached")
            ours, rival = (median(found) for found in page.evaluate(KEY_TO_ALERT, n))
        server.terminate()
        server.wait()
    show("label, key to next alert", f"{ours:.0f} ms", f"{rival:.0f} ms per request", ours / rival, "<= 200 ms")


MEASURES: dict[str, Callable[[argparse.Namespace, Path], Any]] = {
    "train": measure_training,
    "start": lambda options, folder: start_against_imports(folder),
    "clean": lambda options, folder: clean_against_pickle(options.n, folder),
    "classify": measure_classifying,
    "label": lambda options, folder: label_against_requests(200, folder),
}
