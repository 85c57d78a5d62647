"""Fit the linear baseline by a solver: ridge or logistic regression, its strength chosen on the validation split."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from viper.errors import UserError
from viper.evaluation.metrics import evaluate, is_better
from viper.fusion.baselines import PooledLinear, PooledMLP, Pooling
from viper.fusion.config import PerceiverFusionConfig
from viper.fusion.perceiver import PerceiverFusion
from viper.logs import without_warnings
from viper.manifest import all_pairs
from viper.task import Task
from viper.training.data import FusionData

# Strongest first, so that of equally good strengths the strongest is taken. The penalty is strength * |w|^2, beside the
# sum over the training clips of squared errors or log losses; the features of a modality vary by 1, all in all.
STRENGTHS = tuple(float(strength) for strength in np.logspace(4, -6, 21))
MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class LinearMap:
    """raw = x @ weight.T + bias: weight (targets, P), bias (targets,), both float64."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Map (n, P) to (n, targets)."""
        return x @ self.weight.T + self.bias


Fit = Callable[[float], LinearMap]
"""Strength of the penalty -> the map with the least loss."""
Predict = Callable[[PerceiverFusion, FusionData], np.ndarray]
"""Runs a model over all clips of a split; what comes in here is the one inference loop over stored features."""


def set_pooling_statistics(model: PerceiverFusion, training: FusionData, predict: Predict) -> None:
    """Standardize the pooled vectors of a linear or mlp fusion with the statistics of the training clips.

    To be called after `set_normalization`, on which they depend. The statistics are buffers: a checkpoint keeps them.
    """
    pool = cast(PooledLinear | PooledMLP, model.body).pool
    pool.reset()
    pool.set(torch.from_numpy(_pooled(model, pool, training, predict)))


def fit_linear_member(
    model: PerceiverFusion, task: Task, training: FusionData, validation: FusionData, predict: Predict
) -> float:
    """Fit the linear branch of a model with a `linear_share`; parameters and result as in `fit_linear`."""
    assert model.linear is not None
    config = PerceiverFusionConfig(
        fusion="linear", modalities=model.config.modalities, modality_order=model.config.modality_order,
        task=model.config.task,
    )  # fmt: skip
    alone = PerceiverFusion(config)
    alone.standardize.load_state_dict(model.standardize.state_dict())
    strength = fit_linear(alone, task, training, validation, predict)
    model.linear.load_state_dict(alone.body.state_dict())
    return strength


def fit_linear(
    model: PerceiverFusion, task: Task, training: FusionData, validation: FusionData, predict: Predict
) -> float:
    """Fit a model of the linear fusion and leave the result in its weights.

    Ridge regression, multinomial logistic regression (single_label), one logistic regression a target (multi_label), or
    one of the differences between the clips of all pairs (preference: Bradley and Terry's model). Where the card
    selects by UAR, classes are weighted inversely to their frequency, since UAR counts them all the same. Labels that
    are NaN are left out, target by target.

    Parameters
    ----------
    model : of ``fusion="linear"``, with its features' normalization set.
    training, validation : examples with at least one label each.

    Returns
    -------
    The strength of the L2 penalty that scored best on `validation` by the task's first metric, out of `STRENGTHS`.

    Raises
    ------
    UserError : all training clips of a single_label task are of one class.
    """
    set_pooling_statistics(model, training, predict)
    body = cast(PooledLinear, model.body)
    x = _pooled(model, body.pool, training, predict)
    x_validation = _pooled(model, body.pool, validation, predict)
    fit, answer = _solver(task, x, training.truth)
    best: tuple[float, float, LinearMap] | None = None
    for strength in STRENGTHS:
        fitted = fit(strength)
        with without_warnings():
            scores = evaluate(task, answer(fitted(x_validation)), validation.truth)
        value = scores.selection_value(task.metrics[0])
        if best is None or is_better(task.metrics[0], value, best[0]):
            best = value, strength, fitted
    assert best is not None
    _, strength, fitted = best
    with torch.no_grad():
        body.head.weight.copy_(torch.from_numpy(fitted.weight))
        body.head.bias.copy_(torch.from_numpy(fitted.bias))
    return strength


def _pooled(model: PerceiverFusion, pool: Pooling, data: FusionData, predict: Predict) -> np.ndarray:
    """Return (clips, P) float64: the pooled vectors when the model predicts, so that both see the same."""
    rows: list[np.ndarray] = []
    hook = pool.register_forward_hook(lambda module, inputs, output: rows.append(output.double().cpu().numpy()))
    try:
        with without_warnings():  # training has said which clips lack features
            predict(model, data)
    finally:
        hook.remove()
    return np.concatenate(rows)


def _solver(task: Task, x: np.ndarray, truth: np.ndarray) -> tuple[Fit, Callable[[np.ndarray], np.ndarray]]:
    """How a task's map is fitted to (n, P) and labels or orders, and how raw outputs become predictions."""
    from scipy.special import expit, softmax

    if task.kind == "preference":
        return _fit_preferences(x, truth), lambda raw: raw
    y = truth.astype(np.float64)
    if task.kind == "single_label":
        return _fit_classes(x, y, balanced=task.metrics[0] == "uar"), lambda raw: softmax(raw, axis=1)
    if task.kind == "multi_label":
        return _fit_labels(x, y), expit
    return _fit_ridge(x, y), lambda raw: raw


