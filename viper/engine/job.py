"""What every way to run a stage shares: the job, the options, the summary, and errors that stay with their clip."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from viper.clip_ids import SEPARATOR, check_separator
from viper.engine.failures import Failure
from viper.engine.pool import attempt
from viper.errors import OutputError, UserError
from viper.logs import duration, pace


class Item(Protocol):
    """What the engine needs to know about a clip."""

    @property
    def id(self) -> str:
        """The clip's id, unique within a run."""
        ...


ItemT = TypeVar("ItemT", bound=Item)
SampleT = TypeVar("SampleT")
ResultT = TypeVar("ResultT")


@dataclass
class Job(Generic[ItemT, SampleT, ResultT]):
    """What a stage does with a clip. Everything in it can be pickled, to run in other processes.

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
class Shard:
    """Part `number` of `count`, counted from 1, of the clips: for jobs that run side by side and know nothing else.

    A clip's id alone decides its shard, not its place among the clips: what a folder lists may differ from job to job,
    as when another job is still writing to it. Shards are disjoint, complete, and nearly of one size.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard written as "k/n"; an empty text is all clips. Anything else is a UserError."""
        if not text:
            return cls(1, 1)
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"--shard {text}: must be k/n, such as 3/16, with k from 1 to n")
        return cls(int(match[1]), int(match[2]))

    def has(self, clip: str) -> bool:
        """Return whether the clip of that id belongs to it."""
        digest = hashlib.blake2b(clip.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest) % self.count == self.number - 1


@dataclass(kw_only=True)
class FolderOptions:
    """How a folder of clips is read. Wrong options are a UserError."""

    subfolders: bool = False
    """Also read the subfolders of the input folder. A clip's id is then its path: a/1.mp4 is the clip a_1."""
    id_separator: str = SEPARATOR
    """With --subfolders: what joins the parts of such an id."""

    def __post_init__(self) -> None:
        check_separator(self.id_separator)
        if self.id_separator != SEPARATOR and not self.subfolders:
            raise UserError(f"--id_separator {self.id_separator}: is for --subfolders")

    @property
    def separator(self) -> str | None:
        """What joins the names of subfolders and files to ids; None: subfolders are not read."""
        return self.id_separator if self.subfolders else None


@dataclass(kw_only=True)
class EngineOptions(FolderOptions):
    """How a stage goes over its clips; the commands of stages inherit these options. Wrong ones are a UserError."""

    n_workers: int = -1
    """Processes that read and prepare clips; 0: none beside this one; -1: one per core."""
    incremental: bool = True
    """Skip clips whose output exists, is valid and up to date."""
    shard: str = ""
    """Do only part k of n of the clips, written k/n, such as 3/16: for job arrays. A clip's id decides its part."""
    clip_timeout: float = 600.0
    """Seconds a process may take to read and prepare a clip; then the clip has failed. 0: no limit."""
    engine: Literal["local", "ray"] = "local"
    """local: on this machine; ray: on Ray Data, on one machine or on many (pip install 'viper[ray]')."""
    ray_address: str | None = None
    """Address of a running Ray cluster: auto, or host:port. Without it a Ray is started here."""
    num_gpus: int = 0
    """With Ray: how many GPUs the model runs on, each with a copy of it; 0: on processors."""

    def __post_init__(self) -> None:
        super().__post_init__()
        Shard.parse(self.shard)
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
    """How a run ended; `device_seconds` of its `seconds` were spent in `encode`."""

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
        rate = f", {pace(self.done / self.seconds)}" if self.done and self.seconds > 0 else ""
        # By this one sees whether more workers would help. Encoders without a network leave the device idle.
        share = self.device_seconds / self.seconds if self.seconds > 0 else 0.0
        busy = f", device busy {share:.0%}" if share >= 0.01 else ""
        return (
            f"{self.stage}: {self.done} done, {self.skipped} already there, {len(self.failed)} failed "
            f"({f'{self.seconds:.1f} s' if self.seconds < 100 else duration(self.seconds)}{rate}{busy})"
        )


@dataclass(frozen=True)
class Work(Generic[ItemT]):
    """A clip, and the jobs that lack it."""

    item: ItemT
    jobs: tuple[int, ...]


Outcome = tuple[int, ItemT, Exception | None]
"""(number of the job, clip, what it failed with)."""


def save_result(save: Callable[[Any, Any], None], item: Any, result: Any) -> None:
    """Save a clip's result; an error of the system is an OutputError, since it is not the clip's fault."""
    try:
        save(item, result)
    except OSError as error:
        raise OutputError(error.errno, error.strerror or str(error), error.filename) from error


def encode_batch(encode: Callable[[list[Any]], list[Any]], clips: Sequence[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return (clip, result or exception) for each (clip, sample): a clip's fault must cost no other of its batch."""
    results = attempt(encode, [sample for _, sample in clips])
    if not isinstance(results, Exception):
        return [(item, result) for (item, _), result in zip(clips, results, strict=True)]
    raise_if_fatal(results)
    if len(clips) == 1:
        return [(clips[0][0], results)]
    return [pair for single in clips for pair in encode_batch(encode, [single])]


def raise_if_fatal(outcome: Any) -> None:
    """Raise what stops a run: a wrong option or an output that cannot be written. Other errors are the clip's own."""
    if isinstance(outcome, UserError | OutputError):
        raise outcome
