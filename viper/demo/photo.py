"""The photograph behind every synthetic face: scikit-image's bundled astronaut, measured by hand.

All coordinates are pixel centres (x, y) of `skimage.data.astronaut()`. The portrait works on a window of it that is
enlarged by `ZOOM`, so that warping twice does not blur what the camera then sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.data import astronaut

from viper.demo.identity import Identity

Image = NDArray[np.uint8]
Field = NDArray[np.floating]  # float32 throughout: twice as fast

WINDOW = (94, 0, 354, 276)  # x0, y0, x1, y1 of the part of the photograph that is used
ZOOM = 1.25

RIGHT_EYE, LEFT_EYE = (202.5, 101.5), (246.5, 103.5)  # the person's right is the viewer's left
NOSE_TIP, CHIN = (223.0, 127.0), (224.0, 178.0)
RIGHT_BROW = [(190.0, 90.0), (197.0, 88.5), (205.0, 90.5), (213.0, 93.0)]
LEFT_BROW = [(238.0, 93.5), (246.0, 92.5), (254.0, 92.5), (262.0, 96.0)]
FACE_CENTRE = (224.0, 122.0)
# The contours of the opened mouth, from the person's right corner to the left one.
UPPER_LIP_EDGE = [
    (202.5, 139.6),
    (206.0, 140.6),
    (210.0, 141.4),
    (214.0, 142.2),
    (218.0, 143.0),
    (222.0, 143.3),
    (226.0, 143.3),
    (230.0, 142.9),
    (234.0, 142.4),
    (238.0, 141.6),
    (242.0, 140.6),
    (245.0, 140.2),
]
LOWER_LIP_EDGE = [
    (202.5, 139.6),
    (206.0, 143.5),
    (210.0, 147.2),
    (214.0, 148.8),
    (218.0, 149.4),
    (222.0, 149.6),
    (226.0, 149.3),
    (230.0, 148.4),
    (234.0, 146.8),
    (238.0, 144.4),
    (242.0, 142.0),
    (245.0, 140.2),
]
LIPS = [
    (202, 139),
    (208, 138.5),
    (216, 139),
    (224, 140),
    (232, 139),
    (240, 139.3),
    (246, 140),
    (240, 145),
    (233, 151),
    (226, 154),
    (217, 153.5),
    (210, 150),
    (205, 144),
]
_FOLDS = (
    [(209, 121), (204, 126.5), (199, 131.5), (196, 136), (196, 139)],
    [(235, 121), (240, 128), (245, 133.5), (249, 138), (249.5, 142)],
)
_WRINKLES: list[list[tuple[float, float]]] = [
    [(218, 102), (231, 102.5)],
    [(216.5, 107), (232.5, 107.5)],
    [(215, 112.5), (234, 113)],
    [(220, 90), (218.5, 98)],
    [(230.5, 91), (232, 99)],
]
_FACE = [
    (187, 71),
    (193, 77),
    (200, 80),
    (210, 79.5),
    (222, 80),
    (236, 80.5),
    (246, 82),
    (256, 87),
    (266, 89),
    (270, 100),
    (271, 116),
    (268, 128),
    (274, 129),
    (276, 133),
    (268, 137),
    (266, 140),
    (263, 152),
    (258, 160),
    (256, 170),
    (255, 192),
    (186, 192),
    (185, 176),
    (186, 160),
    (183, 147),
    (182, 133),
    (174, 130),
    (169, 117),
    (179, 120),
    (180, 100),
    (184, 82),
]
_HEAD = [
    (276, 31),
    (262, 23),
    (248, 18.5),
    (237, 16),
    (227, 16),
    (214, 19),
    (205, 21),
    (189, 35),
    (174, 43),
    (156, 58),
    (153, 68),
    (155, 98),
    (159, 107),
    (170, 116),
    (174, 128),
    (182, 132),
    (184, 147),
    (186, 165),
    (187, 195),
    (254, 195),
    (256, 168),
    (257, 160),
    (265, 146),
    (266, 137),
    (275, 134),
    (290, 117),
    (296, 107),
    (301, 90),
    (296, 58),
    (286, 40),
]
# A plain pullover is drawn over the space suit: the suit's helmet ring would be the same in every identity.
_PULLOVER = [
    (184, 174),
    (187, 180),
    (196, 185.5),
    (208, 187),
    (224, 188.5),
    (238, 190),
    (250, 187),
    (256, 182),
    (258, 176),
    (261, 186),
    (263, 200),
    (285, 211),
    (318, 222),
    (338, 236),
    (350, 262),
    (360, 300),
    (84, 300),
    (92, 258),
    (104, 236),
    (125, 222),
    (160, 211),
    (180, 200),
    (182, 186),
]


@dataclass(frozen=True)
class Portrait:
    """One identity's recoloured, unwarped head three times, each (H, W, 3) of the zoomed window."""

    smooth: Image  # without folds
    creased: Image  # with the smile's folds beside the nose
    wrinkled: Image  # with these, the wrinkles of the nose and the furrow between the brows
    alpha: Image  # (H, W): 255 on the person


def to_canvas(points: ArrayLike) -> Field:
    """Return coordinates of the photograph as coordinates of the zoomed window, (..., 2)."""
    origin = np.array(WINDOW[:2], np.float32)
    return (np.asarray(points, np.float32) - origin + np.float32(0.5)) * np.float32(ZOOM) - np.float32(0.5)


