"""Features others made, brought into a store: OpenFace and organisers' CSV, .npy, .pt."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from conftest import Run

from viper.engine.failures import read_failures
from viper.errors import ClipError
from viper.media.imports.files import read_table
from viper.media.imports.gaps import without_gaps
from viper.store import FeatureStore


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


OPENFACE = """frame, face_id, timestamp, confidence, success, pose_Tx, AU01_r, AU12_r, AU28_c
1, 0, 0.000, 0.98, 1, 5.0, 0.10, 1.50, 0
2, 0, 0.040, 0.98, 1, 5.0, 0.20, 2.50, 1
3, 0, 0.080, 0.02, 0, 0.0, 0.00, 0.00, 0
4, 0, 0.120, 0.97, 1, 5.0, 0.40, nan, 0
"""


def test_openface_gives_its_action_units_its_times_and_its_success_as_the_mask(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "clip.csv", OPENFACE))
    assert table.channels == ("AU01_r", "AU12_r", "AU28_c")
    np.testing.assert_allclose(table.tokens[:2], [[0.1, 1.5, 0], [0.2, 2.5, 1]], atol=1e-6)
    assert table.mask.tolist() == [True, True, False, True]
    assert table.times is not None
    np.testing.assert_allclose(table.times, [0, 0.04, 0.08, 0.12])


def test_of_several_people_in_an_openface_file_the_one_seen_best_is_taken(tmp_path: Path) -> None:
    rows = ["frame,face_id,timestamp,confidence,success,AU01_r,AU02_r"]
    for frame in range(4):
        rows.append(f"{frame},0,{frame / 10},0.30,1,0,0")
        rows.append(f"{frame},1,{frame / 10},0.95,1,{frame},1")
    table = read_table(write(tmp_path / "clip.csv", "\n".join(rows)))
    assert table.tokens.tolist() == [[0, 1], [1, 1], [2, 1], [3, 1]]
    assert table.times is not None
    np.testing.assert_allclose(table.times, [0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("File_ID,timestamp,AU1,AU2", "[clip],{t},{i},1"),
        ("timestamp,segment_id,AU1,AU2", "{t},3,{i},1"),
        ("id,time,AU1,AU2", "clip,{t},{i},1"),
    ],
)
def test_the_organisers_first_two_columns_are_id_and_time_and_no_features(
    tmp_path: Path, header: str, row: str
) -> None:
    rows = [row.format(t=i * 250, i=i) for i in range(4)]
    table = read_table(write(tmp_path / "clip.csv", "\n".join([header, *rows])))
    assert table.channels == ("AU1", "AU2")
    assert table.tokens.tolist() == [[0, 1], [1, 1], [2, 1], [3, 1]]
    assert table.times is not None
    np.testing.assert_allclose(table.times, np.arange(4) / 4)  # they were milliseconds


def test_times_in_seconds_stay_seconds(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "clip.csv", "id,time,a\nclip,0,1\nclip,0.5,2\nclip,1.0,3\n"))
    assert table.times is not None
    np.testing.assert_allclose(table.times, [0, 0.5, 1])


@pytest.mark.parametrize(
    ("shape", "expected"), [((4, 3), (4, 3)), ((1, 4, 3), (4, 3)), ((1, 1, 4, 3), (4, 3)), ((3,), (1, 3))]
)
@pytest.mark.parametrize("suffix", [".npy", ".pt", ".NPY", ".PT"])
def test_arrays_in_the_shapes_the_published_scripts_wrote(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...], suffix: str
) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    path = tmp_path / f"clip{suffix}"
    with path.open("wb") as file:
        if suffix.lower() == ".npy":
            np.save(file, values)
        else:
            torch.save(torch.from_numpy(values).requires_grad_(), file)
    table = read_table(path)
    assert table.tokens.shape == expected
    np.testing.assert_array_equal(table.tokens, values.reshape(expected))
    assert table.tokens.dtype == np.float32
    assert table.times is None
    assert table.mask.all()


def test_half_precision_and_rows_that_are_not_numbers(tmp_path: Path) -> None:
    torch.save(torch.tensor([[1.5, 2.0], [float("nan"), 1.0]], dtype=torch.bfloat16), tmp_path / "clip.pt")
    table = read_table(tmp_path / "clip.pt")
    assert table.tokens[0].tolist() == [1.5, 2.0]
    assert without_gaps(table, "mask")[0].mask.tolist() == [True, False]
    assert without_gaps(table)[0].tokens.tolist() == [[1.5, 2.0], [1.5, 1.0]]


@pytest.mark.parametrize("name", ["clip.pt", "clip.pth"])
def test_a_pickled_object_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    marker = checkpoints.write_malicious(tmp_path / name)
    with pytest.raises(ClipError, match="refused, it is damaged or holds more than a plain tensor") as error:
        read_table(tmp_path / name)
    assert "weights_only" not in str(error.value)  # torch's advice is to let it run
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("zero.pt", b"", "is empty"),
        ("zero.npy", b"", "cannot be read"),
        ("zero.csv", b"", "cannot be read as CSV"),
        ("garbage.pt", b"garbage " * 20, "garbage.pt"),
        ("garbage.npy", b"garbage " * 20, "cannot be read"),
        ("binary.csv", bytes(range(128, 256)), "cannot be read as CSV"),
        ("narrow.csv", b"id,time\nnarrow,1\n", "has no column of features beside id and time"),
        ("bare.csv", b"id,time,a\n", "has no row of features"),
        ("words.csv", b"id,time,a\nwords,0,happy\n", "a cell that is no number"),
        ("plain.csv", b"frame,success,x\n1,1,2\n", "without AU columns"),
    ],
)
def test_a_file_that_is_no_table_is_one_line_naming_it(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ClipError) as error:
        read_table(tmp_path / name)
    assert message in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_objects_in_arrays_and_dictionaries_of_tensors_are_refused(tmp_path: Path) -> None:
    marker = tmp_path / "objects.npy.ran"
    np.save(tmp_path / "objects.npy", np.array([checkpoints.Payload(marker)], dtype=object), allow_pickle=True)
    torch.save({"feature": torch.zeros(2, 3), "label": torch.zeros(1)}, tmp_path / "dictionary.pt")
    np.save(tmp_path / "words.npy", np.array([["happy"]]))
    np.save(tmp_path / "deep.npy", np.zeros((2, 3, 4)))
    for name in ("objects.npy", "dictionary.pt", "words.npy", "deep.npy"):
        with pytest.raises(ClipError, match=name):
            read_table(tmp_path / name)
    assert not marker.exists()


def test_from_csv_brings_openface_files_into_a_store(tmp_path: Path, run: Run) -> None:
    for name in ("2", "10"):
        write(tmp_path / "csv" / f"{name}.csv", OPENFACE)
    write(tmp_path / "csv" / "readme.txt", "not a feature")
    options = ["--from_csv", tmp_path / "csv", "--output_folder", tmp_path / "out"]
    outcome = run("extract_FAU_features", *options)
    assert outcome.code == 0, outcome.said
    store = FeatureStore.open(tmp_path / "out")
    assert store.clips() == ["2", "10"]
    assert (store.info.encoder, store.info.modality, store.info.source) == ("imported", "FAU", "files")
    assert store.info.options["channels"] == ["AU01_r", "AU12_r", "AU28_c"]
    feature = store.read("10")
    assert feature.mask.tolist() == [True, True, False, True]
    # The cell without a number has the mean of its column in the frames with a face.
    np.testing.assert_allclose(feature.tokens, [[0.1, 1.5, 0], [0.2, 2.5, 1], [0, 0, 0], [0.4, 2.0, 0]], atol=1e-6)
    np.testing.assert_allclose(feature.time, [0, 0.04, 0.08, 0.12], atol=1e-6)
    assert "2 already there" in run("extract_FAU_features", *options).said


@pytest.mark.parametrize("command", ["visual", "audio", "textual"])
def test_from_files_brings_the_published_scripts_tensors_into_a_store(tmp_path: Path, run: Run, command: str) -> None:
    (tmp_path / "old").mkdir()
    tokens = torch.randn(5, 4)
    torch.save(tokens, tmp_path / "old" / "[10001].pt")
    outcome = run(f"extract_{command}_features", "--from_files", tmp_path / "old", "--output_folder", tmp_path / "out")
    assert outcome.code == 0, outcome.said
    store = FeatureStore.open(tmp_path / "out")
    assert (store.info.modality, store.clips()) == (command, ["10001"])
    np.testing.assert_array_equal(store.read("10001").tokens, tokens.numpy())


def test_a_file_of_another_width_fails_alone_and_leaves_the_list_when_it_is_fixed(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    for name, width in (("1", 4), ("2", 5), ("3", 4)):
        np.save(folder / f"{name}.npy", np.ones((3, width)))
    marker = checkpoints.write_malicious(folder / "4.pt")
    options = ["--from_files", folder, "--output_folder", tmp_path / "out"]
    outcome = run("extract_visual_features", *options)
    assert outcome.code == 3
    failures = read_failures(tmp_path / "out")
    assert [(row.clip, row.stage, row.error) for row in failures] == [
        ("2", "extract_visual_features", "ClipError"),
        ("4", "extract_visual_features", "ClipError"),
    ]
    assert "5 channels, while the first file has 4" in failures[0].message
    assert "4.pt: refused" in failures[1].message
    assert not marker.exists()
    assert FeatureStore.open(tmp_path / "out").clips() == ["1", "3"]

    np.save(folder / "2.npy", np.ones((3, 4)))
    (folder / "4.pt").unlink()
    np.save(folder / "4.npy", np.ones((2, 4)))
    outcome = run("extract_visual_features", *options)
    assert outcome.code == 0
    assert "2 done, 2 already there, 0 failed" in outcome.said
    assert not (tmp_path / "out" / "failures.csv").exists()


def test_a_csv_with_the_same_number_of_other_channels_fails(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "csv" / "1.csv", "id,time,AU1,AU2\n1,0,1,2\n")
    write(tmp_path / "csv" / "2.csv", "id,time,AU2,AU1\n2,0,2,1\n")
    assert run("extract_FAU_features", "--from_csv", tmp_path / "csv", "--output_folder", tmp_path / "out").code == 3
    assert FeatureStore.open(tmp_path / "out").clips() == ["1"]
    assert "other names, or another order" in read_failures(tmp_path / "out")[0].message


def test_the_first_file_that_can_be_read_settles_the_channels(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "csv" / "1.csv", "nothing,usable\n")
    write(tmp_path / "csv" / "2.csv", "id,time,AU1,AU2\n2,0,1,2\n")
    assert run("extract_FAU_features", "--from_csv", tmp_path / "csv", "--output_folder", tmp_path / "out").code == 3
    assert FeatureStore.open(tmp_path / "out").info.options["channels"] == ["AU1", "AU2"]


def test_nothing_that_can_be_read_is_exit_code_2_and_no_store(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "csv" / "1.csv", "nothing,usable\n")
    outcome = run("extract_FAU_features", "--from_csv", tmp_path / "csv", "--output_folder", tmp_path / "out")
    assert outcome.code == 2
    assert "none of the features' files can be read" in outcome.said
    assert not (tmp_path / "out").exists()


def test_columns_without_numbers_are_filled_and_most_masked_is_said_loudly(tmp_path: Path, run: Run) -> None:
    (tmp_path / "in").mkdir()
    for number in range(4):
        values = np.arange(20.0).reshape(2, 10)
        values[:, 3] = np.nan if number else 3
        np.save(tmp_path / "in" / f"{number}.npy", values)
    options = ["--from_files", tmp_path / "in", "--output_folder"]
    outcome = run("extract_visual_features", *options, tmp_path / "filled")
    assert "6 cells in 1 of 10 columns are no numbers (column 4 in 3 clips); they are filled" in outcome.said
    assert "MOST" not in outcome.said
    np.testing.assert_array_equal(
        FeatureStore.open(tmp_path / "filled").read("1").tokens[1], [*range(10, 13), 0, *range(14, 20)]
    )
    outcome = run("extract_visual_features", *options, tmp_path / "masked", "--nan", "mask")
    assert "SAYS NOTHING: 6 of 8 tokens are masked (75.0%); 3 of 4 clips are masked completely" in outcome.said
    (tmp_path / "m.csv").write_text("File_ID,Split\n0,Train\n1,Train\n2,Train\n3,Train\n")
    outcome = run(
        "status", "--csv_path", tmp_path / "m.csv", "--features", f"visual={tmp_path / 'masked'}", n_workers=None
    )
    assert outcome.code == 0
