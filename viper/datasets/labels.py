"""What every reader of label files returns, clips and what was left out; the checks they share; what a format is."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from viper.errors import UserError
from viper.files import read_text
from viper.manifest import Order, canonical_split, clip_id
from viper.media.listing import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from viper.media.pictures import IMAGE_SUFFIXES
from viper.task import Task

LEFT_OUT = "clips without a comparison"
MEDIA_SUFFIXES = (*VIDEO_SUFFIXES, *AUDIO_SUFFIXES, *IMAGE_SUFFIXES)


@dataclass
class Clip:
    """One row of the manifest to be.

    Attributes
    ----------
    file_id : the id as the manifest will spell it.
    where : the file and the row or key it came from, for messages.
    labels : label column -> cell; all empty for a clip whose labels are kept back.
    split : Train, Val or Test where the dataset says so, else None.
    extra : further columns.
    media : its file, relative to the folder of media, where the label files say which; else None: the one of its name.
    """

    file_id: str
    where: str
    labels: dict[str, str] = field(default_factory=dict)
    split: str | None = None
    extra: dict[str, str] = field(default_factory=dict)
    media: str | None = None

    @property
    def id(self) -> str:
        """The clip id; a UserError naming the row when the spelling can be none."""
        try:
            return clip_id(self.file_id)
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from None


@dataclass
class Labels:
    """What label files say.

    Attributes
    ----------
    clips : in the order of the files.
    orders : for preference tasks: ids from least to most preferred.
    dropped : reason -> what was left out for it: ids, words, pairs.
    notes : what else a user should know, a line each.
    """

    clips: list[Clip] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def drop(self, reason: str, what: str) -> None:
        """Note that something was left out."""
        self.dropped.setdefault(reason, []).append(what)

    def drop_orders(self, reason: str, is_out: Callable[[Order], bool]) -> bool:
        """Leave out those comparisons; return whether any are left."""
        kept = []
        for order in self.orders:
            if is_out(order):
                self.drop(reason, " < ".join(order))
            else:
                kept.append(order)
        self.orders = kept
        return bool(kept)

    def keep_compared(self) -> None:
        """Leave out the clips that no comparison names (any more)."""
        compared = {identifier for order in self.orders for identifier in order}
        for clip in self.clips:
            if clip.id not in compared:
                self.drop(LEFT_OUT, clip.id)
        self.clips = [clip for clip in self.clips if clip.id in compared]

    def check(self) -> Labels:
        """Return these labels; a UserError where there are none, or two clips have one id."""
        if not self.clips:
            why = "; ".join(f"{reason}: {len(what)}" for reason, what in self.dropped.items())
            raise UserError(f"no clip is left{f' ({why})' if why else ''}")
        first: dict[str, Clip] = {}
        for clip in self.clips:
            other = first.setdefault(clip.id, clip)
            if other is not clip:
                raise UserError(f"{clip.where}: the id {clip.id!r} was already used by {other.where}")
        return self


@dataclass(frozen=True)
class Columns:
    """What a CSV calls its columns; None: the card's name, or one of the usual."""

    id: str | None = None
    label: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class ReadOptions:
    """How label files are read.

    Attributes
    ----------
    format : a format's name; auto: the first that matches the task and the source.
    columns : what a CSV calls its columns.
    classes : for multi-label tasks: a JSON {class: [words]}.
    lists_split : the split of V2V's lists.
    keep : column -> the only value of it that is kept.
    clips_folder : where links to the clips go, which must not be where files are taken for clips.
    """

    format: str = "auto"
    columns: Columns = field(default_factory=Columns)
    classes: Path | None = None
    lists_split: str = "Test"
    keep: Mapping[str, str] = field(default_factory=dict)
    clips_folder: Path | None = None


@dataclass(frozen=True)
class Format:
    """A way in which label files are written. A dataset's own is in its file, and listed in `viper.datasets.FORMATS`.

    Attributes
    ----------
    name : as of --format.
    read : reads a source (a file or a folder) for a task.
    matches : whether --format auto takes it for this source and task.
    kind : the kind of task it is for; None: any.
    is_folder : whether the source must be a folder.
    takes_every_file : whether every media file in the source is a clip.
    finish : what is left out last, after --keep.
    """

    name: str
    read: Callable[[Path, Task, ReadOptions], Labels]
    matches: Callable[[Path, Task], bool]
    kind: str | None = None
    is_folder: bool = False
    takes_every_file: bool = False
    finish: Callable[[Labels], None] | None = None


