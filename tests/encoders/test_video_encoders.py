"""Video encoders through the real loading code: windows, tokens, and what of a checkpoint is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
import transformers
from checkpoints import FRAMES
from clips import in_memory, pictures, write_faces, write_frames
from conftest import Run
from many import long_test
from transformers import AutoImageProcessor, AutoModel, AutoModelForVideoClassification, AutoVideoProcessor

from viper.encoders.video import VideoEncoder, is_video, show_faces, window_frames
from viper.engine.device import Runtime
from viper.errors import UserError
from viper.media.pictures import read_image
from viper.store import Feature, FeatureStore

CPU = Runtime(torch.device("cpu"))
ARCHITECTURES = ("videomae", "timesformer", "vivit")
SEEN = np.full((5, 2), 20.0)  # the points of a face that was found


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a classifier of that architecture."""
    root = tmp_path_factory.mktemp("videos")
    for name in ARCHITECTURES:
        getattr(checkpoints, f"write_{name}")(root / name)
    return lambda name: root / name


@pytest.fixture(params=ARCHITECTURES)
def video(request: pytest.FixtureRequest, videos: Callable[[str], Path]) -> Path:
    """A classifier of each architecture."""
    return videos(request.param)


def prepared(folder: Path, **options: Any) -> VideoEncoder:
    encoder = VideoEncoder(str(folder), **options)
    encoder.prepare(CPU)
    return encoder


def feature(encoder: VideoEncoder, images: list[np.ndarray], found: list[bool] | None = None) -> Feature:
    return encoder.encode([encoder.load(in_memory(images, found))], 64)[0]


def by_transformers(auto_class: Any, folder: Path, images: list[np.ndarray], **options: Any) -> Any:
    """What transformers' own processor and model make of one window."""
    inputs = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")
    network: Any = auto_class.from_pretrained(folder).eval()
    with torch.inference_mode():
        return network(**inputs, **options)


def test_a_token_is_what_the_classifier_of_the_architecture_reads(video: Path) -> None:
    images = pictures(FRAMES)
    made = feature(prepared(video), images)
    assert made.tokens.shape == (1, checkpoints.WIDTH)
    assert made.mask.tolist() == [True]
    np.testing.assert_allclose(made.time, [0.15])
    network = AutoModelForVideoClassification.from_pretrained(video)
    logits = by_transformers(AutoModelForVideoClassification, video, images).logits
    torch.testing.assert_close(network.classifier(torch.from_numpy(made.tokens)), logits, rtol=0, atol=1e-4)
    # Otherwise the network could not tell clips, or the order of frames, and none of these tests could either.
    for others in (pictures(FRAMES, seed=1), images[::-1]):
        assert np.abs(feature(prepared(video), others).tokens - made.tokens).max() > 0.05


def test_a_checkpoint_with_and_without_its_head_is_the_same_encoder(video: Path, tmp_path: Path) -> None:
    AutoModelForVideoClassification.from_pretrained(video).base_model.save_pretrained(tmp_path / "bare")
    shutil.copy(video / "preprocessor_config.json", tmp_path / "bare")
    whole, bare = prepared(video), prepared(tmp_path / "bare")
    tokens, without = (feature(encoder, pictures(FRAMES)).tokens for encoder in (whole, bare))
    if video.name == "videomae":  # the norm that its classifier reads is in the head
        assert "weights" in (whole.info().difference(bare.info()) or "")
        norm = AutoModelForVideoClassification.from_pretrained(video).fc_norm
        without = norm(torch.from_numpy(without)).detach().numpy()
    else:
        assert whole.info().difference(bare.info()) is None
    np.testing.assert_allclose(tokens, without, atol=1e-5)


@pytest.mark.parametrize("head", ["", "pretraining"])
def test_of_a_videomae_that_is_no_classifier_the_mean_is_taken_after_its_own_norm(tmp_path: Path, head: str) -> None:
    folder = checkpoints.write_videomae(tmp_path / "videomae", head)
    images = pictures(FRAMES)
    expected = by_transformers(AutoModel, folder, images).last_hidden_state.mean(dim=1).numpy()
    np.testing.assert_allclose(feature(prepared(folder), images).tokens, expected, atol=1e-5)


def test_a_videomae_classifier_without_mean_pooling_reads_its_first_token(tmp_path: Path) -> None:
    folder = checkpoints.write_videomae(tmp_path / "videomae", use_mean_pooling=False)
    images = pictures(FRAMES)
    expected = by_transformers(AutoModel, folder, images).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(feature(prepared(folder), images).tokens, expected, atol=1e-5)


