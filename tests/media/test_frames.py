from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import write_wav
from conftest import Outcome, Run
from many import long_test
from media import coded_frame, coded_frames, frames_record, read_code, tone, write_coded

from viper.demo.media import write_video
from viper.engine.failures import read_failures
from viper.errors import ClipError
from viper.media.pictures import FrameClip, list_frame_clips, read_image, write_image
from viper.media.sampling import uniform_indices, window_bounds
from viper.media.video import read_frames

FPS = 25
ROOT = Path(__file__).parents[2]


@pytest.fixture
def get_frame(run: Run, videos: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """`get_frame(n_frames, *options)`: the command, from the folder `videos` to the folder `frames`."""
    folders = ("--input_folder", videos, "--output_folder", tmp_path / "frames")
    return lambda n_frames=4, *options: run("get_frame", *folders, "--n_frames", n_frames, *options)


def indices(clip: Path) -> list[int]:
    return [frame["index"] for frame in frames_record(clip)["frames"]]


def codes(clip: Path) -> list[int]:
    """The numbers the pictures themselves hold."""
    return [read_code(read_image(path)) for path in FrameClip(clip.name, clip).paths()]


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder, hidden ones but for the lock included."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Which file it is and when it was written, of every file."""
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*.*") if path.is_file()}


# --- which frames


@pytest.mark.parametrize(
    ("n_frames", "n", "expected"),
    [
        (10, 4, [0, 3, 6, 9]), (11, 4, [0, 3, 7, 10]), (100, 5, [0, 25, 50, 74, 99]), (5, 2, [0, 4]), (5, 1, [0]),
        (4, 4, [0, 1, 2, 3]), (3, 4, [0, 1, 2]), (1, 32, [0]), (0, 5, []), (33, 32, [*range(16), *range(17, 33)]),
    ],
)  # fmt: skip
def test_rounded_linspace(n_frames: int, n: int, expected: list[int]) -> None:
    assert uniform_indices(n_frames, n).tolist() == expected


def test_indices_are_as_many_as_asked_and_rise() -> None:
    for n_frames in range(1, 70):
        for n in range(1, 40):
            chosen = uniform_indices(n_frames, n)
            assert len(chosen) == min(n, n_frames)
            assert (np.diff(chosen) > 0).all()
            assert chosen[0] == 0
            assert n == 1 or chosen[-1] == n_frames - 1


def test_windows_of_sound_overlap_by_half() -> None:
    assert window_bounds(100, 4).tolist() == [[0, 40], [20, 60], [40, 80], [60, 100]]
    assert window_bounds(100, 1).tolist() == [[0, 100]]
    assert window_bounds(3, 4).tolist() == [[0, 3]]
    for length in range(1, 300, 7):
        for n in range(1, 40):
            bounds = window_bounds(length, n)
            width = bounds[:, 1] - bounds[:, 0]
            assert len(bounds) == (n if length > n else 1)
            assert (width == width[0]).all()
            assert width[0] > 0
            assert bounds[0, 0] == 0
            assert length - 1 <= bounds[-1, 1] <= length


# --- what is read


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi", "mpg", "webm"])
def test_every_container(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome], suffix: str) -> None:
    write_coded(videos / f"silent.{suffix}", 50, FPS)
    write_coded(videos / f"sounding.{suffix.upper()}", 50, FPS, samples=tone(2, 44100), rate=44100)
    assert get_frame(7).code == 0
    expected = [0, 8, 16, 24, 33, 41, 49]
    for clip in ("silent", "sounding"):
        folder = tmp_path / "frames" / clip
        assert indices(folder) == expected
        assert codes(folder) == expected
        kept = frames_record(folder)
        assert (kept["n_frames"], kept["undecodable_packets"], kept["rotation"]) == (50, 0, 0)
        assert (kept["width"], kept["height"]) == (192, 64)
        assert {path.name for path in folder.iterdir()} == {"frames.json", *(f"frame_{i}.jpg" for i in expected)}
    times = [frame["time"] for frame in frames_record(tmp_path / "frames" / "silent")["frames"]]
    np.testing.assert_allclose(times, np.array(expected) / FPS, atol=0.001)
    assert frames_record(tmp_path / "frames" / "silent")["fps"] == pytest.approx(FPS, abs=0.01)
    # With sound, a container may let the pictures begin a little later.
    times = [frame["time"] for frame in frames_record(tmp_path / "frames" / "sounding")["frames"]]
    np.testing.assert_allclose(times, np.array(expected) / FPS, atol=1.01 / FPS)


