"""prepare: label files as datasets' authors ship them -> a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from viper.datasets import Columns, FormatName, Labels, ReadOptions, read_labels
from viper.datasets.clip_files import find_media, link_clips
from viper.datasets.pipeline_file import choose_features, default_faces, pipeline_text
from viper.datasets.splits import SplitOptions, SplitReport, crossing_groups, make_splits
from viper.datasets.v2v import components, drop_crossing
from viper.errors import UserError
from viper.files import csv_text, write_text
from viper.logs import log, shell_line
from viper.manifest import SPLITS, Manifest, clip_id, preferences_path
from viper.media.pictures import IMAGE_SUFFIXES
from viper.task import Task, load_task

MAX_GROUPS_SHOWN = 30


@dataclass(kw_only=True)
class PrepareOptions:
    """Make a manifest out of the label files that come with a dataset; docs/datasets.md says which, for each."""

    task: tyro.conf.Positional[str]
    """The task: a card's name (viper tasks lists them) or path."""
    source: Path
    """The dataset's folder, or its file of labels."""
    output: Path
    """The manifest to write; for a preference task also <manifest>_preferences.csv beside it."""
    overwrite: bool = False
    """Replace a manifest, links or a YAML that are there already and differ."""
    format: FormatName = "auto"
    """How the labels are written; auto: as this task's dataset ships them, and else by what the source is."""
    id_column: str | None = None
    """Column of ids or paths, in a CSV."""
    label_column: str | None = None
    """Column of classes, or of words between semicolons, in a CSV."""
    split_column: str | None = None
    """Column of splits, in a CSV."""
    classes: Path | None = None
    """For multi-label tasks: a JSON {class: [words]} of the words that mean each class, besides its own name."""
    lists_split: Literal["Train", "Val", "Test"] = "Test"
    """For V2V: the split of the lists of three and four."""
    keep: Annotated[list[str], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="COLUMN=VALUE")] = field(
        default_factory=list
    )
    """Leave out all clips but those with this value, such as modality=audio-only; may be given again."""
    group_column: str | None = None
    """Splits that have to be made never part the clips of one value of this column. By default the card's group."""
    val_share: float = 0.15
    """Share of clips of a Val that has to be made; of Train's, where the dataset has Train and Test."""
    test_share: float = 0.15
    """Share of clips of a Test that has to be made."""
    seed: int = 0
    """Seed of the splits that have to be made."""
    val_groups: list[str] = field(default_factory=list)
    """Groups, by name, that are Val, whatever split the dataset has."""
    test_groups: list[str] = field(default_factory=list)
    """Groups, by name, that are Test, whatever split the dataset has: leave one speaker out."""
    media_folder: Path | None = None
    """Where the media files lie, at any depth. By default the source's folder."""
    clips_folder: Path | None = None
    """Make a flat folder of links <id>.<suffix> to them, as get_frame and extract_audio_features want it."""
    pipeline: Path | None = None
    """Also write a YAML for viper pipeline."""
    features: list[str] = field(default_factory=list)
    """Models for that YAML: short names such as hog or logmel, or MODALITY=MODEL. By default the pretrained ones."""
    faces: Literal["auto", "yes", "no"] = "auto"
    """Whether that YAML crops faces; auto: where the labels are about the person who is seen."""


def run(options: PrepareOptions) -> int:
    """Run the stage; return the exit code."""
    task = load_task(options.task)
    labels = read_labels(task, options.source, _read_options(options))
    files: dict[str, Path] = {}
    if options.clips_folder or options.pipeline:
        files = find_media(labels, _media_folder(options), options.clips_folder)
        labels.check()
    report = _split(labels, task, options)
    files = {clip.id: files[clip.id] for clip in labels.clips if clip.id in files}
    written = {options.output: _manifest_text(labels, task)}
    if task.kind == "preference":
        written = {preferences_path(options.output): _preferences_text(labels), **written}
    if options.pipeline:
        written[options.pipeline] = _pipeline(options, task, labels, files)
    for path, text in written.items():
        _refuse_other(path, text, options.overwrite)
    if options.clips_folder:
        others = link_clips(files, options.clips_folder, options.overwrite)
        if others:
            log.warning("%s: %d further entries, which are no clips of this manifest", options.clips_folder, others)
    for path, text in written.items():
        write_text(path, text)
    manifest = Manifest.load(options.output, task)
    _summarise(manifest, labels, report, options)
    return 0


