"""Files whose sound is not one even stretch of one or two channels: what is heard, when, and how loud."""

from __future__ import annotations

import logging
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from many import long_test
from tracks import Track, beeps, heard_at, write_tracks

from viper.errors import ClipError, UserError
from viper.inference.reader import ClipReader, PictureSource, source_of
from viper.media.sampling import FrameRule
from viper.media.sound import Sound, SoundRule, read_sound
from viper.store import EncoderInfo, FeatureStore

pytestmark = long_test

RATE = 48000
BEEPS = [0.5, 2.5, 3.5]
SECONDS = 4.5
FORMS = {".ts": "mpegts", ".mpg": "mpeg"}
# Container and codec, and the seconds by which a codec's delay is not told by the container.
KINDS = [
    (".mp4", "aac", 0), (".mp4", "libopus", 0), (".mp4", "libmp3lame", 0), (".mp4", "flac", 0), (".mp4", "ac3", 0.005),
    (".mov", "aac", 0), (".mkv", "aac", 0), (".mkv", "libopus", 0), (".mkv", "flac", 0), (".mkv", "pcm_s16le", 0),
    (".mkv", "vorbis", 0), (".mkv", "libmp3lame", 0), (".webm", "libopus", 0), (".webm", "vorbis", 0),
    (".ts", "aac", 0.021), (".ts", "libmp3lame", 0.023), (".ts", "libopus", 0.006), (".ogg", "libopus", 0),
    (".ogg", "flac", 0), (".ogg", "vorbis", 0), (".flv", "aac", 0.021), (".mpg", "mp2", 0.01), (".m4a", "aac", 0),
]  # fmt: skip
NAMES = [f"{suffix[1:]}_{codec}" for suffix, codec, _ in KINDS]


def heard(path: Path, rule: SoundRule | None = None) -> Sound:
    sound = read_sound(path, rule=rule or SoundRule())
    assert sound is not None
    return sound


def samples_of(codec: str) -> np.ndarray:
    mono = beeps(BEEPS, SECONDS)
    return np.stack([mono, mono]) if codec == "vorbis" else mono


