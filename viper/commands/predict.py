"""predict: new videos straight to a checkpoint's predictions, without a file in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from viper.engine.job import FolderOptions
from viper.engine.progress import Progress
from viper.errors import ClipError, NothingDoneError, UserError, one_line
from viper.evaluation.submission import submission_path, write_submission, write_timelines
from viper.logs import command_line, log, say
from viper.media.listing import MediaClip, Place, list_videos, one_each

if TYPE_CHECKING:
    from viper.inference.predictor import ClipPredictor, ClipReading
    from viper.inference.reader import Words
    from viper.inference.timeline import Timeline
    from viper.report.prediction import VideoPrediction
    from viper.task import Task


@dataclass(kw_only=True)
class PredictorOptions:
    """A checkpoint, and the models and device of its encoders."""

    model_path: Path
    """A checkpoint folder, or a run (then its best)."""
    models: Annotated[list[str], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=MODEL")] = field(
        default_factory=list
    )
    """Local model of a modality, such as visual=FOLDER; repeat for others. CLIP prompts have two models, written
    'textual=CLIP + TEXT'."""
    device: str = "auto"
    """Device of the models: auto, cpu, cuda, cuda:1, mps ..."""
    offline: bool = False
    """Never touch the network (as HF_HUB_OFFLINE=1 does)."""

    def models_by_name(self) -> dict[str, str]:
        """Return modality -> model of those given; a wrong pair is a UserError."""
        models: dict[str, str] = {}
        for pair in self.models:
            name, separator, model = pair.partition("=")
            if not (name and separator and model):
                raise UserError(f"--models {pair}: must be NAME=MODEL, such as visual=FOLDER")
            models[name] = model
        return models

    def predictor(self) -> ClipPredictor:
        """Load the checkpoint and those of its encoders that can run here."""
        # Not above: importing torch takes seconds, and --help should not.
        from viper.inference.predictor import ClipPredictor

        models = self.models_by_name()
        return ClipPredictor.load(self.model_path, models=models, device=self.device, offline=self.offline)


@dataclass(kw_only=True)
class PredictOptions(PredictorOptions, FolderOptions):
    """Predict new videos: the encoders that made the checkpoint's features run here, in memory.

    Only --csv and --html write files. A modality whose model, sound or subtitles are missing is left out.
    """

    videos: Annotated[list[Path], tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO ...")]
    """Videos, or folders of videos."""
    csv: Path | None = None
    """Write the predictions there, as submission_creation does (default: print a table)."""
    html: Path | None = None
    """Write a page there: bars, faces, and with --every predictions over time."""
    every: float | None = None
    """Predict over time: seconds from the start of one piece of the video to the next, each predicted as a clip."""
    window: float | None = None
    """Seconds per piece (default: --every). A last piece shorter than half of this is joined to the one before."""
    subtitles: Path | None = None
    """Folder of <video>.srt, <video>.en.vtt and the like (default: beside the videos, or inside them). With
    --subfolders they are in the same subfolders there, or named by the clip's id."""
    language: str | None = None
    """Language of the subtitles to read where there are several, such as en (default: as in training)."""
    encoding: str | None = None
    """Encoding of the subtitles, such as cp1251 (default: detected for each)."""
    sound_track: int | None = None
    """Which sound track to read of every video, from 1 (default: as in training)."""

    def predictor(self) -> ClipPredictor:
        """Load the checkpoint and those of its encoders that can run here."""
        from viper.inference.predictor import ClipPredictor
        from viper.media.subtitles import WordRules

        return ClipPredictor.load(
            self.model_path, models=self.models_by_name(), device=self.device, offline=self.offline,
            words=WordRules(language=self.language, encoding=self.encoding), sound_track=self.sound_track,
        )  # fmt: skip


