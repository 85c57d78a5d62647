"""Who is followed, and where: clips of several people, cut in every way, through get_frame and crop_images."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from clips import write_frames
from many import long_test

from viper.cli import run_command
from viper.demo import write_video
from viper.demo.face import render_frames
from viper.demo.identity import Identity
from viper.media.pictures import FrameClip

pytestmark = long_test

CLIPS = Path(__file__).parents[3] / "shared" / "clips"
FPS = 16
SIZE = (200, 176)
COUNTS = (8, 32, 128)
SLOWEST = 128  # at which only some are tried

ANNA = dataclasses.replace(
    Identity.from_seed(3), frame_size=SIZE, position=(0.5, 0.5), face_scale=0.95, roll=0.0, mirror=False
)
BERT = dataclasses.replace(
    Identity.from_seed(9), frame_size=SIZE, position=(0.5, 0.5), face_scale=0.9, roll=0.0, mirror=False
)
CARL = dataclasses.replace(
    BERT, background=ANNA.background, background_seed=ANNA.background_seed, gain=ANNA.gain, gradient=ANNA.gradient
)  # Bert before Anna's wall
WALL = dataclasses.replace(ANNA, position=(9.0, 9.0))
PEOPLE = {
    "A": ANNA,
    "A far": dataclasses.replace(ANNA, face_scale=0.6),
    "A near": dataclasses.replace(ANNA, face_scale=1.15, position=(0.45, 0.5)),
    "B": BERT,
    "B near": dataclasses.replace(BERT, face_scale=1.2),
    "B small": dataclasses.replace(BERT, face_scale=0.65),
    "C": CARL,
    "wall": WALL,
}

# Shots (who, seconds), and who is followed. "A|B small" are two people side by side, "A>B" a dissolve of one into the
# other, "A dark" and "A flash" are A in another light, "B still" is a picture of B.
CASES: dict[str, tuple[list[tuple[str, float]], str]] = {
    "one_after_the_other": ([("A", 6), ("B", 4)], "A"),
    "the_other_way": ([("A", 4), ("B", 6)], "B"),
    "there_and_back": ([("A", 3), ("B", 4), ("A", 3)], "A"),
    "back_from_nearer": ([("A", 3), ("B", 4), ("A near", 3)], "A"),
    "long_shot_against_close_up": ([("B near", 3), ("A far", 7)], "A"),
    "close_up_between": ([("A far", 3.5), ("B near", 3), ("A far", 3.5)], "A"),
    "before_one_wall": ([("A", 6), ("C", 4)], "A"),
    "before_one_wall_and_back": ([("A", 3.5), ("C", 3), ("A", 3.5)], "A"),
    "dissolve": ([("A", 5.5), ("A>B", 1), ("B", 3.5)], "A"),
    "through_black": ([("A", 4), ("black", 1), ("A", 2), ("black", 0.5), ("B", 2.5)], "A"),
    "flash": ([("A", 4), ("A flash", 0.3), ("A", 5.7)], "A"),
    "lamp": ([("A", 5), ("A dark", 5)], "A"),
    "leaves": ([("A", 4), ("wall", 6)], "A"),
    "comes": ([("wall", 6), ("A", 4)], "A"),
    "quick_cuts": ([("A", 1.25), ("B", 0.75)] * 5, "A"),
    "side_by_side": ([("A|B small", 10)], "A"),
    "side_by_side_the_smaller_longer": ([("A|B small", 3), ("wall|B small", 7)], "B"),
    "sides_change": ([("A|B small", 5), ("B small|A", 5)], "A"),
    "a_poster_on_the_wall": ([("A|B still", 5), ("wall|B still", 5)], "A"),
    "a_photo_only": ([("B still", 10)], "B"),
    "nobody": ([("wall", 10)], ""),
}
TRIED_SLOWLY = (
    "one_after_the_other", "back_from_nearer", "before_one_wall_and_back", "dissolve", "leaves",
)  # fmt: skip


def _filmed(identity: Identity, n: int, first: int) -> Iterator[np.ndarray]:
    """n frames of somebody who smiles now and then, who moves on where the shot before has ended."""
    seconds = (first + np.arange(n)) / FPS
    smile = 0.6 * np.sin(2 * np.pi * seconds / 5) ** 2
    rows = np.stack([smile, 0 * smile, 0.3 * np.sin(seconds) ** 2], axis=1)
    return render_frames(identity, rows, FPS, np.random.default_rng(first))


def _shot(who: str, n: int, first: int) -> Iterator[np.ndarray]:
    name, _, light = who.partition(" ")
    if who == "black":
        return iter([np.zeros((SIZE[1], SIZE[0], 3), np.uint8)] * n)
    if "|" in who:
        left, right = (_shot(each, n, first) for each in who.split("|"))
        return (np.hstack(pair) for pair in zip(left, right, strict=True))
    if ">" in who:
        before, after = (_shot(each, n, first) for each in who.split(">"))
        pairs = enumerate(zip(before, after, strict=True))
        return (cv2.addWeighted(a, 1 - (k + 0.5) / n, b, (k + 0.5) / n, 0) for k, (a, b) in pairs)
    if light == "still":
        return iter([next(_filmed(PEOPLE[name], 1, 0))] * n)
    if light in ("dark", "flash"):
        gain, add = (0.4, 0) if light == "dark" else (1.3, 70)
        return (cv2.convertScaleAbs(image, alpha=gain, beta=add) for image in _shot(name, n, first))
    return _filmed(PEOPLE[who], n, first)


def _frames(shots: list[tuple[str, float]]) -> Iterator[np.ndarray]:
    first = 0
    for who, seconds in shots:
        n = round(seconds * FPS)
        yield from _shot(who, n, first)
        first += n


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people") / "videos"
    folder.mkdir()
    for name, (shots, _) in CASES.items():
        write_video(folder / f"{name}.mp4", _frames(shots), FPS)
    return folder


def _cropped(videos: Path, out: Path, n_frames: int) -> Path:
    options = ["--n_workers", "0"]
    frames = ["--input_folder", str(videos), "--output_folder", str(out / "frames"), "--n_frames", str(n_frames)]
    assert run_command("get_frame", [*frames, *options]) == 0
    return _faces(out / "frames", out / "faces")


def _faces(frames: Path, faces: Path) -> Path:
    options = ["--n_workers", "0", "--device", "cpu"]
    assert run_command("crop_images", ["--input_folder", str(frames), "--output_folder", str(faces), *options]) == 0
    return faces


@pytest.fixture(scope="module", params=COUNTS)
def faces(request: pytest.FixtureRequest, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cropped")
    if request.param == SLOWEST:
        (out / "videos").mkdir()
        for name in TRIED_SLOWLY:
            shutil.copy(videos / f"{name}.mp4", out / "videos")
        videos = out / "videos"
    return _cropped(videos, out, request.param)


def _record(clip: Path) -> dict[str, Any]:
    return json.loads((clip / "faces.json").read_text())


def _shown(shots: list[tuple[str, float]], time: float) -> str:
    for who, seconds in shots:
        seconds = round(seconds * FPS) / FPS
        if time < seconds - 1e-6:
            return who
        time -= seconds
    return shots[-1][0]


@pytest.mark.parametrize("name", CASES)
def test_one_person_is_followed_whom_the_clip_is_about_at_any_number_of_frames(faces: Path, name: str) -> None:
    shots, followed = CASES[name]
    if not (faces / name).is_dir():
        pytest.skip("not tried with so many frames")
    record = _record(faces / name)
    pictures = FrameClip(name, faces / name).read()
    assert record["people"][0]["counts"] if followed else not record["people"]
    for frame, picture in zip(record["frames"], pictures.images, strict=True):
        who = _shown(shots, frame["time"])
        if ">" in who or "flash" in who:  # both are right
            continue
        people = who.split("|")
        places = [k for k, person in enumerate(people) if followed and person.split()[0] == followed]
        assert frame["found"] == bool(places), (name, frame["time"], who)
        if places and len(people) > 1:
            middle = (frame["box"][0] + frame["box"][2]) / 2
            assert int(middle // SIZE[0]) == places[0], (name, frame["time"])
        if followed and not places and frame["box"] is None:
            assert picture.shape == (224, 224, 3)
            assert picture.max() == 0


@pytest.mark.parametrize("name", ["one_after_the_other", "leaves"])
def test_where_the_person_is_not_nothing_is_guessed_for_long(faces: Path, name: str) -> None:
    """Boxes without a face lie within two seconds of one with, in its shot; the others are null."""
    frames = _record(faces / name)["frames"]
    found = np.array([frame["time"] for frame in frames if frame["found"]])
    for frame in frames:
        if not frame["found"] and frame["box"] is not None:
            assert np.abs(found - frame["time"]).min() <= 2.0


def test_resolution_may_change_within_a_clip(tmp_path: Path) -> None:
    """As of a call whose picture gets smaller and larger; people are compared in shares of the frame."""
    images = list(_filmed(ANNA, 12, 0))
    sides = [1.0, 1.0, 0.7, 0.7, 2.0, 2.0, 0.5, 3.0, 1.0, 0.8, 1.2, 1.0]
    changing = [cv2.resize(image, None, fx=side, fy=side) for image, side in zip(images, sides, strict=True)]
    wider = [image if k % 2 else cv2.resize(image, (320, 176)) for k, image in enumerate(images)]
    for name, of_clip in (("steady", images), ("changing", changing), ("wider", wider)):
        write_frames(tmp_path / "frames" / name, of_clip)
    faces = _faces(tmp_path / "frames", tmp_path / "faces")
    steady = _record(faces / "steady")["frames"]
    for name, of_clip in (("changing", changing), ("wider", wider)):
        record = _record(faces / name)
        assert len(record["people"]) == 1
        for frame, image, expected in zip(record["frames"], of_clip, steady, strict=True):
            assert frame["found"]
            shares = np.array(frame["box"]) / np.tile(image.shape[1::-1], 2)
            np.testing.assert_allclose(shares, np.array(expected["box"]) / np.tile(SIZE, 2), atol=0.15)


def test_a_gap_between_sizes_is_bridged_in_shares(tmp_path: Path) -> None:
    images = list(_filmed(ANNA, 3, 0))
    images[1] = cv2.GaussianBlur(images[1], (0, 0), 14)
    sizes = [1.0, 2.0, 0.7]
    images = [cv2.resize(image, None, fx=side, fy=side) for image, side in zip(images, sizes, strict=True)]
    write_frames(tmp_path / "frames" / "clip", images)
    first, gap, last = _record(_faces(tmp_path / "frames", tmp_path / "faces") / "clip")["frames"]
    assert [first["found"], gap["found"], last["found"]] == [True, False, True]
    boxes = [
        np.array(frame["box"]) / np.tile(image.shape[1::-1], 2)
        for frame, image in zip((first, gap, last), images, strict=True)
    ]
    np.testing.assert_allclose(boxes[1], (boxes[0] + boxes[2]) / 2, atol=0.01)


@pytest.mark.parametrize(("n_frames", "is_followed"), [(4, True), (32, False)])
def test_who_is_seen_once_counts_in_a_short_clip_only(tmp_path: Path, n_frames: int, is_followed: bool) -> None:
    images = [*_filmed(WALL, n_frames - 1, 0), *_filmed(ANNA, 1, 0)]
    write_frames(tmp_path / "frames" / "clip", images)
    clip = _faces(tmp_path / "frames", tmp_path / "faces") / "clip"
    (person,) = _record(clip)["people"]
    assert (person["frames"], person["counts"]) == (1, is_followed)
    assert FrameClip("clip", clip).read().found.tolist() == [False] * (n_frames - 1) + [is_followed]
    visual = ["--input_folder", str(tmp_path / "faces"), "--output_folder", str(tmp_path / "f"), "--model_name", "hog"]
    assert run_command("extract_visual_features", [*visual, "--n_workers", "0"]) == 0


def test_folders_of_the_first_way_are_made_again(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames" / "clip", list(_filmed(ANNA, 2, 0)))
    faces = _faces(tmp_path / "frames", tmp_path / "faces")
    record = _record(faces / "clip")
    assert record["options"].pop("following") == 2
    (faces / "clip" / "faces.json").write_text(json.dumps(record))
    _faces(tmp_path / "frames", tmp_path / "faces")
    assert _record(faces / "clip")["options"]["following"] == 2


def _decoded(path: Path, size: tuple[int, int]) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [cv2.resize(frame.to_ndarray(format="rgb24"), size) for frame in container.decode(video=0)]


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the shared clips are not beside this checkout")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lipnet_grid__bbaf2n.mpg", "lipnet_grid__id2_vcd_swwp2s.mpg"),
        ("lipnet_grid__id2_vcd_swwp2s.mpg", "lipnet_grid__lbax4n.mpg"),
        ("liveportrait__d18.mp4", "liveportrait__d19.mp4"), ("pyfeat__single_face.mp4", "tpsmm__driving.mp4"),
    ],
)  # fmt: skip
def test_real_people_before_one_wall_stay_two(tmp_path: Path, one: str, other: str) -> None:
    """72 frames of one, 40 of another in the same studio, 30 of the first again."""
    first, second = (_decoded(CLIPS / name, (360, 288)) for name in (one, other))
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "clip.mp4", [*first[:72], *second[:40], *first[30:60]], 25)
    for n_frames in (8, 32):
        faces = _cropped(tmp_path / "videos", tmp_path / str(n_frames), n_frames)
        for frame in _record(faces / "clip")["frames"]:
            assert frame["found"] == (not 72 <= frame["index"] < 112), frame
