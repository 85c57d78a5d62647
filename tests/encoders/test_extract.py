"""The extract stage: resuming, what is out of date, whose folder it is, exit codes."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from clips import RATE, pictures, voice, write_faces, write_frames, write_wav
from conftest import Outcome, Run

from viper import cli
from viper.commands import extract_features as extract
from viper.engine.failures import read_failures
from viper.media.pictures import FRAMES_FILE, frame_name, write_image
from viper.store import FeatureStore

CLIPS = ("2", "10", "7.1", "7.2")  # names with dots: what stands behind the last one is no suffix


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder of four clips, the last of them longer."""
    for number, name in enumerate(CLIPS):
        write_frames(tmp_path / "frames" / name, pictures(5 if name == "7.2" else 2, seed=number))
    return tmp_path / "frames"


@pytest.fixture
def hog(frames: Path, tmp_path: Path, run: Run) -> Callable[..., Outcome]:
    """`hog(*options)`: extracts features of those frames into `out`, which is not there before the first time."""
    return lambda *options: run(
        "extract_visual_features", "--input_folder", frames, "--output_folder", tmp_path / "new" / "out",
        "--model_name", "hog", *options,
    )  # fmt: skip


def stamps(store: FeatureStore) -> dict[str, int]:
    """When each file was written, in nanoseconds."""
    return {name: store.path(name).stat().st_mtime_ns for name in store.clips()}


def rewritten(store: FeatureStore, before: dict[str, int]) -> list[str]:
    """The clips whose files are not those of `before`."""
    return [name for name, stamp in stamps(store).items() if before.get(name) != stamp]


@pytest.fixture
def store(hog: Callable[..., Outcome], tmp_path: Path) -> FeatureStore:
    """The store of a first run, whose files look an hour old."""
    outcome = hog()
    assert outcome.code == 0, outcome.said
    store = FeatureStore.open(tmp_path / "new" / "out")
    for name in store.clips():
        now = store.path(name).stat().st_mtime
        os.utime(store.path(name), (now - 3600, now - 3600))
    return store


def test_the_first_run_fills_a_folder_that_was_not_there(store: FeatureStore) -> None:
    assert store.clips() == ["2", "7.1", "7.2", "10"]
    assert [len(store.read(name).tokens) for name in store.clips()] == [2, 2, 5, 2]
    assert not [path.name for path in store.folder.iterdir() if path.name.startswith(".tmp")]


def test_a_second_run_does_nothing(store: FeatureStore, hog: Callable[..., Outcome]) -> None:
    before, card = stamps(store), (store.folder / "encoder.json").stat().st_mtime_ns
    outcome = hog()
    assert outcome.code == 0
    assert "0 done, 4 already there, 0 failed" in outcome.said
    assert rewritten(store, before) == []
    assert (store.folder / "encoder.json").stat().st_mtime_ns == card


def test_no_incremental_does_all_of_it_again(store: FeatureStore, hog: Callable[..., Outcome]) -> None:
    before = stamps(store)
    assert "4 done, 0 already there" in hog("--no-incremental").said
    assert rewritten(store, before) == store.clips()


def test_only_what_is_missing_is_made_and_names_are_compared_whole(
    store: FeatureStore, hog: Callable[..., Outcome]
) -> None:
    store.path("7.1").unlink()
    before = stamps(store)
    assert "1 done, 3 already there" in hog().said
    assert rewritten(store, before) == ["7.1"]


def test_shards_make_together_what_one_run_makes(tmp_path: Path, hog: Callable[..., Outcome]) -> None:
    made: list[str] = []
    for number in range(1, 8):  # more shards than clips: some have nothing to do
        assert hog("--shard", f"{number}/7").code == 0
        made += set(FeatureStore.open(tmp_path / "new" / "out").clips()) - set(made)
    assert sorted(made) == sorted(CLIPS)
    outcome = hog()
    assert "0 done, 4 already there" in outcome.said
    outcome = hog("--shard", "8/7")
    assert (outcome.code, outcome.said) == (
        2,
        "viper: error: --shard 8/7: must be k/n, such as 3/16, with k from 1 to n\n",
    )