def polygon_mask(points: ArrayLike, feather: float) -> Field:
    """Return (H, W) in [0, 1]: 1 inside the polygon, with an edge blurred by `feather` photograph pixels."""
    mask = np.zeros(_canvas_size(), np.uint8)
    cv2.fillPoly(mask, [np.rint(to_canvas(points) * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    return _blur(mask.astype(np.float32) / 255, feather)


def stroke_mask(points: ArrayLike, width: float, feather: float) -> Field:
    """Return (H, W) in [0, 1]: 1 along a polyline `width` photograph pixels wide."""
    mask = np.zeros(_canvas_size(), np.uint8)
    corners = np.rint(to_canvas(points) * 16).astype(np.int32)
    cv2.polylines(mask, [corners], False, 255, max(1, round(width * ZOOM)), cv2.LINE_AA, shift=4)
    return _blur(mask.astype(np.float32) / 255, feather)


def to_levels(values: NDArray[np.floating]) -> Image:
    """Round to uint8, clipped to [0, 255]."""
    return np.asarray(cv2.convertScaleAbs(np.maximum(values, 0)), np.uint8)


def gaussian(x: Field, y: Field, centre: tuple[float, float], sigma: tuple[float, float]) -> Field:
    """Return (h, w): a Gaussian of height 1, from x (1, w) and y (h, 1).

    It is separable, which saves most exponentials.
    """
    across, down = (x - centre[0]) / sigma[0], (y - centre[1]) / sigma[1]
    return np.exp(-(across**2) / 2) * np.exp(-(down**2) / 2)


@cache
def photograph() -> tuple[Image, Image]:
    """Return the window of the photograph, zoomed, (H, W, 3) uint8 RGB.

    As it is, and without the folds of the smile.
    """
    x0, y0, x1, y1 = WINDOW
    height, width = _canvas_size()
    picture = cv2.resize(astronaut()[y0:y1, x0:x1], (width, height), interpolation=cv2.INTER_CUBIC)
    folds = np.maximum(*[stroke_mask(fold, 6.0, 0.8) for fold in _FOLDS])
    filled = cv2.inpaint(picture, (folds > 0.3).astype(np.uint8), 4, cv2.INPAINT_TELEA)
    filled = cv2.GaussianBlur(filled, (0, 0), 1.5 * ZOOM)
    soft = np.minimum(_blur(folds, 1.5) * 1.2, 1.0)[..., None]
    smooth = picture * (1 - soft) + filled * soft
    return np.asarray(picture, np.uint8), to_levels(smooth)


def portrait(identity: Identity) -> Portrait:
    """Dye the photograph's skin, lips, hair, brows and clothes in an identity's colours."""
    masks = _masks()
    albedo = np.ones((*_canvas_size(), 3), np.float32)
    for part, colour in (("skin", identity.skin), ("lips", identity.lips), ("hair", identity.hair)):
        albedo *= 1 + masks[part][..., None] * (np.array(colour, np.float32) - 1)
    brow = np.float32(identity.brow_darkness) * (0.55 + 0.45 * np.minimum(np.array(identity.hair, np.float32), 1))
    albedo *= 1 - masks["brows"][..., None] * (1 - brow)
    pullover = np.array(identity.clothes, np.float32) * masks["shade"][..., None]

    def dye(picture: Image, shade: Field | float = 1.0) -> Image:
        dyed = picture * albedo * shade
        return to_levels(dyed + masks["clothes"][..., None] * (pullover - dyed))

    creased, smooth = photograph()
    wrinkles = 1 - 0.36 * masks["wrinkles"][..., None]
    return Portrait(dye(smooth), dye(creased), dye(creased, wrinkles), to_levels(masks["person"] * 255))


@cache
def _masks() -> dict[str, Field]:
    """Return what belongs to what, each (H, W) in [0, 1]; `shade` is the light on the pullover."""
    clothes = polygon_mask(_PULLOVER, 0.7)
    face = polygon_mask(_FACE, 1.2)
    head = polygon_mask(_HEAD, 1.0)
    mouth = polygon_mask([*UPPER_LIP_EDGE, *LOWER_LIP_EDGE[::-1]], 0.6)
    eyes = np.maximum(_eye_mask(RIGHT_EYE), _eye_mask(LEFT_EYE))
    height, width = _canvas_size()
    y, x = np.mgrid[:height, :width].astype(np.float32)
    across = (x - to_canvas(CHIN)[0]) / width
    down = (y - to_canvas(CHIN)[1]) / height
    return {
        "skin": face * (1 - mouth) * (1 - eyes),
        "lips": polygon_mask(LIPS, 0.8) * (1 - mouth),
        "hair": head * (1 - face),
        "brows": np.maximum(stroke_mask(RIGHT_BROW, 2.0, 0.7), stroke_mask(LEFT_BROW, 2.0, 0.7)),
        "wrinkles": np.asarray(np.max([stroke_mask(line, 1.4, 1.4) for line in _WRINKLES], axis=0), np.float32),
        "clothes": clothes,
        "shade": (1.0 - 1.1 * across**2 - 0.5 * down + 0.05 * np.sin(x / 4.0)).astype(np.float32),
        # Cut a little inside the outline: the hair's edge still has the studio's grey wall in it.
        "person": np.maximum(np.clip((head - 0.4) / 0.6, 0, 1), clothes),
    }


def _eye_mask(centre: tuple[float, float]) -> Field:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return polygon_mask(np.stack([centre[0] + 9.0 * np.cos(angle), centre[1] + 3.5 * np.sin(angle)], axis=1), 0.8)


def _canvas_size() -> tuple[int, int]:
    x0, y0, x1, y1 = WINDOW
    return round((y1 - y0) * ZOOM), round((x1 - x0) * ZOOM)


def _blur(mask: Field, sigma: float) -> Field:
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), sigma * ZOOM), np.float32)
