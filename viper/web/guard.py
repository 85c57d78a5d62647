"""What may be asked of the page's server: the few requests its own page makes, by the visitor they belong to.

Everything else is refused before Gradio sees it. Gradio has many more routes, and believes paths that a request names.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from viper.web.uploads import RefusedError, Uploads
from viper.web.visitors import Visitors

# What a browser may load for the page: what this server sends, and no script from or connection to anywhere else.
# Gradio's own scripts stand in the page and make functions from text.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Permissions-Policy": "camera=(self), microphone=(self), geolocation=()",
}
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#1a5795"/>'
    '<path d="M8 9l8 15 8-15" fill="none" stroke="#fff" stroke-width="4" stroke-linejoin="round"/></svg>'
)
# Headers that Gradio is given. It believes X-Forwarded-Host and others, and answers an Origin.
_PASSED_ON = {b"host", b"accept", b"accept-encoding", b"accept-language", b"content-type", b"user-agent"}
_SCRIPTS = re.compile(r"/(?:assets|static)(?:/[A-Za-z0-9_@-][A-Za-z0-9_.@-]*)+")
_PAGE = re.compile(r"[A-Za-z0-9]{1,40}")  # the name that an opened page gives itself, Gradio's session hash
_VISITOR = re.compile(r"[0-9a-f]{32}")
_RANGE = re.compile(r"bytes=(?:\d{1,15}-\d{0,15}|-\d{1,15})")
_COOKIE = "viper_visitor"
_API = "/gradio_api"
_FILE = f"{_API}/file="
MAX_BODY = 64 * 1024  # bytes of a call
PATIENCE = 15.0  # seconds until the next piece of a body must be there


FILE = "file"
Kind = str | frozenset[str] | None


class Guard:
    """An ASGI application in front of Gradio's.

    Parameters
    ----------
    app : Gradio's.
    uploads : where files go.
    visitors : whose page is whose.
    functions : what the page's functions are given, by their number: for each value None where it is the server's own
        business, `FILE`, or the texts that may be in a list.
    on_gone : called with a page's name when its browser has hung up.
    is_host : whether a Host header's name means this server.
    """

    def __init__(
        self, app: ASGIApp, uploads: Uploads, visitors: Visitors, functions: Mapping[int, Sequence[Kind]],
        on_gone: Callable[[str], None], is_host: Callable[[str], bool],
    ) -> None:  # fmt: skip
        self._app, self._uploads, self._visitors, self._functions = app, uploads, visitors, dict(functions)
        self._on_gone, self._is_host = on_gone, is_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            answer = await self._answer(scope, receive, _with_headers(send))
            if answer is not None:
                await answer(scope, receive, _with_headers(send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """Return what is answered; None where Gradio has answered."""
        headers, path = Headers(scope=scope), scope["path"]
        if (refused := self._refused(scope, headers)) is not None:
            return refused
        reads = scope["method"] in ("GET", "HEAD")
        if path == "/" and reads:
            await self._pass_on(scope, receive, _with_cookie(send, headers))
            return None
        if (path == "/theme.css" or _SCRIPTS.fullmatch(path)) and reads:
            await self._pass_on(scope, receive, send)
            return None
        if path == "/favicon.ico" and reads:
            return Response(_ICON, media_type="image/svg+xml")
        if not path.startswith(f"{_API}/"):
            return _not_found()
        visitor = _visitor(headers)
        if visitor is None:
            return PlainTextResponse("open the page first", 403)
        return await self._of_visitor(visitor, scope, receive, send)

    async def _of_visitor(self, visitor: str, scope: Scope, receive: Receive, send: Send) -> Response | None:
        method, path = scope["method"], scope["path"]
        if path.startswith(_FILE) and method in ("GET", "HEAD"):
            return await self._file(visitor, path.removeprefix(_FILE), scope, receive, send)
        if path == f"{_API}/upload_progress" and method == "GET":
            return Response(status_code=204)
        if path == f"{_API}/upload" and method == "POST":
            return await self._upload(visitor, scope, receive)
        if path == f"{_API}/queue/join" and method == "POST":
            return await self._join(visitor, scope, receive, send)
        page = self._listening_page(scope) if method == "GET" else None
        if page is None:
            return _not_found()
        is_data = path == f"{_API}/queue/data"
        if not (self._visitors.has(visitor, page) if is_data else await self._visitors.owns(visitor, page, _by(scope))):
            return _not_found()
        with self._visitors.listening(page) if is_data else contextlib.nullcontext():
            await self._listen(page, scope, receive, send, b"session_hash=" + page.encode() if is_data else b"")
        return None

    def _listening_page(self, scope: Scope) -> str | None:
        """Return the page that asks to be told things, or whose browser says that it is still open."""
        path = scope["path"]
        if path == f"{_API}/queue/data":
            page = dict(parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=8)).get("session_hash", "")
        elif path.startswith(f"{_API}/heartbeat/"):
            page = path.removeprefix(f"{_API}/heartbeat/")
        else:
            return None
        return page if _PAGE.fullmatch(page) else None

    def _refused(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to a request that another page or another name of this machine has caused."""
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._is_host(_name_of(host)):
            return PlainTextResponse("this server has another name: open it by its address", 400)
        reads_page = scope["method"] in ("GET", "HEAD") and scope["path"] == "/"
        origins = headers.getlist("origin")
        if any(origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}") for origin in origins):
            return PlainTextResponse("asked for by another page", 403)
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not reads_page:
            return PlainTextResponse("asked for by another page", 403)
        return None

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, query: bytes = b"", **more: Any) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name in _PASSED_ON]
        await self._app({**scope, "query_string": query, "headers": headers, **more}, receive, send)

    async def _listen(self, page: str, scope: Scope, receive: Receive, send: Send, query: bytes) -> None:
        """Pass on what is sent bit by bit, and notice when the browser hangs up before its end."""
        is_complete = False

        async def sending(message: Message) -> None:
            nonlocal is_complete
            is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not is_complete:
                self._on_gone(page)
            return message

        await self._pass_on(scope, receiving, sending, query)

    async def _file(self, visitor: str, name: str, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """Send a file that this visitor sent, which their browser shows them."""
        path = self._uploads.path_of(name, visitor)
        if path is None or not path.is_file():
            return Response(status_code=204)  # deleted since, which is no error for a browser that shows it
        headers = Headers(scope=scope)
        # Many ranges at once would be work that no browser asks for.
        scope["headers"] = [each for each in scope["headers"] if each[0] != b"if-range"]
        if not _RANGE.fullmatch(headers.get("range", "")):
            scope["headers"] = [each for each in scope["headers"] if each[0] != b"range"]
        answer = FileResponse(path)
        kind = answer.media_type or ""
        shown = kind if kind.startswith(("video/", "audio/")) else "application/octet-stream"
        answer.headers["content-type"] = shown
        answer.headers["cache-control"] = "no-store"
        if shown != kind:
            answer.headers["content-disposition"] = "attachment"
        has_begun = False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await answer(scope, receive, sending)
        except Exception:
            if self._uploads.path_of(name, visitor) is not None:
                raise
            return None if has_begun else Response(status_code=204)  # deleted in this moment
        return None

    async def _upload(self, visitor: str, scope: Scope, receive: Receive) -> Response:
        try:
            name = await self._uploads.receive(visitor, Headers(scope=scope), _chunks(receive))
        except RefusedError as refused:
            return _hanging_up(str(refused), refused.status)
        except OSError as error:  # a full disk
            return _hanging_up(f"the file cannot be kept ({error.strerror})", 507)
        return JSONResponse([name])

    async def _join(self, visitor: str, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """Pass on a call of one of the page's functions, made anew of what such a call may say."""
        content = b""
        try:
            async for chunk in _chunks(receive):
                content += chunk
                if len(content) > MAX_BODY:
                    return _hanging_up("too much at once", 413)
            asked = self._call(visitor, json.loads(content))
            page = asked["session_hash"]
            if not await self._visitors.owns(visitor, page, _by(scope)):
                return PlainTextResponse("this page is another visitor's", 403)
        except RefusedError as refused:
            return _hanging_up(str(refused), refused.status)
        except (ValueError, RecursionError):
            return PlainTextResponse("this is no call of the page's", 400)
        body = json.dumps(asked).encode()

        async def receiving() -> Message:
            nonlocal body
            if body:
                sent, body = body, b""
                return {"type": "http.request", "body": sent, "more_body": False}
            return await receive()

        try:
            async with self._visitors.calling(page):
                await self._pass_on(scope, receiving, send)
        except RefusedError as refused:
            return JSONResponse({"detail": str(refused)}, refused.status)
        return None

    def _call(self, visitor: str, asked: Any) -> dict[str, Any]:
        """Return the call with the paths of files that this visitor sent. ValueError for anything else."""
        if not isinstance(asked, dict):
            raise ValueError("no call")
        function, page, data = asked.get("fn_index"), asked.get("session_hash"), asked.get("data")
        trigger = asked.get("trigger_id")
        if type(function) is not int or function not in self._functions:
            raise ValueError("no function of the page's")
        if not isinstance(page, str) or not _PAGE.fullmatch(page) or not isinstance(data, list):
            raise ValueError("no page")
        if not (trigger is None or type(trigger) is int):
            raise ValueError("no part of the page")
        values = [self._value(visitor, *each) for each in zip(data, self._functions[function], strict=True)]
        return {"fn_index": function, "session_hash": page, "data": values, "trigger_id": trigger}

    def _value(self, visitor: str, value: Any, kind: Kind) -> Any:
        if value is None:
            return None
        if kind == FILE and isinstance(value, dict):
            name = value.get("path")
            path = self._uploads.path_of(name, visitor) if isinstance(name, str) else None
            if path is None:
                raise RefusedError(403, "the file is no longer here; send it again")
            return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}
        if isinstance(kind, frozenset) and isinstance(value, list) and len(value) <= len(kind):
            return [_one_of(kind, each) for each in value]
        raise ValueError("no value of the page's")


def is_local(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def host_check(host: str) -> Callable[[str], bool]:
    """Return what tells whether a name means this server, when it serves on `host`.

    A page elsewhere can make a name of its own mean this machine (DNS rebinding), but neither an address nor a name of
    this machine.
    """
    names = {"localhost", host.lower()}
    if is_local(host):
        addresses = {"127.0.0.1", "::1", host}
        return lambda name: name in names or name in addresses
    own = (socket.gethostname().lower(), socket.getfqdn().lower())
    names |= {*own, *(f"{each.partition('.')[0]}{end}" for each in own for end in ("", ".local"))}

    def is_ours(name: str) -> bool:
        with contextlib.suppress(ValueError):
            return bool(ipaddress.ip_address(name))
        return name in names

    return is_ours


def _name_of(host: str) -> str:
    """Return the Host header without its port and an address' brackets; empty for what is no host."""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9_.-]+))(?::\d{1,5})?", host)
    return (found[1] or found[2]).lower() if found else ""


