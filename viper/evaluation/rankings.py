"""Metrics of order: whether the strongest targets are predicted strongest, and clips ranked as people did."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from viper.evaluation.score import Score


def top3(predicted: np.ndarray, true: np.ndarray) -> Score:
    """Share of clips whose class, or strongest target, is among the three with the highest scores (VCE's own top-3).

    Arrays as in `top1`, or of classes. One whose score is shared by so many that it cannot be told from a fourth is not
    among the three.
    """
    labelled = ~np.isnan(true).any(axis=1)
    return _mean_of(_in_top(predicted[labelled], np.argmax(true[labelled], axis=1), 3))


def top1(predicted: np.ndarray, true: np.ndarray) -> Score:
    """Share of clips whose strongest target was predicted to be the strongest.

    Parameters
    ----------
    predicted, true : (n, targets) intensities; clips that lack the label of any target are left out. Of targets that
        are labelled equally strong the first one counts; a prediction that does not tell them apart is wrong.
    """
    labelled = ~np.isnan(true).any(axis=1)
    return _mean_of(_in_top(predicted[labelled], np.argmax(true[labelled], axis=1), 1))


def prediction_in_true_top3(predicted: np.ndarray, true: np.ndarray) -> Score:
    """Share of clips of which the strongest prediction is among the three strongest labels (StimuVAR's).

    Arrays as in `top1`; of labels that share the third place the first ones count, and a prediction of several
    strongest targets is wrong.
    """
    labelled = ~np.isnan(true).any(axis=1)
    predicted, true = np.asarray(predicted)[labelled], true[labelled]
    three = np.argsort(-true, axis=1, kind="stable")[:, :3]
    hits = np.stack([_in_top(predicted, column, 1) for column in three.T], axis=1)
    return _mean_of(np.any(hits, axis=1))


def pairwise_accuracy(predicted: np.ndarray, orders: np.ndarray) -> Score:
    """Share of pairs whose preferred clip has the higher utility; n counts pairs.

    Parameters
    ----------
    predicted : (n, 1) utilities. One that is NaN or infinite makes its pairs wrong, and a tie is wrong.
    orders : (m, L) rows of `predicted`, from the least to the most preferred, -1 at the end of shorter orders. Lists of
        three and more are not looked at here, nor pairs in the other two metrics.
    """
    return _mean_of(_rising(predicted, orders[(orders >= 0).sum(axis=1) == 2]))


def listwise_accuracy(predicted: np.ndarray, orders: np.ndarray) -> Score:
    """Share of lists whose whole order is right, strictly; n counts lists; arrays as in `pairwise_accuracy`."""
    return _mean_of(_rising(predicted, orders[(orders >= 0).sum(axis=1) > 2]))


def kendall_tau(predicted: np.ndarray, orders: np.ndarray) -> Score:
    """Mean over lists of Kendall's tau: pairs of the list ordered right less those wrong, by all; n counts lists.

    Arrays as in `pairwise_accuracy`. A tie counts neither way (tau-a), a utility that is not finite as wrong.
    """
    utilities = np.asarray(predicted, np.float64)[:, 0]
    taus = []
    for order in orders[(orders >= 0).sum(axis=1) > 2]:
        own = utilities[order[order >= 0]]
        lower, higher = np.triu_indices(len(own), k=1)
        finite = np.isfinite(own[lower]) & np.isfinite(own[higher])
        with np.errstate(invalid="ignore"):
            signs = np.where(finite, np.sign(own[higher] - own[lower]), -1.0)
        taus.append(signs.mean())
    return _mean_of(np.array(taus))


def _in_top(scores: np.ndarray, own: np.ndarray, k: int) -> Any:
    """(n,) whether column own[i] is among the k highest of row i of (n, K); not where ties leave that open, or NaN."""
    scores = np.asarray(scores)
    chosen = np.take_along_axis(scores, own[:, None], axis=1)
    return ((scores >= chosen).sum(axis=1) <= k) & np.isfinite(scores).all(axis=1)


def _rising(predicted: np.ndarray, orders: np.ndarray) -> Any:
    """(m,) whether the utilities of each order rise strictly."""
    utilities = np.where(orders >= 0, np.asarray(predicted, np.float64)[orders.clip(min=0), 0], np.inf)
    usable = (np.isfinite(utilities) | (orders < 0)).all(axis=1)
    with np.errstate(invalid="ignore"):
        steps = (np.diff(utilities, axis=1) > 0) | (orders[:, 1:] < 0)
    return steps.all(axis=1) & usable


def _mean_of(values: Any) -> Score:
    return Score(float(values.mean()) if len(values) else math.nan, len(values))
