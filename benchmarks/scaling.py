"""What grows with the number of clips, apart from the work on each: storage, listing, looking, failures, packing.

    python benchmarks/scaling.py --videos FOLDER --output_folder FOLDER --rates EXTRACTION/extraction.json

Prints the tables of docs/scaling.md; the rates are those that benchmarks/extraction.py has measured. The times are of
files that were just written and are in the cache: what viper itself takes, not how long one waits for a disk or for a
network file system.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro

from viper.engine.failures import Failure, FailureLog
from viper.engine.run import LOOKING_THREADS
from viper.errors import ClipError
from viper.files import read_json
from viper.media import pictures as frames
from viper.media.listing import list_videos
from viper.media.sampling import uniform_indices
from viper.media.video import read_frames
from viper.store import EncoderInfo, Feature, FeatureStore
from viper.training.packing import open_features, scan

# Modality, tokens a clip, width: what the default encoders give.
FEATURES = [("visual", 32, 768), ("audio", 32, 512), ("textual", 32, 768), ("FAU", 32, 27)]
HEIGHTS = (1080, 540, 360)
CROP = 224
N_FRAMES = 32


@dataclass
class Config:
    """Options."""

    videos: Path
    """Real videos, whose frames tell how large JPEGs are."""
    output_folder: Path
    """Where many files are made and removed: on the file system that is asked about."""
    rates: Path | None = None
    """extraction.json, of benchmarks/extraction.py: seconds a clip of each stage, on that machine."""
    n_clips: int = 100_000
    """Entries of the folder of videos that is listed."""
    n_features: int = 20_000
    """Features, and folders of frames, that are looked at; the features are packed."""


def main(config: Config) -> None:
    """Prints the tables."""
    config.output_folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=config.output_folder))
    if config.rates:
        times(config.rates)
    try:
        storage(config.videos, folder / "storage")
        print("\n| step | items | seconds | items/s |\n|---|---|---|---|")
        listing(config.n_clips, folder / "videos")
        looking_at_frames(config.n_features, folder / "frames")
        looking_at_features(config.n_features, folder / "visual")
        failing(folder / "failing")
    finally:
        shutil.rmtree(folder)


def times(path: Path) -> None:
    """How long many clips take, by the rates of a few: clips are independent, and nothing grows with their number."""
    report = read_json(path)
    print(f"\nDevice: {report['device']}, threads: {report['threads']}, clips: {report['clips']}")
    print("\n| stage | s a clip | 25,000 clips: hours | 1,000,000: days | machines for 1,000,000 in a day |")
    print("|---|---|---|---|---|")
    rates = {name: stage["viper"]["seconds"] / stage["viper"]["n_clips"] for name, stage in report["stages"].items()}
    for name, rate in {**rates, "all": sum(rates.values())}.items():
        days = 1e6 * rate / 86400
        print(f"| {name} | {rate:.3f} | {25_000 * rate / 3600:.1f} | {days:.1f} | {days:.0f} |")


def storage(videos: Path, folder: Path) -> None:
    """Bytes of a clip: its pictures, of videos that are at least so high, and its features."""
    folder.mkdir()
    sampled = []
    for clip in list_videos(videos):
        try:
            sampled.append(read_frames(clip.path, lambda times: uniform_indices(len(times), 4)).images)
        except ClipError:
            continue
    print("\n| of a clip | kB | of videos |\n|---|---|---|")
    for height in HEIGHTS:
        sizes = [_jpeg(images, height, folder) for images in sampled if images[0].shape[0] >= height]
        print(f"| {N_FRAMES} frames, {height} lines | {np.mean(sizes) / 1000:.0f} | {len(sizes)} |")
    squares = [[image[: min(image.shape[:2]), : min(image.shape[:2])] for image in images] for images in sampled]
    sizes = [_jpeg(images, CROP, folder) for images in squares if images[0].shape[0] >= CROP]
    print(f"| {N_FRAMES} crops, {CROP} x {CROP} | {np.mean(sizes) / 1000:.0f} | {len(sizes)} |")
    for name, n_tokens, width in FEATURES:
        store = _store(folder / name, width)
        store.write("clip", Feature.make(np.ones((n_tokens, width))), "0" * 24)
        print(f"| {name}: {n_tokens} tokens of {width} | {store.path('clip').stat().st_size / 1000:.1f} | |")


def _jpeg(images: list[np.ndarray], height: int, folder: Path) -> float:
    """Bytes of `N_FRAMES` pictures like these, scaled down."""
    sizes = []
    for image in images:
        width = round(image.shape[1] * height / image.shape[0])
        frames.write_image(folder / "frame.jpg", cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
        sizes.append((folder / "frame.jpg").stat().st_size)
    return float(np.mean(sizes)) * N_FRAMES


def listing(n: int, folder: Path) -> None:
    """The folder of videos, which every stage lists, and every shard of it."""
    folder.mkdir()
    _timed("write empty files", n, lambda: [(folder / f"clip_{i}.mp4").touch() for i in range(n)])
    _timed("list_videos", n, lambda: list_videos(folder))
    tracemalloc.start()
    clips = list_videos(folder)
    size = tracemalloc.get_traced_memory()[0] / len(clips)
    tracemalloc.stop()
    print(f"| a listed clip in memory: {size:.0f} bytes | | | |")


def looking_at_frames(n: int, folder: Path) -> None:
    """Whether clips' pictures are there: a record, and a look at each of the pictures."""
    n //= 10
    record = {"frames": [{"index": i, "time": i / 10} for i in range(N_FRAMES)]}
    for number in range(n):
        clip = folder / f"clip_{number}"
        clip.mkdir(parents=True)
        for i in range(N_FRAMES):
            (clip / frames.frame_name(i)).write_bytes(b"x")
        frames.write_record(clip, frames.FRAMES_FILE, record)
    clips = frames.list_frame_clips(folder)
    _timed("list_frame_clips", n, lambda: frames.list_frame_clips(folder))

    def is_done(clip: frames.FrameClip) -> bool:
        return frames.read_complete(clip.folder, frames.FRAMES_FILE, {}) is not None and bool(clip.source())

    _timed(f"is a clip's folder of {N_FRAMES} frames complete", n, lambda: _look(is_done, clips))


