"""Write the page of a night: alerts ranked by the probability of a class, with stamps, filters, sky map and links.

The page holds all alerts as columns of JSON, and the stamps of the most probable ones. `templates/night.js` draws 60
alerts at a time, so a page of ten thousand stays responsive.
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

MAX_STAMPS = 600  # alerts with stamps, 5 kB each
MAX_ALERTS = 20_000  # alerts on the page, 160 bytes each
MIN_PROBABILITY = 0.5  # alerts of lower probability are collapsed at first
WEBP_QUALITY = 75
UNIT = 10_000  # probabilities are integers in units of 1 / UNIT
FILTERS = {1: "g", 2: "r", 3: "i", 4: "z", 5: "y", 6: "u"}  # by fid; 1 to 3 are ZTF's
DECIMALS = {"jd": 5, "ra": 6, "dec": 6, "entropy": 3, **dict.fromkeys(tables.METADATA, 2)}


def choose(table: tables.Table, target: str = TARGET) -> np.ndarray:
    """Choose the alerts that have stamps on the page.

    Parameters
    ----------
    table : mapping of str to ndarray
        Predictions (N,) with ``q_<class>``.
    target : str
        Class whose probability ranks the alerts.

    Returns
    -------
    ndarray of int, shape (min(N, MAX_STAMPS),)
        Row numbers, most probable first.
    """
    return np.argsort(-table[f"q_{_first(table, target)}"], kind="stable")[:MAX_STAMPS]


def write(
    table: tables.Table,
    stamps: Mapping[str, np.ndarray],
    title: str,
    subtitle: str,
    target: str = TARGET,
    channels: Sequence[str] = ("science", "template", "difference"),
    view: str = "gallery",
) -> str:
    """Render the page of a night as HTML.

    Parameters
    ----------
    table : mapping of str to ndarray
        Predictions (N,): ``id``, ``predicted`` and ``q_<class>``; optionally ``candid``, ``label``, ``set``,
        ``trained``, ``entropy``, ``jd``, ``fid``, ``ra``, ``dec`` and the columns of `tables.METADATA`.
    stamps : mapping of str to ndarray
        Raw stamps (C, H, W) by candid, for some of the rows; the first three channels are shown.
    title, subtitle : str
        Headings of the page.
    target : str
        Class by whose probability alerts are sorted at first.
    channels : sequence of str
        Names of the channels.
    view : {"gallery", "table", "objects"}
        View that is open at first.

    Returns
    -------
    str
        The whole page, without external resources.
    """
    first = _first(table, target)
    classes = tables.classes_of(table)
    order = np.argsort(-table[f"q_{first}"], kind="stable")[:MAX_ALERTS]
    rows = tables.take_rows(table, order)
    pictures = [_encode(stamps[candid]) if candid in stamps else None for candid in _texts(rows.get("candid", order))]
    while pictures and pictures[-1] is None:
        pictures.pop()
    kept = [name for name in ("fid", *DECIMALS) if name in rows and np.isfinite(rows[name].astype(np.float64)).any()]
    data: dict[str, Any] = {
        "classes": classes,
        "target": first,
        "least": MIN_PROBABILITY,
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
            **{name: _numbers(rows[name], DECIMALS.get(name, 0)) for name in kept},
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
        least=MIN_PROBABILITY,
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
    """Summarise a table of alerts by object, as a table and a page.

    Parameters
    ----------
    source : Path
        Predictions, .csv or .parquet, one row per alert.
    out : Path
        Table to write, with the columns of `objects.summarize`; the page has the same name with .html.
    target : str, optional
        Class whose log-odds are averaged; by default `TARGET`, or the last class of a table without it.
    overwrite : bool
        Replace existing files.

    Returns
    -------
    tuple of Path
        Paths of the table and of the page.

    Raises
    ------
    InputError
        If there is no such table or class, or a file exists and `overwrite` is false.
    """
    table, written = foreign_table.read_alerts(source), out.with_suffix(".html")
    classes = tables.classes_of(table)
    if target is not None and target not in classes:
        raise InputError(f"--target-class {target}: not a class of {source}. Choose from {', '.join(classes)}.")
    for path in (out, written):
        if path.exists() and not overwrite:
            raise InputError(f"{path}: already exists. Give another --out, or --overwrite to replace it.")
    name = metrics.positive(classes, target or TARGET)
    found = objects.summarize(table, name)
    predictions.write(out, found)
    said = f"{len(table['id']):,} alerts of {len(found['id']):,} objects"
    files.write_text(written, write(table, {}, source.name, said, name, view="objects"))
    return out, written


def _first(table: tables.Table, target: str) -> str:
    """Return the target, or the first class of a table without it."""
    classes = tables.classes_of(table)
    return target if target in classes else classes[0]


def _texts(column: np.ndarray) -> list[str]:
    """Return a column as strings, "" for None."""
    return np.where(column == None, "", column).astype(str).tolist()  # noqa: E711, element by element


def _numbers(column: np.ndarray, digits: int) -> list[float | None]:
    """Return rounded numbers for JSON: None where they are not finite, int if all are whole."""
    values = np.round(column.astype(np.float64), digits)
    whole = bool((values[np.isfinite(values)] % 1 == 0).all())
    return [None if not np.isfinite(value) else int(value) if whole else value for value in values.tolist()]


def _encode(stamp: np.ndarray) -> str:
    """Encode the first three channels of a stamp in a row, cropped to their data, as WebP in base64."""
    tiles = np.nan_to_num(stretch(_crop(stamp[:3])))
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, GAP)), constant_values=1.0)
    file = io.BytesIO()
    grey = np.round(255 * np.concatenate(list(tiles), 1)[:, :-GAP]).astype(np.uint8)
    Image.fromarray(grey).save(file, "webp", quality=WEBP_QUALITY)
    return base64.b64encode(file.getvalue()).decode()


def _crop(stamp: np.ndarray) -> np.ndarray:
    """Crop a stamp (C, H, W) to the smallest square about its centre that contains all its data."""
    there = (np.abs(stamp) < MAX_PIXEL_VALUE).any(0)
    centre = np.array(there.shape) // 2
    reach = int(np.abs(np.argwhere(there) - centre).max(initial=0)) if there.any() else int(centre.max())
    top, left = np.maximum(centre - reach, 0)
    return stamp[:, top : centre[0] + reach + 1, left : centre[1] + reach + 1]
