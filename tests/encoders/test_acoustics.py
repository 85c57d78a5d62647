"""Measures of sounds whose answer is known, the encoder of voices made of them, and eGeMAPS by opensmile."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
from clips import RATE, voice, write_wav
from conftest import Run

from viper.encoders.acoustic import AcousticEncoder, pitch_statistics, usual_pitch
from viper.encoders.acoustics import N_CEPSTRA, SHAPES, measure
from viper.encoders.egemaps import EgemapsEncoder
from viper.encoders.logmel import LogMelEncoder
from viper.errors import UserError
from viper.media.sound import Sound
from viper.store import FeatureStore

SHARED_WAVS = Path(__file__).parents[3] / "shared" / "data" / "emodb" / "wav"
CONTOURS = N_CEPSTRA + len(SHAPES)
MEAN_ENERGY = N_CEPSTRA + SHAPES.index("energy")
needs_opensmile = pytest.mark.skipif(
    importlib.util.find_spec("opensmile") is None, reason="opensmile is not installed (pip install 'viper[opensmile]')"
)


def seconds_of(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * RATE)) / RATE


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * seconds_of(seconds))).astype(np.float32)


def vowel(hertz: float, seconds: float = 1.0, first: int = 1) -> np.ndarray:
    """Harmonics from the `first` on, each weaker than the one before."""
    phase = 2 * np.pi * hertz * seconds_of(seconds)
    return sum(0.3 / k * np.sin(k * phase) for k in range(first, int(4000 / hertz))).astype(np.float32)


def noise(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def shape(samples: np.ndarray, name: str) -> np.ndarray:
    """A contour away from the ends, where the windows hang over."""
    return measure(samples).shapes[10:-10, SHAPES.index(name)]


def semitones(hertz: float) -> float:
    return float(12 * np.log2(hertz / 27.5))


@pytest.mark.parametrize("hertz", [75, 110.5, 220, 333, 450])
@pytest.mark.parametrize("first", [1, 2])
def test_pitch_is_that_of_the_harmonics_even_without_the_fundamental(hertz: float, first: int) -> None:
    pitch = measure(vowel(hertz, first=first)).pitch[10:-10]
    np.testing.assert_allclose(pitch, semitones(hertz), atol=0.1)


def test_pitch_follows_a_glide() -> None:
    hertz = np.linspace(120, 240, RATE)
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    pitch = measure((0.2 * (np.sin(phase) + np.sin(2 * phase))).astype(np.float32)).pitch
    middles = np.arange(10, 90)
    np.testing.assert_allclose(pitch[middles], [semitones(h) for h in hertz[middles * RATE // 100]], atol=0.3)


def test_noise_and_silence_have_no_pitch_and_what_is_far_below_the_loudest_has_none_either() -> None:
    assert np.isnan(measure(noise()).pitch).mean() > 0.95
    assert np.isnan(measure(np.zeros(RATE, np.float32)).pitch).all()
    loud_then_faint = np.concatenate([vowel(200), vowel(200) * 0.01])  # 40 dB down
    pitch = measure(loud_then_faint).pitch
    assert not np.isnan(pitch[10:90]).any()
    assert np.isnan(pitch[110:]).all()


def test_harmonics_to_noise_falls_with_the_noise() -> None:
    ratios = [shape(vowel(150) + level * noise(), "harmonics to noise").mean() for level in (0.0, 0.3, 1.0, 10.0)]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] > 20
    assert ratios[-1] < 0


def test_energy_knows_loudness_and_the_shape_of_the_spectrum_does_not() -> None:
    content = voice(1.0, seed=3) + 0.01 * noise()
    quiet, loud = measure(content), measure(10 * content)
    rise = loud.shapes - quiet.shapes
    np.testing.assert_allclose(rise[:, SHAPES.index("energy")], 20, atol=0.01)
    np.testing.assert_allclose(np.delete(rise, SHAPES.index("energy"), axis=1), 0, atol=0.05)
    np.testing.assert_allclose(loud.cepstra, quiet.cepstra, atol=0.05)


@pytest.mark.parametrize("hertz", [200, 800, 3200])
def test_centroid_and_roll_off_of_a_tone_are_the_tone(hertz: float) -> None:
    octaves = np.log2(hertz / 50)
    np.testing.assert_allclose(shape(tone(hertz), "centroid"), octaves, atol=0.1)
    np.testing.assert_allclose(shape(tone(hertz), "roll-off"), octaves, atol=0.3)
    assert shape(tone(hertz), "flatness").max() < -30
    assert abs(shape(tone(hertz), "flux")).max() < 0.05
    assert (shape(tone(hertz), "alpha ratio") > 0).all() == (hertz < 1000)
    assert (shape(tone(hertz), "Hammarberg index") > 0).all() == (hertz < 2000)


def test_white_noise_is_flat_and_changes_all_the_time() -> None:
    assert abs(shape(noise(), "slope 500 to 1500 Hz").mean()) < 2
    assert shape(noise(), "flatness").mean() > -4
    assert shape(noise(), "flux").mean() > 0.3


def test_pitch_statistics_of_a_known_contour() -> None:
    contour = np.array([np.nan, 30, 31, 32, np.nan, np.nan, 20, 20, np.nan, np.nan])
    mean, deviation, low, middle, high, change, slope, share, stretches = pitch_statistics(contour, usual=25.0)
    assert mean == pytest.approx(26.6)
    assert deviation == pytest.approx(np.std([30, 31, 32, 20, 20]))
    assert (low, middle, high) == pytest.approx((20, 30, 31.6))
    assert (change, slope) == pytest.approx((2 / 3, 2 / 3))  # steps over a pause do not count
    assert share == pytest.approx(0.5)
    assert stretches == pytest.approx(2 / 0.1)
    unvoiced = pitch_statistics(np.full(10, np.nan), usual=25.0)
    np.testing.assert_array_equal(unvoiced, [25, 0, 25, 25, 25, 0, 0, 0, 0])


def test_a_window_without_voice_has_the_clips_usual_pitch() -> None:
    content = np.concatenate([vowel(180, 2.0), 0.02 * noise(1.0)])
    (feature,) = (encoder := AcousticEncoder(5)).encode([encoder.load(Sound(content, RATE, 0.0))], 16)
    pitch, share = feature.tokens[:, -9], feature.tokens[:, -2]
    np.testing.assert_allclose(pitch, semitones(180), atol=0.2)
    assert share[0] > 0.9
    assert share[-1] < 0.1
    assert usual_pitch(measure(noise() * 0)) == pytest.approx(24)


def test_a_token_holds_the_statistics_of_its_windows_frames() -> None:
    content = voice(2.0, seed=5)
    content[RATE : RATE + RATE // 4] = noise(0.25)
    (feature,) = (encoder := AcousticEncoder(3)).encode([encoder.load(Sound(content, RATE, 0.0))], 16)
    assert feature.tokens.shape == (3, encoder.width) == (3, 257)
    measured = measure(content)
    energy = measured.shapes[50:150, SHAPES.index("energy")]  # the second of three windows of a second each
    change = np.abs(np.diff(measured.shapes[50:151, SHAPES.index("energy")]))
    voiced = energy[~np.isnan(measured.pitch[50:150])]
    blocks = feature.tokens[1, : 8 * CONTOURS].reshape(8, CONTOURS)[:, MEAN_ENERGY]
    assert 0 < len(voiced) < 100
    np.testing.assert_allclose(blocks[[0, 1, 2, 3, 4]], [energy.mean(), energy.std(), change.mean(), voiced.mean(),
                                                         voiced.std()], rtol=1e-4)  # fmt: skip
    np.testing.assert_allclose(blocks[6:], np.percentile(energy, [20, 80]), rtol=1e-4)


def test_the_weight_free_encoders_are_told_apart_by_what_encoder_json_says() -> None:
    logmel, acoustic = LogMelEncoder(4).info(), AcousticEncoder(4).info()
    assert logmel.difference(acoustic) == "encoder 'logmel', not 'acoustic'"
    assert acoustic.difference(AcousticEncoder(5).info()) == "n_fragments 4, not 5"


def test_the_command_takes_acoustic(tmp_path: Path, run: Run) -> None:
    write_wav(tmp_path / "sounds" / "1.wav", vowel(200), RATE)
    outcome = run(
        "extract_audio_features", "--input_folder", tmp_path / "sounds", "--output_folder", tmp_path / "out",
        "--model_name", "acoustic", "--n_fragments", 4,
    )  # fmt: skip
    assert outcome.code == 0, outcome.said
    tokens = FeatureStore.open(tmp_path / "out").read("1").tokens
    np.testing.assert_allclose(tokens[:, -9], semitones(200), atol=0.2)


@pytest.mark.skipif(not SHARED_WAVS.is_dir(), reason=f"no recordings in {SHARED_WAVS.parent}")
def test_a_mans_and_a_womans_voice_have_their_pitch() -> None:
    from viper.media.sound import read_sound

    for name, low, high in (("03a01Nc", 80, 160), ("08a01Na", 160, 280)):  # a man and a woman, neutral
        sound = read_sound(SHARED_WAVS / f"{name}.wav")
        assert sound is not None
        assert semitones(low) < usual_pitch(measure(sound.samples)) < semitones(high)


@needs_opensmile
def test_egemaps_is_opensmiles_answer_for_each_window() -> None:
    import opensmile

    encoder = EgemapsEncoder(2)
    content = np.concatenate([vowel(120), vowel(240)])
    (feature,) = encoder.encode([encoder.load(Sound(content, RATE, 0.0))], 16)
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    length = 2 * len(content) // 3
    expected = smile.process_signal(content[:length], RATE).to_numpy()[0]
    np.testing.assert_allclose(feature.tokens[0], expected, rtol=1e-5)
    assert feature.tokens.shape == (2, encoder.width) == (2, len(smile.feature_names))
    assert feature.tokens[0, 0] < feature.tokens[1, 0]  # the mean pitch in semitones


@needs_opensmile
def test_egemaps_of_silence_and_of_a_few_samples_is_finite_and_travels_to_workers() -> None:
    encoder = EgemapsEncoder(3)
    contents = [np.zeros(RATE, np.float32), tone(200, 0.05), tone(200)[:2]]
    features = encoder.encode([encoder.load(Sound(content, RATE, 0.0)) for content in contents], 16)
    assert all(np.isfinite(feature.tokens).all() and feature.mask.all() for feature in features)
    again = pickle.loads(pickle.dumps(encoder))  # after it was used
    np.testing.assert_array_equal(again.encode([again.load(Sound(tone(200, 0.05), RATE, 0.0))], 16)[0].tokens,
                                  features[1].tokens)  # fmt: skip


def test_egemaps_without_opensmile_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"research only.*pip install 'viper\[opensmile\]'") as caught:
        EgemapsEncoder()
    assert "\n" not in str(caught.value)
