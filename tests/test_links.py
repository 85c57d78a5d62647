"""Nothing is written or deleted through a link that lies inside a folder of data, whoever put it there.

A folder that is named on the command line may be a link. What viper itself makes below it may not.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from csv_files import rows_of
from many import Launcher, content, long_test
from media import write_coded
from planted import Planted, plant

from viper.engine.failures import FAILURES_FILE
from viper.errors import UserError
from viper.files import atomic_folder, atomic_path, own_folder, remove, sweep
from viper.store import EncoderInfo, Feature, FeatureStore
from viper.temporaries import temporary_path

KEY = "0123456789abcdef01234567"  # as a pack is called


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of the user's, elsewhere: with files, folders, a pack, and what looks like a killed run's leftover."""
    folder = tmp_path / "precious"
    for name in ("thesis", KEY, "perceiver_1", ".tmp-0123456789ab"):
        (folder / name).mkdir(parents=True)
        (folder / name / "index.json").write_text("{}")
    for name in ("index.json", "tokens.bin", "config.json", "train.log", "letter.txt"):
        (folder / name).write_text("precious\n")
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    return folder


@pytest.fixture
def untouched(precious: Path) -> Any:
    """After the test the folder is as it was."""

    def listed() -> dict[str, int]:
        return {str(path.relative_to(precious)): path.lstat().st_mtime_ns for path in precious.rglob("*")}

    before = content(precious), listed()
    yield precious
    assert (content(precious), listed()) == before


def _arguments(planted: Planted, run: Path, *options: str) -> list[str]:
    """A short training on one modality."""
    return ["--csv_path", str(planted.manifest), "--task", str(planted.card), *planted.inputs("visual"), "--device",
            "cpu", "--preset", "tiny", "--n_epochs", "1", "--output_checkpoint_folder", str(run), *options]  # fmt: skip


def _train(trainings: Launcher, planted: Planted, run: Path, *options: str) -> tuple[int, str]:
    return trainings.run("train_perceiver", _arguments(planted, run, *options))


@long_test
@pytest.mark.parametrize("link", [".packed", ".packed/Train", "both are real"])
def test_a_training_deletes_nothing_through_a_link_in_a_store(
    trainings: Launcher, tmp_path: Path, untouched: Path, link: str
) -> None:
    planted = plant(tmp_path / "theirs")
    (planted.root / "visual" / ".packed").mkdir()
    if link == ".packed":
        (planted.root / "visual" / link).rmdir()
    place = planted.root / "visual" / link
    if link == "both are real":
        # Links called as a pack, and folders called as one that hold a link or a file that is not a pack's.
        place = planted.root / "visual" / ".packed" / "Train"
        (place / f"{KEY[:-1]}8").mkdir(parents=True)
        (place / f"{KEY[:-1]}8" / "letter.txt").write_text("mine")
        (place / f"{KEY[:-1]}9").mkdir()
        (place / f"{KEY[:-1]}9" / "index.json").symlink_to(untouched / "index.json")
        (place / "notes").mkdir()
        (place / KEY).symlink_to(untouched)
        (place / f"{KEY[:-1]}a").symlink_to(untouched / KEY)
    else:
        place.symlink_to(untouched)
    code, said = _train(trainings, planted, tmp_path / "run")
    if link == "both are real":
        assert code == 0, said
        assert (place / "notes").is_dir()
        assert (place / f"{KEY[:-1]}8" / "letter.txt").read_text() == "mine"
        assert not (place / f"{KEY[:-1]}9").exists()
    else:
        assert code == 2, said
        assert f"{place}: is a link" in said.splitlines()[-1]
        assert not (tmp_path / "run").exists()


def test_a_run_with_links_in_it(trainings: Launcher, planted: Planted, tmp_path: Path, untouched: Path) -> None:
    """Checkpoints, `best`, the log and every other file of a run: the links go, what they point to stays."""
    run = tmp_path / "theirs"
    run.mkdir()
    for name in ("perceiver_1", "perceiver_7", "best"):
        (run / name).symlink_to(untouched)
    files = ("metrics.csv", "summary.json", "train.log", "training_state.safetensors")
    for name in (*files, "config.yaml"):
        (run / name).symlink_to(untouched / "letter.txt")
    code, said = _train(trainings, planted, run, "--overwrite")
    assert code == 0, said
    assert not any(path.is_symlink() for path in run.rglob("*") if path.name != "best")
    assert (run / "best").resolve().parent == run
    assert "epoch 1" in (run / "train.log").read_text()
    assert not (run / "perceiver_7").exists()
    # A run that goes on: the log is not written through a link, nor into a file that has another name elsewhere.
    (run / "summary.json").unlink()
    for make in (os.symlink, os.link):
        (run / "train.log").unlink()
        make(untouched / "letter.txt", run / "train.log")
        code, said = _train(trainings, planted, run, "--resume")
        assert code == 0, said
        (run / "summary.json").unlink()
    assert (run / "train.log").read_text().startswith("precious\n")  # of a file of the run, what it held is kept


