from __future__ import annotations

import dataclasses
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from viper.errors import ClipError, UserError
from viper.store import EncoderInfo, Feature, FeatureStore

INFO = EncoderInfo("hog", "visual", 3, {"cells": 4, "norm": "L2"}, "hog", "faces", {"av": "18.1"})


def feature(n_tokens: int = 4, width: int = 3, seed: int = 0) -> Feature:
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(n_tokens, width)).astype(np.float32)
    return Feature.make(tokens, rng.random(n_tokens) > 0.3, np.sort(rng.random(n_tokens) * 9))


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "features", INFO)


@pytest.mark.parametrize(("n_tokens", "width"), [(1, 1), (1, 3), (32, 768), (7, 5), (0, 4), (500, 2)])
def test_a_feature_comes_back_bit_for_bit(tmp_path: Path, n_tokens: int, width: int) -> None:
    store = FeatureStore.create(tmp_path, dataclasses.replace(INFO, width=width))
    written = feature(n_tokens, width, seed=n_tokens)
    store.write("a", written)
    read = FeatureStore.open(tmp_path).read("a")
    for name, kind in (("tokens", np.float32), ("mask", np.bool_), ("time", np.float32)):
        assert getattr(read, name).dtype == kind
        assert getattr(read, name).tobytes() == getattr(written, name).tobytes()
    assert read.tokens.shape == (n_tokens, width)
    store.write("b", written)
    assert store.path("b").read_bytes() == store.path("a").read_bytes()


def test_extreme_values_and_layouts_come_back_too(store: FeatureStore) -> None:
    tokens = np.array([[np.finfo(np.float32).max, -0.0, 1e-45], [1, 2, 3]], np.float32)
    store.write("a", Feature(np.asfortranarray(tokens), np.array([True, True]), np.array([0, 1e6], np.float32)))
    assert store.read("a").tokens.tobytes() == tokens.tobytes()


@pytest.mark.parametrize("source", ["", " ", "a b", "trailing "])
def test_a_source_may_hold_blanks(store: FeatureStore, source: str) -> None:
    store.write("a", feature(), source)
    assert store.source("a") == source
    assert store.is_current("a", source)


def test_the_file_is_plain_safetensors(store: FeatureStore) -> None:
    store.write("a", Feature.make([[1, 2, 3]], [True], [0.5]))
    tensors = load_file(store.path("a"))
    assert {name: (value.shape, str(value.dtype)) for name, value in tensors.items()} == {
        "tokens": ((1, 3), "float32"), "mask": ((1,), "bool"), "time": ((1,), "float32"),
    }  # fmt: skip


def test_what_a_feature_may_be() -> None:
    made = Feature.make([[1, np.nan], [np.inf, 2], [3, 4]], [False, False, True], [0, 1, 2])
    np.testing.assert_array_equal(made.tokens, [[0, 0], [0, 0], [3, 4]])
    given = np.ones((2, 2), np.float32)
    Feature.make(given, [True, False])
    assert (given == 1).all()  # the caller's array is left alone
    np.testing.assert_array_equal(Feature.make(given).time, [0, 1])
    assert Feature.make(given).mask.all()
    absent = Feature.absent(5)
    assert absent.tokens.shape == (1, 5)
    assert not absent.mask.any()
    assert not absent.tokens.any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([[1, np.nan]],), "not finite"),
        (([[1, np.inf]],), "not finite"),
        (([[1e39, 0]],), "not finite"),
        (([[1, 2]], [True], [np.nan]), "not finite"),
        (([[1, 2]], [False], [np.nan]), "not finite"),
        (([1, 2],), "shape"),
        ((np.zeros((1, 2, 3)),), "shape"),
        ((np.zeros((2, 3)), [True]), "mask"),
        ((np.zeros((2, 3)), None, [0]), "times"),
        ((np.zeros((2, 3)), np.ones((2, 3), bool)), "mask"),
    ],
)
@pytest.mark.filterwarnings("error:overflow")
def test_what_no_feature_may_be(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ClipError, match=said):
        Feature.make(*arguments)


def test_a_feature_of_another_width_is_refused(store: FeatureStore) -> None:
    with pytest.raises(ClipError, match="width 4 for a store of width 3"):
        store.write("a", feature(width=4))
    assert "a" not in store
    assert os.listdir(store.folder) == ["encoder.json"]


