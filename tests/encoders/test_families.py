"""Families of networks beyond the usual ones, against what transformers makes of them; all of them: the long suite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from clips import RATE, voice, write_srt, write_wav
from conftest import Run
from transformers import AutoModel, AutoTokenizer, WhisperFeatureExtractor

from viper.store import FeatureStore

WORDS = ["the fox", "well I never knew that you could be so angry"]


@pytest.fixture(scope="module")
def subtitles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    write_srt(folder / "a.srt", [(number, number + 1.0, text) for number, text in enumerate(WORDS)])
    return folder


@pytest.mark.parametrize(("family", "layout"), [("gpt2", "none"), ("t5", "eos")])
def test_a_sentence_is_its_last_word_or_the_mean_of_an_encoder(
    subtitles: Path, tmp_path: Path, run: Run, family: str, layout: str
) -> None:
    folder = tmp_path / family
    network = families.network_of(family).eval()
    network.save_pretrained(folder)
    families.write_words(folder, layout)
    outcome = run("extract_textual_features", "--subtitles", subtitles, "--output_folder", tmp_path / "out",
                  "--model_name", folder, "--precision", "float32")  # fmt: skip
    assert outcome.code == 0, outcome.said
    reads = network.get_encoder() if family == "t5" else network
    with torch.inference_mode():
        ids = [AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"] for text in WORDS]
        states = [reads(input_ids=row).last_hidden_state[0] for row in ids]
    expected = torch.stack([hidden.mean(0) if family == "t5" else hidden[-1] for hidden in states]).numpy()
    store = FeatureStore.open(tmp_path / "out")
    np.testing.assert_allclose(store.read("a").tokens, expected, atol=1e-5)
    assert store.info.options["pool"] == ("mean" if family == "t5" else "last")


def test_whisper_is_the_mean_of_its_encoders_states_of_the_sound_without_the_padding(tmp_path: Path, run: Run) -> None:
    folder, rate = tmp_path / "whisper", 24_000  # another rate than the file's
    network = families.network_of("whisper").eval()
    network.save_pretrained(folder)
    WhisperFeatureExtractor(sampling_rate=rate, chunk_length=2, n_fft=400).save_pretrained(folder)
    _shorten(folder)
    write_wav(tmp_path / "sounds" / "a.wav", voice(1.5), RATE)
    outcome = run("extract_audio_features", "--input_folder", tmp_path / "sounds", "--output_folder", tmp_path / "out",
                  "--model_name", folder, "--n_fragments", 2, "--precision", "float32")  # fmt: skip
    assert outcome.code == 0, outcome.said
    feature = FeatureStore.open(tmp_path / "out").read("a")
    np.testing.assert_allclose(feature.time, [0.5, 1.0], atol=1e-3)
    from viper.media.sound import read_sound

    sound = read_sound(tmp_path / "sounds" / "a.wav", rate)
    assert sound is not None
    encoder = AutoModel.from_pretrained(folder).eval().get_encoder()
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    for number, start in enumerate((0, rate // 2)):
        made = extractor(sound.samples[start : start + rate], sampling_rate=rate, return_tensors="pt")
        with torch.inference_mode():
            states = encoder(made["input_features"]).last_hidden_state[0]
        # One second of two: the first half of the states.
        np.testing.assert_allclose(feature.tokens[number], states[: len(states) // 2].mean(0).numpy(), atol=1e-4)


def _shorten(folder: Path) -> None:
    """Let a Whisper read two seconds at 24 kHz (300 steps, of which two become one) and not thirty at 16."""
    from safetensors.torch import load_file, save_file

    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_source_positions": 150}))
    state: dict[str, Any] = load_file(folder / "model.safetensors")
    key = next(name for name in state if name.endswith("encoder.embed_positions.weight"))
    state[key] = state[key][:150].clone()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
