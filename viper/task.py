"""Task cards: what is to be predicted, in what range, how it is scored, how a submission looks."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from viper.errors import UserError, unbroken
from viper.files import read_yaml

MAX_TARGETS = 1000
MAX_NAME_BYTES = 200  # of a target or a column: names of files are made of them
# What a card may name under `metrics`, by kind; viper.evaluation.metrics computes them.
METRICS = {
    "regression": (
        "pearson", "mse", "ccc", "mae", "binary_accuracy", "vce_top3", "prediction_in_true_top3", "top1",
    ),
    "single_label": ("uar", "accuracy", "macro_f1", "top3"),
    "multi_label": ("map",),
    "preference": ("pairwise_accuracy", "listwise_accuracy", "kendall_tau"),
}  # fmt: skip
KINDS = tuple(METRICS)
DEFAULT_METRICS = {
    "regression": ("pearson", "mse"),
    "single_label": ("uar", "accuracy", "macro_f1"),
    "multi_label": ("map",),
    "preference": ("pairwise_accuracy", "listwise_accuracy", "kendall_tau"),
}
# Terms a loss may have, by kind; viper.fusion.losses computes them.
LOSSES = {
    "regression": ("mse", "l1", "pearson", "ccc", "bce", "kl"),
    "single_label": ("ce",),
    "multi_label": ("weighted_bce", "bce"),
    "preference": ("plackett_luce", "bradley_terry"),
}
DEFAULT_LOSSES = {
    "regression": "mse", "single_label": "ce", "multi_label": "weighted_bce", "preference": "plackett_luce",
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One task card.

    Attributes
    ----------
    name : the card's short name.
    kind : "regression": one number per target. "single_label": each clip is of one of the targets, the classes.
        "multi_label": each target is there or not. "preference": clips have no labels but are put in order by pairs
        and lists; the one target is the clip's utility.
    targets : in the order of the model's outputs; the manifest's label columns, but for single_label and preference.
    range : the lowest and highest value a label can have, or None where there is no bound, as of a utility. Of a
        classification, [0, 1]: its predictions are probabilities.
    metrics : what is computed on a split; the first one selects the best epoch.
    prompts : the prompt list for the textual modality, absolute, or None.
    id_column, split_column : the manifest's columns; the submission spells ids under `id_column` too.
    description : one line for people.
    loss : what training minimises, see `viper.fusion.losses`.
    label_column : of a single_label task, the manifest's column that holds the class's name; None for other kinds.
    group_column : the manifest's column, where it has it, of what clips share (a subject, a speaker, a film), so that
        splits can be made, and features standardised, by it.
    submission_columns : header -> what stands below it: the id column, a target or the label column (the class with the
        highest probability). By default all of them, under their own names.
    """

    name: str
    kind: str
    targets: tuple[str, ...]
    range: tuple[float, float] | None = None
    metrics: tuple[str, ...] = DEFAULT_METRICS["regression"]
    prompts: Path | None = None
    id_column: str = "File_ID"
    split_column: str = "Split"
    description: str = ""
    loss: str = DEFAULT_LOSSES["regression"]
    label_column: str | None = None
    group_column: str | None = None
    submission_columns: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.submission_columns:
            columns = [self.id_column, *([self.label_column] if self.label_column else []), *self.targets]
            self.submission_columns.update(zip(columns, columns, strict=True))

    @property
    def label_columns(self) -> list[str]:
        """The manifest's columns that hold labels."""
        if self.kind == "preference":
            return []
        return list(self.targets) if self.label_column is None else [self.label_column]

    def to_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the card: all of it but the path of the prompts."""
        card = dataclasses.asdict(self)
        del card["prompts"]
        # A list, since a checkpoint's JSON does not keep the order of a mapping.
        card["submission_columns"] = [
            column if header == column else {header: column} for header, column in self.submission_columns.items()
        ]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in card.items()}

    @classmethod
    def from_dict(cls, card: dict[str, Any]) -> Task:
        """Return the inverse of `to_dict`."""
        return _parse(dict(card), Path("the checkpoint's task"))


def parse_loss(loss: str, task: Task) -> dict[str, float]:
    """Return the terms of a loss and their weights: "mse+0.5*ccc" is {"mse": 1.0, "ccc": 0.5}.

    Raises UserError for what cannot be read, a term unknown or of another kind of task, a term that appears twice,
    or a weight that is not positive.
    """
    terms: dict[str, float] = {}
    for part in loss.replace(" ", "").split("+"):
        match = re.fullmatch(r"(?:([0-9.]+(?:e-?[0-9]+)?)\*)?([a-z0-9_]+)", part)
        known = LOSSES[task.kind]
        if match is None or match[2] not in known:
            raise UserError(
                f"loss {loss!r}: {part!r} is no term for {task.kind}; write a sum such as 'mse+0.5*ccc' out of "
                f"{', '.join(known)}"
            )
        try:
            weight = float(match[1] or 1)
        except ValueError:
            weight = 0.0
        if match[2] in terms or not 0 < weight < math.inf:
            raise UserError(f"loss {loss!r}: each term may appear once, with a positive weight")
        terms[match[2]] = weight
    if "bce" in terms and task.range is None:
        raise UserError(f"loss {loss!r}: bce needs a task with a range, and {task.name} has none")
    if "kl" in terms and (task.range is None or task.range[0] < 0 or len(task.targets) < 2):
        raise UserError(f"loss {loss!r}: kl needs several targets with a range that does not go below 0")
    return terms


def cards_folder() -> Path:
    """Return the folder of the shipped cards: inside an installed package, or at the top of a checkout."""
    installed = Path(__file__).with_name("data_manifests")
    return installed if installed.is_dir() else Path(__file__).parents[1] / "data_manifests"


def task_names() -> list[str]:
    """Return the names of the shipped task cards."""
    return sorted(path.stem for path in cards_folder().glob("*.yaml"))


def load_task(name: str) -> Task:
    """Load a shipped card by its name, or a user's own card by its path.

    Raises UserError naming the card and the key when the card is wrong.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = cards_folder() / f"{name}.yaml"
        if not path.is_file():
            raise UserError(f"task {name!r}: no such card; there are {', '.join(task_names())}, or give a YAML's path")
    card = read_yaml(path, "a task card")
    if not isinstance(card, dict):
        raise UserError(f"{path}: a task card is a YAML mapping with keys such as name, kind, targets")
    return _parse(card, path)


