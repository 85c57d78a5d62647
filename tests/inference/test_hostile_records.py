"""What a checkpoint says of its encoders, where it cannot be true: left out in one line, and nothing is built of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import refused, tried

from viper.fusion.perceiver import PerceiverFusion, PerceiverFusionConfig
from viper.inference.predictor import ClipPredictor

HUGE = 10**9
TASK = {"name": "own", "kind": "regression", "targets": ["joy"], "range": [0, 1], "metrics": ["pearson"]}
# These two are true; what is tried differs from them in what it says.
WINDOWS = {"n_fragments": 2, "fragment_seconds": None}
LOGMEL = {
    "encoder": "logmel",
    "modality": "audio",
    "width": 192,
    "source": "sound",
    "options": {"bands": 64, **WINDOWS},
}
HOG = {"encoder": "hog", "modality": "visual", "width": 1764, "source": "faces",
       "options": {"side": 64, "cell": 8, "block": 2}}  # fmt: skip
SPEECH = {**LOGMEL, "encoder": "speech", "model": "speech"}
IMAGE = {**HOG, "encoder": "image", "model": "image", "options": {"layer": -1, "pool": "cls"}}
VIDEO = {**HOG, "encoder": "video", "model": "image", "options": {"layer": -1, "pool": "auto", "n_windows": 1}}
PROMPTS = {**HOG, "encoder": "clip_prompts", "modality": "textual", "settings": {
    "sentences": ["a"], "clip_model": "ViT-B-32", "clip_pretrained": "openai", "clip_checkpoint_path": None,
    "text_model": "words"}}  # fmt: skip
FACES = {"margin": 0.1, "min_face_size": 40, "image_size": 224, "no_face": "whole"}


def write_checkpoint(folder: Path, modality: dict[str, Any]) -> Path:
    """A checkpoint of one modality."""
    config = PerceiverFusionConfig(preset="tiny", n_layers=0, d_latents=16, modalities={"one": modality}, task=TASK)
    torch.manual_seed(0)
    PerceiverFusion(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Checkpoints of one modality, without a record yet, by its channels."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {width: write_checkpoint(root / str(width), {"width": width}) for width in (LOGMEL["width"], HOG["width"])}


@pytest.mark.parametrize("record", [LOGMEL, HOG], ids=["logmel", "hog"])
def test_a_record_that_is_true_is_loaded(tmp_path: Path, record: dict[str, Any]) -> None:
    folder = write_checkpoint(tmp_path, {"width": record["width"], "encoder": record})
    predictor = ClipPredictor.load(folder, device="cpu")
    assert (predictor.modalities, predictor.unavailable) == (["one"], {})


@pytest.mark.parametrize(
    "record",
    tried([
        {**LOGMEL, "options": {"bands": 64, **WINDOWS, "n_fragments": HUGE}}, {**LOGMEL, "options": None},
        {**LOGMEL, "options": {"bands": 64, **WINDOWS, "n_fragments": "2"}}, {**LOGMEL, "options": []},
        {**LOGMEL, "options": {"bands": 64, **WINDOWS, "n_fragments": None}}, {**LOGMEL, "width": 10**30},
        {**LOGMEL, "options": {"bands": 64, **WINDOWS, "fragment_seconds": "x"}}, {**LOGMEL, "model": None},
        {**LOGMEL, "options": {"bands": 64, "n_fragments": 2.5, "fragment_seconds": float("nan")}},
        {**LOGMEL, "precision": 3},
        {**LOGMEL, "source": ["sound"]}, {**LOGMEL, "encoder": {"a": 1}}, {**LOGMEL, "modality": None}, {}, {"a": 1},
        {**HOG, "inputs": None}, {**HOG, "inputs": {"faces": {**FACES, "image_size": 10**6}}},
        {**HOG, "inputs": {"faces": {**FACES, "margin": float("nan")}}}, {**HOG, "inputs": {"faces": 3}},
        {**HOG, "inputs": {"sampling": {"method": "uniform", "n_frames": "x"}}}, {**HOG, "inputs": {"sampling": 5}},
        {**HOG, "inputs": {"faces": {**FACES, "image_size": None}}}, {**VIDEO, "options": {"n_windows": HUGE}},
        {**VIDEO, "options": {"layer": -1, "pool": "auto", "n_windows": HUGE}}, {**IMAGE, "options": {"layer": "x"}},
        {**IMAGE, "options": {"layer": HUGE, "pool": "cls"}}, {**IMAGE, "options": {"layer": None, "pool": "cls"}},
        {**IMAGE, "model": "\x00"}, {**IMAGE, "model": "../../etc"}, {**IMAGE, "model": "x" * 10**6},
        {**SPEECH, "options": {**WINDOWS, "layer": -1, "pool": []}},
        {**PROMPTS, "settings": {}}, {**PROMPTS, "settings": {**PROMPTS["settings"], "sentences": 3}},
        {**PROMPTS, "settings": {**PROMPTS["settings"], "sentences": [1, None]}},
        {**PROMPTS, "settings": {**PROMPTS["settings"], "clip_model": ["a"]}},
        {**PROMPTS, "settings": {**PROMPTS["settings"], "clip_checkpoint_path": "/dev/zero"}},
        {**HOG, "encoder": "multitask", "model": "/dev/zero"}, {**HOG, "encoder": "precomputed"},
    ]),
    ids=lambda record: str(record)[:70],
)  # fmt: skip
def test_an_impossible_record_is_one_line(
    checkpoints: dict[int, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vit: Path,
    wav2vec2: Path,
    record: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image").symlink_to(vit)
    (tmp_path / "speech").symlink_to(wav2vec2)
    checkpoint = checkpoints.get(record.get("width"), checkpoints[LOGMEL["width"]])
    config = json.loads((checkpoint / "config.json").read_text())
    config["modalities"]["one"]["encoder"] = record
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    (tmp_path / "own" / "model.safetensors").symlink_to(checkpoint / "model.safetensors")
    with refused("own"):
        ClipPredictor.load(tmp_path / "own", device="cpu")
