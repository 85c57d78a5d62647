"""A run of somebody else's: whatever stands in its records, a command that reads it ends in one line, or works."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import planted
import pytest
import yaml
from many import IS_LONG
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import viper
from viper.cli import run_command
from viper.engine.failures import FAILURES_FILE, FailureLog
from viper.errors import UserError
from viper.logs import log

DEEP: list[Any] = []
for _ in range(60):
    DEEP = [DEEP]
VALUES = (
    None, [], {}, "x", -1, 0, True, 1e308, float("nan"), 10**40, DEEP, "h" * 5000, [1, 2], {"a": 1}, "../\0",
    "\x1b[2J",
)  # fmt: skip
MISSING = object()
TRAINING = ("--preset", "tiny", "--n_epochs", "1", "--no-audio", "--no-textual")
Place = tuple[Any, ...]
Change = tuple[Place, Any]
# What ended in a traceback, file by file, and one of each other kind.
FOUND: dict[str, list[Change]] = {
    "config.yaml": [
        (("options",), "x"), (("options", "features"), [["x"]]), (("options", "visual_features_input_folder"), 1e308),
        (("versions",), "x"), (("options", "csv_path"), [1]), ((), None),
    ],
    "summary.json": [(("mean",), []), (("mean", "pearson"), MISSING), (("best_epoch",), None), ((), "x")],
    "metrics.csv": [((0, 1), "x"), ((1, 1), "x"), ((0, 0), MISSING)],
    "training_data.json": [(("parts",), None), ((), [])],
    "training_state.safetensors": [
        (("recorder",), None), (("recorder", "epochs", 0, "scores", "mean"), {}), (("part",), 0), (("epoch",), "x"),
        (("recorder", "epochs", 0, "number"), 5), ((), DEEP), (("recorder", "epochs"), []),
    ],
    "encoder.json": [(("versions",), "x"), (("command",), [1]), (("input_folder",), "h" * 5000)],
}  # fmt: skip


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where something stands in a document; of a list's entries the first two."""
    yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*place, key))


def changed(value: Any, place: Place, new: Any) -> Any:
    if not place:
        return new
    value = inner = copy.deepcopy(value)
    for step in place[:-1]:
        inner = inner[step]
    if new is MISSING:
        del inner[place[-1]]
    else:
        inner[place[-1]] = new
    return value


def read(path: Path) -> Any:
    match path.suffix:
        case ".safetensors":
            with safe_open(path, "numpy") as file:
                return json.loads(file.metadata()["record"])
        case ".csv":
            return [line.split(",") for line in path.read_text().splitlines()]
        case ".yaml":
            return yaml.safe_load(path.read_text())
    return json.loads(path.read_text())


def write(path: Path, value: Any) -> None:
    match path.suffix:
        case ".safetensors":
            save_file(load_file(path), path, metadata={"record": json.dumps(value)})
        case ".csv":
            rows = value if isinstance(value, list) else [value]
            path.write_text("\n".join(",".join(map(str, row if isinstance(row, list) else [row])) for row in rows))
        case ".yaml":
            path.write_text(yaml.safe_dump(value, sort_keys=False))
        case _:
            path.write_text(json.dumps(value))


class Keeper(logging.Handler):
    """Copies a run between the last epoch and its end, when the state of the training is removed."""

    def __init__(self, run: Path, copy: Path) -> None:
        super().__init__()
        self.run, self.copy = run, copy

    def emit(self, record: logging.LogRecord) -> None:
        if (self.run / "training_state.safetensors").is_file() and not self.copy.exists():
            shutil.copytree(self.run, self.copy, symlinks=True)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> planted.Planted:
    """A small data set, with `run`, which was stopped after its epoch (and a copy `kept`), and its finished `done`."""
    there = planted.plant(tmp_path_factory.mktemp("planted"))
    keeper = Keeper(there.root / "done", there.root / "run")
    log.addHandler(keeper)
    assert run_command("train_perceiver", there.training(there.root / "done", *TRAINING)) == 0
    log.removeHandler(keeper)
    shutil.copytree(there.root / "run", there.root / "kept", symlinks=True)
    return there


def test_records_of_a_run_that_are_not_what_a_training_writes(run: Any, half: planted.Planted, tmp_path: Path) -> None:
    """Each value of each record in turn is another: the commands that read it, and viper.load_run."""

    def resumed(folder: str) -> Callable[[], Any]:
        return lambda: run("train_perceiver", *half.training(half.root / folder, *TRAINING, "--resume"), n_workers=None)

    def reported() -> Any:
        few = ("--n_resamples", 2, "--n_cases", 1)
        return run("report", "--run", half.root / "done", "--output_path", tmp_path, *few, n_workers=None)

    def opened() -> None:
        with contextlib.suppress(UserError, OSError):  # of a name too long for any file
            own = viper.load_run(half.root / "done")
            own.plot.history()
            repr(own)

    readers: dict[str, tuple[Path, list[Callable[[], Any]]]] = {
        "config.yaml": (half.root / "done", [resumed("done"), opened, *([reported] if IS_LONG else [])]),
        "summary.json": (half.root / "done", [resumed("done")]),
        "metrics.csv": (half.root / "done", [opened, *([reported] if IS_LONG else [])]),
        "training_data.json": (half.root / "done", [resumed("done")]),
        "training_state.safetensors": (half.root / "run", [resumed("run")]),
        "encoder.json": (half.root / "visual", [opened, *([reported] if IS_LONG else [])]),
    }
    for name, (folder, read_by) in readers.items():
        path = folder / name
        before, value = path.read_bytes(), read(path)
        everything = [(place, new) for place in places(value) for new in (*VALUES, MISSING)]
        for place, new in [
            *FOUND[name],
            *random.Random(0).sample(everything, min(40 if IS_LONG else 1, len(everything))),
        ]:
            if place or new is not MISSING:
                write(path, changed(value, place, new))
                for reader in read_by:
                    outcome = reader()
                    if outcome is not None:
                        assert outcome.code in (0, 1, 2), (name, place, new)
                        assert "Traceback" not in outcome.said
                        assert not outcome.code or len(outcome.said.splitlines()[-1]) < 1100
                if not path.exists():  # the training went on, and ended
                    shutil.rmtree(half.root / "run")
                    shutil.copytree(half.root / "kept", half.root / "run", symlinks=True)
                path.write_bytes(before)


def test_a_number_of_thousands_of_digits_as_a_clip(tmp_path: Path) -> None:
    """Python refuses to read it as a number, by which lists are put in order."""
    (tmp_path / FAILURES_FILE).write_text(f"clip,stage,error,message\n{'9' * 5000},frames,E,m\n10,frames,E,m\n")
    failures = FailureLog(tmp_path, "frames")
    failures.succeeded("10")
    assert len((tmp_path / FAILURES_FILE).read_text().splitlines()) == 2


@pytest.mark.parametrize("text", ["x", "{}", "[]", "null", '{"op_code": 99}'])
def test_a_journal_of_a_search_that_is_none(run: Any, half: planted.Planted, tmp_path: Path, text: str) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "journal.log").write_text(f"{text}\n")
    outcome = run("tune", "--csv_path", half.manifest, "--task", half.card, *half.inputs("visual"), "--output_path",
                  tmp_path, "--n_trials", 1, "--n_epochs", 1, "--preset", "tiny", n_workers=None)  # fmt: skip
    assert outcome.code == 2
    assert "journal.log: is not the journal of a search" in outcome.said.splitlines()[-1]
