"""A training that is stopped at any moment and resumed ends with the weights of one that never was."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from csv_files import rows_of
from many import IS_LONG, Launcher, is_running, long_test
from planted import Planted, plant
from safetensors.torch import save_file

from viper.cli import run_command
from viper.errors import UserError
from viper.files import read_json
from viper.fusion.checkpoint import load_checkpoint
from viper.manifest import Manifest
from viper.store import FeatureStore
from viper.training.state import STATE_FILE, TrainingState

N_EPOCHS = 6
# Everything that has a state of its own: dropout, momentum, a running average, a schedule.
TRAINING = ["--preset", "tiny", "--n_epochs", str(N_EPOCHS), "--batch_size", "8", "--ema", "0.9",
            "--loss", "mse+0.5*ccc"]  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"))


def _arguments(planted: Planted, run: Path, *options: str) -> list[str]:
    return planted.training(run, *TRAINING, *options)


@pytest.fixture(scope="module")
def uninterrupted(planted: Planted) -> Path:
    run = planted.root / "uninterrupted"
    assert run_command("train_perceiver", _arguments(planted, run)) == 0
    return run


def _assert_same(run: Path, other: Path) -> None:
    assert (run / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    for epoch in range(1, N_EPOCHS + 1):
        a, b = (load_checkpoint(folder / f"perceiver_{epoch}").state_dict() for folder in (run, other))
        assert all(torch.equal(a[name], b[name]) for name in a), epoch
    first, second = (read_json(folder / "summary.json") for folder in (run, other))
    assert first == second


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("n_done", [0, 1, 4, 5] if IS_LONG else [0, 4])
@pytest.mark.parametrize("moment", ["before the checkpoint", "after the checkpoint"])
def test_stopped_around_a_save_and_resumed(
    planted: Planted, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_done: int, moment: str
) -> None:
    """The two narrow moments: an epoch's checkpoint is there but not its state, and neither is."""
    from viper.training import recorder

    save = recorder.save_checkpoint

    def dying(run: Path, epoch: int, model: object) -> None:
        if epoch == n_done + 1 and moment == "before the checkpoint":
            raise _KilledError
        save(run, epoch, model)  # type: ignore[arg-type]
        if epoch == n_done + 1:
            raise _KilledError

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "save_checkpoint", dying)
        with pytest.raises(_KilledError):
            run_command("train_perceiver", _arguments(planted, tmp_path / "run"))
    assert (tmp_path / "run" / STATE_FILE).exists() == (n_done > 0)
    torch.manual_seed(999)  # whatever the next process starts with
    assert run_command("train_perceiver", _arguments(planted, tmp_path / "run", "--resume")) == 0
    _assert_same(tmp_path / "run", uninterrupted)
    assert not (tmp_path / "run" / STATE_FILE).exists()


