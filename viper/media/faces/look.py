"""What a person looks like in a frame: the structure of the face, the colours of face, hair and clothes. No weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from viper.media.faces.detect import Detection

# Where the five points go in the aligned face, as shares of its side: eyes, nose, corners of the mouth.
_TEMPLATE = np.array([(0.32, 0.36), (0.68, 0.36), (0.5, 0.56), (0.36, 0.74), (0.64, 0.74)])
_SIDE, _CELLS, _DIRECTIONS = 32, 4, 8
# Of 11 people in real clips, two frames of one person differ by less than .35 in structure and .3 in each colour, those
# of two people by more than .4 in structure and .45 in the clothes (in 19 of 20 pairs each). Both must agree.
SAME_STRUCTURE = 0.40
SAME_COLOURS = 0.40
# Bins of lightness and of the two colour axes of CIE Lab.
_BINS = (8, 12, 12)
_PATCH = 24
# Face, hair and clothes, as (left, top, right, bottom) in sizes of the face's box from its left upper corner.
_FACE = (0.15, 0.1, 0.85, 0.9)
_HAIR = (-0.3, -0.4, 1.3, 0.15)
_CLOTHES = (-0.5, 1.1, 1.5, 2.0)
_FEWEST_PIXELS = 16


@dataclass(frozen=True)
class Look:
    """A person's look, or the mean of several: the parts are vectors of length 1, and None where they are not seen.

    Attributes
    ----------
    structure : directions of edges in the face, aligned by its five points: its size, place and roll do not matter.
    colours : histograms of the colours of face, hair and clothes.
    """

    structure: np.ndarray
    colours: tuple[np.ndarray | None, ...]

    def difference(self, other: Look) -> tuple[float, float]:
        """Return how far two looks are apart in structure and in colours, each in [0, 1].

        Of the colours that both have the largest counts: one person's face and clothes are both alike.
        """
        shared = [
            _apart(a, b) for a, b in zip(self.colours, other.colours, strict=True) if not (a is None or b is None)
        ]
        return _apart(self.structure, other.structure), max(shared, default=0.0)

    def agrees(self, other: Look) -> bool:
        """Return whether two looks are one person's by themselves, wherever they are seen: alike in both respects."""
        structure, colours = self.difference(other)
        return structure <= SAME_STRUCTURE and colours <= SAME_COLOURS

    def contradicts(self, other: Look) -> bool:
        """Return whether two looks cannot be one person's even in one place: unlike in both respects.

        A head that turns changes the structure alone, a light that goes on the colours alone.
        """
        structure, colours = self.difference(other)
        return structure > SAME_STRUCTURE and colours > SAME_COLOURS


def mean_look(one: Look, n: int, other: Look, m: int) -> Look:
    """Return the mean of two looks, which are those of n and of m frames."""
    colours = [_mean(a, n, b, m) for a, b in zip(one.colours, other.colours, strict=True)]
    structure = _mean(one.structure, n, other.structure, m)
    assert structure is not None
    return Look(structure, tuple(colours))


def _mean(one: np.ndarray | None, n: int, other: np.ndarray | None, m: int) -> np.ndarray | None:
    if one is None or other is None:
        return other if one is None else one
    return _unit(n * one + m * other)


def look_of(image: np.ndarray, face: Detection) -> Look:
    """Return the look of a face in an image (H, W, 3) uint8 RGB."""
    return Look(_structure(image, face), tuple(_colours(image, face.box, part) for part in (_FACE, _HAIR, _CLOTHES)))


def colour_histogram(image: np.ndarray) -> np.ndarray:
    """Return (n,) float32 of length 1: square roots of the shares of an image's colours, blurred by half a bin."""
    lab = np.clip(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), (0, 64, 64), (255, 191, 191)).astype(np.uint8)
    shares = np.asarray(cv2.calcHist([lab], [0, 1, 2], None, list(_BINS), [0, 256, 64, 192, 64, 192]), np.float32)
    lightness, across, along = (_blur(n) for n in _BINS)
    shares = (lightness @ shares.reshape(_BINS[0], -1)).reshape(_BINS)
    return _unit(np.sqrt(across @ shares @ along).ravel())


@cache
def _blur(n: int) -> np.ndarray:
    """Return (n, n) float32: what spreads half of a bin over its neighbours."""
    spread = np.eye(n) / 2 + (np.eye(n, k=1) + np.eye(n, k=-1)) / 4
    spread[0, 0] = spread[-1, -1] = 3 / 4
    return np.asarray(spread, np.float32)


