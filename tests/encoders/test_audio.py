"""Audio encoders through the real loading code, logmel, and the sound of real files."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from clips import RATE, pictures, voice, write_sound, write_wav
from conftest import Run
from transformers import AutoFeatureExtractor, Wav2Vec2Model, WavLMForXVector

from viper.demo.media import write_video
from viper.encoders.acoustic import AcousticEncoder
from viper.encoders.logmel import LogMelEncoder
from viper.encoders.speech import SpeechEncoder
from viper.encoders.windows import WindowEncoder
from viper.engine.device import Runtime
from viper.errors import UserError
from viper.media.sampling import window_bounds
from viper.media.sound import Sound
from viper.store import Feature, FeatureStore

CPU = Runtime(torch.device("cpu"))


def sound(seconds: float, seed: int = 0, start: float = 0.0) -> Sound:
    return Sound(voice(seconds, seed=seed), RATE, start)


def prepared(folder: Path, **options: Any) -> SpeechEncoder:
    encoder = SpeechEncoder(str(folder), **options)
    encoder.prepare(CPU)
    return encoder


def encode(encoder: WindowEncoder, *contents: Sound | None, batch_size: int = 16) -> list[Feature]:
    return encoder.encode([encoder.load(content) for content in contents], batch_size)


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal to a hundred-thousandth of the largest value."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual / np.abs(expected).max(), expected / np.abs(expected).max(), atol=1e-5)


def windows_of(content: Sound, n: int) -> list[np.ndarray]:
    """The windows by their definition: 2L/(n+1) long, half of that apart."""
    length = len(content.samples)
    hop = length / (n + 1)
    size = min(int(2 * hop), length - round((n - 1) * hop))
    return [content.samples[round(i * hop) : round(i * hop) + size] for i in range(n)]


@torch.inference_mode()
def xvectors(folder: Path, windows: list[np.ndarray]) -> np.ndarray:
    """Each window's embedding, alone in its batch."""
    network: Any = WavLMForXVector.from_pretrained(folder).eval()
    return np.concatenate([network(torch.from_numpy(window)[None]).embeddings.numpy() for window in windows])


def test_window_arithmetic_has_known_answers() -> None:
    assert window_bounds(9, 8).tolist() == [[i, i + 2] for i in range(8)]
    assert window_bounds(100, 1).tolist() == [[0, 100]]
    assert window_bounds(90, 2).tolist() == [[0, 60], [30, 90]]
    assert window_bounds(8, 8).tolist() == [[0, 8]]  # too short for so many


@pytest.mark.parametrize("length", [33, 1000, 31_999, 48_017])
def test_windows_overlap_by_half_are_equally_long_and_stay_inside(length: int) -> None:
    bounds = window_bounds(length, 32)
    assert len(set((bounds[:, 1] - bounds[:, 0]).tolist())) == 1
    assert (bounds[0, 0], bounds[-1, 1] <= length) == (0, True)
    np.testing.assert_allclose(np.diff(bounds[:, 0]), length / 33, atol=1)
    np.testing.assert_allclose(bounds[:, 1] - bounds[:, 0], 2 * length / 33, atol=2)


def test_a_token_is_timed_at_the_middle_of_its_window_in_the_file(xvector: Path) -> None:
    content = sound(3.0, start=0.25)
    middles = 0.25 + 3.0 * np.arange(1, 6) / 6
    for encoder in (LogMelEncoder(5), prepared(xvector, n_fragments=5)):
        np.testing.assert_allclose(encode(encoder, content)[0].time, middles, atol=1e-3)
    # Cut windows keep their start, so their middles move.
    (cut,) = encode(LogMelEncoder(5, fragment_seconds=0.5), content)
    np.testing.assert_allclose(cut.time, 0.25 + 0.5 * np.arange(5) + 0.25, atol=1e-3)


def test_a_token_is_the_x_vector_of_its_window_alone(xvector: Path) -> None:
    content = sound(3.0)
    expected = xvectors(xvector, windows_of(content, 4))
    (feature,) = encode(prepared(xvector, n_fragments=4), content)
    assert feature.tokens.shape == (4, checkpoints.XVECTOR_WIDTH)
    assert feature.mask.all()
    assert_same(feature.tokens, expected)
    assert np.abs(expected[0] - expected[1]).max() > 0.01  # the windows can be told apart


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_feature_does_not_depend_on_its_batch(xvector: Path, batch_size: int) -> None:
    encoder = prepared(xvector, n_fragments=4)
    clips = [sound(1.5, 1), sound(2.6, 2), sound(1.5, 3), sound(4.0, 4)]
    for clip, together in zip(clips, encode(encoder, *clips, batch_size=batch_size), strict=True):
        assert_same(together.tokens, encode(encoder, clip)[0].tokens)


