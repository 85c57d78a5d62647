"""Features others made: .pt, .npy and CSV files, one a clip."""

from __future__ import annotations

import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import pandas as pd
from pandas.errors import ParserWarning

from viper.errors import ClipError, one_line

FEATURE_SUFFIXES = (".pt", ".pth", ".npy", ".csv")


@dataclass(frozen=True)
class Table:
    """Rows of a foreign file.

    Attributes
    ----------
    tokens : (T, D) float32.
    mask : (T,) bool, False where a value is not finite, or too large for float32.
    times : (T,) float64 seconds, or None where the file does not say.
    channels : D names, or none where the file has none.
    """

    tokens: np.ndarray
    mask: np.ndarray
    times: np.ndarray | None
    channels: tuple[str, ...] = ()


def read_table(path: Path) -> Table:
    """Reads one file. Nothing in it is ever run: pickles are refused, a .pt must hold plain tensors.

    Memory is taken for what the file holds, not for what it claims to hold. Raises ClipError naming the file when it
    cannot be read or holds no table of numbers.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            return _read_csv(path)
        return _of_array(_read_npy(path) if suffix == ".npy" else _read_tensor(path))
    except ClipError as error:
        raise ClipError(f"{path.name}: {error}") from error
    except Exception as error:  # readers made for honest files raise anything of a damaged one
        if isinstance(error, UnpicklingError) or "weights_only" in str(error):  # torch's advice is to let it run
            raise ClipError(f"{path.name}: refused, it is damaged or holds more than a plain tensor") from error
        kind = "CSV" if suffix == ".csv" else "plain numbers"
        raise ClipError(f"{path.name}: cannot be read as {kind} ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return one_line((str(error).strip() or type(error).__name__).splitlines()[0])


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
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # as torch tells its formats apart
    if zipped:
        with zipfile.ZipFile(path) as archive:
            # torch compresses nothing; a few kilobytes of zeros could be told to become gigabytes.
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise ClipError("refused, it would unpack to more than it is")
    tensor = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ClipError("holds no single array of numbers")
    if tensor.is_quantized or tensor.is_complex():
        raise ClipError("holds no single array of numbers")
    if tensor.numel() * tensor.element_size() > size:  # rows that are all the same memory
        raise ClipError("refused, it claims more numbers than it holds")
    return tensor.detach().float().numpy()


def _of_array(array: np.ndarray) -> Table:
    if array.dtype.kind not in "fiub":
        raise ClipError("holds no single array of numbers")
    # The published scripts' files are (1, T, D) or (T, D), and (D,) for one vector a clip.
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or not array.shape[1]:
        raise ClipError(f"an array of shape {array.shape} is not (tokens, channels)")
    tokens = _float32(array)
    return Table(tokens, np.isfinite(tokens).all(axis=1), None)


def _float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # too large is infinite, and masked
        return array.astype(np.float32)


def _read_csv(path: Path) -> Table:
    with warnings.catch_warnings():
        # Of rows longer than the header pandas would make an index, or drop the end, and columns would be mixed up.
        warnings.simplefilter("error", ParserWarning)
        table = pd.read_csv(path, encoding="utf-8-sig", skipinitialspace=True, index_col=False)
    table.columns = [str(column).strip() for column in table.columns]
    # Where lines end in a comma there is a last column without a name or a value.
    table = table.drop(columns=[c for c in table.columns if c.startswith("Unnamed:") and table[c].isna().all()])
    if table.columns.has_duplicates:
        raise ClipError(f"two columns are called {table.columns[table.columns.duplicated()][0]!r}")
    if "success" in table.columns:
        return _openface(table)
    return _organisers(table)


def _openface(table: pd.DataFrame) -> Table:
    """OpenFace: the action units' intensities (AU.._r) and presences (AU.._c); `success` 0 masks a frame."""
    channels = [column for column in table.columns if column.startswith("AU") and column[-2:] in ("_r", "_c")]
    if not channels:
        raise ClipError("an OpenFace table without AU columns")
    if "face_id" in table.columns and table["face_id"].nunique() > 1:
        # Several people: the one that is seen best in most frames.
        confidence = pd.Series(_numbers(table, ["confidence" if "confidence" in table.columns else "success"])[:, 0])
        seen = confidence.groupby(table["face_id"].to_numpy()).sum()
        table = table[table["face_id"] == seen.idxmax()]
    times = _numbers(table, ["timestamp"])[:, 0] if "timestamp" in table.columns else None
    tokens = _float32(_numbers(table, channels))
    mask = (_numbers(table, ["success"])[:, 0] == 1) & np.isfinite(tokens).all(axis=1)
    return Table(tokens, mask, times, tuple(channels))


def _organisers(table: pd.DataFrame) -> Table:
    """The challenges' own layout: the first two columns are the clip's id and the time, features from the third on.

    They stand in either order where the time is called timestamp. MuSe's are in milliseconds, and are recognised by
    steps of at least 10: nobody samples faces every ten seconds.
    """
    if table.shape[1] < 3 or table.empty:
        raise ClipError("wants an id, a time and then features, one row a step")
    column = 0 if table.columns[0].lower() == "timestamp" else 1
    times = _numbers(table, [table.columns[column]])[:, 0]
    if not np.isfinite(times).all():
        raise ClipError(f"a time that is no number, in line {int(np.flatnonzero(~np.isfinite(times))[0]) + 2}")
    if len(times) > 1 and np.median(np.diff(times)) >= 10:
        times = times / 1000
    channels = list(table.columns[2:])
    tokens = _float32(_numbers(table, channels))
    return Table(tokens, np.isfinite(tokens).all(axis=1), times, tuple(channels))


def _numbers(table: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """(rows, columns) float64, NaN where a cell is empty."""
    try:
        return table[columns].to_numpy(np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise ClipError(f"has a cell that is no number ({_first_line(error)})") from error
