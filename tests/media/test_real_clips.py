"""Every file of the shared clips: the right outcome or one line in failures.csv, never a crash."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from csv_files import rows_of
from many import IS_LONG, long_test

from viper.cli import run_command
from viper.media.sound import read_sound
from viper.store import FeatureStore

CLIPS = Path(__file__).parents[3] / "shared" / "clips"
pytestmark = pytest.mark.skipif(not CLIPS.is_dir(), reason="the shared clips are not beside this checkout")

SOUND_ONLY = "eamm__00015"
N_FRAMES = 8 if IS_LONG else 5


def _manifest() -> dict[str, dict[str, str]]:
    return {Path(row["file"]).stem: row for row in rows_of(CLIPS / "MANIFEST.csv")}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "frames"
    options = ["--output_folder", str(folder), "--n_frames", str(N_FRAMES), "--n_workers", "0"]
    assert run_command("get_frame", ["--input_folder", str(CLIPS), *options]) == 3
    return folder


@pytest.fixture(scope="module")
def faces(frames: Path) -> Path:
    folder = frames.parent / "faces"
    options = ["--output_folder", str(folder), "--n_workers", "0", "--device", "cpu"]
    assert run_command("crop_images", ["--input_folder", str(frames), *options]) == 0
    return folder


def _found(faces: Path, clip: str) -> list[bool]:
    return [frame["found"] for frame in json.loads((faces / clip / "faces.json").read_text())["frames"]]


def test_frames_are_counted_and_upright(frames: Path) -> None:
    for clip, row in _manifest().items():
        if clip == SOUND_ONLY:
            continue
        record = json.loads((frames / clip / "frames.json").read_text())
        if "corrupt" in row["notes"]:
            # The manifest counts up to the first broken packet; decoding goes on behind it.
            assert record["undecodable_packets"] > 0
            assert record["n_frames"] >= int(row["frames"])
        else:
            assert (record["n_frames"], record["undecodable_packets"]) == (int(row["frames"]), 0)
        width, height = int(row["w"]), int(row["h"])
        is_turned = row["rot"] in ("90", "-90")
        assert (record["width"], record["height"]) == ((height, width) if is_turned else (width, height))
        times = [frame["time"] for frame in record["frames"]]
        assert all(a < b for a, b in pairwise(times))
        assert times[-1] <= float(row["dur"]) + 0.05
        assert len(list((frames / clip).glob("*.jpg"))) == min(N_FRAMES, record["n_frames"])
        assert record["fps"] == pytest.approx(float(row["avg_fps"]), rel=0.03)


def test_variable_rates_keep_their_times(frames: Path) -> None:
    record = json.loads((frames / "videoretalking__1" / "frames.json").read_text())
    assert record["frames"][0]["time"] == pytest.approx(0.033, abs=0.001)  # this one does not begin at 0
    times = np.array([frame["time"] for frame in record["frames"]])
    even = np.linspace(times[0], times[-1], len(times))
    assert np.abs(times - even).max() > 0.01


def test_sound_alone_fails_in_one_line(frames: Path) -> None:
    rows = rows_of(frames / "failures.csv")
    assert [row["clip"] for row in rows] == [SOUND_ONLY]
    assert "has no video" in rows[0]["message"]
    assert not (frames / SOUND_ONLY).exists()


@long_test
def test_faces_are_found_where_the_manifest_has_some(faces: Path) -> None:
    for clip, row in _manifest().items():
        if clip == SOUND_ONLY:
            continue
        found = _found(faces, clip)
        if row["set"] == "core":
            assert np.mean(found) >= 0.8, clip  # the crowd of one clip comes and goes: 7 of 8
        elif clip == "pyfeat__face_noface":
            assert set(found) == {True, False}
            assert found == sorted(found, reverse=True)  # the face goes, and does not come back
        elif clip != "decord__flipping_a_pancake":  # a person seen from afar
            assert not any(found), clip


@long_test
def test_one_of_several_people_is_followed(faces: Path) -> None:
    frames = json.loads((faces / "facenetpytorch__video" / "faces.json").read_text())["frames"]
    boxes = [np.array(frame["box"]) for frame in frames if frame["found"]]
    assert len(boxes) >= 6
    # Half a second apart, a walking head moves by less than its own width; the next head is further away than that.
    for a, b in pairwise(boxes):
        moved = np.abs((a[:2] + a[2:]) / 2 - (b[:2] + b[2:]) / 2)
        assert (moved < b[2:] - b[:2]).all()


def test_sound_lasts_as_long_as_the_manifest_says() -> None:
    for clip, row in _manifest().items():
        sound = read_sound(CLIPS / row["file"])
        if not row["acodec"]:
            assert sound is None, clip
            continue
        assert sound is not None
        assert np.isfinite(sound.samples).all()
        seconds = sound.start + len(sound.samples) / sound.rate
        assert seconds == pytest.approx(float(row["dur"]), abs=0.12), clip


def test_every_weight_free_encoder_takes_every_clip(faces: Path, tmp_path: Path) -> None:
    commands = {
        "visual": ["--input_folder", str(faces), "--model_name", "hog"],
        "FAU": ["--input_folder", str(faces), "--model_name", "landmarks"],
        "audio": ["--input_folder", str(CLIPS), "--model_name", "logmel", "--n_fragments", "4"],
    }
    for name, options in commands.items():
        arguments = [*options, "--output_folder", str(tmp_path / name), "--n_workers", "0"]
        assert run_command(f"extract_{name}_features", arguments) == 0
    rows = _manifest()
    visual, fau, audio = (FeatureStore.open(tmp_path / name) for name in commands)
    assert sorted(visual.clips()) == sorted(fau.clips()) == sorted(rows.keys() - {SOUND_ONLY})
    assert sorted(audio.clips()) == sorted(rows)
    for clip, row in rows.items():
        assert audio.read(clip).mask.all() == bool(row["acodec"]), clip
        assert audio.read(clip).mask.any() == bool(row["acodec"]), clip
        if clip != SOUND_ONLY:
            assert visual.read(clip).mask.tolist() == fau.read(clip).mask.tolist() == _found(faces, clip)
