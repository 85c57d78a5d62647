"""One folder of features has one precision, whatever machines and processes extract into it."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import pictures, write_frames
from conftest import Run

from viper.commands.extract_features import VisualOptions, make_job
from viper.engine.device import choose_runtime
from viper.errors import ClipError
from viper.inference.predictor import _runtime
from viper.media.clips import list_picture_clips
from viper.store import ENCODER_FILE, EncoderInfo, Feature, FeatureStore, PrecisionError

N_CLIPS = 3
FRAMES = 2  # a clip


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """`processor(True)`: from here on this machine has bf16 arithmetic; False: it has not."""
    return lambda native: monkeypatch.setattr("viper.engine.device.has_bf16", lambda device: native)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    for number in range(N_CLIPS):
        write_frames(tmp_path / "frames" / f"clip{number}", pictures(FRAMES, seed=number))
    return tmp_path / "frames"


@pytest.fixture
def extract(run: Run, frames: Path, vit: Path, tmp_path: Path) -> Callable[..., Any]:
    """`extract(name, *options)`: the command, into the folder of that name."""

    def extract_into(name: str, *options: Any) -> Any:
        given = ("--input_folder", frames, "--output_folder", tmp_path / name, "--model_name", vit, "--device", "cpu")
        # A batch is a clip: what is in it does not depend on the shard.
        return run("extract_visual_features", *given, "--batch_size", FRAMES, *options)

    return extract_into


def tokens(folder: Path) -> dict[str, np.ndarray]:
    store = FeatureStore.open(folder)
    return {clip: store.read(clip).tokens for clip in store.clips()}


@pytest.mark.parametrize("first", [True, False], ids=["bf16 first", "float32 first"])
def test_auto_goes_on_in_the_precision_the_folder_was_begun_in(
    first: bool, extract: Callable[..., Any], processor: Callable[[bool], None], tmp_path: Path
) -> None:
    names = ("float32", "bf16")
    # What one machine makes of all clips is what two of different kinds make of them together.
    assert extract("alone", "--precision", names[first]).code == 0
    processor(first)
    assert extract("shared", "--shard", "1/2").code == 0
    assert 0 < len(FeatureStore.open(tmp_path / "shared").clips()) < N_CLIPS
    processor(not first)
    second = extract("shared", "--shard", "2/2")
    assert second.code == 0
    assert second.said.count("float32 is faster") == (1 if first else 0)
    assert FeatureStore.open(tmp_path / "shared").info.precision == names[first]
    alone, shared = tokens(tmp_path / "alone"), tokens(tmp_path / "shared")
    assert alone.keys() == shared.keys()
    for clip in alone:
        np.testing.assert_array_equal(alone[clip], shared[clip])


def test_another_precision_is_refused_in_one_line(extract: Callable[..., Any], tmp_path: Path) -> None:
    assert extract("out", "--precision", "float32").code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    outcome = extract("out", "--precision", "bf16")
    assert outcome.code == 2
    (line,) = [line for line in outcome.said.splitlines() if "float32 is faster" not in line]
    assert line == (
        f"viper: error: {tmp_path / 'out'}: its features are in float32, not bf16; leave out --precision "
        "(auto keeps float32), or give another output folder"
    )
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_a_folder_that_another_machine_begins_meanwhile_is_joined(
    frames: Path, vit: Path, tmp_path: Path, processor: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find it empty; the other, without bf16, is the first to say what it is."""
    processor(True)
    options = VisualOptions(input_folder=frames, output_folder=tmp_path / "out", model_name=str(vit), device="cpu")
    clips = list_picture_clips(frames)
    create = FeatureStore.create
    infos: list[EncoderInfo] = []

    def late(folder: Path, info: EncoderInfo) -> FeatureStore:
        if not infos:
            create(folder, replace(info, precision="float32"))
        infos.append(info)
        return create(folder, info)

    monkeypatch.setattr(FeatureStore, "create", late)
    job = make_job(options, clips)
    assert [info.precision for info in infos] == ["bf16", "float32"]
    # A copy elsewhere computes in what was settled here, not in what its own machine has.
    assert job.encode is not None
    copied = pickle.loads(pickle.dumps(job.encode))
    assert job.read is not None
    sample = job.load(job.read(clips[0]))
    expected, found = (encode([sample])[0].value.tokens for encode in (job.encode, copied))
    np.testing.assert_array_equal(found, expected)
    options.precision, options.output_folder = "bf16", tmp_path / "other"
    infos.clear()
    with pytest.raises(PrecisionError):
        make_job(options, clips)


@pytest.mark.parametrize("native", [False, True])
def test_an_encoder_that_is_built_again_runs_in_the_recorded_precision(
    native: bool, processor: Callable[[bool], None]
) -> None:
    processor(native)
    for recorded, expected in (("", "float32"), ("float32", "float32"), ("bf16", "bf16")):
        info = EncoderInfo("image", "visual", 3, precision=recorded)
        assert _runtime(info, "cpu").precision_name == expected
    assert choose_runtime("cpu", "float32", recorded="bf16").precision_name == "float32"


INFO = EncoderInfo("image", "visual", 3, {"layer": -1}, source="faces", precision="bf16")
IDENTITY = "4dc4a463f96d71cda0b78335"  # of INFO, as older versions wrote it


def test_a_file_in_another_precision_is_not_taken(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "bf16", INFO)
    for precision in ("float32", ""):
        other = FeatureStore.create(tmp_path / f"other{precision}", replace(INFO, precision=precision))
        other.write("a", Feature.make(np.ones((2, 3))), "source")
        other.path("a").rename(store.path("a"))
        assert store.problem("a") == "made in another precision"
        with pytest.raises(ClipError, match="made in another precision"):
            store.read("a")


def test_the_identity_of_float32_and_of_no_network_is_as_it_was() -> None:
    """Before the precision counted."""
    assert replace(INFO, precision="float32").identity == replace(INFO, precision="").identity == IDENTITY
    assert replace(INFO, precision="float32").difference(replace(INFO, precision="")) is None


def _begin(folder: Path, precision: str, start: Any) -> None:
    start.wait()
    try:
        FeatureStore.create(folder, replace(INFO, precision=precision, versions={"torch": "2" * 5000}))
    except PrecisionError:
        raise SystemExit(3) from None


def test_of_processes_that_begin_a_store_at_once_one_decides(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for number in range(5):
        folder, start = tmp_path / str(number), context.Barrier(4)
        precisions = ["bf16", "float32"] * 2
        processes = [context.Process(target=_begin, args=(folder, each, start)) for each in precisions]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        decided = json.loads((folder / ENCODER_FILE).read_text())["precision"]
        assert [process.exitcode for process in processes] == [0 if each == decided else 3 for each in precisions]
        assert [path.name for path in folder.iterdir()] == [ENCODER_FILE]


def test_a_disk_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    FeatureStore.create(tmp_path / "f", INFO)
    with pytest.raises(PrecisionError):
        FeatureStore.create(tmp_path / "f", replace(INFO, precision="float32"))
    assert FeatureStore.begun_in(tmp_path / "f") == "bf16"
    assert FeatureStore.begun_in(tmp_path / "none") is None
