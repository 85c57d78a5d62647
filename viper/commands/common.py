"""What several commands say and compute: how a stage ended, scores, means over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from viper.engine.failures import FAILURES_FILE
from viper.engine.job import Summary
from viper.evaluation.metrics import METRICS, Score, Scores
from viper.logs import log
from viper.media.picture_names import ASSUMED_FPS, PictureNames


@dataclass(kw_only=True)
class PictureOptions:
    """How pictures of other tools are read, which come without frames.json."""

    picture_names: str | None = None
    """With pictures that have no frames.json: what their names say, such as {frame}_0 (frame, and face 0 only),
    *_{seconds}s or {ms}; * is anything. Others are left out. order: by the order of names. By default the number that
    varies is the frame's."""
    picture_fps: float = ASSUMED_FPS
    """With pictures that have no frames.json: frames a second, for their times."""

    @property
    def names(self) -> PictureNames:
        """What the two say; wrong ones are a UserError where pictures are listed."""
        return PictureNames(self.picture_names, self.picture_fps)


def finish(summary: Summary, output_folder: Path) -> int:
    """Log how a stage ended; return its exit code."""
    log.info("%s", summary)
    if summary.failed:
        log.warning("%s: the clips that failed, and why, are in %s", summary.stage, output_folder / FAILURES_FILE)
    return summary.exit_code


def report_scores(scores: Scores, split: str) -> None:
    """Log a split's metrics: a line per target and one for all of them."""
    for target in next(iter(scores.targets.values()), {}):
        log.info("  %-20s %s", target, _cells({name: each[target] for name, each in scores.targets.items()}))
    log.info("  %-20s %s   (%d clips of %s)", "mean", _cells(scores.together), scores.n_clips, split)


def _cells(scores: dict[str, Score]) -> str:
    digits = {"maximise": "6.3f", "minimise": ".4f"}
    return "   ".join(
        f"{METRICS[name].title} {score.value:{digits[METRICS[name].direction]}}" for name, score in scores.items()
    )


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation (over n - 1, nan for a single value); nan where a value is nan."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Return a metric's "mean", "std" and "values" over seeds, JSON-ready: None where one is undefined."""
    mean, std = mean_and_std(values)
    return {"mean": _finite(mean), "std": _finite(std), "values": [_finite(value) for value in values]}


def csv_cell(value: float) -> str:
    """Return a number as a cell of a table; an undefined one as an empty cell."""
    return f"{value:.6g}" if math.isfinite(value) else ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
