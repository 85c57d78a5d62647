"""Parsers under fire: whatever a file holds, a reader answers something valid or refuses in one line naming the file.

VIPER_LONG_TESTS=1 tries many more examples, other ones each time.
"""

from __future__ import annotations

import csv
import io
import json
import math
import signal
import struct
import threading
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from many import IS_LONG

from viper.engine.failures import Failure, FailureLog, read_failures
from viper.errors import ClipError, UserError
from viper.evaluation.submission import read_submission
from viper.files import natural_key
from viper.manifest import SPLITS, Manifest, clip_id
from viper.media.imports.files import read_table
from viper.media.imports.gaps import without_gaps
from viper.media.subtitles import Cue, read_cues
from viper.store import EncoderInfo, Feature, FeatureStore
from viper.task import Task

SLOWEST = 20.0  # seconds for one example before it counts as hanging
MEMORY = 1 << 30  # bytes all examples may add to this process

WIDTH = 3
TASK = Task("one", "regression", ("Fear",), range=(0.0, 1.0))
CLASSES = Task("mood", "single_label", ("joy", "fear"), range=(0.0, 1.0), label_column="mood")


def fuzz(examples: int) -> Callable[[Any], Any]:
    """A quarter of so many examples, always the same ones; in the long tests thirty times as many, others each time."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=examples * 30 if IS_LONG else examples // 4, derandomize=not IS_LONG, deadline=None, database=None,
        suppress_health_check=quiet, phases=[each for each in Phase if each is not Phase.explain], print_blob=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def store(folder: Path) -> FeatureStore:
    return FeatureStore.create(folder / "store", EncoderInfo("planted", "visual", WIDTH))


@pytest.fixture(scope="module", autouse=True)
def _little_memory() -> Iterator[None]:
    """No reader may take what a header claims: more than `MEMORY` cannot be had while these tests run."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except FileNotFoundError:  # not Linux: without the limit
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def attempt(path: Path, content: bytes, read: Callable[[Path], Any], error: type[Exception]) -> Any:
    """What `read` answers for a file of this content; None where it refuses it, in one line naming it."""
    path.write_bytes(content)
    watch = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    if watch:
        before = signal.signal(signal.SIGALRM, _hangs)
        signal.setitimer(signal.ITIMER_REAL, SLOWEST)
    try:
        return read(path)
    except error as refusal:
        message = str(refusal)
        assert path.name in message
        assert message.isprintable()
        return None
    finally:
        if watch:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _hangs(signum: int, frame: FrameType | None) -> None:
    pytest.fail(f"takes longer than {SLOWEST} s")


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with bytes flipped, cut out, inserted and repeated, or its end missing; most changes near its begin."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        # Headers come first, and what they say matters more than the numbers.
        here = draw(st.integers(0, len(content)) | st.integers(0, min(len(content), 400)))
        kind = draw(st.sampled_from(["set", "cut", "insert", "repeat", "end"]))
        if kind == "set" and here < len(content):
            content[here] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[here : here + draw(st.integers(1, 40))]
        elif kind == "insert":
            content[here:here] = draw(
                st.binary(max_size=20) | st.sampled_from([b"9" * 30, b"-", b"0", b"[", b'"', b"e9"])
            )
        elif kind == "repeat":
            content[here:here] = content[here : here + draw(st.integers(1, 200))]
        elif kind == "end":
            del content[here:]
    return bytes(content)


# What parsers trip over.
PIECES = [
    "[", "]", '"', "'", ",", "\n", "\r", "\x00", "\ufeff", "\u202e", "e\u0301", "=", "../", "\\", " ", "9" * 400,
    "1e999", "nan", "-", "_", "<", ">", "{", "}", "&#", ";", "-->", "00:00:01,000", "00:01.000", "\u2028",
]  # fmt: skip
odd_text = st.lists(st.text(max_size=20) | st.sampled_from(PIECES), max_size=12).map("".join)


# Ids


