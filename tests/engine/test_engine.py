from __future__ import annotations

import contextlib
import errno
import logging
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mishaps import Clip, Load, Sample, Save, Second

from viper.engine import progress
from viper.engine import run as engine
from viper.engine.failures import Failure, read_failures
from viper.engine.job import EngineOptions, Job, Shard, Summary
from viper.engine.pool import FEW_ITEMS, resolve_workers
from viper.errors import OutputError, UserError
from viper.files import write_text

WORKERS = [0, 2]


@dataclass
class Place:
    """Folders of a run, and what the device was given."""

    root: Path
    batches: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.notes.mkdir(parents=True)

    @property
    def notes(self) -> Path:
        return self.root / "notes"

    @property
    def output(self) -> Path:
        return self.root / "out"

    def encode(self, samples: list[Sample]) -> list[str]:
        self.batches.append([sample.clip.id for sample in samples])
        for sample in samples:
            if sample.clip.what == "bad on device":
                raise RuntimeError("the device cannot read this")
            if sample.clip.what == "device option":
                raise UserError("--model_name x: its weights are not here")
            if sample.clip.what == "interrupt on device":
                raise KeyboardInterrupt
            if sample.clip.what == "slow on device":
                time.sleep(1)
        return [f"encoded {sample.clip.id}" for sample in samples]

    def device_job(self, batch_size: int = 2) -> Job[Clip, Sample, str]:
        load, save = Load(self.notes), Save(self.output)
        return Job("encode_it", load, save, self.is_done, self.encode, lambda s: s.clip.size, batch_size)

    def host_job(self) -> Job[Clip, Sample, Sample]:
        return Job("copy_it", Load(self.notes), Save(self.output), self.is_done)

    def job(self, kind: str, batch_size: int = 2) -> Job[Clip, Any, Any]:
        return self.device_job(batch_size) if kind == "device" else self.host_job()

    def run(self, kind: str, clips: list[Clip], n_workers: int = 0, batch_size: int = 2, **options: Any) -> Summary:
        return engine.run(self.job(kind, batch_size), clips, self.output, EngineOptions(n_workers=n_workers, **options))

    def is_done(self, clip: Clip) -> bool:
        return (self.output / f"{clip.id}.txt").is_file()

    def done(self) -> set[str]:
        return {path.stem for path in self.output.glob("*.txt")}

    def loaded(self) -> list[str]:
        """The clips in the order their loading began."""
        notes = sorted(self.notes.iterdir(), key=lambda path: int(path.suffix[1:]))
        return [path.name.split(".")[0] for path in notes]

    def failures(self) -> list[tuple[str, str, str]]:
        return [(row.clip, row.error, row.message) for row in read_failures(self.output)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def clips(n: int, **what: str) -> list[Clip]:
    """c0 ... c<n-1>; `c3="exit"` says what one of them does."""
    return [Clip(f"c{i}", what.get(f"c{i}", "")) for i in range(n)]


@pytest.mark.parametrize("kind", ["device", "host"])
def test_a_pool_gives_what_one_process_gives(tmp_path: Path, kind: str) -> None:
    given = clips(9, c2="value error", c5="clip error")
    outcomes = []
    for n_workers in (0, 2, 3):
        place = Place(tmp_path / str(n_workers))
        summary = place.run(kind, given, n_workers)
        texts = {path.name: path.read_text().rsplit(" ", 1)[0] for path in place.output.glob("*.txt")}
        outcomes.append((summary.done, summary.failed, texts, place.batches, place.failures()))
    assert outcomes[1] == outcomes[0]
    assert outcomes[2] == outcomes[0]
    assert outcomes[0][0] == 7
    assert outcomes[0][4] == [("c2", "ValueError", "odd"), ("c5", "ClipError", "corrupt, said the decoder")]


@pytest.mark.parametrize("n_workers", WORKERS)
def test_batches_span_clips_and_close_when_they_are_full(place: Place, n_workers: int) -> None:
    given = [Clip(f"c{i}", size=size) for i, size in enumerate([3, 3, 3, 10, 1, 1, 5, 4])]
    place.run("device", given, n_workers, batch_size=5)
    assert place.batches == [["c0", "c1"], ["c2", "c3"], ["c4", "c5", "c6"], ["c7"]]
    assert place.done() == {clip.id for clip in given}


def test_clips_with_nothing_to_encode_do_not_pile_up(place: Place) -> None:
    place.run("device", [Clip(f"c{i}", size=0) for i in range(5)], batch_size=2)
    assert place.batches == [["c0", "c1"], ["c2", "c3"], ["c4"]]


def test_a_bad_sample_costs_only_its_own_clip(place: Place) -> None:
    given = clips(6, c1="bad on device")
    summary = place.run("device", given, batch_size=3)
    assert place.done() == {"c0", "c2", "c3", "c4", "c5"}
    assert place.failures() == [("c1", "RuntimeError", "the device cannot read this")]
    assert (summary.done, summary.exit_code) == (5, 3)
    assert place.batches == [["c0", "c1", "c2"], ["c0"], ["c1"], ["c2"], ["c3", "c4", "c5"]]


@pytest.mark.parametrize("kind", ["device", "host"])
def test_a_result_that_cannot_be_saved_costs_only_its_own_clip(place: Place, kind: str) -> None:
    place.run(kind, clips(4, c1="unwritable"), batch_size=4)
    assert place.done() == {"c0", "c2", "c3"}
    assert place.failures() == [("c1", "ClipError", "a picture that cannot be written")]


@pytest.mark.parametrize("kind", ["device", "host"])
def test_what_is_done_is_not_done_again(place: Place, kind: str) -> None:
    first = place.run(kind, clips(4, c2="clip error"))
    assert (first.done, first.skipped, len(first.failed), first.exit_code) == (3, 0, 1, 3)
    assert place.loaded() == ["c0", "c1", "c2", "c3"]
    # The clip was fixed meanwhile.
    second = place.run(kind, clips(5))
    assert (second.done, second.skipped, len(second.failed), second.exit_code) == (2, 3, 0, 0)
    assert place.loaded()[4:] == ["c2", "c4"]
    assert not (place.output / "failures.csv").exists()
    third = place.run(kind, clips(5))
    assert (third.done, third.skipped, third.exit_code) == (0, 5, 0)
    assert len(place.loaded()) == 6
    again = place.run(kind, clips(5), incremental=False)
    assert (again.done, again.skipped) == (5, 0)
    assert len(place.loaded()) == 11


def test_a_clip_that_is_found_done_leaves_the_failures(place: Place) -> None:
    place.run("host", clips(2, c0="clip error"))
    write_text(place.output / "c0.txt", "brought from elsewhere")
    place.run("host", clips(2))
    assert place.failures() == []


def test_a_clip_that_fails_when_done_again_keeps_its_older_result(place: Place) -> None:
    place.run("host", clips(1))
    summary = place.run("host", clips(1, c0="clip error"), incremental=False)
    assert (summary.done, summary.skipped, summary.exit_code) == (0, 0, 1)
    assert place.done() == {"c0"}
    assert [clip for clip, _, _ in place.failures()] == ["c0"]


def test_exit_codes() -> None:
    failure = Failure("c", "s", "ClipError", "x")
    assert Summary("s").exit_code == 0
    assert Summary("s", done=1).exit_code == 0
    assert Summary("s", skipped=1).exit_code == 0
    assert Summary("s", done=1, failed=[failure]).exit_code == 3
    assert Summary("s", skipped=1, failed=[failure]).exit_code == 3
    assert Summary("s", failed=[failure]).exit_code == 1
    assert str(Summary("s", 4, seconds=2.0, device_seconds=1.8)).endswith("(2.0 s, 2.0 clips/s, device busy 90%)")
    assert str(Summary("s", 6, 2, [failure], 3.0)) == "s: 6 done, 2 already there, 1 failed (3.0 s, 2.0 clips/s)"
    assert str(Summary("s", 420, 0, [], 1200.0)).endswith("(20 min, 21 clips/min)")
    assert str(Summary("s", 2, 0, [], 300.0)).endswith("(5 min, 2.5 min a clip)")


def test_nothing_to_do(place: Place) -> None:
    assert place.run("device", [], 2).exit_code == 0
    assert place.batches == []


@pytest.mark.parametrize("death", ["exit", "segfault", "kill", "sys.exit"])
def test_a_process_that_dies_costs_one_clip(place: Place, death: str) -> None:
    summary = place.run("host", clips(8, c3=death), 2)
    assert place.done() == {"c0", "c1", "c2", "c4", "c5", "c6", "c7"}
    how = {"segfault": "SIGSEGV", "kill": "SIGKILL, as when the memory is full", "exit": "exit code 7"}
    message = f"the process that loaded this clip crashed ({how.get(death, 'exit code 1')})"
    assert place.failures() == [("c3", "RuntimeError", message)]
    assert (summary.done, summary.exit_code) == (7, 3)


@pytest.mark.parametrize("kind", ["device", "host"])
def test_several_processes_that_die(place: Place, kind: str) -> None:
    place.run(kind, clips(9, c0="exit", c1="exit", c4="kill", c8="exit"), 2)
    assert place.done() == {"c2", "c3", "c5", "c6", "c7"}
    assert [clip for clip, _, _ in place.failures()] == ["c0", "c1", "c4", "c8"]
    assert [clip for batch in place.batches for clip in batch] == (sorted(place.done()) if kind == "device" else [])


def test_a_process_that_dies_while_the_device_is_busy(place: Place) -> None:
    # The pool is found broken when the next clip is handed to it, not when a result is waited for.
    summary = place.run("device", clips(12, c0="slow on device", c2="exit"), 2, batch_size=1)
    assert 1 <= summary.device_seconds < summary.seconds
    assert place.done() == {f"c{i}" for i in range(12)} - {"c2"}
    assert [clip for clip, _, _ in place.failures()] == ["c2"]


def test_a_process_killed_for_the_memory_of_others_costs_nothing(place: Place) -> None:
    summary = place.run("host", clips(6, c2="killed once"), 2)
    assert (summary.done, summary.failed) == (6, [])
    assert place.loaded().count("c2") == 2


@pytest.mark.parametrize("kind", ["device", "host"])
def test_a_clip_that_hangs_costs_its_time_and_nothing_else(place: Place, kind: str) -> None:
    began = time.monotonic()
    summary = place.run(kind, clips(8, c1="hang", c2="slow", c5="hang"), 2, clip_timeout=1.0)
    assert place.done() == {f"c{i}" for i in range(8)} - {"c1", "c5"}
    message = "loading it took longer than 1 s (--clip_timeout)"
    assert place.failures() == [("c1", "ClipError", message), ("c5", "ClipError", message)]
    assert summary.exit_code == 3
    assert time.monotonic() - began < 30
    assert place.loaded().count("c1") == 1  # not tried again
    assert multiprocessing.active_children() == []


def test_starting_a_process_is_not_the_clips_time(place: Place) -> None:
    # A process imports for seconds before it is ready.
    summary = place.run("host", clips(3, c0="slow", c1="slow", c2="slow"), 3, clip_timeout=0.9)
    assert summary.failed == []


def test_the_next_batch_is_loaded_while_one_is_on_the_device(place: Place) -> None:
    waiting: list[int] = []

    def encode(samples: list[Sample]) -> list[str]:
        time.sleep(0.5)
        waiting.append(len(place.loaded()) - 6 * (len(waiting) + 1))
        return [sample.clip.id for sample in samples]

    job = Job("encode_it", Load(place.notes), Save(place.output), place.is_done, encode, batch_size=6)
    engine.run(job, clips(24), place.output, EngineOptions(n_workers=2))
    assert waiting[1] >= 6
    assert waiting[-1] == 0


def test_jobs_that_run_together_read_each_clip_once(tmp_path: Path) -> None:
    def job(name: str, batch_size: int) -> tuple[Place, Job[Clip, Any, Any]]:
        place = Place(tmp_path / name)
        own = place.device_job(batch_size)
        own.stage = name
        own.read, own.load = Load(tmp_path / "notes"), Second(name)
        return place, own

    (tmp_path / "notes").mkdir()
    (first, one), (second, two) = job("first", 2), job("second", 3)
    given = clips(9, c1="first", c4="clip error", c6="second")
    write_text(first.output / "c0.txt", "there")
    for name in ("c0", "c2"):
        write_text(second.output / f"{name}.txt", "there")
    summaries = engine.run_together([one, two], given, [first.output, second.output], EngineOptions(n_workers=2))
    assert sorted(path.name.split(".")[0] for path in (tmp_path / "notes").iterdir()) == [f"c{i}" for i in range(1, 9)]
    assert [(s.stage, s.done, s.skipped, len(s.failed)) for s in summaries] == [
        ("first", 6, 1, 2), ("second", 5, 2, 2),
    ]  # fmt: skip
    assert first.done() == {f"c{i}" for i in range(9)} - {"c1", "c4"}
    assert second.done() == {f"c{i}" for i in range(9)} - {"c4", "c6"}
    assert [clip for clip, _, _ in first.failures()] == ["c1", "c4"]
    assert [clip for clip, _, _ in second.failures()] == ["c4", "c6"]
    assert first.batches[0] == ["c2", "c3"]
    assert second.batches[0] == ["c1", "c3", "c5"]


@pytest.mark.parametrize("n_workers", WORKERS)
def test_shards_are_disjoint_and_complete(tmp_path: Path, n_workers: int) -> None:
    given = clips(40)
    parts = []
    for number in (1, 2, 3):
        place = Place(tmp_path / str(number))
        place.run("host", given, n_workers, shard=f"{number}/3")
        parts.append(place.done())
    assert set().union(*parts) == {clip.id for clip in given}
    assert sum(map(len, parts)) == len(given)
    assert min(map(len, parts)) > 5
    # Neither the other clips nor their order has a say: each node may see another state of the folder.
    again = Place(tmp_path / "again")
    again.run("host", given[:4:-1], n_workers, shard="2/3")
    assert again.done() == parts[1] - {clip.id for clip in given[:5]}


def test_how_a_shard_is_written() -> None:
    assert all(Shard.parse("").has(clip.id) for clip in clips(9))
    assert Shard.parse("3/16") == Shard(3, 16)
    for text in ("0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", "1 / 4"):
        with pytest.raises(UserError, match=r"must be k/n"):
            EngineOptions(shard=text)
    # A change of the digest would make jobs of two versions overlap.
    assert [name for name in ("[00001]", "é😀", "c1", "c2", "c3") if Shard(1, 2).has(name)] == [
        "[00001]",
        "é😀",
        "c1",
        "c3",
    ]


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("two arguments", "TwoArgumentsError", "not portable"),
        ("unpicklable error", "ValueError", "holds a function"),
        ("no input", "FileNotFoundError", "x.mp4"),
        ("memory", "MemoryError", "MemoryError"),
        ("clip error", "ClipError", "corrupt, said the decoder"),
    ],
)
@pytest.mark.parametrize("n_workers", WORKERS)
def test_any_exception_of_load_is_the_clips_own(
    place: Place, what: str, error: str, message: str, n_workers: int
) -> None:
    summary = place.run("device", clips(5, c1=what), n_workers)
    assert place.done() == {"c0", "c2", "c3", "c4"}
    ((clip, name, text),) = place.failures()
    assert (clip, name) == ("c1", error)
    assert message in text
    assert summary.exit_code == 3