def test_resumed_where_there_are_more_or_fewer_threads(
    planted: Planted, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of matrix products are split among threads, so their number decides the last bits."""
    from viper.training import recorder

    save, before = recorder.save_checkpoint, torch.get_num_threads()

    def dying(run: Path, epoch: int, model: object) -> None:
        if epoch == 3:
            raise _KilledError
        save(run, epoch, model)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "save_checkpoint", dying)
        with pytest.raises(_KilledError):
            run_command("train_perceiver", _arguments(planted, tmp_path / "run"))
    try:
        torch.set_num_threads(other := 2 if before == 1 else 1)
        assert run_command("train_perceiver", _arguments(planted, tmp_path / "run", "--resume")) == 0
        assert torch.get_num_threads() == other
    finally:
        torch.set_num_threads(before)
    _assert_same(tmp_path / "run", uninterrupted)


def _kill_after(n_epochs: int, trainings: Launcher, arguments: list[str], run: Path) -> None:
    """SIGKILL a training a little after so many epochs; on a busy machine it may be over first, and is begun again."""
    for _ in range(20):
        process = trainings.start("train_perceiver", arguments)
        while is_running(process) and not (run / f"perceiver_{n_epochs}").exists():
            time.sleep(0.002)
        time.sleep(0.01 * n_epochs)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        code = trainings.wait(process)
        if code == -signal.SIGKILL:
            return
        assert code == 0, trainings.said(process)
        shutil.rmtree(run)
    pytest.fail("every training ended before it could be killed")


@long_test
def test_killed_at_any_moment_and_resumed_by_another_process(
    planted: Planted, uninterrupted: Path, trainings: Launcher, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = _arguments(planted, run, "--resume")
    for n_epochs in (1, 3) if IS_LONG else (2,):
        _kill_after(n_epochs, trainings, arguments, run)
    assert not (run / "summary.json").exists()
    code, said = trainings.run("train_perceiver", arguments)
    assert code == 0, said
    _assert_same(run, uninterrupted)
    assert not list(run.glob(".tmp-*"))  # what it left when it was killed is gone, too


def test_resuming_a_finished_run_does_nothing(planted: Planted, uninterrupted: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}
    assert run_command("train_perceiver", _arguments(planted, uninterrupted, "--resume")) == 0
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")} == before


def test_a_run_is_not_resumed_with_other_options_or_data(planted: Planted, uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--batch_size 8, not 4"):
        run_command("train_perceiver", _arguments(planted, uninterrupted, "--resume", "--batch_size", "4"))
    with pytest.raises(UserError, match="exclude each other"):
        run_command("train_perceiver", _arguments(planted, uninterrupted, "--resume", "--overwrite"))
    other = plant(tmp_path / "other", seed=1)
    manifest = ["--csv_path", str(other.manifest)]
    with pytest.raises(UserError, match="other clips or labels"):
        run_command("train_perceiver", [*_arguments(planted, uninterrupted, "--resume"), *manifest])
    fewer = _arguments(planted, uninterrupted, "--resume")
    del fewer[(at := fewer.index("--audio_features_input_folder")) : at + 2]
    with pytest.raises(UserError, match="was trained on visual, audio, textual, not visual, textual"):
        run_command("train_perceiver", fewer)


def test_data_that_were_moved_are_the_same_data(planted: Planted, uninterrupted: Path, tmp_path: Path) -> None:
    before = (uninterrupted / "metrics.csv").stat().st_mtime_ns
    moved = dataclasses.replace(planted, root=Path(shutil.copytree(planted.root, tmp_path / "disk", symlinks=True)))
    assert run_command("train_perceiver", _arguments(moved, uninterrupted, "--resume")) == 0
    assert (uninterrupted / "metrics.csv").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["edited", "deleted"])
def test_a_finished_run_without_its_weights_is_not_finished(
    planted: Planted, uninterrupted: Path, tmp_path: Path, damage: str
) -> None:
    run = Path(shutil.copytree(uninterrupted, tmp_path / "run", symlinks=True))
    weights = run / "best" / "model.safetensors"
    if damage == "edited":
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    else:
        shutil.rmtree(weights.resolve().parent)
    with pytest.raises(UserError, match="its best checkpoint is not as it was written; --overwrite starts"):
        run_command("train_perceiver", _arguments(planted, run, "--resume"))


def _rewrite(store: FeatureStore, clip: str, change: float = 0.001) -> None:
    """Changes one number; the file's size and time stay as they were."""
    path, feature = store.path(clip), store.read(clip)
    before = path.stat()
    feature.tokens[0, 0] += change
    store.write(clip, feature, source="planted")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("within", ["", "Group"] if IS_LONG else ["Group"])
def test_a_run_is_not_resumed_on_features_that_changed(tmp_path: Path, within: str) -> None:
    planted, run = plant(tmp_path / "planted"), tmp_path / "run"
    lines = planted.manifest.read_text().splitlines()
    rows = [f"{line},{'Group' if k == 0 else k % 5}" for k, line in enumerate(lines)]
    planted.manifest.write_text("\n".join(rows))
    options = _arguments(planted, run, "--resume", "--n_epochs", "1")
    options += ["--normalize", "group", "--group_column", within] if within else []
    assert run_command("train_perceiver", options) == 0
    clips = Manifest.load(planted.manifest, planted.task)
    visual, audio = planted.stores("visual", "audio").values()
    # What the training does not read may come, and times may change.
    visual.write("unheard-of", visual.read(clips.clips[0]), source="planted")
    for path in visual.folder.glob("*.safetensors"):
        path.touch()
    assert run_command("train_perceiver", options) == 0
    # A Test clip counts where features are standardized within groups, which have clips of all splits.
    _rewrite(visual, clips.split("Test").clips[0])
    if within:
        with pytest.raises(UserError, match=r"other features \(1 clip of visual\); --overwrite"):
            run_command("train_perceiver", options)
    else:
        assert run_command("train_perceiver", options) == 0
        _rewrite(visual, clips.split("Train").clips[0])
    _rewrite(visual, clips.split("Val").clips[0])
    audio.path(clips.split("Train").clips[1]).unlink()
    with pytest.raises(UserError, match=r"other features \(2 clips of visual, 1 clip of audio\); --overwrite"):
        run_command("train_perceiver", options)
    assert run_command("train_perceiver", [*options, "--no-resume", "--overwrite"]) == 0
    planted.manifest.write_text("\n".join([*rows[:-1], rows[-1][:-1] + "9"]))  # a Test clip of another group
    if within:
        with pytest.raises(UserError, match=r"other clips or labels \(groups\)"):
            run_command("train_perceiver", options)
    else:
        assert run_command("train_perceiver", options) == 0
    card = planted.card.read_text()
    planted.card.write_text(f"{card}metrics: [mse]\n")
    with pytest.raises(UserError, match="another task card"):
        run_command("train_perceiver", options)


def test_a_damaged_state_is_named(planted: Planted, tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_bytes(b"\x10\0\0\0\0\0\0\0not a header")
    with pytest.raises(UserError, match=STATE_FILE):
        TrainingState.load(tmp_path)


def test_seeds_have_their_own_runs_and_a_mean(planted: Planted, tmp_path: Path) -> None:
    options = _arguments(planted, tmp_path, "--n_seeds", "3", "--seed", "5", "--n_epochs", "2", "--keep", "best")
    assert run_command("train_perceiver", options) == 0
    seeds = read_json(tmp_path / "seeds.json")
    assert seeds["seeds"] == [5, 6, 7]
    values = [read_json(tmp_path / f"seed_{n}" / "summary.json")["mean"]["pearson"]["value"] for n in (5, 6, 7)]
    assert seeds["Val"]["pearson"]["values"] == values
    assert len(set(values)) == 3
    assert seeds["Val"]["pearson"]["mean"] == pytest.approx(sum(values) / 3)
    with pytest.raises(UserError, match="holds a run already"):
        run_command("train_perceiver", options)
    # A run that died between two seeds: the first is kept, the second is resumed or made.
    (tmp_path / "seed_6" / "summary.json").unlink()
    assert run_command("train_perceiver", [*options, "--resume"]) == 0
    assert read_json(tmp_path / "seeds.json") == seeds


def test_training_stops_when_nothing_gets_better(planted: Planted, tmp_path: Path) -> None:
    # A learning rate of practically zero: no epoch beats the first by more than chance.
    options = ["--n_epochs", "40", "--patience", "2", "--learning_rate", "1e-12", "--ema", "0"]
    assert run_command("train_perceiver", _arguments(planted, tmp_path / "run", *options)) == 0
    rows = rows_of(tmp_path / "run" / "metrics.csv")
    best = read_json(tmp_path / "run" / "summary.json")["best_epoch"]["pearson"]
    assert len(rows) == best + 2 < 40


@pytest.mark.parametrize("record", ["7", '["epoch"]', "{}", "[" * 10**5])
def test_a_state_with_another_record_is_one_line(tmp_path: Path, record: str) -> None:
    save_file({"model.x": torch.zeros(1)}, tmp_path / STATE_FILE, metadata={"record": record})
    with pytest.raises(UserError, match="not a training's state"):
        TrainingState.load(tmp_path)
