from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from viper.errors import UserError
from viper.manifest import Manifest, canonical_split, clip_id
from viper.task import Task

TASK = Task(name="two", kind="regression", targets=("Fear", "Joy"), range=(0.0, 1.0))
FREE = Task(name="free", kind="regression", targets=("Fear",))


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "data_info.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(folder: Path, text: str | bytes, task: Task = TASK) -> Manifest:
    return Manifest.load(write(folder, text), task)


def refusal(folder: Path, text: str | bytes, task: Task = TASK) -> str:
    """The one line a wrong manifest is refused with; it names the file."""
    path = write(folder, text)
    with pytest.raises(UserError) as error:
        Manifest.load(path, task)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


@pytest.mark.parametrize(
    ("spelled", "clip"),
    [
        ("[10001]", "10001"), ("10001", "10001"), ('"[10001]"', "10001"), ("['10001']", "10001"), (" [ 7 ] ", "7"),
        ("0010", "0010"), ("a.b.c", "a.b.c"), ("my clip (2)", "my clip (2)"), ("表情", "表情"), ("[a", "[a"),
        ("NA", "NA"), ("1e5", "1e5"), ("-1", "-1"), ("[]x", "[]x"),
    ],
)  # fmt: skip
def test_the_id_of_a_clip(spelled: str, clip: str) -> None:
    assert clip_id(spelled) == clip


@pytest.mark.parametrize(
    "spelled",
    ["", "  ", "[]", "['']", "../../x", "a/b", "a\\b", ".", "..", ".hidden", "[.hidden]", "a\x00b", "a\nb", "x" * 201,
     "é" * 101, "caf\udce9"],
)  # fmt: skip
def test_what_cannot_be_the_id_of_a_clip(spelled: str) -> None:
    with pytest.raises(UserError) as error:
        clip_id(spelled)
    str(error.value).encode()  # can be printed, whatever was in the name


def test_a_manifest_as_the_organisers_ship_it(tmp_path: Path) -> None:
    manifest = load(
        tmp_path,
        "File_ID,Split,Age,Fear,Joy\n[10002],Train,31,0.5,1\n[9],Val,NA,0,0.25\n[10001],Test,,,\n[0010],Train,,1,0\n",
    )
    assert manifest.clips == ["10002", "9", "10001", "0010"]  # the file's order and spelling, not a number's
    assert manifest.file_ids == ["[10002]", "[9]", "[10001]", "[0010]"]
    assert manifest.labels.dtype == np.float32
    np.testing.assert_array_equal(manifest.labels, [[0.5, 1], [0, 0.25], [np.nan, np.nan], [1, 0]])
    assert list(manifest.table["Age"]) == ["31", "NA", "", ""]  # further columns stay text


def test_a_manifest_without_any_label(tmp_path: Path) -> None:
    manifest = load(tmp_path, "File_ID,Split,Fear,Joy\n1,Test,,\n2,Test, ,\n")
    assert manifest.labels.dtype == np.float32
    assert np.isnan(manifest.labels).all()
    with pytest.raises(UserError, match="no row of the split Test has a label"):
        manifest.labelled()


