"""The search: what it tries, that it goes on where it was, and that it never reads the test split."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from csv_files import rows_of
from planted import Planted, plant

from viper.cli import run_command
from viper.commands import tune
from viper.commands.search_space import Range, default_space, read_space, usual_values
from viper.errors import UserError
from viper.store import FeatureStore

optuna = pytest.importorskip("optuna")

SPACE = (
    "learning_rate: {low: 1e-4, high: 3e-2, log: true}\nbatch_size: {choices: [8, 16]}\nn_layers: {low: 1, high: 2}\n"
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    made = plant(tmp_path_factory.mktemp("planted"))
    (made.root / "space.yaml").write_text(SPACE)
    return made


def _tune(planted: Planted, output: Path, *options: str, n_trials: int = 3) -> int:
    return run_command(
        "tune",
        ["--csv_path", str(planted.manifest), "--task", str(planted.card), "--output_path", str(output),
         *planted.inputs(), "--preset", "tiny", "--n_epochs", "1", "--device", "cpu", "--n_trials", str(n_trials),
         "--space", str(planted.root / "space.yaml"), *options],
    )  # fmt: skip


@pytest.fixture(scope="module")
def tuned(planted: Planted) -> Path:
    output = planted.root / "tuned"
    assert _tune(planted, output, "--train_options", "weight_decay=0.05", "d_latents=32") == 0
    return output


def _score(run: Path) -> float:
    return float(json.loads((run / "summary.json").read_text())["mean"]["pearson"]["value"])


def test_every_trial_is_a_run_and_a_row(tuned: Path) -> None:
    rows = rows_of(tuned / "trials.csv")
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    for row in rows:
        assert row["state"] == "complete"
        run = tuned / f"trial_{row['trial']}"
        options = yaml.safe_load((run / "config.yaml").read_text())["options"]
        assert (options["weight_decay"], options["d_latents"], options["preset"]) == (0.05, 32, "tiny")
        assert options["learning_rate"] == pytest.approx(float(row["learning_rate"]))
        assert (str(options["batch_size"]), str(options["n_layers"])) == (row["batch_size"], row["n_layers"])
        assert float(row["pearson"]) == pytest.approx(_score(run), abs=1e-5)
    # The usual options come first.
    assert (float(rows[0]["learning_rate"]), rows[0]["batch_size"], rows[0]["n_layers"]) == (2e-3, "16", "2")
    assert len({row["learning_rate"] for row in rows}) == 3


def test_nothing_is_pickled(tuned: Path) -> None:
    assert {path.name for path in tuned.iterdir()} <= {
        ".lock", "journal.log", "trials.csv", "trial_0", "trial_1", "trial_2", "best",
    }  # fmt: skip
    for line in (tuned / "journal.log").read_text().splitlines():
        json.loads(line)


def test_a_search_goes_on_where_it_was(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of the second trial, it finishes that very trial."""
    real, calls = tune._score, []

    def stop_in_second(search: tune.Search, run: Path) -> float | None:
        calls.append(run)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(search, run)

    with monkeypatch.context() as patch:
        patch.setattr(tune, "_score", stop_in_second)
        with pytest.raises(KeyboardInterrupt):
            _tune(planted, tmp_path)
    drawn = yaml.safe_load((tmp_path / "trial_1" / "config.yaml").read_text())["options"]["learning_rate"]
    capsys.readouterr()
    assert _tune(planted, tmp_path) == 0
    rows = rows_of(tmp_path / "trials.csv")
    assert [row["state"] for row in rows] == ["complete"] * 3
    assert float(rows[1]["learning_rate"]) == pytest.approx(drawn)
    best = max(rows, key=lambda row: float(row["pearson"]))
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[:2] == ["viper", "train_perceiver"]
    assert float(command[command.index("--learning_rate") + 1]) == pytest.approx(float(best["learning_rate"]))
    assert command[command.index("--output_checkpoint_folder") + 1] == str(tmp_path / "best")
    # Called again there is nothing left to do.
    assert _tune(planted, tmp_path) == 0
    assert len(rows_of(tmp_path / "trials.csv")) == 3