def test_a_sample_that_cannot_be_sent_is_the_clips_own_failure(place: Place) -> None:
    place.run("device", clips(5, c1="unpicklable sample"), 2)
    assert place.done() == {"c0", "c2", "c3", "c4"}
    assert [clip for clip, _, _ in place.failures()] == ["c1"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full, a disk that is always full")
@pytest.mark.parametrize(("kind", "n_workers"), [("device", 0), ("device", 2), ("host", 0), ("host", 2)])
def test_a_full_disk_stops_the_run(place: Place, kind: str, n_workers: int) -> None:
    with pytest.raises(OSError, match="space") as error:
        place.run(kind, clips(30, c2="full disk"), n_workers, batch_size=1)
    assert isinstance(error.value, OutputError)
    assert error.value.errno == errno.ENOSPC
    assert {"c0", "c1"} <= place.done()
    assert "c20" not in place.done()
    assert place.failures() == []  # no clip is to blame
    assert multiprocessing.active_children() == []
    # With room again, the same command goes on.
    assert place.run(kind, clips(30), n_workers).done < 30
    assert len(place.done()) == 30


@pytest.mark.parametrize("n_workers", WORKERS)
@pytest.mark.parametrize("what", ["user error", "device option"])
def test_a_wrong_option_stops_the_run(place: Place, what: str, n_workers: int) -> None:
    with pytest.raises(UserError, match=r"^--"):
        place.run("device", clips(8, c2=what), n_workers, batch_size=2)
    assert place.failures() == []
    assert place.done() == {"c0", "c1"}


@pytest.mark.parametrize("n_workers", WORKERS)
def test_an_interrupted_run_keeps_what_was_finished(place: Place, n_workers: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        place.run("device", clips(20, c5="interrupt on device"), n_workers, batch_size=2)
    assert place.done() == {"c0", "c1", "c2", "c3"}
    assert place.failures() == []
    assert multiprocessing.active_children() == []
    assert place.run("device", clips(20), n_workers).done == 16
    assert len(place.done()) == 20


@pytest.mark.parametrize("n_workers", WORKERS)
def test_clips_are_not_loaded_far_ahead(place: Place, n_workers: int) -> None:
    ahead: list[int] = []

    def encode(samples: list[Sample]) -> list[str]:
        time.sleep(0.02)
        ahead.append(len(place.loaded()) - len(ahead))
        return [sample.clip.id for sample in samples]

    job = Job("encode_it", Load(place.notes), Save(place.output), place.is_done, encode, batch_size=1)
    engine.run(job, clips(30), place.output, EngineOptions(n_workers=n_workers))
    assert len(place.done()) == 30
    # Samples are large: what is loaded and not yet encoded must not grow with the number of clips.
    assert max(ahead) <= 1 + 2 * n_workers


def test_who_loads_and_who_saves(place: Place) -> None:
    def pids(kind: str, n_workers: int) -> tuple[set[int], set[int]]:
        own = Place(place.root / f"{kind}{n_workers}")
        own.run(kind, clips(6), n_workers)
        loaders = {int(path.name.split(".")[1]) for path in own.notes.iterdir()}
        return loaders, {int(path.read_text().split()[-1]) for path in own.output.glob("*.txt")}

    here = os.getpid()
    assert pids("host", 0) == ({here}, {here})
    assert pids("device", 0) == ({here}, {here})
    loaders, savers = pids("host", 2)
    assert here not in loaders
    assert savers == loaders  # what was decoded is not sent to another process to be written
    loaders, savers = pids("device", 2)
    assert here not in loaders
    assert savers == {here}
    assert multiprocessing.active_children() == []


def test_wrong_options() -> None:
    for n_workers in (-2, -100):
        with pytest.raises(UserError, match="n_workers"):
            EngineOptions(n_workers=n_workers)
    for batch_size in (0, -1):
        with pytest.raises(UserError, match="batch_size"):
            Job("s", str, print, bool, batch_size=batch_size)


def test_the_number_of_processes() -> None:
    cores = resolve_workers(-1, 10_000)
    assert cores >= 1
    assert resolve_workers(-1, FEW_ITEMS - 1) == 0
    assert resolve_workers(0, 10_000) == 0
    assert resolve_workers(5, 10_000) == 5
    assert resolve_workers(5, 2) == 2
    assert resolve_workers(5, 0) == 0


def test_a_log_gets_a_line_now_and_then(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger, level = logging.getLogger("viper"), logging.getLogger("viper").level
    monkeypatch.setattr(progress, "LOG_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        place.run("host", clips(3, c1="clip error"))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert [line.split(",")[0] for line in lines if " of " in line] == [f"copy_it: {i} of 3 clips" for i in (1, 2, 3)]
    assert lines[-1].endswith("1 failed")
    assert "copy_it: c1: corrupt, said the decoder" in lines


def test_a_ctrl_c_that_a_library_swallows_stops_the_run_at_the_next_clip(tmp_path: Path) -> None:
    """Compiled code may clear the exception: the run remembers that it was asked to stop."""
    from viper.errors import interrupt

    saved: list[str] = []

    def load(clip: Clip) -> str:
        if clip.id == "c1":
            with contextlib.suppress(KeyboardInterrupt):
                interrupt(signal.SIGINT, None)
        return clip.id

    job: Job[Clip, str, str] = Job("s", load, lambda clip, result: saved.append(clip.id), lambda clip: False)
    with pytest.raises(KeyboardInterrupt):
        engine.run(job, [Clip(f"c{i}") for i in range(5)], tmp_path / "out", EngineOptions(n_workers=0))
    assert saved == ["c0", "c1"]