def test_the_record_of_a_clip(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]) -> None:
    write_coded(videos / "[7].mp4", 30, Fraction(30000, 1001))
    assert get_frame(3).code == 0
    kept = frames_record(tmp_path / "frames" / "7")
    assert (kept["clip"], kept["video"]) == ("7", "[7].mp4")
    assert kept["sampling"] == {"method": "uniform", "n_frames": 3}
    assert kept["fps"] == pytest.approx(30000 / 1001, abs=0.01)
    assert [frame["index"] for frame in kept["frames"]] == [0, 14, 29]  # rint(14.5) is 14
    np.testing.assert_allclose([f["time"] for f in kept["frames"]], np.array([0, 14, 29]) * 1001 / 30000, atol=0.001)


def test_pictures_are_those_of_the_video(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]) -> None:
    y, x = np.mgrid[:96, :128]
    # Red to the right, green downwards, blue constant: swapped channels or axes would show.
    picture = np.stack([x * 255 / 127, y * 255 / 95, np.full(x.shape, 64.0)], axis=2).astype(np.uint8)
    write_video(videos / "a.mp4", [picture] * 3, FPS)
    assert get_frame(1).code == 0
    image = read_image(tmp_path / "frames" / "a" / "frame_0.jpg")
    assert image.shape == picture.shape
    assert np.abs(image.astype(int) - picture).mean() < 4


