"""The features of one split of one store as a few memory-mapped arrays: a training starts at once, memory stays small.

A store is one file a clip, good for stages that make, check and replace clips one by one. A training reads all of them,
every epoch. So the first training copies a split's clips, in the manifest's order, to

    <store>/.packed/<split>/<key>/{index.json, offsets.npy, present.npy, tokens.bin, mask.bin, time.bin}

and later ones map these files. The key is a digest of the clips' names, of the states of their files (size, times,
inode) and of the store's encoder: features that changed, or another list of clips, have another key, and the pack of
the old one is removed. A time of change cannot be set, so a file that got its old modification time back has changed
too. The index has a digest of the other files: a pack that is not as it was written is made again.
In a store that cannot be written the pack goes to ~/.cache/viper/packed (XDG_CACHE_HOME where it is set). A pack may be
deleted at any time; the next training makes it again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from filelock import FileLock, Timeout

from viper.errors import UserError
from viper.files import atomic_folder, cache_folder, digest_of, read_json, write_json
from viper.fingerprints import fingerprint_folder
from viper.logs import log, progress_bar
from viper.store import SUFFIX, Feature, FeatureStore

try:
    import fcntl
except ImportError:  # Windows, which does not let a mapped file be deleted, so that nothing needs to be held
    fcntl = None  # type: ignore[assignment]

PACKED_FOLDER = ".packed"
FORMAT = 2  # part of the key: raised when the layout changes
INDEX_FILE = "index.json"
OFFSETS, PRESENT = "offsets.npy", "present.npy"
TOKENS, MASK, TIME = "tokens.bin", "mask.bin", "time.bin"
LOCK_FILE = "lock"
BLOCK_VALUES = 1 << 20  # numbers looked at together: 8 MiB in float64

Statistics = tuple[np.ndarray, np.ndarray]
FileState = tuple[int, int, int, int] | None


class Features(Protocol):
    """One modality of a list of clips."""

    def __getitem__(self, index: int) -> Feature | None:
        """The feature of a clip; None where it has none."""

    def longest(self) -> int:
        """Tokens of the longest feature, 0 where there are none."""

    def statistics(self) -> Statistics | None:
        """Mean and standard deviation (D,) float64 of the tokens that are not masked; None where there are none."""


class StoredFeatures:
    """Features read from the store's files each time: for a single pass, or where no pack can be written."""

    def __init__(self, store: FeatureStore, clips: Sequence[str], states: Sequence[FileState]) -> None:
        self._store, self._clips = store, clips
        self._present = [state is not None for state in states]

    def __getitem__(self, index: int) -> Feature | None:
        return self._store.read(self._clips[index]) if self._present[index] else None

    def longest(self) -> int:
        """See `Features`."""
        return max((len(feature.mask) for feature in self._features()), default=0)

    def statistics(self) -> Statistics | None:
        """See `Features`."""
        return moments(feature.tokens[feature.mask] for feature in self._features())

    def _features(self) -> Iterator[Feature]:
        return (self._store.read(clip) for clip, present in zip(self._clips, self._present, strict=True) if present)


