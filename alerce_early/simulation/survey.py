"""A simulated survey of ZTF-like alerts: science, template and difference stamps with their metadata.

Each alert starts as a scene (sky.py), which science and template see through atmospheres of their own
(painting.py) and with their own noise (camera.py); its metadata are measured on it (metadata.py).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from alerce_early.data.readers import stamps_file
from alerce_early.data.readers.packets import fields
from alerce_early.data.readers.stamps_file import CLASSES
from alerce_early.data.records import Records
from alerce_early.errors import InputError
from alerce_early.machine import cores, map_in_processes
from alerce_early.simulation.camera import observe
from alerce_early.simulation.metadata import (
    BOGUS,
    SN,
    detection_limit,
    metadata_columns,
)
from alerce_early.simulation.painting import CENTRE, SIDE
from alerce_early.simulation.settings import RUBIN, Setting, find_epoch
from alerce_early.simulation.sky import Scene, draw_scene

Array = NDArray[Any]
Generator = np.random.Generator

SMALLEST_CLASS = 2
Counts = Literal["as_file", "balanced"]
CHUNK = 256  # stamps painted at once: bounds the memory, and belongs to what a seed means

to_raw = stamps_file.to_raw  # what is generated from the survey is in the format of the file it stands for


def read(
    n: int = 52_244,
    seed: int = 0,
    epoch: str = "today",
    test_path: str | Path | None = None,
    extra_path: str | Path | None = None,
    counts: Counts = "as_file",
    young: float = 0.0,
    cloudy: float = 0.0,
) -> Records:
    """Return the simulated survey as records, through the same door as the real file; the paths: as there."""
    origin = f"simulated survey of {n:,} stamps, seed {seed}, epoch {epoch}"
    origin += ", as many of each class" if counts == "balanced" else ""
    origin += f", young {young:g}, cloudy {cloudy:g}" if young or cloudy else ""
    records = stamps_file.from_raw(simulate(n, seed, epoch, counts, young, cloudy), origin)
    return stamps_file.join_files(records, test_path, extra_path)


def measure(scene: Scene, images: Array, negative: Array, rng: Generator) -> Array:
    """Metadata (n, 26) float64 of observed scenes."""
    c, static, hosts = scene.conditions, scene.static, scene.galaxies
    # A nucleus and its host are one catalogue entry; a supernova's host is one of its own.
    own = scene.labels[hosts["row"]] == SN
    row = np.concatenate([static.row, hosts["row"][own]])
    x, y = np.concatenate([static.x, hosts["x"][own]]), np.concatenate([static.y, hosts["y"][own]])
    distance = np.hypot(x - c["x"][row], y - c["y"][row])
    catalogue = {
        "row": row,
        "distance": np.hypot(distance, 0.35 * rng.standard_normal(len(row))),
        "mag": np.concatenate([static.mag, hosts["mag"][own]]),
        "star": np.concatenate([static.star, np.zeros(own.sum(), bool)]),
    }
    aperture = slice(CENTRE - 3, CENTRE + 4)
    counts = np.nansum(images[:, aperture, aperture, 2], axis=(1, 2))
    artefact_mag = c["zero_point"] - 2.5 * np.log10(np.maximum(counts, 1))
    limit = detection_limit(c, scene.setting)
    mag = np.where(scene.labels == BOGUS, np.minimum(artefact_mag, limit), scene.mag)
    return metadata_columns(scene.labels, c, catalogue, mag, negative, scene.setting, rng)


def class_counts(n: int, share: Array) -> Array:
    """How many of n stamps each class gets in these proportions, none below SMALLEST_CLASS."""
    if n < SMALLEST_CLASS * len(CLASSES):
        raise InputError(f"{n} stamps are too few: ask for at least {SMALLEST_CLASS * len(CLASSES)}.")
    exact = n * share / share.sum()
    counts = np.maximum(np.floor(exact).astype(np.int64), SMALLEST_CLASS)
    while counts.sum() > n:
        counts[np.argmax(counts)] -= 1
    while counts.sum() < n:
        counts[np.argmax(exact - counts)] += 1
    return counts


def trim(stamp: Array, rng: Generator) -> Array:
    """Return a stamp that runs over the chip's edge: lines or columns of one side are missing."""
    kept = int(rng.integers(35, SIDE))
    part = slice(0, kept) if rng.random() < 0.5 else slice(SIDE - kept, SIDE)
    return (stamp[part] if rng.random() < 0.5 else stamp[:, part]).copy()


