"""Subtitles inside a video: tracks of text in .mkv and .mp4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
from av.error import FFmpegError
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle

from viper.errors import ClipError
from viper.media.captions.names import NO_LANGUAGE, language_of
from viper.media.captions.timed_text import Timed
from viper.media.video import open_media, start_seconds

# FFmpeg's names of what holds words; others are pictures of words.
_TEXT = ("subrip", "srt", "mov_text", "ass", "ssa", "webvtt", "text")
_MAX_PACKETS = 100_000  # a film has some thousand
_FORCED = 0x40  # of FFmpeg's dispositions


def read_track(path: Path, language: str | None) -> tuple[list[Timed], str]:
    """Return the lines of a video's subtitle track, as SubStation writes them, and what to say of the choice.

    None where it has no track of text, or none in that language. Of several, without a language, the one that is
    marked as default is taken, or the first. ClipError for a file that cannot be opened.
    """
    with open_media(path) as container:
        texts = [stream for stream in container.streams.subtitles if stream.codec_context.name in _TEXT]
        n_pictures = len(container.streams.subtitles) - len(texts)
        stream, note = _chosen(texts, language)
        if stream is None:
            return (
                [],
                f"its {n_pictures} subtitle tracks are pictures of words, which are not read" if n_pictures else note,
            )
        start, cues = start_seconds(container), []
        try:
            for n, packet in enumerate(container.demux(stream)):
                if n >= _MAX_PACKETS:
                    raise ClipError(f"{path.name}: has more than {_MAX_PACKETS} subtitles in a track")
                if packet.size and packet.pts is not None and packet.time_base is not None:
                    begin = float(packet.pts * packet.time_base) - start
                    length = float((packet.duration or 0) * packet.time_base)
                    words = [
                        each.dialogue.decode("utf-8", "replace")
                        for each in packet.decode()
                        if isinstance(each, AssSubtitle)
                    ]
                    lines = [line for text in words for line in text.split(r"\N")]
                    cues.append(
                        Timed(max(0.0, round(begin, 6)), round(begin + length, 6) if length > 0 else None, lines)
                    )
        except (FFmpegError, ValueError) as error:
            raise ClipError(f"{path.name}: its subtitle track cannot be read ({error})") from error
    return cues, note


def _chosen(streams: Sequence[SubtitleStream], language: str | None) -> tuple[SubtitleStream | None, str]:
    wanted = None if language in (None, NO_LANGUAGE) else language_of(str(language)).partition("-")[0]
    spoken = [language_of(stream.language or "") for stream in streams]
    right = [stream for stream, own in zip(streams, spoken, strict=True) if wanted in (None, own.partition("-")[0])]
    if wanted is not None and not right:
        right = [stream for stream, own in zip(streams, spoken, strict=True) if not own]
    if not right:
        return None, f"has subtitle tracks in {', '.join(spoken)}, none in {language}" if streams else ""
    # Those of foreign speech only come last; what is marked as default before the others.
    default = av.stream.Disposition.default
    best = min(right, key=lambda stream: (bool(int(stream.disposition) & _FORCED), not stream.disposition & default))
    note = f"reads the words of its subtitle track {streams.index(best) + 1} of {len(streams)}"
    note += f" ({best.language})" if best.language else ""
    return best, note + (" (--language decides)" if len(right) > 1 else "")


def video_rate(path: Path) -> float | None:
    """Return the frames a second of a video, as its file says; None where it has no video or cannot be opened."""
    try:
        with open_media(path) as container:
            rates = [stream.average_rate for stream in container.streams.video]
    except ClipError:
        return None
    return next((float(rate) for rate in rates if rate), None)
