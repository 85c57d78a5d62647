"""Videos and folders of pictures as cameras, players and other tools make them: right pictures at right times."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from conftest import Run
from csv_files import rows_of
from many import long_test
from media import coded_frame, frames_record, read_code, tone, write_coded
from PIL import Image

from viper.media.pictures import FRAMES_FILE, FrameClip, read_image, write_record
from viper.media.video import read_frames, stream_frames
from viper.store import FeatureStore

pytestmark = long_test

CLIPS = Path(__file__).parents[3] / "shared" / "clips"
FPS = 25
ONE = 1 << 16  # of a display matrix


@dataclass(frozen=True)
class Part:
    """A stretch of a video: its pictures as they are stored, and what the codec says of them."""

    pictures: Sequence[np.ndarray]
    pixel_format: str = "yuv420p"
    pixel_shape: Fraction = Fraction(1)
    codec: str = "libx264"
    matrix: tuple[float, float, float, float] | None = None

    def encoder(self, stream: Any = None) -> Any:
        """An encoder of its own, or that of a stream, made ready."""
        encoder = av.CodecContext.create(self.codec, "w") if stream is None else stream.codec_context
        encoder.height, encoder.width = self.pictures[0].shape[:2]
        encoder.pix_fmt, encoder.time_base, encoder.framerate = self.pixel_format, Fraction(1, FPS), Fraction(FPS)
        encoder.sample_aspect_ratio = self.pixel_shape
        encoder.options = {"crf": "8", "bf": "2"} if self.codec == "libx264" else {"bf": "2", "b": "4000000"}
        encoder.thread_count = 1
        return encoder

    def packets(self, first: int) -> Iterator[av.Packet]:
        """The packets of its pictures, the first of which is shown as number `first`."""
        encoder = self.encoder()
        for place, picture in enumerate(self.pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=self.pixel_format)
            frame.pts, frame.time_base = first + place, Fraction(1, FPS)
            yield from encoder.encode(frame)
        yield from encoder.encode(None)


def write_parts(path: Path, *parts: Part, **options: str) -> Path:
    """A video of parts that were encoded apart, one behind the other."""
    with av.open(str(path), "w", container_options=options) as container:
        stream = container.add_stream(parts[0].codec, rate=FPS)
        parts[0].encoder(stream)
        if parts[0].matrix is not None:
            a, b, c, d = (round(value * ONE) for value in parts[0].matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        first = 0
        for part in parts:
            for packet in part.packets(first):
                packet.stream, packet.time_base = stream, Fraction(1, FPS)
                container.mux(packet)
            first += len(part.pictures)
    return path


def coded(first: int, n: int, width: int = 192, height: int = 64) -> list[np.ndarray]:
    """Pictures that hold numbers, stored at a width."""
    pictures = [coded_frame(number, height) for number in range(first, first + n)]
    return [cv2.resize(each, (width, height), interpolation=cv2.INTER_AREA) for each in pictures]


def flat(colour: tuple[int, int, int], width: int, height: int) -> np.ndarray:
    """A picture of a colour."""
    return np.full((height, width, 3), colour, np.uint8)


@pytest.fixture
def get_frame(run: Run, videos: Path, tmp_path: Path) -> Callable[..., Any]:
    """`get_frame(n_frames, *options)`: the command, from the folder `videos` to the folder `frames`."""
    folders = ("--input_folder", videos, "--output_folder", tmp_path / "frames")
    return lambda n_frames=4, *options: run("get_frame", *folders, "--n_frames", n_frames, *options)


def pictures_of(folder: Path) -> list[np.ndarray]:
    return [read_image(path) for path in FrameClip(folder.name, folder).paths()]


# --- pictures of other tools: which frame each is, and when


def named(pattern: str, *values: Any) -> list[str]:
    return [pattern.format(*(value if isinstance(value, tuple) else (value,))) for value in values]


@dataclass(frozen=True)
class Names:
    """Names of pictures in a folder and the times they have, in order of time; or a word of what is said instead."""

    files: list[str]
    times: list[float] | None
    said: str = ""
    options: tuple[str, ...] = ()


FACES_OF_FRAMES = named("{}_{}.png", (1, 0), (1, 1), (2, 0), (2, 1), (10, 0))
NAMES = {
    "padded": Names(named("{:04d}.jpg", 1, 2, 10), [0.04, 0.08, 0.4]),
    "natural": Names(named("img{}.png", 9, 10, 100), [0.36, 0.4, 4.0]),
    "gaps": Names(named("frame_{:05d}.jpg", 0, 1, 50, 51), [0, 0.04, 2.0, 2.04]),
    "frame-face": Names(FACES_OF_FRAMES, None, "several pictures of a frame"),
    "one-face-a-frame": Names(named("{}_{}.png", (1, 0), (2, 1), (3, 0)), [0.04, 0.08, 0.12], "its frame number"),
    "face-last": Names(named("clip_{:04d}_face0.png", 1, 2, 7), [0.04, 0.08, 0.28], "0001"),
    "faces-only": Names(named("clip_0001_face{}.png", 0, 1, 2), None, "several faces"),
    "numbers-behind": Names(named("img_{:05d}_02.png", 12, 13, 14), [0.48, 0.52, 0.56], "00012"),
    "numbers-before": Names(named("img_00012_{:02d}.png", 0, 1, 2), [0, 0.04, 0.08]),
    "openface": Names(named("frame_det_00_{:06d}.bmp", 1, 2, 3), [0.04, 0.08, 0.12]),
    "openface-two": Names(named("frame_det_{:02d}_{:06d}.bmp", (0, 1), (1, 2), (0, 3)), [0.04, 0.08, 0.12], "000001"),
    "half-frames": Names(named("frame-{}.png", 12.5, 13.0, 13.5), [0.5, 0.52, 0.54]),
    "seconds": Names(named("t={}s.png", 3.2, 3.4, 10.0), [3.2, 3.4, 10.0], "its second"),
    "milliseconds": Names(named("x_{}ms.png", 40, 80, 1000), [0.04, 0.08, 1.0], "its millisecond"),
    "both": Names(named("frame_{}_{}ms.png", (1, 10), (2, 30), (3, 90)), [0.01, 0.03, 0.09], "its frame number"),
    "scene": Names(named("shot010.{:04d}.png", 1, 2, 3), [0.04, 0.08, 0.12]),
    "score": Names(named("{}_{}.png", (1, 0.98), (2, 0.5), (3, 0.77)), [0.04, 0.08, 0.12], "its frame number"),
    "decimals": Names(named("{}.png", 12.5, 13.0, 13.5), None, "may be seconds"),
    "clock": Names(named("1_{}-{}.png", (58, 58), (58, 59), (59, 0)), None, "any may be the frame's"),
    "counter": Names(named("f{}.png", 1696012345678, 1696012345718), None, "no frame numbers"),
    "twice": Names(["0001.jpg", "0001.png", "0002.jpg"], None, "0001.jpg and 0001.png"),
    "sides": Names(["left_1.png", "right_1.png"], None, "of the same frame"),
    "mixed": Names(["1.jpg", "2.jpg", "thumbnail.jpg"], None, "thumbnail.jpg is not named like"),
    "words": Names(["b.png", "a.png"], [0.0, 0.04], "taken in order"),
    "upper": Names(["A_1.JPG", "A_2.PNG", "A_3.Bmp", "A_4.TIF", "A_5.webp"], [0.04, 0.08, 0.12, 0.16, 0.2]),
    "single": Names(["clip_0532.jpg"], [0.0], "its only picture"),
}
CHOSEN = {
    "face": Names(FACES_OF_FRAMES, [0.1, 0.2, 1.0], "2 of 5 pictures", ("--picture_names", "{frame}_0")),
    "order": Names(["x9_2.png", "x9_10.png", "x10_1.png"], [0, 0.1, 0.2], "", ("--picture_names", "order")),
    "time": Names(named("{}.png", 12.5, 13.0, 13.5), [12.5, 13.0, 13.5], "", ("--picture_names", "{seconds}")),
    "none": Names(named("{}.png", 1, 2), None, "is named like", ("--picture_names", "*_{frame}")),
}


def write_named(folder: Path, names: Sequence[str]) -> None:
    """Pictures of these names; each holds the place of its name in the list."""
    folder.mkdir(parents=True)
    for place, name in enumerate(names):
        Image.fromarray(coded_frame(place)).save(folder / name)


def times_of(run: Run, frames: Path, features: Path, *options: str) -> tuple[FeatureStore, dict[str, str], str]:
    """Features of pictures; clip -> message of those that failed; what was said."""
    arguments = ("--input_folder", frames, "--output_folder", features, "--model_name", "hog", "--device", "cpu")
    outcome = run("extract_visual_features", *arguments, *options)
    failed = features / "failures.csv"
    messages = {row["clip"]: row["message"] for row in rows_of(failed)} if failed.exists() else {}
    return FeatureStore.open(features), messages, outcome.said


def test_the_number_that_varies_is_the_frames(run: Run, tmp_path: Path) -> None:
    for clip, case in NAMES.items():
        write_named(tmp_path / "frames" / clip, case.files)
    store, messages, said = times_of(run, tmp_path / "frames", tmp_path / "features")
    assert "--picture_fps" in said
    assert messages.keys() == {clip for clip, case in NAMES.items() if case.times is None}
    for clip, case in NAMES.items():
        if case.times is None:
            assert case.said in messages[clip], clip
            assert "--picture_names" in messages[clip]
            continue
        np.testing.assert_allclose(store.read(clip).time, case.times, atol=1e-6, err_msg=clip)
        lines = [line for line in said.splitlines() if f"{clip}: " in line]
        assert any(case.said in line for line in lines) if case.said else not lines, (clip, lines)
    # In the order of times, not of names.
    frames = FrameClip("words", tmp_path / "frames" / "words").read()
    assert [read_code(image) for image in frames.images] == [1, 0]


@pytest.mark.parametrize("case", CHOSEN)
def test_an_option_says_what_names_say(run: Run, tmp_path: Path, case: str) -> None:
    names = CHOSEN[case]
    write_named(tmp_path / "frames" / "a", names.files)
    options = (*names.options, "--picture_fps", "10")
    if names.times is None:
        arguments = ("--input_folder", tmp_path / "frames", "--output_folder", tmp_path / "features")
        outcome = run("extract_visual_features", *arguments, "--model_name", "hog", "--device", "cpu", *options)
        assert outcome.code == 1
        assert names.said in outcome.said
        return
    store, _, said = times_of(run, tmp_path / "frames", tmp_path / "features", *options)
    np.testing.assert_allclose(store.read("a").time, names.times, atol=1e-6)
    assert names.said in said
    assert "0 done, 1 already there" in times_of(run, tmp_path / "frames", tmp_path / "features", *options)[2]
    other = times_of(run, tmp_path / "frames", tmp_path / "features", *names.options, "--picture_fps", "20")[2]
    assert ("1 done" in other) == (case != "time")  # done again where the times are others


def test_wrong_options_of_names_are_one_line(run: Run, tmp_path: Path) -> None:
    write_named(tmp_path / "frames" / "a", ["1.png"])
    for options in (("--picture_names", "frame"), ("--picture_names", "{x}"), ("--picture_fps", "0"),
                    ("--picture_names", "{seconds}{ms}")):  # fmt: skip
        for command in ("crop_images", "extract_visual_features"):
            given = ("--input_folder", tmp_path / "frames", "--output_folder", tmp_path / "out", *options)
            outcome = run(command, *given)
            assert outcome.code == 2
            assert options[0] in outcome.said.splitlines()[-1]


def test_crops_of_named_pictures_keep_their_frames(run: Run, tmp_path: Path) -> None:
    write_named(tmp_path / "frames" / "a", FACES_OF_FRAMES)
    folders = ("--input_folder", tmp_path / "frames", "--output_folder", tmp_path / "faces", "--device", "cpu")
    assert run("crop_images", *folders).code == 1
    assert run("crop_images", *folders, "--picture_names", "{frame}_1", "--picture_fps", "10").code == 0
    record = json.loads((tmp_path / "faces" / "a" / "faces.json").read_text())
    assert [(frame["index"], frame["time"]) for frame in record["frames"]] == [(1, 0.1), (2, 0.2)]
    # The pictures that were not named so were not read.
    (tmp_path / "frames" / "a" / "10_0.png").write_bytes(b"")
    assert "1 already there" in run(
        "crop_images", *folders, "--picture_names", "{frame}_1", "--picture_fps", "10"
    ).said  # fmt: skip


# --- kinds of pictures


QUARTERS = np.zeros((48, 64, 3), np.uint8)
QUARTERS[:24, :32], QUARTERS[:24, 32:] = (220, 40, 40), (40, 200, 60)
QUARTERS[24:, :32], QUARTERS[24:, 32:] = (50, 60, 210), (220, 210, 40)
# EXIF's orientation -> how a picture that is seen as it should be is stored.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image, 2: np.fliplr, 3: lambda image: np.rot90(image, 2), 4: np.flipud,
    5: lambda image: image.transpose(1, 0, 2), 6: lambda image: np.rot90(image, 1),
    7: lambda image: np.rot90(image.transpose(1, 0, 2), 2), 8: lambda image: np.rot90(image, -1),
}  # fmt: skip


def corners(image: np.ndarray) -> list[list[int]]:
    return [image[y, x].tolist() for y in (6, -6) for x in (6, -6)]


def save(path: Path, image: np.ndarray, orientation: int | None = None, mode: str = "RGB", **options: Any) -> None:
    if orientation is not None:
        exif = Image.Exif()
        exif[0x112] = orientation
        options |= {"tiffinfo": {274: orientation}} if path.suffix == ".tif" else {"exif": exif}
    if path.suffix == ".webp":
        options["lossless"] = True
    Image.fromarray(np.ascontiguousarray(image)).convert(mode).save(path, **options)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_pictures_stand_as_exif_says(tmp_path: Path, suffix: str) -> None:
    for orientation, stored in STORED.items():
        save(tmp_path / f"{orientation}{suffix}", stored(QUARTERS), orientation)
    for image in FrameClip("a", tmp_path).read().images:
        assert image.shape == QUARTERS.shape
        assert np.abs(image.astype(int) - QUARTERS).mean() < 3


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(".bmp", "RGB"), (".bmp", "P"), (".bmp", "RGBA"), (".tif", "RGB"), (".tif", "RGBA"), (".tiff", "CMYK"),
     (".ppm", "RGB"), (".webp", "RGBA"), (".gif", "P"), (".png", "P"), (".png", "RGBA"), (".jpg", "CMYK"),
     (".jpeg", "RGB")],
)  # fmt: skip
def test_kinds_of_pictures_have_their_colours(tmp_path: Path, suffix: str, mode: str) -> None:
    adaptive = Image.fromarray(QUARTERS).convert("P", palette=Image.Palette.ADAPTIVE)
    if mode == "P":
        adaptive.save(tmp_path / f"1{suffix}")
    else:
        save(tmp_path / f"1{suffix}", QUARTERS, mode=mode)
    (image,) = FrameClip("a", tmp_path).read().images
    assert np.abs(np.array(corners(image)) - corners(QUARTERS)).max() <= 5


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_pictures_of_16_bits_are_not_clipped(tmp_path: Path, suffix: str) -> None:
    gray = np.tile(np.arange(0, 256, 4, dtype=np.uint16) * 257, (16, 1))
    assert cv2.imwrite(str(tmp_path / f"1{suffix}"), gray)
    (image,) = FrameClip("a", tmp_path).read().images
    assert np.abs(image[8, :, 0].astype(int) - gray[8] // 257).max() <= 1


def test_animations_and_half_pictures_cost_their_clip(tmp_path: Path) -> None:
    frames = [Image.fromarray(QUARTERS), Image.fromarray(255 - QUARTERS)]
    for suffix in (".gif", ".webp", ".tif", ".png"):
        path = tmp_path / suffix[1:] / f"1{suffix}"
        path.parent.mkdir()
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with pytest.raises(Exception, match="holds several pictures"):
            FrameClip("a", path.parent).read()
    for suffix in (".bmp", ".tif", ".ppm", ".webp", ".png"):
        path = tmp_path / f"cut{suffix[1:]}" / f"1{suffix}"
        path.parent.mkdir()
        save(path, np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
        path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(Exception, match=f"1{suffix}"):
            FrameClip("a", path.parent).read()


def test_pictures_of_several_sizes(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "frames" / "a"
    folder.mkdir(parents=True)
    for number, (width, height) in enumerate([(64, 48), (96, 64), (48, 96)]):
        Image.fromarray(flat((number * 50, 90, 90), width, height)).save(folder / f"{number}.png")
    assert run("crop_images", "--input_folder", folder.parent, "--output_folder", tmp_path / "faces").code == 0
    store, messages, _ = times_of(run, folder.parent, tmp_path / "features")
    assert not messages
    assert len(store.read("a").tokens) == 3


# --- turned, mirrored, with pixels that are not square


# How a picture is stored -> the matrix by which it is shown as it should be (x' = a x + c y, y' = b x + d y).
MATRICES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], tuple[int, int, int, int]]] = {
    "as-is": (lambda image: image, (1, 0, 0, 1)),
    "mirrored": (np.fliplr, (-1, 0, 0, 1)),
    "upside-down": (lambda image: np.rot90(image, 2), (-1, 0, 0, -1)),
    "flipped": (np.flipud, (1, 0, 0, -1)),
    "transposed": (lambda image: image.transpose(1, 0, 2), (0, 1, 1, 0)),
    "clockwise": (lambda image: np.rot90(image, 1), (0, 1, -1, 0)),
    "counter-clockwise": (lambda image: np.rot90(image, -1), (0, -1, 1, 0)),
    "transverse": (lambda image: np.rot90(image.transpose(1, 0, 2), 2), (0, -1, -1, 0)),
    "twice-as-large": (lambda image: image, (2, 0, 0, 2)),
    "zeros": (lambda image: image, (0, 0, 0, 0)),
}


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_all_orientations_stand_upright(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Any], suffix: str
) -> None:
    for clip, (stored, matrix) in MATRICES.items():
        part = Part([np.ascontiguousarray(stored(QUARTERS))] * 3, matrix=matrix)
        write_parts(videos / f"{clip}.{suffix}", part)
    assert get_frame(2).code == 0
    for clip, (_, (a, b, c, d)) in MATRICES.items():
        for image in pictures_of(tmp_path / "frames" / clip):
            assert image.shape == QUARTERS.shape, clip
            assert np.abs(np.array(corners(image)) - corners(QUARTERS)).max() <= 6, clip
        assert frames_record(tmp_path / "frames" / clip)["mirrored"] == (a * d - b * c < 0)


def test_an_odd_angle_is_said_and_not_turned(videos: Path, tmp_path: Path, get_frame: Callable[..., Any]) -> None:
    write_parts(videos / "odd.mp4", Part([QUARTERS] * 3, matrix=(0.866, 0.5, -0.5, 0.866)))
    write_parts(videos / "near.mp4", Part([np.ascontiguousarray(np.rot90(QUARTERS))] * 3, matrix=(0.01, 1, -1, 0.01)))
    outcome = get_frame(2)
    assert outcome.said.count("asks to be turned by -30 degrees") == 1
    for clip in ("odd", "near"):
        (image, _) = pictures_of(tmp_path / "frames" / clip)
        assert np.abs(np.array(corners(image)) - corners(QUARTERS)).max() <= 6


# Stored width and height, shape of its pixels. MPEG-2 only has some proportions of the whole picture.
SHAPES = [
    ("mpg", "mpeg2video", 160, 144, "6:5"), ("ts", "mpeg2video", 128, 108, "3:2"), ("mp4", "libx264", 176, 64, "12:11"),
    ("mkv", "libx264", 96, 64, "2:1"), ("mov", "libx264", 384, 64, "1:2"), ("ts", "libx264", 180, 64, "16:15"),
    ("avi", "mpeg4", 144, 64, "4:3"), ("flv", "libx264", 144, 64, "4:3"), ("mp4", "libx264", 192, 64, "1001:1000"),
    ("mp4", "libx264", 192, 64, "10:1"), ("mkv", "libx264", 192, 64, "1:90"), ("mp4", "libx264", 216, 64, "8:9"),
]  # fmt: skip


def test_pixels_are_made_square(videos: Path, tmp_path: Path, get_frame: Callable[..., Any]) -> None:
    for number, (suffix, codec, stored, height, shape) in enumerate(SHAPES):
        part = Part(coded(0, 6, stored, height), pixel_shape=Fraction(*map(int, shape.split(":"))), codec=codec)
        write_parts(videos / f"{number}.{suffix}", part)
    # Turned: the pixels are wide as they are stored, so the picture is made higher.
    stored = [np.ascontiguousarray(np.rot90(cv2.resize(each, (192, 48)))) for each in coded(0, 3)]
    write_parts(videos / "turned.mp4", Part(stored, pixel_shape=Fraction(4, 3), matrix=(0, 1, -1, 0)))
    outcome = get_frame(3)
    assert outcome.code == 0
    for number, (_, _, stored_width, height, shape) in enumerate(SHAPES):
        folder = tmp_path / "frames" / str(number)
        assert [read_code(image) for image in pictures_of(folder)] == [0, 2, 5]
        kept = frames_record(folder)
        assert (kept["width"], kept["height"]) == (192, height)
        is_scaled = stored_width != 192
        assert kept["sample_aspect_ratio"] == (shape if is_scaled else "1:1")
        assert (f"its pixels are {shape}; frames are made" in outcome.said) or not is_scaled
    assert outcome.said.count("they are taken to be square") == 2
    images = pictures_of(tmp_path / "frames" / "turned")
    assert [image.shape for image in images] == [(64, 192, 3)] * 3
    assert [read_code(image) for image in images] == [0, 1, 2]


def test_only_folders_that_are_wrong_are_made_anew(videos: Path, tmp_path: Path, get_frame: Callable[..., Any]) -> None:
    write_parts(videos / "square.mp4", Part(coded(0, 6)))
    write_parts(videos / "wide.mp4", Part(coded(0, 6, 144), pixel_shape=Fraction(4, 3)))
    write_parts(
        videos / "mirrored.mp4", Part([np.ascontiguousarray(np.fliplr(coded_frame(0)))] * 3, matrix=(-1, 0, 0, 1))
    )
    get_frame(2)
    for folder in (tmp_path / "frames").iterdir():
        if folder.is_dir():  # as versions before wrote it
            record = frames_record(folder)
            old = {k: v for k, v in record.items() if k not in ("content", "sample_aspect_ratio", "mirrored")}
            write_record(folder, FRAMES_FILE, old)
    assert "2 done, 1 already there" in get_frame(2).said
    assert "sample_aspect_ratio" not in frames_record(tmp_path / "frames" / "square")
    assert "0 done, 3 already there" in get_frame(2).said


# --- what changes in the middle of a file


@pytest.mark.parametrize("suffix", ["ts", "mkv", "mp4", "avi"])
def test_frames_keep_their_own_size(videos: Path, tmp_path: Path, get_frame: Callable[..., Any], suffix: str) -> None:
    parts = [
        Part([flat((200, 40, 40), 192, 64)] * 10), Part([flat((40, 190, 60), 320, 240)] * 10, "yuv444p"),
        Part([flat((60, 50, 200), 96, 128)] * 10, "yuv420p10le"),
    ]  # fmt: skip
    write_parts(videos / f"a.{suffix}", *parts)
    outcome = get_frame(30)
    assert outcome.code == 0
    images = pictures_of(tmp_path / "frames" / "a")
    assert len(images) == 30
    for number, image in enumerate(images):
        expected = parts[number // 10].pictures[0]
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).max() <= 8
    entries = frames_record(tmp_path / "frames" / "a")["frames"]
    np.testing.assert_allclose([entry["time"] for entry in entries], np.arange(30) / FPS, atol=0.0011)
    assert ("width" in entries[0], entries[10]["width"], entries[29]["height"]) == (False, 320, 128)
    assert "its size changes: 192x64, 320x240, 96x128" in outcome.said
    # What is measured and streamed on the way copes with it too.
    assert get_frame(6, "--sampling", "events", "--plot", "--no-incremental").code == 0
    assert [frame.rgb().shape for frame in stream_frames(videos / f"a.{suffix}")] == [image.shape for image in images]


def test_the_shape_of_pixels_may_change_alone(videos: Path, tmp_path: Path, get_frame: Callable[..., Any]) -> None:
    parts = [Part(coded(0, 10, 96))]
    parts.append(replace(parts[0], pictures=coded(10, 10, 96), pixel_shape=Fraction(2)))
    write_parts(videos / "a.ts", *parts)
    assert get_frame(20).code == 0
    images = pictures_of(tmp_path / "frames" / "a")
    assert [image.shape[1] for image in images] == [96] * 10 + [192] * 10
    assert [read_code(image) for image in images[10:]] == list(range(10, 20))


# --- cut short


def write_long(path: Path, **options: str) -> Path:
    """Five seconds of coded pictures with sound, their tables at the beginning."""
    whole = path.with_name(f"whole-{path.name}")
    write_coded(whole, 125, FPS, samples=tone(5, 48000), rate=48000)
    with av.open(str(whole)) as source, av.open(str(path), "w", container_options=options) as target:
        streams = {each.index: target.add_stream_from_template(each) for each in source.streams}
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    whole.unlink()
    return path


LONG: dict[str, dict[str, str]] = {
    "a.mp4": {"movflags": "+faststart"}, "a.mov": {"movflags": "+faststart"}, "a.mkv": {}, "a.webm": {}, "a.avi": {},
    "b.mp4": {"movflags": "+frag_keyframe+empty_moov"},
}  # fmt: skip


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("share", [0.35, 0.7])
def test_a_file_that_was_cut_short_says_so(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Any], name: str, share: float
) -> None:
    path = write_long(videos / name, **LONG[name])
    whole = read_frames(path, lambda times: np.arange(len(times)))
    assert (whole.n_frames, whole.declared) == (125, None)
    outcome = get_frame(6)
    assert (outcome.code, "declares" in outcome.said) == (0, False)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    outcome = get_frame(6)
    assert outcome.code == 0
    kept = frames_record(tmp_path / "frames" / path.stem)
    n = kept["n_frames"]
    assert 20 < n < 110
    ((unit, declared),) = kept["declared"].items()
    assert declared == pytest.approx(125 if unit == "frames" else 5, rel=0.02)
    (line,) = [line for line in outcome.said.splitlines() if "declares" in line]
    assert f"declares {declared:g} {unit}" in line
    assert f"{name}: " in line
    # Spread over what is there, at the times that the whole file has them.
    entries = kept["frames"]
    assert [entry["index"] for entry in entries] == np.rint(np.linspace(0, n - 1, 6)).astype(int).tolist()
    images = pictures_of(tmp_path / "frames" / path.stem)
    for entry, image in zip(entries[:-1], images, strict=False):
        assert entry["time"] == pytest.approx(whole.times[read_code(image)], abs=0.001)
        assert read_code(image) == entry["index"]


def test_a_file_that_was_trimmed_by_its_edit_list_is_whole(tmp_path: Path) -> None:
    whole = write_coded(tmp_path / "whole.mp4", 60, FPS)
    trimmed = tmp_path / "trimmed.mp4"
    with av.open(str(whole)) as source, av.open(str(trimmed), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                shift = round(10 / FPS / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    video = read_frames(trimmed, lambda times: np.arange(len(times)))
    assert [read_code(image) for image in video.images] == list(range(10, 60))
    np.testing.assert_allclose(video.times, np.arange(50) / FPS, atol=0.001)
    assert video.declared is None


# --- times, streams, colours


def test_an_avi_with_frames_out_of_order_has_right_times(tmp_path: Path) -> None:
    path = write_parts(tmp_path / "a.avi", Part(coded(0, 40)))
    video = read_frames(path, lambda times: np.arange(len(times)))
    assert [read_code(image) for image in video.images] == list(range(40))
    np.testing.assert_allclose(video.times, np.arange(40) / FPS, atol=1e-6)
    np.testing.assert_allclose([frame.time for frame in stream_frames(path)], video.times, atol=1e-6)
    assert video.fps == pytest.approx(FPS)


def _joined(path: Path, *rates: int) -> None:
    """A broadcast of several recordings, two seconds each, one behind the other as they are."""
    parts = []
    for rate in rates:
        whole = write_coded(path.parent.parent / f"{rate}.mp4", 2 * rate, rate)
        _remuxed(whole, whole.with_suffix(".ts"), {})
        parts.append(whole.with_suffix(".ts").read_bytes())
    path.write_bytes(b"".join(parts))


def _remuxed(source: Path, path: Path, later: Mapping[int, float]) -> None:
    """The same video in another container; packets by number are shown so many seconds later."""
    with av.open(str(source)) as opened, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(opened.streams.video[0])
        for number, packet in enumerate(opened.demux(video=0)):
            if packet.size:
                packet.pts += round(later.get(number, 0.0) / packet.time_base)
                packet.stream = stream
                target.mux(packet)


@pytest.mark.parametrize("rates", [(25, 25), (25, 50), (50, 25), (25, 10, 25)])
def test_times_of_files_joined_byte_by_byte(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Any], rates: tuple[int, ...]
) -> None:
    """A recording behind another has its own times, not those of the first one's rate."""
    _joined(videos / "a.ts", *rates)
    expected = np.concatenate([2 * k + np.arange(2 * rate) / rate for k, rate in enumerate(rates)])
    outcome = get_frame(1000)
    entries = frames_record(tmp_path / "frames" / "a")["frames"]
    np.testing.assert_allclose([entry["time"] for entry in entries], expected, atol=0.101)
    assert len(entries) == len(expected)
    assert "the clock of its pictures begins anew" in outcome.said
    streamed = [frame.time for frame in stream_frames(videos / "a.ts")]
    np.testing.assert_allclose(streamed, [entry["time"] for entry in entries], atol=1e-6)


