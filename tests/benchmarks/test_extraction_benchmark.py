"""The extraction benchmark: its plain side computes what the project does, and its measurements are right."""

from __future__ import annotations

import sys
from pathlib import Path

import checkpoints
import pytest
import torch
from many import long_test

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from extraction import SIDES, STAGES, Config, agreement, command_of, run_plain, run_viper, table
from full_size import copies, make_clips, usable_clips, write_prompts
from measuring import Forward, run_measured

from viper.cli import run_command
from viper.store import EncoderInfo, Feature, FeatureStore

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, multitask: Path) -> Config:
    """Tiny models, a clip, and its frames and faces."""
    folder = tmp_path_factory.mktemp("benchmark")
    config = Config(folder, n_workers=0, precision="float32")  # as the plain side computes
    checkpoints.write_vit(folder / "models" / "vit")
    write_prompts(folder / "models")
    checkpoints.write_xvector(folder / "models" / "wavlm")
    checkpoints.write_open_clip(folder / "models" / "clip")
    checkpoints.write_roberta(folder / "models" / "roberta")
    (folder / "models" / "multitask.safetensors").write_bytes(multitask.read_bytes())
    copies(make_clips(folder / "synthetic", 1, 8.0, fps=10.0), folder / "videos", 1)
    for stage, source in (("frames", "videos"), ("faces", "frames")):
        name, *arguments = command_of(config, stage, folder / source, folder / stage)
        assert run_command(name, arguments) == 0
    return config


@long_test
@pytest.mark.parametrize("stage", STAGES)
def test_both_sides_agree(config: Config, stage: str) -> None:
    source = {"faces": "frames", "visual": "faces", "textual": "frames", "fau": "faces"}.get(stage, "videos")
    totals = []
    for side, run in zip(SIDES, (run_plain, run_viper), strict=True):
        output = config.output_folder / "measured" / f"{stage}_{side}"
        with Forward(CPU) as forward:
            answer = run(config, stage, config.output_folder / source, output, forward)
        assert answer["n_clips"] == 1
        assert answer["seconds"] >= forward.total
        totals.append(forward.total)
    assert all(total > 0 for total in totals) == (stage != "frames")
    assert agreement(config, stage)


def test_features_that_differ_are_not_compared_in_time(tmp_path: Path) -> None:
    plain, ours = (tmp_path / "measured" / f"audio_{side}" for side in SIDES)
    plain.mkdir(parents=True)
    tokens = torch.randn(32, 4)
    store = FeatureStore.create(ours, EncoderInfo("speech", "audio", 4))
    store.write("00000", Feature.make(tokens))
    torch.save(tokens, plain / "00000.pt")
    assert agreement(Config(tmp_path), "audio")
    torch.save(torch.randn(32, 4), plain / "00000.pt")
    with pytest.raises(RuntimeError, match="audio: features differ"):
        agreement(Config(tmp_path), "audio")


@pytest.mark.parametrize("inference", [False, True])
def test_arithmetic_is_counted_inside_networks_once_begun(inference: bool) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).eval()
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
    rows, tokens = torch.zeros(3, 8), torch.zeros(5, 7, 8)
    with Forward(CPU, counts=True) as counted, torch.inference_mode(inference):
        network(rows)
        counted.begin()
        rows @ rows.T
        network(rows)
        assert counted.total == 2 * 3 * (8 * 16 + 16 * 4)
        counted.begin()
        with torch.no_grad():
            attention(tokens, tokens, tokens, need_weights=False)
        assert counted.total == 5 * (8 * 7 * 8**2 + 4 * 7**2 * 8)


def test_a_process_is_measured_with_its_children_until_it_speaks(tmp_path: Path) -> None:
    script = """
import subprocess, sys, time
held = bytearray(100_000_000)
subprocess.run([sys.executable, "-c", "held = bytearray(100_000_000); import time; time.sleep(1)"])
print("done", flush=True)
more = bytearray(400_000_000)
time.sleep(0.5)
"""
    measured = run_measured(["-c", script], tmp_path / "log")
    assert measured.lines() == ["done"]
    assert 200 < measured.peak_mb < 300
    assert measured.seconds > 1.5
    with pytest.raises(RuntimeError, match="no such thing"):
        run_measured(["-c", "raise SystemExit('no such thing')"], tmp_path / "log")


def test_the_table_adds_up() -> None:
    run = {"n_clips": 2, "forward": 1.0, "start": 3.0, "flops_a_clip": 50e9, "peak_mb": 700.0, "mb": 0.1}
    stages = {
        stage: {"plain": {**run, "seconds": 4.0}, "viper": {**run, "seconds": 2.0}, "agreement": "cosine 1"}
        for stage in ("visual", "audio")
    }
    report = {"device": "cpu", "n_clips": 2, "repeats": 1, "matrix_gflops": 200.0, "precision": "auto",
              "clips": "synthetic", "threads": 2, "torch": "2", "stages": stages}  # fmt: skip
    lines = table(report).splitlines()
    assert "| visual | viper | 1 | 2.00 | 50% | 100 | 50% | 3.0 | 700 | 0.10 |" in lines
    assert "| whole | plain | 0.25 | 1.00 | | | | | | |" in lines
    assert "| whole | viper | 0.5 | 2.00 | | | | | | |" in lines


def test_clips_that_cannot_be_used_are_left_out(config: Config, tmp_path: Path) -> None:
    made = copies(usable_clips(config.output_folder / "videos"), tmp_path / "clips", 3)
    assert [path.name for path in made] == ["00000.mp4", "00001.mp4", "00002.mp4"]
    made[1].write_bytes(b"nothing")
    assert usable_clips(tmp_path / "clips") == [made[0], made[2]]
