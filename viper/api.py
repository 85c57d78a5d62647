"""viper from Python: the commands as functions.

The functions do what the commands of the same names do, with the same options, and raise what is wrong (UserError,
ClipError, NothingDoneError) instead of ending the process.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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
from viper.errors import ClipError, NothingDoneError, UserError, either, one_line
from viper.evaluation.metrics import evaluate as evaluate_arrays
from viper.evaluation.plots import Compared, Plots
from viper.evaluation.submission import read_submission
from viper.inference.predictor import ClipPredictor
from viper.logs import log, running
from viper.manifest import Manifest, clip_id
from viper.media.listing import MediaClip, Place, list_videos, one_each
from viper.runs import (
    WANTED,
    Features,
    Folder,
    Run,
    folders_of,
    load_run,
    names_of,
    path_of,
    predictions_table,
    scores_table,
)
from viper.store import MODALITIES, FeatureStore
from viper.task import Task, load_task


def get_frame(input_folder: Folder, output_folder: Folder, **options: Any) -> Path:
    """Take frames out of the videos of a folder; return the folder of frames.

    `options` are those of the command, such as n_frames=8 or sampling="events".
    """
    given = {"input_folder": path_of(input_folder, "input_folder"), "output_folder": _output(output_folder)}
    made = build(get_frame_command.GetFrameOptions, _plain(options), "get_frame", given=given)
    _run("get_frame", get_frame_command.run, made)
    return Path(output_folder)


def crop_images(input_folder: Folder, output_folder: Folder, **options: Any) -> Path:
    """Cut one person's face out of every frame of a folder of frames; return the folder of crops.

    `options` are those of the command, such as margin=0.2.
    """
    given = {"input_folder": path_of(input_folder, "input_folder"), "output_folder": _output(output_folder)}
    made = build(crop_images_command.CropImagesOptions, _plain(options), "crop_images", given=given)
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
    if modality not in list(EXTRACT_OPTIONS):
        raise UserError(f"extract: modality must be {either(list(EXTRACT_OPTIONS))}, not {modality!r}")
    given: dict[str, Any] = {"output_folder": _output(output_folder)}
    if input_folder is not None:
        given["input_folder"] = path_of(input_folder, "input_folder")
    name = f"extract_{modality}_features"
    _run(name, extract_features.run, build(EXTRACT_OPTIONS[modality], _plain(options), name, given=given))
    return FeatureStore.open(output_folder)


def train(csv_path: Folder, features: Features, output: Folder, **options: Any) -> Run:
    """Train a model on stored features; return its run.

    Parameters
    ----------
    csv_path : the manifest.
    features : modality -> its store or the store's folder, such as {"visual": "features/visual"}; or a list of stores.
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
    folders = folders_of(features)
    if not folders:
        raise UserError(f"no features given; {WANTED}")
    given: dict[str, Any] = {"csv_path": path_of(csv_path, "csv_path"), "output_checkpoint_folder": _output(output)}
    # What the features say already is no option here.
    given |= {f"{name}_features_input_folder": None for name in MODALITIES} | dict.fromkeys(MODALITIES, True)
    given |= {"n_seeds": 1, **feature_fields(folders)}
    made = build(train_perceiver.TrainOptions, _plain(options), "train", given=given)
    _run("train_perceiver", train_perceiver.run, made)
    return load_run(output)


def predict(
    videos: Folder | Sequence[Folder],
    run: Run | Folder,
    *,
    subtitles: Folder | None = None,
    hidden: str | Collection[str] = (),
    models: Mapping[str, str] | None = None,
    device: str = "auto",
    offline: bool = False,
) -> pd.DataFrame:
    """Predict new videos: their frames, faces, sound and words go through the encoders the run was trained with.

    Parameters
    ----------
    videos : a video, a folder of videos, or several of either.
    run : a run, its folder, or a checkpoint's.
    subtitles : folder of <video>.srt, <video>.en.vtt and the like; default: beside each video, or inside it.
    hidden : modalities to leave out.
    models : modality -> name or folder of its model on this machine, where that is not the recorded one.
    offline : never touch the network.

    Returns
    -------
    One row per video, indexed by clip id, one column per target. A video that cannot be read is left out with a
    warning; if none can be, ClipError says why.
    """
    if isinstance(videos, Run):
        raise UserError("viper.predict(videos, run): the videos come first")
    clips = _videos(videos if isinstance(videos, list | tuple) else [videos])  # type: ignore[list-item]
    words = None if subtitles is None else path_of(subtitles, "subtitles")
    if words is not None and not words.exists():
        raise UserError(f"subtitles {words}: no such file or folder")
    predictor = ClipPredictor.load(path_of(run, "run"), models=models, device=device, offline=offline)
    readings, ids, errors = [], [], []
    for clip in clips:
        try:
            clip.check()
            readings.append(predictor.read(clip.path, words))
            ids.append(clip.id)
        except ClipError as error:
            errors.append(error)
    if not readings:
        raise errors[0]
    for unreadable in errors:
        log.warning("%s", unreadable)
    return predictions_table(predictor.task, ids, predictor.predict(readings, names_of(hidden)))


