"""Archives of numpy arrays, read without running anything in them."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from viper.errors import ClipError, one_line
from viper.files import files_only

MAX_RATIO = 200  # bytes of an array for each of the file; of features few are as alike as that
_LEAST = 1 << 24  # bytes that any archive may hold


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz by name; ClipError where there are none, or objects, or more than it may hold."""
    try:
        with open(path, "rb", opener=files_only) as file, zipfile.ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
            if sum(entry.file_size for entry in entries) > max(_LEAST, MAX_RATIO * path.stat().st_size):
                raise ClipError("refused, it would unpack to much more than it is")
            return {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in entries}
    except zipfile.BadZipFile as error:
        raise ClipError("cannot be read as an archive of arrays") from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        name = one_line(entry.filename)
        if dtype.hasobject:
            raise ClipError(f"{name} in it holds Python objects, which are not read")
        if math.prod(shape) * dtype.itemsize != entry.file_size - file.tell():
            raise ClipError(f"{name} in it is not as long as it says")
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
