"""One self-contained HTML page a run: what was read, what was learnt, how well, and where it fails."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # header and rows


@dataclass
class Section:
    """A heading, sentences, tables (a header and rows) and pictures (caption, figure or PNG file)."""

    title: str
    words: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[tuple[str, Figure | Path]] = field(default_factory=list)
    preformatted: str = ""


def render(template: str, **content: Any) -> str:
    """Return a page as HTML from a file in `templates`; every text is escaped, pictures are inlined."""
    return ENVIRONMENT.get_template(template).render(**content)


def _inline(picture: Figure | Path) -> str:
    """Return a picture as a data URI."""
    if isinstance(picture, Path):
        data = picture.read_bytes()
    else:
        buffer = io.BytesIO()
        picture.savefig(buffer, format="png", dpi=110)
        data = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(data).decode()


ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,  # a template that names what is not there fails
)
ENVIRONMENT.filters["inline"] = _inline


def link(target: Path, words: str, here: Path) -> str:
    """Return words that lead from a page in the folder `here` to another page."""
    return Markup('<a href="{}">{}</a>').format(Path(os.path.relpath(target, here)).as_posix(), words)


def number(value: float, interval: Sequence[float] | None = None, digits: int = 3) -> str:
    """0.873 [0.84, 0.90]; the ends of a narrow interval have as many digits as the value."""
    if not interval:
        return f"{value:.{digits}f}"
    narrow = interval[1] - interval[0] < 2 * 10 ** (1 - digits)
    low, high = (f"{end:.{digits if narrow else digits - 1}f}" for end in interval)
    return f"{value:.{digits}f} [{low}, {high}]"


def by_part(parts: Mapping[str, Mapping[str, Any]], names: Mapping[str, str], digits: int = 3) -> Table:
    """Return a table of the numbers of `intervals.judge_rows` of each part; names: of those shown, in words."""
    rows = [
        [words, str(of["n"]), *(number(of["values"][name], of["intervals"][name], digits) for name in names)]
        for words, of in parts.items()
    ]
    return ("", "rows", *names.values()), rows


def plain(mapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(key), str(value)) for key, value in mapping.items()]
