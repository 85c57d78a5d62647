"""What the commands share: how a stage that maps over clips ends."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from viper.engine import Summary
from viper.evaluation.metrics import Scores
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
    """Says a split's Pearson and mean squared error, a line a target and one for their means."""
    pearson, mse = scores.targets["pearson"], scores.targets["mse"]
    for target in pearson:
        log.info("  %-20s Pearson %6.3f   MSE %.4f", target, pearson[target].value, mse[target].value)
    mean, error = scores.mean("pearson"), scores.mean("mse")
    log.info("  %-20s Pearson %6.3f   MSE %.4f   (%d clips of %s)", "mean", mean.value, error.value, mean.n, split)


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """The versions of those of these packages that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
