"""prepare: label files of every format to rows, what is left out and why, and every message a user can get."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from csv_files import rows_of

from viper.datasets import FORMATS, ReadOptions, read_labels
from viper.datasets.labels import Labels
from viper.errors import UserError
from viper.manifest import Manifest
from viper.task import load_task

VCE = load_task("vce").targets
HUME_HEADER = "File_ID,Split,Adoration,Amusement,Anxiety,Disgust,Empathic-Pain,Fear,Surprise,Age,Country"


def test_every_format_has_a_name_of_its_own_and_a_wrong_one_says_which_there_are(tmp_path: Path) -> None:
    names = [form.name for form in FORMATS]
    assert sorted(set(names)) == sorted(names)
    with pytest.raises(UserError, match=r"--format vce2: must be auto, hume, vce, .*, table"):
        _read("vce", tmp_path, format="vce2")


def _read(task: str, source: Path, **options: Any) -> Labels:
    return read_labels(load_task(task), source, ReadOptions(**options))


def _files(root: Path, *names: str) -> Path:
    """Empty files, for formats that look at names only."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def _json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _vce_entry(number: int, **changes: float) -> dict[str, Any]:
    emotions = dict.fromkeys(VCE, 0.0) | {"Joy": 0.5, "Fear": 0.25, "Anger": 0.125} | changes
    return {"emotions": emotions, "file": f"videos/{number:05d}.mp4", "topK": ["Joy", "Fear", "Anger"]}


def _vce(root: Path, train: Any, test: Any = None) -> Path:
    _json(root / "train_labels.json", train)
    _json(root / "test_labels.json", {"9": _vce_entry(9)} if test is None else test)
    return root


# --- Hume and plain CSV -------------------------------------------------------------------------------------------


def test_data_info_keeps_ids_splits_empty_labels_and_further_columns(run: Callable[..., Any], tmp_path: Path) -> None:
    source = tmp_path / "data_info.csv"
    source.write_text(
        f"{HUME_HEADER}\n[10001],Train,.1,.2,.3,.4,.5,.6,.7,30,China\n[10002],Val,0,0,0,0,0,0,1,31,\n"
        "[10003],Test,,,,,,,,22,South Africa\n"
    )
    said = run("prepare", "hume_reaction", "--source", tmp_path, "--output", tmp_path / "m.csv", n_workers=None)
    assert said.code == 0
    rows = rows_of(tmp_path / "m.csv")
    assert [row["File_ID"] for row in rows] == ["[10001]", "[10002]", "[10003]"]
    assert [row["Split"] for row in rows] == ["Train", "Val", "Test"]
    assert rows[0]["Empathic-Pain"] == ".5"
    assert rows[2]["Fear"] == ""
    assert rows[2]["Country"] == "South Africa"


def test_labels_and_partition_are_joined_by_id(tmp_path: Path) -> None:
    columns = HUME_HEADER.replace("Split,", "").replace(",Age,Country", "")
    (tmp_path / "labels.csv").write_text(f"{columns}\n[2],0,0,0,0,0,0,1\n[1],1,0,0,0,0,0,0\n")
    (tmp_path / "partition.csv").write_text("Id,Proposal\n1,train\n3,test\n2,devel\n")
    labels = _read("hume_reaction", tmp_path)
    assert {clip.id: clip.split for clip in labels.clips} == {"2": "Val", "1": "Train", "3": "Test"}
    assert {clip.id: clip.labels["Adoration"] for clip in labels.clips} == {"2": "0", "1": "1", "3": ""}
    (tmp_path / "partition.csv").write_text("Id,Proposal\n1,train\n3,test\n")
    with pytest.raises(UserError, match=r"labels\.csv, line 2: the id '2' is not in .*partition\.csv"):
        _read("hume_reaction", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1],Train,2,0,0,0,0,0,0,,", r"line 2: Adoration is '2', not a number in \[0, 1\]"),
        ("[1],Train,0,0,0,0,0,0,nan,,", r"line 2: Surprise is 'nan', not a number in \[0, 1\]"),
        ("[1],Holdout,0,0,0,0,0,0,0,,", "line 2: the split 'Holdout' must be Train, Val or Test"),
        ("[1],Train,0,0,0,0,0,0,0,,\n1,Val,0,0,0,0,0,0,0,,", "line 3: the id '1' was already used by .*line 2"),
        ("a/b,Train,0,0,0,0,0,0,0,,", "line 2: the id 'a/b' cannot name a file"),
        ("[1],Train,0,0,0,0,0,0,0,,\n2,,0,0,0,0,0,0,0,,", "line 3: has no split, but other clips do"),
        ("[1],Train,0,0,0,0,0,0,0,,,,9", "line 2: 13 cells, but the header has 11 columns"),
    ],
)
def test_wrong_rows_of_a_csv_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "data_info.csv").write_text(f"{HUME_HEADER}\n{text}\n")
    with pytest.raises(UserError, match=message):
        _read("hume_reaction", tmp_path)


