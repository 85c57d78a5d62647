"""Worker processes that load clips: how they are started, what they run, how they are stopped."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from viper.errors import WorkerError
from viper.logs import start_logging

_function: Callable[[Any], Any]

FEW_ITEMS = 24


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
    # What the function needs is imported once, by the server, and not again by every process.
    context.set_forkserver_preload([function.__module__])
    return ProcessPoolExecutor(n_workers, mp_context=context, initializer=_start, initargs=(function,))


def stop_pool(pool: ProcessPoolExecutor) -> None:
    """Ends a pool at once, whatever its processes are doing: their outputs are atomic, so nothing half stays."""
    processes = list((pool._processes or {}).values())
    for process in processes:
        with contextlib.suppress(OSError, ValueError):
            process.terminate()
    pool.shutdown(wait=True, cancel_futures=True)


def run_in_worker(item: Any) -> Any:
    """In a worker: the function's result, or the exception it raised (an unpicklable one as its text)."""
    try:
        return _function(item)
    except Exception as error:
        if type(error).__module__.startswith(("viper", "builtins")):
            return error
        # Some libraries' exceptions cannot be rebuilt in the other process; that would break the pool.
        return WorkerError(type(error).__name__, str(error))


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    start_logging()
    # Ctrl-C reaches the whole process group; the main process decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One process a core is the parallelism here; threads inside each would only compete.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
