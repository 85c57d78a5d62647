"""Serving the page: to this machine alone unless told otherwise, and with nothing from any other."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

from viper.errors import UserError

_PATIENCE = 2  # seconds that open connections are given at the end
# Seconds until a connection must have sent the head of its request, and taken the next piece of an answer.
HEAD_SECONDS, TAKE_SECONDS = 10.0, 30.0
# Connections at once: in all, and from one address.
MAX_CONNECTIONS, MAX_OF_ADDRESS = 400, 100


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket, so that a port in use is known (a UserError) before anything slow."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: must be from 1 to 65535, or 0 for any that is free")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"--host {host}: no address of this machine ({error.strerror})") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise UserError(
            f"--host {host} --port {port}: cannot be served on ({error.strerror}); give another --port, or 0 for any "
            "that is free"
        ) from error
    return opened


def make_app(page: Any, host: str, on_gone: Callable[[str], None]) -> Any:
    """Return the page as an ASGI application: Gradio's, behind what lets through only what the page asks for.

    Parameters
    ----------
    page : a `viper.web.app.Page`.
    host : what is served on.
    on_gone : called with an opened page's name when its browser has hung up.
    """
    import gradio as gr
    from fastapi import FastAPI

    from viper.web.app import css, frame_css, theme
    from viper.web.guard import Guard, host_check

    blocks = page.build()
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None, docs_url=None, redoc_url=None), blocks, path="", theme=theme(), css=css(),
        head=f"<style>{frame_css()}</style>", max_file_size=page.uploads.max_bytes, show_error=False, footer_links=[],
        run_history=False, ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False,
    )  # fmt: skip
    # Mounting does not set it, and until it is set Gradio checks no path.
    blocks.has_launched = True

    def forget(name: str) -> None:
        blocks.state_holder.session_data.pop(name, None)
        blocks.state_holder.time_last_used.pop(name, None)

    page.visitors.queue, page.visitors.on_dropped, page.visitors.on_forgotten = blocks._queue, on_gone, forget
    functions = {number: [_kind(part) for part in each.inputs] for number, each in blocks.fns.items()}
    return Guard(app, page.uploads, page.visitors, functions, on_gone, host_check(host))


def _kind(part: Any) -> Any:
    """Return what a browser may send of a part of the page (see `Guard`)."""
    import gradio as gr

    from viper.web.guard import FILE

    if isinstance(part, gr.CheckboxGroup):
        return frozenset(value for _, value in part.choices)
    return FILE if isinstance(part, gr.Video | gr.File) else None


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a log line is news: not that the page of somebody or a deleted file was cut short."""
    is_cut = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    is_told = not any(each in record.getMessage() for each in ("graceful shutdown", "without completing response"))
    return is_told and not is_cut


def _impatient() -> Any:
    """Return uvicorn's protocol, but one that hangs up on who sends nothing or takes nothing, and on too many."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        _waits: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            mine = (self.client or ("",))[0]
            if sum(each.client[0] == mine for each in self.connections if each.client) > MAX_OF_ADDRESS:  # type: ignore[union-attr]
                transport.abort()
                return
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._waits is not None:
                self._waits.cancel()
            self.resume_writing()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stuck = self.loop.call_later(TAKE_SECONDS, self.transport.abort)

        def resume_writing(self) -> None:
            if self._stuck is not None:
                self._stuck.cancel()
                self._stuck = None
            super().resume_writing()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._wait()

        def _wait(self) -> None:
            if self._waits is not None:
                self._waits.cancel()
            self._waits = self.loop.call_later(HEAD_SECONDS, self._hang_up)

        def _hang_up(self) -> None:
            if self.cycle is None or self.cycle.response_complete:  # no request is being answered
                self.transport.abort()

    return Impatient


def serve(app: Any, opened: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM, which come out as KeyboardInterrupt."""
    import uvicorn

    logging.getLogger("uvicorn.error").addFilter(_is_news)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it remarks on every odd form
    config = uvicorn.Config(
        app, http=_impatient(), ws="none", log_level="error", access_log=False, timeout_graceful_shutdown=_PATIENCE,
        server_header=False, proxy_headers=False, limit_concurrency=MAX_CONNECTIONS,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[opened])