def run(options: PredictOptions) -> int:
    """Predict the videos and return the exit code."""
    _check(options)
    options.models_by_name()  # a wrong one is said before anything is read
    clips = _clips(options.videos, options.separator)
    predictor = options.predictor()
    try:
        timelines, failures = _predict(options, predictor, clips)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was written") from None
    if not timelines:
        raise NothingDoneError(f"predict: none of the {len(clips)} videos could be predicted")
    if options.csv is not None:
        ids = {clip.path: clip.id for clip in clips}
        named = [(ids[timeline.path], timeline) for timeline in timelines]
        _write_csv(submission_path(options.csv), predictor.task, named, options.every is not None)
    if options.html is not None:
        _write_page(options, predictor, timelines, failures)
    if options.csv is None:
        say(*_table(predictor.task, timelines, options.every is not None).split("\n"))
    outputs = ", ".join(str(path) for path in (options.csv, options.html) if path is not None)
    log.info("predict: %d done, %d failed%s", len(timelines), len(failures), outputs and f" -> {outputs}")
    return 3 if failures else 0


def _check(options: PredictOptions) -> None:
    """Check, before a network is loaded, what would fail after an hour."""
    from viper.media.sound import SoundRule
    from viper.media.subtitles import WordRules
    from viper.media.windows import check_windows

    SoundRule(options.sound_track)  # a wrong one is a UserError
    if options.every is None and options.window is not None:
        raise UserError(f"--window {options.window:g}: is for --every SECONDS")
    if options.every is not None:
        check_windows(options.every, options.every if options.window is None else options.window)
    WordRules(language=options.language, encoding=options.encoding).check()
    if options.subtitles is not None and not options.subtitles.is_dir():
        raise UserError(f"--subtitles {options.subtitles}: no such folder")
    if options.html is not None and (options.html.is_dir() or options.html.suffix.lower() not in (".html", ".htm")):
        raise UserError(f"--html {options.html}: give the page a name that ends in .html")
    for path in (None if options.csv is None else submission_path(options.csv), options.html):
        if path is not None:
            place = next(folder for folder in path.absolute().parents if folder.exists())
            if not place.is_dir():
                raise UserError(f"{path}: cannot be written, {place} is a file")


def _clips(paths: Sequence[Path], separator: str | None) -> list[MediaClip]:
    """Return the videos named and those of folders, with ids of their names; two of one id are a UserError."""
    if not paths:
        raise UserError("name at least one video, or a folder of videos")
    clips: dict[str, MediaClip] = {}
    for path in paths:
        if path.is_dir():
            found = list_videos(path, separator)
        elif path.exists() or path.is_symlink():
            found = one_each([Place((path.stem,), str(path), False)], separator)
        else:
            raise UserError(f"{path}: no such video or folder")
        for clip in found:
            other = clips.setdefault(clip.id, clip)
            if other is not clip and other.path.resolve() != clip.path.resolve():
                raise UserError(f"{other.path} and {clip.path} would both be clip {clip.id!r}; predict them apart")
    return list(clips.values())


def _predict(
    options: PredictOptions, predictor: ClipPredictor, clips: Sequence[MediaClip]
) -> tuple[list[Timeline], dict[str, str]]:
    """Return the timelines of the videos that can be read, and why the others cannot, by what they are called."""
    from viper.inference.timeline import Timeline, predict_together

    timelines: list[Timeline] = []
    failures: dict[str, str] = {}
    called = Counter(clip.path.name for clip in clips)
    with Progress("predict", len(clips)) as progress:
        for clip in clips:
            name = clip.path.name if called[clip.path.name] == 1 else f"{clip.id}{clip.path.suffix}"
            timeline = Timeline(predictor, clip.path, options.html is not None, name)
            try:
                clip.check()
                for reading in _readings(options, predictor, clip):
                    timeline.add(reading)
                timeline.check()
            except UserError:
                raise
            except Exception as error:  # whatever a library raises of a file: the others go on
                text = str(error) if isinstance(error, ClipError) else f"{type(error).__name__}: {error}"
                failures[name] = one_line(text)
                log.warning("%s", failures[name])
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


