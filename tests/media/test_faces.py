"""Following one person, cutting squares, and crop_images on a real photograph."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import Run
from skimage.data import astronaut

from viper.cli import run_command
from viper.engine.failures import read_failures
from viper.media.faces.choose import FaceBox, boxes_of, rank
from viper.media.faces.crop import crop_square
from viper.media.faces.detect import Detection
from viper.media.faces.follow import Face, follow, overlap
from viper.media.pictures import FRAMES_FILE, FrameClip, frame_name, read_image, write_image

POINTS = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)])


def face(x: float, y: float, size: float, score: float = 0.99) -> Detection:
    box = np.array([x, y, x + size, y + size])
    return Detection(box, score, box[:2] + POINTS * size)


def followed(
    frames: list[list[Detection]], times: list[float] | None = None, shots: list[int] | None = None
) -> list[FaceBox | None] | None:
    """Where the person a clip is about is in each frame, of 400 x 200 pixels; their looks are not known."""
    size = np.array([400, 200])
    seconds = np.arange(len(frames), dtype=float) if times is None else np.array(times)
    of_shot = np.zeros(len(frames), int) if shots is None else np.array(shots)
    faces = [[Face(face, face.box / np.tile(size, 2)) for face in row] for row in frames]
    people = [person for person in rank(follow(faces, seconds, of_shot), seconds) if person.counts]
    return boxes_of(people[0], np.tile(size, (len(frames), 1)), seconds, of_shot) if people else None


def test_overlap_has_known_values() -> None:
    box = np.array([0.0, 0.0, 2.0, 2.0])
    assert overlap(box, box) == 1.0
    assert overlap(box, np.array([1.0, 0.0, 3.0, 2.0])) == pytest.approx(2 / 6)
    assert overlap(box, np.array([2.0, 0.0, 4.0, 2.0])) == 0.0
    assert overlap(box, np.array([5.0, 5.0, 6.0, 6.0])) == 0.0


def found_in(boxes: list[FaceBox | None] | None) -> list[bool]:
    assert boxes is not None
    return [box is not None and box.found for box in boxes]


def test_of_two_who_are_there_nearly_as_long_the_larger_is_followed_throughout() -> None:
    """The small face is there first, alone in one frame, and more probable; it is still not taken."""
    small = [face(200, 0, 20, 1.0) for _ in range(4)]
    large = [face(10 + i, 0, 60, 0.9) for i in range(4)]
    boxes = followed([[small[0]], [large[1], small[1]], [small[2], large[2]], [large[3], small[3]]])
    assert found_in(boxes) == [False, True, True, True]
    assert boxes is not None
    for box, expected in zip(boxes[1:], large[1:], strict=True):
        assert box is not None
        np.testing.assert_array_equal(box.box, expected.box)
    assert boxes[0] is not None
    np.testing.assert_allclose(boxes[0].box, large[1].box)  # the nearest, at either end


def test_who_is_there_longest_is_followed_not_the_close_up() -> None:
    close, far = face(0, 0, 120), face(300, 150, 20)
    assert found_in(followed([[close]] * 2 + [[far]] * 5)) == [False] * 2 + [True] * 5
    # By the seconds that frames stand for, not by their number: the close-up's are a tenth of a second apart.
    times = [0.1 * k for k in range(10)] + [1, 4, 7, 10]
    assert found_in(followed([[close]] * 10 + [[far]] * 4, times)) == [False] * 10 + [True] * 4


def test_the_order_of_detections_does_not_matter() -> None:
    frames = [[face(0, 0, 40), face(100, 0, 41)], [face(2, 0, 40), face(102, 0, 41)]]
    straight, reverse = followed(frames), followed([row[::-1] for row in frames])
    assert straight is not None
    assert reverse is not None
    for a, b in zip(straight, reverse, strict=True):
        assert a is not None
        assert b is not None
        np.testing.assert_array_equal(a.box, b.box)
    assert straight[0] is not None
    assert straight[0].box[0] == 100


def test_a_gap_takes_the_box_between_its_neighbours() -> None:
    boxes = followed([[face(0, 0, 40)], [], [face(8, 4, 44)], []])
    assert found_in(boxes) == [True, False, True, False]
    assert boxes is not None
    assert boxes[1] is not None
    assert boxes[3] is not None
    np.testing.assert_allclose(boxes[1].box, [4, 2, 46, 44])
    np.testing.assert_allclose(boxes[3].box, [8, 4, 52, 48])
    assert boxes[1].landmarks is None


def test_no_box_is_guessed_across_a_cut_or_a_long_gap() -> None:
    """And nobody is known by the place alone behind one: the later face is somebody else, who is there longer."""
    first, last = [face(0, 0, 40)], [face(4, 0, 40)]
    boxes = followed([first, first, [], last, last, last], shots=[0, 0, 1, 2, 2, 2])
    assert boxes is not None
    assert found_in(boxes) == [False, False, False, True, True, True]
    assert boxes[:3] == [None, None, None]
    boxes = followed([first, first, [], [], last, last, last], times=[0, 0.5, 1, 3, 4, 5, 6])
    assert boxes is not None
    assert found_in(boxes) == [False] * 4 + [True] * 3
    assert boxes[:2] == [None, None]


def test_a_head_that_moves_by_its_own_width_is_still_the_same() -> None:
    """Chosen frames may be a second apart. What is further away is somebody else."""
    assert found_in(followed([[face(0, 0, 40)], [face(45, 0, 40)], [face(90, 10, 40)]])) == [True, True, True]
    assert found_in(followed([[face(0, 0, 40)], [face(200, 0, 41)]])) == [False, True]


def test_what_was_taken_for_a_face_once_is_none() -> None:
    assert followed([[], [], []]) is None
    assert followed([]) is None
    assert followed([[face(0, 0, 40, 0.98)], [], []]) is None
    assert followed([[face(0, 0, 40, 0.995)], [], []]) is not None
    assert followed([[face(0, 0, 40, 1.0)]] + [[]] * 31) is None  # of a long clip not even a sure one
    assert followed([[face(0, 0, 40, 0.88)], [face(0, 0, 40, 0.91)]] + [[]] * 30) is not None
    assert followed([[face(0, 0, 40, 0.82)], [face(0, 0, 40, 0.85)]] + [[]] * 30) is None


def test_crop_square_is_the_box_and_its_margin() -> None:
    image = np.zeros((100, 120, 3), np.uint8)
    image[40:60, 50:70] = 200
    crop, square = crop_square(image, np.array([50, 40, 70, 60]), margin=0.0, size=20)
    assert square == [50, 40, 70, 60]
    assert (crop == 200).all()
    crop, square = crop_square(image, np.array([50, 40, 70, 60]), margin=0.5, size=40)
    assert square == [40, 30, 80, 70]
    assert crop.shape == (40, 40, 3)
    assert (crop[10:30, 10:30] == 200).all()
    assert (crop[:9] == 0).all()


def test_crop_square_keeps_proportions_at_the_border() -> None:
    """A tall box at the corner: the square reaches outside, where the nearest pixels stand in."""
    image = np.full((60, 60, 3), 10, np.uint8)
    image[0, :] = 250
    crop, square = crop_square(image, np.array([0, 0, 10, 40]), margin=0.0, size=40)
    assert square == [-15, 0, 25, 40]
    assert (crop[0] == 250).all()
    assert (crop[1:] == 10).all()
    crop, square = crop_square(image, np.array([20, -20, 40, 0]), margin=0.0, size=20)
    assert square == [20, -20, 40, 0]
    assert (crop == 250).all()


def _write_clip(folder: Path, images: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        write_image(folder / frame_name(10 * index), image)
    record = {"frames": [{"index": 10 * index, "time": index / 3} for index in range(len(images))]}
    (folder / FRAMES_FILE).write_text(json.dumps(record))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of the astronaut moving, one of her out of focus between and nothing at the end, one of nothing at all."""
    folder = tmp_path_factory.mktemp("frames")
    photograph = astronaut()
    nothing = np.full((200, 200, 3), 90, np.uint8)
    moving = [photograph[0:200, 120 + step : 320 + step] for step in (0, 8, 16)]
    _write_clip(folder / "moving", moving)
    blurred = cv2.GaussianBlur(moving[1], (0, 0), 12)
    _write_clip(folder / "gap", [moving[0], blurred, moving[2], nothing])
    _write_clip(folder / "empty", [nothing, nothing])
    return folder


