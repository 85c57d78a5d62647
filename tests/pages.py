"""demo_page as a process, and visitors who ask it over HTTP for what a browser would, and for what none would."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from many import ROOT

API = "/gradio_api"
UPLOAD, SAMPLE, FORGET, SWITCH = range(4)  # the page's functions
PATIENCE = 120.0
MAX_SECONDS, MAX_MB = 4.0, 0.5


class Served:
    """The command, serving until the block ends.

    Attributes
    ----------
    address : of the page, without a slash at its end.
    place : its TMPDIR.
    """

    def __init__(self, model: Path, place: Path, *options: object) -> None:
        place.mkdir(exist_ok=True)
        self.place, self._log = place, place / "log"
        given = ("demo_page", "--model_path", model, "--device", "cpu", "--port", 0, *options)
        self.command = [sys.executable, "-m", "viper.cli", *map(str, given)]
        environment = {**os.environ, "TMPDIR": str(place), "PYTHONPATH": str(ROOT)}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, env=environment, stderr=log, stdout=log, start_new_session=True
            )
        try:
            self.address = self._address()
        except BaseException:
            self.process.kill()
            raise

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def end(self, signum: int = signal.SIGTERM) -> int:
        """End it by a signal; its exit code."""
        self.process.send_signal(signum)
        return self.process.wait(timeout=60)

    @property
    def said(self) -> str:
        """What it wrote."""
        return self._log.read_text()

    @property
    def folder(self) -> Path:
        """Its folder of uploads."""
        (folder,) = self.place.glob(f".tmp-*-{self.process.pid}-*.viper-page")
        return folder

    @property
    def files(self) -> list[Path]:
        """What visitors have left on the disk."""
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def readers(self) -> list[int]:
        """The processes that read clips, or are about to."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and _parent(_parent(int(entry.name))) == self.process.pid:
                    found.append(int(entry.name))
            except (OSError, IndexError):
                continue
        return found

    def _address(self) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.findall(r"http://127\.0\.0\.1:\d+", self.said):
                return str(found[-1])
            time.sleep(0.05)
        raise AssertionError(self.said)


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])


def until(holds: Any, seconds: float = PATIENCE) -> Any:
    """Wait until something holds, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it never came to this"
        time.sleep(0.05)
    return found


@dataclass(eq=False)
class Visitor:
    """A browser without a window: it has a cookie, and a page with a name."""

    served: Served
    page: str = field(default_factory=lambda: secrets.token_hex(6))

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.served.address, timeout=PATIENCE, trust_env=False)
        assert self.client.get("/").status_code == 200

    def upload(self, content: bytes, name: str = "clip.mp4", field: str = "files") -> httpx.Response:
        """Send a file."""
        return self.client.post(f"{API}/upload", files={field: (name, content)})

    def sent(self, content: bytes, name: str = "clip.mp4") -> dict[str, Any]:
        """Send a file; what a call names it by."""
        answer = self.upload(content, name)
        assert answer.status_code == 200, answer.text
        return file_data(answer.json()[0])

    def call(self, function: int, *data: Any, **changes: Any) -> httpx.Response:
        """Call one of the page's functions."""
        asked = {"data": list(data), "fn_index": function, "session_hash": self.page, "trigger_id": None, **changes}
        return self.client.post(f"{API}/queue/join", json=asked)

    def listen(self) -> Iterator[dict[str, Any]]:
        """What the page is told, until nothing more is to come."""
        with self.client.stream("GET", f"{API}/queue/data", params={"session_hash": self.page}) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def ask(self, function: int, *data: Any) -> str:
        """Call a function; all that the page was told, as text."""
        answer = self.call(function, *data)
        assert answer.status_code == 200, answer.text
        return json.dumps(list(self.listen()))


def file_data(path: str, **more: Any) -> dict[str, Any]:
    """A file as Gradio's browser names it."""
    return {"path": path, "url": None, "orig_name": "clip.mp4", "meta": {"_type": "gradio.FileData"}, **more}
