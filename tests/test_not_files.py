"""Pipes, devices, sockets and folders that have a file's name: nothing waits for them, nothing reads on for ever."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from clips import pictures, write_frames
from csv_files import rows_of
from many import IS_LONG
from media import write_coded
from planted import Planted, plant

from viper.errors import UserError
from viper.files import read_csv_rows, read_json, read_yaml
from viper.store import EncoderInfo, Feature, FeatureStore
from viper.training.packing import PackedFeatures, open_features, scan

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
SECONDS = 60


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "letter.txt").write_text("mine")


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may have 108 bytes only
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


KINDS = pytest.mark.parametrize(
    "make", [_pipe, _device, _folder, _socket] if IS_LONG else [_pipe, _device], ids=lambda make: make.__name__[1:]
)
Make = Callable[[Path], None]


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """A test that waits for a pipe fails, and does not hold up all others."""

    def give_up(signum: int, frame: FrameType | None) -> None:
        pytest.fail("it waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"))


@KINDS
def test_what_reads_text(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "x")
    for read in (read_json, read_yaml, read_csv_rows):
        with pytest.raises(UserError, match=r"x: cannot be read"):
            read(tmp_path / "x")


@KINDS
@pytest.mark.parametrize("name", ["a.mp4", "failures.csv", "frames.json"])
def test_a_stage(run: Any, tmp_path: Path, videos: Path, make: Make, name: str) -> None:
    write_coded(videos / "b.mp4", 4, 25)
    (videos / "c.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    arguments = ("get_frame", "--input_folder", videos, "--output_folder", out, "--n_frames", 2)
    if name == "a.mp4":
        make(videos / name)
        assert run(*arguments).code == 3
        assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["b"]
    elif name == "failures.csv":
        out.mkdir()
        make(out / name)
        result = run(*arguments)
        assert result.code == 1
        assert name in result.said.splitlines()[-1]
    else:
        assert run(*arguments).code == 3
        (out / "b" / name).unlink()
        make(out / "b" / name)
        assert run(*arguments).code == (1 if make is _folder else 3)


@KINDS
@pytest.mark.parametrize("name", ["frame_1.jpg", "frames.json"])
def test_pictures(run: Any, tmp_path: Path, make: Make, name: str) -> None:
    for clip in ("a", "b"):
        write_frames(tmp_path / "frames" / clip, pictures(2))
    (tmp_path / "frames" / "a" / name).unlink()
    make(tmp_path / "frames" / "a" / name)
    features = tmp_path / "features"
    result = run("extract_visual_features", "--input_folder", tmp_path / "frames", "--output_folder", features,
                 "--model_name", "hog", "--device", "cpu")  # fmt: skip
    assert result.code == 3
    assert [row["clip"] for row in rows_of(features / "failures.csv")] == ["a"]


@KINDS
@pytest.mark.parametrize("name", ["encoder.json", "500.safetensors", "manifest.csv", "task.yaml", ".packed/x"])
def test_training(run: Any, planted: Planted, tmp_path: Path, make: Make, name: str) -> None:
    root = tmp_path / "theirs"
    shutil.copytree(planted.root, root)
    theirs = Planted(root)
    path = root / name if name in ("manifest.csv", "task.yaml") else root / "visual" / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    if name.startswith(".packed"):
        (root / "visual" / ".packed" / "Train").mkdir()
        make(root / "visual" / ".packed" / "Train" / "0123456789abcdef01234567")
        make(root / "visual" / ".packed" / "Train" / "index.json")
    result = run(
        "train_perceiver", "--csv_path", theirs.manifest, "--task", theirs.card, *theirs.inputs("visual"),
        "--output_checkpoint_folder", tmp_path / "run", "--preset", "tiny", "--n_epochs", 1, "--device", "cpu",
        n_workers=None,
    )  # fmt: skip
    if name == "500.safetensors" or name.startswith(".packed"):  # a clip without its feature
        assert result.code == 0, result.said
    else:
        assert result.code == 2, result.said
        assert path.name in result.said.splitlines()[-1]


@KINDS
@pytest.mark.parametrize("name", ["index.json", "offsets.npy", "present.npy", "tokens.bin"])
def test_a_pack(tmp_path: Path, make: Make, name: str) -> None:
    """One that cannot be used is made again, where that deletes nothing of anyone's."""
    store = FeatureStore.create(tmp_path / "visual", EncoderInfo("planted", "visual", 2))
    store.write("a", Feature.make([[1, 2], [3, 4]]))
    pack = open_features(store, ["a"], scan(store, ["a"]), "Train")
    assert isinstance(pack, PackedFeatures)
    (pack.folder / name).unlink()
    make(pack.folder / name)
    again = open_features(store, ["a"], scan(store, ["a"]), "Train")
    assert again[0] is not None
    assert again[0].tokens.tolist() == [[1, 2], [3, 4]]


@KINDS
def test_a_prediction(run: Any, planted: Planted, tmp_path: Path, make: Make) -> None:
    make(tmp_path / "a.mp4")
    planted.model("tokens").save_pretrained(tmp_path / "model")
    result = run("predict", tmp_path / "a.mp4", "--model_path", tmp_path / "model", "--device", "cpu", n_workers=None)
    assert result.code in (1, 2)
    assert "Traceback" not in result.said
    for name in ("config.json", "model.safetensors"):
        shutil.copytree(tmp_path / "model", tmp_path / name)
        (tmp_path / name / name).unlink()
        make(tmp_path / name / name)
        result = run("predict", __file__, "--model_path", tmp_path / name, "--device", "cpu", n_workers=None)
        assert result.code in (1, 2)
        assert "Traceback" not in result.said