@pytest.mark.parametrize("wrong", [{20: 3600.0}, {0: 3600.0}, {20: 500.0, 30: 7.0}])
def test_a_wild_time_of_a_frame_is_not_followed(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Any], wrong: dict[int, float]
) -> None:
    whole = write_coded(tmp_path / "whole.mp4", 50, FPS)
    _remuxed(whole, videos / "a.mkv", wrong)
    outcome = get_frame(50)
    entries = frames_record(tmp_path / "frames" / "a")["frames"]
    np.testing.assert_allclose([entry["time"] for entry in entries], np.arange(50) / FPS, atol=0.005)
    assert "wrong times of its pictures" in outcome.said


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_of_several_videos_the_default_one_is_read(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Any], suffix: str
) -> None:
    with av.open(str(videos / f"a.{suffix}"), "w") as container:
        streams = []
        for _ in range(3):
            stream: Any = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = 192, 64, "yuv420p"
            stream.disposition = Disposition(0)
            streams.append(stream)
        streams[1].disposition = Disposition.default
        for number, (k, stream) in itertools.product(range(5), enumerate(streams)):
            frame = av.VideoFrame.from_ndarray(coded_frame(number + 100 * k), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    outcome = get_frame(2)
    assert [read_code(image) for image in pictures_of(tmp_path / "frames" / "a")] == [100, 104]
    assert "has 3 videos; the default one is read" in outcome.said


def test_a_cover_is_not_the_video(tmp_path: Path) -> None:
    source = write_coded(tmp_path / "source.mp4", 5, FPS)
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, "yuvj420p", Fraction(1, FPS)
    (cover,) = [*encoder.encode(av.VideoFrame.from_ndarray(QUARTERS, format="rgb24").reformat(format="yuvj420p"))][
        :1
    ] or [*encoder.encode(None)]
    path = tmp_path / "a.mp4"
    with av.open(str(source)) as opened, av.open(str(path), "w") as target:
        picture: Any = target.add_stream("mjpeg", rate=FPS)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
        picture.disposition = Disposition.attached_pic
        stream = target.add_stream_from_template(opened.streams.video[0])
        cover.stream = picture
        target.mux(cover)
        for packet in opened.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    video = read_frames(path, lambda times: np.arange(len(times)))
    assert [read_code(image) for image in video.images] == list(range(5))


COLOURS = np.array([[220, 40, 40], [40, 200, 60], [50, 60, 210], [128, 128, 128], [230, 220, 40], [20, 20, 20],
                    [240, 240, 240], [200, 60, 200]], np.uint8)  # fmt: skip
# Name -> weights of red and blue in the luma, FFmpeg's number.
SPACES = {"bt601": (0.299, 0.114, 5), "bt709": (0.2126, 0.0722, 1), "bt2020": (0.2627, 0.0593, 9)}


def coloured(pixel_format: str, space: str, is_full: bool) -> av.VideoFrame:
    """A frame of eight stripes of COLOURS, computed here and not by FFmpeg."""
    red, blue, number = SPACES[space]
    share = COLOURS / 255.0
    luma = share @ [red, 1 - red - blue, blue]
    chroma = [(share[:, 2] - luma) / (2 * (1 - blue)), (share[:, 0] - luma) / (2 * (1 - red))]
    bits = 10 if "10" in pixel_format else 8
    top, middle, unit = 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 8)
    values = [luma * (top if is_full else 219 * unit) + (0 if is_full else 16 * unit)]
    values += [each * (top if is_full else 224 * unit) + middle for each in chroma]
    frame = av.VideoFrame(256, 64, pixel_format)
    kind = np.uint16 if bits > 8 else np.uint8
    for plane, own in zip(frame.planes, values, strict=True):
        row = np.zeros((plane.height, plane.line_size // np.dtype(kind).itemsize), kind)
        row[:, : plane.width] = np.repeat(np.rint(own).astype(kind), plane.width // 8)
        plane.update(row.tobytes())
    frame.colorspace, frame.color_range = number, 2 if is_full else 1
    return frame


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format"),
    [("mp4", "libx264", "yuv420p"), ("mkv", "libx264", "yuv444p"), ("mp4", "libx264", "yuv422p10le"),
     ("mkv", "ffv1", "yuv420p"), ("webm", "libvpx-vp9", "yuv420p")],
)  # fmt: skip
@pytest.mark.parametrize("is_full", [False, True])
def test_colours_are_those_that_were_filmed(
    tmp_path: Path, suffix: str, codec: str, pixel_format: str, is_full: bool
) -> None:
    for space in SPACES:
        path = tmp_path / f"{space}.{suffix}"
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=FPS, options={"crf": "2"})
            stream.width, stream.height, stream.pix_fmt = 256, 64, pixel_format
            stream.codec_context.colorspace, stream.codec_context.color_range = SPACES[space][2], 2 if is_full else 1
            if codec == "libvpx-vp9":
                stream.bit_rate = 5_000_000
            for number in range(3):
                frame = coloured(pixel_format, space, is_full)
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        (image,) = read_frames(path, lambda times: np.array([1])).images
        assert np.abs(image[32, 16::32].astype(int) - COLOURS).max() <= 4, space


@pytest.mark.parametrize(
    ("codec", "pixel_format"),
    [("ffv1", "gray"), ("ffv1", "gray10le"), ("ffv1", "yuva420p"), ("qtrle", "rgb24"), ("qtrle", "argb"),
     ("png", "pal8"), ("ffv1", "bgra"), ("ffv1", "gbrp10le"), ("libx264rgb", "rgb24")],
)  # fmt: skip
def test_gray_alpha_palette_and_rgb(tmp_path: Path, codec: str, pixel_format: str) -> None:
    is_gray = pixel_format.startswith("gray") or pixel_format == "pal8"
    picture = coded_frame(5) if is_gray else QUARTERS
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    path = tmp_path / ("a.mov" if codec in ("qtrle", "png") else "a.mkv")
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=FPS)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = pixel_format
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if pixel_format == "pal8":
                palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, axis=1)
                palette[:, 0] = 255
                frame = av.VideoFrame.from_ndarray((picture[..., 0], palette), format="pal8")
            else:
                frame = frame.reformat(format=pixel_format)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (image, _) = read_frames(path, lambda times: np.arange(len(times))).images
    assert np.abs(image.astype(int) - picture).mean() < 4