def _read_options(options: PrepareOptions) -> ReadOptions:
    keep = {}
    for pair in options.keep:
        column, separator, value = pair.partition("=")
        if not column or not separator:
            raise UserError(f"--keep {pair}: must be COLUMN=VALUE")
        keep[column] = value
    return ReadOptions(
        options.format,
        Columns(options.id_column, options.label_column, options.split_column),
        options.classes,
        options.lists_split,
        keep,
        options.clips_folder,
    )


def _media_folder(options: PrepareOptions) -> Path:
    if options.media_folder is not None:
        return options.media_folder
    return options.source if options.source.is_dir() else options.source.parent


def _split(labels: Labels, task: Task, options: PrepareOptions) -> SplitReport:
    """Make the splits there are not, by groups where any are known."""
    how = SplitOptions(
        options.val_share, options.test_share, options.seed, tuple(options.val_groups), tuple(options.test_groups)
    )
    if task.kind == "preference":
        return _split_orders(labels, how)
    groups = _groups(labels, task, options)
    if groups is None and any(clip.split is None for clip in labels.clips):
        log.warning("no groups are known (--group_column): splits are made clip by clip")
    elif how.test_groups or how.val_groups:
        log.info("groups are named: the dataset's own splits, where it has any, are not used")
    strata = None
    if task.label_column is not None:
        strata = {clip.id: clip.labels[task.label_column] for clip in labels.clips}
    report = make_splits(labels.clips, groups, how, strata)
    crossing = [] if groups is None else crossing_groups(labels.clips, groups)
    if crossing:
        log.warning("the dataset's own splits part %d groups, such as %s", len(crossing), ", ".join(crossing[:3]))
    return report


def _groups(labels: Labels, task: Task, options: PrepareOptions) -> dict[str, str] | None:
    """Return clip id -> its group, or None where none is known."""
    column = options.group_column or task.group_column
    lacking = [clip for clip in labels.clips if not (column and clip.extra.get(column))]
    if not lacking:
        return {clip.id: clip.extra[str(column)] for clip in labels.clips}
    if len(lacking) < len(labels.clips) and (options.group_column or lacking[0].split is None):
        raise UserError(f"{lacking[0].where}: has no {column}, by which splits are made; fill it in")
    if options.group_column:
        there = sorted({name for clip in labels.clips for name in clip.extra})
        raise UserError(f"--group_column {column}: there is no such column; there are {', '.join(there) or 'none'}")
    return None


def _split_orders(labels: Labels, options: SplitOptions) -> SplitReport:
    """Take Val out of Train so that clips that were compared stay together, where that is possible."""
    if options.val_groups or options.test_groups:
        raise UserError("--val_groups and --test_groups: clips of a preference task go by who is compared with whom")
    groups = components(labels.orders)
    training = [clip for clip in labels.clips if clip.split == "Train"]
    sizes = Counter(groups[clip.id] for clip in training)
    small = len(training) - max(sizes.values(), default=0)
    if small >= options.val_share * len(training):
        report = make_splits(labels.clips, groups, options)
        report.groups = {}  # hundreds, and without names
        return report
    labels.notes.append(
        f"{max(sizes.values())} of {len(training)} Train clips are joined by comparisons: Val is made clip by clip"
    )
    report = make_splits(labels.clips, None, options)
    drop_crossing(labels)
    return report


