"""Alerts to label: classify or read them, keep compact stamps in memory, and format their metadata."""

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

MAX_ALERTS = 5_000  # alerts with stamps in memory: 120 MB with three channels
HALF_MAX = float(np.finfo(np.float16).max)
PERCENTILES = {"linear": (1, 99.5), "asinh": (1, 99.9)}  # of the black and the white pixels
STRETCHES = (*PERCENTILES, "zscale")


@dataclass(frozen=True)
class Night:
    """Classified alerts, and the files with their stamps.

    Parameters
    ----------
    source : Source
        The files with the stamps.
    survey : str
        Survey of the packets; "" for any.
    members : sequence of (str, ndarray)
        Id of each network, and its calibrated probabilities (N, K) float in [0, 1].
    table : dict of str to ndarray
        Columns (N,) of the first network's predictions table.
    """

    source: Source
    survey: str
    members: Sequence[tuple[str, np.ndarray]]
    table: tables.Table

    @property
    def classes(self) -> tuple[str, ...]:
        """The K class names."""
        return tables.classes_of(self.table)

    @property
    def model(self) -> str:
        """Ids of the networks, joined by +."""
        return "+".join(name for name, _ in self.members)

    @property
    def keys(self) -> list[str]:
        """The N candids."""
        return self.table["candid"].astype(str).tolist()

    @property
    def probabilities(self) -> np.ndarray:
        """Calibrated probabilities (M, N, K) float64 of the M networks."""
        return np.stack([found for _, found in self.members])

    @property
    def embeddings(self) -> np.ndarray:
        """Embeddings (N, D) float: the last hidden layer if the table has it, or log-probabilities."""
        if predictions.EMBEDDING in self.table:
            return np.asarray(self.table[predictions.EMBEDDING], np.float64)
        return np.log(np.maximum(self.probabilities.mean(0), 1e-4))  # lower probabilities are noise

    def take(self, rows: np.ndarray) -> "Night":
        """Select alerts by row numbers (n,)."""
        members = [(name, found[rows]) for name, found in self.members]
        return Night(self.source, self.survey, members, tables.take_rows(self.table, rows))

    def read_stamps(self) -> np.ndarray:
        """Read the stamps of all alerts.

        Returns
        -------
        ndarray of float16, shape (N, C, H, W)
            Stamps scaled by `shrink`, in the order of the table.

        Raises
        ------
        InputError
            If the files lack an alert.
        """
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
                f"--packets: {len(places):,} of {len(self.keys):,} alerts are missing, such as {next(iter(places))}. "
                "Give the packets of all alerts of the table."
            )
        return stamps


def open_network(model: str) -> Classifier:
    """Load a network, with embeddings if it has a hidden layer.

    Parameters
    ----------
    model : str
        A run folder, a checkpoint or the name of a bundled network.

    Raises
    ------
    InputError
        If there is no such network.
    """
    try:
        found = load(model, embedding=True)
        found.predict([])
    except InputError:  # no hidden layer, or no network at all
        return load(model)
    return found


def classify(models: Sequence[Classifier], source: Source) -> Night:
    """Classify the alerts of a source with each network; alerts that `predict` rejects are omitted.

    Parameters
    ----------
    models : sequence of Classifier
        Classifiers of stamps, with the same classes and stamps.
    source : Source
        Files with the alerts.

    Raises
    ------
    InputError
        If no alert can be classified, or the networks differ in classes or stamps.
    """
    first = models[0]
    if not first.classes or first.spec.kind != "stamps":
        raise InputError("--model: not a classifier of stamps. Give another network.")
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
        raise InputError(
            f"{source.files[0]}: none of {rejected:,} rows can be classified. alerce-early predict lists the reasons."
        )
    if rejected:
        print(f"{rejected:,} rows cannot be classified; alerce-early predict lists them with their reasons")
    joined = [tables.join_tables(part) for part in parts]
    members = [
        (model.model, tables.probabilities(table, first.classes, "q"))
        for model, table in zip(models, joined, strict=True)
    ]
    return Night(source, first.survey, members, joined[0])


def read_table(path: Path, packets: Sequence[str]) -> Night:
    """Read a predictions table and find its packets.

    Parameters
    ----------
    path : Path
        Predictions, .csv or .parquet, with ``candid``, ``id`` and ``p_<class>``.
    packets : sequence of str
        Files with the alerts of the table.

    Raises
    ------
    InputError
        If the table lacks a column or has no rows.
    """
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
    """Reduce a night to at most `MAX_ALERTS` alerts: the random ones, and the first of a strategy.

    Parameters
    ----------
    night : Night
        All alerts.
    strategy : str
        One of `queues.STRATEGIES`.
    target : int
        Class or row of the strategy, see `queues.choose`.
    share : float in [0, 1]
        Share of the alerts that is drawn at random.
    """
    n = len(night.keys)
    if n <= MAX_ALERTS:
        return night
    drawn = queues.reserve(night.keys, share)[:MAX_ALERTS]
    held = np.isin(np.arange(n), drawn)
    rest = MAX_ALERTS - len(drawn)
    strategy = "random" if strategy == "diverse" else strategy  # it would take minutes for a whole night
    of = night.probabilities, night.embeddings, held
    chosen = queues.choose(strategy, *of, rest, np.random.default_rng(0), target) if rest else drawn[:0]
    print(f"{n:,} alerts: {len(drawn):,} drawn at random and the {len(chosen):,} to label first are kept in memory")
    return night.take(np.concatenate([drawn, chosen]))


