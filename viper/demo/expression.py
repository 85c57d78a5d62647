"""Facial action units as smooth displacements of the photograph, and a mouth that opens.

Every emotion of the face is the set of action units that the Facial Action Coding System (Ekman and Friesen) gives for
it: Amusement 6+12+25 (cheeks, lip corners, lips part), Disgust 4+9+10 (brows lowered, nose wrinkled, upper lip
raised), Surprise 1+2+5+26 (brows and lids raised, jaw dropped).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from viper.demo.photo import (
    LOWER_LIP_EDGE,
    UPPER_LIP_EDGE,
    ZOOM,
    Field,
    Image,
    Portrait,
    gaussian,
    to_canvas,
    to_levels,
)

_ROI = (170.0, 64.0, 284.0, 202.0)  # the only part of the photograph an expression may change
_MOUTH_X, _MOUTH_HALF_WIDTH = 223.75, 21.25
_JAW_DROP = 9.0  # px at full surprise
_CAVITY, _TONGUE = (46.0, 16.0, 18.0), (128.0, 58.0, 60.0)


class Expression(NamedTuple):
    """Intensities of the three emotions of the face, about [0, 1]; all 0 is a face at rest."""

    amusement: float
    disgust: float
    surprise: float


class _Bump(NamedTuple):
    """A Gaussian displacement (px of the photograph): what is about (x, y) moves by (dx, dy).

    Raising and lowering the brows share their centres, so that the two cancel where both are shown.
    """

    x: float
    y: float
    dx: float
    dy: float
    sigma_x: float
    sigma_y: float


_BUMPS: dict[str, list[_Bump]] = {
    "amusement": [
        _Bump(197, 119, -1.0, -4.5, 10, 8),
        _Bump(252, 120, 1.0, -4.5, 10, 8),  # 6: cheeks
        _Bump(202, 105, 0, -1.8, 9, 2.8),
        _Bump(247, 107, 0, -1.8, 9, 2.8),  # 6: lower lids
    ],
    "disgust": [
        _Bump(213, 91, 3.0, 4.5, 8, 6.5),
        _Bump(238, 92, -3.0, 4.5, 8, 6.5),  # 4: inner brows
        _Bump(199, 88, 1.5, 3.0, 10, 6.5),
        _Bump(253, 92, -1.5, 3.0, 10, 6.5),  # 4: outer brows
        _Bump(202, 97, 0, 1.4, 9, 2.6),
        _Bump(247, 99, 0, 1.4, 9, 2.6),  # 4: upper lids
        _Bump(202, 105, 0, -1.2, 9, 2.8),
        _Bump(247, 107, 0, -1.2, 9, 2.8),  # 9: lower lids
        _Bump(223, 128, 0, -4.5, 9, 8),
        _Bump(212, 128, -2.0, -3.5, 6, 7),
        _Bump(236, 128, 2.0, -3.5, 6, 7),  # 9
    ],
    "surprise": [
        _Bump(199, 88, 0, -6.5, 10, 6.5),
        _Bump(253, 92, 0, -6.5, 10, 6.5),  # 2: outer brows
        _Bump(213, 91, 0, -5.0, 8, 6.5),
        _Bump(238, 92, 0, -5.0, 8, 6.5),  # 1: inner brows
        _Bump(202, 96.5, 0, -0.6, 8, 3.0),
        _Bump(247, 98.5, 0, -0.6, 8, 3.0),  # 5: upper lids
        _Bump(202, 105.5, 0, 0.5, 8, 2.8),
        _Bump(247, 107.5, 0, 0.5, 8, 2.8),
    ],
}


class _Mouth(NamedTuple):
    """Backward displacement (h, w) of the photograph around the mouth, and what is inside the lips."""

    dx: Field
    dy: Field
    cavity: Field  # in [0, 1]: how much of the pixel is dark
    tongue: Field
    seam: Field  # in [0, 1]: the shadow where closed lips meet


def express(portrait: Portrait, expression: Expression) -> Image:
    """Return (H, W, 3) uint8: the portrait with an expression. Outside the face nothing changes."""
    rows, columns = _roi_slices()
    x, y = _grid()
    amusement, disgust = min(max(expression.amusement, 0.0), 1.0), min(max(expression.disgust, 0.0), 1.0)
    fold = 0.1 + 0.9 * amusement
    skin = cv2.addWeighted(portrait.creased[rows, columns], fold, portrait.smooth[rows, columns], 1 - fold, 0)
    skin = cv2.addWeighted(portrait.wrinkled[rows, columns], disgust, skin, 1 - disgust, 0)
    bumps = np.tensordot(np.array(expression, np.float32), _bump_fields(), 1)
    mouth = _mouth(expression)
    fade = _fade()
    map_x = (x - fade * (bumps[0] - mouth.dx) - _ROI[0]) * ZOOM
    map_y = (y - fade * (bumps[1] - mouth.dy) - _ROI[1]) * ZOOM
    face = cv2.remap(skin, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    shade = (1 - 0.5 * mouth.seam) * (1 - mouth.cavity)
    face *= cv2.merge([shade] * 3)
    mixtures = [mouth.cavity * dark + mouth.tongue * (red - dark) for dark, red in zip(_CAVITY, _TONGUE, strict=True)]
    face += cv2.merge(mixtures)
    picture = portrait.creased.copy()
    picture[rows, columns] = to_levels(face)
    return picture


def _mouth(expression: Expression) -> _Mouth:
    """Lay both lips where the expression wants them: in each column the lips' edges are moved and the skin follows.

    A smooth displacement cannot close the photograph's opened mouth; so the skin above the upper lip's edge follows
    that edge, the skin below the lower lip's edge follows the other, and between them are teeth and the dark.
    """
    x, y = _grid()
    lips = _lips(expression, x)
    jaw, wonder = _JAW_DROP * max(0.0, expression.surprise), min(max(expression.surprise, 0.0), 1.0)
    chin = np.exp(-((np.abs(x - _MOUTH_X) / 33) ** 4))
    above, below = np.maximum(lips.upper - y, 0), np.maximum(y - lips.lower, 0)
    lift = (lips.upper - lips.upper_photo) * lips.beside + jaw * (chin - lips.beside) * (lips.beside < 1)
    drop = (lips.lower - lips.lower_photo - jaw) * lips.beside * np.exp(-((below / 8) ** 2))
    drop += jaw * chin * (1 - _smoothstep((y - 176 - jaw) / 16))
    # The upper lip hides more of the teeth as the jaw drops: a surprised mouth is dark, an amused one is bright.
    teeth = (lips.lower_photo - lips.upper_photo) * (1 - 0.65 * wonder)
    depth = y - lips.upper
    inside = (depth > 0) & (y < lips.lower)
    dy = np.where(depth <= 0, -lift * np.exp(-((above / 7.5) ** 2)), -drop)
    dy = np.where(inside, np.minimum(depth, np.maximum(teeth - 0.6, 0)) + lips.upper_photo - y, dy)
    widening = lips.t * (_MOUTH_HALF_WIDTH - lips.half_width) * lips.beside
    dx = widening * np.exp(-(((above + below) / 11) ** 2))
    cavity = inside * _smoothstep((depth - teeth + 0.6) / 1.2)
    tongue = cavity * np.exp(-(((lips.lower - y) / (0.25 * lips.gap + 0.5)) ** 2))
    tongue = tongue * (0.3 + 0.7 * lips.arch) * min(lips.gap / 12, 1.0)
    seam = np.exp(-(((y - (lips.upper + lips.lower) / 2) / 0.9) ** 2)) * lips.arch * max(0.0, 1 - lips.gap / 3)
    return _Mouth(dx, dy, cavity, tongue, seam)


class _Lips(NamedTuple):
    """The lips' edges in each column (1, w), photograph pixels: where they go, and where the photograph has them."""

    t: Field  # along the mouth: -1 and 1 are its corners
    arch: Field  # 1 in the middle, 0 at the corners
    beside: Field  # 1 between the corners, falling to 0 beyond them
    upper: Field
    lower: Field
    upper_photo: Field
    lower_photo: Field
    half_width: float
    gap: float


