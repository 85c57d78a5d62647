"""Features others made: .pt, .npy and CSV files, one a clip."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import pandas as pd

from viper.errors import ClipError

FEATURE_SUFFIXES = (".pt", ".pth", ".npy", ".csv")


@dataclass(frozen=True)
class Table:
    """Rows of a foreign file.

    Attributes
    ----------
    tokens : (T, D) float32.
    mask : (T,) bool.
    times : (T,) float64 seconds, or None where the file does not say.
    channels : D names, or none where the file has none.
    """

    tokens: np.ndarray
    mask: np.ndarray
    times: np.ndarray | None
    channels: tuple[str, ...] = ()


def read_table(path: Path) -> Table:
    """Reads one file. Nothing in it is ever run: pickles are refused, a .pt must hold plain tensors.

    Raises ClipError naming the file when it cannot be read or holds no table of numbers.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _read_csv(path)
    try:
        if suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            import torch

            array = torch.load(path, map_location="cpu", weights_only=True)
            array = array.detach().float().numpy() if isinstance(array, torch.Tensor) else None
    except (OSError, ValueError, RuntimeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ClipError(f"{path.name}: cannot be read as plain numbers ({_first_line(error)})") from error
    except UnpicklingError as error:  # what weights_only refuses
        raise ClipError(f"{path.name}: refused, it is damaged or holds more than a plain tensor") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise ClipError(f"{path.name}: holds no single array of numbers")
    # The published scripts' files are (1, T, D) or (T, D), and (D,) for one vector a clip.
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2:
        raise ClipError(f"{path.name}: an array of shape {array.shape} is not (tokens, channels)")
    return Table(array.astype(np.float32), np.isfinite(array).all(axis=1), None)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _read_csv(path: Path) -> Table:
    try:
        table = pd.read_csv(path, encoding="utf-8-sig", skipinitialspace=True)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ClipError(f"{path.name}: cannot be read as CSV ({_first_line(error)})") from error
    table.columns = [str(column).strip() for column in table.columns]
    if "success" in table.columns:
        return _openface(path, table)
    return _organisers(path, table)


def _openface(path: Path, table: pd.DataFrame) -> Table:
    """OpenFace: the action units' intensities (AU.._r) and presences (AU.._c); `success` 0 masks a frame."""
    channels = [column for column in table.columns if column.startswith("AU") and column[-2:] in ("_r", "_c")]
    if not channels:
        raise ClipError(f"{path.name}: an OpenFace table without AU columns")
    if "face_id" in table.columns and table["face_id"].nunique() > 1:
        # Several people: the one that is seen best in most frames.
        confidence = table["confidence"] if "confidence" in table.columns else table["success"]
        table = table[table["face_id"] == confidence.groupby(table["face_id"]).sum().idxmax()]
    times = table["timestamp"].to_numpy(np.float64) if "timestamp" in table.columns else None
    tokens = _numbers(path, table[channels])
    mask = (table["success"].to_numpy() == 1) & np.isfinite(tokens).all(axis=1)
    return Table(tokens, mask, times, tuple(channels))


def _organisers(path: Path, table: pd.DataFrame) -> Table:
    """The challenges' own layout: the first two columns are the clip's id and the time, features from the third on.

    They stand in either order where the time is called timestamp. MuSe's are in milliseconds, and are recognised by
    steps of at least 10: nobody samples faces every ten seconds.
    """
    if table.shape[1] < 3 or table.empty:
        raise ClipError(f"{path.name}: wants an id, a time and then features, one row a step")
    column = 0 if table.columns[0].lower() == "timestamp" else 1
    times = _numbers(path, table.iloc[:, [column]])[:, 0].astype(np.float64)
    if len(times) > 1 and np.median(np.diff(times)) >= 10:
        times = times / 1000
    features = table.iloc[:, 2:]
    tokens = _numbers(path, features)
    return Table(tokens, np.isfinite(tokens).all(axis=1), times, tuple(features.columns))


def _numbers(path: Path, table: pd.DataFrame) -> np.ndarray:
    try:
        return table.to_numpy(np.float32)
    except ValueError as error:
        raise ClipError(f"{path.name}: has a cell that is no number ({_first_line(error)})") from error
