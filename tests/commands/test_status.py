"""status: every clip in the right box, in every state an extraction can be in."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import write_srt
from conftest import Run
from many import Launcher, long_test
from safetensors.numpy import load_file, save_file

from viper import cli
from viper.commands import status
from viper.commands.common import MaskedShares
from viper.commands.status import NAMED_CLIPS, ModalityStatus, StatusOptions, look
from viper.engine.failures import Failure, FailureLog
from viper.engine.job import Shard
from viper.store import EncoderInfo, Feature, FeatureStore

INFO = EncoderInfo("planted", "visual", 3, {"layer": 1}, source="faces")
CLIPS = ["10", "9", "a.b", "表情"]


def feature(n_tokens: int = 2) -> Feature:
    return Feature.make(np.ones((n_tokens, 3)))


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """A store that has every clip."""
    store = FeatureStore.create(tmp_path / "visual", INFO)
    for clip in CLIPS:
        store.write(clip, feature())
    return store


def write_manifest(folder: Path, rows: dict[str, str] | None = None) -> Path:
    """A manifest of these ids and splits; by default of CLIPS, as organisers spell them and without labels."""
    path = folder / "manifest.csv"
    lines = [f"[{clip}],{split}" for clip, split in (rows or dict.fromkeys(CLIPS, "Train")).items()]
    path.write_text("\n".join(["File_ID,Split", *lines]) + "\n", encoding="utf-8")
    return path


def seen(store: FeatureStore, verify: bool = False) -> ModalityStatus:
    state = look(store.folder, CLIPS, CLIPS, verify)
    boxes = [*state.missing, *state.invalid, *state.failed]
    assert state.present + len(boxes) == state.expected == len(CLIPS)
    assert len(set(boxes)) == len(boxes)
    return state


def test_everything_there_is_complete(store: FeatureStore) -> None:
    for verify in (False, True):
        state = seen(store, verify)
        assert state == ModalityStatus(store.folder, "planted", 4, 4, masked=MaskedShares(4, 0, 8, 0))
        assert state.complete


def truncated(store: FeatureStore) -> None:
    path = store.path("9")
    path.write_bytes(path.read_bytes()[:-1])


def of_another_encoder(store: FeatureStore) -> None:
    other = FeatureStore.create(
        store.folder.with_name("other"), dataclasses.replace(INFO, options={"layer": 2})
    )  # fmt: skip
    other.write("9", feature())
    shutil.copy(other.path("9"), store.path("9"))


def changed(store: FeatureStore, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = load_file(store.path("9"))
    change(tensors)
    save_file(tensors, store.path("9"))


DAMAGE: dict[str, tuple[Callable[[FeatureStore], Any], str]] = {
    "zero": (lambda store: store.path("9").write_bytes(b""), "header"),
    "garbage": (lambda store: store.path("9").write_bytes(b"garbage " * 50), "header"),
    "truncated": (truncated, "incomplete"),
    "width": (lambda store: changed(store, lambda t: t.update(tokens=np.ones((2, 4), np.float32))), "width 4"),
    "mask": (lambda store: changed(store, lambda t: t.update(mask=np.ones(1, bool))), "mask of [1]"),
    "no-times": (lambda store: changed(store, lambda t: t.pop("time")), "no time"),
    "half": (lambda store: changed(store, lambda t: t.update(tokens=np.ones((2, 3), np.float16))), "F16, not F32"),
    "encoder": (of_another_encoder, "made by another encoder"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_invalid_and_says_why(store: FeatureStore, kind: str) -> None:
    damage, said = DAMAGE[kind]
    damage(store)
    state = seen(store)
    assert (state.present, list(state.invalid), state.missing, state.failed) == (3, ["9"], [], {})
    assert said in state.invalid["9"]
    assert "\n" not in state.invalid["9"]
    assert not state.complete
    assert seen(store, verify=True).invalid == state.invalid


def test_a_value_that_is_not_finite_is_found_by_reading_everything(store: FeatureStore) -> None:
    changed(store, lambda tensors: tensors["tokens"].__setitem__((1, 1), np.nan))
    assert seen(store).complete
    assert "not finite" in seen(store, verify=True).invalid["9"]


def test_missing_extra_and_what_is_left_of_killed_processes(store: FeatureStore) -> None:
    store.path("10").unlink()
    store.write("elsewhere", feature())
    for name in (".tmp-0123456789ab.safetensors", "notes.txt", ".failures.csv.lock"):
        (store.folder / name).write_bytes(b"half a file")
    (store.folder / ".packed" / "Train").mkdir(parents=True)
    state = seen(store)
    assert (state.present, state.missing, state.extra, state.invalid) == (3, ["10"], ["elsewhere"], {})


def test_a_name_that_only_looks_the_same_is_told_apart(tmp_path: Path, store: FeatureStore) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    store.write(decomposed, feature())
    if composed in store:
        pytest.skip("this file system takes both for one name")
    state = look(store.folder, [composed, "10"], [composed, "10"])
    assert list(state.invalid) == [composed]
    assert "composed form" in state.invalid[composed]
    assert (state.present, state.missing) == (1, [])


def test_a_failure_counts_only_while_there_is_no_valid_feature(store: FeatureStore) -> None:
    log = FailureLog(store.folder, "extract_visual_features")
    for clip in ("10", "9", "a.b", "unknown"):
        log.failed(Failure(clip, "extract_visual_features", "ClipError", f"{clip}: no face"))
    store.path("10").unlink()
    store.path("9").write_bytes(b"damaged")
    state = seen(store)
    assert state.failed == {"10": "ClipError: 10: no face", "9": "ClipError: 9: no face"}
    assert (state.present, state.missing, state.invalid) == (2, [], {})


def test_a_folder_that_is_no_store(tmp_path: Path, store: FeatureStore) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name, said in (("none", "no such folder"), ("empty", "no encoder.json"), ("file", "no such folder")):
        state = look(tmp_path / name, CLIPS, CLIPS)
        assert (state.present, state.missing, state.extra) == (0, CLIPS, [])
        assert said in (state.problem or "")
        assert str(tmp_path / name) in (state.problem or "")
    (store.folder / "encoder.json").write_text("{")
    assert "cannot be read as JSON" in (seen(store).problem or "")
    assert seen(store).missing == CLIPS  # what cannot be read for lack of its encoder is not there


def test_a_list_of_failures_that_someone_broke_is_said_and_hides_nothing(store: FeatureStore) -> None:
    (store.folder / "failures.csv").write_text("clip;stage\n9;x\n")
    state = seen(store)
    assert state.complete
    assert "failures.csv" in (state.problem or "")


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda stores: None, 0),
        (lambda stores: stores[0].write("elsewhere", feature()), 0),  # extras alone do not make it incomplete
        (lambda stores: stores[1].path("9").unlink(), 3),
        (lambda stores: stores[1].path("9").write_bytes(b""), 3),
        (lambda stores: shutil.rmtree(stores[1].folder), 3),
        (lambda stores: [shutil.rmtree(store.folder) for store in stores], 1),
        (lambda stores: [path.unlink() for store in stores for path in store.folder.glob("*.safetensors")], 1),
    ],
    ids=["complete", "extra", "missing", "invalid", "one-vanished", "all-vanished", "nothing-yet"],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_exit_codes(
    tmp_path: Path,
    store: FeatureStore,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[list[FeatureStore]], Any],
    code: int,
    as_json: bool,
) -> None:
    shutil.copytree(store.folder, tmp_path / "face")
    damage([store, FeatureStore.open(tmp_path / "face")])
    features = [f"visual={store.folder}", f"face={tmp_path / 'face'}"]
    assert status.run(StatusOptions(csv_path=write_manifest(tmp_path), features=features, json=as_json)) == code
    said = capsys.readouterr().out
    assert (json.loads(said)["complete"] if as_json else "complete, by" in said) == (code == 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no features given"),
        (["--features", "visual"], "must be NAME=FOLDER"),
        (["--features", "a=b", "--csv_path", "none.csv"], "none.csv: no such file"),
        (["--features", "a=b", "--split", "Tset"], "the split 'Tset'"),
        (["--features", "a=b", "--split", "Test"], "no row has the split 'Test'"),
        (["--features", "a=b", "--task", "none"], "no such card"),
        (["--visual"], "--visual needs"),
    ],
)
def test_wrong_usage(tmp_path: Path, run: Run, options: list[str], said: str) -> None:
    outcome = run_status(run, write_manifest(tmp_path), *options)
    assert outcome.code == 2
    assert said in outcome.said


def run_status(run: Run, manifest: Path, *options: Any) -> Any:
    """Without the --n_workers of `run`, which status has not."""
    given = [] if "--csv_path" in options else ["--csv_path", manifest]
    return run("status", *given, *options, n_workers=None)


def test_json_has_every_clip_and_nothing_else_is_on_stdout(
    tmp_path: Path, store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {str(number): "Train" for number in range(2 * NAMED_CLIPS)} | dict.fromkeys(CLIPS, "Val")
    truncated(store)
    FailureLog(store.folder, "extract_visual_features").failed(Failure("7", "x", "ClipError", "no face"))
    os.rename(store.path("10"), os.fsencode(store.folder) + b"/caf\xe9.safetensors")  # a name that is no UTF-8
    config = StatusOptions(csv_path=write_manifest(tmp_path, rows), features=[f"visual={store.folder}"], json=True)
    assert status.run(config) == 3
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert captured.err == ""
    state = look(store.folder, list(rows), list(rows))
    assert told == {
        "csv_path": str(config.csv_path), "split": None, "verified": False, "complete": False,
        "modalities": {"visual": {"complete": False, **dataclasses.asdict(state), "folder": str(store.folder)}},
    }  # fmt: skip
    assert told["modalities"]["visual"]["missing"] == ["0", "1", "2", "3", "4", "5", "6", "8", "10"]
    assert list(told["modalities"]["visual"]["invalid"]) == ["9"]
    assert told["modalities"]["visual"]["failed"] == {"7": "ClipError: no face"}
    assert told["modalities"]["visual"]["extra"] == ["caf\udce9"]


def test_a_store_that_is_mostly_masked_says_so(
    tmp_path: Path, store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    for clip in CLIPS[1:]:
        store.write(clip, Feature.absent(3, 2))
    options = StatusOptions(csv_path=write_manifest(tmp_path), features=[f"visual={store.folder}"])
    assert status.run(options) == 0
    said = capsys.readouterr().out
    assert "75%" in said
    assert "most of it: 6 of 8 tokens are masked (75.0%); 3 of 4 clips are masked completely" in said
    assert status.run(dataclasses.replace(options, json=True)) == 0
    masked = json.loads(capsys.readouterr().out)["modalities"]["visual"]["masked"]
    assert masked == {"clips": 4, "masked_clips": 3, "tokens": 8, "masked_tokens": 6}


def test_the_table_names_a_few_clips_of_each_kind(
    tmp_path: Path, store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {str(number): "Train" for number in range(20)}
    os.rename(store.path("表情"), os.fsencode(store.folder) + b"/\x1b[31m\xe9.safetensors")
    truncated(store)
    options = {"csv_path": write_manifest(tmp_path, rows), "features": [f"visual={store.folder}"]}
    assert status.run(StatusOptions(**options)) == 3
    lines = capsys.readouterr().out.splitlines()
    columns = ["modality", "expected", "present", "missing", "invalid", "failed", "extra", "masked", "precision"]
    assert lines[1].split() == columns
    assert lines[2].split() == ["visual", "20", "1", "18", "1", "0", "2", "0%", "-"]
    assert "  missing  0, 1, 2, 3, 4 ... and 13 more" in lines
    assert any(line.startswith("  invalid  9: ") for line in lines)
    assert any(line.startswith("  extra    ") and r"\x1b[31m\udce9" in line for line in lines)


def test_the_precision_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FeatureStore.create(tmp_path / "f", dataclasses.replace(INFO, precision="bf16"))
    options: dict[str, Any] = {"csv_path": write_manifest(tmp_path), "features": [f"visual={tmp_path / 'f'}"]}
    assert status.run(StatusOptions(**options)) == 1
    assert capsys.readouterr().out.splitlines()[2].split()[-1] == "bf16"
    assert status.run(StatusOptions(**options, json=True)) == 1
    assert json.loads(capsys.readouterr().out)["modalities"]["visual"]["precision"] == "bf16"


def test_a_split_expects_its_own_clips_and_the_others_are_not_extra(
    tmp_path: Path, store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_manifest(tmp_path, {"10": "devel", "9": "Train", "a.b": "Train", "missing": "Train"})
    config = StatusOptions(csv_path=manifest, features=[f"visual={store.folder}"], split="val", json=True)
    assert status.run(config) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["split"] == "Val"
    assert told["modalities"]["visual"]["expected"] == 1
    assert told["modalities"]["visual"]["extra"] == ["表情"]


def test_columns_are_the_cards_and_labels_do_not_matter(tmp_path: Path, store: FeatureStore) -> None:
    (tmp_path / "card.yaml").write_text(
        "name: own\nkind: single_label\ntargets: [joy, fear]\nlabel_column: mood\nid_column: clip\nsplit_column: part\n"
    )
    (tmp_path / "m.csv").write_text("clip,part,mood\n10,train,not yet known\n")
    features = [f"visual={store.folder}"]
    assert (
        status.run(StatusOptions(csv_path=tmp_path / "m.csv", task=str(tmp_path / "card.yaml"), features=features)) == 0
    )


def test_status_leaves_everything_as_it_was(store: FeatureStore) -> None:
    def listing() -> list[tuple[str, int]]:
        return sorted((path.name, path.stat().st_mtime_ns) for path in store.folder.iterdir())

    truncated(store)
    before = listing(), store.folder.stat().st_mtime_ns
    seen(store, verify=True)
    assert (listing(), store.folder.stat().st_mtime_ns) == before


def test_the_states_of_a_real_extraction(tmp_path: Path, run: Run) -> None:
    subtitles, out = tmp_path / "subtitles", tmp_path / "out"
    for clip in CLIPS:
        write_srt(subtitles / f"{clip}.srt", [(0, 1, f"oh {clip}")])
    extract = ["extract_textual_features", "--subtitles", subtitles, "--model_name", "hashed", "--output_folder", out]
    asked = [write_manifest(tmp_path), "--features", f"textual={out}"]
    assert run_status(run, *asked).code == 1  # nothing there yet
    shards = [{clip for clip in CLIPS if Shard(number, 2).has(clip)} for number in (1, 2)]
    assert all(shards)
    assert run(*extract, "--shard", "1/2").code == 0
    assert run_status(run, *asked).code == 3
    assert set(look(out, CLIPS, CLIPS).missing) == shards[1]
    assert run(*extract, "--shard", "2/2").code == 0
    assert run_status(run, *asked).code == 0
    assert run(*extract).code == 0
    assert run_status(run, *asked, "--verify").code == 0
    # A file of a store of the same width, copied in, is made again by the same command.
    other = FeatureStore.create(tmp_path / "other", dataclasses.replace(FeatureStore.open(out).info, encoder="x"))
    other.write("9", Feature.make(np.ones((1, other.width))))
    shutil.copy(other.path("9"), out / "9.safetensors")
    assert look(out, CLIPS, CLIPS).invalid == {"9": "made by another encoder"}
    outcome = run(*extract)
    assert "1 done, 3 already there" in outcome.said
    assert run_status(run, *asked, "--verify").code == 0


def test_an_imported_store_and_its_failures(tmp_path: Path, run: Run) -> None:
    (tmp_path / "old").mkdir()
    for clip, width in zip(CLIPS, (4, 4, 5, 4), strict=True):
        np.save(tmp_path / "old" / f"{clip}.npy", np.ones((3, width)))
    out = tmp_path / "out"
    assert run("extract_visual_features", "--from_files", tmp_path / "old", "--output_folder", out).code == 3
    state = look(out, CLIPS, CLIPS)
    assert (state.encoder, state.present, list(state.failed)) == ("imported", 3, ["a.b"])
    assert "5 channels" in state.failed["a.b"]
    np.save(tmp_path / "old" / "a.b.npy", np.ones((3, 4)))
    assert run("extract_visual_features", "--from_files", tmp_path / "old", "--output_folder", out).code == 0
    assert look(out, CLIPS, CLIPS).complete


@long_test
def test_after_a_kill_what_is_counted_is_what_is_there(tmp_path: Path, launcher: Launcher) -> None:
    clips = [f"{number:04d}" for number in range(300)]
    for clip in clips:
        write_srt(tmp_path / "subtitles" / f"{clip}.srt", [(0, 1, clip)])
    out = tmp_path / "out"
    arguments = ["--model_name", "hashed", "--n_workers", "0", "--subtitles", str(tmp_path / "subtitles"),
                 "--output_folder", str(out)]  # fmt: skip
    process = launcher.start("extract_textual_features", arguments)
    deadline = time.monotonic() + 60
    while len(list(out.glob("[0-9]*.safetensors"))) < 30:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    during = look(out, clips, clips)
    os.kill(process, signal.SIGKILL)
    launcher.wait(process)
    after = look(out, clips, clips, verify=True)
    assert 30 <= during.present <= after.present < len(clips)
    assert (during.invalid, after.invalid, after.failed, after.extra) == ({}, {}, {}, [])
    assert after.present == len(list(out.glob("[0-9]*.safetensors")))
    assert cli.run_command("extract_textual_features", arguments) == 0
    assert look(out, clips, clips, verify=True).complete
