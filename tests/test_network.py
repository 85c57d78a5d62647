"""No network where none is wanted, and never any code of a model's: commands as processes, watched from inside and out.

`terminal.run` makes the worst of each: a terminal at which every question is answered y, libraries imported beforehand,
a proxy that would see what goes anywhere.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import CODE, changed
from many import IS_LONG, Launcher, long_test
from terminal import listener

from viper.fusion.perceiver import PerceiverFusion, PerceiverFusionConfig

TASK = {"name": "own", "kind": "regression", "targets": ["joy"], "range": [0, 1], "metrics": ["pearson"]}
PICTURE = {"layer": -1, "pool": "cls"}
SOUND = {"layer": -1, "pool": "mean", "n_fragments": 2, "fragment_seconds": None}


def record(encoder: str, model: str, **more: Any) -> dict[str, Any]:
    """What encoder.json says of features of a model."""
    kinds = {
        "image": ("visual", "faces", PICTURE), "video": ("visual", "faces", {**PICTURE, "n_windows": 1}),
        "speech": ("audio", "sound", SOUND), "subtitles": ("textual", "subtitles", {}),
        "clip_prompts": ("textual", "faces", {}), "multitask": ("FAU", "faces", {}),
    }  # fmt: skip
    modality, source, options = kinds[encoder]
    return {"encoder": encoder, "modality": modality, "width": 4, "options": options, "model": model, "source": source,
            **more}  # fmt: skip


def prompts(clip: str, text: str, pretrained: str = "openai") -> dict[str, Any]:
    settings = {"sentences": ["a face"], "clip_model": clip, "clip_pretrained": pretrained,
                "clip_checkpoint_path": None, "text_model": text}  # fmt: skip
    return record("clip_prompts", f"{clip} + {text}", settings=settings)


def checkpoint(folder: Path, records: dict[str, Any], **claims: Any) -> Path:
    """A checkpoint whose features were made by these encoders, and in whose config.json more stands."""
    modalities = {name: {"width": 4, "encoder": each} for name, each in records.items()}
    config = PerceiverFusionConfig(preset="tiny", n_layers=1, d_latents=16, modalities=modalities, task=TASK)
    torch.manual_seed(0)
    PerceiverFusion(config).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **claims}))
    return folder


HUB = {
    "visual": record("image", "nobody/pictures"),
    "windows": record("video", "nobody/windows"),
    "audio": record("speech", "nobody/sounds"),
    "textual": record("subtitles", "nobody/words"),
    "prompts": prompts("ViT-B-32", "nobody/words"),
    "tower": prompts("xlm-roberta-base-ViT-B-32", "nobody/words", "laion5b_s13b_b90k"),
}


def test_offline_a_checkpoint_that_names_models_of_a_hub_asks_nobody(trainings: Launcher, tmp_path: Path) -> None:
    records = {**HUB, "FAU": record("multitask", "multitask")} if IS_LONG else HUB
    models = {
        "--offline": checkpoint(tmp_path / "run", records),
        "--no-offline": checkpoint(tmp_path / "one", {"visual": HUB["visual"]}),
    }
    (tmp_path / "a.mp4").touch()
    with listener() as (address, asked):
        processes = {
            option: trainings.start(
                "terminal:run", ["predict", address, str(tmp_path / option), str(tmp_path / "a.mp4"), "--model_path",
                                 str(model), "--device", "cpu", option], HF_HOME=str(tmp_path / "cache"),
            )
            for option, model in models.items()
        }  # fmt: skip
        codes = {option: trainings.wait(process) for option, process in processes.items()}
    said = {option: trainings.said(process) for option, process in processes.items()}
    assert codes == {"--offline": 2, "--no-offline": 2}, said
    assert not (tmp_path / "--offline").exists(), (tmp_path / "--offline").read_text()
    assert any("nobody/pictures" in path for path in asked)  # the listener listens
    lines = [line for line in said["--offline"].splitlines() if line.startswith("viper: error:")]
    assert len(lines) == 1
    assert "no encoder of this checkpoint can run here" in lines[0]
    assert "Traceback" not in "".join(said.values())


def with_code(source: Path, target: Path, marker: Path, file: str, claims: dict[str, Any]) -> Path:
    folder = changed(source, target, file, claims)
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    return folder


AUTO = {
    "auto_map": {
        "AutoConfig": "own.Own", "AutoModel": "own.Own", "AutoImageProcessor": "own.Own",
        "AutoTokenizer": ["own.Own"] * 2,
        "AutoFeatureExtractor": "own.Own", "AutoProcessor": "own.Own", "AutoVideoProcessor": "own.Own",
        "AutoModelForAudioXVector": "own.Own",
    }
}  # fmt: skip


def test_a_model_s_code_is_never_run_although_the_user_says_y(
    trainings: Launcher, tmp_path: Path, vit: Path, wav2vec2: Path, roberta: Path, clip: Path
) -> None:
    marker = tmp_path / "ran"

    def own(source: Path, name: str, file: str, **claims: Any) -> str:
        return str(with_code(source, tmp_path / name, marker, file, {**AUTO, **claims}))

    kernel = {"attn_implementation": "nobody/kernel", "_attn_implementation": "nobody/kernel"}
    words = own(roberta, "words", "tokenizer_config.json", tokenizer_class="Own")
    tower = shutil.copytree(clip, tmp_path / "tower")
    shutil.copytree(words, tower, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((tower / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": True}}
    (tower / "open_clip_config.json").write_text(json.dumps(config))
    other = json.loads((clip / "open_clip_config.json").read_text())
    unknown = own(vit, "unknown", "config.json", model_type="own")
    other["model_cfg"]["text_cfg"] |= {"hf_model_name": unknown}
    records = {
        "known": record("image", own(vit, "known", "config.json")),
        "unknown": record("image", unknown),
        "window": record("video", own(vit, "window", "config.json", model_type="own")),
        "processor": record("image", own(vit, "processor", "preprocessor_config.json", image_processor_type="Own")),
        "kernel": record("image", own(vit, "kernel", "config.json", **kernel, use_kernels=True)),
        "sound": record("speech", own(wav2vec2, "sound", "config.json", model_type="own")),
        "ears": record("speech", own(wav2vec2, "ears", "preprocessor_config.json", feature_extractor_type="Own")),
        "words": record("subtitles", words),
        "grammar": record("subtitles", own(roberta, "grammar", "config.json", model_type="own")),
        "tower": prompts(str(tower), str(roberta)),
        "other": prompts(str(changed(clip, tmp_path / "other", "open_clip_config.json", other)), str(roberta)),
    }
    model = checkpoint(tmp_path / "run", records, attn_implementation="nobody/kernel")
    shutil.copy(tmp_path / "known" / "own.py", model)
    for folder in (tmp_path / "known", tmp_path / "grammar", model):
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "nobody/base"}))
        (folder / "custom_generate").mkdir()
        shutil.copy(tmp_path / "known" / "own.py", folder / "custom_generate" / "generate.py")
    (tmp_path / "a.mp4").touch()
    seen = tmp_path / "seen"
    with listener() as (address, asked):
        process = trainings.start(
            "terminal:run", ["predict", address, str(seen), str(tmp_path / "a.mp4"), "--model_path", str(model),
                             "--device", "cpu"], HF_HOME=str(tmp_path / "cache"),
        )  # fmt: skip
        code = trainings.wait(process)
    said = trainings.said(process)
    assert code in (1, 2), said
    assert not marker.exists(), said
    assert asked == []
    assert not seen.exists(), seen.read_text()  # no model here is named by a hub id
    assert "Traceback" not in said
    left_out = {line.split(" is left out")[0] for line in said.splitlines() if " is left out" in line}
    assert len(left_out) == len(records) or "no encoder of this checkpoint can run here" in said  # of other widths
    assert "do you wish to run" not in said.lower()


@long_test
@pytest.mark.parametrize("offline", ["option", "file"])
def test_no_command_asks_anybody_when_offline(
    trainings: Launcher, tmp_path: Path, offline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clips import pictures, voice, write_frames, write_srt, write_wav
    from media import write_coded

    for folder in ("frames", "words", "sounds", "videos"):
        (tmp_path / folder).mkdir()
    write_frames(tmp_path / "frames" / "1", pictures(2))
    write_wav(tmp_path / "sounds" / "1.wav", voice(1.0, seed=0), 16000)
    write_srt(tmp_path / "words" / "1.srt", [(0, 1, "a word")])
    write_coded(tmp_path / "videos" / "1.mp4", 30, 25)
    (tmp_path / "manifest.csv").write_text("File_ID,Split,joy\n[1],Train,0.5\n")
    model = checkpoint(tmp_path / "run", {**HUB, "FAU": record("multitask", "multitask")})
    pipeline = tmp_path / "pipeline.yaml"
    features = {"visual": {"model_name": "nobody/pictures"}}
    pipeline.write_text(json.dumps({
        "csv_path": "manifest.csv", "videos": "videos", "output": "work", "features": features, "faces": False,
        "task": "own", "offline": offline == "file", "device": "cpu",
    }))  # fmt: skip
    frames, out = ["--input_folder", str(tmp_path / "frames")], ["--device", "cpu", "--output_folder"]
    commands: dict[str, list[str]] = {
        "extract_visual_features": [*frames, *out, "a", "--model_name", "nobody/pictures"],
        "extract_visual_features ": [*frames, *out, "b"],
        "extract_audio_features": ["--input_folder", str(tmp_path / "sounds"), *out, "c"],
        "extract_textual_features": ["--subtitles", str(tmp_path / "words"), *out, "d", "--model_name", "nobody/words"],
        "extract_textual_features ": [*frames, *out, "e"],
        "extract_FAU_features": [*frames, *out, "f"],
        "predict": [str(tmp_path / "videos"), "--model_path", str(model), "--device", "cpu"],
        "demo_page": ["--model_path", str(model), "--device", "cpu", "--port", "0"],
        "pipeline": [str(pipeline)],
        "doctor": [],
    }
    with listener() as (address, asked):
        for number, (command, arguments) in enumerate(commands.items()):
            seen = tmp_path / f"seen{number}"
            given = [] if offline == "file" and command == "pipeline" else ["--offline"]
            arguments = [str(tmp_path / part) if part in "abcdef" else part for part in arguments]
            process = trainings.start(
                "terminal:run", [command.strip(), address, str(seen), *arguments, *given],
                HF_HOME=str(tmp_path / "cache"), XDG_CACHE_HOME=str(tmp_path / "cache"),
            )  # fmt: skip
            code, said = trainings.wait(process), trainings.said(process)
            assert code in ((0, 1) if command == "doctor" else (1, 2)), (command, said)
            assert "Traceback" not in said, (command, said)
            assert not seen.exists(), (command, seen.read_text())
        assert asked == []
