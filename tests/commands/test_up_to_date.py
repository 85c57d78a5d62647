"""Up to date means it: one changed byte anywhere is noticed, whatever the times say, and nothing else is done again."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from clips import RATE, pictures, voice, write_faces, write_frames, write_srt, write_wav
from conftest import Run
from many import IS_LONG, Launcher, content, long_test
from media import write_coded
from mishaps import spoil
from planted import TARGETS
from safetensors.numpy import load_file, save_file

from viper import fingerprints
from viper.cli import run_command
from viper.commands import submission_creation
from viper.errors import ClipError
from viper.evaluation import confusion
from viper.files import read_json
from viper.fingerprints import RACY_NS
from viper.logs import log
from viper.media import clips
from viper.media.listing import MediaClip
from viper.media.pictures import FACES_FILE, FRAMES_FILE, FrameClip, read_complete, write_image, write_record
from viper.media.sources import is_made_from
from viper.store import ENCODER_FILE, FeatureStore
from viper.training.run_folder import STATE_FILE

POINTS = [np.array([[30, 30], [66, 30], [48, 45], [34, 58], [62, 58]]) + shift for shift in range(2)]


def write_pictures(folder: Path) -> None:
    """A clip's folder as other tools make it, without a record."""
    folder.mkdir(parents=True)
    for number, image in enumerate(pictures(2, seed=len(folder.name), height=400, width=400)):
        write_image(folder / f"{number}.jpg", image)


def write_arrays(folder: Path) -> None:
    """Features made elsewhere, larger than 128 KiB, with times."""
    rng = np.random.default_rng(0)
    for name in ("1", "2"):
        for place, array in (
            (folder, rng.normal(size=(300, 200)).astype(np.float32)),
            (folder / "time", np.arange(300.0)),
        ):
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / f"{name}.npy", array)


def write_inputs(root: Path) -> None:
    """Two clips of everything that the stages read."""
    for number, name in enumerate(("1", "2")):
        write_coded(root / "videos" / f"{name}.mp4", 30 + 5 * number, 25)
        write_wav(root / "sounds" / f"{name}.wav", voice(5.0, seed=number), RATE)
        write_srt(root / "subtitles" / f"{name}.srt", [(k, k + 0.9, f"{name} word {k} of many") for k in range(3000)])
        write_frames(root / "frames" / name, pictures(2, number, 400, 400))
        write_faces(root / "faces" / name, pictures(2, number, 72, 96), POINTS)
        write_pictures(root / "pictures" / name)
    write_arrays(root / "arrays")


# Command, options with the folder that is read, the file that is changed in it.
STAGES = {
    "video": ("get_frame", "--input_folder videos --n_frames 3", "videos/1.mp4"),
    "sound": ("extract_audio_features", "--input_folder sounds --model_name logmel", "sounds/1.wav"),
    "subtitles": ("extract_textual_features", "--subtitles subtitles --model_name hashed", "subtitles/1.srt"),
    "frame": ("extract_visual_features", "--input_folder frames --model_name hog", "frames/1/frame_0.jpg"),
    "record": ("extract_visual_features", "--input_folder frames --model_name hog", f"frames/1/{FRAMES_FILE}"),
    "picture": ("extract_visual_features", "--input_folder pictures --model_name hog", "pictures/1/1.jpg"),
    "face": ("extract_FAU_features", "--input_folder faces --model_name landmarks", "faces/1/frame_1.jpg"),
    "array": ("extract_visual_features", "--from_files arrays", "arrays/1.npy"),
    "times": ("extract_visual_features", "--from_files arrays", "arrays/time/1.npy"),
}


class Stages:
    """Runs stages on what is below a folder, each as if by a process of its own; in the long suite it is one."""

    def __init__(self, launcher: Launcher | None, root: Path) -> None:
        self._launcher, self.root = launcher, root

    def run(self, kind: str, root: Path | None = None) -> str:
        """What a stage says of its two clips."""
        command, options, _ = STAGES[kind]
        root = root or self.root
        given = [str(root / part) if (root / part).exists() else part for part in options.split()]
        given += ["--output_folder", str(root / "out" / kind), "--n_workers", "0"]
        given += [] if command == "get_frame" else ["--device", "cpu"]
        cache = str(self.root / "cache")
        if self._launcher is None:
            return _said_here(command, given, cache)
        process = self._launcher.start(command, given, XDG_CACHE_HOME=cache)
        self._launcher.wait(process)
        return self._launcher.said(process)


def _said_here(command: str, given: list[str], cache: str) -> str:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", cache)
        patch.setattr(fingerprints, "_MEMORY", fingerprints._Memory())
        log.addHandler(handler)
        try:
            run_command(command, given)
        finally:
            log.removeHandler(handler)
    return text.getvalue()


