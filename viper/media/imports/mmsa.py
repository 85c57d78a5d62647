"""Feature files of MMSA and MMSA-FET: one pickle with the features and labels of a whole data set, by split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from viper.errors import ClipError, UserError, one_line
from viper.manifest import clip_id
from viper.media.imports.npz import read_npz
from viper.media.imports.safe_pickle import load_plain

MMSA_SUFFIXES = (".pkl", ".pickle")
# Numbers of a tokeniser's entries, its mask and segments: (n, 3, tokens).
TOKENISER = "text_bert"


@dataclass(frozen=True)
class MmsaSplit:
    """The clips of one split, n of them.

    Attributes
    ----------
    path : the file, for messages.
    name : as the file spells it: train, valid, test; empty where the file has no splits.
    ids : n ids as the file spells them, `video$_$clip`.
    clips : n clip ids, by `clip_of`.
    content : what the file has under every key.
    """

    path: Path
    name: str
    ids: tuple[str, ...]
    clips: tuple[str, ...]
    content: Mapping[str, Any]

    @property
    def regression_labels(self) -> np.ndarray:
        """(n,) float64, NaN where the file says so."""
        return self.labels("regression_labels")

    def labels(self, key: str) -> np.ndarray:
        """Return (n,) float64 of a key such as regression_labels_T.

        UserError where it is not there, or no n numbers.
        """
        values = self._column(key)
        if isinstance(values, np.ndarray):
            if values.dtype.kind in "fiub" and values.size == len(self.ids):
                return np.asarray(values, np.float64).reshape(-1)
            values = list(values.reshape(-1)) if values.dtype.kind == "O" else []
        numbers = [value.item() if isinstance(value, np.ndarray) and value.size == 1 else value for value in values]
        if len(numbers) != len(self.ids) or any(type(number) not in (int, float, bool) for number in numbers):
            raise UserError(f"{self._where(key)} is not one number a clip")
        try:
            return np.array([float(number) for number in numbers])
        except OverflowError:
            raise UserError(f"{self._where(key)} holds a number that is too large") from None

    def rows(self, key: str) -> list[np.ndarray]:
        """Return n arrays (T, D) of features, without the padding. UserError where the key holds no features."""
        if key == TOKENISER:
            raise UserError(f"{self._where(key)} holds a tokeniser's numbers, which are no features")
        values = list(self._column(key, " (--key)"))
        arrays = [np.atleast_2d(np.asarray(value)) if isinstance(value, np.ndarray) else value for value in values]
        if not all(isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.dtype.kind in "fiub" for rows in arrays):
            raise UserError(f"{self._where(key)} is not one array of features a clip")
        if key == "text" and (told := self._text_mask(arrays)) is not None:
            return [rows[mask] for rows, mask in zip(arrays, told, strict=True)]
        if f"{key}_lengths" not in self.content:
            return [_without_zeros(rows) for rows in arrays]
        lengths = self.labels(f"{key}_lengths")
        if not (np.isfinite(lengths) & (lengths >= 0)).all():
            raise UserError(f"{self._where(key)}_lengths holds what is no length")
        return [_first(rows, int(min(length, len(rows)))) for rows, length in zip(arrays, lengths, strict=True)]

    def _text_mask(self, arrays: list[np.ndarray]) -> np.ndarray | None:
        """Return (n, T) bool, which tokens the tokeniser gave the text; None where the file does not say."""
        told = self.content.get(TOKENISER)
        n_tokens = {len(rows) for rows in arrays}
        if not isinstance(told, np.ndarray) or told.dtype.kind not in "fiu" or len(n_tokens) != 1:
            return None
        return told[:, 1] == 1 if told.shape == (len(self.ids), 3, n_tokens.pop()) else None

    def _column(self, key: str, option: str = "") -> Any:
        if key not in self.content:
            there = ", ".join(one_line(str(name)) for name in list(self.content)[:30])
            raise UserError(f"{self._where(key)} is not there; there are {there}{option}")
        values = self.content[key]
        sized = type(values) in (list, tuple) or (isinstance(values, np.ndarray) and values.ndim > 0)
        if not sized or len(values) != len(self.ids):
            raise UserError(f"{self._where(key)} is not one entry a clip")
        return np.asarray(values) if isinstance(values, np.ndarray) else values

    def _where(self, key: str) -> str:
        return f"{self.path}: {one_line(f'{self.name}.{key}' if self.name else key)}"


@dataclass(frozen=True)
class MmsaFile:
    """A feature file. `splits` has them by name, in the order of the file."""

    path: Path
    splits: dict[str, MmsaSplit]


def clip_of(identifier: str) -> str:
    """Return the clip id of an id of MMSA: `video$_$clip` is `video_clip`. UserError where it can be none."""
    return clip_id(identifier.replace("$_$", "_"))


def read_mmsa(path: Path) -> MmsaFile:
    """Read a feature file of many clips; nothing in it is run.

    Raises UserError naming the file when it cannot be read, is refused (see `safe_pickle`), is no such file, or has
    a clip twice.
    """
    try:
        return MmsaFile(path, _splits(path, read_npz(path) if path.suffix.lower() == ".npz" else load_plain(path)))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ClipError, UserError, ValueError) as error:
        raise UserError(f"{path}: {one_line(str(error))}") from error


def _splits(path: Path, content: Any) -> dict[str, MmsaSplit]:
    if type(content) is not dict:
        raise ValueError("is no feature file of MMSA: it holds no dictionary")
    if "id" in content:
        parts = {"": content}
    else:
        parts = {str(name): part for name, part in content.items() if type(part) is dict and "id" in part}
    if not parts:
        raise ValueError("is no feature file of MMSA or MulT: it holds no ids ('id'), so its clips have no names")
    splits: dict[str, MmsaSplit] = {}
    seen: dict[str, str] = {}
    for name, part in parts.items():
        ids = _ids(part["id"], f"{name}.id" if name else "id")
        splits[name] = MmsaSplit(path, name, ids, tuple(clip_of(each) for each in ids), part)
        for identifier, clip in zip(ids, splits[name].clips, strict=True):
            if clip in seen:
                raise ValueError(f"{seen[clip]!r} and {identifier!r} would both be clip {clip!r}")
            seen[clip] = identifier
    return splits


def _ids(values: Any, where: str) -> tuple[str, ...]:
    # MulT's are (n, 3): video, start and end.
    if isinstance(values, np.ndarray) and values.ndim == 2 and 1 <= values.shape[1] <= 3:
        parts = [_texts(column) for column in values.T]
        values = ["_".join(row) for row in zip(*parts, strict=True)] if None not in parts else values
    is_list = type(values) in (list, tuple) or (isinstance(values, np.ndarray) and values.ndim == 1)
    ids = _texts(values) if is_list else None
    if ids is None:
        raise ValueError(f"{where} is no list of ids")
    return ids


def _texts(values: Any) -> tuple[str, ...] | None:
    """Return the texts of a list or an array, a missing one as empty; None where there is something else in it."""
    try:
        values = values.reshape(-1).tolist() if isinstance(values, np.ndarray) else values
        texts = ["" if value is None else value.decode() if type(value) is bytes else value for value in values]
    except ValueError:  # bytes, or numbers of characters, that are no text
        return None
    return tuple(texts) if all(type(text) is str for text in texts) else None


def _first(rows: np.ndarray, length: int) -> np.ndarray:
    """Return as many rows as `length` says.

    They are the first ones, as MMSA's models read them, or the last where zeros are in front.
    """
    n_padding = len(rows) - length
    if n_padding and rows[length:].any() and not rows[:n_padding].any():
        return rows[n_padding:]
    return rows[:length]


def _without_zeros(rows: np.ndarray) -> np.ndarray:
    """Return the array without the rows of zeros in front and at the end."""
    filled = np.flatnonzero(rows.any(axis=1))
    return rows[filled[0] : filled[-1] + 1] if len(filled) else rows[:0]
