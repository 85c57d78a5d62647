"""Frames of a synthetic person: the warped photograph, in its place, under its light."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from viper.demo import photo
from viper.demo.expression import Expression, express
from viper.demo.identity import Identity
from viper.demo.photo import Field, to_canvas

_NOISE = 1.2  # standard deviation of the camera's noise, in levels of 255


def render_frames(
    identity: Identity, expressions: ArrayLike, fps: float, rng: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    """Film an identity.

    Parameters
    ----------
    expressions
        (T, 3): amusement, disgust and surprise of each frame, about [0, 1].
    rng
        draws the head motion and the camera's noise.

    Yields
    ------
    (H, W, 3) uint8 RGB frames; (W, H) is `identity.frame_size`.
    """
    portrait = photo.portrait(identity)
    shape = _shape_map(identity)
    light = _light(identity)
    wall = _wall(identity) * light[..., None]
    phase, tempo = rng.uniform(0, 2 * np.pi, 4), rng.uniform(0.15, 0.45, 4)
    for index, row in enumerate(np.asarray(expressions, np.float64).reshape(-1, 3)):
        sway = np.sin(phase + 2 * np.pi * tempo * index / fps)
        head = express(portrait, Expression(*(row + identity.resting).tolist()))
        camera = _camera(identity, sway)
        map_x, map_y = (
            cv2.warpAffine(axis, camera, identity.frame_size, borderMode=cv2.BORDER_REPLICATE) for axis in shape
        )
        person = cv2.remap(head, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        alpha = cv2.remap(portrait.alpha, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        opacity = alpha * np.float32(1 / 255)
        noise = np.multiply(rng.standard_normal(alpha.shape, dtype=np.float32), np.float32(_NOISE))
        scene = person * cv2.merge([opacity * light] * 3)
        scene += wall * cv2.merge([1 - opacity] * 3)
        scene += cv2.merge([noise] * 3)
        yield photo.to_levels(scene)


def _camera(identity: Identity, sway: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (2, 3) affine map of the zoomed photograph to the frame.

    `sway` (4,) in [-1, 1]: right, down, roll, nearer.
    """
    width, height = identity.frame_size
    scale = identity.face_scale * (1 + 0.006 * identity.motion * sway[3]) / photo.ZOOM
    angle = identity.roll + 0.7 * identity.motion * sway[2]
    x, y = (float(v) for v in to_canvas(photo.FACE_CENTRE))
    camera = np.asarray(cv2.getRotationMatrix2D((x, y), angle, scale), np.float64)
    target = np.array(identity.position) * (width, height) + identity.motion * sway[:2]
    camera[:, 2] += target - np.array([x, y])
    if identity.mirror:
        camera[0] = (0, 0, width - 1) - camera[0]
    return camera


def _shape_map(identity: Identity) -> tuple[Field, Field]:
    """Return x and y (H, W): for each pixel of the identity's head, its place in the zoomed photograph.

    Eyes, nose, jaw, chin, hair line ... are moved by Gaussian bumps, the whole is then made wider or narrower.
    """
    x0, y0, x1, y1 = photo.WINDOW
    middle = photo.FACE_CENTRE[0]
    x = x0 + (np.arange(round((x1 - x0) * photo.ZOOM), dtype=np.float32) + 0.5) / photo.ZOOM - 0.5
    y = y0 + (np.arange(round((y1 - y0) * photo.ZOOM), dtype=np.float32) + 0.5) / photo.ZOOM - 0.5
    x, y = (middle + (x - middle) / identity.aspect)[None, :], y[:, None]
    moved_x, moved_y = np.zeros((y.size, x.size), np.float32), np.zeros((y.size, x.size), np.float32)

    def bump(centre: tuple[float, float], shift: tuple[float, float], sigma: tuple[float, float]) -> None:
        weight = photo.gaussian(x, y, centre, sigma)
        moved_x[...] += weight * shift[0]
        moved_y[...] += weight * shift[1]

    def magnify(centre: tuple[float, float], ratio: float, sigma: tuple[float, float]) -> None:
        weight = photo.gaussian(x, y, centre, sigma) * (1 - 1 / ratio)
        moved_x[...] += weight * (x - centre[0])
        moved_y[...] += weight * (y - centre[1])

    for side, eye, jaw, temple in (
        (-1, photo.RIGHT_EYE, (184, 156), (160, 75)),
        (1, photo.LEFT_EYE, (263, 156), (294, 80)),
    ):
        bump(eye, (side * identity.eye_spacing, 0), (13, 11))
        magnify(eye, identity.eye_size, (11, 7))
        bump((eye[0], eye[1] - 12), (0, identity.brow_height), (14, 6))
        bump(jaw, (side * identity.jaw_width, 0), (14, 17))
        bump(temple, (side * identity.hair_volume, 0), (22, 32))
    bump(photo.NOSE_TIP, (0, identity.nose_length), (12, 10))
    magnify(photo.NOSE_TIP, identity.nose_width, (11, 8))
    bump((224, 145), (0, identity.mouth_height), (24, 9))
    bump(photo.CHIN, (0, identity.chin_length), (26, 15))
    bump((226, 78), (0, identity.fringe), (40, 7))
    bump((228, 22), (0, -0.8 * identity.hair_volume), (50, 18))
    seen = to_canvas(np.stack([x - moved_x, y - moved_y], axis=-1))
    return np.ascontiguousarray(seen[..., 0]), np.ascontiguousarray(seen[..., 1])


def _wall(identity: Identity) -> Field:
    """Return (H, W, 3): what is behind the head, a wall with a few blurred panels."""
    rng = np.random.default_rng(identity.background_seed)
    width, height = identity.frame_size
    start, end = (np.array(colour, np.float32) for colour in identity.background)
    blend = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    wall = np.broadcast_to(start + blend * (end - start), (height, width, 3)).copy()
    for _ in range(int(rng.integers(2, 6))):
        left, top = int(rng.integers(-20, width)), int(rng.integers(-20, height))
        corner = (left + int(rng.integers(15, 80)), top + int(rng.integers(30, 160)))
        colour = np.clip(start * rng.uniform(0.5, 1.35) + rng.uniform(-30, 30, 3), 10, 240)
        cv2.rectangle(wall, (left, top), corner, [float(c) for c in colour], -1)
    return np.asarray(cv2.GaussianBlur(wall, (0, 0), float(rng.uniform(2, 6))), np.float32)


def _light(identity: Identity) -> Field:
    """Return (H, W): factor of the light at each pixel of the frame."""
    width, height = identity.frame_size
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    light = identity.gain * (1 + identity.gradient[0] * x + identity.gradient[1] * y)
    return light.astype(np.float32)
