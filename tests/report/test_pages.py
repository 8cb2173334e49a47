"""The pages of runs in a browser, at the width of a desktop and of a phone."""

import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest

from alerce_early.artifacts.run_folder import Run
from alerce_early.experiments import compare
from tests.helpers.browser import cut_off, needs_browser, open_page

PAGES = ("runs/one/report/index.html", "index.html", "comparison.html")


@pytest.fixture(scope="module")
def folder(finished_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two runs with long names, their index and their comparison."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("one", "two" + ",data.split=_validation_20" * 4):
        shutil.copytree(finished_run.path, folder / "runs" / name)
    compare.write_index(folder)
    rows = compare.rank(compare.group_runs(compare.find_runs([str(folder)])[0])[0])
    (folder / "comparison.html").write_text(compare.as_html(rows, ["left out: nothing"], folder))
    return folder


@needs_browser
def test_a_run_page_starts_with_the_result_and_links_to_all_sections(folder: Path) -> None:
    with open_page((folder / PAGES[0]).as_uri()) as page:
        contents = page.locator("nav.contents")
        assert (
            contents.evaluate("part => part.getBoundingClientRect().top") < 1350
            and page.evaluate("document.body.scrollHeight") < 9000
        )
        assert page.locator(".headline b").count() >= 4 and page.locator(".card").first.is_visible()
        links = contents.locator("a").evaluate_all("links => links.map(link => link.hash.slice(1))")
        titles = page.locator("h2").evaluate_all("heads => heads.map(head => head.id)")
        assert {"data", "training", "calibration", "limitations", "configuration"} <= set(links)
        assert links == titles[2:] and len(set(titles)) == len(titles)  # after the result and the mistakes
        saved = page.locator("a[download]").evaluate_all("links => links.map(link => link.href)")
        assert saved and all(link.startswith("data:image/svg+xml;") for link in saved)
        assert page.evaluate("Promise.all([...document.images].map(image => { image.loading = 'eager';"
                             " return image.decode().then(() => image.naturalWidth); }))").count(0) == 0  # fmt: skip
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
        page.get_by_text("All runs").click()
        assert page.title() == "Runs"


@needs_browser
def test_a_click_on_a_column_name_sorts_the_table(folder: Path) -> None:
    with open_page((folder / PAGES[0]).as_uri()) as page:
        table = page.locator("table").first
        table.get_by_text("rows", exact=True).click()
        counts = [int(text) for text in table.locator("tbody td:nth-child(2)").all_inner_texts()]
        assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]
        table.get_by_text("rows", exact=True).click()
        assert [int(text) for text in table.locator("tbody td:nth-child(2)").all_inner_texts()] == counts[::-1]


@needs_browser
@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", (1300, 390))
def test_nothing_is_cut_off(folder: Path, name: str, width: int) -> None:
    with open_page((folder / name).as_uri(), width) as page:
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        assert cut_off(page) == []
        wide = page.locator(".scroll").evaluate_all(
            "parts => parts.map(part => part.scrollWidth > part.clientWidth + 1)"
        )
        page.wait_for_function(
            "wide => [...document.querySelectorAll('.scroll')].every((part, i) =>"
            " getComputedStyle(part, '::before').content.includes('scroll sideways') === wide[i])",
            arg=wide,
        )
        assert any(wide) or width > 390
        targets = page.locator("a[href]:not([download])").evaluate_all("links => links.map(link => link.href)")
        assert all(Path(link.partition("#")[0].removeprefix("file://")).exists() for link in map(unquote, targets))


@needs_browser
def test_long_names_do_not_displace_the_numbers(folder: Path) -> None:
    for name in PAGES[1:]:
        with open_page((folder / name).as_uri()) as page:
            first = page.locator("tbody tr").last.locator("td").first
            assert first.evaluate("cell => cell.offsetWidth") < 400
