"""The label page on this machine: who has the token may look and label, and nobody else learns anything.

A page of another site may make a browser send requests here, so every request needs the token, as a cookie that no
other site's request carries, and a `Host` that is this machine: a name that an attacker points here is refused.
"""

import ipaddress
import json
import secrets
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from alerce_early.errors import InputError, one_line
from alerce_early.labelling.session import Session

LOOPBACK = "127.0.0.1"
LONGEST_BODY = 4096  # bytes; a label has 100
LABEL = {"row": int, "label": str, "strategy": str, "target": int}  # the body of one
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = Path(__file__).with_name("templates") / "label.html"


class Keys:
    """Secrets that open the page: `token` at any time, `once` only for the first request that uses it."""

    def __init__(self) -> None:
        self.token, self.once = secrets.token_urlsafe(), secrets.token_urlsafe()

    def fit(self, given: str) -> bool:
        """Check a token, and replace `once` if it was used."""
        if secrets.compare_digest(given.encode(), self.once.encode()):
            self.once = secrets.token_urlsafe()
            return True
        return secrets.compare_digest(given.encode(), self.token.encode())


class Guard:
    """Middleware that requires this host and the token, and for changes the page's own origin.

    Parameters
    ----------
    app : callable
        The application behind it, as of ASGI.
    keys : Keys
        Expected as ``token`` in the page's address, as the cookie, or as ``token ...`` in a header Authorization.
    host : str
        The address that the server listens at. Requests may use it or a loopback name; with a wildcard such as
        0.0.0.0, also the machine's name and any numeric address.
    """

    def __init__(self, app: ASGIApp, keys: Keys, host: str):
        self.app, self.keys, self.host = app, keys, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if refusal := self._refuse(Request(scope), Headers(scope=scope)):
            status, reason = refusal
            await PlainTextResponse(f"{reason}\n", status, headers=HEADERS)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refuse(self, request: Request, headers: Headers) -> tuple[int, str] | None:
        if not self._is_here(headers.get("host", "")):
            return 400, "Host: not this machine. Open the address that label printed."
        given = [
            request.cookies.get(cookie_of(request), ""),
            headers.get("authorization", "").removeprefix("token "),
            request.query_params.get("token", "") if request.url.path == "/" else "",
        ]
        if not any(self.keys.fit(one) for one in given):
            return 403, "no valid token. Open the whole address that label printed, with ?token=..."
        if request.method not in ("GET", "HEAD"):
            own = f"http://{headers['host']}"
            if headers.get("origin", own) != own or headers.get("sec-fetch-site", "same-origin") != "same-origin":
                return 403, "Origin: another site. Open the address that label printed."
            if headers.get("content-type", "").partition(";")[0] != "application/json":
                return 415, "Content-Type: not JSON. Send application/json."
        return None

    def _is_here(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, _ = (parts.hostname or "").rstrip("."), parts.port  # the port must be a number
        except ValueError:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            everywhere = _is_wildcard(self.host) and name in (socket.gethostname().lower(), socket.getfqdn().lower())
            return name in ("localhost", self.host.lower()) or everywhere
        return address.is_loopback or str(address) == self.host or _is_wildcard(self.host)


def _is_wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::", "")


def cookie_of(request: Request) -> str:
    """Return the cookie's name: browsers share cookies between the ports of a host."""
    return f"alerce-label-{request.url.port or 80}"


def make_app(session: Session, keys: Keys, host: str = LOOPBACK) -> ASGIApp:
    """Build the application with the page and its endpoints."""
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(PAGE.read_text())

    async def page(request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        headers = HEADERS | {"Content-Security-Policy": POLICY.format(nonce)}
        response = HTMLResponse(template.render(nonce=nonce), headers=headers)
        response.set_cookie(cookie_of(request), keys.token, httponly=True, samesite="strict")
        return response

    def answer(work: Callable[[Request, Any], Any]) -> Callable[[Request], Awaitable[Response]]:
        """Make an endpoint from a function of the request and its body that returns plain values or bytes."""

        async def respond(request: Request) -> Response:
            body = await _read_json(request) if request.method == "POST" else None
            try:
                found = await run_in_threadpool(work, request, body)
            except InputError as error:
                return JSONResponse({"error": str(error)}, 400, HEADERS)
            if isinstance(found, bytes):
                return Response(found, headers=HEADERS, media_type="application/octet-stream")
            return JSONResponse(found, headers=HEADERS)

        return respond

    def label(request: Request, body: Any) -> Any:
        if not isinstance(body, dict) or {name: type(value) for name, value in body.items()} != LABEL:
            raise InputError(f"body: not an object of {', '.join(LABEL)}. Send one.")
        return session.label(**body)

    def find_queue(request: Request, body: Any) -> Any:
        strategy, target = (request.query_params.get(name, "0") for name in ("strategy", "target"))
        return session.upcoming(strategy, int(target) if target.isdecimal() and target.isascii() else -1)

    routes = [
        Route("/", page),
        Route("/session", answer(lambda *_: session.describe())),
        Route("/queue", answer(find_queue)),
        Route("/alerts/{row:int}", answer(lambda request, _: session.show(request.path_params["row"]))),
        Route("/stamps/{row:int}", answer(lambda request, _: session.encode_stamps(request.path_params["row"]))),
        Route("/labels", answer(label), methods=["POST"]),
        Route("/undo", answer(lambda *_: session.undo()), methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes), keys, host)


async def _read_json(request: Request) -> Any:
    """Return the body as plain values; None if it is longer than `LONGEST_BODY` or not JSON."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_BODY:
            return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; port 0 is a free one. Raises InputError if it cannot."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: {one_line(error)}. Choose others.") from None


def address_of(listening: socket.socket, token: str) -> str:
    """Return the page's address, at which this machine's own browser finds it."""
    host, port = listening.getsockname()[:2]
    host = LOOPBACK if _is_wildcard(host) else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={token}"


def serve(session: Session, listening: socket.socket, keys: Keys, host: str) -> None:
    """Serve the page until a signal."""
    config = uvicorn.Config(
        make_app(session, keys, host),
        log_level="warning",
        access_log=False,  # it would write the token
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run([listening])
