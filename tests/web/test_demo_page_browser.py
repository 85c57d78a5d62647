"""demo_page in a real browser: a clip is uploaded, the numbers are the predictor's, and nothing of it is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import many
import numpy as np
import pytest
from browser import DESKTOP, PHONE, Browser, Visit, browser
from media import write_coded

from viper.cli import run_command
from viper.demo import Identity, make_dataset, write_clip
from viper.files import read_json
from viper.inference.predictor import ClipPredictor

pytest.importorskip("gradio", reason="needs Gradio: pip install 'viper[page]'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
expect = playwright.expect
assert browser  # a fixture

PATIENCE = 60_000  # ms
MAX_SECONDS, MAX_MB = 4.0, 0.5
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
def served(checkpoint: Path, predictor: ClipPredictor) -> Iterator[tuple[str, Path]]:
    """The page's address and its folder of uploads."""
    import uvicorn

    from viper.web.server import bind, make_app, upload_folder

    with bind("127.0.0.1", 0) as opened, upload_folder() as folder:
        from viper.web.app import Page as DemoPage
        from viper.web.session import Uploads

        uploads = Uploads(folder, MAX_MB, MAX_SECONDS)
        page = DemoPage(predictor, read_json(checkpoint / "best" / "config.json"), uploads)
        app = make_app(page.build(), uploads.max_bytes, "127.0.0.1")
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{opened.getsockname()[1]}/", folder
        finally:
            server.should_exit = True
            thread.join(timeout=20)
    assert not folder.exists()


@pytest.fixture
def visit(browser: Browser, served: tuple[str, Path], request: pytest.FixtureRequest) -> Iterator[Visit]:
    """The page, opened; closed afterwards without having complained or asked another machine for anything."""
    options = getattr(request, "param", {"size": DESKTOP})
    visit = browser.open(served[0], allowed=(served[0],), **options)
    expect(visit.page.locator("#sample")).to_be_visible(timeout=PATIENCE)
    yield visit
    assert visit.blocked == []
    assert [error for error in visit.errors if not error.startswith(GRADIO_WARNINGS)] == []
    # What is left are the icons in Gradio's buttons, which have names of their own.
    assert visit.page.locator(".v-html :is(img, svg):not([alt], [aria-label])").count() == 0
    visit.page.context.close()


def send(visit: Visit, path: Path) -> None:
    """Gives a file to the place for clips."""
    visit.page.set_input_files("#clip input[type=file]", str(path))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "somebody.mp4"
    write_clip(path, {"Amusement": 0.9, "Fear": 0.8}, Identity.from_seed(5), 5, 1.5, subtitles=path.with_suffix(".srt"))
    return path


def expect_nothing_left(folder: Path) -> None:
    """Within seconds, no file in the folder of uploads."""
    deadline = time.monotonic() + 20
    while found := [path for path in folder.rglob("*") if path.is_file()]:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def expect_values(visit: Visit, expected: np.ndarray) -> None:
    for k, value in enumerate(expected):
        expect(visit.page.locator(".bars .value").nth(k)).to_have_text(f"{value:.3f}", timeout=PATIENCE)


def test_a_clip_is_read_and_modalities_are_switched(
    visit: Visit, served: tuple[str, Path], predictor: ClipPredictor, clip: Path, tmp_path: Path
) -> None:
    page, words = visit.page, clip.with_suffix(".srt")
    page.set_input_files("#subtitles input[type=file]", str(words))
    expect(page.locator("#subtitles")).to_contain_text("somebody")
    send(visit, clip)
    expect(page.locator("#timeline svg")).to_have_count(7, timeout=PATIENCE)
    reading = predictor.read(clip, words)
    expect_values(visit, predictor.predict([reading])[0])
    expect(page.locator("#message .there")).to_have_count(3)
    expect(page.locator("#timeline")).to_contain_text("3 windows", timeout=PATIENCE)
    expect_nothing_left(served[1])

    pictures = page.locator("#faces img")
    assert pictures.count() == 3
    assert all(re.fullmatch(r"Frame at \d\.\d seconds, face found", each.get_attribute("alt") or "")
               for each in pictures.all())  # fmt: skip

    before = page.locator(".bars .value").all_inner_texts()
    page.get_by_label("audio", exact=True).uncheck()
    expect(page.locator("#message")).to_contain_text("switched off")
    expect_values(visit, predictor.predict([reading], hidden=["audio"])[0])
    assert page.locator(".bars .value").all_inner_texts() != before
    assert page.locator(".bars i.full").count() == 7
    page.screenshot(path=tmp_path / "desktop.png", full_page=True)
    assert visit.axe() == []
    for name in ("visual", "textual"):
        page.get_by_label(name, exact=True).uncheck()
    expect(page.locator("#bars")).to_contain_text("Nothing of the clip is left")
    expect_values(visit, predictor.predict([reading], hidden=predictor.modalities)[0])
    page.get_by_role("button", name="Forget the clip").click()
    expect(page.locator("#message")).to_contain_text("Drop or record a clip")
    expect(page.locator(".bars")).to_have_count(0)
    expect(page.get_by_label("audio", exact=True)).to_be_checked()