@pytest.mark.parametrize("n_frames", [1, 2, 3])
def test_a_clip_with_fewer_frames_gives_all_it_has(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome], n_frames: int
) -> None:
    write_coded(videos / "a.mp4", n_frames, FPS)
    assert get_frame(8).code == 0
    assert codes(tmp_path / "frames" / "a") == list(range(n_frames))
    assert frames_record(tmp_path / "frames" / "a")["fps"] == pytest.approx(FPS, abs=0.01)
    times = [frame["time"] for frame in frames_record(tmp_path / "frames" / "a")["frames"]]
    np.testing.assert_allclose(times, np.arange(n_frames) / FPS, atol=0.001)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_a_variable_rate_keeps_its_times(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome], suffix: str
) -> None:
    steps = np.random.default_rng(0).choice([0.02, 0.04, 0.1, 0.35], 39)
    written = np.concatenate([[0.0], np.cumsum(steps)])
    write_coded(videos / f"a.{suffix}", 40, FPS, times=written.tolist())
    assert get_frame(40).code == 0
    kept = frames_record(tmp_path / "frames" / "a")
    assert codes(tmp_path / "frames" / "a") == list(range(40))
    np.testing.assert_allclose([frame["time"] for frame in kept["frames"]], written, atol=0.0011)  # mkv counts in ms
    assert kept["fps"] == pytest.approx(39 / written[-1], rel=0.01)


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_a_rotated_video_stands_upright(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome], degrees: int, suffix: str
) -> None:
    stored = (np.ascontiguousarray(np.rot90(frame, -degrees // 90)) for frame in coded_frames(12))
    write_video(videos / f"a.{suffix}", stored, FPS, rotation=degrees)
    assert get_frame(4).code == 0
    folder = tmp_path / "frames" / "a"
    assert codes(folder) == [0, 4, 7, 11]  # a picture on its side or upside down holds no valid number
    kept = frames_record(folder)
    assert (kept["width"], kept["height"]) == (192, 64)
    assert kept["rotation"] % 360 == degrees


def test_a_mirrored_video_with_wide_pixels_is_shown_as_players_do(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]
) -> None:
    with av.open(str(videos / "a.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        stream.set_display_matrix([-(1 << 16), 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30])
        for number in range(6):
            stored = np.ascontiguousarray(coded_frame(number)[:, ::-2])
            frame = av.VideoFrame.from_ndarray(stored, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert "its pixels are 2:1" in get_frame(3).said
    folder = tmp_path / "frames" / "a"
    assert codes(folder) == [0, 2, 5]
    kept = frames_record(folder)
    assert (kept["mirrored"], kept["rotation"], kept["sample_aspect_ratio"], kept["width"]) == (True, 0, "2:1", 192)


@pytest.mark.parametrize(
    ("codec", "pixel_format"),
    [("libx265", "yuv420p10le"), ("libx264", "yuv422p10le"), ("libx264", "yuv444p"), ("mjpeg", "yuvj420p")],
)
def test_other_codecs_and_pixel_formats(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome], codec: str, pixel_format: str
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    write_coded(videos / "a.mkv", 12, FPS, codec=codec, pixel_format=pixel_format)
    assert get_frame(4).code == 0
    assert codes(tmp_path / "frames" / "a") == [0, 4, 7, 11]


# --- damaged and wrong files


def count_decodable(path: Path) -> int:
    count = 0
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                count += len(packet.decode())
            except av.error.FFmpegError:
                continue
    return count


def damage(path: Path, first: int, last: int) -> None:
    """Overwrites the packets from number `first` up to `last` with noise; the container's tables stay as they are."""
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position, size in packets[first:last]:
        assert position is not None
        data[position : position + size] = np.random.default_rng(position).bytes(size)
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", ["mkv", "webm", "mpg"])
def test_a_file_that_was_cut_off_gives_what_it_has(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome], suffix: str
) -> None:
    path = write_coded(videos / f"a.{suffix}", 60, FPS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    n_frames = count_decodable(path)
    assert 10 < n_frames < 60
    assert get_frame(5).code == 0
    folder = tmp_path / "frames" / "a"
    assert frames_record(folder)["n_frames"] == n_frames
    assert indices(folder) == uniform_indices(n_frames, 5).tolist()
    # The last frame may come after some that were cut off with the end of the file: its time says so.
    assert codes(folder) == [round(frame["time"] * FPS) for frame in frames_record(folder)["frames"]]
    assert codes(folder)[:-1] == indices(folder)[:-1]


@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_damaged_packets_are_not_counted_as_frames(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome], suffix: str
) -> None:
    path = write_coded(videos / f"a.{suffix}", 60, FPS)
    damage(path, 20, 30)
    n_frames = count_decodable(path)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 60  # what the container says, and what is not true
    assert n_frames < 60
    outcome = get_frame(6)
    assert outcome.code == 0
    assert outcome.said.count(f"a.{suffix}: declares 60 frames, {n_frames} can be read") == 1
    folder = tmp_path / "frames" / "a"
    assert frames_record(folder)["n_frames"] == n_frames
    assert frames_record(folder)["declared"] == {"frames": 60}
    assert frames_record(folder)["undecodable_packets"] == 10
    assert indices(folder) == uniform_indices(n_frames, 6).tolist()
    times = [frame["time"] for frame in frames_record(folder)["frames"]]
    assert (np.diff(times) > 0).all()
    assert times[-1] == pytest.approx(59 / FPS, abs=0.05)  # the stream's own time: the gap is not closed up


def test_a_video_is_decoded_a_second_time_only_when_that_changes_the_choice(videos: Path) -> None:
    asked: list[int] = []

    def choose(times: np.ndarray) -> np.ndarray:
        asked.append(len(times))
        return uniform_indices(len(times), 4)

    whole = write_coded(videos / "whole.mp4", 30, FPS)
    assert read_frames(whole, choose).n_frames == 30
    assert asked == [30]
    asked.clear()
    damage(whole, 10, 14)
    frames = read_frames(whole, choose)
    assert asked[0] == 30
    assert asked[-1] == frames.n_frames == 26
    assert frames.indices.tolist() == uniform_indices(26, 4).tolist()


def write_wrong_files(folder: Path) -> dict[str, str]:
    """Files with a video's suffix that are no videos, and a word of what is to be said of each."""
    write_wav(folder / "sound.wav", tone(0.5, 16000), 16000)
    (folder / "sound.wav").rename(folder / "sound.mov")
    (folder / "empty.mp4").touch()
    (folder / "text.avi").write_text("not a video\n" * 50)
    cut = write_coded(folder / "cut.mp4", 20, FPS)
    cut.write_bytes(cut.read_bytes()[:600])
    destroyed = write_coded(folder / "destroyed.mp4", 20, FPS)
    damage(destroyed, 0, 20)
    return {
        "sound": "has no video, only audio", "empty": "is empty", "text": "cannot be opened", "cut": "cannot be opened",
        "destroyed": "no frame of its video could be decoded",
    }  # fmt: skip


def test_files_that_are_no_videos_cost_only_themselves(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]
) -> None:
    wrong = write_wrong_files(videos)
    write_coded(videos / "good.mp4", 10, FPS)
    outcome = get_frame()
    assert outcome.code == 3
    failures = {row.clip: row for row in read_failures(tmp_path / "frames")}
    assert failures.keys() == wrong.keys()
    for clip, said in wrong.items():
        assert said in failures[clip].message
        assert failures[clip].message.startswith(f"{clip}.")
        assert (failures[clip].stage, failures[clip].error) == ("get_frame", "ClipError")
        assert sum(failures[clip].message in line for line in outcome.said.splitlines()) == 1
    assert "Traceback" not in outcome.said
    assert codes(tmp_path / "frames" / "good") == [0, 3, 6, 9]
    assert sorted(os.listdir(tmp_path / "frames")) == [".failures.csv.lock", "failures.csv", "good"]
    # Mended files leave the list, one by one.
    for clip in wrong:
        for path in videos.glob(f"{clip}.*"):
            path.unlink()
        write_coded(videos / f"{clip}.mp4", 5, FPS)
    assert get_frame().code == 0
    assert not (tmp_path / "frames" / "failures.csv").exists()


def test_nothing_usable_is_another_exit_code(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]) -> None:
    wrong = write_wrong_files(videos)
    assert get_frame().code == 1
    assert {row.clip for row in read_failures(tmp_path / "frames")} == wrong.keys()


# --- folders and names


def refused(outcome: Outcome) -> str:
    assert outcome.code == 2
    (line,) = outcome.said.splitlines()
    assert line.startswith("viper: error: ")
    return line


def test_wrong_folders_and_options(videos: Path, tmp_path: Path, run: Run, get_frame: Callable[..., Outcome]) -> None:
    assert str(videos) in refused(get_frame())
    (videos / "notes.txt").touch()
    (videos / ".hidden.mp4").touch()
    assert "no videos in it" in refused(get_frame())
    assert not (tmp_path / "frames").exists()
    missing = run("get_frame", "--input_folder", tmp_path / "none", "--output_folder", tmp_path / "frames")
    assert "none: no such folder" in refused(missing)
    write_coded(videos / "a.mp4", 3, FPS)
    for n_frames in (0, -1):
        assert "--n_frames" in refused(get_frame(n_frames))
    assert "--n_workers" in refused(get_frame(4, "--n_workers", "-2"))


def test_two_files_that_would_be_one_clip(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]) -> None:
    for name in ("[7].mp4", "7.mov", "8.mp4"):
        write_coded(videos / name, 3, FPS)
    assert get_frame().code == 3
    (row,) = read_failures(tmp_path / "frames")
    assert row.clip == "7"
    assert "'7.mov' and '[7].mp4' would both be clip '7'" in row.message
    assert [clip.id for clip in list_frame_clips(tmp_path / "frames")] == ["8"]
    (videos / "7.mov").unlink()
    assert get_frame().code == 0
    assert read_failures(tmp_path / "frames") == []


def test_names_of_all_kinds(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]) -> None:
    clips = ["0010", "9", "10", "my clip (2)", "a.b.c", "表情 é", 'it\'s 100% "quoted"', "-x", "%d"]
    for clip in clips:
        write_coded(videos / f"{clip}.mp4", 3, FPS)
    outcome = get_frame(2)
    assert outcome.code == 0
    found = [clip.id for clip in list_frame_clips(tmp_path / "frames")]
    assert sorted(found) == sorted(clips)
    assert found.index("9") < found.index("10")
    for clip in clips:
        assert codes(tmp_path / "frames" / clip) == [0, 2]


