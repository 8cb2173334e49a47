"""Page of the best supernova candidates of a night, or of another class, with stamps and links to brokers."""

import base64
import io
import re
from collections.abc import Mapping

import numpy as np
from PIL import Image

from alerce_early import files
from alerce_early.evaluation import tables
from alerce_early.evaluation.metrics import TARGET
from alerce_early.report import page
from alerce_early.report.pictures import GAP, stretch

SHOWN = 100  # rows
FILTERS = {1: "g", 2: "r", 3: "i", 4: "z", 5: "y", 6: "u"}  # by ZTF's fid, and so on
BROKERS = {
    "ALeRCE": "https://alerce.online/object/{}",
    "Fink": "https://ztf.fink-portal.org/{}",
    "Lasair": "https://lasair-ztf.lsst.ac.uk/objects/{}/",
}
ZTF_NAME = re.compile(r"ZTF\d{2}[a-z]{7}")  # of an object that these brokers know


def choose(table: tables.Table, target: str = TARGET) -> np.ndarray:
    """Return the numbers of the rows to show, the most probable of the target class first."""
    return np.argsort(-table[f"q_{_first(table, target)}"], kind="stable")[:SHOWN]


def write(
    table: tables.Table, stamps: Mapping[str, np.ndarray], title: str, subtitle: str, target: str = TARGET
) -> str:
    """Return the page as HTML; stamps: (C, H, W) by candid."""
    first = _first(table, target)
    classes = (first, *(name for name in tables.classes_of(table) if name != first))
    metadata = [name for name in ("magpsf", "snr", *tables.PLACE) if name in table]
    rows = []
    for row in choose(table, target):
        candid, object_id = str(table["candid"][row]), str(table["id"][row])
        cells = [
            *[f"{table[f'q_{name}'][row]:.3f}" for name in classes],
            str(table["set"][row]).replace(files.JOINED, " ") if "set" in table else "",
            *[_spell(name, table[name][row]) for name in metadata],
        ]
        links = {broker: url.format(object_id) for broker, url in BROKERS.items() if ZTF_NAME.fullmatch(object_id)}
        rows.append((candid, _encode(stamps[candid]), object_id, links, cells))
    predicted, counts = np.unique(table["predicted"].astype(str), return_counts=True)
    return page.render(
        "night.html",
        title=title,
        subtitle=subtitle,
        headline=[(name, f"{count:,}") for name, count in zip(predicted.tolist(), counts.tolist(), strict=True)],
        first=first,
        n=len(table["candid"]),
        columns=[*[f"q {name}" for name in classes], "set", *metadata],
        rows=rows,
    )


def _first(table: tables.Table, target: str) -> str:
    """Return the class to show, of a network without the target its first."""
    classes = tables.classes_of(table)
    return target if target in classes else classes[0]


def _encode(stamp: np.ndarray) -> str:
    """Return the first three channels of a stamp side by side as base64 of a PNG; pixels without data are black."""
    tiles = np.pad(np.nan_to_num(stretch(stamp[:3])), ((0, 0), (0, 0), (0, GAP)), constant_values=1.0)
    file = io.BytesIO()
    grey = np.round(255 * np.concatenate(list(tiles), 1)[:, :-GAP]).astype(np.uint8)
    Image.fromarray(grey).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _spell(name: str, value: float) -> str:
    if not np.isfinite(value):
        return ""
    if name == "fid":
        return FILTERS.get(int(value), str(value))
    return f"{value:.{2 if name in ('magpsf', 'snr') else 5}f}"
