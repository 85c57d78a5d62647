"""What training minimises: one term, or a weighted sum of several, over the labels that are known.

Shapes: predictions, raw outputs and labels are (B, targets); a label that is NaN is not known. Every term is computed
on the clips of all processes together, so that training in several processes is training in one with the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Of a variance, so that a target that is constant in a batch has a gradient of zero instead of NaN.
_EPSILON = 1e-8
_is_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """While inside, losses are computed on the clips of this process, and ask nothing of the others."""
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        yield
    finally:
        _is_alone = before


def compute_loss(
    terms: Mapping[str, float],
    raw: Tensor,
    predictions: Tensor,
    labels: Tensor,
    value_range: tuple[float, float] | None,
    label_smoothing: float = 0.0,
    pos_weight: Sequence[float] | None = None,
) -> Tensor:
    """A weighted sum of terms.

    Parameters
    ----------
    terms : name in `TERMS` -> weight; see `viper.task.parse_loss`.
    raw : the network's outputs before the squashing to the task's range: logits.
    predictions : after it.
    value_range : of the labels; bce needs it.
    label_smoothing : share of a label that is spread evenly over all classes (ce), or moved to the middle of its range
        (bce).
    pos_weight : what an error on a clip with each label weighs against one on a clip without; weighted_bce needs it.

    Returns
    -------
    Scalar; 0 where no label is known.
    """
    raw, predictions, labels = (_of_all_processes(x) for x in (raw, predictions, labels))
    context = _Context(value_range, label_smoothing, pos_weight)
    terms_of_batch = (weight * TERMS[name](raw, predictions, labels, context) for name, weight in terms.items())
    return torch.stack(list(terms_of_batch)).sum()


def label_weights(labels: np.ndarray) -> list[float]:
    """`pos_weight` of labels (n, targets): clips without each divided by clips with it; 1 where all or none have it."""
    positive, negative = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    usable = (positive > 0) & (negative > 0)
    return [float(weight) for weight in np.where(usable, negative / np.maximum(positive, 1), 1.0)]


def compute_preference_loss(terms: Mapping[str, float], utilities: Tensor, orders: Tensor) -> Tensor:
    """A weighted sum of terms over orders of clips.

    With several processes each returns the mean over all, with the gradient of its own orders: since all have as many,
    DistributedDataParallel's mean of the gradients is the gradient of that mean.

    Parameters
    ----------
    terms : name in `PREFERENCE_TERMS` -> weight.
    utilities : (n,), one a clip.
    orders : (B, L) int64, clips from the least to the most preferred, -1 at the end of shorter orders.
    """
    terms_of_batch = (weight * PREFERENCE_TERMS[name](utilities, orders) for name, weight in terms.items())
    own = torch.stack(list(terms_of_batch)).sum()
    if not _is_one_of_several():
        return own
    mean = own.detach().clone()
    torch.distributed.all_reduce(mean)
    return own + (mean / torch.distributed.get_world_size() - own).detach()


@dataclass(frozen=True)
class _Context:
    """What some terms need beside the outputs and the labels."""

    value_range: tuple[float, float] | None
    label_smoothing: float
    pos_weight: Sequence[float] | None


def _of_all_processes(x: Tensor) -> Tensor:
    """Return the rows of all processes, in order of rank; gradients reach those of this process.

    DistributedDataParallel takes the mean of the W processes' gradients. Each process knows the part of the loss's
    gradient that comes through its own rows; times W, the mean is the gradient of one process with all the rows.
    """
    if not _is_one_of_several():
        return x
    n = torch.distributed.get_world_size()
    rows = [torch.empty_like(x) for _ in range(n)]
    torch.distributed.all_gather(rows, x.detach().contiguous())
    rows[torch.distributed.get_rank()] = x.detach() + n * (x - x.detach())  # the value of x, its gradient n-fold
    return torch.cat(rows)


def _is_one_of_several() -> bool:
    distributed = torch.distributed
    return (
        not _is_alone
        and distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def _mean_over_labels(error: Tensor, labels: Tensor) -> Tensor:
    """Mean of `error` where there is a label; 0 where there is none."""
    labelled = ~labels.isnan()
    # Selecting, not multiplying: 0 * NaN is NaN.
    return torch.where(labelled, error, 0.0).sum() / labelled.sum().clamp(min=1)


def _known(labels: Tensor, instead: Tensor) -> Tensor:
    """Labels with what is unknown replaced, so that neither the error nor its gradient is NaN there."""
    return torch.where(labels.isnan(), instead.detach(), labels)


def mse(raw: Tensor, predictions: Tensor, labels: Tensor, context: _Context) -> Tensor:
    """Mean squared error."""
    return _mean_over_labels((predictions - _known(labels, predictions)).square(), labels)


def l1(raw: Tensor, predictions: Tensor, labels: Tensor, context: _Context) -> Tensor:
    """Mean absolute error."""
    return _mean_over_labels((predictions - _known(labels, predictions)).abs(), labels)


def pearson(raw: Tensor, predictions: Tensor, labels: Tensor, context: _Context) -> Tensor:
    """1 - the mean over targets of Pearson's r within the batch."""
    covariance, variance_p, variance_l, _, usable = _moments(predictions, labels)
    r = covariance / ((variance_p + _EPSILON) * (variance_l + _EPSILON)).sqrt()
    return _mean_of_usable(1 - r, usable)


