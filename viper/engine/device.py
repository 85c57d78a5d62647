"""Where networks run and in which arithmetic, and feeding them as much at once as the device holds."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch

from viper.errors import UserError, is_out_of_memory
from viper.logs import log

ItemsT = TypeVar("ItemsT", bound=Sequence[Any] | torch.Tensor)
ResultT = TypeVar("ResultT")

# A processor's matrix products do not get faster with more rows than these, but what they work on falls out of its
# cache: ViT-B/16 takes 217 ms a picture with 16 at once, 228 with 32 and 268 with 64 (2 cores, 16 MB of cache each).
MOST_ON_CPU = 16
# More batches side by side than these would leave too few items for each.
MOST_LANES = 4
# glibc's names for: heaps a process has, pieces that are mapped apart from them, bytes kept at a heap's end (malloc.h).
_ARENAS, _MAPPED, _KEPT = -8, -4, -1


@dataclass(frozen=True)
class Runtime:
    """Where and how networks run.

    Attributes
    ----------
    device : of weights and batches.
    precision : of matrix products and convolutions, torch.float32 or torch.bfloat16. Weights, sums of residual
        branches, norms and softmax stay float32 (autocast): cast as a whole, ViT-B drifts twice as far from float32
        (1 - cosine up to 7e-5 instead of 3e-5).
    compiled : whether networks go through torch.compile.
    """

    device: torch.device
    precision: torch.dtype = torch.float32
    compiled: bool = False

    @property
    def precision_name(self) -> str:
        """The precision, as --precision spells it."""
        return "bf16" if self.precision is torch.bfloat16 else "float32"

    def place(self, network: torch.nn.Module) -> Any:
        """Return the network frozen on the device, compiled if so wanted."""
        network = network.eval().requires_grad_(False).to(self.device)
        return torch.compile(network) if self.compiled else network

    def arithmetic(self) -> torch.autocast:
        """Return the context in which networks are called."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision is torch.bfloat16)


def choose_device(name: str) -> torch.device:
    """Return the device for "auto" (a GPU if there is one) or for torch's name; UserError if it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: cannot be used here ({str(error).splitlines()[0]})") from error
    return device


def has_bf16(device: torch.device) -> bool:
    """Return whether the device computes in bf16, and does not merely store it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_runtime(
    device: str = "auto", precision: str = "auto", compiled: bool = False, recorded: str | None = None
) -> Runtime:
    """Return the runtime that the options --device, --precision (auto, float32, bf16) and --compile name.

    Parameters
    ----------
    recorded : the precision of the features that those made here will join, or be compared with; None: there are none.
        auto is this precision. Without it auto is bf16 where the device has that arithmetic.

    Raises
    ------
    UserError
        For a device or a compiler that is not there.
    """
    chosen = choose_device(device)
    if chosen.type == "cuda":
        # float32 means float32: by default cuDNN's convolutions keep 10 of its 23 bits (TF32).
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
    is_native = has_bf16(chosen)
    if precision == "auto":
        precision = recorded or ("bf16" if is_native else "float32")
        why = "features begun in bf16"
    else:
        why = f"--precision {precision}"
    is_bf16 = precision == "bf16"
    if is_bf16 and not is_native:
        log.warning("%s: %s has no bf16 arithmetic; it works, but float32 is faster there", why, chosen)
    if compiled:
        _check_compiler(chosen)
    return Runtime(chosen, torch.bfloat16 if is_bf16 else torch.float32, compiled)