def _readings(options: PredictOptions, predictor: ClipPredictor, clip: MediaClip) -> Iterator[ClipReading]:
    words = _words(options, clip)
    if options.every is None:
        yield predictor.read(clip.path, words)
    else:
        yield from predictor.read_windows(clip.path, options.every, options.window, words)


def _words(options: PredictOptions, clip: MediaClip) -> Words:
    """Return where a video's subtitles are: with --subfolders, by its id or in the same subfolder."""
    if options.subtitles is None or options.separator is None:
        return options.subtitles
    from viper.inference.reader import WordFolder

    folders = [path for path in options.videos if path.is_dir() and clip.path.is_relative_to(path)]
    below = clip.path.parent.relative_to(folders[0]) if folders else Path()
    return WordFolder(options.subtitles, clip.id, below)


def _say_absent(predictor: ClipPredictor, timeline: Timeline) -> None:
    """Log what this video lacks; what no video can have was logged before."""
    here = {name: reason for name, reason in timeline.absent.items() if name not in predictor.unavailable}
    if here:
        from viper.inference.predictor import in_words

        log.info("%s: without %s", timeline.name, in_words(here))


def _write_csv(path: Path, task: Task, timelines: Sequence[tuple[str, Timeline]], in_pieces: bool) -> None:
    if in_pieces:
        write_timelines(path, task, [(clip, timeline.spans, timeline.rows) for clip, timeline in timelines])
    else:
        rows = np.concatenate([timeline.rows for _, timeline in timelines])
        write_submission(path, task, [clip for clip, _ in timelines], rows)


def _table(task: Task, timelines: Sequence[Timeline], in_pieces: bool) -> str:
    """Return what the CSV would hold, for people."""
    import pandas as pd

    lines = []
    for timeline in timelines:
        for (start, end), row in zip(timeline.spans, timeline.rows, strict=True):
            line: dict[str, object] = {"video": timeline.name}
            line |= {"start": start, "end": end} if in_pieces else {}
            if task.label_column is not None:
                line[task.label_column] = "-" if np.isnan(row).any() else task.targets[int(row.argmax())]
            lines.append(line | dict(zip(task.targets, row.tolist(), strict=True)))
    return pd.DataFrame(lines).to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="-")


def _write_page(
    options: PredictOptions, predictor: ClipPredictor, timelines: Sequence[Timeline], failures: Mapping[str, str]
) -> None:
    # Not above: matplotlib takes half a second to import, and --help should not.
    from viper.report.prediction import PredictionPage, VideoPrediction, write_prediction

    assert options.html is not None
    task = predictor.task
    videos = [_video(task, timeline, options.every is not None) for timeline in timelines]
    for name, reason in failures.items():
        videos.append(VideoPrediction(name, 0.0, {}, "", [], {}, error=reason.removeprefix(f"{name}: ")))
    page = PredictionPage(
        title=f"Prediction: {videos[0].name}" if len(videos) == 1 else f"Predictions: {len(videos)} videos",
        model=_facts(options, predictor),
        targets=list(task.targets),
        range=task.range,
        videos=videos,
        command=command_line(),
    )
    write_prediction(page, options.html)


def _facts(options: PredictOptions, predictor: ClipPredictor) -> dict[str, str]:
    """Return facts about the model, for the reader of the page."""
    facts = {"Checkpoint": str(options.model_path), "Task": predictor.task.name}
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
        name=timeline.name,
        seconds=timeline.spans[-1][1],
        summary=f"mean of {known.sum()} pieces of {end - start:g} s" if in_pieces else "the whole video",
        values=dict(zip(task.targets, means.tolist(), strict=True)),
        used=timeline.used,
        absent=timeline.absent,
        faces=[Thumbnail(time, image) for time, image in timeline.thumbnails],
        times=[(start + end) / 2 for start, end in timeline.spans] if in_pieces else [],
        timeline=dict(zip(task.targets, rows.T.tolist(), strict=True)) if in_pieces else {},
    )
