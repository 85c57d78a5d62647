"""Features standardised within groups of clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from csv_files import rows_of
from planted import Planted, plant

from viper.cli import run_command
from viper.errors import UserError
from viper.files import read_json
from viper.manifest import Manifest
from viper.store import Feature, FeatureStore
from viper.training.data import FusionData
from viper.training.group_standardization import GroupNormalization


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    """Every clip is of speaker a, b or c; each speaker's features are shifted and scaled by a lot of their own."""
    planted = plant(tmp_path)
    table = pd.read_csv(planted.manifest)
    table["speaker"] = [" abc"[i % 3 + 1] for i in range(len(table))]
    table.to_csv(planted.manifest, index=False)
    for store in planted.stores().values():
        for file_id, speaker in zip(table["File_ID"], table["speaker"], strict=True):
            clip, k = file_id.strip("[]"), "abc".index(speaker)
            feature = store.read(clip)
            store.write(clip, Feature.make(feature.tokens * (1 + 4 * k) + 50 * k, feature.mask, feature.time))
    return planted


def _train(planted: Planted, run: Path, *options: str) -> int:
    return run_command("train_perceiver", planted.training(run, "--fusion", "linear", *options))


def test_tokens_of_a_group_have_mean_zero_and_deviation_one(planted: Planted) -> None:
    manifest, stores = Manifest.load(planted.manifest, planted.task), planted.stores()
    data = FusionData(stores, manifest, GroupNormalization(stores, manifest, "speaker"))
    for speaker in "abc":
        rows = [i for i, each in enumerate(manifest.table["speaker"]) if each == speaker]
        features = [data[i].features["audio"] for i in rows]
        tokens = np.concatenate([feature.tokens[feature.mask] for feature in features])
        np.testing.assert_allclose(tokens.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(tokens.std(axis=0), 1, atol=1e-4)
        assert all((feature.tokens[~feature.mask] == 0).all() for feature in features)


def test_a_constant_channel_is_not_blown_up(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    manifest = Manifest.load(planted.manifest, planted.task)
    store = FeatureStore.open(tmp_path / "audio")
    for clip in manifest.clips:
        feature = store.read(clip)
        tokens = feature.tokens.copy()
        tokens[:, 1] = 7.25
        store.write(clip, Feature.make(tokens, feature.mask, feature.time))
    groups = GroupNormalization({"audio": store}, manifest, "Split")
    clip = manifest.clips[0]
    assert np.abs(groups("audio", clip, store.read(clip)).tokens[:, 1]).max() < 1e-5


def test_it_undoes_what_a_speaker_does_to_the_features(planted: Planted, tmp_path: Path) -> None:
    """Shifts of 50 and 100 drown the planted signal; within a speaker it is as clear as ever."""
    assert _train(planted, tmp_path / "plain") == 0
    assert _train(planted, tmp_path / "within", "--normalize", "group", "--group_column", "speaker") == 0
    plain, within = (read_json(tmp_path / name / "summary.json") for name in ("plain", "within"))
    assert within["mean"]["pearson"]["value"] > 0.9 > plain["mean"]["pearson"]["value"]
    assert within["standardised_within"] == "speaker"
    assert "standardised_within" not in plain


def test_a_checkpoint_standardises_at_inference_as_in_training(
    planted: Planted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert _train(planted, tmp_path / "run", "--normalize", "group", "--group_column", "speaker") == 0
    arguments = ["--csv_path", str(planted.manifest), "--model_path", str(tmp_path / "run"), *planted.inputs()]
    with caplog.at_level("INFO", "viper"):
        assert run_command("submission_creation", [*arguments, "--output_path", str(tmp_path / "s.csv")]) == 0
    assert "standardised within speaker" in caplog.text
    rows = rows_of(tmp_path / "s.csv")
    truth = pd.read_csv(planted.manifest).set_index("File_ID").loc[[row["File_ID"] for row in rows]]
    for target in ("joy", "awe", "fear"):
        assert np.corrcoef([float(row[target]) for row in rows], truth[target])[0, 1] > 0.9
    without = pd.read_csv(planted.manifest).drop(columns="speaker")
    without.to_csv(tmp_path / "without.csv", index=False)
    arguments[1] = str(tmp_path / "without.csv")
    with pytest.raises(UserError, match="no column 'speaker'"):
        run_command("submission_creation", [*arguments, "--output_path", str(tmp_path / "s.csv")])


def test_what_is_refused(planted: Planted, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="go together"):
        _train(planted, tmp_path / "run", "--normalize", "group")
    with pytest.raises(UserError, match="no column 'subject'"):
        _train(planted, tmp_path / "run", "--normalize", "group", "--group_column", "subject")
    table = pd.read_csv(planted.manifest)
    table.loc[5, "speaker"] = None
    table.to_csv(planted.manifest, index=False)
    with pytest.raises(UserError, match="'495' has an empty speaker"):
        _train(planted, tmp_path / "run", "--normalize", "group", "--group_column", "speaker")
