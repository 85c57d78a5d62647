"""Extraction by this project's commands against a plain implementation of the published algorithm, stage by stage.

    python benchmarks/extraction.py --output_folder scratch/extraction
    python benchmarks/extraction.py --output_folder scratch/extraction --clips ../shared/clips --names 'live*' 'tps*'
    python benchmarks/extraction.py --output_folder scratch/linear --linear

(processes.py compares whole processes.)

Both sides get the same clips (from the faces on, the same frames and crops) and full-size networks with the same random
weights: ViT-B/16, WavLM-base-plus-sv, CLIP ViT-B/32, RoBERTa-base; py-feat's network with a small backbone. Every
measurement is a process of its own; sides take turns; of the repeats the fastest counts. Time begins when the models
are loaded (start-up is listed apart: 25,000 clips do not feel it) and ends with the last file. Features of both sides
must agree (cosine above .999), or there is no table.

In forward: the share of that time inside networks. GFLOP/s: their matrix products, convolutions and attention per
second inside them; of the peak: of a matrix product of ViT's alone, measured in the same run. Memory: the most that the
process and its workers held. The whole is the sum of the stages, per clip.

--linear: the commands that need no weights, on 250 to 2,000 tiny clips: time must grow linearly and memory not at all.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import tyro
from full_size import copies, features_of, make_checkpoints, make_clips, matrix_peak, usable_clips
from measuring import Forward, clock, run_measured

STAGES = ("frames", "faces", "visual", "audio", "textual", "fau")
SIDES = ("plain", "viper")
# Decoding takes a tenth of a second a clip: more clips are needed, or starting workers would be what is measured.
FRAMES_FACTOR = 8
LINEAR_SECONDS = 0.5
AGREE = 0.999


@dataclass
class Config:
    """Options."""

    output_folder: Path
    """Where checkpoints (1.4 GB), clips and features go; checkpoints and clips are made once. Delete it when done."""
    clips: Path | None = None
    """A folder of videos: those with pictures and sound are used. By default synthetic ones are made."""
    names: tuple[str, ...] = ("*",)
    """Only those whose file names fit one of these patterns."""
    n_clips: int = 6
    """Clips a stage (frames: eight times as many, the same ones again)."""
    seconds: float = 10.0
    """Length of a synthetic clip."""
    stages: tuple[str, ...] = STAGES
    """Which stages."""
    repeats: int = 2
    """Measurements of each side."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks run."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Precision of the project's side."""
    compile: bool = False
    """Compile the project's networks."""
    n_workers: int = -1
    """Workers of the project's side, as its commands take it."""
    quick: bool = False
    """Two clips, once: to see that everything runs."""
    linear: bool = False
    """Measure how cost grows with the number of clips instead."""
    linear_clips: tuple[int, ...] = (250, 500, 1000, 2000)
    """Numbers of clips for --linear."""
    child: tuple[str, ...] = ()
    """Used by the script itself: side, stage, input folder, output folder, and `count` to count arithmetic too."""


def command_of(config: Config, stage: str, source: Path, output: Path) -> list[str]:
    """The project's command for a stage."""
    models = config.output_folder / "models"
    device = ["--device", config.device]
    network = device + (["--precision", config.precision] if config.precision != "auto" else [])
    network += ["--compile"] if config.compile else []
    command = {
        "frames": ["get_frame"],
        "faces": ["crop_images", *device],
        "visual": ["extract_visual_features", "--model_name", f"{models / 'vit'}", *network],
        "audio": ["extract_audio_features", "--model_name", f"{models / 'wavlm'}", *network],
        "textual": ["extract_textual_features", "--model_name", f"{models / 'roberta'}", "--clip_model",
                    f"{models / 'clip'}", *network],
        "fau": ["extract_FAU_features", "--weights", f"{models / 'multitask.safetensors'}", *network],
    }[stage]  # fmt: skip
    return [*command, "--input_folder", str(source), "--output_folder", str(output), "--n_workers",
            str(config.n_workers)]  # fmt: skip


