"""The loop by itself: a network that is no fusion, accumulated gradients, and steps that do not fit into memory."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from many import Launcher
from torch import nn

from viper.errors import UserError
from viper.logs import start_logging
from viper.training.accumulation import Accumulation
from viper.training.loop import Steps, make_accelerator, train
from viper.training.options import LoopOptions
from viper.training.state import STATE_FILE, TrainingState

N = 30


class Line(nn.Module):
    """y = w x + b, with dropout, so that random numbers matter; `fits` is the largest batch it has memory for."""

    def __init__(self, fits: int = 1000, dropout: float = 0.1) -> None:
        super().__init__()
        self.map, self.dropout = nn.Linear(3, 1), nn.Dropout(dropout)
        self.fits, self.batches = fits, [0][:0]

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean squared error."""
        if len(x) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.batches.append(len(x))
        return (self.map(self.dropout(x)).squeeze(1) - y).square().mean()


class Losses:
    """Keeps every epoch's numbers, and stops after so many."""

    def __init__(self, most: int = 1000) -> None:
        self.epochs: list[tuple[int, float, float]] = []
        self.most = most

    @property
    def is_done(self) -> bool:
        return len(self.epochs) >= self.most

    def record(self, epoch: int, loss: float, validation: Any) -> dict[str, float]:
        self.epochs.append((epoch, loss, validation))
        return {"error": validation}

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs = [tuple(epoch) for epoch in state["epochs"]]  # type: ignore[misc]


def _examples() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 3, generator=generator)
    return [(row, row @ torch.tensor([1.0, -2.0, 0.5]) + 0.3) for row in x]


def _collate(items: Any) -> dict[str, Any]:
    return {"x": torch.stack([x for x, _ in items]), "y": torch.stack([y for _, y in items])}


def _options(**changed: Any) -> LoopOptions:
    usual: dict[str, Any] = {"n_epochs": 8, "batch_size": 6, "learning_rate": 0.1, "device": "cpu"}
    return LoopOptions(**(usual | changed))


def _train(folder: Path, network: Line, options: LoopOptions, recorder: Losses | None = None, **more: Any) -> Losses:
    recorder = recorder or Losses()
    batch = _collate(_examples())

    def validate(model: nn.Module) -> float:
        with torch.no_grad():
            return float((network.map(batch["x"]).squeeze(1) - batch["y"]).abs().mean())

    train(network, _examples(), _collate, options, validate, recorder, folder, **more)  # type: ignore[arg-type]
    return recorder


def _line(**how: Any) -> Line:
    torch.manual_seed(3)
    return Line(**how)


def test_any_network_with_a_loss_is_trained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = _line(dropout=0.0)
    with caplog.at_level(logging.INFO, "viper"):
        recorded = _train(tmp_path, network, _options(n_epochs=30, log_steps=10))
    assert recorded.epochs[-1][1:] == pytest.approx((0, 0), abs=2e-2)
    assert [number for number, *_ in recorded.epochs] == list(range(1, 31))
    assert network.map.weight[0].tolist() == pytest.approx([1, -2, 0.5], abs=2e-2)
    lines = [line for line in caplog.messages if "training loss" in line]
    assert len(lines) == 30 * 5 // 10
    assert lines[0].startswith("epoch  2.00  training loss ")


def test_a_stopped_training_of_any_network_is_resumed_to_the_bit(tmp_path: Path) -> None:
    options = _options(ema=0.5, accumulate_steps=2)
    whole = _line()
    expected = _train(tmp_path, whole, options).epochs
    _train(tmp_path, _line(), options, Losses(most=3))
    state = TrainingState.load(tmp_path)
    assert state.record["epoch"] == 3
    resumed = _line()
    torch.manual_seed(99)
    assert _train(tmp_path, resumed, options, resumed=state).epochs == expected
    assert torch.equal(resumed.map.weight, whole.map.weight)
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    """30 clips in steps of 12, 12 and 6."""
    large, parts = _line(dropout=0.0), _line(dropout=0.0)
    _train(tmp_path, large, _options(batch_size=12, n_epochs=3))
    _train(tmp_path, parts, _options(batch_size=4, accumulate_steps=3, n_epochs=3))
    assert set(large.batches) == {12, 6}
    assert set(parts.batches) == {4, 2}
    torch.testing.assert_close(large.map.weight, parts.map.weight, rtol=1e-5, atol=1e-6)