def without(first: float, last: float) -> Callable[[float], float | None]:
    return lambda second: None if first <= second < last else second


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of each kind that lacks its packets from 1.2 to 2.2 s."""
    folder = tmp_path_factory.mktemp("gaps")
    for (suffix, codec, _), name in zip(KINDS, NAMES, strict=True):
        track = Track(samples_of(codec), RATE, codec, stamp=without(1.2, 2.2))
        video = 0 if suffix in (".ogg", ".m4a", ".flv") else SECONDS
        write_tracks(folder / f"{name}{suffix}", track, seconds_of_video=video, form=FORMS.get(suffix))
    return folder


@pytest.mark.parametrize(("suffix", "codec", "delay"), KINDS, ids=NAMES)
def test_what_follows_a_gap_is_heard_when_it_was(gaps: Path, suffix: str, codec: str, delay: float) -> None:
    sound = heard(gaps / f"{suffix[1:]}_{codec}{suffix}")
    assert heard_at(sound) == pytest.approx([second + delay for second in BEEPS], abs=0.011)
    assert sound.start + len(sound.samples) / sound.rate == pytest.approx(SECONDS, abs=0.05)
    gap = sound.samples[round(1.4 * sound.rate) : round(2.1 * sound.rate)]
    assert np.abs(gap).max() < 0.01


@pytest.mark.parametrize("name", ["logmel", "acoustic", "speech"])
def test_tokens_have_the_times_of_what_is_heard(gaps: Path, xvector: Path, tmp_path: Path, run: Run, name: str) -> None:
    n = 44  # windows of 0.2 s, 0.1 s apart
    model = xvector if name == "speech" else name
    outcome = run(
        "extract_audio_features", "--input_folder", gaps, "--output_folder", tmp_path, "--model_name", model,
        "--n_fragments", n, "--device", "cpu",
    )  # fmt: skip
    assert outcome.code == 0, outcome.said
    assert outcome.said.count("silence of") == len(KINDS)
    store = FeatureStore.open(tmp_path)
    assert sorted(store.clips()) == sorted(NAMES)
    assert store.info.inputs == {"sound": {"track": None}}
    for clip in store:
        feature = store.read(clip)
        assert feature.mask.all()
        np.testing.assert_allclose(feature.time, SECONDS * np.arange(1, n + 1) / (n + 1), atol=0.06)
        if name == "speech":  # of a network that has learnt nothing the windows' times must do
            continue
        # What differs from the token of silence, which is by far the most frequent, is a beep.
        apart = np.linalg.norm(feature.tokens - np.median(feature.tokens, axis=0), axis=1)
        times = feature.time[apart > apart.max() / 2]
        for second in BEEPS:
            assert np.abs(times - second - 0.05).min() < 0.1, (clip, times)
        assert all(min(abs(time - second - 0.05) for second in BEEPS) < 0.3 for time in times), (clip, times)


def test_pieces_have_the_sound_of_their_time(gaps: Path) -> None:
    rule = SoundRule()
    for name in ("mp4_aac.mp4", "webm_libopus.webm", "ogg_vorbis.ogg"):
        pieces = list(ClipReader([rule]).windows(gaps / name, 1.0, 1.0))
        found = [heard_at(piece.contents[rule]) for piece in pieces]  # type: ignore[arg-type]
        assert found == [[pytest.approx(0.5, abs=0.011)] if k in (0, 2, 3) else [] for k in range(len(pieces))]
        assert len(pieces) == 5


def late(second: float) -> float:
    """Stamps of a track that stops at 1.2 s and goes on two seconds later."""
    return second if second < 1.2 else second + 2.0


def drifting(share: float) -> Callable[[float], float]:
    return lambda second: second * (1 + share)


def jitter(second: float) -> float:
    return second + 0.009 * np.sin(1000 * second)


def wild(second: float) -> float:
    return second + 5 * 3600 * (1.5 <= second < 1.52)


@pytest.mark.parametrize(("seconds_of_video", "ends"), [(2.0, 4.0), (0.04, 4.0), (3.8, 3.8)])
def test_pieces_go_on_with_the_sound_behind_the_last_picture(
    tmp_path: Path, seconds_of_video: float, ends: float
) -> None:
    """A picture that is held, or a recording whose pictures stop early; not for less than half a piece of sound."""
    path = write_tracks(tmp_path / "clip.mp4", Track(beeps(BEEPS, 4.0), RATE, "aac"), seconds_of_video=seconds_of_video)
    heard_in, pictures = SoundRule(), PictureSource(FrameRule("uniform", 2), None)
    pieces = list(ClipReader([heard_in, pictures], "cpu").windows(path, 1.0, 1.0))
    assert [piece.start for piece in pieces] == [0, 1, 2, 3]
    assert pieces[-1].end == pytest.approx(ends, abs=0.05)
    sounds = [piece.contents[heard_in] for piece in pieces]
    assert [heard_at(sound) for sound in sounds if isinstance(sound, Sound)] == [[0.5], [], [0.5], [0.5]]
    has_pictures = [not isinstance(piece.contents[pictures], ClipError) for piece in pieces]
    assert has_pictures == [piece.start < seconds_of_video for piece in pieces]


def sparse(second: float) -> float | None:
    """Discontinuous transmission: a packet of comfort noise every 0.4 s."""
    return second if second % 1 < 0.7 or round(second * 50) % 20 == 0 else None


STAMPS: dict[str, tuple[Callable[[float], float | None], list[float]]] = {
    "a late restart": (late, [0.5, 4.5, 5.5]),
    "sparse packets": (sparse, BEEPS),
    "a clock 2 % fast": (drifting(0.02), [0.51, 2.55, 3.57]),
    "a clock 2 % slow": (drifting(-0.02), [0.49, 2.45, 3.43]),
    "a millisecond a second": (drifting(0.001), BEEPS),
    "jitter": (jitter, BEEPS),
    "one packet of another day": (wild, BEEPS),
    "no gap above 50 ms": (without(1.2, 1.24), BEEPS),
    "many gaps": (lambda second: None if second % 1 > 0.9 or 0.7 < second % 1 < 0.8 else second, BEEPS),
    "begins late": (lambda second: second + 1.0, [1.5, 3.5, 4.5]),
    "begins before 0": (lambda second: second - 0.3, [0.5, 2.5, 3.5]),
}


@pytest.mark.parametrize("name", STAMPS)
@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_stamps_are_followed_where_they_agree(name: str, suffix: str, tmp_path: Path) -> None:
    stamp, expected = STAMPS[name]
    if (name, suffix) == ("begins before 0", ".ts"):
        pytest.skip("the muxer does not take times before 0")
    path = write_tracks(
        tmp_path / f"clip{suffix}", Track(beeps(BEEPS, SECONDS), RATE, "libopus" if suffix == ".mkv" else "mp2",
        stamp=stamp), seconds_of_video=SECONDS, form=FORMS.get(suffix),
    )  # fmt: skip
    sound = heard(path)
    found = heard_at(sound)
    # A clock that is off is followed by 50 ms at a time, which may fall into a beep and make two of it.
    assert all(min(abs(time - second) for time in found) < 0.06 for second in expected), found
    assert all(min(abs(time - second - 0.05) for second in expected) < 0.11 for time in found), found
    if name in ("a millisecond a second", "jitter", "one packet of another day", "begins late"):
        assert len(sound.samples) / sound.rate == pytest.approx(SECONDS, abs=0.03)


def joined(folder: Path, name: str, *parts: Path) -> Path:
    path = folder / name
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def test_a_clock_that_begins_anew_is_counted_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two broadcasts' files, one behind the other; the second lacks a second of its packets."""
    whole, lacking = (
        write_tracks(tmp_path / f"{k}.ts", Track(beeps(BEEPS, SECONDS), RATE, "mp2", stamp=stamp), form="mpegts")
        for k, stamp in enumerate((lambda second: second, without(1.2, 2.2)))
    )
    with caplog.at_level(logging.INFO):
        sound = heard(joined(tmp_path, "both.ts", whole, lacking))
    expected = [*BEEPS, *(SECONDS + second for second in BEEPS)]
    assert heard_at(sound) == pytest.approx(expected, abs=0.06)
    assert "steps back once" in caplog.text
    assert "silence of" in caplog.text