def test_a_measured_feature_does_not_depend_on_its_batch() -> None:
    for encoder in (LogMelEncoder(4), AcousticEncoder(4)):
        clips = [sound(1.5, 1), sound(0.3, 2), sound(2.0, 3)]
        for clip, together in zip(clips, encode(encoder, *clips), strict=True):
            np.testing.assert_array_equal(together.tokens, encode(encoder, clip)[0].tokens)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 64])
def test_every_window_goes_through_the_network_exactly_once(xvector: Path, batch_size: int) -> None:
    encoder = prepared(xvector, n_fragments=4)
    batches: list[int] = []

    def count(module: Any, args: Any, kwargs: dict[str, torch.Tensor], output: Any) -> None:
        batches.append(len(kwargs["input_values"]))

    encoder._network.register_forward_hook(count, with_kwargs=True)
    encode(encoder, sound(1.5, 1), sound(2.6, 2), None, sound(1.5, 3), batch_size=batch_size)
    assert sum(batches) == 3 * 4
    assert max(batches) <= batch_size


def test_fragments_are_cut_to_the_seconds_asked_for_and_shorter_ones_are_not_padded(xvector: Path) -> None:
    short, long = sound(1.6), sound(6.0)
    encoder = prepared(xvector, n_fragments=3, fragment_seconds=1.0)
    assert_same(encode(encoder, short)[0].tokens, xvectors(xvector, windows_of(short, 3)))
    cut = [window[:RATE] for window in windows_of(long, 3)]
    assert_same(encode(encoder, long)[0].tokens, xvectors(xvector, cut))


WEIGHT_FREE = {"logmel": LogMelEncoder, "acoustic": AcousticEncoder}


@pytest.mark.parametrize("name", ["xvector", "logmel", "acoustic"])
def test_no_sound_is_as_many_masked_zeros_as_there_would_be_windows(xvector: Path, name: str) -> None:
    encoder: WindowEncoder = WEIGHT_FREE[name](5) if name in WEIGHT_FREE else prepared(xvector, n_fragments=5)
    width = encoder.info().width
    for content in (None, Sound(np.zeros(0, np.float32), RATE, 0.0)):
        absent, present = encode(encoder, content, sound(2.0))
        assert absent.tokens.shape == present.tokens.shape == (5, width)
        assert not absent.tokens.any()
        assert not absent.mask.any()
        assert present.mask.all()
    (alone,) = encode(encoder, None)
    assert alone.tokens.shape == (5, width)


@pytest.mark.parametrize("name", ["xvector", "wav2vec2", "logmel", "acoustic"])
def test_digital_silence_and_a_few_samples_give_finite_tokens(xvector: Path, wav2vec2: Path, name: str) -> None:
    folder = {"xvector": xvector, "wav2vec2": wav2vec2}.get(name)
    encoder: WindowEncoder = WEIGHT_FREE[name](4) if folder is None else prepared(folder, n_fragments=4)
    silent = Sound(np.zeros(RATE, np.float32), RATE, 0.0)
    tiny = Sound(voice(0.01)[:3], RATE, 0.0)  # fewer samples than windows
    brief = Sound(voice(0.05), RATE, 0.0)  # windows far shorter than the network's receptive field
    features = encode(encoder, silent, tiny, brief)
    assert [len(feature.tokens) for feature in features] == [4, 1, 4]
    assert all(np.isfinite(feature.tokens).all() and feature.mask.all() for feature in features)


@pytest.mark.parametrize("do_normalize", [True, False])
def test_the_models_own_extractor_decides_whether_a_window_is_standardised(tmp_path: Path, do_normalize: bool) -> None:
    folder = checkpoints.write_wav2vec2(tmp_path / "wav2vec2", do_normalize)
    content = Sound(voice(2.0) * 0.05 + 0.2, RATE, 0.0)  # quiet, and off zero
    encoder = prepared(folder, n_fragments=3)
    for row, window in zip(encoder.load(content).windows, windows_of(content, 3), strict=True):
        expected = (window - window.mean()) / np.sqrt(window.var() + 1e-7) if do_normalize else window
        np.testing.assert_allclose(row, expected, atol=1e-4)