def test_the_targets_come_in_the_order_of_the_card(tmp_path: Path) -> None:
    manifest = load(tmp_path, "Joy,Split,Fear,File_ID\n0.1,Train,0.9,a\n")
    np.testing.assert_allclose(manifest.labels, [[0.9, 0.1]])


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfFile_ID,Split,Fear,Joy\n[1],Train,0.5,1\n[2],Test,,\n",
        b"File_ID,Split,Fear,Joy\r\n[1],Train,0.5,1\r\n[2],Test,,\r\n",
        b'"File_ID","Split","Fear","Joy"\n"[1]","Train","0.5","1"\n"[2]","Test","",""\n',
        b"File_ID, Split, Fear, Joy\n [1], Train , 0.5 , 1 \n[2] , Test , , \n",
        b"File_ID ,Split ,Fear ,Joy \n[1],Train,0.5,1\n[2],Test,,\n",
        b"File_ID,Split,Fear,Joy\n[1],Train,0.5,1\n\n[2],Test,,\n\n",
        b"File_ID,Split,Fear,Joy\n[1],Train,0.5,1\n[2],Test,,",
        b"File_ID,Split,Fear,Joy,\n[1],Train,0.5,1,\n[2],Test,,,\n",
        b"File_ID,Split,Fear,Joy\n[1],Train,0.5,1\n[2],Test\n",
    ],
    ids=["bom", "crlf", "quotes", "spaces", "spaces-in-header", "blank-lines", "no-last-newline", "trailing-commas",
         "short-rows"],
)  # fmt: skip
def test_ways_of_writing_a_csv(tmp_path: Path, text: bytes) -> None:
    manifest = load(tmp_path, text)
    assert manifest.clips == ["1", "2"]
    assert list(manifest.table["Split"]) == ["Train", "Test"]
    np.testing.assert_array_equal(manifest.labels, [[0.5, 1], [np.nan, np.nan]])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("File_ID,Split,Fear,Joy\n1,Train,0,0\n[1],Val,0,0\n", ", line 3: the id '1'"),
        ("File_ID,Split,Fear,Joy\n1,Train,0,0\n,Val,0,0\n", ", line 3: the id is empty"),
        ("File_ID,Split,Fear,Joy\n1,Train,0,0\n[],Val,0,0\n", ", line 3: the id is empty"),
        ("File_ID,Split,Fear,Joy\n../../x,Train,0,0\n", ", line 2: the id '../../x'"),
        ("File_ID,Split,Fear,Joy\n1,Train,0,0\n2,Trian,0,0\n", ", line 3: the split 'Trian'"),
        ("File_ID,Split,Fear,Joy\n1,,0,0\n", ", line 2: the split ''"),
        ("File_ID,Split,Fear,Joy\n1\n", ", line 2: the split ''"),
        ("File_ID,Split,Fear,Joy\n1,Train,0,0\n2,Val,0,1.2\n", ", line 3: Joy is '1.2', not a number in [0, 1]"),
        ("File_ID,Split,Fear,Joy\n1,Train,0,-0.1\n", ", line 2: Joy is '-0.1', not a number in [0, 1]"),
        ("File_ID,Split,Fear,Joy\n1,Train,high,0\n", ", line 2: Fear is 'high', not a number in [0, 1]"),
        ("File_ID,Split,Fear,Joy\n1,Train,nan,0\n", ", line 2: Fear is 'nan', not a number in [0, 1]"),
        ('File_ID,Split,Fear,Joy\n1,Train,"0,5",0\n', ", line 2: Fear is '0,5', not a number in [0, 1]"),
        ("File_ID,Split,Fear,Joy\n\n1,Train,0,0\n\n\n2,Val,0,9\n", ", line 6: Joy is '9'"),
        ('File_ID,Split,Note,Fear,Joy\n1,Train,"two\nlines",0,0\n2,Val,,0,9\n', ", line 4: Joy is '9'"),
        ("File_ID,Split,Fear,Joy\n1,Train,0,0,0.5,7\n", ", line 2: 6 cells"),
        ("File_ID,Split,Fear\n1,Train,0\n", ": there is no column 'Joy'; the file has File_ID, Split, Fear"),
        ("File_ID,Split,Fear,Joy,Fear\n1,Train,0,0,1\n", ": the column 'Fear' appears twice"),
        ("File_ID;Split;Fear;Joy\n1;Train;0;0\n", ": there is no column 'File_ID'"),
        ("File_ID,Split,Fear,Joy\n", ": the manifest has no rows"),
        ("", ": the file is empty"),
        (b"File_ID,Split,Fear,Joy\ncaf\xe9,Train,0,0\n", ": cannot be read as CSV"),
        (b"PK\x03\x04\x00\x00\x00", ": "),
    ],
)  # fmt: skip
def test_a_wrong_manifest_is_refused_in_one_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert refusal(tmp_path, text).startswith(said)


@pytest.mark.parametrize("cell", ["inf", "-inf", "NaN", "x", "1 2", "True", "0x1F"])
def test_a_label_is_a_finite_number_even_without_a_range(tmp_path: Path, cell: str) -> None:
    assert "not a finite number" in refusal(tmp_path, f"File_ID,Split,Fear\n1,Train,{cell}\n", FREE)


def test_without_a_range_any_number_will_do(tmp_path: Path) -> None:
    manifest = load(tmp_path, "File_ID,Split,Fear\n1,Train,-1e3\n2,Train,7\n", FREE)
    np.testing.assert_array_equal(manifest.labels, [[-1000], [7]])


def test_a_manifest_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        Manifest.load(tmp_path / "none.csv", TASK)
    with pytest.raises(UserError, match=tmp_path.name):
        Manifest.load(tmp_path, TASK)


def test_the_columns_are_the_cards(tmp_path: Path) -> None:
    task = Task("own", "regression", ("v",), id_column="clip", split_column="part")
    manifest = load(tmp_path, "clip,part,v\n[3],dev,5\n", task)
    assert manifest.clips == ["3"]
    assert manifest.split("Val").file_ids == ["[3]"]


@pytest.mark.parametrize(
    ("spelled", "split"),
    [("Train", "Train"), ("train", "Train"), ("training", "Train"), ("VAL", "Val"), ("valid", "Val"), ("dev", "Val"),
     ("devel", "Val"), ("Validation", "Val"), (" test ", "Test")],
)  # fmt: skip
def test_the_spellings_of_a_split(spelled: str, split: str) -> None:
    assert canonical_split(spelled) == split


def test_splits_and_labelled_rows(tmp_path: Path) -> None:
    manifest = load(
        tmp_path, "File_ID,Split,Fear,Joy\n3,train,0,0\n1,devel,0.5,\n2,Training,,\n4,Train,1,1\n"
    )  # fmt: skip
    assert manifest.split("Train").clips == ["3", "2", "4"]
    assert manifest.split("Val").clips == ["1"]
    assert manifest.split("validation").clips == ["1"]
    assert manifest.split("Train").labelled().clips == ["3", "4"]
    assert manifest.labelled().clips == ["3", "1", "4"]  # one label of two is enough
    with pytest.raises(UserError, match=r"data_info\.csv: no row has the split 'Test'; there are Train, Val"):
        manifest.split("Test")
    with pytest.raises(UserError, match="'Tset'"):
        manifest.split("Tset")
