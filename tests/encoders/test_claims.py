"""What a model's files claim: sizes without weights, settings that make no sense, weights that are not there."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from hostile import changed, refused, reweighted, tried
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from viper.encoders.clip_prompts import PromptEncoder, Prompts
from viper.encoders.image import ImageEncoder
from viper.encoders.multitask import MultitaskEncoder
from viper.encoders.pretrained import load_transformers_model
from viper.encoders.speech import SpeechEncoder
from viper.encoders.subtitles import SubtitleEncoder
from viper.encoders.video import VideoEncoder
from viper.engine.device import Runtime

CPU = Runtime(torch.device("cpu"))
HUGE: Any = 10**9


def prepared(encoder: Callable[..., Any], *arguments: Any) -> None:
    encoder(*arguments).prepare(CPU)


@pytest.mark.parametrize(
    "claim",
    tried([
        {"num_hidden_layers": 10**6}, {"num_hidden_layers": 900}, {"num_labels": 1 << 20},
        {"hidden_size": 10**6}, {"hidden_size": 4096},
        {"intermediate_size": 10**8}, {"image_size": 10**6}, {"image_size": 2048}, {"image_size": 1e9},
        {"patch_size": 0}, {"patch_size": [1, 1]}, {"num_attention_heads": 0}, {"num_attention_heads": -2},
        {"hidden_act": "os.system"}, {"hidden_size": None}, {"hidden_size": "32"}, {"hidden_size": True},
        {"hidden_size": {"a": 1}}, {"hidden_size": -32}, {"num_channels": HUGE}, {"num_labels": HUGE},
        {"num_hidden_layers": 0}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"layer_norm_eps": float("nan")},
        {"model_type": None}, {"model_type": ["vit"]}, {"model_type": "timm_wrapper", "architecture": "hf-hub:a/b"},
        {"backbone": "a/b"}, {"quantization_config": {"quant_method": "gptq"}}, "[]", "[" * 100_000, "1" * 10_000, "",
    ]),
    ids=lambda claim: str(claim)[:50],
)  # fmt: skip
def test_an_impossible_config_is_one_line(vit: Path, tmp_path: Path, claim: Any) -> None:
    folder = changed(vit, tmp_path / "vit", "config.json", claim)
    with refused(str(folder)):
        prepared(ImageEncoder, str(folder))


@pytest.mark.parametrize(
    "claim",
    tried([
        {"size": 10**6}, {"size": {"height": HUGE, "width": HUGE}}, {"size": {"shortest_edge": -3}}, {"size": None},
        {"size": "224"}, {"size": []}, {"image_std": [0, 0, 0]}, {"image_std": [1.0]}, {"image_mean": float("nan")},
        {"image_mean": None}, {"rescale_factor": float("inf")}, {"rescale_factor": "0.1"}, {"resample": 99},
        {"image_processor_type": "TimmWrapperImageProcessor"}, {"image_processor_type": "os.system"},
        {"crop_size": HUGE, "do_center_crop": True}, "null",
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 1e-9},
        {"image_processor_type": "GLPNImageProcessor", "size_divisor": 10**6, "do_resize": True},
    ]),
    ids=lambda claim: str(claim)[:50],
)  # fmt: skip
def test_an_impossible_processor_is_one_line(vit: Path, tmp_path: Path, claim: Any) -> None:
    folder = changed(vit, tmp_path / "vit", "preprocessor_config.json", claim)
    with refused(str(folder)):
        prepared(ImageEncoder, str(folder))


@pytest.mark.parametrize(
    ("file", "claim"),
    tried([
        ("config.json", {"num_hidden_layers": 10**6}), ("config.json", {"conv_dim": [HUGE] * 7}),
        ("config.json", {"conv_dim": []}), ("config.json", {"conv_stride": [0] * 7}),
        ("config.json", {"conv_kernel": 3}),
        ("config.json", {"num_conv_pos_embeddings": HUGE}), ("config.json", {"num_conv_pos_embedding_groups": 0}),
        ("preprocessor_config.json", {"sampling_rate": HUGE}), ("preprocessor_config.json", {"sampling_rate": None}),
        ("preprocessor_config.json", {"sampling_rate": 0}),
        ("preprocessor_config.json", {"padding_value": float("nan")}),
        ("preprocessor_config.json", {"feature_extractor_type": "WhisperFeatureExtractor"}),
        ("preprocessor_config.json",
         {"feature_extractor_type": "WhisperFeatureExtractor", "n_fft": HUGE, "chunk_length": HUGE}),
        ("preprocessor_config.json", {"feature_extractor_type": "os.system"}),
        ("preprocessor_config.json",
         {"feature_extractor_type": "SpeechT5FeatureExtractor", "win_length": 1 << 20, "num_mel_bins": 80}),
        ("preprocessor_config.json", {"feature_extractor_type": "ASTFeatureExtractor", "max_length": 1 << 20}),
    ]),
    ids=str,
)  # fmt: skip
def test_an_impossible_network_of_sound_is_one_line(wav2vec2: Path, tmp_path: Path, file: str, claim: Any) -> None:
    folder = changed(wav2vec2, tmp_path / "wav2vec2", file, claim)
    with refused(str(folder)):
        prepared(SpeechEncoder, str(folder))


@pytest.mark.parametrize(
    ("file", "claim"),
    tried([
        ("config.json", {"vocab_size": 10**8}), ("config.json", {"vocab_size": 7}),
        ("config.json", {"max_position_embeddings": HUGE}), ("config.json", {"max_position_embeddings": 2}),
        ("config.json", {"type_vocab_size": HUGE}), ("config.json", {"pad_token_id": 10**6}),
        ("config.json", {"model_type": "t5"}), ("tokenizer_config.json", {"model_max_length": -4}),
        ("tokenizer_config.json", {"pad_token": None}), ("tokenizer_config.json", "[]"),
        ("tokenizer.json", "{"), ("tokenizer.json", ""),
    ]),
    ids=str,
)  # fmt: skip
def test_an_impossible_network_of_words_is_one_line(roberta: Path, tmp_path: Path, file: str, claim: Any) -> None:
    folder = changed(roberta, tmp_path / "roberta", file, claim)
    with refused(str(folder)):
        prepared(SubtitleEncoder, str(folder))


@pytest.mark.parametrize(
    "claim", [{"num_frames": HUGE}, {"num_frames": 0}, {"num_frames": "4"}, {"tubelet_size": 0}, {"image_size": 2048}],
    ids=str,
)  # fmt: skip
def test_an_impossible_network_of_windows_is_one_line(
    folder_of: Callable[[str], Path], tmp_path: Path, claim: Any
) -> None:
    source = folder_of("claims_videomae")
    if not source.exists():
        checkpoints.write_videomae(source)
    folder = changed(source, tmp_path / "videomae", "config.json", claim)
    with refused():
        prepared(VideoEncoder, str(folder))


def model_cfg(**parts: Any) -> dict[str, Any]:
    """An open_clip_config.json in which parts of the small CLIP's say something else."""
    config = json.loads(json.dumps(checkpoints.CLIP_CONFIG))
    for name, part in parts.items():
        config[name] = {**config[name], **part} if isinstance(part, dict) and name in config else part
    return {"model_cfg": config}


