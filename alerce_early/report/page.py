"""Render self-contained HTML pages from the files in `templates`."""

import base64
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from alerce_early import files
from alerce_early.errors import InputError
from alerce_early.report.palette import looks

INDEX = Markup('<meta name="generator" content="alerce_early index">')  # marks the index of all runs


def render(template: str, **content: Any) -> str:
    """Render a template as HTML; text is escaped and pictures are inlined.

    Parameters
    ----------
    template : str
        File name in the folder `templates`.
    **content
        Values of the template's variables. A missing one raises `jinja2.UndefinedError`.
    """
    return ENVIRONMENT.get_template(template).render(**content)


def link(target: Path, words: str, here: Path) -> str:
    """Return a relative link to `target` from a page in the folder `here`."""
    return Markup('<a href="{}">{}</a>').format(Path(os.path.relpath(target, here)).as_posix(), words)


def thumbnail(pictures: Iterable[Path], here: Path) -> str:
    """Return a thumbnail of the first picture that exists, for a page in the folder `here`; "" if none does."""
    found = next((path for path in pictures if path.exists()), None)
    if found is None:
        return ""
    source = quote(Path(os.path.relpath(found, here)).as_posix())
    return Markup('<img class="thumb" loading="lazy" alt="result" src="{}"/>').format(source)


def link_up(path: Path, index: Path) -> None:
    """Add a link to the index of all runs to the page of a run, if that page exists and is writable."""
    with suppress(OSError, InputError):
        if (place := '<p class="up">') + "</p>" in (text := path.read_text()):
            files.write_text(path, text.replace(place, place + link(index, "All runs", path.parent), 1))


def number(value: float, interval: Sequence[float] | None = None, digits: int = 3) -> str:
    """Format a number with its interval, such as 0.873 [0.84, 0.90].

    Parameters
    ----------
    value : float
        The number.
    interval : sequence of float, optional
        Low and high. They have one digit less than the value, unless the interval is narrow.
    digits : int
        Decimals of the value.
    """
    if not interval:
        return f"{value:.{digits}f}"
    narrow = interval[1] - interval[0] < 2 * 10 ** (1 - digits)
    low, high = (f"{end:.{digits if narrow else digits - 1}f}" for end in interval)
    return f"{value:.{digits}f} [{low}, {high}]"


def numbers(judged: Mapping[str, Any], names: Iterable[str], digits: int = 3) -> list[str]:
    """Format metrics with their intervals.

    Parameters
    ----------
    judged : mapping
        Result of `Kind.judge`.
    names : iterable of str
        Metrics to format; an undefined one becomes "".
    digits : int
        Decimals of the values.
    """
    values, intervals = judged["values"], judged["intervals"]
    return [number(values[name], intervals.get(name), digits) if name in values else "" for name in names]


def _inline(picture: Path) -> str:
    """Encode a PNG or SVG file as a data URI."""
    kind = "svg+xml" if picture.suffix == ".svg" else "png"
    return f"data:image/{kind};base64," + base64.b64encode(picture.read_bytes()).decode()


def _headings(html: str) -> list[tuple[str, str]]:
    """List the anchor and the text of each section heading."""
    return [(anchor, Markup(words)) for anchor, words in re.findall('<h2 id="([^"]*)">(.*?)</h2>', html)]


ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,  # a template that uses a missing value fails
)
ENVIRONMENT.filters |= {
    "inline": _inline,
    "looks": looks,
    "headings": _headings,
    "number": number,
    "numbers": numbers,
    "thousands": "{:,}".format,
    "percent": "{:.0%}".format,
}
