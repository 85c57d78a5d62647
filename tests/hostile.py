"""Checkpoints that somebody means harm with: what each claims, and what must not come of it."""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from many import IS_LONG
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from viper.errors import UserError

# What a Python file does that a checkpoint brings along.
CODE = """
import pathlib
pathlib.Path({marker!r}).touch()
class Own: pass
"""


def tried(claims: list[Any]) -> list[Any]:
    """All of them in the long suite, every third in the default one."""
    return claims if IS_LONG else claims[::3]


def changed(source: Path, target: Path, file: str, change: dict[str, Any] | str) -> Path:
    """A copy of a checkpoint in one of whose JSON files other values stand; text takes the file's place."""
    shutil.copytree(source, target)
    path = target / file
    if isinstance(change, str):
        path.write_text(change)
    else:
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **change}))
    return target


def reweighted(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Passes the weights of a safetensors file through `change`."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file(change(load_file(file)), file, metadata=metadata)


@contextmanager
def refused(match: str | None = None, seconds: float = 10.0, mebibytes: int = 300) -> Iterator[None]:
    """What is inside raises a UserError of one line, soon and without taking memory."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(UserError, match=match) as error:
        yield
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1200
    assert time.monotonic() - began < seconds, str(error.value)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert taken < mebibytes << 10, f"{taken >> 10} MiB: {error.value}"
