"""Every family of transformers that reads words, pictures or sound: right values, or one line that says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from clips import in_memory, pictures, voice, write_frames, write_srt, write_wav
from conftest import Run
from many import long_test

from viper.encoders.image import ImageEncoder
from viper.encoders.speech import SpeechEncoder
from viper.encoders.subtitles import SubtitleEncoder
from viper.encoders.video import is_video
from viper.engine.device import Runtime
from viper.errors import UserError
from viper.media.pictures import read_image
from viper.media.sound import Sound
from viper.store import FeatureStore

pytestmark = long_test

CPU = Runtime(torch.device("cpu"))
# Pooling -> families that must have it; the others that transformers has work too, or are refused in one line.
WORDS = {
    "cls": "albert bert big_bird camembert canine convbert data2vec-text deberta deberta-v2 distilbert dpr electra "
           "ernie eurobert flaubert fnet funnel ibert longformer luke megatron-bert modernbert mpnet nomic_bert "
           "nystromformer rembert roberta roberta-prelayernorm roformer splinter squeezebert xlm xlm-roberta "
           "xlm-roberta-xl yoso altclip chinese_clip flava",
    "mean": "bart bigbird_pegasus blenderbot led longt5 m2m_100 marian mbart mt5 mvp pegasus pegasus_x plbart "
            "prophetnet switch_transformers t5 umt5",
    "last": "biogpt bitnet bloom cohere ctrl falcon falcon_mamba gemma gemma2 gemma3_text glm gpt2 gpt_bigcode "
            "gpt_neox gpt_oss gptj granite llama mamba mistral mixtral modernbert-decoder mpt olmo2 openai-gpt opt phi "
            "phi3 qwen2 qwen3 rwkv smollm3 stablelm starcoder2 xglm xlnet clip",
}  # fmt: skip
SIGHT = {
    "cls": "vit deit dinov2 dinov2_with_registers dinov3_vit vit_mae vit_msn clip_vision_model clip "
           "pvt convnext convnextv2 resnet regnet efficientnet mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 "
           "segformer swiftformer bit",
    "mean": "swin swinv2 ijepa hiera levit focalnet beit data2vec-vision",
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


def same(alone: np.ndarray, together: np.ndarray, share: float = 1e-5) -> None:
    assert np.abs(alone - together).max() <= share * max(1.0, np.abs(alone).max()), "a feature depends on its batch"


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
        if family not in wanted and not families.is_of_words(family):
            continue  # their halves that read are of families that are tried themselves
        network = families.network_of(family, reads="" if family in wanted else "input_ids")
        if network is None:
            if family in wanted:
                problems.append(f"{family}: cannot be made small")
            continue
        folder = tmp_path / family
        network.save_pretrained(folder)
        families.write_words(folder, families.words_layout(network))
        pool = outcome_of(problems, family, lambda folder=folder: read_words(folder))
        n_read += pool in WORDS
        if family in wanted and pool != wanted[family]:
            problems.append(f"{family}: {pool}, not {wanted[family]}")
    assert not problems, "\n".join(problems)
    assert n_read > 120


def look(folder: Path) -> str:
    encoder = ImageEncoder(str(folder))
    encoder.prepare(CPU)
    images = pictures(3) + pictures(2, seed=1, height=30, width=70)
    together = encoder.encode([encoder.load(in_memory(images))], 8)[0].tokens
    alone = [encoder.encode([encoder.load(in_memory([image]))], 8)[0].tokens for image in images]
    same(np.concatenate(alone), together, 5e-5)  # fifty random layers of convolutions round more than trained ones
    assert np.abs(together[0] - together[1]).max() > 1e-5, "two pictures get the same feature"
    return encoder.pool


def test_every_family_that_sees(families: Any, tmp_path: Path) -> None:
    problems: list[str] = []
    wanted = {name: pool for pool, names in SIGHT.items() for name in names.split()}
    n_read = 0
    for family in families.families():
        # A tower of its own has the processor of the whole.
        named = family if families.has_eyes(family) else family.removesuffix("_model").removesuffix("_vision")
        named = named.removesuffix("_with_registers")
        reads = "" if family in wanted else "pixel_values"
        network = families.network_of(family, reads=reads) if families.has_eyes(named) else None
        if network is None:
            if family in wanted:
                problems.append(f"{family}: cannot be made small")
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


@pytest.fixture(scope="module")
def made(families: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A tiny checkpoint of a family with what it reads by: a layout of words, "eyes" or "ears"."""
    kept: dict[tuple[str, str], Path] = {}

    def make(family: str, reads: str) -> Path:
        if (family, reads) not in kept:
            folder = kept[family, reads] = tmp_path_factory.mktemp("family") / family
            network = families.network_of(family)
            assert network is not None, family
            network.save_pretrained(folder)
            if reads in ("eyes", "ears"):
                (families.write_eyes if reads == "eyes" else families.write_ears)(folder, family)
            else:
                families.write_words(folder, reads)
        return kept[family, reads]

    return make


