"""What a report is made of, part by part: calibration, groups, cases, pictures."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from clips import pictures, write_frames

from viper.errors import UserError
from viper.evaluation.bootstrap import Bootstrap
from viper.evaluation.calibration import calibrations
from viper.evaluation.metrics import evaluate
from viper.manifest import Manifest
from viper.report.cases import best_and_worst, clip_errors
from viper.report.groups import MAX_GROUPS, group_columns, grouped, has_too_many, scored_groups, subject_column
from viper.report.provenance import HEIGHT, thumbnails
from viper.task import Task, load_task

NAN = math.nan


def _task(kind: str, *targets: str) -> Task:
    return dataclasses.replace(load_task("hume_reaction"), kind=kind, targets=targets, metrics=("mse",))


def test_calibration_of_a_regression_is_in_bins_of_equally_many_clips() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.uniform(size=(200, 2))
    true = predicted + np.array([0.0, 0.1])
    true[:100, 1] = NAN
    exact, shifted = calibrations(_task("regression", "joy", "awe"), predicted, true)
    assert (exact.name, shifted.name) == ("joy", "awe")
    assert exact.error == pytest.approx(0)
    assert shifted.error == pytest.approx(0.1)
    assert [each.n for each in exact.bins] == [20] * 10
    assert sum(each.n for each in shifted.bins) == 100
    for low, high in zip(exact.bins[:-1], exact.bins[1:], strict=True):
        assert low.high == high.low
        assert low.low <= low.mean_predicted <= low.high
    few = calibrations(_task("regression", "joy"), predicted[:12, :1], true[:12, :1])[0]
    assert [each.n for each in few.bins] == [6, 6]
    constant = calibrations(_task("regression", "joy"), np.full((30, 1), 0.4), true[:30, :1])[0]
    assert [(each.n, each.low) for each in constant.bins] == [(30, 0.4)]


def test_calibration_of_probabilities() -> None:
    rng = np.random.default_rng(1)
    predicted = rng.uniform(size=(4000, 2))
    true = (rng.uniform(size=(4000, 2)) < predicted).astype(float)
    true[:, 1] = 0
    true[0, 0] = NAN
    honest, never = calibrations(_task("multi_label", "joy", "awe"), predicted, true)
    assert [each.n for each in honest.bins] == [pytest.approx(400, abs=80)] * 10
    assert honest.error < 0.04
    assert never.error == pytest.approx(predicted[:, 1].mean())
    sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])
    classes = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], float)
    confidence, *each = calibrations(_task("single_label", "joy", "awe"), sure, classes)
    assert confidence.name == "highest probability"
    assert [(b.n, b.mean_true) for b in confidence.bins] == [(1, 1.0), (3, pytest.approx(2 / 3))]
    assert [c.name for c in each] == ["joy", "awe"]
    # Of three pairs that are 2 apart two are in the order people put them in.
    (pairs,) = calibrations(
        _task("preference", "utility"), np.array([[0.0], [2.0], [4.0]]), np.array([[0, 1], [1, 2], [2, 1]])
    )
    assert [(b.n, b.mean_true) for b in pairs.bins] == [(3, pytest.approx(2 / 3))]
    assert pairs.bins[0].mean_predicted == pytest.approx(1 / (1 + math.exp(-2)))


def _manifest(path: Path, columns: dict[str, list[str]]) -> Manifest:
    n = len(next(iter(columns.values())))
    task = dataclasses.replace(load_task("hume_reaction"), targets=("joy",), submission_columns={})
    table = pd.DataFrame({"File_ID": [f"c{k}" for k in range(n)], "Split": "Val", "joy": 0.5, **columns})
    table.to_csv(path / "m.csv", index=False)
    return Manifest.load(path / "m.csv", task)


def test_columns_of_subjects_and_groups_are_found_by_their_usual_names(tmp_path: Path) -> None:
    rows = [str(k) for k in range(4)]
    manifest = _manifest(tmp_path, {"Speaker ID": rows, "duration": rows, "AGE": rows, "Native_Language": rows})
    assert subject_column(manifest, None) == "Speaker ID"
    assert subject_column(manifest, "duration") == "duration"
    assert group_columns(manifest, []) == ["AGE", "Native_Language"]
    assert group_columns(manifest, ["duration"]) == ["duration"]
    with pytest.raises(UserError, match=r"--subject_column who: .*m.csv has no such column; it has Speaker ID, dur"):
        subject_column(manifest, "who")
    with pytest.raises(UserError, match="--group_columns who"):
        group_columns(manifest, ["who"])
    plain = _manifest(tmp_path, {"duration": rows})
    assert (subject_column(plain, None), group_columns(plain, [])) == (None, [])
    carded = dataclasses.replace(manifest, task=dataclasses.replace(manifest.task, group_column="duration"))
    assert subject_column(carded, None) == "duration"


def test_ages_are_put_into_groups_and_other_cells_are_groups() -> None:
    ages = pd.Series(["17", "18", "29", "30", "44.5", "60", "", "71"], name="Age")
    assert list(grouped(ages)) == ["under 18", "18-29", "18-29", "30-44", "30-44", "60+", "", "60+"]
    codes = pd.Series(["1", "2", "3", ""], name="Age")
    assert list(grouped(codes)) == ["1", "2", "3", ""]
    assert list(grouped(pd.Series(["20-29", " 30-39"], name="age"))) == ["20-29", "30-39"]
    assert has_too_many(pd.Series([f"s{k}" for k in range(MAX_GROUPS + 1)], name="country"))
    assert not has_too_many(pd.Series([str(k) for k in range(90)], name="age"))


def test_groups_are_scored_by_themselves_and_their_gap_is_paired() -> None:
    rng, task = np.random.default_rng(2), _task("regression", "joy")
    true = rng.uniform(size=(105, 1))
    country = pd.Series(["A"] * 60 + ["B"] * 40 + ["C"] * 4 + [""], name="Country")
    noise = np.where(country == "A", 0.1, 0.4)[:, None]
    predicted = true + noise * rng.normal(size=(105, 1))
    found = scored_groups(task, "mse", country, predicted, true, Bootstrap.draw(105, None, 300, 0))
    assert found is not None
    assert list(found.groups) == ["A", "B", "C"]
    for name, rows in (("A", slice(0, 60)), ("B", slice(60, 100))):
        assert found.groups[name].value == pytest.approx(evaluate(task, predicted[rows], true[rows]).mean("mse").value)
        assert found.groups[name].low < found.groups[name].value < found.groups[name].high
    assert (found.groups["C"].n, found.groups["C"].n_units) == (4, 4)
    assert math.isnan(found.groups["C"].value)
    assert found.gap is not None
    assert found.gap.value == pytest.approx(found.groups["B"].value - found.groups["A"].value)
    assert 0 < found.gap.low < found.gap.value < found.gap.high
    same = scored_groups(task, "mse", country, true + 0.2, true, Bootstrap.draw(105, None, 100, 0))
    assert same is not None
    assert same.gap is not None
    assert same.gap.value == pytest.approx(0)
    one = pd.Series(["A"] * 105, name="Country")
    assert scored_groups(task, "mse", one, predicted, true, Bootstrap.draw(105, None, 9, 0)) is None


def test_an_order_is_of_a_group_whose_clips_all_are() -> None:
    task = dataclasses.replace(_task("preference", "utility"), metrics=("pairwise_accuracy",), range=None)
    utilities = np.arange(20.0)[:, None]
    sex = pd.Series(["f"] * 10 + ["m"] * 10, name="sex")
    orders = np.array([[k, k + 1] for k in range(19)] + [[9, 8], [19, 18]])
    bootstrap = Bootstrap.draw(len(orders), None, 50, 0)
    found = scored_groups(task, "pairwise_accuracy", sex, utilities, orders, bootstrap)
    assert found is not None
    assert {name: (group.n, group.value) for name, group in found.groups.items()} == {
        "f": (10, pytest.approx(0.9)), "m": (10, pytest.approx(0.9))
    }  # fmt: skip


def test_errors_by_which_clips_are_ranked() -> None:
    predicted, true = np.array([[0.2, 0.4], [0.5, 0.5], [0.9, 0.1]]), np.array([[0.3, NAN], [0.5, 0.7], [NAN, NAN]])
    np.testing.assert_allclose(clip_errors(_task("regression", "a", "b"), predicted, true), [0.1, 0.1, NAN])
    classes = np.array([[0, 1], [1, 0], [NAN, NAN]], float)
    np.testing.assert_allclose(clip_errors(_task("single_label", "a", "b"), predicted, classes), [0.6, 0.5, NAN])
    orders = np.array([[0, 1, -1], [3, 1, 2], [3, 0, -1], [2, 3, -1]])
    utilities = np.array([[1.0], [3.0], [2.0], [0.0], [9.0]])
    task = _task("preference", "utility")
    wrong = clip_errors(task, utilities, orders)
    np.testing.assert_allclose(wrong, [0, 1 / 3, 2 / 3, 1 / 4, NAN])
    assert best_and_worst(task, utilities, orders, 2) == ([0, 3], [2, 1])


def test_best_and_worst_are_different_clips() -> None:
    true = np.zeros((5, 1))
    predicted = np.array([[0.3], [0.1], [0.5], [0.2], [0.4]])
    task = _task("regression", "a")
    assert best_and_worst(task, predicted, true, 10) == ([1, 3], [2, 4])
    assert best_and_worst(task, predicted, true, 1) == ([1], [2])
    assert best_and_worst(task, predicted[:1], true[:1], 10) == ([0], [0])


def test_pictures_are_few_small_and_spread_over_the_clip(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", pictures(9, height=200, width=300))
    write_frames(tmp_path / "[b]", pictures(2, height=50, width=40))
    write_frames(tmp_path / "broken", pictures(3))
    (tmp_path / "broken" / "frame_0.jpg").write_bytes(b"no picture")
    found = thumbnails(tmp_path, ["a", "b", "broken", "missing"])
    assert {clip: len(each) for clip, each in found.items()} == {"a": 5, "b": 2, "broken": 0}
    times = [each.time for each in found["a"]]
    assert times == sorted(times)
    assert times[0] == 0
    assert {each.image.shape for each in found["a"]} == {(HEIGHT, HEIGHT * 3 // 2, 3)}
    assert found["b"][0].image.shape == (50, 40, 3)
