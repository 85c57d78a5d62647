"""Packs: the same numbers as the store's files, never out of date, never half-written, and no memory of their own."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from many import long_test
from safetensors.numpy import load_file, save_file

from viper.errors import ClipError
from viper.manifest import Manifest
from viper.store import EncoderInfo, Feature, FeatureStore
from viper.task import load_task
from viper.training.data import FusionData
from viper.training.packing import (
    Features,
    PackedFeatures,
    StoredFeatures,
    find_pack,
    moments,
    open_features,
    scan,
)

WIDTH = 5
CLIPS = ["10", "9", "absent", "empty", "masked", "7"]


def write_clip(store: FeatureStore, clip: str, n_tokens: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.uniform(size=n_tokens) > 0.3
    store.write(clip, Feature.make(rng.normal(size=(n_tokens, WIDTH)), mask, np.sort(rng.uniform(0, 9, n_tokens))))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore.create(tmp_path / "visual", EncoderInfo("planted", "visual", WIDTH))
    for seed, (clip, n_tokens) in enumerate({"10": 3, "9": 8, "7": 1, "empty": 0, "elsewhere": 2}.items()):
        write_clip(store, clip, n_tokens, seed)
    store.write("masked", Feature.absent(WIDTH, 2))
    return store


def opened(store: FeatureStore, clips: list[str] = CLIPS, split: str = "Train") -> Features:
    return open_features(store, clips, scan(store, clips), split)


def packs(store: FeatureStore, split: str = "Train") -> list[Path]:
    """Everything in a split's place but the lock."""
    return [path for path in (store.folder / ".packed" / split).glob("*") if path.name != "lock"]


def assert_as_stored(features: Features, store: FeatureStore, clips: list[str] = CLIPS) -> None:
    for row, clip in enumerate(clips):
        found = features[row]
        assert (found is not None) == (clip in store)
        if found is not None:
            expected = store.read(clip)
            for kind in ("tokens", "mask", "time"):
                ours, theirs = getattr(found, kind), getattr(expected, kind)
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs, strict=True)


def test_a_pack_holds_what_the_files_hold(store: FeatureStore) -> None:
    for pack in (opened(store), opened(store)):  # written, then found
        assert isinstance(pack, PackedFeatures)
        assert_as_stored(pack, store)
        assert pack.longest() == 8
        with pytest.raises(ValueError, match="read-only"):
            pack[0].tokens[0] = 0
        assert_as_stored(pickle.loads(pickle.dumps(pack)), store)
    files = StoredFeatures(store, CLIPS, scan(store, CLIPS))
    assert_as_stored(files, store)
    assert files.longest() == 8
    counted = np.concatenate([store.read(clip).tokens[store.read(clip).mask] for clip in CLIPS if clip in store])
    for mean, deviation in (pack.statistics(), files.statistics()):
        np.testing.assert_allclose(mean, counted.mean(axis=0, dtype=np.float64), rtol=1e-12)
        np.testing.assert_allclose(deviation, counted.std(axis=0, dtype=np.float64), rtol=1e-12)
    # The store itself is what it was.
    assert store.clips() == ["7", "9", "10", "elsewhere", "empty", "masked"]


