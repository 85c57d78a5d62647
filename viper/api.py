"""viper from Python: the commands as functions, and a training's run as an object.

The functions do what the commands of the same names do, with the same options, and raise what is wrong (UserError,
ClipError, NothingDoneError) instead of ending the process.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from viper.commands import crop_images as crop_images_command
from viper.commands import extract_features, train_perceiver
from viper.commands import get_frame as get_frame_command
from viper.commands.convert import arguments_of, build
from viper.commands.extract_features import EXTRACT_OPTIONS
from viper.commands.feature_options import feature_fields
from viper.engine.device import choose_device
from viper.errors import ClipError, NothingDoneError, UserError, either
from viper.evaluation.metrics import Scores
from viper.evaluation.metrics import evaluate as evaluate_arrays
from viper.evaluation.plots import Compared, Plots, curves_over_epochs
from viper.evaluation.submission import read_submission
from viper.inference.predictor import ClipPredictor
from viper.inference.run import OpenedRun, open_run
from viper.inference.stored import data_for
from viper.inference.stored import predict as predict_stored
from viper.logs import log, running
from viper.manifest import Manifest, clip_id
from viper.media.listing import list_videos
from viper.store import FeatureStore
from viper.task import Task, load_task
from viper.training.recorder import METRICS_FILE

Folder = str | Path
Features = Mapping[str, "Folder | FeatureStore"]
BATCH_SIZE = 64  # clips at once; it does not change a prediction


def get_frame(input_folder: Folder, output_folder: Folder, **options: Any) -> Path:
    """Take frames out of the videos of a folder; return the folder of frames.

    `options` are those of the command, such as n_frames=8 or sampling="events".
    """
    given = {"input_folder": Path(input_folder), "output_folder": Path(output_folder)}
    made = build(get_frame_command.GetFrameOptions, options, "get_frame", given=given)
    _run("get_frame", get_frame_command.run, made)
    return Path(output_folder)


def crop_images(input_folder: Folder, output_folder: Folder, **options: Any) -> Path:
    """Cut one person's face out of every frame of a folder of frames; return the folder of crops.

    `options` are those of the command, such as margin=0.2.
    """
    given = {"input_folder": Path(input_folder), "output_folder": Path(output_folder)}
    made = build(crop_images_command.CropImagesOptions, options, "crop_images", given=given)
    _run("crop_images", crop_images_command.run, made)
    return Path(output_folder)


def extract(
    modality: str, input_folder: Folder | None = None, *, output_folder: Folder, **options: Any
) -> FeatureStore:
    """Make the features of one modality; clips whose features are up to date are skipped.

    Parameters
    ----------
    modality : visual, audio, textual or FAU.
    input_folder : what is read: faces or frames, videos or sounds; may be left out with subtitles= or from_files=.
    output_folder : the store.
    options : those of `viper extract_<modality>_features`, such as model_name="hog", device="cuda" or n_workers=4.

    Returns
    -------
    The store. A clip that failed is not in it; failures.csv in its folder says why.

    Raises
    ------
    UserError : a wrong option or folder. NothingDoneError : every clip failed.

    Examples
    --------
    >>> viper.extract("visual", "faces", output_folder="features/visual", model_name="hog")   # doctest: +SKIP
    """
    if modality not in EXTRACT_OPTIONS:
        raise UserError(f"extract: modality must be {either(list(EXTRACT_OPTIONS))}, not {modality!r}")
    given: dict[str, Any] = {"output_folder": Path(output_folder)}
    if input_folder is not None:
        given["input_folder"] = Path(input_folder)
    name = f"extract_{modality}_features"
    _run(name, extract_features.run, build(EXTRACT_OPTIONS[modality], options, name, given=given))
    return FeatureStore.open(output_folder)


def train(csv_path: Folder, features: Features, output: Folder, **options: Any) -> Run:
    """Train a model on stored features; return its run.

    Parameters
    ----------
    csv_path : the manifest.
    features : modality -> its store or the store's folder, such as {"visual": "features/visual"}.
    output : the run's folder.
    options : those of `viper train_perceiver`, such as task="vce", preset="tiny", n_epochs=10, seed=1, overwrite=True.
        For several seeds, train once for each.

    Raises
    ------
    UserError : a wrong option, manifest or store; or the folder holds a run already (overwrite=True, resume=True).

    Examples
    --------
    >>> run = viper.train("manifest.csv", {"visual": "features/visual"}, "runs/visual")       # doctest: +SKIP
    """
    given = {"csv_path": Path(csv_path), "output_checkpoint_folder": Path(output), "n_seeds": 1}
    given |= feature_fields(_folders(features))
    _run("train_perceiver", train_perceiver.run, build(train_perceiver.TrainOptions, options, "train", given=given))
    return load_run(output)


def load_run(path: Folder, csv_path: Folder | None = None, features: Features | None = None) -> Run:
    """Open a run by its folder, or by the folder of one of its checkpoints.

    Parameters
    ----------
    csv_path : the manifest, if it is no longer where it was when the run was trained.
    features : modality -> store or folder, for those that have moved.
    """
    return Run(open_run(Path(path), "run", None if csv_path is None else Path(csv_path), _folders(features or {})))


def predict(
    videos: Folder | Sequence[Folder],
    run: Run | Folder,
    *,
    subtitles: Folder | None = None,
    hidden: Collection[str] = (),
    models: Mapping[str, str] | None = None,
    device: str = "auto",
    offline: bool = False,
) -> pd.DataFrame:
    """Predict new videos: their frames, faces, sound and words go through the encoders the run was trained with.

    Parameters
    ----------
    videos : a video, a folder of videos, or several of either.
    run : a run, its folder, or a checkpoint's.
    subtitles : folder of <video>.srt or .vtt; default: beside each video.
    hidden : modalities to leave out.
    models : modality -> name or folder of its model on this machine, where that is not the recorded one.
    offline : never touch the network.

    Returns
    -------
    One row per video, indexed by clip id, one column per target. A video that cannot be read is left out with a
    warning; if none can be, ClipError says why.
    """
    paths = _videos([videos] if isinstance(videos, str | Path) else videos)
    folder = run.checkpoint if isinstance(run, Run) else Path(run)
    predictor = ClipPredictor.load(folder, models=models, device=device, offline=offline)
    words = None if subtitles is None else Path(subtitles)
    readings, ids, errors = [], [], []
    for path in paths:
        try:
            readings.append(predictor.read(path, words))
            ids.append(clip_id(path.stem))
        except ClipError as error:
            errors.append(error)
    if not readings:
        raise errors[0]
    for unreadable in errors:
        log.warning("%s", unreadable)
    return _table(predictor.task, ids, predictor.predict(readings, hidden))


def evaluate(
    predictions: pd.DataFrame | Folder, csv_path: Folder | Manifest, task: str = "hume_reaction", split: str = "Val"
) -> pd.DataFrame:
    """Score predictions against a manifest's labels.

    Parameters
    ----------
    predictions : as `Run.predict` returns them, indexed by clip; or a submission's CSV.
    csv_path : the manifest, or its path.

    Returns
    -------
    One row per target and one called "all", one column per metric of the task.
    """
    compared = _comparison(predictions, csv_path, task)(split)
    return _scores_table(evaluate_arrays(compared.task, compared.predicted, compared.true))


def plot(predictions: pd.DataFrame | Folder, csv_path: Folder | Manifest, task: str = "hume_reaction") -> Plots:
    """Return the figures of predictions against a manifest's labels: `viper.plot(...).confusion(split="Val")`.

    Parameters are those of `evaluate`.
    """
    return Plots(_comparison(predictions, csv_path, task))


class Run:
    """A trained model with the manifest and the features it was trained on; made by `train` and `load_run`.

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

    @cached_property
    def history(self) -> pd.DataFrame:
        """The training: one row per epoch, with the loss and every validation metric."""
        path = self.folder / METRICS_FILE
        if not path.is_file():
            raise UserError(f"{path}: no such file; the checkpoint was opened without its run")
        return pd.read_csv(path, index_col="epoch")

    def predict(
        self,
        split: str | FeatureStore | Features = "Test",
        *,
        batch_size: int = BATCH_SIZE,
        device: str = "auto",
    ) -> pd.DataFrame:
        """Predict a split of the manifest, or every clip of other stores.

        Parameters
        ----------
        split : Train, Val or Test; or a store, or modality -> store or folder, whose clips are predicted instead. Any
            of the run's modalities will do.

        Returns
        -------
        One row per clip, indexed by clip id; one column per target: the intensity, the probability of a class or label,
        or a preference task's utility.
        """
        if isinstance(split, str):
            data = self._opened.data(split, labelled=False)
        else:
            stores = self._stores(split)
            data = data_for(self.model, stores, _manifest_of(stores, self.task), "Test")
        return _table(self.task, data.clips, predict_stored(self.model, data, batch_size, choose_device(device)))

    def evaluate(self, split: str = "Val") -> pd.DataFrame:
        """Return the scores on a split's labels: one row per target and one called "all", one column per metric."""
        compared = self._compare(split)
        return _scores_table(evaluate_arrays(self.task, compared.predicted, compared.true))

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

    def _stores(self, features: FeatureStore | Features) -> dict[str, FeatureStore]:
        if isinstance(features, FeatureStore):
            features = {features.info.modality: features}
        return {name: FeatureStore.open(folder) for name, folder in _folders(features).items()}


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
            shown[f"validation {metric}"] = history[metric].to_list()
        return curves_over_epochs(history.index.to_list(), shown)


