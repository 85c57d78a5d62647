"""prepare: splits that have to be made, links to media, the YAML for viper pipeline, what it says and refuses."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from viper.commands.pipeline_plan import read_plan
from viper.datasets import clip_files
from viper.datasets.labels import Clip
from viper.datasets.splits import SplitOptions, crossing_groups, make_splits
from viper.errors import UserError
from viper.manifest import Manifest
from viper.task import load_task

CARD = "name: mine\nkind: regression\ntargets: [tense]\ngroup_column: subject\n"


@pytest.fixture
def prepare(run: Callable[..., Any]) -> Callable[..., Any]:
    """`prepare(task, source, output, *options)`."""

    def call(task: Any, source: Path, output: Path, *options: Any) -> Any:
        return run("prepare", task, "--source", source, "--output", output, *options, n_workers=None)

    return call


def _clips(sizes: dict[str, int], split: str | None = None) -> tuple[list[Clip], dict[str, str]]:
    """Clips <group>_<n>, and which group each is of."""
    clips = [Clip(f"{group}_{n}", "row", split=split) for group, size in sizes.items() for n in range(size)]
    return clips, {clip.id: clip.id.split("_")[0] for clip in clips}


def _made(clips: list[Clip]) -> dict[str, str | None]:
    return {clip.id: clip.split for clip in clips}


# --- splits -------------------------------------------------------------------------------------------------------


def test_made_splits_never_part_a_group_and_come_near_their_shares() -> None:
    sizes = {f"s{k}": 5 + 7 * k % 11 for k in range(30)}
    for seed in range(10):
        clips, groups = _clips(sizes)
        report = make_splits(clips, groups, SplitOptions(0.2, 0.1, seed))
        assert crossing_groups(clips, groups) == []
        counts = Counter(clip.split for clip in clips)
        assert abs(counts["Val"] / len(clips) - 0.2) < 0.03
        assert abs(counts["Test"] / len(clips) - 0.1) < 0.03
        assert sorted(group for part in report.groups.values() for group in part) == sorted(sizes)


def test_made_splits_depend_on_the_seed_but_not_on_the_order_of_rows() -> None:
    sizes = {f"s{k}": 3 + k % 4 for k in range(20)}
    results = []
    for seed in (0, 0, 1):
        clips, groups = _clips(sizes)
        random.Random(len(results)).shuffle(clips)
        make_splits(clips, groups, SplitOptions(seed=seed))
        results.append(_made(clips))
    assert results[0] == results[1] != results[2]


def test_one_more_group_moves_few_others() -> None:
    sizes = {f"s{k}": 5 for k in range(40)}
    before, groups = _clips(sizes)
    make_splits(before, groups, SplitOptions())
    after, groups = _clips({**sizes, "new": 5})
    make_splits(after, groups, SplitOptions())
    moved = sum(_made(after)[clip] != split for clip, split in _made(before).items())
    assert moved <= 15  # three of forty


def test_own_splits_stay_and_val_comes_out_of_train() -> None:
    clips, groups = _clips({f"s{k}": 4 for k in range(20)}, "Train")
    for clip in clips[60:]:
        clip.split = "Test"
    report = make_splits(clips, groups, SplitOptions(val_share=0.2))
    assert report.made == ["Val"]
    assert Counter(clip.split for clip in clips) == {"Train": 48, "Val": 12, "Test": 20}
    assert crossing_groups(clips, groups) == []


def test_without_groups_each_class_is_shared_out_alike() -> None:
    clips, classes = _clips({"joy": 40, "awe": 20})
    make_splits(clips, None, SplitOptions(0.1, 0.2), classes)
    counts = Counter((classes[clip.id], clip.split) for clip in clips)
    assert counts[("joy", "Test")] == 8
    assert counts[("awe", "Test")] == 4
    assert counts[("joy", "Val")] == 4
    assert counts[("awe", "Val")] == 2


def test_groups_by_name_overrule_what_the_dataset_says() -> None:
    clips, groups = _clips({"a": 3, "b": 3, "c": 3, "d": 30}, "Train")
    make_splits(clips, groups, SplitOptions(val_groups=("b",), test_groups=("a", "c")))
    assert {groups[clip.id]: clip.split for clip in clips} == {"a": "Test", "b": "Val", "c": "Test", "d": "Train"}
    clips, groups = _clips({"a": 3, "b": 3, "c": 3, "d": 3})
    make_splits(clips, groups, SplitOptions(0.25, test_groups=("a",)))
    assert Counter(clip.split for clip in clips) == {"Train": 6, "Val": 3, "Test": 3}
    with pytest.raises(UserError, match="--test_groups e: no such group; there are a, b, c, d"):
        make_splits(clips, groups, SplitOptions(test_groups=("e",)))
    with pytest.raises(UserError, match="both name 'a'"):
        SplitOptions(val_groups=("a",), test_groups=("a",))


def test_too_few_groups_and_impossible_shares_are_said() -> None:
    clips, groups = _clips({"a": 10, "b": 10})
    with pytest.raises(UserError, match="2 groups are too few, or too uneven, to make the split"):
        make_splits(clips, groups, SplitOptions())
    with pytest.raises(UserError, match="together below 1"):
        SplitOptions(0.5, 0.5)
    with pytest.raises(UserError, match="--val_share 1: must be at least 0 and below 1"):
        SplitOptions(1)


# --- a user's own card --------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A card, and a CSV of 24 clips of six subjects whose files lie in a folder a subject."""
    (tmp_path / "mine.yaml").write_text(CARD)
    rows = [f"subject{k % 6}/{k}.mp4,{k / 10},{k % 6}" for k in range(24)]
    (tmp_path / "ratings.csv").write_text("\n".join(["clip,tense,subject", *rows]) + "\n")
    for k in range(24):
        path = tmp_path / f"subject{k % 6}" / f"{k}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([k]))
    return tmp_path