def test_a_clock_beyond_the_limit_of_hours_is_not_followed(tmp_path: Path) -> None:
    for hours, suffix in ((5, ".mkv"), (26, ".mkv"), (5, ".ts")):
        stamp = lambda second: second + hours * 3600 * (second > 1.5)  # noqa: E731, B023
        codec = "mp2" if suffix == ".ts" else "aac"
        path = write_tracks(
            tmp_path / f"{hours}{suffix}", Track(beeps(BEEPS, SECONDS), RATE, codec, stamp=stamp),
            seconds_of_video=SECONDS, form=FORMS.get(suffix),
        )  # fmt: skip
        sound = heard(path)
        assert heard_at(sound) == pytest.approx(BEEPS, abs=0.03)
        assert len(sound.samples) / sound.rate == pytest.approx(SECONDS, abs=0.1)


def test_packets_that_cannot_be_decoded_are_silence(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "clip.mkv", Track(beeps(BEEPS, SECONDS), RATE, "flac"), seconds_of_video=SECONDS)
    content = bytearray(path.read_bytes())
    # The packets around 1.5 s; flac has a checksum in each.
    middle = len(content) // 3
    heads = [k for k in range(middle, middle + 4000) if content[k : k + 2] == b"\xff\xf8"]
    for head in heads:
        content[head : head + 2] = b"\0\0"
    assert heads
    path.write_bytes(content)
    sound = heard(path)
    assert heard_at(sound)[-1] == pytest.approx(3.5, abs=0.011)
    assert len(sound.samples) / sound.rate == pytest.approx(SECONDS, abs=0.01)


