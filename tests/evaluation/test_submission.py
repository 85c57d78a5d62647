from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from viper.errors import UserError
from viper.evaluation.submission import read_submission, submission_path, write_submission, write_timelines
from viper.manifest import Manifest
from viper.task import Task

TASK = Task(name="two", kind="regression", targets=("Fear", "Empathic-Pain"), range=(0.0, 1.0))
IDS = ["[10001]", 'a,b"c', "наука 表情", "0010", "9", "'quoted'"]


def predictions(n: int = len(IDS), dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(1).random((n, 2)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_keeps_ids_order_and_numbers(tmp_path: Path, dtype: type) -> None:
    predicted = predictions(dtype=dtype)
    predicted[0, 0] = 1e-7
    path = write_submission(tmp_path / "new" / "mine.csv", TASK, IDS, predicted)
    assert path == tmp_path / "new" / "mine.csv"
    table = read_submission(path, TASK)
    assert list(table.columns) == ["File_ID", "Fear", "Empathic-Pain"]
    assert list(table["File_ID"]) == IDS
    assert list(table.index) == ["10001", 'a,b"c', "наука 表情", "0010", "9", "quoted"]
    # Exactly the same numbers, in the precision they were given in.
    assert (table[list(TASK.targets)].to_numpy().astype(dtype) == predicted).all()
    assert "e-" not in path.read_text(encoding="utf-8")


def test_any_csv_reader_finds_the_ids_as_given(tmp_path: Path) -> None:
    path = write_submission(tmp_path / "s.csv", TASK, IDS, predictions())
    with path.open(encoding="utf-8", newline="") as file:
        assert [row["File_ID"] for row in csv.DictReader(file)] == IDS
    assert list(pd.read_csv(path, dtype=str)["File_ID"]) == IDS


def test_the_ids_of_a_manifest_come_back_as_it_spells_them(tmp_path: Path) -> None:
    source = tmp_path / "data_info.csv"
    source.write_text("File_ID,Split,Fear,Empathic-Pain\n[10001],Test,,\n[9],Test,,\n", encoding="utf-8")
    manifest = Manifest.load(source, TASK)
    path = write_submission(tmp_path / "s.csv", TASK, manifest.file_ids, np.array([[0.25, 0.5], [1.0, 0.0]]))
    assert path.read_text() == "File_ID,Fear,Empathic-Pain\n[10001],0.25,0.5\n[9],1.0,0.0\n"
    assert list(read_submission(path, TASK).index) == manifest.clips


def test_predictions_are_clipped_to_the_range_of_the_task(tmp_path: Path) -> None:
    predicted = np.array([[-0.2, 1.3], [-0.0, 0.5]], np.float32)
    path = write_submission(tmp_path / "s.csv", TASK, ["a", "b"], predicted)
    assert path.read_text().splitlines()[1:] == ["a,0.0,1.0", "b,0.0,0.5"]
    assert predicted[0, 1] == np.float32(1.3)  # the caller's array is left alone
    unbounded = Task(name="free", kind="regression", targets=TASK.targets)
    path = write_submission(tmp_path / "free.csv", unbounded, ["a", "b"], predicted)
    assert list(read_submission(path, unbounded).loc["a"]) == ["a", -0.2, 1.3]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_prediction_that_is_no_number_names_clip_and_target_and_writes_nothing(tmp_path: Path, value: float) -> None:
    predicted = predictions()
    predicted[1, 1] = value
    with pytest.raises(UserError, match=r"a,b\"c.*Empathic-Pain is -?(nan|inf)"):
        write_submission(tmp_path / "new" / "s.csv", TASK, IDS, predicted)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_older_submission_as_it_was(tmp_path: Path) -> None:
    path = write_submission(tmp_path / "s.csv", TASK, ["a"], np.zeros((1, 2)))
    before = path.read_bytes()
    with pytest.raises(UserError):
        write_submission(path, TASK, ["a"], np.full((1, 2), np.nan))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("repeated", ["b", "[b]"])
def test_a_clip_given_twice_is_named(tmp_path: Path, repeated: str) -> None:
    with pytest.raises(UserError, match=r"clip '\[?b\]?': given more than once"):
        write_submission(tmp_path / "s.csv", TASK, ["a", "b", repeated], predictions(3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("n_predictions", "message"),
    [(2, r"clip '\[7\]': no prediction \(4 clips, 2 predictions\)"), (5, r"5 predictions for 4 clips.*'d'")],
)
def test_every_clip_has_one_row(tmp_path: Path, n_predictions: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_submission(tmp_path / "s.csv", TASK, ["a", "b", "[7]", "d"], predictions(n_predictions))
    assert list(tmp_path.iterdir()) == []


def test_no_clips_and_wrong_number_of_targets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one clip"):
        write_submission(tmp_path / "s.csv", TASK, [], np.zeros((0, 2)))
    with pytest.raises(ValueError, match="2 targets"):
        write_submission(tmp_path / "s.csv", TASK, ["a"], np.zeros((1, 3)))


def test_where_a_submission_goes(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    assert submission_path(tmp_path) == tmp_path / "submission.csv"
    assert submission_path(tmp_path / "folder.csv") == tmp_path / "folder.csv" / "submission.csv"
    assert submission_path(tmp_path / "run_1") == tmp_path / "run_1" / "submission.csv"
    assert submission_path(tmp_path / "mine.CSV") == tmp_path / "mine.CSV"
    for refused in ("mine.txt", "file"):
        with pytest.raises(UserError, match=refused):
            submission_path(tmp_path / refused)


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists") as error:
        write_submission(tmp_path / "file" / "s.csv", TASK, ["a"], np.zeros((1, 2)))
    assert str(tmp_path / "file") in str(error.value.filename)


def test_columns_in_another_order_are_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("\ufeffEmpathic-Pain,File_ID,Fear\r\n0.5,a,0.25\r\n", encoding="utf-8")
    table = read_submission(path, TASK)
    assert list(table.loc["a"]) == ["a", 0.25, 0.5]
    assert list(table.columns) == list(TASK.submission_columns)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("File_ID,Fear\na,0.1\n", "the columns are File_ID, Fear; a submission to two has"),
        ("File_ID,Fear,Empathic-Pain,Age\na,0.1,0.2,3\n", "the columns are"),
        ("File_ID,Fear,Fear,Empathic-Pain\na,0.1,0.2,3\n", "the columns are"),
        ("File_ID,Fear,Empathic-Pain\n", "has no rows"),
        ("File_ID,Fear,Empathic-Pain\na,0.1\n", "line 2: 2 cells, where the header has 3"),
        ("File_ID,Fear,Empathic-Pain\na,0.1,0.2\n\n[a],0.1,0.2\n", "line 4: the id 'a' was already used in line 2"),
        ("File_ID,Fear,Empathic-Pain\n../b,0.1,0.2\n", "line 2: the id '../b' is not a path within a folder"),
        ("File_ID,Fear,Empathic-Pain\na,0.1,\n", "line 2: Empathic-Pain is '', not a number in"),
        ("File_ID,Fear,Empathic-Pain\na,nan,0.2\n", "line 2: Fear is 'nan'"),
        ("File_ID,Fear,Empathic-Pain\na,0.1,0.2\nb,1.2,0.2\n", r"line 3: Fear is '1.2', not a number in \[0, 1\]"),
        ('File_ID,Fear,Empathic-Pain\n"a,0.1,0.2\n', "cannot be read as CSV"),
    ],
)
def test_a_wrong_submission_is_refused_naming_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        read_submission(path, TASK)
    assert "theirs.csv" in str(error.value)


def test_a_missing_submission_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_submission(tmp_path / "none.csv", TASK)


def test_a_timeline_has_its_times_after_the_id_and_empty_cells_where_nothing_was_predicted(tmp_path: Path) -> None:
    predicted = np.array([[0.25, 0.5], [np.nan, np.nan]], np.float32)
    path = write_timelines(tmp_path, TASK, [("[1]", [(0.0, 1.0), (1.0, 1.5)], predicted)])
    assert path == tmp_path / "submission.csv"
    expected = ["File_ID,start,end,Fear,Empathic-Pain", "[1],0.000,1.000,0.25,0.5", "[1],1.000,1.500,,"]
    assert path.read_text().splitlines() == expected