def test_an_own_card_links_and_yaml(prepare: Callable[..., Any], own: Path) -> None:
    (own / "subject5" / "23.mp4").unlink()
    options = ["--clips_folder", own / "clips", "--pipeline", own / "go.yaml", "--features", "hog", "audio=logmel"]
    said = prepare(own / "mine.yaml", own / "ratings.csv", own / "m.csv", *options)
    assert said.code == 0, said.said
    assert "left out: 1 clips without a media file (23)" in said.said
    assert "ids are read from the column 'clip'" in said.said
    table = Manifest.load(own / "m.csv", load_task(str(own / "mine.yaml"))).table
    assert len(table) == 23
    assert table.groupby("subject").Split.nunique().max() == 1
    assert set(table.Split) == {"Train", "Val", "Test"}
    for clip in table.index:
        link = own / "clips" / f"{clip}.mp4"
        assert link.read_bytes() == bytes([int(clip)])
        assert not os.path.isabs(os.readlink(link))

    card = yaml.safe_load((own / "go.yaml").read_text())
    assert card["task"] == "mine.yaml"
    assert card["videos"] == "clips"
    assert card["features"] == {"visual": {"model_name": "hog"}, "audio": {"model_name": "logmel"}}
    read_plan(own / "go.yaml")  # every section is checked when it is read


