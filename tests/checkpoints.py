"""Tiny checkpoints with random weights, in the layout the published ones have on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

SIDE = 32  # pixels of the pictures these models read
WIDTH = 32  # their hidden size
XVECTOR_WIDTH = 24

# The usual 0.02 makes all inputs' outputs nearly the same, and a test that mixes two of them up would pass.
_SPREAD = 0.3
_TRANSFORMER: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": _SPREAD,
}
_SPEECH: dict[str, Any] = {
    **_TRANSFORMER,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
    "feat_extract_norm": "group",
}

State = dict[str, torch.Tensor]


def seeded(seed: int, make: Callable[[], Any]) -> Any:
    """What `make` answers when torch's generator starts from `seed`; the generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def write_vit(folder: Path, seed: int = 0, **processor: Any) -> Path:
    """A ViTModel with its image processor, as google/vit-base-patch16-224-in21k is."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(**_TRANSFORMER, image_size=SIDE, patch_size=8)
    seeded(seed, lambda: ViTModel(config)).save_pretrained(folder)
    options = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    ViTImageProcessor(**{**options, **processor}).save_pretrained(folder)
    return folder


def write_vit_classifier(folder: Path, seed: int = 0) -> Path:
    """A ViTForImageClassification, as nateraw/vit-age-classifier is: a head, and no pooler."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(**{**_TRANSFORMER, "image_size": SIDE, "patch_size": 8, "num_labels": 9})
    seeded(seed, lambda: ViTForImageClassification(config)).save_pretrained(folder)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def write_resnet(folder: Path) -> Path:
    """A ResNetModel: an encoder that answers feature maps, and whose processor cuts out the middle."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    seeded(0, lambda: ResNetModel(config)).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": SIDE}, crop_pct=0.8).save_pretrained(folder)
    return folder


def write_transformers_clip(folder: Path) -> Path:
    """A CLIPModel of transformers, both halves, as openai/clip-vit-base-patch32 is."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    halves = {key: value for key, value in _TRANSFORMER.items() if key != "initializer_range"}
    config = CLIPConfig(
        text_config={**halves, "vocab_size": 64},
        vision_config={**halves, "image_size": SIDE, "patch_size": 8},
        projection_dim=16,
    )
    seeded(0, lambda: CLIPModel(config)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE).save_pretrained(folder)
    return folder


FRAMES = 4  # that the video networks below read at once
_VIDEO: dict[str, Any] = {**_TRANSFORMER, "image_size": SIDE, "num_frames": FRAMES, "num_labels": 5}


def shaken(network: Any) -> Any:
    """The network with noise on all weights: those that start as zeros or ones would hide that they are not read."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return network


def write_videomae(folder: Path, head: str = "classifier", seed: int = 0, **options: Any) -> Path:
    """A VideoMAE: "classifier" as MCG-NJU/videomae-base-finetuned-kinetics, of "pretraining", or with no head ("")."""
    from transformers import (
        VideoMAEConfig,
        VideoMAEForPreTraining,
        VideoMAEForVideoClassification,
        VideoMAEImageProcessor,
        VideoMAEModel,
    )

    classes: dict[str, Any] = {"classifier": VideoMAEForVideoClassification, "pretraining": VideoMAEForPreTraining}
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
               "decoder_intermediate_size": 16}  # fmt: skip
    pooling = {"use_mean_pooling": head == "classifier"}
    config = VideoMAEConfig(**{**_VIDEO, **decoder, **pooling, "patch_size": 8, **options})
    seeded(seed, lambda: shaken(classes.get(head, VideoMAEModel)(config))).save_pretrained(folder)
    _square(VideoMAEImageProcessor).save_pretrained(folder)
    return folder


def write_timesformer(folder: Path, seed: int = 0) -> Path:
    """A TimeSformer with a classifier, as facebook/timesformer-base-finetuned-k400 is."""
    from transformers import TimesformerConfig, TimesformerForVideoClassification, VideoMAEImageProcessor

    config = TimesformerConfig(**_VIDEO, patch_size=8)
    seeded(seed, lambda: shaken(TimesformerForVideoClassification(config))).save_pretrained(folder)
    _square(VideoMAEImageProcessor).save_pretrained(folder)
    return folder


def write_vivit(folder: Path, seed: int = 0) -> Path:
    """A ViViT with a classifier, as google/vivit-b-16x2-kinetics400 is: its processor takes 1 off."""
    from transformers import VivitConfig, VivitForVideoClassification, VivitImageProcessor

    config = VivitConfig(**_VIDEO, tubelet_size=[2, 8, 8])
    seeded(seed, lambda: shaken(VivitForVideoClassification(config))).save_pretrained(folder)
    _square(VivitImageProcessor, rescale_factor=1 / 127.5).save_pretrained(folder)
    return folder


def _square(processor: Any, **options: Any) -> Any:
    size = {"size": {"shortest_edge": SIDE + 4}, "crop_size": {"height": SIDE, "width": SIDE}}
    return processor(**size, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], **options)


def write_xvector(folder: Path) -> Path:
    """A WavLMForXVector with its TDNN, as microsoft/wavlm-base-plus-sv is."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    config = WavLMConfig(**_SPEECH, tdnn_dim=(32, 32, 32, 32, 48), xvector_output_dim=XVECTOR_WIDTH)
    seeded(0, lambda: WavLMForXVector(config)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder)
    return folder


