"""A simulated survey of ZTF-like alerts: science, template and difference stamps with their metadata.

Each alert starts as a scene (sky.py). Science and template image see it through different atmospheres (painting.py)
and with independent noise (camera.py). Its metadata are measured on the result (metadata.py).
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
CHUNK = 256  # stamps painted at once; bounds memory, and another number changes the result of a seed

to_raw = stamps_file.to_raw  # generated stamps have the format of the file that the survey replaces


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
    """Simulate a survey and read it as the reader of the real file does.

    Parameters
    ----------
    n, seed, epoch, counts, young, cloudy
        See `simulate`.
    test_path, extra_path : path, optional
        Raw files with test rows and with additional rows, see `stamps_file.read`.

    Returns
    -------
    Records
        Stamps, labels and the 26 metadata columns.
    """
    origin = f"simulated survey of {n:,} stamps, seed {seed}, epoch {epoch}"
    origin += ", as many of each class" if counts == "balanced" else ""
    origin += f", young {young:g}, cloudy {cloudy:g}" if young or cloudy else ""
    records = stamps_file.from_raw(simulate(n, seed, epoch, counts, young, cloudy), origin)
    return stamps_file.join_files(records, test_path, extra_path)


def measure(scene: Scene, images: Array, negative: Array, rng: Generator) -> Array:
    """Measure the metadata of observed scenes.

    Parameters
    ----------
    scene : Scene
        n scenes.
    images : ndarray
        (n, SIDE, SIDE, 3) stamps of the scenes.
    negative : ndarray
        (n,) bool, whether the difference is negative.
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    ndarray
        (n, 26) float64, see `metadata_columns`.
    """
    c, static, hosts = scene.conditions, scene.static, scene.galaxies
    # A nucleus and its host are a single catalogue entry; the host of a supernova has its own entry.
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
    """Divide n stamps among the classes.

    Parameters
    ----------
    n : int
        Number of stamps.
    share : ndarray
        (classes,) relative sizes of the classes.

    Returns
    -------
    ndarray
        (classes,) int64 with sum n, each at least `SMALLEST_CLASS`.

    Raises
    ------
    InputError
        If `n` is too small.
    """
    if n < SMALLEST_CLASS * len(CLASSES):
        raise InputError(
            f"{n} simulated stamps: expected at least {SMALLEST_CLASS * len(CLASSES)}. Raise data.n or "
            "data.simulated_n."
        )
    exact = n * share / share.sum()
    counts = np.maximum(np.floor(exact).astype(np.int64), SMALLEST_CLASS)
    while counts.sum() > n:
        counts[np.argmax(counts)] -= 1
    while counts.sum() < n:
        counts[np.argmax(exact - counts)] += 1
    return counts


def trim_at_edge(stamp: Array, rng: Generator) -> Array:
    """Cut lines or columns off one side of a stamp, as at the edge of a chip."""
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
    """Simulate alerts of ZTF.

    Parameters
    ----------
    n : int
        Number of alerts, by default the size of the ALeRCE training file.
    seed : int
        The same arguments give the same survey.
    epoch : str
        One of `settings.EPOCHS`.
    counts : {"as_file", "balanced"}
        Proportions of the classes: as in the training file, or equal.
    young, cloudy : float
        Fractions from 0 to 1, see `Setting`. With both, age and depth no longer identify artefacts.

    Returns
    -------
    dict
        ``images``, a list of n stamps (height, width, 3) float32 in counts: science, template, difference. They are 63
        x 63 except for about 1.2 %, and NaN (in a few templates -3.4e38) where the detector has no data.
        ``labels``, (n,) int64 indices into `stamps_file.CLASSES`, shuffled. ``metadata``, (n, 26) float64 in the order
        of `stamps_file.COLUMNS`, -999 if missing. ``oid``, n strings, one object per alert.

    Raises
    ------
    InputError
        For too few alerts, an unknown epoch or a fraction outside [0, 1].
    """
    for name, share in (("young", young), ("cloudy", cloudy)):
        if not 0 <= share <= 1:
            raise InputError(f"data.simulated.{name}={share}: expected a share. Give a number from 0 to 1.")
    setting = replace(find_epoch(epoch), young=young, cloudy=cloudy)
    return draw_alerts(n, seed, replace(setting, counts=(1,) * len(CLASSES)) if counts == "balanced" else setting)


def draw_alerts(n: int, seed: int, setting: Setting) -> dict[str, Any]:
    """Simulate n alerts of any survey; the result is the same as of `simulate`, with ZTF's columns."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(CLASSES)), class_counts(n, np.array(setting.counts))))
    misshaped = rng.random(n) < setting.misshaped

    starts = range(0, n, CHUNK)
    work = [(labels[i : i + CHUNK], misshaped[i : i + CHUNK], setting, [seed, i]) for i in starts]
    # painting consists of many short NumPy calls, for which threads would wait for the interpreter lock
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
    """Return stamps and metadata of alerts, given their labels (n,), a mask of those to trim (n,), setting and seed."""
    labels, trimmed, setting, seed = work
    rng = np.random.default_rng(seed)
    scene = draw_scene(labels, setting, rng)
    stamps, negative = observe(scene, rng)
    metadata = measure(scene, stamps, negative, rng)
    return [trim_at_edge(s, rng) if cut else s.copy() for s, cut in zip(stamps, trimmed, strict=True)], metadata


def read_rubin(n: int = 20_000, seed: int = 0) -> Records:
    """Simulate Rubin alerts and return them as the reader of its packets does.

    Parameters
    ----------
    n : int
        Number of alerts.
    seed : int
        Seed of the simulation.

    Returns
    -------
    Records
        Stamps (n, 63, 63, 3) float32 in nJy and labels, without metadata.
    """
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
    """Simulate Rubin alerts with equally many of each class.

    Parameters
    ----------
    n : int
        Number of alerts.
    seed : int
        The same n and seed give the same alerts.

    Returns
    -------
    dict
        ``images``, (n, 63, 63, 3) float32 in nJy (AB zero point 31.4): science, template, difference at 0.2 arcsec per
        pixel. The source is within half a pixel of the centre. Pixels beyond the cutout, which is 30 pixels wide or as
        wide as the source needs, are NaN. ``labels``, (n,) int64 indices into `stamps_file.CLASSES`. ``oid``, (n,) str,
        one object per alert.
    """
    survey = draw_alerts(n, seed, RUBIN)
    return {"images": np.stack(survey["images"]), "labels": survey["labels"], "oid": np.array(survey["oid"])}
