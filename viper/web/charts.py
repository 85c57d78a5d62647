"""What the page shows of an answer, as HTML and SVG: readable without colour, with a keyboard and on a phone.

The colours are those of the report and of `viper.evaluation.drawing`, as variables of `page.css` beside this file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from viper.report.charts import Mark, Scale, curve, lane
from viper.report.html import picture_uri
from viper.report.words import signed
from viper.task import Task

if TYPE_CHECKING:
    from viper.inference.reader import FaceTrack

MAX_PICTURES = 12  # of a face track that are shown
PICTURE_HEIGHT = 150  # pixels
_VALUE_NAMES = {"regression": "intensity", "preference": "utility"}


def value_name(task: Task) -> str:
    """Return what the numbers of a task are, in a word."""
    return _VALUE_NAMES.get(task.kind, "probability")


def bars(
    task: Task, values: np.ndarray, full: np.ndarray | None = None, shown: Mapping[str, float] | None = None
) -> Markup:
    """Return a table with a bar per target.

    Parameters
    ----------
    values, full : (targets,): the answer, and that of all modalities together where some are switched off now.
    shown : target -> what a made-up clip was made to show.
    """
    shown = shown or {}
    scale = Scale.of(task.range, [*values, *(() if full is None else full)])
    rows = []
    for k, target in enumerate(task.targets):
        value = float(values[k])
        marks, note = [Mark("fill", *scale.span(value))], Markup("")
        if target in shown:
            marks.append(Mark("made", scale.at(shown[target])))
            note = Markup('<span class="aside">made to show {:.2f}</span>').format(shown[target])
        if full is not None:
            marks.append(Mark("full", scale.at(float(full[k]))))
            note = Markup('<span class="aside">{}</span>').format(signed(value - float(full[k]), 2))
        rows.append(
            Markup(
                '<tr><th scope="row">{}</th><td class="track">{}</td><td class="number"><span class="value" '
                'data-target="{}">{:.3f}</span>{}</td></tr>'
            ).format(target, lane("bar", marks), target, value, note)
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
    ).format(value_name(task), scale.low, scale.high, value_name(task), Markup("").join(rows), legend)


def as_shown(faces: FaceTrack | None) -> FaceTrack | None:
    """Return a track with only the pictures that are shown: a checkpoint may look at every frame of a clip."""
    if faces is None:
        return None
    shown = set(_shown(len(faces.frames)))
    frames = [image if number in shown else np.zeros_like(image[:1, :1]) for number, image in enumerate(faces.frames)]
    return dataclasses.replace(faces, frames=frames, crops=[])


def _shown(n: int) -> np.ndarray:
    """Return which of a track's n frames are shown."""
    return np.unique(np.linspace(0, n - 1, min(n, MAX_PICTURES)).round().astype(int))


def track(faces: FaceTrack | None) -> Markup:
    """Return the frames that were looked at, over time, with a box around the face."""
    if faces is None or not faces.frames:
        return Markup('<p class="nothing">No pictures: the modalities that are used do not look at any.</p>')
    n = len(faces.frames)
    chosen = _shown(n)
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
    """Return a small curve per target, all on the axes of the whole clip.

    Parameters
    ----------
    seconds : the clip's length.
    middles : (windows,) seconds of the clip.
    values, full : (windows, targets): as in `bars`, NaN for a window with nothing to look at.
    """
    if len(middles) < 2:
        return Markup('<p class="nothing">The clip is too short for a timeline.</p>')
    scale = Scale.of(task.range, [*values.ravel(), *(() if full is None else full.ravel())])
    figures = []
    for k, target in enumerate(task.targets):
        own = values[:, k].tolist()
        known = [(value, time) for value, time in zip(own, middles, strict=True) if np.isfinite(value)]
        said = ", ".join(f"{value:.2f} at {time:.1f} s" for value, time in known) or "nothing to look at"
        before = None if full is None else full[:, k].tolist()
        drawn = curve(seconds, middles.tolist(), own, scale, f"{target} over time: {said}", before)
        figures.append(
            Markup(
                '<figure><figcaption>{} <span>{}</span></figcaption>{}<p class="axis"><span>0 s</span>'
                "<span>{:.1f} s</span></p></figure>"
            ).format(target, _span([value for value, _ in known]), drawn, seconds)
        )
    legend = "" if full is None else " Dashed: with every modality."
    return Markup(
        '<p class="summary">{} windows. Every curve goes from {:g} (bottom) to {:g} (top).{}</p>'
        '<div class="curves">{}</div>'
    ).format(len(middles), scale.low, scale.high, legend, Markup("").join(figures))


def sources(modalities: Sequence[str], absent: Mapping[str, str], hidden: Collection[str]) -> Markup:
    """Return which modalities the answer comes from, and why not from the others."""
    items = []
    for name in modalities:
        state, why = "there", ""
        if name in absent:
            state, why = "absent", absent[name]
        elif name in hidden:
            state, why = "hidden", "switched off"
        items.append(Markup('<li class="{}"><b>{}</b> {}</li>').format(state, name, why))
    return Markup('<ul class="sources">{}</ul>').format(Markup("").join(items))


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} – {max(values):.2f}" if values else ""
