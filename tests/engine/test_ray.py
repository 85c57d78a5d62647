"""The engine on a real Ray cluster: several nodes on this machine, each with processes of its own."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import pictures, write_frames
from conftest import Run
from many import long_test
from media import write_coded
from mishaps import Clip, Load, Sample, Save

from viper.engine import ray as ray_engine
from viper.engine import run as engine
from viper.engine.failures import FAILURES_FILE, read_failures
from viper.engine.job import EngineOptions, Job, Summary
from viper.errors import OutputError, UserError
from viper.files import write_text
from viper.store import FeatureStore

for name, value in ray_engine.QUIET.items():
    os.environ.setdefault(name, value)
ray = pytest.importorskip("ray", reason="needs Ray: pip install 'viper[ray]'")
from ray.cluster_utils import Cluster  # noqa: E402

ROOT = Path(__file__).parents[2]
N_NODES = 2
# Ray takes our word for the GPUs; nothing here computes on one.
NODE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 100 << 20}


@dataclass
class Nodes:
    """A head that does no work, and nodes that do."""

    cluster: Cluster

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def kill(self, node_id: str) -> None:
        """As when a machine goes: its processes get no signal that they could act on."""
        (node,) = [node for node in self.cluster.worker_nodes if node.node_id == node_id]
        self.cluster.remove_node(node, allow_graceful=False)

    def complete(self) -> None:
        while len(self.cluster.worker_nodes) < N_NODES:
            self.cluster.add_node(**NODE)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: those of sockets may not be long."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def started() -> Iterator[Nodes]:
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # as `short`
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent))))
        # Where Ray notes the cluster's address, besides `temp_dir`: it makes the former only for clusters of its own.
        patch.setenv("RAY_TMPDIR", str(folder))
        (folder / "ray").mkdir()
        # A node that is killed is missed soon, one that is merely slow is not.
        health = {"health_check_period_ms": 500, "health_check_failure_threshold": 3, "health_check_timeout_ms": 10_000}
        head = {
            **NODE,
            "num_cpus": 0,
            "num_gpus": 0,
            "_system_config": health,
            "include_dashboard": False,
            "temp_dir": str(folder),
        }
        nodes = Nodes(Cluster(initialize_head=True, head_node_args=head))
        nodes.complete()
        yield nodes
        nodes.cluster.shutdown()
    deadline = time.monotonic() + 10
    while (left := _processes(str(folder))) and time.monotonic() < deadline:
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)
    assert left == []


@pytest.fixture
def nodes(started: Nodes) -> Nodes:
    started.complete()
    return started


def _processes(word: str) -> list[str]:
    """The command lines that hold this word."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line:
            found.append(line)
    return found


@dataclass(frozen=True)
class SaveWithNode:
    """Notes who saved: viper as imported there, and the node."""

    output: Path

    def __call__(self, clip: Clip, result: Any) -> None:
        node = ray.get_runtime_context().get_node_id()
        write_text(self.output / f"{clip.id}.txt", f"{result} {ray_engine.__file__} {node}")


@dataclass(frozen=True)
class Encode:
    """Takes its time; its batches show in the results."""

    seconds: float = 0.0

    def __call__(self, samples: list[Sample]) -> list[str]:
        time.sleep(self.seconds)
        for sample in samples:
            if sample.clip.what == "device option":
                raise UserError("--model_name x: its weights are not here")
            if sample.clip.what == "bad on device":
                raise RuntimeError("the device cannot read this")
        return [f"encoded-with-{len(samples)}" for _ in samples]