@pytest.mark.parametrize("visit", [{"size": PHONE, "dark": True, "has_touch": True, "is_mobile": True}], indirect=True)
def test_a_made_up_clip_on_a_phone_in_the_dark(visit: Visit, served: tuple[str, Path], tmp_path: Path) -> None:
    page = visit.page
    page.get_by_role("button", name="Try a made-up clip").tap()
    expect(page.locator("#timeline svg")).to_have_count(7, timeout=PATIENCE)
    expect(page.locator("#message .there")).to_have_count(3)
    expect(page.locator(".bars i.made")).to_have_count(7)
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    assert visit.overflow() <= 0
    assert visit.axe() == []


def test_files_that_will_not_do(
    visit: Visit, served: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = visit.page
    bad, long, large = tmp_path / "bad.mp4", tmp_path / "long.mp4", tmp_path / "large.mp4"
    bad.write_bytes(b"this is no video")
    write_coded(long, 110, 25)
    large.write_bytes(bytes(600_000))
    message = page.locator("#message [role=alert]")
    send(visit, bad)
    expect(message).to_have_text(re.compile(r"^bad\.mp4: cannot be opened as audio or video"), timeout=PATIENCE)
    expect_nothing_left(served[1])
    send(visit, long)
    expect(message).to_have_text("long.mp4: is longer than the 4 seconds that this page takes", timeout=PATIENCE)
    expect_nothing_left(served[1])
    # Gradio's own message, before anything is sent.
    send(visit, large)
    expect(page.get_by_text(re.compile("exceed the maximum allowed size of", re.IGNORECASE)).first).to_be_visible(
        timeout=PATIENCE
    )
    expect_nothing_left(served[1])
    page.screenshot(path=tmp_path / "refused.png")
    assert "Traceback" not in page.content()
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err


def test_an_error_nobody_expected_is_told_without_its_trace(
    visit: Visit, served: tuple[str, Path], predictor: ClipPredictor, clip: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def fails(*arguments: Any) -> None:
        raise RuntimeError("a secret of the machine")

    monkeypatch.setattr(predictor, "read", fails)
    send(visit, clip)
    expect(visit.page.locator("#message [role=alert]")).to_contain_text("Something went wrong", timeout=PATIENCE)
    assert "secret" not in visit.page.content()
    assert "a secret of the machine" in caplog.text
    expect_nothing_left(served[1])


@pytest.mark.skipif(not many.IS_LONG, reason="a long test: it starts a Python of its own")
def test_the_command_serves_until_ctrl_c(checkpoint: Path, browser: Browser, tmp_path: Path) -> None:
    """With a page still open; what is left of it is an exit code of 0."""
    command = [sys.executable, "-m", "viper.cli", "demo_page", "--model_path", str(checkpoint), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(many.ROOT)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = [process.stderr.readline()]
    while "http" not in said[-1]:
        assert said[-1], said
        said.append(process.stderr.readline())
    (address,) = re.findall(r"http://127\.0\.0\.1:\d+", said[-1])
    second = subprocess.run(
        [*command[:-1], address.rpartition(":")[2]], env=environment, capture_output=True, text=True
    )
    assert second.returncode == 2
    assert "another --port" in second.stderr
    assert second.stderr.count("\n") == 1
    visit = browser.open(address, allowed=(address,))
    visit.page.get_by_role("button", name="Try a made-up clip").click()
    expect(visit.page.locator(".bars")).to_be_visible(timeout=PATIENCE)
    assert len(list(tmp_path.glob("viper-page-*"))) == 1
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=30)[1]
    visit.page.context.close()
    assert process.returncode == 0
    assert rest == "demo_page: ended; what was uploaded is deleted\n"
    assert list(tmp_path.glob("viper-page-*")) == []