def child(config: Config) -> None:
    """One side of one stage in this process, timed; then, if so wanted, one clip more, to count its arithmetic."""
    import torch

    side, stage, source, target, *counts = config.child
    output, device = Path(target), torch.device(config.device)
    run = run_plain if side == "plain" else run_viper
    with Forward(device) as forward:
        answer = run(config, stage, Path(source), output, forward)
    # What is before the work: imports, models, and the width they answer with a first picture.
    start = time.time() - answer["seconds"] - psutil.Process().create_time()
    print(json.dumps({**answer, "forward": forward.total, "start": start}), flush=True)
    if not counts:
        return
    one = output.with_name(output.name + "_one")
    shutil.rmtree(one, ignore_errors=True)
    first = min(Path(source).iterdir())
    (one / "input").mkdir(parents=True)
    (shutil.copytree if first.is_dir() else shutil.copyfile)(first, one / "input" / first.name)
    torch.set_num_threads(1)  # batches one after the other: the counter is for one thread
    with Forward(device, counts=True) as counted:
        run(config, stage, one / "input", one / "output", counted)
    print(json.dumps({"flops_a_clip": counted.total}))


def run_plain(config: Config, stage: str, source: Path, output: Path, forward: Forward) -> dict[str, float]:
    """The plain side; what it does before it begins with the clips is not timed."""
    import plain_extraction
    import torch

    device = torch.device(config.device)
    clips = sorted(source.iterdir())
    plain_extraction.STAGES[stage](clips, output, config.output_folder / "models", config.device, forward.begin)
    return {"seconds": clock(device) - forward.began, "n_clips": len(clips)}


def run_viper(config: Config, stage: str, source: Path, output: Path, forward: Forward) -> dict[str, float]:
    """The project's own command; the seconds are those of its summary, which begin when the models are loaded."""
    # crop_images imports it with the first clip; that is start-up, here as on the other side.
    import facenet_pytorch  # noqa: F401

    if stage == "frames":
        # Worker processes would import this script, and torch with it, as those of a command do not.
        sys.modules["__main__"].__file__ = None

    from viper.cli import run_command
    from viper.engine import run as engine

    summaries: list[engine.Summary] = []
    run_together = engine.run_together

    def watched(*args: Any, **kwargs: Any) -> list[engine.Summary]:
        forward.begin()
        summaries.extend(run_together(*args, **kwargs))
        return summaries

    engine.run_together = watched
    name, *arguments = command_of(config, stage, source, output)
    code = run_command(name, arguments)
    engine.run_together = run_together
    if code != 0 or len(summaries) != 1:
        raise RuntimeError(f"{name} ended with {code} and {len(summaries)} summaries")
    return {"seconds": summaries[0].seconds, "n_clips": summaries[0].done}


def measure(config: Config, side: str, stage: str, source: Path, repeat: int) -> dict[str, float]:
    """One process of one side."""
    output = config.output_folder / "measured" / f"{stage}_{side}"
    shutil.rmtree(output, ignore_errors=True)
    options = [f"--{key}={value}" for key, value in asdict(config).items()
               if key in ("output_folder", "device", "precision", "n_workers")]  # fmt: skip
    switch = "--compile" if config.compile else "--no-compile"
    arguments = [__file__, *options, switch, "--child", side, stage, str(source), str(output)]
    if repeat == 0 and stage != "frames":
        arguments.append("count")
    measured = run_measured(arguments, config.output_folder / "measured" / f"{stage}_{side}_{repeat}.log")
    answer = {key: value for line in measured.lines() for key, value in json.loads(line).items()}
    written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    answer |= {"peak_mb": measured.peak_mb, "mb": written / 1e6 / answer["n_clips"]}
    return answer