@pytest.mark.parametrize(("layer", "pool"), [(-1, "mean"), (0, "mean"), (1, "cls"), (2, "mean")])
def test_layer_and_pool_are_the_models_hidden_states(
    videos: Callable[[str], Path], layer: int, pool: str
) -> None:  # fmt: skip
    images = pictures(FRAMES)
    for name in ("timesformer", "vivit", *(("videomae",) if pool == "mean" and layer != -1 else ())):
        output = by_transformers(AutoModel, videos(name), images, output_hidden_states=True)
        hidden = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
        expected = hidden[:, 0] if pool == "cls" else hidden.mean(dim=1)
        made = feature(prepared(videos(name), layer=layer, pool=pool), images)
        np.testing.assert_allclose(made.tokens, expected.numpy(), atol=1e-5)


def test_options_a_checkpoint_cannot_follow_are_refused(videos: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--pool cls: .*videomae has no class token"):
        prepared(videos("videomae"), pool="cls")
    with pytest.raises(UserError, match=r"--layer 3.*hidden states 0 to 2"):
        prepared(videos("vivit"), layer=3)
    with pytest.raises(UserError, match="--n_windows 0"):
        prepared(videos("vivit"), n_windows=0)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vjepa2"}))
    assert is_video(str(tmp_path))
    with pytest.raises(UserError, match="is a vjepa2; the video networks that are read are videomae"):
        VideoEncoder(str(tmp_path))
    folder = shutil.copytree(videos("videomae"), tmp_path / "large")
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    processor["crop_size"] = {"height": 40, "width": 40}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(UserError, match=r"large: its processor and its network do not fit \(.*40\*40"):
        prepared(folder)


@pytest.mark.parametrize(
    ("processor", "options"),
    [
        ("VideoMAEImageProcessor", {}),
        ("VideoMAEImageProcessor", {"resample": 3, "do_normalize": False}),
        ("VivitImageProcessor", {"rescale_factor": 1 / 127.5}),
        ("VivitImageProcessor", {"rescale_factor": 1 / 255, "offset": False}),
        ("VideoMAEVideoProcessor", {}),
        ("TimesformerVideoProcessor", {}),
        ("VivitVideoProcessor", {}),
    ],
)
def test_the_network_is_given_what_the_models_own_processor_makes(
    videos: Callable[[str], Path], tmp_path: Path, processor: str, options: dict[str, Any]
) -> None:
    """One byte's step is at least 0.0078: within 2e-6 no byte differs. Sums near 5 are kept to 5e-7 in float32."""
    name = "vivit" if "Vivit" in processor else "videomae"
    folder = shutil.copytree(videos(name), tmp_path / name)
    (folder / "preprocessor_config.json").unlink()
    size = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
    getattr(transformers, processor)(**size, **options).save_pretrained(folder)
    own: Any = AutoImageProcessor if "Image" in processor else AutoVideoProcessor
    encoder = prepared(folder)
    assert type(encoder.pixels.processor).__name__ == processor
    for height, width in ((48, 40), (30, 70), (480, 640)):
        images = pictures(FRAMES, height=height, width=width)
        expected = own.from_pretrained(folder)(images, return_tensors="pt")["pixel_values"]
        sample = encoder.load(in_memory(images))
        assert sample.rows.dtype == np.uint8
        inputs = encoder.pixels.inputs(torch.from_numpy(sample.rows[sample.windows]))
        assert inputs.shape == expected.shape == (1, FRAMES, 3, 32, 32)
        torch.testing.assert_close(inputs, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("n_frames", "n_windows", "length", "expected"),
    [
        (4, 1, 4, [[0, 1, 2, 3]]),
        (8, 2, 4, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (12, 1, 4, [[1, 4, 7, 10]]),
        (2, 1, 4, [[0, 0, 1, 1]]),
        (3, 1, 4, [[0, 1, 1, 2]]),
        (1, 2, 3, [[0, 0, 0], [0, 0, 0]]),
        (2, 3, 2, [[0, 0], [0, 1], [1, 1]]),
    ],
)
def test_windows_spread_over_the_clip(n_frames: int, n_windows: int, length: int, expected: list[list[int]]) -> None:
    assert window_frames(n_frames, n_windows, length).tolist() == expected


def test_frames_of_windows_are_in_order_evenly_spread_and_as_far_from_both_ends() -> None:
    for n_frames in range(1, 50):
        for n_windows in (1, 2, 3, 7):
            frames = window_frames(n_frames, n_windows, 5).ravel()
            steps = np.diff(frames)
            assert frames.min() >= 0
            assert frames.max() < n_frames
            assert steps.min() >= 0
            assert steps.max() - steps.min() <= 1
            assert abs(frames[0] - (n_frames - 1 - frames[-1])) <= 1


def test_a_window_is_a_part_of_the_clip_and_its_time_the_mean_of_its_frames(video: Path) -> None:
    images = pictures(3 * FRAMES)
    parts = [images[start : start + FRAMES] for start in range(0, 3 * FRAMES, FRAMES)]
    made, alone = feature(prepared(video, n_windows=3), images), prepared(video)
    np.testing.assert_allclose(made.tokens, np.concatenate([feature(alone, part).tokens for part in parts]), atol=1e-5)
    np.testing.assert_allclose(made.time, [0.15, 0.55, 0.95], atol=1e-6)
    assert made.mask.tolist() == [True] * 3


def test_where_a_clip_has_fewer_frames_than_the_network_wants_they_are_repeated(video: Path) -> None:
    one, two = pictures(2)
    made, expected = feature(prepared(video), [one, two]), feature(prepared(video), [one, one, two, two])
    np.testing.assert_allclose(made.tokens, expected.tokens, atol=1e-6)
    np.testing.assert_allclose(made.time, [0.05])
    assert prepared(video).load(in_memory([one, two])).rows.shape[0] == 2  # each goes to the device's process once


def test_a_feature_does_not_depend_on_the_batch(video: Path) -> None:
    encoder = prepared(video, n_windows=2)
    clips = [pictures(n, seed=n) for n in (1, 5, 9, 3)]
    samples = [encoder.load(in_memory(images)) for images in clips]
    assert [encoder.size(sample) for sample in samples] == [2 * FRAMES] * 4
    alone = [feature(encoder, images).tokens for images in clips]
    for batch_size in (1, 3 * FRAMES, 64):
        for own, made in zip(alone, encoder.encode(samples, batch_size), strict=True):
            np.testing.assert_allclose(made.tokens, own, atol=1e-5)


def test_a_frame_without_a_face_is_shown_as_the_nearest_with_one_in_its_window() -> None:
    frames = in_memory(pictures(8), [True, False, False, True, False, False, False, False])
    windows = window_frames(8, 2, 4)
    assert show_faces(windows, frames).tolist() == [True, False]
    assert windows.tolist() == [[0, 0, 3, 3], [4, 5, 6, 7]]
    # Also by one that is between the frames that were picked.
    frames = in_memory(pictures(8), [False, True, False, False, False, False, False, True])
    windows = window_frames(8, 1, 2)
    assert windows.tolist() == [[2, 6]]
    assert show_faces(windows, frames).tolist() == [True]
    assert windows.tolist() == [[1, 7]]


def test_a_window_without_a_face_is_zeros_and_masked_and_so_is_a_clip_without_frames(
    videos: Callable[[str], Path],
) -> None:
    encoder, images = prepared(videos("timesformer"), n_windows=2), pictures(8)
    found = [True, False, True, True, False, False, False, False]
    samples = [encoder.load(in_memory(images, found)), encoder.load(in_memory([])), encoder.load(in_memory(images))]
    partly, empty, full = encoder.encode(samples, 64)
    assert partly.mask.tolist() == [True, False]
    assert not partly.tokens[1].any()
    shown = [images[0], images[0], images[2], images[3]]
    np.testing.assert_allclose(partly.tokens[:1], feature(prepared(videos("timesformer")), shown).tokens, atol=1e-5)
    np.testing.assert_allclose(partly.time, [0.125, 0.55], atol=1e-6)
    assert empty.tokens.shape == partly.tokens.shape
    assert not empty.mask.any()
    np.testing.assert_allclose(full.tokens, feature(encoder, images).tokens, atol=1e-5)
    (only,) = encoder.encode([samples[1]], 64)
    assert not only.mask.any()


def renamed(old: str, new: str) -> Callable[[checkpoints.State], checkpoints.State]:
    return lambda state: {name.replace(old, new): tensor for name, tensor in state.items()}


def test_biases_of_videomae_arrive_under_the_names_of_the_published_and_of_newer_files(
    videos: Callable[[str], Path], tmp_path: Path
) -> None:
    images, tokens = pictures(FRAMES), feature(prepared(videos("videomae")), pictures(FRAMES)).tokens
    for name, part in (("q_bias", "query.bias"), ("v_bias", "value.bias")):
        for n, (old, new) in enumerate([(name, part), (part, name)]):
            folder = checkpoints.copy_with(videos("videomae"), tmp_path / f"{name}{n}", renamed(old, new))
            np.testing.assert_allclose(feature(prepared(folder), images).tokens, tokens, atol=1e-6)

    def zeroed(state: checkpoints.State) -> checkpoints.State:
        return {name: tensor * (".q_bias" not in name) for name, tensor in state.items()}

    other = feature(prepared(checkpoints.copy_with(videos("videomae"), tmp_path / "zeroed", zeroed)), images).tokens
    assert np.abs(other - tokens).max() > 1e-3  # or it would not show when they are dropped


@pytest.mark.parametrize(
    ("part", "new", "message"),
    [
        ("embeddings.patch_embeddings.projection.bias", "", r"projection\.bias \.\.\. would stay random"),
        (
            "layernorm_after.bias",
            "layernorm_after.shift",
            r"after\.bias, .* random; .*after\.shift, .* be dropped",
        ),
    ],
)
def test_a_weight_that_is_missing_and_one_without_a_place_are_refused_by_name(
    video: Path, tmp_path: Path, part: str, new: str, message: str
) -> None:
    change = renamed(part, new) if new else checkpoints.without(part)
    folder = checkpoints.copy_with(video, tmp_path / "odd", change)
    with pytest.raises(UserError, match=message) as error:
        prepared(folder)
    assert str(error.value).startswith(f"{folder}: the checkpoint does not fit its architecture")
    assert "\n" not in str(error.value)


def test_biases_a_config_has_no_place_for_are_not_dropped(videos: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(videos("videomae"), tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "qv_bias": False}))
    with pytest.raises(UserError, match=r"attention\.query\.bias.* be dropped"):
        prepared(folder)


def test_a_norm_of_the_head_is_not_dropped_where_the_config_says_there_is_no_head(
    videos: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(videos("videomae"), tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["VideoMAEModel"]}))
    with pytest.raises(UserError, match=r"fc_norm\.bias, fc_norm\.weight \.\.\. would be dropped"):
        prepared(folder)