@fuzz(200)
@given(odd_text)
@example("[ \u0301a]")
@example("0\t")
def test_an_id_is_a_name_in_any_folder_or_refused(folder: Path, spelled: str) -> None:
    try:
        clip = clip_id(spelled)
    except UserError as refusal:
        message = str(refusal)
        assert message.isprintable()
        return
    assert clip_id(clip) == clip == unicodedata.normalize("NFC", clip)
    assert clip_id(f"[{clip}]") == clip_id(f'"[{spelled}]"') == clip
    assert len(clip.splitlines()) == 1
    for name in (f"{clip}.safetensors", f".tmp-{clip}", clip):
        path = folder / name
        assert path.parent == folder
        assert path.name == name
        path.touch()
        path.unlink()
    natural_key(clip)


# Manifests


def loaded(task: Task) -> Callable[[Path], Manifest]:
    return lambda path: Manifest.load(path, task)


def check_manifest(manifest: Manifest | None) -> None:
    if manifest is None:
        return
    assert len(set(manifest.clips)) == len(manifest.clips) > 0
    assert [clip_id(file_id) for file_id in manifest.file_ids] == manifest.clips
    assert set(manifest.table[manifest.task.split_column]) <= set(SPLITS)
    labels = manifest.labels
    assert labels.shape == (len(manifest.clips), len(manifest.task.targets))
    assert (np.isnan(labels) | ((labels >= 0) & (labels <= 1))).all()


HEADER = "File_ID,Split,Fear\n"
MANIFEST = (HEADER + "[1],Train,0.5\n[2],Val,\n[3],Test,1\n").encode()


@fuzz(100)
@given(st.binary(max_size=400) | odd_text.map(lambda text: (HEADER + text).encode()) | mutated(MANIFEST))
def test_any_bytes_as_a_manifest(folder: Path, content: bytes) -> None:
    check_manifest(attempt(folder / "m.csv", content, loaded(TASK), UserError))


cells = (
    st.sampled_from(["1", "[1]", "2", "Train", "devel", "", "0.5", "1", " 0 ", "1e-3", "joy", "fear", "NaN"]) | odd_text
)


@fuzz(60)
@given(st.lists(st.lists(cells, min_size=1, max_size=4), max_size=6), st.booleans())
def test_any_cells_as_a_manifest(folder: Path, rows: list[list[str]], regression: bool) -> None:
    task = TASK if regression else CLASSES
    text = io.StringIO()
    csv.writer(text).writerows([["File_ID", "Split", *task.label_columns], *rows])
    check_manifest(attempt(folder / "m.csv", text.getvalue().encode("utf-8", "replace"), loaded(task), UserError))


def usable(text: str) -> bool:
    try:
        return bool(clip_id(text))
    except UserError:
        return False


