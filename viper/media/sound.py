"""The sound of a file as mono float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.error import FFmpegError
from av.stream import Disposition

from viper.errors import ClipError, UserError
from viper.logs import log
from viper.media.downmix import Downmix, mix_weights
from viper.media.sound_clock import Findings, Placed, SoundClock
from viper.media.video import MAX_SOUND_SECONDS, SOUND_RATES, open_media, start_seconds

SAMPLE_RATE = 16000
# How sound is read: 1 took the first track and the mean of all channels, and closed up gaps.
SOUND_READ_AS = 2
# Formats whose sound has no clock but the number of its samples: FFmpeg reckons its time stamps from bytes, and from an
# entry of the header that is often wrong.
_WITHOUT_CLOCK = {"avi", "wav", "w64", "flac", "mp3", "aac", "aiff"}
# Tracks that are not, or not only, what was heard where the pictures were taken.
_SPECIAL = ("comment", "dub", "karaoke", "hearing_impaired", "visual_impaired", "clean_effects", "dependent")
_SHOWN = ("default", "original", *_SPECIAL)


@dataclass(frozen=True)
class SoundRule:
    """How the sound of a file is read.

    Attributes
    ----------
    track : which of its sound tracks, from 1; None: the one that is flagged as default, or else FFmpeg's choice.
    """

    track: int | None = None

    def __post_init__(self) -> None:
        if self.track is not None and (type(self.track) is not int or self.track < 1):
            raise UserError(f"--sound_track {self.track}: must be a whole number from 1")

    def record(self) -> dict[str, Any]:
        """Return it as encoder.json keeps it."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SoundRule:
        """Return what `record` gave; a UserError for anything else."""
        if record.keys() != {"track"}:
            raise UserError(f"sound was read in a way that this version of viper does not know ({dict(record)})")
        return cls(record["track"])


ANY_TRACK = SoundRule()


@dataclass(frozen=True)
class Sound:
    """`samples` (n,) float32 mono at `rate`; `start` is the second of the file at which they begin."""

    samples: np.ndarray
    rate: int
    start: float


def read_sound(path: Path, rate: int = SAMPLE_RATE, rule: SoundRule = ANY_TRACK) -> Sound | None:
    """Decode a sound track of a file, mix it to mono and resample it; None where there is no sound.

    It lasts as long as its time stamps say: where packets are missing or cannot be decoded there is silence, see
    `viper.media.sound_clock.SoundClock`. Two channels become their mean or, where that would be next to nothing because
    one is the other upside down, the first; more become the mix of `viper.media.downmix`. Values that are not numbers
    become silence. The log says what was found and chosen.

    Raises ClipError when the file cannot be opened, lacks the track of the rule, when nothing of its sound can be
    decoded, and beyond the limits on length and rate.
    """
    with open_media(path) as container:
        if not container.streams.audio:
            return None
        stream, notes = _track(container, rule, path.name)
        clock: SoundClock[AudioFrame] = SoundClock(
            None if container.duration is None else container.duration / av.time_base, MAX_SOUND_SECONDS
        )
        mono = _Mono(path.name, rate)
        errors: list[str] = []
        start = start_seconds(container)
        has_clock = _WITHOUT_CLOCK.isdisjoint(container.format.name.split(","))
        for number, frame in enumerate(_decoded(container, stream, errors)):
            time = None if frame.time is None or (number and not has_clock) else frame.time - start
            for placed in clock.add(frame, time, frame.samples / max(1, frame.sample_rate)):
                mono.add(placed, clock.start)
        for placed in clock.finish():
            mono.add(placed, clock.start)
        mono.finish()
    if not mono.n_samples and errors:
        raise ClipError(f"{path.name}: nothing of its sound could be decoded")
    for note in (*notes, *filter(None, errors), *mono.notes, *_said_of(clock.findings)):
        log.info("%s: %s", path.name, note)
    return Sound(np.concatenate(mono.chunks), rate, clock.start) if mono.n_samples else None


def _track(container: av.container.InputContainer, rule: SoundRule, name: str) -> tuple[AudioStream, list[str]]:
    """Return the sound track to read, and which one it is where there are several."""
    tracks = container.streams.audio
    if rule.track is not None and rule.track > len(tracks):
        raise ClipError(f"{name}: has no sound track {rule.track}, only {len(tracks)}")
    # Of a broadcast with several programmes, the sound of the one whose pictures are shown.
    best = container.streams.best("audio", related=container.streams.best("video"))

    def rank(track: AudioStream) -> tuple[bool, ...]:
        flags = _flags(track)
        is_special = any(flag in flags for flag in _SPECIAL)
        is_default, is_original = "default" in flags, "original" in flags
        return track.codec_context is not None, is_default, not is_special, is_original, track is best

    stream = tracks[rule.track - 1] if rule.track else max(tracks, key=rank)
    if stream.codec_context is None:
        raise ClipError(f"{name}: its sound is in a format that FFmpeg cannot decode")
    if len(tracks) == 1:
        return stream, []
    named = (" ".join([str(number), *_described(track)]) for number, track in enumerate(tracks, 1))
    chosen = "" if rule.track else " (--sound_track N reads another)"
    return stream, [f"track {tracks.index(stream) + 1} of its sound tracks {', '.join(named)} is read{chosen}"]