def test_a_copy_of_the_job_gives_the_same_in_another_process(frames: Path, tmp_path: Path, vit: Path) -> None:
    config = extract.VisualOptions(input_folder=frames, output_folder=tmp_path / "out", model_name=str(vit))
    job = extract.make_job(config, clips := config.clips())
    message = pickle.dumps(job)
    assert len(message) < 100_000  # it goes without the weights
    copy = pickle.loads(message)
    assert job.read
    assert job.encode
    for clip in clips:
        sample = job.load(job.read(clip))
        (one,), (other,) = job.encode([sample]), copy.encode([sample])
        assert np.array_equal(one.value.tokens, other.value.tokens)
        assert np.abs(one.value.tokens).sum() > 0
    assert not copy.is_done(clips[-1])
    copy.save(clips[-1], one)
    assert job.is_done(clips[-1])


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "header only", "another width"])
def test_a_damaged_file_is_made_again(store: FeatureStore, hog: Callable[..., Outcome], damage: str) -> None:
    good = store.path("10").read_bytes()
    tokens = store.read("10").tokens
    before = stamps(store)
    if damage == "another width":
        from safetensors.numpy import save_file

        arrays = {"tokens": np.zeros((2, 3), np.float32), "mask": np.ones(2, bool), "time": np.zeros(2, np.float32)}
        source = extract.FrameClip("10", store.folder.parent.parent / "frames" / "10").source()
        save_file(arrays, store.path("10"), metadata={"source": source})
    else:
        bytes_of = {"empty": b"", "truncated": good[: len(good) // 2], "garbage": b"x" * 500, "header only": good[:8]}
        store.path("10").write_bytes(bytes_of[damage])
    assert "1 done, 3 already there" in hog().said
    assert rewritten(store, before) == ["10"]
    np.testing.assert_array_equal(store.read("10").tokens, tokens)


def test_features_of_frames_that_changed_are_made_again(
    store: FeatureStore, frames: Path, hog: Callable[..., Outcome]
) -> None:
    write_frames(frames / "10", pictures(3, seed=8))
    before = stamps(store)
    assert "1 done, 3 already there" in hog().said
    assert rewritten(store, before) == ["10"]
    assert len(store.read("10").tokens) == 3


def test_so_are_those_of_a_folder_without_a_record(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "pictures" / "1"
    folder.mkdir(parents=True)
    for name, image in zip(("a1.png", "a2.jpg"), pictures(2), strict=True):
        write_image(folder / name, image)
    options = ["--input_folder", tmp_path / "pictures", "--output_folder", tmp_path / "out", "--model_name", "hog"]
    assert "1 done" in run("extract_visual_features", *options).said
    assert "1 already there" in run("extract_visual_features", *options).said
    write_image(folder / "a3.jpg", pictures(1, seed=3)[0])
    assert "1 done" in run("extract_visual_features", *options).said
    assert len(FeatureStore.open(tmp_path / "out").read("1").tokens) == 3


def test_frames_are_ordered_by_number(tmp_path: Path, run: Run) -> None:
    images = pictures(3)
    for name in ("recorded", "bare"):
        write_frames(tmp_path / "frames" / name, images, [2, 9, 10])
    (tmp_path / "frames" / "bare" / FRAMES_FILE).unlink()
    options = ["--input_folder", tmp_path / "frames", "--output_folder", tmp_path / "out", "--model_name", "hog"]
    assert run("extract_visual_features", *options).code == 0
    store = FeatureStore.open(tmp_path / "out")
    recorded, bare = store.read("recorded"), store.read("bare")
    np.testing.assert_array_equal(recorded.tokens, bare.tokens)
    np.testing.assert_allclose(recorded.time, [0.2, 0.9, 1.0], atol=1e-6)
    np.testing.assert_allclose(bare.time, [2 / 25, 9 / 25, 10 / 25], atol=1e-6)  # at the usual rate
    # One picture at a time, to know which is which.
    for index, image in zip((2, 9, 10), images, strict=True):
        write_frames(tmp_path / "single" / str(index), [image], [index])
    options = ["--input_folder", tmp_path / "single", "--output_folder", tmp_path / "one", "--model_name", "hog"]
    assert run("extract_visual_features", *options).code == 0
    single = FeatureStore.open(tmp_path / "one")
    assert single.clips() == ["2", "9", "10"]
    np.testing.assert_array_equal(np.concatenate([single.read(str(i)).tokens for i in (2, 9, 10)]), recorded.tokens)


def test_another_encoders_folder_is_refused_and_left_alone(
    store: FeatureStore, frames: Path, tmp_path: Path, run: Run, vit: Path
) -> None:
    before = stamps(store)
    crops = tmp_path / "faces"
    write_faces(crops / "2", pictures(1), [np.full((5, 2), 20.0)])
    write_wav(tmp_path / "sounds" / "2.wav", voice(0.5), RATE)
    for command, source, model, message in (
        ("extract_visual_features", frames, vit, "encoder 'hog', not 'image'"),
        ("extract_visual_features", crops, "hog", "source 'frames', not 'faces'"),
        ("extract_audio_features", tmp_path / "sounds", "logmel", "encoder 'hog', not 'logmel'"),
    ):
        outcome = run(command, "--input_folder", source, "--output_folder", store.folder, "--model_name", model)
        assert outcome.code == 2
        assert message in outcome.said
        assert "give another output folder" in outcome.said
    assert rewritten(store, before) == []


def test_a_copy_of_the_weights_goes_on_and_other_weights_do_not(
    frames: Path, tmp_path: Path, run: Run, vit: Path
) -> None:
    copy = checkpoints.copy_with(vit, tmp_path / "copy", lambda state: state)
    other = checkpoints.write_vit(tmp_path / "other", seed=1)
    options = ["--input_folder", frames, "--output_folder", tmp_path / "out", "--model_name"]
    assert run("extract_visual_features", *options, vit).code == 0
    assert "0 done, 4 already there" in run("extract_visual_features", *options, copy).said
    outcome = run("extract_visual_features", *options, other)
    assert outcome.code == 2
    assert "weights" in outcome.said


def test_a_classifier_without_a_pooler_can_be_resumed(
    frames: Path, tmp_path: Path, run: Run, vit_classifier: Path
) -> None:
    options = ["--input_folder", frames, "--output_folder", tmp_path / "out", "--model_name", vit_classifier]
    assert run("extract_visual_features", *options).code == 0
    assert "0 done, 4 already there" in run("extract_visual_features", *options).said


def test_a_damaged_picture_fails_its_clip_alone_and_is_forgotten_when_fixed(
    frames: Path, tmp_path: Path, run: Run, vit: Path
) -> None:
    picture = frames / "7.2" / frame_name(3)
    good = picture.read_bytes()
    picture.write_bytes(good[:40])
    options = ["--input_folder", frames, "--output_folder", tmp_path / "out", "--model_name", vit]
    outcome = run("extract_visual_features", *options)
    assert outcome.code == 3
    store = FeatureStore.open(tmp_path / "out")
    assert store.clips() == ["2", "7.1", "10"]
    (failure,) = read_failures(store.folder)
    assert (failure.clip, failure.stage, failure.error) == ("7.2", "extract_visual_features", "ClipError")
    assert "7.2/frame_3.jpg" in failure.message
    picture.write_bytes(good)
    assert "1 done, 3 already there, 0 failed" in run("extract_visual_features", *options).said
    assert not (store.folder / "failures.csv").exists()


def test_nothing_usable_is_exit_code_1(tmp_path: Path, run: Run) -> None:
    write_frames(tmp_path / "frames" / "1", pictures(1))
    (tmp_path / "frames" / "1" / frame_name(0)).write_bytes(b"")
    options = ["--input_folder", tmp_path / "frames", "--output_folder", tmp_path / "out", "--model_name", "hog"]
    assert run("extract_visual_features", *options).code == 1


def test_encoder_json_says_what_made_the_features(frames: Path, tmp_path: Path, run: Run, vit: Path) -> None:
    options = ["--input_folder", frames, "--output_folder", tmp_path / "out", "--model_name", vit, "--pool", "mean"]
    assert run("extract_visual_features", *options).code == 0
    card = json.loads((tmp_path / "out" / "encoder.json").read_text())
    assert (card["encoder"], card["modality"], card["width"]) == ("image", "visual", checkpoints.WIDTH)
    assert (card["source"], card["model"], card["options"]["pool"]) == ("frames", str(vit), "mean")
    assert {"torch", "transformers"} <= card["versions"].keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model_name", "hog"], "--input_folder is missing"),
        (["--input_folder", "nowhere", "--model_name", "hog"], "nowhere: no such folder"),
        (["--input_folder", ".", "--model_name", "hog"], "no folders of frames in it"),
        (["--input_folder", "frames", "--model_name", "hog", "--batch_size", "0"], "--batch_size 0"),
        (["--input_folder", "frames", "--model_name", "hog", "--device", "gpu0"], "--device gpu0"),
        (["--input_folder", "frames", "--model_name", "hog", "--poool", "mean"], "--poool"),
        (["--input_folder", "frames", "--model_name", "hog", "--pool", "max"], "max"),
    ],
)
def test_wrong_options_are_exit_code_2(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    write_frames(tmp_path / "frames" / "1", pictures(1))
    monkeypatch.chdir(tmp_path / "empty" if "." in arguments else tmp_path)
    outcome = run("extract_visual_features", *arguments, "--output_folder", tmp_path / "out")
    assert outcome.code == 2
    assert message in outcome.said
    assert "Traceback" not in outcome.said


def test_a_config_that_is_parsed_can_be_run(frames: Path, tmp_path: Path) -> None:
    config = cli.parse(
        "extract_visual_features",
        ["--input_folder", str(frames), "--output_folder", str(tmp_path / "out"), "--model_name", "hog",
         "--n_workers", "0"],
    )  # fmt: skip
    assert isinstance(config, extract.VisualOptions)
    assert (config.batch_size, config.incremental, config.n_workers) == (64, True, 0)
    assert extract.run(config) == 0
    assert len(FeatureStore.open(tmp_path / "out").clips()) == 4


def test_worker_processes_load_without_the_weights_and_give_the_same(
    frames: Path, tmp_path: Path, run: Run, vit: Path
) -> None:
    (frames / "10" / frame_name(0)).write_bytes(b"")
    stores = []
    for n_workers in (0, 2):
        out = tmp_path / f"out{n_workers}"
        outcome = run(
            "extract_visual_features", "--input_folder", frames, "--output_folder", out, "--model_name", vit,
            "--batch_size", 3, "--n_workers", n_workers,
        )  # fmt: skip
        assert outcome.code == 3
        assert "3 done, 0 already there, 1 failed" in outcome.said
        stores.append(FeatureStore.open(out))
    first, second = stores
    assert first.clips() == second.clips() == ["2", "7.1", "7.2"]
    for name in first.clips():
        np.testing.assert_allclose(first.read(name).tokens, second.read(name).tokens, atol=1e-5)
    assert read_failures(first.folder) == read_failures(second.folder)