def _run(name: str, command: Callable[[Any], int], options: Any) -> None:
    """Run a command as a function, on record as if it were typed; an exit code that means failure is an error."""
    with running(name, arguments_of(options)):
        code = command(options)
    if code not in (0, 3):
        raise NothingDoneError(f"{name}: no clip could be done; {options.output_folder / 'failures.csv'} says why")


def _folders(features: Features) -> dict[str, Path]:
    if not isinstance(features, Mapping):
        raise UserError('features must be a dict such as {"visual": "features/visual"}')
    return {name: each.folder if isinstance(each, FeatureStore) else Path(each) for name, each in features.items()}


def _videos(paths: Sequence[Folder]) -> list[Path]:
    found = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such video or folder")
        found += [clip.path for clip in list_videos(path)] if path.is_dir() else [path]
    return found


def _manifest_of(stores: Mapping[str, FeatureStore], task: Task) -> Manifest:
    """Return a manifest of all clips of the stores, without labels."""
    clips = pd.Index(dict.fromkeys(clip for store in stores.values() for clip in store.clips()), name="clip")
    if clips.empty:
        raise UserError("no clip has features in these stores")
    table = pd.DataFrame({task.id_column: clips, task.split_column: "Test"}, index=clips)
    table[list(task.targets)] = np.nan
    return Manifest(next(iter(stores.values())).folder, task, table)