def damaged_files(path: Path) -> dict[str, bytes]:
    whole = path.read_bytes()
    return {
        "empty": b"",
        "garbage": b"not a feature at all",
        "huge-header": b"\xff" * 64,
        "header-only": whole[: 8 + int.from_bytes(whole[:8], "little")],
        "truncated": whole[:-1],
        "longer": whole + b"\0",
    }


@pytest.mark.parametrize("damage", ["empty", "garbage", "huge-header", "header-only", "truncated", "longer"])
def test_a_damaged_file_is_named_and_not_current(store: FeatureStore, damage: str) -> None:
    store.write("a", feature(), "source")
    assert store.is_current("a", "source")
    store.path("a").write_bytes(damaged_files(store.path("a"))[damage])
    with pytest.raises(ClipError, match=r"a\.safetensors"):
        store.read("a")
    assert not store.is_current("a", "source")
    store.write("a", feature(), "source")
    assert store.is_current("a", "source")


@pytest.mark.parametrize(
    "tensors",
    [
        {"tokens": np.zeros((2, 3), np.float32)},
        {"tokens": np.zeros((2, 4), np.float32), "mask": np.ones(2, bool), "time": np.zeros(2, np.float32)},
        {"tokens": np.zeros((2, 3), np.float32), "mask": np.ones(1, bool), "time": np.zeros(2, np.float32)},
        {"tokens": np.zeros(3, np.float32), "mask": np.ones(3, bool), "time": np.zeros(3, np.float32)},
        {"tokens": np.zeros((), np.float32), "mask": np.ones((), bool), "time": np.zeros((), np.float32)},
        {"other": np.zeros((2, 3), np.float32)},
    ],
    ids=["mask-missing", "other-width", "short-mask", "flat", "scalars", "other-names"],
)
def test_tensors_that_are_no_feature(store: FeatureStore, tensors: dict[str, np.ndarray]) -> None:
    save_file(tensors, store.path("a"), metadata={"source": "source"})
    assert not store.is_current("a", "source")
    with pytest.raises(ClipError, match=r"a\.safetensors"):
        store.read("a")


LAYOUT: dict[str, Any] = {
    "mask": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]},
    "time": {"dtype": "F32", "shape": [2], "data_offsets": [2, 10]},
    "tokens": {"dtype": "F32", "shape": [2, 3], "data_offsets": [10, 34]},
}


def raw(header: dict[str, Any] | bytes, data: bytes = bytes(34)) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def lie(name: str, **entry: Any) -> dict[str, Any]:
    return {**LAYOUT, name: {**LAYOUT[name], **entry}}


def test_an_honest_header_is_read(store: FeatureStore) -> None:
    store.path("a").write_bytes(raw(LAYOUT))
    assert store.problem("a") is None
    assert store.read("a").tokens.tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**9) + json.dumps(LAYOUT).encode(),
        raw(lie("tokens", data_offsets=[8, 32])),
        raw(lie("tokens", data_offsets=[34, 10])),
        raw(lie("time", data_offsets=[0, 8])),
        raw(lie("tokens", shape=[2**62, 8])),
        raw(lie("tokens", shape=[-2, 3])),
        raw(lie("tokens", shape=[10**9, 3], data_offsets=[10, 10 + 12 * 10**9])),
        raw(lie("tokens", dtype="F4", shape=[2, 24])),
        raw(lie("tokens", dtype="BF16", shape=[2, 6])),
        raw(lie("tokens", dtype="I32")),
        raw(lie("time", dtype="I32")),
        raw(lie("mask", dtype="U8")),
        raw(lie("mask", shape=[2, 1])),
        raw(json.dumps(LAYOUT).encode().replace(b'"time"', b'"mask"')),
        raw(json.dumps(LAYOUT).encode().replace(b"{", b'{"__metadata__": {"source": 3}, ', 1)),
        raw(b"[" * 100_000),
        raw(b"[1, 2]", b""),
        raw(b'{"__metadata__": {"source": "\\ud800"}}', b""),
    ],
    ids=["header-of-2^63", "header-beyond-the-file", "overlap", "backwards", "shared", "overflow", "negative",
         "tiny-file", "4-bit", "bfloat16", "int-tokens", "int-times", "byte-mask", "deep-mask", "repeated-name",
         "number-as-metadata", "nested", "list", "surrogate"],
)  # fmt: skip
def test_a_header_that_lies_is_found_at_once(store: FeatureStore, content: bytes) -> None:
    store.path("a").write_bytes(content)
    assert not store.is_current("a", "")
    problem = store.problem("a")
    assert problem
    assert "\n" not in problem
    with pytest.raises(ClipError, match=r"a\.safetensors: not a valid feature .*; delete it and extract it again$"):
        store.read("a")