def is_card_folder(*cards: str) -> Callable[[Path, Task], bool]:
    """Return a `matches` that is true for a folder and a task of one of these names."""
    return lambda source, task: task.name in cards and source.is_dir()


def check_splits(labels: Labels) -> None:
    """Return a UserError where only some of the clips have a split."""
    without = [clip for clip in labels.clips if clip.split is None]
    if without and len(without) < len(labels.clips):
        raise UserError(f"{without[0].where}: has no split, but other clips do")


def number_cell(value: Any, name: str, where: str, task: Task) -> str:
    """Return a label as the manifest's cell; what is no finite number within the task's range is a UserError."""
    lowest, highest = task.range or (-math.inf, math.inf)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and lowest <= number <= highest):
        allowed = f"a number in [{lowest:g}, {highest:g}]" if task.range else "a finite number"
        raise UserError(f"{where}: {name} is {value!r:.60}, not {allowed}")
    if task.kind == "multi_label" and number not in (0, 1):
        raise UserError(f"{where}: {name} is {value!r:.60}, not 0 or 1")
    return value.strip() if isinstance(value, str) else repr(value)


def class_cell(name: str, where: str, task: Task) -> str:
    """Return a class as the card spells it, whatever its case here; a UserError for one the card does not have."""
    spelled = _by_fold(task).get(name.strip().casefold())
    if spelled is None:
        raise UserError(f"{where}: {name!r} is not one of the classes {', '.join(task.targets)}")
    return spelled


def is_class(name: str, task: Task) -> bool:
    """Return whether the card has that class, in any case."""
    return name.strip().casefold() in _by_fold(task)


def _by_fold(task: Task) -> dict[str, str]:
    return {target.casefold(): target for target in task.targets}


def split_cell(name: str, where: str) -> str:
    """Return Train, Val or Test; a UserError names the row of another."""
    try:
        return canonical_split(name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def identified(cell: str) -> tuple[str, str | None]:
    """Return (id as spelled, media path) of a cell that holds an id or a file's path: "videos/3.mp4" is clip 3."""
    path = PurePosixPath(cell.strip().replace("\\", "/"))
    if path.suffix.lower() in MEDIA_SUFFIXES:
        return path.stem, str(path)
    return cell.strip(), None


def name_by_class(labels: Labels, column: str) -> None:
    """Rename the ids of files that have one name in two classes to <class>_<name>, and note it.

    Only clips whose ids are their files' names are changed.
    """
    clips = [clip for clip in labels.clips if clip.media is not None]
    counts = Counter(clip.id for clip in clips)
    shared = sorted(identifier for identifier, n in counts.items() if n > 1)
    for clip in clips:
        if counts[clip.id] > 1 and clip.labels.get(column):
            clip.file_id = f"{clip.labels[column]}_{clip.id}"
    if shared:
        labels.notes.append(
            f"{len(shared)} file names are in two classes: those ids are <class>_<name> ({', '.join(shared[:3])} ...)"
        )


def media_below(folder: Path, suffixes: tuple[str, ...] = MEDIA_SUFFIXES) -> list[Path]:
    """Return media files at any depth below a folder, in the order of their paths; nothing hidden."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def load_json(path: Path) -> Any:
    """Return a JSON file's content. One that is no JSON, or has a key twice in one object, is a UserError naming it."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(key for key, _ in pairs)
        twice = [key for key, n in counts.items() if n > 1]
        if twice:
            raise UserError(f"{path}: the key {twice[0]!r} appears twice")
        return dict(pairs)

    try:
        return json.loads(read_text(path, "utf-8-sig"), object_pairs_hook=unique)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error


def as_mapping(value: Any, where: str, what: str) -> dict[str, Any]:
    """Return a JSON object; a UserError saying what was expected for anything else."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: must be {what}, not {type(value).__name__}")
    return value


def scalar_cells(entry: dict[str, Any], without: Iterable[str]) -> dict[str, str]:
    """Return those values of a JSON object that fit in a cell, as further columns."""
    left_out = set(without)
    return {
        key: str(value) for key, value in entry.items() if key not in left_out and isinstance(value, str | int | float)
    }
