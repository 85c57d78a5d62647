from __future__ import annotations

import json
import logging
import math
from functools import partial

import numpy as np
import pytest
import scipy.stats

from viper import task as task_cards
from viper.evaluation import measures
from viper.evaluation.measures import Score, mse, pearson
from viper.evaluation.metrics import METRICS, evaluate

TASK = task_cards.Task(name="two", kind="regression", targets=("Fear", "Surprise"), range=(0.0, 1.0))


def test_every_metric_of_a_task_card_has_a_direction() -> None:
    assert set(METRICS) == {name for names in task_cards.METRICS.values() for name in names}
    assert METRICS["pearson"].direction == "maximise"
    assert METRICS["mse"].direction == "minimise"


def test_pearson_by_hand() -> None:
    # deviations (-2, 0, 2) and (-1, -1, 2): products sum to 6, squares to 8 and 6.
    score = pearson(np.array([1.0, 3.0, 5.0]), np.array([2.0, 2.0, 5.0]))
    assert score.value == pytest.approx(6 / math.sqrt(8 * 6), abs=1e-12)
    assert score.n == 3


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_pearson_agrees_with_scipy(offset: float) -> None:
    rng = np.random.default_rng(3)
    true = rng.random(500)
    predicted = (0.3 * true + 0.1 * rng.standard_normal(500) + offset).astype(np.float32)
    expected = scipy.stats.pearsonr(predicted.astype(np.float64), true).statistic
    assert pearson(predicted, true).value == pytest.approx(expected, abs=1e-9)


def test_pearson_stays_within_one_and_survives_extreme_scales() -> None:
    ramp = np.linspace(0, 1, 7)
    assert 1 - 1e-12 <= pearson(ramp * 1e-200, ramp).value <= 1.0
    assert pearson(-ramp * 1e200, ramp).value == pytest.approx(-1.0, abs=1e-12)


def test_clips_without_label_are_left_out_and_not_counted() -> None:
    predicted = np.array([0.1, 0.9, 0.2, 0.5])
    true = np.array([0.0, np.nan, 0.5, 1.0])
    kept = [0, 2, 3]
    assert pearson(predicted, true) == pearson(predicted[kept], true[kept])
    assert pearson(predicted, true).n == 3
    assert mse(predicted, true).value == pytest.approx((0.1**2 + 0.3**2 + 0.5**2) / 3)
    assert mse(predicted, true).n == 3


@pytest.mark.parametrize(
    ("predicted", "true"),
    [
        ([0.3, 0.3, 0.3], [0.1, 0.2, 0.3]),
        (np.array([0.3, 0.3, 0.30000004], np.float32), [0.1, 0.2, 0.3]),  # one unit in the last place apart
        ([0.1, 0.2, 0.3], [0.7, 0.7, 0.7]),
        ([0.0, 0.0, 0.0], [0.1, 0.2, 0.3]),
        ([0.1, np.nan, 0.3], [0.1, 0.2, 0.3]),
        ([0.1, np.inf, 0.3], [0.1, 0.2, 0.3]),
        ([0.1], [0.1]),
        ([0.1, 0.2], [np.nan, 0.2]),
    ],
)
def test_pearson_is_nan_where_it_is_undefined(predicted: list[float], true: list[float]) -> None:
    labels = np.asarray(true)
    score = pearson(np.asarray(predicted), labels)
    assert math.isnan(score.value)
    assert score.n == int((~np.isnan(labels)).sum())


def test_a_small_spread_of_predictions_is_not_taken_for_a_constant() -> None:
    true = np.linspace(0, 1, 50)
    assert pearson(0.4 + 1e-5 * true, true).value == pytest.approx(1.0, abs=1e-9)


def test_mse_without_labels_is_nan_of_no_clips() -> None:
    score = mse(np.array([0.1]), np.array([np.nan]))
    assert math.isnan(score.value)
    assert score.n == 0


def test_evaluate_scores_each_target_by_itself() -> None:
    rng = np.random.default_rng(0)
    predicted, true = rng.random((40, 2)), rng.random((40, 2))
    true[:10, 1] = np.nan
    true[:2] = np.nan
    scores = evaluate(TASK, predicted, true)
    assert scores.targets["pearson"]["Surprise"] == pearson(predicted[:, 1], true[:, 1])
    assert scores.targets["mse"]["Fear"] == mse(predicted[:, 0], true[:, 0])
    assert [score.n for score in scores.targets["pearson"].values()] == [38, 30]
    assert scores.mean("mse").n == 38
    each = [scores.targets["pearson"][target].value for target in TASK.targets]
    assert scores.mean("pearson").value == pytest.approx(sum(each) / 2)
    assert scores.selection_value("pearson") == scores.mean("pearson").value
    assert scores.selection_value("mse") == scores.mean("mse").value


