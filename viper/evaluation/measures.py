"""The formulas: of two vectors, of classes, of labels and of orders, each a value and the number of clips behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

# Predictions come out of float32 arithmetic: a spread of a few units in the last place is a constant with rounding.
ROUNDING = 4 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Score:
    """A metric's value (nan where it has none) and the number of clips it was computed on."""

    value: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Return it JSON-ready: a value that is nan or infinite becomes None."""
        return {"value": self.value if math.isfinite(self.value) else None, "n": self.n}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Score:
        """Return the inverse of `to_dict`, but for infinity, which becomes nan; ValueError for what is no score."""
        value, n = record["value"], record["n"]
        if type(value) not in (int, float, type(None)) or type(n) is not int or n < 0:
            raise ValueError(f"{record} is not a score")
        return cls(math.nan if value is None else float(value), n)


def pearson(predicted: np.ndarray, true: np.ndarray) -> Score:
    """Return Pearson's correlation coefficient of two vectors, in float64.

    Parameters
    ----------
    predicted, true : (n,). Clips whose label is NaN are left out and not counted.

    Returns
    -------
    Score, whose value is nan where r is undefined: fewer than two labelled clips, a prediction or label that is the
    same for all of them (up to the rounding of float32), or a prediction that is not finite.
    """
    predicted, true = labelled(predicted, true)
    if why_undefined(predicted, true):
        return Score(math.nan, len(true))
    # Each vector is brought to unit length before the product, which therefore cannot over- or underflow.
    deviation_predicted, deviation_true = _unit_deviation(predicted), _unit_deviation(true)
    return Score(float(np.clip(deviation_predicted @ deviation_true, -1.0, 1.0)), len(true))


def ccc(predicted: np.ndarray, true: np.ndarray) -> Score:
    """Return the concordance correlation coefficient of two vectors (n,), in float64 (Lin, 1989).

    2 cov(p, t) / (var p + var t + (mean p - mean t)^2) with variances over n. A constant prediction has a CCC, 0; nan
    without two labelled clips, with a prediction that is not finite, or where both are the same constant.
    """
    predicted, true = labelled(predicted, true)
    if len(true) < 2 or not np.isfinite(predicted).all():
        return Score(math.nan, len(true))
    covariance = np.mean((predicted - predicted.mean()) * (true - true.mean()))
    spread = predicted.var() + true.var() + (predicted.mean() - true.mean()) ** 2
    return Score(float(2 * covariance / spread) if spread > 0 else math.nan, len(true))


def mse(predicted: np.ndarray, true: np.ndarray) -> Score:
    """Return the mean squared error of two vectors (n,), in float64, without clips whose label is NaN."""
    predicted, true = labelled(predicted, true)
    return Score(float(np.mean((predicted - true) ** 2)) if len(true) else math.nan, len(true))


def mae(predicted: np.ndarray, true: np.ndarray) -> Score:
    """Return the mean absolute error of two vectors (n,), in float64, without clips whose label is NaN."""
    predicted, true = labelled(predicted, true)
    return Score(float(np.mean(np.abs(predicted - true))) if len(true) else math.nan, len(true))


def binary_accuracy(predicted: np.ndarray, true: np.ndarray) -> Score:
    """Return the share of clips predicted on the right side of zero; zero is positive (CMU-MOSI's classes).

    Parameters
    ----------
    predicted, true : (n,). A prediction that is NaN is wrong; a label that is NaN is left out.
    """
    predicted, true = labelled(predicted, true)
    right = np.isfinite(predicted) & ((predicted >= 0) == (true >= 0))
    return Score(float(right.mean()) if len(true) else math.nan, len(true))


def recalls(predicted: np.ndarray, true: np.ndarray) -> list[Score]:
    """Return the recall of each class; n is the number of its clips.

    Parameters
    ----------
    predicted : (n, classes) scores; the highest is the answer. A row with a NaN answers no class.
    true : (n, classes), 1 for the clip's class and 0 for the others; rows of NaN are left out.
    """
    answer, truth, n_classes = _answers(predicted, true)
    return [
        Score(float(np.mean(answer[truth == k] == k)) if (truth == k).any() else math.nan, int((truth == k).sum()))
        for k in range(n_classes)
    ]


def accuracy(predicted: np.ndarray, true: np.ndarray) -> Score:
    """Return the share of clips whose class has the highest score; arrays as in `recalls`."""
    answer, truth, _ = _answers(predicted, true)
    return Score(float(np.mean(answer == truth)) if len(truth) else math.nan, len(truth))


def f1_scores(predicted: np.ndarray, true: np.ndarray) -> list[Score]:
    """Return the F1 of each class, 2 TP / (2 TP + FP + FN), nan without any; arrays as in `recalls`."""
    answer, truth, n_classes = _answers(predicted, true)
    scores = []
    for k in range(n_classes):
        hits = int(((answer == k) & (truth == k)).sum())
        total = int((answer == k).sum() + (truth == k).sum())
        scores.append(Score(2 * hits / total if total else math.nan, int((truth == k).sum())))
    return scores


def average_precisions(predicted: np.ndarray, true: np.ndarray) -> list[Score]:
    """Return each label's average precision, as scikit-learn defines it; nan for a label without a positive clip.

    Parameters
    ----------
    predicted, true : (n, labels); in `true` 1, 0, or NaN where it is not known. n counts the known ones.
    """
    from sklearn.metrics import average_precision_score

    scores = []
    for column, truth in zip(np.asarray(predicted, np.float64).T, np.asarray(true, np.float64).T, strict=True):
        column, truth = labelled(column, truth)
        usable = bool((truth == 1).any()) and bool(np.isfinite(column).all())
        scores.append(Score(float(average_precision_score(truth, column)) if usable else math.nan, len(truth)))
    return scores


def top3(predicted: np.ndarray, true: np.ndarray) -> Score:
    """Return the share of clips whose class, or strongest target, has one of the three highest scores (VCE).

    Arrays as in `top1`, or of classes. One whose score is shared by so many that it cannot be told from a fourth is not
    among the three.
    """
    labelled = ~np.isnan(true).any(axis=1)
    return _mean_of(_in_top(predicted[labelled], np.argmax(true[labelled], axis=1), 3))


def top1(predicted: np.ndarray, true: np.ndarray) -> Score:
    """Return the share of clips whose strongest target was predicted to be the strongest.

    Parameters
    ----------
    predicted, true : (n, targets) intensities; clips that lack the label of any target are left out. Of targets that
        are labelled equally strong the first one counts; a prediction that does not tell them apart is wrong.
    """
    labelled = ~np.isnan(true).any(axis=1)
    return _mean_of(_in_top(predicted[labelled], np.argmax(true[labelled], axis=1), 1))


def prediction_in_true_top3(predicted: np.ndarray, true: np.ndarray) -> Score:
    """Return the share of clips whose strongest prediction is among the three strongest labels (StimuVAR's).

    Arrays as in `top1`; of labels that share the third place the first ones count, and a prediction of several
    strongest targets is wrong.
    """
    labelled = ~np.isnan(true).any(axis=1)
    predicted, true = np.asarray(predicted)[labelled], true[labelled]
    three = np.argsort(-true, axis=1, kind="stable")[:, :3]
    hits = np.stack([_in_top(predicted, column, 1) for column in three.T], axis=1)
    return _mean_of(np.any(hits, axis=1))


def pairwise_accuracy(predicted: np.ndarray, orders: np.ndarray) -> Score:
    """Return the share of pairs whose preferred clip has the higher utility; n counts pairs.

    Parameters
    ----------
    predicted : (n, 1) utilities. One that is NaN or infinite makes its pairs wrong, and a tie is wrong.
    orders : (m, L) rows of `predicted`, from the least to the most preferred, -1 at the end of shorter orders. Lists of
        three and more are not looked at here, nor pairs in the other two metrics.
    """
    return _mean_of(_rising(predicted, orders[(orders >= 0).sum(axis=1) == 2]))


def listwise_accuracy(predicted: np.ndarray, orders: np.ndarray) -> Score:
    """Return the share of lists with a strictly right order; n counts lists; arrays as in `pairwise_accuracy`."""
    return _mean_of(_rising(predicted, orders[(orders >= 0).sum(axis=1) > 2]))


def kendall_tau(predicted: np.ndarray, orders: np.ndarray) -> Score:
    """Return the mean over lists of Kendall's tau: pairs in order less pairs not, by all pairs; n counts lists.

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
    """Return (n,) whether column own[i] is among the k highest of row i of (n, K); not with ties or NaN."""
    scores = np.asarray(scores)
    chosen = np.take_along_axis(scores, own[:, None], axis=1)
    return ((scores >= chosen).sum(axis=1) <= k) & np.isfinite(scores).all(axis=1)


def _rising(predicted: np.ndarray, orders: np.ndarray) -> Any:
    """Return (m,) whether the utilities of each order rise strictly."""
    utilities = np.where(orders >= 0, np.asarray(predicted, np.float64)[orders.clip(min=0), 0], np.inf)
    usable = (np.isfinite(utilities) | (orders < 0)).all(axis=1)
    with np.errstate(invalid="ignore"):
        steps = (np.diff(utilities, axis=1) > 0) | (orders[:, 1:] < 0)
    return steps.all(axis=1) & usable


def _mean_of(values: Any) -> Score:
    return Score(float(values.mean()) if len(values) else math.nan, len(values))


def labelled(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.shape != true.shape or true.ndim != 1:
        raise ValueError(f"predicted {predicted.shape} and true {true.shape} must be vectors of one length")
    labelled = ~np.isnan(true)
    return predicted[labelled], true[labelled]


def _answers(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return (n,) predicted (-1: not finite) and true class of labelled clips, and the number of classes."""
    labelled = ~np.isnan(true).any(axis=1)
    scores, truth = np.asarray(predicted)[labelled], np.argmax(true[labelled], axis=1)
    answer = np.where(np.isfinite(scores).all(axis=1), np.argmax(scores, axis=1), -1)
    return answer, truth, true.shape[1]


def why_undefined(predicted: np.ndarray, true: np.ndarray) -> str:
    """Return why two labelled vectors have no Pearson; empty where they have one."""
    if len(true) < 2:
        return f"{len(true)} labelled clip{'s' * (len(true) != 1)}, two are needed"
    if not np.isfinite(predicted).all():
        return "a prediction is not finite"
    if _is_constant(predicted):
        return f"the prediction is constant over {len(true)} clips"
    if _is_constant(true):
        return f"the label is constant over {len(true)} clips"
    return ""


def _is_constant(values: np.ndarray) -> bool:
    lowest, highest = values.min(), values.max()
    return bool(highest - lowest <= ROUNDING * max(abs(lowest), abs(highest)))


def _unit_deviation(values: np.ndarray) -> np.ndarray:
    deviation = values - values.mean()
    deviation /= np.abs(deviation).max()
    return deviation / np.linalg.norm(deviation)