def written(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("settings", "pool"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_weightedmean_tokens": True}, "weighted"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "root"),
        ({"pooling_mode": "mean", "word_embedding_dimension": 32}, "mean"),
    ],
)
def test_a_folder_of_sentence_transformers_says_how_words_are_pooled(
    made: Callable[[str, str], Path], tmp_path: Path, settings: dict[str, Any], pool: str
) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = copytree(made("bert", "cls"), tmp_path / "bert")
    plain = SubtitleEncoder(str(folder))
    plain.prepare(CPU)
    written(folder / "1_Pooling" / "config.json", settings)
    encoder = SubtitleEncoder(str(folder))
    encoder.prepare(CPU)
    assert encoder.info().options["pool"] == pool
    assert plain.info().difference(encoder.info()) is not None  # their features do not mix
    assert encoder._sentences is not None
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for sentence in SENTENCES:
        with torch.inference_mode():
            hidden = network(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0]
        places = torch.arange(1, len(hidden) + 1)[:, None]
        by_pool = {
            "mean": hidden.mean(0), "last": hidden[-1], "max": hidden.amax(0),
            "root": hidden.sum(0) / len(hidden) ** 0.5, "weighted": (hidden * places).sum(0) / places.sum(),
        }  # fmt: skip
        rows.append(by_pool[pool])
    np.testing.assert_allclose(encoder._sentences.embed(SENTENCES, 4), torch.stack(rows).numpy(), atol=2e-5)


