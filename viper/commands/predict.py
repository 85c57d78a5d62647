"""predict: new videos straight to a checkpoint's predictions, without a file in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from viper.commands.common import command_line, log
from viper.commands.predictor_options import PredictorOptions
from viper.engine.progress import Progress
from viper.errors import ClipError, NothingDoneError, UserError, one_line
from viper.evaluation.submission import submission_cells, submission_path, write_submission
from viper.files import csv_text, write_text
from viper.manifest import clip_id
from viper.media.listing import MediaClip, list_videos

if TYPE_CHECKING:
    from viper.inference.predictor import ClipPredictor, ClipReading
    from viper.inference.timeline import Timeline
    from viper.report.prediction import VideoPrediction
    from viper.task import Task


@dataclass(kw_only=True)
class PredictOptions(PredictorOptions):
    """New videos straight to predictions: the encoders that made the checkpoint's features run here, in memory.

    Nothing is written but what is asked for. A modality whose model, sound or subtitles are missing is left out.
    """

    videos: Annotated[list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO ...")]
    """Videos, or folders of videos."""
    csv: Path | None = None
    """Write the predictions there, as submission_creation does; without it they are shown as a table."""
    html: Path | None = None
    """Write a page there: bars, faces, and with --every the predictions over time."""
    every: float | None = None
    """Cut each video into pieces that begin so many seconds apart, and predict each as a clip of its own."""
    window: float | None = None
    """Seconds a piece lasts; by default as --every. What is left at the end is a piece of its own from half of it on,
    and else belongs to the piece before."""
    subtitles: Path | None = None
    """Folder of <video>.srt or <video>.vtt, where they are not beside the videos."""


def run(config: PredictOptions) -> int:
    """Runs the stage; answers the exit code."""
    _check(config)
    config.models_by_name()  # a wrong one is said before anything is read
    clips = _clips(config.videos)
    predictor = config.predictor()
    try:
        timelines, failures = _predict(config, predictor, clips)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was written") from None
    if not timelines:
        raise NothingDoneError(f"predict: none of the {len(clips)} videos could be predicted")
    if config.csv is not None:
        _write_csv(submission_path(config.csv), predictor.task, timelines, config.every is not None)
    if config.html is not None:
        _write_page(config, predictor, timelines, failures)
    if config.csv is None:
        print(_table(predictor.task, timelines, config.every is not None), flush=True)
    outputs = ", ".join(str(path) for path in (config.csv, config.html) if path is not None)
    log.info("predict: %d done, %d failed%s", len(timelines), len(failures), outputs and f" -> {outputs}")
    return 3 if failures else 0


def _check(config: PredictOptions) -> None:
    """Before a network is loaded: what would go wrong after an hour."""
    from viper.media.windows import check_windows

    if config.every is None and config.window is not None:
        raise UserError(f"--window {config.window:g}: is for --every SECONDS")
    if config.every is not None:
        check_windows(config.every, config.every if config.window is None else config.window)
    if config.subtitles is not None and not config.subtitles.is_dir():
        raise UserError(f"--subtitles {config.subtitles}: no such folder")
    if config.html is not None and (config.html.is_dir() or config.html.suffix.lower() not in (".html", ".htm")):
        raise UserError(f"--html {config.html}: give the page a name that ends in .html")
    for path in (None if config.csv is None else submission_path(config.csv), config.html):
        if path is not None:
            place = next(folder for folder in path.absolute().parents if folder.exists())
            if not place.is_dir():
                raise UserError(f"{path}: cannot be written, {place} is a file")


def _clips(paths: Sequence[Path]) -> list[MediaClip]:
    """The videos that are named, and those of folders; ids are the files' names. Two of one id are a UserError."""
    if not paths:
        raise UserError("name at least one video, or a folder of videos")
    clips: dict[str, MediaClip] = {}
    for path in paths:
        if path.is_dir():
            found = list_videos(path)
        elif path.exists():
            try:
                found = [MediaClip(clip_id(path.stem), path)]
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
        else:
            raise UserError(f"{path}: no such video or folder")
        for clip in found:
            other = clips.setdefault(clip.id, clip)
            if other is not clip and other.path.resolve() != clip.path.resolve():
                raise UserError(f"{other.path} and {clip.path} would both be clip {clip.id!r}; predict them apart")
    return list(clips.values())


def _predict(
    config: PredictOptions, predictor: ClipPredictor, clips: Sequence[MediaClip]
) -> tuple[list[Timeline], dict[str, str]]:
    """The timelines of the videos that can be read, and why the others cannot."""
    from viper.inference.timeline import Timeline, predict_together

    timelines: list[Timeline] = []
    failures: dict[str, str] = {}
    with Progress("predict", len(clips)) as progress:
        for clip in clips:
            timeline = Timeline(predictor, clip.path, with_pictures=config.html is not None)
            try:
                for reading in _readings(config, predictor, clip.path):
                    timeline.add(reading)
                timeline.check()
            except UserError:
                raise
            except Exception as error:  # whatever a library raises of a file: the others go on
                text = str(error) if isinstance(error, ClipError) else f"{type(error).__name__}: {error}"
                failures[clip.path.name] = one_line(text)
                log.warning("%s", failures[clip.path.name])
            else:
                _say_absent(predictor, timeline)
                timelines.append(timeline)
            progress.advance(len(failures))
    if predictor.group_column is not None and timelines:
        log.info(
            "features are standardised within %s: these %d videos count as one group, and a prediction depends on the "
            "others", predictor.group_column, len(timelines)
        )  # fmt: skip
        predict_together(predictor, timelines)
    return timelines, failures


