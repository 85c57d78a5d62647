"""Names and folders as people have them: what may be no clip costs that clip, subfolders, ids in tables; and paces."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import RATE, pictures, voice, write_frames, write_srt, write_wav
from many import long_test
from media import write_coded

from viper.clip_ids import IDS_FILE, cell_id, path_id, recorded_separator
from viper.commands.predict import PredictOptions
from viper.commands.predict import _clips as videos_to_predict
from viper.commands.predict import _words as words_to_predict
from viper.engine.failures import Failure, read_failures
from viper.errors import ClipError, UserError
from viper.inference.reader import words_of
from viper.logs import duration, pace
from viper.manifest import Manifest
from viper.media.listing import list_sounds, list_videos
from viper.media.pictures import IMAGE_SUFFIXES, list_frame_clips
from viper.media.subtitles import WordRules
from viper.store import FeatureStore
from viper.task import Task

pytestmark = long_test

TASK = Task("two", "regression", ("Fear",))
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each: a video, a sound, subtitles, frames, features."""
    folder = tmp_path_factory.mktemp("media")
    write_coded(folder / "x.mp4", 6, 25)
    write_wav(folder / "x.wav", voice(0.5), RATE)
    write_wav(folder / "long.wav", voice(1.5), RATE)
    write_srt(folder / "x.srt", [(0, 1, "oh no")])
    write_frames(folder / "frames", pictures(2))
    np.save(folder / "x.npy", np.ones((3, 4), np.float32))
    return folder


