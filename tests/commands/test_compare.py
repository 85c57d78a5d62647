"""Comparison: every model trained with the same options, scored on the same clips, once."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from csv_files import rows_of
from planted import SIZES, Planted, plant

from viper.cli import parse, run_command
from viper.commands.common import mean_and_std
from viper.commands.compare import hidden_at_random
from viper.errors import UserError
from viper.files import read_json

MODELS = ["tokens", "linear", "mlp", "gru", "perceiver-channels"]
TRAINING = ["--preset", "tiny", "--n_epochs", "2", "--device", "cpu", "--n_seeds", "2", "--seed", "3"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"), lacking={"audio": [61], "textual": [61, 62]})


def _compare(planted: Planted, output: Path, *options: str) -> int:
    common = ["--csv_path", str(planted.manifest), "--task", str(planted.card), "--output_path", str(output)]
    return run_command("compare", [*common, *planted.inputs(), *TRAINING, *options])


@pytest.fixture(scope="module")
def compared(planted: Planted) -> Path:
    output = planted.root / "compared"
    test = ["--test_csv_path", str(planted.manifest)]
    options = ["--train_options", "weight_decay=0.1", "d_latents=32", "--missing", "0.3"]
    assert _compare(planted, output, *test, *options) == 0
    return output


def test_every_model_is_trained_with_the_same_options_over_seeds(compared: Path) -> None:
    runs = {model: sorted(path.name for path in (compared / model).glob("seed_*")) for model in MODELS}
    assert runs == {model: ["seed_3"] if model == "linear" else ["seed_3", "seed_4"] for model in MODELS}
    for model in MODELS:
        options = yaml.safe_load((compared / model / "seed_3" / "config.yaml").read_text())["options"]
        assert options["fusion"] == {"perceiver-channels": "channels"}.get(model, model)
        expected = {"preset": "tiny", "n_epochs": 2, "weight_decay": 0.1, "d_latents": 32, "seed": 3, "keep": "best"}
        assert {name: options[name] for name in expected} == expected
        assert options["learning_rate"] == 2e-3  # that of the preset, for the published layout too
    assert not [path for path in compared.rglob("*") if path.suffix in (".pt", ".pkl", ".bin")]


def test_a_run_records_the_command_that_makes_it_again(compared: Path, planted: Planted) -> None:
    record = yaml.safe_load((compared / "mlp" / "seed_4" / "config.yaml").read_text())
    command = shlex.split(record["command"])
    assert command[:2] == ["viper", "train_perceiver"]
    options = dataclasses.asdict(parse("train_perceiver", command[2:]))
    same = {"n_epochs", "preset", "fusion", "weight_decay", "d_latents", "batch_size", "visual_features_input_folder"}
    assert {name: str(options[name]) for name in same} == {name: str(record["options"][name]) for name in same}
    assert (options["seed"], options["n_seeds"]) == (3, 2)


def test_the_table_is_the_runs_mean_and_deviation(compared: Path) -> None:
    described = json.loads((compared / "compare.json").read_text())
    rows = {row["model"]: row for row in rows_of(compared / "compare.csv")}
    assert list(rows) == MODELS
    for model in MODELS:
        values = [
            read_json(path / "summary.json")["mean"]["pearson"]["value"]
            for path in sorted((compared / model).glob("seed_*"))
        ]
        scores = described["models"][model]["scores"]
        # After two epochs predictions hardly vary, and Pearson magnifies the rounding of another batch size.
        assert scores["Val"]["pearson"]["values"] == pytest.approx(values, abs=2e-3)
        assert float(rows[model]["Val pearson"]) == pytest.approx(np.mean(values), abs=2e-3)
        if model == "linear":
            assert rows[model]["Val pearson std"] == ""
            assert values[0] > 0.9
        else:
            assert float(rows[model]["Val pearson std"]) == pytest.approx(np.std(values, ddof=1), abs=2e-3)
        assert list(scores) == ["Val", "Val, one missing", "Test", "Test, one missing"]
    # What is hidden was needed: each target is in one modality alone.
    linear = described["models"]["linear"]["scores"]
    for split in ("Val", "Test"):
        assert linear[f"{split}, one missing"]["pearson"]["mean"] < linear[split]["pearson"]["mean"] - 0.02
    page = (compared / "compare.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in page[2:7]] == MODELS
    assert len({len(line) for line in page[:7]}) == 1
    assert "±" in page[2]
    assert "±" not in page[3]


def test_hidden_modalities_are_recorded_and_the_same_for_all(planted: Planted, compared: Path) -> None:
    hidden = json.loads((compared / "compare.json").read_text())["missing"]["hidden"]
    assert {split: len(clips) for split, clips in hidden.items()} == {
        "Val": round(0.3 * SIZES["Val"]),
        "Test": round(0.3 * SIZES["Test"]),
    }
    data = planted.data("Val")
    seen = hidden_at_random(data, 1.0, seed=0)
    # Clip 61 has one modality left and keeps it; the others lose one of those they have.
    assert (~seen).sum(axis=1).tolist() == [int(clip != str(500 - 61)) for clip in data.clips]
    assert seen[data.clips.index(str(500 - 62)), 2]
    assert (hidden_at_random(data, 1.0, seed=0) == seen).all()
    assert (hidden_at_random(data, 1.0, seed=1) != seen).any()
    assert hidden_at_random(data, 0.0, seed=0).all()


def test_a_second_call_trains_only_what_is_missing(planted: Planted, compared: Path) -> None:
    weights = {path: os.stat(path).st_mtime_ns for path in compared.rglob("model.safetensors")}
    (compared / "mlp" / "seed_4" / "summary.json").unlink()
    before = (compared / "compare.csv").read_text()
    options = ["--train_options", "weight_decay=0.1", "d_latents=32", "--missing", "0.3"]
    assert _compare(planted, compared, *options, "--test_csv_path", str(planted.manifest)) == 0
    changed = {path for path, time in weights.items() if not path.exists() or os.stat(path).st_mtime_ns != time}
    assert {path.relative_to(compared).parts[:2] for path in changed} <= {("mlp", "seed_4")}
    assert (compared / "compare.csv").read_text() == before
    with pytest.raises(UserError, match="was trained with --n_epochs 2, not 5"):
        _compare(planted, compared, *options, "--n_epochs", "5")


def test_test_labels_are_not_looked_at_unless_asked(planted: Planted, tmp_path: Path) -> None:
    assert _compare(planted, tmp_path, "--models", "linear") == 0
    scores = json.loads((tmp_path / "compare.json").read_text())["models"]["linear"]["scores"]
    assert list(scores) == ["Val"]


def test_what_a_user_gets_wrong_is_one_line(planted: Planted, tmp_path: Path) -> None:
    cases = [
        (["--missing", "1.5"], "--missing 1.5"),
        (["--n_seeds", "0"], "--n_seeds 0"),
        (["--train_options", "preset=small"], "sets preset itself"),
        (["--train_options", "output_checkpoint_folder=x"], "sets output_checkpoint_folder itself"),
        (["--train_options", "los=mse"], "train_perceiver has no option 'los'; did you mean loss"),
        (["--train_options", "weight_decay=x"], "weight_decay must be a number, not 'x'"),
        (["--train_options", "patience=1.5"], "patience must be a whole number, not '1.5'"),
        (["--train_options", "compile=perhaps"], "compile must be true or false, not 'perhaps'"),
        (["--train_options", "loss"], "must be NAME=VALUE"),
        (["--no-audio", "--no-textual", "--missing", "0.3"], "needs at least two"),
    ]
    for options, message in cases:
        with pytest.raises(UserError, match=message):
            _compare(planted, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_mean_and_deviation() -> None:
    assert mean_and_std([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, 1.527525))
    assert np.isnan(mean_and_std([1.0])[1])