def _crop(frames: Path, faces: Path, *options: str) -> int:
    return run_command(
        "crop_images",
        ["--input_folder", str(frames), "--output_folder", str(faces), "--device", "cpu", "--n_workers", "0", *options],
    )


@pytest.fixture(scope="module")
def faces(frames: Path) -> Path:
    folder = frames.parent / f"{frames.name}_faces"
    assert _crop(frames, folder) == 0
    return folder


def _record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "faces.json").read_text())


def test_the_face_is_found_where_it_is(faces: Path) -> None:
    """In the photograph the face spans about x 175 to 275 and y 65 to 190."""
    for step, frame in zip((0, 8, 16), _record(faces / "moving")["frames"], strict=True):
        assert frame["found"] is True
        expected = np.array([175 - 120 - step, 65, 275 - 120 - step, 190])
        assert overlap(np.array(frame["box"]), expected) > 0.5
    read = FrameClip("moving", faces / "moving").read()
    assert [image.shape for image in read.images] == [(224, 224, 3)] * 3
    assert read.times == pytest.approx([0, 1 / 3, 2 / 3])
    assert read.points is not None
    left_eye, right_eye, nose, left_mouth, right_mouth = read.points.mean(axis=0)
    assert ((read.points > 0.05) & (read.points < 0.95)).all()
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_eye[1] < nose[1] < left_mouth[1]
    assert left_mouth[0] < right_mouth[0]