def _parse(card: dict[str, Any], source: Path) -> Task:
    known = {field.name for field in dataclasses.fields(Task)}
    for key in card:
        if key not in known:
            raise UserError(f"{source}: unknown key {key!r}; a card has {', '.join(sorted(known))}")
    for key in ("name", "kind", "targets"):
        if key not in card:
            raise UserError(f"{source}: the key {key!r} is missing")
    optional = ("prompts", "label_column", "group_column")
    for key in ("name", "id_column", "split_column", "description", "loss", *optional):
        if not isinstance(card.get(key, ""), str) and not (key in optional and card[key] is None):
            raise UserError(f"{source}: {key} must be text, not {card[key]!r}")
    if card["kind"] not in list(KINDS):
        raise UserError(f"{source}: kind {card['kind']!r} is not one of {', '.join(KINDS)}")
    kind = card["kind"]
    metrics = card.get("metrics", list(DEFAULT_METRICS[kind]))
    if not isinstance(metrics, list) or not metrics or any(metric not in METRICS[kind] for metric in metrics):
        raise UserError(f"{source}: metrics must be a list out of {', '.join(METRICS[kind])}")
    if card.get("range") is not None and kind == "preference":
        raise UserError(f"{source}: range is for labels, and a preference task has none; leave it out")
    prompts = source.parent / card["prompts"] if card.get("prompts") else None
    if prompts is not None and not prompts.is_file():
        raise UserError(f"{source}: prompts: there is no file {prompts}")
    task = Task(
        **{
            **card,
            "targets": _parse_targets(card, source),
            "metrics": tuple(metrics),
            "loss": card.get("loss", DEFAULT_LOSSES[kind]),
            "range": _parse_range(card.get("range"), source),
            "prompts": prompts,
            "submission_columns": _parse_submission(card, source),
        }
    )
    if kind in ("single_label", "multi_label"):
        task = dataclasses.replace(task, range=(0.0, 1.0))
    try:
        parse_loss(task.loss, task)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return task