@pytest.mark.parametrize(
    "settings",
    [{"pooling_mode": "attention"}, {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, {}, []],
)
def test_a_pooling_that_is_not_known_is_one_line(
    made: Callable[[str, str], Path], tmp_path: Path, settings: Any
) -> None:
    folder = copytree(made("bert", "cls"), tmp_path / "bert")
    written(folder / "1_Pooling" / "config.json", settings)
    with pytest.raises(UserError) as error:
        SubtitleEncoder(str(folder)).prepare(CPU)
    one_line(error.value, folder)


def test_steps_after_the_pooling_are_named(made: Callable[[str, str], Path], tmp_path: Path, run: Run) -> None:
    folder = copytree(made("bert", "cls"), tmp_path / "bert")
    steps = ["Transformer", "Pooling", "Dense", "Normalize"]
    kinds = [{"path": f"{n}_{name}", "type": f"sentence_transformers.models.{name}"} for n, name in enumerate(steps)]
    written(folder / "modules.json", kinds)
    write_srt(tmp_path / "words" / "a.srt", [(0.0, 1.0, "the fox")])
    outcome = run("extract_textual_features", "--subtitles", tmp_path / "words", "--output_folder", tmp_path / "out",
                  "--model_name", folder)  # fmt: skip
    assert outcome.code == 0, outcome.said
    assert "before 2_Dense, which viper leaves out" in outcome.said


RATES = (8_000, 22_050, 24_000, 32_000, 44_100, 48_000)


@pytest.mark.parametrize("rate", RATES)
def test_sound_is_read_at_the_rate_of_the_model(
    made: Callable[[str, str], Path], tmp_path: Path, run: Run, rate: int
) -> None:
    folder = copytree(made("wav2vec2", "ears"), tmp_path / "wav2vec2")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    written(folder / "preprocessor_config.json", {**settings, "sampling_rate": rate})
    write_wav(tmp_path / "sounds" / "a.wav", voice(2.0, rate=rate), rate)
    outcome = run("extract_audio_features", "--input_folder", tmp_path / "sounds", "--output_folder", tmp_path / "out",
                  "--model_name", folder, "--n_fragments", 3, "--precision", "float32")  # fmt: skip
    assert outcome.code == 0, outcome.said
    feature = FeatureStore.open(tmp_path / "out").read("a")
    np.testing.assert_allclose(feature.time, [0.5, 1.0, 1.5], atol=1e-3)
    encoder = SpeechEncoder(str(folder), n_fragments=3)
    encoder.prepare(CPU)
    sample = encoder.load(Sound(voice(2.0, rate=rate), rate, 0.0))
    assert [len(window) for window in sample.windows] == [rate] * 3  # a second each
    # A file that already has the rate is not resampled, and loses nothing above 8 kHz: its samples are the model's.
    np.testing.assert_allclose(feature.tokens, encoder.encode([sample], 4)[0].tokens, atol=2e-3)


def test_windows_longer_than_an_extractor_takes_are_cut_with_a_word(
    made: Callable[[str, str], Path], tmp_path: Path, run: Run
) -> None:
    write_wav(tmp_path / "sounds" / "a.wav", voice(30.0), 16_000)
    outcome = run("extract_audio_features", "--input_folder", tmp_path / "sounds", "--output_folder", tmp_path / "out",
                  "--model_name", made("audio-spectrogram-transformer", "ears"), "--n_fragments", 2)  # fmt: skip
    assert outcome.code == 0, outcome.said
    assert "hears 10.24 s at once: of windows of 20.0 s it reads the first part" in outcome.said
    np.testing.assert_allclose(FeatureStore.open(tmp_path / "out").read("a").time, [5.12, 15.12], atol=0.01)


PICTURES = ["vit", "swin", "efficientnet", "siglip", "beit", "resnet"]


@pytest.mark.parametrize("family", PICTURES)
def test_frames_are_what_the_family_itself_makes_of_them(
    made: Callable[[str, str], Path], tmp_path: Path, run: Run, family: str
) -> None:
    from transformers import AutoImageProcessor, AutoModel

    folder, images = made(family, "eyes"), pictures(3)
    write_frames(tmp_path / "frames" / "a", images)
    outcome = run("extract_visual_features", "--input_folder", tmp_path / "frames", "--output_folder", tmp_path / "out",
                  "--model_name", folder, "--precision", "float32")  # fmt: skip
    assert outcome.code == 0, outcome.said
    read = [read_image(path) for path in sorted((tmp_path / "frames" / "a").glob("*.jpg"))]
    network: Any = AutoModel.from_pretrained(folder).eval()
    network = getattr(network, "vision_model", network)
    with torch.inference_mode():
        output = network(**AutoImageProcessor.from_pretrained(folder)(read, return_tensors="pt"))
    hidden = output.last_hidden_state
    expected = {
        "vit": lambda: hidden[:, 0], "siglip": lambda: output.pooler_output,
        "efficientnet": lambda: hidden.mean((2, 3)), "resnet": lambda: hidden.mean((2, 3)),
    }.get(family, lambda: hidden.mean(1))()  # fmt: skip
    found = FeatureStore.open(tmp_path / "out").read("a").tokens
    scale = max(1.0, float(expected.abs().max()))
    np.testing.assert_allclose(found / scale, expected.numpy() / scale, atol=1e-4)


@pytest.mark.parametrize(
    ("command", "family", "reads"),
    [
        ("extract_textual_features", "siglip", "cls"), ("extract_textual_features", "tapas", "cls"),
        ("extract_textual_features", "vit", "cls"), ("extract_audio_features", "bert", "cls"),
        ("extract_audio_features", "vit", "eyes"), ("extract_visual_features", "bert", "cls"),
        ("extract_visual_features", "yolos", "eyes"), ("extract_visual_features", "wav2vec2", "ears"),
        ("extract_textual_features", "whisper", "ears"),
    ],
)  # fmt: skip
def test_the_wrong_kind_of_network_is_one_line_and_says_what_to_take(
    made: Callable[[str, str], Path], tmp_path: Path, run: Run, command: str, family: str, reads: str
) -> None:
    folder = made(family, reads)
    write_frames(tmp_path / "frames" / "a", pictures(2))
    write_wav(tmp_path / "sounds" / "a.wav", voice(1.0), 16_000)
    write_srt(tmp_path / "words" / "a.srt", [(0.0, 1.0, "the fox")])
    option, content = {"extract_textual_features": ("--subtitles", "words"),
                       "extract_audio_features": ("--input_folder", "sounds"),
                       "extract_visual_features": ("--input_folder", "frames")}[command]  # fmt: skip
    outcome = run(command, option, tmp_path / content, "--output_folder", tmp_path / "out", "--model_name", folder)
    assert outcome.code == 2, outcome.said
    assert "Traceback" not in outcome.said
    said = [line for line in outcome.said.splitlines() if str(folder) in line]
    assert len(said) == 1, outcome.said


@pytest.mark.parametrize("vocabulary", ["spiece.model", "sentencepiece.bpe.model", "tokenizer.model"])
def test_a_tokenizer_that_needs_what_is_not_here_is_one_line(
    made: Callable[[str, str], Path], tmp_path: Path, vocabulary: str
) -> None:
    family = {"spiece.model": "t5", "sentencepiece.bpe.model": "xlm-roberta"}.get(vocabulary, "llama")
    folder = copytree(made(family, "cls"), tmp_path / family)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / file).unlink(missing_ok=True)
    (folder / vocabulary).write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02" * 3)
    with pytest.raises(UserError) as error:
        SubtitleEncoder(str(folder)).prepare(CPU)
    one_line(error.value, folder)


