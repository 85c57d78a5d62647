"""The sound of a file as mono float32."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.audio.resampler import AudioResampler
from av.error import FFmpegError

from viper.media.video import open_media, start_seconds

log = logging.getLogger("viper")

SAMPLE_RATE = 16000


@dataclass(frozen=True)
class Sound:
    """`samples` (n,) float32 mono at `rate`; `start` is the second of the file at which they begin."""

    samples: np.ndarray
    rate: int
    start: float


def read_sound(path: Path, rate: int = SAMPLE_RATE) -> Sound | None:
    """Decodes a file's first audio stream, mixes it to mono and resamples it; None where there is no sound.

    Raises ClipError when the file cannot be opened. What cannot be decoded is left out; values that are not numbers
    become silence.
    """
    chunks: list[np.ndarray] = []  # each (channels, samples)
    with open_media(path) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        # The channels stay apart here: FFmpeg's own mix to mono is louder than their mean.
        resampler = AudioResampler(format="fltp", rate=rate)
        start: float | None = None
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except FFmpegError:
                    continue
                for frame in frames:
                    if start is None:
                        start = max(0.0, (frame.time or 0.0) - start_seconds(container))
                    chunks.extend(part.to_ndarray() for part in resampler.resample(frame))
        except FFmpegError as error:
            log.info("%s: its sound is cut short (%s); what came before is kept", path.name, error)
        if start is not None:
            chunks.extend(part.to_ndarray() for part in resampler.resample(None))
    if not sum(chunk.shape[1] for chunk in chunks):
        return None
    channels = np.nan_to_num(np.concatenate(chunks, axis=1), nan=0.0, posinf=0.0, neginf=0.0)
    samples = channels.mean(axis=0, dtype=np.float32)
    return Sound(samples, rate, start or 0.0)
