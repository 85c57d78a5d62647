"""What the commands share: how a stage that maps over clips ends."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from viper.engine import Summary
from viper.evaluation.metrics import METRICS, Score, Scores
from viper.failures import FILE_NAME

log = logging.getLogger("viper")
# What stages say belongs in a run's train.log also when they are called from Python; only the command line prints it.
log.setLevel(logging.INFO)


def finish(summary: Summary, output_folder: Path) -> int:
    """Says what came of a stage and answers its exit code."""
    log.info("%s", summary)
    if summary.failed:
        log.warning("%s: the clips that failed, and why, are in %s", summary.stage, output_folder / FILE_NAME)
    return summary.exit_code


def report_scores(scores: Scores, split: str) -> None:
    """Says a split's metrics, a line a target and one for all of them."""
    for target in next(iter(scores.targets.values()), {}):
        log.info("  %-20s %s", target, _cells({name: each[target] for name, each in scores.targets.items()}))
    log.info("  %-20s %s   (%d clips of %s)", "mean", _cells(scores.together), scores.n_clips, split)


def _cells(scores: dict[str, Score]) -> str:
    digits = {"maximise": "6.3f", "minimise": ".4f"}
    return "   ".join(
        f"{METRICS[name].title} {score.value:{digits[METRICS[name].direction]}}" for name, score in scores.items()
    )


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """The versions of those of these packages that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
