"""demo_page's parts: how long a clip is, what is drawn, wrong options, names of the server."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pickle
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import write_coded
from starlette.datastructures import Headers

from viper.cli import run_command
from viper.errors import ClipError, UserError
from viper.inference.reader import FaceTrack
from viper.task import Task
from viper.web import charts
from viper.web.guard import Guard, host_check, is_local
from viper.web.server import bind
from viper.web.session import check_length
from viper.web.uploads import Uploads
from viper.web.visitors import Visitors

pytest_plugins = ["page_fixtures"]

ROOT = Path(__file__).parents[2]
HOSTILE = '"><script>alert(1)</script>'


def test_the_length_is_measured(tmp_path: Path) -> None:
    """A file without a duration in it, as browsers record them."""
    path = write_coded(tmp_path / "clip.mpg", 110, 25)
    check_length(path, 5.0)
    with pytest.raises(ClipError, match="longer than the 3 seconds"):
        check_length(path, 3.0)


def test_what_nobody_read_is_deleted_in_time(tmp_path: Path) -> None:
    """Whether anybody visits or not; but not what is being read."""
    uploads = Uploads(tmp_path, max_mb=1, max_seconds=1, max_age=0.4)
    names = [asyncio.run(receive(uploads, visitor)) for visitor in ("a", "b")]
    read, unread = (tmp_path / name for name in names)
    with uploads.taken("a", str(read)), uploads.swept():
        deadline = time.monotonic() + 30
        while unread.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert uploads.path_of(names[1], "b") is None
        assert read.read_bytes() == b"content"
        with pytest.raises(ClipError, match="send it again"), uploads.taken("b", str(read)):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_deleted_while_it_is_shown_is_gone(tmp_path: Path) -> None:
    """It takes no room on the disk, however slowly a browser takes it, and is no error."""
    uploads = Uploads(tmp_path, max_mb=1, max_seconds=1)
    told: list[Any] = []

    async def show(visitor: str) -> None:
        name = await receive(uploads, visitor)
        path = uploads.path_of(name, visitor)
        assert path is not None
        headers = [(b"host", b"localhost"), (b"cookie", b"viper_visitor=" + visitor.encode())]
        scope = {"type": "http", "method": "GET", "path": f"/gradio_api/file={name}", "headers": headers}

        async def send(message: Any) -> None:
            told.append(message)
            if message["type"] == "http.response.start":
                with path.open("rb") as opened:
                    with uploads.taken(visitor, str(path)):
                        pass
                    assert not path.exists()
                    assert os.fstat(opened.fileno()).st_size == 0

        guard = Guard(_no_app, uploads, Visitors(), {}, lambda page: None, host_check("127.0.0.1"))
        await guard(scope, _nothing, send)

    asyncio.run(show("0" * 32))
    assert [each["type"] for each in told] == ["http.response.start"]


async def _no_app(*_: object) -> None:
    raise AssertionError


async def _nothing() -> Any:
    await asyncio.sleep(60)


async def receive(uploads: Uploads, visitor: str) -> str:
    async def body() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\ncontent\r\n--x--\r\n'

    return await uploads.receive(visitor, Headers({"content-type": "multipart/form-data; boundary=x"}), body())


# --- what is drawn ----------------------------------------------------------------------------------------------------


def task_of(targets: list[str], **changes: object) -> Task:
    return Task.from_dict({"name": "t", "kind": "regression", "targets": targets, "id_column": "File_ID",
                           "split_column": "Split", **changes})  # fmt: skip


def lanes(markup: str) -> list[tuple[float, float]]:
    """(left, width) of each bar, in per cent."""
    found = re.findall(r'<b class="fill" style="left:([\d.]+)%;width:([\d.]+)%">', markup)
    return [(float(a), float(b)) for a, b in found]


def test_bars_begin_at_zero() -> None:
    task = task_of(["joy", "awe"], range=[0, 1])
    assert lanes(charts.bars(task, np.array([0.25, 1.0]))) == [(0, 25), (0, 100)]
    both_signs = task_of(["sentiment"], range=[-3, 3])
    assert lanes(charts.bars(both_signs, np.array([1.5]))) == [(50, 25)]
    assert lanes(charts.bars(both_signs, np.array([-3.0]))) == [(0, 50)]
    unbounded = task_of(["a", "b"])
    assert lanes(charts.bars(unbounded, np.array([-1.0, 3.0]))) == [(0, 25), (25, 75)]


def test_bars_tell_the_change() -> None:
    task = task_of(["joy", "awe"], range=[0, 1])
    drawn = charts.bars(task, np.array([0.2, 0.5]), np.array([0.6, 0.45]), {"joy": 0.9})
    assert "−0.40" in drawn
    assert "+0.05" in drawn
    assert 'class="made" style="left:90%"' in drawn
    assert 'class="full" style="left:60%"' in drawn


def test_names_are_escaped() -> None:
    task = task_of([HOSTILE], range=[0, 1])
    values = np.array([[0.1], [0.2]])
    for drawn in (
        charts.bars(task, values[0], values[1], {HOSTILE: 0.3}),
        charts.timeline(task, 2.0, np.array([0.5, 1.5]), values, None),
        charts.sources([HOSTILE], {HOSTILE: HOSTILE}, []),
    ):
        assert "<script" not in drawn
        assert "&lt;script&gt;" in drawn


def test_the_timeline_has_no_line_where_there_was_nothing_to_look_at() -> None:
    task = task_of(["joy"], range=[0, 2])
    drawn = charts.timeline(task, 4.0, np.array([0.5, 1.5, 2.5]), np.array([[1.0], [np.nan], [2.0]]), None)
    lines = re.findall(r'<polyline class="now" points="([^"]*)"', drawn)
    assert lines == ["0.00,15.00 12.50,15.00", "62.50,1.00 100.00,1.00"]
    assert 'aria-label="joy over time: 1.00 at 0.5 s, 2.00 at 2.5 s"' in drawn
    assert "too short" in charts.timeline(task, 0.4, np.zeros(0), np.zeros((0, 1)), None)


def test_every_picture_says_what_it_is() -> None:
    picture = np.zeros((30, 40, 3), np.uint8)
    boxes = np.array([[0.25, 0.1, 0.5, 0.6], [np.nan] * 4])
    track = FaceTrack(np.array([0.0, 1.25]), np.array([True, False]), boxes, [picture] * 2, [picture] * 2)
    drawn = charts.track(track)
    assert re.findall(r'alt="([^"]*)"', drawn) == [
        "Frame at 0.0 seconds, face found",
        "Frame at 1.2 seconds, no face found",
    ]
    assert "left:25.0%;top:10.0%;width:25.0%;height:50.0%" in drawn
    assert "A face in 1 of the 2 frames" in drawn
    assert "No pictures" in charts.track(None)


def test_only_pictures_that_are_shown_are_kept() -> None:
    """Of a checkpoint that looks at every frame; a visitor's clip stays in memory."""
    n = 300
    pictures = list(np.random.default_rng(0).integers(0, 255, (n, 30, 40, 3)).astype(np.uint8))
    track = FaceTrack(np.arange(n) / 25, np.ones(n, bool), np.full((n, 4), 0.5), pictures, pictures)
    kept = charts.as_shown(track)
    assert kept is not None
    assert charts.track(kept) == charts.track(track)
    assert len(pickle.dumps(kept)) < len(pickle.dumps(track)) / 10
    assert charts.as_shown(None) is None


