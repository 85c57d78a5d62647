"""What the page shows of an answer, as HTML and SVG: readable without colour, with a keyboard and on a phone.

The colours are those of the report's page and of `viper.evaluation.drawing`, as variables of `viper/page/page.css`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from viper.report.html import picture_uri
from viper.task import Task

if TYPE_CHECKING:
    from viper.inference.reader import FaceTrack

MAX_PICTURES = 12  # of a face track that are shown
PICTURE_HEIGHT = 150  # pixels
_VALUE_NAMES = {"regression": "intensity", "preference": "utility"}


def scale_of(task: Task, *values: np.ndarray) -> tuple[float, float]:
    """The ends of the axis on which the values of a task are shown: its range or, without one, what there is and 0."""
    if task.range is not None:
        return task.range
    there = np.concatenate([np.ravel(each) for each in values] + [np.zeros(1)])
    low, high = float(np.nanmin(there)), float(np.nanmax(there))
    return (low, high) if high > low else (low, low + 1.0)


def value_name(task: Task) -> str:
    """What the numbers of a task are, in a word."""
    return _VALUE_NAMES.get(task.kind, "probability")


def bars(
    task: Task, values: np.ndarray, full: np.ndarray | None = None, shown: Mapping[str, float] | None = None
) -> Markup:
    """A table with a bar per target.

    Parameters
    ----------
    values, full : (targets,): the answer, and that of all modalities together where some are switched off now.
    shown : target -> what a made-up clip was made to show.
    """
    shown = shown or {}
    ends = scale_of(task, values, values if full is None else full)
    zero = _place(min(max(0.0, ends[0]), ends[1]), ends)
    rows = []
    for k, target in enumerate(task.targets):
        marks = Markup("")
        place = _place(float(values[k]), ends)
        note = Markup("")
        if target in shown:
            marks += Markup('<i class="made" style="left:{:.2f}%"></i>').format(_place(shown[target], ends))
            note += Markup('<span class="aside">made to show {:.2f}</span>').format(shown[target])
        if full is not None:
            marks += Markup('<i class="full" style="left:{:.2f}%"></i>').format(_place(float(full[k]), ends))
            note = Markup('<span class="aside">{}{:.2f}</span>').format(
                "+" if values[k] >= full[k] else "−", abs(float(values[k] - full[k]))
            )
        rows.append(
            Markup(
                '<tr><th scope="row">{}</th><td class="track"><div class="lane"><b style="left:{:.2f}%;width:{:.2f}%">'
                '</b>{}</div></td><td class="number"><span class="value" data-target="{}">{:.3f}</span>{}</td></tr>'
            ).format(target, min(zero, place), abs(place - zero), marks, target, float(values[k]), note)
        )
    legend = Markup("")
    if full is not None:
        legend += Markup('<span><i class="full"></i> with every modality, and the change from it</span>')
    if shown:
        legend += Markup('<span><i class="made"></i> what the clip was made to show</span>')
    return Markup(
        '<table class="bars"><caption>Predicted {} of each target, from {:g} to {:g}</caption>'
        '<thead class="unseen"><tr><th scope="col">target</th><td></td><th scope="col">{}</th></tr></thead>'
        '<tbody>{}</tbody></table><p class="legend">{}</p>'
    ).format(value_name(task), *ends, value_name(task), Markup("").join(rows), legend)


def track(faces: FaceTrack | None) -> Markup:
    """The frames that were looked at, over time, with a box around the face."""
    if faces is None or not faces.frames:
        return Markup('<p class="nothing">No pictures: the modalities that are used do not look at any.</p>')
    n = len(faces.frames)
    chosen = np.unique(np.linspace(0, n - 1, min(n, MAX_PICTURES)).round().astype(int))
    looked_for = np.isfinite(faces.boxes).any() or not faces.found.all()
    figures = []
    for i in chosen:
        found, seconds = bool(faces.found[i]), float(faces.times[i])
        says = ("face found" if found else "no face found") if looked_for else "whole frame"
        box = Markup("")
        if looked_for and np.isfinite(faces.boxes[i]).all():
            left, top, right, bottom = (100 * float(x) for x in np.clip(faces.boxes[i], 0, 1))
            box = Markup('<i class="box{}" style="left:{:.1f}%;top:{:.1f}%;width:{:.1f}%;height:{:.1f}%"></i>').format(
                "" if found else " guessed", left, top, right - left, bottom - top
            )
        figures.append(
            Markup(
                '<figure><div class="picture"><img src="{}" alt="Frame at {:.1f} seconds, {}">{}</div>'
                "<figcaption>{:.1f} s{}</figcaption></figure>"
            ).format(
                picture_uri(faces.frames[i], PICTURE_HEIGHT), seconds, says, box, seconds, "" if found else " · no face"
            )
        )
    summary = (
        f"A face in {int(faces.found.sum())} of the {n} frames that were looked at" if looked_for else f"{n} frames"
    )
    if len(chosen) < n:
        summary += f"; {len(chosen)} of them are shown"
    return Markup('<p class="summary">{}.</p><div class="faces">{}</div>').format(summary, Markup("").join(figures))


def timeline(task: Task, seconds: float, middles: np.ndarray, values: np.ndarray, full: np.ndarray | None) -> Markup:
    """A small curve per target, all on the axes of the whole clip.

    Parameters
    ----------
    seconds : the clip's length.
    middles : (windows,) seconds of the clip.
    values, full : (windows, targets): as in `bars`, NaN for a window with nothing to look at.
    """
    if len(middles) < 2:
        return Markup('<p class="nothing">The clip is too short for a timeline.</p>')
    ends = scale_of(task, values, values if full is None else full)
    figures = []
    for k, target in enumerate(task.targets):
        known = np.isfinite(values[:, k])
        said = ", ".join(f"{v:.2f} at {t:.1f} s" for t, v in zip(middles[known], values[known, k], strict=True))
        lines = Markup('<polyline class="now" points="{}"/>').format(_points(middles, values[:, k], seconds, ends))
        if full is not None:
            lines = Markup('<polyline class="before" points="{}"/>').format(
                _points(middles, full[:, k], seconds, ends)
            ) + lines  # fmt: skip
        figures.append(
            Markup(
                '<figure><figcaption>{} <span>{}</span></figcaption><svg viewBox="0 0 100 40" '
                'preserveAspectRatio="none" role="img" aria-label="{} over time: {}"><path class="frame" '
                'd="M0 0V40H100"/>{}</svg><p class="axis"><span>0 s</span><span>{:.1f} s</span></p></figure>'
            ).format(target, _span(values[known, k]), target, said or "nothing to look at", lines, seconds)
        )
    legend = "" if full is None else " Dashed: with every modality."
    return Markup(
        '<p class="summary">{} windows. Every curve goes from {:g} (bottom) to {:g} (top).{}</p>'
        '<div class="curves">{}</div>'
    ).format(len(middles), *ends, legend, Markup("").join(figures))


def sources(modalities: Sequence[str], absent: Mapping[str, str], hidden: Collection[str]) -> Markup:
    """Which modalities the answer comes from, and why not from the others."""
    items = []
    for name in modalities:
        state, why = "there", ""
        if name in absent:
            state, why = "absent", absent[name]
        elif name in hidden:
            state, why = "hidden", "switched off"
        items.append(Markup('<li class="{}"><b>{}</b> {}</li>').format(state, name, why))
    return Markup('<ul class="sources">{}</ul>').format(Markup("").join(items))


def _place(value: float, ends: tuple[float, float]) -> float:
    """Per cent of the way along the axis."""
    return 100 * min(max((value - ends[0]) / (ends[1] - ends[0]), 0.0), 1.0)


def _points(middles: np.ndarray, values: np.ndarray, seconds: float, ends: tuple[float, float]) -> str:
    return " ".join(
        f"{100 * t / max(seconds, 1e-9):.2f},{40 - 0.4 * _place(float(value), ends):.2f}"
        for t, value in zip(middles, values, strict=True)
        if np.isfinite(value)
    )


def _span(values: np.ndarray) -> str:
    return f"{values.min():.2f} – {values.max():.2f}" if len(values) else ""