def test_a_pack_serves_later_starts_without_a_file_being_read(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(store)
    monkeypatch.setattr(FeatureStore, "read", lambda self, clip: pytest.fail(f"{clip} was read"))
    assert opened(store)[1] is not None


@pytest.mark.parametrize("clips", [["absent"], ["empty", "absent"], ["masked"]])
def test_clips_without_a_single_token_that_counts(store: FeatureStore, clips: list[str]) -> None:
    for pack in (opened(store, clips), opened(store, clips)):
        assert_as_stored(pack, store, clips)
        assert pack.statistics() is None


@pytest.mark.parametrize(
    "change",
    [
        lambda store: write_clip(store, "9", 8, seed=99),  # of the same size
        lambda store: write_clip(store, "absent", 2, seed=99),
        lambda store: store.path("9").unlink(),
    ],
    ids=["changed", "added", "removed"],
)
def test_a_change_of_the_files_is_noticed_and_the_old_pack_goes(store: FeatureStore, change) -> None:
    opened(store)
    before = packs(store)
    change(store)
    assert_as_stored(opened(store), store)
    assert len(packs(store)) == 1
    assert packs(store) != before


def test_what_does_not_matter_makes_no_new_pack(store: FeatureStore) -> None:
    opened(store)
    before = packs(store)
    write_clip(store, "elsewhere", 4, seed=99)
    opened(store)
    assert packs(store) == before


def test_other_clips_replace_a_split_and_leave_the_others(store: FeatureStore) -> None:
    opened(store, ["10", "9"], "Train")
    opened(store, ["7"], "Val")
    assert_as_stored(opened(store, ["9", "10"], "Train"), store, ["9", "10"])
    assert len(packs(store, "Train")) == len(packs(store, "Val")) == 1


def test_another_encoder_is_another_pack(store: FeatureStore) -> None:
    for clip in store.clips():
        save_file(load_file(store.path(clip)), store.path(clip))  # as files were before they named their encoder
    opened(store)
    before = packs(store)
    opened(FeatureStore(store.folder, EncoderInfo("planted", "visual", WIDTH, options={"layer": 3})))
    assert packs(store) != before


def test_a_file_of_another_encoder_is_not_packed(store: FeatureStore, tmp_path: Path) -> None:
    other = FeatureStore.create(tmp_path / "other", EncoderInfo("planted", "visual", WIDTH, options={"layer": 3}))
    write_clip(other, "9", 8, seed=1)
    shutil.copy(other.path("9"), store.path("9"))
    with pytest.raises(ClipError, match=r"9\.safetensors: not a valid feature \(made by another encoder\)"):
        opened(store)
    assert packs(store) == []


def test_a_pack_in_use_is_not_removed(store: FeatureStore) -> None:
    pack = opened(store)
    expected = pack[1].tokens.copy()
    write_clip(store, "9", 8, seed=99)
    opened(store)
    assert len(packs(store)) == 2
    np.testing.assert_array_equal(pack[1].tokens, expected)
    del pack
    write_clip(store, "9", 8, seed=100)
    opened(store)
    assert len(packs(store)) == 1


@pytest.mark.parametrize("name", ["tokens.bin", "mask.bin", "offsets.npy", "present.npy", "index.json"])
def test_a_damaged_pack_is_made_again(store: FeatureStore, name: str) -> None:
    folder = opened(store).folder
    (folder / name).write_bytes((folder / name).read_bytes()[:-3])
    assert_as_stored(opened(store), store)


def test_a_broken_file_is_named_and_leaves_no_pack(store: FeatureStore) -> None:
    store.path("7").write_bytes(store.path("7").read_bytes()[:50])
    with pytest.raises(ClipError, match=r"7\.safetensors: not a valid feature"):
        opened(store)
    assert packs(store) == []


def test_a_store_that_cannot_be_written_is_packed_in_the_users_cache(store: FeatureStore, cache: Path) -> None:
    (store.folder / ".packed").write_text("")  # in place of a folder, which stops root too
    for pack in (opened(store), opened(store)):
        assert isinstance(pack, PackedFeatures)
        assert_as_stored(pack, store)
        assert pack.folder.is_relative_to(cache)


def test_a_disk_without_locks(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl", reason="Windows has none")

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert_as_stored(opened(store), store)
    (pack,) = packs(store)
    write_clip(store, "10", 4, 7)
    assert_as_stored(opened(store), store)
    assert pack in packs(store)  # somebody may be reading it


def test_where_nothing_can_be_written_the_files_are_read(
    store: FeatureStore, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (store.folder / ".packed").write_text("")
    cache.write_text("")
    with caplog.at_level("WARNING", "viper"):
        features = opened(store)
    assert isinstance(features, StoredFeatures)
    assert_as_stored(features, store)
    assert "cannot be packed" in caplog.text


# Opens the pack of the store argv[1], clips argv[2:]. Reading the clip "7" does what MISHAP says.
OPEN = """
import logging, os, signal, sys, time
from pathlib import Path
from viper.training.packing import open_features, scan
from viper.store import FeatureStore

logging.basicConfig(level=logging.INFO)
read = FeatureStore.read
def mishap(self, clip):
    if clip == "7" and os.environ["MISHAP"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while clip == "7" and not Path(os.environ["MISHAP"]).exists():
        time.sleep(0.01)
    return read(self, clip)
FeatureStore.read = mishap
store, clips = FeatureStore.open(sys.argv[1]), sys.argv[2:]
pack = open_features(store, clips, scan(store, clips), "Train")
print(pack.folder.name, float(pack.tokens.sum()))
"""


def start(store: FeatureStore, mishap: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OPEN, str(store.folder), *CLIPS],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "MISHAP": mishap},
    )  # fmt: skip


def test_killed_while_packing(store: FeatureStore) -> None:
    process = start(store, "kill")
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert [path.name[:5] for path in packs(store)] == [".tmp-"]
    assert_as_stored(opened(store), store)
    assert len(packs(store)) == 1  # what was left behind is gone


def test_of_two_processes_one_packs_and_the_other_waits(store: FeatureStore, tmp_path: Path) -> None:
    first = start(store, str(tmp_path / "go"))
    deadline = time.monotonic() + 60
    while not packs(store):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = start(store, str(tmp_path / "go"))
    assert "another process is packing" in second.stderr.readline()
    (tmp_path / "go").touch()
    answers = [process.communicate(timeout=60) for process in (first, second)]
    assert first.returncode == second.returncode == 0
    assert answers[0][0] == answers[1][0]
    assert "packing 6 clips" in answers[0][1]
    assert "packing 6 clips" not in answers[1][1]
    assert [path.name for path in packs(store)] == [answers[0][0].split()[0]]


# Reads a pack twice and prints by how many MB the process's own memory grew at most, and how many MB it read.
READ_ALL = """
import re, sys
from pathlib import Path
from viper.training.packing import open_features, scan
from viper.store import FeatureStore

def own():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1000

store = FeatureStore.open(sys.argv[1])
clips = store.clips()
before, most, total = own(), 0.0, 0.0
pack = open_features(store, clips, scan(store, clips), "Train")
for epoch in range(2):
    total, kept = 0.0, []
    for row in range(len(clips)):
        feature = pack[row]
        kept.append(feature)
        feature.tokens.max()
        total += feature.tokens.nbytes / 1e6
        most = max(most, own() - before)
print(most, total)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@long_test
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "large", EncoderInfo("planted", "visual", 1000))
    feature = Feature.make(np.ones((1000, 1000), np.float32))
    for row in range(50):
        store.write(str(row), feature)
    for state in ("packs it", "finds it"):
        answer = subprocess.run(
            [sys.executable, "-c", READ_ALL, str(store.folder)], capture_output=True, text=True, timeout=120, check=True
        )
        growth, read = map(float, answer.stdout.split())
        assert read == pytest.approx(200)
        assert growth < 60, state  # packing holds a clip and a block at a time


def test_moments_are_those_of_all_rows_whatever_the_blocks() -> None:
    rng = np.random.default_rng(0)
    values = (1e4 + rng.normal(size=(1000, 3))).astype(np.float32)
    whole = values.astype(np.float64)
    for cuts in ([], [1, 2, 3], [400, 400, 999]):
        mean, deviation = moments(np.split(values, cuts))
        np.testing.assert_allclose(mean, whole.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(deviation, whole.std(axis=0), rtol=1e-9)


@pytest.mark.parametrize("pack", [True, False])
def test_fusion_data_packs_when_it_is_read_and_only_if_asked(store: FeatureStore, tmp_path: Path, pack: bool) -> None:
    task = load_task("hume_reaction")
    rows = [f"[{clip}],{split}" + ",0.5" * 7 for clip, split in zip(CLIPS, ["Train"] * 4 + ["Val"] * 2, strict=True)]
    (tmp_path / "m.csv").write_text("\n".join([",".join(["File_ID", "Split", *task.targets]), *rows]) + "\n")
    manifest = Manifest.load(tmp_path / "m.csv", task)
    data = FusionData({"visual": store}, manifest.split("Train"), pack=pack)
    assert data.without_any() == ["absent"]
    assert not (store.folder / ".packed").exists()
    assert data.max_tokens() == 8
    assert [list(data[row].features) for row in range(4)] == [["visual"], ["visual"], [], ["visual"]]
    assert data.statistics()["visual"][0].shape == (WIDTH,)
    assert (store.folder / ".packed" / "Train").exists() == pack
    batch = data.collate([data[row] for row in range(4)])
    np.testing.assert_array_equal(batch["tokens"]["visual"][1], store.read("9").tokens)


def test_a_single_pass_takes_the_pack_that_a_training_has_left(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task("hume_reaction")
    rows = [f"[{clip}],Val" + ",0.5" * 7 for clip in CLIPS]
    (tmp_path / "m.csv").write_text("\n".join([",".join(["File_ID", "Split", *task.targets]), *rows]) + "\n")
    manifest = Manifest.load(tmp_path / "m.csv", task)
    opened(store, split="Val")
    monkeypatch.setattr(FeatureStore, "read", lambda *_: pytest.fail("a file is read"))
    data = FusionData({"visual": store}, manifest, pack=False)
    assert len(data[1].features["visual"].mask) == 8
    monkeypatch.undo()
    write_clip(store, "9", 6, seed=9)  # a change of the files: the pack is not current, and no other is made
    data = FusionData({"visual": store}, manifest, pack=False)
    assert len(data[1].features["visual"].mask) == 6
    assert len(packs(store, "Val")) == 1


def test_a_pack_with_any_bytes_changed_is_one_or_is_none(store: FeatureStore) -> None:
    """Nothing but that, whatever a pack's files say; most changes of values cannot be seen."""
    folder = opened(store).folder  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    for name in ("index.json", "offsets.npy", "present.npy", "tokens.bin", "mask.bin"):
        whole = (folder / name).read_bytes()
        for _ in range(30):
            damaged = bytearray(whole)
            for place in rng.integers(len(whole), size=3):
                damaged[place] = rng.integers(256)
            (folder / name).write_bytes(damaged)
            pack = find_pack(store, CLIPS, scan(store, CLIPS), "Train")
            if pack is not None:
                pack.statistics(), pack.longest(), [pack[row] for row in range(len(CLIPS))]
        (folder / name).write_bytes(whole)
    for text in ("null", "[]", '{"statistics": [[1], [2]]}', '{"statistics": "x"}', '{"statistics": [[NaN], [1]]}'):
        (folder / "index.json").write_text(text)
        assert find_pack(store, CLIPS, scan(store, CLIPS), "Train") is None