def test_a_name_that_can_be_no_id_costs_that_clip_alone(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]
) -> None:
    write_coded(videos / "[].mp4", 3, FPS)
    assert get_frame().code == 1  # nothing else is there
    write_coded(videos / "a.mp4", 3, FPS)
    assert get_frame().code == 3
    (row,) = read_failures(tmp_path / "frames")
    assert (row.clip, row.error) == ("[].mp4", "UnusableEntryError")
    assert "'[].mp4' can be no clip: the id is empty" in row.message
    (videos / "[].mp4").rename(videos / "b.mp4")
    assert get_frame().code == 0
    assert read_failures(tmp_path / "frames") == []  # the name is gone, and its row with it
    try:
        Path(os.fsdecode(os.fsencode(videos) + b"/caf\xe9.mp4")).touch()
    except OSError:
        pytest.skip("this file system has no names outside UTF-8")
    assert get_frame().code == 3
    assert "UTF-8" in read_failures(tmp_path / "frames")[0].message


def test_other_files_are_left_alone(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]) -> None:
    write_coded(videos / "a.mp4", 3, FPS)
    (videos / "labels.csv").write_text("x")
    outcome = get_frame()
    assert outcome.code == 0
    assert "ignoring 1 files that are not videos" in outcome.said
    assert [clip.id for clip in list_frame_clips(tmp_path / "frames")] == ["a"]


