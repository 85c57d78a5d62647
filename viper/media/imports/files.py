"""Features others made, one file a clip: .pt, .npy, .npz, .csv and .pkl."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np

from viper.clip_ids import clip_id
from viper.errors import ClipError, first_line, one_line
from viper.media.imports.csv_tables import read_csv_table
from viper.media.imports.mmsa import MMSA_SUFFIXES
from viper.media.imports.npz import read_npz
from viper.media.imports.safe_pickle import load_plain
from viper.media.imports.table import NOTHING_SAID, Reading, Table, table_of_array
from viper.weights import refuse_bombs

CSV_SUFFIXES = (".csv", ".tsv")
FEATURE_SUFFIXES = (".pt", ".pth", ".npy", ".npz", *CSV_SUFFIXES, *MMSA_SUFFIXES)
_MODALITIES = {"vision", "audio", "text"}  # as MMSA calls them
# Folders beside features without times, with <clip>.npy: seconds (T,), and which tokens count (T,).
COMPANIONS = ("time", "mask")
# Beside <clip>_<kind>.npy of video_features: milliseconds (T,), and the rate.
TIMES_OF_VIDEO_FEATURES, RATE_OF_VIDEO_FEATURES = "_timestamps_ms", "_fps"


def read_table(path: Path, reading: Reading = NOTHING_SAID, clip: str | None = None) -> Table:
    """Read one file. Nothing in it is ever run: a .pt must hold plain tensors, a pickle plain arrays.

    Memory is taken for what the file holds, not for what it claims to hold.

    Parameters
    ----------
    path : the file.
    reading : what the user said of the files.
    clip : the clip's id; None: the file's name without the suffix.

    Raises ClipError naming the file when it cannot be read or holds no table of numbers.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in CSV_SUFFIXES:
            return read_csv_table(path, reading, clip_id(path.stem) if clip is None else clip)
        if suffix in MMSA_SUFFIXES:
            array = _array_of_pickle(path, reading.key)
        elif suffix == ".npz":
            array = _under_key(read_npz(path), reading.key)
        else:
            array = _read_npy(path) if suffix == ".npy" else _read_tensor(path, reading.key)
        return _with_companions(table_of_array(array), path)
    except ClipError as error:
        raise ClipError(f"{path.name}: {error}") from error
    except Exception as error:  # readers made for honest files raise anything of a damaged one
        if isinstance(error, UnpicklingError) or "weights_only" in str(error):  # torch's advice is to let it run
            raise ClipError(f"{path.name}: refused, it is damaged or holds more than a plain tensor") from error
        kind = "CSV" if suffix in CSV_SUFFIXES else "plain numbers"
        raise ClipError(f"{path.name}: cannot be read as {kind} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    said = first_line(error)  # numpy's advice is to let it run
    return "it holds Python objects" if "allow_pickle" in said or "Python objects" in said else said


def companions(path: Path) -> dict[str, Path]:
    """Return the files beside one of features that say its times and its mask, by "time" (or "ms") and "mask"."""
    if path.suffix.lower() in CSV_SUFFIXES:
        return {}
    beside = {name: path.parent / name / f"{path.stem}.npy" for name in COMPANIONS}
    clip, _, kind = path.stem.rpartition("_")
    if clip and kind:
        beside["ms"] = path.parent / f"{clip}{TIMES_OF_VIDEO_FEATURES}.npy"
    return {name: file for name, file in beside.items() if file.is_file() and file != path}


def _with_companions(table: Table, path: Path) -> Table:
    files = companions(path)
    found = {name: _read_npy(file) for name, file in files.items()}
    for name, array in found.items():
        if array.shape != (len(table.tokens),) or array.dtype.kind not in ("b" if name == "mask" else "fiu"):
            where = files[name].relative_to(path.parent).as_posix()
            raise ClipError(f"{where} beside it is not one value for each of {len(table.tokens)} tokens")
    times, mask, zeros = table.times, table.mask, table.zeros
    name = "time" if "time" in found else "ms"
    if name in found:
        times = np.array(found[name], np.float64) / (1 if name == "time" else 1000)
        if not np.isfinite(times).all():
            where = files[name].relative_to(path.parent).as_posix()
            raise ClipError(f"{where} beside it holds a time that is no number")
    if "mask" in found:
        mask, zeros = mask & found["mask"], False
    return Table(table.tokens, mask, times, zeros=zeros)


def _array_of_pickle(path: Path, key: str) -> np.ndarray:
    content = load_plain(path)
    if type(content) is dict:
        if "id" in content or any(type(value) is dict for value in content.values()):
            raise ClipError("holds several clips; name the file itself, not its folder")
        content = _under_key(content, key)
    if not isinstance(content, np.ndarray):
        raise ClipError("holds no single array of numbers")
    return np.asarray(content)


def _under_key(content: Mapping[Any, Any], key: str) -> Any:
    """Return what a file has under a key, or the only thing that it has unless that is another modality's."""
    if key not in content:
        if len(content) == 1 and not content.keys() & _MODALITIES:
            return next(iter(content.values()))
        there = ", ".join(one_line(str(name)) for name in list(content)[:30])
        raise ClipError(f"has nothing under {key!r}; there are {there} (--key)")
    return content[key]


def _read_npy(path: Path) -> np.ndarray:
    # Mapped: a header that claims more than the file holds is refused before memory is taken for it.
    with np.errstate(over="ignore"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        array.close()
        raise ClipError("holds no single array of numbers")
    return array


def _read_tensor(path: Path, key: str) -> np.ndarray:
    import torch

    size = path.stat().st_size
    try:
        refuse_bombs(path)
    except (ValueError, zipfile.BadZipFile) as error:
        raise ClipError(f"refused, it {error}" if size else "is empty") from error
    tensor = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(tensor, dict):
        tensor = _under_key(tensor, key)
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ClipError("holds no single array of numbers")
    if tensor.is_quantized or tensor.is_complex():
        raise ClipError("holds no single array of numbers")
    if tensor.numel() * tensor.element_size() > size:  # rows that are all the same memory
        raise ClipError("refused, it claims more numbers than it holds")
    return tensor.detach().float().numpy()