def _table(task: Task, clips: Sequence[str], rows: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(rows, index=pd.Index(clips, name="clip"), columns=list(task.targets))


def _scores_table(scores: Scores) -> pd.DataFrame:
    columns = {
        metric: {**{target: each.value for target, each in scores.targets.get(metric, {}).items()}, "all": score.value}
        for metric, score in scores.together.items()
    }
    targets = next((list(each) for each in scores.targets.values() if each), [])
    return pd.DataFrame(columns, index=pd.Index([*targets, "all"], name="target"))


def _comparison(
    predictions: pd.DataFrame | Folder, csv_path: Folder | Manifest, task: str
) -> Callable[[str], Compared]:
    manifest = csv_path if isinstance(csv_path, Manifest) else Manifest.load(csv_path, load_task(task))
    card = manifest.task
    table = predictions if isinstance(predictions, pd.DataFrame) else read_submission(predictions, card)
    if lacking := [target for target in card.targets if target not in table]:
        raise UserError(f"the predictions have no column {lacking[0]!r}; the task {card.name} asks for it")

    def compare(split: str) -> Compared:
        rows = manifest.split(split).labelled()
        if lacking := [clip for clip in rows.clips if clip not in table.index]:
            raise UserError(f"the predictions have no row for {len(lacking)} clips of {split}, such as {lacking[0]}")
        return Compared(card, rows.clips, table.loc[rows.clips, list(card.targets)].to_numpy(), rows.truth)

    return compare


__all__ = [
    "Run", "crop_images", "evaluate", "extract", "get_frame", "load_run", "plot", "predict", "train",
]  # fmt: skip
