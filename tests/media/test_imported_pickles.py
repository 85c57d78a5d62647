"""Pickles others made: read as plain data, or refused without anything in them being run; the files of MMSA."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from many import IS_LONG

from viper.engine.failures import read_failures
from viper.errors import ClipError, UserError
from viper.media.foreign import list_foreign_clips
from viper.media.imports.files import read_table
from viper.media.imports.mmsa import clip_of, read_mmsa
from viper.media.imports.safe_pickle import load_plain
from viper.media.imports.table import Reading
from viper.store import FeatureStore

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
RNG = np.random.default_rng(0)

PLAIN: dict[str, Any] = {
    "float32": RNG.standard_normal((2, 3)).astype(np.float32),
    "fortran": np.asfortranarray(RNG.standard_normal((3, 4))),
    "other-byte-order": np.arange(4, dtype=">i2"),
    "empty": np.zeros((0, 3)),
    "no-dimension": np.array(3.0),
    "truth": np.array([True, False]),
    "text": np.array(["ab", "ü"]),
    "bytes": np.array([b"ab", b"c"]),
    "objects": np.array(["a", None, 2.5], dtype=object),
    "scalars": [np.float64(1.5), np.int32(-2), np.bool_(True), np.str_("xy")],
    "values": [None, True, 7, 2**70, -1.5, "é", b"\xff\x00", b"", bytearray(b"abc"), (), (1, 2, 3, (4,))],
    "nested": {"a": {"b": [{}]}, 1: 2, None: 3},
}


def write(path: Path, value: Any, protocol: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_come_back_from_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = load_plain(write(tmp_path / "a.pkl", PLAIN, protocol))
    assert list(content) == list(PLAIN)
    for name, value in PLAIN.items():
        if isinstance(value, np.ndarray):
            assert isinstance(content[name], np.ndarray)
            assert (content[name].dtype.kind, content[name].shape) == (value.dtype.kind, value.shape)
            np.testing.assert_array_equal(content[name], value)
        else:
            assert content[name] == value


def of_numpy_1(content: bytes) -> bytes:
    """The pickle as numpy 1 writes it: its modules were called numpy.core then."""
    content = content.replace(b"cnumpy._core.", b"cnumpy.core.")
    for module in (b"numpy._core.multiarray", b"numpy._core.numeric"):
        old = module.replace(b"_core", b"core")
        content = content.replace(bytes([0x8C, len(module)]) + module, bytes([0x8C, len(old)]) + old)
    if content[2:3] == pickle.FRAME:
        # A frame's length, for text that is a letter shorter.
        content = content[:3] + struct.pack("<Q", len(content) - 11) + content[11:]
    return content


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_numpy_1_and_of_numpy_2(tmp_path: Path, protocol: int) -> None:
    values = {"a": np.arange(6.0).reshape(2, 3), "n": np.float32(1.5)}
    new = pickle.dumps(values, protocol)
    old = of_numpy_1(new)
    assert b"numpy._core" in new
    assert b"numpy.core" in old
    assert b"numpy._core" not in old
    for content in (new, old):
        (tmp_path / "a.pkl").write_bytes(content)
        read = load_plain(tmp_path / "a.pkl")
        assert read["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert read["n"] == 1.5


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    # An array and a text as Python 2 wrote them, with the array's bytes in a str.
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\np3\ntp4\nRp5\n"
        b"(I1\n(I2\ntp6\ncnumpy\ndtype\np7\n(S'u1'\np8\nI0\nI1\ntp9\nRp10\n(I3\nS'|'\np11\nNNNI-1\nI-1\nI0\ntp12\n"
        b"bI00\nS'\\x81\\x05'\np13\ntp14\nb."
    )
    (tmp_path / "a.pkl").write_bytes(array)
    assert load_plain(tmp_path / "a.pkl").tolist() == [0x81, 5]


class Calls:
    """An object that, unpickled, calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._reduced = function, arguments

    def __reduce__(self) -> Any:
        return self._reduced


class Slots:
    """An object whose state is set by the pickle."""


