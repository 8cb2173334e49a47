"""Page of a night: alerts as stamps, by the probability of one class, with filters, a sky map and links to brokers.

All alerts are in the page as columns of JSON, and those most probable of the class have their stamps; the script of
`templates/night.js` draws 60 of them at a time, so a page of ten thousand alerts stays responsive.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from PIL import Image

from alerce_early import files
from alerce_early.artifacts import predictions
from alerce_early.data.records import MAX_PIXEL_VALUE
from alerce_early.errors import InputError
from alerce_early.evaluation import metrics, objects, tables
from alerce_early.evaluation.metrics import TARGET
from alerce_early.report import foreign_table, links, page, palette
from alerce_early.report.pictures import GAP, stretch

SHOWN = 600  # alerts with stamps, 5 kB each
LISTED = 20_000  # alerts, 160 bytes each
LEAST = 0.5  # probability below which alerts are folded away at first
QUALITY = 75  # of the stamps' WebP
UNIT = 10_000  # probabilities are whole numbers of 1 / UNIT
FILTERS = {1: "g", 2: "r", 3: "i", 4: "z", 5: "y", 6: "u"}  # by ZTF's fid, and so on
DIGITS = {"jd": 5, "ra": 6, "dec": 6, "entropy": 3, **dict.fromkeys(tables.METADATA, 2)}  # after the point


def choose(table: tables.Table, target: str = TARGET) -> np.ndarray:
    """Return the rows (n,) int that have stamps on the page, the most probable of the target class first."""
    return np.argsort(-table[f"q_{_first(table, target)}"], kind="stable")[:SHOWN]


def write(
    table: tables.Table,
    stamps: Mapping[str, np.ndarray],
    title: str,
    subtitle: str,
    target: str = TARGET,
    channels: Sequence[str] = ("science", "template", "difference"),
    view: str = "gallery",
) -> str:
    """Write the page as HTML.

    Parameters
    ----------
    table : mapping of str to ndarray
        Predictions (N,): ``candid`` or none, ``id``, ``predicted``, ``q_<class>``, and what there is of ``label``,
        ``set``, ``trained``, ``entropy``, ``jd``, ``fid``, ``ra``, ``dec`` and `tables.METADATA`.
    stamps : mapping of str to ndarray
        Raw stamps (C, H, W) by candid, of the rows that have one; the first three channels are shown.
    title, subtitle : str
        Of the page.
    target : str
        Class by whose probability alerts are in order at first.
    channels : sequence of str
        Names of the channels.
    view : {"gallery", "table", "objects"}
        The view that is open at first.
    """
    first = _first(table, target)
    classes = tables.classes_of(table)
    order = np.argsort(-table[f"q_{first}"], kind="stable")[:LISTED]
    rows = tables.take_rows(table, order)
    pictures = [_encode(stamps[candid]) if candid in stamps else None for candid in _texts(rows.get("candid", order))]
    while pictures and pictures[-1] is None:
        pictures.pop()
    kept = [name for name in ("fid", *DIGITS) if name in rows and np.isfinite(rows[name].astype(np.float64)).any()]
    data: dict[str, Any] = {
        "classes": classes,
        "target": first,
        "least": LEAST,
        "view": view,
        "unit": UNIT,
        "gap": GAP,
        "filters": FILTERS,
        "channels": list(channels[:3]),
        "looks": [(look.symbol, look.colour) for look in palette.looks(classes).values()],
        "sites": links.SITES,
        "stamps": pictures,
        "rows": {
            "id": _texts(tables.find_objects(rows)),
            **{name: _texts(rows[name]) for name in ("candid", "predicted", "label", "set") if name in rows},
            **({"trained": rows["trained"].astype(int).tolist()} if "trained" in rows else {}),
            "q": [np.round(rows[f"q_{name}"].astype(np.float64) * UNIT).astype(int).tolist() for name in classes],
            **{name: _numbers(rows[name], DIGITS.get(name, 0)) for name in kept},
        },
        "objects": {
            name: _numbers(column, 5 if name.endswith("jd") else 2) if column.dtype.kind == "f" else column.tolist()
            for name, column in objects.summarize(rows, first).items()
        },
    }
    predicted, counts = np.unique(table["predicted"].astype(str), return_counts=True)
    return page.render(
        "night.html",
        title=title,
        subtitle=subtitle,
        headline=[(name, f"{count:,}") for name, count in zip(predicted.tolist(), counts.tolist(), strict=True)],
        looks=palette.looks(classes),
        classes=classes,
        first=first,
        least=LEAST,
        views=("gallery", "table", "objects"),
        view=view,
        rows=data["rows"],
        n=len(table["id"]),
        n_listed=len(order),
        n_stamps=len(pictures),
        joined=files.JOINED,
        bright=next((name for name in ("magpsf", "snr") if name in kept), None),
        data=htmlsafe_json_dumps(data, separators=(",", ":"), allow_nan=False),
    )


def write_objects(source: Path, out: Path, target: str | None = None, overwrite: bool = False) -> tuple[Path, Path]:
    """Write one row per object of a table of alerts, see `objects.summarize`, and a page with the same name.

    Parameters
    ----------
    source, out : Path
        Tables, .csv or .parquet.
    target : str, optional
        Class whose log-odds are averaged; by default `TARGET`, or the last of a table without it.

    Returns
    -------
    tuple of Path
        The table and the page.

    Raises
    ------
    InputError
        If there is no such table or class, or a file is there already.
    """
    table, written = foreign_table.read_alerts(source), out.with_suffix(".html")
    classes = tables.classes_of(table)
    if target is not None and target not in classes:
        raise InputError(f"--target-class {target}: there is no such class. Choose from {', '.join(classes)}.")
    for path in (out, written):
        if path.exists() and not overwrite:
            raise InputError(f"{path} is there already; give another --out, or --overwrite to replace it.")
    name = metrics.positive(classes, target or TARGET)
    found = objects.summarize(table, name)
    predictions.write(out, found)
    said = f"{len(table['id']):,} alerts of {len(found['id']):,} objects"
    files.write_text(written, write(table, {}, source.name, said, name, view="objects"))
    return out, written


def _first(table: tables.Table, target: str) -> str:
    """Return the class to show, of a network without the target its first."""
    classes = tables.classes_of(table)
    return target if target in classes else classes[0]


def _texts(column: np.ndarray) -> list[str]:
    return np.where(column == None, "", column).astype(str).tolist()  # noqa: E711, element by element


def _numbers(column: np.ndarray, digits: int) -> list[float | None]:
    """Return a column as JSON has it: rounded, None where it is not finite, and whole numbers without a point."""
    values = np.round(column.astype(np.float64), digits)
    whole = bool((values[np.isfinite(values)] % 1 == 0).all())
    return [None if not np.isfinite(value) else int(value) if whole else value for value in values.tolist()]


def _encode(stamp: np.ndarray) -> str:
    """Return the first three channels of a stamp side by side, cropped to their data, as base64 of a WebP picture."""
    tiles = np.nan_to_num(stretch(_crop(stamp[:3])))
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, GAP)), constant_values=1.0)
    file = io.BytesIO()
    grey = np.round(255 * np.concatenate(list(tiles), 1)[:, :-GAP]).astype(np.uint8)
    Image.fromarray(grey).save(file, "webp", quality=QUALITY)
    return base64.b64encode(file.getvalue()).decode()


def _crop(stamp: np.ndarray) -> np.ndarray:
    """Crop a stamp (C, H, W) to the smallest square around its centre that contains all its data."""
    there = (np.abs(stamp) < MAX_PIXEL_VALUE).any(0)
    centre = np.array(there.shape) // 2
    reach = int(np.abs(np.argwhere(there) - centre).max(initial=0)) if there.any() else int(centre.max())
    top, left = np.maximum(centre - reach, 0)
    return stamp[:, top : centre[0] + reach + 1, left : centre[1] + reach + 1]