def test_the_same_again_changes_nothing_and_another_result_is_not_written(
    prepare: Callable[..., Any], own: Path
) -> None:
    options = ["--clips_folder", own / "clips", "--pipeline", own / "go.yaml"]
    assert prepare(own / "mine.yaml", own / "ratings.csv", own / "m.csv", *options).code == 0
    before = (own / "m.csv").read_bytes()
    link = own / "clips" / "3.mp4"
    stamp = link.lstat().st_mtime_ns
    assert prepare(own / "mine.yaml", own / "ratings.csv", own / "m.csv", *options).code == 0
    assert link.lstat().st_mtime_ns == stamp

    other = prepare(own / "mine.yaml", own / "ratings.csv", own / "m.csv", *options, "--seed", "1")
    assert other.code == 2
    assert "m.csv: already exists and differs; use --overwrite to replace it" in other.said
    assert (own / "m.csv").read_bytes() == before
    link.unlink()
    link.write_bytes(b"another")
    blocked = prepare(own / "mine.yaml", own / "ratings.csv", own / "m.csv", *options)
    assert blocked.code == 2
    assert "3.mp4: already exists and is another file" in blocked.said
    replaced = prepare(own / "mine.yaml", own / "ratings.csv", own / "m.csv", *options, "--seed", "1", "--overwrite")
    assert replaced.code == 0
    assert link.read_bytes() == bytes([3])
    assert (own / "m.csv").read_bytes() != before


def test_rows_in_another_order_get_the_same_splits(prepare: Callable[..., Any], own: Path) -> None:
    task = load_task(str(own / "mine.yaml"))
    prepare(own / "mine.yaml", own / "ratings.csv", own / "m.csv")
    header, *rows = (own / "ratings.csv").read_text().splitlines()
    (own / "ratings.csv").write_text("\n".join([header, *rows[::-1]]) + "\n")
    assert prepare(own / "mine.yaml", own / "ratings.csv", own / "n.csv").code == 0
    one, other = (Manifest.load(own / name, task).table.Split for name in ("m.csv", "n.csv"))
    assert dict(one) == dict(other)
    assert list(one.index) == list(other.index)[::-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--group_column", "city"], "--group_column city: there is no such column; there are subject"),
        (["--id_column", "name"], "ratings.csv: there is no column 'name'; the file has clip, tense, subject"),
        (["--features", "resnet", "--pipeline", "p.yaml", "--clips_folder", "c"], "no such model; there are vit-base"),
        (["--pipeline", "p.yaml"], "several folders, or under other names: give --clips_folder"),
        (["--keep", "subject"], "--keep subject: must be COLUMN=VALUE"),
        (["--keep", "city=Rome"], "--keep city=Rome: there is no such column; there are subject"),
        (["--media_folder", "nowhere", "--clips_folder", "c"], "nowhere: no such folder"),
        (["--format", "ravdess"], "--format ravdess: is for single_label tasks, and mine is one of regression"),
    ],
)
def test_wrong_options_are_named(
    options: list[str], message: str, prepare: Callable[..., Any], own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own)
    said = prepare("mine.yaml", Path("ratings.csv"), Path("m.csv"), *options)
    assert said.code == 2
    assert message in said.said
    assert not Path("m.csv").exists()


def test_a_row_without_its_group_is_named(prepare: Callable[..., Any], own: Path) -> None:
    lines = (own / "ratings.csv").read_text().replace("subject4/4.mp4,0.4,4", "subject4/4.mp4,0.4,")
    (own / "ratings.csv").write_text(lines)
    said = prepare(own / "mine.yaml", own / "ratings.csv", own / "m.csv")
    assert said.code == 2
    assert "ratings.csv, line 6: has no subject, by which splits are made" in said.said


# --- media --------------------------------------------------------------------------------------------------------


