"""One engine for every stage: a resumable map over clips.

A stage is three callables. `load` is host work (decoding, resizing) and runs in worker processes; `encode` is device
work on several clips at once, in this process; `save` writes one clip's result. A stage without `encode` (frames) loads
and saves in the workers. Clips that are done are skipped, a clip that fails is listed and the others go on.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from viper.errors import OutputError, UserError
from viper.failures import Failure, FailureLog
from viper.files import prepare_outputs
from viper.workers import make_pool, resolve_workers, stop_pool, submit

log = logging.getLogger("viper")

LOG_EVERY_SECONDS = 30.0


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
    """What a stage does with a clip.

    Attributes
    ----------
    stage : the command's name, for failures and progress.
    load : clip -> sample, on the host; picklable.
    save : writes a clip's result atomically; picklable when there is no `encode`.
    is_done : whether a clip's output is there, valid and up to date.
    encode : samples of several clips -> their results; None when what `load` gives is the result.
    size : device items (frames, windows) in a sample: clips are batched until they hold `batch_size` of them.
    """

    stage: str
    load: Callable[[ItemT], SampleT]
    save: Callable[[ItemT, ResultT], None]
    is_done: Callable[[ItemT], bool]
    encode: Callable[[list[SampleT]], list[ResultT]] | None = None
    size: Callable[[SampleT], int] = field(default=lambda sample: 1)


@dataclass(frozen=True)
class EngineOptions:
    """How a job is run: worker processes (-1: chosen by the machine, 0: none), device items a batch, resume or not."""

    n_workers: int = -1
    batch_size: int = 64
    incremental: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size}: must be at least 1")
        if self.n_workers < -1:
            raise UserError(f"--n_workers {self.n_workers}: 0 (none), a number of processes, or -1 (chosen)")


@dataclass
class Summary:
    """What came of a run."""

    stage: str
    done: int = 0
    skipped: int = 0
    failed: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 all done, 3 some clips failed, 1 nothing usable."""
        if not self.failed:
            return 0
        return 3 if self.done or self.skipped else 1

    def __str__(self) -> str:
        rate = f", {self.done / self.seconds:.1f} clips/s" if self.done and self.seconds > 0 else ""
        return (
            f"{self.stage}: {self.done} done, {self.skipped} already there, {len(self.failed)} failed "
            f"({self.seconds:.1f} s{rate})"
        )


def run(
    job: Job[ItemT, SampleT, ResultT], items: Sequence[ItemT], output_folder: Path, options: EngineOptions
) -> Summary:
    """Runs a job over clips and keeps `failures.csv` in the output folder.

    Raises OutputError when an output cannot be written, and UserError when a stage finds its options wrong: neither
    is a clip's fault.
    """
    began = time.monotonic()
    summary = Summary(job.stage)
    prepare_outputs(output_folder)
    failures = FailureLog(output_folder, job.stage)
    pending = []
    for item in items:
        if options.incremental and job.is_done(item):
            summary.skipped += 1
            failures.succeeded(item.id)
        else:
            pending.append(item)
    steps = _run_on_host(job, pending, options) if job.encode is None else _run_on_device(job, pending, options)
    # Closed at once when the run is stopped, so that no worker goes on.
    with _Progress(job.stage, len(pending)) as progress, closing(steps):
        for item, error in steps:
            if error is None:
                summary.done += 1
                failures.succeeded(item.id)
            else:
                failure = Failure.of(item.id, job.stage, error)
                summary.failed.append(failure)
                failures.failed(failure)
                log.warning("%s", failure)
            progress.advance(len(summary.failed))
    summary.seconds = time.monotonic() - began
    return summary


def _run_on_host(
    job: Job[ItemT, SampleT, ResultT], items: Sequence[ItemT], options: EngineOptions
) -> Generator[tuple[ItemT, Exception | None]]:
    for item, outcome in _map(_LoadAndSave(job.load, job.save), items, options.n_workers):
        yield item, outcome if isinstance(outcome, Exception) else None


def _run_on_device(
    job: Job[ItemT, SampleT, ResultT], items: Sequence[ItemT], options: EngineOptions
) -> Generator[tuple[ItemT, Exception | None]]:
    batch: list[tuple[ItemT, SampleT]] = []
    size = 0
    for item, outcome in _map(job.load, items, options.n_workers):
        if isinstance(outcome, Exception):
            yield item, outcome
            continue
        batch.append((item, outcome))
        size += job.size(outcome)
        if size >= options.batch_size:
            yield from _encode_and_save(job, batch)
            batch, size = [], 0
    yield from _encode_and_save(job, batch)


