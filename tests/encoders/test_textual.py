"""Prompts chosen by CLIP and encoded by RoBERTa."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import open_clip
import pytest
import torch
from checkpoints import class_tokens
from clips import in_memory, pictures, write_frames, write_srt
from conftest import Run
from PIL import Image
from transformers import RobertaModel

from viper.encoders.clip_prompts import PromptEncoder, Prompts, load_prompts
from viper.encoders.subtitles import SubtitleEncoder
from viper.engine.device import Runtime
from viper.errors import UserError
from viper.media.pictures import read_image
from viper.store import FeatureStore
from viper.task import load_task

CPU = Runtime(torch.device("cpu"))
SENTENCES = ("a face that laughs", "someone is afraid", "tears", "a person with a calm face who waits", "wow!", "x y z")
PROMPTS = Prompts(SENTENCES, ("Amusement", "Fear", "Empathic-Pain", "neutral", "Surprise", "neutral"))


def prepared(clip: Path | str, roberta: Path, prompts: Prompts = PROMPTS, **options: Any) -> PromptEncoder:
    encoder = PromptEncoder(prompts, str(clip), text_model=str(roberta), **options)
    encoder.prepare(CPU)
    return encoder


@torch.inference_mode()
def directions(
    network: Any, preprocess: Any, images: list[np.ndarray], sentences: tuple[str, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors of the pictures and of the sentences, by open_clip's own preprocessing and calls."""
    pixels = torch.stack([preprocess(Image.fromarray(image)) for image in images])
    tokens = open_clip.SimpleTokenizer(context_length=network.context_length)(list(sentences))
    embeddings = network.eval().encode_image(pixels), network.encode_text(tokens)
    seen, read = (embedding / embedding.norm(dim=-1, keepdim=True) for embedding in embeddings)
    return seen, read


def chosen_by(network: Any, preprocess: Any, images: list[np.ndarray], sentences: tuple[str, ...]) -> np.ndarray:
    """The prompt that lies nearest to each picture."""
    seen, read = directions(network, preprocess, images, sentences)
    return (seen @ read.T).argmax(dim=1).numpy()


def test_every_word_goes_into_every_pattern_and_the_neutral_sentences_stay(tmp_path: Path) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(
        "patterns: ['a person who {word}', '{word}, on a face']\n"
        "emotions: {Fear: [trembles, hides], Joy: [laughs]}\n"
        "neutral: [a face]\n"
    )
    prompts = load_prompts(path)
    assert prompts.sentences == (
        "a person who trembles", "trembles, on a face", "a person who hides", "hides, on a face",
        "a person who laughs", "laughs, on a face", "a face",
    )  # fmt: skip
    assert prompts.emotions == ("Fear",) * 4 + ("Joy",) * 2 + ("neutral",)


