"""Classification through the same commands: one class a clip, and labels that are there or not."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from csv_files import rows_of
from many import IS_LONG
from planted import TARGETS, Planted, plant
from sklearn.metrics import average_precision_score, recall_score

from viper.cli import run_command
from viper.errors import UserError
from viper.files import read_json
from viper.manifest import Manifest

# The label is in one channel of each modality: hiding it teaches nothing.
TRAINING = ["--preset", "tiny", "--n_epochs", "25", "--learning_rate", "3e-3", "--keep", "best",
            "--feature_dropout", "0", "--modality_dropout", "0"]  # fmt: skip
CHANCE = {"single_label": 1 / 3, "multi_label": 0.5}


def _train(planted: Planted, run: Path, *options: str) -> int:
    return run_command("train_perceiver", planted.training(run, *TRAINING, *options))


@pytest.mark.parametrize(
    ("kind", "fusion"),
    list(itertools.product(CHANCE, ("tokens", "linear", "mlp", "gru"))) if IS_LONG
    else [("single_label", "tokens"), ("single_label", "linear"), ("multi_label", "linear")],
)  # fmt: skip
def test_what_was_planted_is_learned_and_scored(tmp_path: Path, kind: str, fusion: str) -> None:
    planted = plant(tmp_path / "data", kind)
    run = tmp_path / "run"
    assert _train(planted, run, "--fusion", fusion) == 0
    arguments = ["--csv_path", str(planted.manifest), "--model_path", str(run), *planted.inputs()]
    assert run_command("submission_creation", [*arguments, "--output_path", str(tmp_path / "s.csv")]) == 0
    rows = rows_of(tmp_path / "s.csv")
    values = np.array([[float(row[target]) for target in TARGETS] for row in rows])
    truth = Manifest.load(planted.manifest, planted.task).split("Test").labels
    assert values.min() >= 0
    if kind == "single_label":
        np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-5)
        assert list(rows[0]) == ["File_ID", "feeling", *TARGETS]
        assert [row["feeling"] for row in rows] == [TARGETS[k] for k in values.argmax(axis=1)]
    # Mean average precision, for classes too: of 16 clips, the share predicted right jumps by what one clip is worth.
    reached = average_precision_score(truth, values)
    # 16 clips and little noise: far above chance, without asking for luck.
    assert reached > CHANCE[kind] + 0.2
    assert run_command("confusion_matrix", [*arguments, "--output_path", str(tmp_path / "confusion")]) == 0
    overview = {"single_label": "confusion_overview.png", "multi_label": "precision_recall_overview.png"}[kind]
    assert (tmp_path / "confusion" / overview).is_file()
    with pytest.raises(UserError, match="is a file"):
        run_command("confusion_matrix", [*arguments, "--output_path", str(tmp_path / "s.csv")])


def test_validation_scores_of_classes_are_sklearns(tmp_path: Path) -> None:
    planted = plant(tmp_path / "data", "single_label")
    assert _train(planted, tmp_path / "run", "--fusion", "linear") == 0
    arguments = ["--csv_path", str(planted.manifest), "--model_path", str(tmp_path / "run"), *planted.inputs()]
    submission = ["--split", "Val", "--output_path", str(tmp_path / "s.csv")]
    assert run_command("submission_creation", [*arguments, *submission]) == 0
    answer = np.array([[float(row[target]) for target in TARGETS] for row in rows_of(tmp_path / "s.csv")]).argmax(
        axis=1
    )
    truth = Manifest.load(planted.manifest, planted.task).split("Val").labels.argmax(axis=1)
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["mean"]["uar"]["value"] == pytest.approx(recall_score(truth, answer, average="macro"))
    assert summary["mean"]["accuracy"] == {"value": pytest.approx((truth == answer).mean()), "n": 24}
    assert summary["targets"]["joy"]["uar"]["n"] == (truth == 0).sum()


def test_labels_of_a_manifest(tmp_path: Path) -> None:
    planted = plant(tmp_path, "single_label")
    table = pd.read_csv(planted.manifest)
    table.loc[0, "feeling"], table.loc[1, "feeling"] = "awe", None
    table.to_csv(planted.manifest, index=False)
    manifest = Manifest.load(planted.manifest, planted.task)
    np.testing.assert_array_equal(manifest.labels[0], [0, 1, 0])
    assert np.isnan(manifest.labels[1]).all()
    assert len(manifest.labelled().clips) == len(manifest.clips) - 1
    table.loc[4, "feeling"] = "bliss"
    table.to_csv(planted.manifest, index=False)
    with pytest.raises(UserError, match=r"line 6: feeling is 'bliss', none of joy, awe, fear"):
        Manifest.load(planted.manifest, planted.task)
    multi = plant(tmp_path / "multi", "multi_label")
    text = multi.manifest.read_text().splitlines()
    multi.manifest.write_text("\n".join([text[0], text[1].rsplit(",", 1)[0] + ",0.5", *text[2:]]))
    with pytest.raises(UserError, match=r"line 2: fear is '0.5', not 0 or 1"):
        Manifest.load(multi.manifest, multi.task)
