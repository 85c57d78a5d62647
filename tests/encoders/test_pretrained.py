"""Loading published weights: names, folders, damaged and dangerous files, and no network where none is wanted."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
import transformers
from clips import pictures, write_frames
from conftest import Run
from many import long_test
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from terminal import listener
from transformers import AutoModel

from viper.encoders.base import weights_fingerprint
from viper.encoders.clip_prompts import PromptEncoder, Prompts
from viper.encoders.image import ImageEncoder
from viper.encoders.multitask import MultitaskEncoder
from viper.encoders.pretrained import config_digest, load_transformers_model, local_or_hub
from viper.encoders.registry import registered
from viper.encoders.speech import SpeechEncoder
from viper.encoders.subtitles import SubtitleEncoder
from viper.engine.device import Runtime
from viper.errors import UserError
from viper.fusion.perceiver import PerceiverFusion
from viper.weights import bounded_by, load_state_dict


def test_a_model_is_a_folder_or_a_hub_id_and_a_path_must_be_there(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_or_hub(str(vit)) == str(vit)
    assert local_or_hub("owner/name") == "owner/name"
    monkeypatch.setenv("HOME", str(vit.parent))
    assert local_or_hub("~/vit") == str(vit)
    for path in ("./vit", "/no/such/vit", "~/nothing", "a/b/c"):
        with pytest.raises(UserError, match="no such folder"):
            local_or_hub(path)


@pytest.mark.parametrize(
    "damage", ["garbage", "truncated", "no weights", "no config", "config is no JSON", "config of nothing known"]
)
def test_a_damaged_folder_is_one_line_naming_it(vit: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(vit, folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "garbage":
        weights.write_bytes(b"garbage" * 20)
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "no config":
        config.unlink()
    else:
        config.write_text("{" if damage == "config is no JSON" else '{"model_type": "something"}')
    with pytest.raises(UserError) as error:
        load_transformers_model(AutoModel, str(folder))
    assert str(error.value).startswith(str(folder))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_weights_in_the_older_format_are_read_as_tensors_and_a_payload_is_not_run(vit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(vit, folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    old, new = (load_transformers_model(AutoModel, str(path)) for path in (folder, vit))
    assert weights_fingerprint(old) == weights_fingerprint(new)
    marker = checkpoints.write_malicious(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="more than plain tensors"):
        load_transformers_model(AutoModel, str(folder))
    assert not marker.exists()


def test_models_come_frozen_in_evaluation_mode_and_full_precision(vit: Path, tmp_path: Path) -> None:
    half = checkpoints.copy_with(vit, tmp_path / "half", lambda state: {n: t.half() for n, t in state.items()})
    network = load_transformers_model(AutoModel, str(half))
    assert not network.training
    assert {(p.dtype, p.requires_grad) for p in network.parameters()} == {(torch.float32, False)}


def test_the_fingerprint_sees_any_weight_that_is_read_and_none_that_is_not() -> None:
    def network() -> torch.nn.Module:
        return checkpoints.seeded(0, lambda: torch.nn.ModuleDict({
            "layer": torch.nn.Linear(3, 4), "norm": torch.nn.BatchNorm1d(4), "pooler": torch.nn.Linear(4, 4),
        }))  # fmt: skip

    original = weights_fingerprint(network())
    assert weights_fingerprint(network()) == original
    for name, same in (("layer.weight", False), ("norm.running_mean", False), ("pooler.weight", True)):
        changed = network()
        changed.state_dict()[name][0] += 1e-3
        assert (weights_fingerprint(changed) == original) is same, name
    large = torch.nn.Linear(50, 50)
    before = weights_fingerprint(large)
    large.state_dict()["weight"][30, 30] += 1e-3
    assert weights_fingerprint(large) != before


def test_a_config_that_computes_otherwise_is_another_encoder(vit: Path, tmp_path: Path) -> None:
    digests = []
    for number, change in enumerate(
        ({}, {"transformers_version": "9", "id2label": {"0": "x"}}, {"hidden_act": "relu"})
    ):
        folder = Path(shutil.copytree(vit, tmp_path / str(number)))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        digests.append(config_digest(str(folder)))
    assert digests[0] == digests[1] == config_digest(str(vit))
    assert digests[2] != digests[0]


def test_a_state_dict_is_found_however_it_is_wrapped(tmp_path: Path) -> None:
    state = {"a.weight": torch.arange(3.0), "b": torch.ones(2, 2)}
    save_file(state, tmp_path / "s.safetensors")
    torch.save(state, tmp_path / "bare.pt")
    torch.save({"epoch": 1, "model_state_dict": state}, tmp_path / "wrapped.pt")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "both.ckpt")
    for path in tmp_path.iterdir():
        loaded = load_state_dict(path)
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_state_dict": {"epoch": 3}}, "is not a state dict and has none"),
        ({}, "is not a state dict"),
        ([torch.zeros(2)], "is not a state dict"),
        (b"", "cannot be read as plain tensors"),
        (b"garbage" * 10, "cannot be read as plain tensors"),
    ],
)
def test_a_checkpoint_that_is_no_state_dict_is_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "checkpoint.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=message) as error:
        load_state_dict(path)
    assert "\n" not in str(error.value)


def test_every_command_has_one_default_and_short_names_that_are_no_folders_or_ids() -> None:
    for modality in ("visual", "audio", "textual", "FAU"):
        entries = registered(modality)
        assert sum(entry.short.is_default for entry in entries) == 1
        assert sum(entry.is_weight_free for entry in entries) >= 1
        assert not [entry for entry in entries if "/" in entry.name]
    entries = registered()
    assert len({(entry.modality, entry.name) for entry in entries}) == len(entries)


@pytest.mark.parametrize(
    ("command", "known"),
    [
        ("visual", "vit-base, vit-age, videomae-base, videomae-k400, timesformer-base, vivit-base, hog"),
        ("audio", "wavlm-base-plus-sv, wav2vec2-base, hubert-base, acoustic, logmel, egemaps"),
        ("textual", "clip, roberta-base, hashed"),
    ],
)
def test_an_unknown_short_name_is_one_line_with_those_there_are(
    tmp_path: Path, run: Run, command: str, known: str
) -> None:
    write_frames(tmp_path / "in" / "1", pictures(1))
    (tmp_path / "in" / "1.wav").write_bytes(b"")
    outcome = run(
        f"extract_{command}_features", "--input_folder", tmp_path / "in", "--output_folder", tmp_path / "out",
        "--model_name", "vit-huge",
    )  # fmt: skip
    assert outcome.code == 2
    said = outcome.said.strip().splitlines()
    assert said[-1].startswith(f"viper: error: --model_name vit-huge: must be {known}, a local folder or a hub id")
    assert not [line for line in said if "Traceback" in line]
    assert not (tmp_path / "out").exists()


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """A hub that has nothing: its address, and the paths it was asked for."""
    with listener() as found:
        yield found


@long_test
def test_offline_asks_no_hub_and_says_how_to_fetch_the_weights(tmp_path: Path, hub: tuple[str, list[str]]) -> None:
    address, asked = hub
    write_frames(tmp_path / "frames" / "1", pictures(1))
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def start(model: str, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "viper.cli", "extract_visual_features", "--input_folder", str(tmp_path / "frames"),
             "--output_folder", str(tmp_path / "out"), "--model_name", model, *options],
            env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    processes = [start("nobody/offline", "--offline"), start("nobody/online")]
    said = [process.communicate(timeout=120)[1].strip() for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert [path for path in asked if "nobody/online" in path]
    assert not [path for path in asked if "nobody/offline" in path]
    for name, line in zip(("offline", "online"), said, strict=True):
        assert line.startswith(f"viper: error: weights for 'nobody/{name}' are not available on this machine"), line
        assert f"`hf download nobody/{name} --local-dir FOLDER`" in line
        assert len(line.splitlines()) == 1


def write_fetched(model: str, source: Path, cache: Path) -> None:
    """Put a model's files where huggingface_hub keeps those it has fetched."""
    fetched, commit = cache / f"models--{model.replace('/', '--')}", "a" * 40
    shutil.copytree(source, fetched / "snapshots" / commit)
    (fetched / "refs").mkdir()
    (fetched / "refs" / "main").write_text(commit)


