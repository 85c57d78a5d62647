"""What was made faster gives the same: frames by several threads, prompts that are remembered, choices made in bf16.

Nothing here is timed.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import class_tokens
from clips import in_memory, pictures
from many import long_test
from safetensors.torch import load_file, save_file

from viper.demo import Identity, write_clip
from viper.encoders import clip_prompts, nearest, remembered
from viper.encoders.clip_prompts import PromptEncoder, Prompts
from viper.encoders.image import ImageEncoder
from viper.encoders.speech import SpeechEncoder
from viper.engine.device import DeviceBatches, Runtime
from viper.engine.pool import threads_each
from viper.errors import ClipError
from viper.media.sound import Sound
from viper.media.threads import decoding_threads
from viper.media.video import VideoFrames, read_frames

pytestmark = long_test

CPU = Runtime(torch.device("cpu"))
BF16 = Runtime(torch.device("cpu"), torch.bfloat16)
WORDS = ("laughs", "cries", "smiles", "hides", "shouts", "waits", "yawns", "stares", "blushes", "frowns")
SENTENCES = tuple(f"{who} {word}" for word in WORDS for who in ("a face that", "somebody", "this person"))
PROMPTS = Prompts(SENTENCES, ("neutral",) * len(SENTENCES))


def _some(times: np.ndarray) -> np.ndarray:
    return np.unique(np.linspace(0, max(len(times) - 1, 0), 6).round().astype(int))


def _outcome(path: Path, n_threads: int) -> VideoFrames | str:
    try:
        with decoding_threads(n_threads):
            return read_frames(path, _some)
    except ClipError as error:
        return str(error)


def _assert_same(path: Path) -> None:
    one = _outcome(path, 1)
    for n_threads in (2, 5):
        more = _outcome(path, n_threads)
        if isinstance(one, str) or isinstance(more, str):
            assert one == more
            continue
        assert (one.n_frames, one.n_errors, one.fps, one.rotation) == (
            more.n_frames, more.n_errors, more.fps, more.rotation,
        )  # fmt: skip
        np.testing.assert_array_equal(one.times, more.times)
        np.testing.assert_array_equal(one.indices, more.indices)
        for a, b in zip(one.images, more.images, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speed") / "clip.mp4"
    write_clip(path, {"Fear": 0.6}, Identity.from_seed(1), 1, 2.0)
    return path


@pytest.mark.parametrize("share", [1.0, 0.95, 0.7, 0.4])
@pytest.mark.parametrize("n_wrong", [0, 1, 3, 40])
def test_frames_are_the_same_for_any_number_of_threads_in_damaged_files_too(
    video: Path, tmp_path: Path, share: float, n_wrong: int
) -> None:
    content = bytearray(video.read_bytes())
    drawn = random.Random(n_wrong)
    for _ in range(n_wrong):
        # Not in the first and last tenth, where the index may be: what is damaged there cannot be opened.
        content[drawn.randrange(len(content) // 10, len(content) * 9 // 10)] = drawn.randrange(256)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content[: int(share * len(content))])
    _assert_same(path)


CLIPS = Path(__file__).parents[3] / "shared" / "clips"


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the real clips")
@pytest.mark.parametrize("name", ["decord__corrupted.mp4", "pyfeat__single_face.mp4", "torchcodec__h265_10bits.mp4"])
def test_frames_of_real_clips_are_the_same_for_any_number_of_threads(name: str) -> None:
    _assert_same(CLIPS / name)


def test_threads_are_what_cores_the_workers_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viper.engine.pool._n_cores", lambda: 8)
    asked = {0: 8, 1: 8, 2: 4, 3: 2, 8: 1, 20: 1, -1: 1}
    assert {n_workers: threads_each(n_workers, 100) for n_workers in asked} == asked
    assert threads_each(8, 2) == 4  # no more workers than clips
    assert threads_each(-1, 3) == 8  # so few are decoded by the command itself


# Batches side by side.


@pytest.fixture
def many_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("many_threads")
def test_batches_side_by_side_give_what_batches_in_turn_give_in_order() -> None:
    items = torch.arange(37, dtype=torch.float32)
    seen: set[str] = set()
    together = threading.Barrier(4, timeout=60)

    def double(batch: torch.Tensor) -> torch.Tensor:
        if len(seen) < 4:
            seen.add(threading.current_thread().name)
            together.wait()
        assert torch.is_inference_mode_enabled()
        assert torch.get_num_threads() == 1
        return batch * 2

    made = DeviceBatches(CPU, 4, side_by_side=True).map(double, items, 64)
    assert len(seen) == 4
    assert max(len(part) for part in made) <= 4
    assert torch.cat(made).tolist() == (items * 2).tolist()
    assert torch.get_num_threads() == 4
    # One item at once means one.
    assert len(DeviceBatches(CPU, 4, side_by_side=True).map(lambda batch: batch, items, 1)) == 37


@pytest.mark.usefixtures("many_threads")
def test_memory_that_does_not_suffice_side_by_side_halves_the_batches() -> None:
    def greedy(batch: list[int]) -> list[int]:
        if len(batch) > 2:
            raise MemoryError
        return [item * 2 for item in batch]

    groups = [[1, 2, 3, 4, 5, 6, 7], [], [8], list(range(30))]
    made = DeviceBatches(CPU, 8, side_by_side=True).map_groups(greedy, groups, 8)
    assert [[item for part in parts for item in part] for parts in made] == [[2 * i for i in group] for group in groups]
    with pytest.raises(ValueError, match="the function's own"):
        DeviceBatches(CPU, side_by_side=True).map(lambda batch: (_ for _ in ()).throw(ValueError("the function's own")),
                                                  [1, 2, 3, 4, 5], 8)  # fmt: skip


@pytest.mark.parametrize("kind", ["vit", "xvector", "wav2vec2"])
def test_features_side_by_side_are_those_in_turn(kind: str, tmp_path: Path) -> None:
    writers: dict[str, Callable[[Path], Path]] = {
        "vit": checkpoints.write_vit, "xvector": checkpoints.write_xvector, "wav2vec2": checkpoints.write_wav2vec2,
    }  # fmt: skip
    writers[kind](tmp_path / kind)
    drawn = np.random.default_rng(0)
    content = (
        in_memory(pictures(21)) if kind == "vit" else Sound(drawn.normal(0, 0.1, 90_001).astype(np.float32), 16000, 0.0)
    )
    made = []
    before = torch.get_num_threads()
    for n_threads in (1, 2, 4):
        torch.set_num_threads(n_threads)
        try:
            encoder = (ImageEncoder if kind == "vit" else SpeechEncoder)(str(tmp_path / kind))
            encoder.prepare(CPU)
            made.append(encoder.encode([encoder.load(content)], 16)[0].tokens)
        finally:
            torch.set_num_threads(before)
    for tokens in made[1:]:
        np.testing.assert_allclose(tokens, made[0], rtol=0, atol=1e-5 * np.abs(made[0]).max())


# What is remembered of prompts.


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "viper" / remembered.FOLDER


def _prepared(clip: Path, roberta: Path, prompts: Prompts = PROMPTS, runtime: Runtime = CPU) -> PromptEncoder:
    encoder = PromptEncoder(prompts, str(clip), text_model=str(roberta))
    encoder.prepare(runtime)
    return encoder


def _no_network(*_: object) -> None:
    raise AssertionError("the prompts are embedded again")


def test_prompts_are_embedded_again_only_where_something_is_another(
    clip: Path, roberta: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _prepared(clip, roberta)
    assert len(list(cache.iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(clip_prompts, "SentenceModel", _no_network)
        patch.setattr(PromptEncoder, "_embed_prompts", _no_network)
        again = _prepared(clip, roberta)
    np.testing.assert_array_equal(again._prompt_tokens, first._prompt_tokens)
    assert again.info() == first.info()
    # Another prompt, another text model, another CLIP: what is new, and nothing of the old.
    fewer = Prompts((*SENTENCES[1:4], "a new one"), ("neutral",) * 4)
    np.testing.assert_allclose(
        _prepared(clip, roberta, fewer)._prompt_tokens, class_tokens(roberta, list(fewer.sentences)), atol=1e-5
    )
    other = tmp_path / "other"
    shutil.copytree(roberta, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: 1.1 * value for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    tokens = _prepared(clip, other)._prompt_tokens
    np.testing.assert_allclose(tokens, class_tokens(other, list(SENTENCES)), atol=1e-5)
    assert np.abs(tokens - first._prompt_tokens).max() > 1e-3
    tuned = checkpoints.write_open_clip(tmp_path / "tuned", seed=7)
    directions = _prepared(tuned, roberta)._prompt_directions
    assert float((directions - first._prompt_directions).abs().max()) > 1e-3


@pytest.mark.parametrize("harm", ["bytes", "cut", "renamed", "open", "link", "empty"])
def test_an_entry_that_cannot_be_trusted_is_made_again(
    clip: Path, roberta: Path, tmp_path: Path, cache: Path, harm: str
) -> None:
    first = _prepared(clip, roberta)
    entries = sorted(cache.iterdir())
    for path in entries:
        content = bytearray(path.read_bytes())
        if harm == "bytes":
            content[len(content) * 2 // 3] ^= 1
            path.write_bytes(content)
        elif harm == "cut":
            path.write_bytes(content[:-7])
        elif harm == "empty":
            path.write_bytes(b"")
        elif harm == "open":
            path.chmod(0o666)
        elif harm == "link":
            (tmp_path / path.name).write_bytes(content)
            path.unlink()
            path.symlink_to(tmp_path / path.name)
    if harm == "renamed":
        first_content, second_content = (path.read_bytes() for path in entries)
        entries[0].write_bytes(second_content)
        entries[1].write_bytes(first_content)
    for path in entries:
        assert remembered.recall(path.stem) is None
    again = _prepared(clip, roberta)
    np.testing.assert_array_equal(again._prompt_tokens, first._prompt_tokens)
    assert all(remembered.recall(path.stem) for path in entries)


def test_without_a_folder_of_its_own_nothing_is_kept_and_nothing_fails(
    clip: Path, roberta: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir(parents=True)
    cache.parent.chmod(0o777)
    _prepared(clip, roberta)
    assert not list(cache.glob("*.safetensors"))
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    _prepared(clip, roberta)


def test_what_is_kept_is_bounded_and_the_oldest_go(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MAX_BYTES", 40_000)
    for number in range(6):
        remembered.remember(f"{number}", {"tokens": np.full(2500, number, np.float32)}, {"n": number})
        os.utime(cache / f"{number}.safetensors", (number, number))
    assert sorted(path.stem for path in cache.iterdir()) == ["3", "4", "5"]
    arrays, notes = remembered.recall("5") or ({}, {})
    assert notes == {"n": 5}
    np.testing.assert_array_equal(arrays["tokens"], np.full(2500, 5, np.float32))


def test_what_follows_a_sentences_end_makes_no_difference_to_it(clip: Path, roberta: Path, cache: Path) -> None:
    encoder = _prepared(clip, roberta)
    words = clip_prompts.load_image_text(str(clip), "", None).tokenizer(list(SENTENCES))
    with torch.inference_mode():
        whole = encoder._clip.encode_text(words, normalize=True)
    torch.testing.assert_close(encoder._prompt_directions, whole, rtol=0, atol=2e-6)


# bf16's choices.


@pytest.mark.parametrize("seed", range(4))
def test_the_prompts_chosen_in_bf16_are_float32s(seed: int, roberta: Path, tmp_path: Path, cache: Path) -> None:
    clip = checkpoints.write_open_clip(tmp_path / "clip", seed=seed)
    images = [image for k in range(8) for image in pictures(20, seed=100 * seed + k)]
    chosen = []
    for runtime in (CPU, BF16):
        encoder = _prepared(clip, roberta, runtime=runtime)
        parts = [encoder.load(in_memory(images[start : start + 20])).rows for start in range(0, len(images), 20)]
        chosen.append(np.concatenate([encoder.best_prompts([part], 16) for part in parts]))
        assert encoder.info().precision == "float32"
    encoder = _prepared(clip, roberta)
    every = [encoder.load(in_memory(images)).rows]
    ordered = np.sort(encoder._nearest._exact(every, 16) @ encoder._prompt_directions.numpy().T, axis=1)
    # Of two prompts that are as near in float32, either is right: so it is for batches of other sizes.
    is_clear = ordered[:, -1] - ordered[:, -2] > 1e-6
    assert is_clear.mean() > 0.9
    np.testing.assert_array_equal(chosen[0][is_clear], chosen[1][is_clear])


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("error", [1e-4, 1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("nearness", [0.05, 0.3, 2.0])
def test_a_choice_that_an_error_could_turn_is_made_again_exactly(error: float, nearness: float) -> None:
    drawn = np.random.default_rng(7)
    directions = _unit(drawn.normal(size=(1, 64)) + nearness * drawn.normal(size=(50, 64)))
    rows = _unit(drawn.normal(size=(600, 64)))
    n_exact, n_fast = [], []

    def exact(pictures: object, batch_size: int) -> np.ndarray:
        joined = np.concatenate(list(pictures))  # type: ignore[call-overload]
        n_exact.append(len(joined))
        return joined

    def fast(pictures: object, batch_size: int) -> np.ndarray:
        joined = np.concatenate(list(pictures))  # type: ignore[call-overload]
        n_fast.append(len(joined))
        return _unit(joined + error / 8 * drawn.normal(size=joined.shape))

    chooser = nearest.Nearest(directions, exact, fast)
    made = np.concatenate([chooser.choose([rows[start : start + 20]], 16) for start in range(0, 600, 20)])
    np.testing.assert_array_equal(made, (rows @ directions.T).argmax(axis=1))
    # Where bf16 settles little it is given up; where it settles most, float32 is not computed for most.
    if error == 1e-4:
        assert sum(n_exact) < 300
    if error == 1e-1:
        assert sum(n_fast) < 300
