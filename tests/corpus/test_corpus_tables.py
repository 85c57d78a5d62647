"""Others' tables of features: every file that was read wrongly once, or might be, with its right values."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from many import long_test

from viper.engine.failures import read_failures
from viper.store import FeatureStore

pytestmark = long_test

Content = str | bytes | np.ndarray | dict[str, Any]
NAN = float("nan")
MASKED = None  # a token that is masked, in the place of its values


@dataclass(frozen=True)
class Case:
    """Files, and what they are.

    Attributes
    ----------
    files : name -> content. One of them alone may be named itself, see `source`.
    values : clip -> tokens, None where masked.
    times : clip -> seconds; a clip that is not there is not looked at.
    said : what the log has, in any order.
    options : of the command.
    failed : clip -> what failures.csv says.
    source : the file that is named instead of the folder.
    channels : the names, where they matter.
    """

    files: dict[str, Content]
    values: dict[str, list[Any]]
    times: dict[str, list[float]] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    source: str = ""
    channels: list[str] | None = None
    command: str = "visual"


def write(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **content)  # type: ignore[arg-type]
    elif path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    elif path.suffix in (".pt", ".pth"):
        torch.save(content, path)
    elif path.suffix == ".npy" and not isinstance(content, bytes):
        np.save(path, content)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)  # type: ignore[arg-type]


def check(tmp_path: Path, run: Run, case: Case) -> None:
    for name, content in case.files.items():
        write(tmp_path / "in" / name, content)
    source = tmp_path / "in" / case.source if case.source else tmp_path / "in"
    option = "--from_csv" if case.command == "FAU" else "--from_files"
    given = [option, source, "--output_folder", tmp_path / "out", *case.options]
    outcome = run(f"extract_{case.command}_features", *given)
    assert outcome.code == (3 if case.failed else 0), outcome.said
    store = FeatureStore.open(tmp_path / "out")
    assert set(store.clips()) == case.values.keys(), outcome.said
    for clip, tokens in case.values.items():
        feature = store.read(clip)
        assert feature.mask.tolist() == [token is not MASKED for token in tokens], clip
        width = feature.tokens.shape[1]
        expected = [np.zeros(width) if token is MASKED else token for token in tokens]
        np.testing.assert_allclose(feature.tokens, np.array(expected, np.float32).reshape(-1, width), rtol=1e-6)
    for clip, times in case.times.items():
        np.testing.assert_allclose(store.read(clip).time, times, atol=1e-6)
    for each in case.said:
        assert each in outcome.said, outcome.said
    if case.channels is not None:
        assert store.info.options["channels"] == case.channels
    failures = {row.clip: row.message for row in read_failures(tmp_path / "out")}
    assert failures.keys() == case.failed.keys()
    for clip, message in case.failed.items():
        assert message in failures[clip]
        assert "\n" not in failures[clip]


HEAD = "File_ID,timestamp,a,b\n"


def one(text: Content, values: list[Any], times: list[float] | None = None, **more: Any) -> Case:
    """A case of one CSV, c.csv."""
    return Case({"c.csv": text}, {"c": values}, {} if times is None else {"c": times}, **more)


# Cells that are no numbers: filled with the mean of the column, 4 of 2 and 6.
NO_NUMBERS = (
    "-nan(ind)",
    "nan(ind)",
    "nan(snan)",
    "-nan(snan)",
    "-nan",
    "NaN",
    "1.#IND",
    "-1.#IND",
    "1.#QNAN",
    "-1.#QNAN",
    "1.#IND00",
    "1.#INF",
    "-1.#INF",
    "inf",
    "-inf",
    "Infinity",
    "",
    " ",
    "NA",
    "N/A",
    "null",
    "NULL",
    "None",
    "?",
    "-",
    "#DIV/0!",
    "#N/A",
    "1e39",
    "-1e400",
    '"nan"',
    "NaN ",
    "<NA>",
    "nan(0x7fc00000)",
)
FILLED = "1 cells in 1 of 2 columns are no numbers (b in 1 clips); they are filled with the clip's mean"


@pytest.mark.parametrize("cell", NO_NUMBERS)
def test_a_cell_that_is_no_number_is_filled_and_named(tmp_path: Path, run: Run, cell: str) -> None:
    text = f"{HEAD}c,0,1,2\nc,1,2,{cell}\nc,2,3,6\n"
    check(tmp_path, run, one(text, [[1, 2], [2, 4], [3, 6]], [0, 1, 2], said=(FILLED,)))


RULES = {
    "mean": [[1, 2], [2, 4], [3, 6], MASKED],
    "zero": [[1, 2], [2, 0], [3, 6], MASKED],
    "mask": [[1, 2], MASKED, [3, 6], MASKED],
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_for_cells_that_are_no_numbers(tmp_path: Path, run: Run, rule: str) -> None:
    text = f"{HEAD}c,0,1,2\nc,1,2,nan\nc,2,3,6\nc,3,nan,-nan(ind)\n"
    said = ("are masked (--nan)", "2 of 4 tokens" if rule == "mask" else "1 of 4 tokens")
    check(tmp_path, run, one(text, RULES[rule], options=("--nan", rule), said=said))


COLUMNS = {
    "whole-column": one(
        "timestamp,a,b,c\n0,1,nan,3\n1,2,nan,4\n",
        [[1, 0, 3], [2, 0, 4]],
        said=("2 cells in 1 of 3 columns", "columns without a number in any of 1 clips: b"),
    ),
    "half-of-a-token": one(
        "timestamp,a,b,c,d\n0,1,2,3,4\n1,1,nan,nan,5\n2,1,nan,nan,nan\n", [[1, 2, 3, 4], [1, 2, 3, 5], MASKED]
    ),
    "other-clips-means-are-not-taken": Case(
        {"c.csv": "timestamp,a,b\n0,1,nan\n1,2,nan\n", "d.csv": "timestamp,a,b\n0,1,100\n1,2,200\n"},
        {"c": [[1, 0], [2, 0]], "d": [[1, 100], [2, 200]]},
        said=("b in 1 clips",),
    ),
    "masked-rows-have-no-say": one(
        "frame,timestamp,success,AU01_r,AU02_r\n1,0,1,1,2\n2,1,0,9,9\n3,2,1,2,nan\n", [[1, 2], MASKED, [2, 2]]
    ),
}

SEPARATED = {
    "semicolons": one("File_ID;timestamp;a;b\nc;0;1.5;2\nc;1;3;4\n", [[1.5, 2], [3, 4]], [0, 1]),
    "tabs": one("File_ID\ttimestamp\ta\tb\nc\t0\t1.5\t2\nc\t1\t3\t4\n", [[1.5, 2], [3, 4]], [0, 1]),
    "bars": one("File_ID|timestamp|a|b\nc|0|1.5|2\nc|1|3|4\n", [[1.5, 2], [3, 4]], [0, 1]),
    "tsv": Case({"c.tsv": "File_ID\ttimestamp\ta\nc\t0\t1.5\n"}, {"c": [[1.5]]}),
    "decimal-commas": one(
        "timestamp;a;b\n0;1,5;2\n0,5;-3,25;4e-1\n",
        [[1.5, 2], [-3.25, 0.4]],
        [0, 0.5],
        said=("decimal commas are read as points",),
    ),
    "decimal-commas-quoted": one('timestamp,a\n0,"1,5"\n1,"-0,25"\n', [[1.5], [-0.25]], [0, 1]),
    "decimal-commas-everywhere": one(
        "0,5;1,5;2,5\n3,5;4,5;5,5\n", [[0.5, 1.5, 2.5], [3.5, 4.5, 5.5]], said=("no header",)
    ),
    "tabs-and-commas": one("timestamp\ta\n0\t1,25\n1\t2,5\n", [[1.25], [2.5]]),
    "excels-own-word": one("sep=;\ntimestamp;a\n0;1\n1;2\n", [[1], [2]], [0, 1]),
    "blanks": one("1.0 2.0 3.0\n4.0 5.0 6.0\n", [[1, 2, 3], [4, 5, 6]]),
    "names-with-commas": one('timestamp;"a, b";c\n0;1;2\n1;3;4\n', [[1, 2], [3, 4]], channels=["a, b", "c"]),
}

TEXTS = {
    "mark": one(b"\xef\xbb\xbf" + b"timestamp,a\n0,1\n1,2\n", [[1], [2]], [0, 1]),
    "mark-and-quotes": one(b"\xef\xbb\xbf" + b'"timestamp","a"\n0,1\n1,2\n', [[1], [2]], [0, 1]),
    "utf-16": one("timestamp,é\n0,1\n1,2\n".encode("utf-16"), [[1], [2]], [0, 1], said=("UTF-16",), channels=["é"]),
    "utf-16-without-a-mark": one("timestamp,a\n0,1\n1,2\n".encode("utf-16-le"), [[1], [2]], said=("UTF-16",)),
    "utf-16-the-other-way": one("timestamp,a\n0,1\n1,2\n".encode("utf-16-be"), [[1], [2]]),
    "windows": one(
        "timestamp,Größe\n0,1\n1,2\n".encode("cp1252"), [[1], [2]], said=("Windows-1252",), channels=["Größe"]
    ),
    "crlf": one("timestamp,a\r\n0,1\r\n1,2\r\n", [[1], [2]], [0, 1]),
    "cr": one("timestamp,a\r0,1\r1,2\r", [[1], [2]], [0, 1]),
    "no-end": one("timestamp,a\n0,1\n1,2", [[1], [2]], [0, 1]),
    "blank-lines": one("\n\ntimestamp,a\n\n0,1\n,\n1,2\n\n  \n", [[1], [2]], [0, 1]),
    "blanks-in-the-header": one(
        " timestamp , AU01_r ,\tAU02_r\n0, 1 , 2\n1,\t3, 4 \n", [[1, 2], [3, 4]], [0, 1], channels=["AU01_r", "AU02_r"]
    ),
    "quoted-header": one('"timestamp","a b","c"\n"0","1","2"\n"1","3","4"\n', [[1, 2], [3, 4]], channels=["a b", "c"]),
    "trailing-commas": one("timestamp,a,\n0,1,\n1,2,\n", [[1], [2]]),
    "trailing-commas-in-rows": one("timestamp,a\n0,1,\n1,2,,\n", [[1], [2]]),
    "trailing-comma-in-the-header": one("timestamp,a,\n0,1\n1,2\n", [[1], [2]]),
    "repeated-header": one("timestamp,a\n0,1\ntimestamp,a\n1,2\n", [[1], [2]], [0, 1], said=("header lines",)),
    "comments": one("# made by a tool\n# at noon\ntimestamp,a\n0,1\n# half\n1,2\n", [[1], [2]], [0, 1]),
    "header-in-a-comment": one("# timestamp,a\n0,1\n1,2\n", [[1], [2]], [0, 1], channels=["a"]),
    "no-header": one("1,2\n3,4\n", [[1, 2], [3, 4]], said=("no header",), channels=[]),
    "numbered-columns": one(
        ",0,1\n0,1.5,2\n1,3,4\n", [[1.5, 2], [3, 4]], channels=["0", "1"], said=("counts the rows",)
    ),
    "numbered-columns-without-rows": one("0,1,2\n1.5,2,5\n3,4,6\n", [[1.5, 2, 5], [3, 4, 6]], channels=["0", "1", "2"]),
    "truth": one("timestamp,a,b\n0,True,1\n1,False,2\n", [[1, 1], [0, 2]]),
    "short-row": one("timestamp,a,b\n0,1,2\n1,3\n2,5,4\n", [[1, 2], [3, 3], [5, 4]], said=("fewer cells",)),
    "cut-off": one("timestamp,a,b\n0,1,2\n1,3,4\n2,5", [[1, 2], [3, 4]], said=("last line is cut off",)),
    "text-column": one(
        "timestamp,a,mood\n0,1,happy\n1,2,sad\n", [[1], [2]], said=("columns of text are left out: mood",)
    ),
}


def refused(text: Content, said: str) -> Case:
    """A case of a CSV that fails beside one that does not."""
    good = "timestamp,a,b\n0,1,2\n1,3,4\n"
    return Case({"a.csv": good, "c.csv": text}, {"a": [[1, 2], [3, 4]]}, failed={"c": said})


REFUSED = {
    "duplicated-names": refused("timestamp,a,a\n0,1,2\n", "two columns are called 'a'"),
    "duplicated-names-with-blanks": refused("timestamp,a, a \n0,1,2\n", "two columns are called 'a'"),
    "longer-rows": refused("timestamp,a,b\n0,1,2,3\n1,1,2,3\n", "line 2 has 4 cells, the header 3"),
    "thousands": refused('timestamp,a,b\n0,"1,234",2\n1,"2,345",2\n', "may be thousands or a decimal comma"),
    "points-and-commas": refused("timestamp;a;b\n0;1,5;2.5\n1;2;3\n", "decimal points and with decimal commas"),
    "per-cent": refused("timestamp,a,b\n0,12%,2\n1,13%,2\n", "a cell that is no number in column 'a': '12%'"),
    "a-word-among-numbers": refused(
        "timestamp,a,b\n0,1,2\n1,oops,2\n", "line 3 has a cell that is no number in column 'a'"
    ),
    "another-clip": refused("File_ID,timestamp,a,b\nd,0,1,2\n", "line 2 is of clip 'd', not of 'c'"),
    "another-clip-by-any-name": refused("who,time,a,b\n1000,0,1,2\n1000,1,1,2\n", "line 2 is of clip '1000', not of"),
    "another-clip-after-the-time": refused("time,who,a,b\n0,x,1,2\n1,x,1,2\n", "line 2 is of clip 'x', not of"),
    "times-that-step-back": refused("timestamp,a,b\n1,1,2\n0,1,2\n", "the time in line 3 is not after the one before"),
    "turned-width": refused("timestamp,a,b,d\n0,1,2,3\n1,1,2,3\n", "3 channels, while the first file has 2"),
    "no-times-unlike-others": refused("a,b\n1,2\n3,4\n", "it has no times, unlike the first file"),
    "unnamed-numbers": refused(",timestamp,a,b\n5,0,1,2\n3,1,1,2\n", "does not count the rows; rename it"),
    "binary": refused(bytes(range(128, 256)) * 3, "cannot be read as CSV"),
    "open-quote": refused('timestamp,a,b\n0,"1,2\n', "a quotation mark that is not closed"),
    "header-only": refused("timestamp,a,b\n", "has no row of features"),
    "empty": refused("", "cannot be read as CSV (it is empty)"),
}

LAYOUTS = {
    "a-label-among-features": one(
        "time,a,label\n0,1,5\n1,2,5\n", [[1, 5], [2, 5]], [0, 1], said=("though it is called like a label",)
    ),
    "times-with-a-decimal-comma": one("time;a;b\n00:00:00,500;1;2\n00:00:01,250;3;4\n", [[1, 2], [3, 4]], [0.5, 1.25]),
    "no-id": one("time,AU01,AU02\n0,1,2\n0.5,3,4\n", [[1, 2], [3, 4]], [0, 0.5], channels=["AU01", "AU02"]),
    "no-time": one(
        "id,AU01,AU02\nc,1,9\nc,3,4\n",
        [[1, 9], [3, 4]],
        [0, 0.25],
        options=("--step_seconds", "0.25"),
        said=("no times",),
        channels=["AU01", "AU02"],
    ),
    "neither": one(
        "AU01,AU02\n1,2\n3,4\n", [[1, 2], [3, 4]], [0, 1], said=("its rows have no times, and are --step_seconds",)
    ),
    "one-column": one("AU01\n1\n3\n", [[1], [3]], [0, 1]),
    "frames": one("frame,a\n0,1\n1,2\n4,3\n", [[1], [2], [3]], [0, 0.04, 0.16], options=("--step_seconds", "0.04")),
    "frames-from-1": one(
        "frame,a\n1,1\n2,2\n5,3\n", [[1], [2], [3]], [0, 0.04, 0.16], options=("--step_seconds", "0.04")
    ),
    "time-without-a-name": one(
        "clip,pos,a\nc,0,5\nc,0.5,6\nc,1.5,7\n",
        [[5], [6], [7]],
        [0, 0.5, 1.5],
        said=("column 'pos' beside the id grows",),
    ),
    "not-a-time": one("clip,pos,a\nc,0,5\nc,1,6\nc,2,7\n", [[0, 5], [1, 6], [2, 7]], options=("--columns", "pos", "a")),
    "uneven-steps-are-a-feature": one("clip,pos,a\nc,0,5\nc,1,6\nc,2.4,7\n", [[0, 5], [1, 6], [2.4, 7]]),
    "a-feature-that-is-the-clips-number": Case(
        {"2.csv": "time,a,b\n0,2,1\n1,2,3\n", "3.csv": "time,a,b\n0,2,1\n1,3,3\n"},
        {"2": [[2, 1], [2, 3]], "3": [[2, 1], [3, 3]]},
    ),
    "milliseconds-by-steps": one(
        "File_ID,timestamp,a\nc,0,1\nc,250,2\n", [[1], [2]], [0, 0.25], said=("milliseconds (--time_unit)",)
    ),
    "milliseconds-by-name": one("time_ms,a\n0,1\n5,2\n", [[1], [2]], [0, 0.005]),
    "milliseconds-by-option": one("time,a\n0,1\n5,2\n", [[1], [2]], [0, 0.005], options=("--time_unit", "ms")),
    "seconds-by-name": one("Time [s],a\n0,1\n20,2\n", [[1], [2]], [0, 20]),
    "seconds-by-option": one("time,a\n0,1\n20,2\n", [[1], [2]], [0, 20], options=("--time_unit", "s")),
    "times-of-day": one("time,a\n00:00:01.5,1\n00:01:02,2\n", [[1], [2]], [1.5, 62]),
    "seconds-in-words": one("second,a\n0,1\n20,2\n", [[1], [2]], [0, 20]),
    "microseconds": one("timestamp_us,a\n0,1\n40000,2\n", [[1], [2]], [0, 0.04]),
    "microseconds-in-words": one("time (microseconds),a\n0,1\n40000,2\n", [[1], [2]], [0, 0.04]),
    "nanoseconds": one("time_ns,a\n0,1\n40000000,2\n", [[1], [2]], [0, 0.04]),
    "a-letter": one("t,a\n0,1\n0.5,2\n", [[1], [2]], [0, 0.5], said=("'t' is taken for the time",)),
    "a-ratio-by-name": one("time_ratio,b\n1,2\n1,3\n", [[1, 2], [1, 3]], options=("--columns", "time_ratio", "b")),
    "of-a-calendar": one("timestamp,a\n1700000000.0,1\n1700000000.5,2\n", [[1], [2]], [0, 0.5], said=("calendar",)),
    "of-a-calendar-in-milliseconds": one("timestamp,a\n1700000000000,1\n1700000000500,2\n", [[1], [2]], [0, 0.5]),
    "spans": one("start_time,end_time,a\n0,1,5\n1,2,6\n", [[5], [6]], [0.5, 1.5], said=("in the middle of",)),
    "onsets": one("onset,offset,a\n0,1,5\n1,2,6\n", [[5], [6]], [0.5, 1.5], channels=["a"]),
    "single-quotes": one("'time','a'\n0,1\n1,2\n", [[1], [2]], [0, 1], channels=["a"]),
    "muse": one("timestamp,segment_id,a,b\n0,1,1,2\n500,1,3,4\n1000,2,5,6\n", [[1, 2], [3, 4], [5, 6]], [0, 0.5, 1]),
    "ids-of-files": one("video,time,a\nvideos/c.mp4,0,1\nvideos/c.mp4,1,2\n", [[1], [2]], [0, 1]),
    "id-in-brackets": one("File_ID,timestamp,a\n[c],0,1\n", [[1]]),
    "id-last": one("time,a,video_id\n0,1,c\n1,2,c\n", [[1], [2]], channels=["a"]),
    "id-by-option": one("a,who,time\n1,c,0\n2,c,1\n", [[1], [2]], options=("--id_column", "who"), channels=["a"]),
    "pictures-in-a-column": one("filename,a\n0001.jpg,1\n0002.jpg,2\n", [[1], [2]], said=("names a file a row",)),
}

OF = "frame, face_id, timestamp, confidence, success, gaze_0_x, AU01_r, AU45_c\n"
OPENFACE = {
    "video": one(
        OF + "1, 0, 0.000, 0.98, 1, .1, 1.50, 0.0\n2, 0, 0.033, 0.98, 1, .1, 2.50, 1.0\n",
        [[1.5, 0], [2.5, 1]],
        [0, 0.033],
        channels=["AU01_r", "AU45_c"],
    ),
    "pictures": one(
        OF + "1, 0, 0.000, 0.98, 1, .1, 1.50, 0\n2, 0, 0.000, 0.98, 1, .1, 2, 1\n4, 0, 0.000, 0.98, 1, .1, 3, 1\n",
        [[1.5, 0], [2, 1], [3, 1]],
        [0, 0.04, 0.12],
        options=("--step_seconds", "0.04"),
        said=("all its times are 0", "its frames are numbered"),
    ),
    "pictures-without-a-step": one(
        OF + "1, 0, 0, 0.98, 1, .1, 1.50, 0\n3, 0, 0, 0.98, 1, .1, 2, 1\n",
        [[1.5, 0], [2, 1]],
        [0, 2],
        said=("--step_seconds apart (1 / frames per second)",),
    ),
    "one-picture": one(OF + "1, 0, 0, 0.98, 1, .1, 1.50, 0\n", [[1.5, 0]], [0]),
    "lost-and-found": one(
        OF + "1, 0, 0, 0.98, 1, .1, 0, 0\n2, 0, 0.04, 0.02, 0, 0, 0, 0\n3, 0, 0.08, 0.9, 1, 0, 1, 0\n",
        [[0, 0], MASKED, [1, 0]],
        [0, 0.04, 0.08],
        said=("1 of 3 tokens are masked",),
    ),
    "not-a-number-on-windows": one(
        OF + "1, 0, 0, 0.98, 1, .1, 1, 0\n2, 0, 0.04, 0.98, 1, -nan(ind), -nan(ind), 0\n", [[1, 0], [1, 0]]
    ),
    "several-faces": one(
        OF
        + "".join(
            f"{f}, 0, {f * 0.04:.2f}, 0.99, {int(f < 3)}, 0, 1, 0\n{f}, 1, {f * 0.04:.2f}, 0.6, 1, 0, 2, 0\n"
            for f in range(1, 6)
        ),
        [[2, 0]] * 5,
        [0.04, 0.08, 0.12, 0.16, 0.2],
        said=("several faces; the one that is longest in the picture",),
    ),
    "a-picture-alone": one("face, confidence, AU01_r, AU45_c\n0, 0.9, 1.5, 1\n", [[1.5, 1]], [0]),
    "two-faces-of-a-picture": one(
        "face, confidence, AU01_r, AU45_c\n0, 0.6, 1, 1\n1, 0.9, 2, 1\n",
        [[2, 1]],
        [0],
        said=("found with most confidence",),
    ),
    "no-face-in-a-picture": Case(
        {"a.csv": "face, confidence, AU01_r\n0, 0.9, 1.5\n", "c.csv": "face, confidence, AU01_r\n"},
        {"a": [[1.5]], "c": [MASKED]},
        said=("1 of 2 tokens are masked",),
    ),
    "confidence-is-no-feature": one(
        "frame,timestamp,confidence,success,AU01_r\n1,0,.9,1,2\n", [[2]], channels=["AU01_r"]
    ),
}

PYFEAT = "FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,FaceScore,x_0,AU01,AU43,anger,neutral,input,frame"
LIBREFACE = "frame_idx,frame_time_in_ms,pitch,lm_mp_0_x,au_1,au_2,au_1_intensity,au_2_intensity,facial_expression"
SMILE = "name;frameTime;F0;loudness\n'unknown';0.00;1;2\n'unknown';0.01;nan;3\n"
TOOLS = {
    "py-feat": one(
        f"{PYFEAT}\n1,1,10,10,.99,5,.5,.1,.2,.8,v/c.mp4,0\n,,,,,,,,,,v/c.mp4,1\n1,1,10,10,.9,5,.6,.2,.3,.7,v/c.mp4,2\n",
        [[0.5, 0.1, 0.2, 0.8], MASKED, [0.6, 0.2, 0.3, 0.7]],
        [0, 0.04, 0.08],
        options=("--step_seconds", "0.04"),
        channels=["AU01", "AU43", "anger", "neutral"],
    ),
    "py-feat-of-frames": one(
        "frame,FaceRectX,FaceScore,AU01,Happy,approx_time\n0,1,.9,1,2,00:00\n10,1,.9,3,4,00:00\n",
        [[1, 2], [3, 4]],
        [0, 0.4],
        options=("--step_seconds", "0.04"),
        channels=["AU01", "Happy"],
    ),
    "py-feat-two-faces": one(
        f"{PYFEAT}\n1,1,10,10,.9,5,.5,.1,.2,.8,c.mp4,0\n1,1,90,90,.9,5,.6,.2,.3,.7,c.mp4,0\n1,1,9,9,.9,5,.7,.2,.3,.7,c.mp4,1\n",
        [[0.6, 0.2, 0.3, 0.7], [0.7, 0.2, 0.3, 0.7]],
        said=("several faces in a frame; the largest",),
    ),
    "py-feat-identities": one(
        "FaceRectX,FaceRectWidth,FaceRectHeight,FaceScore,AU01,Identity,frame\n"
        "1,90,90,.9,1,Person_0,0\n1,10,10,.9,2,Person_1,0\n1,10,10,.9,3,Person_1,1\n",
        [[2], [3]],
        said=("the person in most frames",),
    ),
    "libreface": one(
        f"{LIBREFACE}\n0,0.0,1,2,0,1,0.5,1.5,Happiness\n1,33.3,1,2,1,0,2.5,3.5,Neutral\n",
        [[0, 1, 0.5, 1.5], [1, 0, 2.5, 3.5]],
        [0, 0.0333],
        said=("LibreFace",),
        channels=["au_1", "au_2", "au_1_intensity", "au_2_intensity"],
    ),
    "smilextract": one(SMILE, [[1, 2], [1, 3]], [0, 0.01]),
    "name-and-time": one("name,timestamp,a\nc,0,1\nc,0.5,2\n", [[1], [2]], [0, 0.5], channels=["a"]),
    "opensmile": one(
        "file,start,end,F0\n/x/c.wav,0 days 00:00:00,0 days 00:00:01,5\n/x/c.wav,0 days 00:00:01,0 days 00:00:02,6\n",
        [[5], [6]],
        [0.5, 1.5],
    ),
}

ALL = "video,timestamp,a,b\nx/one.mp4,0,1,2\nx/one.mp4,1,3,4\nx/two.mp4,0,5,nan\nx/two.mp4,1,7,8\n"
ALL_VALUES = {"one": [[1, 2], [3, 4]], "two": [[5, 8], [7, 8]]}
MANY = {
    "one-table": Case(
        {"all.csv": ALL}, ALL_VALUES, {"two": [0, 1]}, said=("named by column 'video' (--id_column)",), source="all.csv"
    ),
    "one-table-by-option": Case(
        {"all.csv": ALL.replace("video", "who")}, ALL_VALUES, source="all.csv", options=("--id_column", "who")
    ),
    "one-row-a-clip": Case(
        {"all.csv": "id,a,b\n010,1,2\n10,3,4\nNA,5,6\n"},
        {"010": [[1, 2]], "10": [[3, 4]], "NA": [[5, 6]]},
        {"NA": [0]},
        source="all.csv",
    ),
    "one-bad-clip": Case(
        {"all.csv": "id,time,a\nx,0,1\nx,1,2\ny,1,1\ny,0,1\n"},
        {"x": [[1], [2]]},
        failed={"y": "the time in line 5 is not after the one before"},
        source="all.csv",
    ),
    "a-name-that-is-no-id": Case(
        {"all.csv": "id,time,a\nx,0,1\n,0,9\n..,0,9\nx,1,2\n"},
        {"x": [[1], [2]]},
        source="all.csv",
        said=("all.csv, line 3: its rows are left out: the id is empty", "all.csv, line 4"),
    ),
    "two-names-of-one-clip": Case(
        {"all.csv": "id,b\nx/1.mp4,2\ny/1.mp4,3\n2.mp4,4\n"},
        {"2": [[4]]},
        source="all.csv",
        failed={"1": "'x/1.mp4' and 'y/1.mp4' would both be clip '1'"},
    ),
    "scattered-rows": Case(
        {"all.csv": "id,time,a\nx,0,1\ny,0,5\nx,1,2\ny,1,6\n"}, {"x": [[1], [2]], "y": [[5], [6]]}, source="all.csv"
    ),
    "openface-of-all": Case(
        {
            "all.csv": "filename,"
            + OF.replace(" ", "")
            + "p,1,0,0,.9,1,0,1,0\np,2,0,0.04,.1,0,0,0,0\nq,1,0,0,.9,1,0,2,0\n"
        },
        {"p": [[1, 0], MASKED], "q": [[2, 0]]},
        source="all.csv",
    ),
    "npz-of-all": Case(
        {"all.npz": {"p": np.ones((2, 3)), "q": np.full((1, 3), 2.0)}},
        {"p": [[1] * 3] * 2, "q": [[2] * 3]},
        source="all.npz",
    ),
    "npz-with-ids": Case(
        {"all.npz": {"id": np.array(["v_1", "v_2"]), "video": np.arange(6.0).reshape(2, 3), "label": np.ones(2)}},
        {"v_1": [[0, 1, 2]], "v_2": [[3, 4, 5]]},
        source="all.npz",
        options=("--key", "video"),
    ),
}

VALUES = np.arange(1, 7.0).reshape(2, 3)
ROWS = VALUES.tolist()


def npy(array: np.ndarray) -> Case:
    return Case({"c.npy": array}, {"c": ROWS})


def half() -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.array([[1, 2, 3], [4, 1e6, 6]]).astype(np.float16)


def zeros(*shape: int, at: int) -> np.ndarray:
    array = np.full(shape, 1.5)
    array[at] = 0
    return array


WIDE = [1.5] * 8
ARRAYS = {
    "integers": npy(VALUES.astype(np.int64)),
    "bytes": npy(VALUES.astype(np.uint8)),
    "big-endian": npy(VALUES.astype(">f8")),
    "big-endian-integers": npy(VALUES.astype(">i2")),
    "fortran": npy(np.asfortranarray(VALUES)),
    "half": npy(VALUES.astype(np.float16)),
    "long": npy(VALUES.astype(np.longdouble)),
    "truth": Case({"c.npy": VALUES > 3}, {"c": [[0, 0, 0], [1, 1, 1]]}),
    "leading-ones": npy(VALUES[None, None]),
    "trailing-ones": npy(VALUES[:, :, None, None]),
    "ones-between": npy(VALUES[:, None]),
    "one-vector": Case({"c.npy": VALUES[0]}, {"c": [[1, 2, 3]]}),
    "one-channel": Case({"c.npy": np.ones((3, 1, 1))}, {"c": [[1]] * 3}),
    "half-that-overflowed": Case({"c.npy": half()}, {"c": [[1, 2, 3], [4, 2, 6]]}, said=("column 2 in 1 clips",)),
    "too-large": Case({"c.npy": np.array([[1.0, 5], [1e300, 6]])}, {"c": [[1, 5], [1, 6]]}, said=("no numbers",)),
    "no-token": Case({"a.npy": VALUES, "c.npy": np.zeros((0, 3))}, {"a": ROWS, "c": [MASKED]}),
    "zeros-of-many-channels": Case(
        {"c.npy": zeros(3, 8, at=1)}, {"c": [WIDE, MASKED, WIDE]}, said=("1 tokens of zeros only", "--zero_rows")
    ),
    "zeros-among-counts": Case({"c.npy": zeros(3, 8, at=1) * 2}, {"c": [[3.0] * 8, [0.0] * 8, [3.0] * 8]}),
    "zeros-kept": Case({"c.npy": zeros(3, 8, at=1)}, {"c": [WIDE, [0.0] * 8, WIDE]}, options=("--zero_rows", "keep")),
    "zeros-of-few-channels": Case({"c.npy": zeros(3, 3, at=1)}, {"c": [[1.5] * 3, [0] * 3, [1.5] * 3]}),
    "zeros-masked": Case(
        {"c.npy": zeros(3, 3, at=1)}, {"c": [[1.5] * 3, MASKED, [1.5] * 3]}, options=("--zero_rows", "mask")
    ),
    "zeros-of-a-whole-clip": Case({"a.npy": np.full(8, 1.5), "c.npy": np.zeros(8)}, {"a": [WIDE], "c": [MASKED]}),
    "zeros-with-a-mask-beside": Case(
        {"c.npy": zeros(3, 8, at=1), "mask/c.npy": np.array([True, True, False])}, {"c": [WIDE, [0.0] * 8, MASKED]}
    ),
    "times-beside": Case({"c.npy": VALUES, "time/c.npy": np.array([0.5, 1.5])}, {"c": ROWS}, {"c": [0.5, 1.5]}),
    "npz": Case({"c.npz": {"arr_0": VALUES}}, {"c": ROWS}),
    "npz-key": Case({"c.npz": {"a": VALUES, "b": VALUES * 2}}, {"c": ROWS}, options=("--key", "a")),
    "pt-dictionary": Case({"c.pt": {"features": torch.from_numpy(VALUES)}}, {"c": ROWS}),
    "pt-half": Case({"c.pt": torch.from_numpy(VALUES).to(torch.bfloat16)}, {"c": ROWS}),
    "pt-integers": Case({"c.pt": torch.from_numpy(VALUES).long()}, {"c": ROWS}),
    "objects": Case(
        {"a.npy": VALUES, "c.npy": np.array([[1, "x"]], object)}, {"a": ROWS}, failed={"c": "it holds Python objects"}
    ),
    "complex": Case({"a.npy": VALUES, "c.npy": VALUES + 1j}, {"a": ROWS}, failed={"c": "no single array of numbers"}),
    "turned": Case(
        {"a.npy": np.ones((5, 3)), "c.npy": np.ones((3, 4))},
        {"a": [[1] * 3] * 5},
        failed={"c": "4 channels, while the first file has 3 (are its axes turned?)"},
    ),
    "mertools": Case(
        {"c.npy": np.full(8, 1.5, np.float32), "d.npy": np.full(8, 1.5, np.float32)},
        {"c": [WIDE], "d": [WIDE]},
        command="audio",
    ),
    "video-features": Case(
        {"v_a_resnet.npy": VALUES, "v_a_fps.npy": np.array(25.0), "v_a_timestamps_ms.npy": np.array([40.0, 80.0])},
        {"v_a": ROWS},
        {"v_a": [0.04, 0.08]},
        said=("their names without _resnet are the clips'",),
    ),
    "video-features-by-key": Case(
        {"v_rgb.npy": VALUES, "v_flow.npy": VALUES * 2}, {"v": ROWS}, options=("--key", "rgb")
    ),
}


SUB = ("--subfolders",)
ALIKE = "file,timestamp,a,b\n{0}a/1.mp4,0,1,2\n{0}a/1.mp4,1,3,4\n{0}b/1.mp4,0,5,6\n{0}b/1.mp4,1,7,8\n"
ALIKE_VALUES = {"a_1": [[1, 2], [3, 4]], "b_1": [[5, 6], [7, 8]]}
# Names and paths in tables mean what they mean in a manifest.
NAMED = {
    "paths": Case({"all.csv": ALIKE.format("")}, ALIKE_VALUES, options=SUB, source="all.csv"),
    "paths-with-backslashes": Case(
        {"all.csv": ALIKE.format("").replace("/", "\\")}, ALIKE_VALUES, options=SUB, source="all.csv"
    ),
    "paths-by-another-separator": Case(
        {"all.csv": ALIKE.format("")}, {"a--1": [[1, 2], [3, 4]], "b--1": [[5, 6], [7, 8]]},
        options=(*SUB, "--id_separator=--"), source="all.csv",
    ),
    "paths-from-the-root": Case(
        {"all.csv": ALIKE.format("/data/v/")}, ALIKE_VALUES, options=SUB, source="all.csv",
        said=("their paths below /data/v/ being the ids",),
    ),
    "paths-from-a-drive": Case({"all.csv": ALIKE.format("C:/v/")}, ALIKE_VALUES, options=SUB, source="all.csv"),
    "paths-without-folders": Case(
        {"all.csv": "file,a,b\na/1.mp4,1,2\nb/1.mp4,3,4\nb/2.mp4,5,6\n"}, {"2": [[5, 6]]}, source="all.csv",
        failed={"1": "would both be clip '1' (--subfolders makes ids of paths)"},
        said=("without its folders (--subfolders makes them part of the ids)",),
    ),
    "opensmile-of-folders": Case(
        {"all.csv": "file,start,end,a,b\n/a/1.wav,0 days,0 days 00:00:02,1,2\n/b/1.wav,0 days,0 days 00:00:02,3,4\n"},
        {"a_1": [[1, 2]], "b_1": [[3, 4]]}, {"a_1": [1]}, options=SUB, source="all.csv", command="audio",
    ),
    "files-in-subfolders": Case(
        {
            "a/1.csv": HEAD + "1,0,1,2\n1,1,3,4\n", "a/2.csv": HEAD + "a_2,0,1,2\na_2,1,3,4\n",
            "b/1.csv": HEAD + "/v/b/1.mp4,0,5,6\n/v/b/1.mp4,1,7,8\n", "b/2.csv": HEAD + "a/2.mp4,0,1,2\n",
        },
        {"a_1": [[1, 2], [3, 4]], "a_2": [[1, 2], [3, 4]], "b_1": [[5, 6], [7, 8]]}, options=SUB,
        failed={"b_2": "line 2 is of clip 'a_2', not of 'b_2'"},
    ),
    "video-features-in-subfolders": Case(
        {
            f"{folder}/1_{kind}.npy": array
            for folder, k in (("a", 1), ("b", 2))
            for kind, array in (("rgb", VALUES * k), ("fps", np.array(25.0)), ("timestamps_ms", np.array([40, 80]) * k))
        },
        {"a_1": ROWS, "b_1": (VALUES * 2).tolist()}, {"a_1": [0.04, 0.08], "b_1": [0.08, 0.16]}, options=SUB,
    ),
    "archive-of-paths": Case(
        {"all.npz": {"a/1": VALUES, "b/1": VALUES * 2, ".x": VALUES}}, {"a_1": ROWS, "b_1": (VALUES * 2).tolist()},
        options=SUB, source="all.npz", said=("an array in it is left out: the id '.x'",),
    ),
    "archive-of-two-alike": Case(
        {"all.npz": {"a/1": VALUES, "b/1": VALUES * 2, "c": VALUES}}, {"c": ROWS}, source="all.npz",
        failed={"1": "several arrays in it would be clip '1'"},
    ),
    "parts-of-videos-joined": Case(
        {"all.csv": "video_id,clip_id,a\nA,1,1\nA,2,2\nB,1,3\n"}, {"1": [[1], [3]], "2": [[2]]},
        options=("--id_column", "clip_id"), source="all.csv",
    ),
    "parts-of-one-video-each": Case(
        {"all.csv": "video_id,clip_id,a\nA,A_1,1\nA,A_2,2\nB,B_1,3\n"}, {"A_1": [[1]], "A_2": [[2]], "B_1": [[3]]},
        source="all.csv",
    ),
}  # fmt: skip


def split(ids: Any, seed: int, **more: Any) -> dict[str, Any]:
    n = len(ids)
    part = {"id": ids, "vision": np.ones((n, 4, 2)), "audio": np.full((n, 4, 3), 2.0), "text": np.full((n, 4, 2), 3.0)}
    return {
        **part,
        "labels": np.zeros((n, 1, 1)),
        "regression_labels": np.zeros(n),
        "classification_labels": np.zeros(n, int),
        **more,
    }


def covarep() -> np.ndarray:
    audio = np.full((1, 4, 3), 2.0)
    audio[0, 1, 0] = -np.inf
    audio[0, 2] = 0
    audio[0, 3, 1] = 8
    return audio


PICKLES = {
    "mmsa-minus-infinity-and-zeros": Case(
        {"d.pkl": {"train": split(["a$_$1"], 0, audio=covarep())}},
        {"a_1": [[2, 2, 2], [2, 2, 2], MASKED, [2, 8, 2]]},
        source="d.pkl",
        command="audio",
        said=("cells in 1 of 3 columns", "1 tokens of zeros only"),
    ),
    "mmsa-lengths": Case(
        {"d.pkl": {"train": split(["a$_$1"], 0, audio_lengths=[2])}},
        {"a_1": [[2, 2, 2]] * 2},
        source="d.pkl",
        command="audio",
    ),
    "mmsa-lengths-as-an-array": Case(
        {"d.pkl": {"test": split(np.array(["a$_$1"]), 0, vision_lengths=np.array([3]))}},
        {"a_1": [[1, 1]] * 3},
        source="d.pkl",
    ),
    "mmsa-nothing-found": Case(
        {"d.pkl": {"train": split(["a$_$1", "b$_$1"], 0, vision=np.stack([np.ones((4, 2)), np.zeros((4, 2))]))}},
        {"a_1": [[1, 1]] * 4, "b_1": [MASKED]},
        source="d.pkl",
    ),
    "mmsa-all-lost": Case(
        {"d.pkl": {"train": split(["a$_$1"], 0, audio=np.stack([np.full((4, 3), -np.inf)]))}},
        {"a_1": [MASKED] * 4},
        source="d.pkl",
        command="audio",
        said=("MOST OF",),
    ),
    "mult": Case(
        {"mosi.pkl": {"train": split(np.array([["v1", "0.5", "1.5"], ["v1", "2", "3"]]), 0)}},
        {"v1_0.5_1.5": [[1, 1]] * 4, "v1_2_3": [[1, 1]] * 4},
        source="mosi.pkl",
    ),
    "mult-bytes": Case(
        {"mosi.pkl": {"train": split(np.array([[b"v1", b"0.5", b"1.5"]]), 0)}},
        {"v1_0.5_1.5": [[1, 1]] * 4},
        source="mosi.pkl",
    ),
    "mult-one-name": Case(
        {"mosi.pkl": {"train": split(np.array([["v1[3]"]]), 0)}}, {"v1[3]": [[1, 1]] * 4}, source="mosi.pkl"
    ),
    "mult-front-padding": Case(
        {"d.pkl": {"train": split(["a"], 0, vision=np.array([[[0, 0], [0, 0], [1, 2], [3, 4]]]))}},
        {"a": [[1, 2], [3, 4]]},
        source="d.pkl",
    ),
}

CASES = {
    f"{group}-{name}": case
    for group, cases in {
        "columns": COLUMNS,
        "separated": SEPARATED,
        "text": TEXTS,
        "refused": REFUSED,
        "layout": LAYOUTS,
        "openface": OPENFACE,
        "tool": TOOLS,
        "many": MANY,
        "array": ARRAYS,
        "pickle": PICKLES,
        "named": NAMED,
    }.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_values_of_files_that_others_made(tmp_path: Path, run: Run, name: str) -> None:
    check(tmp_path, run, CASES[name])


MISTAKES: dict[str, tuple[dict[str, Content], str, tuple[str, ...], str]] = {
    "mat": ({"c.mat": b"x"}, "", (), "MATLAB's files are not read"),
    "h5": ({"c.h5": b"x"}, "c.h5", (), "HDF5 is not read"),
    "csd": ({"c.csd": b"x"}, "", (), "CMU-MultimodalSDK's files are not read"),
    "arff": ({"c.arff": b"x"}, "", (), "-csvoutput"),
    "several-kinds": (
        {"v_rgb.npy": VALUES, "v_flow.npy": VALUES},
        "",
        (),
        "several kinds (flow, rgb); name one with --key",
    ),
    "no-ids-in-a-table": ({"all.csv": "a,b\n1,2\n"}, "all.csv", (), "no column names the clips"),
    "no-such-id-column": ({"all.csv": "id,b\n1,2\n"}, "all.csv", ("--id_column", "x"), "has no column 'x'"),
    "no-ids-in-a-pickle": ({"d.pkl": {"train": {"vision": np.ones((1, 2, 2))}}}, "d.pkl", (), "holds no ids"),
    "parts-of-videos": (
        {"all.csv": "video_id,clip_id,a\nA,1,1\nA,2,2\nB,1,3\n"},
        "all.csv",
        (),
        "column 'clip_id' does not name clips by itself, '1' is in 'A' and in 'B' of 'video_id'",
    ),
    "parts-of-dialogues": (
        {"all.csv": "Dialogue_ID,Utterance_ID,a\n0,0,1\n0,1,2\n1,0,3\n"},
        "all.csv",
        (),
        "column 'Utterance_ID' does not name clips by itself",
    ),
    "times-and-a-step": ({"c.csv": "time,a\n0,1\n1,2\n"}, "", ("--step_seconds", "1"), "have times of their own"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_not_read_says_so_in_one_line(tmp_path: Path, run: Run, name: str) -> None:
    files, source, options, said = MISTAKES[name]
    for file, content in files.items():
        write(tmp_path / "in" / file, content)
    outcome = run(
        "extract_visual_features",
        "--from_files",
        tmp_path / "in" / source,
        "--output_folder",
        tmp_path / "out",
        *options,
    )
    assert outcome.code == 2
    assert said in outcome.said
    assert "Traceback" not in outcome.said
    assert not (tmp_path / "out").exists()


def test_most_of_a_store_masked_is_said_loudly_and_by_status(tmp_path: Path, run: Run) -> None:
    """Two columns of 69 without numbers in 268 of 360 clips masked every token of these, and status said complete."""
    rng = np.random.default_rng(0)
    lines = ["File_ID,Split"]
    for number in range(36):
        values = rng.standard_normal((2, 69)).astype(np.float32)
        if number < 27:
            values[:, [3, 50]] = np.nan
        write(tmp_path / "in" / f"{number}.npy", values)
        lines.append(f"{number},Train")
    (tmp_path / "m.csv").write_text("\n".join(lines))
    status = ("status", "--csv_path", tmp_path / "m.csv", "--features")
    outcome = run("extract_visual_features", "--from_files", tmp_path / "in", "--output_folder", tmp_path / "filled")
    assert "108 cells in 2 of 69 columns are no numbers (column 4 in 27 clips, column 51 in 27 clips)" in outcome.said
    assert "MOST" not in outcome.said
    masked = ("--from_files", tmp_path / "in", "--output_folder", tmp_path / "masked", "--nan", "mask")
    outcome = run("extract_visual_features", *masked)
    assert (
        f"MOST OF {tmp_path / 'masked'} SAYS NOTHING: 54 of 72 tokens are masked (75.0%); 27 of 36 clips"
        in outcome.said
    )
    assert run(*status, f"visual={tmp_path / 'filled'}", n_workers=None).code == 0
    # A re-run with another rule is another store's.
    outcome = run("extract_visual_features", *masked[:-1], "zero")
    assert (outcome.code, "nan 'mask', not 'zero'" in outcome.said) == (2, True)


def test_workers_give_the_same(tmp_path: Path, run: Run) -> None:
    for number in range(3):
        write(tmp_path / "in" / f"{number}.csv", f"timestamp,a,b\n0,{number},nan\n1,2,3\n")
    for n_workers in (0, 2):
        out = tmp_path / str(n_workers)
        outcome = run(
            "extract_visual_features", "--from_files", tmp_path / "in", "--output_folder", out, n_workers=n_workers
        )
        assert "3 cells in 1 of 2 columns are no numbers (b in 3 clips)" in outcome.said
    for number in range(3):
        name = f"{number}.safetensors"
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def bomb() -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**27, 8)})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header.getvalue() + bytes(1 << 25))
    return packed.getvalue()


def lying() -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.npy", header.getvalue() + bytes(64))
    return packed.getvalue()


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb": (bomb, "would unpack to much more than it is"),
    "lying": (lying, "is not as long as it says"),
    "no-archive": (lambda: b"PK\x03\x04" + bytes(50), "cannot be read"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_archives_that_claim_too_much(tmp_path: Path, run: Run, name: str) -> None:
    make, said = HOSTILE[name]
    write(tmp_path / "in" / "a.npy", VALUES)
    (tmp_path / "in" / "c.npz").write_bytes(make())
    outcome = run("extract_visual_features", "--from_files", tmp_path / "in", "--output_folder", tmp_path / "out")
    assert outcome.code == 3
    assert said in read_failures(tmp_path / "out")[0].message