@dataclass
class Place:
    """Folders of a run on the cluster."""

    root: Path
    address: str

    def __post_init__(self) -> None:
        (self.root / "notes").mkdir(parents=True)

    @property
    def output(self) -> Path:
        return self.root / "out"

    def run(self, clips: list[Clip], encode: Any = None, save: Any = None, **options: Any) -> Summary:
        job = Job("s", Load(self.root / "notes"), save or Save(self.output), self.is_done, encode, batch_size=3)
        return engine.run(job, clips, self.output, self.options(**options))

    def options(self, **options: Any) -> EngineOptions:
        return EngineOptions(engine="ray", ray_address=self.address, **options)

    def is_done(self, clip: Clip) -> bool:
        return (self.output / f"{clip.id}.txt").is_file()

    def texts(self) -> dict[str, list[str]]:
        return {path.stem: path.read_text().split() for path in self.output.glob("c*.txt")}

    def failures(self) -> list[tuple[str, str, str]]:
        return [(row.clip, row.error, row.message) for row in read_failures(self.output)]


@pytest.fixture(scope="module")
def connected(started: Nodes) -> Iterator[None]:
    """A connection that several runs use: processes of the cluster live as long as it does."""
    with pytest.MonkeyPatch.context() as patch:
        # As some launchers leave it: Ray itself raises TypeError then.
        patch.setattr(sys.modules["__main__"], "__file__", None, raising=False)
        ray_engine._connect(EngineOptions(engine="ray", ray_address=started.address))
    yield
    ray.shutdown()


@pytest.fixture
def place(tmp_path: Path, nodes: Nodes, connected: None) -> Place:
    return Place(tmp_path / "place", nodes.address)


def clips(n: int, **what: str) -> list[Clip]:
    return [Clip(f"c{i}", what.get(f"c{i}", "")) for i in range(n)]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
            and not path.name.startswith(".")}  # fmt: skip