def _encode_and_save(
    job: Job[ItemT, SampleT, ResultT], batch: list[tuple[ItemT, SampleT]]
) -> Generator[tuple[ItemT, Exception | None]]:
    if not batch:
        return
    assert job.encode is not None
    results = _attempt(job.encode, [sample for _, sample in batch])
    if isinstance(results, Exception) and len(batch) > 1:
        # One clip's fault must not cost the others of its batch.
        for single in batch:
            yield from _encode_and_save(job, [single])
    elif isinstance(results, Exception):
        yield batch[0][0], results
    else:
        for (item, _), result in zip(batch, results, strict=True):
            yield item, _attempt(_Save(job.save, item), result)


@dataclass(frozen=True)
class _Save:
    save: Callable[[Any, Any], None]
    item: Any

    def __call__(self, result: Any) -> None:
        try:
            self.save(self.item, result)
        except OSError as error:
            raise OutputError(error.errno, error.strerror or str(error), error.filename) from error


@dataclass(frozen=True)
class _LoadAndSave:
    load: Callable[[Any], Any]
    save: Callable[[Any, Any], None]

    def __call__(self, item: Any) -> None:
        _Save(self.save, item)(self.load(item))


def _map(function: Callable[[Any], Any], items: Sequence[Any], n_workers: int) -> Generator[tuple[Any, Any]]:
    """(item, result or exception) in the order of `items`, at most a few ahead of the consumer."""
    n_workers = resolve_workers(n_workers, len(items))
    if n_workers == 0:
        for item in items:
            yield item, _attempt(function, item)
        return
    waiting: deque[tuple[Any, Future[Any]]] = deque()
    upcoming = iter(items)
    pool = make_pool(n_workers, function)
    try:
        while True:
            while len(waiting) < 2 * n_workers and (item := next(upcoming, None)) is not None:
                waiting.append((item, submit(pool, item)))
            if not waiting:
                return
            item, future = waiting[0]
            try:
                outcome = _outcome(future)
            except BrokenProcessPool:
                stop_pool(pool)
                yield from _one_at_a_time(function, [item for item, _ in waiting])
                waiting.clear()
                pool = make_pool(n_workers, function)
                continue
            waiting.popleft()
            yield item, outcome
    finally:
        stop_pool(pool)


def _outcome(future: Future[Any]) -> Any:
    """A worker's result or exception. Raises BrokenProcessPool when a worker died, and what stops the run."""
    try:
        outcome = future.result()
    except BrokenProcessPool:
        raise
    except Exception as error:  # the item or the result could not be sent
        outcome = error
    _raise_if_fatal(outcome)
    return outcome


def _attempt(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except Exception as error:
        _raise_if_fatal(error)
        return error


def _one_at_a_time(function: Callable[[Any], Any], items: Sequence[Any]) -> Generator[tuple[Any, Any]]:
    """Goes through the clips that were under way when a worker died with one process, to find the culprit."""
    pool = make_pool(1, function)
    try:
        for item in items:
            try:
                outcome = _outcome(submit(pool, item))
            except BrokenProcessPool:
                outcome = RuntimeError("the process that loaded this clip crashed")
                stop_pool(pool)
                pool = make_pool(1, function)
            yield item, outcome
    finally:
        stop_pool(pool)


def _raise_if_fatal(outcome: Any) -> None:
    """A wrong option or an output that cannot be written stops the run; anything else is the clip's own failure."""
    if isinstance(outcome, UserError | OutputError):
        raise outcome


class _Progress:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, stage: str, total: int) -> None:
        self._bar = tqdm(total=total, desc=stage, unit="clip", disable=not sys.stderr.isatty() or total == 0)
        self._stage, self._total, self._done = stage, total, 0
        self._began = self._said = time.monotonic()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, n_failed: int) -> None:
        self._done += 1
        self._bar.set_postfix_str(f"{n_failed} failed", refresh=False)
        self._bar.update()
        now = time.monotonic()
        if self._bar.disable and now - self._said >= LOG_EVERY_SECONDS:
            self._said = now
            rate = self._done / (now - self._began)
            left = (self._total - self._done) / rate
            log.info("%s: %d of %d clips, %.1f clips/s, %.0f s left, %d failed",
                     self._stage, self._done, self._total, rate, left, n_failed)  # fmt: skip