# --- pictures on disk


def test_pictures_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1, 100):
        write_image(tmp_path / f"img_{number}.jpg", np.full((16, 16, 3), number, np.uint8))
    (tmp_path / "notes.txt").touch()
    clip = FrameClip("a", tmp_path)
    assert [path.name for path in clip.paths()] == ["img_1.jpg", "img_2.jpg", "img_10.jpg", "img_100.jpg"]
    frames = clip.read()
    assert [int(image.mean().round()) for image in frames.images] == [1, 2, 10, 100]
    np.testing.assert_allclose(frames.times, [0.04, 0.08, 0.4, 4.0])
    assert frames.found.all()
    assert frames.points is None


def test_two_faces_of_a_frame_are_not_one_clip(tmp_path: Path) -> None:
    for name in ("1_0", "2_1", "10_0"):
        write_image(tmp_path / f"{name}.jpg", np.full((16, 16, 3), 9, np.uint8))
    assert [(frame["index"], frame["time"]) for frame in FrameClip("a", tmp_path).record["frames"]] == [
        (1, 0.04), (2, 0.08), (10, 0.4),
    ]  # fmt: skip
    write_image(tmp_path / "2_0.jpg", np.full((16, 16, 3), 9, np.uint8))
    with pytest.raises(ClipError, match=r"2_0\.jpg and 2_1\.jpg: several pictures of a frame"):
        FrameClip("a", tmp_path).read()


def test_frames_are_read_back_with_their_times(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]) -> None:
    write_coded(videos / "a.mp4", 120, FPS)
    assert get_frame(12).code == 0
    clip = FrameClip("a", tmp_path / "frames" / "a")
    frames = clip.read()
    expected = uniform_indices(120, 12)
    assert [read_code(image) for image in frames.images] == expected.tolist()  # frame_11 before frame_108
    np.testing.assert_allclose(frames.times, expected / FPS, atol=0.001)
    source = clip.source()
    assert get_frame(12, "--no-incremental").code == 0
    assert FrameClip("a", clip.folder).source() == source
    assert get_frame(6).code == 0
    assert FrameClip("a", clip.folder).source() != source


def test_a_damaged_picture_is_named(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]) -> None:
    write_coded(videos / "a.mp4", 4, FPS)
    get_frame()
    folder = tmp_path / "frames" / "a"
    for spoil in (b"", b"no picture"):
        (folder / "frame_2.jpg").write_bytes(spoil)
        with pytest.raises(ClipError, match=r"a/frame_2\.jpg"):
            FrameClip("a", folder).read()
    (folder / "frame_2.jpg").unlink()
    with pytest.raises(ClipError, match=r"a/frame_2\.jpg"):
        FrameClip("a", folder).read()


# --- stopping and going on


def test_a_second_run_does_nothing(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]) -> None:
    for i in range(3):
        write_coded(videos / f"{i}.mp4", 8, FPS)
    assert get_frame().code == 0
    before = stamps(tmp_path / "frames")
    outcome = get_frame()
    assert outcome.code == 0
    assert "0 done, 3 already there" in outcome.said
    assert stamps(tmp_path / "frames") == before
    assert get_frame(4, "--no-incremental").code == 0
    assert not before.items() & stamps(tmp_path / "frames").items()


