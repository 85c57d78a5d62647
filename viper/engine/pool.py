"""Worker processes that load clips, and what happens when one of them dies or takes too long."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import pickle
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NoReturn, TypeVar

from viper.errors import ClipError, OutputError, UserError, WorkerError
from viper.logs import guard_terminal, start_logging
from viper.streams import settle_streams

ItemT = TypeVar("ItemT")

FEW_ITEMS = 24
GRACE_SECONDS = 3.0
# A process may be killed for the memory that others take: a clip is blamed when it happens to it again.
MAX_TRIES = 2
MAX_FALSE_STARTS = 3
# Arrays travel in pieces: `recv_bytes_into` first collects a whole message elsewhere, which for 29 MB takes four times
# as long.
PIECE_BYTES = 1 << 19

_hiding = threading.Lock()
_is_working = False


def resolve_workers(n_workers: int, n_items: int) -> int:
    """Return how many processes: as asked; -1: one per core, none for so few clips that starting them takes longer."""
    if n_workers == -1:
        n_workers = 0 if n_items < FEW_ITEMS else _n_cores()
    return min(n_workers, n_items)


def threads_each(n_workers: int, n_items: int) -> int:
    """Return how many cores each process that loads clips has to itself, at least one."""
    return max(1, _n_cores() // max(1, resolve_workers(n_workers, n_items)))


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def attempt(function: Callable[[Any], Any], argument: Any) -> Any:
    """Return the function's result, or the exception it raised as one that can be sent to another process."""
    try:
        return function(argument)
    except (UserError, ClipError, OutputError, WorkerError) as error:
        return error
    except Exception as error:
        # Many exceptions cannot be pickled, or not be rebuilt in the other process.
        return WorkerError(type(error).__name__, str(error))


@dataclass(eq=False)
class _Worker:
    """One process, this end of its pipe, the number of the item it is at, and when that takes too long."""

    process: BaseProcess
    connection: Connection
    is_ready: bool = False
    number: int | None = None
    deadline: float = math.inf