def test_files_are_copied_where_there_are_no_links(
    prepare: Callable[..., Any], own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(clip_files.os, "symlink", refuse)
    monkeypatch.setattr(clip_files.os, "link", refuse)
    for _ in range(2):  # a copy is known again
        assert prepare(own / "mine.yaml", own / "ratings.csv", own / "m.csv", "--clips_folder", own / "c").code == 0
    assert (own / "c" / "7.mp4").read_bytes() == bytes([7])
    assert not (own / "c" / "7.mp4").is_symlink()
    assert len(list((own / "c").iterdir())) == 24


def test_two_files_that_could_be_one_clips_are_named(prepare: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(CARD.replace("group_column: subject\n", ""))
    (tmp_path / "r.csv").write_text("id,tense,split\n1,.5,train\n2,.5,val\n")
    for name in ("a/1.mp4", "b/1.mov", "a/2.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    said = prepare(tmp_path / "mine.yaml", tmp_path / "r.csv", tmp_path / "m.csv", "--clips_folder", tmp_path / "c")
    assert said.code == 2
    assert "clip '1': " in said.said
    assert "could both be its file" in said.said
    options = ["--clips_folder", tmp_path / "c", "--media_folder", tmp_path / "a"]
    assert prepare(tmp_path / "mine.yaml", tmp_path / "r.csv", tmp_path / "m.csv", *options).code == 0


def test_scenes_below_a_folder_a_movie_are_found(prepare: Callable[..., Any], tmp_path: Path) -> None:
    words = {f"tt{movie}/scene{k}": ["happy"] for movie in range(6) for k in range(2)}
    (tmp_path / "e.json").write_text(json.dumps(words))
    for number, key in enumerate(words):
        path = tmp_path / "videos" / f"{key}.mkv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]))
    said = prepare("moviegraphs_top10", tmp_path / "e.json", tmp_path / "m.csv", "--clips_folder", tmp_path / "c")
    assert said.code == 0, said.said
    assert (tmp_path / "c" / "tt3_scene1.mkv").read_bytes() == bytes([7])
    assert "left out" not in said.said
    # The links themselves, which now lie below the folder too, are not taken for clips' files.
    again = prepare("moviegraphs_top10", tmp_path / "e.json", tmp_path / "m.csv", "--clips_folder", tmp_path / "c")
    assert again.code == 0, again.said


def test_links_are_not_put_where_files_are_taken_for_clips(prepare: Callable[..., Any], tmp_path: Path) -> None:
    said = prepare("ve8", tmp_path, tmp_path / "m.csv", "--clips_folder", tmp_path / "links")
    assert said.code == 2
    assert "links: must not be in the source, all of whose files are taken for clips" in said.said


@pytest.mark.parametrize(
    "path",
    ["../secret.mp4", "../../{folder}/secret.mp4", "{folder}/secret.mp4", "data/../../secret.mp4", "up/../secret.mp4"],
)
def test_a_path_out_of_the_folder_of_media_is_refused(prepare: Callable[..., Any], tmp_path: Path, path: str) -> None:
    """`../`, a path from the root, and one that goes up where a link has led elsewhere."""
    folder = tmp_path / "theirs" / "dataset"
    for name in ("1.mp4", "2.mp4", "../secret.mp4", "../data/x.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    (folder / "up").symlink_to(tmp_path / "theirs" / "data")
    (tmp_path / "mine.yaml").write_text(CARD.replace("group_column: subject\n", ""))
    written = path.format(folder=str(folder.parent) if path.startswith("{") else folder.parent.relative_to(tmp_path))
    (folder / "r.csv").write_text(f"id,tense,split\n1,.5,train\n2,.5,val\n{written},.5,test\n")
    options = ["--clips_folder", tmp_path / "links", "--media_folder", folder]
    said = prepare(tmp_path / "mine.yaml", folder / "r.csv", tmp_path / "m.csv", *options)
    if path.startswith("up/"):  # within the folder, where no such file is
        assert (said.code, "1 clips without a media file (secret)" in said.said) == (0, True), said.said
        assert not (tmp_path / "links" / "secret.mp4").exists()
        return
    assert said.code == 2
    assert "r.csv" in said.said
    assert "4: " in said.said
    assert "--media_folder" in said.said
    assert not (tmp_path / "links").exists()
    # A file of that folder and name, or of the clip's id, in the folder is meant: paths are often those of the authors.
    (folder / "secret.mp4").write_bytes(b"mine")
    assert prepare(tmp_path / "mine.yaml", folder / "r.csv", tmp_path / "m.csv", *options).code == 0
    assert (tmp_path / "links" / "secret.mp4").read_bytes() == b"mine"
    # A path from the root into the folder is as good as a relative one.
    (folder / "r.csv").write_text(f"id,tense,split\n{folder}/1.mp4,.5,train\n2,.5,val\n")
    assert prepare(tmp_path / "mine.yaml", folder / "r.csv", tmp_path / "n.csv", *options).code == 0


def test_what_is_no_character_is_said(prepare: Callable[..., Any], tmp_path: Path) -> None:
    scene = {"emotions": ["happy"], "split": "train", "movie": "a", "note": "\ud800"}
    (tmp_path / "e.json").write_text(json.dumps({"a_1": scene}))
    said = prepare("moviegraphs_top10", tmp_path / "e.json", tmp_path / "m.csv", "--val_share", "0")
    assert said.code == 2
    assert "half a character" in said.said


def test_pairs_of_videos_that_are_not_there_go_too(prepare: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "train_labels.json").write_text('{"comparisons": [["1", "2"], ["3", "4"], ["5", "6"]]}')
    (tmp_path / "test_labels.json").write_text('{"comparisons": [["7", "8"]]}')
    (tmp_path / "videos").mkdir()
    for k in (1, 2, 4, 5, 6, 7, 8):
        (tmp_path / "videos" / f"{k}.mp4").write_bytes(b"x")
    options = ["--clips_folder", tmp_path / "c", "--val_share", "0.5", "--pipeline", tmp_path / "p.yaml"]
    said = prepare("v2v", tmp_path, tmp_path / "m.csv", *options)
    assert said.code == 0, said.said
    manifest = Manifest.load(tmp_path / "m.csv", load_task("v2v"))
    assert set(manifest.orders) == {("1", "2"), ("5", "6"), ("7", "8")}
    assert sorted(manifest.clips) == ["1", "2", "5", "6", "7", "8"]
    assert yaml.safe_load((tmp_path / "p.yaml").read_text())["faces"] is False


def test_pictures_have_no_pipeline_but_folders_of_a_frame(prepare: Callable[..., Any], tmp_path: Path) -> None:
    for name in load_task("emoset").targets:
        for k in range(8):
            path = tmp_path / "image" / name / f"{name}_{k}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    options = ["--clips_folder", tmp_path / "frames"]
    assert prepare("emoset", tmp_path / "image", tmp_path / "m.csv", *options).code == 0
    assert (tmp_path / "frames" / "awe_3" / "awe_3.jpg").read_bytes() == b"x"
    said = prepare("emoset", tmp_path / "image", tmp_path / "m.csv", *options, "--pipeline", tmp_path / "p.yaml")
    assert said.code == 2
    assert "these are pictures" in said.said


def test_default_features_are_the_pretrained_ones_and_faces_where_a_face_is_the_subject(
    prepare: Callable[..., Any], tmp_path: Path
) -> None:
    for actor in range(1, 8):
        path = tmp_path / "r" / f"Actor_{actor:02d}" / f"01-01-03-01-01-01-{actor:02d}.mp4"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    options = ["--clips_folder", tmp_path / "c", "--pipeline", tmp_path / "p.yaml"]
    said = prepare("ravdess", tmp_path / "r", tmp_path / "m.csv", *options)
    assert said.code == 0, said.said
    card = yaml.safe_load((tmp_path / "p.yaml").read_text())
    assert card["faces"] == {"margin": 0.1}
    assert {name: each["model_name"] for name, each in card["features"].items()} == {
        "visual": "vit-base", "audio": "wavlm-base-plus-sv", "FAU": "multitask",
    }  # fmt: skip
    assert prepare("ravdess", tmp_path / "r", tmp_path / "m.csv", *options, "--faces", "no").code == 2
