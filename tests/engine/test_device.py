"""Precision, compilation, and batches that must fit a device's memory."""

from __future__ import annotations

import logging
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from clips import RATE, in_memory, pictures, voice
from many import long_test

from viper.encoders.base import Encoder
from viper.encoders.clip_prompts import PromptEncoder, Prompts
from viper.encoders.image import ImageEncoder
from viper.encoders.multitask import MultitaskEncoder
from viper.encoders.speech import SpeechEncoder
from viper.encoders.subtitles import SubtitleEncoder
from viper.encoders.video import VideoEncoder
from viper.engine.device import DeviceBatches, Runtime, choose_runtime, has_bf16
from viper.errors import UserError
from viper.media.faces.detect import FaceDetector
from viper.media.sound import Sound
from viper.media.subtitles import Cue

CPU = torch.device("cpu")
FLOAT32, BF16 = Runtime(CPU), Runtime(CPU, torch.bfloat16)


def contents(reads: str) -> list[Any]:
    """Three clips' contents."""
    if reads == "frames":
        return [in_memory(pictures(n, seed=n)) for n in (2, 5, 3)]
    if reads == "sound":
        return [Sound(voice(2.0, seed=seed), RATE, 0.0) for seed in range(3)]
    words = ("she laughs", "what a surprise that was", "no")
    return [[Cue(0.0, 1.0, text), Cue(1.0, 2.0, f"and then {text}, again")] for text in words]


@pytest.fixture(
    params=["vit", "vit mean", "resnet", "videomae", "xvector", "wav2vec2", "roberta", "multitask", "prompts"]
)
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> Encoder[Any, Any]:
    """Every encoder with a network, not yet prepared."""
    name, *_ = str(request.param).split()
    if name == "resnet":
        return ImageEncoder(str(checkpoints.write_resnet(tmp_path / "resnet")))
    if name == "videomae":
        return VideoEncoder(str(checkpoints.write_videomae(tmp_path / "videomae", num_frames=2)), n_windows=2)
    if name == "prompts":
        prompts = Prompts(("a face that laughs", "a face in tears", "a wall"), ("joy", "sadness", "neutral"))
        clip, roberta = (request.getfixturevalue(part) for part in ("clip", "roberta"))
        return PromptEncoder(prompts, str(clip), text_model=str(roberta))
    weights = request.getfixturevalue(name)
    if name == "vit":
        return ImageEncoder(str(weights), pool="mean" if "mean" in request.param else "cls")
    if name == "roberta":
        return SubtitleEncoder(str(weights))
    if name == "multitask":
        return MultitaskEncoder(weights)
    return SpeechEncoder(str(weights), n_fragments=4, pool="meanstd" if name == "wav2vec2" else "mean")


def encoded(encoder: Encoder[Any, Any], runtime: Runtime) -> np.ndarray:
    """All tokens of `contents`."""
    encoder.prepare(runtime)
    samples = [encoder.load(content) for content in contents(encoder.reads)]
    return np.concatenate([feature.tokens for feature in encoder.encode(samples, 4)])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the rows."""
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_bf16_features_stay_close_to_float32(encoder: Encoder[Any, Any]) -> None:
    expected = encoded(encoder, FLOAT32)
    assert encoder.info().precision == "float32"
    tokens = encoded(encoder, BF16)
    assert cosines(tokens, expected).min() > 0.999
    if isinstance(encoder, PromptEncoder):
        # It chooses among sentences, which must be the same ones.
        np.testing.assert_array_equal(tokens, expected)
        assert encoder.info().precision == "float32"
    else:
        assert np.abs(tokens - expected).max() > 0  # or it was float32 after all
        assert encoder.info().precision == "bf16"
    assert tokens.dtype == np.float32


def test_another_precision_is_another_encoder(vit: Path) -> None:
    infos = []
    for runtime in (FLOAT32, BF16):
        encoder = ImageEncoder(str(vit))
        encoder.prepare(runtime)
        infos.append(encoder.info())
    assert [info.precision for info in infos] == ["float32", "bf16"]
    assert infos[0].difference(infos[1]) == "precision float32, not bf16"
    assert infos[0].identity != infos[1].identity


@pytest.mark.parametrize("native", [False, True])
def test_auto_is_bf16_where_the_processor_computes_in_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viper.engine.device.has_bf16", lambda device: native)
    assert choose_runtime("cpu").precision is (torch.bfloat16 if native else torch.float32)
    assert choose_runtime("cpu", "float32").precision is torch.float32


def test_bf16_without_the_arithmetic_is_done_and_said_to_be_slow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("viper.engine.device.has_bf16", lambda device: False)
    with caplog.at_level(logging.WARNING, "viper"):
        assert choose_runtime("cpu", "bf16").precision is torch.bfloat16
    assert "float32 is faster" in caplog.text


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the processor's own list of what it can do is Linux'")
def test_the_check_for_bf16_agrees_with_the_processors_own_list() -> None:
    flags = Path("/proc/cpuinfo").read_text()
    assert has_bf16(CPU) == ("avx512_bf16" in flags or "amx_bf16" in flags)


@long_test
@pytest.mark.parametrize("name", ["vit", "roberta"])
def test_a_compiled_network_gives_the_same(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = str(request.getfixturevalue(name))
    make = {"vit": ImageEncoder, "roberta": SubtitleEncoder}[name]
    expected = encoded(make(weights), FLOAT32)
    # All of torch.compile but its code generator, which takes half a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    close = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(encoded(make(weights), choose_runtime("cpu", "float32", True)), expected, atol=close)


def test_without_a_compiler_the_option_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: Any) -> Any:
        raise RuntimeError("no C++ compiler\nand a page of advice")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(UserError, match=r"--compile: cannot compile here \(no C\+\+ compiler\)"):
        choose_runtime("cpu", "float32", compiled=True)


class Cramped:
    """Calls of a network that lacks memory for more than `room` items."""

    def __init__(self, function: Any, room: int, error: Exception) -> None:
        self.function, self.room, self.error = function, room, error
        self.sizes: list[int] = []

    def __call__(self, batch: Any) -> Any:
        self.sizes.append(len(batch))
        if len(batch) > self.room:
            raise self.error
        return self.function(batch)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_a_batch_that_does_not_fit_is_halved_once_and_for_all(error: Exception, caplog: Any) -> None:
    cramped = Cramped(lambda rows: rows * 2, 3, error)
    batches = DeviceBatches(FLOAT32)
    rows = np.arange(30, dtype=np.float32).reshape(15, 2)
    with caplog.at_level(logging.WARNING, "viper"):
        np.testing.assert_array_equal(batches.rows(cramped, [rows[:7], rows[7:]], 8), rows * 2)
    assert cramped.sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2, 1]
    assert [record.getMessage() for record in caplog.records][-1].endswith("going on with 2")
    cramped.sizes.clear()
    batches.rows(cramped, [rows], 8)
    assert max(cramped.sizes) == 2


def test_one_item_that_does_not_fit_alone_and_other_errors_are_raised() -> None:
    with pytest.raises(MemoryError):
        DeviceBatches(FLOAT32).map(Cramped(list, 0, MemoryError()), [1, 2, 3], 8)
    wrong = Cramped(list, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        DeviceBatches(FLOAT32).map(wrong, [1, 2, 3], 8)
    assert wrong.sizes == [3]


def test_what_an_allocator_says_here_is_understood() -> None:
    """The real message of this machine's allocator, which refuses more bytes than there are addresses for."""

    def greedy(items: list[int]) -> int:
        torch.empty(2**59 if len(items) > 2 else 1, dtype=torch.uint8)
        return len(items)

    assert DeviceBatches(FLOAT32).map(greedy, [1, 2, 3, 4, 5, 6, 7], 8) == [1] * 7