class WorkerPool:
    """Processes that apply one function to items, one item at a time each.

    Every process has a pipe of its own, so that one that dies, or is ended because it took too long, costs the item it
    was at and nothing else. A thread hands out items and takes in outcomes while the caller is busy with earlier ones.

    Parameters
    ----------
    n_workers : processes.
    function : picklable; each process gets it once.
    timeout : seconds an item may take, from when a process begins it; None: for ever.

    Attributes
    ----------
    ahead : outcomes that may be under way or waiting for the caller. Samples are large: this bounds the memory.
    """

    def __init__(self, n_workers: int, function: Callable[[Any], Any], timeout: float | None = None) -> None:
        self.ahead = 2 * n_workers
        self._function, self._timeout = function, timeout
        self._context = _context(function)
        self._wants_program = "__main__" in _modules(function)
        self._items: Sequence[Any] = ()
        self._tries: dict[int, int] = {}
        self._again: list[int] = []
        self._n_begun = self._n_taken = self._n_false_starts = 0
        self._outcomes: dict[int, Any] = {}
        self._error: BaseException | None = None
        self._is_stopping = False
        self._changed = threading.Condition()
        self._wake_here, self._wake_there = self._context.Pipe(duplex=False)
        self._workers: list[_Worker] = []
        self._thread = threading.Thread(target=self._serve, daemon=True, name="viper workers")
        try:
            # Started here, so that a function that cannot be sent is said at once and to the caller.
            self._workers = [self._started() for _ in range(n_workers)]
        except BaseException:
            self.close()
            raise

    def map(self, items: Sequence[ItemT]) -> Generator[tuple[ItemT, Any]]:
        """Yield (item, outcome) in the order of `items`; an outcome may be an exception. Call it once."""
        self._items = items
        self._thread.start()
        for number, item in enumerate(items):
            with self._changed:
                self._changed.wait_for(lambda number=number: number in self._outcomes or self._error)  # type: ignore[misc]
                if number not in self._outcomes:
                    assert self._error is not None
                    raise self._error
                outcome = self._outcomes.pop(number)
                self._n_taken = number + 1
            self._wake_there.send_bytes(b"taken")
            yield item, outcome

    def close(self) -> None:
        """End everything at once, whatever it is at; processes get a moment to remove their temporary files."""
        self._is_stopping = True
        if self._thread.is_alive():
            self._wake_there.send_bytes(b"stop")
            self._thread.join()
        _stop_processes([worker.process for worker in self._workers])
        for connection in (self._wake_here, self._wake_there, *(worker.connection for worker in self._workers)):
            connection.close()

    def _serve(self) -> None:
        try:
            while not self._is_stopping:
                self._hand_out()
                patience = min((worker.deadline for worker in self._workers), default=math.inf) - time.monotonic()
                connections = [self._wake_here, *(worker.connection for worker in self._workers)]
                ready = wait(connections, None if math.isinf(patience) else max(0.0, patience))
                if self._wake_here in ready:
                    self._wake_here.recv_bytes()
                for worker in list(self._workers):
                    if worker.connection in ready:
                        self._take_in(worker)
                    elif worker.deadline <= time.monotonic():
                        self._end(
                            worker, ClipError(f"loading it took longer than {self._timeout:g} s (--clip_timeout)")
                        )
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify()

    def _hand_out(self) -> None:
        for worker in self._workers:
            if not worker.is_ready or worker.number is not None:
                continue
            while worker.number is None and (number := self._next()) is not None:
                message = attempt(_pack, self._items[number])
                if isinstance(message, Exception):
                    self._finish(number, message)
                    continue
                worker.number = number
                worker.deadline = time.monotonic() + (self._timeout or math.inf)
                with contextlib.suppress(OSError):  # it has died, which is found when its answer is waited for
                    _send(worker.connection, message)

    def _next(self) -> int | None:
        if self._again:
            return self._again.pop()
        if self._n_begun < len(self._items) and self._n_begun - self._n_taken < self.ahead:
            self._n_begun += 1
            return self._n_begun - 1
        return None

    def _take_in(self, worker: _Worker) -> None:
        try:
            message = _receive(worker.connection)
        except (EOFError, OSError):
            self._bury(worker)
            return
        if not worker.is_ready:
            worker.is_ready = True
            self._n_false_starts = 0
            return
        number, worker.number, worker.deadline = worker.number, None, math.inf
        assert number is not None
        self._finish(number, attempt(_unpack, message))

    def _finish(self, number: int, outcome: Any) -> None:
        self._tries.pop(number, None)
        with self._changed:
            self._outcomes[number] = outcome
            self._changed.notify()

    def _bury(self, worker: _Worker) -> None:
        """Give the item of a process that died by itself another try, in another process."""
        worker.process.join(GRACE_SECONDS)
        how = _how_it_ended(worker.process.exitcode)
        number = worker.number
        if number is None:
            self._n_false_starts += 1
            if self._n_false_starts >= MAX_FALSE_STARTS:
                raise RuntimeError(f"worker processes cannot be started here ({how}); --n_workers 0 does without")
        else:
            self._tries[number] = self._tries.get(number, 0) + 1
            if self._tries[number] >= MAX_TRIES:
                self._finish(number, RuntimeError(f"the process that loaded this clip crashed ({how})"))
            else:
                self._again.append(number)
        self._replace(worker)

    def _end(self, worker: _Worker, reason: Exception) -> None:
        assert worker.number is not None
        self._finish(worker.number, reason)
        _stop_processes([worker.process], grace=1.0)
        self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        worker.connection.close()
        self._workers[self._workers.index(worker)] = self._started()

    def _started(self) -> _Worker:
        with contextlib.nullcontext() if self._wants_program else _program_hidden():
            return _Worker(*_start(self._context, self._function))


