"""Checkpoints of the fusion whose config and weights are not of one model: refused, in one line and without memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import changed, refused, reweighted, tried
from many import IS_LONG

from viper.fusion.checkpoint import load_checkpoint
from viper.fusion.perceiver import PerceiverFusion, PerceiverFusionConfig

HUGE = 10**9
TASK = {"name": "own", "kind": "regression", "targets": ["joy", "awe"], "range": [0, 1], "metrics": ["pearson"]}
MODALITIES = {"visual": {"width": 5}, "audio": {"width": 3}}


@pytest.fixture(scope="module", params=["tokens", "channels", "gru"] if IS_LONG else ["tokens"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a kind of fusion, with a linear branch."""
    folder = tmp_path_factory.mktemp("checkpoint") / request.param
    sizes = {"n_latents": 3, "d_latents": 16, "n_layers": 2, "n_heads": 2}
    config = PerceiverFusionConfig(
        fusion=request.param, preset="tiny", modalities=MODALITIES, task=TASK, linear_share=0.5, **sizes
    )
    torch.manual_seed(0)
    PerceiverFusion(config).save_pretrained(folder)
    return folder


CLAIMS: list[Any] = [
    *({name: value} for name in ("n_latents", "d_latents", "n_layers", "n_heads", "widening", "n_time_bands")
      for value in (10**6, HUGE, -1, "3", 2.0, float("nan"), True, [3], {})),
    *({name: value} for name in ("dropout", "token_dropout", "label_smoothing", "linear_share")
      for value in (float("nan"), "0", -0.1, True, [])),
    {"n_layers": 1}, {"n_layers": 3}, {"n_layers": 1000}, {"d_latents": 32}, {"linear_share": None},
    {"n_tokens": HUGE}, {"n_tokens": "4"}, {"fusion": "linear"}, {"fusion": None}, {"fusion": []},
    {"preset": ["tiny"]},
    {"modalities": []}, {"modalities": None}, {"modalities": {"visual": 5}},
    {"modalities": {"visual": {"width": HUGE}}},
    {"modalities": {f"m{i}": {"width": 1} for i in range(5000)}}, {"modalities": {"visual": {"width": 1e3}}},
    {"modalities": {**MODALITIES, "audio": {"width": 3, "encoder": "os.system"}}},
    {"modality_order": "visual"}, {"modality_order": [["visual"]]}, {"modality_order": {"visual": 1}},
    {"task": []}, {"task": None}, {"task": {**TASK, "targets": "joy"}}, {"task": {**TASK, "targets": [1, 2]}},
    {"task": {**TASK, "targets": [["joy"]]}}, {"task": {**TASK, "targets": [f"t{i}" for i in range(100_000)]}},
    {"task": {**TASK, "range": 1}}, {"task": {**TASK, "range": ["a", "b"]}}, {"task": {**TASK, "kind": ["x"]}},
    {"loss": []}, {"loss": {"mse": "1"}}, {"loss": {"mse": float("nan")}}, {"pos_weight": "x"}, {"evaluation": 3},
    "[]", "null", "{", "[" * 100_000, '{"n_latents": ' + "9" * 10_000 + "}",
]  # fmt: skip


@pytest.mark.parametrize("claim", tried(CLAIMS), ids=lambda claim: str(claim)[:40])
def test_an_impossible_config_is_one_line(checkpoint: Path, tmp_path: Path, claim: Any) -> None:
    if checkpoint.name == "gru" and claim in ({"n_layers": 1}, {"n_layers": 3}, {"n_layers": 1000}):
        pytest.skip("a size that this fusion does not use")
    folder = changed(checkpoint, tmp_path / "own", "config.json", claim)
    with refused("own"):
        load_checkpoint(folder)


WEIGHTS: dict[str, Any] = {
    "missing": lambda state: dict(sorted(state.items())[1:]),
    "of another name": lambda state: {f"{key}s" if key == "body.head.bias" else key: t for key, t in state.items()},
    "too many": lambda state: {**state, "body.more": torch.ones(1)},
    "of another shape": lambda state: {**state, "body.head.bias": torch.zeros(3)},
    "of no numbers": lambda state: {**state, "body.head.bias": torch.zeros(2, dtype=torch.int64)},
    "not finite": lambda state: {**state, "body.head.bias": torch.tensor([1.0, float("nan")])},
    "infinite": lambda state: {**state, "standardize.audio.mean": torch.full((3,), float("-inf"))},
    "no spread": lambda state: {**state, "standardize.audio.std": torch.zeros(3)},
    "no linear branch": lambda state: {key: t for key, t in state.items() if not key.startswith("linear.")},
    "none": lambda state: {},
}


@pytest.mark.parametrize("change", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_weights_that_are_not_those_of_the_config_are_an_error(checkpoint: Path, tmp_path: Path, change: Any) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "own")
    reweighted(folder / "model.safetensors", change)
    with refused("own"):
        load_checkpoint(folder)
    with refused("own"):
        PerceiverFusion.from_pretrained(folder)


def test_what_transformers_would_run_is_not_read(checkpoint: Path, tmp_path: Path) -> None:
    claims = {
        "attn_implementation": "nobody/kernel", "torch_dtype": "load",
        "experts_implementation": "nobody/kernel", "_name_or_path": "/nowhere", "dtype": "bfloat16",
    }  # fmt: skip
    folder = changed(checkpoint, tmp_path / "own", "config.json", claims)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "nobody/base"}))
    models = [load_checkpoint(path) for path in (checkpoint, folder)]
    assert all(torch.equal(x, y) for x, y in zip(*(model.state_dict().values() for model in models), strict=True))
    assert models[1].dtype == torch.float32
    for number, key in enumerate(("auto_map", "quantization_config", "_attn_implementation")):
        with refused(key):
            load_checkpoint(changed(checkpoint, tmp_path / str(number), "config.json", {key: {"AutoModel": "a.B"}}))
