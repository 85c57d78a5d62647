"""What a preference task's utilities are worth: which pairs and lists they put right, and how clearly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from viper.evaluation.curves import utilities_figure
from viper.evaluation.drawing import save_png
from viper.evaluation.metrics import Scores, evaluate
from viper.files import write_json, write_text
from viper.manifest import all_pairs
from viper.task import Task


@dataclass(frozen=True)
class PreferenceReport:
    """Utilities and orders of one split.

    Attributes
    ----------
    clips : n ids.
    utilities : (n,).
    orders : (m, L) rows of clips, from the least to the most preferred, -1 at the end of shorter orders.
    """

    task: Task
    clips: Sequence[str]
    utilities: np.ndarray
    orders: np.ndarray
    scores: Scores

    def to_dict(self) -> dict[str, Any]:
        """Every number, JSON-ready. "difference" is how much higher the preferred clip's utility is, over all pairs."""
        less, more = self.of_pairs()
        shares = np.quantile(more - less, [0.05, 0.25, 0.5, 0.75, 0.95])
        return {
            "task": self.task.name,
            "n_clips": self.scores.n_clips,
            "mean": self.scores.to_dict()["mean"],
            "utility": {"mean": float(self.utilities.mean()), "std": float(self.utilities.std())},
            "difference": dict(zip(("q05", "q25", "median", "q75", "q95"), shares.tolist(), strict=True)),
        }

    def write(self, folder: Path) -> list[Path]:
        """Writes utilities.csv (a row a clip), orders.csv (a row a pair or list), utilities.png and confusion.json."""
        files = [folder / name for name in ("utilities.csv", "orders.csv", "utilities.png", "confusion.json")]
        clips = pd.DataFrame({"clip": self.clips, self.task.targets[0]: self.utilities})
        orders = pd.DataFrame([self._row(order) for order in self.orders])
        for path, table in zip(files, (clips, orders), strict=False):
            write_text(path, table.to_csv(index=False, lineterminator="\n"))
        save_png(utilities_figure(*self.of_pairs(), self.title), files[2])
        write_json(files[3], self.to_dict())
        return files

    def of_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Utilities of the less and the more preferred clip of every pair, those of lists included."""
        less, more = all_pairs(self.orders)
        return self.utilities[less], self.utilities[more]

    def _row(self, order: np.ndarray) -> dict[str, Any]:
        """One order: its clips from the least preferred on, and whether their utilities rise."""
        rows = order[order >= 0]
        clips = {f"rank_{k + 1}": self.clips[rows[k]] if k < len(rows) else "" for k in range(len(order))}
        return {**clips, "right": int((np.diff(self.utilities[rows]) > 0).all())}

    @property
    def title(self) -> str:
        """The task, and how many pairs and lists are right."""
        parts = [
            f"{score.value:.1%} of {score.n:,} {what} right"
            for what, metric in (("pairs", "pairwise_accuracy"), ("lists", "listwise_accuracy"))
            if (score := self.scores.together[metric]).n
        ]
        return f"{self.task.name}: {', '.join(parts)}"


def preference_report(task: Task, clips: Sequence[str], predicted: np.ndarray, orders: np.ndarray) -> PreferenceReport:
    """Scores utilities (n, 1), which must be finite, by orders of the clips."""
    return PreferenceReport(task, clips, predicted[:, 0], orders, evaluate(task, predicted, orders))
