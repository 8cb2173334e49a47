"""Stamps/s of the runtimes, with what they cost in accuracy, against a compiled TensorFlow graph."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from alerce_early.benches import ROUNDS, Row
from alerce_early.data.simulation.survey import simulate
from alerce_early.errors import InputError
from alerce_early.models.rotinv import RotInv
from alerce_early.serving.deployed import Deployed
from alerce_early.serving.runtimes import RUNTIMES, Runtime, start

BATCH = 256
SAME = 1e-4  # by how much a rival's probability may differ
JUDGED = 4096  # stamps on which a runtime must agree with float32


def classifying(checkpoint: Path, seconds: float, folder: Path, tensorflow: str) -> Iterator[Row]:
    """Every runtime on a trained network: from cleaned stamps, and from raw ones.

    The rival, from cleaned stamps, is `RotInv` as a TensorFlow graph, by the interpreter that is given; onnxruntime
    where that has no tensorflow or the network is another.
    """
    whole = Deployed.load(checkpoint)
    if whole.spec.raw_shape != (3, 63, 63) or whole.features:
        raise InputError(f"--run {checkpoint} is no network of 63 x 63 stamps alone, which are what is simulated here.")
    alone = without_recipe(whole)
    images = [image for image in simulate(JUDGED, seed=5)["images"] if image.shape == (63, 63, 3)]
    stamps = np.ascontiguousarray(np.moveaxis(np.stack(images).astype(np.float32), -1, 1))
    cleaned = whole.task.recipe(torch.from_numpy(stamps[:BATCH])).numpy()
    given = {"cleaned": (alone, cleaned), "raw": (whole, stamps[:BATCH])}
    names = [name for name in RUNTIMES if name != "openvino" or find_spec("openvino")]
    running = {(what, name): start(name, net) for what, (net, _) in given.items() for name in names}
    speeds: dict[tuple[str, str], list[float]] = {key: [] for key in running}
    rivals, rival = [], ""
    for _ in range(ROUNDS):
        graph = _rival_speed(alone, cleaned, seconds, folder, tensorflow)
        for (what, name), run in running.items():
            speeds[what, name].append(_speed(run, given[what][1], seconds))
        rivals.append(graph or speeds["cleaned", "onnx"][-1])
        rival = "TensorFlow" if graph else "onnx"
    for (what, name), measured in speeds.items():
        ratio = median(o / r for o, r in zip(measured, rivals, strict=True))
        told = f"{median(rivals):.0f} {rival}, cleaned"
        yield Row(f"classify {what} stamps: {name}", f"{median(measured):.0f} stamps/s", told, ratio, "best: >= 2")
    for name in names[1:]:
        ours, exact = (_probabilities(running["raw", each], stamps, whole) for each in (name, names[0]))
        same, apart = float((ours.argmax(1) == exact.argmax(1)).mean()), float(np.abs(ours - exact).max())
        told = f"class of {names[0]}"
        yield Row(f"  {name}: largest |dp|, share alike", f"{apart:.1g}, {same:.2%}", told, same, "<= .01, >= 0.999")


def without_recipe(whole: Deployed) -> Deployed:
    """The same network, whose raw stamps are what the recipe made of them."""
    spec = replace(whole.spec, recipe=(), margin=0, raw_shape=whole.spec.shape).plain()
    alone = Deployed(type(whole.task)(**{**whole.task.hyper_parameters, "spec": spec}), whole.calibration)
    alone.task.load_state_dict(whole.task.state_dict())
    return alone


def _probabilities(run: Runtime, stamps: np.ndarray, net: Deployed) -> np.ndarray:
    """(N, C) of many stamps."""
    parts = [run(stamps[start : start + BATCH], None) for start in range(0, len(stamps), BATCH)]
    return np.concatenate([np.stack([part[name] for name in net.chosen], 1) for part in parts])


def _speed(run: Runtime, rows: np.ndarray, seconds: float) -> float:
    """Stamps/s."""
    started, batches = time.perf_counter(), 0
    while (took := time.perf_counter() - started) < seconds:
        run(rows, None)
        batches += 1
    return batches * len(rows) / took


def _rival_speed(net: Deployed, rows: np.ndarray, seconds: float, folder: Path, python: str) -> float | None:
    """Stamps/s of the rival program; None where nobody named an interpreter and this one has no tensorflow, or the
    network is no `RotInv`. Raises InputError if the program fails or computes something else."""
    if not isinstance(net.task.net, RotInv) or not (python or find_spec("tensorflow")):
        return None
    layers = [m for m in net.task.net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    turned = [m.weight.permute(2, 3, 1, 0) if m.weight.ndim == 4 else m.weight.T for m in layers]
    held: dict[str, Any] = {f"{i}.weight": weight.contiguous().numpy() for i, weight in enumerate(turned)}
    held |= {f"{i}.bias": m.bias.numpy() for i, m in enumerate(layers) if m.bias is not None}
    np.savez(folder / "weights.npz", **held)
    np.save(folder / "stamps.npy", np.ascontiguousarray(np.moveaxis(rows, 1, -1)))
    files = [str(folder / "weights.npz"), str(folder / "stamps.npy")]
    program = [python or sys.executable, str(Path(__file__).with_name("tensorflow_rival.py")), *files]
    done = subprocess.run([*program, str(torch.get_num_threads()), str(seconds)], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"--tensorflow {python}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    exact = start("torch", net)(rows, None)
    wanted = np.stack([exact[f"p_{name}"] for name in net.classes], 1)
    if not (apart := float(np.abs(np.array(found["probabilities"]) - wanted).max())) < SAME:
        raise InputError(f"--tensorflow {python}: its graph differs from the network by {apart:.2g}, more than {SAME}.")
    return found["speed"]
