"""Alerts in memory for labelling: predictions, metadata for people, and compact stamps."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from alerce_early.artifacts import predictions
from alerce_early.data.readers.stamps_file import CHANNELS
from alerce_early.data.records import MAX_PIXEL_VALUE
from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError, require_extra
from alerce_early.evaluation import tables
from alerce_early.labelling import queues
from alerce_early.report import links
from alerce_early.report.night_page import FILTERS
from alerce_early.serving import inputs
from alerce_early.serving.classifier import Classifier, load
from alerce_early.serving.inputs import Source
from alerce_early.serving.predict import CHUNK, DUPLICATE, classify_chunk, find_repeated, reject_unusable

MOST = 5_000  # alerts whose stamps are in memory: 120 MB of those with three channels
HALF_MAX = float(np.finfo(np.float16).max)
PERCENTILES = {"linear": (1, 99.5), "asinh": (1, 99.9)}  # which pixels are black and white
STRETCHES = (*PERCENTILES, "zscale")


@dataclass(frozen=True)
class Night:
    """Classified alerts and where their stamps come from.

    Parameters
    ----------
    source : Source
        The files with the stamps.
    survey : str
        Whose packets are read; "" for any.
    members : sequence of (str, ndarray)
        Id of each network and its calibrated probabilities, (N, K) float in [0, 1].
    table : dict of str to ndarray
        Columns (N,) of the predictions table of the first network.
    """

    source: Source
    survey: str
    members: Sequence[tuple[str, np.ndarray]]
    table: tables.Table

    @property
    def classes(self) -> tuple[str, ...]:
        return tables.classes_of(self.table)

    @property
    def model(self) -> str:
        return "+".join(name for name, _ in self.members)

    @property
    def keys(self) -> list[str]:
        return self.table["candid"].astype(str).tolist()

    @property
    def probabilities(self) -> np.ndarray:
        """(M, N, K) float64, calibrated."""
        return np.stack([found for _, found in self.members])

    @property
    def embeddings(self) -> np.ndarray:
        """(N, D) float: the network's last hidden layer if the table has it, or the logarithms of probabilities."""
        if predictions.EMBEDDING in self.table:
            return np.asarray(self.table[predictions.EMBEDDING], np.float64)
        return np.log(np.maximum(self.probabilities.mean(0), 1e-4))  # below it, logarithms are noise

    def take(self, rows: np.ndarray) -> "Night":
        """Return some alerts; rows: (n,) numbers."""
        members = [(name, found[rows]) for name, found in self.members]
        return Night(self.source, self.survey, members, tables.take_rows(self.table, rows))

    def read_stamps(self) -> np.ndarray:
        """Return (N, C, H, W) float16 of `shrink`, in the order of the table; raises InputError if one is missing."""
        places, stamps = {key: row for row, key in enumerate(self.keys)}, np.empty(0, np.float16)
        with tqdm(total=len(places), desc="stamps", unit="", disable=None) as bar:
            for chunk in self.source.chunks(CHUNK, survey=self.survey):
                found = [(i, places.pop(key)) for i, key in enumerate(chunk.keys.tolist()) if key in places]
                if not found or chunk.records is None:
                    continue
                images = np.moveaxis(np.asarray(chunk.records.images), -1, 1)
                stamps = stamps if stamps.size else np.full((len(self.keys), *images.shape[1:]), np.nan, np.float16)
                for i, row in found:
                    stamps[row] = shrink(images[i])
                bar.update(len(found))
                if not places:
                    break
        if places:
            raise InputError(
                f"--packets: lack {len(places):,} of {len(self.keys):,} alerts, {next(iter(places))} for one. Give "
                "the packets that the table was made of."
            )
        return stamps


def open_network(model: str) -> Classifier:
    """Load a network, with its embedding if it has one. Raises InputError if there is no such network."""
    try:
        found = load(model, embedding=True)
        found.predict([])
    except InputError:  # no hidden layer, or no network at all
        return load(model)
    return found


