"""Serve the label page to anyone who has the token.

A page of another site can make a browser send requests to this server. Every request therefore needs the token, as a
cookie that browsers do not send along with requests from other sites, and a `Host` that names this machine, because an
attacker can point any other name here.
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
MAX_BODY_BYTES = 4096  # a label has about 100
LABEL_FIELDS = {"row": int, "label": str, "strategy": str, "target": int}  # body of POST /labels
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
    """Tokens that open the page.

    Attributes
    ----------
    token : str
        Valid for any number of requests.
    once : str
        Valid for one request; it is replaced after its use.
    """

    def __init__(self) -> None:
        self.token, self.once = secrets.token_urlsafe(), secrets.token_urlsafe()

    def fit(self, given: str) -> bool:
        """Check a token, and replace `once` if it was used."""
        if secrets.compare_digest(given.encode(), self.once.encode()):
            self.once = secrets.token_urlsafe()
            return True
        return secrets.compare_digest(given.encode(), self.token.encode())


class Guard:
    """Middleware that checks the host, the token and, for changes, the origin of each request.

    Parameters
    ----------
    app : callable
        The ASGI application to protect.
    keys : Keys
        Tokens, expected in the query of the page's address, in the cookie, or as ``token <token>`` in the header
        Authorization.
    host : str
        Address at which the server listens. Requests may name it or a loopback address; if it is a wildcard such as
        0.0.0.0, also the machine's name and any numeric address.
    """

    def __init__(self, app: ASGIApp, keys: Keys, host: str):
        self.app, self.keys, self.host = app, keys, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a rejected request; pass any other to the application."""
        if scope["type"] != "http":
            return
        if refusal := self._refuse(Request(scope), Headers(scope=scope)):
            status, reason = refusal
            await PlainTextResponse(f"{reason}\n", status, headers=HEADERS)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refuse(self, request: Request, headers: Headers) -> tuple[int, str] | None:
        """Return status and reason if a request is rejected, otherwise None."""
        if not self._is_here(headers.get("host", "")):
            return 400, "Host: not this machine. Open the address that label printed."
        given = [
            request.cookies.get(cookie_of(request), ""),
            headers.get("authorization", "").removeprefix("token "),
            request.query_params.get("token", "") if request.url.path == "/" else "",
        ]
        if not any(self.keys.fit(one) for one in given):
            return 403, "token: missing or invalid. Open the whole address that label printed, with ?token=..."
        if request.method not in ("GET", "HEAD"):
            own = f"http://{headers['host']}"
            if headers.get("origin", own) != own or headers.get("sec-fetch-site", "same-origin") != "same-origin":
                return 403, "Origin: another site. Open the address that label printed."
            if headers.get("content-type", "").partition(";")[0] != "application/json":
                return 415, "Content-Type: not JSON. Send application/json."
        return None

    def _is_here(self, host: str) -> bool:
        """Check that a header Host names this machine."""
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
    """Return whether this address stands for all interfaces."""
    return host in ("0.0.0.0", "::", "")


def cookie_of(request: Request) -> str:
    """Return the name of the cookie, with the port because browsers share cookies between ports."""
    return f"alerce-label-{request.url.port or 80}"


def make_app(session: Session, keys: Keys, host: str = LOOPBACK) -> ASGIApp:
    """Build the ASGI application with the page and its endpoints.

    Parameters
    ----------
    session : Session
        Alerts and labels.
    keys : Keys
        Tokens that open the page.
    host : str
        Address at which the server listens.
    """
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(PAGE.read_text())

    async def page(request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        headers = HEADERS | {"Content-Security-Policy": POLICY.format(nonce)}
        response = HTMLResponse(template.render(nonce=nonce), headers=headers)
        response.set_cookie(cookie_of(request), keys.token, httponly=True, samesite="strict")
        return response

    def answer(work: Callable[[Request, Any], Any]) -> Callable[[Request], Awaitable[Response]]:
        """Convert a function of request and body, which returns plain values or bytes, to an endpoint."""

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
        if not isinstance(body, dict) or {name: type(value) for name, value in body.items()} != LABEL_FIELDS:
            raise InputError(f"body: not a JSON object with {', '.join(LABEL_FIELDS)}. Send these fields.")
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
    """Parse the body as JSON; None if it is invalid or longer than `MAX_BODY_BYTES`."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that listens at an address.

    Parameters
    ----------
    host : str
        Name or address of an interface.
    port : int
        Port; 0 for a free one.

    Raises
    ------
    InputError
        If the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: {one_line(error)}. Choose others.") from None


def address_of(listening: socket.socket, token: str) -> str:
    """Return the page's address for a browser on this machine, with the token."""
    host, port = listening.getsockname()[:2]
    host = LOOPBACK if _is_wildcard(host) else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={token}"


def serve(session: Session, listening: socket.socket, keys: Keys, host: str) -> None:
    """Serve the page until the process receives a signal."""
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