def test_features_are_the_same_when_memory_is_short(encoder: Encoder[Any, Any]) -> None:
    expected = encoded(encoder, FLOAT32)
    cramped = Cramped(getattr(encoder, "_forward", None), 1, MemoryError())
    holder: Any = encoder
    if isinstance(encoder, PromptEncoder):
        cramped.function, holder._seen = encoder._seen, cramped
    elif isinstance(encoder, SubtitleEncoder):
        holder = encoder._sentences
        cramped.function, holder._forward = holder._forward, cramped
    else:
        holder._forward = cramped
    samples = [encoder.load(content) for content in contents(encoder.reads)]
    tokens = np.concatenate([feature.tokens for feature in encoder.encode(samples, 4)])
    assert cramped.sizes[0] > 1
    np.testing.assert_allclose(tokens, expected, atol=1e-6 * np.abs(expected).max())


def test_the_face_detector_goes_on_with_fewer_frames() -> None:
    images = [np.full((64, 64, 3), value, np.uint8) for value in range(5)]
    detector: Any = FaceDetector(CPU, 20)
    cramped = Cramped(lambda batch: [[int(image[0, 0, 0])] for image in batch], 2, OUT_OF_MEMORY[0])
    detector._detect = cramped
    assert detector.detect(images, 5) == [[value] for value in range(5)]
    assert cramped.sizes == [4, 2, 2, 1]


def test_frames_without_a_face_do_not_go_through_the_network(vit: Path) -> None:
    encoder: Any = ImageEncoder(str(vit))
    encoder.prepare(FLOAT32)
    images, found = pictures(6), [True, False, False, True, True, False]
    everything = encoder.encode([encoder.load(in_memory(images))], 64)[0]
    cramped = Cramped(encoder._forward, 64, MemoryError())
    encoder._forward = cramped
    partly, none = (encoder.load(in_memory(images, seen)) for seen in (found, [False] * 6))
    features = encoder.encode([none, partly, none], 64)
    assert cramped.sizes == [3]
    np.testing.assert_allclose(features[1].tokens[found], everything.tokens[found], atol=1e-6)
    for feature, mask in zip(features, ([False] * 6, found, [False] * 6), strict=True):
        assert feature.mask.tolist() == mask
        assert feature.tokens.shape == everything.tokens.shape
        assert not feature.tokens[~np.array(mask)].any()
        np.testing.assert_array_equal(feature.time, everything.time)


def test_workers_are_sent_nothing_that_is_on_the_device(encoder: Encoder[Any, Any]) -> None:
    """Or each of them would open the GPU, which takes half a gigabyte of its memory."""
    encoder.prepare(FLOAT32)
    for name, value in encoder.__getstate__().items():
        assert not isinstance(value, torch.Tensor | torch.nn.Module), name
    sent = pickle.loads(pickle.dumps(encoder))
    content = contents(encoder.reads)[0]
    ours, theirs = encoder.load(content), sent.load(content)
    assert len(ours) == len(theirs) > 0
