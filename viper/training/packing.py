"""The features of one split of one store as a few memory-mapped arrays: a training starts at once, memory stays small.

A store is one file a clip, good for stages that make, check and replace clips one by one. A training reads all of them,
every epoch. So the first training copies a split's clips, in the manifest's order, to

    <store>/.packed/<split>/<key>/{index.json, offsets.npy, present.npy, tokens.bin, mask.bin, time.bin}

and later ones map these files. The key is a digest of the clips' names, of the states of their files (size, times,
inode) and of the store's encoder: features that changed, or another list of clips, have another key, and the pack of
the old one is removed. A time of change cannot be set, so a file that got its old modification time back has changed
too. The index has a digest of the other files: a pack that is not as it was written is made again.
In a store that cannot be written the pack goes to ~/.cache/viper/packed (XDG_CACHE_HOME where it is set), which must be
the user's alone. A pack may be deleted at any time; the next training makes it again.

A store may come from anywhere: no link in it is followed to write or delete, and nothing is deleted but folders with
a pack's name and a pack's files only.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from viper.errors import UserError
from viper.files import (
    atomic_folder,
    cache_folder,
    check_private,
    digest_of,
    files_only,
    locked,
    own_folder,
    read_json,
    sweep,
    write_json,
)
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
PACK_FILES = (INDEX_FILE, OFFSETS, PRESENT, TOKENS, MASK, TIME)
LOCK_FILE = "lock"
_PACK_NAME = re.compile("[0-9a-f]{24}")  # a digest, see digest_of
_A_FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
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

    Raises, when opened, OSError, UserError, ValueError, LookupError or TypeError for a folder that holds no complete
    pack of `n_clips` clips.

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

    def __init__(self, folder: Path, width: int, n_clips: int, is_known: bool = False) -> None:
        self.folder, self.width, self.n_clips = folder, width, n_clips
        self._held = _hold(folder)
        index = read_json(folder / INDEX_FILE)
        if not is_known and index != _index(folder, index["statistics"]):
            raise ValueError(f"{folder}: is not as it was written")
        self.offsets = _loaded(folder / OFFSETS, np.int64, n_clips + 1)
        self.present = _loaded(folder / PRESENT, np.bool_, n_clips)
        n = int(self.offsets[-1])
        if self.offsets[0] != 0 or (self.offsets[1:] < self.offsets[:-1]).any():
            raise ValueError(f"{folder}: offsets that do not fit")
        self.tokens = _mapped(folder / TOKENS, np.float32, (n, width))
        self.mask = _mapped(folder / MASK, np.bool_, (n,))
        self.time = _mapped(folder / TIME, np.float32, (n,))
        if max(each.view(np.uint8).max(initial=0) for each in (self.present, self.mask)) > 1:
            raise ValueError(f"{folder}: a mask that is neither true nor false")
        found = index["statistics"]
        self._statistics = None
        if found is not None:
            self._statistics = np.array(found, np.float64)
            if self._statistics.shape != (2, width) or not np.isfinite(self._statistics).all():
                raise ValueError(f"{folder}: statistics that do not fit")

    def __reduce__(self) -> tuple[type[PackedFeatures], tuple[Path, int, int, bool]]:
        """Worker processes that are not forked map the same files; arrays would travel as copies of all data."""
        return PackedFeatures, (self.folder, self.width, self.n_clips, True)

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
        return None if self._statistics is None else (self._statistics[0], self._statistics[1])


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
    UserError
        For a link in the store, or a file, where the packs' folder should be.
    """
    if found := find_pack(store, clips, states, split):
        return found
    key = _key(store, clips, states)
    problem: Exception | None = None
    for place in _places(store, split):
        try:
            return _pack_once(store, clips, states, place, key)
        except OSError as error:
            problem = error
    log.warning("%s: the features cannot be packed (%s), so every epoch reads every file", store.folder, problem)
    return StoredFeatures(store, clips, states)


def find_pack(
    store: FeatureStore, clips: Sequence[str], states: Sequence[FileState], split: str
) -> PackedFeatures | None:
    """The pack of these clips that a training has left, as far as it is current; arguments as of `open_features`."""
    key = _key(store, clips, states)
    packs = (_existing(place, key, store, len(clips)) for place in _places(store, split))
    return next((pack for pack in packs if pack), None)


def _key(store: FeatureStore, clips: Sequence[str], states: Sequence[FileState]) -> str:
    return digest_of([FORMAT, store.info.identity, list(zip(clips, states, strict=True))])


