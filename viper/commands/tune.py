"""tune: search for options of train_perceiver, on the validation split alone."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from viper.commands.convert import arguments_of
from viper.commands.feature_options import FeatureOptions
from viper.commands.search_space import Range, default_space, read_space, usual_values
from viper.commands.train_perceiver import TrainOptions
from viper.commands.trainings import parse_train_options, train_again, train_options
from viper.errors import NothingDoneError, UserError, first_line, is_out_of_memory, one_line
from viper.files import check_own_folder, locked, read_json, write_csv
from viper.logs import log, say, shell_line
from viper.task import Task, load_task
from viper.training.run_folder import SEEDS_FILE
from viper.training.run_records import read_summary

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

JOURNAL_FILE = "journal.log"
TRIALS_FILE = "trials.csv"
LOCK_FILE = ".lock"
STUDY = "tune"


@dataclass(kw_only=True)
class TuneOptions(FeatureOptions):
    """Search for the options with the best validation score. The test split is never read."""

    csv_path: Path
    """The manifest. Only its rows of Train and Val are used."""
    output_path: Path
    """Folder that gets a run per trial, trials.csv, and the journal from which a search is resumed."""
    task: str = "hume_reaction"
    """The task: a card's name or path."""
    n_trials: int = 30
    """Trials in all; called again with more, the search goes on. The first has the usual options."""
    space: Path | None = None
    """A YAML of what to search, option -> {low, high[, log]} or {choices}. By default learning rate, sizes, ..."""
    preset: Literal["tiny", "small", "base", "paper"] = "small"
    """Size of the model; sizes that are searched override it."""
    n_epochs: int = 30
    """Passes over the training split, in every trial."""
    n_seeds: int = 1
    """Seeds per trial; their mean is the score (slower, less noisy)."""
    seed: int = 0
    """Seed of the search and, in every trial, of the training."""
    train_options: Annotated[list[str], tyro.conf.arg(metavar="NAME=VALUE")] = field(default_factory=list)
    """Further options of train_perceiver for all trials: patience=5 fusion=mlp ..."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train."""


@dataclass(frozen=True)
class Search:
    """A search under way: what all trials share."""

    options: TuneOptions
    task: Task
    space: Mapping[str, Range]
    fixed: Mapping[str, Any]
    study: Study

    @property
    def metric(self) -> str:
        """What is compared."""
        return self.task.metrics[0]

    def folder(self, trial: FrozenTrial) -> Path:
        """Return where a trial's run is; a link of that name is a UserError."""
        return check_own_folder(self.options.output_path, f"trial_{trial.number}")

    def finished(self) -> list[FrozenTrial]:
        """Return the trials that have a score, best first."""
        from viper.evaluation.metrics import METRICS

        trials = [trial for trial in self.study.trials if trial.value is not None]
        return sorted(trials, key=_value, reverse=METRICS[self.metric].direction == "maximise")

    def train_options(self, values: Mapping[str, Any], run: Path, n_seeds: int) -> TrainOptions:
        """Return the options of a training with these values of what is searched."""
        own = {
            name: getattr(self.options, name) for name in ("csv_path", "task", "preset", "n_epochs", "seed", "device")
        }
        where = {"output_checkpoint_folder": run, "n_seeds": n_seeds}
        return train_options(self.options, {**self.fixed, **values, **own, **where})