def _fit_ridge(x: np.ndarray, y: np.ndarray) -> Fit:
    known = ~np.isnan(y)
    # Targets that are labelled for the same clips share one factorisation.
    paths = [
        (np.flatnonzero((known == pattern[:, None]).all(axis=0)), pattern)
        for pattern in np.unique(known, axis=1).T
        if pattern.any()
    ]
    fits = [(columns, _ridge_path(x[pattern], y[np.ix_(pattern, columns)])) for columns, pattern in paths]

    def fit(strength: float) -> LinearMap:
        result = LinearMap(np.zeros((y.shape[1], x.shape[1])), np.zeros(y.shape[1]))
        for columns, path in fits:
            result.weight[columns], result.bias[columns] = path(strength)
        return result

    return fit


def _ridge_path(x: np.ndarray, y: np.ndarray) -> Callable[[float], tuple[np.ndarray, np.ndarray]]:
    """Ridge regression for any strength from one eigendecomposition, where scikit-learn's Ridge would solve each anew.

    The smaller of the two products of the centred x with itself is used: w = (x'x + s)^-1 x'y = x' (xx' + s)^-1 y.
    """
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    centred, target = x - x_mean, y - y_mean
    wide = x.shape[1] > x.shape[0]
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    values = values.clip(min=0)  # of a product with itself: below zero only by rounding
    projected = vectors.T @ (target if wide else centred.T @ target)

    def path(strength: float) -> tuple[np.ndarray, np.ndarray]:
        solution = vectors @ (projected / (values + strength)[:, None])
        weight = (centred.T @ solution if wide else solution).T
        return weight, y_mean - weight @ x_mean

    return path


def _fit_classes(x: np.ndarray, y: np.ndarray, balanced: bool) -> Fit:
    known = ~np.isnan(y).any(axis=1)
    x, classes = x[known], y[known].argmax(axis=1)
    present = np.unique(classes)
    if len(present) < 2:
        raise UserError("all training clips are of one class: there is nothing to fit")
    path = _logistic_path(x, classes, balanced)

    def fit(strength: float) -> LinearMap:
        weight, bias = path(strength)
        if len(present) == 2:  # scikit-learn gives the one logit between two classes
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        # A class that no training clip is of: as likely as half a clip.
        unseen = bias.min() + math.log(0.5 / (len(x) + 1))
        result = LinearMap(np.zeros((y.shape[1], x.shape[1])), np.full(y.shape[1], unseen))
        result.weight[present], result.bias[present] = weight, bias
        return result

    return fit


def _fit_labels(x: np.ndarray, y: np.ndarray) -> Fit:
    known = ~np.isnan(y)
    there = [y[known[:, k], k] > 0.5 for k in range(y.shape[1])]
    paths = [
        _logistic_path(x[known[:, k]], column, balanced=False) if column.any() and not column.all() else None
        for k, column in enumerate(there)
    ]

    def fit(strength: float) -> LinearMap:
        result = LinearMap(np.zeros((y.shape[1], x.shape[1])), np.zeros(y.shape[1]))
        for k, (column, path) in enumerate(zip(there, paths, strict=True)):
            if path is None:  # nothing to learn but how likely it is
                result.bias[k] = math.log((column.sum() + 0.5) / ((~column).sum() + 0.5))
            else:
                weight, bias = path(strength)
                result.weight[k], result.bias[k] = weight[0], bias[0]
        return result

    return fit


def _fit_preferences(x: np.ndarray, orders: np.ndarray) -> Fit:
    less, more = all_pairs(orders)
    difference = x[more] - x[less]
    # A logistic regression wants two classes: each pair appears in both directions, so all of it counts twice.
    mirrored = np.concatenate([difference, -difference])
    path = _logistic_path(mirrored, np.arange(len(mirrored)) < len(difference), balanced=False, intercept=False)

    def fit(strength: float) -> LinearMap:
        weight, _ = path(2 * strength)
        return LinearMap(weight, np.zeros(1))

    return fit


def _logistic_path(
    x: np.ndarray, y: np.ndarray, balanced: bool, intercept: bool = True
) -> Callable[[float], tuple[np.ndarray, np.ndarray]]:
    """Logistic regression for one strength after the other, each starting from the solution of the one before."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        class_weight="balanced" if balanced else None,
        fit_intercept=intercept,
        max_iter=MAX_ITERATIONS,
        warm_start=True,
    )

    def path(strength: float) -> tuple[np.ndarray, np.ndarray]:
        with warnings.catch_warnings():
            # With hardly a penalty the optimum may be at infinity. Where the steps end is judged on validation.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=0.5 / strength).fit(x, y)
        return model.coef_.copy(), model.intercept_.copy()

    return path