@fuzz(20)
@given(
    st.lists(
        st.tuples(odd_text.filter(usable), st.sampled_from(SPLITS), st.none() | st.floats(0, 1, width=32)),
        min_size=1, max_size=6, unique_by=lambda row: clip_id(row[0]),
    )
)  # fmt: skip
def test_a_manifest_comes_back_as_it_was_written(folder: Path, rows: list[tuple[str, str, float | None]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["File_ID", "Split", "Fear"])
    writer.writerows([file_id, split, "" if label is None else repr(label)] for file_id, split, label in rows)
    manifest = attempt(folder / "m.csv", text.getvalue().encode(), loaded(TASK), UserError)
    assert manifest.clips == [clip_id(file_id) for file_id, _, _ in rows]
    assert list(manifest.table["Split"]) == [split for _, split, _ in rows]
    expected = np.array([[math.nan if label is None else label] for _, _, label in rows], np.float32)
    np.testing.assert_array_equal(manifest.labels, expected)


@fuzz(60)
@given(
    st.binary(max_size=300)
    | odd_text.map(lambda text: f"File_ID,Fear\n{text}".encode())
    | mutated(b"File_ID,Fear\n[1],0.5\n[2],1\n")
)
def test_any_bytes_as_a_submission(folder: Path, content: bytes) -> None:
    table = attempt(folder / "s.csv", content, lambda path: read_submission(path, TASK), UserError)
    if table is not None:
        assert table.index.is_unique
        assert table["Fear"].between(0, 1).all()


# Failures


@fuzz(60)
@given(st.binary(max_size=300) | mutated(b"clip,stage,error,message\n1,get_frame,ClipError,no video\n2,x,E,y\n"))
def test_any_bytes_as_a_list_of_failures(folder: Path, content: bytes) -> None:
    place = folder / "failed"
    place.mkdir(exist_ok=True)
    rows = attempt(place / "failures.csv", content, lambda path: read_failures(path.parent), UserError)
    if rows is not None:
        log = FailureLog(place, "get_frame")
        log.failed(Failure("new", "get_frame", "ClipError", "x"))
        assert [row for row in read_failures(place) if row.clip == "new"]
        log.succeeded("new")
        assert not [row for row in read_failures(place) if (row.clip, row.stage) == ("new", "get_frame")]


@fuzz(20)
@given(
    st.lists(
        st.tuples(odd_text.filter(usable), odd_text), min_size=1, max_size=4, unique_by=lambda row: clip_id(row[0])
    )
)
def test_failures_come_back_as_they_were_written(folder: Path, given_rows: list[tuple[str, str]]) -> None:
    place = folder / "listed"
    place.mkdir(exist_ok=True)
    (place / "failures.csv").unlink(missing_ok=True)
    log = FailureLog(place, "s")
    rows = [Failure.of(clip_id(spelled), "s", ClipError(message)) for spelled, message in given_rows]
    for row in rows:
        log.failed(row)
    found = {row.clip: row.message.removeprefix("'") for row in read_failures(place)}
    assert found == {row.clip: row.message.removeprefix("'") for row in rows}
    for row in rows:
        log.succeeded(row.clip)
    assert not (place / "failures.csv").exists()


# Subtitles

SRT = "1\n00:00:00,000 --> 00:00:01,500\n<i>oh</i> &amp; no\n\n2\n00:00:02,000 --> 00:00:03,000\n{\\an8}what\n"
VTT = "WEBVTT\n\nintro\n00:01.000 --> 00:02.000 align:start\n<v Ann>Oh <c.loud>no</c></v>\n"


def check_cues(cues: list[Cue] | None) -> None:
    if cues is None:
        return
    assert [cue.start for cue in cues] == sorted(cue.start for cue in cues)
    for cue in cues:
        assert math.isfinite(cue.start)
        assert math.isfinite(cue.end)
        assert cue.text == " ".join(cue.text.split()) != ""
        cue.text.encode()


@fuzz(200)
@given(
    st.sampled_from([".srt", ".vtt"]),
    st.binary(max_size=300)
    | odd_text.map(lambda text: (SRT + text).encode())
    | mutated(SRT.encode())
    | mutated(VTT.encode())
    | mutated(SRT.encode("utf-16")),
)
def test_any_bytes_as_subtitles(folder: Path, suffix: str, content: bytes) -> None:
    check_cues(attempt(folder / f"a{suffix}", content, read_cues, ClipError))


stamps = st.tuples(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
words = st.text(st.characters(categories=["L", "P"], exclude_characters="<>{}&\\"), min_size=1, max_size=9)


@fuzz(60)
@given(
    st.lists(
        st.tuples(stamps, st.lists(st.lists(words, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=3)),
        max_size=4, unique_by=lambda cue: cue[0],
    ),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), st.sampled_from(["\n", "\r\n", "\r"]),
)  # fmt: skip
def test_subtitles_come_back_as_they_were_written(
    folder: Path, cues: list[tuple[tuple[int, int, int, int], list[str]]], encoding: str, newline: str
) -> None:
    blocks = []
    for number, ((h, m, s, ms), lines) in enumerate(cues, 1):
        stamp = f"{h:02}:{m:02}:{s:02},{ms:03}"
        blocks.append("\n".join([str(number), f"{stamp} --> {stamp}", *lines, ""]))
    content = "\n".join(blocks).replace("\n", newline).encode(encoding)
    found = attempt(folder / "a.srt", content, read_cues, ClipError)
    expected = sorted(
        ((h * 60 + m) * 60 + s + ms / 1000, " ".join(" ".join(lines).split())) for (h, m, s, ms), lines in cues
    )
    assert [(pytest.approx(cue.start, abs=1e-6), cue.text) for cue in found] == expected


# Stores


def check_feature(store: FeatureStore, content: bytes) -> None:
    feature = attempt(store.path("a"), content, lambda path: store.read("a"), ClipError)
    problem = store.problem("a", verify=True)
    assert (problem is None) == (feature is not None)
    cheap = store.problem("a")
    assert store.is_current("a", "source") <= (cheap is None)
    if feature is None:
        assert (problem or "\n").isprintable()
        return
    assert cheap is None
    assert feature.tokens.shape == (len(feature.mask), WIDTH) == (len(feature.time), WIDTH)
    assert (feature.tokens.dtype, feature.mask.dtype, feature.time.dtype) == (np.float32, bool, np.float32)
    assert np.isfinite(feature.tokens).all()
    assert np.isfinite(feature.time).all()
    assert not feature.tokens[~feature.mask].any()
    assert set(np.unique(feature.mask.view(np.uint8))) <= {0, 1}


def valid_file() -> bytes:
    from safetensors.numpy import save

    tensors = {"tokens": np.ones((2, WIDTH), np.float32), "mask": np.ones(2, bool), "time": np.zeros(2, np.float32)}
    return save(tensors, metadata={"source": "source"})


@fuzz(250)
@given(st.binary(max_size=200) | mutated(valid_file()))
def test_any_bytes_as_a_feature(store: FeatureStore, content: bytes) -> None:
    check_feature(store, content)


sizes = st.sampled_from([0, 1, 2, 3, 6, 8, 10, 24, 32, 34, -1, 10**9, 2**31, 2**62, 2**63, 2**64]) | st.integers(0, 40)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(
            ["F32", "BOOL", "F32", "BOOL", "F64", "F16", "BF16", "U8", "I64", "F8_E4M3", "F4", "X"]
        ),
        "shape": st.lists(sizes, max_size=3) | st.sampled_from([[2], [2, WIDTH]]),
        "data_offsets": st.lists(sizes, min_size=2, max_size=2) | st.sampled_from([[0, 2], [2, 10], [10, 34]]),
    }
)
HONEST: dict[str, Any] = {
    "mask": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]},
    "time": {"dtype": "F32", "shape": [2], "data_offsets": [2, 10]},
    "tokens": {"dtype": "F32", "shape": [2, WIDTH], "data_offsets": [10, 34]},
}


