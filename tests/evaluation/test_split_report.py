"""What confusion_matrix writes for labels that are there or not, and for preferences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_score, recall_score

from viper.errors import UserError
from viper.evaluation.drawing import N_BINS, edges_around_zero, utilities_figure
from viper.evaluation.split_report import PrecisionRecallReport, build_report
from viper.task import Task, load_task

LABELS = Task(name="labels", kind="multi_label", targets=("calm", "Doubt/Confusion", "never"), range=(0.0, 1.0))
PREFERENCES = load_task("v2v")


def labels(n: int = 80) -> tuple[list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    true = (rng.uniform(size=(n, 3)) < [0.4, 0.2, 0.0]).astype(float)
    predicted = np.clip(0.3 * true + rng.uniform(0, 0.7, (n, 3)), 0, 1)
    true[:5, 0] = np.nan
    return [f"clip_{row}" for row in range(n)], predicted, true


def test_each_labels_curve_and_counts_are_sklearns(tmp_path: Path) -> None:
    clips, predicted, true = labels()
    report = build_report(LABELS, clips, predicted, true)
    assert isinstance(report, PrecisionRecallReport)
    files = report.write(tmp_path)
    assert sorted(path.name for path in files) == sorted(path.name for path in tmp_path.iterdir())
    numbers = json.loads((tmp_path / "confusion.json").read_text())
    table = pd.read_csv(tmp_path / "labels.csv", index_col="label")
    for k, target in enumerate(LABELS.targets[:2]):
        known = ~np.isnan(true[:, k])
        truth, probability = true[known, k], predicted[known, k]
        expected = average_precision_score(truth, probability)
        assert numbers["targets"][target]["map"] == {"value": pytest.approx(expected), "n": known.sum()}
        assert table.average_precision[target] == pytest.approx(expected)
        counts = numbers["targets"][target]
        hits = counts["true_positive"]
        assert hits / (hits + counts["false_positive"]) == pytest.approx(precision_score(truth, probability >= 0.5))
        assert hits / (hits + counts["false_negative"]) == pytest.approx(recall_score(truth, probability >= 0.5))
        assert table.n[target] == known.sum()
    # Average precision is the area below the steps of the curve that was written.
    points = pd.read_csv(tmp_path / "precision_recall_Doubt_Confusion.csv")
    area = -(np.diff(points.recall) * points.precision[:-1]).sum()
    assert area == pytest.approx(table.average_precision["Doubt/Confusion"])
    assert numbers["targets"]["never"]["map"]["value"] is None
    assert not list(tmp_path.glob("*never*"))
    assert numbers["mean"]["map"]["value"] == pytest.approx(table.average_precision.mean())  # which leaves "never" out


def test_pairs_and_lists_are_told_right_from_wrong(tmp_path: Path) -> None:
    utilities = np.array([[0.1], [0.5], [0.3], [-2.0]])
    orders = np.array([[0, 1, -1], [1, 2, -1], [3, 0, 2], [0, 3, 1]])
    report = build_report(PREFERENCES, ["a", "b", "c", "d"], utilities, orders)
    assert sorted(path.name for path in report.write(tmp_path)) == [
        "confusion.json", "orders.csv", "utilities.csv", "utilities.png",
    ]  # fmt: skip
    numbers = json.loads((tmp_path / "confusion.json").read_text())
    assert numbers["mean"]["pairwise_accuracy"] == {"value": 0.5, "n": 2}
    assert numbers["mean"]["listwise_accuracy"] == {"value": 0.5, "n": 2}
    assert numbers["difference"]["median"] == pytest.approx(np.median([0.4, -0.2, 2.1, 2.3, 0.2, -2.1, 0.4, 2.5]))
    written = pd.read_csv(tmp_path / "orders.csv", keep_default_na=False)
    assert written.values.tolist() == [["a", "b", "", 1], ["b", "c", "", 0], ["d", "a", "c", 1], ["a", "d", "b", 0]]
    assert pd.read_csv(tmp_path / "utilities.csv", index_col="clip").valence.to_dict() == {
        "a": 0.1, "b": 0.5, "c": 0.3, "d": -2.0,
    }  # fmt: skip


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_no_bar_of_the_histogram_holds_right_and_wrong_pairs_and_all_are_in_one(values: list[float]) -> None:
    differences = np.array(values)
    edges = edges_around_zero(differences)
    assert (np.diff(edges) > 0).all()
    assert 0.0 in edges[1:-1]
    assert len(edges) <= N_BINS + 4
    assert np.histogram(differences, edges)[0].sum() == len(values)


def test_the_histograms_show_every_pair() -> None:
    less, more = np.array([0.0, 1.0, 2.0, 2.0]), np.array([3.0, 0.5, 2.0, 4.0])
    left, right = utilities_figure(less, more, "title").axes
    assert sum(bar.get_height() for bar in left.containers[0]) == 4
    for bars, sign in zip(right.containers, (-1, 1), strict=True):
        assert all(sign * (bar.get_x() + bar.get_width() / 2) > 0 for bar in bars if bar.get_height())
    wrong, correct = (sum(bar.get_height() for bar in bars) for bars in right.containers)
    assert (wrong, correct) == (2, 2)  # a tie is wrong
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["wrong", "right"]


def test_what_cannot_be_reported() -> None:
    clips, predicted, true = labels(6)
    with pytest.raises(UserError, match="none of the 6 clips has a label"):
        build_report(LABELS, clips, predicted, np.full_like(true, np.nan))
    with pytest.raises(UserError, match="none of the 2 clips has a preference"):
        build_report(PREFERENCES, ["a", "b"], np.zeros((2, 1)), np.zeros((0, 2), int))
    with pytest.raises(UserError, match="'b': the prediction of valence is nan"):
        build_report(PREFERENCES, ["a", "b"], np.array([[0.0], [np.nan]]), np.array([[0, 1]]))
    predicted[2, 1] = np.inf
    with pytest.raises(UserError, match="'clip_2': the prediction of Doubt/Confusion is inf"):
        build_report(LABELS, clips, predicted, true)
