"""Commands in processes of their own that start in milliseconds: forks of the test's, which has torch loaded."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from viper import cli


def fork(work: Callable[[], object], log: Path, **environment: str) -> int:
    """Start `work` in a child process; what it says goes into `log`. Returns its id, to be waited for once."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(2, 1)
        sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
        os.environ.update(environment)
        torch.set_num_threads(1)  # the threads of the parent's pool are not in the child
        AcceleratorState._reset_state(reset_partial_state=True)  # it remembers the parent's one process
        work()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def fork_command(command: str, arguments: list[str], log: Path, **environment: str) -> int:
    """Start a viper command."""
    return fork(lambda: cli.main(command, arguments), log, **environment)


def wait(child: int) -> int:
    """Return the exit code of a child; negative: the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def is_running(child: int) -> bool:
    """Whether a child has not ended; one that has cannot be waited for after this."""
    return os.waitpid(child, os.WNOHANG)[0] == 0


def fork_processes(work: Callable[[], object], folder: Path, n: int = 2) -> list[str]:
    """Do `work` in n processes that know of each other, as torchrun starts them; return what each has said.

    A process that fails is an AssertionError.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    together = {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    logs = [folder / f"process_{rank}.log" for rank in range(n)]
    children = [fork(work, log, RANK=str(rank), LOCAL_RANK=str(rank), **together) for rank, log in enumerate(logs)]
    codes = [wait(child) for child in children]
    said = [log.read_text() for log in logs]
    assert codes == [0] * n, "\n".join(said)[-3000:]
    return said
