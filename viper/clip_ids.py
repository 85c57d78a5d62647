"""Clip ids: how the names of files, and the cells of tables, become them; and what a folder records of that.

One rule for both, so that they meet: each part of a path is written as an id, the suffix of a medium is taken off the
last, and the parts are joined by a separator. "a/1.mp4" is the clip a_1, whether a folder or a manifest says so.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from viper.errors import UNSEEN, UserError
from viper.files import read_json, write_json

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".mkv", ".avi", ".mpg", ".mpeg", ".webm", ".m4v", ".wmv", ".flv", ".ts", ".mts", ".m2ts", ".3gp",
    ".ogv", ".vob", ".mxf", ".gif",
)  # fmt: skip
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".aif")
_PICTURE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
    ".gif",
)  # fmt: skip
SEPARATOR = "_"  # between the parts of a path, unless another is given
MAX_SEPARATOR = 20  # characters
IDS_FILE = "ids.json"
MAX_ID_BYTES = 200
_MAX_SPELLING = 1000  # characters of a cell that is looked at at all: composing takes time that grows with its square
_UNSEEN = re.compile(f"[{UNSEEN}]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_NO_NAME = re.compile(r"[/\\\t]")
_MEDIUM = re.compile(
    "|".join(map(re.escape, (*VIDEO_SUFFIXES, *AUDIO_SUFFIXES, *_PICTURE_SUFFIXES))), re.IGNORECASE
)  # fmt: skip
# These files lie beside folders that are called as their clips; on some disks in any case of letters.
_TAKEN = ("failures.csv", IDS_FILE)
# What Windows takes for a device, or cannot have in a name.
_NOT_ON_WINDOWS = re.compile(r'(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?|.*[<>:"|?*].*|.*\.', re.IGNORECASE)


def clip_id(file_id: str) -> str:
    """Return a clip's id: a name without the brackets and quotes around it ("[10001]" -> "10001").

    Composed (Unicode's NFC), as a keyboard writes it: file names that come from a Mac are often decomposed, and would
    be other clips. Raises UserError when what is left cannot be a file's name in every folder of outputs, or has
    characters that are not seen.
    """
    identifier = _unwrapped(file_id)
    if why := _why_no_name(identifier):
        raise UserError(f"the id {quoted_cell(file_id)} {why}" if identifier else "the id is empty")
    return identifier


def _why_no_name(identifier: str) -> str:
    """Return why an id cannot be a file's name in every folder of outputs; empty where it can."""
    if not identifier:
        return "is empty"
    if _NO_NAME.search(identifier) or identifier.startswith("."):
        return "cannot name a file (a slash, a tab or a leading dot)"
    if identifier.casefold() in _TAKEN:
        return "is the name of a file that viper writes beside the clips"
    if unseen := _UNSEEN.search(identifier):
        return f"has a character that is not seen, U+{ord(unseen[0]):04X}; take it out"
    try:
        n_bytes = len(identifier.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    if n_bytes > MAX_ID_BYTES:
        return f"is longer than {MAX_ID_BYTES} bytes"
    if os.name == "nt" and _NOT_ON_WINDOWS.fullmatch(identifier):
        return "cannot name a file on Windows"
    return ""


def path_id(parts: Sequence[str], separator: str = SEPARATOR) -> str:
    """Return the id of the clip at a path, given by its parts; see `clip_id` for what is refused.

    Suffixes of videos, sounds and pictures are taken off the last part.
    """
    *folders, name = parts
    stem, dot, suffix = name.rpartition(".")
    while stem and _MEDIUM.fullmatch(dot + suffix):
        name = stem
        stem, dot, suffix = name.rpartition(".")
    if not folders:
        return clip_id(name)
    return clip_id(separator.join(map(clip_id, (*folders, name))))


def cell_id(cell: str, separator: str = SEPARATOR) -> str:
    """Return the clip id that a cell of a table means: an id, a file's name, or a path as in "a/1.mp4" or "a\\1".

    A path from the root, or out of its folder, is a UserError, and what `clip_id` refuses.
    """
    text = _unwrapped(cell)
    parts = re.split(r"[/\\]", text)
    while len(parts) > 1 and parts[0] == ".":
        del parts[0]
    if len(parts) > 1 and (re.fullmatch("[A-Za-z]:", parts[0]) or not all(part.strip(". ") for part in parts)):
        raise UserError(f"the id {quoted_cell(cell)} is not a path within a folder (from the root, or with `..`)")
    return path_id(parts, separator)


def spelling_note(cells: Iterable[str], ids: Iterable[str]) -> str | None:
    """Return what is to be said of cells that are not ids but files' names or paths; None where there are none."""
    others = [(cell, clip) for cell, clip in zip(cells, ids, strict=True) if _unwrapped(cell) != clip]
    if not others:
        return None
    cell, clip = others[0]
    return f"{len(others)} ids are files' names or paths: {quoted_cell(cell)} is the clip {clip!r}"


def check_separator(separator: str) -> None:
    """Refuse what cannot stand between the parts of an id, as a UserError."""
    joined = f"a{separator}b"
    try:
        is_fit = 1 <= len(separator) <= MAX_SEPARATOR and clip_id(joined) == joined
    except UserError:
        is_fit = False
    if not is_fit:
        raise UserError(
            f"--id_separator {quoted_cell(separator)}: must be 1 to {MAX_SEPARATOR} characters that file names may have"
        )


def recorded_separator(folder: Path) -> str | None:
    """Return the separator by which a folder's clips were named; None if its record says nothing.

    A record that is not viper's is a UserError.
    """
    path = folder / IDS_FILE
    if not os.path.isfile(path):
        return None
    record = read_json(path)
    separator = record.get("id_separator") if isinstance(record, dict) else None
    try:
        check_separator(separator if isinstance(separator, str) else "")
    except UserError:
        raise UserError(f"{path}: is not a record of clip ids written by viper; delete it") from None
    return str(separator)


def record_separator(folder: Path, separator: str) -> None:
    """Record by which separator a folder's clips are named; a folder that was begun with another is a UserError."""
    known = recorded_separator(folder)
    if known is not None and known != separator:
        raise UserError(
            f"{folder}: its clips were named with --id_separator {quoted_cell(known)}, not {quoted_cell(separator)}; "
            "give that, or another output folder"
        )
    if known is None:
        write_json(folder / IDS_FILE, {"id_separator": separator})


def separator_of(folders: Iterable[Path]) -> str:
    """Return the separator by which the clips of folders were named; two that differ are a UserError naming them."""
    found = {folder: known for folder in folders if (known := recorded_separator(folder)) is not None}
    first = next(iter(found), None)
    for folder, known in found.items():
        assert first is not None
        if known != found[first]:
            raise UserError(
                f"{first} and {folder}: their clips were named with different --id_separator "
                f"({quoted_cell(found[first])}, {quoted_cell(known)}); make one of them again"
            )
    return SEPARATOR if first is None else found[first]


def quoted_cell(cell: str) -> str:
    """Return a cell as a message quotes it: on one line, and not all of it when it is long."""
    return repr(cell if len(cell) <= 60 else f"{cell[:60]}...")


def _unwrapped(file_id: str) -> str:
    """Return a cell composed, without the blanks, brackets and quotes around it."""
    if len(file_id) > _MAX_SPELLING:
        raise UserError(f"the id {quoted_cell(file_id)} is longer than {MAX_ID_BYTES} bytes")
    if _CONTROL.search(file_id):
        raise UserError(f"the id {quoted_cell(file_id)} has a control character")
    identifier = unicodedata.normalize("NFC", file_id).strip()
    while len(identifier) >= 2 and identifier[0] + identifier[-1] in ("[]", '""', "''"):
        identifier = identifier[1:-1].strip()
    return identifier