def test_a_step_that_does_not_fit_is_halved_and_learns_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, halved = _line(dropout=0.0), _line(dropout=0.0, fits=4)
    _train(tmp_path, whole, _options(batch_size=12, n_epochs=3))
    with caplog.at_level(logging.WARNING, "viper"):
        _train(tmp_path, halved, _options(batch_size=12, n_epochs=3))
    assert set(halved.batches) == {3}
    torch.testing.assert_close(whole.map.weight, halved.map.weight, rtol=1e-5, atol=1e-6)
    assert [line for line in caplog.messages if "out of memory" in line] == [
        "out of memory: the 12 examples of a step now go through the model 6 at a time",
        "out of memory: the 12 examples of a step now go through the model 3 at a time",
    ]
    with pytest.raises(torch.OutOfMemoryError):
        _train(tmp_path, _line(fits=0), _options())


def test_other_errors_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Accumulation, examples: Any) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Accumulation, "_attempt", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        _train(tmp_path, _line(), _options())


@pytest.mark.parametrize("n_processes", [1, 2, 4])
def test_every_example_is_in_an_epoch_and_processes_have_as_many(n_processes: int) -> None:
    class Rank:
        def __init__(self, rank: int) -> None:
            self.num_processes, self.process_index = n_processes, rank

    shares = [
        list(Steps(N, _options(batch_size=8, accumulate_steps=2), epoch=1, accelerator=Rank(rank)))  # type: ignore[arg-type]
        for rank in range(n_processes)
    ]
    for step in zip(*shares, strict=True):
        assert len({len(part) for part in step}) == 1
    every = [index for share in shares for step in share for index in step]
    assert set(every) == set(range(N))
    assert len(every) == N + -N % n_processes
    assert len(shares[0]) == 2
    other = [index for step in Steps(N, _options(), 2, Rank(0)) for index in step]  # type: ignore[arg-type]
    assert other != [index for step in Steps(N, _options(), 1, Rank(0)) for index in step]  # type: ignore[arg-type]


def test_a_tracker_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--report_to nonsense"):
        make_accelerator(_options(report_to=["nonsense"]), tmp_path)


def test_wrong_numbers_are_named() -> None:
    for name, value in [("accumulate_steps", 0), ("n_epochs", 0), ("ema", 1.0), ("log_steps", -1)]:
        with pytest.raises(UserError, match=f"--{name} {value}"):
            _options(**{name: value}).check()


def train_with_little_memory(folder: str) -> None:
    """What each of two processes does."""
    start_logging()
    rank = int(os.environ["RANK"])
    network = _line(dropout=0.0, fits=1000 if rank == 0 else 2)
    _train(Path(folder), network, _options(batch_size=12, n_epochs=2))
    torch.save(network.map.weight.detach(), Path(folder) / f"{rank}.pt")
    print(sorted(set(network.batches)))


def test_two_processes_agree_on_what_fits(tmp_path: Path, trainings: Launcher) -> None:
    """The second process has less memory; the first hears of it before it waits for gradients."""
    said = trainings.together(f"{__name__}:train_with_little_memory", [str(tmp_path)])
    one = _line(dropout=0.0)
    _train(tmp_path, one, _options(batch_size=12, n_epochs=2))
    for rank in (0, 1):
        weight = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(weight, one.map.weight.detach(), rtol=1e-4, atol=1e-5)
        assert "6 examples of a step now go through the model 3 at a time" in said[rank]
    assert said[1].splitlines()[-1] == "[1]"
