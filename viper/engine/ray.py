"""The engine on a Ray cluster, by Ray Data: a job's callables on many machines that share a file system.

Tasks load clips on the cluster's CPUs, and pass on groups of samples that fill a batch of the device; actors encode the
groups and save. Both go on at once, and Ray Data keeps the tasks from running far ahead. What travels between the
processes of a run is pickled, by Ray; nothing pickled is written to a file or read from one.

A process or node that dies takes with it what it was doing, and Ray does that again, a few times, on what is left.
Clips that are without an answer after that are done once more, each in a task of its own, so that a clip that
crashes its process costs no other. Outputs are written atomically, so doing a clip twice does no harm.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import logging
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from viper.engine.job import EngineOptions, Item, Job, encode_batch, raise_if_fatal, save_result
from viper.engine.pool import attempt
from viper.errors import OutputError, UserError
from viper.logs import log
from viper.offline import VARIABLES, go_offline, is_offline

ItemT = TypeVar("ItemT", bound=Item)
Numbered = tuple[int, Any]  # a clip, after its place in the list of clips
Records = list[tuple[int, str]]  # of a log: level and message

# Clips a task: several, because a task costs the driver milliseconds; few, because a lost one is done again.
MOST_TOGETHER = 32
LEAST_TOGETHER = 8  # where a task makes batches of them
TASKS_A_CPU = 4  # at least, so that the CPUs end at about the same time
# Shares of a processor. Encoders go to nodes that have processors, but leave them to the loaders: when nodes are lost,
# encoders would else move to the processors that are left, and wait there for samples that nobody can load.
LOADER_CPUS, ENCODER_CPUS = 0.99, 0.001
# For so long nothing may be finished anywhere before a pass is given up, as when encoders wait for a GPU that is gone.
STALLED_SECONDS = 900.0
# What workers on other machines must know, too: above all, not to use the network.
FORWARDED = (*VARIABLES, "HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME")
# Read when Ray is imported: no report to its makers, and no word of its own about every process that it starts again.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
COLUMN = "pickled"


@dataclass(frozen=True)
class _Cluster:
    """What there is to work with: processors, and encoders that each have `gpus_each` GPUs (1 or 0)."""

    n_cpus: int
    n_encoders: int
    gpus_each: int


@dataclass(frozen=True)
class _Pass:
    """How clips go through the cluster.

    Attributes
    ----------
    together : clips a task.
    retries : of a task that was lost with its process, its node or its output.
    in_flight : groups handed to an encoder at once. A second one waits there, which saves time; but a crash costs
        both of them a retry.
    """

    together: int
    retries: int
    in_flight: int


@dataclass(frozen=True)
class _Loaded:
    """A clip on its way to the device; `sample` is an exception where it cannot be loaded."""

    index: int
    item: Any
    sample: Any
    said: Records


@dataclass(frozen=True)
class _Answer:
    """What came of one clip, and what was logged about it."""

    index: int
    error: Exception | None = None
    said: Records = field(default_factory=list)


def run_on_ray(
    job: Job[ItemT, Any, Any], items: Sequence[ItemT], options: EngineOptions
) -> Generator[tuple[ItemT, Exception | None]]:
    """Yield every clip once, in no particular order: with None when its output is saved, or with its error.

    Raises UserError when Ray is missing, the cluster cannot be reached or lacks what was asked for; and what stops a
    run, UserError or OutputError, wherever on the cluster it was raised.
    """
    if not items:
        return
    with _connected(options):
        unanswered = dict(enumerate(items))
        cluster = _measure(options)
        if cluster.n_encoders < options.num_gpus:
            raise UserError(f"--num_gpus {options.num_gpus}: the cluster has {cluster.n_encoders}")
        least = LEAST_TOGETHER if job.encode else 1
        together = max(least, min(MOST_TOGETHER, len(items) // (TASKS_A_CPU * cluster.n_cpus)))
        for how in (_Pass(together, retries=2, in_flight=2), _Pass(1, retries=1, in_flight=1)):
            with contextlib.closing(_answers(job, list(unanswered.items()), options, how)) as answers:
                for answer in answers:
                    for level, message in answer.said:
                        log.log(level, "%s", message)
                    raise_if_fatal(answer.error)
                    # What was done twice is answered twice.
                    if answer.index in unanswered:
                        yield unanswered.pop(answer.index), answer.error
            if not unanswered:
                return
    late = f", or took longer than {options.clip_timeout:g} s (--clip_timeout)" if options.clip_timeout else ""
    for item in unanswered.values():
        yield item, RuntimeError(f"the processes that worked on this clip crashed{late}")


def _answers(job: Job[Any, Any, Any], clips: list[Numbered], options: EngineOptions, how: _Pass) -> Generator[_Answer]:
    """Make one pass. Clips whose tasks are lost for good are left out."""
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import RayError

    with warnings.catch_warnings():
        # Of the two arguments that say how often a task is tried again; so far there is no other way.
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        data = _pipeline(job, clips, options, how)
    batches = iter(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    try:
        # Closed when the run is stopped, so that nothing goes on in a cluster that does.
        with contextlib.closing(batches):
            for batch in batches:
                yield from _rows(batch)
    except (RayError, ExecutionTimeoutError) as error:
        log.warning("%s: Ray: %s", job.stage, str(error).strip().splitlines()[0])


def _pipeline(job: Job[Any, Any, Any], clips: list[Numbered], options: EngineOptions, how: _Pass) -> Any:
    """Return the data set of answers, not yet begun."""
    from ray.data import ActorPoolStrategy, TaskPoolStrategy, from_arrow

    parts = [_table(clips[start : start + how.together]) for start in range(0, len(clips), how.together)]
    data: Any = from_arrow(parts)
    data.context.enable_progress_bars = False
    data.context.max_errored_blocks = -1
    data.context.execution_no_progress_timeout_s = STALLED_SECONDS
    # Groups and answers are passed on as they come, and not when there are many megabytes of them.
    data.context.target_max_block_size = 1
    host = _Host(job, options.clip_timeout)
    # Every table is one row.
    whole: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    data = data.map_batches(
        host.load if job.encode else host.load_and_save,
        compute=TaskPoolStrategy(options.n_workers if options.n_workers > 0 else None),
        num_cpus=LOADER_CPUS,
        max_retries=how.retries,
        **whole,
    )
    if job.encode is None:
        return data
    cluster = _measure(options)
    n_encoders = min(len(parts), cluster.n_encoders)
    return data.map_batches(
        _Device,
        fn_constructor_args=(job, _Driver()),
        # Encoders on processors: as many as are kept busy.
        compute=ActorPoolStrategy(
            min_size=n_encoders if cluster.gpus_each else 1,
            max_size=n_encoders,
            max_tasks_in_flight_per_actor=how.in_flight,
        ),
        num_cpus=ENCODER_CPUS,
        num_gpus=cluster.gpus_each,
        max_restarts=-1,
        max_task_retries=how.retries,
        **whole,
    )


@dataclass(frozen=True)
class _Driver:
    """What processes of the cluster take over from the one that drives them, whoever has started the cluster."""

    folder: str = field(default_factory=os.getcwd)
    is_offline: bool = field(default_factory=is_offline)


class _Host:
    """What tasks on the cluster's processors do."""

    def __init__(self, job: Job[Any, Any, Any], clip_timeout: float) -> None:
        self._job, self._timeout, self._driver = job, clip_timeout, _Driver()

    def load(self, clips: Any) -> Iterator[Any]:
        """Numbered clips -> groups of `_Loaded` that fill a batch of the device."""
        said = _settle(self._driver)
        group: list[_Loaded] = []
        size = 0
        for index, item in _rows(clips):
            loaded = attempt(self._load, item)
            sample, n = (loaded, 0) if isinstance(loaded, Exception) else loaded
            group.append(_Loaded(index, item, sample, said.take()))
            size += n
            if size >= self._job.batch_size:
                yield _table(group)
                group, size = [], 0
        if group:
            yield _table(group)

    def load_and_save(self, clips: Any) -> Iterator[Any]:
        """Numbered clips -> answers, one by one, of a job without a device."""
        said = _settle(self._driver)
        for index, item in _rows(clips):
            error = attempt(self._load_and_save, item)
            yield _table([_Answer(index, error, said.take())])

    def _load(self, item: Any) -> tuple[Any, int]:
        with _limited(self._timeout):
            sample = self._job.load(self._job.read(item) if self._job.read else item)
            return sample, self._job.size(sample)

    def _load_and_save(self, item: Any) -> None:
        save_result(self._job.save, item, self._load(item)[0])


