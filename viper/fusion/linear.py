"""Fits the linear baseline by a solver: ridge or logistic regression, its strength chosen on the validation split."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from viper.errors import UserError
from viper.evaluation.metrics import evaluate, is_better
from viper.fusion.baselines import PooledLinear, PooledMLP, Pooling
from viper.fusion.data import FusionData
from viper.fusion.perceiver import PerceiverFusion
from viper.fusion.predict import predict
from viper.task import Task

log = logging.getLogger("viper")

# Strongest first, so that of equally good strengths the strongest is taken. The penalty is strength * |w|^2, beside the
# sum over the training clips of squared errors or log losses; features vary by 1.
STRENGTHS = tuple(float(strength) for strength in np.logspace(6, -1, 15))
BATCH_SIZE = 64
MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class LinearMap:
    """raw = x @ weight.T + bias: weight (targets, P), bias (targets,), both float64."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Map (n, P) to (n, targets)."""
        return x @ self.weight.T + self.bias


def set_pooling_statistics(model: PerceiverFusion, training: FusionData) -> None:
    """Standardises the pooled vectors of a linear or mlp fusion with the statistics of the training clips.

    To be called after `set_normalization`, on which they depend. The statistics are buffers: a checkpoint keeps them.
    """
    pool = cast(PooledLinear | PooledMLP, model.body).pool
    pool.reset()
    pool.set(torch.from_numpy(_pooled(model, pool, training)))


def fit_linear(model: PerceiverFusion, task: Task, training: FusionData, validation: FusionData) -> float:
    """Fits a model of the linear fusion and leaves the result in its weights.

    Ridge regression, multinomial logistic regression (single_label), or one logistic regression a target
    (multi_label). Where the card selects by UAR, classes are weighted inversely to their frequency, since UAR counts
    them all the same. Labels that are NaN are left out, target by target.

    Parameters
    ----------
    model : of ``fusion="linear"``, with its features' normalisation set.
    training, validation : examples with at least one label each.

    Returns
    -------
    The strength of the L2 penalty that scored best on `validation` by the task's first metric, out of `STRENGTHS`.

    Raises
    ------
    UserError : all training clips of a single_label task are of one class.
    """
    set_pooling_statistics(model, training)
    body = cast(PooledLinear, model.body)
    x, y = _pooled(model, body.pool, training), training.labels.astype(np.float64)
    x_validation = _pooled(model, body.pool, validation)
    fit, answer = _solver(task)
    best: tuple[float, float, LinearMap] | None = None
    for strength in STRENGTHS:
        fitted = fit(x, y, strength)
        scores = evaluate(task, answer(fitted(x_validation)), validation.labels)
        value = scores.selection_value(task.metrics[0])
        if best is None or is_better(task.metrics[0], value, best[0]):
            best = value, strength, fitted
    assert best is not None
    value, strength, fitted = best
    with torch.no_grad():
        body.head.weight.copy_(torch.from_numpy(fitted.weight))
        body.head.bias.copy_(torch.from_numpy(fitted.bias))
    log.info("linear: penalty %g (%d clips, %d channels), validation %s %.4f", strength, *x.shape, task.metrics[0],
             value)  # fmt: skip
    return strength


def _pooled(model: PerceiverFusion, pool: Pooling, data: FusionData) -> np.ndarray:
    """(clips, P) float64: what the pooling hands on when the model predicts, so that both see the same."""
    rows: list[np.ndarray] = []
    hook = pool.register_forward_hook(lambda module, inputs, output: rows.append(output.double().cpu().numpy()))
    try:
        predict(model, data, BATCH_SIZE, torch.device("cpu"))
    finally:
        hook.remove()
    return np.concatenate(rows)


def _solver(
    task: Task,
) -> tuple[Callable[[np.ndarray, np.ndarray, float], LinearMap], Callable[[np.ndarray], np.ndarray]]:
    """How a task's map is fitted, and how its raw outputs become predictions."""
    from scipy.special import expit, softmax

    balanced = task.metrics[0] == "uar"
    if task.kind == "single_label":
        return lambda x, y, strength: _fit_classes(x, y, strength, balanced), lambda raw: softmax(raw, axis=1)
    if task.kind == "multi_label":
        return _fit_labels, expit
    return _fit_ridge, lambda raw: raw


def _fit_ridge(x: np.ndarray, y: np.ndarray, strength: float) -> LinearMap:
    from sklearn.linear_model import Ridge

    result = LinearMap(np.zeros((y.shape[1], x.shape[1])), np.zeros(y.shape[1]))
    known = ~np.isnan(y)
    # Targets that are labelled for the same clips share one factorisation.
    for pattern in np.unique(known, axis=1).T:
        columns = np.flatnonzero((known == pattern[:, None]).all(axis=0))
        if pattern.any():
            ridge = Ridge(alpha=strength).fit(x[pattern], y[np.ix_(pattern, columns)])
            result.weight[columns] = ridge.coef_.reshape(len(columns), -1)
            result.bias[columns] = ridge.intercept_
    return result


def _fit_classes(x: np.ndarray, y: np.ndarray, strength: float, balanced: bool) -> LinearMap:
    from sklearn.linear_model import LogisticRegression

    known = ~np.isnan(y).any(axis=1)
    x, classes = x[known], y[known].argmax(axis=1)
    present = np.unique(classes)
    if len(present) < 2:
        raise UserError("all training clips are of one class: there is nothing to fit")
    model = LogisticRegression(
        C=0.5 / strength, class_weight="balanced" if balanced else None, max_iter=MAX_ITERATIONS
    ).fit(x, classes)
    weight, bias = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn gives the one logit between two classes
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    # A class that no training clip is of: as likely as half a clip.
    unseen = bias.min() + math.log(0.5 / (len(x) + 1))
    result = LinearMap(np.zeros((y.shape[1], x.shape[1])), np.full(y.shape[1], unseen))
    result.weight[present], result.bias[present] = weight, bias
    return result


def _fit_labels(x: np.ndarray, y: np.ndarray, strength: float) -> LinearMap:
    from sklearn.linear_model import LogisticRegression

    result = LinearMap(np.zeros((y.shape[1], x.shape[1])), np.zeros(y.shape[1]))
    for k, column in enumerate(y.T):
        known = ~np.isnan(column)
        there = column[known] > 0.5
        if there.any() and not there.all():
            model = LogisticRegression(C=0.5 / strength, max_iter=MAX_ITERATIONS).fit(x[known], there)
            result.weight[k], result.bias[k] = model.coef_[0], model.intercept_[0]
        else:  # nothing to learn but how likely it is
            result.bias[k] = math.log((there.sum() + 0.5) / ((~there).sum() + 0.5))
    return result
