"""Small inputs of the extract stage: folders of frames and of face crops, sounds, subtitles."""

from __future__ import annotations

import json
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from viper.media.pictures import FACES_FILE, FRAMES_FILE, Frames, frame_name, write_image

RATE = 16000


def pictures(n: int, seed: int = 0, height: int = 48, width: int = 40) -> list[np.ndarray]:
    """Smooth coloured noise, (height, width, 3) uint8: different enough for a model, and JPEG keeps it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 6, 5, 3), dtype=np.uint8)
    return [cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC) for image in coarse]


def in_memory(images: Sequence[np.ndarray], found: Sequence[bool] | None = None) -> Frames:
    """Pictures as an encoder is given them, a tenth of a second apart."""
    found = [True] * len(images) if found is None else found
    return Frames(list(images), np.arange(len(images)) / 10, np.array(found, bool))


def write_frames(folder: Path, images: Sequence[np.ndarray], indices: Sequence[int] | None = None) -> Path:
    """A clip's folder as get_frame writes it, at 10 frames a second."""
    indices = range(len(images)) if indices is None else indices
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in zip(indices, images, strict=True):
        write_image(folder / frame_name(index), image)
    _write_record(folder / FRAMES_FILE, [{"index": index, "time": index / 10} for index in indices])
    return folder


def write_faces(
    folder: Path, images: Sequence[np.ndarray], points: Sequence[np.ndarray | None], crop: Sequence[float] | None = None
) -> Path:
    """A clip's folder as crop_images writes it; `points` (5, 2) in the frame's pixels, None where no face was found.

    `crop` is where the crops were cut out (x0, y0, x1, y1); by default the frame itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for index, (image, own) in enumerate(zip(images, points, strict=True)):
        write_image(folder / frame_name(index), image)
        landmarks = None if own is None else np.asarray(own).tolist()
        square = list(crop or (0, 0, image.shape[1], image.shape[0]))
        records.append(
            {"index": index, "time": index / 10, "found": own is not None, "landmarks": landmarks, "crop": square}
        )
    _write_record(folder / FACES_FILE, records)
    return folder


def _write_record(path: Path, frames: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps({"clip": path.parent.name, "frames": frames}))


def voice(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """A voice-like sound, (n,) float32 in [-1, 1]: harmonics below 3 kHz of a pitch that wanders, loud and soft.

    The same function of time at every rate.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    turn, *offsets = rng.uniform(0, 2 * np.pi, 15)
    speed = 2 * np.pi * rng.uniform(0.5, 1.5)
    # Of a pitch of 150 + 60 sin(speed t + turn) Hz.
    phase = 2 * np.pi * (150 * t - 60 / speed * np.cos(speed * t + turn))
    strengths = rng.uniform(0.3, 1, 13) / np.arange(1, 14)
    wave = sum(strength * np.sin(k * phase + offsets[k]) for k, strength in enumerate(strengths, 1))
    envelope = 0.2 + 0.8 * np.sin(2 * np.pi * 2.5 * t + offsets[0]) ** 2
    return np.asarray(wave * envelope / strengths.sum(), np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """A file of 16-bit PCM; `samples` (n,) mono or (n, channels) float, clipped to [-1, 1]."""
    pcm = np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2")
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if pcm.ndim == 1 else pcm.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.ascontiguousarray(pcm).tobytes())


def write_sound(path: Path, samples: np.ndarray, rate: int, codec: str) -> None:
    """An audio file of any of FFmpeg's formats; `samples` (n,) mono or (2, n) stereo float in [-1, 1]."""
    planes = np.atleast_2d(samples).astype(np.float32)
    layout = "mono" if len(planes) == 1 else "stereo"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        resampler = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes), format="fltp", layout=layout)
        frame.sample_rate = rate
        fifo = av.AudioFifo()
        for part in resampler.resample(frame):
            fifo.write(part)
        size = stream.codec_context.frame_size or 1024
        while (chunk := fifo.read(size, partial=True)) is not None:
            container.mux(stream.encode(chunk))
        container.mux(stream.encode(None))


def write_srt(path: Path, cues: Sequence[tuple[float, float, str]]) -> None:
    """A SubRip file of cues (start, end, text)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = [f"{i}\n{_stamp(start)} --> {_stamp(end)}\n{text}\n" for i, (start, end, text) in enumerate(cues, 1)]
    path.write_text("\n".join(blocks), encoding="utf-8")


def _stamp(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"00:{minutes:02d}:{rest // 1000:02d},{rest % 1000:03d}"