def test_a_training_in_a_folder_of_the_users(trainings: Launcher, planted: Planted, tmp_path: Path) -> None:
    """Folders that are called as a run's are, with other things in them."""
    run = tmp_path / "mine"
    (run / "best").mkdir(parents=True)
    (run / "best" / "letter.txt").write_text("mine")
    code, said = _train(trainings, planted, run)
    assert code == 1, said
    assert f"{run / 'best'}: holds 'letter.txt'" in said.splitlines()[-1]
    (run / "best" / "letter.txt").rename(run / "letter.txt")
    code, said = _train(trainings, planted, run, "--overwrite")
    assert code == 0, said
    (run / "perceiver_1" / "figures").mkdir()
    code, said = _train(trainings, planted, run, "--overwrite")
    assert code == 1, said
    assert f"{run / 'perceiver_1'}: holds 'figures'" in said.splitlines()[-1]
    assert (run / "summary.json").is_file()
    assert (run / "letter.txt").is_file()


def test_a_folder_of_a_seed_that_is_a_link(
    trainings: Launcher, planted: Planted, tmp_path: Path, untouched: Path
) -> None:
    run = tmp_path / "theirs"
    run.mkdir()
    (run / "seed_1").symlink_to(untouched)
    code, said = _train(trainings, planted, run, "--n_seeds", "2")
    assert code == 2, said
    assert f"{run / 'seed_1'}: is a link" in said


def test_a_tracker_s_folder_that_is_a_link(
    trainings: Launcher, planted: Planted, tmp_path: Path, untouched: Path
) -> None:
    run = tmp_path / "theirs"
    run.mkdir()
    (run / "tensorboard").symlink_to(untouched)
    code, said = _train(trainings, planted, run, "--report_to", "tensorboard")
    assert code == 2, said
    assert f"{run / 'tensorboard'}: is a link" in said


def test_a_search_with_links_in_it(run: Any, planted: Planted, tmp_path: Path, untouched: Path) -> None:
    pytest.importorskip("optuna")
    for name in ("journal.log", ".lock", "trial_0"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).symlink_to(untouched if name == "trial_0" else untouched / "letter.txt")
        result = run("tune", "--csv_path", planted.manifest, "--task", planted.card, *planted.inputs("visual"),
                     "--output_path", folder, "--n_trials", 1, "--n_epochs", 1, "--preset", "tiny",
                     "--device", "cpu", n_workers=None)  # fmt: skip
        assert result.code in (1, 2), result.said
        assert str(folder / name) in result.said.splitlines()[-1]


@pytest.mark.parametrize("name", ["frames/a", FAILURES_FILE, f".{FAILURES_FILE}.lock"])
def test_a_stage_whose_outputs_are_links(run: Any, tmp_path: Path, videos: Path, untouched: Path, name: str) -> None:
    write_coded(videos / "a.mp4", 4, 25)
    (videos / "b.mp4").write_bytes(b"no video")
    out = tmp_path / "theirs"
    out.mkdir()
    if name == "frames/a":
        (out / "a").symlink_to(untouched)
    else:
        (out / name).symlink_to(untouched / "letter.txt")
    result = run("get_frame", "--input_folder", videos, "--output_folder", out, "--n_frames", 2)
    if name.endswith(".lock"):
        assert result.code == 1
        assert name in result.said.splitlines()[-1]
    else:
        assert result.code == 3
        assert (out / "a" / "frames.json").is_file()
        assert not (out / "a").is_symlink()
        assert [row["clip"] for row in rows_of(out / FAILURES_FILE)] == ["b"]


def test_the_folder_that_is_named_may_be_a_link(run: Any, tmp_path: Path, videos: Path) -> None:
    write_coded(videos / "a.mp4", 4, 25)
    (tmp_path / "disk").mkdir()
    (tmp_path / "frames").symlink_to(tmp_path / "disk")
    assert run("get_frame", "--input_folder", videos, "--output_folder", tmp_path / "frames", "--n_frames", 2).code == 0
    assert (tmp_path / "disk" / "a" / "frames.json").is_file()


@pytest.mark.parametrize("name", ["time", "mask"])
def test_an_export_into_a_folder_with_links(run: Any, tmp_path: Path, untouched: Path, name: str) -> None:
    store = FeatureStore.create(tmp_path / "visual", EncoderInfo("planted", "visual", 2))
    store.write("letter", Feature.make(np.zeros((1, 2))))
    out = tmp_path / "theirs"
    out.mkdir()
    (out / name).symlink_to(untouched)
    (out / "letter.npy").symlink_to(untouched / "letter.txt")
    result = run("export", "--features_input_folder", store.folder, "--output_folder", out, "--format", "npy",
                 n_workers=None)  # fmt: skip
    assert (result.code, f"{out / name}: is a link" in result.said) == (2, True), result.said


