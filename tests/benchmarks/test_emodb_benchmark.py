"""The EmoDB benchmark's splits, and its whole way on three speakers of the real recordings."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from many import long_test

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from emodb import measure, prepare, uar, validation_speakers

from viper.cli import run_command

WAVS = Path(__file__).parents[3] / "shared" / "data" / "emodb" / "wav"


def test_every_speaker_is_validated_on_once_and_never_by_itself() -> None:
    speakers = [f"{n:02d}" for n in range(10)]
    pairs = validation_speakers(speakers)
    assert sorted(pairs) == sorted(pairs.values()) == speakers
    assert all(test != validation for test, validation in pairs.items())


def test_uar_is_the_mean_recall_of_the_classes_there_are() -> None:
    true = pd.Series(["joy", "joy", "fear", "fear", "fear", "fear"])
    predicted = pd.Series(["joy", "anger", "fear", "fear", "fear", "joy"])
    assert uar(true, predicted) == pytest.approx((0.5 + 0.75) / 2)


@pytest.mark.skipif(not WAVS.is_dir(), reason=f"no recordings in {WAVS.parent}")
@long_test
def test_clips_are_named_by_speaker_and_emotion_and_are_told_apart_above_chance(tmp_path: Path) -> None:
    clips = prepare(WAVS, tmp_path / "all.csv")
    assert len(clips) == 535
    assert clips.emotion.value_counts().to_dict() == {
        "anger": 127, "boredom": 81, "disgust": 46, "fear": 69, "joy": 71, "sadness": 62, "neutral": 79,
    }  # fmt: skip
    some = clips[clips.speaker.isin(["03", "08", "09"])].groupby(["speaker", "emotion"]).head(3)
    (tmp_path / "wavs").mkdir()
    for name in some.File_ID:
        (tmp_path / "wavs" / f"{name}.wav").write_bytes((WAVS / f"{name}.wav").read_bytes())
    command = ["--input_folder", str(tmp_path / "wavs"), "--output_folder", str(tmp_path / "store")]
    assert run_command("extract_audio_features", [*command, "--model_name", "acoustic", "--n_fragments", "2"]) == 0
    options = ["--fusion", "linear", "--normalize", "group", "--group_column", "speaker"]
    rows = measure(tmp_path / "wavs", some.reset_index(drop=True), tmp_path / "store", options, n_seeds=1)
    assert rows.shape == (1, 2)
    assert np.all(rows > 2 / 7)