def _lips(expression: Expression, x: Field) -> _Lips:
    smile, sneer, wonder = (float(value) for value in expression)
    half_width = 16.5 + 8.0 * smile - 2.5 * wonder
    t = np.clip((x - _MOUTH_X) / half_width, -1, 1)
    arch = 1 - t**2
    beyond = np.maximum(np.abs(x - _MOUTH_X) - half_width, 0)
    corner_y = 144.8 - 7.5 * smile + 1.0 * sneer + 1.5 * wonder
    middle_y = 144.8 + 0.5 * smile - 4.7 * sneer - 2.0 * wonder
    gap = max(0.0, 0.3 + 4.5 * smile + 2.8 * sneer + 15.0 * wonder)
    upper = corner_y + (middle_y - corner_y) * arch
    lower = upper + gap * arch**0.7
    upper_photo, lower_photo = (
        np.interp(t, *_edge(edge)).astype(np.float32) for edge in (UPPER_LIP_EDGE, LOWER_LIP_EDGE)
    )
    return _Lips(t, arch, np.exp(-((beyond / 10) ** 2)), upper, lower, upper_photo, lower_photo, half_width, gap)


def _edge(points: list[tuple[float, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.array(points).T
    return (x - _MOUTH_X) / _MOUTH_HALF_WIDTH, y


def _smoothstep(x: Field) -> Field:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


@cache
def _bump_fields() -> Field:
    """Return (3, 2, h, w): forward displacement of each emotion at intensity 1, in photograph pixels."""
    x, y = _grid()
    fields = np.zeros((len(_BUMPS), 2, y.size, x.size), np.float32)
    for field, name in zip(fields, Expression._fields, strict=True):
        for bump in _BUMPS[name]:
            weight = gaussian(x, y, (bump.x, bump.y), (bump.sigma_x, bump.sigma_y))
            field += np.array([[[bump.dx]], [[bump.dy]]], np.float32) * weight
    return fields


@cache
def _fade() -> Field:
    """Return 1 in the region of interest, falling to 0 at its edge, so that the face joins the rest of the head."""
    x, y = _grid()
    edge = np.minimum(np.minimum(x - _ROI[0], _ROI[2] - x), np.minimum(y - _ROI[1], _ROI[3] - y))
    return np.asarray(_smoothstep(edge / 8), np.float32)


def _roi_slices() -> tuple[slice, slice]:
    (x0, y0), (x1, y1) = to_canvas(_ROI[:2]), to_canvas(_ROI[2:])
    return slice(round(float(y0)), round(float(y1))), slice(round(float(x0)), round(float(x1)))


@cache
def _grid() -> tuple[Field, Field]:
    """Return x (1, w) and y (h, 1) of the pixels of the region of interest, in photograph pixels."""
    rows, columns = _roi_slices()
    x = _ROI[0] + np.arange(columns.stop - columns.start, dtype=np.float32) / ZOOM
    y = _ROI[1] + np.arange(rows.stop - rows.start, dtype=np.float32) / ZOOM
    return x[None, :], y[:, None]