def ccc(raw: Tensor, predictions: Tensor, labels: Tensor, context: _Context) -> Tensor:
    """1 - the mean over targets of the concordance correlation coefficient within the batch."""
    covariance, variance_p, variance_l, distance, usable = _moments(predictions, labels)
    concordance = 2 * covariance / (variance_p + variance_l + distance.square() + _EPSILON)
    return _mean_of_usable(1 - concordance, usable)


def bce(raw: Tensor, predictions: Tensor, labels: Tensor, context: _Context) -> Tensor:
    """Binary cross-entropy of logits against labels brought from the task's range to [0, 1]; soft labels will do."""
    return _binary_cross_entropy(raw, labels, context, None)


def weighted_bce(raw: Tensor, predictions: Tensor, labels: Tensor, context: _Context) -> Tensor:
    """bce in which the clips that have a label weigh as much, all together, as those that do not (EmoTx's)."""
    assert context.pos_weight is not None, "label_weights counts those of the training split"
    return _binary_cross_entropy(raw, labels, context, raw.new_tensor(context.pos_weight))


def _binary_cross_entropy(raw: Tensor, labels: Tensor, context: _Context, pos_weight: Tensor | None) -> Tensor:
    assert context.value_range is not None, "viper.task.parse_loss lets no bce pass without a range"
    low, high = context.value_range
    share = (_known(labels, torch.full_like(labels, low)) - low) / (high - low)
    share = share * (1 - context.label_smoothing) + 0.5 * context.label_smoothing
    error = F.binary_cross_entropy_with_logits(raw, share, reduction="none", pos_weight=pos_weight)
    return _mean_over_labels(error, labels)


def kl(raw: Tensor, predictions: Tensor, labels: Tensor, context: _Context) -> Tensor:
    """Kullback-Leibler divergence of the softmax of raw outputs from the labels, as shares of their sum.

    It teaches how intensities compare within a clip, not how high they are. Clips with an unknown label, or
    all are 0, are left out.
    """
    labelled = ~labels.isnan().any(dim=1)
    truth = torch.where(labelled.unsqueeze(1), labels, 0.0)
    total = truth.sum(dim=1, keepdim=True)
    usable = total.squeeze(1) > 0
    shares = truth / total.clamp(min=_EPSILON)
    divergence = F.kl_div(raw.log_softmax(dim=1), shares, reduction="none").sum(dim=1)
    return torch.where(usable, divergence, 0.0).sum() / usable.sum().clamp(min=1)


def ce(raw: Tensor, predictions: Tensor, labels: Tensor, context: _Context) -> Tensor:
    """Cross-entropy of logits against the class, given as 1 among 0s; a clip without a label is a row of NaN."""
    labelled = ~labels.isnan().any(dim=1)
    truth = torch.where(labelled.unsqueeze(1), labels, 1.0 / labels.shape[1])
    error = F.cross_entropy(raw, truth, reduction="none", label_smoothing=context.label_smoothing)
    return torch.where(labelled, error, 0.0).sum() / labelled.sum().clamp(min=1)


TERMS: dict[str, Callable[[Tensor, Tensor, Tensor, _Context], Tensor]] = {
    "mse": mse, "l1": l1, "pearson": pearson, "ccc": ccc, "bce": bce, "weighted_bce": weighted_bce, "kl": kl, "ce": ce,
}  # fmt: skip


def plackett_luce(utilities: Tensor, orders: Tensor) -> Tensor:
    """Mean over orders of the negative log-likelihood under Plackett and Luce (Plackett 1975); utilities (n,).

    The most preferred clip is chosen among all, the next among those that are left, and so on, each with a chance in
    proportion to exp(utility). Of a pair it is Bradley and Terry's.
    """
    there = orders >= 0
    chosen = torch.where(there, utilities[orders.clamp(min=0)], -torch.inf)
    # From the least preferred on: each clip against all that come before it, and itself.
    left = chosen.logcumsumexp(dim=1)
    return torch.where(there, left - torch.where(there, chosen, 0.0), 0.0).sum(dim=1).mean()


def bradley_terry(utilities: Tensor, orders: Tensor) -> Tensor:
    """Mean over orders of the negative log-likelihood of all their pairs (Bradley and Terry 1952); utilities (n,)."""
    first, second = torch.triu_indices(orders.shape[1], orders.shape[1], 1, device=orders.device)
    less, more = orders[:, first], orders[:, second]
    error = F.softplus(utilities[less.clamp(min=0)] - utilities[more.clamp(min=0)])
    return torch.where(more >= 0, error, 0.0).sum(dim=1).mean()


PREFERENCE_TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plackett_luce": plackett_luce, "bradley_terry": bradley_terry,
}  # fmt: skip


def _moments(predictions: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Per target over the labelled clips: covariance, both variances, difference of means, and which targets count.

    A target counts with two labelled clips at least, and labels that differ: a constant has no correlation to learn.
    """
    labelled = ~labels.isnan()
    n = labelled.sum(dim=0).clamp(min=1)
    truth = _known(labels, torch.zeros_like(labels))

    def mean(x: Tensor) -> Tensor:
        return torch.where(labelled, x, 0.0).sum(dim=0) / n

    mean_p, mean_l = mean(predictions), mean(truth)
    off_p, off_l = predictions - mean_p, truth - mean_l
    variance_l = mean(off_l.square())
    usable = (labelled.sum(dim=0) > 1) & (variance_l > _EPSILON)
    return mean(off_p * off_l), mean(off_p.square()), variance_l, mean_p - mean_l, usable


def _mean_of_usable(loss: Tensor, usable: Tensor) -> Tensor:
    return torch.where(usable, loss, 0.0).sum() / usable.sum().clamp(min=1)
