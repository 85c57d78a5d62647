"""Memory does not grow with the number of clips, and time grows no faster than it.

With VIPER_LONG_TESTS=1 over 2,000 clips a stage; the table it prints is the one in docs/benchmarks.md.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from many import STAGES, Launcher, long_test, n_done, session_members

pytestmark = [long_test, pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system has no /proc")]

N_CLIPS = 2000
# Where the memory is first looked at: models are loaded, buffers are as large as they get.
WARM = 500
MILESTONES = (250, WARM, 1000, N_CLIPS)
GROWTH_BYTES = 40 << 20
# Of all processes together, where what they share counts for each of them: torch, imported by four.
LIMIT_BYTES = 2500 << 20
INTERVAL = 0.25
PAGE = os.sysconf("SC_PAGESIZE")


@dataclass
class Watch:
    """Follows a run: its processes' resident memory together, and when so many clips were done."""

    process: int
    output: Path
    samples: list[tuple[int, float, int]] = field(default_factory=list)  # clips done, seconds, bytes

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def peak(self, n: int) -> int:
        """The most memory, in bytes, while at most `n` clips were done."""
        return max(memory for done, _, memory in self.samples if done <= n)

    def seconds(self, n: int) -> float:
        """Until `n` clips were done, or the run was over."""
        return next((seconds for done, seconds, _ in self.samples if done >= n), self.samples[-1][1])

    def _follow(self) -> None:
        while not self._is_over.wait(INTERVAL):
            memory = sum(_resident(process) for process in session_members(self.process))
            if memory:
                self.samples.append((n_done(self.output), time.monotonic() - self._began, memory))


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


@pytest.mark.parametrize("name", STAGES)
def test_memory_does_not_grow_with_the_clips(name: str, launcher: Launcher, tmp_path: Path) -> None:
    stage = STAGES[name]
    (tmp_path / "in").mkdir()
    stage.make(tmp_path / "in", N_CLIPS)
    process = launcher.start(stage.command, stage.arguments(tmp_path / "in", tmp_path / "out", "--n_workers", 2))
    watch = Watch(process, tmp_path / "out")
    code = launcher.wait(process)
    watch.stop()
    assert code == 3, launcher.said(process)
    assert n_done(tmp_path / "out") == N_CLIPS
    for n in MILESTONES:
        print(f"| {name} | {n} | {watch.peak(n) >> 20} | {watch.seconds(n):.1f} |")
    growth = watch.peak(N_CLIPS) - watch.peak(WARM)
    assert growth < GROWTH_BYTES, f"{growth >> 20} MiB more than at clip {WARM}"
    assert watch.peak(N_CLIPS) < LIMIT_BYTES
    first = watch.seconds(N_CLIPS // 2) - watch.seconds(WARM)
    second = watch.seconds(N_CLIPS) - watch.seconds(N_CLIPS // 2)
    assert second < 2.5 * first * (N_CLIPS / 2) / (N_CLIPS / 2 - WARM), "the later clips take longer"