names = st.sampled_from([*HONEST, "__metadata__", "other"])


@fuzz(100)
@given(
    st.dictionaries(names, entries | st.dictionaries(odd_text, odd_text, max_size=2), max_size=4),
    st.binary(min_size=34, max_size=34) | st.binary(max_size=60),
    st.none() | st.integers(0, 2**64 - 1),
)
def test_any_header_as_a_feature(store: FeatureStore, changes: dict[str, Any], data: bytes, length: int | None) -> None:
    header = json.dumps({**HONEST, **changes}).encode()
    check_feature(store, struct.pack("<Q", len(header) if length is None else length) + header + data)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@fuzz(60)
@given(st.data())
def test_a_feature_comes_back_as_it_was_written(store: FeatureStore, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 5))
    tokens = data.draw(arrays_of.arrays(np.float32, (n, WIDTH), elements=finite))
    mask = data.draw(arrays_of.arrays(np.bool_, n))
    time = data.draw(arrays_of.arrays(np.float32, n, elements=finite))
    written = Feature.make(tokens, mask, time)
    source = data.draw(st.text(st.characters(exclude_categories=["Cs"])))
    store.write("a", written, source)
    read = store.read("a")
    for name in ("tokens", "mask", "time"):
        assert getattr(read, name).tobytes() == getattr(written, name).tobytes()
    assert store.is_current("a", source)
    assert not store.is_current("a", f"{source}x")


@fuzz(60)
@given(
    st.binary(max_size=200)
    | odd_text.map(str.encode)
    | mutated(json.dumps({"encoder": "e", "modality": "m", "width": 3}).encode())
)
def test_any_bytes_as_a_description_of_an_encoder(folder: Path, content: bytes) -> None:
    place = folder / "described"
    place.mkdir(exist_ok=True)
    store = attempt(place / "encoder.json", content, lambda path: FeatureStore.open(path.parent), UserError)
    if store is not None:
        assert store.width >= 1
        assert store.info.difference(store.info) is None
        assert store.info.identity


