"""What benchmarks/extraction.py measures with: full-size checkpoints of random weights, and clips."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from plain_extraction import PROMPTS_FILE

CLIP_ARCHITECTURE = "ViT-B-32-quickgelu"


def make_checkpoints(folder: Path) -> None:
    """ViT-B/16, WavLM-base-plus-sv, CLIP ViT-B/32 and RoBERTa-base as the published ones are laid out, weights random.

    py-feat's multitask network gets a small backbone: the published one's configuration is only in its weights' file.
    """
    if (folder / "complete").exists():
        write_prompts(folder)
        return
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    write_prompts(folder)
    _make_vit(folder / "vit")
    _make_wavlm(folder / "wavlm")
    _make_clip(folder / "clip")
    _make_roberta(folder / "roberta", json.loads((folder / PROMPTS_FILE).read_text()))
    _make_multitask(folder / "multitask.safetensors")
    (folder / "complete").touch()


def write_prompts(folder: Path) -> None:
    """The prompts of the task, for the side that does not read task cards."""
    from viper.encoders.clip_prompts import load_prompts
    from viper.task import load_task

    prompts = load_task("hume_reaction").prompts
    assert prompts is not None
    (folder / PROMPTS_FILE).write_text(json.dumps(load_prompts(prompts).sentences))


def _make_vit(folder: Path) -> None:
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    ViTModel(ViTConfig()).save_pretrained(folder)
    ViTImageProcessor(size={"height": 224, "width": 224}).save_pretrained(folder)


def _make_wavlm(folder: Path) -> None:
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    WavLMForXVector(WavLMConfig(tdnn_dim=(512, 512, 512, 512, 1500), xvector_output_dim=512)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder)


def _make_clip(folder: Path) -> None:
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir()
    config = open_clip.get_model_config(CLIP_ARCHITECTURE)
    preprocessing = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    card = {"model_cfg": config, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(card))
    state = open_clip.create_model(CLIP_ARCHITECTURE, pretrained=None).state_dict()
    for name, tensor in state.items():
        # With open_clip's own random weights all pictures are nearest to the same prompt.
        if "resblocks" in name and tensor.ndim == 2:
            tensor *= 3
    save_file(state, folder / "open_clip_model.safetensors")


def _make_roberta(folder: Path, sentences: Sequence[str]) -> None:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizerFast

    folder.mkdir()
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(sentences, 50265, 1, special_tokens=special)
    tokenizer.save_model(str(folder))
    RobertaTokenizerFast.from_pretrained(str(folder)).save_pretrained(folder)
    config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
    RobertaModel(config).save_pretrained(folder)


def _make_multitask(path: Path) -> None:
    from viper.encoders.multitask import import_py_feat
    from viper.errors import UserError

    try:
        import_py_feat()
    except UserError:
        return
    from feat.multitask.model_v2 import MEGraphAUv2, ModelV2Config
    from safetensors.torch import save_file

    config: dict[str, Any] = {
        "backbone": "test_convnext", "n_au": 20, "n_emotion": 7, "n_blendshape": 52, "mesh_normalized": True,
        "afg_channels": 32, "mefl_channels": 32, "unified_lmk_dim": 16, "use_head_v3": True, "drop_mefl": True,
        "emotion_use_au_prob": True,
    }  # fmt: skip
    network = MEGraphAUv2(ModelV2Config(**config, pretrained=False))
    save_file(network.state_dict(), path, metadata={"config": json.dumps(config)})


def make_clips(folder: Path, n_clips: int, seconds: float, fps: float = 30.0) -> list[Path]:
    """Synthetic reactions, each of another person."""
    from viper.demo.dataset import write_clip
    from viper.demo.identity import Identity

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{10001 + number}.mp4" for number in range(n_clips)]
    for number, path in enumerate(paths):
        if not path.exists():
            write_clip(path, {"Amusement": 0.9, "Fear": 0.4}, Identity.from_seed(number), number, seconds, fps)
    return paths


def usable_clips(folder: Path, names: Sequence[str] = ("*",)) -> list[Path]:
    """The videos in `folder`, of such names, that have pictures and sound and can be decoded to their end."""
    usable = []
    for path in sorted({path for name in names for path in folder.glob(name)}):
        try:
            with av.open(str(path)) as container:
                if container.streams.video and container.streams.audio:
                    n_frames = sum(1 for _ in container.decode(video=0))
                    usable += [path] if n_frames >= 2 else []
        except (av.FFmpegError, OSError):
            continue
    return usable


def copies(paths: Sequence[Path], folder: Path, n: int) -> list[Path]:
    """`n` files under names of their own; the clips again and again where there are fewer."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(n):
        source = paths[number % len(paths)]
        made.append(folder / f"{number:05d}{source.suffix}")
        if not made[-1].exists():
            shutil.copyfile(source, made[-1])
    return made


def matrix_peak(device: torch.device, seconds: float = 1.0) -> float:
    """GFLOP/s of float32 matrix products of ViT-B's MLP over 16 pictures, the best of a few."""
    from measuring import clock

    rows, inner, columns = 16 * 197, 768, 3072
    a, b = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)
    best, began = float("inf"), clock(device)
    while clock(device) - began < seconds:
        start = clock(device)
        a @ b
        best = min(best, clock(device) - start)
    return 2 * rows * inner * columns / best / 1e9


def features_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, mask) of either side's file."""
    if path.suffix == ".pt":
        tokens = torch.load(path, weights_only=True).numpy()
        return tokens, np.ones(len(tokens), bool)
    from safetensors.numpy import load_file

    arrays = load_file(path)
    return arrays["tokens"], arrays["mask"]