@long_test
def test_the_command_chooses_a_video_encoder_by_the_config(video: Path, tmp_path: Path, run: Run) -> None:
    for name, n in (("2", FRAMES), ("10", 1)):
        write_frames(tmp_path / "frames" / name, pictures(n, seed=n))
    stores = []
    for n_workers in (0, 1) if video.name == "vivit" else (0,):
        outcome = run(
            "extract_visual_features", "--input_folder", tmp_path / "frames", "--output_folder",
            tmp_path / f"out{n_workers}", "--model_name", video, "--n_workers", n_workers, "--precision", "float32",
        )  # fmt: skip
        assert outcome.code == 0, outcome.said
        stores.append(FeatureStore.open(tmp_path / f"out{n_workers}"))
    for store in stores:
        assert (store.info.encoder, store.info.modality, store.info.source) == ("video", "visual", "frames")
        assert store.clips() == ["2", "10"]
        images = [read_image(tmp_path / "frames" / "2" / f"frame_{i}.jpg") for i in range(FRAMES)]
        np.testing.assert_allclose(store.read("2").tokens, feature(prepared(video), images).tokens, atol=1e-5)
        np.testing.assert_allclose(store.read("2").time, [0.15], atol=1e-6)


def test_the_command_takes_crops_and_several_windows_and_refuses_windows_of_images(
    videos: Callable[[str], Path], vit: Path, tmp_path: Path, run: Run
) -> None:
    write_faces(tmp_path / "faces" / "half", pictures(8), [SEEN, None, SEEN, SEEN, None, None, None, None])
    write_faces(tmp_path / "faces" / "none", [], [])
    common = ["extract_visual_features", "--input_folder", tmp_path / "faces", "--n_windows", 2]
    outcome = run(*common, "--output_folder", tmp_path / "out", "--model_name", videos("timesformer"))
    assert outcome.code == 0, outcome.said
    store = FeatureStore.open(tmp_path / "out")
    assert store.info.source == "faces"
    assert store.read("half").mask.tolist() == [True, False]
    assert store.read("none").mask.tolist() == [False, False]
    for name in (vit, "hog"):
        outcome = run(*common, "--output_folder", tmp_path / "images", "--model_name", name)
        assert outcome.code == 2
        assert f"--n_windows 2: {name} reads one frame at a time" in outcome.said