def run(options: TuneOptions) -> int:
    """Run the stage; return the exit code."""
    for name in ("n_trials", "n_epochs", "n_seeds"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least 1")
    _require_optuna()
    task = load_task(options.task)
    own = set(vars(options))
    fixed = parse_train_options(options.train_options, own)
    if fixed.get("fusion") == "linear":
        raise UserError("fusion=linear: its solver chooses the one thing to choose, the penalty, by itself")
    space = default_space(task, fixed) if options.space is None else read_space(options.space, own | fixed.keys())
    options.folders()
    options.output_path.mkdir(parents=True, exist_ok=True)
    journal = options.output_path / JOURNAL_FILE
    # Two searches in one folder would take each other's unfinished trials for those of a killed one.
    with locked(options.output_path / LOCK_FILE, f"{options.output_path}: another search is running in this folder"):
        _cut_half_line(journal)
        try:
            try:
                study = _open_study(options, task, space, fixed)
            except (AssertionError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
                # Of lines that Optuna has not written.
                problem = f"{type(error).__name__}: {first_line(error)}"
                raise UserError(f"{journal}: is not the journal of a search ({problem}); delete it") from error
            search = Search(options, task, space, fixed, study)
            _go_on(search)
        except OSError as error:
            error.filename = error.filename or str(journal)  # Optuna's writing names none
            raise
    return _report(search)


def _cut_half_line(journal: Path) -> None:
    """Remove what was written of a line when the disk was full, which Optuna would never get over.

    A link, or a file with another name too, is a UserError: Optuna appends to the journal.
    """
    if os.path.lexists(journal):
        if journal.is_symlink() or not journal.is_file() or journal.stat().st_nlink > 1:
            raise UserError(f"{journal}: is a link or not a file; remove it, or give another folder")
        with journal.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


def _require_optuna() -> None:
    try:
        import optuna
    except ImportError:
        raise UserError("tune needs Optuna, which is not installed: pip install 'viper[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _open_study(options: TuneOptions, task: Task, space: Mapping[str, Range], fixed: Mapping[str, Any]) -> Study:
    """Return the study in the output folder, new or resumed; one of another search is a UserError that says why."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    from viper.evaluation.metrics import METRICS

    described = {
        "space": {name: each.describe() for name, each in space.items()},
        "train_options": {name: str(value) for name, value in fixed.items()},
        "task": task.name,
        "features": {name: str(folder) for name, folder in options.folders().items()},
        **{name: str(getattr(options, name)) for name in ("csv_path", "preset", "n_epochs", "n_seeds", "seed")},
    }
    journal = options.output_path / JOURNAL_FILE
    # No lock of Optuna's: the folder is locked already, and its locks are links, which not every file system has.
    unlocked: Any = SimpleNamespace(acquire=lambda: True, release=lambda: None)
    # A journal is lines of JSON: nothing is pickled.
    storage = JournalStorage(JournalFileBackend(str(journal), unlocked))
    maximise = METRICS[task.metrics[0]].direction == "maximise"

    def open_or_create() -> Study:
        return optuna.create_study(
            study_name=STUDY, storage=storage, load_if_exists=True, direction="maximize" if maximise else "minimize"
        )

    study = open_or_create()
    other = [name for name, value in described.items() if study.user_attrs.get(name, value) != value]
    if other and any(trial.state.is_finished() for trial in study.trials):
        raise UserError(
            f"{options.output_path}: holds a search with {other[0]} {study.user_attrs[other[0]]}, not "
            f"{described[other[0]]}; give another folder, or the same options to go on with it"
        )
    if other:  # what was wrong with its options was seen in the first trial
        optuna.delete_study(study_name=STUDY, storage=storage)
        study = open_or_create()
    for name, value in described.items():
        study.set_user_attr(name, value)
    # The sampler's own state is not kept. Starting it from where the search is makes no trial the twin of an old one.
    study.sampler = optuna.samplers.TPESampler(seed=options.seed + len(study.trials))
    if not study.trials:
        study.enqueue_trial(usual_values(space, options.preset, task, fixed))
    return study


def _go_on(search: Search) -> None:
    """Run trials until there are enough; one that a killed search left unfinished is finished first."""
    from optuna.trial import TrialState

    distributions = {name: each.distribution() for name, each in search.space.items()}
    for trial in search.study.get_trials(states=[TrialState.RUNNING]):
        if trial.params.keys() == distributions.keys():
            log.info("\ntrial %d goes on", trial.number)
            _run_trial(search, trial)
        else:  # killed while its options were being drawn
            search.study.tell(trial.number, state=TrialState.FAIL)
    while sum(trial.state.is_finished() for trial in search.study.trials) < search.options.n_trials:
        number = search.study.ask(distributions).number
        trial = search.study.trials[number]
        log.info("\ntrial %d of %d: %s", number + 1, search.options.n_trials, _words(trial.params))
        _run_trial(search, trial)


def _run_trial(search: Search, trial: FrozenTrial) -> None:
    """Train with a trial's options and record the score; options that cannot be trained with are a failed trial."""
    from optuna.trial import TrialState

    run_folder = search.folder(trial)
    value, reason = None, ""
    try:
        train_again(search.train_options(trial.params, run_folder, search.options.n_seeds))
        value = _score(search, run_folder)
        reason = "" if value is not None else f"{search.metric} is undefined"
    except (UserError, NothingDoneError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        if not search.finished():  # a mistake that every trial would repeat
            raise
        reason = one_line(str(error))
    if value is None:
        search.study.set_user_attr(f"error of trial {trial.number}", reason)
        search.study.tell(trial.number, state=TrialState.FAIL)
        log.warning("trial %d failed: %s", trial.number, reason)
    else:
        search.study.tell(trial.number, value)
        best = search.finished()[0]
        log.info("trial %d: validation %s %.4f; best so far %.4f, of trial %d", trial.number, search.metric, value,
                 _value(best), best.number)  # fmt: skip
    write_trials(search)


def _score(search: Search, run_folder: Path) -> float | None:
    """Return the validation metric of a trial's run, or its mean over seeds; None where it is undefined."""
    if search.options.n_seeds == 1:
        value = read_summary(run_folder, search.task).scores.together[search.metric].value
    else:
        value = read_json(run_folder / SEEDS_FILE)["Val"][search.metric]["mean"]
    return value if value is not None and math.isfinite(value) else None


def write_trials(search: Search) -> None:
    """Write trials.csv: a row per trial, in the order they were run."""
    columns = ["trial", "state", search.metric, "seconds", *search.space, "error"]
    rows = [columns]
    for trial in search.study.trials:
        row = {"trial": trial.number, "state": trial.state.name.lower(), **trial.params}
        row[search.metric] = "" if trial.value is None else f"{trial.value:.6g}"
        row["seconds"] = "" if trial.duration is None else round(trial.duration.total_seconds(), 1)
        row["error"] = search.study.user_attrs.get(f"error of trial {trial.number}", "")
        rows.append([row.get(name, "") for name in columns])
    write_csv(search.options.output_path / TRIALS_FILE, rows)


def _report(search: Search) -> int:
    finished = search.finished()
    if not finished:
        raise NothingDoneError(f"{search.options.output_path}: no trial has a score; {TRIALS_FILE} says why")
    best = finished[0]
    first = search.study.trials[0].value
    compared = "" if first is None else f" (the usual options: {first:.4f})"
    log.info("\ntune: %d trials, %d with a score; best validation %s %.4f%s, of trial %d", len(search.study.trials),
             len(finished), search.metric, _value(best), compared, best.number)  # fmt: skip
    log.info("The best of many is flattered by the choice: confirm it with other seeds.")
    again = search.train_options(best.params, search.options.output_path / "best", 5)
    say(shell_line(["viper", "train_perceiver", *arguments_of(again)]))
    return 0


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _words(options: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in options.items())  # fmt: skip