def shrink(stamp: np.ndarray) -> np.ndarray:
    """Convert a stamp to float16, in units of its noise.

    The noise is the median over channels of the standard deviation, estimated from the median absolute deviation.

    Parameters
    ----------
    stamp : ndarray of float, shape (C, H, W)
        Raw stamp.

    Returns
    -------
    ndarray of float16, shape (C, H, W)
        Each channel minus its median, divided by the noise; NaN where pixels have no data.
    """
    planes = np.where(np.abs(stamp) < MAX_PIXEL_VALUE, stamp, np.nan).astype(np.float64)
    known = [plane[np.isfinite(plane)] for plane in planes]
    medians = np.array([np.median(pixels) if pixels.size else 0 for pixels in known])
    scatter = [1.4826 * np.median(np.abs(p - m)) for p, m in zip(known, medians, strict=True) if p.size]
    unit = np.median([one for one in scatter if one > 0] or [1.0])
    return np.clip((planes - medians[:, None, None]) / unit, -HALF_MAX, HALF_MAX).astype(np.float16)


def find_levels(stamp: np.ndarray) -> dict[str, list[tuple[float, float]]]:
    """Find the black and white levels of a stamp for each stretch.

    Parameters
    ----------
    stamp : ndarray of float, shape (C, H, W)
        Stamp; NaN where pixels have no data.

    Returns
    -------
    dict of str to list of (float, float)
        By stretch: levels common to all channels, then levels of each channel. ``zscale`` is IRAF's, from astropy.
    """
    with require_extra("the z-scale of stamps", "alerts"):
        from astropy.visualization import ZScaleInterval

    limits: dict[str, Any] = {name: partial(np.percentile, q=ends) for name, ends in PERCENTILES.items()}
    limits["zscale"] = ZScaleInterval().get_limits
    wide = stamp.astype(np.float64)
    pixels = [part[np.isfinite(part)] for part in (wide, *wide)]
    found = {name: [of(some) if some.size else (0, 1) for some in pixels] for name, of in limits.items()}
    return {name: [(float(low), float(high)) for low, high in ends] for name, ends in found.items()}


def describe(table: tables.Table, row: int) -> list[tuple[str, str]]:
    """Format the known metadata of an alert as pairs of name and text."""
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
        found.append(("date", format_date(known["jd"])))
    if tables.DETECTIONS in known:
        most = known[tables.DETECTIONS] >= tables.MOST_DETECTIONS
        found.append(("detections", f"{known[tables.DETECTIONS]:.0f}{' or more' * most}"))
    if {"ra", "dec"} <= known.keys():
        ra, dec = known["ra"], known["dec"]
        found += [("RA, Dec (deg)", f"{ra:.6f} {dec:+.6f}"), ("RA, Dec", format_position(ra, dec))]
    if predictions.TRAINED in table and table[predictions.TRAINED][row]:
        found.append(("note", "this object was used in training, so its probabilities are overconfident"))
    return found


def list_links(table: tables.Table, row: int) -> list[tuple[str, str]]:
    """List names and addresses of pages about an alert's object and position."""
    ra, dec = (float(table[axis][row]) if axis in table else np.nan for axis in ("ra", "dec"))
    known = abs(ra) <= 360 and abs(dec) <= 90  # NaN is neither
    return list(links.find(str(table["id"][row]), *((ra, dec) if known else ())).items())


def format_date(jd: float) -> str:
    """Format a Julian date, as in 2026-01-03 04:12 UTC (JD 2461043.67512)."""
    try:
        when = datetime(2000, 1, 1, 12) + timedelta(days=jd - 2_451_545)
    except (OverflowError, ValueError):
        return f"JD {jd:.5g}"
    return f"{when:%Y-%m-%d %H:%M} UTC (JD {jd:.5f})"


def format_position(ra: float, dec: float) -> str:
    """Format a position in degrees as sexagesimal, as in 10:00:27.89 +02:12:21.0."""
    hours = round(ra % 360 / 15 * 360_000) % (24 * 360_000)  # hundredths of a second of time
    arcsec = round(abs(dec) * 36_000)  # tenths of an arcsecond
    return (
        f"{hours // 360_000:02}:{hours // 6000 % 60:02}:{hours % 6000 / 100:05.2f} "
        f"{'-' if dec < 0 else '+'}{arcsec // 36_000:02}:{arcsec // 600 % 60:02}:{arcsec % 600 / 10:04.1f}"
    )