@cache
def keep_freed_memory() -> None:
    """Have this process keep what it frees, for what it takes next: for processors, where networks fill it anew.

    By default glibc gives large pieces back to the system and asks for them again, zeroed page by page, for what every
    layer makes: a tenth of ViT-B's time. Other C libraries are left as they are.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        settings = ctypes.CDLL(None).mallopt
        for parameter, value in ((_ARENAS, 1), (_MAPPED, 0), (_KEPT, 2**31 - 1)):
            settings(parameter, value)


def _check_compiler(device: torch.device) -> None:
    try:
        torch.compile(lambda x: (x + 1).sum())(torch.ones(8, device=device))
    except Exception as error:  # torch passes on whatever its compilers say
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"--compile: cannot compile here ({reason.strip()}); leave it out") from error


class DeviceBatches:
    """Feeds functions on a device with as many items at once as its memory holds.

    A batch that does not fit is halved, and no larger one is tried again; one item that does not fit alone raises.

    Parameters
    ----------
    most_on_cpu : items at once on a processor.
    side_by_side : whether the functions may run in several threads at a time. On a processor batches then share out its
        cores instead of following each other: threads that share out one product wait for each other after each, and
        for as long as another program has the core of one of them.
    """

    def __init__(self, runtime: Runtime, most_on_cpu: int = MOST_ON_CPU, side_by_side: bool = False) -> None:
        self._runtime = runtime
        is_cpu = runtime.device.type == "cpu"
        self._most: int | None = most_on_cpu if is_cpu else None
        self._lanes = min(torch.get_num_threads(), MOST_LANES) if side_by_side and is_cpu else 1
        if runtime.compiled:
            self._lanes = 1

    def map(self, function: Callable[[ItemsT], ResultT], items: ItemsT, batch_size: int) -> list[ResultT]:
        """`function` of each batch (a slice of at most `batch_size` items), in the order of the items."""
        return self.map_groups(function, [items], batch_size)[0]

    def map_groups(
        self, function: Callable[[ItemsT], ResultT], groups: Sequence[ItemsT], batch_size: int
    ) -> list[list[ResultT]]:
        """Do the same for groups of items that must not be in one batch, such as windows of different lengths."""
        lanes = min(self._lanes, batch_size)
        results: list[list[ResultT]] = [[] for _ in groups]
        starts = [0] * len(groups)
        while left := sum(len(items) - start for items, start in zip(groups, starts, strict=True)):
            size = min(batch_size, self._most or batch_size, -(-left // lanes))
            batches = [
                (number, items[start : start + size])
                for number, items in enumerate(groups)
                for start in range(starts[number], len(items), size)
            ]
            for (number, batch), outcome in zip(batches, self._attempts(function, batches, lanes), strict=False):
                if not outcome:
                    self._halve(len(batch))
                    break
                results[number] += outcome
                starts[number] += len(batch)
        return results

    def _attempts(self, function: Callable[[Any], Any], batches: Sequence[tuple[int, Any]], lanes: int) -> Any:
        """Return what `_attempt` says of each batch, in their order."""
        if lanes == 1 or len(batches) == 1:
            return (self._attempt(function, batch) for _, batch in batches)
        threads = _threads(lanes, torch.get_num_threads())
        return list(threads.map(lambda batch: self._attempt(function, batch[1]), batches))

    def rows(
        self, function: Callable[[torch.Tensor], torch.Tensor], arrays: Sequence[np.ndarray], batch_size: int
    ) -> np.ndarray:
        """`function` of the rows of all arrays, float32 on the host; of no rows, an array (0, 1).

        The arrays are joined along their first axis and cross to the device as they are.
        """
        if not any(len(array) for array in arrays):
            return np.zeros((0, 1), np.float32)
        joined = torch.cat([torch.from_numpy(array) for array in arrays if len(array)])
        # Results stay on the device until the last batch is on its way, so that copies and products overlap.
        results = self.map(lambda batch: function(self.to_device(batch)), joined, batch_size)
        return torch.cat(results).float().cpu().numpy()

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy on the device; to a GPU, made while it is still busy with the batch before."""
        if self._runtime.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._runtime.device, non_blocking=True)

    def _attempt(self, function: Callable[[Any], ResultT], batch: Any) -> list[ResultT]:
        """Return the one result; none where memory did not suffice."""
        try:
            with torch.inference_mode(), self._runtime.arithmetic():
                return [function(batch)]
        except (RuntimeError, MemoryError) as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
        return []

    def _halve(self, n_items: int) -> None:
        # Not inside `except`: the exception would still hold the tensors of the failed attempt.
        if self._runtime.device.type == "cuda":
            torch.cuda.empty_cache()
        self._most = n_items // 2
        log.warning("%s: no memory for %d items at once; going on with %d", self._runtime.device, n_items, self._most)


@cache
def _threads(lanes: int, n_threads: int) -> ThreadPoolExecutor:
    """Return so many threads, among which torch's are shared out."""
    have_started = threading.Barrier(lanes + 1)

    def begin() -> None:
        torch.get_num_threads()  # torch takes over the number of other threads when a thread first asks, not later
        torch.set_num_threads(max(1, n_threads // lanes))
        have_started.wait()

    threads = ThreadPoolExecutor(lanes, "viper lane", initializer=begin)
    for _ in range(lanes):
        threads.submit(int)
    have_started.wait()
    # torch notes the last number that any thread has set, for threads that come later.
    torch.set_num_threads(n_threads)
    return threads