class _Device:
    """An actor; its copy of the encoder loads its weights when it is first called."""

    def __init__(self, job: Job[Any, Any, Any], driver: _Driver) -> None:
        self._job, self._driver = job, driver

    def __call__(self, group: Any) -> Any:
        """Map a group of `_Host.load` to answers."""
        assert self._job.encode is not None
        said = _settle(self._driver)
        rows: list[_Loaded] = _rows(group)
        answers = [_Answer(row.index, row.sample, row.said) for row in rows if isinstance(row.sample, Exception)]
        clips = [(row, row.sample) for row in rows if not isinstance(row.sample, Exception)]
        try:
            for row, result in encode_batch(self._job.encode, clips) if clips else []:
                error = result if isinstance(result, Exception) else attempt(self._save(row.item), result)
                answers.append(_Answer(row.index, error, row.said + said.take()))
        except (UserError, OutputError) as error:
            answers.append(_Answer(rows[0].index, error))
        return _table(answers)

    def _save(self, item: Any) -> Callable[[Any], None]:
        return partial(save_result, self._job.save, item)


class _Said(logging.Handler):
    """Keeps what viper logs, for the driver to say: Ray's own way mixes it with all that its processes print."""

    def __init__(self) -> None:
        super().__init__()
        self._records: Records = []

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append((record.levelno, record.getMessage()))

    def take(self) -> Records:
        """Return what was logged since this was last asked."""
        records, self._records = self._records, []
        return records


