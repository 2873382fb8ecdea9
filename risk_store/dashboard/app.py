"""The dashboard as an ASGI application: addresses, headers, and what is refused. It only reads, and only GET and HEAD.

There is no login: by default it answers under this machine's own names alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from importlib import resources
from itertools import islice

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from risk_store.csv_text import csv_text
from risk_store.dashboard import tables
from risk_store.dashboard.page import render, render_message
from risk_store.dashboard.reader import Look, Reader
from risk_store.dashboard.view import View
from risk_store.errors import InvalidValue

__all__ = ["LOCAL_NAMES", "application"]

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
# Named here and not guessed: Python takes its table of types from the system, where .js may be text/plain, which a
# browser that has been told nosniff refuses.
_FILES = {"dashboard.css": "text/css; charset=utf-8", "dashboard.js": "text/javascript; charset=utf-8"}
_HTML, _JSON, _CSV = "text/html; charset=utf-8", "application/json", "text/csv; charset=utf-8"
_METHODS = ("GET", "HEAD")


def application(reader: Reader, *, allowed_hosts: Iterable[str] = (), metrics: bool = False) -> ASGIApp:
    """The dashboard of one store.

    `allowed_hosts` are names it may be asked by, beside this machine's own (the port counts for nothing); `metrics`
    adds `/metrics` for Prometheus, which needs the extra ``[metrics]``.
    """
    dashboard = _Dashboard(reader)
    routes = [
        Route("/", dashboard.page),
        Route("/api/snapshot", dashboard.snapshot),
        Route("/healthz", dashboard.health),
        *(Route(f"/{name}.csv", dashboard.csv(name)) for name in tables.NAMES),
        *(Route(f"/{name}", _file(name, kind)) for name, kind in _FILES.items()),
    ]
    if metrics:
        from risk_store.dashboard.exposition import exposition

        routes.append(Route("/metrics", exposition(reader)))
    app = Starlette(
        routes=routes,
        exception_handlers={InvalidValue: _refused, HTTPException: _http_error, Exception: _failed},
    )
    app.router.redirect_slashes = False  # the address would be a proxy's inner one
    return _Guarded(app, [*LOCAL_NAMES, *allowed_hosts])


class _Dashboard:
    """The answers, from the one reader."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._rendered: dict[View, tuple[Look, str, str]] = {}

    async def page(self, request: Request) -> Response:
        view = _view(request)
        body, tag, look = await run_in_threadpool(self._page, view)
        return _unless_known(request, body, _HTML, tag, 503 if look.snapshot is None else 200)

    def _page(self, view: View) -> tuple[str, str, Look]:
        look = self._reader.look(view.what)
        kept = self._rendered.get(view)
        if kept is None or kept[0] is not look:
            file = self._reader.file
            body = render(look, view, self._reader.name, None if file is None else str(file))
            if len(self._rendered) > 64:
                self._rendered.clear()
            self._rendered[view] = kept = (look, body, _tag(body))
        return kept[1], kept[2], look

    async def snapshot(self, request: Request) -> Response:
        look = await run_in_threadpool(self._reader.look, _view(request).what)
        trouble, snapshot = look.trouble, look.snapshot
        values = {
            "schema": 1,
            "database": self._reader.name,
            "revision": look.schema.found if look.schema else None,
            "head": look.schema.expected if look.schema else None,
            "trouble": None
            if trouble is None
            else {"kind": trouble.kind, "text": trouble.text, "command": trouble.command},
            "snapshot": None if snapshot is None else snapshot.to_dict(),
        }
        body = json.dumps(values)
        return _unless_known(request, body, _JSON, _tag(body), 503 if snapshot is None else 200)

    async def health(self, _request: Request) -> Response:
        look = await run_in_threadpool(self._reader.look, View())
        said = {"status": "ok" if look.trouble is None else look.trouble.kind}
        return Response(json.dumps(said), 200 if look.trouble is None else 503, media_type=_JSON)

    def csv(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            view = _view(request)
            columns, rows = await run_in_threadpool(tables.table, name, self._reader, view)
            headers = {"content-disposition": f'attachment; filename="risk-store-{name}.csv"'}
            lines = csv_text(columns, rows if request.method == "GET" else ())
            return StreamingResponse(_in_pieces(lines), media_type=_CSV, headers=headers)

        return answer


def _in_pieces(lines: Iterator[str]) -> Iterator[bytes]:
    """Many lines at once, since each piece goes through a thread. What is no Unicode in an old file is escaped."""
    while piece := "".join(islice(lines, 500)):
        yield piece.encode("utf-8", "backslashreplace")


def _view(request: Request) -> View:
    return View.of(request.query_params.multi_items())


def _tag(body: str) -> str:
    return f'"{hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()[:24]}"'


def _unless_known(request: Request, body: str, kind: str, tag: str, status: int) -> Response:
    """The body, or 304 for whoever has it."""
    known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if tag in known and status == 200:
        return Response(status_code=304, headers={"etag": tag})
    return Response(body.encode("utf-8", "backslashreplace"), status, media_type=kind, headers={"etag": tag})


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    body = resources.files(__package__).joinpath("static", name).read_bytes()

    async def answer(_request: Request) -> Response:
        return Response(body, media_type=kind)

    return answer


async def _refused(_request: Request, error: Exception) -> Response:
    return Response(render_message("This address is not right", str(error)), 400, media_type=_HTML)


async def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    title, text = {
        404: ("There is no such page", "The dashboard has one page, and CSV beside each of its tables."),
        405: ("This is read-only", "The dashboard answers GET and HEAD."),
    }.get(status, ("This did not work", "What went wrong is in the output of risk-store dashboard."))
    headers = getattr(error, "headers", None)
    return Response(render_message(title, text), status, media_type=_HTML, headers=headers)


async def _failed(request: Request, _error: Exception) -> Response:
    return await _http_error(request, HTTPException(500))


class _Guarded:
    """Around everything: whom it answers, which methods, and the headers of every answer.

    Only the name counts, not the port, which a proxy changes. A page of another site that had its name point here
    (DNS rebinding) would ask by its own name.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self._app = app
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in _HEADERS.items()),
                ]
            await send(message)

        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        answer: ASGIApp = self._app
        if _name_of(host) not in self._names:
            text = "It answers by this machine's own names. For others: risk-store dashboard --allowed-host NAME"
            answer = Response(render_message("Not by this name", text), 400, media_type=_HTML)
        elif scope["method"] not in _METHODS:
            page = render_message("This is read-only", "The dashboard answers GET and HEAD.")
            answer = Response(page, 405, media_type=_HTML, headers={"allow": ", ".join(_METHODS)})
        await answer(scope, receive, send_with_headers)


def _name_of(host: str) -> str:
    """The name of a Host header without its port.

    >>> _name_of("LocalHost:8377"), _name_of("[::1]:8377"), _name_of("127.0.0.1.evil.example")
    ('localhost', '[::1]', '127.0.0.1.evil.example')
    """
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()