def test_a_frame_without_the_face_is_masked_and_cut_between(faces: Path) -> None:
    """After a cut to something else nothing is cropped: what is there is not hers."""
    record = _record(faces / "gap")
    first, gap, last, elsewhere = record["frames"]
    assert [frame["found"] for frame in record["frames"]] == [True, False, True, False]
    np.testing.assert_allclose(gap["box"], np.mean([first["box"], last["box"]], axis=0), atol=0.02)
    assert (elsewhere["box"], record["cuts"], len(record["people"])) == (None, [30], 1)
    assert record["people"][0] == pytest.approx(
        {"frames": 2, "seconds": 0.5, "size": 0.5, "score": 1, "counts": True, "still": False}, abs=0.05
    )
    read = FrameClip("gap", faces / "gap").read()
    assert read.found.tolist() == [True, False, True, False]
    assert read.images[3].shape == (224, 224, 3)
    assert read.images[3].max() == 0
    assert read.points is not None
    assert np.isnan(read.points[[1, 3]]).all()


def test_a_clip_without_a_face_keeps_whole_frames_or_none(frames: Path, faces: Path, tmp_path: Path) -> None:
    read = FrameClip("empty", faces / "empty").read()
    assert read.found.tolist() == [False, False]
    assert [image.shape for image in read.images] == [(200, 200, 3)] * 2
    assert _crop(frames, tmp_path, "--no_face", "skip") == 0
    assert _record(tmp_path / "empty")["frames"] == []
    assert not list((tmp_path / "empty").glob("*.jpg"))
    assert len(list((tmp_path / "gap").glob("*.jpg"))) == 4
    # Its features are there, and say nothing.
    visual = ["--input_folder", str(tmp_path), "--output_folder", str(tmp_path / "f"), "--model_name", "hog"]
    assert run_command("extract_visual_features", [*visual, "--n_workers", "0"]) == 0