def classify(models: Sequence[Classifier], source: Source) -> Night:
    """Classify all alerts of a source; rejects the rows that `predict` rejects.

    Raises InputError if no alert is left, or the networks differ in classes or stamps.
    """
    first = models[0]
    if not first.classes or first.spec.kind != "stamps":
        raise InputError("--model: not a classifier of stamps. Give one.")
    for other in models[1:]:
        if (other.classes, other.shape, other.spec.channels) != (first.classes, first.shape, first.spec.channels):
            raise InputError(f"--model: {first!r} and {other!r} differ. Give networks of the same classes and stamps.")
    parts, seen, rejected = [list[tables.Table]() for _ in models], set[int](), 0
    with tqdm(desc="alerts", unit="", disable=None) as bar:
        for chunk in source.chunks(CHUNK, survey=first.survey):
            bar.update(chunk.read)
            for model in models:
                chunk = reject_unusable(model, chunk)
            if (repeated := find_repeated(chunk.keys, seen)).any():
                chunk = chunk.reject(repeated, DUPLICATE)
            seen.update(map(hash, chunk.keys.tolist()))
            rejected += len(chunk.rejected)
            if chunk.records is None:
                continue
            found = [classify_chunk(model, chunk, source.format.shown)[0] for model in models]
            shared = set.intersection(*(set(table["candid"].tolist()) for table in found))
            rejected += len(chunk.keys) - len(shared)
            for part, table in zip(parts, found, strict=True):
                part.append(tables.take_rows(table, np.isin(table["candid"], list(shared))))
    if not any(len(table["candid"]) for table in parts[0]):
        raise InputError(f"{source.files[0]}: none of {rejected:,} rows can be classified. Try alerce-early predict.")
    if rejected:
        print(f"{rejected:,} rows cannot be classified; alerce-early predict lists them with their reasons")
    joined = [tables.join_tables(part) for part in parts]
    members = [
        (model.model, tables.probabilities(table, first.classes, "q"))
        for model, table in zip(models, joined, strict=True)
    ]
    return Night(source, first.survey, members, joined[0])


def read_table(path: Path, packets: Sequence[str]) -> Night:
    """Read a predictions table and find its packets. Raises InputError if it has no class probabilities."""
    table = predictions.read(path)
    classes = tables.classes_of(table)
    if not classes or "candid" not in table or "id" not in table or not len(table["candid"]):
        raise InputError(f"{path}: not a predictions table with candid, id and p_<class>. Give one that predict wrote.")
    facts: dict[str, Any] = {"kind": "stamps", "shape": (3, 1, 1), "classes": classes, "channels": CHANNELS}
    lacking: dict[str, Any] = dict.fromkeys(("features", "feature_mean", "feature_std", "recipe"), ())
    spec = DataSpec(**facts, **lacking, margin=0, n_train=0, fingerprint="", origin=str(path))
    best = "q" if all(f"q_{name}" in table for name in classes) else "p"
    known = np.isfinite(tables.probabilities(table, classes, best)).all(1)
    table = tables.take_rows(table, known & ~find_repeated(table["candid"], set()))
    models = sorted(set(table["model"].astype(str).tolist())) if "model" in table else []
    model = models[0] if len(models) == 1 else path.name
    return Night(inputs.find(packets, spec), "", [(model, tables.probabilities(table, classes, best))], table)


def narrow(night: Night, strategy: str, target: int, share: float) -> Night:
    """Keep the alerts that a session may come to: those drawn at random, and the first `MOST` of a strategy."""
    n = len(night.keys)
    if n <= MOST:
        return night
    drawn = queues.reserve(night.keys, share)[:MOST]
    held = np.isin(np.arange(n), drawn)
    rest = MOST - len(drawn)
    strategy = "random" if strategy == "diverse" else strategy  # to cover a whole night takes minutes
    of = night.probabilities, night.embeddings, held
    chosen = queues.choose(strategy, *of, rest, np.random.default_rng(0), target) if rest else drawn[:0]
    print(f"{n:,} alerts: {len(drawn):,} drawn at random and the {len(chosen):,} to label first are kept in memory")
    return night.take(np.concatenate([drawn, chosen]))