def _readings(config: PredictOptions, predictor: ClipPredictor, path: Path) -> Iterator[ClipReading]:
    if config.every is None:
        yield predictor.read(path, config.subtitles)
    else:
        yield from predictor.read_windows(path, config.every, config.window, config.subtitles)


def _say_absent(predictor: ClipPredictor, timeline: Timeline) -> None:
    """What this video lacks; what no video can have was said before."""
    here = {name: reason for name, reason in timeline.absent.items() if name not in predictor.unavailable}
    if here:
        from viper.inference.predictor import in_words

        log.info("%s: without %s", timeline.path.name, in_words(here))


def _write_csv(path: Path, task: Task, timelines: Sequence[Timeline], in_pieces: bool) -> None:
    ids = [clip_id(timeline.path.stem) for timeline in timelines]
    if not in_pieces:
        write_submission(path, task, ids, np.concatenate([timeline.rows for timeline in timelines]))
        return
    place = _span_place(task)
    rows = [[*list(task.submission_columns)[:place], "start", "end", *list(task.submission_columns)[place:]]]
    for identifier, timeline in zip(ids, timelines, strict=True):
        for span, row in zip(timeline.spans, timeline.rows, strict=True):
            cells = submission_cells(task, identifier, row)
            rows.append([*cells[:place], *(f"{second:.3f}" for second in span), *cells[place:]])
    write_text(path, csv_text(rows))


def _span_place(task: Task) -> int:
    """Where the columns of a piece's start and end stand: after the id."""
    columns = list(task.submission_columns.values())
    return columns.index(task.id_column) + 1 if task.id_column in columns else 0


def _table(task: Task, timelines: Sequence[Timeline], in_pieces: bool) -> str:
    """What the CSV would hold, for people."""
    import pandas as pd

    lines = []
    for timeline in timelines:
        for (start, end), row in zip(timeline.spans, timeline.rows, strict=True):
            line: dict[str, object] = {"video": timeline.path.name}
            line |= {"start": start, "end": end} if in_pieces else {}
            if task.label_column is not None:
                line[task.label_column] = "-" if np.isnan(row).any() else task.targets[int(row.argmax())]
            lines.append(line | dict(zip(task.targets, row.tolist(), strict=True)))
    return pd.DataFrame(lines).to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="-")


def _write_page(
    config: PredictOptions, predictor: ClipPredictor, timelines: Sequence[Timeline], failures: Mapping[str, str]
) -> None:
    # Not above: matplotlib takes half a second to import, and --help should not.
    from viper.report.prediction import PredictionPage, VideoPrediction, write_prediction

    assert config.html is not None
    task = predictor.task
    videos = [_video(task, timeline, config.every is not None) for timeline in timelines]
    for name, reason in failures.items():
        videos.append(VideoPrediction(name, 0.0, {}, "", [], {}, error=reason.removeprefix(f"{name}: ")))
    page = PredictionPage(
        title=f"{len(videos)} video{'s' * (len(videos) != 1)} with {'/'.join(config.model_path.absolute().parts[-2:])}",
        model=_facts(config, predictor),
        targets=list(task.targets),
        range=task.range,
        videos=videos,
        command=command_line(),
    )
    write_prediction(page, config.html)


def _facts(config: PredictOptions, predictor: ClipPredictor) -> dict[str, str]:
    """What a reader should know of what answered."""
    facts = {"Checkpoint": str(config.model_path), "Task": predictor.task.name}
    facts["Modalities"] = ", ".join(name for name in predictor.modalities if name not in predictor.unavailable)
    facts |= {f"Without {name}": reason for name, reason in predictor.unavailable.items()}
    if predictor.group_column is not None:
        facts["Standardised within"] = f"{predictor.group_column}: the videos of this page count as one group"
    return facts


def _video(task: Task, timeline: Timeline, in_pieces: bool) -> VideoPrediction:
    from viper.report.content import Thumbnail
    from viper.report.prediction import VideoPrediction

    rows, (start, end) = timeline.rows.astype(float), timeline.spans[0]
    known = ~np.isnan(rows).any(axis=1)
    means = rows[known].mean(axis=0) if known.any() else rows[0]
    return VideoPrediction(
        name=timeline.path.name,
        seconds=timeline.spans[-1][1],
        summary=f"mean of {known.sum()} pieces of {end - start:g} s" if in_pieces else "the whole video",
        values=dict(zip(task.targets, means.tolist(), strict=True)),
        used=timeline.used,
        absent=timeline.absent,
        faces=[Thumbnail(time, image) for time, image in timeline.thumbnails],
        times=[(start + end) / 2 for start, end in timeline.spans] if in_pieces else [],
        timeline=dict(zip(task.targets, rows.T.tolist(), strict=True)) if in_pieces else {},
    )