def track(second: float, language: str = "", *flags: str, codec: str = "aac") -> Track:
    """A track whose beep says which it is."""
    return Track(beeps([second], 2.0), RATE, codec, language=language, flags=flags)


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "aac"), (".mkv", "libopus"), (".mp4", "aac"), (".mov", "aac")])
@pytest.mark.parametrize(
    ("others", "read"),
    [
        ([("eng", "comment"), ("eng", "default")], 2),
        ([("deu",), ("eng", "default"), ("eng", "comment")], 2),
        ([("eng", "default", "visual_impaired"), ("eng", "default")], 2),
        ([("eng", "default", "dub"), ("jpn", "default", "original")], 2),
        ([("eng",), ("deu",)], 1),
        ([("eng", "default"), ("deu",)], 1),
    ],
)  # fmt: skip
def test_the_default_track_is_read(
    suffix: str, codec: str, others: list[tuple[str, ...]], read: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if suffix != ".mkv" and any(flag in ("comment", "visual_impaired", "dub") for flags in others for flag in flags):
        pytest.skip("this container keeps no such flags")
    tracks = [track(0.3 * k, language, *flags, codec=codec) for k, (language, *flags) in enumerate(others, 1)]
    path = write_tracks(tmp_path / f"clip{suffix}", *tracks, seconds_of_video=2)
    with caplog.at_level(logging.INFO):
        sound = heard(path)
    assert heard_at(sound) == [pytest.approx(0.3 * read, abs=0.011)]
    (line,) = caplog.messages
    assert line.startswith(f"clip{suffix}: track {read} of its sound tracks 1 (")
    assert "--sound_track" in line
    for number in range(1, len(tracks) + 1):
        assert heard_at(heard(path, SoundRule(number))) == [pytest.approx(0.3 * number, abs=0.011)]
    with pytest.raises(ClipError, match=f"has no sound track 4, only {len(tracks)}"):
        read_sound(path, rule=SoundRule(4))


def test_the_track_asked_for_is_read_recorded_and_makes_features_anew(tmp_path: Path, run: Run) -> None:
    write_tracks(tmp_path / "videos.mkv", track(0.3, "eng"), track(1.5, "deu"), seconds_of_video=2)
    (tmp_path / "in").mkdir()
    (tmp_path / "videos.mkv").rename(tmp_path / "in" / "clip.mkv")
    write_tracks(tmp_path / "in" / "one.mkv", track(0.3), seconds_of_video=2)
    arguments = ("--input_folder", tmp_path / "in", "--output_folder", tmp_path / "out", "--model_name", "logmel",
                 "--n_fragments", 19)  # fmt: skip

    def loudest() -> float:
        feature = FeatureStore.open(tmp_path / "out").read("clip")
        return float(feature.time[feature.tokens.mean(axis=1).argmax()])

    assert run("extract_audio_features", *arguments).code == 0
    assert loudest() == pytest.approx(0.35, abs=0.1)
    outcome = run("extract_audio_features", *arguments, "--sound_track", 2)
    assert outcome.code == 3
    assert "one.mkv: has no sound track 2, only 1" in outcome.said
    assert loudest() == pytest.approx(1.55, abs=0.1)
    assert FeatureStore.open(tmp_path / "out").info.inputs == {"sound": {"track": 2}}
    with pytest.raises(UserError, match="--sound_track 0"):
        SoundRule(0)


def test_a_checkpoint_says_how_the_sound_was_read() -> None:
    def info(**inputs: Any) -> EncoderInfo:
        return EncoderInfo("logmel", "audio", 192, source="sound", inputs=inputs)

    assert source_of(info()) == (SoundRule(), True)  # of before there was a choice
    assert source_of(info(sound={"track": None})) == (SoundRule(), True)
    assert source_of(info(sound={"track": 2})) == (SoundRule(2), True)
    for record in (5, {}, {"track": "x"}, {"track": True}, {"track": -1}, {"track": 1, "more": 2}, [1]):
        with pytest.raises(UserError):
            source_of(info(sound=record))


def test_far_too_loud_and_no_numbers_are_read(tmp_path: Path) -> None:
    samples = np.zeros((2, RATE), np.float32)
    samples[:, ::3], samples[:, 1::3], samples[0, 2::3] = 1e30, -3e38, np.nan
    sound = heard(write_tracks(tmp_path / "loud.wav", Track(samples, RATE, "pcm_f32le")))
    assert len(sound.samples) == pytest.approx(16000, abs=20)


LAYOUTS = {
    "5.1": ("FL", "FR", "FC", "LFE", "BL", "BR"), "5.1(side)": ("FL", "FR", "FC", "LFE", "SL", "SR"),
    "5.0": ("FL", "FR", "FC", "BL", "BR"), "3.0": ("FL", "FR", "FC"), "2.1": ("FL", "FR", "LFE"),
    "quad": ("FL", "FR", "BL", "BR"), "4.0": ("FL", "FR", "FC", "BC"),
    "6.1": ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    "7.1": ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"), "stereo": ("FL", "FR"), "mono": ("FC",),
}  # fmt: skip
BS775 = {"FL": 0.7071, "FR": 0.7071, "FC": 1, "LFE": 0, "BL": 0.5, "BR": 0.5, "SL": 0.5, "SR": 0.5, "BC": 0.7071}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("suffix", "codec"), [(".wav", "pcm_s16le"), (".flac", "flac"), (".mkv", "flac")])
def test_a_voice_in_any_channel_is_heard_as_loud_as_the_standard_says(
    layout: str, suffix: str, codec: str, tmp_path: Path
) -> None:
    names = LAYOUTS[layout]
    total = sum(BS775[name] for name in names)
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    for place, name in enumerate(names):
        planes = np.zeros((len(names), 8000))
        planes[place] = tone
        path = write_tracks(tmp_path / f"clip{suffix}", Track(planes, 16000, codec, layout))
        loudness = np.sqrt(np.mean(heard(path).samples ** 2)) / np.sqrt(np.mean(tone**2))
        assert loudness == pytest.approx(BS775[name] / total, abs=2e-3), name


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "aac"), (".mkv", "ac3")])
def test_the_centre_of_a_film_is_heard(suffix: str, codec: str, tmp_path: Path) -> None:
    planes = np.zeros((6, RATE))
    planes[2] = beeps([0.4], 1.0)
    planes[3] = 0.5 * np.sin(2 * np.pi * 40 * np.arange(RATE) / RATE)
    path = write_tracks(tmp_path / f"clip{suffix}", Track(planes, RATE, codec, "5.1"), seconds_of_video=1)
    assert heard_at(heard(path)) == [pytest.approx(0.4, abs=0.011)]