# Tables of others


def check_table(path: Path, content: bytes) -> None:
    table = attempt(path, content, read_table, ClipError)
    if table is None:
        return
    n, width = table.tokens.shape
    assert width >= 1
    assert (table.tokens.dtype, table.mask.dtype, table.mask.shape) == (np.float32, bool, (n,))
    for nan in ("mean", "zero", "mask"):
        whole, _ = without_gaps(table, nan)
        assert (whole.tokens.shape, whole.mask.shape) == ((n, width), (n,))
        assert np.isfinite(whole.tokens).all()
        assert not whole.tokens[~whole.mask].any()
    assert table.times is None or table.times.shape == (n,)
    assert table.channels == () or len(table.channels) == width


def valid_npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((2, WIDTH), np.float32))
    return buffer.getvalue()


def valid_pt(zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(torch.ones(2, WIDTH), buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def npy(header: dict[str, Any], data: bytes) -> bytes:
    text = f"{header!r}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


kinds = ["<f4", "<f4", "<f8", "|O", "<c8", "|b1", "<U9", "<M8[s]", "|V7", ">i2", "f", "<f99"]
npy_headers = st.fixed_dictionaries(
    {
        "descr": st.sampled_from(kinds),
        "fortran_order": st.sampled_from([True, False, False, 1]),
        "shape": st.lists(sizes, max_size=4).map(tuple),
    }
)


@fuzz(150)
@given(st.binary(max_size=200) | mutated(valid_npy()) | st.builds(npy, npy_headers, st.binary(max_size=60)))
def test_any_bytes_as_an_array(folder: Path, content: bytes) -> None:
    check_table(folder / "a.npy", content)


@fuzz(100)
@given(st.binary(max_size=100) | mutated(valid_pt(True)) | mutated(valid_pt(False)))
@pytest.mark.filterwarnings("ignore")
def test_any_bytes_as_a_tensor(folder: Path, content: bytes) -> None:
    check_table(folder / "a.pt", content)


OPENFACE = b"frame,face_id, timestamp,confidence,success,AU01_r,AU28_c\n1,0,0.0,0.9,1,0.5,0\n2, 1, 0.1, 0.9, 1, 1, 1\n"
ORGANISERS = b"File_ID,timestamp,a,b\n1,0,0.5,1\n1,250,1,2\n"
numbers = st.sampled_from(["0", "1", "0.5", "1e400", "-1", "", "nan", "inf", "True", "9" * 30, "x"]) | odd_text


@fuzz(200)
@given(
    st.binary(max_size=200)
    | odd_text.map(lambda text: ORGANISERS + text.encode())
    | mutated(OPENFACE)
    | mutated(ORGANISERS)
    | st.lists(st.lists(numbers, min_size=1, max_size=5).map(",".join), max_size=4).map(
        lambda rows: "\n".join(["id,time,a,b", *rows]).encode()
    )
)
@pytest.mark.filterwarnings("ignore::pandas.errors.DtypeWarning")
def test_any_bytes_as_a_table(folder: Path, content: bytes) -> None:
    check_table(folder / "a.csv", content)


@fuzz(40)
@given(arrays_of.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=finite))
def test_tables_come_back_as_they_were_written(folder: Path, values: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values)
    (folder / "a.npy").write_bytes(buffer.getvalue())
    torch.save(torch.from_numpy(values), folder / "a.pt")
    rows = [",".join(["a", str(row / 10), *(repr(float(each)) for each in line)]) for row, line in enumerate(values)]
    names = [f"c{column}" for column in range(values.shape[1])]
    (folder / "a.csv").write_text("\n".join([",".join(["id", "time", *names]), *rows]))
    for name in ("a.npy", "a.pt", "a.csv"):
        table = read_table(folder / name)
        np.testing.assert_array_equal(table.tokens, values)
        assert table.mask.all()
    assert table.channels == tuple(names)
    np.testing.assert_allclose(table.times, np.arange(len(values)) / 10)
