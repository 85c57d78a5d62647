"""Ensembles: joined by id, weights that are optimal, and errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from csv_files import rows_of, write_rows
from planted import SIZES, TARGETS, Planted, plant
from scipy.optimize import minimize

from viper.cli import run_command
from viper.errors import UserError
from viper.evaluation.ensemble import combine, cross_validated, fit_weights
from viper.manifest import Manifest


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"))


def _write(path: Path, clips: list[str], values: np.ndarray) -> Path:
    rows = [[clip, *row] for clip, row in zip(clips, values.tolist(), strict=True)]
    return write_rows(path, [["File_ID", *TARGETS], *rows])


def _read(path: Path) -> dict[str, list[float]]:
    return {row["File_ID"]: [float(row[target]) for target in TARGETS] for row in rows_of(path)}


@pytest.fixture
def members(planted: Planted, tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """Test and validation files of a member that knows joy, one that knows awe, and one that knows nothing."""
    rng = np.random.default_rng(3)
    test, validation = [], []
    for k in range(3):
        for split, files in (("Test", test), ("Val", validation)):
            manifest = Manifest.load(planted.manifest, planted.task).split(split)
            values = rng.uniform(size=manifest.labels.shape)
            if k < 2:
                values[:, k] = np.clip(manifest.labels[:, k] + rng.normal(0, 0.02, len(values)), 0, 1)
            order = rng.permutation(len(values))  # every file in an order of its own
            clips = [manifest.clips[i] if k else manifest.file_ids[i] for i in order]
            files.append(_write(tmp_path / f"{split}_{k}.csv", clips, values[order]))
    return test, validation


def _run(*options: object) -> int:
    return run_command("ensemble", [str(option) for option in options])


def test_the_average_is_joined_by_id(planted: Planted, members: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    test, _ = members
    assert _run("--predictions", *test, "--output_path", tmp_path / "out.csv", "--task", planted.card) == 0
    tables = [_read(path) for path in test]
    got = _read(tmp_path / "out.csv")
    assert list(got) == list(tables[0])  # spelled and ordered as in the first file
    for clip, values in got.items():
        others = [table[clip.strip("[]")] for table in tables[1:]]
        np.testing.assert_allclose(values, np.mean([tables[0][clip], *others], axis=0), atol=1e-12)
    described = json.loads((tmp_path / "out.json").read_text())
    assert described["weights"] == {target: pytest.approx([1 / 3] * 3) for target in TARGETS}
    assert described["validation"] is None
    assert described["n_clips"] == SIZES["Test"]


def test_weights_go_to_who_knows_the_target(
    planted: Planted, members: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    test, validation = members
    options = ["--predictions", *test, "--validation_predictions", *validation, "--csv_path", planted.manifest]
    assert _run(*options, "--task", planted.card, "--output_path", tmp_path / "out.csv") == 0
    described = json.loads((tmp_path / "out.json").read_text())
    assert described["weights"]["joy"][0] > 0.95
    assert described["weights"]["awe"][1] > 0.95
    for weights in described["weights"].values():
        assert sum(weights) == pytest.approx(1)
        assert min(weights) >= 0
    scores = {name: member["mean"]["pearson"]["value"] for name, member in described["validation"]["members"].items()}
    assert list(scores) == [str(path) for path in test]
    assert described["validation"]["ensemble"]["mean"]["pearson"]["value"] > max(scores.values()) + 0.2
    assert described["validation"]["ensemble"]["n_clips"] == SIZES["Val"]
    held_out = described["validation"]["ensemble_cross_validated"]["targets"]["joy"]["pearson"]["value"]
    assert held_out > 0.95
    truth = Manifest.load(planted.manifest, planted.task).split("Test").table
    got = _read(tmp_path / "out.csv")
    joy = [values[0] for values in got.values()]
    assert np.corrcoef(joy, truth.loc[[clip.strip("[]") for clip in got], "joy"])[0, 1] > 0.95


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_the_optimum_of_a_general_solver(planted: Planted, seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = rng.uniform(size=(30, 3))
    predicted = 0.3 * rng.normal(size=(4, 30, 3)) * rng.uniform(0.2, 1, (4, 1, 1)) + true
    true[rng.uniform(size=true.shape) < 0.2] = np.nan
    weights = fit_weights(planted.task, predicted, true)
    for k in range(3):
        known = ~np.isnan(true[:, k])

        def loss(w: np.ndarray, k: int = k, known: np.ndarray = known) -> float:
            return float(np.mean((w @ predicted[:, known, k] - true[known, k]) ** 2))

        constraint = {"type": "eq", "fun": lambda w: w.sum() - 1}
        best = minimize(loss, np.full(4, 0.25), bounds=[(0, 1)] * 4, constraints=constraint, tol=1e-12)
        assert loss(weights[:, k]) <= best.fun + 1e-9
        np.testing.assert_allclose(weights[:, k], best.x, atol=1e-3)


def test_classes_share_their_weights(tmp_path: Path) -> None:
    task = plant(tmp_path, "single_label").task
    rng = np.random.default_rng(0)
    true = np.eye(3)[rng.integers(0, 3, 40)]
    predicted = rng.dirichlet(np.ones(3), (2, 40))
    predicted[0] = 0.5 * predicted[0] + 0.5 * true
    true[:3] = np.nan
    weights = fit_weights(task, predicted, true)
    assert (weights == weights[:, :1]).all()
    np.testing.assert_allclose(combine(predicted, weights).sum(axis=1), 1)
    assert weights[0, 0] > 0.7


def test_labels_that_are_missing_or_matched_by_all_leave_equal_weights(planted: Planted) -> None:
    true = np.full((4, 3), np.nan)
    true[:, 1] = 0.5
    np.testing.assert_allclose(fit_weights(planted.task, np.full((2, 4, 3), 0.5), true), 0.5)


def test_cross_validation_never_sees_the_clip(planted: Planted) -> None:
    rng = np.random.default_rng(0)
    predicted, true = rng.uniform(size=(3, 20, 3)), rng.uniform(size=(20, 3))
    before = cross_validated(planted.task, predicted, true)
    changed = true.copy()
    changed[7] = 1 - changed[7]
    after = cross_validated(planted.task, predicted, changed)
    np.testing.assert_array_equal(after[7], before[7])
    assert not np.allclose(after, before)


def test_what_is_wrong_is_named(planted: Planted, members: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    test, validation = members
    lines = test[1].read_text().splitlines()

    def changed(name: str, lines: list[str]) -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return path

    clip = lines[3].split(",")[0]
    bad = {
        "short.csv": (lines[:3] + lines[4:], rf"short\.csv: no row for the clip '{clip}', which .*Test_0\.csv has"),
        "long.csv": ([*lines, "zzz,0.1,0.1,0.1"], r"Test_0\.csv: no row for the clip 'zzz', which .*long\.csv has"),
        "nan.csv": ([*lines[:4], "x,nan,0.1,0.1", *lines[5:]], r"nan\.csv, line 5: joy is 'nan', not a number"),
        "twice.csv": ([*lines, lines[1]], r"twice\.csv, line 18: the id .* was already used in line 2"),
        "column.csv": ([line.rsplit(",", 1)[0] for line in lines], r"column\.csv: the columns are File_ID, joy, awe;"),
    }
    common = ["--output_path", tmp_path / "out.csv", "--task", planted.card]
    for name, (content, message) in bad.items():
        with pytest.raises(UserError, match=message):
            _run("--predictions", test[0], changed(name, content), *common)
    fitted = ["--predictions", *test, *common]
    cases = [
        (["--predictions", test[0], *common], "at least two members"),
        (["--predictions", test[0], test[0], *common], "given twice"),
        ([*fitted, "--csv_path", planted.manifest], "need both --csv_path and --validation_predictions"),
        ([*fitted, "--csv_path", planted.manifest, "--validation_predictions", *validation[:2]], "2 files for 3"),
        (
            [*fitted, "--csv_path", planted.manifest, "--validation_predictions", *test],
            r"Test_0\.csv: no row for the clip '440' and 23 more, which .*manifest\.csv \(Val\) has",
        ),
    ]
    for options, message in cases:
        with pytest.raises(UserError, match=message):
            _run(*options)
    assert not (tmp_path / "out.csv").exists()