def agreement(config: Config, stage: str) -> str:
    """How alike the two sides' outputs are; features that are not are a RuntimeError."""
    plain, ours = (config.output_folder / "measured" / f"{stage}_{side}" for side in SIDES)
    if stage in ("frames", "faces"):
        pairs = [(path, ours / path.relative_to(plain)) for path in sorted(plain.rglob("*.jpg"))]
        values = [correlation(a, b) for a, b in pairs if b.exists()]
        # The plain side takes each frame's most probable face, which with several people is not always the same one's.
        if len(values) < len(pairs) or (stage == "frames" and statistics.median(values) < 0.99):
            raise RuntimeError(f"{stage}: pictures differ: {len(values)} of {len(pairs)}, {statistics.median(values)}")
        return f"pictures correlate {statistics.median(values):.4f} (median), {min(values):.3f} (least)"
    least = 1.0
    for path in sorted(plain.glob("*.pt")):
        (a, _), (b, mask) = features_of(path), features_of(ours / f"{path.stem}.safetensors")
        a, b = a[mask], b[mask]
        cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        least = min(least, float(cosines.min(initial=1.0)))
    if least <= AGREE:
        raise RuntimeError(f"{stage}: features differ: cosine {least:.5f}")
    return f"cosine at least {least:.6f}"


def correlation(path: Path, other: Path) -> float:
    """Correlation of two pictures' pixels."""
    import cv2

    a, b = (cv2.imread(str(each)).astype(np.float64).ravel() for each in (path, other))
    return float(np.corrcoef(a, b)[0, 1]) if a.size == b.size else -1.0


