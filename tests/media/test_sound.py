"""Where each frame of a file's sound belongs, and what becomes of its channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tracks import Track, beeps, heard_at, write_tracks

from viper.media.downmix import Downmix, mix_weights
from viper.media.sound import read_sound
from viper.media.sound_clock import SoundClock

STEP = 0.02  # seconds a frame


def placed(stamps: Sequence[float | None], seconds: float | None = None, longest: float = 7200.0) -> SoundClock[int]:
    """A clock that has taken frames of these stamps; `begins` are the seconds at which each is heard."""
    clock: SoundClock[int] = SoundClock(seconds, longest)
    out = [each for number, stamp in enumerate(stamps) for each in clock.add(number, stamp, STEP)]
    out += clock.finish()
    assert [each.item for each in out] == list(range(len(stamps)))
    begins, end = [], clock.start
    for each in out:
        begins.append(end if each.begin is None else each.begin)
        end = begins[-1] + STEP
    clock.begins = np.array(begins)  # type: ignore[attr-defined]
    return clock


def even(n: int, start: float = 0.0) -> np.ndarray:
    return start + STEP * np.arange(n)


def check(
    stamps: Sequence[float | None], expected: np.ndarray, within: float = 1e-9, **limits: float
) -> SoundClock[int]:
    clock = placed(stamps, **limits)
    np.testing.assert_allclose(clock.begins, expected, atol=within)  # type: ignore[attr-defined]
    return clock


def test_frames_are_where_the_clock_says() -> None:
    rng = np.random.default_rng(0)
    whole = even(500)
    assert check(whole, whole).findings.n_gaps == 0
    check(np.round(whole, 3), whole)  # as Matroska rounds
    check(whole + rng.uniform(-0.024, 0.024, 500), whole, 0.024)  # jitter adds and loses nothing
    check([None if k % 3 else time for k, time in enumerate(whole)], whole)
    gap = np.r_[even(100), even(100, 3.0)]
    clock = check(gap, gap)
    assert (clock.findings.n_gaps, clock.findings.silence) == (1, pytest.approx(1.0))
    check(np.r_[even(100), even(100, 2.04)], even(200))  # too short to be one
    check(0.4 * np.arange(60), 0.4 * np.arange(60))  # a frame now and then
    check(gap + 0.5, gap + 0.5)
    check(gap, gap, seconds=5.0)


def test_a_clock_that_drifts_is_followed() -> None:
    whole = even(3000)
    for share in (1e-3, -2e-3, 0.02, -0.02):
        check((1 + share) * whole, (1 + share) * whole, 0.051)
        shaken = (1 + share) * whole + np.random.default_rng(1).uniform(-0.01, 0.01, len(whole))
        check(shaken, (1 + share) * whole, 0.075)
    check(0.5 * whole, whole)  # of a clock of another kind the sound would be lost


def test_stamps_that_others_contradict_are_not_followed() -> None:
    whole = even(500)
    for first, last, shift in ((200, 201, 3600.0), (200, 207, 3600.0), (200, 207, -3.0), (200, 201, -0.3),
                               (200, 202, 0.3), (499, 500, 3600.0), (0, 1, 3600.0), (300, 320, 1e6)):  # fmt: skip
        stamps = whole.copy()
        stamps[first:last] += shift
        check(stamps, whole)
    for limits in ({"seconds": 20.0}, {"longest": 30.0}):  # for good, but beyond the end
        assert check(np.r_[even(200), even(300, 100.0)], whole, **limits).findings.n_beyond == 1
    gap = np.r_[even(200), even(300, 100.0)]
    check(gap, gap, seconds=106.0)
    check(gap, gap, seconds=1.0)  # a length that the sound itself has passed
    lost = [*even(200), *even(1, 100.0), *[None] * 299]  # what comes without a stamp is not waited for
    check(lost, gap)
    clock = SoundClock[int](None, 7200.0)
    assert sum(len(clock.add(k, time, STEP)) for k, time in enumerate(lost)) >= 480
    check(np.r_[gap, gap[-1] + STEP + 3600.0], np.r_[gap, gap[-1] + STEP])


def test_a_clock_that_steps_back_is_counted_on() -> None:
    check(np.r_[even(300), even(200)], even(500))
    # After a new beginning, jumps count from there; a small step back is made up for by the next one ahead.
    anew = np.r_[even(300), even(200), even(100, 6.0)]
    check(anew, np.r_[even(500), even(100, 12.0)])
    check(np.r_[even(300), even(200, 5.5), even(100, 11.0)], np.r_[even(500), even(100, 11.0)])
    check(np.r_[even(300), even(200, 5.5), even(100, 10.0)], even(600))


def test_weights_of_the_mix() -> None:
    five_one = mix_weights(("FL", "FR", "FC", "LFE", "BL", "BR"))
    np.testing.assert_allclose(five_one, np.array([0.7071, 0.7071, 1, 0, 0.5, 0.5]) / 3.4142, atol=1e-4)
    for names in (("FL", "FR"), ("FC",), ("NONE",) * 6, ("LFE",) * 3):
        assert mix_weights(names) is None
    np.testing.assert_array_equal(mix_weights(("AMBI0", "AMBI1", "AMBI2", "AMBI3")), [1, 0, 0, 0])
    left = np.sin(np.arange(16000)).astype(np.float32)
    unlike = np.cos(np.arange(16000)).astype(np.float32)
    others = ((-left, True), (-0.1 * left, True), (left, False), (0 * left, False), (unlike, False))
    faint = 1e-5 * left
    assert not np.any(Downmix()(np.stack([faint, -faint], axis=1), None))
    for right, is_opposite in others:
        mix = Downmix()
        both = np.stack([left, right], axis=1)
        expected = left if is_opposite else both.mean(axis=1, dtype=np.float32)
        np.testing.assert_array_equal(mix(both, None), expected)
        assert (mix.n_upside_down > 0) == is_opposite


def test_a_gap_and_a_channel_upside_down_are_heard_of_a_file(tmp_path: Path) -> None:
    mono = beeps([0.2, 1.2], 1.5)
    track = Track(np.stack([mono, -mono]), 48000, "aac", stamp=lambda second: None if 0.5 < second < 1 else second)
    sound = read_sound(write_tracks(tmp_path / "clip.mp4", track))
    assert sound is not None
    assert heard_at(sound) == pytest.approx([0.2, 1.2], abs=0.011)