@pytest.mark.parametrize(
    "claim",
    tried([
        model_cfg(vision_cfg={"layers": 10**6}), model_cfg(vision_cfg={"layers": 900}), model_cfg(embed_dim=10**6),
        model_cfg(vision_cfg={"width": 10**6}), model_cfg(vision_cfg={"image_size": 10**6}), model_cfg(embed_dim=None),
        model_cfg(vision_cfg={"image_size": 64}), model_cfg(vision_cfg={"patch_size": 0}), model_cfg(embed_dim="16"),
        model_cfg(vision_cfg={"head_width": 0}), model_cfg(vision_cfg=None), model_cfg(text_cfg=[]),
        model_cfg(text_cfg={"vocab_size": 10**8}), model_cfg(text_cfg={"vocab_size": 10}),
        model_cfg(text_cfg={"context_length": 10**6}), model_cfg(text_cfg={"context_length": None}),
        model_cfg(text_cfg={"heads": -1}), model_cfg(text_cfg={"hf_model_name": "nobody/words"}),
        model_cfg(text_cfg={"hf_tokenizer_name": "nobody/words"}), model_cfg(vision_cfg={"layers": float("nan")}),
        model_cfg(vision_cfg={"timm_model_name": "hf-hub:nobody/pictures"}), model_cfg(own_cfg={"a": 1}),
        model_cfg(vision_cfg={"timm_model_name": "local-dir:/"}), model_cfg(text_cfg={"tokenizer_kwargs": {"use": 1}}),
        model_cfg(vision_cfg={"timm_model_name": "vit_giant_patch14_224"}), {"model_cfg": None}, "[]",
        {"preprocess_cfg": {"mean": [1.0]}}, {"preprocess_cfg": {"std": [0, 0, 0]}}, {"preprocess_cfg": {"size": HUGE}},
        {"preprocess_cfg": {"interpolation": "os.system"}}, {"preprocess_cfg": []},
    ]),
    ids=lambda claim: str(claim)[-60:],
)  # fmt: skip
def test_an_impossible_network_of_prompts_is_one_line(clip: Path, roberta: Path, tmp_path: Path, claim: Any) -> None:
    folder = changed(clip, tmp_path / "clip", "open_clip_config.json", claim)
    with refused():
        prepared(PromptEncoder, Prompts(("a face",), ("joy",)), str(folder), "openai", None, str(roberta))