def compare(config: Config) -> dict[str, Any]:
    """Every stage by both sides."""
    import torch

    device = torch.device(config.device)
    folder = config.output_folder
    (folder / "measured").mkdir(parents=True, exist_ok=True)
    make_checkpoints(folder / "models")
    if config.clips:
        found = usable_clips(config.clips, config.names)
        if not found:
            sys.exit(f"{config.clips}: no usable videos named {' or '.join(config.names)}")
    else:
        found = make_clips(folder / "synthetic", config.n_clips, config.seconds)
    inputs = folder / f"input_{config.n_clips}"
    shutil.rmtree(inputs, ignore_errors=True)
    copies(found, inputs / "videos", config.n_clips)
    copies(found, inputs / "more_videos", FRAMES_FACTOR * config.n_clips)
    for stage, source in (("frames", "videos"), ("faces", "frames")):
        command = command_of(config, stage, inputs / source, inputs / stage)
        run_measured(["-m", "viper.cli", *command], folder / "measured" / f"prepare_{stage}.log")
    sources = {"frames": "more_videos", "faces": "frames", "visual": "faces", "audio": "videos", "textual": "frames",
               "fau": "faces"}  # fmt: skip
    stages = [stage for stage in config.stages if stage != "fau" or (folder / "models/multitask.safetensors").exists()]
    peaks = [matrix_peak(device)]
    rows = {}
    for stage in stages:
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for repeat in range(config.repeats):
            for side in SIDES if repeat % 2 == 0 else reversed(SIDES):
                runs[side].append(measure(config, side, stage, inputs / sources[stage], repeat))
        peaks.append(matrix_peak(device))
        rows[stage] = {side: {**runs[side][0], **min(runs[side], key=lambda run: run["seconds"])} for side in SIDES}
        rows[stage]["agreement"] = agreement(config, stage)
        print(f"{stage}: {rows[stage]}", file=sys.stderr)
    return {"device": config.device, "n_clips": config.n_clips, "repeats": config.repeats, "matrix_gflops": max(peaks),
            "precision": config.precision, "clips": str(config.clips or f"synthetic, {config.seconds:g} s"),
            "threads": torch.get_num_threads(), "torch": torch.__version__, "stages": rows}  # fmt: skip


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    peak = report["matrix_gflops"]
    lines = [
        f"{report['n_clips']} clips ({report['clips']}), {report['device']}, {report['threads']} threads, torch "
        f"{report['torch']}, the fastest of {report['repeats']}; precision {report['precision']} on the project's "
        f"side, float32 on the plain one; matrix products at most {peak:.0f} GFLOP/s.",
        "",
        "| stage | side | clips/s | speed | in forward | GFLOP/s there | of peak | start-up, s | peak MB | MB a clip |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    totals = dict.fromkeys(SIDES, 0.0)
    for stage, row in report["stages"].items():
        for side in SIDES:
            run = row[side]
            a_clip = run["seconds"] / run["n_clips"]
            totals[side] += a_clip
            speed = row["plain"]["seconds"] / row["plain"]["n_clips"] / a_clip
            rate = run["flops_a_clip"] * run["n_clips"] / run["forward"] / 1e9 if run["forward"] else 0.0
            inside = (
                f"{run['forward'] / run['seconds']:.0%} | {rate:.0f} | {rate / peak:.0%}" if run["forward"] else " | | "
            )
            lines.append(f"| {stage} | {side} | {1 / a_clip:.3g} | {speed:.2f} | {inside} | {run['start']:.1f} "
                         f"| {run['peak_mb']:.0f} | {run['mb']:.2f} |")  # fmt: skip
    for side in SIDES:
        lines.append(f"| whole | {side} | {1 / totals[side]:.3g} | {totals['plain'] / totals[side]:.2f} | | | | | | |")
    lines += ["", *(f"{stage}: {row['agreement']}." for stage, row in report["stages"].items())]
    return "\n".join(lines)


def linear(config: Config) -> str:
    """Seconds and memory of the commands that need no weights, for more and more clips."""
    folder = config.output_folder
    (folder / "measured").mkdir(parents=True, exist_ok=True)
    (clip,) = make_clips(folder / "tiny", 1, LINEAR_SECONDS)
    lines = [
        "| clips | command | s | ms for each clip more than in the row before | peak MB |",
        "|---|---|---|---|---|",
    ]
    before: dict[str, tuple[int, float]] = {}
    for n in config.linear_clips:
        inputs = folder / f"linear_{n}"
        shutil.rmtree(inputs, ignore_errors=True)
        copies([clip], inputs / "videos", n)
        commands = {
            "get_frame": ["--input_folder", "videos", "--n_frames", "4"],
            "extract_visual_features": ["--input_folder", "get_frame", "--model_name", "hog"],
            "extract_audio_features": ["--input_folder", "videos", "--model_name", "logmel", "--n_fragments", "4"],
        }
        for name, (option, source, *others) in commands.items():
            arguments = [name, option, str(inputs / source), *others, "--output_folder", str(inputs / name),
                         "--n_workers", str(config.n_workers)]  # fmt: skip
            measured = run_measured(["-m", "viper.cli", *arguments], folder / "measured" / f"linear_{name}_{n}.log")
            fewer, seconds = before.get(name, (0, measured.seconds))
            more = f"{1000 * (measured.seconds - seconds) / (n - fewer):.1f}" if fewer else ""
            lines.append(f"| {n} | {name} | {measured.seconds:.1f} | {more} | {measured.peak_mb:.0f} |")
            before[name] = n, measured.seconds
            print(lines[-1], file=sys.stderr)
        shutil.rmtree(inputs)
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    config = tyro.cli(Config, use_underscores=True)
    if config.child:
        child(config)
        return
    if config.quick:
        config.n_clips, config.repeats, config.linear_clips = 2, 1, (50, 100)
    began = time.perf_counter()
    if config.linear:
        print(linear(config))
        return
    report = compare(config)
    (config.output_folder / "extraction.json").write_text(json.dumps(report, indent=1))
    print(table(report))
    print(f"\n(All of it took {time.perf_counter() - began:.0f} s.)", file=sys.stderr)


if __name__ == "__main__":
    main()
