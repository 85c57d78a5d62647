"""What several commands say and compute: how a stage ended, scores, means over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from viper.clip_ids import record_separator, recorded_separator
from viper.engine.failures import FAILURES_FILE
from viper.engine.job import FolderOptions, Summary
from viper.engine.run import LOOKING_THREADS
from viper.evaluation.metrics import METRICS, Score, Scores
from viper.logs import log
from viper.media.picture_names import ASSUMED_FPS, PictureNames
from viper.store import FeatureStore, Look


@dataclass(kw_only=True)
class PictureOptions:
    """How pictures of other tools are read, which come without frames.json."""

    picture_names: str | None = None
    """With pictures made elsewhere: what their names say, such as {frame}_0 (face 0 of each frame), *_{seconds}s or
    {ms}, where * is anything; or order (default: the number that varies is the frame's)."""
    picture_fps: float = ASSUMED_FPS
    """With pictures made elsewhere: frames per second, for their times."""

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


def pass_on_ids(options: FolderOptions, read: Sequence[Path | None], output_folder: Path) -> None:
    """Record by which separator the clips of an output folder are named, if their ids are paths.

    A manifest's paths are joined by the same one. The record of folders that are `read` and have one is passed on.
    """
    recorded = [recorded_separator(folder) for folder in read if folder is not None]
    found = [separator for separator in recorded if separator is not None]
    if not found and options.separator is not None:
        found = [options.separator]
    for separator in found:
        record_separator(output_folder, separator)


@dataclass(frozen=True)
class MaskedShares:
    """How much of a store is masked: says nothing, as a frame without a face does.

    Attributes
    ----------
    clips, tokens : how many there are.
    masked_clips : those with no token that is not masked.
    masked_tokens : those that are masked.
    """

    clips: int = 0
    masked_clips: int = 0
    tokens: int = 0
    masked_tokens: int = 0

    @classmethod
    def of(cls, looks: Iterable[Look]) -> MaskedShares:
        """Add up the files that are valid."""
        valid = [look for look in looks if look.problem is None]
        unmasked = sum(look.n_unmasked for look in valid)
        tokens = sum(look.n_tokens for look in valid)
        return cls(len(valid), sum(not look.n_unmasked for look in valid), tokens, tokens - unmasked)

    @property
    def is_most(self) -> bool:
        """Whether more than half of the tokens are masked, or all tokens of more than half of the clips."""
        return 2 * self.masked_tokens > self.tokens or 2 * self.masked_clips > self.clips

    def __str__(self) -> str:
        share = self.masked_tokens / self.tokens if self.tokens else 0.0
        tokens = f"{self.masked_tokens} of {self.tokens} tokens are masked ({share:.1%})"
        return f"{tokens}; {self.masked_clips} of {self.clips} clips are masked completely"


def report_masked(stage: str, store: FeatureStore, clips: Sequence[str]) -> None:
    """Log how much of the clips' features says nothing, as a warning where it is most of them."""
    with ThreadPoolExecutor(LOOKING_THREADS) as threads:
        shares = MaskedShares.of(threads.map(store.look, clips))
    if shares.is_most:
        log.warning("%s: MOST OF %s SAYS NOTHING: %s", stage, store.folder, shares)
    elif shares.masked_tokens:
        log.info("%s: %s: %s", stage, store.folder, shares)


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
