"""One engine for every stage: a resumable map over clips.

A stage is a few callables. `read` and `load` are host work (decoding, resizing) and run in worker processes; `encode`
is device work on several clips at once, in this process, while the workers prepare the next ones; `save` writes one
clip's result. A stage without `encode` (frames) loads and saves in the workers. Clips that are done are skipped, a clip
that fails is listed and the others go on. Several stages that read the same content run together and read it once.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from viper.engine.failures import Failure, FailureLog
from viper.engine.job import EngineOptions, ItemT, Job, Outcome, ResultT, SampleT, Shard, Summary, Work
from viper.engine.local import run_locally
from viper.engine.progress import Progress
from viper.errors import raise_if_interrupted
from viper.files import prepare_outputs
from viper.logs import log

# Looking whether a clip is done is waiting for the disk, for a network's disk above all.
LOOKING_THREADS = 16
LOOKING_AHEAD = 1024


def run(
    job: Job[ItemT, SampleT, ResultT], items: Sequence[ItemT], output_folder: Path, options: EngineOptions
) -> Summary:
    """Run a job over clips and keep `failures.csv` in the output folder.

    Raises
    ------
    OutputError
        When an output cannot be written.
    UserError
        When a stage finds its options wrong.
    """
    return run_together([job], items, [output_folder], options)[0]


def run_together(
    jobs: Sequence[Job[ItemT, Any, Any]], items: Sequence[ItemT], folders: Sequence[Path], options: EngineOptions
) -> list[Summary]:
    """Run jobs that read alike over the same clips, each with its own output folder, and read each clip once.

    Ray runs one job. A clip that fails one job does not fail the others; one that cannot be read fails all.
    """
    began = time.monotonic()
    shard = Shard.parse(options.shard)
    items = [item for item in items if shard.has(item.id)]
    for folder in folders:
        prepare_outputs(folder)
    logs = [FailureLog(folder, job.stage) for job, folder in zip(jobs, folders, strict=True)]
    summaries = [Summary(job.stage) for job in jobs]
    there = {item.id for item in items}
    for failures in logs:
        failures.forget_entries(lambda clip: shard.has(clip) and clip not in there)
    pending: list[Work[ItemT]] = []
    for item, are_done in zip(items, _look(jobs, items, options.incremental), strict=True):
        for number, is_done in enumerate(are_done):
            if is_done:
                summaries[number].skipped += 1
                logs[number].succeeded(item.id)
        if not all(are_done):
            pending.append(Work(item, tuple(i for i, is_done in enumerate(are_done) if not is_done)))
    steps = _steps(jobs, pending, options, summaries)
    name = ", ".join(dict.fromkeys(job.stage for job in jobs))
    # Closed at once when the run is stopped, so that no worker goes on.
    with ExitStack() as stack:
        for failures in logs:
            stack.callback(failures.flush)
        progress = stack.enter_context(Progress(name, sum(len(work.jobs) for work in pending)))
        stack.enter_context(closing(steps))
        for number, item, error in steps:
            raise_if_interrupted()
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


def _look(jobs: Sequence[Job[ItemT, Any, Any]], items: Sequence[ItemT], incremental: bool) -> Iterator[list[bool]]:
    """Yield for each clip which jobs are done with it."""
    if not incremental:
        yield from ([False] * len(jobs) for _ in items)
        return
    with ThreadPoolExecutor(LOOKING_THREADS) as threads:
        for start in range(0, len(items), LOOKING_AHEAD):
            part = items[start : start + LOOKING_AHEAD]
            yield from threads.map(lambda item: [job.is_done(item) for job in jobs], part)


def _steps(
    jobs: Sequence[Job[ItemT, Any, Any]],
    pending: Sequence[Work[ItemT]],
    options: EngineOptions,
    summaries: Sequence[Summary],
) -> Generator[Outcome[ItemT]]:
    if options.engine == "local":
        yield from run_locally(jobs, pending, options, summaries)
        return
    from viper.engine.ray import run_on_ray

    (job,) = jobs
    for item, error in run_on_ray(job, [work.item for work in pending], options):
        yield 0, item, error