def test_a_picture_is_not_linked_through_a_link(run: Any, tmp_path: Path, untouched: Path) -> None:
    source, links = tmp_path / "source", tmp_path / "theirs"
    for name in ("joy", "awe"):
        (source / name).mkdir(parents=True)
        for number in range(10):
            (source / name / f"{name}{number}.jpg").write_bytes(b"picture")
    card = tmp_path / "card.yaml"
    card.write_text("{name: own, kind: single_label, targets: [joy, awe], label_column: feeling}")
    links.mkdir()
    (links / "joy1").symlink_to(untouched)
    result = run("prepare", card, "--source", source, "--output", tmp_path / "m.csv", "--clips_folder", links,
                 n_workers=None)  # fmt: skip
    assert (result.code, f"{links / 'joy1'}: is a link" in result.said) == (2, True), result.said


@pytest.mark.parametrize("name", ["videos", "subtitles", "frames", "features_weight_free/audio", "runs_weight_free"])
def test_a_demo_in_a_folder_with_links(run: Any, tmp_path: Path, untouched: Path, name: str) -> None:
    (tmp_path / "theirs" / name).parent.mkdir(parents=True)
    (tmp_path / "theirs" / name).symlink_to(untouched)
    result = run("demo", "--output_folder", tmp_path / "theirs", n_workers=None)
    assert (result.code, f"{tmp_path / 'theirs' / name}: is a link" in result.said) == (2, True), result.said


