"""Open pages in the system's Chromium."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@contextmanager
def open_page(address: str, width: int = 1300, height: int = 900) -> Iterator["Page"]:
    """Open a page in a browser, and fail if it logs an error.

    Parameters
    ----------
    address : str
        URL of a server, or ``path.as_uri()`` of a file.
    width, height : int
        Size of the window in CSS pixels; a width of 390 is a phone.

    Yields
    ------
    Page
        The page, as a Playwright object.

    Raises
    ------
    AssertionError
        On exit, if the page logged errors or its scripts raised exceptions.
    """
    from playwright.sync_api import sync_playwright

    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(address)
            yield page
        finally:
            browser.close()
    assert not errors, errors


def cut_off(page: "Page") -> list[str]:
    """List the elements that extend past the right edge of the window, except those inside scrollable elements."""
    return page.evaluate(
        """() => [...document.body.querySelectorAll("*")].filter(element => {
            if (element.getBoundingClientRect().right <= window.innerWidth + 1) return false;
            for (let at = element; at; at = at.parentElement)
                if (["auto", "scroll", "hidden"].includes(getComputedStyle(at).overflowX)) return false;
            return true;
        }).map(element => element.tagName + "." + element.className)"""
    )