def test_the_batch_does_not_change_the_crops(frames: Path, faces: Path, tmp_path: Path) -> None:
    assert _crop(frames, tmp_path, "--batch_size", "1") == 0
    for clip in ("moving", "gap", "empty"):
        ours, others = _record(faces / clip)["frames"], _record(tmp_path / clip)["frames"]
        for mine, other in zip(ours, others, strict=True):
            assert mine["found"] == other["found"]
            if mine["box"]:
                np.testing.assert_allclose(mine["box"], other["box"], atol=0.05)


def test_only_what_is_missing_or_changed_is_done_again(frames: Path, faces: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in faces.rglob("*.jpg")}
    assert _crop(frames, faces) == 0
    assert {path: path.stat().st_mtime_ns for path in faces.rglob("*.jpg")} == before
    lost = faces / "moving" / frame_name(10)
    content = read_image(lost)
    lost.unlink()
    assert _crop(frames, faces) == 0
    np.testing.assert_array_equal(read_image(lost), content)
    changed = {path.parent.name for path, stamp in before.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {"moving"}


def test_a_wrong_device_is_said_though_nothing_is_to_be_done(frames: Path, faces: Path, run: Run) -> None:
    outcome = run("crop_images", "--input_folder", frames, "--output_folder", faces, "--device", "abacus")
    assert outcome.code == 2
    assert "--device abacus: cannot be used here" in outcome.said


def test_other_options_are_done_again(frames: Path, faces: Path, tmp_path: Path) -> None:
    shutil.copytree(frames / "moving", tmp_path / "frames" / "moving")
    shutil.copytree(faces / "moving", tmp_path / "faces" / "moving")
    before = [frame["crop"] for frame in _record(tmp_path / "faces" / "moving")["frames"]]
    assert _crop(tmp_path / "frames", tmp_path / "faces", "--margin", "0.4") == 0
    after = [frame["crop"] for frame in _record(tmp_path / "faces" / "moving")["frames"]]
    for (left, _, right, _), (wider_left, _, wider_right, _) in zip(before, after, strict=True):
        # The square is 1 + 2 * margin times the longer side of the box.
        assert (wider_right - wider_left) / (right - left) == pytest.approx(1.8 / 1.2, rel=0.01)


def test_pictures_that_cannot_be_used_cost_only_their_clip(frames: Path, tmp_path: Path) -> None:
    """Too small for any face is no failure; no pictures, a damaged one, a record that is none, each is one."""
    clips = tmp_path / "frames"
    _write_clip(clips / "tiny", [np.zeros((16, 16, 3), np.uint8)])
    (clips / "nothing").mkdir(parents=True)
    _write_clip(clips / "damaged", [np.zeros((64, 64, 3), np.uint8)])
    (clips / "damaged" / frame_name(0)).write_bytes(b"no picture")
    for name, record in (("cut", '{"frames": [{"ind'), ("other", '{"colour": "red"}'), ("list", "[1]")):
        _write_clip(clips / name, [np.zeros((64, 64, 3), np.uint8)])
        (clips / name / FRAMES_FILE).write_text(record)
    assert _crop(clips, tmp_path / "faces") == 3
    failures = {row.clip: row for row in read_failures(tmp_path / "faces")}
    assert failures.keys() == {"nothing", "damaged", "cut", "other", "list"}
    for clip, row in failures.items():
        assert (row.stage, row.error) == ("crop_images", "ClipError")
        assert clip in row.message
    assert [frame["found"] for frame in _record(tmp_path / "faces" / "tiny")["frames"]] == [False]
    assert {path.name for path in (tmp_path / "faces").iterdir() if path.is_dir()} == {"tiny"}