def test_a_constant_prediction_is_named_reported_as_nan_and_counts_zero(caplog: pytest.LogCaptureFixture) -> None:
    true = np.array([[0.0, 0.1], [0.5, 0.2], [1.0, 0.9]])
    predicted = np.stack([true[:, 0] / 2, np.full(3, 0.4)], axis=1)
    with caplog.at_level(logging.WARNING, logger="viper"):
        scores = evaluate(TASK, predicted, true)
    assert [record.getMessage() for record in caplog.records] == [
        "no Pearson for Surprise: the prediction is constant over 3 clips"
    ]
    assert math.isnan(scores.targets["pearson"]["Surprise"].value)
    assert math.isnan(scores.mean("pearson").value)
    assert scores.selection_value("pearson") == pytest.approx(0.5)


def test_a_diverged_model_is_never_selected() -> None:
    true = np.random.default_rng(0).random((5, 2))
    scores = evaluate(TASK, np.full((5, 2), np.nan), true)
    assert scores.selection_value("pearson") == 0.0
    assert scores.selection_value("mse") == math.inf


def test_a_target_without_labels_is_left_out_of_the_mean_squared_error_for_selection() -> None:
    true = np.array([[0.0, np.nan], [1.0, np.nan]])
    scores = evaluate(TASK, np.array([[0.5, 0.5], [0.5, 0.6]]), true)
    assert scores.selection_value("mse") == pytest.approx(0.25)
    assert evaluate(TASK, true, np.full((2, 2), np.nan)).selection_value("mse") == math.inf


def test_to_dict_is_json_without_nan() -> None:
    true = np.array([[0.0, 0.1], [0.5, 0.2], [1.0, 0.9]])
    scores = evaluate(TASK, np.stack([true[:, 0], np.full(3, 0.4)], axis=1), true)
    back = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert back["n_clips"] == 3
    assert back["mean"]["pearson"] == {"value": None, "n": 3}
    assert back["targets"]["Surprise"]["pearson"] == {"value": None, "n": 3}
    assert back["targets"]["Fear"]["mse"] == {"value": 0.0, "n": 3}
    assert back["targets"]["Fear"]["pearson"]["value"] == pytest.approx(1.0)
    assert list(back["targets"]) == list(TASK.targets)
    assert Score(math.inf, 1).to_dict() == {"value": None, "n": 1}


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3, 1), (3, 1)), ((6,), (6,))])
def test_arrays_of_another_shape_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="2 targets"):
        evaluate(TASK, np.zeros(shapes[0]), np.zeros(shapes[1]))
    with pytest.raises(ValueError, match="vectors of one length"):
        measures.pearson(np.zeros(2), np.zeros(3))


def measured(name: str, predicted: np.ndarray, true: np.ndarray) -> Score:
    metric = METRICS[name].together
    assert metric is not None
    return metric(predicted, true)


def test_the_two_top_threes_and_top_one_by_hand() -> None:
    true = np.array([[0.9, 0.5, 0.4, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4, 0.5], [0.0, 0.1, 0.9, 0.2, 0.3]])
    predicted = np.array([[0.2, 0.1, 0.3, 0.4, 0.0], [0.1, 0.9, 0.5, 0.6, 0.2], [0.1, 0.2, 0.8, 0.3, 0.4]])
    # The strongest emotion is predicted 3rd, 4th, 1st; of those predicted strongest only the last is of the true three.
    assert measured("vce_top3", predicted, true) == Score(pytest.approx(2 / 3), 3)
    assert measures.prediction_in_true_top3(predicted, true) == Score(pytest.approx(1 / 3), 3)
    assert measures.top1(predicted, true) == Score(pytest.approx(1 / 3), 3)


@pytest.mark.parametrize("name", ["vce_top3", "prediction_in_true_top3", "top1", "top3"])
def test_ties_and_nan_are_never_right(name: str) -> None:
    """A constant prediction would otherwise be right about every clip."""
    metric = partial(measured, name)
    true = np.eye(5)
    assert metric(np.full((5, 5), 0.3), true) == Score(0.0, 5)
    assert metric(np.where(true > 0, 1.0, np.nan), true).value == 0
    assert metric(true, true) == Score(1.0, 5)
    unknown = np.vstack([true, np.full((1, 5), np.nan)])
    assert metric(np.vstack([true, true[:1]]), unknown) == Score(1.0, 5)
    assert math.isnan(metric(true[:0], true[:0]).value)


def test_vce_top3_of_the_majority_is_the_share_of_the_three_commonest() -> None:
    rng = np.random.default_rng(0)
    strongest = rng.choice(27, size=500, p=(share := rng.dirichlet(np.ones(27))))
    true = rng.uniform(0, 0.5, (500, 27))
    true[np.arange(500), strongest] = 0.9
    counts = np.bincount(strongest, minlength=27)
    predicted = np.tile(share, (500, 1))
    expected = counts[np.argsort(-share)[:3]].sum() / 500
    assert measured("vce_top3", predicted, true) == Score(pytest.approx(expected), 500)


def test_labels_that_map_leaves_out_are_named(caplog: pytest.LogCaptureFixture) -> None:
    task = task_cards.load_task("moviegraphs_top10")
    true = np.zeros((6, 10))
    true[:3, :8] = 1
    scores = evaluate(task, true * 0.8 + 0.1, true)
    assert scores.mean("map") == Score(1.0, 6)
    assert "mAP leaves out serious, surprise: " in caplog.text