def hostile(marker: Path) -> dict[str, tuple[Any, str]]:
    """Objects that would make the file `marker` or should not be there, and what is said of them."""
    command = f"touch '{marker}'"
    state = Slots()
    state.__dict__["a"] = 1
    return {
        "system": (Calls(os.system, command), "it wants posix.system"),
        "eval": (Calls(eval, f"open({str(marker)!r}, 'w')"), "builtins__.eval|builtins.eval|__builtin__.eval"),
        "open": (Calls(open, str(marker), "w"), "it wants (_?io|__builtin__|builtins).open"),
        "getattr": (Calls(getattr, Calls(__import__, "os"), "system"), "it wants (builtins|__builtin__).getattr"),
        "import": (Calls(__import__, "os"), "it wants (builtins|__builtin__).__import__"),
        "numpy-load": (Calls(np.load, str(marker)), "it wants numpy.load"),
        "numpy-array": (Calls(np.ndarray, (2, 3)), "it calls numpy.ndarray"),
        "codec": (Calls(__import__("codecs").encode, "x", "rot13"), "it wants to encode as rot13"),
        "in-objects": (np.array([1, Calls(os.system, command)], dtype=object), "it wants posix.system"),
        "in-a-key": ({"id": {"deep": [Calls(os.system, command)]}}, "it wants posix.system"),
        "class": (state, "it wants (copy_reg|copyreg|test_imported_pickles)"),
        "function": (len, "it wants (builtins|__builtin__).len"),
        "ordered": (collections.OrderedDict(a=1), "it wants collections.OrderedDict"),
        "set": ({1, 2}, "it wants|EMPTY_SET"),
        "dates": (np.array(["2020-01-01"], "M8[D]"), "an array of the kind 'M8'"),
        "records": (np.zeros(2, [("a", "f4")]), "an array of the kind 'V4'"),
        "tuple-key": ({(1, (2, (3,))): 4}, "a dictionary with a tuple for a key"),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", hostile(Path("x")))
def test_what_is_not_plain_is_refused_by_name_and_not_run(tmp_path: Path, name: str, protocol: int) -> None:
    value, said = hostile(tmp_path / "ran")[name]
    path = write(tmp_path / "a.pkl", value, protocol)
    with pytest.raises(ClipError, match=said) as error:
        load_plain(path)
    assert str(error.value).startswith("refused: ")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def code(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def word(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


RECONSTRUCT = word("numpy._core.multiarray") + word("_reconstruct") + pickle.STACK_GLOBAL
DTYPE = word("numpy") + word("dtype") + pickle.STACK_GLOBAL


def array_code(kind: str, shape: bytes, data: bytes) -> bytes:
    """An array of that kind, shape (a tuple's opcodes) and data (opcodes), byte order as here."""
    dtype = DTYPE + word(kind) + pickle.TUPLE1 + pickle.REDUCE
    return (
        RECONSTRUCT + pickle.EMPTY_TUPLE + pickle.REDUCE
        + b"(K\x01" + shape + dtype + pickle.NEWFALSE + data + b"t" + pickle.BUILD
    )  # fmt: skip


TRICKS: dict[str, tuple[bytes, str]] = {
    "persistent-id": (b"\x80\x02U\x01xQ.", "the opcode BINPERSID"),
    "persistent-id-of-old": (b"Pos.system\n.", "the opcode PERSID"),
    "extension": (b"\x80\x02\x82\x01.", "the opcode EXT1"),
    "instance": (b"(S'true'\nios\nsystem\n.", "the opcode INST"),
    "object": (b"(cos\nsystem\nS'true'\no.", "it wants os.system"),
    "new-object": (code(RECONSTRUCT, pickle.EMPTY_TUPLE, pickle.NEWOBJ), "the opcode NEWOBJ"),
    "buffer": (b"\x80\x05\x97.", "the opcode NEXT_BUFFER"),
    "attribute-of-an-allowed-one": (
        code(word("numpy"), word("dtype.__class__.__subclasses__"), pickle.STACK_GLOBAL), "it wants numpy.dtype.__class"
    ),
    "submodule-of-an-allowed-one": (
        code(word("numpy.core.multiarray"), word("sys.modules"), pickle.STACK_GLOBAL), "it wants numpy.core"
    ),
    "call-of-text": (code(word("os.system"), word("true"), pickle.TUPLE1, pickle.REDUCE), "it calls something"),
    "other-defaults": (
        code(RECONSTRUCT, b"N}", word("__defaults__"), b"Ns\x86", pickle.BUILD), "gives a state to something"
    ),
    "append-to-an-array": (code(array_code("u1", b"K\x01\x85", b"C\x01x"), b"K\x01a"), "that is no list"),
    "key-of-an-array": (code(array_code("u1", b"K\x01\x85", b"C\x01x"), b"K\x00K\x01s"), "that is no dict"),
    "structured-kind": (code(DTYPE, word("f4,f4"), pickle.TUPLE1, pickle.REDUCE), "an array of the kind"),
    "kind-with-pointers": (code(array_code("O", b"K\x01\x85", b"C\x08" + b"\x41" * 8)), "another number of them"),
    "too-few-data": (code(array_code("f8", b"K\x02\x85", b"C\x08" + bytes(8))), "not of its shape"),
    "negative-shape": (code(array_code("f8", b"J\xff\xff\xff\xff\x85", b"C\x00")), "without a shape"),
    "nothing-many-times": (code(array_code("S0", b"\x8a\x07" + bytes(6) + b"\x10\x85", b"C\x00")), "array of nothing"),
    "no-opcode": (b"\x80\x04\xff.", "is no opcode"),
    "cut-off": (pickle.dumps(PLAIN, 4)[:-20], "cannot be read"),
    "text": (b"id,time,a\n1,2,3\n", "refused|cannot be read"),
    "nothing": (b"", "cannot be read"),
    "empty-stack": (b"\x80\x04.", "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", TRICKS)
def test_tricks_with_opcodes(tmp_path: Path, name: str) -> None:
    content, said = TRICKS[name]
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(ClipError, match=said) as error:
        load_plain(tmp_path / "a.pkl")
    assert "\n" not in str(error.value)


CLAIMS = {
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"x.",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"x.",
    "integer": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "array": code(array_code("f8", b"\x8a\x05" + bytes(4) + b"\x10\x85", b"C\x08" + bytes(8))),
    # Ten bytes for which Python's own reader takes 34 GB: a place in its memo.
    "memo": b"\x80\x02Nr\xff\xff\xff\x7f0K\x01N.",
    "one-text-many-times": code(
        b"B", struct.pack("<I", 10**6), b"x" * 10**6, b"q\x000(",
        array_code("u1", b"J" + struct.pack("<i", 10**6) + b"\x85", b"h\x00") * 100, b"t",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_memory_is_taken_for_what_a_pickle_holds_not_for_what_it_claims(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.pkl").write_bytes(CLAIMS[name])
    tracemalloc.start()
    try:
        if name == "memo":  # odd, but plain
            load_plain(tmp_path / "a.pkl")
        else:
            with pytest.raises(ClipError, match="cannot be read as a pickle"):
                load_plain(tmp_path / "a.pkl")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6


def test_a_pickle_that_makes_array_after_array_of_the_same_bytes_is_ended(tmp_path: Path) -> None:
    swapped = array_code(">f8", b"M\xe8\x03\x85", b"h\x00")  # a copy each, for its byte order is another
    content = code(b"B", struct.pack("<I", 8000), bytes(8000), b"q\x000(", swapped * 3000, b"t")
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(ClipError, match="claims more than it holds"):
        load_plain(tmp_path / "a.pkl")


def mutations(content: bytes) -> st.SearchStrategy[bytes]:
    places = st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=4)

    def changed(changes: list[tuple[int, int]]) -> bytes:
        result = bytearray(content)
        for place, value in changes:
            result[place] = value
        return bytes(result)

    return places.map(changed)


SMALL = {"train": {"id": ["v$_$1"], "vision": np.ones((1, 2, 2), np.float32), "regression_labels": np.ones(1)}}


@settings(
    max_examples=300 if IS_LONG else 60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.binary(max_size=80)
    | st.sampled_from([pickle.dumps(SMALL, protocol) for protocol in PROTOCOLS]).flatmap(mutations)
    | st.sampled_from([content for content, _ in TRICKS.values() if content]).flatmap(mutations)
)
def test_any_bytes_as_a_pickle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    attempt(load_plain, path)
    attempt(read_table, path, Reading("vision"))
    file = attempt(read_mmsa, path)
    for split in file.splits.values() if file else ():
        for look in (split.labels, split.rows):
            attempt(look, "regression_labels")
            attempt(look, "vision")


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """What it answers; None where it raises one of the two errors a user is meant to see, in one line."""
    try:
        return function(*arguments)
    except (ClipError, UserError) as error:
        said = str(error)
    assert "\n" not in said
    return None


# The files of MMSA

WIDTHS = {"vision": 4, "audio": 5, "text": 3}
LENGTH = 6


def mmsa_split(ids: list[str], seed: int) -> dict[str, Any]:
    """As MMSA-FET writes a split: features padded with zeros at the end, lengths of audio and vision."""
    rng = np.random.default_rng(seed)
    part: dict[str, Any] = {
        "id": np.array(ids),
        "raw_text": np.array([f"words of {each}" for each in ids]),
        "annotations": np.array(["Positive"] * len(ids), dtype=object),
        "regression_labels": rng.uniform(-3, 3, len(ids)).astype(np.float32),
    }
    for key, width in WIDTHS.items():
        part[key] = rng.standard_normal((len(ids), LENGTH, width))
    for key in ("audio", "vision"):
        part[f"{key}_lengths"] = rng.integers(2, LENGTH, len(ids)).tolist()
        for rows, length in zip(part[key], part[f"{key}_lengths"], strict=True):
            rows[length:] = 0
    part["text_bert"] = np.zeros((len(ids), 3, LENGTH), np.float32)
    part["text_bert"][:, 1, :4] = 1
    return part


def mmsa() -> dict[str, Any]:
    return {
        "train": mmsa_split(["aB-c_1$_$0", "aB-c_1$_$12"], 1),
        "valid": mmsa_split(["q$_$3"], 2),
        "test": mmsa_split(["z$_$1", "z$_$2"], 3),
    }


CLIPS = ["aB-c_1_0", "aB-c_1_12", "q_3", "z_1", "z_2"]


def test_ids_and_labels_of_every_split(tmp_path: Path) -> None:
    content = mmsa()
    file = read_mmsa(write(tmp_path / "mosi.pkl", content))
    assert list(file.splits) == ["train", "valid", "test"]
    train = file.splits["train"]
    assert (train.ids, train.clips) == (("aB-c_1$_$0", "aB-c_1$_$12"), ("aB-c_1_0", "aB-c_1_12"))
    np.testing.assert_array_equal(train.regression_labels, content["train"]["regression_labels"].astype(np.float64))


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    content = mmsa()
    change(content)
    return content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds no dictionary"),
        ({"train": {"vision": 1}}, "it holds no ids"),
        (changed(lambda c: c["test"].update(id=["z$_$1", "q$_$3"])), "would both be clip 'q_3'"),
        (changed(lambda c: c["test"].update(id=["q_3", "z"])), r"'q\$_\$3' and 'q_3' would both be clip 'q_3'"),
        (changed(lambda c: c["test"].update(id=["a/b", "z"])), "the id 'a/b' cannot name a file"),
        (changed(lambda c: c["test"].update(id=[1, 2])), "test.id is no list of ids"),
        (changed(lambda c: c["test"].update(id="zz")), "test.id is no list of ids"),
    ],
)  # fmt: skip
def test_a_pickle_that_is_no_feature_file_is_one_line_naming_it(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        read_mmsa(write(tmp_path / "mosi.pkl", content))
    assert str(error.value).startswith(str(tmp_path / "mosi.pkl"))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["happy", 1.0], "train.regression_labels is not one number a clip"),
        (np.ones(3), "train.regression_labels is not one entry a clip"),
        (np.ones((2, 2)), "train.regression_labels is not one number a clip"),
        (None, "train.regression_labels is not one entry a clip"),
    ],
)
def test_labels_that_are_no_numbers(tmp_path: Path, labels: Any, said: str) -> None:
    path = write(tmp_path / "mosi.pkl", changed(lambda c: c["train"].update(regression_labels=labels)))
    with pytest.raises(UserError, match=said):
        _ = read_mmsa(path).splits["train"].regression_labels


@pytest.mark.parametrize("make", [np.array, list, lambda v: [np.float32(x) for x in v], lambda v: np.array(v)[:, None]])
def test_labels_as_array_list_or_column(tmp_path: Path, make: Callable[[Any], Any]) -> None:
    values = [1.5, float("nan")]
    path = write(tmp_path / "mosi.pkl", changed(lambda c: c["train"].update(regression_labels=make(values))))
    np.testing.assert_array_equal(read_mmsa(path).splits["train"].regression_labels, values)


def test_a_line_break_in_a_key_stays_out_of_messages(tmp_path: Path) -> None:
    path = write(tmp_path / "mosi.pkl", {"tr\nain": mmsa()["train"]})
    with pytest.raises(UserError) as error:
        read_mmsa(path).splits["tr\nain"].rows("vi\nsion")
    assert "\n" not in str(error.value)


def test_an_id_of_mmsa_is_a_clip_id() -> None:
    assert clip_of("03bSnISJMsM$_$11") == "03bSnISJMsM_11"


@pytest.mark.parametrize(
    ("command", "key"), [("visual", "vision"), ("audio", "audio"), ("textual", "text"), ("FAU", "vision")]
)
def test_one_pickle_becomes_a_clip_a_row_without_the_padding(tmp_path: Path, run: Run, command: str, key: str) -> None:
    content = mmsa()
    path = write(tmp_path / "mosi.pkl", content)
    option = "--from_csv" if command == "FAU" else "--from_files"
    outcome = run(
        f"extract_{command}_features", option, path, "--output_folder", tmp_path / "out", "--step_seconds", 0.5
    )
    assert outcome.code == 0, outcome.said
    store = FeatureStore.open(tmp_path / "out")
    assert (store.clips(), store.info.modality, store.info.source) == (CLIPS, command, "files")
    assert store.info.options["step_seconds"] == 0.5
    places = [("train", 0), ("train", 1), ("valid", 0), ("test", 0), ("test", 1)]
    for clip, (split, row) in zip(CLIPS, places, strict=True):
        feature, part = store.read(clip), content[split]
        length = 4 if key == "text" else part[f"{key}_lengths"][row]
        np.testing.assert_array_equal(feature.tokens, part[key][row][:length].astype(np.float32))
        assert feature.mask.all()
        np.testing.assert_allclose(feature.time, np.arange(length) * 0.5)


def test_padding_in_front_no_lengths_and_a_clip_of_zeros(tmp_path: Path) -> None:
    rows = np.arange(1.0, 1 + 3 * 4 * 2).reshape(3, 4, 2)
    rows[0, :2] = 0
    rows[1, 3:] = 0
    rows[2] = 0
    told = {"id": ["a", "b", "c"], "vision": rows, "vision_lengths": [2, 3, 1]}
    lengths = {key: [len(part) for part in read_mmsa(write(tmp_path / f"{key}.pkl", content)).splits[""].rows("vision")]
               for key, content in (("told", told), ("untold", {"id": told["id"], "vision": rows}))}  # fmt: skip
    assert lengths == {"told": [2, 3, 1], "untold": [2, 3, 0]}
    front = read_mmsa(tmp_path / "told.pkl").splits[""].rows("vision")[0]
    np.testing.assert_array_equal(front, rows[0, 2:])


def test_a_clip_of_zeros_is_one_without_the_modality(tmp_path: Path, run: Run) -> None:
    content = {"id": ["a", "b"], "vision": np.stack([np.ones((3, 2)), np.zeros((3, 2))]), "vision_lengths": [3, 1]}
    path = write(tmp_path / "train.pkl", content)
    assert run("extract_visual_features", "--from_files", path, "--output_folder", tmp_path / "out").code == 0
    store = FeatureStore.open(tmp_path / "out")
    assert store.read("a").mask.tolist() == [True] * 3
    assert store.read("a").time.tolist() == [0, 1, 2]  # a second apart, where nothing is said
    assert store.read("b").mask.tolist() == [False]


def test_only_the_clips_that_changed_are_done_again(tmp_path: Path, run: Run) -> None:
    content = mmsa()
    path = write(tmp_path / "mosi.pkl", content)
    options = ["--from_files", path, "--output_folder", tmp_path / "out"]
    assert "5 done" in run("extract_audio_features", *options).said
    assert "5 already there" in run("extract_audio_features", *options).said
    content["train"]["audio"][1, 0, 0] += 1
    content["valid"] = mmsa_split(["q$_$3", "q$_$4"], 2)
    content["valid"]["audio"][0] = mmsa()["valid"]["audio"][0]
    content["valid"]["audio_lengths"][0] = mmsa()["valid"]["audio_lengths"][0]
    write(path, content, protocol=5)
    outcome = run("extract_audio_features", *options)
    assert "2 done, 4 already there" in outcome.said  # of another protocol, and with two clips that are new
    values = FeatureStore.open(tmp_path / "out").read("aB-c_1_12").tokens
    np.testing.assert_array_equal(values[0], content["train"]["audio"][1, 0].astype(np.float32))


def test_two_steps_are_two_stores(tmp_path: Path, run: Run) -> None:
    path = write(tmp_path / "mosi.pkl", mmsa())
    options = ["--from_files", path, "--output_folder", tmp_path / "out", "--step_seconds"]
    assert run("extract_audio_features", *options, "0.1").code == 0
    outcome = run("extract_audio_features", *options, "0.2")
    assert outcome.code == 2
    assert "step_seconds 0.1, not 0.2" in outcome.said


def test_another_key_of_a_pickle(tmp_path: Path, run: Run) -> None:
    path = write(tmp_path / "mosi.pkl", mmsa())
    options = ["--from_files", path, "--output_folder", tmp_path / "out"]
    outcome = run("extract_visual_features", *options, "--key", "nothing")
    assert outcome.code == 2
    assert f"{path}: train.nothing is not there; there are id, raw_text" in outcome.said
    outcome = run("extract_textual_features", *options, "--key", "text_bert")
    assert outcome.code == 2
    assert "holds a tokeniser's numbers, which are no features" in outcome.said
    assert run("extract_visual_features", *options, "--key", "audio").code == 0
    store = FeatureStore.open(tmp_path / "out")
    assert (store.width, store.info.options["key"]) == (WIDTHS["audio"], "audio")


def test_a_hostile_pickle_is_exit_code_2_and_nothing_is_run(tmp_path: Path, run: Run) -> None:
    content = {**mmsa(), "extra": Calls(os.system, f"touch '{tmp_path / 'ran'}'")}
    path = write(tmp_path / "mosi.pkl", content)
    outcome = run("extract_visual_features", "--from_files", path, "--output_folder", tmp_path / "out")
    assert outcome.code == 2
    assert f"{path}: refused: it wants posix.system" in outcome.said
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_a_folder_of_pickles_one_a_video_as_mmsa_fet_writes_them(tmp_path: Path, run: Run) -> None:
    videos = [{key: RNG.standard_normal((3, width)) for key, width in WIDTHS.items()} for _ in range(2)]
    for name, video in zip(("v1", "v2"), videos, strict=True):
        write(tmp_path / "in" / f"{name}.pkl", video)
    write(tmp_path / "in" / "v3.pkl", np.ones((2, WIDTHS["audio"])))
    write(tmp_path / "in" / "v4.pkl", mmsa())
    write(tmp_path / "in" / "v5.pkl", Calls(os.system, f"touch '{tmp_path / 'ran'}'"))
    write(tmp_path / "in" / "v6.pkl", {"vision": np.ones((2, 2))})
    outcome = run("extract_audio_features", "--from_files", tmp_path / "in", "--output_folder", tmp_path / "out")
    assert outcome.code == 3
    store = FeatureStore.open(tmp_path / "out")
    assert store.clips() == ["v1", "v2", "v3"]
    np.testing.assert_array_equal(store.read("v2").tokens, videos[1]["audio"].astype(np.float32))
    said = {row.clip: row.message for row in read_failures(tmp_path / "out")}
    assert "v4.pkl: holds several clips; name the file itself" in said["v4"]
    assert "v5.pkl: refused: it wants posix.system" in said["v5"]
    assert "v6.pkl: has nothing under 'audio'; there are vision (--key)" in said["v6"]
    assert not (tmp_path / "ran").exists()


def test_workers_can_be_sent_the_rows(tmp_path: Path) -> None:
    for protocol in PROTOCOLS:
        clips = list_foreign_clips(write(tmp_path / "mosi.pkl", mmsa(), protocol), Reading("audio"))
        copies = pickle.loads(pickle.dumps(clips))
        assert [copy.id for copy in copies] == CLIPS
        assert [copy.source() for copy in copies] == [clip.source() for clip in clips]
        np.testing.assert_array_equal(copies[1].read().tokens, clips[1].read().tokens)


def test_a_file_that_is_no_pickle_and_options_for_nothing(tmp_path: Path, run: Run) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    outcome = run("extract_audio_features", "--from_files", tmp_path / "a.npy", "--output_folder", tmp_path / "out")
    assert (outcome.code, "a.npy: is a file; name its folder" in outcome.said) == (2, True)
    outcome = run("extract_audio_features", "--input_folder", tmp_path, "--output_folder", tmp_path, "--key", "a")
    assert (outcome.code, "--key: is for features made elsewhere only" in outcome.said) == (2, True)
    for step in ("-1", "nan", "inf"):
        outcome = run(
            "extract_audio_features",
            "--from_files",
            tmp_path,
            "--output_folder",
            tmp_path / "out",
            "--step_seconds",
            step,
        )
        assert (outcome.code, "must be above 0" in outcome.said) == (2, True)


def test_an_unpickler_of_pythons_own_would_have_run_it(tmp_path: Path) -> None:
    """The tests above would be worth nothing with objects that do nothing."""
    payload = pickle.dumps(hostile(tmp_path / "ran")["open"][0])
    pickle.Unpickler(io.BytesIO(payload)).load().close()
    assert (tmp_path / "ran").exists()
