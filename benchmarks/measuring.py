"""Processes measured from outside (time, memory) and networks measured from inside (time in forward, arithmetic)."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

POLL_SECONDS = 0.2
aten = torch.ops.aten


@dataclass(frozen=True)
class Measured:
    """A finished process: what it printed, its seconds, and the peak of its and its children's memory."""

    output: str
    seconds: float
    peak_mb: float

    def lines(self) -> list[str]:
        """What it printed."""
        return self.output.splitlines()


def run_measured(arguments: Sequence[str], log: Path) -> Measured:
    """Runs Python with these arguments; one that fails is a RuntimeError with the end of its standard error.

    Pages that processes share are counted once (PSS), and memory until the process prints its first line: what it does
    after that is not what is measured.
    """
    began = time.perf_counter()
    peak = 0.0
    with open(log, "w+") as errors, open(log.with_suffix(".out"), "w+") as output:
        process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=errors)
        seen = psutil.Process(process.pid)
        while process.poll() is None:
            if log.with_suffix(".out").stat().st_size == 0:
                peak = max(peak, _resident_mb(seen))
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(arguments[:4])} ... failed:\n{errors.read()[-3000:]}")
        return Measured(output.read(), seconds, peak)


def _resident_mb(process: psutil.Process) -> float:
    total = 0
    try:
        for each in [process, *process.children(recursive=True)]:
            memory = each.memory_full_info()
            total += getattr(memory, "pss", memory.uss)
    except psutil.Error:  # it ended meanwhile
        return 0.0
    return total / 1e6


def clock(device: torch.device) -> float:
    """Seconds, once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class ForwardTime:
    """While in use, adds up the time that passes inside the outermost networks' forward calls."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device, self._depth, self._start = device, 0, 0.0

    def __enter__(self) -> ForwardTime:
        # always_call: a forward that raises (out of memory) must not leave the depth behind.
        self._hooks = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _enter(self, *_: object) -> None:
        if self._depth == 0:
            self._start = clock(self._device)
        self._depth += 1

    def _leave(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += clock(self._device) - self._start


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Scores and their product with the values; shapes (batch, heads, tokens, channels)."""
    batch, heads, n_queries, channels = query
    return int(4 * batch * heads * n_queries * key[2] * channels)


def _native_attention(query: Any, *_: Any, **__: Any) -> int:
    """Projections of and attention among (batch, tokens, channels), in one operation."""
    batch, tokens, channels = query
    return int(8 * batch * tokens * channels**2 + 4 * batch * tokens**2 * channels)


def count_flops() -> FlopCounterMode:
    """Counts floating-point operations of matrix products, convolutions and attention in its `with` block."""
    counted = {
        aten._native_multi_head_attention: _native_attention,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    }
    return FlopCounterMode(display=False, custom_mapping=counted)
