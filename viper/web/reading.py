"""Reading visitors' clips in processes of their own, each of which can be ended at any moment."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from viper.engine.pool import LoneWorker
from viper.errors import ClipError, UserError, one_line
from viper.inference.predictor import ClipPredictor
from viper.logs import log, without_warnings
from viper.web import charts
from viper.web.session import Session, check_length, write_sample

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# Seconds between two looks at which readings take too long, and that a clip waits for a process to read it.
TICK, MAX_WAIT = 0.2, 120.0
# Seconds until a process that could not be started is tried again.
RETRY_AFTER = 5.0
# What a process may take besides its models: at least, at most. A clip's frames may have 3.6 GB (`viper.media.video`).
MIN_MEMORY, MAX_MEMORY = 2 * 2**30, 8 * 2**30
LARGEST_FILE = 64 * 2**20  # bytes of a made-up clip; nothing else is written


class GoneError(Exception):
    """The reading was given up: its visitor has gone, forgotten the clip, or sent another."""


class LateError(ClipError):
    """The reading took longer than it may."""


@dataclass(frozen=True)
class Sent:
    """A clip that a visitor sent."""

    path: Path
    subtitles: Path | None
    max_seconds: float


@dataclass(frozen=True)
class ToBeMade:
    """A clip to make in a folder before it is read. Equal numbers give equal clips."""

    folder: Path
    number: int


@dataclass
class ClipReads:
    """What a process does: load a checkpoint's encoders (asked with None), begin a clip, or go on with it ("next").

    Attributes
    ----------
    model_path, models, device, offline : as for `ClipPredictor.load`.
    n_workers : how many such processes share the machine.
    """

    model_path: Path
    models: dict[str, str]
    device: str
    offline: bool
    n_workers: int
    _predictor: ClipPredictor | None = field(default=None, init=False)
    _windows: Iterator[Any] = field(default_factory=lambda: iter(()), init=False)

    def __call__(self, asked: Sent | ToBeMade | str | None) -> Any:
        """Return nothing once loaded, the session of a clip's beginning, or its next window; None after the last."""
        try:
            if self._predictor is None:
                self._predictor = self._loaded()
            if asked is None:
                return None
            if isinstance(asked, str):
                return next(self._windows, None)
            self._windows = iter(())
            session, self._windows = _read(self._predictor, asked)
            return session
        except (ClipError, UserError):
            raise
        except Exception:  # whatever a library raises of a file; here is its trace
            log.exception("demo_page: a clip could not be read")
            raise

    def _loaded(self) -> ClipPredictor:
        import torch

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // self.n_workers))
        with without_warnings():  # the page's own process has said them
            predictor = ClipPredictor.load(
                self.model_path, models=self.models, device=self.device, offline=self.offline
            )
        if resource is not None:
            _limit(resource.RLIMIT_CORE, 0)
            _limit(resource.RLIMIT_FSIZE, LARGEST_FILE)
            if not predictor.on_accelerator and (taken := _data_bytes()) is not None:
                _limit(resource.RLIMIT_DATA, taken + self._memory())
        return predictor

    def _memory(self) -> int:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return min(MAX_MEMORY, max(MIN_MEMORY, machine // (2 * self.n_workers)))


def _limit(kind: int, value: int) -> None:
    hardest = resource.getrlimit(kind)[1]
    with contextlib.suppress(ValueError, OSError):
        value = value if hardest == resource.RLIM_INFINITY else min(value, hardest)
        resource.setrlimit(kind, (value, value))


def _data_bytes() -> int | None:
    """Return the memory this process has taken, as Linux counts it for RLIMIT_DATA; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmData:")).split()[1])
    return None


def _read(predictor: ClipPredictor, asked: Sent | ToBeMade) -> tuple[Session, Iterator[Any]]:
    """Return the clip as a whole, and its windows to come. ClipError for a bad file."""
    shown: dict[str, float] = {}
    if isinstance(asked, Sent):
        path, subtitles = asked.path, asked.subtitles
        check_length(path, asked.max_seconds)
    else:
        path, subtitles, shown = write_sample(asked.folder, asked.number)
    reading = predictor.read(path, subtitles)
    reading = dataclasses.replace(reading, faces=charts.as_shown(reading.faces))
    session = Session(path.name, reading, shown=shown, has_words=subtitles is not None)
    if session.step is None:
        return session, iter(())
    windows = predictor.read_windows(path, every=session.step, subtitles=subtitles)
    # Their pictures are not shown, and a session is kept in memory.
    return session, (dataclasses.replace(window, faces=None) for window in windows)


@dataclass(eq=False)
class _Reading:
    worker: LoneWorker
    visitor: str
    page: str
    deadline: float
    given_up: Exception | None = None


class Readers:
    """Processes that read clips side by side, at most one clip of a visitor at a time.

    Parameters
    ----------
    reads : what each of them does.
    max_seconds : how long a clip may take, from when a process begins it.
    """

    def __init__(self, reads: ClipReads, max_seconds: float) -> None:
        self.n_workers, self._reads, self._max_seconds = reads.n_workers, reads, max_seconds
        self._idle: queue.Queue[LoneWorker] = queue.Queue()
        self._lock = threading.Lock()
        self._readings: set[_Reading] = set()
        self._starting: set[LoneWorker] = set()
        self._closed = threading.Event()
        self._watch = threading.Thread(target=self._watch_on, daemon=True, name="watch over readings")

    def __enter__(self) -> Readers:
        self._watch.start()
        for _ in range(self.n_workers):
            self._start_one()
        return self

    def __exit__(self, *exception: object) -> None:
        """End all processes at once."""
        self._closed.set()
        self._give_up(list(self._readings), GoneError())
        with self._lock:
            workers = list(self._starting)
        with contextlib.suppress(queue.Empty):
            while True:
                workers.append(self._idle.get_nowait())
        for worker in workers:
            worker.kill()
        self._watch.join()

    def read(self, visitor: str, page: str, asked: Sent | ToBeMade) -> Iterator[Session]:
        """Yield the clip as a whole first, then with more and more of its timeline.

        Parameters
        ----------
        visitor : whose clip it is; one of theirs that is still being read is given up.
        page : the opened page that it was sent from.

        Raises
        ------
        ClipError, UserError : a bad file, or one that crashed the process.
        LateError : it took too long; what was yielded holds.
        GoneError : it was given up.
        WorkerError : what a library raised.
        """
        self.give_up(visitor=visitor)
        reading = self._begun(visitor, page)
        try:
            session: Session = self._answer(reading, asked)
            yield session
            while (window := self._answer(reading, "next")) is not None:
                session = dataclasses.replace(session, windows=(*session.windows, window))
                yield session
        finally:
            self._finish(reading)

    def give_up(self, *, visitor: str | None = None, page: str | None = None) -> None:
        """End what is being read for a visitor, or for one of their pages."""
        with self._lock:
            theirs = [each for each in self._readings if each.visitor == visitor or each.page == page]
        self._give_up(theirs, GoneError())

    def _begun(self, visitor: str, page: str) -> _Reading:
        deadline = time.monotonic() + MAX_WAIT
        while not self._closed.is_set():
            with contextlib.suppress(queue.Empty):
                worker = self._idle.get(timeout=TICK)
                if not worker.is_alive:  # ended by something outside, such as a system without memory
                    worker.close()
                    self._start_one()
                    continue
                reading = _Reading(worker, visitor, page, time.monotonic() + self._max_seconds)
                with self._lock:
                    self._readings.add(reading)
                return reading
            if time.monotonic() > deadline:
                raise ClipError("the page is busy with other clips; try again in a minute")
        raise GoneError

    def _answer(self, reading: _Reading, asked: Any) -> Any:
        try:
            answer = reading.worker.ask(asked)
        except EOFError:
            if reading.given_up is None:
                how = reading.worker.how_it_ended()
                reading.given_up = ClipError(f"the process that read this clip crashed ({how})")
                log.error("demo_page: %s", one_line(str(reading.given_up)))
            raise reading.given_up from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _finish(self, reading: _Reading) -> None:
        with self._lock:
            is_ours = reading in self._readings
            self._readings.discard(reading)
        if reading.given_up is None and not self._closed.is_set():
            self._idle.put(reading.worker)
            return
        reading.worker.close()
        if is_ours:  # it crashed; for what was given up another has been started
            self._start_one()

    def _give_up(self, readings: list[_Reading], reason: Exception) -> None:
        for reading in readings:
            with self._lock:
                if reading not in self._readings:
                    continue
                self._readings.discard(reading)
                reading.given_up = reason
            reading.worker.kill()
            self._start_one()

    def _watch_on(self) -> None:
        late = LateError(f"reading it took longer than the {self._max_seconds:g} seconds that this page allows")
        while not self._closed.wait(TICK):
            now = time.monotonic()
            with self._lock:
                overdue = [each for each in self._readings if each.deadline < now]
            self._give_up(overdue, late)

    def _start_one(self) -> None:
        """Start a process in a thread, which waits until its models are loaded."""
        threading.Thread(target=self._load_one, daemon=True, name="start of a reader").start()

    def _load_one(self) -> None:
        while not self._closed.is_set():
            worker = LoneWorker(self._reads)
            with self._lock:
                self._starting.add(worker)
            try:
                problem = worker.ask(None)
            except EOFError:
                problem = RuntimeError(worker.how_it_ended())
            with self._lock:
                self._starting.discard(worker)
            if problem is None and not self._closed.is_set():
                self._idle.put(worker)
                return
            worker.close()
            if not self._closed.is_set():
                log.error("demo_page: a process to read clips could not be started: %s", one_line(str(problem)))
            self._closed.wait(RETRY_AFTER)
