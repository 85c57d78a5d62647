"""What the commands share: the options of a stage that maps over clips, and how it ends."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from viper.engine.failures import FILE_NAME
from viper.engine.job import EngineOptions, Summary
from viper.engine.shards import Shard
from viper.evaluation.metrics import METRICS, Score, Scores

log = logging.getLogger("viper")
# What stages say belongs in a run's train.log also when they are called from Python; only the command line prints it.
log.setLevel(logging.INFO)


@dataclass(kw_only=True)
class EngineFlags:
    """How a stage goes over its clips."""

    n_workers: int = -1
    """Processes that read and prepare clips; 0: none beside this one; -1: one a core."""
    incremental: bool = True
    """Leave clips alone whose output is there, valid and up to date."""
    shard: str = ""
    """Do only part k of n of the clips, written k/n, such as 3/16: for job arrays. A clip's id decides its part."""
    clip_timeout: float = 600.0
    """Seconds a process may take to read and prepare a clip; then the clip has failed. 0: no limit."""
    engine: Literal["local", "ray"] = "local"
    """local: on this machine; ray: on Ray Data, on one machine or on many (pip install 'viper[ray]')."""
    ray_address: str | None = None
    """A running Ray cluster's: auto, or host:port. Without it a Ray is started here."""
    num_gpus: int = 0
    """With Ray: how many GPUs the model runs on, each with a copy of it; 0: on processors."""

    def engine_options(self) -> EngineOptions:
        """These options for the engine; wrong ones are a UserError."""
        return EngineOptions(
            self.n_workers, self.incremental, Shard.parse(self.shard), self.clip_timeout,
            self.engine, self.ray_address, self.num_gpus,
        )  # fmt: skip


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


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation over n - 1; nan for that of a single value, and for what has a nan among it."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """A metric's "mean", "std" and "values" over seeds, JSON-ready: None where one is undefined."""
    mean, std = mean_and_std(values)
    return {"mean": _finite(mean), "std": _finite(std), "values": [_finite(value) for value in values]}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


_command: ContextVar[str] = ContextVar("command", default="")


@contextmanager
def running(command: str, arguments: Sequence[str]) -> Iterator[None]:
    """While inside, `command_line` is this viper command."""
    token = _command.set(shlex.join(["viper", command, *arguments]))
    try:
        yield
    finally:
        _command.reset(token)


def command_line() -> str:
    """The command that is run, as a shell takes it, for the record; empty where a stage is called from Python."""
    return _command.get()


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """The versions of those of these packages that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