class Folder:
    """A command that reads a folder of clips, and how one clip of it is made."""

    def __init__(self, command: str, option: str, source: str, suffix: str, *options: str) -> None:
        self.command, self.option, self.source, self.suffix, self.options = command, option, source, suffix, options

    def put(self, media: Path, path: Path, suffix: str | None = None) -> None:
        """Makes the clip `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.source == "frames":
            shutil.copytree(media / "frames", path)
        else:
            own = self.suffix if suffix is None else suffix
            shutil.copy(media / self.source, os.fsencode(path) + own.encode())

    def arguments(self, inputs: Path, output: Path, *more: str) -> list[Any]:
        return [self.command, self.option, inputs, "--output_folder", output, *self.options, *more]

    def done(self, output: Path) -> list[str]:
        """The clips in its output."""
        if self.command in ("get_frame", "crop_images"):
            return [clip.id for clip in list_frame_clips(output)] if output.exists() else []
        return FeatureStore.open(output).clips() if (output / "encoder.json").exists() else []


FOLDERS = {
    "get_frame": Folder("get_frame", "--input_folder", "x.mp4", ".mp4", "--n_frames", "2"),
    "visual": Folder("extract_visual_features", "--input_folder", "frames", "", "--model_name", "hog"),
    "audio": Folder(
        "extract_audio_features", "--input_folder", "x.wav", ".wav", "--model_name", "logmel", "--n_fragments", "2"
    ),
    "textual": Folder("extract_textual_features", "--subtitles", "x.srt", ".srt", "--model_name", "hashed"),
    "from_files": Folder("extract_visual_features", "--from_files", "x.npy", ".npy"),
}  # fmt: skip


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Folder:
    """Each kind of folder."""
    return FOLDERS[request.param]


def rows_of(output: Path) -> dict[str, Failure]:
    return {row.clip: row for row in read_failures(output)}


def write_manifest(path: Path, ids: Sequence[str], splits: Sequence[str] = ("Train", "Val")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = [[each, splits[k % len(splits)], 0.1] for k, each in enumerate(ids)]
        csv.writer(file).writerows([["File_ID", "Split", "Fear"], *rows])
    return path


# One bad name


BAD_NAMES: list[tuple[str | bytes, str]] = [
    ("a\nb", "control character"), ("a\x1b[2Jb", "control character"), ("\x7f", "control character"),
    ("x" * 240, "longer than 200 bytes"), ("表" * 80, "longer than 200 bytes"), (b"caf\xe9", "UTF-8"),
    ("[]", "the id is empty"), (" ", "the id is empty"), ("a\u200bb", "U+200B"), ("a\\b", "slash"),
    ("FAILURES.csv", "name of a file that viper writes"), ("ids.json", "name of a file that viper writes"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "why"), BAD_NAMES)
@pytest.mark.parametrize("kind", ["get_frame", "visual", "audio"])
def test_a_bad_name_costs_that_clip(
    media: Path, tmp_path: Path, run: Run, kind: str, name: str | bytes, why: str
) -> None:
    folder, inputs, output = FOLDERS[kind], tmp_path / "in", tmp_path / "out"
    text = name if isinstance(name, str) else os.fsdecode(name)
    for each in ("1", "-x", "a..b", text, "2"):
        folder.put(media, inputs / each)
    outcome = run(*folder.arguments(inputs, output))
    assert outcome.code == 3, outcome.said
    assert sorted(folder.done(output)) == ["-x", "1", "2", "a..b"]
    ((clip, row),) = rows_of(output).items()
    assert row.error == "UnusableEntryError"
    assert why in row.message
    assert f"{clip}{row.message}{outcome.said}".replace("\n", "").isprintable()
    # It is not done twice, nor listed twice; renamed, it is gone from the list.
    again = run(*folder.arguments(inputs, output))
    assert (again.code, list(rows_of(output))) == (3, [clip])
    suffix = folder.suffix
    os.rename(os.fsencode(inputs / text) + suffix.encode(), os.fsencode(inputs / "good") + suffix.encode())
    assert run(*folder.arguments(inputs, output)).code == 0
    assert "good" in folder.done(output)
    assert not (output / "failures.csv").exists()


def test_two_of_one_id_cost_that_clip(media: Path, tmp_path: Path, run: Run, folder: Folder) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    for each in ("[7]", "7", "8"):
        folder.put(media, inputs / each)
    outcome = run(*folder.arguments(inputs, output))
    assert (outcome.code, folder.done(output)) == (3, ["8"])
    ((clip, row),) = rows_of(output).items()
    assert clip == "7"
    assert "[7]" in row.message
    assert "would both be clip '7'" in row.message


def test_a_bad_name_that_is_all_there_is(media: Path, tmp_path: Path, run: Run, folder: Folder) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    folder.put(media, inputs / "[]")
    outcome = run(*folder.arguments(inputs, output))
    if folder.option == "--from_files":  # there is nothing to learn the channels from
        assert outcome.code == 2
        assert "none of the features' files can be read" in outcome.said
        return
    assert outcome.code == 1, outcome.said
    assert len(rows_of(output)) == 1


def test_what_stands_for_a_bad_name_is_no_other_clip(media: Path, tmp_path: Path, run: Run) -> None:
    folder, inputs, output = FOLDERS["visual"], tmp_path / "in", tmp_path / "out"
    for each in ("a\\b", "a_b"):
        folder.put(media, inputs / each)
    outcome = run(*folder.arguments(inputs, output))
    assert (outcome.code, folder.done(output)) == (3, ["a_b"])
    ((clip, row),) = rows_of(output).items()
    assert clip.startswith("a_b...")
    assert "slash" in row.message


def test_videos_to_predict_have_ids_by_the_same_rule(media: Path, tmp_path: Path) -> None:
    for name in ("a/1", "b/1", "[]", "2"):
        FOLDERS["get_frame"].put(media, tmp_path / name)
    clips = videos_to_predict([tmp_path], "_")
    assert [(clip.id, clip.problem is None) for clip in clips] == [
        ("2", True), ("[].mp4", False), ("a_1", True), ("b_1", True),
    ]  # fmt: skip
    alone = videos_to_predict([tmp_path / "2.mp4", tmp_path / "[].mp4"], None)
    assert [(clip.id, clip.problem is None) for clip in alone] == [("2", True), ("[].mp4", False)]


def test_words_of_videos_of_one_name_in_two_subfolders(media: Path, tmp_path: Path) -> None:
    videos, words = tmp_path / "videos", tmp_path / "words"
    for name in ("a/x", "b/x", "c/x"):
        FOLDERS["get_frame"].put(media, videos / name)
        (words / name).parent.mkdir(parents=True)
    write_srt(words / "x.srt", [(0, 1, "of a video beside the subfolders")])
    write_srt(words / "a" / "x.en.srt", [(0, 1, "yes")])
    write_srt(words / "b_x.srt", [(0, 1, "no")])
    options = PredictOptions(videos=[videos], subtitles=words, subfolders=True, model_path=Path("run"))
    said = {}
    for clip in videos_to_predict([videos], "_"):
        with contextlib.suppress(ClipError):
            said[clip.id] = [cue.text for cue in words_of(clip.path, words_to_predict(options, clip), WordRules())]
    assert said == {"a_x": ["yes"], "b_x": ["no"]}


def test_two_suffixes_of_one_stem(media: Path, tmp_path: Path, run: Run) -> None:
    videos, output = tmp_path / "videos", tmp_path / "out"
    for name in ("a.mp4", "A.MOV", "b.mp4", "b.MKV"):
        FOLDERS["get_frame"].put(media, videos / name, "")
    outcome = run(*FOLDERS["get_frame"].arguments(videos, output))
    assert (outcome.code, list(rows_of(output))) == (3, ["b"])
    assert "'b.MKV' and 'b.mp4' would both be clip 'b'" in rows_of(output)["b"].message
    assert sorted(FOLDERS["get_frame"].done(output)) == ["A", "a"]
    assert "differ in the case of letters only" in outcome.said


def test_a_sound_beside_its_video(media: Path, tmp_path: Path, run: Run) -> None:
    folder, output = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    shutil.copy(media / "x.mp4", folder / "a.mp4")
    shutil.copy(media / "x.wav", folder / "a.wav")
    shutil.copy(media / "x.mp4", folder / "b.mp4")
    shutil.copy(media / "x.wav", folder / "c.wav")
    shutil.copy(media / "x.wav", folder / "c.flac")
    shutil.copy(media / "x.mp4", folder / "c.mp4")
    outcome = run(*FOLDERS["audio"].arguments(folder, output))
    assert (outcome.code, list(rows_of(output))) == (3, ["c"])
    assert "2 clips have an audio file and a video, such as a: the audio file is read (--prefer" in outcome.said
    store = FeatureStore.open(output)
    assert store.read("a").mask.all()
    assert not store.read("b").mask.any()  # a video without sound
    outcome = run(*FOLDERS["audio"].arguments(folder, output, "--prefer", "video"))
    assert outcome.code == 0, outcome.said
    assert "the video is read" in outcome.said
    assert not store.read("a").mask.any()
    assert [clip.path.name for clip in list_sounds(folder, prefer="video")] == ["a.mp4", "b.mp4", "c.mp4"]


def _nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def _circle(path: Path) -> None:
    path.symlink_to(path.name)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        os.chdir(path.parent)
        unix.bind(path.name)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_nothing, "No such file"), (_circle, "symbolic links"), (os.mkfifo, "not a file"), (_socket, "not a file"),
        (Path.mkdir, "is a folder"), (Path.touch, ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["get_frame", "audio", "from_files"])
def test_what_has_a_files_name_and_is_none(
    media: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch,
    kind: str, make: Callable[[Path], None], why: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    folder, inputs, output = FOLDERS[kind], tmp_path / "in", tmp_path / "out"
    folder.put(media, inputs / "1")
    make(inputs / f"2{folder.suffix}")
    outcome = run(*folder.arguments(inputs, output))
    assert (outcome.code, folder.done(output)) == (3, ["1"]), outcome.said
    assert list(rows_of(output)) == ["2"]
    assert why in rows_of(output)["2"].message
    target = inputs / f"2{folder.suffix}"
    target.rmdir() if target.is_dir() else target.unlink()
    folder.put(media, inputs / "2")
    assert run(*folder.arguments(inputs, output)).code == 0
    assert rows_of(output) == {}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read anything")
def test_an_unreadable_file_and_folder(media: Path, tmp_path: Path, run: Run, folder: Folder) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    for each in ("1", "2", "sub/3"):
        folder.put(media, inputs / each)
    unreadable = [inputs / f"2{folder.suffix}", inputs / "sub"]
    for path in unreadable:
        path.chmod(0)
    outcome = run(*folder.arguments(inputs, output, "--subfolders"))
    for path in unreadable:
        path.chmod(0o755)
    assert (outcome.code, folder.done(output)) == (3, ["1"])
    assert sorted(rows_of(output)) == ["2", "sub"]


def test_a_link_to_nowhere_among_frames(media: Path, tmp_path: Path, run: Run) -> None:
    folder, inputs, output = FOLDERS["visual"], tmp_path / "in", tmp_path / "out"
    folder.put(media, inputs / "2")
    (inputs / "1").symlink_to("nowhere")  # the first, by which the kind of pictures must not be judged
    (inputs / "failures.csv").write_text("clip,stage,error,message\n")
    outcome = run(*folder.arguments(inputs, output))
    assert (outcome.code, list(rows_of(output)), folder.done(output)) == (3, ["1"], ["2"]), outcome.said


def test_what_desktops_and_browsers_leave(media: Path, tmp_path: Path, run: Run) -> None:
    folder, inputs, output = FOLDERS["get_frame"], tmp_path / "in", tmp_path / "out"
    folder.put(media, inputs / "a")
    for name in ("._a.mp4", ".DS_Store", ".a.mp4.swp", ".tmp-x.mp4"):
        (inputs / name).touch()
    for name in ("Thumbs.db", "desktop.ini", "b.mp4.part", "c.mp4.crdownload", "d.ytdl", "notes.txt"):
        (inputs / name).touch()
    outcome = run(*folder.arguments(inputs, output))
    assert outcome.code == 0
    assert "ignoring 6 files that are not videos; 3 of them are unfinished downloads" in outcome.said
    assert rows_of(output) == {}


# Subfolders


def test_subfolders_are_named_in_a_warning(media: Path, tmp_path: Path, run: Run, folder: Folder) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    for each in ("1", "s/1", "s/deep/2", "t/1", "empty/notes"):
        folder.put(media, inputs / each, ".txt" if each == "empty/notes" else None)
    outcome = run(*folder.arguments(inputs, output))
    if folder.source == "frames":  # each folder is a clip
        assert outcome.code == 3
        assert {row.message for row in rows_of(output).values()} >= {
            "t: no pictures in its folder, only subfolders (--subfolders reads them)"
        }
        return
    assert (outcome.code, folder.done(output)) == (0, ["1"])
    assert "its 2 subfolders have 3 " in outcome.said
    assert "which are not read: --subfolders reads them, as 's_1' and so on" in outcome.said
    assert not (output / IDS_FILE).exists()
    (inputs / f"1{folder.suffix}").unlink()
    refused = run(*folder.arguments(inputs, tmp_path / "other"))
    assert refused.code == 2
    assert "its 2 subfolders have 3 " in refused.said
    assert len(refused.said.splitlines()) == 1


@pytest.mark.parametrize(("options", "ids"), [
    ((), ["1", "a_1", "a_b_2", "b_1"]), (("--id_separator", "__"), ["1", "a__1", "a__b__2", "b__1"]),
])  # fmt: skip
def test_subfolders_are_read(
    media: Path, tmp_path: Path, run: Run, folder: Folder, options: tuple[str, ...], ids: list[str]
) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    for each in ("1", "a/1", "a/b/2", "b/1"):
        folder.put(media, inputs / each)
    (inputs / ".hidden").mkdir()
    folder.put(media, inputs / ".hidden" / "9")
    (inputs / "circle").symlink_to(".")
    (inputs / "out").symlink_to(media)
    arguments = folder.arguments(inputs, output, "--subfolders", *options)
    outcome = run(*arguments)
    assert (outcome.code, folder.done(output)) == (0, ids), outcome.said
    assert "2 subfolders are links and are not read" in outcome.said
    assert recorded_separator(output) == (options or ("", "_"))[1]
    again = run(*arguments)
    assert f"0 done, {len(ids)} already there" in again.said
    other = run(*folder.arguments(inputs, output, "--subfolders", "--id_separator", "+"))
    assert other.code == 2
    assert "were named with --id_separator" in other.said


def test_a_path_and_a_name_that_would_be_one_clip(media: Path, tmp_path: Path, run: Run, folder: Folder) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    for each in ("a/b", "a_b", "c"):
        folder.put(media, inputs / each)
    outcome = run(*folder.arguments(inputs, output, "--subfolders"))
    assert (outcome.code, folder.done(output), list(rows_of(output))) == (3, ["c"], ["a_b"])
    assert "a_b" in rows_of(output)["a_b"].message
    assert f"a/b{folder.suffix}" in rows_of(output)["a_b"].message
    outcome = run(*folder.arguments(inputs, tmp_path / "apart", "--subfolders", "--id_separator", "-"))
    assert (outcome.code, sorted(folder.done(tmp_path / "apart"))) == (0, ["a-b", "a_b", "c"])


def test_natural_order_over_subfolders(tmp_path: Path) -> None:
    for name in ("s10/2", "s10/10", "s9/1", "3", "s9/t/1", "20"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.mp4").touch()
    assert [clip.id for clip in list_videos(tmp_path, "_")] == ["3", "20", "s9_1", "s9_t_1", "s10_2", "s10_10"]


def test_folders_in_each_other_without_an_end_are_named(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["x"] * 40)
    deep.mkdir(parents=True)
    (deep / "a.mp4").touch()
    (tmp_path / "x" / "b.mp4").touch()
    clip, left_out = list_videos(tmp_path, "_")
    assert (clip.id, clip.problem) == ("x_b", None)
    with pytest.raises(ClipError, match="is not read: it is in 30 others"):
        left_out.source()


def test_a_folder_called_like_a_video(media: Path, tmp_path: Path) -> None:
    FOLDERS["get_frame"].put(media, tmp_path / "talk.mp4" / "talk")
    (clip,) = list_videos(tmp_path, "_")
    assert (clip.id, clip.problem) == ("talk.mp4_talk", None)
    (tmp_path / "talk.mkv").touch()
    assert [clip.id for clip in list_videos(tmp_path)] == ["talk"]


def test_companions_of_features_are_no_subfolders(media: Path, tmp_path: Path, run: Run) -> None:
    for place in (tmp_path / "in", tmp_path / "in" / "s"):
        (place / "time").mkdir(parents=True)
        np.save(place / "1.npy", np.ones((3, 4), np.float32))
        np.save(place / "time" / "1.npy", np.array([0.5, 1.0, 4.0]))
    outcome = run(*FOLDERS["from_files"].arguments(tmp_path / "in", tmp_path / "out", "--subfolders"))
    assert outcome.code == 0
    store = FeatureStore.open(tmp_path / "out")
    assert store.clips() == ["1", "s_1"]
    assert all(store.read(clip).time.tolist() == [0.5, 1.0, 4.0] for clip in store.clips())


@pytest.mark.parametrize("separator", ["", "/", "..", "\\", "a\nb", "\u200b", "x" * 21, "\t"])
def test_a_separator_that_can_be_none(tmp_path: Path, run: Run, separator: str) -> None:
    if separator == "..":  # two dots within a name are none of a path
        assert path_id(["a", "b"], separator) == "a..b"
        return
    (tmp_path / "in").mkdir()
    outcome = run(
        "get_frame", "--input_folder", tmp_path / "in", "--output_folder", tmp_path / "out", "--subfolders",
        f"--id_separator={separator}",
    )  # fmt: skip
    assert outcome.code == 2
    assert "--id_separator" in outcome.said


# Tables


@pytest.mark.parametrize(
    ("cell", "clip"),
    [
        ("1", "1"), ("[1]", "1"), ("1.mp4", "1"), ("1.MP4", "1"), ("[1.Mov]", "1"), ("[1].wav", "1"), ("a/1", "a_1"),
        ("a/1.mp4", "a_1"), ("a\\1", "a_1"), ("./a/1.JPG", "a_1"), ("a/b\\c.mkv", "a_b_c"), ("v1.2", "v1.2"),
        ("a.mp4/1", "a.mp4_1"), ("'a/1.mp4'", "a_1"), ("cafe\u0301/1.mp4", "café_1"), ("mp4", "mp4"),
        ("1.mp4.mov", "1"),
        ("1.", "1."), ("1.mp5", "1.mp5"), ("-1.mp4", "-1"),
    ],
)  # fmt: skip
def test_what_a_cell_means(cell: str, clip: str) -> None:
    assert cell_id(cell) == clip
    if "/" in cell:
        assert cell_id(cell, "+") == clip.replace("_", "+")


@pytest.mark.parametrize(
    "cell",
    ["/etc/passwd", "../1", "a/../1", "C:\\a\\1.mp4", "a//1", "a/", "a/.hidden", ".mp4", "", "a/.", "\\\\host\\1"],
)
def test_cells_that_lead_elsewhere(cell: str) -> None:
    with pytest.raises(UserError, match="id"):
        cell_id(cell)


def test_a_folders_and_a_manifests_names_meet(media: Path, tmp_path: Path, run: Run) -> None:
    """Frames, features and status of subfolders, with each way of writing their ids."""
    videos, frames, features = tmp_path / "videos", tmp_path / "frames", tmp_path / "features"
    for each in ("a/1", "a/2", "b/1", "b/2"):
        FOLDERS["get_frame"].put(media, videos / each)
    own = FOLDERS["get_frame"].arguments(videos, frames, "--subfolders", "--id_separator", "-")
    assert run(*own).code == 0
    assert run(*FOLDERS["visual"].arguments(frames, features)).code == 0  # without a word of how they were named
    assert recorded_separator(features) == "-"
    for ids in (
        ["a/1", "a/2", "b/1", "b/2"],
        ["a/1.mp4", "a\\2", "[b/1.MP4]", "./b/2.mp4"],
        ["a-1", "a-2", "b-1", "b-2"],
    ):
        manifest = write_manifest(tmp_path / "m.csv", ids)
        outcome = run("status", "--csv_path", manifest, "--visual_features_input_folder", features, n_workers=None)
        assert outcome.code == 0, (ids, outcome.said)
    assert Manifest.load(write_manifest(tmp_path / "m.csv", ["a/1.mp4", "a/2"]), TASK, "-").file_ids == [
        "a/1.mp4",
        "a/2",
    ]


def test_a_manifest_says_what_it_took_its_ids_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = Manifest.load(write_manifest(tmp_path / "m.csv", ["1.mp4", "[2]", "b/3.mp4"]), TASK)
    assert manifest.clips == ["1", "2", "b_3"]
    assert "2 ids are files' names or paths: '1.mp4' is the clip '1'" in caplog.text
    with pytest.raises(UserError, match=r"line 3: the id '1' was already used above"):
        Manifest.load(write_manifest(tmp_path / "m.csv", ["1", "1.mp4"]), TASK)


def test_a_training_reads_paths_and_a_submission_keeps_them(tmp_path: Path, run: Run, media: Path) -> None:
    frames, features = tmp_path / "frames", tmp_path / "features"
    ids = [f"s{k % 2}/{k}.mp4" for k in range(6)]
    for number, each in enumerate(ids):
        write_frames(frames / each.removesuffix(".mp4"), pictures(2, number))
    assert run(*FOLDERS["visual"].arguments(frames, features, "--subfolders")).code == 0
    manifest = write_manifest(tmp_path / "m.csv", ids, ("Train", "Train", "Val"))
    (tmp_path / "task.yaml").write_text("name: two\nkind: regression\ntargets: [Fear]\nmetrics: [mse]\n")
    options = ["--csv_path", manifest, "--visual_features_input_folder", features]
    outcome = run(
        "train_perceiver", *options, "--task", tmp_path / "task.yaml", "--output_checkpoint_folder", tmp_path / "run",
        "--preset", "tiny", "--n_epochs", "1", "--device", "cpu", n_workers=None,
    )  # fmt: skip
    assert outcome.code == 0, outcome.said
    outcome = run(
        "submission_creation", *options, "--model_path", tmp_path / "run", "--output_path", tmp_path / "s.csv",
        "--split", "Val", "--device", "cpu", n_workers=None,
    )  # fmt: skip
    assert outcome.code == 0, outcome.said
    with (tmp_path / "s.csv").open() as file:
        assert [row["File_ID"] for row in csv.DictReader(file)] == [ids[2], ids[5]]


def test_old_spellings_of_a_frames_folder(media: Path, tmp_path: Path, run: Run) -> None:
    """Folders that other tools call like the video."""
    write_frames(tmp_path / "in" / "1.mp4", pictures(2))
    assert run(*FOLDERS["visual"].arguments(tmp_path / "in", tmp_path / "out")).code == 0
    assert FeatureStore.open(tmp_path / "out").clips() == ["1"]


@pytest.mark.parametrize("content", ["{", "[]", '{"id_separator": 3}', '{"id_separator": "/"}', '{"id_separator": ""}'])
def test_a_record_of_ids_that_is_none(media: Path, tmp_path: Path, run: Run, content: str) -> None:
    inputs = tmp_path / "in"
    FOLDERS["visual"].put(media, inputs / "1")
    (inputs / IDS_FILE).write_text(content)
    outcome = run(*FOLDERS["visual"].arguments(inputs, tmp_path / "out"))
    assert outcome.code == 2
    assert IDS_FILE in outcome.said


# Many


def test_many_clips_are_listed_quickly(tmp_path: Path) -> None:
    """The time of 25,000 clips grows with their number, not with its square: a tenth takes about a tenth."""
    for n in (2500, 25000):
        (tmp_path / str(n)).mkdir()
        for number in range(n):
            (tmp_path / str(n) / f"clip_{number}.mp4").touch()
    seconds = {}
    for n in (2500, 25000):
        began = time.process_time()
        assert len(list_videos(tmp_path / str(n))) == n
        seconds[n] = time.process_time() - began
    assert seconds[25000] < 30 * seconds[2500] + 0.5


# Progress


@pytest.mark.parametrize(
    ("per_second", "said"),
    [
        (250.4, "250 clips/s"), (12.34, "12.3 clips/s"), (1.0, "1.0 clips/s"), (0.35, "21 clips/min"),
        (0.05, "3.0 clips/min"), (1 / 60, "1.0 clips/min"), (0.4 / 60, "2.5 min a clip"), (1 / 5400, "1.5 h a clip"),
        (0.0, "no clip yet"), (0.9999, "60 clips/min"),
    ],
)  # fmt: skip
def test_paces(per_second: float, said: str) -> None:
    assert pace(per_second) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "0 s"), (59.4, "59 s"), (59.9, "1 min"), (754, "13 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min"),
        (360000, "4 days 4 h"),
    ],
)  # fmt: skip
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


SLOW = """
import time
from viper.engine.progress import Progress
with Progress("get_frame", 4) as progress:
    for _ in range(2):
        time.sleep(1.3)
        progress.advance(1)
"""


def test_a_bar_on_a_terminal_says_the_same() -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    with subprocess.Popen([sys.executable, "-c", SLOW], stderr=theirs, stdout=theirs) as process:
        os.close(theirs)
        sent = b""
        with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
            while part := os.read(ours, 1 << 16):
                sent += part
        os.close(ours)
        assert process.wait(timeout=60) == 0
    assert re.search(r"2/4 \[\d\d:\d\d, [\d.]+ clips/min, \d+ s left, 1 failed\]", sent.decode()), sent


def test_suffixes_of_pictures_are_no_part_of_an_id() -> None:
    assert {path_id([f"1{suffix}"]) for suffix in IMAGE_SUFFIXES} == {"1"}