def test_a_mask_of_other_bytes_than_0_and_1_is_found_when_it_is_read(store: FeatureStore) -> None:
    store.path("a").write_bytes(raw(LAYOUT, b"\x01\x02" + bytes(32)))
    assert store.problem("a") is None
    assert store.problem("a", verify=True) == "a mask that is neither true nor false"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_feature_and_is_not_waited_for(store: FeatureStore) -> None:
    os.mkfifo(store.path("a"))
    assert not store.is_current("a", "")
    with pytest.raises(ClipError, match="no such file"):
        store.read("a")


def test_a_file_of_another_encoder_of_the_same_width_is_not_taken(tmp_path: Path, store: FeatureStore) -> None:
    other = FeatureStore.create(tmp_path / "other", dataclasses.replace(INFO, options={"cells": 8, "norm": "L2"}))
    other.write("a", feature(), "source")
    assert other.is_current("a", "source")
    shutil.copy(other.path("a"), store.path("a"))
    assert store.problem("a") == "made by another encoder"
    assert not store.is_current("a", "source")
    with pytest.raises(ClipError, match=r"a\.safetensors: .*made by another encoder"):
        store.read("a")
    store.write("a", feature(), "source")
    assert store.problem("a", verify=True) is None


@pytest.mark.parametrize(
    "change", [{}, {"model": "elsewhere/hog"}, {"versions": {}}, {"options": {"norm": "L2", "cells": 4.0, "x": None}}]
)
def test_a_file_of_the_same_encoder_under_another_name_is(
    tmp_path: Path, store: FeatureStore, change: dict[str, Any]
) -> None:
    other = FeatureStore.create(tmp_path / "other", dataclasses.replace(INFO, **change))
    assert store.info.difference(other.info) is None
    other.write("a", feature(), "source")
    shutil.copy(other.path("a"), store.path("a"))
    assert store.is_current("a", "source")
    assert FeatureStore.open(store.folder).problem("a", verify=True) is None


def test_files_written_before_they_named_their_encoder_stay_valid(store: FeatureStore) -> None:
    written = feature()
    tensors = {"tokens": written.tokens, "mask": written.mask, "time": written.time}
    save_file(tensors, store.path("a"), metadata={"source": "source"})
    assert store.is_current("a", "source")
    assert store.read("a").tokens.tobytes() == written.tokens.tobytes()


def test_a_feature_that_is_a_link_is_read_and_when_written_replaced(tmp_path: Path, store: FeatureStore) -> None:
    store.write("b", feature(), "source")
    elsewhere = tmp_path / "elsewhere.safetensors"
    shutil.move(store.path("b"), elsewhere)
    before = elsewhere.read_bytes()
    for clip, target in (("a", elsewhere), ("dangling", tmp_path / "not" / "there")):
        store.path(clip).symlink_to(target)
    assert store.is_current("a", "source")
    assert store.problem("dangling") == "no such file"
    for clip in ("a", "dangling"):
        store.write(clip, feature(seed=1), "new")
        assert not store.path(clip).is_symlink()
        assert store.is_current(clip, "new")
    assert elsewhere.read_bytes() == before
    assert not (tmp_path / "not").exists()


def test_a_nan_in_a_file_is_found_when_it_is_read(store: FeatureStore) -> None:
    tokens = np.array([[1, 2, np.nan]], np.float32)
    save_file({"tokens": tokens, "mask": np.ones(1, bool), "time": np.zeros(1, np.float32)}, store.path("a"))
    assert store.problem("a") is None
    assert store.problem("a", verify=True) == "the feature holds values that are not finite"
    with pytest.raises(ClipError, match="not finite"):
        store.read("a")


def test_current_means_made_from_this_source(store: FeatureStore) -> None:
    assert not store.is_current("a", "")
    store.write("a", feature(), "first")
    assert store.is_current("a", "first")
    assert not store.is_current("a", "second")
    store.write("a", feature(seed=1), "second")
    assert store.is_current("a", "second")
    assert (store.read("a").tokens == feature(seed=1).tokens).all()


