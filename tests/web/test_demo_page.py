"""demo_page without a browser: uploads, what is drawn, wrong options, the end."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from media import write_coded

from viper.cli import run_command
from viper.errors import ClipError, UserError
from viper.inference.reader import FaceTrack
from viper.task import Task
from viper.web import charts
from viper.web.server import bind, is_local
from viper.web.session import Uploads, check_length

ROOT = Path(__file__).parents[2]
HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Uploads:
    monkeypatch.setattr("viper.web.session.PREVIEW_SECONDS", 0.0)
    folder = tmp_path / "uploads"
    folder.mkdir()
    return Uploads(folder, max_mb=1.0, max_seconds=4.0)


def sent(uploads: Uploads, source: Path, name: str | None = None) -> str:
    """A file as Gradio leaves it: in a folder of its own."""
    folder = uploads.folder / "digest-of-it"
    folder.mkdir(exist_ok=True)
    target = folder / (name or source.name)
    target.write_bytes(source.read_bytes())
    return str(target)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coded(tmp_path_factory.mktemp("short") / "short.mp4", 50, 25)


# --- uploads ----------------------------------------------------------------------------------------------------------


def test_a_clip_and_its_subtitles_are_there_while_they_are_read_and_not_after(uploads: Uploads, short: Path) -> None:
    words = short.with_suffix(".srt")
    words.write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    with uploads.taken(sent(uploads, short), sent(uploads, words)) as (path, subtitles, shown):
        assert path.read_bytes() == short.read_bytes()
        assert subtitles is not None
        assert subtitles.read_text().endswith("hello\n")
        assert shown == {}
    assert list(uploads.folder.iterdir()) == []


def test_nothing_is_left_after_an_error_either(uploads: Uploads, short: Path) -> None:
    with pytest.raises(ValueError, match="in the middle"), uploads.taken(sent(uploads, short)):
        raise ValueError("in the middle")
    assert list(uploads.folder.iterdir()) == []
    with pytest.raises(ZeroDivisionError), uploads.made(lambda folder: 1 // 0):  # type: ignore[return-value, arg-type]
        pass
    assert list(uploads.folder.iterdir()) == []


def test_a_clip_that_is_too_long_or_too_large_is_refused_and_deleted(
    uploads: Uploads, tmp_path: Path, short: Path
) -> None:
    long = write_coded(tmp_path / "long.mp4", 110, 25)
    with pytest.raises(ClipError, match=r"long\.mp4: is longer than the 4 seconds"), uploads.taken(sent(uploads, long)):
        pass
    large = tmp_path / "large.mp4"
    large.write_bytes(short.read_bytes() + bytes(2**20))
    with pytest.raises(ClipError, match=r"large\.mp4: is larger than the 1 MB"), uploads.taken(sent(uploads, large)):
        pass
    assert list(uploads.folder.iterdir()) == []


def test_the_length_is_measured(tmp_path: Path) -> None:
    """A file without a duration in it, as browsers record them."""
    path = write_coded(tmp_path / "clip.mpg", 110, 25)
    check_length(path, 5.0)
    with pytest.raises(ClipError, match="longer than the 3 seconds"):
        check_length(path, 3.0)


def test_files_elsewhere_are_not_taken(uploads: Uploads, short: Path) -> None:
    (uploads.folder / "link.mp4").symlink_to(short)
    for path in (str(short), str(uploads.folder / ".." / short.name), str(uploads.folder / "link.mp4"), "/etc/passwd"):
        with pytest.raises(ClipError, match="send it again"), uploads.taken(path):
            pass
    assert short.is_file()


def test_what_nobody_read_is_swept(uploads: Uploads, short: Path) -> None:
    old = Path(sent(uploads, short)).parent
    os.utime(old, (time.time() - 3600,) * 2)
    (uploads.folder / "new").mkdir()
    uploads.sweep()
    assert [path.name for path in uploads.folder.iterdir()] == ["new"]


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


# --- the command ------------------------------------------------------------------------------------------------------


def test_wrong_options_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--max_seconds 0: must be more than 0"):
        run_command("demo_page", ["--model_path", str(tmp_path), "--max_seconds", "0"])
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