def _manifest_text(labels: Labels, task: Task) -> str:
    """Return ids, splits, labels, then the further columns in the order in which they first appear."""
    extra = list(dict.fromkeys(name for clip in labels.clips for name in clip.extra))
    own = [task.id_column, task.split_column, *task.label_columns]
    extra = [name for name in extra if name not in own]
    rows = [
        [clip.file_id, clip.split, *(clip.labels[name] for name in task.label_columns),
         *(clip.extra.get(name, "") for name in extra)]
        for clip in labels.clips
    ]  # fmt: skip
    return _csv([[*own, *extra], *rows])


def _preferences_text(labels: Labels) -> str:
    width = max(len(order) for order in labels.orders)
    header = [f"rank_{rank}" for rank in range(1, width + 1)]
    return _csv([header, *([*order, *[""] * (width - len(order))] for order in labels.orders)])


def _csv(rows: Sequence[Sequence[str | None]]) -> str:
    text = csv_text(rows)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"a label has {error.object[error.start : error.end]!r}, which is not a character") from None
    return text


def _refuse_other(path: Path, text: str, overwrite: bool) -> None:
    """Refuse to replace a file that differs, by a single byte, unless it may be replaced."""
    if path.exists() and not overwrite and (not path.is_file() or path.read_bytes() != text.encode()):
        raise UserError(f"{path}: already exists and differs; use --overwrite to replace it")


def _pipeline(options: PrepareOptions, task: Task, labels: Labels, files: Mapping[str, Path]) -> str:
    assert options.pipeline is not None
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in files.values()):
        raise UserError("--pipeline: starts from videos or sounds; these are pictures, see docs/datasets.md")
    faces = default_faces(task) if options.faces == "auto" else options.faces == "yes"
    videos = options.clips_folder
    if videos is None:
        folders = {path.parent for path in files.values()}
        if len(folders) > 1 or any(clip_id(path.stem) != identifier for identifier, path in files.items()):
            raise UserError("--pipeline: the files lie in several folders, or under other names: give --clips_folder")
        videos = folders.pop()
    features = choose_features(options.features, files, faces)
    has_test = any(clip.split == "Test" for clip in labels.clips)
    return pipeline_text(options.pipeline, options.task, options.output, videos, features, faces, has_test)


def _summarise(manifest: Manifest, labels: Labels, report: SplitReport, options: PrepareOptions) -> None:
    for note in labels.notes:
        log.info("%s", note)
    for reason, what in labels.dropped.items():
        counts = Counter(what)
        shown = ", ".join(f"{name} ({n})" if n > 1 else name for name, n in counts.most_common(3))
        log.warning("left out: %d %s (%s%s)", len(what), reason, shown, ", ..." if len(counts) > 3 else "")
    if report.made:
        log.info("made here, with seed %d: %s", options.seed, ", ".join(sorted(report.made, key=SPLITS.index)))
    task = manifest.task
    for split in SPLITS:
        rows = manifest.table[manifest.table[task.split_column] == split]
        if rows.empty:
            log.warning("  %-5s no clips", split)
            continue
        log.info("  %-5s %d clips%s", split, len(rows), _groups_shown(report.groups.get(split)))
        _log_labels(manifest.split(split))
    written = f"{options.output}: {len(manifest.clips)} clips"
    then = f"; then: {shell_line(['viper', 'pipeline', options.pipeline])}" if options.pipeline else ""
    log.info("prepare: %s%s", written, then)


def _groups_shown(groups: Sequence[str] | None) -> str:
    if not groups:
        return ""
    shown = ", ".join(groups[:MAX_GROUPS_SHOWN]) + (", ..." if len(groups) > MAX_GROUPS_SHOWN else "")
    return f" of {len(groups)} groups: {shown}"


def _log_labels(part: Manifest) -> None:
    task = part.task
    if task.kind == "preference":
        lengths = Counter(len(order) for order in part.orders)
        log.info("        %s", ", ".join(f"{n} orders of {length}" for length, n in sorted(lengths.items())) or "none")
    elif task.kind == "regression":
        log.info("        %d with labels", int(np.isfinite(part.labels).any(axis=1).sum()))
    else:
        counts = part.table[list(task.targets)].sum().astype(int)
        log.info("        %s", ", ".join(f"{name} {count}" for name, count in counts.items()))