@dataclass(frozen=True)
class _Place:
    """A folder for packs, `names` one below the other in `root`.

    In one that `is_private`, each of these folders must be this user's, and no one else may write to it: where the
    cache lies in a folder that many share, others could have put packs or links there.
    """

    root: Path
    names: tuple[str, ...]
    is_private: bool = False

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.root.joinpath(*self.names)

    def make(self) -> None:
        """Make the folder; UserError or OSError where that would be through a link, or it is not private."""
        if self.is_private:
            # Before anything is made in it: the own folder of another must not get folders of ours.
            self.check()
        own_folder(self.root, *self.names, mode=0o700 if self.is_private else 0o777)
        self.check()

    def check(self) -> None:
        """Raise an OSError for a private folder that belongs to another, is a link, or that others may write to."""
        folder = self.root
        for name in self.names if self.is_private else ():
            folder = folder / name
            try:
                check_private(folder.lstat(), folder)
            except FileNotFoundError:
                return


def _places(store: FeatureStore, split: str) -> list[_Place]:
    """Folders for packs, the best first."""
    places = [_Place(store.folder, (PACKED_FOLDER, split))]
    if caches := cache_folder():
        names = (caches.name, "packed", digest_of(str(store.folder.resolve())), split)
        places.append(_Place(caches.parent, names, is_private=True))
    return places


def _existing(place: _Place, key: str, store: FeatureStore, n_clips: int) -> PackedFeatures | None:
    try:
        place.check()
        return PackedFeatures(place.path / key, store.width, n_clips)
    except (OSError, UserError, ValueError, LookupError, TypeError):
        return None


def _pack_once(
    store: FeatureStore, clips: Sequence[str], states: Sequence[FileState], place: _Place, key: str
) -> PackedFeatures:
    place.make()
    with locked(place.path / LOCK_FILE, waiting=f"{store.folder}: another process is packing the features"):
        if pack := _existing(place, key, store, len(clips)):
            return pack
        _remove_unused(place)
        log.info("%s: packing %d clips (once) into %s", store.folder, len(clips), place.path)
        with atomic_folder(place.path / key, own="|".join(map(re.escape, PACK_FILES))) as folder:
            _write(store, clips, states, folder)
        return PackedFeatures(place.path / key, store.width, len(clips), is_known=True)


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


def _loaded(path: Path, dtype: type, length: int) -> np.ndarray:
    """An array (length,) of this type that a file holds."""
    with open(path, "rb", opener=files_only) as file:
        try:
            array = np.load(file, allow_pickle=False)
        except Exception as error:  # of a damaged header numpy raises nearly anything
            raise ValueError(f"{path}: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != (length,):
        raise ValueError(f"{path}: not {length} values")
    return array


def _mapped(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """A read-only view of a file that holds exactly this array."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != n_bytes:
        raise ValueError(f"{path}: {status.st_size} bytes, not {n_bytes}")
    # A plain array, since every slice of a memmap costs as much as copying a clip; and an empty file cannot be mapped.
    return np.asarray(np.memmap(path, dtype, "r", shape=shape)) if n_bytes else np.zeros(shape, dtype)


def _hold(folder: Path) -> IO[bytes]:
    """Marks a pack as in use for as long as the answer lives.

    On a local disk a mapped file outlives its deletion; on a network file system it does not when another machine
    deletes it, and the reader is killed by SIGBUS.
    """
    file = open(folder / INDEX_FILE, "rb", opener=files_only)  # noqa: SIM115  closed with the pack
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks: see `_in_use`, which removes nothing there
            fcntl.flock(file, fcntl.LOCK_SH)
    return file


def _remove_unused(place: _Place) -> None:
    """Remove outdated packs, and what killed processes left. The caller holds the place's lock.

    Whoever made the store may have put anything there, and may even change it at this moment. So folders are opened one
    in the other, no link among them, and deleted from within: no name is looked up again.
    """
    sweep(place.path)
    if os.open not in os.supports_dir_fd:  # Windows
        return
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        descriptor = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, descriptor)
        for name in place.names:
            descriptor = os.open(name, _A_FOLDER, dir_fd=descriptor)
            stack.callback(os.close, descriptor)
        for name in os.listdir(descriptor):
            if _PACK_NAME.fullmatch(name):
                with contextlib.suppress(OSError):
                    _remove_pack(name, descriptor)


def _remove_pack(name: str, place: int) -> None:
    """Remove a pack that nobody uses, and nothing but a pack: a link, or a folder with other files, stays."""
    folder = os.open(name, _A_FOLDER, dir_fd=place)
    try:
        names = os.listdir(folder)
        if set(names) <= set(PACK_FILES) and not _in_use(folder):
            for each in names:
                os.unlink(each, dir_fd=folder)
            os.rmdir(name, dir_fd=place)
    finally:
        os.close(folder)


def _in_use(folder: int) -> bool:
    if fcntl is None:
        return False
    try:
        file = os.open(INDEX_FILE, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        # A link is nobody's pack.
        return error.errno not in (errno.ENOENT, errno.ELOOP)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False
