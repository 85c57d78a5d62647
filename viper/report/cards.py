"""One clip as a card of the page: pictures, bars, and where in time was looked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from viper.report.charts import Mark, Scale, lane, zero_line
from viper.report.content import Case, ModalityAttention, ReportContent, Thumbnail
from viper.report.html import level, picture_uri
from viper.report.words import percent, seconds

THUMBNAIL_HEIGHT = 112  # pixels: sharp at the size it has on a card
_MOST_TARGETS = 8  # that a card shows unfolded
_MOST_CELLS = 64  # of a strip: more cannot be told apart on a phone


@dataclass(frozen=True)
class Picture:
    """A thumbnail as the page has it."""

    uri: str
    time: float


@dataclass(frozen=True)
class Pair:
    """Truth and prediction of one target; bars as left end and width in percent, none for NaN."""

    name: str
    true: float
    predicted: float
    true_bar: tuple[float, float] | None
    predicted_bar: tuple[float, float]
    zero: float

    def lane(self, has_truth: bool) -> Markup:
        """Return both bars, drawn; `has_truth`: leave room for the truth, as other pairs of the card have one."""
        truth = [] if self.true_bar is None else [Mark("is-true", *self.true_bar)]
        predicted = Mark("is-predicted" if has_truth else "is-only", *self.predicted_bar)
        return lane("twin", [*truth, predicted, *zero_line(self.zero)])


@dataclass(frozen=True)
class Strip:
    """One modality's attention along the clip."""

    name: str
    share: float
    svg: Markup


@dataclass(frozen=True)
class Change:
    """What hiding a modality does: to the target it changes most, and on average over all."""

    modality: str
    target: str
    before: float
    after: float
    mean: float


@dataclass(frozen=True)
class Card:
    """One clip; `pairs` are what is seen at once, `more` what is folded away."""

    clip: str
    error: float
    pictures: list[Picture]
    pairs: list[Pair]
    more: list[Pair]
    strips: list[Strip]
    duration: float
    changes: list[Change]


def cards(content: ReportContent, cases: Sequence[Case]) -> list[Card]:
    """Return the cards of some clips, their bars all on the scale of the task, or of what was predicted."""
    values = content.predicted.ravel().tolist() if content.task.range is None else []
    shown = [value for case in cases for value in case.predicted.values()]
    scale = Scale.of(content.task.range, [*values, *shown])
    return [_card(case, scale) for case in cases]


def pictures(thumbnails: Sequence[Thumbnail]) -> list[Picture]:
    """Return thumbnails small enough for a page of many."""
    return [Picture(picture_uri(each.image, THUMBNAIL_HEIGHT), each.time) for each in thumbnails]


def strip(name: str, attention: ModalityAttention, duration: float, most: float) -> Strip:
    """Return a strip of cells, the darker the more attention a second of it got.

    Parameters
    ----------
    duration : seconds the strip is long.
    most : attention a second that has the darkest colour.
    """
    edges, density = attention_density(attention, duration)
    cells = "".join(
        f'<rect x="{100 * left / duration:.2f}" width="{100 * (right - left) / duration:.2f}" height="10" '
        f'style="fill:var(--m{level(value / most)})"/>'
        for left, right, value in zip(edges[:-1], edges[1:], density, strict=True)
    )
    said = f"Attention to {name} over time: {percent(attention.share)} of all"
    if len(density) > 1:
        peak = int(np.argmax(density))
        said += f", most around {seconds(float(edges[peak] + edges[peak + 1]) / 2)}"
    head = '<svg viewBox="0 0 100 10" preserveAspectRatio="none" shape-rendering="crispEdges" role="img"'
    return Strip(name, attention.share, Markup(f'{head} aria-label="{escape(said)}.">{cells}</svg>'))


def attention_density(attention: ModalityAttention, duration: float) -> tuple[np.ndarray, np.ndarray]:
    """Return attention per second, averaged over the targets, in cells that fill the clip.

    Each token has the time that is nearer to it than to any other; with many of them, neighbours share a cell.

    Returns
    -------
    (C + 1,) edges in seconds, within the clip; (C,) densities; C is 64 at most.
    """
    weights = attention.weights.mean(axis=0)
    times = np.clip(np.nan_to_num(np.asarray(attention.times, float)), 0.0, duration)
    times, place = np.unique(times, return_inverse=True)
    weights = np.bincount(place, weights, len(times))
    if len(times) == 1:
        return np.array([0.0, duration]), weights / duration
    middles = (times[:-1] + times[1:]) / 2
    # The first and the last token reach as far outwards as inwards: half a cell would seem twice as much looked at.
    edges = np.concatenate([[2 * times[0] - middles[0]], middles, [2 * times[-1] - middles[-1]]])
    if len(times) > _MOST_CELLS:
        total = np.concatenate([[0.0], np.cumsum(weights)])
        coarse = np.linspace(edges[0], edges[-1], _MOST_CELLS + 1)
        weights, edges = np.diff(np.interp(coarse, edges, total)), coarse
    return edges.clip(0.0, duration), weights / np.diff(edges)


def _card(case: Case, scale: Scale) -> Card:
    pairs = [_pair(target, case, scale) for target in case.predicted]
    shown, more = pairs, []
    if len(pairs) > _MOST_TARGETS + 2:
        order = sorted(pairs, key=_weight, reverse=True)
        chosen = {pair.name for pair in order[:_MOST_TARGETS]}
        shown = [pair for pair in pairs if pair.name in chosen]
        more = [pair for pair in pairs if pair.name not in chosen]
    present = {name: each for name, each in case.attention.items() if len(each.times)}
    ends = [float(np.nanmax(each.times)) for each in present.values() if np.isfinite(each.times).any()]
    duration = max([*ends, *(each.time for each in case.thumbnails), 0.0]) or 1.0
    most = max((float(attention_density(each, duration)[1].max()) for each in present.values()), default=0.0) or 1.0
    return Card(
        clip=case.clip,
        error=case.error,
        pictures=pictures(case.thumbnails),
        pairs=shown,
        more=more,
        strips=[strip(name, each, duration, most) for name, each in present.items()],
        duration=duration,
        changes=[_change(modality, case.predicted, values) for modality, values in case.hidden.items()],
    )


def _pair(target: str, case: Case, scale: Scale) -> Pair:
    true, predicted = case.true.get(target, math.nan), case.predicted[target]
    bar = scale.span(true) if math.isfinite(true) else None
    return Pair(target, true, predicted, bar, scale.span(predicted), scale.zero)


def _weight(pair: Pair) -> float:
    """Return how much a target has to say: the larger of truth and prediction."""
    return max(abs(value) for value in (pair.true, pair.predicted, 0.0) if math.isfinite(value))


def _change(modality: str, before: dict[str, float], after: dict[str, float]) -> Change:
    changes = {target: abs(value - before[target]) for target, value in after.items()}
    target = max(changes, key=lambda name: changes[name])
    return Change(modality, target, before[target], after[target], float(np.mean(list(changes.values()))))