def test_channels_that_change_on_the_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A broadcast: stereo, then 5.1 with the voice in the centre."""
    mono = beeps([0.5, 1.0], 1.5)
    surround = np.zeros((6, len(mono)))
    surround[2], surround[3] = mono, 0.9 * mono
    parts = (
        write_tracks(tmp_path / f"{len(planes)}.ts", Track(planes, RATE, "ac3", layout), form="mpegts")
        for planes, layout in ((np.stack([mono, mono]), "stereo"), (surround, "5.1"))
    )
    with caplog.at_level(logging.INFO):
        sound = heard(joined(tmp_path, "both.ts", *parts))
    assert heard_at(sound) == pytest.approx([0.5, 1.0, 2.0, 2.5], abs=0.05)
    loud = [np.abs(sound.samples[round(second * sound.rate) :][:800]).max() for second in (0.53, 2.05)]
    assert loud == [pytest.approx(0.5, rel=0.1), pytest.approx(0.5 / 3.4142, rel=0.1)]
    assert "its 6 channels" in caplog.text


def test_channels_in_no_known_places_are_their_mean(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with wave.open(str(tmp_path / "six.wav"), "wb") as file:
        file.setnchannels(6)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.tile(np.arange(0, 6000, 1000, "<i2"), 16000).tobytes())
    with caplog.at_level(logging.INFO):
        np.testing.assert_allclose(heard(tmp_path / "six.wav").samples, 2500 / 32768, atol=1e-5)
    assert "their mean is taken" in caplog.text


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".wav", "pcm_s16le"), (".mp4", "aac"), (".mp4", "libmp3lame"), (".webm", "libopus"), (".mkv", "vorbis")],
)
def test_a_channel_upside_down_does_not_mute_the_other(
    suffix: str, codec: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left, noise = beeps(BEEPS, SECONDS), np.random.default_rng(0).normal(0, 0.02, round(SECONDS * RATE))
    cases = {
        "opposite": (-left, left), "fainter": (-0.5 * left, left), "noisy": (-left + noise, left),
        "same": (left, left), "silent": (0 * left, left / 2), "unlike": (noise, left / 2),
    }  # fmt: skip
    for name, (right, expected) in cases.items():
        caplog.clear()
        path = write_tracks(tmp_path / f"{name}{suffix}", Track(np.stack([left, right]), RATE, codec))
        with caplog.at_level(logging.INFO):
            sound = heard(path)
        assert heard_at(sound) == pytest.approx(BEEPS, abs=0.011), name
        power = np.sqrt(np.mean(sound.samples**2) / np.mean(expected**2))
        assert power == pytest.approx(1, abs=0.1), name
        assert ("upside down" in caplog.text) == (name in ("opposite", "fainter", "noisy")), name


def test_a_channel_that_is_upside_down_for_a_while(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two recordings cut together, of which one had a wrong cable."""
    left = beeps([0.5, 1.5, 2.5, 4.5, 6.5, 7.5], 9.0)
    side = np.where(np.arange(len(left)) < 4.0 * RATE, 1, -1)
    path = write_tracks(tmp_path / "clip.mp4", Track(np.stack([left, left * side]), RATE, "aac"))
    with caplog.at_level(logging.INFO):
        sound = heard(path)
    assert heard_at(sound) == pytest.approx([0.5, 1.5, 2.5, 4.5, 6.5, 7.5], abs=0.011)
    assert np.sqrt(np.mean(sound.samples**2) / np.mean(left**2)) == pytest.approx(1, abs=0.03)
    assert "upside down" in caplog.text


