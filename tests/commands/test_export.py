"""export: a store as .npy files and an index in Parquet, and back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Run
from pyarrow import parquet

from viper.commands import export
from viper.store import EncoderInfo, Feature, FeatureStore

INFO = EncoderInfo("hog", "visual", 3, {"cells": [4, 4]}, source="frames")


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Three clips: one with a masked token, one of one token, one that lacks the modality."""
    store = FeatureStore.create(tmp_path / "store", INFO)
    tokens = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    store.write("10", Feature.make(tokens, [True, False, True, True], [0.25, 0.5, 1.75, 31.1]), "aa")
    store.write("2", Feature.make(tokens[:1], None, [7.5]), "bb")
    store.write("9", Feature.absent(3, 2), "cc")
    return store


def test_features_come_back_with_their_times_and_masks(tmp_path: Path, store: FeatureStore, run: Run) -> None:
    options = ["--features_input_folder", store.folder, "--output_folder", tmp_path / "out"]
    assert run("export", *options, n_workers=None).code == 0
    again = ["--from_files", tmp_path / "out", "--output_folder", tmp_path / "again"]
    assert "3 done" in run("extract_visual_features", *again).said
    back = FeatureStore.open(tmp_path / "again")
    assert back.clips() == store.clips() == ["2", "9", "10"]
    for clip in store.clips():
        old, new = store.read(clip), back.read(clip)
        for name in ("tokens", "mask", "time"):
            np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
    assert "3 already there" in run("extract_visual_features", *again).said
    np.save(tmp_path / "out" / "time" / "2.npy", np.array([8.0]))
    assert "1 done, 2 already there" in run("extract_visual_features", *again).said
    assert back.read("2").time.tolist() == [8]


def test_numpy_alone_reads_the_files(tmp_path: Path, store: FeatureStore, run: Run) -> None:
    options = ["--features_input_folder", store.folder, "--output_folder", tmp_path / "out", "--format", "npy"]
    assert run("export", *options, n_workers=None).code == 0
    assert not (tmp_path / "out" / "index.parquet").exists()
    feature = store.read("10")
    for name, values in (("", feature.tokens), ("mask", feature.mask), ("time", feature.time)):
        array = np.load(tmp_path / "out" / name / "10.npy", allow_pickle=False)
        np.testing.assert_array_equal(array, values)
        assert array.dtype == values.dtype


def test_the_index_has_a_row_a_clip(tmp_path: Path, store: FeatureStore, run: Run) -> None:
    options = ["--features_input_folder", store.folder, "--output_folder", tmp_path / "out", "--format", "parquet"]
    assert run("export", *options, n_workers=None).code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.parquet"]
    index = parquet.read_table(tmp_path / "out" / "index.parquet")
    encoder = {"modality": "visual", "encoder": "hog", "encoder_identity": INFO.identity}
    assert index.to_pylist()[2] == {
        "clip": "10", "file": "10.safetensors", "n_tokens": 4, "n_unmasked": 3, "width": 3, "first_time": 0.25,
        "last_time": float(np.float32(31.1)), "source": "aa", **encoder,
    }  # fmt: skip
    assert index["clip"].to_pylist() == ["2", "9", "10"]
    assert index["n_unmasked"].to_pylist() == [1, 0, 3]
    assert json.loads(index.schema.metadata[export.ENCODER_KEY])["options"] == {"cells": [4, 4]}


def test_a_damaged_feature_costs_itself(tmp_path: Path, store: FeatureStore, run: Run) -> None:
    (store.folder / "9.safetensors").write_bytes(b"x")
    options = ["--features_input_folder", store.folder, "--output_folder", tmp_path / "out"]
    outcome = run("export", *options, n_workers=None)
    assert outcome.code == 3
    assert "9.safetensors: not a valid feature" in outcome.said
    assert parquet.read_table(tmp_path / "out" / "index.parquet")["clip"].to_pylist() == ["2", "10"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.npy")) == ["10.npy", "2.npy"]


def test_clips_of_an_earlier_export_are_told_of(tmp_path: Path, store: FeatureStore, run: Run) -> None:
    options = ["--features_input_folder", store.folder, "--output_folder", tmp_path / "out"]
    assert run("export", *options, n_workers=None).code == 0
    (store.folder / "9.safetensors").unlink()
    assert "has 1 .npy files of clips that the features lack" in run("export", *options, n_workers=None).said


def test_mistakes_are_one_line(tmp_path: Path, store: FeatureStore, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ["--features_input_folder", store.folder]
    outcome = run("export", *folder, "--output_folder", store.folder, n_workers=None)
    assert (outcome.code, "is the folder of the features" in outcome.said) == (2, True)
    outcome = run("export", "--features_input_folder", tmp_path, "--output_folder", tmp_path / "out", n_workers=None)
    assert (outcome.code, "no encoder.json in it" in outcome.said) == (2, True)
    FeatureStore.create(tmp_path / "empty", INFO)
    outcome = run(
        "export", "--features_input_folder", tmp_path / "empty", "--output_folder", tmp_path / "out", n_workers=None
    )
    assert (outcome.code, "there are no features in it" in outcome.said) == (1, True)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    outcome = run("export", *folder, "--output_folder", tmp_path / "out", n_workers=None)
    assert (outcome.code, "pip install 'viper[parquet]'" in outcome.said) == (2, True)
    assert not (tmp_path / "out").exists()
    assert run("export", *folder, "--output_folder", tmp_path / "out", "--format", "npy", n_workers=None).code == 0


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("time", np.zeros(3), "time/10.npy beside it is not one value for each of 4 tokens"),
        ("time", np.array([0, 1, np.nan, 2]), "time/10.npy beside it holds a time that is no number"),
        ("mask", np.ones(4), "mask/10.npy beside it is not one value for each of 4 tokens"),
        ("mask", np.ones((4, 1), bool), "mask/10.npy beside it is not one value for each of 4 tokens"),
        ("time", np.array([None] * 4, object), "10.npy: cannot be read as plain numbers"),
    ],
)
def test_times_and_masks_beside_that_do_not_fit(
    tmp_path: Path, store: FeatureStore, run: Run, name: str, array: np.ndarray, said: str
) -> None:
    options = ["--features_input_folder", store.folder, "--output_folder", tmp_path / "out", "--format", "npy"]
    assert run("export", *options, n_workers=None).code == 0
    np.save(tmp_path / "out" / name / "10.npy", array, allow_pickle=True)
    outcome = run("extract_visual_features", "--from_files", tmp_path / "out", "--output_folder", tmp_path / "again")
    assert outcome.code == 3
    assert said in (tmp_path / "again" / "failures.csv").read_text()