def _by(scope: Scope) -> str:
    """Return the address that a request comes from."""
    return scope["client"][0] if scope.get("client") else ""


def _visitor(headers: Headers) -> str | None:
    """Return who asks; None for one who has not opened the page."""
    value = cookie_parser(headers.get("cookie", "")).get(_COOKIE, "")
    return value if _VISITOR.fullmatch(value) else None


def _with_cookie(send: Send, headers: Headers) -> Send:
    """Give a visitor who has none a name that nobody else knows, and no script can read."""
    if _visitor(headers) is not None:
        return send
    cookie = f"{_COOKIE}={secrets.token_hex(16)}; Path=/; HttpOnly; SameSite=Lax"
    return _adding(send, {"set-cookie": cookie, "cache-control": "no-store"})


def _with_headers(send: Send) -> Send:
    return _adding(send, _HEADERS)


def _adding(send: Send, more: Mapping[str, str]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(more)
        await send(message)

    return sending


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the pieces of a request's body. RefusedError where none comes, or the browser has hung up."""
    while True:
        try:
            message = await asyncio.wait_for(receive(), PATIENCE)
        except TimeoutError:
            raise RefusedError(408, "nothing more comes") from None
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "hung up")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _one_of(names: frozenset[str], value: Any) -> str:
    if isinstance(value, str) and value in names:
        return value
    raise ValueError("no name of the page's")


def _not_found() -> Response:
    return PlainTextResponse("not found", 404)


def _hanging_up(reason: str, status: int) -> Response:
    """Return a refusal after which the rest of what is being sent is not waited for."""
    return PlainTextResponse(reason, status, headers={"connection": "close"})