def shrink(stamp: np.ndarray) -> np.ndarray:
    """Return a stamp (C, H, W) as float16, each channel minus its median, all in the same unit of noise.

    Pixels without data become NaN. The unit is the channels' median scatter, by the median absolute deviation.
    """
    planes = np.where(np.abs(stamp) < MAX_PIXEL_VALUE, stamp, np.nan).astype(np.float64)
    known = [plane[np.isfinite(plane)] for plane in planes]
    medians = np.array([np.median(pixels) if pixels.size else 0 for pixels in known])
    scatter = [1.4826 * np.median(np.abs(p - m)) for p, m in zip(known, medians, strict=True) if p.size]
    unit = np.median([one for one in scatter if one > 0] or [1.0])
    return np.clip((planes - medians[:, None, None]) / unit, -HALF_MAX, HALF_MAX).astype(np.float16)


def find_levels(stamp: np.ndarray) -> dict[str, list[tuple[float, float]]]:
    """Find the black and white levels of a stamp (C, H, W) for each stretch: common to all channels, then per channel.

    Z-scale is IRAF's, by astropy.
    """
    with require_extra("the z-scale of stamps", "label"):
        from astropy.visualization import ZScaleInterval

    limits: dict[str, Any] = {name: partial(np.percentile, q=ends) for name, ends in PERCENTILES.items()}
    limits["zscale"] = ZScaleInterval().get_limits
    wide = stamp.astype(np.float64)
    pixels = [part[np.isfinite(part)] for part in (wide, *wide)]
    found = {name: [of(some) if some.size else (0, 1) for some in pixels] for name, of in limits.items()}
    return {name: [(float(low), float(high)) for low, high in ends] for name, ends in found.items()}


def describe(table: tables.Table, row: int) -> list[tuple[str, str]]:
    """List the known metadata of an alert as names and values in words."""
    known = {
        name: float(table[name][row])
        for name in (*tables.PLACE, *tables.METADATA)
        if name in table and np.isfinite(float(table[name][row]))
    }
    found = [("candid", str(table["candid"][row]))]
    if "magpsf" in known:
        error = f" ± {known['sigmapsf']:.2f}" if "sigmapsf" in known else ""
        found.append(("magnitude", f"{known['magpsf']:.2f}{error}"))
    if "snr" in known:
        found.append(("signal-to-noise", f"{known['snr']:.1f}"))
    if "fid" in known:
        found.append(("filter", FILTERS.get(int(known["fid"]), f"{known['fid']:.0f}")))
    if "jd" in known:
        found.append(("date", spell_date(known["jd"])))
    if tables.DETECTIONS in known:
        most = known[tables.DETECTIONS] >= tables.MOST_DETECTIONS
        found.append(("detections", f"{known[tables.DETECTIONS]:.0f}{' or more' * most}"))
    if {"ra", "dec"} <= known.keys():
        ra, dec = known["ra"], known["dec"]
        found += [("RA, Dec (deg)", f"{ra:.6f} {dec:+.6f}"), ("RA, Dec", spell_place(ra, dec))]
    if predictions.TRAINED in table and table[predictions.TRAINED][row]:
        found.append(("note", "this object trained the network, which is overconfident of it"))
    return found


def list_links(table: tables.Table, row: int) -> list[tuple[str, str]]:
    """Return names and addresses of pages about an alert's object, and about its place on the sky."""
    ra, dec = (float(table[axis][row]) if axis in table else np.nan for axis in ("ra", "dec"))
    known = abs(ra) <= 360 and abs(dec) <= 90  # NaN is neither
    return list(links.find(str(table["id"][row]), *((ra, dec) if known else ())).items())


def spell_date(jd: float) -> str:
    """Return a Julian date as 2026-01-03 04:12 UTC (JD 2461043.67512)."""
    try:
        when = datetime(2000, 1, 1, 12) + timedelta(days=jd - 2_451_545)
    except (OverflowError, ValueError):
        return f"JD {jd:.5g}"
    return f"{when:%Y-%m-%d %H:%M} UTC (JD {jd:.5f})"


def spell_place(ra: float, dec: float) -> str:
    """Return ra, dec in degrees as 10:00:27.89 +02:12:21.0."""
    hours = round(ra % 360 / 15 * 360_000) % (24 * 360_000)  # hundredths of a second of time
    arcsec = round(abs(dec) * 36_000)  # tenths of an arcsecond
    return (
        f"{hours // 360_000:02}:{hours // 6000 % 60:02}:{hours % 6000 / 100:05.2f} "
        f"{'-' if dec < 0 else '+'}{arcsec // 36_000:02}:{arcsec // 600 % 60:02}:{arcsec % 600 / 10:04.1f}"
    )
