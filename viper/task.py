"""Task cards: what is to be predicted, in what range, how it is scored, how a submission looks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from viper.errors import UserError

KINDS = ("regression",)
METRICS = ("pearson", "mse")


@dataclass(frozen=True)
class Task:
    """One task card.

    Attributes
    ----------
    name : the card's short name.
    kind : "regression": one number per target.
    targets : names of the manifest's label columns, in the order of the model's outputs.
    range : the lowest and highest value a label can have, or None where there is no bound.
    metrics : what is computed on a split; the first one selects the best epoch.
    prompts : the prompt list for the textual modality, absolute, or None.
    id_column, split_column : the manifest's columns; the submission spells ids under `id_column` too.
    description : one line for people.
    """

    name: str
    kind: str
    targets: tuple[str, ...]
    range: tuple[float, float] | None = None
    metrics: tuple[str, ...] = METRICS
    prompts: Path | None = None
    id_column: str = "File_ID"
    split_column: str = "Split"
    description: str = ""

    @property
    def submission_columns(self) -> list[str]:
        """The header of a submission."""
        return [self.id_column, *self.targets]

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the card: all of it but the path of the prompts."""
        card = dataclasses.asdict(self)
        del card["prompts"]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in card.items()}

    @classmethod
    def from_dict(cls, card: dict[str, Any]) -> Task:
        """The inverse of `to_dict`."""
        return _parse(dict(card), Path("the checkpoint's task"))


def cards_folder() -> Path:
    """Where the shipped cards are: inside an installed package, or at the top of a checkout."""
    installed = Path(__file__).with_name("data_manifests")
    return installed if installed.is_dir() else Path(__file__).parents[1] / "data_manifests"


def task_names() -> list[str]:
    """The names of the shipped task cards."""
    return sorted(path.stem for path in cards_folder().glob("*.yaml"))


def load_task(name: str) -> Task:
    """Loads a shipped card by its name, or a user's own card by its path.

    Raises UserError naming the card and the key when the card is wrong.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = cards_folder() / f"{name}.yaml"
        if not path.is_file():
            raise UserError(f"task {name!r}: no such card; there are {', '.join(task_names())}, or give a YAML's path")
    try:
        card = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as a task card ({' '.join(str(error).split())})") from error
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
    for key in ("name", "id_column", "split_column", "description", "prompts"):
        if not isinstance(card.get(key, ""), str) and not (key == "prompts" and card[key] is None):
            raise UserError(f"{source}: {key} must be text, not {card[key]!r}")
    if card["kind"] not in KINDS:
        raise UserError(f"{source}: kind {card['kind']!r} is not one of {', '.join(KINDS)}")
    targets = card["targets"]
    if not isinstance(targets, list) or not targets or not all(isinstance(target, str) for target in targets):
        raise UserError(f"{source}: targets must be a list of names")
    columns = [card.get("id_column", Task.id_column), card.get("split_column", Task.split_column), *targets]
    if len(set(columns)) != len(columns):
        raise UserError(f"{source}: a name stands twice among id_column, split_column and targets")
    metrics = card.get("metrics", list(METRICS))
    if not isinstance(metrics, list) or not metrics or any(metric not in METRICS for metric in metrics):
        raise UserError(f"{source}: metrics must be a list out of {', '.join(METRICS)}")
    prompts = source.parent / card["prompts"] if card.get("prompts") else None
    if prompts is not None and not prompts.is_file():
        raise UserError(f"{source}: prompts names {prompts}, which is no file")
    return Task(
        **{
            **card,
            "targets": tuple(targets),
            "metrics": tuple(metrics),
            "range": _parse_range(card.get("range"), source),
            "prompts": prompts,
        }
    )


def _parse_range(bounds: Any, source: Path) -> tuple[float, float] | None:
    if bounds is None:
        return None
    numbers = isinstance(bounds, list | tuple) and all(isinstance(bound, int | float) for bound in bounds)
    if not numbers or len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise UserError(f"{source}: range must be two numbers, lowest first, or be left out")
    return float(bounds[0]), float(bounds[1])