@long_test
def test_the_same_frames_as_in_one_process(
    run: Run, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(5):
        write_coded(tmp_path / "videos" / f"clip{number}.mp4", 12 + number)
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    # The processes of the cluster were started elsewhere.
    monkeypatch.chdir(tmp_path)
    given = ("get_frame", "--input_folder", "videos", "--n_frames", 4)
    assert run(*given, "--output_folder", "here").code == 3
    outcome = run(*given, "--output_folder", "there", "--engine", "ray", "--ray_address", nodes.address)
    assert outcome.code == 3
    assert not ray.is_initialized()
    # Nothing of Ray's own is said.
    assert [line for line in outcome.said.splitlines() if not line.startswith("get_frame: ")] == []
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert len(files(tmp_path / "here")) == 5 * 5 + 1


@long_test
def test_the_same_features_as_in_one_process(
    run: Run, nodes: Nodes, connected: None, vit: Path, tmp_path: Path
) -> None:
    frames = tmp_path / "frames"
    for number in range(6):
        write_frames(frames / f"clip{number}", pictures(3 + number, seed=number))
    (frames / "clip4" / "frame_2.jpg").write_bytes(b"no picture")
    here, there = tmp_path / "here", tmp_path / "there"
    given = (
        "extract_visual_features",
        "--input_folder",
        frames,
        "--model_name",
        vit,
        "--batch_size",
        8,
        "--device",
        "cpu",
    )
    assert run(*given, "--output_folder", here).code == 3
    ray_options = ("--engine", "ray", "--ray_address", nodes.address)
    first = run(*given, "--output_folder", there, *ray_options)
    assert first.code == 3
    assert "5 done, 0 already there, 1 failed" in first.said
    assert files(there).keys() == files(here).keys()
    assert files(there)[FAILURES_FILE] == files(here)[FAILURES_FILE]
    one, other = FeatureStore.open(here), FeatureStore.open(there)
    assert replace(other.info, command="") == replace(one.info, command="")
    assert one.clips() == [f"clip{number}" for number in (0, 1, 2, 3, 5)]
    for clip in one.clips():
        a, b = one.read(clip), other.read(clip)
        np.testing.assert_allclose(b.tokens, a.tokens, atol=1e-5, rtol=0)
        assert (a.mask == b.mask).all()
        assert (a.time == b.time).all()
    before = {path: path.stat().st_mtime_ns for path in there.glob("*.safetensors")}
    # A clip that cannot be read is tried again, and nothing else.
    second = run(*given, "--output_folder", there, *ray_options)
    assert "0 done, 5 already there, 1 failed" in second.said
    assert {path: path.stat().st_mtime_ns for path in there.glob("*.safetensors")} == before


@long_test
def test_every_clip_is_answered_once(place: Place) -> None:
    given = clips(30, c3="value error", c5="unpicklable sample", c7="bad on device", c28="clip error")
    summary = place.run(given, Encode(), SaveWithNode(place.output))
    texts = place.texts()
    assert (summary.done, len(summary.failed), summary.exit_code) == (26, 4, 3)
    assert texts.keys() == {clip.id for clip in given} - {"c3", "c5", "c7", "c28"}
    assert [clip for clip, _, _ in place.failures()] == ["c3", "c5", "c7", "c28"]
    assert place.failures()[0][1:] == ("ValueError", "odd")
    assert place.failures()[2][1:] == ("RuntimeError", "the device cannot read this")
    # Batches span clips, those with a bad clip in them were done one by one, and this viper is what ran.
    assert texts["c0"][0] == "encoded-with-3"
    assert {text[1] for text in texts.values()} == {str(ROOT / "viper" / "engine" / "ray.py")}
    assert place.run(given[:2], Encode()).skipped == 2


def _kill_node_of(place: Place, nodes: Nodes, n_saved: int) -> str:
    """Waits for so many results, and kills the node that saved the last of them."""
    deadline = time.monotonic() + 300
    while len(texts := place.texts()) < n_saved:
        assert time.monotonic() < deadline, "no results"
        time.sleep(0.02)
    last = max(texts, key=lambda clip: (place.output / f"{clip}.txt").stat().st_mtime_ns)
    nodes.kill(texts[last][2])
    return texts[last][2]


@long_test
def test_a_node_that_is_killed_costs_nothing(place: Place, nodes: Nodes) -> None:
    given = clips(90, c40="clip error")
    killed: list[str] = []
    killer = threading.Thread(target=lambda: killed.append(_kill_node_of(place, nodes, 15)), daemon=True)
    killer.start()
    answers = []
    job = Job("s", Load(place.root / "notes"), SaveWithNode(place.output), place.is_done, Encode(0.1), batch_size=3)
    for clip, error in ray_engine.run_on_ray(job, given, place.options()):
        answers.append((clip.id, error is None))
    killer.join()
    assert sorted(answers) == sorted((clip.id, clip.id != "c40") for clip in given)
    assert place.texts().keys() == {clip.id for clip in given} - {"c40"}
    # The node had done some; others did the rest.
    savers = {text[2] for text in place.texts().values()}
    assert len(savers) > 1
    assert set(killed) < savers


@long_test
def test_a_clip_that_crashes_its_process_costs_no_other(place: Place) -> None:
    summary = place.run(clips(6, c2="segfault"), clip_timeout=0)
    assert place.texts().keys() == {"c0", "c1", "c3", "c4", "c5"}
    assert place.failures() == [("c2", "RuntimeError", "the processes that worked on this clip crashed")]
    assert (summary.done, summary.exit_code) == (5, 3)


@pytest.mark.parametrize(
    ("what", "encode", "error", "message"),
    [
        pytest.param("device option", Encode(), UserError, "its weights are not here", marks=long_test),
        pytest.param("user error", Encode(), UserError, "--layer 99", marks=long_test),
        pytest.param("full disk", Encode(), OutputError, "space", marks=long_test),
        pytest.param("full disk", None, OutputError, "space", marks=long_test),
    ],
)
def test_what_stops_a_run(place: Place, what: str, encode: Any, error: type[Exception], message: str) -> None:
    if what == "full disk" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full, a disk that is always full")
    with pytest.raises(error, match=message) as caught:
        place.run(clips(100, c2=what, **{f"c{i}": "slow" for i in range(10, 100)}), encode)
    assert type(caught.value) is error
    assert place.failures() == []
    time.sleep(2)
    stopped_at = place.texts().keys()
    time.sleep(1)
    assert place.texts().keys() == stopped_at
    assert len(stopped_at) < 70


def test_without_ray(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'viper\[ray\]'"):
        place.run(clips(1))


def test_gpus_that_are_not_there(place: Place) -> None:
    with pytest.raises(UserError, match=f"--num_gpus 3: the cluster has {N_NODES}"):
        place.run(clips(1), num_gpus=3)


@long_test
def test_nodes_that_come_and_go(place: Place, nodes: Nodes) -> None:
    given = clips(400, c7="clip error", c150="segfault")
    rng = random.Random(0)
    job = Job("s", Load(place.root / "notes"), SaveWithNode(place.output), place.is_done, Encode(0.2), batch_size=3)

    def answers_of_a_run() -> list[tuple[str, bool]]:
        return [(clip.id, error is None) for clip, error in ray_engine.run_on_ray(job, given, place.options())]

    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(answers_of_a_run)
        # In this thread, since nodes can be started in no other.
        for _ in range(4):
            time.sleep(rng.uniform(3, 10))
            nodes.kill(rng.choice([node.node_id for node in nodes.cluster.worker_nodes]))
            time.sleep(rng.choice([0.0, rng.uniform(0, 5)]))
            nodes.complete()
        answers = run.result()
    assert len(answers) == len(dict(answers)) == 400
    # A clip may be given up when node after node was lost under it; it is said then, and done when the run is repeated.
    failed = {clip for clip, is_done in answers if not is_done}
    assert {"c7", "c150"} <= failed
    assert place.texts().keys() >= {clip.id for clip in given} - failed
    again = place.run(clips(400, c7="clip error", c150="segfault"), Encode())
    assert {failure.clip for failure in again.failed} == {"c7", "c150"}
    assert place.texts().keys() == {clip.id for clip in given} - {"c7", "c150"}


@long_test
def test_a_gpu_that_is_lost_for_good(place: Place, nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "STALLED_SECONDS", 60.0)
    given = clips(90)
    killer = threading.Thread(target=_kill_node_of, args=(place, nodes, 6), daemon=True)
    killer.start()
    summary = place.run(given, Encode(0.3), SaveWithNode(place.output), num_gpus=2)
    killer.join()
    assert (summary.done, summary.exit_code) == (90, 0)
    assert place.texts().keys() == {clip.id for clip in given}


@long_test
def test_a_clip_that_hangs_costs_no_other(place: Place) -> None:
    summary = place.run(clips(12, c2="hang"), Encode(), clip_timeout=3)
    assert place.texts().keys() == {f"c{i}" for i in range(12)} - {"c2"}
    assert "took longer than 3 s (--clip_timeout)" in place.failures()[0][2]
    assert (summary.done, summary.exit_code) == (11, 3)


@long_test
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_ray_of_its_own_ends_with_the_command(tmp_path: Path, short: Path, how: signal.Signals) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(300):
        write_coded(tmp_path / "videos" / f"clip{number}.mp4", 12)
    command = [sys.executable, "-m", "viper.cli", "get_frame", "--input_folder", "videos", "--output_folder", "frames"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(short)}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([*command, "--engine", "ray"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE,
                                text=True)  # fmt: skip

    stopped = start()
    while not list(tmp_path.glob("frames/clip*")) and stopped.poll() is None:
        time.sleep(0.1)
    stopped.send_signal(how)
    _, said = stopped.communicate(timeout=60)
    last = said.splitlines()[-1]  # a slow run has said how far it is
    assert last == "viper: error: interrupted; what was finished is kept, and the same command goes on from there"
    assert stopped.returncode == 130
    kept = len(list(tmp_path.glob("frames/clip*")))
    assert 0 < kept < 300
    finished = start()
    assert finished.wait(300) == 0
    assert len(list(tmp_path.glob("frames/clip*"))) == 300
    time.sleep(2)
    assert _processes(str(short)) == []