@pytest.fixture(scope="module")
def stages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """Every stage run twice on files that are old enough to be remembered."""
    root = tmp_path_factory.mktemp("stages")
    write_inputs(root)
    stages = Stages(request.getfixturevalue("launcher") if IS_LONG else None, root)
    time.sleep(RACY_NS / 1e9 + 0.1)
    for kind in STAGES:
        assert "2 done, 0 already there" in stages.run(kind)
    time.sleep(RACY_NS / 1e9 + 0.1)
    for kind in STAGES:
        assert "0 done, 2 already there" in stages.run(kind)
    return stages


@pytest.mark.parametrize("kind", STAGES)
def test_a_byte_in_the_middle_of_an_input_is_noticed(stages: Stages, kind: str) -> None:
    path = stages.root / STAGES[kind][2]
    spoil(path)
    try:
        # What it makes of a damaged file is another matter.
        assert "1 already there" in stages.run(kind)
    finally:
        spoil(path)
    stages.run(kind)


def test_what_is_copied_or_touched_is_not_done_again(stages: Stages, tmp_path: Path) -> None:
    for kind in STAGES:
        stages.run(kind)
    root = Path(shutil.copytree(stages.root, tmp_path / "disk", ignore=shutil.ignore_patterns("cache")))
    for path in root.rglob("*"):
        os.utime(path)
    before = content(root)
    for kind in STAGES:
        assert "0 done, 2 already there" in stages.run(kind, root), kind
    assert content(root) == before


def edited(path: Path) -> None:
    spoil(path)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def deleted(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [edited, truncated, deleted])
@pytest.mark.parametrize(
    ("kind", "product"), [("video", "1/frame_0.jpg"), ("video", f"1/{FRAMES_FILE}"), ("array", "1.safetensors")]
)
def test_a_product_that_is_not_as_it_was_written_is_made_again(
    stages: Stages, kind: str, product: str, damage: Callable[[Path], None]
) -> None:
    path = stages.root / "out" / kind / product
    before = path.read_bytes()
    damage(path)
    assert "1 done, 1 already there" in stages.run(kind)
    assert path.read_bytes() == before


