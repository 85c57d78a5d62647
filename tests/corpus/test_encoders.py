"""Every family of transformers that reads words, pictures or sound: right values, or one line that says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import in_memory, pictures, voice
from many import IS_LONG

from viper.encoders.image import ImageEncoder
from viper.encoders.speech import SpeechEncoder
from viper.encoders.subtitles import SubtitleEncoder
from viper.encoders.video import is_video
from viper.engine.device import Runtime
from viper.errors import UserError
from viper.media.sound import Sound

pytestmark = pytest.mark.skipif(not IS_LONG, reason="a long test: make test-long")

CPU = Runtime(torch.device("cpu"))
# Pooling -> families that must have it; the others that transformers has work too, or are refused in one line.
WORDS = {
    "cls": "albert bert big_bird camembert canine convbert data2vec-text deberta deberta-v2 distilbert dpr electra "
           "ernie eurobert flaubert fnet funnel ibert longformer luke megatron-bert modernbert mpnet nomic_bert "
           "nystromformer rembert roberta roberta-prelayernorm roc_bert roformer splinter squeezebert xlm xlm-roberta "
           "xlm-roberta-xl yoso altclip chinese_clip flava",
    "mean": "bart bigbird_pegasus blenderbot led longt5 m2m_100 marian mbart mt5 mvp pegasus pegasus_x plbart "
            "prophetnet switch_transformers t5 umt5",
    "last": "biogpt bitnet bloom cohere ctrl falcon falcon_mamba gemma gemma2 gemma3_text glm gpt2 gpt_bigcode "
            "gpt_neox gpt_oss gptj granite llama mamba mistral mixtral modernbert-decoder mpt olmo2 openai-gpt opt phi "
            "phi3 qwen2 qwen3 rwkv smollm3 stablelm starcoder2 xglm xlnet clip",
}  # fmt: skip
SIGHT = {
    "cls": "vit deit dinov2 dinov2_with_registers dinov3_vit data2vec-vision vit_mae vit_msn clip_vision_model clip "
           "pvt convnext convnextv2 resnet regnet efficientnet mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 "
           "segformer swiftformer bit",
    "mean": "swin swinv2 ijepa hiera levit focalnet beit",
    "head": "siglip_vision_model siglip",
}  # fmt: skip
HEARING = [
    "wav2vec2",
    "wavlm",
    "hubert",
    "unispeech",
    "unispeech-sat",
    "data2vec-audio",
    "sew",
    "sew-d",
    "wav2vec2-conformer",
    "wav2vec2-bert",
    "whisper",
    "speech_to_text",
    "moonshine",
    "audio-spectrogram-transformer",
    "clap",
    "encodec",
    "dac",
    "mimi",
    "parakeet_encoder",
]


@pytest.fixture(scope="module")
def families() -> Any:
    import families

    return families


def one_line(error: UserError, folder: Path) -> None:
    said = str(error)
    assert "\n" not in said
    assert str(folder) in said
    assert len(said.replace(str(folder), "")) < 500


def outcome_of(problems: list[str], family: str, check: Callable[[], str]) -> str:
    """What `check` answers; "" where the family is refused. Anything else is kept as a problem."""
    try:
        return check()
    except UserError as error:
        if "\n" in str(error):
            problems.append(f"{family}: {error}")
        return f"refused: {error}"
    except AssertionError as error:
        problems.append(f"{family}: {str(error)[:200]}")
    except Exception as error:
        problems.append(f"{family}: {type(error).__name__}: {str(error)[:200]}")
    return ""


def same(alone: np.ndarray, together: np.ndarray) -> None:
    assert np.abs(alone - together).max() <= 1e-5 * max(1.0, np.abs(alone).max()), "a feature depends on its batch"


SENTENCES = [
    "the fox laughs", "a fox laughs", "the fox cries", "dog", "?",
    "well I never knew that you could be so angry at the lazy dog over there",
]  # fmt: skip


def read_words(folder: Path) -> str:
    encoder = SubtitleEncoder(str(folder))
    encoder.prepare(CPU)
    assert encoder._sentences is not None
    together = encoder._sentences.embed(SENTENCES, 8)
    alone = np.concatenate([encoder._sentences.embed([sentence], 1) for sentence in SENTENCES])
    same(alone, together)
    assert np.abs(alone[0] - alone[1]).max() > 1e-4, "the first word does not change the feature"
    assert np.abs(alone[0] - alone[2]).max() > 1e-4, "the last word does not change the feature"
    return str(encoder.info().options.get("pool", "cls"))


def test_every_family_that_reads_words(families: Any, tmp_path: Path) -> None:
    problems: list[str] = []
    wanted = {name: pool for pool, names in WORDS.items() for name in names.split()}
    n_read = 0
    for family in families.families():
        network = families.network_of(family)
        if network is None or (family not in wanted and network.main_input_name != "input_ids"):
            continue
        folder = tmp_path / family
        network.save_pretrained(folder)
        families.write_words(folder, families.words_layout(network))
        pool = outcome_of(problems, family, lambda folder=folder: read_words(folder))
        n_read += pool in WORDS
        if family in wanted and pool != wanted[family]:
            problems.append(f"{family}: {pool}, not {wanted[family]}")
    assert not problems, "\n".join(problems)
    assert n_read > 150


def look(folder: Path) -> str:
    encoder = ImageEncoder(str(folder))
    encoder.prepare(CPU)
    images = pictures(3) + pictures(2, seed=1, height=30, width=70)
    together = encoder.encode([encoder.load(in_memory(images))], 8)[0].tokens
    alone = [encoder.encode([encoder.load(in_memory([image]))], 8)[0].tokens for image in images]
    same(np.concatenate(alone), together)
    assert np.abs(together[0] - together[1]).max() > 1e-5, "two pictures get the same feature"
    return encoder.pool


def test_every_family_that_sees(families: Any, tmp_path: Path) -> None:
    problems: list[str] = []
    wanted = {name: pool for pool, names in SIGHT.items() for name in names.split()}
    n_read = 0
    for family in families.families():
        # A tower of its own has the processor of the whole.
        named = family if families.has_eyes(family) else family.removesuffix("_model").removesuffix("_vision")
        network = families.network_of(family) if families.has_eyes(named) else None
        if network is None:
            continue
        folder = tmp_path / family
        network.save_pretrained(folder)
        try:
            families.write_eyes(folder, named)
        except Exception:  # needs a library that is not here
            continue
        if is_video(str(folder)):
            continue
        pool = outcome_of(problems, family, lambda folder=folder: look(folder))
        n_read += pool in SIGHT
        if family in wanted and pool != wanted[family]:
            problems.append(f"{family}: {pool}, not {wanted[family]}")
    assert not problems, "\n".join(problems)
    assert n_read > 40


def heard(seconds: float, seed: int = 0, rate: int = 16_000) -> Sound:
    noise = 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * rate)).astype(np.float32)
    return Sound(noise if seed else voice(seconds, rate=rate), rate, 0.0)


def listen(folder: Path) -> str:
    encoder = SpeechEncoder(str(folder), n_fragments=3)
    encoder.prepare(CPU)
    sounds = [encoder.load(sound) for sound in (heard(1.2), heard(1.2, 1), heard(2.6))]
    together = encoder.encode(sounds, 8)
    for sample, feature in zip(sounds, together, strict=True):
        same(encoder.encode([sample], 8)[0].tokens, feature.tokens)
        assert feature.mask.all()
    np.testing.assert_allclose(together[0].time, [0.3, 0.6, 0.9], atol=0.002)
    assert np.abs(together[0].tokens - together[1].tokens).max() > 1e-5, "two sounds get the same feature"
    return "heard"


def test_every_family_that_hears(families: Any, tmp_path: Path) -> None:
    problems: list[str] = []
    for family in families.families():
        network = families.network_of(family) if families.has_ears(family) else None
        if network is None:
            if family in HEARING:
                problems.append(f"{family}: cannot be made small")
            continue
        folder = tmp_path / family
        network.save_pretrained(folder)
        families.write_ears(folder, family)
        said = outcome_of(problems, family, lambda folder=folder: listen(folder))
        if family in HEARING and said != "heard":
            problems.append(f"{family}: {said}")
    assert not problems, "\n".join(problems)
