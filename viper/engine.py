"""One engine for every stage: a resumable map over clips.

A stage is a few callables. `read` and `load` are host work (decoding, resizing) and run in worker processes; `encode`
is device work on several clips at once, in this process, while the workers prepare the next ones; `save` writes one
clip's result. A stage without `encode` (frames) loads and saves in the workers. Clips that are done are skipped, a clip
that fails is listed and the others go on. Several stages that read the same content run together and read it once.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from viper.errors import OutputError, UserError
from viper.failures import Failure, FailureLog
from viper.files import prepare_outputs
from viper.progress import Progress
from viper.shards import Shard
from viper.workers import WorkerPool, attempt, resolve_workers

log = logging.getLogger("viper")

# Looking whether a clip is done is waiting for the disk, for a network's disk above all.
LOOKING_THREADS = 16
LOOKING_AHEAD = 1024
SAVING_THREADS = 2


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


Outcome = tuple[int, ItemT, Exception | None]
"""(number of the job, clip, what it failed with)."""


def run(
    job: Job[ItemT, SampleT, ResultT], items: Sequence[ItemT], output_folder: Path, options: EngineOptions
) -> Summary:
    """Runs a job over clips and keeps `failures.csv` in the output folder.

    Raises OutputError when an output cannot be written, and UserError when a stage finds its options wrong: neither
    is a clip's fault.
    """
    return run_together([job], items, [output_folder], options)[0]


def run_together(
    jobs: Sequence[Job[ItemT, Any, Any]], items: Sequence[ItemT], folders: Sequence[Path], options: EngineOptions
) -> list[Summary]:
    """Runs jobs that read alike over the same clips, each with its own output folder, and reads each clip once.

    Ray runs one job. A clip that fails one job does not fail the others; one that cannot be read fails all.
    """
    began = time.monotonic()
    if options.shard:
        items = [item for item in items if options.shard.has(item.id)]
    for folder in folders:
        prepare_outputs(folder)
    logs = [FailureLog(folder, job.stage) for job, folder in zip(jobs, folders, strict=True)]
    summaries = [Summary(job.stage) for job in jobs]
    pending: list[_Work[ItemT]] = []
    for item, are_done in zip(items, _look(jobs, items, options.incremental), strict=True):
        for number, is_done in enumerate(are_done):
            if is_done:
                summaries[number].skipped += 1
                logs[number].succeeded(item.id)
        if not all(are_done):
            pending.append(_Work(item, tuple(i for i, is_done in enumerate(are_done) if not is_done)))
    steps = _steps(jobs, pending, options, summaries)
    name = ", ".join(dict.fromkeys(job.stage for job in jobs))
    # Closed at once when the run is stopped, so that no worker goes on.
    with ExitStack() as stack:
        for failures in logs:
            stack.callback(failures.flush)
        progress = stack.enter_context(Progress(name, sum(len(work.jobs) for work in pending)))
        stack.enter_context(closing(steps))
        for number, item, error in steps:
            if error is None:
                summaries[number].done += 1
                logs[number].succeeded(item.id)
            else:
                failure = Failure.of(item.id, jobs[number].stage, error)
                summaries[number].failed.append(failure)
                logs[number].failed(failure)
                log.warning("%s", failure)
            progress.advance(sum(len(summary.failed) for summary in summaries))
    for summary in summaries:
        summary.seconds = time.monotonic() - began
    return summaries


@dataclass(frozen=True)
class _Work(Generic[ItemT]):
    """A clip, and the jobs that lack it."""

    item: ItemT
    jobs: tuple[int, ...]


def _look(jobs: Sequence[Job[ItemT, Any, Any]], items: Sequence[ItemT], incremental: bool) -> Iterator[list[bool]]:
    """For each clip, which jobs are done with it."""
    if not incremental:
        yield from ([False] * len(jobs) for _ in items)
        return
    with ThreadPoolExecutor(LOOKING_THREADS) as threads:
        for start in range(0, len(items), LOOKING_AHEAD):
            part = items[start : start + LOOKING_AHEAD]
            yield from threads.map(lambda item: [job.is_done(item) for job in jobs], part)


def _steps(
    jobs: Sequence[Job[ItemT, Any, Any]],
    pending: Sequence[_Work[ItemT]],
    options: EngineOptions,
    summaries: Sequence[Summary],
) -> Generator[Outcome[ItemT]]:
    if options.engine == "ray" and pending:
        from viper.ray_engine import run_on_ray

        (job,) = jobs
        for item, error in run_on_ray(job, [work.item for work in pending], options):
            yield 0, item, error
        return
    batches = [_Batch(job, summary) for job, summary in zip(jobs, summaries, strict=True)]
    with _Saver(jobs) as saver, closing(_Loaded(jobs, options, len(pending))) as loaded:
        for work, outcomes in loaded.map(pending):
            for number, outcome in zip(work.jobs, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    _raise_if_fatal(outcome)
                    yield number, work.item, outcome
                elif jobs[number].encode is None:
                    yield number, work.item, None
                else:
                    batches[number].add(work.item, outcome)
                    if batches[number].is_full:
                        loaded.expect(len(batches[number]))
                        yield from saver.save(number, batches[number].encode())
        for number, batch in enumerate(batches):
            yield from saver.save(number, batch.encode())
        yield from saver.finish()


class _Loaded:
    """Clips and what loading them came to, in their order, at most a few ahead of the caller."""

    def __init__(self, jobs: Sequence[Job[Any, Any, Any]], options: EngineOptions, n_items: int) -> None:
        self._function = _Load(
            jobs[0].read,
            tuple(job.load for job in jobs),
            tuple(None if job.encode else job.save for job in jobs),
        )
        n_workers = resolve_workers(options.n_workers, n_items)
        timeout = options.clip_timeout or None
        self._n_workers = n_workers
        self._pool = WorkerPool(n_workers, self._function, timeout) if n_workers else None

    def map(self, pending: Sequence[_Work[ItemT]]) -> Iterator[tuple[_Work[ItemT], list[Any]]]:
        if self._pool is None:
            yield from ((work, self._function(work)) for work in pending)
            return
        for work, outcome in self._pool.map(pending):
            # The process died, or took too long: that is what came of the clip for every job.
            yield work, [outcome] * len(work.jobs) if isinstance(outcome, Exception) else outcome

    def expect(self, n_clips: int) -> None:
        """Batches hold so many clips: the next one is loaded while one is on the device."""
        if self._pool is not None:
            self._pool.ahead = max(2 * self._n_workers, n_clips + self._n_workers)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()


@dataclass(frozen=True)
class _Load:
    """What a worker does: reads a clip once and loads it for every job that lacks it; without a device, saves it too.

    Answers an outcome a job: a sample, None where it was saved, or an exception.
    """

    read: Callable[[Any], Any] | None
    loads: tuple[Callable[[Any], Any], ...]
    saves: tuple[Callable[[Any, Any], None] | None, ...]

    def __call__(self, work: _Work[Any]) -> list[Any]:
        content = work.item if self.read is None else attempt(self.read, work.item)
        if isinstance(content, Exception):
            return [content] * len(work.jobs)
        return [attempt(lambda content, number=number: self._one(work.item, content, number), content)  # type: ignore[misc]
                for number in work.jobs]  # fmt: skip

    def _one(self, item: Any, content: Any, number: int) -> Any:
        sample = self.loads[number](content)
        save = self.saves[number]
        return sample if save is None else save_result(save, item, sample)


def save_result(save: Callable[[Any, Any], None], item: Any, result: Any) -> None:
    """Saves a clip's result; what the system says against it is an OutputError, for it is not the clip's fault."""
    try:
        save(item, result)
    except OSError as error:
        raise OutputError(error.errno, error.strerror or str(error), error.filename) from error


class _Batch:
    """Clips of one job on their way to the device."""

    def __init__(self, job: Job[Any, Any, Any], summary: Summary) -> None:
        self._job, self._summary = job, summary
        self._clips: list[tuple[Any, Any]] = []
        self._size = 0

    def __len__(self) -> int:
        return len(self._clips)

    @property
    def is_full(self) -> bool:
        return self._size >= self._job.batch_size

    def add(self, item: Any, sample: Any) -> None:
        self._clips.append((item, sample))
        # Clips without anything to encode must not pile up for ever.
        self._size += max(1, self._job.size(sample))

    def encode(self) -> Iterable[tuple[Any, Any]]:
        """(clip, result or exception) of all clips, which leave the batch."""
        clips, self._clips, self._size = self._clips, [], 0
        if not clips:
            return []
        assert self._job.encode is not None
        began = time.monotonic()
        try:
            return encode_batch(self._job.encode, clips)
        finally:
            self._summary.device_seconds += time.monotonic() - began


def encode_batch(encode: Callable[[list[Any]], list[Any]], clips: Sequence[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """(clip, result or exception) of each (clip, sample): one clip's fault must not cost the others of its batch."""
    results = attempt(encode, [sample for _, sample in clips])
    if not isinstance(results, Exception):
        return [(item, result) for (item, _), result in zip(clips, results, strict=True)]
    _raise_if_fatal(results)
    if len(clips) == 1:
        return [(clips[0][0], results)]
    return [pair for single in clips for pair in encode_batch(encode, [single])]


