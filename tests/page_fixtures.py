"""Fixtures of the page's tests: a checkpoint to serve, the page as a process, and the page in a browser."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import DESKTOP, Browser, Visit
from many import session_members
from pages import MAX_MB, MAX_SECONDS, Served, Visitor, until

from viper.cli import run_command
from viper.demo import make_dataset
from viper.inference.predictor import ClipPredictor
from viper.temporaries import temporary_path

PATIENCE = 60_000  # ms
# What Gradio's own scripts remark in the console, whatever the page.
GRADIO_WARNINGS = ("[svelte-i18n]", "Method not implemented.")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on what is seen, heard and said in six clips of half a second."""
    root = tmp_path_factory.mktemp("page")
    manifest = make_dataset(root, 4, 2, 0, seconds=0.5, n_workers=1)
    frames, faces = root / "frames", root / "faces"
    stages = {
        "get_frame": ["--input_folder", root / "videos", "--output_folder", frames, "--n_frames", 3],
        "crop_images": ["--input_folder", frames, "--output_folder", faces],
        "extract_visual_features": ["--input_folder", faces, "--model_name", "hog", "--output_folder", root / "visual"],
        "extract_audio_features": ["--input_folder", root / "videos", "--model_name", "logmel", "--n_fragments", 2,
                                   "--output_folder", root / "audio"],
        "extract_textual_features": ["--input_folder", faces, "--subtitles", root / "subtitles", "--model_name",
                                     "hashed", "--output_folder", root / "textual"],
    }  # fmt: skip
    for command, arguments in stages.items():
        assert run_command(command, [str(each) for each in [*arguments, "--n_workers", 0]]) == 0
    features = [part for name in ("visual", "audio", "textual")
                for part in (f"--{name}_features_input_folder", str(root / name))]  # fmt: skip
    training = ["--csv_path", str(manifest), "--output_checkpoint_folder", str(root / "run"), "--preset", "tiny",
                "--n_epochs", "4", "--device", "cpu", *features]  # fmt: skip
    assert run_command("train_perceiver", training) == 0
    return root / "run"


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> ClipPredictor:
    return ClipPredictor.load(checkpoint, device="cpu", offline=True)


@pytest.fixture(scope="module")
def served(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page; in the end it is seen that nothing is left of it, nor of a page that was killed before."""
    options = ("--max_upload_mb", MAX_MB, "--max_seconds", MAX_SECONDS)
    place = tmp_path_factory.mktemp("served")
    # What a page that was killed has left, and what is none of this one's business.
    for name in (dead := _left_behind(place), f"{dead[:-11]}.other", "viper-page"):
        (place / name / "somebody").mkdir(parents=True)
        (place / name / "somebody" / "clip.mp4").write_bytes(b"private")
    with Served(checkpoint, place, *options) as served:
        assert not (place / dead).exists()
        yield served
        assert served.end(signal.SIGHUP) == 0
        assert "gradio" not in served.said.replace("gradio_api", "")  # no trace of its
        assert served.said.endswith("demo_page: ended; what was uploaded is deleted\n")
        assert until(lambda: not session_members(served.process.pid), 20)
        left = {path.parents[1].name for path in place.rglob("clip.mp4")}
        assert left == {f"{dead[:-11]}.other", "viper-page"}


def _left_behind(place: Path) -> str:
    """The name of a folder as a page of a process that is no more would have made it."""
    child = os.fork()
    if child == 0:
        (place / "name").write_text(temporary_path(place, ".viper-page").name)
        os._exit(0)
    os.waitpid(child, 0)
    return (place / "name").read_text()


@pytest.fixture
def visitor(served: Served) -> Visitor:
    return Visitor(served)


@pytest.fixture
def other(served: Served) -> Visitor:
    return Visitor(served)


@pytest.fixture
def visit(browser: Browser, served: Served, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """The page, opened; closed afterwards without having complained or asked another machine for anything."""
    options = getattr(request, "param", {"size": DESKTOP})
    visit = browser.open(served.address, allowed=(served.address,), **options)
    from playwright.sync_api import expect

    expect(visit.page.locator("#sample")).to_be_visible(timeout=PATIENCE)
    yield visit
    assert visit.blocked == []
    assert [error for error in visit.errors if not error.startswith(GRADIO_WARNINGS)] == []
    # What is left are the icons in Gradio's buttons, which have names of their own.
    assert visit.page.locator(".v-html :is(img, svg):not([alt], [aria-label])").count() == 0
    visit.page.context.close()
