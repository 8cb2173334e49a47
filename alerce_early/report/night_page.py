"""A page of what was classified: the most probable supernovae, each with stamps, numbers and links to the brokers."""

import base64
import io
import re
from collections.abc import Mapping

import numpy as np
from markupsafe import Markup
from PIL import Image

from alerce_early import files
from alerce_early.evaluation import tables
from alerce_early.report import page
from alerce_early.report.pictures import GAP, stretch

FIRST = "SN"  # a missed one is lost; of a network without it, the first class
SHOWN = 100  # rows
FILTERS = {1: "g", 2: "r", 3: "i", 4: "z", 5: "y", 6: "u"}  # by ZTF's fid, and so on
BROKERS = {
    "ALeRCE": "https://alerce.online/object/{}",
    "Fink": "https://ztf.fink-portal.org/{}",
    "Lasair": "https://lasair-ztf.lsst.ac.uk/objects/{}/",
}


def choose(table: tables.Table) -> np.ndarray:
    """Return the numbers of the rows to show, the most probable of `FIRST` first."""
    return np.argsort(-table[f"q_{_first(table)}"], kind="stable")[:SHOWN]


def write(table: tables.Table, stamps: Mapping[str, np.ndarray], title: str, subtitle: str) -> str:
    """Return the page as HTML; stamps: (C, H, W) by candid."""
    first = _first(table)
    classes = (first, *(name for name in tables.classes_of(table) if name != first))
    metadata = [name for name in ("magpsf", "snr", *tables.PLACE) if name in table]
    header = ["stamps", "object", *[f"q {name}" for name in classes], "set", *metadata]
    rows = [
        [
            _picture(stamps[str(table["candid"][row])], f"candid {table['candid'][row]}"),
            _link(str(table["id"][row])),
            *[f"{table[f'q_{name}'][row]:.3f}" for name in classes],
            str(table["set"][row]).replace(files.JOINED, " ") if "set" in table else "",
            *[_spell(name, table[name][row]) for name in metadata],
        ]
        for row in choose(table)
    ]
    predicted, counts = np.unique(table["predicted"].astype(str), return_counts=True)
    words = [
        f"The {len(rows):,} rows most probable to be {first}, of {len(table['candid']):,}. A click on a column's name "
        "sorts by it. Stamps: science, template, difference, each stretched by itself.",
        "q: calibrated probabilities, surer than they should be of objects that trained the network. set: the classes "
        "that hold the true one with the promised coverage; each has a threshold of its own, so the most probable may "
        "not be among them.",
    ]
    return page.render(
        title=title,
        subtitle=subtitle,
        headline=[(name, f"{count:,}") for name, count in zip(predicted.tolist(), counts.tolist(), strict=True)],
        sections=[page.Section(f"Most probable {first}", words=words, tables=[(header, rows)])],
    )


def _first(table: tables.Table) -> str:
    classes = tables.classes_of(table)
    return FIRST if FIRST in classes else classes[0]


def _picture(stamp: np.ndarray, name: str) -> Markup:
    """Return the first three channels of a stamp side by side, as an image element; what is no data is black."""
    tiles = np.pad(np.nan_to_num(stretch(stamp[:3])), ((0, 0), (0, 0), (0, GAP)), constant_values=1.0)
    file = io.BytesIO()
    grey = np.round(255 * np.concatenate(list(tiles), 1)[:, :-GAP]).astype(np.uint8)
    Image.fromarray(grey).save(file, "png", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    element = '<img class="stamps" alt="stamps" title="{}" src="data:image/png;base64,{}">'
    return Markup(element).format(name, data)


def _link(name: str) -> str:
    """Return the name of an object, with links where it is one of ZTF's."""
    if not re.fullmatch(r"ZTF\d{2}[a-z]{7}", name):
        return name
    links = [Markup('<a href="{}">{}</a>').format(url.format(name), broker) for broker, url in BROKERS.items()]
    return Markup("{}<br><small>{}</small>").format(name, Markup(" ").join(links))


def _spell(name: str, value: float) -> str:
    if not np.isfinite(value):
        return ""
    if name == "fid":
        return FILTERS.get(int(value), str(value))
    return f"{value:.{2 if name in ('magpsf', 'snr') else 5}f}"
