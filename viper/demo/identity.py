"""Who is in a clip: the constants of one synthetic person and of the place where they are filmed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Rgb = tuple[float, float, float]

# Albedo of a skin relative to the photograph's, from pale to dark; a person is a point on this line.
_SKIN_LINE = np.array([[1.05, 1.04, 1.05], [0.98, 0.92, 0.86], [0.82, 0.70, 0.60], [0.62, 0.49, 0.41]])
# Albedo of hair relative to the photograph's dark blond.
_HAIR: tuple[Rgb, ...] = (
    (0.24, 0.24, 0.28),
    (0.42, 0.36, 0.34),
    (0.68, 0.56, 0.50),
    (1.00, 1.00, 1.00),
    (1.18, 1.14, 1.12),
    (1.05, 0.66, 0.45),
    (1.10, 1.20, 1.60),
)


@dataclass(frozen=True)
class Identity:
    """One person: geometry and colours of the head, place, light, camera, and voice.

    Lengths are in pixels of the photograph, in which the eyes are 44 px apart; ratios are relative to it.
    """

    name: str
    # the head
    aspect: float  # width of the head, ratio
    eye_spacing: float  # outward shift of each eye, px
    eye_size: float  # ratio
    jaw_width: float  # outward shift of each side of the jaw, px
    chin_length: float  # downward shift of the chin, px
    nose_length: float  # downward shift of the tip, px
    nose_width: float  # ratio
    brow_height: float  # downward shift of the brows, px
    mouth_height: float  # downward shift of the mouth, px
    fringe: float  # downward shift of the hair line, px
    hair_volume: float  # outward shift of the hair's outline, px
    skin: Rgb  # albedo relative to the photograph
    hair: Rgb
    lips: Rgb
    brow_darkness: float  # in [0, 1]
    clothes: Rgb  # in [0, 255]
    mirror: bool
    resting: tuple[float, float, float]  # intensity of Amusement, Disgust, Surprise that the face shows at rest
    # the place and the camera
    background: tuple[Rgb, Rgb]  # colours of the wall, in [0, 255]
    background_seed: int
    gain: float
    gradient: tuple[float, float]  # relative change of the light from the middle to the right and lower edges
    frame_size: tuple[int, int]  # width, height, both even
    position: tuple[float, float]  # of the middle of the face, as a fraction of the frame
    face_scale: float  # frame px per photograph px
    roll: float  # degrees
    motion: float  # amplitude of the slow head motion, px of the frame
    # the voice
    pitch: float  # Hz, at rest
    formant_scale: float  # 1 is an adult male vocal tract; larger is shorter

    @classmethod
    def from_seed(cls, seed: int, name: str | None = None) -> Identity:
        """Return the person number `seed`; equal seeds give equal persons."""
        rng = np.random.default_rng([0x1DE, seed])
        u = rng.uniform
        tone = u(0, len(_SKIN_LINE) - 1)
        skin = [float(np.interp(tone, range(len(_SKIN_LINE)), _SKIN_LINE[:, c]) * u(0.97, 1.03)) for c in range(3)]
        width = 2 * int(rng.integers(84, 113))
        height = 2 * int(rng.integers(max(80, width // 2 - 12), min(112, width // 2 + 12) + 1))
        wall = u(60, 210) + u(-28, 28, size=3)
        formant_scale = u(0.95, 1.15)
        return cls(
            name=name or f"person_{seed:03d}",
            aspect=u(0.92, 1.08),
            eye_spacing=u(-2.0, 2.5),
            eye_size=u(0.88, 1.18),
            jaw_width=u(-5.0, 5.0),
            chin_length=u(-4.0, 5.0),
            nose_length=u(-2.5, 3.0),
            nose_width=u(0.85, 1.25),
            brow_height=u(-1.5, 1.5),
            mouth_height=u(-1.5, 2.0),
            fringe=u(-6.0, 3.0),
            hair_volume=u(-9.0, 9.0),
            skin=(skin[0], skin[1], skin[2]),
            hair=_HAIR[int(rng.integers(len(_HAIR)))],
            lips=(u(0.85, 1.0), u(0.70, 1.0), u(0.72, 1.0)),
            brow_darkness=u(0.35, 0.65),
            clothes=(u(20, 220), u(20, 220), u(20, 220)),
            mirror=bool(rng.integers(2)),
            resting=(u(0.0, 0.08), u(0.0, 0.08), u(0.0, 0.08)),
            background=(_clip_rgb(wall), _clip_rgb(wall * u(0.65, 1.25) + u(-10, 10, size=3))),
            background_seed=int(rng.integers(2**31)),
            gain=u(0.8, 1.15),
            gradient=(u(-0.22, 0.22), u(-0.12, 0.12)),
            frame_size=(width, height),
            position=(u(0.45, 0.55), u(0.51, 0.56)),
            face_scale=u(0.78, 1.02) * min(width, height) / 192,
            roll=u(-6.0, 6.0),
            motion=u(0.6, 2.5),
            pitch=120.0 * formant_scale**2.5 * u(0.93, 1.07),
            formant_scale=formant_scale,
        )


def _clip_rgb(colour: np.ndarray) -> Rgb:
    red, green, blue = np.clip(colour, 25, 200)
    return float(red), float(green), float(blue)