class PackedFeatures:
    """A pack that is open. What `__getitem__` gives are read-only views of the files: nothing is copied or kept.

    Raises, when opened, OSError, UserError or ValueError for a folder that holds no complete pack.

    Parameters
    ----------
    width : channels of a token.
    is_known : this process, or the one it was sent from, has written or opened the pack before: it is not read through.

    Attributes
    ----------
    tokens : (N, D) float32, those of all clips one after the other.
    mask, time : (N,) bool and float32.
    offsets : (C + 1,) int64; clip i has the tokens from offsets[i] up to offsets[i + 1].
    present : (C,) bool, whether the clip has a feature, which may be one of no tokens.
    """

    def __init__(self, folder: Path, width: int, is_known: bool = False) -> None:
        self.folder, self.width = folder, width
        self._held = _hold(folder)
        index = read_json(folder / INDEX_FILE)
        if not is_known and index != _index(folder, index["statistics"]):
            raise ValueError(f"{folder}: is not as it was written")
        self.offsets = np.load(folder / OFFSETS, allow_pickle=False)
        self.present = np.load(folder / PRESENT, allow_pickle=False)
        n = int(self.offsets[-1])
        if len(self.offsets) != len(self.present) + 1 or (np.diff(self.offsets, prepend=0) < 0).any():
            raise ValueError(f"{folder}: offsets that do not fit")
        self.tokens = _mapped(folder / TOKENS, np.float32, (n, width))
        self.mask = _mapped(folder / MASK, np.bool_, (n,))
        self.time = _mapped(folder / TIME, np.float32, (n,))
        self._statistics = index["statistics"]

    def __reduce__(self) -> tuple[type[PackedFeatures], tuple[Path, int, bool]]:
        """Worker processes that are not forked map the same files; arrays would travel as copies of all data."""
        return PackedFeatures, (self.folder, self.width, True)

    def __getitem__(self, index: int) -> Feature | None:
        if not self.present[index]:
            return None
        part = slice(self.offsets[index], self.offsets[index + 1])
        return Feature(self.tokens[part], self.mask[part], self.time[part])

    def longest(self) -> int:
        """See `Features`."""
        return int(np.diff(self.offsets).max(initial=0))

    def statistics(self) -> Statistics | None:
        """See `Features`; computed when the pack was written."""
        if self._statistics is None:
            return None
        mean, deviation = (np.array(values) for values in self._statistics)
        return mean, deviation


