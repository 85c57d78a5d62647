"""Ablation: every subset scored from one checkpoint, as if the other features were not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from csv_files import rows_of
from planted import TARGETS, WIDTHS, Planted, plant, predict_all

from viper.cli import run_command
from viper.errors import UserError
from viper.evaluation.drawing import bar_figure, save_png
from viper.evaluation.metrics import evaluate
from viper.fusion.checkpoint import load_checkpoint, point_best, save_checkpoint
from viper.inference.stored import predict, predict_views, subsets_of
from viper.store import FeatureStore
from viper.training.linear import fit_linear

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Clips 61, 62 and 70 of the validation split lack a modality."""
    return plant(tmp_path_factory.mktemp("planted"), lacking={"audio": [61, 62], "textual": [70]})


@pytest.fixture(scope="module")
def run_folder(planted: Planted) -> Path:
    folder = planted.root / "run"
    model = planted.model("linear")
    fit_linear(model, planted.task, planted.data("Train"), planted.data("Val"), predict_all)
    save_checkpoint(folder, 1, model)
    point_best(folder, 1)
    return folder


def _ablate(planted: Planted, run: Path, output: Path, *options: str) -> int:
    common = ["--csv_path", str(planted.manifest), "--model_path", str(run), "--output_path", str(output)]
    return run_command("ablate", [*common, *(options or planted.inputs())])


def test_every_subset_is_what_prediction_without_the_others_gives(
    planted: Planted, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _ablate(planted, run_folder, tmp_path) == 0
    rows = rows_of(tmp_path / "ablation.csv")
    assert len(rows) == 7
    model, labels = load_checkpoint(run_folder), planted.data("Val").labels
    for row in rows:
        names = [name for name in WIDTHS if row[name] == "1"]
        expected = evaluate(planted.task, predict(model, planted.data("Val", *names), 5, CPU), labels)
        assert row["n"] == "24"
        for metric in ("pearson", "mse"):
            assert float(row[metric]) == pytest.approx(expected.mean(metric).value, abs=1e-4)
            for target in TARGETS:
                value = expected.targets[metric][target].value
                assert float(row[f"{metric}_{target}"] or "nan") == pytest.approx(value, abs=1e-4, nan_ok=True)
    described = json.loads((tmp_path / "ablation.json").read_text())
    assert described["clips_without"] == {"visual": [], "audio": ["439", "438"], "textual": ["430"]}
    assert [subset["modalities"] for subset in described["subsets"]][-1] == list(WIDTHS)
    assert (tmp_path / "ablation.png").stat().st_size > 10_000
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["pearson", *TARGETS]
    assert table[1].startswith("visual + audio + textual ")  # the best comes first


def test_each_clip_is_read_once(
    planted: Planted, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in WIDTHS:  # no pack to read instead
        shutil.rmtree(planted.root / name / ".packed", ignore_errors=True)
    read: list[str] = []
    original = FeatureStore.read

    def counting(self: FeatureStore, clip: str) -> object:
        read.append(f"{self.folder.name}/{clip}")
        return original(self, clip)

    monkeypatch.setattr(FeatureStore, "read", counting)
    assert _ablate(planted, run_folder, tmp_path) == 0
    assert len(read) == len(set(read)) == 3 * 24 - 3


def test_any_modalities_and_split(planted: Planted, run_folder: Path, tmp_path: Path) -> None:
    assert _ablate(planted, run_folder, tmp_path, *planted.inputs("visual", "textual"), "--split", "Test") == 0
    assert [(row["visual"], row["textual"], row["n"]) for row in rows_of(tmp_path / "ablation.csv")] == [
        ("1", "0", "16"), ("0", "1", "16"), ("1", "1", "16"),
    ]  # fmt: skip
    with pytest.raises(UserError, match="no such folder"):
        _ablate(planted, tmp_path / "nothing", tmp_path / "out")


def test_views_hide_a_modality_of_single_clips(planted: Planted, run_folder: Path) -> None:
    model, data = load_checkpoint(run_folder), planted.data("Val")
    seen = np.ones((len(data), 3), bool)
    seen[3, 0] = seen[9, 2] = False
    views = {"some": seen, "all": np.ones_like(seen), "none": np.zeros_like(seen)}
    answers = predict_views(model, data, views, 7, CPU)
    np.testing.assert_allclose(answers["all"], predict(model, data, 7, CPU), atol=1e-6)
    assert np.flatnonzero((np.abs(answers["some"] - answers["all"]) > 1e-5).any(axis=1)).tolist() == [3, 9]
    without = predict(model, planted.data("Val", "audio", "textual"), 7, CPU)
    np.testing.assert_allclose(answers["some"][3], without[3], atol=1e-5)
    np.testing.assert_allclose(answers["none"], np.broadcast_to(answers["none"][:1], answers["none"].shape), atol=1e-6)


def test_many_modalities_are_not_two_to_the_many_rows() -> None:
    six, seven = list("abcdef"), list("abcdefg")
    assert len(subsets_of(six)) == 63
    assert [len(subset) for subset in subsets_of(seven)] == [1] * 7 + [6] * 7 + [7]
    assert len(subsets_of(seven, every_subset=True)) == 127
    assert subsets_of(["a"]) == [("a",)]
    assert subsets_of(["a", "b"]) == [("a",), ("b",), ("a", "b")]


def test_a_subset_without_a_score_has_no_bar(tmp_path: Path) -> None:
    figure = bar_figure(["a$", "b"], [float("nan"), -0.2], "title", "subtitle")
    save_png(figure, tmp_path / "bars.png")
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    assert widths == [0, -0.2]
    assert {text.get_text() for text in figure.axes[0].texts} == {"none", "-0.200"}
