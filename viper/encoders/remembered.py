"""Small arrays that take long to make, kept for later runs: what networks make of a list of sentences.

Each is a file of <cache folder>/sentences-1, named by a digest of all that decides its values, with a check of every
byte in it. What is damaged, renamed or somebody else's is not used; without a cache folder nothing is kept. The folder
may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from viper.files import (
    atomic_path,
    cache_folder,
    check_private,
    digest_of,
    files_only,
    own_folder,
    prepare_outputs,
    remove,
)
from viper.fingerprints import fingerprint_bytes
from viper.logs import package_versions

FOLDER = "sentences-1"
MAX_BYTES = 64 << 20  # of all entries; the oldest go
_PACKAGES = ("torch", "transformers", "tokenizers", "open_clip_torch", "numpy")
_NOTES, _CHECK, _SUFFIX = "notes", "check", ".safetensors"


def key_of(*parts: Any) -> str:
    """Return the name of what is made of these (anything JSON can hold) by the packages and processor that are here."""
    import torch

    machine = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    return digest_of([parts, package_versions(_PACKAGES), machine])


def recall(key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Return the arrays and the notes of that name; None where there are none that can be trusted."""
    # Whatever is wrong with the file: what it holds is made again.
    with contextlib.suppress(Exception):
        folder = _folder()
        file = files_only(str(folder / f"{key}{_SUFFIX}"), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with open(file, "rb") as entry:
            check_private(os.fstat(entry.fileno()), folder)
            content = entry.read(MAX_BYTES + 1)
        arrays = load(content) if len(content) <= MAX_BYTES else {}
        check = arrays.pop(_CHECK).tobytes().decode()
        if check == _check(key, arrays):
            notes = json.loads(arrays.pop(_NOTES).tobytes())
            return arrays, notes
    return None


def remember(key: str, arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any]) -> None:
    """Keep arrays, and notes (anything JSON can hold), under that name; nothing where that is not possible."""
    held = {**arrays, _NOTES: np.frombuffer(json.dumps(notes).encode(), np.uint8)}
    content = save({**held, _CHECK: np.frombuffer(_check(key, held).encode(), np.uint8)})
    with contextlib.suppress(Exception):
        folder = _folder(make=True)
        prepare_outputs(folder)
        with atomic_path(folder / f"{key}{_SUFFIX}", make_parent=False, is_private=True) as temporary:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(file, "wb") as entry:
                entry.write(content)
        _forget_oldest(folder)


def _folder(make: bool = False) -> Path:
    """Return the folder of entries; OSError where there is none, or where another user could have written there."""
    caches = cache_folder()
    if caches is None:
        raise FileNotFoundError("no cache folder")
    if make:
        own_folder(caches.parent, caches.name, FOLDER, mode=0o700)
    for folder in (caches, caches / FOLDER):
        check_private(folder.lstat(), folder)
    return caches / FOLDER


def _check(key: str, arrays: Mapping[str, np.ndarray]) -> str:
    parts: list[bytes | memoryview] = [key.encode()]
    for name, array in sorted(arrays.items()):
        parts += [f"{name} {array.dtype} {array.shape}".encode(), np.ascontiguousarray(array).tobytes()]
    return fingerprint_bytes(*parts)


def _forget_oldest(folder: Path) -> None:
    entries = sorted(folder.glob(f"*{_SUFFIX}"), key=lambda path: path.lstat().st_mtime_ns, reverse=True)
    left = MAX_BYTES
    for path in entries:
        left -= path.lstat().st_size
        if left < 0:
            remove(path)