def simulate(
    n: int = 52_244,
    seed: int = 0,
    epoch: str = "today",
    counts: Counts = "as_file",
    young: float = 0.0,
    cloudy: float = 0.0,
) -> dict[str, Any]:
    """Return a survey of n alerts at one of `EPOCHS`, a pure function of its arguments.

    n: by default the size of the ALeRCE training file. counts: "balanced" for as many of each class. young, cloudy:
    shares from 0 to 1, see `Setting`; with both, age and depth no longer identify artefacts.

    images: list of n (height, width, 3) float32 stamps in counts, science, template, difference; 63 x 63 but
    for about 1.2 %; NaN where the detector has no data, and in a few templates -3.4e38.
    labels: (n,) int64 indices into CLASSES, shuffled, in the training file's proportions or balanced.
    metadata: (n, 26) float64 in COLUMNS order, -999 where missing.
    oid: list of n str, one object an alert.
    """
    for name, share in (("young", young), ("cloudy", cloudy)):
        if not 0 <= share <= 1:
            raise InputError(f"data.simulated.{name}={share}: expected a share. Give a number from 0 to 1.")
    setting = replace(find_epoch(epoch), young=young, cloudy=cloudy)
    return draw_alerts(n, seed, replace(setting, counts=(1,) * len(CLASSES)) if counts == "balanced" else setting)


def draw_alerts(n: int, seed: int, setting: Setting) -> dict[str, Any]:
    """Return n alerts of any survey, as `simulate` does; the columns are ZTF's."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(CLASSES)), class_counts(n, np.array(setting.counts))))
    misshaped = rng.random(n) < setting.misshaped

    starts = range(0, n, CHUNK)
    work = [(labels[i : i + CHUNK], misshaped[i : i + CHUNK], setting, [seed, i]) for i in starts]
    # processes, since painting is many short steps of numpy, for which threads wait for each other
    painted = map_in_processes(_paint, work, cores())
    parts = list(tqdm(painted, "simulating", len(work), unit_scale=CHUNK, disable=None))
    images = [stamp for stamps, _ in parts for stamp in stamps]
    oid = [f"SIM{i:07d}" for i in range(n)]
    return {
        "images": images,
        "labels": labels,
        "metadata": np.concatenate([metadata for _, metadata in parts]),
        "oid": oid,
    }


def _paint(work: tuple[Array, Array, Setting, list[int]]) -> tuple[list[Array], Array]:
    """Return stamps and metadata of alerts: their labels (n,), which are trimmed (n,), setting and own seed."""
    labels, trimmed, setting, seed = work
    rng = np.random.default_rng(seed)
    scene = draw_scene(labels, setting, rng)
    stamps, negative = observe(scene, rng)
    metadata = measure(scene, stamps, negative, rng)
    return [trim(s, rng) if cut else s.copy() for s, cut in zip(stamps, trimmed, strict=True)], metadata


def read_rubin(n: int = 20_000, seed: int = 0) -> Records:
    """Return simulated alerts as the reader of Rubin's packets does: stamps (n, 63, 63, 3) in nJy, no columns."""
    survey = simulate_rubin(n, seed)
    return Records(
        images=survey["images"],
        labels=survey["labels"],
        ids=survey["oid"],
        features=np.empty((n, 0)),
        feature_names=(),
        classes=CLASSES,
        survey=fields.RUBIN.survey,
        origin=f"simulated Rubin survey of {n:,} stamps, seed {seed}",
    )


def simulate_rubin(n: int = 20_000, seed: int = 0) -> dict[str, Any]:
    """Return n alerts with as many of each class, a pure function of (n, seed).

    images: (n, 63, 63, 3) float32 in nJy (AB zero point 31.4), science, template, difference at .2 arcsec per pixel,
    the source within half a pixel of the central one; NaN beyond the cutout, 30 pixels wide or as wide as its source.
    labels: (n,) int64 indices into CLASSES. oid: (n,) str, one object per alert.
    """
    survey = draw_alerts(n, seed, RUBIN)
    return {"images": np.stack(survey["images"]), "labels": survey["labels"], "oid": np.array(survey["oid"])}