def moments(blocks: Iterable[np.ndarray]) -> Statistics | None:
    """Mean and standard deviation (D,) of the rows of all blocks (n, D), in float64; None where there is no row.

    Blocks are merged by the pairwise update of Chan, Golub and LeVeque (1979): no difference of large sums.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for block in blocks:
        if len(block):
            values = block.astype(np.float64)
            n, total, centre = len(values), count + len(values), values.mean(axis=0)
            step = centre - mean
            squares = squares + np.square(values - centre).sum(axis=0) + np.square(step) * (count * n / total)
            mean = mean + step * (n / total)
            count = total
    return (mean, np.sqrt(squares / count)) if count else None


def scan(store: FeatureStore, clips: Sequence[str]) -> list[FileState]:
    """Size, modification and change time (ns) and inode of each clip's file, None where there is none.

    None is opened.
    """
    rows = {f"{clip}{SUFFIX}": row for row, clip in enumerate(clips)}
    states: list[FileState] = [None] * len(clips)
    with os.scandir(store.folder) as entries:
        for entry in entries:
            row = rows.get(entry.name)
            if row is not None and entry.is_file():
                status = entry.stat()
                states[row] = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    return states


def open_features(store: FeatureStore, clips: Sequence[str], states: Sequence[FileState], split: str) -> Features:
    """The pack of these clips, written first where there is none that is current.

    Parameters
    ----------
    states : of `scan`.
    split : names the pack's place; a pack of other clips or older features there is removed, unless it is in use.

    Any number of processes may ask at once: one writes, the others wait for it. Where nothing can be written, features
    come from their files, with a warning.

    Raises
    ------
    ClipError
        For a file that is not a valid feature, naming it.
    """
    if found := find_pack(store, clips, states, split):
        return found
    key, places = _key(store, clips, states), [place / split for place in _places(store)]
    problem: Exception | None = None
    for place in places:
        try:
            return _pack_once(store, clips, states, place, key)
        except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
            problem = error
    log.warning("%s: the features cannot be packed (%s), so every epoch reads every file", store.folder, problem)
    return StoredFeatures(store, clips, states)


def find_pack(
    store: FeatureStore, clips: Sequence[str], states: Sequence[FileState], split: str
) -> PackedFeatures | None:
    """The pack of these clips that a training has left, as far as it is current; arguments as of `open_features`."""
    key = _key(store, clips, states)
    packs = (_existing(place / split / key, store.width) for place in _places(store))
    return next((pack for pack in packs if pack), None)


def _key(store: FeatureStore, clips: Sequence[str], states: Sequence[FileState]) -> str:
    return digest_of([FORMAT, store.info.identity, list(zip(clips, states, strict=True))])


def _places(store: FeatureStore) -> list[Path]:
    """Folders for packs, the best first."""
    places = [store.folder / PACKED_FOLDER]
    if caches := cache_folder():
        places.append(caches / "packed" / digest_of(str(store.folder.resolve())))
    return places


def _existing(folder: Path, width: int) -> PackedFeatures | None:
    try:
        return PackedFeatures(folder, width)
    except (OSError, UserError, ValueError, LookupError, TypeError):
        return None


def _pack_once(
    store: FeatureStore, clips: Sequence[str], states: Sequence[FileState], place: Path, key: str
) -> PackedFeatures:
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("%s: another process is packing the features", store.folder)
        lock.acquire()
    try:
        if pack := _existing(place / key, store.width):
            return pack
        _remove_unused(place)
        log.info("%s: packing %d clips (once) into %s", store.folder, len(clips), place)
        with atomic_folder(place / key) as folder:
            _write(store, clips, states, folder)
        return PackedFeatures(place / key, store.width, is_known=True)
    finally:
        lock.release()


def _write(store: FeatureStore, clips: Sequence[str], states: Sequence[FileState], folder: Path) -> None:
    present = np.array([state is not None for state in states], bool)
    offsets = np.zeros(len(clips) + 1, np.int64)
    bar = progress_bar(clips, desc=f"pack {store.info.modality}", unit="clip", leave=False)
    with contextlib.ExitStack() as stack:
        tokens, mask, time = (stack.enter_context((folder / name).open("wb")) for name in (TOKENS, MASK, TIME))
        for row, clip in enumerate(bar):
            offsets[row + 1] = offsets[row]
            if present[row]:
                feature = store.read(clip)
                tokens.write(feature.tokens.tobytes())
                mask.write(feature.mask.tobytes())
                time.write(feature.time.tobytes())
                offsets[row + 1] += len(feature.mask)
    n = int(offsets[-1])
    np.save(folder / OFFSETS, offsets, allow_pickle=False)
    np.save(folder / PRESENT, present, allow_pickle=False)
    all_tokens = _mapped(folder / TOKENS, np.float32, (n, store.width))
    all_masks = _mapped(folder / MASK, np.bool_, (n,))
    rows = max(1, BLOCK_VALUES // store.width)
    found = moments(all_tokens[i : i + rows][all_masks[i : i + rows]] for i in range(0, n, rows))
    write_json(folder / INDEX_FILE, _index(folder, None if found is None else [part.tolist() for part in found]))


def _index(folder: Path, statistics: list[list[float]] | None) -> dict[str, Any]:
    """Return the statistics with a digest of them and of the pack's other files."""
    files = fingerprint_folder(folder, (OFFSETS, PRESENT, TOKENS, MASK, TIME))
    return {"statistics": statistics, "content": digest_of([statistics, files])}


def _mapped(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """A read-only view of a file that holds exactly this array."""
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if path.stat().st_size != n_bytes:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, not {n_bytes}")
    # A plain array, since every slice of a memmap costs as much as copying a clip; and an empty file cannot be mapped.
    return np.asarray(np.memmap(path, dtype, "r", shape=shape)) if n_bytes else np.zeros(shape, dtype)


def _hold(folder: Path) -> IO[bytes]:
    """Marks a pack as in use for as long as the answer lives.

    On a local disk a mapped file outlives its deletion; on a network file system it does not when another machine
    deletes it, and the reader is killed by SIGBUS.
    """
    file = (folder / INDEX_FILE).open("rb")
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_SH)
    return file


def _remove_unused(place: Path) -> None:
    """Remove outdated packs, and what killed processes left. The caller holds the place's lock."""
    for folder in place.iterdir():
        if folder.name != LOCK_FILE and not _in_use(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _in_use(folder: Path) -> bool:
    if fcntl is None:
        return False
    try:
        with (folder / INDEX_FILE).open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
