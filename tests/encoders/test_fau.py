"""Facial action units: py-feat's multitask network, and landmark geometry with texture."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import cv2
import numpy as np
import pytest
import torch
from clips import in_memory, pictures, write_faces, write_frames
from conftest import Run

from viper.encoders.landmarks import LandmarkEncoder
from viper.encoders.multitask import MultitaskEncoder, import_py_feat
from viper.engine.device import Runtime
from viper.errors import UserError
from viper.media.pictures import Frames
from viper.store import FeatureStore

CPU = Runtime(torch.device("cpu"))
# Where in a token which number stands.
MOUTH_Y, MOUTH_WIDTH, NOSE_TO_MOUTH, SLANT, TURN, ROLL = 3, 4, 5, 6, 7, 8
TEXTURE = 9
MOUTH_BRIGHTNESS, MOUTH_DEVIATION = TEXTURE + 4 * 9, TEXTURE + 4 * 9 + 1

# A face of 160 x 160 pixels: eyes, nose, corners of the mouth.
NEUTRAL = np.array([(58, 66), (102, 66), (80, 92), (62, 116), (98, 116)], np.float32)


def draw(points: np.ndarray, opening: float = 1.0) -> np.ndarray:
    """A plain face with these points, its mouth `opening` pixels high, smooth enough to be resampled."""
    image = np.full((160, 160, 3), 90, np.uint8)
    cv2.ellipse(image, (80, 88), (50, 66), 0, 0, 360, (205, 170, 150), -1)
    for x, y in points[:2].astype(int).tolist():
        cv2.ellipse(image, (x, y), (9, 5), 0, 0, 360, (250, 250, 250), -1)
        cv2.circle(image, (x, y), 4, (60, 40, 30), -1)
        cv2.line(image, (x - 10, y - 14), (x + 10, y - 16), (70, 50, 40), 4)
    cv2.circle(image, tuple(points[2].astype(int).tolist()), 6, (180, 140, 120), -1)
    left, right = points[3], points[4]
    middle, half = (left + right) / 2, float(np.linalg.norm(right - left)) / 2
    slant = float(np.degrees(np.arctan2(right[1] - left[1], right[0] - left[0])))
    centre = (round(float(middle[0])), round(float(middle[1])))
    cv2.ellipse(image, centre, (round(half), max(1, round(opening / 2))), slant, 0, 360, (70, 20, 30), -1)
    return cv2.GaussianBlur(image, (0, 0), 1.5)


def encode(images: list[np.ndarray], points: list[np.ndarray | None]) -> np.ndarray:
    """Tokens of pictures with points in pixels."""
    shares = np.full((len(images), 5, 2), np.nan, np.float32)
    for row, image, own in zip(shares, images, points, strict=True):
        if own is not None:
            row[:] = own / (image.shape[1], image.shape[0])
    found = np.array([own is not None for own in points])
    encoder = LandmarkEncoder()
    (feature,) = encoder.encode([encoder.load(Frames(images, np.arange(len(images)) / 10, found, shares))], 64)
    np.testing.assert_array_equal(feature.mask, found)
    return feature.tokens


def moved(points: np.ndarray, **moves: tuple[float, float]) -> np.ndarray:
    """The points with some of them (nose, left, right) moved by (x, y) pixels."""
    result = points.copy()
    for name, by in moves.items():
        result[{"nose": 2, "left": 3, "right": 4}[name]] += by
    return result


def test_a_smile_widens_and_lifts_the_mouth() -> None:
    smile = moved(NEUTRAL, left=(-8, -4), right=(8, -4))
    neutral, smiling = encode([draw(NEUTRAL), draw(smile)], [NEUTRAL, smile])
    eyes = 44  # pixels between them
    assert smiling[MOUTH_WIDTH] - neutral[MOUTH_WIDTH] == pytest.approx(16 / eyes, abs=1e-4)
    assert smiling[MOUTH_Y] - neutral[MOUTH_Y] == pytest.approx(-4 / eyes, abs=1e-4)
    assert smiling[NOSE_TO_MOUTH] - neutral[NOSE_TO_MOUTH] == pytest.approx(-4 / eyes, abs=1e-4)
    np.testing.assert_allclose(smiling[[0, 1, SLANT, TURN, ROLL]], neutral[[0, 1, SLANT, TURN, ROLL]], atol=1e-4)


def test_an_open_mouth_hangs_lower_and_is_darker_and_more_varied_inside() -> None:
    lower = moved(NEUTRAL, left=(3, 5), right=(-3, 5))
    closed, opened = encode([draw(NEUTRAL), draw(lower, opening=22)], [NEUTRAL, lower])
    assert opened[NOSE_TO_MOUTH] - closed[NOSE_TO_MOUTH] == pytest.approx(5 / 44, abs=1e-4)
    assert opened[MOUTH_WIDTH] - closed[MOUTH_WIDTH] == pytest.approx(-6 / 44, abs=1e-4)
    assert opened[MOUTH_BRIGHTNESS] < closed[MOUTH_BRIGHTNESS] - 0.5
    assert opened[MOUTH_DEVIATION] > closed[MOUTH_DEVIATION] + 0.2


def test_a_crooked_mouth_and_a_turned_head_each_move_their_number() -> None:
    crooked, turned = moved(NEUTRAL, right=(0, -6)), moved(NEUTRAL, nose=(8, 0))
    neutral, one, other = encode([draw(NEUTRAL)] * 3, [NEUTRAL, crooked, turned])
    assert one[SLANT] - neutral[SLANT] == pytest.approx(-6 / 44, abs=1e-4)
    assert other[TURN] - neutral[TURN] == pytest.approx(-8 / 44, abs=1e-4)


@pytest.mark.parametrize(
    ("degrees", "scale", "shift"), [(20, 1.0, (0, 0)), (-15, 1.0, (3, -2)), (0, 1.6, (0, 0)), (10, 0.8, (5, 4))]
)
def test_turning_scaling_and_shifting_the_picture_changes_nothing_but_the_roll(
    degrees: float, scale: float, shift: tuple[float, float]
) -> None:
    points = moved(NEUTRAL, left=(-6, -2), right=(9, -5))
    image = draw(points, opening=8)
    side = round(160 * max(scale, 1) * 1.5)
    matrix = cv2.getRotationMatrix2D((80, 80), -degrees, scale)  # clockwise, as angles grow where y points down
    matrix[:, 2] = matrix[:, 2] + side / 2 - 80 + np.array(shift)
    warped = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    there = points @ matrix[:, :2].T + matrix[:, 2]
    before, after = encode([image, warped], [points, there.astype(np.float32)])
    geometry = list(range(ROLL))
    np.testing.assert_allclose(after[geometry], before[geometry], atol=1e-4)
    assert after[ROLL] - before[ROLL] == pytest.approx(np.radians(degrees), abs=1e-4)
    # The texture is resampled; its numbers are in deviations of the face's brightness.
    np.testing.assert_allclose(after[TEXTURE:], before[TEXTURE:], atol=0.1)
    # What the tolerance must not hide: another expression.
    (other,) = encode([draw(NEUTRAL, opening=22)], [NEUTRAL])
    assert np.abs(other[TEXTURE:] - before[TEXTURE:]).max() > 0.5


def test_light_and_contrast_change_nothing() -> None:
    image = draw(NEUTRAL).astype(np.float32)
    darker = np.rint(0.6 * image + 10).astype(np.uint8)
    before, after = encode([image.astype(np.uint8), darker], [NEUTRAL, NEUTRAL])
    np.testing.assert_allclose(after, before, atol=0.05)


def test_frames_without_points_are_zeros_and_masked() -> None:
    tokens = encode([draw(NEUTRAL), draw(NEUTRAL)], [NEUTRAL, None])
    assert tokens.shape == (2, LandmarkEncoder().info().width) == (2, 53)
    assert tokens[0].any()
    assert not tokens[1].any()


def test_the_command_reads_points_where_the_crop_was_cut_out(tmp_path: Path, run: Run) -> None:
    # The crop shows the frame's square (100, 50)-(420, 370) at half its size.
    in_frame = NEUTRAL * 2 + (100, 50)
    write_faces(tmp_path / "faces" / "9", [draw(NEUTRAL)] * 2, [in_frame, None], crop=(100, 50, 420, 370))
    write_faces(tmp_path / "faces" / "10", [], [])
    outcome = run(
        "extract_FAU_features", "--input_folder", tmp_path / "faces", "--output_folder", tmp_path / "new" / "FAU",
        "--model_name", "landmarks",
    )  # fmt: skip
    assert outcome.code == 0, outcome.said
    store = FeatureStore.open(tmp_path / "new" / "FAU")  # a folder that was not there before
    assert (store.info.modality, store.info.source, store.clips()) == ("FAU", "faces", ["9", "10"])
    feature = store.read("9")
    assert feature.mask.tolist() == [True, False]
    np.testing.assert_allclose(feature.time, [0, 0.1], atol=1e-6)
    expected = encode([draw(NEUTRAL)], [NEUTRAL])[0]
    np.testing.assert_allclose(feature.tokens[0, :TEXTURE], expected[:TEXTURE], atol=1e-4)
    np.testing.assert_allclose(feature.tokens[0, TEXTURE:], expected[TEXTURE:], atol=0.1)  # JPEG
    assert store.read("10").mask.tolist() == [False]


@pytest.mark.parametrize("model_name", ["landmarks", "multitask"])
def test_frames_instead_of_crops_are_one_line_and_exit_code_2(tmp_path: Path, run: Run, model_name: str) -> None:
    write_frames(tmp_path / "frames" / "1", pictures(2))
    outcome = run(
        "extract_FAU_features", "--input_folder", tmp_path / "frames", "--output_folder", tmp_path / "out",
        "--model_name", model_name,
    )  # fmt: skip
    assert outcome.code == 2
    assert len(outcome.said.strip().splitlines()) == 1
    assert "holds whole frames; action units are read from crop_images' output" in outcome.said


@pytest.mark.parametrize("n_workers", [0, 1])
def test_pictures_without_landmarks_are_one_line_and_exit_code_2(tmp_path: Path, run: Run, n_workers: int) -> None:
    """Crops another tool made carry no record; py-feat can read them, landmarks cannot."""
    write_frames(tmp_path / "frames" / "1", pictures(2))
    (tmp_path / "frames" / "1" / "frames.json").unlink()
    outcome = run(
        "extract_FAU_features", "--input_folder", tmp_path / "frames", "--output_folder", tmp_path / "out",
        "--model_name", "landmarks", "--n_workers", n_workers,
    )  # fmt: skip
    assert outcome.code == 2
    assert outcome.said.strip().splitlines()[-1] == (
        "viper: error: landmarks are made from face crops: give the output of crop_images as --input_folder"
    )
    assert not (tmp_path / "out" / "failures.csv").exists()


@pytest.mark.parametrize("name", ["weights.pt", "not_there.safetensors"])
def test_weights_that_would_be_unpickled_or_are_not_there_are_refused(tmp_path: Path, run: Run, name: str) -> None:
    marker = checkpoints.write_malicious(tmp_path / "weights.pt")
    write_faces(tmp_path / "faces" / "1", pictures(1), [NEUTRAL / 4])
    outcome = run(
        "extract_FAU_features", "--input_folder", tmp_path / "faces", "--output_folder", tmp_path / "out",
        "--weights", tmp_path / name,
    )  # fmt: skip
    assert outcome.code == 2
    assert f"{name}: must be an existing .safetensors file" in outcome.said
    assert len(outcome.said.strip().splitlines()) == 1
    assert not marker.exists()


def test_multitask_is_py_feats_network_on_the_same_chips(multitask: Path) -> None:
    images = pictures(5, height=256, width=256)
    direct = import_py_feat()(device="cpu", weights_path=str(multitask), amp=False)
    output = direct(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255)
    expected = np.concatenate([output.au, output.emotion], axis=1)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    encoder = MultitaskEncoder(multitask)
    encoder.prepare(CPU)
    (feature,) = encoder.encode([encoder.load(in_memory(images, [True] * 4 + [False]))], 2)
    np.testing.assert_allclose(feature.tokens[:4], expected[:4], atol=1e-5)
    assert feature.mask.tolist() == [True] * 4 + [False]
    assert not feature.tokens[4].any()
    np.testing.assert_allclose(feature.tokens[:4, 20:].sum(axis=1), 1, atol=1e-5)  # emotions are a distribution


def test_multitask_names_its_27_channels_and_does_not_depend_on_the_batch(multitask: Path) -> None:
    encoder = MultitaskEncoder(multitask)
    encoder.prepare(CPU)
    info = encoder.info()
    names = info.options["channels"]
    assert info.width == len(names) == len(set(names)) == 27
    assert names[:2] == ["AU01", "AU02"]
    assert names[20:] == ["Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger"]
    clips = [pictures(n, seed=n, height=90, width=90) for n in (3, 0, 2)]
    together = encoder.encode([encoder.load(in_memory(clip)) for clip in clips], 64)
    for clip, feature in zip(clips, together, strict=True):
        (alone,) = encoder.encode([encoder.load(in_memory(clip))], 1)
        np.testing.assert_allclose(feature.tokens, alone.tokens, atol=1e-5)
    assert together[1].tokens.shape == (1, 27)
    assert not together[1].mask.any()


def test_multitask_by_the_command_and_a_file_of_something_else(multitask: Path, tmp_path: Path, run: Run) -> None:
    write_faces(tmp_path / "faces" / "1", pictures(2, height=64, width=64), [NEUTRAL / 2.5, None])
    options = ["--input_folder", tmp_path / "faces", "--output_folder", tmp_path / "out", "--weights"]
    outcome = run("extract_FAU_features", *options, multitask)
    assert outcome.code == 0, outcome.said
    store = FeatureStore.open(tmp_path / "out")
    assert store.read("1").mask.tolist() == [True, False]
    assert store.width == 27
    vit = checkpoints.write_vit(tmp_path / "vit")
    outcome = run("extract_FAU_features", *options, vit / "model.safetensors")
    assert outcome.code == 2
    assert len(outcome.said.strip().splitlines()) == 1
    assert "has no configuration of py-feat's multitask network in its metadata" in outcome.said


def test_without_the_published_weights_one_line_says_how_to_get_them(multitask: Path) -> None:
    with pytest.raises(UserError) as error:
        MultitaskEncoder().prepare(CPU)
    assert "`hf download py-feat/face_multitask_v2 --local-dir FOLDER`" in str(error.value)
    assert "`--weights FOLDER/NAME.safetensors`" in str(error.value)
    assert "\n" not in str(error.value)
