"""Whole processes, start-up included: the project's commands against the published scripts' way of doing the same.

    python benchmarks/processes.py --output_folder scratch/processes --clips ../shared/clips \
        --names 'liveportrait*' 'tpsmm*' 'videoretalking*' 'pyfeat__single*'
    python benchmarks/processes.py --output_folder scratch/processes --busy 2 --stages audio

For each stage plain_extraction.py (what it does, and what not, is said there), the command in float32 and the command
as it comes (`--precision auto`: bf16 where the processor has it), in turns on the same clips and full-size networks of
random weights. Wall clock and processor seconds (user and system, of all the processes a side starts) of each process,
from its start to its end; of the repeats the fastest of each counts. What earlier runs left in the cache folder (the
prompts' embeddings) is there but for `textual, first run`, which gets an empty one each time.

Of `frames` the clock only: worker processes are children of a server, whose seconds the system does not tell. It is
get_frame with as many worker processes as the other side has: one, and one a core.

--busy N keeps so many processes busy beside the measured ones, as when a machine is shared.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import tyro
from full_size import copies, make_checkpoints, make_clips, usable_clips

STAGES = ("frames, 1 worker", "frames, a worker a core", "visual", "audio", "textual", "textual, first run", "fau")
SIDES = ("plain", "float32", "auto")
PLAIN = Path(__file__).with_name("plain_extraction.py")


@dataclass
class Config:
    """Options."""

    output_folder: Path
    """Where checkpoints (1.4 GB), clips and features go; checkpoints and clips are made once. Delete it when done."""
    clips: Path | None = None
    """A folder of videos: those with pictures and sound are used. By default synthetic ones are made."""
    names: tuple[str, ...] = ("*",)
    """Only those whose file names fit one of these patterns."""
    n_clips: int = 4
    """Clips a stage (frames: eight times as many, the same ones again)."""
    repeats: int = 2
    """Measurements of each side."""
    stages: tuple[str, ...] = STAGES
    """Which stages: those whose names begin so."""
    sides: tuple[str, ...] = SIDES
    """Which sides."""
    busy: int = 0
    """Processes that keep a core busy meanwhile."""


@dataclass(frozen=True)
class Taken:
    """Seconds of a process and its children: by the clock, and of processors."""

    wall: float
    processors: float


def run(arguments: list[str], log: Path, environment: dict[str, str]) -> Taken:
    """Run a command; one that fails is a RuntimeError with the end of what it said."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with open(log, "w") as said:
        code = subprocess.run(arguments, stdout=said, stderr=said, env=environment, check=False).returncode
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        raise RuntimeError(f"{' '.join(arguments[:5])} ended with {code}:\n{log.read_text()[-2000:]}")
    return Taken(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def command(stage: str, side: str, source: Path, output: Path, models: Path) -> list[str]:
    """What a side runs."""
    name = stage.split(",")[0]
    n_workers = 1 if stage.endswith("1 worker") else os.cpu_count() or 1
    if side == "plain":
        return [sys.executable, str(PLAIN), name, str(source), str(output), str(models), "cpu", str(n_workers)]
    precision = ["--device", "cpu", "--precision", side]
    arguments = {
        "frames": ["get_frame", "--n_workers", str(n_workers)],
        "visual": ["extract_visual_features", "--model_name", str(models / "vit"), *precision],
        "audio": ["extract_audio_features", "--model_name", str(models / "wavlm"), *precision],
        "textual": ["extract_textual_features", "--model_name", str(models / "roberta"), "--clip_model",
                    str(models / "clip"), *precision],
        "fau": ["extract_FAU_features", "--weights", str(models / "multitask.safetensors"), *precision],
    }[name]  # fmt: skip
    return [
        sys.executable,
        "-m",
        "viper.cli",
        *arguments,
        "--input_folder",
        str(source),
        "--output_folder",
        str(output),
    ]


def inputs_of(config: Config) -> dict[str, Path]:
    """The folder each stage reads; made where it is not there. No faces are looked for: crops are squares."""
    folder = config.output_folder
    make_checkpoints(folder / "models")
    if config.clips:
        found = usable_clips(config.clips, config.names)
        if not found:
            sys.exit(f"{config.clips}: no usable videos named {' or '.join(config.names)}")
    else:
        found = make_clips(folder / "synthetic", config.n_clips, 10.0)
    inputs = folder / f"input_{config.n_clips}"
    shutil.rmtree(inputs, ignore_errors=True)
    copies(found, inputs / "videos", config.n_clips)
    copies(found, inputs / "more_videos", 8 * config.n_clips)
    arguments = command("frames, 1 worker", "plain", inputs / "videos", inputs / "frames", folder / "models")
    run(arguments, folder / "frames.log", dict(os.environ))
    for path in (inputs / "frames").glob("*/*.jpg"):
        picture = cv2.imread(str(path))
        side = min(picture.shape[:2])
        crop = inputs / "faces" / path.relative_to(inputs / "frames")
        crop.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(crop), cv2.resize(picture[:side, :side], (224, 224), interpolation=cv2.INTER_AREA))
    sources = {"frames": "more_videos", "visual": "faces", "audio": "videos", "textual": "frames", "fau": "faces"}
    return {stage: inputs / sources[stage.split(",")[0]] for stage in STAGES}