SPOILS: dict[str, Callable[[Path], object]] = {
    "picture-gone": lambda clip: (clip / "frame_2.jpg").unlink(),
    "picture-empty": lambda clip: (clip / "frame_2.jpg").write_bytes(b""),
    "record-gone": lambda clip: (clip / "frames.json").unlink(),
    "record-cut": lambda clip: (clip / "frames.json").write_bytes((clip / "frames.json").read_bytes()[:-40]),
    "record-empty": lambda clip: (clip / "frames.json").write_bytes(b""),
    "record-other": lambda clip: (clip / "frames.json").write_text("[1, 2]"),
    "record-without-frames": lambda clip: (clip / "frames.json").write_text(
        json.dumps({key: value for key, value in frames_record(clip).items() if key != "frames"})
    ),
    "folder-empty": lambda clip: deque(map(os.unlink, clip.iterdir())),
    "folder-gone": shutil.rmtree,
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_only_what_is_spoilt_is_done_again(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome], spoil: str
) -> None:
    for i in range(3):
        write_coded(videos / f"{i}.mp4", 8, FPS)
    get_frame()
    before, written = stamps(tmp_path / "frames"), content(tmp_path / "frames")
    SPOILS[spoil](tmp_path / "frames" / "1")
    outcome = get_frame()
    assert (outcome.code, "1 done, 2 already there" in outcome.said) == (0, True)
    assert content(tmp_path / "frames") == written
    after = stamps(tmp_path / "frames")
    assert {path for path in before if before[path] == after[path]} == {path for path in before if "/1/" not in path}


def test_another_number_of_frames_or_another_video_is_done_again(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]
) -> None:
    for clip in ("a", "b"):
        write_coded(videos / f"{clip}.mp4", 8, FPS)
    get_frame(4)
    assert "2 done, 0 already there" in get_frame(3).said
    assert sorted(os.listdir(tmp_path / "frames" / "a")) == ["frame_0.jpg", "frame_4.jpg", "frame_7.jpg", "frames.json"]
    write_coded(videos / "b.mp4", 21, FPS)
    assert "1 done, 1 already there" in get_frame(3).said
    assert codes(tmp_path / "frames" / "b") == [0, 10, 20]


def test_a_clip_that_cannot_be_done_again_keeps_its_older_frames(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]
) -> None:
    write_coded(videos / "a.mp4", 8, FPS)
    get_frame()
    before = stamps(tmp_path / "frames" / "a")
    (videos / "a.mp4").write_bytes(b"")
    assert get_frame().code == 1
    assert stamps(tmp_path / "frames" / "a") == before


def test_worker_processes_write_the_same(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]) -> None:
    for i in range(5):
        write_coded(videos / f"{i}.mp4", 8 + i, FPS)
    write_wrong_files(videos)
    alone = get_frame()
    written = content(tmp_path / "frames")
    shutil.rmtree(tmp_path / "frames")
    assert get_frame(4, "--n_workers", "2").code == alone.code == 3
    assert content(tmp_path / "frames") == written


@long_test
def test_a_killed_run_is_taken_up_where_it_stopped(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]
) -> None:
    write_coded(videos / "0.mp4", 150, FPS)
    for i in range(1, 24):
        os.link(videos / "0.mp4", videos / f"{i}.mp4")
    output = tmp_path / "killed"
    command = [sys.executable, str(ROOT / "scripts" / "get_frame.py"), "--input_folder", str(videos),
               "--output_folder", str(output), "--n_frames", "40", "--n_workers", "2"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (output.is_dir() and len(list_done(output)) >= 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)  # its end comes when the last worker is gone too
    kept = list_done(output)
    assert 2 <= len(kept) < 24, "the run was over before it could be killed"
    (output / ".tmp-0123456789ab").mkdir(exist_ok=True)  # what a run may leave that had no time to clean up
    (output / ".tmp-0123456789ab" / "frame_0.jpg").write_bytes(b"half")
    assert [clip.id for clip in list_frame_clips(output)] == list_done(output)
    before = stamps(output)
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    after = stamps(output)
    assert all(after[path] == before[path] for path in before if path.split("/")[-2] in kept)
    shutil.rmtree(output / ".tmp-0123456789ab")
    assert get_frame(40).code == 0
    assert content(output) == content(tmp_path / "frames")


def list_done(output: Path) -> list[str]:
    return sorted((path.name for path in output.iterdir() if not path.name.startswith(".")), key=int)


def test_equal_names_in_two_folders(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]) -> None:
    for name in ("a/1.mp4", "b/1.mp4", "2.mp4"):
        (videos / name).parent.mkdir(exist_ok=True)
        write_coded(videos / name, 3, FPS)
    outcome = get_frame(2)
    assert outcome.code == 0
    assert "its 2 subfolders have 2 videos, which are not read: --subfolders reads them, as 'a_1'" in outcome.said
    assert [clip.id for clip in list_frame_clips(tmp_path / "frames")] == ["2"]
    assert get_frame(2, "--subfolders").code == 0
    assert [clip.id for clip in list_frame_clips(tmp_path / "frames")] == ["2", "a_1", "b_1"]