# --- the command ------------------------------------------------------------------------------------------------------


def test_wrong_options_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--max_seconds 0: must be more than 0"):
        run_command("demo_page", ["--model_path", str(tmp_path), "--max_seconds", "0"])
    with pytest.raises(UserError, match="--max_read_seconds inf: must be more than 0"):
        run_command("demo_page", ["--model_path", str(tmp_path), "--max_read_seconds", "inf"])
    with pytest.raises(UserError, match="--n_workers 0: must be at least 1"):
        run_command("demo_page", ["--model_path", str(tmp_path), "--n_workers", "0"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"--port \d+: cannot be served on .* another --port"):
            bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match="--port 70000"):
        bind("127.0.0.1", 70000)
    with pytest.raises(UserError, match=r"--host no\.such\.host\.invalid: no address"):
        bind("no.such.host.invalid", 0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'viper\[page\]'"):
        run_command("demo_page", ["--model_path", str(tmp_path)])


def test_which_addresses_only_this_machine_reaches() -> None:
    assert all(is_local(host) for host in ("127.0.0.1", "localhost", "::1"))
    assert not any(is_local(host) for host in ("0.0.0.0", "192.168.1.7", "::", "somewhere.example"))


def test_which_names_mean_the_server() -> None:
    """No name that somebody elsewhere could make mean this machine, wherever it is served."""
    here, everywhere = host_check("127.0.0.1"), host_check("0.0.0.0")
    assert all(here(name) for name in ("localhost", "127.0.0.1", "::1"))
    assert not any(here(name) for name in ("", "evil.example", "192.168.1.7", socket.gethostname()))
    assert all(everywhere(name) for name in ("localhost", "192.168.1.7", "fe80::1", socket.gethostname().lower()))
    assert not any(everywhere(name) for name in ("", "evil.example", "127.0.0.1.evil.example", "1.2.3"))


def test_help_is_quick_and_imports_neither_torch_nor_gradio() -> None:
    code = ("import sys\nfrom viper import cli\n"
            "try: cli.main('demo_page', ['--help'])\n"
            "except SystemExit: print(sorted({'torch', 'gradio', 'uvicorn'} & set(sys.modules)))")  # fmt: skip
    answered = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answered.stdout.splitlines()[-1] == "[]"


def test_it_cannot_be_used_with_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("needs Gradio: pip install 'viper[page]'")
    with pytest.raises(UserError, match="neither a checkpoint"):
        run_command("demo_page", ["--model_path", str(tmp_path), "--port", "0"])
