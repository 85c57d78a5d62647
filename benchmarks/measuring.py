"""Processes measured from outside (time, memory) and networks measured from inside (time in forward, arithmetic)."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

POLL_SECONDS = 0.2


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


class Forward:
    """While in use, and once begun, adds up what passes inside the outermost networks' forward calls.

    Parameters
    ----------
    device : to be waited for.
    counts : floating-point operations (of matrix products, convolutions and attention) instead of seconds.
    """

    def __init__(self, device: torch.device, counts: bool = False) -> None:
        self.total, self.began = 0.0, 0.0
        self._device, self._start = device, 0.0
        # Networks may run in several threads: time counts once, while any is inside.
        self._here, self._n_inside, self._lock = threading.local(), 0, threading.Lock()
        self._counter = _Counter() if counts else None

    def begin(self) -> None:
        """Models are loaded: forgets what was before."""
        self.total, self.began = 0.0, clock(self._device)

    def __enter__(self) -> Forward:
        # always_call: a forward that raises (out of memory) must not leave its depth behind.
        self._hooks = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _enter(self, *_: object) -> None:
        self._here.depth = getattr(self._here, "depth", 0) + 1
        if self._here.depth > 1:
            return
        if self._counter:
            self._counter.__enter__()
        with self._lock:
            self._n_inside += 1
            if self._n_inside == 1:
                self._start = clock(self._device)

    def _leave(self, *_: object) -> None:
        self._here.depth -= 1
        if self._here.depth:
            return
        if self._counter:
            self._counter.__exit__(None, None, None)
            self.total += self._counter.take()
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0 and not self._counter:
                self.total += clock(self._device) - self._start


class _Counter(TorchDispatchMode):
    """Floating-point operations by torch's own formulas, and by two for attention on a processor, which it lacks.

    (torch's FlopCounterMode cannot be entered in a hook of a module.)
    """

    def __init__(self) -> None:
        super().__init__()
        self._total = 0

    def take(self) -> int:
        """How many since the last call."""
        total, self._total = self._total, 0
        return total

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry and packet not in _ATTENTION:
            with self:
                # In inference mode a linear layer comes as such, not as the product it is made of.
                parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
        result = func(*args, **kwargs)
        if packet in _ATTENTION:
            self._total += _ATTENTION[packet](*args)
        elif packet in flop_registry:
            self._total += flop_registry[packet](*args, **kwargs, out_val=result)
        return result


def _attention(query: torch.Tensor, key: torch.Tensor, *_: Any) -> int:
    """Scores and their product with the values, of (batch, heads, tokens, channels)."""
    batch, heads, n_queries, channels = query.shape
    return int(4 * batch * heads * n_queries * key.shape[2] * channels)


def _projections_and_attention(query: torch.Tensor, *_: Any) -> int:
    """Four projections of, and attention among, (batch, tokens, channels), which torch does in one operation."""
    batch, tokens, channels = query.shape
    return int(8 * batch * tokens * channels**2 + 4 * batch * tokens**2 * channels)


_ATTENTION = {
    torch.ops.aten._native_multi_head_attention: _projections_and_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}
