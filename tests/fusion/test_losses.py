"""Losses: known values, what unknown labels do, and agreement with the metrics."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from viper.errors import UserError
from viper.evaluation import measures
from viper.fusion import losses
from viper.fusion.losses import PREFERENCE_TERMS, TERMS, compute_loss, compute_preference_loss
from viper.task import LOSSES, Task, parse_loss

RANGE = (-1.0, 3.0)
REGRESSION = Task(name="r", kind="regression", targets=("a", "b"), range=RANGE)


def _batch(n: int = 12, n_targets: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Raw outputs, predictions, labels; a third of the labels unknown."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(n, n_targets, generator=generator)
    labels = RANGE[0] + 4 * torch.rand(n, n_targets, generator=generator)
    labels[torch.rand(n, n_targets, generator=generator) < 0.33] = torch.nan
    return raw, RANGE[0] + 4 * raw.sigmoid(), labels


def test_every_term_of_a_task_card_is_there() -> None:
    assert set(TERMS) | set(PREFERENCE_TERMS) == {term for terms in LOSSES.values() for term in terms}


@pytest.mark.parametrize("name", ["pearson", "ccc"])
def test_correlations_are_one_minus_the_metric(name: str) -> None:
    raw, predictions, labels = _batch()
    scores = [
        getattr(measures, name)(predictions[:, k].numpy(), labels[:, k].numpy().astype(np.float64)).value
        for k in range(labels.shape[1])
    ]
    loss = compute_loss({name: 1.0}, raw, predictions, labels, RANGE)
    assert loss.item() == pytest.approx(1 - float(np.mean(scores)), abs=1e-5)


def test_errors_and_cross_entropies_by_hand() -> None:
    raw = torch.tensor([[0.0, 2.0], [1.0, -1.0]])
    predictions = torch.tensor([[0.5, 1.0], [2.0, 0.0]])
    labels = torch.tensor([[1.0, torch.nan], [-1.0, 0.5]])
    assert compute_loss({"mse": 1.0}, raw, predictions, labels, RANGE).item() == pytest.approx((0.25 + 9 + 0.25) / 3)
    assert compute_loss({"l1": 1.0}, raw, predictions, labels, RANGE).item() == pytest.approx((0.5 + 3 + 0.5) / 3)
    # bce: the labels as shares of [-1, 3] are .5, 0 and .375.
    shares = torch.tensor([0.5, 0.0, 0.375])
    expected = F.binary_cross_entropy(torch.tensor([0.0, 1.0, -1.0]).sigmoid(), shares).item()
    assert compute_loss({"bce": 1.0}, raw, predictions, labels, RANGE).item() == pytest.approx(expected)
    classes = torch.tensor([[0.0, 1.0], [torch.nan, torch.nan]])
    expected = F.cross_entropy(raw[:1], torch.tensor([1])).item()
    assert compute_loss({"ce": 1.0}, raw, predictions, classes, (0.0, 1.0)).item() == pytest.approx(expected)


def test_label_smoothing_is_that_of_torch() -> None:
    raw = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    truth = torch.tensor([0, 3, 1, 1, 2])
    expected = F.cross_entropy(raw, truth, label_smoothing=0.2).item()
    one_hot = F.one_hot(truth, 4).float()
    loss = compute_loss({"ce": 1.0}, raw, raw.softmax(dim=1), one_hot, (0.0, 1.0), label_smoothing=0.2)
    assert loss.item() == pytest.approx(expected)


def test_a_sum_is_the_weighted_sum() -> None:
    batch = _batch()
    each = {name: compute_loss({name: 1.0}, *batch, RANGE).item() for name in ("mse", "ccc")}
    both = compute_loss({"mse": 1.0, "ccc": 0.5}, *batch, RANGE).item()
    assert both == pytest.approx(each["mse"] + 0.5 * each["ccc"], rel=1e-6)


@pytest.mark.parametrize("name", list(TERMS))
def test_unknown_labels_neither_count_nor_spoil_the_gradient(name: str) -> None:
    raw, _, labels = _batch()
    labels = {"ce": F.one_hot(torch.arange(12) % 3, 3).float(), "kl": labels.nan_to_num(0.0).abs()}.get(name, labels)
    labels[0] = torch.nan
    compute_loss = partial(losses.compute_loss, pos_weight=[2.0, 0.5, 1.0])
    raw = raw.requires_grad_()
    loss = compute_loss({name: 1.0}, raw, RANGE[0] + 4 * raw.sigmoid(), labels, RANGE)
    loss.backward()
    assert math.isfinite(loss.item())
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert (raw.grad[0] == 0).all()  # a clip without any label teaches nothing
    assert raw.grad.abs().sum() > 0
    without = compute_loss({name: 1.0}, raw[1:], RANGE[0] + 4 * raw[1:].sigmoid(), labels[1:], RANGE)
    assert loss.item() == pytest.approx(without.item(), rel=1e-5)
    nothing = compute_loss({name: 1.0}, raw, RANGE[0] + 4 * raw.sigmoid(), torch.full_like(labels, torch.nan), RANGE)
    nothing.backward()
    assert nothing.item() == 0
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize("name", ["pearson", "ccc"])
def test_a_target_without_spread_in_the_batch_has_no_correlation_to_learn(name: str) -> None:
    raw, _, labels = _batch()
    labels = labels.nan_to_num(0.0)
    others = compute_loss({name: 1.0}, raw[:, 1:], raw[:, 1:], labels[:, 1:], RANGE)
    labels[:, 0] = 0.25
    raw = raw.requires_grad_()
    loss = compute_loss({name: 1.0}, raw, raw, labels, RANGE)
    loss.backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert loss.item() == pytest.approx(others.item(), rel=1e-5)


def test_what_a_loss_may_look_like() -> None:
    assert parse_loss("mse", REGRESSION) == {"mse": 1.0}
    assert parse_loss(" mse + 0.5*ccc+1e-2*l1", REGRESSION) == {"mse": 1.0, "ccc": 0.5, "l1": 0.01}


@pytest.mark.parametrize(
    "loss", ["", "mae", "ce", "mse+", "mse+mse", "0*mse", "-1*mse", "mse*2", "1.2.3*mse", "mse ccc"]
)
def test_what_it_may_not(loss: str) -> None:
    with pytest.raises(UserError, match="loss"):
        parse_loss(loss, REGRESSION)


def test_bce_needs_a_range() -> None:
    with pytest.raises(UserError, match="range"):
        parse_loss("bce", Task(name="r", kind="regression", targets=("a",)))


def test_weighted_bce_is_torchs_with_unknown_labels_left_out() -> None:
    raw, labels = torch.tensor([[0.3, -1.0], [2.0, 0.5]]), torch.tensor([[1.0, 0.0], [torch.nan, 1.0]])
    weights = torch.tensor([3.0, 0.25])
    each = F.binary_cross_entropy_with_logits(raw, labels.nan_to_num(0.0), pos_weight=weights, reduction="none")
    expected = (each[0].sum() + each[1, 1]).item() / 3
    loss = compute_loss({"weighted_bce": 1.0}, raw, raw.sigmoid(), labels, (0.0, 1.0), pos_weight=[3.0, 0.25])
    assert loss.item() == pytest.approx(expected)


def test_weights_of_labels_balance_clips_with_and_without() -> None:
    labels = np.array([[1, 1, 0, np.nan], [0, 1, 0, 1], [0, 1, 0, 0], [0, np.nan, 0, np.nan]])
    assert losses.label_weights(labels) == [3.0, 1.0, 1.0, 1.0]


def test_kl_compares_shares_within_a_clip() -> None:
    raw = torch.tensor([[1.0, 0.0, -1.0], [0.2, 0.1, 0.0], [5.0, 1.0, 2.0]])
    labels = torch.tensor([[0.6, 0.3, 0.0], [0.0, 0.0, 0.0], [0.5, torch.nan, 0.1]])
    shares, log_q = np.array([2 / 3, 1 / 3]), raw[0].log_softmax(0)[:2].numpy()
    expected = float((shares * (np.log(shares) - log_q)).sum())  # of the first clip: the others say nothing
    arguments = ({"kl": 1.0}, raw, raw.sigmoid(), labels, (0.0, 1.0))
    assert compute_loss(*arguments).item() == pytest.approx(expected, rel=1e-5)
    alike = raw[:1].softmax(dim=1)
    assert compute_loss({"kl": 1.0}, raw[:1], alike, 0.4 * alike, (0.0, 1.0)).item() == pytest.approx(0, abs=1e-6)


def test_kl_needs_labels_that_can_be_shares() -> None:
    with pytest.raises(UserError, match="kl"):
        parse_loss("kl", REGRESSION)


PAIR = torch.tensor([[0, 1]])


@pytest.mark.parametrize("name", list(PREFERENCE_TERMS))
def test_a_pairs_loss_is_bradley_and_terrys(name: str) -> None:
    utilities = torch.tensor([0.3, 1.1])
    loss = compute_preference_loss({name: 1.0}, utilities, PAIR)
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(0.3 - 1.1))), rel=1e-6)


def test_a_lists_loss_is_the_chance_of_choosing_it_from_the_best_on() -> None:
    utilities = torch.tensor([0.5, -1.0, 2.0, 0.1])
    p = np.exp(utilities.numpy())
    order = [1, 0, 2]  # least preferred first
    chance = p[2] / (p[2] + p[0] + p[1]) * p[0] / (p[0] + p[1])
    loss = compute_preference_loss({"plackett_luce": 1.0}, utilities, torch.tensor([order]))
    assert loss.item() == pytest.approx(-math.log(chance), rel=1e-5)
    pairs = [(1, 0), (1, 2), (0, 2)]
    expected = sum(math.log1p(math.exp(float(utilities[less] - utilities[more]))) for less, more in pairs)
    loss = compute_preference_loss({"bradley_terry": 1.0}, utilities, torch.tensor([order]))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", list(PREFERENCE_TERMS))
def test_shorter_orders_are_filled_up_without_effect(name: str) -> None:
    utilities = torch.randn(6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    apart = [torch.tensor([[0, 3]]), torch.tensor([[5, 1, 2, 4]])]
    expected = torch.stack([compute_preference_loss({name: 1.0}, utilities, order) for order in apart]).mean()
    together = torch.tensor([[0, 3, -1, -1], [5, 1, 2, 4]])
    loss = compute_preference_loss({name: 1.0}, utilities, together)
    assert loss.item() == pytest.approx(float(expected.detach()), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, utilities)
    (wanted,) = torch.autograd.grad(expected, utilities)
    torch.testing.assert_close(gradient, wanted)
    shifted = compute_preference_loss({name: 1.0}, utilities + 100, together)
    assert shifted.item() == pytest.approx(loss.item(), rel=1e-4)  # only differences count
