"""Features others made in CSV: whose rows, at which times, in which layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Run

from viper.engine.failures import read_failures
from viper.errors import ClipError
from viper.media.imports.files import read_table
from viper.media.imports.table import Table
from viper.store import FeatureStore


def read(folder: Path, text: str, name: str = "10001") -> Table:
    (folder / f"{name}.csv").write_text(text)
    return read_table(folder / f"{name}.csv")


def times_of(table: Table) -> list[float]:
    assert table.times is not None
    return [round(float(time), 6) for time in table.times]


# The challenges' organisers


@pytest.mark.parametrize(
    ("name", "cell"),
    [("10001", "10001"), ("10001", "[10001]"), ("0010", "0010"), ("0010", "'0010'"), ("NA", "NA"), ("1e3", "1e3")],
)
def test_the_id_of_every_row_is_the_files_name(tmp_path: Path, name: str, cell: str) -> None:
    table = read(tmp_path, f"File_ID,timestamp,a\n{cell},0,1\n{cell},250,2\n{cell},500,3\n", name)
    assert table.tokens.tolist() == [[1], [2], [3]]
    assert times_of(table) == [0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("File_ID,timestamp,a\n10001,0,1\n10002,250,1\n", "line 3 is of clip '10002', not of '10001'"),
        ("File_ID,timestamp,a\n[10002],0,1\n", r"line 2 is of clip '\[10002\]', not of '10001'"),
        ("timestamp,File_ID,a\n0,10001,1\n1,,1\n", "line 3 is of clip '', not of '10001'"),
        ("timestamp,File_ID,a\n0,010001,1\n", "line 2 is of clip '010001', not of '10001'"),
        (
            "File_ID,timestamp,a\n10001,0,1\n10001,250,1\n10001,250,1\n",
            "the time in line 4 is not after the one before",
        ),
        ("File_ID,timestamp,a\n10001,500,1\n10001,250,1\n", "the time in line 3 is not after the one before"),
        ("File_ID,timestamp,a\n10001,0,1\n10001,,1\n", "a time that is no number, in line 3"),
        ("File_ID,timestamp\n10001,0\n", "has no column of features beside id and time"),
    ],
)
def test_rows_of_another_clip_and_times_that_do_not_go_on_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ClipError, match=said) as error:
        read(tmp_path, text)
    assert str(error.value).startswith("10001.csv: ")


def test_segments_of_a_recording_are_no_clips(tmp_path: Path) -> None:
    table = read(tmp_path, "timestamp,segment_id,a\n0,1,1\n500,1,2\n1000,2,3\n")
    assert table.channels == ("a",)
    assert times_of(table) == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ("0 500 1000", [0, 0.5, 1]),
        ("0 0.5 1", [0, 0.5, 1]),
        ("0 10 20", [0, 0.01, 0.02]),  # the frames of sound are 10 ms apart
        ("0 2 4", [0, 2, 4]),
        ("250 500 1000 1250", [0.25, 0.5, 1, 1.25]),  # frames without a face are left out
        ("0", [0]),
        ("750", [0.75]),
        ("0.75", [0.75]),
    ],
)
def test_milliseconds_are_known_by_their_steps(tmp_path: Path, times: str, expected: list[float]) -> None:
    rows = [f"10001,{time},1" for time in times.split()]
    assert times_of(read(tmp_path, "\n".join(["File_ID,timestamp,a", *rows]))) == expected


def test_each_set_and_each_clip_has_its_own_steps(tmp_path: Path, run: Run) -> None:
    (tmp_path / "feats" / "FAUs").mkdir(parents=True)
    for name, n, step in (("[1]", 4, 250), ("2", 2, 500)):
        rows = [f"{name},{i * step},{i}.5,1" for i in range(n)]
        text = "\n".join(["File_ID,timestamp,AU1,AU2", *rows])
        (tmp_path / "feats" / "FAUs" / f"{name.strip('[]')}.csv").write_text(text)
    options = ["--from_csv", tmp_path / "feats" / "FAUs", "--output_folder", tmp_path / "out"]
    assert run("extract_FAU_features", *options).code == 0
    store = FeatureStore.open(tmp_path / "out")
    assert store.read("1").time.tolist() == [0, 0.25, 0.5, 0.75]
    assert store.read("2").time.tolist() == [0, 0.5]
    outcome = run("extract_FAU_features", *options, "--step_seconds", 0.5)
    assert (outcome.code, "the files have times of their own" in outcome.said) == (2, True)


# OpenFace


OPENFACE = """frame, face_id, timestamp, confidence, success, gaze_0_x, pose_Rx, AU01_r, AU28_c
1, 0, 0.000, 0.98, 1, 0.1, 0.5, 0.10, 0
2, 0, 0.033, 0.98, 1, 0.2, 0.6, 0.20, 1
3, 0, 0.067, 0.02, 0, 0.0, 0.0, 0.00, 0
"""


def test_other_columns_of_openface(tmp_path: Path, run: Run) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "10001.csv").write_text(OPENFACE)
    (tmp_path / "in" / "10002.csv").write_text("frame, success, AU01_r\n1, 1, 0.5\n")
    options = ["--from_files", tmp_path / "in", "--output_folder", tmp_path / "out", "--columns", "gaze", "pose_R"]
    assert run("extract_visual_features", *options).code == 3
    store = FeatureStore.open(tmp_path / "out")
    assert store.info.options["channels"] == ["gaze_0_x", "pose_Rx"]
    feature = store.read("10001")
    np.testing.assert_allclose(feature.tokens, [[0.1, 0.5], [0.2, 0.6], [0, 0]])
    assert feature.mask.tolist() == [True, True, False]
    assert "10002.csv: has no column that begins with gaze or pose_R" in read_failures(tmp_path / "out")[0].message


def test_a_pipeline_takes_the_columns_as_a_list(tmp_path: Path, run: Run) -> None:
    features = "features:\n  visual: {from_files: f, step_seconds: 0.5, columns: gaze}\n"
    (tmp_path / "data.yaml").write_text(f"csv_path: m.csv\nvideos: v\noutput: o\n{features}")
    outcome = run("pipeline", tmp_path / "data.yaml", n_workers=None)
    assert (outcome.code, "features.visual.columns must be a list, not 'gaze'" in outcome.said) == (2, True)


@pytest.mark.parametrize(
    "header", ["frame,timestamp,success,AU01_r", "frame, timestamp, success, AU01_r", "Frame,Timestamp,Success,AU01_r"]
)
def test_openface_headers(tmp_path: Path, header: str) -> None:
    table = read(tmp_path, f"{header}\n1,0,1,0.5\n2,0.04,0,0\n")
    assert (table.channels, table.mask.tolist(), times_of(table)) == (("AU01_r",), [True, False], [0, 0.04])


def test_openface_of_a_folder_of_pictures_has_no_times_but_frame_numbers(tmp_path: Path, run: Run) -> None:
    (tmp_path / "in").mkdir()
    text = OPENFACE.replace("0.033", "0.000").replace("0.067", "0.000").replace("\n3,", "\n5,")
    (tmp_path / "in" / "10001.csv").write_text(text)
    options = ["--from_csv", tmp_path / "in", "--output_folder", tmp_path / "out", "--step_seconds", "0.04"]
    outcome = run("extract_FAU_features", *options)
    assert "all its times are 0" in outcome.said
    feature = FeatureStore.open(tmp_path / "out").read("10001")
    np.testing.assert_allclose(feature.time, [0, 0.04, 0.16], atol=1e-6)
    assert feature.mask.tolist() == [True, True, False]


def test_times_of_openface_that_do_not_go_on_are_named(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="the time in line 4 is not after the one before it"):
        read(tmp_path, OPENFACE.replace("0.067", "0.033"))


# openSMILE


def test_low_level_descriptors_of_smilextract(tmp_path: Path) -> None:
    text = "name;frameTime;Loudness_sma3;F0_sma\n'unknown';0.000000;1.5e+00;-2\n'unknown';0.010000;nan;3\n"
    table = read(tmp_path, text)
    assert table.channels == ("Loudness_sma3", "F0_sma")
    assert table.tokens.tolist()[0] == [1.5, -2]
    assert np.isnan(table.tokens[1, 0])
    assert times_of(table) == [0, 0.01]


def test_functionals_of_windows_and_of_the_whole_file(tmp_path: Path) -> None:
    table = read(tmp_path, "name;frameIndex;frameTime;a\n'x.wav';0;0;1\n'x.wav';1;12.5;2\n")
    assert (table.channels, times_of(table)) == (("a",), [0, 12.5])  # seconds, however long the steps are
    table = read(tmp_path, "name;a;b\n'unknown';1;2\n")
    assert (table.channels, table.tokens.tolist(), times_of(table)) == (("a", "b"), [[1, 2]], [0])
    table = read(tmp_path, "frameTime;a\n0.5;1\n")
    assert (table.channels, times_of(table)) == (("a",), [0.5])


def test_two_names_are_two_clips(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="line 3 has another name than the lines above it"):
        read(tmp_path, "name;a\n'1.wav';1\n'2.wav';2\n")


PYTHON = """file,start,end,F0,loudness
/data/10001.wav,0 days 00:00:00,0 days 00:00:00.500000,1.0,2.0
/data/10001.wav,0 days 00:00:00.500000,0 days 00:00:01.500000,3.0,4.0
"""


def test_the_package_opensmile(tmp_path: Path) -> None:
    table = read(tmp_path, PYTHON)
    assert (table.channels, table.tokens.tolist()) == (("F0", "loudness"), [[1, 2], [3, 4]])
    assert times_of(table) == [0.25, 1]  # in the middle, as viper's own windows
    assert times_of(read(tmp_path, PYTHON.replace("/data/10001.wav,", "").replace("file,", ""))) == [0.25, 1]
    with pytest.raises(ClipError, match="line 3 is of clip '10002', not of '10001'"):
        read(tmp_path, PYTHON[::-1].replace("1000", "2000", 1)[::-1].replace("0002", "0002"))
    with pytest.raises(ClipError, match="a time that is no number, in line 2"):
        read(tmp_path, PYTHON.replace("0 days 00:00:00,0", "soon,0"))


def test_what_the_package_opensmile_writes(tmp_path: Path) -> None:
    opensmile = pytest.importorskip("opensmile")
    tone = np.sin(np.arange(16000) * 0.1).astype(np.float32)
    for level in (opensmile.FeatureLevel.LowLevelDescriptors, opensmile.FeatureLevel.Functionals):
        made = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, level).process_signal(tone, 16000)
        made.index = pd.MultiIndex.from_tuples([("a/10001.wav", *each) for each in made.index])
        made.index.names = ["file", "start", "end"]
        made.to_csv(tmp_path / "10001.csv")
        table = read_table(tmp_path / "10001.csv")
        np.testing.assert_allclose(table.tokens, made.to_numpy(np.float32), rtol=1e-6)
        assert table.channels == tuple(made.columns)
        assert table.times is not None
        assert len(table.times) == len(made)
        assert 0 <= table.times[0] < table.times[-1] + 1e-9 <= 1


def test_opensmile_files_become_audio_features(tmp_path: Path, run: Run) -> None:
    (tmp_path / "in").mkdir()
    for name in ("1", "2"):
        (tmp_path / "in" / f"{name}.csv").write_text("name;frameTime;a\n'unknown';0;1\n'unknown';0.5;2\n")
    assert run("extract_audio_features", "--from_files", tmp_path / "in", "--output_folder", tmp_path / "out").code == 0
    store = FeatureStore.open(tmp_path / "out")
    assert store.read("2").time.tolist() == [0, 0.5]
    assert store.read("2").tokens.tolist() == [[1], [2]]
