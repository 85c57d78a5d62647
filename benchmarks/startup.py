"""How long a training takes to its first batch, and how much memory it holds: packs against torch.load of every file.

    python benchmarks/startup.py --folder scratch/startup

Makes, in --folder, feature stores of random numbers and the same tensors as one .pt file a clip and modality, which the
published training loads into memory before it starts. Every measurement is a process of its own, timed from when the
libraries are imported and the manifest is read until the first batch of 16 clips is there; for the packs that includes
the normalisation statistics of all clips, which torch.load's side does not compute. Each side runs once unmeasured, so
that its files are in the page cache, and then in turns; medians are printed. Delete the folder when done.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from viper.manifest import Manifest
from viper.store import EncoderInfo, Feature, FeatureStore
from viper.task import load_task

WIDTHS = {"visual": 768, "audio": 512, "textual": 768, "FAU": 27}
BATCH_SIZE = 16
SIDES = ("packed, the first time", "packed", "torch.load")


@dataclass
class Config:
    """Options."""

    folder: Path
    """Where the data is made, or was made by an earlier call. Takes about 1 GB for 5,000 clips of 8 tokens."""
    n_clips: int = 5000
    """Clips, all of the training split."""
    n_tokens: int = 8
    """Tokens of every feature."""
    repeats: int = 5
    """Measurements of each side."""
    side: str | None = None
    """Used by the script itself: measures one side in this process and prints JSON."""


def make_data(config: Config) -> None:
    """The manifest, the stores (features_NAME) and the .pt files (pt_NAME)."""
    import torch

    if (config.folder / "manifest.csv").exists():
        return
    rng = np.random.default_rng(0)
    for name, width in WIDTHS.items():
        store = FeatureStore.create(config.folder / f"features_{name}", EncoderInfo("random", name, width))
        (config.folder / f"pt_{name}").mkdir(exist_ok=True)
        for clip in range(config.n_clips):
            tokens = rng.standard_normal((config.n_tokens, width), np.float32)
            store.write(str(clip), Feature.make(tokens))
            torch.save(torch.from_numpy(tokens), config.folder / f"pt_{name}" / f"{clip}.pt")
    targets = load_task("hume_reaction").targets
    rows = [f"{clip},Train" + ",0.5" * len(targets) for clip in range(config.n_clips)]
    (config.folder / "manifest.csv").write_text("\n".join([",".join(["File_ID", "Split", *targets]), *rows]) + "\n")


def memory_mb(field: str) -> float:
    """A field of /proc/self/status: VmHWM (peak), VmRSS (resident), RssAnon (what cannot be given back)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1000


def measure(config: Config, side: str) -> dict[str, float]:
    """Starts one side up in this process."""
    import torch
    from torch.utils.data import DataLoader

    from viper.training.data import FusionData

    manifest = Manifest.load(config.folder / "manifest.csv", load_task("hume_reaction"))
    before = memory_mb("VmRSS")
    start = time.perf_counter()
    if side == "torch.load":
        features = {
            name: [torch.load(config.folder / f"pt_{name}" / f"{clip}.pt") for clip in manifest.clips]
            for name in WIDTHS
        }
        batch = {name: torch.stack(tensors[:BATCH_SIZE]) for name, tensors in features.items()}
    else:
        stores = {name: FeatureStore.open(config.folder / f"features_{name}") for name in WIDTHS}
        data = FusionData(stores, manifest)
        data.statistics()
        batch = next(iter(DataLoader(data, BATCH_SIZE, shuffle=True, collate_fn=data.collate)))["tokens"]
    seconds = time.perf_counter() - start
    assert [batch[name].shape for name in WIDTHS] == [(BATCH_SIZE, config.n_tokens, w) for w in WIDTHS.values()]
    memory = {field: memory_mb(field) for field in ("VmHWM", "VmRSS", "RssAnon")}
    return {"seconds": seconds, "before": before, **memory}


def measure_apart(config: Config, side: str) -> dict[str, float]:
    """The same in a process of its own."""
    if side == "packed, the first time":
        for name in WIDTHS:
            shutil.rmtree(config.folder / f"features_{name}" / ".packed", ignore_errors=True)
    command = [sys.executable, __file__, "--folder", str(config.folder), "--n_clips", str(config.n_clips)]
    command += ["--n_tokens", str(config.n_tokens), "--side", side]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def main() -> None:
    """Prints a row per side."""
    config = tyro.cli(Config, use_underscores=True)
    if config.side:
        print(json.dumps(measure(config, config.side)))
        return
    make_data(config)
    for side in SIDES:
        measure_apart(config, side)
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(config.repeats):
        for side in SIDES:
            runs[side].append(measure_apart(config, side))
    n_bytes = config.n_clips * config.n_tokens * sum(WIDTHS.values()) * 4
    widths = ", ".join(map(str, WIDTHS.values()))
    print(f"{config.n_clips} clips x {len(WIDTHS)} modalities of {config.n_tokens} tokens, widths {widths}:")
    print(f"{n_bytes / 1e6:.0f} MB; page cache warm; median of {config.repeats}\n")
    print("| | to the first batch, s | resident before, MB | after | of it anonymous | peak |")
    print("|---|---|---|---|---|---|")
    medians = {
        side: {key: statistics.median(run[key] for run in found) for key in found[0]} for side, found in runs.items()
    }
    for side, row in medians.items():
        cells = [f"{row['seconds']:.3f}", *(f"{row[key]:.0f}" for key in ("before", "VmRSS", "RssAnon", "VmHWM"))]
        print(f"| {side} | {' | '.join(cells)} |")
    print(f"\ntorch.load / packed: {medians['torch.load']['seconds'] / medians['packed']['seconds']:.1f}")


if __name__ == "__main__":
    main()