def test_a_csv_of_paths_and_classes(tmp_path: Path) -> None:
    source = tmp_path / "list.csv"
    source.write_text("path,class,rater\nve8/Joy/1.mp4,joy,a\nve8/Fear/1.mp4,FEAR,b\nve8/Fear/2.mp4,Fear,b\n")
    labels = _read("ve8", source)
    assert [(clip.id, clip.labels["emotion"], clip.media) for clip in labels.clips] == [
        ("Joy_1", "Joy", "ve8/Joy/1.mp4"),
        ("Fear_1", "Fear", "ve8/Fear/1.mp4"),
        ("2", "Fear", "ve8/Fear/2.mp4"),
    ]
    assert labels.clips[0].extra == {"rater": "a"}
    source.write_text("path,class\n1.mp4,Boredom\n")
    with pytest.raises(UserError, match=r"list\.csv, line 2: 'Boredom' is not one of the classes Anger"):
        _read("ve8", source)
    source.write_text("path,score\n1.mp4,3\n")
    with pytest.raises(UserError, match=r"list\.csv: there is no column of classes .*the file has path, score"):
        _read("ve8", source)


# --- VCE ----------------------------------------------------------------------------------------------------------


def test_vce_takes_ids_from_files_and_seconds_from_the_metadata(tmp_path: Path) -> None:
    _vce(tmp_path, {"0": _vce_entry(7), "1": _vce_entry(8, Joy=0.0)})
    _json(tmp_path / "metadata.json", {"0": {"file": "videos/00007.mp4", "duration": "12.5", "height": 320}})
    labels = _read("vce", tmp_path)
    assert [(clip.id, clip.split, clip.media) for clip in labels.clips] == [
        ("00007", "Train", "videos/00007.mp4"),
        ("00008", "Train", "videos/00008.mp4"),
        ("00009", "Test", "videos/00009.mp4"),
    ]
    assert labels.clips[0].labels["Joy"] == "0.5"
    assert len(labels.clips[0].labels) == 27
    assert [clip.extra["duration"] for clip in labels.clips] == ["12.5", "", ""]
    assert any("1 clips' topK are not their highest" in note for note in labels.notes)
    assert any("lacks 2 clips, 00008 the first" in note for note in labels.notes)


