"""The cells of a CSV that any tool wrote: its text, separator, header and numbers."""

from __future__ import annotations

import codecs
import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from viper.errors import ClipError, one_line
from viper.files import read_bytes

_SEPARATORS = (";", "\t", "|", ",")
_COMMENT = ("#", "%", "//")
# What tools write where there is no number: C on Windows, Excel, Weka, R, and people.
_NO_NUMBER = re.compile(
    r"[+-]?(nan(\(.*\))?|1\.#(ind|qnan|snan|nan)0*)|n/?a|<na>|null|none|nil|missing|undefined|[-?.]|--"
    r"|#n/a|#(div/0|value|num|ref|name|null)[!?]|",
    re.IGNORECASE,
)
_INFINITE = re.compile(r"([+-]?)(inf(inity)?|1\.#inf0*|∞)", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
# Meant as a number, and not taken for text: 12%, 1.234,5, 2+3j, 5 dB.
_LIKE_A_NUMBER = re.compile(r"[+-]?\d[\d.,' ]*([a-zA-Z%]{1,2}|[dD][+-]?\d+|[+-][\d.]+[ij])?")
_TRUTH = {"true": "1", "false": "0"}
# What pandas takes for no number at once; the others are few, and looked at one by one.
_MORE_NAMES = ["-nan(ind)", "nan(ind)", "nan(snan)", "-nan(snan)", "1.#SNAN", "-1.#SNAN"]


@dataclass(frozen=True, eq=False)
class Cells:
    """The rows of a CSV below its header, or some of them.

    Attributes
    ----------
    names : of the columns, without blanks around; empty where the file has no header.
    lines : (rows,) int, where each row stands in the file, from 1.
    values : (rows, columns) float64, NaN where a cell is empty or no number.
    texts : place of a column that is text -> its cells, as they stand.
    wrong : place of a column of numbers -> line and text of the first cell that is neither number nor empty.
    notes : what was decided about the file, in words.
    """

    names: tuple[str, ...]
    lines: np.ndarray
    values: np.ndarray
    texts: dict[int, np.ndarray] = field(default_factory=dict)
    wrong: dict[int, tuple[int, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source: _Source | None = None

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def keys(self) -> list[str]:
        """The names as they are compared: "Time [ms]" is time_ms."""
        return [re.sub(r"\W+", "_", name.lower()).strip("_") for name in self.names]

    def text(self, place: int) -> list[str]:
        """Return a column's cells as text: 010 is not 10, and NA is a name."""
        if place in self.texts:
            return [str(cell) for cell in self.texts[place]]
        if self.source is None:
            return [f"{value:g}" for value in self.values[:, place]]
        return self.source.text(place)

    def numbers(self, places: list[int]) -> np.ndarray:
        """Return (rows, columns) float64; ClipError for a column with a cell that is no number."""
        for place in places:
            if place in self.wrong:
                line, cell = self.wrong[place]
                column = f" in column {self.names[place]!r}" if self.names[place] else ""
                raise ClipError(f"line {line} has a cell that is no number{column}: {one_line(cell)[:60]!r}")
        return self.values[:, places]

    def take(self, rows: np.ndarray) -> Cells:
        """Return some rows, by their numbers or a mask."""
        texts = {place: cells[rows] for place, cells in self.texts.items()}
        lines = self.lines[rows]
        kept = set(lines.tolist())
        wrong = {place: said for place, said in self.wrong.items() if said[0] in kept}
        return Cells(self.names, lines, self.values[rows], texts, wrong, self.notes)

    def without(self, place: int) -> Cells:
        """Return the cells without a column."""
        kept = [each for each in range(len(self.names)) if each != place]
        return Cells(
            tuple(self.names[each] for each in kept),
            self.lines,
            self.values[:, kept],
            {new: self.texts[old] for new, old in enumerate(kept) if old in self.texts},
            {new: self.wrong[old] for new, old in enumerate(kept) if old in self.wrong},
            self.notes,
        )


@dataclass(frozen=True, eq=False)
class _Source:
    """The lines of the rows, to be read again as text."""

    lines: list[str]
    separator: str
    n_columns: int

    def read(self, **how: Any) -> pd.DataFrame:
        # The line end is for a row that is blank but for quotes.
        body = io.StringIO("\n".join(self.lines) + "\n")
        separator = r"\s+" if self.separator == " " else self.separator
        return pd.read_csv(
            body, sep=separator, header=None, names=range(self.n_columns), index_col=False, skipinitialspace=True,
            skip_blank_lines=False, low_memory=False, **how,
        )  # fmt: skip

    def text(self, place: int) -> list[str]:
        cells = self.read(usecols=[place], dtype=str, keep_default_na=False).iloc[:, 0]
        return [str(cell).strip() for cell in cells]


def read_cells(path: Path) -> Cells:
    """Read a CSV; ClipError naming the line of a row that has not as many cells as the header."""
    text, notes = _decoded(read_bytes(path))
    lines = list(enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1))
    lines = [(number, line) for number, line in lines if line.strip(" \t;,|\"'")]
    header, lines, separator = _header(lines)
    while header and not header[-1]:  # lines that end in a comma
        header.pop()
    if header is not None and len(set(header)) < len(header):
        twice = next(name for i, name in enumerate(header) if name in header[:i])
        if twice:
            raise ClipError(f"two columns are called {one_line(twice)!r}")
    if not lines:
        if header is None:
            raise ClipError("cannot be read as CSV (it is empty)")
        return Cells(tuple(header), np.zeros(0, int), np.zeros((0, len(header))), notes=tuple(notes))
    n_columns = len(header) if header is not None else len(_split(lines[0][1], separator))
    if len(lines) > 1 and not text.endswith("\n") and _n_cells(lines[-1][1], separator) < n_columns:
        lines.pop()
        notes.append("the last line is cut off, and is left out")
    rows = _even_rows(lines, separator, n_columns, notes)
    if header is None:
        notes.append("the file has no header; its columns are taken in their order")
    else:
        repeated = {number for number, line in rows if _is_header(line, header, separator)}
        if repeated:
            rows = [row for row in rows if row[0] not in repeated]
            notes.append("header lines that come again further down are left out")
    source = _Source([line for _, line in rows], separator, n_columns)
    numbers = np.array([number for number, _ in rows], int)
    return _parsed(tuple(header or [""] * n_columns), numbers, source, notes)


def _is_header(line: str, header: list[str], separator: str) -> bool:
    if not line.lstrip(' "').startswith(header[0]):  # nearly all, quickly
        return False
    return _split(line, separator) == header


def _decoded(content: bytes) -> tuple[str, list[str]]:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16"), ["the file is read as UTF-16"]
    # Without its mark: every other byte of ASCII is zero.
    for encoding, first in (("utf-16-le", 1), ("utf-16-be", 0)):
        if len(content) > 3 and not any(content[first:64:2]) and all(content[1 - first : 64 : 2]):
            return content.decode(encoding), ["the file is read as UTF-16"]
    try:
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        try:
            return content.decode("cp1252"), ["the file is not UTF-8, and is read as Windows-1252"]
        except UnicodeDecodeError:
            raise ClipError(f"cannot be read as CSV (it is not UTF-8: {error.reason}); save it as UTF-8") from None


def _split(line: str, separator: str) -> list[str]:
    if separator == " ":
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]


def _is_number(cell: str) -> bool:
    if _NO_NUMBER.fullmatch(cell) or _INFINITE.fullmatch(cell) or _DECIMAL_COMMA.fullmatch(cell):
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _header(lines: list[tuple[int, str]]) -> tuple[list[str] | None, list[tuple[int, str]], str]:
    """Return the columns' names, None where there is no header; the lines below it; and the separator."""
    told, separator = None, ""
    while lines and lines[0][1].lstrip().startswith(_COMMENT):
        told = lines.pop(0)[1].lstrip()
    if lines and (match := re.fullmatch(r"\"?sep=(.)\"?", lines[0][1].strip(" "), re.IGNORECASE)):
        separator = match[1]  # Excel's own word
        lines.pop(0)
    if not lines:
        return None, [], ","
    if len(lines) > 1:
        lines = [lines[0], *(line for line in lines[1:] if not line[1].lstrip().startswith(_COMMENT))]
    separator = separator or _separator(lines)
    first = _split(lines[0][1], separator)
    if told is not None:  # as numpy writes a header: after the mark of a comment
        names = _split(told.lstrip("#%/ "), separator)
        if len(names) == len(first) > 1 and all(map(_is_number, first)):
            return names, lines, separator
    counted = [cell for cell in first if cell]
    is_counted = counted == [str(k) for k in range(len(counted))] and len(counted) > 1  # as pandas names columns
    if all(map(_is_number, first)) and not is_counted and any(re.search(r"\d", cell) for cell in first):
        return None, lines, separator
    return first, lines[1:], separator


def _separator(lines: list[tuple[int, str]]) -> str:
    """Return what separates the cells: with it header and first row have as many cells, and most are numbers."""
    header, row = lines[0][1], lines[min(1, len(lines) - 1)][1]
    best, found = (0, 0, 0), ","
    for separator in _SEPARATORS:
        names, cells = _split(header, separator), _split(row.rstrip().rstrip(separator), separator)
        names = names[:-1] if names and not names[-1] else names
        if len(names) > 1:
            score = (int(len(names) == len(cells)), sum(map(_is_number, cells)), len(names))
            best, found = max((best, found), (score, separator), key=lambda pair: pair[0])
    names, cells = header.split(), row.split()
    if not best[0] and len(names) == len(cells) > 1 and all(map(_is_number, cells)):
        return " "  # as numpy writes numbers
    return found


def _n_cells(line: str, separator: str) -> int:
    return len(_split(line, separator)) if separator == " " or '"' in line else line.count(separator) + 1


def _even_rows(lines: list[tuple[int, str]], separator: str, n_columns: int, notes: list[str]) -> list[tuple[int, str]]:
    """Return the lines with as many cells as the header; ClipError for one with more.

    Separators too many at their ends are left out, cells too few are empty.
    """
    rows = []
    is_short = False
    for number, line in lines:
        if line.count('"') % 2:
            raise ClipError(f"cannot be read as CSV (line {number} has a quotation mark that is not closed)")
        n_cells = _n_cells(line, separator)
        end = line.rstrip(" ") if n_cells > n_columns else line
        while n_cells > n_columns and end.endswith(separator):
            end, n_cells = end[:-1].rstrip(" "), n_cells - 1
        if n_cells > n_columns or (n_cells < n_columns and separator == " "):
            # pandas would call the first column an index, or drop the end: columns would be mixed up.
            raise ClipError(f"cannot be read as CSV (line {number} has {n_cells} cells, the header {n_columns})")
        is_short |= n_cells < n_columns
        rows.append((number, end + separator * (n_columns - n_cells)))
    if is_short:
        notes.append("it has rows with fewer cells than the header; the last ones are taken for empty")
    return rows


def _parsed(names: tuple[str, ...], lines: np.ndarray, source: _Source, notes: list[str]) -> Cells:
    table = source.read(na_values=_MORE_NAMES)
    values = np.full(table.shape, np.nan)
    texts: dict[int, np.ndarray] = {}
    wrong: dict[int, tuple[int, str]] = {}
    with_comma: list[str] = []
    broken: list[int] = []  # columns of numbers that are not whole
    for place, column in enumerate(table):
        if pd.api.types.is_numeric_dtype(table[column]):
            values[:, place] = table[column].to_numpy(np.float64, na_value=np.nan)
            finite = values[np.isfinite(values[:, place]), place]
            if (finite != np.floor(finite)).any():
                broken.append(place)
            continue
        cells = np.array(source.text(place), object)
        values[:, place], is_wrong, commas = _converted(cells)
        with_comma += commas
        if is_wrong.any():
            texts[place] = cells
            first = int(np.flatnonzero(is_wrong)[0])
            if np.isfinite(values[:, place]).any() or all(map(_LIKE_A_NUMBER.fullmatch, cells[is_wrong])):
                wrong[place] = (int(lines[first]), str(cells[first]))
    if with_comma:
        if any("." in cell for place in broken for cell in source.text(place)):
            raise ClipError(f"has numbers with decimal points and with decimal commas ({with_comma[0]!r})")
        if source.separator == "," and all(map(_THOUSANDS.fullmatch, with_comma)):
            raise ClipError(f"{with_comma[0]!r} may be thousands or a decimal comma; write it with a point")
        notes.append("its decimal commas are read as points")
    shown = tuple(name[1:-1] if re.fullmatch("'.*'", name) else name for name in names)
    return Cells(shown, lines, values, texts, wrong, tuple(notes), source)


def _converted(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return (rows,) float64, (rows,) bool of cells that are neither numbers nor empty, and decimal commas."""
    found: dict[str, float] = {}
    wrong: set[str] = set()
    commas: list[str] = []
    for cell in dict.fromkeys(cells):
        if _NO_NUMBER.fullmatch(cell):
            found[cell] = np.nan
        elif infinite := _INFINITE.fullmatch(cell):
            found[cell] = -np.inf if infinite[1] == "-" else np.inf
        else:
            plain = _TRUTH.get(cell.lower(), cell)
            if _DECIMAL_COMMA.fullmatch(cell):
                commas.append(cell)
                plain = cell.replace(",", ".")
            try:
                # Python takes 1_000 and other alphabets' digits, which no tool writes.
                found[cell] = float(plain) if plain.isascii() and "_" not in plain else np.nan
                if not plain.isascii() or "_" in plain:
                    wrong.add(cell)
            except ValueError:
                found[cell] = np.nan
                wrong.add(cell)
    numbers = np.array([found[cell] for cell in cells], np.float64)
    return numbers, np.array([cell in wrong for cell in cells], bool), commas
