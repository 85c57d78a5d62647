"""CSV files as tests write and read them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> Path:
    """A CSV of rows, the header first, its lines ended as spreadsheets end them."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV with a header."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
