"""What goes through a pipe comes out the same, whatever its size; a pipe that is cut says so."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from viper.engine import pool

Ends = tuple[Connection, Connection]
SCRIPT = """
import os
from viper.engine.pool import WorkerPool
print("begun", flush=True)
pool = WorkerPool(2, os.path.basename)
print(sorted(name for _, name in pool.map(["a/b", "c/d", "e/f"])))
pool.close()
print(os.path.basename(__file__), __spec__)
"""


@pytest.fixture
def ends() -> Any:
    here, there = multiprocessing.Pipe()
    yield here, there
    here.close()
    there.close()


def through(ends: Ends, value: Any) -> Any:
    sender = threading.Thread(target=pool._send, args=(ends[0], pool._pack(value)))
    sender.start()
    parts = pool._receive(ends[1])
    sender.join()
    return pool._unpack(parts)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(3_000_000, dtype=np.uint8).reshape(20, 3, 250, 200),  # larger than any pipe's buffer
        np.zeros((0, 3, 4)),
        np.array(3.5),
        np.arange(24).reshape(4, 6)[::2, ::3],
        np.asfortranarray(np.arange(24.0).reshape(4, 6)),
        np.array(["a", "bc"]),
    ],
)
def test_arrays_come_out_as_they_went_in(ends: Ends, array: np.ndarray) -> None:
    out = through(ends, {"rows": array, "name": "é", "again": array})
    for key in ("rows", "again"):
        assert out[key].dtype == array.dtype
        assert np.array_equal(out[key], array)
        out[key][...] = out[key]  # writable
    assert out["name"] == "é"


def test_messages_follow_each_other(ends: Ends) -> None:
    for value in (None, 1, [np.ones(3), np.zeros(100_000)], "", b"x" * 300_000, ValueError("odd")):
        out = through(ends, value)
        assert str(out) == str(value)


def test_large_arrays_are_sent_apart_from_the_pickle(ends: Ends) -> None:
    message, *arrays = pool._pack([np.ones(10_000), np.ones(5, np.float32)])
    assert [array.nbytes for array in arrays] == [80_000, 20]
    assert message.nbytes < 1000


@pytest.mark.parametrize("sent", [0, 2, 8, 50_000])
def test_an_end_that_dies_in_the_middle_is_an_end_of_file(ends: Ends, sent: int) -> None:
    pool._send(ends[0], pool._pack(np.ones(10_000)))
    message = os.read(ends[1].fileno(), 200_000)
    assert len(message) > 80_000
    os.write(ends[0].fileno(), message[:sent])
    ends[0].close()
    with pytest.raises((EOFError, OSError)):
        pool._receive(ends[1])


def test_workers_do_not_run_the_script_again(tmp_path: Path) -> None:
    """It may begin without `if __name__ == "__main__"`, and is as it was when they have started."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["begun", "['b', 'd', 'f']", "script.py None"]
