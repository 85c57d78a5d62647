"""A command as somebody runs it at a terminal who answers every question with y, on a machine with a network."""

from __future__ import annotations

import json
import os
import pty
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")


@contextmanager
def listener() -> Iterator[tuple[str, list[str]]]:
    """A hub, and a proxy to everywhere, that has nothing: its address, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_POST = do_CONNECT = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


def run(command: str, address: str, seen: str, *arguments: str) -> None:
    """Runs a viper command in this process, which may be anything's: a launcher's child, or an interpreter's.

    Libraries that are imported already are told that there is a network; whatever asks it becomes a line in `seen`.
    """
    for name in VARIABLES:
        os.environ.pop(name, None)
    proxies = {name: address for scheme in ("http", "https", "all") for name in (f"{scheme}_proxy", f"{scheme}_PROXY")}
    os.environ.update({name.upper() if name.endswith("PROXY") else name: value for name, value in proxies.items()})
    os.environ.update({"no_proxy": "", "NO_PROXY": "", "HF_ENDPOINT": address})
    if "huggingface_hub.constants" in sys.modules:
        constants = sys.modules["huggingface_hub.constants"]
        constants.HF_HUB_OFFLINE = False  # type: ignore[attr-defined]
        constants.ENDPOINT = address  # type: ignore[attr-defined]

    def watch(event: str, details: tuple[object, ...]) -> None:
        # Not what a process says to others of this machine without a network, nor where a page is about to be served:
        # whoever would ask something of this machine's listener has to connect to it.
        is_own = event == "socket.connect" and isinstance(details[1], str | bytes)
        is_own |= event == "socket.getaddrinfo" and details[0] == "127.0.0.1"
        if event in NETWORK and not is_own:
            with open(seen, "a") as file:
                file.write(json.dumps([event, repr(details)]) + "\n")

    sys.addaudithook(watch)
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n" * 100)
    os.dup2(theirs, 0)
    assert sys.stdin.isatty()
    from viper import cli

    cli.main(command, list(arguments))


if __name__ == "__main__":
    run(*sys.argv[1:])
