"""What every way to run a stage shares: the job, the options, what came of it, and one clip's fault kept its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from viper.engine.failures import Failure
from viper.engine.pool import attempt
from viper.engine.shards import Shard
from viper.errors import OutputError, UserError


class Item(Protocol):
    """What the engine needs to know of a clip."""

    @property
    def id(self) -> str:
        """The clip's id, unique within a run."""
        ...


ItemT = TypeVar("ItemT", bound=Item)
SampleT = TypeVar("SampleT")
ResultT = TypeVar("ResultT")


@dataclass
class Job(Generic[ItemT, SampleT, ResultT]):
    """What a stage does with a clip. Everything in it can be pickled, to be run elsewhere.

    Attributes
    ----------
    stage : the command's name, for failures and progress.
    load : clip, or its content where there is a `read` -> sample, on the host.
    save : writes a clip's result atomically.
    is_done : whether a clip's output is there, valid and up to date.
    encode : samples of several clips -> their results; None when what `load` gives is the result. A copy of it loads
        its weights when it is first called.
    size : device items (frames, windows) in a sample: clips are batched until they hold `batch_size` of them.
    batch_size : device items at once.
    read : clip -> content, on the host; jobs that run together read alike.
    """

    stage: str
    load: Callable[[Any], SampleT]
    save: Callable[[ItemT, ResultT], None]
    is_done: Callable[[ItemT], bool]
    encode: Callable[[list[SampleT]], list[ResultT]] | None = None
    size: Callable[[SampleT], int] = field(default=lambda sample: 1)
    batch_size: int = 64
    read: Callable[[ItemT], Any] | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size}: must be at least 1")


@dataclass(frozen=True)
class EngineOptions:
    """How jobs are run.

    Attributes
    ----------
    n_workers : worker processes; -1: chosen by the machine, 0: none.
    incremental : skip the clips that are done.
    shard : do only this part of the clips.
    clip_timeout : seconds a worker may take to load a clip; 0: for ever.
    engine : "local", in this process and its workers; or "ray".
    ray_address : of a running Ray cluster; None: one is started here.
    num_gpus : with Ray: encoders in all, each on a GPU of its own; 0: on processors.
    """

    n_workers: int = -1
    incremental: bool = True
    shard: Shard | None = None
    clip_timeout: float = 600.0
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    num_gpus: int = 0

    def __post_init__(self) -> None:
        if self.n_workers < -1:
            raise UserError(f"--n_workers {self.n_workers}: 0 (none), a number of processes, or -1 (chosen)")
        if self.clip_timeout < 0:
            raise UserError(f"--clip_timeout {self.clip_timeout:g}: seconds, or 0 for no limit")
        if self.num_gpus < 0:
            raise UserError(f"--num_gpus {self.num_gpus}: must be at least 0")
        if self.engine == "local" and (self.ray_address or self.num_gpus):
            raise UserError("--ray_address and --num_gpus are for --engine ray")


@dataclass
class Summary:
    """What came of a run; `device_seconds` of its `seconds` went by in `encode`."""

    stage: str
    done: int = 0
    skipped: int = 0
    failed: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    device_seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 all done, 3 some clips failed, 1 nothing usable."""
        if not self.failed:
            return 0
        return 3 if self.done or self.skipped else 1

    def __str__(self) -> str:
        rate = f", {self.done / self.seconds:.1f} clips/s" if self.done and self.seconds > 0 else ""
        # By this one sees whether more workers would help. Encoders without a network leave the device idle.
        share = self.device_seconds / self.seconds if self.seconds > 0 else 0.0
        busy = f", device busy {share:.0%}" if share >= 0.01 else ""
        return (
            f"{self.stage}: {self.done} done, {self.skipped} already there, {len(self.failed)} failed "
            f"({self.seconds:.1f} s{rate}{busy})"
        )


@dataclass(frozen=True)
class Work(Generic[ItemT]):
    """A clip, and the jobs that lack it."""

    item: ItemT
    jobs: tuple[int, ...]


Outcome = tuple[int, ItemT, Exception | None]
"""(number of the job, clip, what it failed with)."""


def save_result(save: Callable[[Any, Any], None], item: Any, result: Any) -> None:
    """Saves a clip's result; what the system says against it is an OutputError, for it is not the clip's fault."""
    try:
        save(item, result)
    except OSError as error:
        raise OutputError(error.errno, error.strerror or str(error), error.filename) from error


def encode_batch(encode: Callable[[list[Any]], list[Any]], clips: Sequence[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """(clip, result or exception) of each (clip, sample): one clip's fault must not cost the others of its batch."""
    results = attempt(encode, [sample for _, sample in clips])
    if not isinstance(results, Exception):
        return [(item, result) for (item, _), result in zip(clips, results, strict=True)]
    raise_if_fatal(results)
    if len(clips) == 1:
        return [(clips[0][0], results)]
    return [pair for single in clips for pair in encode_batch(encode, [single])]


def raise_if_fatal(outcome: Any) -> None:
    """A wrong option or an output that cannot be written stops the run; anything else is the clip's own failure."""
    if isinstance(outcome, UserError | OutputError):
        raise outcome
