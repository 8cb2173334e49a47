"""The page of a night in a browser, with mouse and keyboard, at the width of a desktop and of a phone."""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from alerce_early.artifacts import predictions
from alerce_early.evaluation import objects
from alerce_early.report import night_page
from alerce_early.report.__main__ import main
from tests.helpers.browser import cut_off, needs_browser, open_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOSTILE = "</script><img src=x onerror=alert(1)>"
IDS = ["ZTF26aaaaaaa", "313853517453852677", "xZTF26aaaaaaa", HOSTILE, "ZTF26aaaaaab", "ZTF26aaaaaaa"]
SN = [0.9, 0.8, 0.7, 0.6, 0.3, 0.2]
CARDS = "[...document.querySelectorAll('#shown .alert')].map(card => card.dataset.id)"
CELLS = "[...document.querySelectorAll('#shown tbody tr')].map(row => row.cells[0].textContent)"


def night(n: int = len(IDS)) -> dict[str, np.ndarray]:
    """Return six alerts of five objects, the fifth a VS, and further alerts of low probability."""
    more = n - len(IDS)
    score = np.array([*SN, *np.linspace(0.1, 0, more)], np.float32)
    return {
        "candid": np.array([str(10**18 + i) for i in range(n)], object),
        "id": np.array([*IDS, *(f"row{i}" for i in range(more))], object),
        "label": np.array(["SN", "", HOSTILE, "VS", "VS", "SN", *[""] * more], object),
        "trained": np.arange(n) == 0,
        "predicted": np.where(score > 0.5, "SN", "VS"),
        **{f"{kind}_SN": score for kind in "pq"},
        **{f"{kind}_VS": 1 - score for kind in "pq"},
        "set": np.where(score > 0.75, "SN", "SN|VS"),
        "jd": 2460235.5 + np.arange(n),
        "fid": np.array([1.0, 2, 3, 9, np.nan, 1, *[1] * more]),
        "ra": np.array([10.0, 20, 30, np.nan, 50, 10, *[60] * more]),
        "dec": np.array([-1.0, 2, 3, 4, 5, -1, *[6] * more]),
        "magpsf": np.array([18.0, 17, np.nan, 19, 20, 16, *[21] * more]),
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = night(200)
    stamps = {str(candid): np.random.default_rng(0).normal(size=(3, 21, 21)) for candid in table["candid"][:6]}
    path = tmp_path_factory.mktemp("night") / "night.html"
    path.write_text(night_page.write(table, stamps, "a night", ""))
    return path


@pytest.fixture(scope="module")
def opened(file: Path) -> Iterator["Page"]:
    with open_page(file.as_uri()) as page:
        yield page


@pytest.fixture
def page(opened: "Page") -> "Page":
    opened.reload()
    return opened


@needs_browser
def test_less_probable_alerts_are_collapsed_and_shown_in_pages(page: "Page") -> None:
    assert page.evaluate(CARDS) == IDS[:4] and page.locator("#shown .stamp svg path").count() == 4
    assert page.locator("#folded > summary").inner_text() == "196 alerts below 0.5"
    assert page.locator("#folded .alert").count() == 0  # before it is opened
    page.locator("#folded > summary").press("Enter")
    page.locator("#folded .alert").first.wait_for()
    assert page.locator("#folded .alert").count() == 60
    page.locator("#folded button.more").press("Enter")
    assert page.locator("#folded .alert").count() == 120
    page.fill("#least", "0.65")
    assert page.evaluate(CARDS) == IDS[:3] and "197" in page.locator("#folded > summary").inner_text()


@needs_browser
@pytest.mark.parametrize(
    ("control", "value", "wanted"),
    (
        ("#predicted", "VS", [4, 5]),
        ("#set", "1", [0, 1]),
        ("#set", "=VS", [2, 3, 4, 5]),
        ("#label", "x", [2, 3, 5]),
        ("#label", "=VS", [3, 4]),
        ("#from", "17.5", [0, 3, 4]),
        ("#to", "17.5", [1, 5]),
        ("#named", "ztf26", [0, 2, 4, 5]),
        ("#named", str(10**18 + 1), [1]),
        ("#of", "1", [5, 4, 3, 2, 1, 0]),
        ("#sort", "magnitude", [4, 3, 0, 1, 5, 2]),
        ("#sort", "date (UTC)", [5, 4, 3, 2, 1, 0]),
    ),
)
def test_alerts_are_filtered_and_sorted(page: "Page", control: str, value: str, wanted: list[int]) -> None:
    page.fill("#least", "0.1")
    page.evaluate("night.rows.id.length = 6; every.length = 6")  # without the further alerts
    field = page.locator(control)
    field.select_option(value) if field.evaluate("field => field.tagName") == "SELECT" else field.fill(value)
    assert page.evaluate(CARDS) == [IDS[i] for i in wanted]


@needs_browser
def test_tables_are_sorted_by_keyboard_and_objects_have_one_row(page: "Page") -> None:
    page.fill("#least", "0.15")
    page.check("[value=table]")
    page.locator("#shown th button", has_text="magnitude").focus()
    for order in (["ZTF26aaaaaab", HOSTILE, IDS[0], IDS[1], IDS[5], IDS[2]], [IDS[5], IDS[1], IDS[0], HOSTILE, IDS[4]]):
        page.keyboard.press("Enter")  # the focus stays on the name
        assert page.evaluate(CELLS)[: len(order)] == order
    assert page.locator("#shown th[aria-sort=ascending]").inner_text() == "magnitude"
    page.check("[value=objects]")
    rows = [row.split("\t") for row in page.locator("#shown tbody").inner_text().split("\n")]
    first = next(row for row in rows if row[0] == IDS[0])
    assert len(rows) == 5 and first[1:3] == ["2", f"{(np.log(9) + np.log(0.25)) / 2:.2f}"]
    assert [cell[-2:] for cell in first[3::2][:2]] == ["SN", "VS"] and first[4] == "2023-10-18 00:00"


@needs_browser
def test_names_are_escaped_and_linked_to_the_pages_of_their_survey(page: "Page") -> None:
    assert page.locator("img:not([alt])").count() == 0 and HOSTILE in page.locator("#shown").inner_text()
    links = "cards => cards.map(card => [...card.querySelectorAll('a')].map(a => a.href))"
    ztf, rubin, odd, lost = page.locator("#shown .alert").evaluate_all(links)
    assert [href.split("/")[2] for href in ztf[:3]] == ["alerce.online", "ztf.fink-portal.org", "lasair-ztf.lsst.ac.uk"]
    assert [href.split("/")[2] for href in rubin[:3]] == [
        *("lsst.alerce.online", "lsst.fink-portal.org", "lasair.lsst.ac.uk"),
    ]
    assert all(IDS[0] in href for href in ztf[:3]) and all(IDS[1] in href for href in rubin[:3])
    assert "ra=10&decl=-1&" in ztf[3] and len(ztf) == len(rubin) == 6 and len(odd) == 3 and lost == []


@needs_browser
@pytest.mark.parametrize("width", (1300, 390))
def test_nothing_is_cut_off(page: "Page", width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.reload()
    assert page.evaluate("document.getElementById('tools').open") is (width > 390)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    for view in ("gallery", "table", "objects"):
        page.check(f"[value={view}]")
        assert not cut_off(page), view
    pixels = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
    assert page.locator("#sky").evaluate(pixels)


def data_of(text: str) -> dict:
    """Return the JSON data of a page."""
    return json.loads(re.findall('<script type="application/json" id="data">(.*?)</script>', text, re.S)[0])


def test_a_stamp_is_cropped_to_its_data_around_its_centre() -> None:
    frame = np.full((3, 63, 63), np.nan, np.float32)
    frame[:, 16:46, 17:45] = 1.0  # the 30 x 28 pixels of a small cutout
    frame[:, 31, 31] = 9.0
    blank = np.full((3, 63, 63), np.nan, np.float32)
    table = night()
    data = data_of(night_page.write(table, {str(10**18): frame, str(10**18 + 1): blank}, "a night", ""))
    small, whole = (Image.open(io.BytesIO(base64.b64decode(picture))) for picture in data["stamps"])
    assert small.size == (3 * 31 + 2 * night_page.GAP, 31) and whole.size == (3 * 63 + 2 * night_page.GAP, 63)
    pixels = np.asarray(small.convert("L"))
    assert np.unravel_index(pixels[:, :31].argmax(), (31, 31)) == (15, 15)


def test_a_long_night_is_limited_to_its_most_probable_alerts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(night_page, "MAX_ALERTS", 3)
    text = night_page.write(night(), {}, "a night", "")
    assert data_of(text)["rows"]["id"] == IDS[:3] and data_of(text)["stamps"] == []
    assert "The page has the 3 most probable of 6 alerts" in " ".join(text.split())


def test_object_summaries_agree_with_a_loop() -> None:
    rng = np.random.default_rng(0)
    n, classes = 300, np.array(["SN", "VS"])
    score = np.append(rng.random(n - 2), [0, 1]).astype(np.float32)
    table = {
        "id": rng.integers(40, size=n).astype(str),
        "p_SN": score,
        "p_VS": 1 - score,
        "jd": rng.permutation(n) + 0.5,
    }
    table |= {"predicted": classes[(score < 0.5).astype(int)], "q_SN": score, "q_VS": 1 - score}
    found = objects.summarize(table)
    assert sorted(found["id"].tolist()) == sorted(set(table["id"].tolist())) and found["alerts"].sum() == n
    assert (np.diff(found["log_odds_SN"]) <= 0).all()
    for row, name in enumerate(found["id"]):
        mine = np.flatnonzero(table["id"] == name)
        first, last = mine[np.argsort(table["jd"][mine])][[0, -1]]
        q = np.clip(score[mine].astype(float), objects.SURE, 1 - objects.SURE)
        assert found["alerts"][row] == len(mine)
        assert found["log_odds_SN"][row] == pytest.approx(np.log(q / (1 - q)).mean())
        for end, at in (("first", first), ("last", last)):
            assert found[f"{end}_jd"][row] == table["jd"][at] and found[f"{end}_call"][row] == table["predicted"][at]


@pytest.mark.parametrize("end", predictions.EXTENSIONS)
def test_a_table_is_reported_by_object(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {name: column for name, column in night().items() if name not in ("predicted", "label")}
    predictions.write(source := tmp_path / "night.parquet", table | {"id": np.array(["a", "b", "a", "b", "c", "007"])})
    monkeypatch.setattr("sys.argv", ["report", str(source), "--by", "object", "--out", str(tmp_path / f"objects{end}")])
    main()
    assert capsys.readouterr().out.split() == [str(tmp_path / f"objects{end}"), str(tmp_path / "objects.html")]
    found = predictions.read(tmp_path / f"objects{end}")
    assert found["id"].tolist() == ["a", "b", "c", "007"] and found["alerts"].tolist() == [2, 2, 1, 1]
    assert found["first_call"].tolist() == ["SN", "SN", "VS", "VS"] == found["last_call"].tolist()
    assert found["last_jd"].tolist() == [2460237.5, 2460238.5, 2460239.5, 2460240.5]
    data = data_of((tmp_path / "objects.html").read_text())
    assert data["view"] == "objects" and data["objects"]["id"] == found["id"].tolist()
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "options", "named"),
    (
        ({"name": np.array(["a"]), "p_SN": np.ones(1)}, (), "id"),
        ({"id": np.array(["a"])}, (), "p_<class>"),
        ({"id": np.array(["a"]), "p_SN": np.array([2.0])}, (), "p_SN"),
        ({"id": np.array(["a"]), "p_SN": np.ones(1)}, ("--target-class", "TDE"), "--target-class TDE"),
        ({"id": np.array(["a"]), "p_SN": np.ones(1)}, ("--labels", "l.csv"), "--labels"),
    ),
)
def test_invalid_input_is_rejected_with_the_column_or_option(
    table: dict[str, np.ndarray],
    options: tuple[str, ...],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    predictions.write(source := tmp_path / "night.parquet", table)
    monkeypatch.setattr("sys.argv", ["report", str(source), "--by", "object", *options])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert named in capsys.readouterr().err and list(tmp_path.iterdir()) == [source]
