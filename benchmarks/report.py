"""How long `viper report` takes on a large split, and how large the page becomes.

    python benchmarks/report.py --n_clips 5000

Makes up a run in a temporary folder: 7 targets, 4 modalities of a few small tokens (packed, as a training leaves
them), face crops, subjects, ages and countries. Its weights are random, so the scores say nothing; the time and the
size do not depend on them.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import re
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from viper.commands import report
from viper.commands.report import ReportOptions
from viper.commands.train_perceiver import TrainOptions
from viper.files import write_csv, write_json
from viper.fusion.checkpoint import point_best, save_checkpoint
from viper.fusion.perceiver import PerceiverFusion, PerceiverFusionConfig
from viper.logs import start_logging
from viper.manifest import Manifest
from viper.media.pictures import FRAMES_FILE, frame_name, write_image
from viper.store import EncoderInfo, Feature, FeatureStore
from viper.task import load_task
from viper.training import run_folder
from viper.training.packing import open_features, scan

WIDTHS = {"visual": 64, "audio": 32, "textual": 48, "FAU": 27}
N_TOKENS = 8
N_FRAMES, SIDE = 5, 160


@dataclass
class Options:
    """Options."""

    n_clips: int = 5000
    """Labelled clips of the split."""
    preset: Literal["tiny", "small"] = "small"
    """Size of the model."""
    n_resamples: int = 1000
    """Bootstrap resamples."""
    profile: bool = False
    """Also print where the time goes."""


def main(options: Options) -> None:
    """Make a run and its report, and print seconds and bytes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_run(root, options)
        start_logging()
        wanted = ReportOptions(
            run=root / "run", output_path=root / "report", device="cpu", n_resamples=options.n_resamples
        )
        profile = cProfile.Profile()
        began, began_work = time.perf_counter(), time.process_time()
        if options.profile:
            profile.enable()
        report.run(wanted)
        profile.disable()
        seconds, work = time.perf_counter() - began, time.process_time() - began_work
        page = (root / "report" / "report.html").read_text()
        sizes = {path.name: path.stat().st_size for path in sorted((root / "report").iterdir())}
        parts = {
            "pictures": sum(len(match) for match in re.findall(r"data:image/[^\"')]*", page)),
            "figures": sum(len(match) for match in re.findall(r"<svg.*?</svg>", page, re.DOTALL)),
        }
        parts["all else"] = len(page) - sum(parts.values())
    print(
        f"{options.n_clips:,} clips, preset {options.preset}, {torch.get_num_threads()} threads: {seconds:.1f} s, "
        f"{work:.1f} s of processors"
    )
    for name, size in {**sizes, **{f"  of report.html: {part}": size for part, size in parts.items()}}.items():
        print(f"{name:<32}{size / 1e6:8.2f} MB")
    if options.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


def make_run(root: Path, options: Options) -> None:
    """Write manifest, stores, frames and a run."""
    rng, task = np.random.default_rng(0), load_task("hume_reaction")
    clips = [f"{number:06d}" for number in range(options.n_clips)]
    header = [task.id_column, task.split_column, *task.targets, "Subject", "Age", "Country"]
    labels = rng.uniform(0, 1, (options.n_clips, len(task.targets))).round(4)
    people = [(f"p{k % 300:03d}", 18 + k % 300 % 50, ("China", "USA", "South Africa")[k % 300 % 3])
              for k in range(options.n_clips)]  # fmt: skip
    rows = [[clip, "Val", *row, *person] for clip, row, person in zip(clips, labels, people, strict=True)]
    write_csv(root / "manifest.csv", [header, *rows])
    stores = {name: _store(root / "features" / name, width, clips, rng) for name, width in WIDTHS.items()}
    _frames(root / "faces", clips, rng)
    modalities = {name: {"width": store.width, "encoder": asdict(store.info)} for name, store in stores.items()}
    torch.manual_seed(0)
    settings = PerceiverFusionConfig(
        preset=options.preset, modalities=modalities, task=task.to_dict(), linear_share=0.5
    )
    run = root / "run"
    training = TrainOptions(csv_path=root / "manifest.csv", output_checkpoint_folder=run)
    for name in WIDTHS:
        setattr(training, f"{name}_features_input_folder", root / "features" / name)
    manifest = Manifest.load(root / "manifest.csv", task)
    run_folder.start(run, run_folder.describe(training, stores, manifest, "", {}), overwrite=False)
    for store in stores.values():  # as a training leaves them
        open_features(store, clips, scan(store, clips), "Val")
    save_checkpoint(run, 1, PerceiverFusion(settings).eval())
    point_best(run, 1)


def _store(folder: Path, width: int, clips: list[str], rng: np.random.Generator) -> FeatureStore:
    store = FeatureStore.create(folder, EncoderInfo("made_up", folder.name, width, source="faces"))
    for clip in clips:
        store.write(clip, Feature.make(rng.normal(size=(N_TOKENS, width)), time=np.arange(N_TOKENS) / 2))
    return store


def _frames(folder: Path, clips: list[str], rng: np.random.Generator) -> None:
    """Smooth pictures, which compress as photographs do; all clips share the files of a few."""
    import cv2

    frames = [{"index": index, "time": index / 2} for index in range(N_FRAMES)]
    for number, clip in enumerate(clips):
        own = folder / clip
        own.mkdir(parents=True)
        write_json(own / FRAMES_FILE, {"frames": frames})
        for index in range(N_FRAMES):
            if number < 20:
                noise = rng.integers(0, 255, (SIDE // 8, SIDE // 8, 3), np.uint8)
                image = cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
                write_image(own / frame_name(index), image)
            else:
                os.link(folder / clips[number % 20] / frame_name(index), own / frame_name(index))


if __name__ == "__main__":
    main(tyro.cli(Options))