def test_a_file_that_changes_while_it_is_read_fails_its_clip(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its feature would be of the old content and count as made from the new one."""
    write_wav(tmp_path / "sounds" / "1.wav", voice(1.0), RATE)
    read_sound = clips.read_sound

    def and_change(path: Path, *how: Any, **named: Any) -> object:
        sound = read_sound(path, *how, **named)
        spoil(path)
        return sound

    monkeypatch.setattr(clips, "read_sound", and_change)
    options = ["--input_folder", tmp_path / "sounds", "--output_folder", tmp_path / "out", "--model_name", "logmel"]
    outcome = run("extract_audio_features", *options)
    assert outcome.code == 1
    assert "1: its files changed while they were read; run the command again" in outcome.said
    monkeypatch.undo()
    assert "1 done" in run("extract_audio_features", *options).said


def test_a_file_that_cannot_be_read_is_its_clips_fault(tmp_path: Path) -> None:
    clip = MediaClip("1", tmp_path / "1.wav")
    with pytest.raises(ClipError, match=r"^1\.wav: cannot be read \(No such file or directory\)$"):
        clip.source()
    assert not is_made_from(clip, "x")


CARD = {"name": "own", "kind": "regression", "targets": TARGETS, "range": [0, 1]}
PIPELINE = {
    "task": "task.yaml",
    "csv_path": "manifest.csv",
    "videos": "videos",
    "output": "work",
    "device": "cpu",
    "n_workers": 0,
    "features": {"visual": {"from_files": "arrays"}},
    "train": {"fusion": "linear"},
    "confusion": False,
    "report": False,
}
ALL = {**PIPELINE, "confusion": {"split": "Val"}, "report": IS_LONG and {"n_resamples": 5, "subset_clips": 4}}
N_ROWS = 24_999 if IS_LONG else 6_999
MIDDLE = N_ROWS // 2 // 3 * 3  # in the split Train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pipeline on features made elsewhere and a manifest of many rows, taken through once."""
    root = tmp_path_factory.mktemp("pipeline")
    rng = np.random.default_rng(0)
    rows = ["File_ID,Split," + ",".join(TARGETS)]
    for number in range(N_ROWS):
        split = ("Train", "Val", "Test")[number % 3]
        labels = ",".join(f"{value:.4f}" for value in rng.uniform(size=3))
        rows.append(f"[{number}],{split},{labels if abs(number - MIDDLE) < 15 else ',,'}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    (root / "arrays").mkdir()
    for number in range(MIDDLE - 25, MIDDLE + 25):
        np.save(root / "arrays" / f"{number}.npy", rng.normal(size=(8, 64)).astype(np.float32))
    (root / "task.yaml").write_text(yaml.safe_dump(CARD))
    (root / "data.yaml").write_text(yaml.safe_dump(PIPELINE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setattr(fingerprints, "_MEMORY", fingerprints._Memory())
        # Of each target; they take most of the time, and the overview is drawn by the same code.
        save_png = confusion.save_png
        patch.setattr(confusion, "matrix_figure", lambda matrix: None)
        patch.setattr(confusion, "save_png", lambda figure, path: figure and save_png(figure, path))
        assert run_command("pipeline", [str(root / "data.yaml")]) == 0
        yield root


def made_again(root: Path) -> set[str]:
    """Runs the pipeline; which files of its output were written."""
    before = _stamps(root / "work")
    assert run_command("pipeline", [str(root / "data.yaml")]) == 0
    after = _stamps(root / "work")
    return {path for path in after if before.get(path) != after[path]} - {"pipeline.json"}


def made_nothing_more(root: Path) -> bool:
    before = _stamps(root / "work")
    return run_command("pipeline", [str(root / "data.yaml")]) == 0 and _stamps(root / "work") == before


def _stamps(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


STEPS = {"run/summary.json", "submission.csv"}


def test_labels_in_the_middle_of_a_manifest_are_noticed(data: Path) -> None:
    path = data / "manifest.csv"
    text, status = path.read_text(), path.stat()
    start = text.index(f"[{MIDDLE}]")
    row = text[start : text.index("\n", start)]
    label = row.rpartition(",")[2]
    other = text.replace(row, row.removesuffix(label) + f"0.{9999 - int(label[2:]):04}")
    assert len(other) == len(text)
    path.write_text(other)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert made_again(data) >= STEPS


def test_a_manifest_counts_by_what_it_says(data: Path) -> None:
    """An editor's byte order mark and line ends change nothing; what the training does not read costs no training."""
    path, extra = data / "manifest.csv", data / "arrays" / "nobody.npy"
    before = path.read_bytes()
    try:
        path.write_bytes(b"\xef\xbb\xbf" + before.replace(b"\n", b"\r\n"))
        assert made_nothing_more(data)
        np.save(extra, np.ones((8, 64), np.float32))
        assert made_again(data) <= {"features/visual/nobody.safetensors"}
        path.write_bytes(before + b"[later],Test,,,\n")
        assert made_again(data) == {"submission.csv"}
    finally:
        path.write_bytes(before)
        extra.unlink()
        (data / "work" / "features" / "visual" / "nobody.safetensors").unlink(missing_ok=True)
    assert made_again(data) == {"submission.csv"}


def test_what_encoder_json_only_notes_makes_nothing_out_of_date(data: Path) -> None:
    path = data / "work" / "features" / "visual" / ENCODER_FILE
    path.write_text(json.dumps({**read_json(path), "command": "viper extract_visual_features, elsewhere"}))
    assert made_nothing_more(data)


@pytest.mark.parametrize("state", [b'{"train": {"ma'] + IS_LONG * [b"", b"\xff\x00"])
def test_a_lost_state_costs_no_training(data: Path, state: bytes) -> None:
    """As a machine that loses its power leaves it: the run itself says what it was made of."""
    (data / "work" / "pipeline.json").write_bytes(state)
    assert not any(path.startswith("run") for path in made_again(data))
    assert made_nothing_more(data)


def test_a_training_that_was_begun_anew_and_killed_at_once_starts_over(data: Path, tmp_path: Path) -> None:
    """What another training left in the folder, or somebody damaged there, does not stop the pipeline for good."""
    root = Path(shutil.copytree(data, tmp_path / "copy", symlinks=True))
    (root / "work" / "pipeline.json").unlink()
    (root / "data.yaml").write_text(yaml.safe_dump({**PIPELINE, "train": {"fusion": "linear", "seed": 1}}))
    assert "run/summary.json" in made_again(root)
    (root / "work" / "pipeline.json").unlink()
    (root / "work" / "run" / "summary.json").unlink()
    (root / "work" / "run" / STATE_FILE).write_bytes(b"half of it")
    assert "run/summary.json" in made_again(root)
    assert not (root / "work" / "run" / STATE_FILE).exists()


def test_what_changes_while_a_step_runs_is_not_taken_for_what_it_was_made_of(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(data, tmp_path / "copy", symlinks=True))
    path = root / "manifest.csv"
    write = submission_creation.run

    def and_change(options: submission_creation.SubmissionOptions) -> int:
        code = write(options)
        path.write_bytes(path.read_bytes() + b"[later],Test,,,\n")
        return code

    (root / "work" / "submission.csv").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(submission_creation, "run", and_change)
        assert "submission.csv" in made_again(root)
    assert made_again(root) == {"submission.csv"}


DAMAGES = (edited, truncated, deleted)


@pytest.mark.parametrize("turn", [0, pytest.param(1, marks=long_test), pytest.param(2, marks=long_test)])
def test_products_are_looked_at(data: Path, turn: int) -> None:
    """All of them at once, each damaged in another way."""
    products = ("submission.csv", "confusion/confusion_overview.png", *(["report/report.html"] if IS_LONG else []))
    (data / "data.yaml").write_text(yaml.safe_dump(ALL))
    assert "submission.csv" not in made_again(data)
    for number, product in enumerate(products):
        DAMAGES[(number + turn) % 3](data / "work" / product)
    again = made_again(data)
    assert again >= {*products, "confusion/confusion.json"}
    assert not any(path.startswith(("run", "features")) for path in again)
    (data / "data.yaml").write_text(yaml.safe_dump(PIPELINE))


@pytest.mark.parametrize("damage", [edited, *(pytest.param(each, marks=long_test) for each in DAMAGES[1:])])
def test_weights_are_looked_at(data: Path, damage: Callable[[Path], None]) -> None:
    path = data / "work" / "run" / "best" / "model.safetensors"
    before = path.read_bytes()
    damage(path)
    again = made_again(data)
    assert "run/summary.json" in again
    assert path.read_bytes() == before
    # The same weights come of it, of which the rest has been made.
    assert "submission.csv" not in again


def test_a_feature_that_was_edited_is_made_again(data: Path) -> None:
    store = FeatureStore.open(data / "work" / "features" / "visual")
    path, tokens = store.path(str(MIDDLE)), store.read(str(MIDDLE)).tokens
    spoil(path)
    assert store.problem(str(MIDDLE)) is None
    assert "checksum" in (store.problem(str(MIDDLE), verify=True) or "")
    assert made_again(data) == {f"features/visual/{MIDDLE}.safetensors"}
    np.testing.assert_array_equal(store.read(str(MIDDLE)).tokens, tokens)


def test_an_own_card_counts_by_what_it_says(data: Path) -> None:
    path = data / "task.yaml"
    path.write_text("# a comment\n" + path.read_text())
    assert made_nothing_more(data)
    path.write_text(yaml.safe_dump({**CARD, "range": [0, 2]}))
    assert made_again(data) >= STEPS


def test_a_data_set_that_is_moved_stays_as_it_is(data: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(data, tmp_path / "disk", symlinks=True))
    assert made_nothing_more(root)


def test_a_state_that_others_wrote_is_not_believed(data: Path) -> None:
    path = data / "work" / "pipeline.json"
    state = read_json(path)
    for wrong in ({**state, "submission": "x"}, {**state, "submission": {**state["submission"], "files": ["../.."]}}):
        path.write_text(json.dumps(wrong))
        assert "submission.csv" in made_again(data)


def test_a_checksum_is_looked_at_wherever_a_feature_is_read(data: Path, tmp_path: Path, run: Run) -> None:
    folder = Path(shutil.copytree(data / "work" / "features" / "visual", tmp_path / "visual"))
    store = FeatureStore.open(folder)
    spoil(store.path(str(MIDDLE)))
    manifest = ["--csv_path", data / "manifest.csv", "--task", data / "task.yaml"]
    manifest += ["--visual_features_input_folder", folder]
    training = [*manifest, "--fusion", "linear", "--output_checkpoint_folder", tmp_path / "run", "--device", "cpu"]
    outcome = run("train_perceiver", *training, n_workers=None)
    assert outcome.code == 1
    assert f"{MIDDLE}.safetensors: not a valid feature (its numbers are not those that were written" in outcome.said
    # Files of before have no checksum.
    save_file(load_file(store.path(str(MIDDLE))), store.path(str(MIDDLE)))
    assert store.problem(str(MIDDLE), verify=True) is None


def test_faces_are_out_of_date_with_one_frame(tmp_path: Path) -> None:
    """What crop_images asks of a clip, without the detector."""
    frames = write_frames(tmp_path / "frames" / "1", pictures(2))
    faces = write_faces(tmp_path / "faces" / "1", pictures(2), POINTS)
    clip = FrameClip("1", frames)
    record = {**read_json(faces / FACES_FILE), "source": clip.source(), "options": {"margin": 0.1}}
    write_record(faces, FACES_FILE, record)
    assert read_complete(faces, FACES_FILE, {"options": {"margin": 0.1}}) == record
    assert is_made_from(clip, record["source"])
    spoil(frames / "frame_1.jpg")
    assert not is_made_from(clip, record["source"])
    spoil(faces / "frame_1.jpg")
    assert read_complete(faces, FACES_FILE, {}) is None