@pytest.mark.parametrize(("layer", "pool"), [(-1, "mean"), (1, "mean"), (0, "meanstd"), (-1, "meanstd")])
def test_layer_and_pool_are_the_models_hidden_states(wav2vec2: Path, layer: int, pool: str) -> None:
    content = sound(2.0)
    extractor = AutoFeatureExtractor.from_pretrained(wav2vec2)
    network: Any = Wav2Vec2Model.from_pretrained(wav2vec2).eval()
    expected = []
    for window in windows_of(content, 3):
        inputs = extractor(window, sampling_rate=RATE, return_tensors="pt")
        with torch.inference_mode():
            output = network(**inputs, output_hidden_states=True)
        hidden = (output.last_hidden_state if layer == -1 else output.hidden_states[layer])[0].numpy()
        statistics = [hidden.mean(axis=0), hidden.std(axis=0)]
        expected.append(np.concatenate(statistics[: 2 if pool == "meanstd" else 1]))
    (feature,) = encode(prepared(wav2vec2, n_fragments=3, layer=layer, pool=pool), content)
    assert_same(feature.tokens, np.array(expected))


def test_an_x_vector_has_no_layers(xvector: Path) -> None:
    with pytest.raises(UserError, match=r"--layer 1: .* has no layers to choose from"):
        prepared(xvector, layer=1)


def test_checkpoints_that_name_the_weight_norm_as_older_torch_did_are_the_same_model(
    xvector: Path, tmp_path: Path
) -> None:
    def rename(state: checkpoints.State) -> checkpoints.State:
        part = "parametrizations.weight.original"
        return {
            name.replace(f"{part}0", "weight_g").replace(f"{part}1", "weight_v"): tensor
            for name, tensor in state.items()
        }

    old = checkpoints.copy_with(xvector, tmp_path / "old", rename)
    assert prepared(old).info().options == prepared(xvector).info().options
    content = sound(1.5)
    np.testing.assert_array_equal(
        encode(prepared(old), content)[0].tokens, encode(prepared(xvector), content)[0].tokens
    )


def test_what_only_training_uses_may_be_missing(wav2vec2: Path, tmp_path: Path) -> None:
    lacking = checkpoints.copy_with(wav2vec2, tmp_path / "lacking", checkpoints.without("masked_spec_embed"))
    assert prepared(lacking).info().options == prepared(wav2vec2).info().options


def test_a_missing_part_of_the_x_vector_head_is_refused(xvector: Path, tmp_path: Path) -> None:
    lacking = checkpoints.copy_with(xvector, tmp_path / "lacking", checkpoints.without("tdnn.2"))
    with pytest.raises(UserError, match=r"tdnn\.2\.kernel\.bias.*random"):
        prepared(lacking)


def test_workers_get_the_encoder_without_its_weights(xvector: Path) -> None:
    encoder = prepared(xvector, n_fragments=3)
    sent = pickle.dumps(encoder)
    assert len(sent) < (xvector / "model.safetensors").stat().st_size / 10
    for row, expected in zip(
        pickle.loads(sent).load(sound(1.5)).windows, encoder.load(sound(1.5)).windows, strict=True
    ):
        np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("make", [lambda: LogMelEncoder(0), lambda: LogMelEncoder(4, 0.0)])
def test_windows_that_cannot_be_are_refused(make: Callable[[], LogMelEncoder]) -> None:
    with pytest.raises(UserError, match=r"--(n_fragments 0|fragment_seconds 0.0): must be"):
        make()


def test_logmel_of_a_louder_sound_is_higher_by_its_decibels() -> None:
    encoder = LogMelEncoder(3)
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.01
    quiet, loud = encode(encoder, Sound(noise, RATE, 0.0), Sound(10 * noise, RATE, 0.0))
    rise = loud.tokens - quiet.tokens
    np.testing.assert_allclose(rise[:, :64], 20, atol=0.01)  # the mean of each band
    np.testing.assert_allclose(rise[:, 64:], 0, atol=0.01)  # deviation and change are of decibels: as before


@pytest.mark.parametrize(("hertz", "band"), [(200, 4), (1000, 21), (5000, 53)])
def test_logmel_of_a_tone_peaks_in_its_band(hertz: float, band: int) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE).astype(np.float32)
    (feature,) = encode(LogMelEncoder(3), Sound(tone, RATE, 0.0))
    # 64 bands evenly spaced in mel, 2595 log10(1 + f/700), from 50 Hz to 8 kHz.
    edges = 2595 * np.log10(1 + np.array([50, hertz, 8000]) / 700)
    expected = (edges[1] - edges[0]) / (edges[2] - edges[0]) * 65 - 1
    assert round(expected) == band
    assert np.abs(feature.tokens[:, :64].argmax(axis=1) - band).max() <= 1