def test_a_hub_that_never_answers_is_not_waited_for(vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fetched("somebody/pictures", vit, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls, and says nothing
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        constants = "huggingface_hub.constants"
        monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(f"{constants}.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("viper.offline.ANSWER_SECONDS", 0.2)
        fetched = load_transformers_model(AutoModel, "somebody/pictures")
        with pytest.raises(UserError, match=r"weights for 'nobody/pictures' .*the hub does not answer"):
            load_transformers_model(AutoModel, "nobody/pictures")
        with pytest.raises(UserError, match=r"nobody/run: .*the hub does not answer"):
            PerceiverFusion.from_pretrained("nobody/run")
    assert weights_fingerprint(fetched) == weights_fingerprint(load_transformers_model(AutoModel, str(vit)))


def with_head(folder: Path, base: Any, headed: Any, config: Any) -> tuple[Path, Path]:
    """A checkpoint with a head and one of the same encoder without."""
    network = checkpoints.seeded(0, lambda: headed(config))
    network.save_pretrained(folder / "headed")
    getattr(network, base).save_pretrained(folder / "bare")
    return folder / "headed", folder / "bare"


SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
PICTURES = {**SMALL, "image_size": 16, "patch_size": 8}
DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
           "decoder_intermediate_size": 16}  # fmt: skip
SOUND = {**SMALL, "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
         "vocab_size": 32, "codevector_dim": 16, "proj_codevector_dim": 16, "pad_token_id": 0}  # fmt: skip
WORDS = {**SMALL, "vocab_size": 40, "max_position_embeddings": 20}


@pytest.mark.parametrize(
    ("base", "headed", "config", "options"),
    [
        ("vit", "ViTForImageClassification", "ViTConfig", PICTURES),
        ("vit", "ViTForMaskedImageModeling", "ViTConfig", {**PICTURES, "encoder_stride": 8}),
        ("vit", "ViTMAEForPreTraining", "ViTMAEConfig", {**PICTURES, **DECODER}),
        ("deit", "DeiTForImageClassificationWithTeacher", "DeiTConfig", PICTURES),
        ("beit", "BeitForMaskedImageModeling", "BeitConfig", {**PICTURES, "vocab_size": 32}),
        ("dinov2", "Dinov2ForImageClassification", "Dinov2Config", PICTURES),
        ("swin", "SwinForImageClassification", "SwinConfig", {"embed_dim": 16, "depths": [1], "num_heads": [2]}),
        ("convnext", "ConvNextForImageClassification", "ConvNextConfig", {"hidden_sizes": [8] * 4, "depths": [1] * 4}),
        ("videomae", "VideoMAEForPreTraining", "VideoMAEConfig", {**PICTURES, **DECODER, "num_frames": 2}),
        ("wav2vec2", "Wav2Vec2ForPreTraining", "Wav2Vec2Config", SOUND),
        ("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config", SOUND),
        ("hubert", "HubertForSequenceClassification", "HubertConfig", {**SOUND, "use_weighted_layer_sum": True}),
        ("wavlm", "WavLMForCTC", "WavLMConfig", SOUND),
        ("roberta", "RobertaForMaskedLM", "RobertaConfig", WORDS),
        ("roberta", "RobertaForSequenceClassification", "RobertaConfig", WORDS),
        ("bert", "BertForPreTraining", "BertConfig", WORDS),
        ("distilbert", "DistilBertForMaskedLM", "DistilBertConfig",
         {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "vocab_size": 40}),
        ("electra", "ElectraForPreTraining", "ElectraConfig", {**WORDS, "embedding_size": 16}),
        ("deberta", "DebertaV2ForMaskedLM", "DebertaV2Config", WORDS),
        ("longformer", "LongformerForMaskedLM", "LongformerConfig", {**WORDS, "attention_window": 4}),
        ("convbert", "ConvBertForMaskedLM", "ConvBertConfig", {**WORDS, "embedding_size": 16}),
    ],
)  # fmt: skip
def test_of_a_checkpoint_only_the_head_is_left_out(
    tmp_path: Path, base: str, headed: str, config: str, options: dict[str, Any]
) -> None:
    config = getattr(transformers, config)(**options)
    whole, bare = with_head(tmp_path, base, getattr(transformers, headed), config)
    fingerprints = {weights_fingerprint(load_transformers_model(AutoModel, str(path))) for path in (whole, bare)}
    assert len(fingerprints) == 1
    with_more = checkpoints.copy_with(
        whole, tmp_path / "more", lambda state: {**state, f"{base}.extra.weight": torch.ones(1)}
    )
    with pytest.raises(UserError, match=r"more: the checkpoint does not fit .*extra\.weight \.\.\. would be dropped"):
        load_transformers_model(AutoModel, str(with_more))


def test_of_an_image_text_model_a_network_of_pictures_leaves_out_the_other_half(tmp_path: Path) -> None:
    folder = checkpoints.write_transformers_clip(tmp_path / "clip")
    whole: Any = load_transformers_model(AutoModel, str(folder))
    config = json.loads((folder / "config.json").read_text())["vision_config"]
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "clip_vision_model"}))
    half: Any = load_transformers_model(AutoModel, str(folder))
    mine, others = half.state_dict(), whole.vision_model.state_dict()
    assert mine.keys() == others.keys()
    assert all(torch.equal(mine[name], others[name]) for name in mine)


