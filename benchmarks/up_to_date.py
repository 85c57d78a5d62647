"""What it costs to know that nothing has changed: whole contents, remembered, against the edges of files.

    python benchmarks/up_to_date.py --output_folder FOLDER

Prints the tables of docs/benchmarks.md, in seconds of the processor. The reference, `edges`, is what viper did before:
a digest of a file's size and its first and last 64 KiB, of a clip's pictures only their record, of a feature only its
header.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
import wave
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from viper import fingerprints
from viper.commands.extract_jobs import IsDone
from viper.engine.run import LOOKING_THREADS
from viper.files import read_json
from viper.fingerprints import RACY_NS, fingerprint
from viper.media.clips import SoundClip
from viper.media.pictures import FACES_FILE, FrameClip, frame_name, read_complete, write_record
from viper.store import EncoderInfo, Feature, FeatureStore

N_FRAMES = 32
REPEATS = 3


@dataclass
class Config:
    """Options."""

    output_folder: Path
    """Where many files are made and removed: on the file system that is asked about."""
    n_clips: int = 25_000
    """Clips of a stage that reads one file of each."""
    n_picture_clips: int = 2_500
    """Clips of a stage that reads 32 pictures of each."""
    gigabytes: float = 1.0
    """Size of the one large file."""


def main(config: Config) -> None:
    """Print the tables."""
    config.output_folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=config.output_folder))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    try:
        one_file(folder / "large", round(config.gigabytes * 1e9))
        print("\n| a run with nothing to do | clips | edges, s | first time, s | remembered, s | ratio |")
        print("|---|---|---|---|---|---|")
        sounds(config.n_clips, folder / "sounds")
        pictures(config.n_picture_clips, folder / "pictures")
    finally:
        shutil.rmtree(folder)


def edges(path: Path, edge_bytes: int = 65536) -> str:
    """Return the digest of before."""
    digest = hashlib.blake2b(digest_size=12)
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(edge_bytes))
        if size > edge_bytes:
            file.seek(max(edge_bytes, size - edge_bytes))
            digest.update(file.read(edge_bytes))
    return digest.hexdigest()


def one_file(path: Path, n_bytes: int) -> None:
    """Time one large file: read from the disk, from the cache, and remembered."""
    block = np.random.default_rng(0).bytes(1 << 20)
    with path.open("wb") as file:
        for _ in range(n_bytes >> 20):
            file.write(block)
        os.fsync(file.fileno())
    time.sleep(RACY_NS / 1e9 + 0.1)
    print(f"\n| {n_bytes / 1e9:g} GB in one file | seconds of the processor |\n|---|---|")
    print(f"| edges | {_seconds(lambda: edges(path)):.5f} |")

    def cold() -> None:
        _forget(path.parent)
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    print(f"| whole, from the disk | {_seconds(lambda: fingerprint(path), cold):.2f} |")
    print(f"| whole, from the cache | {_seconds(lambda: fingerprint(path), lambda: _forget(path.parent)):.2f} |")
    fingerprint(path)
    print(f"| remembered, by a new process | {_seconds(lambda: fingerprint(path), _start_again):.5f} |")
    path.unlink()


def sounds(n: int, folder: Path) -> None:
    """Time a stage that reads a file of each clip: 100 kB, and 64 kB of features."""
    store = _store(folder / "features", "sound")
    (folder / "files").mkdir()
    samples, feature = np.zeros(50_000, "<i2").tobytes(), _feature()
    clips = [SoundClip(str(number), folder / "files" / f"{number}.wav") for number in range(n)]
    old = FeatureStore.create(folder / "old", store.info)
    for clip in clips:
        with wave.open(str(clip.path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(samples)
        store.write(clip.id, feature, clip.source())
        old.write(clip.id, feature, edges(clip.path))
    _compare("features of sounds", clips, IsDone(store), lambda clip: old.is_current(clip.id, edges(clip.path)), folder)


def pictures(n: int, folder: Path) -> None:
    """Time a stage that reads 32 pictures of 10 kB of each clip."""
    store = _store(folder / "features", "faces")
    old, feature = FeatureStore.create(folder / "old", store.info), _feature()
    points = [[0.0, 0.0]] * 5
    frames = [
        {"index": i, "time": i / 10, "found": True, "score": 0.99, "crop": [0, 0, 9, 9], "landmarks": points}
        for i in range(N_FRAMES)
    ]
    clips = [FrameClip(str(number), folder / "faces" / str(number)) for number in range(n)]
    for clip in clips:
        clip.folder.mkdir(parents=True)
        for i in range(N_FRAMES):
            (clip.folder / frame_name(i)).write_bytes(b"x" * 10_000)
        write_record(clip.folder, FACES_FILE, {"frames": frames})
        store.write(clip.id, feature, clip.source())
        old.write(clip.id, feature, edges(clip.folder / FACES_FILE))

    def before(clip: FrameClip) -> bool:
        return old.is_current(clip.id, edges(clip.folder / FACES_FILE))

    _compare("features of face crops", clips, IsDone(store), before, folder)
    _compare("the face crops", clips, lambda clip: _is_complete(clip) is not None, _was_complete, folder)


def _is_complete(clip: FrameClip) -> object:
    return read_complete(clip.folder, FACES_FILE, {})


def _was_complete(clip: FrameClip) -> bool:
    record = read_json(clip.folder / FACES_FILE)
    return all((clip.folder / frame_name(frame["index"])).stat().st_size > 0 for frame in record["frames"])


def _compare(
    name: str, clips: Sequence, is_done: Callable[..., bool], before: Callable[..., bool], folder: Path
) -> None:
    time.sleep(RACY_NS / 1e9 + 0.1)
    reference = _seconds(lambda: _look(before, clips))
    first = _seconds(lambda: _look(is_done, clips), lambda: _forget(folder.parent))
    remembered = _seconds(lambda: _look(is_done, clips), _start_again)
    numbers = f"{reference:.2f} | {first:.2f} | {remembered:.2f} | {remembered / reference:.2f}"
    print(f"| {name} | {len(clips):,} | {numbers} |", flush=True)


def _store(folder: Path, source: str) -> FeatureStore:
    return FeatureStore.create(folder, EncoderInfo("planted", "visual", 512, source=source))


def _feature() -> Feature:
    return Feature.make(np.random.default_rng(0).random((32, 512)))


def _look(look: Callable[..., bool], clips: Sequence) -> None:
    with ThreadPoolExecutor(LOOKING_THREADS) as threads:
        if not all(threads.map(look, clips)):
            raise RuntimeError("a clip is not done")


def _start_again() -> None:
    """Forget what this process knows, but not what is on disk."""
    fingerprints._MEMORY = fingerprints._Memory()


def _forget(folder: Path) -> None:
    shutil.rmtree(folder / "cache", ignore_errors=True)
    _start_again()


def _seconds(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Return the least of several times, of the processor: others may use the machine too."""
    times = []
    for _ in range(REPEATS):
        before()
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


if __name__ == "__main__":
    main(tyro.cli(Config))
