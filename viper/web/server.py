"""Serving the page: to this machine alone unless told otherwise, and with nothing from any other."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from viper.errors import UserError

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
# Where nothing found is no error: a clip that was deleted before the browser had fetched all of it to show it, and how
# far the upload is of a file that was too large to be sent.
_MAY_BE_GONE = ("/gradio_api/file=", "/gradio_api/upload_progress")
_PATIENCE = 2  # seconds that open connections are given at the end


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


def is_local(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


@contextlib.contextmanager
def upload_folder() -> Iterator[Path]:
    """Yield a folder for uploads, deleted at the end; Gradio, imported only after this, uses it and stays offline."""
    with tempfile.TemporaryDirectory(prefix="viper-page-", ignore_cleanup_errors=True) as folder:
        settings = {
            "GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1",
            "GRADIO_ALLOWED_PATHS": "", "GRADIO_RUN_HISTORY": "False",
        }  # fmt: skip
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def make_app(blocks: Any, max_bytes: int, host: str) -> Any:
    """Return the page as an ASGI application: Gradio's, behind headers and, if local, a check of the host."""
    import gradio as gr
    from fastapi import FastAPI, Request, Response
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from viper.web.app import css, frame_css, theme

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def headers(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        if response.status_code == 404 and request.url.path.startswith(_MAY_BE_GONE):
            response = Response(status_code=204)
        response.headers.update(_HEADERS)
        return response

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(_ICON, media_type="image/svg+xml")

    if is_local(host):
        # A page elsewhere whose name is made to mean this machine is not let in.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", host])
    return gr.mount_gradio_app(
        app, blocks, path="", theme=theme(), css=css(), head=f"<style>{frame_css()}</style>", max_file_size=max_bytes,
        show_error=False, footer_links=[], run_history=False, ssr_mode=False, enable_monitoring=False, pwa=False,
        mcp_server=False,
    )  # fmt: skip


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a log line is news: not that connections of open pages were cut at the end."""
    is_cut = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not is_cut and "graceful shutdown" not in record.getMessage()


def serve(app: Any, opened: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM, which come out as KeyboardInterrupt."""
    import uvicorn

    logging.getLogger("uvicorn.error").addFilter(_is_news)
    config = uvicorn.Config(
        app, log_level="error", access_log=False, timeout_graceful_shutdown=_PATIENCE, server_header=False
    )
    uvicorn.Server(config).run(sockets=[opened])