def measure(config: Config, stage: str, side: str, source: Path) -> Taken:
    """One process."""
    folder = config.output_folder
    output, models = folder / "made" / f"{stage}_{side}", folder / "models"
    shutil.rmtree(output, ignore_errors=True)
    environment = dict(os.environ)
    if stage.endswith("first run"):
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            environment["XDG_CACHE_HOME"] = cache
            return run(command(stage, side, source, output, models), folder / "side.log", environment)
    environment["XDG_CACHE_HOME"] = str((folder / "cache").absolute())
    return run(command(stage, side, source, output, models), folder / "side.log", environment)


def main() -> None:
    """The command line."""
    config = tyro.cli(Config, use_underscores=True)
    began = time.perf_counter()
    sources = inputs_of(config)
    stages = [stage for stage in STAGES if stage.startswith(tuple(config.stages))]
    if not (config.output_folder / "models" / "multitask.safetensors").exists():
        stages = [stage for stage in stages if stage != "fau"]
    loops = [multiprocessing.Process(target=_keep_busy, daemon=True) for _ in range(config.busy)]
    for loop in loops:
        loop.start()
    heads = ["stage", *(f"{side}, s (processors)" for side in config.sides)]
    heads += [f"{side}: speed (by processors)" for side in config.sides[1:]]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    report: dict[str, dict[str, list[float]]] = {}
    for stage in stages:
        sides = [side for side in config.sides if not (stage.startswith("frames") and side == "auto")]
        if "textual" in stage and "first" not in stage:  # leaves the prompts' embeddings
            measure(config, stage, "float32", sources[stage])
        taken: dict[str, list[Taken]] = {side: [] for side in sides}
        for repeat in range(config.repeats):
            for side in sides if repeat % 2 == 0 else reversed(sides):
                taken[side].append(measure(config, stage, side, sources[stage]))
        best = {side: Taken(min(t.wall for t in each), min(t.processors for t in each)) for side, each in taken.items()}
        is_told = not stage.startswith("frames")
        cells = [cell(best[side].wall, best[side].processors, is_told) if side in best else "" for side in config.sides]
        for side in config.sides[1:]:
            plain, ours = best[sides[0]], best.get(side)
            ratios = (plain.wall / ours.wall, plain.processors / ours.processors) if ours else None
            cells.append(cell(*ratios, is_told) if ratios else "")
        print(f"| {stage} | {' | '.join(cells)} |", flush=True)
        report[stage] = {side: [each.wall, each.processors] for side, each in best.items()}
    for loop in loops:
        loop.terminate()
    (config.output_folder / "processes.json").write_text(json.dumps(report, indent=1))
    print(f"({time.perf_counter() - began:.0f} s, {config.n_clips} clips, {config.busy} busy)", file=sys.stderr)


def cell(by_clock: float, by_processors: float, is_told: bool) -> str:
    """Two numbers for the table, or the first."""
    return f"{by_clock:.2f} ({by_processors:.2f})" if is_told else f"{by_clock:.2f}"


def _keep_busy() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