@pytest.mark.parametrize(
    "claim",
    tried([
        {"backbone": "hf-hub:nobody/pictures"}, {"backbone": "local-dir:/"}, {"backbone": "vit_giant_patch14_224"},
        {"backbone": None}, {"n_au": 10**6}, {"n_au": 5}, {"n_emotion": HUGE}, {"afg_channels": 10**6},
        {"afg_channels": None}, {"gcn_layers": 10**6}, {"image_size": HUGE}, {"unified_lmk_dim": -1}, None,
    ]),
    ids=str,
)  # fmt: skip
def test_an_impossible_network_of_action_units_is_one_line(multitask: Path, tmp_path: Path, claim: Any) -> None:
    path = tmp_path / "multitask.safetensors"
    with safe_open(multitask, "pt") as opened:
        config = json.loads(opened.metadata()["config"])
    config = None if claim is None else {**config, **claim}
    if claim in ({"gcn_layers": 10**6}, {"image_size": HUGE}):
        config["drop_mefl"] = False
    save_file(load_file(multitask), path, metadata={"config": json.dumps(config)})
    with refused():
        prepared(MultitaskEncoder, path)


def lacking(state: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(state.items())[1:])


def misshapen(state: dict[str, Any]) -> dict[str, Any]:
    return {key: tensor.repeat(*[2] * tensor.ndim) if tensor.ndim > 1 else tensor for key, tensor in state.items()}


def not_finite(state: dict[str, Any]) -> dict[str, Any]:
    return {key: tensor * float("nan") if tensor.ndim > 1 else tensor for key, tensor in state.items()}


def whole_numbers(state: dict[str, Any]) -> dict[str, Any]:
    return {key: tensor.to(torch.int64) for key, tensor in state.items()}


@pytest.mark.parametrize("wrong", [lacking, misshapen, not_finite, whole_numbers], ids=lambda wrong: wrong.__name__)
@pytest.mark.parametrize("name", ["vit", "xvector", "wav2vec2", "roberta", "clip", "multitask"])
def test_weights_that_are_not_all_there_are_refused_by_every_encoder(
    request: pytest.FixtureRequest, roberta: Path, tmp_path: Path, name: str, wrong: Any
) -> None:
    source = request.getfixturevalue(name)
    if name == "multitask":
        weights = model = Path(shutil.copy(source, tmp_path / "own.safetensors"))
    else:
        model = shutil.copytree(source, tmp_path / "own")
        weights = model / ("open_clip_model.safetensors" if name == "clip" else "model.safetensors")
    reweighted(weights, wrong)
    encoders: dict[str, tuple[Any, ...]] = {
        "vit": (ImageEncoder, str(model)), "roberta": (SubtitleEncoder, str(model)),
        "multitask": (MultitaskEncoder, model),
        "clip": (PromptEncoder, Prompts(("a face",), ("joy",)), str(model), "openai", None, str(roberta)),
    }  # fmt: skip
    with refused("own"):
        prepared(*encoders.get(name, (SpeechEncoder, str(model))))


def test_a_file_may_not_be_more_than_it_is(vit: Path, tmp_path: Path) -> None:
    state = load_file(vit / "model.safetensors")
    for name, write in {
        "shared": lambda path: torch.save({key: torch.zeros(1).expand(1 << 30) for key in state}, path),
        "bomb": lambda path: squeezed(state, path),
        "bytes": lambda path: torch.save({**state, "more": Bytes()}, path),
        "bytes of old": lambda path: torch.save({**state, "more": Bytes()}, path, _use_new_zipfile_serialization=False),
        "quantised": lambda path: torch.save(
            {"a": torch.quantize_per_tensor(torch.ones(4), 1.0, 0, torch.qint8)}, path
        ),
    }.items():
        folder = shutil.copytree(vit, tmp_path / name)
        (folder / "model.safetensors").unlink()
        write(folder / "pytorch_model.bin")
        with refused(str(folder)):
            load_transformers_model(AutoModel, str(folder))


def test_a_header_that_lists_tensors_without_end_is_not_parsed(vit: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(vit, tmp_path / "vit")
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"tensor{number}": empty for number in range(80_000)}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with refused("a header of", seconds=2.0):
        load_transformers_model(AutoModel, str(folder))


class Bytes:
    """Unpickled, it takes three gigabytes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (3 * 10**9,)


def squeezed(state: Any, path: Path) -> None:
    """The same file, with more zeros behind its weights than it has bytes."""
    torch.save(state, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/zeros", bytes(1 << 24))


@pytest.mark.parametrize("part", ["../vit/model.safetensors", "/etc/passwd", "model.bin", "", None, 3, ["a"]], ids=str)
def test_an_index_names_files_of_its_own_folder(vit: Path, tmp_path: Path, part: Any) -> None:
    shutil.copytree(vit, tmp_path / "vit")
    folder = shutil.copytree(vit, tmp_path / "parts")
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"layernorm.weight": part}}))
    with refused(str(index)):
        load_transformers_model(AutoModel, str(folder))


def test_weights_in_several_files_are_read(vit: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(vit, tmp_path / "parts")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {key: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(state)}
    for name in set(names.values()):
        save_file({key: state[key] for key in state if names[key] == name}, folder / name, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    whole, parts = (load_transformers_model(AutoModel, str(path)).state_dict() for path in (vit, folder))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
