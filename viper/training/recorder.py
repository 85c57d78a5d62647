"""What a training leaves behind after every epoch: scores, a row of metrics.csv, a checkpoint, and `best`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viper.evaluation.metrics import METRICS, Scores, is_better
from viper.files import write_csv_records
from viper.fusion.checkpoint import point_best, remove_other_checkpoints, save_checkpoint
from viper.fusion.perceiver import PerceiverFusion
from viper.logs import log
from viper.task import Task
from viper.training.run_folder import METRICS_FILE


@dataclass(frozen=True)
class Epoch:
    """One epoch: its number, its mean training loss, its scores on the validation split."""

    number: int
    loss: float
    scores: Scores

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {"number": self.number, "loss": self.loss, "scores": self.scores.to_dict()}

    def to_evaluation(self) -> dict[str, Any]:
        """Return what the config of its checkpoint keeps, see `PerceiverFusionConfig.evaluation`."""
        return {"split": "Val", "epoch": self.number, **self.scores.to_dict()}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Epoch:
        """Invert `to_dict`."""
        return cls(record["number"], float(record["loss"]), Scores.from_dict(record["scores"]))


class Recorder:
    """Keeps the epochs of a fusion's training; writes where `writes` (in the first process of several).

    Parameters
    ----------
    keep : "all" epochs' checkpoints, or only the "best" ones and the last.
    patience : epochs without a better score after which training stops; None: never.
    """

    def __init__(
        self, model: PerceiverFusion, task: Task, run: Path, keep: str, patience: int | None, writes: bool
    ) -> None:
        self._model, self._task, self._run = model, task, run
        self._keep, self._patience, self._writes = keep, patience, writes
        self.epochs: list[Epoch] = []

    def best(self, metric: str) -> Epoch:
        """Return the first of the epochs with the best value of a metric."""
        best = self.epochs[0]
        for epoch in self.epochs[1:]:
            if is_better(metric, epoch.scores.selection_value(metric), best.scores.selection_value(metric)):
                best = epoch
        return best

    def best_by_metric(self) -> dict[str, Epoch]:
        """Return the best epoch by each metric of the task, the one that selects first.

        Metrics that the validation split has nothing to compute on are left out.
        """
        return {name: self.best(name) for name in self._metrics}

    @property
    def _metrics(self) -> list[str]:
        return [name for name, score in self.epochs[0].scores.together.items() if score.n]

    @property
    def is_done(self) -> bool:
        """Whether there was no better epoch for as many as `patience` says."""
        if self._patience is None or not self.epochs:
            return False
        return self.epochs[-1].number - self.best(self._task.metrics[0]).number >= self._patience

    def record(self, epoch: int, loss: float, validation: Scores) -> dict[str, float]:
        """Keep an epoch: its checkpoint, `best`, a row of metrics.csv, a line of the log."""
        done = Epoch(epoch, loss, validation)
        self.epochs.append(done)
        if self._writes:
            self._write(done)
        values = {metric: validation.selection_value(metric) for metric in self._metrics}
        per_target = next(iter(validation.targets.values()), {})
        log.info(
            "epoch %d  validation %s  (%s)",
            epoch,
            "  ".join(f"{METRICS[metric].title} {value:.4f}" for metric, value in values.items()),
            "  ".join(f"{target} {score.value:.3f}" for target, score in per_target.items()),
        )
        if self.is_done:
            log.info("no better epoch for %d epochs: training stops", self._patience)
        return {f"validation_{metric}": value for metric, value in values.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the epochs so far, JSON-ready."""
        return {"epochs": [epoch.to_dict() for epoch in self.epochs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after these epochs; ValueError where they are not those of a training on the task."""
        self.epochs = [Epoch.from_dict(record) for record in state["epochs"]]
        if not self.epochs or [epoch.number for epoch in self.epochs] != list(range(1, len(self.epochs) + 1)):
            raise ValueError("its epochs are not one after the other")
        for epoch in self.epochs:
            scores = epoch.scores
            if (
                scores.together.keys() != self.epochs[0].scores.together.keys()
                or not {*self._task.metrics} <= scores.together.keys() <= METRICS.keys()
            ):
                raise ValueError("its scores are not of this task")

    def _write(self, epoch: Epoch) -> None:
        self._model.config.evaluation = epoch.to_evaluation()
        save_checkpoint(self._run, epoch.number, self._model)
        point_best(self._run, self.best(self._task.metrics[0]).number)
        if self._keep == "best":
            kept = {epoch.number, *(self.best(metric).number for metric in self._metrics)}
            remove_other_checkpoints(self._run, kept)
        _write_metrics(self._run, self.epochs)


def _write_metrics(run: Path, epochs: list[Epoch]) -> None:
    """Write the whole of metrics.csv, so that an epoch done again after a kill appears once."""
    write_csv_records(run / METRICS_FILE, [_row(epoch) for epoch in epochs])


def _row(epoch: Epoch) -> dict[str, str | int]:
    targets = {
        f"{metric}_{target}": score.value
        for metric, scores in epoch.scores.targets.items()
        for target, score in scores.items()
    }
    together = {metric: epoch.scores.reported_value(metric) for metric in epoch.scores.together}
    row = {"epoch": epoch.number, "training_loss": epoch.loss, "n_clips": epoch.scores.n_clips, **together, **targets}
    return {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