class LoneWorker:
    """One process that applies a function to an item at a time, for a caller who decides when it has taken too long.

    `ask` waits in one thread; `kill` may be called from any other, at any time.

    Parameters
    ----------
    function : picklable; the process gets it once, and it may remember things from item to item.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        with _program_hidden():
            self._process, self._connection = _start(_context(function), function)
        self._is_ready = False

    def ask(self, item: Any) -> Any:
        """Return what the function answers, which may be an exception. Raises EOFError when the process has ended."""
        try:
            if not self._is_ready:
                _receive(self._connection)
                self._is_ready = True
            _send(self._connection, _pack(item))
            return _unpack(_receive(self._connection))
        except OSError as error:
            raise EOFError(str(error)) from error

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.is_alive()

    def kill(self) -> None:
        """End the process at once, whatever it is at: an `ask` that waits raises EOFError."""
        self._process.kill()

    def how_it_ended(self) -> str:
        """Return why the process is no more, for people; waits for its end."""
        self._process.join(GRACE_SECONDS)
        return _how_it_ended(self._process.exitcode)

    def close(self) -> None:
        """End the process and wait until it is gone. Nobody may be in `ask`."""
        self.kill()
        self._process.join(GRACE_SECONDS)
        self._connection.close()


def _start(context: BaseContext, function: Callable[[Any], Any]) -> tuple[BaseProcess, Connection]:
    """Start a process that answers what is sent through the connection; the first message says that it is ready."""
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(function, there), daemon=True)  # type: ignore[attr-defined]
    process.start()
    there.close()  # so that this end notices when the process is gone
    return process, here


@contextlib.contextmanager
def _program_hidden() -> Iterator[None]:
    """Keep new processes from running the user's script again, which they do where they can tell its name.

    They need none of it, and a script that calls `viper.extract` need not know about `if __name__ == "__main__"`.
    """
    with _hiding:
        program = vars(sys.modules["__main__"])
        hidden: dict[str, Any] = {name: program[name] for name in ("__file__", "__spec__") if name in program}
        program.pop("__file__", None)
        program["__spec__"] = None
        try:
            yield
        finally:
            program.update(hidden)


def _pack(value: Any) -> list[memoryview]:
    """Return the pickled object and, apart from it, the memory of its arrays (pickle protocol 5)."""
    buffers: list[pickle.PickleBuffer] = []
    message = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return [memoryview(message), *(buffer.raw() for buffer in buffers)]


def _unpack(parts: list[bytearray]) -> Any:
    """Return the object `_pack` was given; its arrays are writable."""
    return pickle.loads(parts[0], buffers=parts[1:])


def _send(connection: Connection, parts: list[memoryview]) -> None:
    """Send what `_pack` made. Raises OSError when the other end is closed."""
    connection.send_bytes(struct.pack(f"!{len(parts)}Q", *(part.nbytes for part in parts)))
    for part in parts:
        for start in range(0, part.nbytes, PIECE_BYTES):
            connection.send_bytes(part[start : start + PIECE_BYTES])


def _receive(connection: Connection) -> list[bytearray]:
    """Return the next message, for `_unpack`. Raises EOFError or OSError when the other end is closed."""
    parts = [bytearray(length) for (length,) in struct.iter_unpack("!Q", connection.recv_bytes())]
    for part in parts:
        received = 0
        while received < len(part):
            received += connection.recv_bytes_into(part, received)
    return parts


def _context(function: Callable[[Any], Any]) -> BaseContext:
    """Return a context whose processes come from a fork server, or are spawned.

    Forking this process would copy the state of torch's threads.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    # What the function and its parts need is imported once, by the server, and not again by every process.
    context.set_forkserver_preload(sorted(_modules(function)))
    return context


def _modules(part: Any, depth: int = 3) -> set[str]:
    """Return the modules of a function object and of what it holds: callables, and the owners of bound methods."""
    part = getattr(part, "__self__", part)
    held = part if isinstance(part, tuple) else getattr(part, "__dict__", {}).values()
    modules = {type(part).__module__, getattr(part, "__module__", None) or "builtins"} - {"builtins"}
    for inner in held if depth else ():
        if callable(inner) or isinstance(inner, tuple):
            modules |= _modules(inner, depth - 1)
    return modules


def _stop_processes(processes: Sequence[BaseProcess], grace: float = GRACE_SECONDS) -> None:
    for process in processes:
        with contextlib.suppress(OSError, ValueError):
            process.terminate()
    deadline = time.monotonic() + grace
    for process in processes:
        with contextlib.suppress(OSError, ValueError):
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join(1.0)  # not for ever: one that waits for a network disk that is gone cannot even be killed


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"{name}, as when the memory is full" if name == "SIGKILL" else name
    return f"exit code {exitcode}"


def _work(function: Callable[[Any], Any], connection: Connection) -> None:
    """Run a worker process: say that it is ready, then answer items until there are no more."""
    global _is_working
    settle_streams()
    guard_terminal()
    start_logging()
    # Ctrl-C reaches the whole process group; the main process decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # One process a core is the parallelism here; threads inside each would only compete.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
    try:
        _send(connection, _pack("ready"))
        while True:
            item = attempt(_unpack, _receive(connection))
            _is_working = True
            outcome = item if isinstance(item, Exception) else attempt(function, item)
            message = attempt(_pack, outcome)
            if isinstance(message, Exception):
                message = _pack(message)
            _is_working = False
            _send(connection, message)
    except (EOFError, OSError):
        return  # the main process has closed its end
    except SystemExit:
        os._exit(1)  # told to stop, and unwound; what other threads are at does not matter


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    """Unwind what is under way, so that it removes its temporary files; end at once where nothing is."""
    if not _is_working:
        os._exit(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def _end_with_parent() -> None:
    """Stop this process when the main one was killed and could not: it may be at work for a long time yet."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