def _settle(driver: _Driver) -> _Said:
    """Make a process of the cluster ready for work: in the driver's folder, for its relative paths."""
    os.chdir(driver.folder)
    if driver.is_offline:
        go_offline()
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)  # as OMP_NUM_THREADS, which Ray sets to the processors of a task
    said = _Said()
    log.handlers, log.propagate = [said], False
    log.setLevel(logging.INFO)
    return said


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """End the process when what is inside takes longer; 0: never.

    A decoder that hangs may never come back to Python: only a thread that does without the interpreter can end it.
    """
    if seconds:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or 2)
    try:
        yield
    finally:
        if seconds:
            faulthandler.cancel_dump_traceback_later()


def _table(rows: Sequence[Any]) -> Any:
    """Return an Arrow table of one row, which holds all `rows` pickled: Ray Data must not take them apart."""
    import pyarrow
    from ray import cloudpickle

    data = attempt(cloudpickle.dumps, rows)
    if isinstance(data, Exception):
        data = cloudpickle.dumps([_portable(row) for row in rows])
    return pyarrow.table({COLUMN: pyarrow.array([data], pyarrow.large_binary())})


def _portable(row: _Loaded) -> _Loaded:
    """Return the row, with what is wrong in the place of a sample that cannot be pickled."""
    from ray import cloudpickle

    error = attempt(cloudpickle.dumps, row.sample)
    return dataclasses.replace(row, sample=error) if isinstance(error, Exception) else row


def _rows(table: Any) -> list[Any]:
    return [row for data in table[COLUMN] for row in pickle.loads(data.as_buffer())]


@contextlib.contextmanager
def _connected(options: EngineOptions) -> Iterator[None]:
    """Hold a connection to the cluster, or to one of this machine alone; one that is there is used and left."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError("--engine ray needs Ray, which is not installed: pip install 'viper[ray]'") from None
    if ray.is_initialized():
        yield
        return
    # Ray takes SIGTERM for itself; viper ends as on Ctrl-C, with what was finished kept and a line that says so.
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _connect(options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
        yield
    finally:
        ray.shutdown()


def _connect(options: EngineOptions) -> None:
    import ray

    known = {name: os.environ[name] for name in FORWARDED if name in os.environ}
    try:
        with _silent(), _named_program():
            ray.init(
                address=options.ray_address or "local",
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                runtime_env={"env_vars": known} if known else None,
                include_dashboard=None if options.ray_address else False,
            )
    except (OSError, RuntimeError, ValueError) as error:
        where = f"--ray_address {options.ray_address}" if options.ray_address else "--engine ray"
        raise UserError(f"{where}: cannot be used ({str(error).strip().splitlines()[0]})") from error
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


@contextlib.contextmanager
def _named_program() -> Iterator[None]:
    """Hide a `__main__.__file__` that is None, as under some launchers: Ray's connecting raises TypeError for it."""
    program = vars(sys.modules["__main__"])
    hidden = {"__file__": program.pop("__file__")} if program.get("__file__", "") is None else {}
    try:
        yield
    finally:
        program.update(hidden)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing reaches standard error, not even from what is no Python."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _measure(options: EngineOptions) -> _Cluster:
    """Return what the cluster has now."""
    import ray

    there = ray.cluster_resources()
    n_cpus, n_gpus = max(1, int(there.get("CPU", 1))), int(there.get("GPU", 0))
    if options.num_gpus == 0:
        return _Cluster(n_cpus, n_encoders=max(1, n_cpus - 1), gpus_each=0)
    if n_gpus == 0:
        raise UserError(f"--num_gpus {options.num_gpus}: the cluster has no GPU; 0 encodes on processors")
    return _Cluster(n_cpus, n_encoders=min(options.num_gpus, n_gpus), gpus_each=1)