def write_wav2vec2(folder: Path, do_normalize: bool = True) -> Path:
    """A Wav2Vec2Model with group norm, as facebook/wav2vec2-base is."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    config = Wav2Vec2Config(**_SPEECH)
    seeded(0, lambda: Wav2Vec2Model(config)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=do_normalize, return_attention_mask=False).save_pretrained(folder)
    return folder


def write_roberta(folder: Path) -> Path:
    """A RobertaModel with a byte-level BPE tokenizer trained here."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizerFast

    folder.mkdir(parents=True)
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(["a face of a person who laughs"] * 4, 300, 1, special_tokens=special)
    tokenizer.save_model(str(folder))
    RobertaTokenizerFast.from_pretrained(str(folder)).save_pretrained(folder)
    config = RobertaConfig(
        **_TRANSFORMER, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=66, type_vocab_size=1
    )
    seeded(0, lambda: RobertaModel(config)).save_pretrained(folder)
    return folder


@torch.inference_mode()
def class_tokens(roberta: Path, sentences: list[str]) -> np.ndarray:
    """The model's class token of each sentence, by transformers' own calls and alone in its batch."""
    from transformers import AutoTokenizer, RobertaModel

    tokenizer, network = AutoTokenizer.from_pretrained(roberta), RobertaModel.from_pretrained(roberta).eval()
    encoded = [tokenizer(sentence, return_tensors="pt") for sentence in sentences]
    return np.concatenate([network(**inputs).last_hidden_state[:, 0].numpy() for inputs in encoded])


CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": WIDTH, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 2},
}


def write_open_clip(folder: Path, seed: int = 0, config: dict[str, Any] = CLIP_CONFIG) -> Path:
    """A CLIP in open_clip's layout of a local folder."""
    import open_clip

    folder.mkdir(parents=True)
    preprocessing = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}))
    state = seeded(seed, lambda: open_clip.CLIP(**config)).state_dict()
    # With open_clip's own random weights all pictures are nearest to the same prompt, and activations nearly linear.
    for name, tensor in state.items():
        if "resblocks" in name and tensor.ndim == 2:
            tensor *= 4
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def write_multitask(path: Path) -> Path:
    """py-feat's multitask network in its file format, with a backbone of a few thousand weights."""
    from feat.multitask.model_v2 import MEGraphAUv2, ModelV2Config

    config: dict[str, Any] = {
        "backbone": "test_convnext", "n_au": 20, "n_emotion": 7, "n_blendshape": 52, "mesh_normalized": True,
        "afg_channels": 32, "mefl_channels": 32, "unified_lmk_dim": 16, "use_head_v3": True, "drop_mefl": True,
        "emotion_use_au_prob": True,
    }  # fmt: skip
    network = seeded(0, lambda: MEGraphAUv2(ModelV2Config(**config, pretrained=False)))
    save_file(network.state_dict(), path, metadata={"config": json.dumps(config)})
    return path


def copy_with(source: Path, target: Path, change: Callable[[State], State]) -> Path:
    """A copy of a transformers checkpoint whose weights went through `change`."""
    shutil.copytree(source, target)
    state = change(load_file(target / "model.safetensors"))
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return target


def without(part: str) -> Callable[[State], State]:
    """For `copy_with`: leaves out the weights with `part` in their name."""
    return lambda state: {name: tensor for name, tensor in state.items() if part not in name}


class Payload:
    """An object that, unpickled, makes the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self._marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._marker, "w")


def write_malicious(path: Path) -> Path:
    """A .pt that, unpickled, makes the file `<path>.ran`; answers that file's path."""
    marker = path.with_name(f"{path.name}.ran")
    torch.save({"weight": torch.zeros(2), "payload": Payload(marker)}, path)
    return marker
