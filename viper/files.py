"""Small things every stage needs of files: atomic writes, numeric order, fingerprints."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from viper.errors import UserError

TEMPORARY_PREFIX = ".tmp-"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary name in the folder of `path`; on success it replaces `path`, otherwise nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept because some writers (PyAV, matplotlib) choose the format by it.
    temporary = path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}{path.suffix}"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """The same for a folder of files that only make sense together. An older folder of that name is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}"
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            # A folder cannot be replaced while it has files; the old one steps aside first, so no half folder is seen.
            outdated = path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}"
            os.replace(path, outdated)
            os.replace(temporary, path)
            shutil.rmtree(outdated, ignore_errors=True)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove(path: Path) -> None:
    """Deletes a file, a link (not what it points to) or a folder with all in it; nothing, where there is nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically. NaN is refused, since other readers of JSON refuse it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file; one that cannot be read is a UserError naming it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error


def read_csv_rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line in the file, cells) of every row that is not blank, the header first; cells are text, as they stand.

    Raises UserError naming the file when it is missing, empty, not UTF-8 or no CSV.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from error
    if not rows:
        raise UserError(f"{path}: the file is empty")
    return rows


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key under which frame_9 comes before frame_10."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)


def visible_entries(folder: Path) -> list[Path]:
    """The entries of a folder in natural order, without hidden and temporary ones. A missing folder is a UserError."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return sorted(entries, key=lambda entry: natural_key(entry.name))


def fingerprint(path: Path, edge_bytes: int = 65536) -> str:
    """A short digest of a file's size and its first and last 64 KiB: cheap, and the same on another disk."""
    digest = hashlib.blake2b(digest_size=12)
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(edge_bytes))
        if size > edge_bytes:
            file.seek(max(edge_bytes, size - edge_bytes))
            digest.update(file.read(edge_bytes))
    return digest.hexdigest()


def digest_of(value: Any) -> str:
    """A short digest of anything JSON can hold, independent of the order of keys."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=12).hexdigest()