@pytest.mark.parametrize("name", ["CLIP", "Siglip"])
def test_a_classifier_made_of_an_image_text_model_is_read_as_its_half(tmp_path: Path, name: str) -> None:
    config = getattr(transformers, f"{name}Config")(
        text_config={**SMALL, "vocab_size": 40}, vision_config=PICTURES, num_labels=3
    )
    network = checkpoints.seeded(0, lambda: getattr(transformers, f"{name}ForImageClassification")(config))
    network.save_pretrained(tmp_path)
    loaded: Any = load_transformers_model(AutoModel, str(tmp_path))
    picture = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        mine, others = (net(pixel_values=picture).last_hidden_state for net in (loaded, network.eval().vision_model))
    assert torch.equal(mine, others)


def test_classes_may_have_any_names(vit: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(vit, tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text())
    names = ["backbone", "corn kernel", "file: a thing", *(f"thing {number}" for number in range(3000)), "stride"]
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    (folder / "config.json").write_text(json.dumps(config))
    load_transformers_model(AutoModel, str(folder))


def test_the_largest_published_network_is_within_its_bound() -> None:
    """wav2vec 2.0 with two billion weights, whose normed convolution stands in it twice while it is built."""
    from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2PositionalConvEmbedding

    def network() -> torch.nn.Module:
        rest = torch.nn.Linear(2_130_000_000, 1, bias=False)
        return torch.nn.ModuleList([rest, Wav2Vec2PositionalConvEmbedding(config)])

    config = transformers.Wav2Vec2Config(hidden_size=1920)
    with torch.device("meta"):
        state = network().state_dict()
        with bounded_by(state):
            network()


def test_tables_of_older_files_are_no_weights(vit: Path, tmp_path: Path) -> None:
    tables = {"layers.0.attention.relative_position_index": torch.ones(4, 4, dtype=torch.int64),
              "embeddings.position_ids": torch.arange(5)[None]}  # fmt: skip
    folder = checkpoints.copy_with(vit, tmp_path / "old", lambda state: {**state, **tables})
    networks = [load_transformers_model(AutoModel, str(path)) for path in (vit, folder)]
    assert len({weights_fingerprint(network) for network in networks}) == 1


@pytest.mark.parametrize("name", ["xvector", "wav2vec2", "roberta", "vit_classifier"])
def test_a_weight_without_a_place_is_refused_by_every_encoder(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = request.getfixturevalue(name)
    folder = checkpoints.copy_with(source, tmp_path / "more", lambda state: {**state, "adapter.down": torch.ones(1)})
    encoders: dict[str, Any] = {"vit_classifier": ImageEncoder, "roberta": SubtitleEncoder}
    with pytest.raises(UserError, match=rf"{folder}: .*adapter\.down \.\.\. would be dropped") as error:
        encoders.get(name, SpeechEncoder)(str(folder)).prepare(Runtime(torch.device("cpu")))
    assert "\n" not in str(error.value)


def test_open_clip_and_py_feat_refuse_a_weight_without_a_place(clip: Path, multitask: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip, tmp_path / "clip")
    for file in (folder / "open_clip_model.safetensors", Path(shutil.copy(multitask, tmp_path / "m.safetensors"))):
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        save_file({**load_file(file), "adapter.down": torch.ones(1)}, file, metadata=metadata)
    prompts = Prompts(("a face that laughs", "a face in tears"), ("joy", "sadness"))
    runtime = Runtime(torch.device("cpu"))
    with pytest.raises(UserError, match=r"adapter\.down"):
        PromptEncoder(prompts, str(folder)).prepare(runtime)
    with pytest.raises(UserError, match="1 unexpected"):
        MultitaskEncoder(tmp_path / "m.safetensors").prepare(runtime)