@pytest.mark.parametrize("name", ["frames", "features", "run", "confusion"])
def test_a_pipeline_in_a_folder_with_links(
    run: Any, tmp_path: Path, videos: Path, planted: Planted, untouched: Path, name: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(untouched)
    config = tmp_path / "data.yaml"
    config.write_text(
        f"{{csv_path: {planted.manifest}, videos: {videos}, output: out, task: {planted.card}, "
        "features: {visual: {model_name: hog}}}"
    )
    result = run("pipeline", config, n_workers=None)
    assert (result.code, f"{tmp_path / 'out' / name}: is a link" in result.said) == (2, True), result.said


def test_a_store_in_a_shared_cache_is_the_users_alone(trainings: Launcher, tmp_path: Path, untouched: Path) -> None:
    """A store that cannot be written, and a cache folder in which others have prepared the way."""
    theirs = plant(tmp_path / "theirs")
    (theirs.root / "visual" / ".packed").touch()  # no pack can be put there
    cache = tmp_path / "cache"
    cache.mkdir()
    arguments = _arguments(theirs, tmp_path / "run", "--overwrite")

    def train() -> str:
        process = trainings.start("train_perceiver", arguments, XDG_CACHE_HOME=str(cache))
        code, said = trainings.wait(process), trainings.said(process)
        assert code == 0, said
        return said

    (cache / "viper").symlink_to(untouched)
    assert "cannot be packed" in train()
    (cache / "viper").unlink()
    (cache / "viper").mkdir()
    (cache / "viper").chmod(0o777)
    assert "others may write" in train()
    assert not list((cache / "viper").iterdir())
    (cache / "viper").rmdir()
    assert "cannot be packed" not in train()
    assert len(list(cache.rglob("tokens.bin"))) == 2
    assert (cache / "viper").stat().st_mode & 0o077 == 0


def test_the_rule_itself(tmp_path: Path, untouched: Path) -> None:
    (tmp_path / "named").symlink_to(tmp_path)  # the folder that was named
    assert own_folder(tmp_path / "named", "a", "b") == tmp_path / "named" / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()
    for target in (untouched, tmp_path / "nowhere"):
        (tmp_path / "link").symlink_to(target)
        with pytest.raises(UserError, match="link: is a link"):
            own_folder(tmp_path, "link", "b")
        (tmp_path / "link").unlink()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        own_folder(tmp_path, "file")
    assert not (tmp_path / "nowhere").exists()


def test_deleting_stops_at_links(tmp_path: Path, untouched: Path) -> None:
    folder = tmp_path / "folder"
    for place in (folder, temporary_path(tmp_path).with_name(".tmp-aaaaaaaaaaaa")):
        place.mkdir()
        (place / "link").symlink_to(untouched)
        (place / "file").symlink_to(untouched / "letter.txt")
        os.utime(place, (0, 0))
    (tmp_path / ".tmp-bbbbbbbbbbbb").symlink_to(untouched)
    os.utime(tmp_path / ".tmp-bbbbbbbbbbbb", (0, 0), follow_symlinks=False)
    assert sweep(tmp_path) == 2
    remove(folder)
    remove(folder)
    assert not folder.exists()
    (tmp_path / "link").symlink_to(untouched)
    remove(tmp_path / "link")
    assert not os.path.lexists(tmp_path / "link")


@pytest.mark.parametrize("make", [atomic_path, atomic_folder])
def test_a_device_or_pipe_is_not_replaced(tmp_path: Path, make: Callable[..., Any]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    for name in ("pipe", "null"):
        with pytest.raises(OSError, match="not a file") as error, make(tmp_path / name):
            pytest.fail("something was written")
        assert error.value.filename == str(tmp_path / name)


def test_a_folder_replaces_only_what_is_viper_s_own(run: Any, tmp_path: Path, videos: Path) -> None:
    """A folder or video of the user's that is called as a clip's frames would be."""
    write_coded(videos / "talk.mp4", 4, 25)
    write_coded(videos / "other.mp4", 4, 25)
    (videos / "talk").mkdir()
    (videos / "talk" / "notes.txt").write_text("mine")
    before = content(videos)
    result = run("get_frame", "--input_folder", videos, "--output_folder", videos, "--n_frames", 2)
    assert result.code in (1, 2), result.said
    assert {name: data for name, data in content(videos).items() if name in before} == before
    frames = tmp_path / "frames"
    assert run("get_frame", "--input_folder", videos, "--output_folder", frames, "--n_frames", 2).code == 0
    before = content(frames)
    result = run("crop_images", "--input_folder", frames, "--output_folder", frames, "--device", "cpu")
    assert (result.code, "holds 'frames.json'" in result.said) == (1, True), result.said
    assert content(frames) == before
    (frames / "talk" / "notes.txt").write_text("mine")
    result = run("get_frame", "--input_folder", videos, "--output_folder", frames, "--n_frames", 3)
    assert result.code in (1, 3)
    assert "notes.txt" in result.said
    assert (frames / "talk" / "notes.txt").read_text() == "mine"


def test_names_that_viper_needs_are_no_clips(run: Any, tmp_path: Path, videos: Path) -> None:
    write_coded(videos / "good.mp4", 4, 25)
    write_coded(videos / "encoder.json.mp4", 4, 25)
    out = tmp_path / "out"
    assert run("get_frame", "--input_folder", videos, "--output_folder", out, "--n_frames", 2).code == 0
    for name in ("failures.csv.mp4", "Failures.CSV.mp4"):
        write_coded(videos / name, 4, 25)
        result = run("get_frame", "--input_folder", videos, "--output_folder", out, "--n_frames", 2)
        assert result.code == 3
        assert f"'{name}' can be no clip" in (out / "failures.csv").read_text()
        (videos / name).unlink()
    features = tmp_path / "features"
    options = ("--output_folder", features, "--model_name", "hog", "--device", "cpu")
    assert run("extract_visual_features", "--input_folder", out, *options).code == 0
    assert json.loads((features / "encoder.json").read_text())["encoder"] == "hog"
    assert len(FeatureStore.open(features)) == 2


# What deletes, replaces, links or opens by a name. Texts and tables have a `replace` and a `rename` of their own.
DIRECT = {"rmtree", "rmdir", "unlink", "removedirs", "symlink", "symlink_to", "link", "hardlink_to", "copytree",
          "copyfile", "copy2", "move", "FileHandler", "truncate", "os.replace", "os.rename"}  # fmt: skip
# Who may, each having said in a comment or test why it goes through no link. The page's room has a folder of its own.
MAY = {
    "viper/files.py": {"rmtree", "unlink", "link", "os.replace", "copyfile"},
    "viper/commands/tune.py": {"truncate"},
    "viper/datasets/clip_files.py": {"symlink", "link", "os.replace"},
    "viper/encoders/claims.py": {"copyfile"},  # into a folder of its own below the system's
    "viper/engine/failures.py": {"unlink"},
    "viper/fusion/checkpoint.py": {"symlink_to", "unlink", "os.replace"},
    "viper/training/packing.py": {"unlink", "rmdir"},
    "viper/training/run_folder.py": {"rmdir", "unlink"},
}


def test_only_a_few_files_delete_or_replace_by_a_name() -> None:
    root = Path(__file__).parents[1]
    wrong = []
    for path in sorted((root / "viper").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = ast.unparse(node.func) if node.func.attr in ("replace", "rename") else node.func.attr
                if called in DIRECT - MAY.get(name, set()) and not name.startswith("viper/web/"):
                    wrong.append(f"{name}:{node.lineno}: {called}")
    assert not wrong, "use remove, own_folder, atomic_path or atomic_folder of viper/files.py:\n" + "\n".join(wrong)