def _without(entry: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != key}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"0": _vce_entry(0, Happiness=0.1)}, "train_labels.json, key '0': 'Happiness' is not one of the emotions"),
        ({"0": _vce_entry(0, Joy=1.5)}, r"key '0': Joy is 1.5, not a number in \[0, 1\]"),
        ({"0": _vce_entry(0, Joy=10**400)}, r"JSON \(1000.* is too large for a number"),
        ({"0": _vce_entry(0) | {"topK": ["Bliss"]}}, r"key '0': topK \['Bliss'\] must be a list of emotions"),
        ({"0": _vce_entry(0) | {"file": None}}, "key '0': file is None, not a path"),
        ({"0": _without(_vce_entry(0), "file")}, "key '0': the key 'file' is missing"),
        ({"0": _vce_entry(0) | {"emotions": {"Joy": 1}}}, "key '0': the emotion 'Admiration' is missing"),
        ({"0": _vce_entry(0) | {"emotions": [1]}}, "key '0', emotions: must be {emotion: number}, not list"),
        ({"0": _vce_entry(0), "1": _vce_entry(0)}, "key '1': the id '00000' was already used by .*key '0'"),
        ({"0": _vce_entry(9)}, "test_labels.json, key '9': the id '00009' was already used by .*train_labels"),
        ([_vce_entry(0)], "train_labels.json: must be a mapping from ids, not list"),
        ('{"0": 1, "0": 2}', r"train_labels.json: cannot be read as JSON \(the key '0' appears twice"),
        ('{"0": ', "train_labels.json: cannot be read as JSON"),
    ],
)
def test_wrong_vce_files_are_named(train: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        _read("vce", _vce(tmp_path, train))


def test_vce_numbers_may_be_spelled_as_text(tmp_path: Path) -> None:
    labels = _read("vce", _vce(tmp_path, {"0": _vce_entry(0, Joy="0.25")}))
    assert labels.clips[0].labels["Joy"] == "0.25"


# --- V2V ----------------------------------------------------------------------------------------------------------


def _v2v(root: Path, train: Any, test: Any = (), lists: Any = None) -> Path:
    _json(root / "train_labels.json", {"comparisons": train} if isinstance(train, list) else train)
    _json(root / "test_labels.json", {"comparisons": list(test)})
    if lists is not None:
        _json(root / "listwise_labels.json", lists)
    return root


def test_v2v_keeps_what_people_say_again_or_disagree_on_and_drops_crossing_pairs(tmp_path: Path) -> None:
    _v2v(
        tmp_path,
        [["01", "02"], ["02", "01"], ["01", "02"], ["02", "11"], ["03", "12"]],
        [["11", "12"]],
        [["21", "22", "23"], ["22", "21", "23", "24"]],
    )
    labels = _read("v2v", tmp_path)
    assert labels.orders == [
        ("01", "02"),
        ("02", "01"),
        ("01", "02"),
        ("11", "12"),
        ("21", "22", "23"),
        ("22", "21", "23", "24"),
    ]
    assert labels.dropped == {
        "comparisons of clips that are in different splits": ["02 < 11", "03 < 12"],
        "clips without a comparison": ["03"],
    }
    assert labels.notes == ["1 comparisons repeat an earlier one; each counts, as in the dataset's own scores"]
    assert {clip.id: clip.split for clip in labels.clips} == dict.fromkeys(["01", "02"], "Train") | dict.fromkeys(
        ["11", "12", "21", "22", "23", "24"], "Test"
    )
    lists_in_val = _read("v2v", tmp_path, lists_split="Val")
    assert {clip.split for clip in lists_in_val.clips if clip.id.startswith("2")} == {"Val"}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([["1"]], r"train_labels.json, comparison 1: \['1'\] is no list of two or more ids"),
        ([["1", "2"], ["3", None]], "comparison 2: .* is no list of two or more ids"),
        ([["1", "1"]], "comparison 1: .* names a clip twice"),
        ([["1", "a/b"]], "comparison 1: the id 'a/b' cannot name a file"),
        ({"comparisons": [], "more": []}, 'train_labels.json: must be {"comparisons"'),
        ([], "no clip is left"),
    ],
)
def test_wrong_comparisons_are_named(train: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        _read("v2v", _v2v(tmp_path, train))


def _prepare_v2v(run: Callable[..., Any], root: Path) -> tuple[Manifest, Any]:
    said = run(
        "prepare", "v2v", "--source", root, "--output", root / "m.csv", "--overwrite", "--val_share", "0.25",
        n_workers=None,
    )  # fmt: skip
    assert said.code == 0, said.said
    return Manifest.load(root / "m.csv", load_task("v2v")), said


def test_videos_that_are_compared_stay_in_one_split(run: Callable[..., Any], tmp_path: Path) -> None:
    chains = [[f"{k}a", f"{k}b"] for k in range(20)] + [[f"{k}b", f"{k}c"] for k in range(20)]
    manifest, said = _prepare_v2v(run, _v2v(tmp_path, chains, [["t1", "t2"]]))
    splits = dict(manifest.table["Split"])
    assert all(splits[f"{k}a"] == splits[f"{k}b"] == splits[f"{k}c"] for k in range(20))
    assert sum(split == "Val" for split in splits.values()) == 15
    assert len(manifest.orders) == 41
    assert "left out" not in said.said


def test_where_all_videos_hang_together_crossing_pairs_go(run: Callable[..., Any], tmp_path: Path) -> None:
    chain = [[f"{k:02d}", f"{k + 1:02d}"] for k in range(59)]
    manifest, said = _prepare_v2v(run, _v2v(tmp_path, chain, [["t1", "t2"]]))
    crossing = re.search(r"left out: (\d+) comparisons of clips that are in different splits", said.said)
    assert crossing is not None
    assert len(manifest.orders) == 60 - int(crossing[1])
    assert "60 of 60 Train clips are joined by comparisons: Val is made clip by clip" in said.said
    assert set(manifest.table["Split"]) == {"Train", "Val", "Test"}


# --- folders and file names ---------------------------------------------------------------------------------------


def test_a_folder_per_class_in_any_case_with_names_made_unique(tmp_path: Path) -> None:
    _files(tmp_path, "Joy/1.mp4", "joy/x/2.mp4", "FEAR/1.MP4", "notes/read.txt", "stray.mp4", "Fear/.hid.mp4")
    labels = _read("ve8", tmp_path)
    assert sorted((clip.id, clip.labels["emotion"]) for clip in labels.clips) == [
        ("2", "Joy"), ("Fear_1", "Fear"), ("Joy_1", "Joy"),
    ]  # fmt: skip
    assert labels.dropped == {"media files outside the classes' folders": ["stray.mp4"]}
    assert any(note.startswith("no clip is of the class Anger, ") for note in labels.notes)
    _files(tmp_path, "Boredom/1.mp4")
    with pytest.raises(UserError, match="Boredom: holds 1 media files, but 'Boredom' is not one of the classes"):
        _read("ve8", tmp_path)


def test_class_folders_below_split_folders(tmp_path: Path) -> None:
    _files(tmp_path, "train/anger/a.mp4", "test/joy/b.mp4", "validation/joy/c.mp4", "readme/x.txt")
    assert {clip.id: clip.split for clip in _read("yf6", tmp_path).clips} == {"a": "Train", "b": "Test", "c": "Val"}


def test_emoset_lists(tmp_path: Path) -> None:
    for split, name in (("train", "awe"), ("val", "fear"), ("test", "anger")):
        _json(tmp_path / f"{split}.json", [[name, f"image/{name}/{name}_1.jpg", "annotation/x.json"]])
    labels = _read("emoset", tmp_path)
    assert [(clip.id, clip.split, clip.labels["emotion"]) for clip in labels.clips] == [
        ("awe_1", "Train", "awe"), ("fear_1", "Val", "fear"), ("anger_1", "Test", "anger"),
    ]  # fmt: skip
    _json(tmp_path / "val.json", [["awe"]])
    with pytest.raises(UserError, match=r"val\.json, entry 1: .* is no \[class, path of the picture"):
        _read("emoset", tmp_path)


def test_ravdess_names_and_one_file_a_performance(tmp_path: Path) -> None:
    _files(
        tmp_path,
        "Actor_12/01-01-06-01-02-01-12.mp4", "Actor_12/02-01-06-01-02-01-12.mp4", "Actor_12/03-01-06-01-02-01-12.wav",
        "Actor_11/02-01-01-01-01-02-11.mp4", "Actor_11/03-02-05-02-01-02-11.wav", "Actor_11/intro.mp4",
    )  # fmt: skip
    labels = _read("ravdess", tmp_path)
    assert {clip.id for clip in labels.clips} == {
        "01-01-06-01-02-01-12", "02-01-01-01-01-02-11", "03-02-05-02-01-02-11",
    }  # fmt: skip
    first = next(clip for clip in labels.clips if clip.id.endswith("12"))
    assert first.labels == {"emotion": "fearful"}
    assert first.extra == {
        "actor": "12", "gender": "female", "modality": "full-av", "vocal_channel": "speech", "intensity": "normal",
        "statement": "dogs", "repetition": "1",
    }  # fmt: skip
    assert len(labels.dropped["further files of a performance (another modality)"]) == 2
    assert labels.dropped["files that are not named as RAVDESS names its own"] == ["intro.mp4"]
    sound = _read("ravdess", tmp_path, keep={"modality": "audio-only"})
    assert {clip.id[:2] for clip in sound.clips} == {"03"}
    assert len(sound.clips) == 2
    with pytest.raises(UserError, match="--keep modality=radio: no clip has that; there are audio-only, full-av"):
        _read("ravdess", tmp_path, keep={"modality": "radio"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("03-01-09-01-02-01-12.wav", "emotion 09 is not one of 01 \\(neutral\\)"),
        ("04-01-01-01-02-01-12.wav", "modality 04 is not one of"),
        ("03-01-01-01-02-01-25.wav", "actor 25 must be 01 to 24"),
    ],
)
def test_wrong_codes_of_ravdess_are_named(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{name}: {message}"):
        _read("ravdess", _files(tmp_path, name))


def test_emodb_names(tmp_path: Path) -> None:
    labels = _read("emodb", _files(tmp_path, "wav/03a01Fa.wav", "wav/16b10Wb.wav", "wav/silence.wav", "erkennung.txt"))
    assert [(c.id, c.labels["emotion"], c.extra) for c in labels.clips] == [
        ("03a01Fa", "joy", {"speaker": "03", "gender": "male", "text": "a01", "version": "a"}),
        ("16b10Wb", "anger", {"speaker": "16", "gender": "female", "text": "b10", "version": "b"}),
    ]
    with pytest.raises(UserError, match=r"03a01Xa\.wav: the emotion 'X' is not one of W, L, E"):
        _read("emodb", _files(tmp_path, "wav/03a01Xa.wav"))


def test_the_real_emodb(run: Callable[..., Any], tmp_path: Path) -> None:
    folder = Path(__file__).parents[3] / "shared" / "data" / "emodb"
    if not folder.is_dir():
        pytest.skip(f"{folder.name}: the data for measuring is not there")
    said = run(
        "prepare", "emodb", "--source", folder, "--output", tmp_path / "m.csv", "--test_groups", "03", "--val_groups",
        "08", n_workers=None,
    )  # fmt: skip
    assert said.code == 0
    table = Manifest.load(tmp_path / "m.csv", load_task("emodb")).table
    counts = table["emotion"].value_counts().to_dict()
    assert counts == {"anger": 127, "boredom": 81, "neutral": 79, "joy": 71, "fear": 69, "sadness": 62, "disgust": 46}
    assert set(table[table.Split == "Test"].speaker) == {"03"}
    assert set(table[table.Split == "Val"].speaker) == {"08"}
    assert table[table.Split == "Train"].speaker.nunique() == 8


# --- words, MOSI --------------------------------------------------------------------------------------------------


def test_words_become_labels_and_the_rest_is_counted(tmp_path: Path) -> None:
    source = _json(
        tmp_path / "e.json",
        {
            "tt1/scene_1": ["Happy", "calm ", "melancholic"],
            "tt1/scene_2": ["melancholic"],
            "tt2_scene": {"emotions": ["worried"], "movie": "Jaws", "seconds": 3},
            "tt3_x": [],
        },
    )
    labels = _read("moviegraphs_top10", source)
    by_id = {clip.id: clip for clip in labels.clips}
    assert list(by_id) == ["tt1_scene_1", "tt1_scene_2", "tt2_scene"]
    assert [name for name, value in by_id["tt1_scene_1"].labels.items() if value == "1"] == ["happy", "calm"]
    assert set(by_id["tt1_scene_2"].labels.values()) == {"0"}
    assert [clip.extra["movie"] for clip in labels.clips] == ["tt1", "tt1", "Jaws"]
    assert by_id["tt2_scene"].extra["seconds"] == "3"
    assert labels.dropped == {
        "words that are none of the targets": ["melancholic", "melancholic"],
        "no word at all": ["tt3_x"],
    }
    assert any("in 2 ids a `/` became `_`" in note for note in labels.notes)


def test_classes_say_which_words_they_are_made_of(tmp_path: Path) -> None:
    source = tmp_path / "e.csv"
    source.write_text("clip,emotions\nm1/1.mp4,joyful; in love\nm2_2,grief;Peace\n")
    classes = _json(tmp_path / "c.json", {"Happiness": ["joyful"], "affection": ["in  love"], "Sadness": ["grief"]})
    labels = _read("emotic", source, classes=classes)
    there = [{name for name, value in clip.labels.items() if value == "1"} for clip in labels.clips]
    assert there == [{"Happiness", "Affection"}, {"Sadness", "Peace"}]
    assert [(clip.id, clip.extra["movie"]) for clip in labels.clips] == [("m1_1", "m1"), ("m2_2", "m2")]
    _json(classes, {"Bliss": ["joyful"]})
    with pytest.raises(UserError, match=r"c\.json, key 'Bliss': is not one of the targets Affection"):
        _read("emotic", source, classes=classes)
    with pytest.raises(UserError, match="--classes: is for multi_label tasks, and vce is one of regression"):
        _read("vce", _vce(tmp_path, {"0": _vce_entry(0)}), classes=classes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": "happy"}, "key 'a': must be a list of words, not 'happy'"),
        ({"a": {"mood": ["happy"]}}, "key 'a': the key 'emotions' is missing"),
        ({"a": {"emotions": ["happy"], "split": "some"}}, "key 'a': the split 'some' must be Train, Val or Test"),
        ({"a": {"emotions": ["happy"], "split": "test"}, "b": ["calm"]}, "key 'b': has no split, but other clips do"),
        ({"a/b": ["happy"], "a_b": ["calm"]}, "key 'a_b': the id 'a_b' was already used by .*key 'a/b'"),
        ([["happy"]], "must be {clip: \\[words\\]}"),
    ],
)
def test_wrong_files_of_words_are_named(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        _read("moviegraphs_top10", _json(tmp_path / "e.json", content))


def test_mosi_from_csv_and_from_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "label.csv").write_text(
        "video_id,clip_id,text,label,label_T,annotation,mode\n-3g5yACwYnA,10,A,2.4,,Positive,train\n"
        "-3g5yACwYnA,3,B,-0.8,,Negative,train\n_dI--eQ6qVU,1,C,0,,Neutral,valid\n"
    )
    from_csv = _read("mosi", tmp_path)
    assert [(c.id, c.split, c.labels["sentiment"], c.extra["video"], c.media) for c in from_csv.clips] == [
        ("-3g5yACwYnA_10", "Train", "2.4", "-3g5yACwYnA", "Raw/-3g5yACwYnA/10.mp4"),
        ("-3g5yACwYnA_3", "Train", "-0.8", "-3g5yACwYnA", "Raw/-3g5yACwYnA/3.mp4"),
        ("_dI--eQ6qVU_1", "Val", "0", "_dI--eQ6qVU", "Raw/_dI--eQ6qVU/1.mp4"),
    ]
    assert from_csv.clips[0].extra["text"] == "A"
    pickled = {
        "train": {
            "id": ["-3g5yACwYnA$_$10", "-3g5yACwYnA$_$3"],
            "regression_labels": np.array([2.4, -0.8], np.float32),
        },
        "valid": {"id": ["_dI--eQ6qVU$_$1"], "regression_labels": np.array([0.0])},
    }
    (tmp_path / "mosi.pkl").write_bytes(pickle.dumps(pickled))
    from_pickle = _read("mosi", tmp_path / "mosi.pkl")
    assert [(c.id, c.split, float(c.labels["sentiment"])) for c in from_pickle.clips] == [
        (c.id, c.split, float(c.labels["sentiment"])) for c in from_csv.clips
    ]
    (tmp_path / "label.csv").write_text("video_id,clip_id,label,mode\nv,1,3.5,train\n")
    with pytest.raises(UserError, match=r"label\.csv, line 2: sentiment is '3\.5', not a number in \[-3, 3\]"):
        _read("mosi", tmp_path)


def test_a_format_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--format v2v: is for preference tasks, and vce is one of regression"):
        _read("vce", _vce(tmp_path, {"0": _vce_entry(0)}), format="v2v")
    with pytest.raises(UserError, match="give the JSON or CSV of labels itself"):
        _read("moviegraphs_top10", tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        _read("vce", tmp_path / "nowhere")
