"""Worker processes that load clips: how they are started, what they run, how they are stopped."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import Any, NoReturn

from viper.errors import ClipError, OutputError, UserError, WorkerError
from viper.logs import start_logging

_function: Callable[[Any], Any]
_is_working = False

FEW_ITEMS = 24
GRACE_SECONDS = 3.0


def resolve_workers(n_workers: int, n_items: int) -> int:
    """How many processes: as asked; when -1, one a core, and none for so few clips that starting them costs more."""
    if n_workers == -1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        n_workers = 0 if n_items < FEW_ITEMS else cores
    return min(n_workers, n_items)


def make_pool(n_workers: int, function: Callable[[Any], Any]) -> ProcessPoolExecutor:
    """A pool whose processes hold `function`, so that it is pickled once a process and not once a clip.

    Processes come from a fork server (or are spawned): forking this one would copy the state of torch's threads.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    # What the function and its parts need is imported once, by the server, and not again by every process.
    parts = [function, *getattr(function, "__dict__", {}).values()]
    context.set_forkserver_preload([part.__module__ for part in parts if callable(part)])
    return ProcessPoolExecutor(n_workers, mp_context=context, initializer=_start, initargs=(function,))


def submit(pool: ProcessPoolExecutor, item: Any) -> Future[Any]:
    """Hands an item to a pool. A pool whose process died refuses it; the future then says so, as of those before it."""
    try:
        return pool.submit(run_in_worker, item)
    except BrokenProcessPool as error:
        refused: Future[Any] = Future()
        refused.set_exception(error)
        return refused


def stop_pool(pool: ProcessPoolExecutor) -> None:
    """Ends a pool at once, whatever its processes are doing; they get a moment to remove their temporary files."""
    processes = list((pool._processes or {}).values())
    for process in processes:
        with contextlib.suppress(OSError, ValueError):
            process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        with contextlib.suppress(OSError, ValueError):
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
    pool.shutdown(wait=True, cancel_futures=True)


def run_in_worker(item: Any) -> Any:
    """In a worker: the function's result, or the exception it raised."""
    global _is_working
    _is_working = True
    try:
        return _function(item)
    except (UserError, ClipError, OutputError) as error:
        return error
    except Exception as error:
        # Many exceptions cannot be pickled or rebuilt in the other process; that would break the pool.
        return WorkerError(type(error).__name__, str(error))
    except SystemExit:
        # Told to stop. The pool would take this for the item's result and give the process the next one.
        os._exit(1)
    finally:
        _is_working = False


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
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


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    """Unwinds what is under way, so that it removes its temporary files; nothing under way: ends at once."""
    if not _is_working:
        os._exit(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def _end_with_parent() -> None:
    """Stops this process when the main one was killed and could not: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
