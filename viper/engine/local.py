"""The engine on one machine: clips are loaded by worker processes, encoded here, and saved in the background."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

from viper.engine.job import (
    EngineOptions,
    ItemT,
    Job,
    Outcome,
    Summary,
    Work,
    encode_batch,
    raise_if_fatal,
    save_result,
)
from viper.engine.pool import WorkerPool, attempt, resolve_workers

SAVING_THREADS = 2


def run_locally(
    jobs: Sequence[Job[ItemT, Any, Any]],
    pending: Sequence[Work[ItemT]],
    options: EngineOptions,
    summaries: Sequence[Summary],
) -> Generator[Outcome[ItemT]]:
    """Yield what came of every job with every clip that lacks it, as it comes.

    The jobs' summaries get their device's time. Raises what stops a run, UserError or OutputError.
    """
    batches = [_Batch(job, summary) for job, summary in zip(jobs, summaries, strict=True)]
    with _Saver(jobs) as saver, closing(_Loaded(jobs, options, len(pending))) as loaded:
        for work, outcomes in loaded.map(pending):
            for number, outcome in zip(work.jobs, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    raise_if_fatal(outcome)
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

    def map(self, pending: Sequence[Work[ItemT]]) -> Iterator[tuple[Work[ItemT], list[Any]]]:
        if self._pool is None:
            yield from ((work, self._function(work)) for work in pending)
            return
        for work, outcome in self._pool.map(pending):
            # The process died, or took too long: that is what came of the clip for every job.
            yield work, [outcome] * len(work.jobs) if isinstance(outcome, Exception) else outcome

    def expect(self, n_clips: int) -> None:
        """Let batches hold so many clips: the next one is loaded while one is on the device."""
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

    def __call__(self, work: Work[Any]) -> list[Any]:
        content = work.item if self.read is None else attempt(self.read, work.item)
        if isinstance(content, Exception):
            return [content] * len(work.jobs)
        return [attempt(partial(self._one, work.item, number), content) for number in work.jobs]

    def _one(self, item: Any, number: int, content: Any) -> Any:
        sample = self.loads[number](content)
        save = self.saves[number]
        return sample if save is None else save_result(save, item, sample)


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
        began = monotonic()
        try:
            return encode_batch(self._job.encode, clips)
        finally:
            self._summary.device_seconds += monotonic() - began


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
        """Begin to save a batch of a job; return what came of earlier ones."""
        earlier = len(self._under_way)
        for item, result in results:
            if isinstance(result, Exception):
                yield number, item, result
            else:
                future = self._threads.submit(save_result, self._jobs[number].save, item, result)
                self._under_way.append((number, item, future))
        yield from self._finished(earlier)

    def finish(self) -> Iterator[Outcome[Any]]:
        """Wait for the rest."""
        yield from self._finished(len(self._under_way))

    def _finished(self, count: int) -> Iterator[Outcome[Any]]:
        for _ in range(count):
            number, item, future = self._under_way.popleft()
            error = attempt(Future.result, future)
            raise_if_fatal(error)
            yield number, item, error