def small_copy(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return an image in a small size, whatever its own; of a large one not every pixel is looked at."""
    step = max(1, min(image.shape[0] // (3 * height), image.shape[1] // (3 * width)))
    return np.asarray(cv2.resize(image[::step, ::step], (width, height), interpolation=cv2.INTER_AREA))


def _colours(image: np.ndarray, box: np.ndarray, part: tuple[float, float, float, float]) -> np.ndarray | None:
    x0, y0, x1, y1 = box.tolist()
    width, height = x1 - x0, y1 - y0
    left, right = (min(max(round(x0 + share * width), 0), image.shape[1]) for share in part[::2])
    top, bottom = (min(max(round(y0 + share * height), 0), image.shape[0]) for share in part[1::2])
    # A close-up shows a strip of the clothes only; less than a twelfth of what is looked for says nothing.
    wanted = (part[2] - part[0]) * width * (part[3] - part[1]) * height
    if max(right - left, 0) * max(bottom - top, 0) < max(_FEWEST_PIXELS, wanted / 12):
        return None
    return colour_histogram(small_copy(image[top:bottom, left:right], _PATCH, _PATCH))


def _structure(image: np.ndarray, face: Detection) -> np.ndarray:
    """Return a HOG of 4 x 4 cells of the aligned face, each cell normalised: what light and contrast do not change."""
    aligned = _aligned(image, face.landmarks)
    across, down = cv2.Sobel(aligned, cv2.CV_32F, 1, 0), cv2.Sobel(aligned, cv2.CV_32F, 0, 1)
    strength, angle = cv2.cartToPolar(across, down)
    place = angle * (_DIRECTIONS / (2 * np.pi))
    lower = np.floor(place).astype(int)
    share = place - lower
    cell = _SIDE // _CELLS
    number = np.arange(_SIDE) // cell
    cells = (number[:, None] * _CELLS + number) * _DIRECTIONS
    counts = np.zeros(_CELLS * _CELLS * _DIRECTIONS, np.float64)
    for direction, weight in ((lower, 1 - share), (lower + 1, share)):
        counts += np.bincount((cells + direction % _DIRECTIONS).ravel(), (strength * weight).ravel(), len(counts))
    histogram = counts.reshape(-1, _DIRECTIONS)
    norms = np.linalg.norm(histogram, axis=1, keepdims=True)
    return _unit((histogram / (norms + 0.3 * norms.mean() + 1e-6)).ravel().astype(np.float32))


def _aligned(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the face (32, 32) float32 in grey, brought to the template by the similarity of least squares."""
    low, high = points.min(axis=0), points.max(axis=0)
    reach = float(max(high - low)) + 4
    left, top = np.maximum(np.floor(low - reach), 0).astype(int)
    right, bottom = np.ceil(high + reach).astype(int)
    patch = image[top : max(bottom, top + 1), left : max(right, left + 1)]
    if not patch.size:
        return np.zeros((_SIDE, _SIDE), np.float32)
    grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY)
    points = points - (left, top)
    # warpAffine skips pixels where it shrinks by more than 2; the points take up .38 of the template.
    share = min(1.0, 2 * 0.38 * _SIDE / reach)
    if share < 1:
        size = [max(1, round(share * length)) for length in grey.shape[::-1]]
        points = points * size / grey.shape[::-1]
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    matrix = _similarity(points, _TEMPLATE * _SIDE)
    face = cv2.warpAffine(grey, matrix, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    # Blurred as much as an enlarged small face is, so that close-up and long shot are alike.
    return np.asarray(cv2.GaussianBlur(face.astype(np.float32), (0, 0), 0.8))


def _similarity(points: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Return the 2 x 3 rotation, scale and shift that bring `points` nearest to `goals` by least squares.

    What scikit-image's SimilarityTransform answers, in a sixth of the time: every face of a crowd needs one.
    """
    centre, goal = points.mean(axis=0), goals.mean(axis=0)
    x, y = (points - centre).T
    u, v = (goals - goal).T
    scale = max(float(x @ x + y @ y), 1e-9)
    a, b = float(x @ u + y @ v) / scale, float(x @ v - y @ u) / scale
    turn = np.array([[a, -b], [b, a]])
    return np.concatenate([turn, (goal - turn @ centre)[:, None]], axis=1)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(max(0.0, 1.0 - float(one @ other))))