def test_a_feature_that_is_not_there(store: FeatureStore) -> None:
    with pytest.raises(ClipError, match=r"none\.safetensors"):
        store.read("none")
    assert "none" not in store


def test_clips_in_natural_order_dots_and_all(store: FeatureStore) -> None:
    ids = ["2", "10", "a.b", "a.b.mp4", "clip 9", "clip 10", "表情"]
    for clip in reversed(ids):
        store.write(clip, feature(seed=len(clip)))
    (store.folder / ".tmp-0123456789ab.safetensors").write_bytes(b"left by a killed process")
    (store.folder / "failures.csv").touch()
    assert store.clips() == ids
    assert all(clip in store for clip in ids)
    assert (store.read("a.b").tokens == feature(seed=3).tokens).all()
    assert "a" not in store


def test_a_writer_that_is_stopped_leaves_no_file(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("a", feature(), "old")

    def killed_while_replacing(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("viper.files.os.replace", killed_while_replacing)
    for clip in ("a", "b"):
        with pytest.raises(KeyboardInterrupt):
            store.write(clip, feature(seed=2), "new")
    assert sorted(os.listdir(store.folder)) == ["a.safetensors", "encoder.json"]
    assert store.is_current("a", "old")


def test_what_made_the_features_is_on_disk(store: FeatureStore) -> None:
    assert FeatureStore.open(store.folder).info == INFO
    assert FeatureStore.open(str(store.folder)).width == 3
    assert json.loads((store.folder / "encoder.json").read_text())["options"] == {"cells": 4, "norm": "L2"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder": "image"}, "encoder 'hog', not 'image'"),
        ({"modality": "FAU"}, "modality 'visual', not 'FAU'"),
        ({"width": 4}, "width 3, not 4"),
        ({"source": "frames"}, "source 'faces', not 'frames'"),
        ({"options": {"cells": 8, "norm": "L2"}}, "cells 4, not 8"),
        ({"options": {"cells": 4}}, "norm 'L2', not None"),
        ({"options": {"cells": 4, "norm": "L2", "sigma": 1}}, "sigma None, not 1"),
    ],
)
def test_features_of_another_encoder_may_not_join(store: FeatureStore, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        FeatureStore.create(store.folder, dataclasses.replace(INFO, **change))
    assert str(store.folder) in str(error.value)
    assert said in str(error.value)
    assert FeatureStore.open(store.folder).info == INFO


@pytest.mark.parametrize("change", [{}, {"model": "elsewhere/hog"}, {"versions": {"av": "99"}}])
def test_the_same_encoder_under_another_name_may(store: FeatureStore, change: dict[str, Any]) -> None:
    store.write("a", feature())
    again = FeatureStore.create(store.folder, dataclasses.replace(INFO, **change))
    assert again.clips() == ["a"]


def test_options_that_json_spells_differently_are_the_same(tmp_path: Path) -> None:
    info = dataclasses.replace(INFO, options={"bands": (1, 2)})
    FeatureStore.create(tmp_path, info)
    FeatureStore.create(tmp_path, info)


@pytest.mark.parametrize(
    "card",
    [
        "",
        "[1]",
        "{}",
        '{"encoder": "hog", "colour": "red"}',
        "[" * 100_000,
        '{"encoder": "hog", "modality": "visual", "width": "3"}',
        '{"encoder": "hog", "modality": "visual", "width": 0}',
        '{"encoder": ["hog"], "modality": "visual", "width": 3}',
        '{"encoder": "hog", "modality": "visual", "width": 3, "options": []}',
    ],
    ids=[
        "empty",
        "list",
        "nothing",
        "unknown-key",
        "nested",
        "width-as-text",
        "no-width",
        "list-as-name",
        "list-as-options",
    ],
)
def test_a_folder_that_is_no_store(tmp_path: Path, card: str) -> None:
    with pytest.raises(UserError, match="no such folder"):
        FeatureStore.open(tmp_path / "none")
    with pytest.raises(UserError, match=r"no encoder\.json"):
        FeatureStore.open(tmp_path)
    (tmp_path / "encoder.json").write_text(card)
    with pytest.raises(UserError, match=r"encoder\.json"):
        FeatureStore.open(tmp_path)
    with pytest.raises(UserError, match=r"encoder\.json"):
        FeatureStore.create(tmp_path, INFO)