def test_the_command_it_prints_makes_the_best_trial_again(
    planted: Planted, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert _tune(planted, tuned, "--train_options", "weight_decay=0.05", "d_latents=32") == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    command[command.index("--n_seeds") + 1] = "1"
    assert run_command(command[1], command[2:]) == 0
    best = max(rows_of(tuned / "trials.csv"), key=lambda row: float(row["pearson"]))
    assert _score(tuned / "best") == pytest.approx(_score(tuned / f"trial_{best['trial']}"))


def test_the_test_split_is_never_read(planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its labels may be nonsense, and its features are not opened."""
    lines = planted.manifest.read_text().splitlines()
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(line.rsplit(",", 3)[0] + ",,," if ",Test," in line else line for line in lines))
    read: set[str] = set()
    original = FeatureStore.read

    def noting(self: FeatureStore, clip: str) -> object:
        read.add(clip)
        return original(self, clip)

    monkeypatch.setattr(FeatureStore, "read", noting)
    assert _tune(planted, tmp_path / "a", "--csv_path", str(manifest), n_trials=2) == 0
    assert not read & set(planted.data("Test").clips)
    assert _tune(planted, tmp_path / "b", n_trials=2) == 0
    a, b = ([row["pearson"] for row in rows_of(tmp_path / name / "trials.csv")] for name in "ab")
    assert a == b


def test_options_that_cannot_be_trained_with_are_a_failed_trial(planted: Planted, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("d_latents: {choices: [64, 33]}\n")  # 33 cannot be split into heads; 64 is the usual one
    output = tmp_path / "out"
    assert _tune(planted, output, "--space", str(space), n_trials=4) == 0
    rows = rows_of(output / "trials.csv")
    assert {(row["d_latents"], row["state"]) for row in rows} == {("64", "complete"), ("33", "fail")}
    assert all(("multiple of n_heads" in row["error"]) == (row["state"] == "fail") for row in rows)


def test_what_a_user_gets_wrong_is_one_line(planted: Planted, tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds a search with train_options .*, not \{\}"):
        _tune(planted, tuned)
    with pytest.raises(UserError, match="fusion=linear: its solver chooses"):
        _tune(planted, tmp_path / "x", "--train_options", "fusion=linear")
    with pytest.raises(UserError, match="--n_trials 0"):
        _tune(planted, tmp_path / "x", n_trials=0)
    assert not (tmp_path / "x").exists()
    # A mistake that the first trial shows is said at once, and does not stay in the folder.
    with pytest.raises(UserError, match="'wrong'"):
        _tune(planted, tmp_path / "y", "--train_options", "loss=wrong")
    assert _tune(planted, tmp_path / "y", "--train_options", "loss=l1", n_trials=1) == 0


def test_without_optuna_the_way_to_get_it_is_said(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'viper\[tune\]'"):
        _tune(planted, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_spaces_are_checked(planted: Planted, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    cases = {
        "- a": "a search space is a YAML mapping",
        "a: [": "cannot be read",
        "learning_rat: {low: 1, high: 2}": "train_perceiver has no option 'learning_rat'",
        "n_epochs: {low: 1, high: 2}": "sets n_epochs itself",
        "learning_rate: {low: 2, high: 1}": "learning_rate must be",
        "learning_rate: {low: 0, high: 1, log: true}": "learning_rate must be",
        "learning_rate: {low: 1e-4}": "learning_rate must be",
        "loss: {choices: []}": "loss must be",
        "loss: mse": "loss must be",
        "learning_rate: {choices: [fast]}": "learning_rate must be a number, not 'fast'",
        "n_layers: {low: 1.5, high: 3}": "n_layers must be a whole number, not 1.5",
        "fusion: {choices: [gru, lstm]}": "fusion must be tokens, channels, linear, mlp or gru, not 'lstm'",
    }
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_space(path, {"n_epochs"})
    path.write_text(SPACE + "loss: {choices: [mse, mse+0.5*ccc]}\n")
    space = read_space(path, set())
    assert space["learning_rate"] == Range(low=1e-4, high=3e-2, log=True)
    assert isinstance(space["n_layers"].distribution(), optuna.distributions.IntDistribution)
    assert space["loss"] == Range(choices=("mse", "mse+0.5*ccc"))
    default = default_space(planted.task, {"loss": "mse", "fusion": "gru"})
    assert not {"loss", "n_layers", "n_latents"} & default.keys()
    usual = usual_values(default_space(planted.task, {}), "small", planted.task, {})
    assert (usual["d_latents"], usual["learning_rate"], usual["loss"]) == (256, 5e-4, "mse")