class _Saver:
    """Saves results in the background, so that the device need not wait for the disk."""

    def __init__(self, jobs: Sequence[Job[Any, Any, Any]]) -> None:
        self._jobs = jobs
        self._threads = ThreadPoolExecutor(SAVING_THREADS)
        self._under_way: deque[tuple[int, Any, Future[None]]] = deque()

    def __enter__(self) -> _Saver:
        return self

    def __exit__(self, *_: object) -> None:
        # What is encoded is kept, also when the run is stopped.
        self._threads.shutdown(wait=True, cancel_futures=False)

    def save(self, number: int, results: Iterable[tuple[Any, Any]]) -> Iterator[Outcome[Any]]:
        """Begins to save a batch of a job; answers what came of earlier ones."""
        earlier = len(self._under_way)
        for item, result in results:
            if isinstance(result, Exception):
                yield number, item, result
            else:
                future = self._threads.submit(save_result, self._jobs[number].save, item, result)
                self._under_way.append((number, item, future))
        yield from self._finished(earlier)

    def finish(self) -> Iterator[Outcome[Any]]:
        """Waits for the rest."""
        yield from self._finished(len(self._under_way))

    def _finished(self, count: int) -> Iterator[Outcome[Any]]:
        for number, item, future in islice(iter(self._under_way.popleft, None), count):
            error = attempt(Future.result, future)
            _raise_if_fatal(error)
            yield number, item, error


def _raise_if_fatal(outcome: Any) -> None:
    """A wrong option or an output that cannot be written stops the run; anything else is the clip's own failure."""
    if isinstance(outcome, UserError | OutputError):
        raise outcome