# The commonest heads of the published checkpoints: the network below them is read, and nothing else is lost.
HEADS = [
    ("bert", "MaskedLM"), ("roberta", "SequenceClassification"), ("gpt2", "CausalLM"), ("gpt_neox", "CausalLM"),
    ("llama", "CausalLM"), ("llama", "SequenceClassification"), ("xlnet", "CausalLM"), ("t5", "Seq2SeqLM"),
    ("bart", "Seq2SeqLM"), ("marian", "Seq2SeqLM"), ("pegasus", "Seq2SeqLM"), ("mt5", "SequenceClassification"),
    ("electra", "PreTraining"), ("rwkv", "CausalLM"), ("whisper", "SpeechSeq2Seq"), ("wav2vec2", "CTC"),
    ("hubert", "AudioClassification"), ("audio-spectrogram-transformer", "AudioClassification"),
    ("vit", "ImageClassification"), ("convnext", "ImageClassification"), ("efficientnet", "ImageClassification"),
    ("swin", "ImageClassification"), ("swiftformer", "ImageClassification"), ("beit", "ImageClassification"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "head"), HEADS)
def test_a_checkpoint_with_its_head_is_the_network_below_it(
    families: Any, tmp_path: Path, family: str, head: str
) -> None:
    import transformers

    from viper.encoders.pretrained import load_transformers_model

    whole = families.network_of(family, getattr(transformers, f"AutoModelFor{head}"))
    assert whole is not None
    whole.save_pretrained(tmp_path / family)
    found = load_transformers_model(transformers.AutoModel, str(tmp_path / family)).state_dict()
    base = whole.base_model.state_dict()
    for name in found.keys() & base.keys():
        if family == "marian" and "embed_positions" in name:
            continue  # sines, which no file has
        assert torch.equal(found[name].float(), base[name].float()), name
    assert len(found.keys() & base.keys()) > 0.7 * len(found)
