"""What `viper tune` searches: ranges and choices for options of train_perceiver."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viper.commands.convert import convert
from viper.commands.train_perceiver import TrainOptions
from viper.commands.trainings import OPTION_TYPES, check_option
from viper.errors import UserError
from viper.files import read_yaml
from viper.task import Task
from viper.training.options import LEARNING_RATES

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Range:
    """The values an option may take: some `choices`, or what lies between `low` and `high`, both included.

    Attributes
    ----------
    choices : the values; empty where there are bounds.
    low, high : whole numbers where the option is one.
    log : draw so that every order of magnitude is as likely.
    """

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    def distribution(self) -> BaseDistribution:
        """Return it as Optuna wants it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def __contains__(self, value: Any) -> bool:
        return value in self.choices if self.choices else value is not None and self.low <= value <= self.high

    def describe(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return (
            {"choices": list(self.choices)} if self.choices else {"low": self.low, "high": self.high, "log": self.log}
        )


def default_space(task: Task, fixed: Mapping[str, Any]) -> dict[str, Range]:
    """Return what is searched unless the user says otherwise: options learning depends on, without those in `fixed`."""
    space = {
        "learning_rate": Range(low=1e-4, high=5e-3, log=True),
        "weight_decay": Range(low=1e-3, high=0.3, log=True),
        "batch_size": Range(choices=(8, 16, 32, 64)),
        "d_latents": Range(choices=(64, 128, 256, 384)),
        "n_latents": Range(choices=(8, 16, 32, 64)),
        "n_layers": Range(low=1, high=6),
        "dropout": Range(low=0.0, high=0.4),
        "modality_dropout": Range(low=0.0, high=0.4),
        "token_dropout": Range(low=0.0, high=0.4),
        "feature_dropout": Range(low=0.0, high=0.6),
        "ema": Range(choices=(0.0, 0.98, 0.995)),
    }
    if task.kind == "regression":
        space["loss"] = Range(choices=tuple(dict.fromkeys((task.loss, "mse", "l1", "mse+0.5*ccc", "mse+0.5*pearson"))))
    else:
        space["label_smoothing"] = Range(low=0.0, high=0.2)
    without = {*fixed, *(("n_latents", "n_layers") if fixed.get("fusion") in ("mlp", "gru") else ())}
    return {name: each for name, each in space.items() if name not in without}


def read_space(path: Path, own: Collection[str]) -> dict[str, Range]:
    """Read a space from YAML: ``learning_rate: {low: 1e-4, high: 5e-3, log: true}``, ``ema: {choices: [0, 0.99]}``.

    Raises UserError naming the file and the option: a file that cannot be read, an option that train_perceiver does not
    have or that the command sets itself (`own`), or wrong values.
    """
    content = read_yaml(path, "a search space")
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: a search space is a YAML mapping of options to {{low, high[, log]}} or {{choices}}")
    for name in content:
        check_option(str(name), str(path), own)
    return {name: _parse(path, name, each) for name, each in content.items()}


def _parse(path: Path, name: str, given: Any) -> Range:
    def value_of(value: Any) -> Any:
        return convert(value, OPTION_TYPES[name], f"{path}: {name}")

    if isinstance(given, dict) and given.keys() == {"choices"}:
        if isinstance(given["choices"], list) and given["choices"]:
            return Range(choices=tuple(value_of(each) for each in given["choices"]))
    elif isinstance(given, dict) and {"low", "high"} <= given.keys() <= {"low", "high", "log"}:
        low, high, log = value_of(given["low"]), value_of(given["high"]), given.get("log", False)
        numbers = all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in (low, high))
        if numbers and low < high and isinstance(log, bool) and (low > 0 or not log):
            return Range(low=low, high=high, log=log)
    raise UserError(
        f"{path}: {name} must be {{low: NUMBER, high: NUMBER}}, low first, with log: true (then above 0) or without, "
        f"or {{choices: [...]}}, not {given}"
    )


def usual_values(space: Mapping[str, Range], preset: str, task: Task, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Return what train_perceiver would take for the searched options by itself, where the space has it.

    As the first trial, it keeps a search from ending with worse than no search.
    """
    from viper.fusion.config import PRESETS

    usual = {name: getattr(TrainOptions, name, None) for name in space} | {
        name: getattr(PRESETS[preset], name) for name in space if hasattr(PRESETS[preset], name)
    }
    if fixed.get("fusion") != "channels":
        usual |= {"learning_rate": LEARNING_RATES[preset], "loss": task.loss}
    return {name: usual[name] for name, each in space.items() if usual[name] in each}
