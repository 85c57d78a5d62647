"""Multi-label files that name words: MovieGraphs' mental states, categories made of several words."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from viper.datasets.labels import (
    MEDIA_SUFFIXES,
    Clip,
    Labels,
    as_mapping,
    check_splits,
    load_json,
    scalar_cells,
    split_cell,
)
from viper.errors import UserError
from viper.task import Task

GROUP_KEYS = ("movie", "film", "video", "group")
WORD_KEYS = ("emotions", "labels", "words")
WordClasses = dict[str, frozenset[str]]  # word -> the targets it stands for


def read_classes(path: Path, task: Task) -> WordClasses:
    """Return a JSON {class: [words]}: which words, besides its own name, stand for each of the task's targets.

    A class that is not a target, and a word list that cannot be read, are a UserError naming the key.
    """
    content = as_mapping(load_json(path), str(path), "{class: [words]}")
    folded = {target.casefold(): target for target in task.targets}
    classes: dict[str, set[str]] = {}
    for name, words in content.items():
        where = f"{path}, key {name!r}"
        if name.casefold() not in folded:
            raise UserError(f"{where}: is not one of the targets {', '.join(task.targets)}")
        for word in _word_list(words, where):
            classes.setdefault(_folded(word), set()).add(folded[name.casefold()])
    return {word: frozenset(targets) for word, targets in classes.items()}


def read_words(path: Path, task: Task, classes: WordClasses | None = None) -> Labels:
    """Return the clips of a JSON {clip: [words]} or {clip: {"emotions": [words], "split": ..., "movie": ...}}.

    What comes before the first `/` of a clip's key, or else before its first `_`, is its movie unless it is said; a
    `/`, which no id may have, becomes `_`.
    """
    content = as_mapping(load_json(path), str(path), '{clip: [words]} or {clip: {"emotions": [words], ...}}')
    labels = Labels()
    n_slashes = 0
    for key, entry in content.items():
        where = f"{path}, key {key!r}"
        fields = entry if isinstance(entry, dict) else {"emotions": entry}
        word_key = next((name for name in WORD_KEYS if name in fields), None)
        if word_key is None:
            raise UserError(f"{where}: the key 'emotions' is missing")
        n_slashes += "/" in key
        clip, movie = scene(key, where)
        if "split" in fields:
            clip.split = split_cell(str(fields["split"]), where)
        clip.extra = scalar_cells(fields, (word_key, "split", *GROUP_KEYS))
        if task.group_column:
            said = next((str(fields[name]) for name in (task.group_column, *GROUP_KEYS) if name in fields), "")
            clip.extra[task.group_column] = said or movie
        if label_words(clip, _word_list(fields[word_key], where), task, labels, classes):
            labels.clips.append(clip)
    if n_slashes:
        labels.notes.append(f"{path}: in {n_slashes} ids a `/` became `_`: an id names a file")
    check_splits(labels)
    return labels


def label_words(clip: Clip, words: list[str], task: Task, labels: Labels, classes: WordClasses | None = None) -> bool:
    """Set a clip's 0/1 labels by its words. Words that stand for no target are noted as dropped.

    Answers False, and notes the clip as dropped, where there are no words at all: nobody said what it shows. A clip
    that has other words only is one that shows none of the targets.
    """
    known = {target.casefold(): frozenset([target]) for target in task.targets}
    if not words:
        labels.drop("no word at all", clip.id)
        return False
    there: set[str] = set()
    for word in words:
        folded = _folded(word)
        targets = known.get(folded, frozenset()) | (classes or {}).get(folded, frozenset())
        if not targets:
            labels.drop("words that are none of the targets", folded)
        there |= targets
    clip.labels = {target: str(int(target in there)) for target in task.targets}
    return True


def scene(key: str, where: str) -> tuple[Clip, str]:
    """Return a clip and its movie, both from its key.

    The movie is what comes before the first `/`, or else before the first `_`.
    """
    key = key.strip().replace("\\", "/")
    path = PurePosixPath(key)
    name = str(path.with_suffix("")) if path.suffix.lower() in MEDIA_SUFFIXES else key
    clip = Clip(name.replace("/", "_"), where, media=None if name == path.name else key)
    return clip, name.partition("/" if "/" in name else "_")[0]


def _word_list(words: Any, where: str) -> list[str]:
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{where}: must be a list of words, not {words!r:.60}")
    return [word for word in words if word.strip()]


def _folded(word: str) -> str:
    return " ".join(word.casefold().split())
