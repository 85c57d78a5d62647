"""V2V (Mazeika et al. 2022): JSON files that say which videos are preferred to others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from viper.datasets.labels import Clip, Format, Labels, ReadOptions, identified, load_json, split_cell
from viper.errors import UserError
from viper.manifest import SPLITS, Order
from viper.task import Task

LISTS_FILE = "listwise_labels.json"
CROSSING = "comparisons of clips that are in different splits"


def read_v2v(folder: Path, task: Task, options: ReadOptions) -> Labels:
    """Return pairs of `train_labels.json` and `test_labels.json`, and lists of `listwise_labels.json` (may be absent).

    Each is {"comparisons": [[least preferred, ..., most preferred], ...]}, or the bare list. A clip is in the split of
    the file that names it; one that several files name is in Test before Val before Train, and comparisons that then
    cross splits are dropped. The same comparison again counts again, and two that disagree are both kept.
    """
    labels = Labels()
    split_of: dict[str, tuple[str, str]] = {}
    orders: list[Order] = []
    lists_split = split_cell(options.lists_split, "--lists_split")
    files = [("train_labels.json", "Train"), ("val_labels.json", "Val"), ("test_labels.json", "Test")]
    for name, split in [*files, (LISTS_FILE, lists_split)]:
        path = folder / name
        if name in ("val_labels.json", LISTS_FILE) and not path.is_file():
            continue
        for where, order in _comparisons(path):
            orders.append(order)
            for identifier in order:
                known, first = split_of.get(identifier, (split, where))
                split_of[identifier] = (max(known, split, key=SPLITS.index), first)
    labels.orders = orders
    repeated = len(orders) - len(set(orders))
    if repeated:
        labels.notes.append(
            f"{repeated} comparisons repeat an earlier one; each counts, as in the dataset's own scores"
        )
    labels.clips = [Clip(identifier, where, split=split) for identifier, (split, where) in split_of.items()]
    drop_crossing(labels)
    return labels


def _comparisons(path: Path) -> list[tuple[str, Order]]:
    """Return (where it stands, clip ids) of each comparison."""
    content = load_json(path)
    if isinstance(content, dict) and len(content) == 1:
        content = next(iter(content.values()))
    if not isinstance(content, list):
        raise UserError(f'{path}: must be {{"comparisons": [[less, more], ...]}}, or a list of such lists')
    comparisons = []
    for number, entry in enumerate(content, 1):
        where = f"{path}, comparison {number}"
        if not isinstance(entry, list) or len(entry) < 2 or not all(_is_name(name) for name in entry):
            raise UserError(f"{where}: {entry!r:.60} is no list of two or more ids")
        order = tuple(Clip(identified(str(name))[0], where).id for name in entry)
        if len(set(order)) < len(order):
            raise UserError(f"{where}: {entry!r:.60} names a clip twice")
        comparisons.append((where, order))
    return comparisons


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def components(orders: Iterable[Order]) -> dict[str, str]:
    """Return clip id -> the name (the first id) of the clips it is joined with by comparisons, directly or not."""
    # Not above: scipy's clustering takes a while to import, and --help should not.
    from scipy.cluster.hierarchy import DisjointSet

    joined = DisjointSet()
    for order in orders:
        for identifier in order:
            joined.add(identifier)
            joined.merge(order[0], identifier)
    return {identifier: min(together) for together in joined.subsets() for identifier in together}


def drop_crossing(labels: Labels) -> None:
    """Leave out comparisons of clips that are in different splits, and clips without any."""
    split_of = {clip.id: clip.split for clip in labels.clips}
    labels.drop_orders(CROSSING, lambda order: len({split_of[identifier] for identifier in order}) > 1)
    labels.keep_compared()


def _matches(source: Path, task: Task) -> bool:
    return task.kind == "preference" and source.is_dir()


V2V = Format("v2v", read_v2v, _matches, "preference")
