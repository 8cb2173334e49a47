"""The label page: a server process, a browser, and hostile requests."""

import asyncio
import csv
import http.client
import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from alerce_early.simulation import packets
from tests.helpers.browser import cut_off, needs_browser, open_page
from tests.helpers.command import Command
from tests.helpers.networks import wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest.importorskip("starlette", reason="no Starlette: extra label")
pytestmark = pytest.mark.slow
NAME = "<img src=x onerror=alert(1)>"  # of an object, as an attacker could choose it


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("night")
    for i, (packet, _) in enumerate(packets.alerts(40, seed=5)):
        (folder / f"{i:02}.avro").write_bytes(packets.encode(packet | ({"objectId": NAME} if i == 7 else {})))
    return folder


@contextmanager
def serving(night: Path, out: Path, *options: str) -> Iterator[tuple[Command, str]]:
    """Run a server and yield it with the address that it prints."""
    asked = (night, "--model", "ztf_simulated", "--out", out, "--who", "ana", "--no-browser", *options)
    with Command("alerce_early.label", *asked) as process:
        found = (line.split()[-1] for line in process.lines() if "token=" in line)
        address = next(found, "")
        assert address, process.stderr
        yield process, address


def rows_of(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as text:
        return list(csv.DictReader(text))


def row_of(page: "Page") -> str:
    page.locator("body[data-row]").wait_for(state="attached")
    return page.locator("body").get_attribute("data-row") or ""


def press(page: "Page", key: str) -> None:
    """Press a key that shows another alert, and wait until it is shown."""
    before = row_of(page)
    page.keyboard.press(key)
    page.locator(f'body:not([data-row="{before}"])').wait_for(state="attached")


@needs_browser
def test_labels_by_keyboard_survive_undo_and_a_killed_server(night: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.csv"
    with serving(night, out) as (process, address):
        with open_page(address) as page:
            first = row_of(page)
            for number in range(20):
                press(page, "12345"[number % 5])
            press(page, "u")
            press(page, "u")
            wait_for(lambda: len(rows_of(out)) == 18)
            press(page, "ArrowLeft")  # look at an earlier alert, and return
            press(page, "ArrowRight")
        process.kill()
    before = rows_of(out)
    assert [row["label"] for row in before] == (["AGN", "SN", "VS", "asteroid", "bogus"] * 4)[:18]
    with serving(night, out) as (process, address):
        with open_page(address, width=390) as page:
            assert row_of(page) != first and not cut_off(page)
            for _ in range(10):
                press(page, "2")
            page.get_by_role("button", name="skip").click()
            wait_for(lambda: len(rows_of(out)) == 29)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0 and not process.stderr.strip()
    rows = rows_of(out)
    labels = [row for row in rows if row["label"] != "skip"]
    assert len(labels) == 28 and rows[:18] == before and len({row["candid"] for row in rows}) == 29
    assert {row["who"] for row in rows} == {"ana"} and {row["queue"] for row in rows} == {"uncertain", "random"}
    assert all(sum(float(row[f"p_{name}"]) for name in ("AGN", "SN", "VS", "asteroid", "bogus")) > 0.99 for row in rows)
    assert f"data.path={night} data.labels={out}" in process.stdout and "SN 14" in process.stdout


@needs_browser
def test_the_page_fits_a_desktop_and_a_phone(night: Path, tmp_path: Path) -> None:
    with serving(night, tmp_path / "labels.csv", "--queue", "probable:SN", "--random", "0") as (_, address):
        for width in (1300, 390):
            with open_page(address, width=width) as page:
                row_of(page)
                assert not cut_off(page) and "token" not in page.url
                unnamed = page.evaluate(
                    """() => [...document.querySelectorAll("button, a, select, canvas, output")].filter(element =>
                        !(element.textContent.trim() || element.ariaLabel || element.labels?.length)).length"""
                )
                assert unnamed == 0
        with open_page(address) as page:
            for stretch in ("linear", "asinh", "zscale"):  # the image is not blank
                page.select_option("#stretch", stretch)
                assert len(set(page.locator("canvas").first.evaluate(PIXELS))) > 10
            for _ in range(40):
                if page.locator("h1").text_content() == NAME:
                    break
                press(page, "0")
            assert page.locator("h1").text_content() == NAME and not page.locator("img").count()
            page.locator("#answers button").first.focus()
            before = row_of(page)
            page.keyboard.press("Enter")  # by keyboard, without the number keys
            page.locator(f'body:not([data-row="{before}"])').wait_for(state="attached")
    assert rows_of(tmp_path / "labels.csv")[-1]["label"] == "AGN"
    assert {row["queue"] for row in rows_of(tmp_path / "labels.csv")} == {"probable SN"}


PIXELS = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
BODY = {"row": 3, "label": "SN", "strategy": "uncertain", "target": 0}


class Client:
    """Client that sends the token and the usual headers, which arguments override."""

    def __init__(self, address: str):
        parts = urlsplit(address)
        self.host, self.token = parts.netloc, parse_qs(parts.query)["token"][0]

    def __call__(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        usual = {"Authorization": f"token {self.token}", "Content-Type": "application/json", "Host": self.host}
        given = usual | {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.request(method, path, body, {name: value for name, value in given.items() if value})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (ConnectionError, http.client.BadStatusLine):
            return 0, b""
        finally:
            connection.close()


def test_the_address_on_a_command_line_opens_the_page_once() -> None:
    from alerce_early.labelling.server import Keys

    keys = Keys()
    once = keys.once
    assert keys.fit(once) and not keys.fit(once) and not keys.fit("")
    assert keys.fit(keys.token) and keys.fit(keys.token) and not keys.fit("é")


@pytest.mark.parametrize(
    ("listens", "answered", "refused"),
    [
        ("127.0.0.1", ("localhost:80", "127.0.0.1", "[::1]:9", "LOCALHOST."), ("10.0.0.5", "evil.example", "", "a:b")),
        ("10.0.0.5", ("10.0.0.5:80", "localhost"), ("10.0.0.6", "evil.example")),
        ("0.0.0.0", ("10.0.0.5:80", "localhost", socket.gethostname()), ("evil.example", "10.0.0.5.evil.example")),
    ],
)
def test_requests_must_name_the_machine_that_listens(
    listens: str, answered: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    from alerce_early.labelling.server import Keys, make_app

    keys = Keys()
    app = make_app(None, keys, listens)  # type: ignore[arg-type]  # GET / does not use it

    def status(host: str) -> int:
        sent = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {"type": "http", "method": "GET", "path": "/", "query_string": f"token={keys.token}".encode()}
        ends = {"scheme": "http", "server": ("127.0.0.1", 80), "headers": [(b"host", host.encode())]}
        asyncio.run(app({**scope, **ends}, receive, send))
        return sent[0]["status"]

    assert {host: status(host) for host in answered} == dict.fromkeys(answered, 200)
    assert {host: status(host) for host in refused} == dict.fromkeys(refused, 400)


def test_hostile_requests_are_rejected_and_change_nothing(night: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.csv"
    good = json.dumps(BODY).encode()
    with serving(night, out) as (process, address):
        ask = Client(address)
        assert ask("POST", "/labels", json.dumps(BODY | {"row": 1}).encode())[0] == 200
        before = out.read_bytes()
        evil = "evil.example"
        tries = {
            "no token": (403, ask("POST", "/labels", good, Authorization="")),
            "a wrong token": (403, ask("POST", "/labels", good, Authorization=f"token {ask.token[:-1]}")),
            "a token in the address of another page": (403, ask("POST", f"/undo?token={ask.token}", Authorization="")),
            "another host": (400, ask("GET", f"/?token={ask.token}", Host=evil)),
            "another host's port": (400, ask("GET", "/session", Host="127.0.0.1.evil.example:80")),
            "another site": (403, ask("POST", "/labels", good, Origin=f"http://{evil}")),
            "another site's fetch": (403, ask("POST", "/undo", b"{}", Sec_Fetch_Site="cross-site")),
            "a form": (415, ask("POST", "/labels", good, Content_Type="text/plain")),
            "a path out of the folder": (404, ask("GET", "/stamps/../../../../etc/passwd")),
            "the same, encoded": (404, ask("GET", "/stamps/%2e%2e%2f%2e%2e%2fetc%2fpasswd")),
            "a huge body": (400, ask("POST", "/labels", good[:-1] + b" " * 10_000_000 + b"}")),
            "no JSON": (400, ask("POST", "/labels", b"[" * 4000)),
            "an unknown label": (400, ask("POST", "/labels", json.dumps(BODY | {"label": "=1+1"}).encode())),
            "a row beyond": (400, ask("POST", "/labels", json.dumps(BODY | {"row": 10**9}).encode())),
            "a row before": (400, ask("POST", "/labels", json.dumps(BODY | {"row": -1}).encode())),
            "a boolean for a number": (400, ask("POST", "/labels", json.dumps(BODY | {"row": True}).encode())),
            "an unknown field": (400, ask("POST", "/labels", json.dumps(BODY | {"who": "ben"}).encode())),
            "GET of an endpoint for changes": (405, ask("GET", "/undo")),
        }
        huge, _ = tries.pop("a huge body")[1]
        assert huge in (400, 0)  # the server may close the connection while the body is still being sent
        wrong = {name: got for name, (wanted, got) in tries.items() if got[0] != wanted}
        assert not wrong and not any(b"AGN" in got or b"root" in got for _, (_, got) in tries.items())
        assert out.read_bytes() == before and [one for one in tmp_path.iterdir() if one.name[0] != "."] == [out]
        with ThreadPoolExecutor(8) as pool:  # concurrent labels of one alert
            bodies = [json.dumps(BODY | {"label": name}).encode() for name in ("SN", "VS", "AGN", "bogus")] * 4
            assert {status for status, _ in pool.map(lambda body: ask("POST", "/labels", body), bodies)} == {200}
        assert len(rows_of(out)) == 2
        assert ask("GET", "/session")[0] == 200  # the server still responds
        assert "token" not in process.stderr