def _parse_targets(card: dict[str, Any], source: Path) -> tuple[str, ...]:
    targets = card["targets"]
    if not isinstance(targets, list) or not targets:
        raise UserError(f"{source}: targets must be a list of names")
    for target in targets:
        if not isinstance(target, str):
            raise UserError(f"{source}: targets must be a list of names, and {target!r} is not text; put it in quotes")
    if len(targets) > MAX_TARGETS:
        raise UserError(f"{source}: {len(targets)} targets; a card may have {MAX_TARGETS}")
    columns = [card.get("id_column", Task.id_column), card.get("split_column", Task.split_column), *targets]
    if card["kind"] == "single_label":
        if not card.get("label_column"):
            raise UserError(f"{source}: the key 'label_column' is missing: the column that holds the class")
        if len(targets) < 2:
            raise UserError(f"{source}: targets of a single_label task are at least two classes")
        columns.append(card["label_column"])
    elif card.get("label_column"):
        raise UserError(f"{source}: label_column is for single_label tasks; here each target has a column of its own")
    if card["kind"] == "preference" and len(targets) != 1:
        raise UserError(f"{source}: targets of a preference task is one name, that of a clip's utility")
    if card.get("group_column"):
        columns.append(card["group_column"])
    _check_names([card["name"]], "name", source)
    _check_names(columns, "targets and columns", source)
    if len(set(columns)) != len(columns):
        raise UserError(
            f"{source}: a name appears twice among id_column, split_column, label_column, group_column and targets"
        )
    return tuple(targets)


def _parse_submission(card: dict[str, Any], source: Path) -> dict[str, str]:
    """Header -> what stands below it; a list of columns names them as they are, or in the way {header: column}."""
    given = card.get("submission_columns") or []
    entries = given if isinstance(given, list) else [given]
    pairs = [pair for e in entries for pair in (e.items() if isinstance(e, dict) else [(e, e)])]
    identifier = card.get("id_column", Task.id_column)
    known = [identifier, *([card["label_column"]] if card.get("label_column") else []), *card["targets"]]
    columns = {str(header): str(column) for header, column in pairs}
    _check_names(columns, "submission_columns", source)
    if len(columns) != len(pairs) or any(column not in known for column in columns.values()):
        raise UserError(
            f"{source}: submission_columns must be a list, or a mapping from a header, out of {', '.join(known)}"
        )
    if columns and (identifier not in columns.values() or len(columns) < 2):
        raise UserError(f"{source}: submission_columns must have {identifier} and something that is predicted")
    return columns


def _check_names(names: Iterable[str], key: str, source: Path) -> None:
    """Refuse a name that cannot be the column of a table, or a part of a file's name, that shows what it is."""
    for name in names:
        if not name.strip() or unbroken(name) != name or len(name.encode()) > MAX_NAME_BYTES:
            raise UserError(
                f"{source}: {key}: {name[:MAX_NAME_BYTES]!r} cannot be a name: at most {MAX_NAME_BYTES} bytes of text "
                "on one line, without control characters or characters that are not seen"
            )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _parse_range(bounds: Any, source: Path) -> tuple[float, float] | None:
    if bounds is None:
        return None
    is_list = isinstance(bounds, list | tuple) and len(bounds) == 2
    if not is_list or not all(_is_finite(bound) for bound in bounds) or not bounds[0] < bounds[1]:
        raise UserError(f"{source}: range must be two numbers, lowest first, or be left out")
    return float(bounds[0]), float(bounds[1])
