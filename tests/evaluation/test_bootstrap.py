"""Intervals: the quick sums are the metrics themselves, and the intervals cover what they claim to cover."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from viper.evaluation import bootstrap
from viper.evaluation.bootstrap import Bootstrap, interval, resampled_targets, resampled_together
from viper.evaluation.metrics import METRICS, evaluate
from viper.logs import without_warnings
from viper.task import DEFAULT_METRICS, LOSSES, Task
from viper.task import METRICS as METRICS_OF_KIND

TARGETS = ("joy", "awe", "fear", "calm")


def _task(kind: str, targets: tuple[str, ...] = TARGETS) -> Task:
    value_range = None if kind == "preference" else (0.0, 1.0)
    return Task("t", kind, ("utility",) if kind == "preference" else targets, value_range, METRICS_OF_KIND[kind],
                loss=LOSSES[kind][0], label_column="c" if kind == "single_label" else None)  # fmt: skip


def _made(kind: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of some use, with ties, and truth with gaps."""
    if kind == "preference":
        orders = np.stack([rng.permutation(n)[:4] for _ in range(n)])
        orders[: n // 2, 2:] = -1
        orders[n // 2 : n // 2 + 3, 3:] = -1
        return rng.normal(size=(n, 1)).round(1), orders
    latent = rng.uniform(size=(n, 4))
    predicted = np.clip(0.6 * latent + 0.4 * rng.uniform(size=(n, 4)), 0, 1).round(2).astype(np.float32)
    true = latent.astype(np.float32)
    if kind == "single_label":
        true = np.eye(4, dtype=np.float32)[np.minimum(latent.argmax(axis=1), 2)]  # no clip is of the last class
        predicted /= predicted.sum(axis=1, keepdims=True)
        true[3] = np.nan
    elif kind == "multi_label":
        true = (latent > [0.5, 0.9, 0.2, 2.0]).astype(np.float32)  # no clip has the last label
    if kind != "single_label":
        true[rng.uniform(size=true.shape) < 0.2] = np.nan
    return predicted.astype(np.float64), true.astype(np.float64)


@pytest.mark.parametrize("kind", list(METRICS_OF_KIND))
def test_every_metric_of_every_resample_is_what_evaluate_gives(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "BLOCK_VALUES", 300)  # so that there are several blocks
    rng, task = np.random.default_rng(0), _task(kind)
    predicted, true = _made(kind, 24, rng)
    if kind == "regression":
        predicted[:, 1], true[:, 2] = 0.3, 0.7
        predicted[2:, 3] = 0.1 + 1e-9 * rng.uniform(size=22)  # constant but for the first two clips
    counts = Bootstrap.draw(24, None, 15, seed=1).counts
    counts[0], counts[1] = 0, 0
    counts[0, 5], counts[1, [2, 3]] = 24, 12  # one clip, and two, again and again
    metrics = [name for name in METRICS if name in METRICS_OF_KIND[kind]]
    assert set(metrics) >= set(DEFAULT_METRICS[kind])
    for metric in metrics:
        each = resampled_targets(metric, predicted, true, counts)
        together = resampled_together(metric, predicted, true, counts, each)
        for r, row in enumerate(counts):
            rows = np.repeat(np.arange(24), row)
            with without_warnings():
                own = predicted if kind == "preference" else predicted[rows]
                scores = evaluate(task, own, true[rows])
            assert together[r] == pytest.approx(scores.mean(metric).value, abs=1e-9, nan_ok=True), (metric, r)
            if each is not None:
                expected = [scores.targets[metric][target].value for target in task.targets]
                np.testing.assert_allclose(each[r], expected, atol=1e-7, err_msg=f"{metric} {r}")


@pytest.mark.parametrize("kind", list(METRICS_OF_KIND))
def test_values_and_counts_are_those_of_evaluate(kind: str) -> None:
    rng, task = np.random.default_rng(2), _task(kind)
    predicted, true = _made(kind, 30, rng)
    people = None if kind == "preference" else [f"p{k // 3}" for k in range(30)]
    bootstrap = Bootstrap.draw(30, people, 200, seed=0)
    measured = bootstrap.measure_all(task, predicted, true)
    with without_warnings():
        scores = evaluate(task, predicted, true)
    assert list(measured) == list(scores.together)
    for metric, each in measured.items():
        score = scores.mean(metric)
        assert each.together.value == pytest.approx(score.value, nan_ok=True)
        assert each.together.n == score.n
        if kind == "preference":
            assert each.together.n_units == score.n
        elif score.n > 27:  # somebody of each three is left
            assert each.together.n_units == 10
        if not math.isnan(each.together.low):
            assert each.together.low <= each.together.value <= each.together.high
        for target, interval_of in each.targets.items():
            assert interval_of.n == scores.targets[metric][target].n
            assert math.isnan(interval_of.value) == math.isnan(scores.targets[metric][target].value)
    again = Bootstrap.draw(30, people, 200, seed=0).measure_all(task, predicted, true)
    other = Bootstrap.draw(30, people, 200, seed=1).measure_all(task, predicted, true)
    first = task.metrics[0]
    assert again[first].together == measured[first].together
    assert other[first].together != measured[first].together


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng, task, rho = np.random.default_rng(3), _task("regression", ("joy",)), 0.6
    covered = {"pearson": 0, "mse": 0}
    for seed in range(200):
        true = rng.normal(size=(80, 1))
        predicted = rho * true + math.sqrt(1 - rho**2) * rng.normal(size=(80, 1))
        measured = Bootstrap.draw(80, None, 200, seed).measure_all(task, predicted, true, ["pearson", "mse"])
        for metric, truth in (("pearson", rho), ("mse", 2 - 2 * rho)):
            found = measured[metric].together
            covered[metric] += found.low <= truth <= found.high
    for metric, times in covered.items():
        assert 0.90 <= times / 200 <= 0.99, metric


def test_subjects_whose_clips_are_alike_make_intervals_wide_enough() -> None:
    """Ten people with twenty clips each, all of which the model gets wrong by the person's own offset."""
    rng, task = np.random.default_rng(4), _task("regression", ("joy",))
    people = [f"p{k // 20}" for k in range(200)]
    covered, widths = {"clips": 0, "people": 0}, {"clips": 0.0, "people": 0.0}
    for seed in range(60):
        predicted = np.repeat(rng.normal(size=10), 20)[:, None] + 0.3 * rng.normal(size=(200, 1))
        for unit, subjects in (("clips", None), ("people", people)):
            found = (
                Bootstrap.draw(200, subjects, 100, seed).measure(task, "mse", predicted, np.zeros((200, 1))).together
            )
            covered[unit] += found.low <= 1.09 <= found.high
            widths[unit] += found.high - found.low
            assert found.n_units == (200 if subjects is None else 10)
    assert widths["people"] > 2 * widths["clips"]
    assert covered["people"] > 42
    assert covered["clips"] < 36


def test_rows_of_a_subject_come_together() -> None:
    bootstrap = Bootstrap.draw(6, ["a", "b", "a", "", "", "b"], 50, seed=0)
    np.testing.assert_array_equal(bootstrap.counts[:, 0], bootstrap.counts[:, 2])
    np.testing.assert_array_equal(bootstrap.counts[:, 1], bootstrap.counts[:, 5])
    assert (bootstrap.counts[:, 3] != bootstrap.counts[:, 4]).any()  # no name: each by itself
    assert (bootstrap.counts[:, [0, 1, 3, 4]].sum(axis=1) == 4).all()
    part = bootstrap.of(np.array([2, 5]))
    np.testing.assert_array_equal(part.counts, bootstrap.counts[:, [0, 1]])


def test_no_interval_where_it_would_mean_nothing() -> None:
    task, nan = _task("regression", ("joy",)), math.nan
    true, predicted = np.array([[0.1], [0.5], [nan]]), np.array([[0.2], [0.4], [0.9]])
    alone = Bootstrap.draw(3, ["a", "a", "a"], 20, 0).measure_all(task, predicted, true)
    assert alone["mse"].together.value == pytest.approx(0.01)
    assert math.isnan(alone["mse"].together.low)
    few = Bootstrap.draw(5, list("aabcd"), 20, 0).measure_all(task, np.full((5, 1), 0.3), np.linspace(0, 1, 5)[:, None])
    assert math.isnan(few["mse"].together.low)  # four subjects
    constant = Bootstrap.draw(5, None, 20, 0).measure_all(task, np.full((5, 1), 0.3), np.linspace(0, 1, 5)[:, None])
    assert math.isnan(constant["pearson"].together.value)
    assert math.isfinite(constant["mse"].together.low)
    score = evaluate(task, predicted, true).mean("mse")
    rare = np.full(100, nan)
    rare[:49] = 0.5
    assert math.isnan(interval(score, rare, 10).low)
    rare[49] = 0.7
    assert interval(score, rare, 10).low == pytest.approx(0.5)


def test_a_thousand_resamples_of_five_thousand_clips_take_seconds() -> None:
    rng = np.random.default_rng(5)
    true = rng.uniform(size=(5000, 7))
    predicted = 0.5 * true + 0.5 * rng.uniform(size=(5000, 7))
    began = time.process_time()
    bootstrap = Bootstrap.draw(5000, None, 1000, seed=0)
    measured = bootstrap.measure_all(_task("regression", tuple("abcdefg")), predicted, true, ["pearson", "mse"])
    assert time.process_time() - began < 10  # measured: 1.5
    assert measured["pearson"].together.high - measured["pearson"].together.low < 0.02