def _flags(track: AudioStream) -> list[str]:
    return [flag for flag in _SHOWN if track.disposition & Disposition[flag]]


def _described(track: AudioStream) -> list[str]:
    language = [track.language] if track.language and track.language != "und" else []
    words = [*language, *(flag.replace("_", " ") for flag in _flags(track))]
    return [f"({' '.join(words)})"] if words else []


def _decoded(container: av.container.InputContainer, stream: AudioStream, errors: list[str]) -> Iterator[AudioFrame]:
    """Return every frame that can be decoded; for each error add what is to be said of it, if anything."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except FFmpegError as error:
            errors.append(f"its sound is cut short ({error}); what came before is kept")
            return
        try:
            frames = packet.decode()
        except FFmpegError:
            errors.append("")
            continue
        yield from (frame for frame in frames if isinstance(frame, AudioFrame))


def _said_of(findings: Findings) -> Iterator[str]:
    if findings.n_gaps:
        yield f"its sound stops {_often(findings.n_gaps)} by its clock; silence of {findings.silence:.2f} s is there"
    if findings.n_beyond:
        yield "its sound's clock jumps beyond the file's end; the sound goes on without a gap"
    if findings.n_back:
        yield f"its sound's clock steps back {_often(findings.n_back)}; the sound goes on without a gap"
    if findings.n_wrong:
        yield f"wrong times of its sound, of {findings.n_wrong} frames, are not followed"
    if findings.cut:
        yield f"its sound is longer than its clock says; {findings.cut:.2f} s are cut out of it, evenly"


def _often(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


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
        self._notes: list[str] = []
        self._name, self._rate, self._mix = name, rate, Downmix()
        self._kind: tuple[str, str, int] | None = None
        self._weights: np.ndarray | None = None
        self._resampler: AudioResampler | None = None
        self._parts: list[np.ndarray] = []  # (n, channels) each, resampled but not mixed yet
        self._n_waiting = 0
        self._n_cut = 0  # samples to leave out of what comes next

    def add(self, placed: Placed[AudioFrame], start: float) -> None:
        """Take a frame, with its place in a file whose sound begins at `start`, in seconds.

        One of another kind than those before (a broadcast's jingle) gets a resampler of its own.
        """
        frame, begin = placed
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        if kind != self._kind or begin is not None:
            self.finish()
            if kind != self._kind:
                self._check(frame)
            if begin is not None:
                self._go_to(round((begin - start) * self._rate))
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
            self._mix_waiting()

    @property
    def notes(self) -> list[str]:
        """What is to be said of its channels."""
        seconds = self._mix.n_upside_down / self._rate
        how = f"for {seconds:.1f} s one of its two channels is the other upside down; only the first is taken there"
        return [*self._notes, how] if seconds else self._notes

    def _check(self, frame: AudioFrame) -> None:
        lowest, highest = SOUND_RATES
        if not lowest <= frame.sample_rate <= highest:
            raise ClipError(
                f"{self._name}: its sound claims {frame.sample_rate:,} samples a second; "
                f"{lowest:,} to {highest:,} are read"
            )
        names = [channel.name for channel in frame.layout.channels]
        self._weights = mix_weights(names)
        if len(names) > 2:
            how = "in no known places; their mean is taken" if self._weights is None else "mixed as ITU-R BS.775 says"
            self._notes.append(f"its {len(names)} channels ({frame.layout.name}) are {how}")

    def _go_to(self, position: int) -> None:
        """Go on at a sample: with silence up to there, or without so many samples of what comes next."""
        self._n_cut = max(0, self.n_samples - position)
        if position > self.n_samples:
            self._append(np.zeros(position - self.n_samples, np.float32))

    def _keep(self, parts: list[AudioFrame]) -> None:
        for part in parts:
            self._parts.append(part.to_ndarray().reshape(-1, part.layout.nb_channels))
            self._n_waiting += part.samples
        # A frame has some hundred: for so few, most of the time would go into calls. A second shows which way up it is.
        if self._n_waiting >= self._rate:
            self._mix_waiting()

    def _mix_waiting(self) -> None:
        if not self._parts:
            return
        channels = np.concatenate(self._parts)
        self._parts, self._n_waiting = [], 0
        if not np.isfinite(channels).all():
            channels = np.nan_to_num(channels, nan=0.0, posinf=0.0, neginf=0.0)
        n_cut = min(self._n_cut, len(channels))
        self._n_cut -= n_cut
        self._append(self._mix(channels[n_cut:], self._weights))

    def _append(self, samples: np.ndarray) -> None:
        self.chunks.append(samples)
        self.n_samples += len(samples)
        if self.n_samples > MAX_SOUND_SECONDS * self._rate:
            raise ClipError(
                f"{self._name}: its sound is longer than {MAX_SOUND_SECONDS // 3600} hours; cut it to clips"
            )
