"""The sound of a file as mono float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.error import FFmpegError

from viper.errors import ClipError
from viper.logs import log
from viper.media.video import MAX_SOUND_SECONDS, SOUND_RATES, open_media, start_seconds

SAMPLE_RATE = 16000


@dataclass(frozen=True)
class Sound:
    """`samples` (n,) float32 mono at `rate`; `start` is the second of the file at which they begin."""

    samples: np.ndarray
    rate: int
    start: float


def read_sound(path: Path, rate: int = SAMPLE_RATE) -> Sound | None:
    """Decode a file's first audio stream, mix it to mono and resample it; None where there is no sound.

    Packets that cannot be decoded are left out; values that are not numbers become silence.

    Raises ClipError when the file cannot be opened, when nothing of its sound can be decoded, and beyond the limits
    on length and rate.
    """
    mono = _Mono(path.name, rate)
    start: float | None = None
    n_errors = 0
    with open_media(path) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise ClipError(f"{path.name}: its sound is in a format that FFmpeg cannot decode")
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except FFmpegError:
                    n_errors += 1
                    continue
                for frame in frames:
                    if start is None:
                        start = max(0.0, (frame.time or 0.0) - start_seconds(container))
                    mono.add(frame)
            mono.finish()
        except FFmpegError as error:
            n_errors += 1
            log.info("%s: its sound is cut short (%s); what came before is kept", path.name, error)
    if not mono.n_samples and n_errors:
        raise ClipError(f"{path.name}: nothing of its sound could be decoded")
    return Sound(np.concatenate(mono.chunks), rate, start or 0.0) if mono.n_samples else None


def resampled(sound: Sound, rate: int) -> Sound:
    """Return the sound at another rate, by FFmpeg's resampler; as it is where it has that rate."""
    if sound.rate == rate or not len(sound.samples):
        return Sound(sound.samples, rate, sound.start)
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(sound.samples[None], np.float32), format="flt", layout="mono")
    frame.sample_rate = sound.rate
    resampler = AudioResampler(format="flt", layout="mono", rate=rate)
    parts = [part.to_ndarray().reshape(-1) for given in (frame, None) for part in resampler.resample(given)]
    return Sound(np.concatenate([np.zeros(0, np.float32), *parts]), rate, sound.start)


class _Mono:
    """Frames of sound of any kind, mixed and resampled as they come: the channels never fill the memory."""

    def __init__(self, name: str, rate: int) -> None:
        self.chunks: list[np.ndarray] = []
        self.n_samples = 0
        self._name, self._rate = name, rate
        self._kind: tuple[str, str, int] | None = None
        self._resampler: AudioResampler | None = None

    def add(self, frame: AudioFrame) -> None:
        """Take a frame; one of another kind than those before (a broadcast's jingle) gets a resampler of its own."""
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        if kind != self._kind:
            lowest, highest = SOUND_RATES
            if not lowest <= frame.sample_rate <= highest:
                raise ClipError(
                    f"{self._name}: its sound claims {frame.sample_rate:,} samples a second; "
                    f"{lowest:,} to {highest:,} are read"
                )
            self.finish()
            # The channels stay apart here: FFmpeg's own mix to mono is louder than their mean. They are interleaved,
            # since PyAV reads beyond the memory of a frame with more than eight planes.
            self._resampler = AudioResampler(format="flt", rate=self._rate)
            self._kind = kind
        assert self._resampler is not None
        self._keep(self._resampler.resample(frame))

    def finish(self) -> None:
        """Take what the resampler still holds."""
        if self._resampler is not None:
            self._keep(self._resampler.resample(None))
            self._resampler = None

    def _keep(self, parts: list[AudioFrame]) -> None:
        for part in parts:
            channels: np.ndarray = part.to_ndarray().reshape(-1, part.layout.nb_channels)
            channels = np.nan_to_num(channels, nan=0.0, posinf=0.0, neginf=0.0)
            self.chunks.append(channels.mean(axis=1, dtype=np.float32))
            self.n_samples += len(channels)
        if self.n_samples > MAX_SOUND_SECONDS * self._rate:
            raise ClipError(
                f"{self._name}: its sound is longer than {MAX_SOUND_SECONDS // 3600} hours; cut it to clips"
            )