def test_the_shipped_prompts_name_every_target_of_their_task() -> None:
    task = load_task("hume_reaction")
    assert task.prompts is not None
    prompts = load_prompts(task.prompts)
    assert set(prompts.emotions) == {*task.targets, "neutral"}
    assert len(set(prompts.sentences)) == len(prompts.sentences) >= 50
    assert not [sentence for sentence in prompts.sentences if "{" in sentence]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patterns: [a face]\nemotions: {Joy: [laughs]}\nneutral: [x]", "has no {word} in it"),
        ("patterns: ['{word}']\nemotions: {Joy: []}\nneutral: [x]", "emotions.Joy must be a list"),
        ("patterns: ['{word}']\nemotions: {Joy: [laughs]}", "keys patterns, emotions and neutral"),
        ("patterns: [", "cannot be read"),
    ],
)
def test_a_wrong_prompt_list_is_refused_by_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_prompts(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_frames_token_is_the_class_token_of_the_prompt_clip_finds_nearest(clip: Path, roberta: Path) -> None:
    images = pictures(12) + pictures(12, seed=1, height=30, width=70)
    network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip}")
    best = chosen_by(network, preprocess, images, SENTENCES)
    assert len(set(best.tolist())) >= 3  # or the choice would not be seen
    encoder = prepared(clip, roberta)
    (feature,) = encoder.encode([encoder.load(in_memory(images))], 5)
    np.testing.assert_allclose(feature.tokens, class_tokens(roberta, list(SENTENCES))[best], atol=1e-5)
    np.testing.assert_allclose(feature.time, np.arange(24) / 10, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_a_feature_does_not_depend_on_its_batch(clip: Path, roberta: Path, batch_size: int) -> None:
    encoder = prepared(clip, roberta)
    clips = [pictures(n, seed=n) for n in (1, 0, 6, 3)]
    together = encoder.encode([encoder.load(in_memory(images)) for images in clips], batch_size)
    assert together[1].tokens.shape == (1, checkpoints.WIDTH)
    assert not together[1].mask.any()
    for images, feature in zip(clips, together, strict=True):
        (alone,) = encoder.encode([encoder.load(in_memory(images))], 64)
        np.testing.assert_array_equal(feature.tokens, alone.tokens)


@pytest.mark.parametrize("mode", [{}, {"interpolation": "bilinear"}, {"resize_mode": "squash"}])
def test_the_network_is_given_what_open_clips_own_transform_makes(
    tmp_path: Path, roberta: Path, mode: dict[str, str]
) -> None:
    """Within 1e-6, while one byte's step is 1/255 / std, at least 0.0039: no byte differs."""
    folder = checkpoints.write_open_clip(tmp_path / "clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"] |= mode
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    encoder = prepared(folder, roberta)
    for height, width in ((48, 40), (30, 70), (480, 640)):
        images = pictures(3, height=height, width=width)
        inputs = encoder.inputs(torch.from_numpy(encoder.load(in_memory(images)).rows))
        expected = torch.stack([transform(Image.fromarray(image)) for image in images])
        torch.testing.assert_close(inputs, expected, rtol=0, atol=1e-6)


def test_frames_without_a_face_are_masked(clip: Path, roberta: Path) -> None:
    encoder = prepared(clip, roberta)
    (feature,) = encoder.encode([encoder.load(in_memory(pictures(3), [True, True, False]))], 64)
    assert feature.mask.tolist() == [True, True, False]
    assert not feature.tokens[2].any()
    assert feature.tokens[:2].any(axis=1).all()


def test_the_text_models_read_the_prompts_once_and_nothing_for_a_frame(
    clip: Path, roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    passed: list[type] = []
    counted = (RobertaModel, open_clip.transformer.Transformer, open_clip.transformer.VisionTransformer)

    def count(module: Any, args: Any, output: Any) -> None:
        if isinstance(module, counted):
            passed.append(type(module))

    encoder = PromptEncoder(PROMPTS, str(clip), text_model=str(roberta))
    handle = torch.nn.modules.module.register_module_forward_hook(count)
    try:
        encoder.prepare(CPU)
        # Both also try what they have been given: a word, three sentences alone and together, and a black picture.
        assert passed.count(RobertaModel) == 5 + 1
        assert passed.count(open_clip.transformer.Transformer) == 2
        passed.clear()
        for seed in range(3):
            encoder.encode([encoder.load(in_memory(pictures(4, seed=seed)))], 2)
        of_frames = list(passed)
        passed.clear()
        again = PromptEncoder(PROMPTS, str(clip), text_model=str(roberta))
        again.prepare(CPU)
    finally:
        handle.remove()
    # Twelve frames by twos; the one Transformer inside each picture's half, and none for text.
    assert of_frames.count(open_clip.transformer.VisionTransformer) == 6
    assert of_frames.count(open_clip.transformer.Transformer) == 6
    assert RobertaModel not in of_frames
    # Another run has the prompts' embeddings from this one, the same ones, and tries the black picture only.
    assert passed.count(open_clip.transformer.Transformer) == 1
    assert RobertaModel not in passed
    np.testing.assert_array_equal(again._prompt_tokens, encoder._prompt_tokens)
    np.testing.assert_array_equal(again._prompt_directions, encoder._prompt_directions)
    assert again.info() == encoder.info()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights of the same architecture."""
    return checkpoints.write_open_clip(tmp_path_factory.mktemp("clip") / "tuned", seed=7)


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return open_clip.create_model(f"local-dir:{folder}").state_dict()


def test_a_checkpoint_replaces_the_weights_however_it_is_wrapped(
    clip: Path, tuned: Path, roberta: Path, tmp_path: Path
) -> None:
    state = state_of(tuned)
    wrappings = {
        "bare.pt": state,
        "wrapped.pt": {"epoch": 3, "model_state_dict": state},
        "lightning.ckpt": {"state_dict": state},
        "parallel.pt": {f"module.{name}": tensor for name, tensor in state.items()},
    }
    images = in_memory(pictures(16))
    expected, original = prepared(tuned, roberta), prepared(clip, roberta)
    wanted = expected.encode([expected.load(images)], 8)[0].tokens
    assert np.abs(wanted - original.encode([original.load(images)], 8)[0].tokens).max() > 0.1
    for name, content in wrappings.items():
        torch.save(content, tmp_path / name)
        encoder = prepared(clip, roberta, clip_checkpoint_path=tmp_path / name)
        np.testing.assert_array_equal(encoder.encode([encoder.load(images)], 8)[0].tokens, wanted)
        assert encoder.info().difference(expected.info()) is None
    assert original.info().difference(expected.info()) is not None


def test_a_pickle_with_a_payload_is_refused_and_not_run(clip: Path, roberta: Path, tmp_path: Path) -> None:
    marker = checkpoints.write_malicious(tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt: cannot be read as plain tensors .*nothing of it was run"):
        prepared(clip, roberta, clip_checkpoint_path=tmp_path / "evil.pt")
    assert not marker.exists()
    # The same where open_clip would find it by itself.
    folder = checkpoints.write_open_clip(tmp_path / "folder")
    (folder / "open_clip_model.safetensors").unlink()
    marker = checkpoints.write_malicious(folder / "open_clip_pytorch_model.bin")
    with pytest.raises(UserError, match=r"folder.*: .*, or more than plain tensors"):
        prepared(folder, roberta)
    assert not marker.exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "evil.pt.ran").exists()  # so it would have run


def test_a_checkpoint_of_another_architecture_is_refused_in_one_line(clip: Path, roberta: Path, tmp_path: Path) -> None:
    config = {**checkpoints.CLIP_CONFIG, "embed_dim": 24}
    torch.save(open_clip.CLIP(**config).state_dict(), tmp_path / "other.pt")
    torch.save({"model_state_dict": {"a": 1}}, tmp_path / "numbers.pt")
    for name, message in (("other.pt", "does not fit"), ("numbers.pt", "is not a state dict"), ("none.pt", "no such")):
        with pytest.raises(UserError) as error:
            prepared(clip, roberta, clip_checkpoint_path=tmp_path / name)
        assert message in str(error.value)
        assert name in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["missing", "truncated", "lacking"])
def test_a_folder_without_good_weights_is_refused_and_not_left_random(
    roberta: Path, tmp_path: Path, damage: str
) -> None:
    from safetensors.torch import load_file, save_file

    folder = checkpoints.write_open_clip(tmp_path / "clip")
    weights = folder / "open_clip_model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        save_file({n: t for n, t in load_file(weights).items() if n != "ln_final.weight"}, weights)
    with pytest.raises(UserError, match=r"clip.*: (has no weights|cannot be read as plain|does not fit)") as error:
        prepared(folder, roberta)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["tag", "checkpoint"])
def test_published_weights_bring_their_activation_and_so_does_what_was_trained_from_them(
    clip: Path, roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    # OpenAI's weights want QuickGELU, which the architecture's name does not say. Here a tiny architecture has such.
    weights = str(clip / "open_clip_model.safetensors")
    published = {"file": weights, "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.4, 0.3)}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", checkpoints.CLIP_CONFIG)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"openai": published})
    torch.save(state_of(clip), tmp_path / "tuned.pt")
    own = tmp_path / "tuned.pt" if source == "checkpoint" else None
    encoder = prepared("tiny", roberta, clip_checkpoint_path=own)

    images, off = pictures(1), {}
    for quick in (True, False):
        network, _, preprocess = open_clip.create_model_and_transforms(
            "tiny", weights, force_quick_gelu=quick, image_mean=(0.1, 0.2, 0.3), image_std=(0.5, 0.4, 0.3)
        )
        _, read = directions(network, preprocess, images, SENTENCES)
        off[quick] = float((encoder._prompt_directions - read).abs().max())
    assert off[True] < 1e-6
    assert off[False] > 1e-3
    assert tuple(encoder._preprocessing["mean"]) == (0.1, 0.2, 0.3)
    assert encoder.info().options["clip_quick_gelu"]


def test_the_default_weights_are_known_to_need_quick_gelu() -> None:
    assert open_clip.get_pretrained_cfg("ViT-B-32", "openai")["quick_gelu"]


@pytest.mark.parametrize(
    ("model", "tag", "message"),
    [
        ("ViT-B-32", "openai", "`hf download timm/vit_base_patch32_clip_224.openai --local-dir FOLDER`"),
        ("ViT-B-32", "nonsense", "--clip_pretrained nonsense: of ViT-B-32 there are openai, "),
        ("ViT-B-33", "openai", "--clip_model ViT-B-33: neither a folder nor an architecture"),
    ],
)
def test_weights_that_are_not_here_are_one_line_that_says_how_to_get_them(
    roberta: Path, model: str, tag: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError) as error:
        prepared(model, roberta, clip_pretrained=tag)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not caplog.records  # open_clip would say its own piece, on the root logger


def test_workers_get_the_encoder_without_its_weights(clip: Path, roberta: Path) -> None:
    encoder = prepared(clip, roberta)
    sent = pickle.dumps(encoder)
    assert len(sent) < 20_000 < (clip / "open_clip_model.safetensors").stat().st_size
    images = in_memory(pictures(3))
    np.testing.assert_array_equal(pickle.loads(sent).load(images).rows, encoder.load(images).rows)
    assert len(pickle.dumps(SubtitleEncoder(str(roberta)))) < 1000


def test_the_command_on_frames(clip: Path, roberta: Path, tmp_path: Path, run: Run) -> None:
    write_frames(tmp_path / "frames" / "1", pictures(6))
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(
        "patterns: ['{word}']\nemotions: {Joy: [laughs, grins, smiles], Fear: [hides]}\nneutral: [a face]\n"
    )
    (tmp_path / "task.yaml").write_text("name: mine\nkind: regression\ntargets: [Joy, Fear]\nprompts: prompts.yaml\n")
    torch.save({"model_state_dict": state_of(clip)}, tmp_path / "own.pt")
    outcome = run(
        "extract_textual_features", "--input_folder", tmp_path / "frames", "--output_folder", tmp_path / "out",
        "--clip_model", clip, "--clip_checkpoint_path", tmp_path / "own.pt", "--model_name", roberta,
        "--task", tmp_path / "task.yaml", "--batch_size", 4,
    )  # fmt: skip
    assert outcome.code == 0, outcome.said
    network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip}")
    images = [read_image(tmp_path / "frames" / "1" / f"frame_{i}.jpg") for i in range(6)]
    sentences = load_prompts(prompts).sentences
    best = chosen_by(network, preprocess, images, sentences)
    expected = class_tokens(roberta, list(sentences))[best]
    np.testing.assert_allclose(FeatureStore.open(tmp_path / "out").read("1").tokens, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model_name", "hashed"], "give --subtitles FOLDER"),
        (
            ["--model_name", "clip", "--subtitles", "."],
            "reads frames, not subtitles; for subtitles give roberta-base or hashed",
        ),
        (["--model_name", "robert"], "must be clip, roberta-base, hashed, a local folder or a hub id"),
        (["--task", "demo_that_is_not"], "no such card"),
    ],
)
def test_options_that_cannot_go_together(tmp_path: Path, run: Run, options: list[str], message: str) -> None:
    write_frames(tmp_path / "frames" / "1", pictures(1))
    write_srt(tmp_path / "frames" / "1.srt", [(0, 1, "words")])
    given = [str(tmp_path / "frames") if option == "." else option for option in options]
    outcome = run(
        "extract_textual_features", "--input_folder", tmp_path / "frames", "--output_folder", tmp_path / "out", *given
    )
    assert outcome.code == 2
    assert message in outcome.said
    assert len(outcome.said.strip().splitlines()) == 1


def test_the_short_name_clip_is_the_default(clip: Path, tmp_path: Path, run: Run) -> None:
    write_frames(tmp_path / "frames" / "1", pictures(1))
    said = [
        run("extract_textual_features", "--input_folder", tmp_path / "frames", "--output_folder", tmp_path / "out",
            "--clip_model", clip, *options).said
        for options in ([], ["--model_name", "clip"], ["--model_name", "roberta-base"])
    ]  # fmt: skip
    assert "hf download FacebookAI/roberta-base" in said[0]
    assert said[0] == said[1] == said[2]
