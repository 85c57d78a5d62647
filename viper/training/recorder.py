"""What a training leaves behind after every epoch: scores, a row of metrics.csv, a checkpoint, and `best`."""

from __future__ import annotations

import csv
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import EvalPrediction

from viper.evaluation.metrics import METRICS, Scores, evaluate, is_better
from viper.files import write_text
from viper.fusion.checkpoint import point_best, remove_other_checkpoints, save_checkpoint
from viper.fusion.perceiver import PerceiverFusion
from viper.task import Task

log = logging.getLogger("viper")

METRICS_FILE = "metrics.csv"


@dataclass(frozen=True)
class Epoch:
    """One epoch: its number, its mean training loss, its scores on the validation split."""

    number: int
    loss: float
    scores: Scores

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"number": self.number, "loss": self.loss, "scores": self.scores.to_dict()}

    def to_evaluation(self) -> dict[str, Any]:
        """What the config of its checkpoint keeps, see `PerceiverFusionConfig.evaluation`."""
        return {"split": "Val", "epoch": self.number, **self.scores.to_dict()}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Epoch:
        """The inverse of `to_dict`."""
        return cls(record["number"], record["loss"], Scores.from_dict(record["scores"]))


class Recorder(TrainerCallback):
    """Keeps the epochs of a training; writes where `writes` (in the first process of several).

    Parameters
    ----------
    truth : what predictions for the validation split are scored against, see `viper.training.data.FusionData.truth`.
    keep : "all" epochs' checkpoints, or only the "best" ones and the last.
    patience : epochs without a better score after which training stops; None: never.
    """

    def __init__(
        self,
        model: PerceiverFusion,
        task: Task,
        truth: np.ndarray,
        run: Path,
        keep: str,
        patience: int | None,
        writes: bool,
    ) -> None:
        self._model, self._task, self._truth, self._run = model, task, truth, run
        self._keep, self._patience, self._writes = keep, patience, writes
        self.epochs: list[Epoch] = []
        self.losses: list[torch.Tensor] = []
        self._scores: Scores | None = None

    def best(self, metric: str) -> Epoch:
        """The first of the epochs with the best value of a metric."""
        best = self.epochs[0]
        for epoch in self.epochs[1:]:
            if is_better(metric, epoch.scores.selection_value(metric), best.scores.selection_value(metric)):
                best = epoch
        return best

    @property
    def metrics(self) -> list[str]:
        """The metrics of the task, the one that selects first; not those that the split has nothing to compute on."""
        return [name for name, score in self.epochs[0].scores.together.items() if score.n]

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """For the Trainer, which wants numbers; the scores behind them are kept for on_evaluate."""
        self._scores = evaluate(self._task, np.asarray(prediction.predictions), self._truth)
        return {metric: self._scores.selection_value(metric) for metric in self._scores.together}

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Says the training loss now and then."""
        if logs and "loss" in logs:
            log.info("epoch %5.2f  training loss %.5f  learning rate %.2e", logs["epoch"], float(logs["loss"]),
                     logs["learning_rate"])  # fmt: skip

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Records an epoch."""
        assert self._scores is not None
        epoch = Epoch(round(state.epoch or 0), float(torch.stack(self.losses).mean()), self._scores)
        self.losses.clear()
        self.epochs.append(epoch)
        best = self.best(self._task.metrics[0])
        if self._writes:
            self._write(epoch, best)
        per_target = next(iter(epoch.scores.targets.values()), {})
        log.info(
            "epoch %d  validation %s  (%s)",
            epoch.number,
            "  ".join(f"{METRICS[m].title} {epoch.scores.selection_value(m):.4f}" for m in self.metrics),
            "  ".join(f"{target} {score.value:.3f}" for target, score in per_target.items()),
        )
        if self._patience is not None and epoch.number - best.number >= self._patience:
            log.info("no better epoch for %d epochs: training stops", self._patience)
            control.should_training_stop = True

    def _write(self, epoch: Epoch, best: Epoch) -> None:
        self._model.config.evaluation = epoch.to_evaluation()
        save_checkpoint(self._run, epoch.number, self._model)
        point_best(self._run, best.number)
        if self._keep == "best":
            kept = {epoch.number, *(self.best(metric).number for metric in self.metrics)}
            remove_other_checkpoints(self._run, kept)
        write_metrics(self._run, self.epochs)


def write_metrics(run: Path, epochs: list[Epoch]) -> None:
    """Writes the whole of metrics.csv, so that an epoch done again after a kill stands there once."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(_row(epochs[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row(epoch) for epoch in epochs)
    write_text(run / METRICS_FILE, text.getvalue())


def _row(epoch: Epoch) -> dict[str, str | int]:
    targets = {
        f"{metric}_{target}": score.value
        for metric, scores in epoch.scores.targets.items()
        for target, score in scores.items()
    }
    together = {metric: epoch.scores.reported_value(metric) for metric in epoch.scores.together}
    row = {"epoch": epoch.number, "training_loss": epoch.loss, "n_clips": epoch.scores.n_clips, **together, **targets}
    return {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