@pytest.mark.skipif(not CLIPS.is_dir() or shutil.which("ffmpeg") is None, reason="needs the shared clips and ffmpeg")
@pytest.mark.parametrize("path", sorted(CLIPS.glob("*.m*")) if CLIPS.is_dir() else [], ids=lambda path: path.stem)
def test_real_frames_are_ffmpegs(path: Path) -> None:
    if "AUDIO-ONLY" in (CLIPS / "MANIFEST.csv").read_text().split(path.name)[1].split("\n")[0]:
        pytest.skip("has no video")
    video = read_frames(path, lambda times: np.arange(0, len(times), max(1, len(times) // 4)))
    if video.n_errors:
        pytest.skip("damaged: FFmpeg's threads conceal it otherwise")
    height, width = video.images[0].shape[:2]
    select = "+".join(f"eq(n,{index})" for index in video.indices)
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-vf", f"select='{select}'", "-fps_mode", "passthrough",
               "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]  # fmt: skip
    raw = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C"}).stdout
    frames = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    assert len(frames) == len(video.images)
    # Versions of FFmpeg differ in how colours of half the resolution are spread, where pixels have 10 bits.
    limit = 4 if "10bit" in path.name else 0.5
    for own, theirs in zip(video.images, frames, strict=True):
        assert np.abs(own.astype(int) - theirs).mean() < limit