FORMATS = [
    (".wav", "pcm_u8"), (".wav", "pcm_s16le"), (".wav", "pcm_s24le"), (".wav", "pcm_s32le"), (".wav", "pcm_f32le"),
    (".wav", "pcm_f64le"), (".wav", "pcm_alaw"), (".wav", "pcm_mulaw"), (".aiff", "pcm_s16be"), (".flac", "flac"),
    (".mkv", "pcm_s24le"), (".mov", "pcm_s24le"), (".m4a", "alac"), (".m4a", "aac"), (".mp3", "libmp3lame"),
    (".ogg", "libvorbis"), (".ogg", "vorbis"), (".opus", "libopus"), (".w64", "pcm_s16le"), (".aac", "aac"),
    (".avi", "pcm_s16le"), (".wma", "wmav2"),
]  # fmt: skip


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000])
def test_every_rate_and_format_gives_the_same_sound(rate: int, tmp_path: Path) -> None:
    n_read = 0
    for suffix, codec in FORMATS:
        tone = (0.4 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)
        planes = np.stack([tone, tone])
        path = tmp_path / f"{codec}{suffix}"
        try:
            write_tracks(path, Track(planes, rate, codec))
        except (ValueError, OSError):  # not every codec takes every rate
            continue
        sound = heard(path)
        assert len(sound.samples) / sound.rate == pytest.approx(1, abs=0.3), (path.name, len(sound.samples))
        assert sound.start == pytest.approx(0, abs=1e-3)
        middle = sound.samples[3200:12800]
        assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.4 / 2**0.5, rel=0.06), path.name  # LAME takes 5 %
        assert np.abs(np.fft.rfft(middle)).argmax() == pytest.approx(440 * 9600 / 16000, abs=1), path.name
        n_read += 1
    assert n_read >= 10


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 32000, 44100, 48000])
def test_sound_comes_at_the_rate_that_is_asked_for(gaps: Path, rate: int) -> None:
    sound = read_sound(gaps / "mp4_aac.mp4", rate)
    assert sound is not None
    assert (sound.rate, len(sound.samples) / rate) == (rate, pytest.approx(SECONDS, abs=0.01))
    begins = np.flatnonzero(np.abs(sound.samples) > 0.1) / rate
    assert [float(begins[begins > second - 0.1][0]) for second in BEEPS] == pytest.approx(BEEPS, abs=0.011)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".mov", ".ts"])
def test_sound_and_pictures_of_different_lengths(suffix: str, tmp_path: Path) -> None:
    codec = "libopus" if suffix == ".webm" else "mp2" if suffix == ".ts" else "aac"

    def written(seconds_of_video: float, start: float = 0.0) -> Path:
        track = Track(beeps(BEEPS, SECONDS), RATE, codec, stamp=lambda second: second + start)
        return write_tracks(tmp_path / f"c{suffix}", track, seconds_of_video=seconds_of_video, form=FORMS.get(suffix))

    for seconds, start in ((2.0, 0.0), (8.0, 0.0), (SECONDS, 1.5), (2.0, 3.0)):
        sound = heard(written(seconds, start))
        assert sound.start == pytest.approx(start, abs=0.08)
        assert heard_at(sound) == pytest.approx([second + start for second in BEEPS], abs=0.08)
        assert sound.start + len(sound.samples) / sound.rate == pytest.approx(SECONDS + start, abs=0.08)


def test_a_file_without_a_sample_is_masked(tmp_path: Path, run: Run) -> None:
    (tmp_path / "in").mkdir()
    with wave.open(str(tmp_path / "in" / "none.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
    write_tracks(tmp_path / "in" / "pictures.mp4", seconds_of_video=1)
    outcome = run("extract_audio_features", "--input_folder", tmp_path / "in", "--output_folder", tmp_path / "out",
                  "--model_name", "logmel")  # fmt: skip
    assert outcome.code == 0, outcome.said
    store = FeatureStore.open(tmp_path / "out")
    assert [store.read(clip).mask.any() for clip in ("none", "pictures")] == [False, False]
    assert outcome.said.count("no sound in it") == 2
