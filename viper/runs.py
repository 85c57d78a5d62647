"""A training's run in Python: opened from its folder, it predicts, is scored and draws."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from viper.engine.device import choose_device
from viper.errors import UserError, did_you_mean, one_line
from viper.evaluation.metrics import METRICS, Scores
from viper.evaluation.metrics import evaluate as evaluate_arrays
from viper.evaluation.plots import Compared, Plots, curves_over_epochs
from viper.inference.run import OpenedRun, open_run
from viper.inference.stored import data_for
from viper.inference.stored import predict as predict_stored
from viper.manifest import Manifest
from viper.store import FeatureStore
from viper.task import Task
from viper.training.recorder import METRICS_FILE

Folder = str | os.PathLike[str]
Features = Mapping[str, "Folder | FeatureStore"] | Sequence[FeatureStore] | FeatureStore
BATCH_SIZE = 64  # clips at once; it does not change a prediction
WANTED = 'features must be a dict such as {"visual": "features/visual"}, or a list of stores'


def load_run(
    path: Folder,
    csv_path: Folder | None = None,
    features: Features | None = None,
    *,
    hidden: str | Collection[str] = (),
) -> Run:
    """Open a run by its folder, or by the folder of one of its checkpoints.

    Parameters
    ----------
    csv_path : the manifest, if it is no longer where it was when the run was trained.
    features : modality -> store or folder, for those that have moved.
    hidden : modalities to leave out.

    Raises
    ------
    UserError : no run, or its manifest or features are not where they were.
    """
    manifest = None if csv_path is None else path_of(csv_path, "csv_path")
    folders = folders_of({} if features is None else features)
    opened = open_run(path_of(path, "path"), "run", manifest, folders, names_of(hidden), in_python=True)
    known = opened.model.config.modalities
    for name in [*folders, *names_of(hidden)]:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"{path}: the run has no modality {name!r}, only {', '.join(known)}{hint}")
    return Run(opened)


class Run:
    """A trained model with the manifest and the features it was trained on; made by `train` and `load_run`.

    Where a path is wanted, a run is the folder of its checkpoint: `PerceiverFusion.from_pretrained(run)`.

    Attributes
    ----------
    folder : the run's folder.
    checkpoint : folder of the checkpoint that predicts: the best epoch's, unless another was opened.
    model : the PerceiverFusion.
    task, manifest, stores : what it predicts, for which clips, from which features.
    """

    def __init__(self, opened: OpenedRun) -> None:
        self._opened = opened
        self._predicted: dict[str, Compared] = {}
        self.folder, self.checkpoint = opened.folder, opened.checkpoint
        self.model, self.task = opened.model, opened.task
        self.manifest, self.stores = opened.manifest, opened.stores

    def __repr__(self) -> str:
        modalities = ", ".join(self.model.config.modality_order)
        return f"Run({str(self.folder)!r}: {self.task.name} from {modalities}, {self.checkpoint.name})"

    def __fspath__(self) -> str:
        return str(self.checkpoint)

    @cached_property
    def history(self) -> pd.DataFrame:
        """The training: one row per epoch, with the loss and every validation metric."""
        path = self.folder / METRICS_FILE
        if not path.is_file():
            raise UserError(f"{path}: no such file; the checkpoint was opened without its run")
        try:
            history = pd.read_csv(path, index_col="epoch", dtype=float)
            if not ((history.index >= 0) & (history.index < 2**31)).all():
                raise ValueError("an epoch that no training has")
            history.index = history.index.astype(int)
            if "training_loss" not in history:
                raise ValueError("no column training_loss")
            return history
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({one_line(str(error))})") from error

    def predict(
        self,
        split: str | Features = "Test",
        *,
        batch_size: int = BATCH_SIZE,
        device: str = "auto",
    ) -> pd.DataFrame:
        """Predict a split of the manifest, or every clip of other stores.

        Parameters
        ----------
        split : Train, Val or Test; or a store, several of them, or modality -> store or folder, whose clips are
            predicted instead. Any of the run's modalities will do.

        Returns
        -------
        One row per clip, indexed by clip id; one column per target: the intensity, the probability of a class or label,
        or a preference task's utility.
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {batch_size}")
        if isinstance(split, str):
            data = self._opened.data(split, labelled=False)
        else:
            stores = {name: FeatureStore.open(folder) for name, folder in folders_of(split).items()}
            data = data_for(self.model, stores, _manifest_of(stores, self.task), "Test")
        return predictions_table(
            self.task, data.clips, predict_stored(self.model, data, batch_size, choose_device(device))
        )

    def evaluate(self, split: str = "Val") -> pd.DataFrame:
        """Return the scores on a split's labels: one row per target and one called "all", one column per metric."""
        compared = self._compare(split)
        return scores_table(evaluate_arrays(self.task, compared.predicted, compared.true))

    @property
    def plot(self) -> RunPlots:
        """The run's figures: `run.plot.confusion()`, `.scatter()`, `.bars()`, `.history()` ..."""
        return RunPlots(self, self._compare)

    def _compare(self, split: str) -> Compared:
        if split not in self._predicted:
            data = self._opened.data(split)
            predicted = predict_stored(self.model, data, BATCH_SIZE, choose_device("auto"))
            self._predicted[split] = Compared(self.task, data.clips, predicted, data.truth)
        return self._predicted[split]