def test_logmel_tells_which_window_the_sound_is_in() -> None:
    samples = np.zeros(2 * RATE, np.float32)
    samples[-RATE // 2 :] = voice(0.5)
    levels = encode(LogMelEncoder(7), Sound(samples, RATE, 0.0))[0].tokens[:, :64].mean(axis=1)
    assert levels.argmax() == 6
    assert levels[0] == pytest.approx(-100)


LENGTH = 32 * 1024  # samples: of whole AAC frames, whose last one a decoder would otherwise give back padded


def write_formats(folder: Path) -> None:
    """One sound in several formats; narrow.wav at 8 kHz, stereo.wav at 44.1 kHz with the sound split over its sides."""
    seconds = LENGTH / RATE
    samples = voice(seconds)
    folder.mkdir()
    write_wav(folder / "wav.wav", samples, RATE)
    write_sound(folder / "flac.flac", samples, RATE, "flac")
    write_sound(folder / "mp3.mp3", samples, RATE, "libmp3lame")
    write_video(folder / "mp4.mp4", pictures(1, height=48, width=48) * 61, 30, samples=samples, rate=RATE)
    wide = voice(seconds, rate=44_100)
    write_wav(folder / "stereo.wav", np.stack([1.4 * wide, 0.6 * wide], axis=1), 44_100)
    write_wav(folder / "narrow.wav", voice(seconds, rate=8000), 8000)


def test_the_command_gives_nearly_the_same_features_for_every_format(xvector: Path, tmp_path: Path, run: Run) -> None:
    write_formats(tmp_path / "sounds")
    outcome = run(
        "extract_audio_features", "--input_folder", tmp_path / "sounds", "--output_folder", tmp_path / "out",
        "--model_name", xvector, "--n_fragments", 6,
    )  # fmt: skip
    assert outcome.code == 0, outcome.said
    store = FeatureStore.open(tmp_path / "out")
    assert (store.info.encoder, store.info.modality, store.info.source) == ("speech", "audio", "sound")
    assert sorted(store.clips()) == ["flac", "mp3", "mp4", "narrow", "stereo", "wav"]
    content, other = sound(LENGTH / RATE), sound(LENGTH / RATE, seed=9)
    expected, another_voice = encode(prepared(xvector, n_fragments=6), content, other)
    distance = np.linalg.norm(another_voice.tokens - expected.tokens, axis=1)
    for name in store.clips():
        feature = store.read(name)
        assert feature.mask.all()
        np.testing.assert_allclose(feature.time, expected.time, atol=0.01, err_msg=name)
        assert cosines(feature.tokens, expected.tokens).min() > 0.99, name
        # Cosines of any two voices are high here; this tells formats from voices. An mp3's few bits cost the most.
        off = np.linalg.norm(feature.tokens - expected.tokens, axis=1) / distance
        assert off.max() < (0.5 if name == "mp3" else 0.1), name


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of each pair of rows."""
    return (first * second).sum(axis=1) / (np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1))


@pytest.mark.parametrize("model", ["xvector", "logmel"])
def test_a_video_without_sound_is_masked_and_named_in_the_log(
    xvector: Path, tmp_path: Path, run: Run, model: str
) -> None:
    images = pictures(6, height=48, width=48)
    write_video(tmp_path / "videos" / "mute.mp4", images, 10)
    write_video(tmp_path / "videos" / "spoken.mp4", images, 10, samples=voice(0.6), rate=RATE)
    outcome = run(
        "extract_audio_features", "--input_folder", tmp_path / "videos", "--output_folder", tmp_path / "out",
        "--model_name", xvector if model == "xvector" else model, "--n_fragments", 4, "--batch_size", 1,
    )  # fmt: skip
    assert outcome.code == 0, outcome.said
    assert [line for line in outcome.said.splitlines() if "no sound" in line and "mute" in line]
    assert not (tmp_path / "out" / "failures.csv").exists()
    store = FeatureStore.open(tmp_path / "out")
    mute, spoken = store.read("mute"), store.read("spoken")
    assert mute.tokens.shape == spoken.tokens.shape == (4, store.width)
    assert not mute.mask.any()
    assert not mute.tokens.any()
    assert spoken.mask.all()


def test_a_file_that_is_no_sound_fails_alone(tmp_path: Path, run: Run) -> None:
    write_wav(tmp_path / "sounds" / "good.wav", voice(0.5), RATE)
    (tmp_path / "sounds" / "bad.wav").write_bytes(b"RIFF but not really")
    outcome = run(
        "extract_audio_features", "--input_folder", tmp_path / "sounds", "--output_folder", tmp_path / "out",
        "--model_name", "logmel",
    )  # fmt: skip
    assert outcome.code == 3
    assert FeatureStore.open(tmp_path / "out").clips() == ["good"]
    failures = (tmp_path / "out" / "failures.csv").read_text().splitlines()
    assert len(failures) == 2
    assert failures[1].startswith("bad,extract_audio_features,ClipError,bad.wav: cannot be opened")