def looking_at_features(n: int, folder: Path) -> None:
    """Whether features are there and current, and copying them into one file for a training."""
    _, n_tokens, width = FEATURES[0]
    store = _store(folder, width)
    feature = Feature.make(np.random.default_rng(0).random((n_tokens, width)))
    ids = [f"clip_{i}" for i in range(n)]
    _timed("write a feature", n, lambda: [store.write(clip, feature, "source") for clip in ids])
    _timed("is a feature current", n, lambda: _look(lambda clip: store.is_current(clip, "source"), ids))
    _timed("read a feature", n, lambda: [store.read(clip) for clip in ids])
    states = scan(store, ids)
    _timed("scan for a training", n, lambda: scan(store, ids))
    _timed("pack for a training, once", n, lambda: open_features(store, ids, states, "Train"))
    _timed("open the pack", n, lambda: open_features(store, ids, states, "Train"))


def _look(look: Callable[..., bool], clips: list) -> None:
    with ThreadPoolExecutor(LOOKING_THREADS) as threads:
        if not all(threads.map(look, clips)):
            raise RuntimeError("a clip is not there")


def failing(folder: Path) -> None:
    """Writing the list of failures, which is read and written whole, though not for each of many."""
    for n in (0, 1000, 10_000):
        folder.mkdir()
        rows = "".join(f"bad_{i},stage,ClipError,bad_{i}.mp4: cannot be decoded\n" for i in range(n))
        (folder / "failures.csv").write_text("clip,stage,error,message\n" + rows)
        log = FailureLog(folder, "stage")
        _timed(f"add one to {n:,} failures", 1, lambda log=log: log.failed(Failure("more", "stage", "Error", "odd")))
        shutil.rmtree(folder)


def _store(folder: Path, width: int) -> FeatureStore:
    return FeatureStore.create(folder, EncoderInfo("benchmark", folder.name, width))


def _timed(name: str, n: int, work: Callable[[], object]) -> None:
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    print(f"| {name} | {n:,} | {seconds:.2f} | {n / seconds:,.0f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config, use_underscores=True))