def evaluate(
    predictions: pd.DataFrame | Folder,
    csv_path: Folder | Manifest,
    task: Task | Folder = "hume_reaction",
    split: str = "Val",
) -> pd.DataFrame:
    """Score predictions against a manifest's labels.

    Parameters
    ----------
    predictions : as `Run.predict` returns them, indexed by clip; or the path of a CSV: such a table, or a submission.
    csv_path : the manifest, or its path.
    task : a card's name, its YAML, or a `Task`; a manifest that is loaded has its own.

    Returns
    -------
    One row per target and one called "all", one column per metric of the task.
    """
    compared = _comparison(predictions, csv_path, task)(split)
    return scores_table(evaluate_arrays(compared.task, compared.predicted, compared.true))


def plot(
    predictions: pd.DataFrame | Folder, csv_path: Folder | Manifest, task: Task | Folder = "hume_reaction"
) -> Plots:
    """Return the figures of predictions against a manifest's labels: `viper.plot(...).confusion(split="Val")`.

    Parameters are those of `evaluate`.
    """
    return Plots(_comparison(predictions, csv_path, task))


def _run(name: str, command: Callable[[Any], int], options: Any) -> None:
    """Run a command as a function, on record as if it were typed; an exit code that means failure is an error."""
    with running(name, arguments_of(options)):
        code = command(options)
    if code not in (0, 3):
        raise NothingDoneError(f"{name}: no clip could be done; {options.output_folder / 'failures.csv'} says why")


def _output(value: Any) -> Path:
    path = path_of(value, "the output folder")
    for each in (path, *path.parents):
        if each.exists() and not each.is_dir():
            raise UserError(f"{each}: is a file, where a folder is wanted")
    return path


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with NumPy's numbers as Python's."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}


def _videos(paths: Sequence[Folder]) -> list[MediaClip]:
    found: list[MediaClip] = []
    for path in [path_of(each, "a video") for each in paths]:
        if not path.exists():
            raise UserError(f"{path}: no such video or folder")
        found += list_videos(path) if path.is_dir() else one_each([Place((path.stem,), str(path), False)], None)
    if not found:
        raise UserError("no video given")
    return found


def _comparison(
    predictions: pd.DataFrame | Folder, csv_path: Folder | Manifest, task: Task | Folder
) -> Callable[[str], Compared]:
    if isinstance(csv_path, Manifest):
        manifest = csv_path
    else:
        card = task if isinstance(task, Task) else load_task(str(path_of(task, "task")))
        manifest = Manifest.load(path_of(csv_path, "csv_path"), card)
    card = manifest.task
    table = _predictions(predictions, card)

    def compare(split: str) -> Compared:
        rows = manifest.split(split).labelled()
        if lacking := [clip for clip in rows.clips if clip not in table.index]:
            raise UserError(f"the predictions have no row for {len(lacking)} clips of {split}, such as {lacking[0]}")
        return Compared(card, rows.clips, table.loc[rows.clips].to_numpy(), rows.truth)

    return compare


def _predictions(predictions: pd.DataFrame | Folder, task: Task) -> pd.DataFrame:
    """Return the task's targets as numbers, one row per clip, indexed by clip id; anything else is a UserError."""
    table = predictions
    if not isinstance(table, pd.DataFrame):
        path = path_of(predictions, "predictions, if no DataFrame,")
        is_table = path.is_file() and path.read_bytes()[:5] == b"clip,"
        try:
            table = pd.read_csv(path, dtype={"clip": str}) if is_table else read_submission(path, task)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({one_line(str(error))})") from error
    if table.index.name != "clip":
        for column in ("clip", task.id_column):
            if column in table:
                table = table.set_index(column)
                break
    if lacking := [target for target in task.targets if target not in table]:
        raise UserError(f"the predictions have no column {lacking[0]!r}; the task {task.name} asks for it")
    table = table[list(task.targets)].set_axis([clip_id(str(clip)) for clip in table.index])
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise UserError(f"the predictions have two rows for the clip {twice}")
    try:
        return table.astype(float)
    except (TypeError, ValueError) as error:
        raise UserError(f"the predictions hold something that is not a number ({error})") from None


__all__ = ["crop_images", "evaluate", "extract", "get_frame", "plot", "predict", "train"]
