"""Features others made, one file a clip: .pt, .npy, .csv and .pkl."""

from __future__ import annotations

import zipfile
from pathlib import Path
from pickle import UnpicklingError

import numpy as np

from viper.errors import ClipError, first_line, one_line
from viper.media.imports.csv_tables import read_csv_table
from viper.media.imports.mmsa import MMSA_SUFFIXES
from viper.media.imports.safe_pickle import load_plain
from viper.media.imports.table import Table, table_of_array
from viper.weights import refuse_bombs

FEATURE_SUFFIXES = (".pt", ".pth", ".npy", ".csv", *MMSA_SUFFIXES)
# Folders beside features without times, with <clip>.npy: seconds (T,), and which tokens count (T,).
COMPANIONS = ("time", "mask")


def read_table(path: Path, key: str = "", columns: tuple[str, ...] = ()) -> Table:
    """Read one file. Nothing in it is ever run: a .pt must hold plain tensors, a pickle plain arrays.

    Memory is taken for what the file holds, not for what it claims to hold.

    Parameters
    ----------
    path : the file; its name without the suffix is the clip's id.
    key : what to take of a pickle that holds a dictionary, as MMSA-FET writes one for a single video.
    columns : what to take of a CSV, see `read_csv_table`.

    Raises ClipError naming the file when it cannot be read or holds no table of numbers.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            return read_csv_table(path, columns)
        if suffix in MMSA_SUFFIXES:
            array = _array_of_pickle(path, key)
        else:
            array = _read_npy(path) if suffix == ".npy" else _read_tensor(path)
        return _with_companions(table_of_array(array), path)
    except ClipError as error:
        raise ClipError(f"{path.name}: {error}") from error
    except Exception as error:  # readers made for honest files raise anything of a damaged one
        if isinstance(error, UnpicklingError) or "weights_only" in str(error):  # torch's advice is to let it run
            raise ClipError(f"{path.name}: refused, it is damaged or holds more than a plain tensor") from error
        kind = "CSV" if suffix == ".csv" else "plain numbers"
        raise ClipError(f"{path.name}: cannot be read as {kind} ({first_line(error)})") from error


def companions(path: Path) -> dict[str, Path]:
    """Return the files beside one of features, in the folders `time` and `mask`, that say its times and its mask."""
    if path.suffix.lower() == ".csv":
        return {}
    beside = {name: path.parent / name / f"{path.stem}.npy" for name in COMPANIONS}
    return {name: file for name, file in beside.items() if file.is_file()}


def _with_companions(table: Table, path: Path) -> Table:
    found = {name: _read_npy(file) for name, file in companions(path).items()}
    for name, array in found.items():
        if array.shape != (len(table.tokens),) or array.dtype.kind not in ("fiu" if name == "time" else "b"):
            raise ClipError(f"{name}/{path.stem}.npy beside it is not one value for each of {len(table.tokens)} tokens")
    times, mask = table.times, table.mask
    if "time" in found:
        times = np.array(found["time"], np.float64)
        if not np.isfinite(times).all():
            raise ClipError(f"time/{path.stem}.npy beside it holds a time that is no number")
    if "mask" in found:
        mask = mask & found["mask"]
    return Table(table.tokens, mask, times)


def _array_of_pickle(path: Path, key: str) -> np.ndarray:
    content = load_plain(path)
    if type(content) is dict:
        if "id" in content or any(type(value) is dict for value in content.values()):
            raise ClipError("holds several clips; name the file itself, not its folder")
        if key not in content:
            there = ", ".join(one_line(str(name)) for name in list(content)[:30])
            raise ClipError(f"has nothing under {key!r}; there are {there} (--key)")
        content = content[key]
    if not isinstance(content, np.ndarray):
        raise ClipError("holds no single array of numbers")
    return np.asarray(content)


def _read_npy(path: Path) -> np.ndarray:
    # Mapped: a header that claims more than the file holds is refused before memory is taken for it.
    with np.errstate(over="ignore"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        array.close()
        raise ClipError("holds no single array of numbers")
    return array


def _read_tensor(path: Path) -> np.ndarray:
    import torch

    size = path.stat().st_size
    try:
        refuse_bombs(path)
    except (ValueError, zipfile.BadZipFile) as error:
        raise ClipError(f"refused, it {error}" if size else "is empty") from error
    tensor = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ClipError("holds no single array of numbers")
    if tensor.is_quantized or tensor.is_complex():
        raise ClipError("holds no single array of numbers")
    if tensor.numel() * tensor.element_size() > size:  # rows that are all the same memory
        raise ClipError("refused, it claims more numbers than it holds")
    return tensor.detach().float().numpy()