class RunPlots(Plots):
    """The figures of a run."""

    def __init__(self, run: Run, compared: Callable[[str], Compared]) -> None:
        super().__init__(compared)
        self._run = run

    def history(self) -> Any:
        """Return the training loss and the first validation metric over the epochs."""
        history, metric = self._run.history, self._run.task.metrics[0]
        shown = {"training loss": history["training_loss"].to_list()}
        if metric in history:
            shown[f"validation {METRICS[metric].title}"] = history[metric].to_list()
        return curves_over_epochs(history.index.to_list(), shown)


def path_of(value: Any, name: str) -> Path:
    """Return a path that was given as text or as a path object; anything else is a UserError naming the argument."""
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"{name} must be a path, not {_brief(value)}")
    return Path(value)


def _brief(value: Any) -> str:
    return repr(value) if value is None or isinstance(value, bool | int | float | str) else f"a {type(value).__name__}"


def names_of(modalities: str | Collection[str]) -> list[str]:
    """Return modalities, given as one name or as several, as a list."""
    return [modalities] if isinstance(modalities, str) else list(modalities)


def folders_of(features: Features) -> dict[str, Path]:
    """Return modality -> folder for a dict, a store or a list of stores; anything else is a UserError."""
    if isinstance(features, FeatureStore):
        features = [features]
    if isinstance(features, list | tuple) and all(isinstance(each, FeatureStore) for each in features):
        names = [store.info.modality for store in features]
        if len({*names}) < len(names):
            raise UserError(
                f'two stores of {max(names, key=names.count)} features; give each a name: {{"name": store}}'
            )
        features = dict(zip(names, features, strict=True))
    if not isinstance(features, Mapping):
        raise UserError(f"{WANTED}, not {_brief(features)}")
    for name in features:
        if not isinstance(name, str) or not name or "=" in name:
            raise UserError(f"features: a modality's name must be text without '=', not {name!r}")
    return {
        name: each.folder if isinstance(each, FeatureStore) else path_of(each, f"the features of {name}")
        for name, each in features.items()
    }


def _manifest_of(stores: Mapping[str, FeatureStore], task: Task) -> Manifest:
    """Return a manifest of all clips of the stores, without labels."""
    clips = pd.Index(dict.fromkeys(clip for store in stores.values() for clip in store.clips()), name="clip")
    if clips.empty:
        raise UserError("no clip has features in these stores")
    table = pd.DataFrame({task.id_column: clips, task.split_column: "Test"}, index=clips)
    table[list(task.targets)] = np.nan
    return Manifest(next(iter(stores.values())).folder, task, table)


def predictions_table(task: Task, clips: Sequence[str], rows: np.ndarray) -> pd.DataFrame:
    """Return (clips, targets) numbers as a table indexed by clip."""
    return pd.DataFrame(rows, index=pd.Index(clips, name="clip"), columns=list(task.targets))


def scores_table(scores: Scores) -> pd.DataFrame:
    """Return one row per target and one called "all", one column per metric."""
    columns = {
        metric: {**{target: each.value for target, each in scores.targets.get(metric, {}).items()}, "all": score.value}
        for metric, score in scores.together.items()
    }
    targets = next((list(each) for each in scores.targets.values() if each), [])
    return pd.DataFrame(columns, index=pd.Index([*targets, "all"], name="target"))
