"""Visual encoders through the real loading code, and hog."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
import transformers
from clips import in_memory, pictures, write_faces, write_frames
from conftest import Run
from transformers import AutoImageProcessor, AutoModel, ViTForImageClassification, ViTModel

from viper.encoders.hog import HogEncoder
from viper.encoders.image import ImageEncoder
from viper.engine.device import Runtime
from viper.errors import UserError
from viper.media.pictures import read_image
from viper.store import FeatureStore

CPU = Runtime(torch.device("cpu"))


def prepared(folder: Path, **options: Any) -> ImageEncoder:
    encoder = ImageEncoder(str(folder), **options)
    encoder.prepare(CPU)
    return encoder


def tokens(encoder: ImageEncoder | HogEncoder, images: list[np.ndarray], batch_size: int = 64) -> np.ndarray:
    return encoder.encode([encoder.load(in_memory(images))], batch_size)[0].tokens


def by_transformers(folder: Path, images: list[np.ndarray], **options: Any) -> Any:
    """What transformers' own processor and model make of the pictures."""
    inputs = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")
    network: Any = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        return network(**inputs, **options)


def test_a_token_is_the_class_token_of_transformers_own_processor_and_model(vit: Path) -> None:
    images = pictures(3) + pictures(2, seed=1, height=30, width=70)
    expected = by_transformers(vit, images).last_hidden_state[:, 0].numpy()
    feature = prepared(vit).encode([prepared(vit).load(in_memory(images))], 64)[0]
    np.testing.assert_allclose(feature.tokens, expected, atol=1e-5)
    assert feature.tokens.dtype == np.float32
    assert feature.mask.all()
    np.testing.assert_allclose(feature.time, np.arange(5) / 10)
    # Otherwise the model could not tell a swapped frame, and none of these tests could either.
    assert np.abs(expected[0] - expected[1]).max() > 0.1


@pytest.mark.parametrize(("layer", "pool"), [(-1, "mean"), (0, "mean"), (1, "cls"), (2, "mean"), (-2, "cls")])
def test_layer_and_pool_are_the_models_hidden_states(vit: Path, layer: int, pool: str) -> None:
    images = pictures(3)
    output = by_transformers(vit, images, output_hidden_states=True)
    hidden = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    expected = hidden[:, 0] if pool == "cls" else hidden.mean(dim=1)
    np.testing.assert_allclose(tokens(prepared(vit, layer=layer, pool=pool), images), expected.numpy(), atol=1e-5)


def test_a_layer_the_model_does_not_have_is_refused_with_those_it_has(vit: Path) -> None:
    with pytest.raises(UserError, match=r"--layer 3.*hidden states 0 to 2"):
        prepared(vit, layer=3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resample": 3, "image_mean": [0.1, 0.2, 0.3]},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    ],
)
def test_bytes_for_the_device_become_what_the_processor_makes(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = checkpoints.write_vit(tmp_path / "vit", **options)
    images = pictures(4)
    encoder = prepared(folder)
    sample = encoder.load(in_memory(images))
    assert sample.rows.dtype == np.uint8
    assert sample.rows.shape == (4, 3, checkpoints.SIDE, checkpoints.SIDE)
    expected = by_transformers(folder, images).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(encoder.encode([sample], 64)[0].tokens, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("processor", "options"),
    [
        ("ViTImageProcessor", {"size": {"height": 32, "width": 32}}),
        ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 3, "image_std": [0.2, 0.3, 0.4]}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": 32}),
        ("BitImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}),
        ("DeiTImageProcessor", {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}, "crop_pct": 0.8}),
        ("SiglipImageProcessor", {"size": {"height": 32, "width": 32}}),
    ],
)
def test_the_network_is_given_what_the_models_own_processor_makes(
    tmp_path: Path, processor: str, options: dict[str, Any]
) -> None:
    """Bytes resized here, scaled and normalised on the device, against the processor's own pixel values.

    The processors resize in bytes too. One byte's step is 1/255 / std, at least 0.0039: within 1e-6 no byte differs.
    """
    folder = checkpoints.write_vit(tmp_path / "vit")
    getattr(transformers, processor)(**options).save_pretrained(folder)
    encoder = prepared(folder)
    for height, width in ((48, 40), (30, 70), (32, 32), (480, 640)):
        images = pictures(3, height=height, width=width)
        expected = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")["pixel_values"]
        rows = encoder.load(in_memory(images)).rows
        assert rows.dtype == np.uint8
        inputs = encoder.pixels.inputs(torch.from_numpy(rows))
        assert inputs.shape == expected.shape == (3, 3, 32, 32)
        torch.testing.assert_close(inputs, expected, rtol=0, atol=1e-6)


def test_feature_maps_are_averaged_and_the_middle_is_cut_out_as_the_processor_does(tmp_path: Path) -> None:
    folder = checkpoints.write_resnet(tmp_path / "resnet")
    images = pictures(3)
    expected = by_transformers(folder, images).last_hidden_state.mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(tokens(prepared(folder), images), expected, atol=1e-5)


def test_of_a_masked_autoencoder_all_patches_are_seen(vit: Path, tmp_path: Path) -> None:
    config = transformers.ViTMAEConfig.from_pretrained(vit, mask_ratio=0.75)
    checkpoints.seeded(0, lambda: transformers.ViTMAEModel(config)).save_pretrained(tmp_path / "mae")
    AutoImageProcessor.from_pretrained(vit).save_pretrained(tmp_path / "mae")
    images, encoder = pictures(3), prepared(tmp_path / "mae")
    np.testing.assert_allclose(tokens(encoder, images), tokens(encoder, images), atol=1e-5)
    inputs = AutoImageProcessor.from_pretrained(vit)(images, return_tensors="pt")
    network: Any = AutoModel.from_pretrained(tmp_path / "mae", mask_ratio=0.0).eval()
    with torch.inference_mode():
        expected = network(**inputs).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(tokens(encoder, images), expected, atol=1e-5)


def test_of_an_image_text_model_the_vision_half_is_taken(tmp_path: Path) -> None:
    folder = checkpoints.write_transformers_clip(tmp_path / "clip")
    images = pictures(3)
    inputs = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")
    network: Any = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = network.vision_model(**inputs).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(tokens(prepared(folder), images), expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_a_feature_does_not_depend_on_its_batch(vit: Path, batch_size: int) -> None:
    encoder = prepared(vit)
    clips = [pictures(n, seed=n) for n in (1, 5, 3)]
    together = encoder.encode([encoder.load(in_memory(clip)) for clip in clips], batch_size)
    for clip, feature in zip(clips, together, strict=True):
        assert feature.tokens.shape == (len(clip), checkpoints.WIDTH)
        np.testing.assert_allclose(feature.tokens, tokens(encoder, clip), atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "hog"])
def test_frames_without_a_face_are_zeros_and_masked_and_a_clip_without_frames_is_absent(vit: Path, name: str) -> None:
    encoder = HogEncoder() if name == "hog" else prepared(vit)
    width = encoder.info().width
    partly = encoder.load(in_memory(pictures(3), [True, False, True]))
    empty = encoder.load(in_memory([]))
    full = encoder.load(in_memory(pictures(2, seed=5)))
    assert [encoder.size(sample) for sample in (partly, empty, full)] == [2, 0, 2]
    features = encoder.encode([partly, empty, full], 64)
    assert features[0].mask.tolist() == [True, False, True]
    assert not features[0].tokens[1].any()
    np.testing.assert_allclose(features[0].tokens[[0, 2]], tokens(encoder, pictures(3))[[0, 2]], atol=1e-5)
    assert features[1].tokens.shape == (1, width)
    assert not features[1].tokens.any()
    assert not features[1].mask.any()
    np.testing.assert_allclose(features[2].tokens, tokens(encoder, pictures(2, seed=5)), atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "hog"])
def test_a_batch_of_nothing_but_empty_clips(vit: Path, name: str) -> None:
    encoder = HogEncoder() if name == "hog" else prepared(vit)
    (feature,) = encoder.encode([encoder.load(in_memory([]))], 64)
    assert feature.tokens.shape == (1, encoder.info().width)
    assert not feature.mask.any()


def test_a_checkpoint_with_a_missing_weight_is_refused_by_its_name(vit: Path, tmp_path: Path) -> None:
    lacking = checkpoints.copy_with(vit, tmp_path / "lacking", checkpoints.without("position_embeddings"))
    with pytest.raises(UserError, match=r"lacking: .*embeddings\.position_embeddings .*random"):
        prepared(lacking)


def test_a_checkpoint_with_a_weight_of_another_shape_is_refused_by_its_name(vit: Path, tmp_path: Path) -> None:
    def change(state: checkpoints.State) -> checkpoints.State:
        return {**state, "embeddings.cls_token": torch.zeros(1, 1, 8)}

    with pytest.raises(UserError, match=r"embeddings\.cls_token .*random"):
        prepared(checkpoints.copy_with(vit, tmp_path / "other", change))


def test_of_a_classifier_the_head_is_dropped(vit_classifier: Path) -> None:
    images = pictures(3)
    inputs = AutoImageProcessor.from_pretrained(vit_classifier)(images, return_tensors="pt")
    network: Any = ViTForImageClassification.from_pretrained(vit_classifier).eval()
    with torch.inference_mode():
        expected = network.vit(**inputs).last_hidden_state[:, 0].numpy()
    encoder = prepared(vit_classifier)
    assert encoder.info().width == checkpoints.WIDTH
    np.testing.assert_allclose(tokens(encoder, images), expected, atol=1e-5)


def test_the_pooler_that_a_classifier_lacks_does_not_make_it_another_encoder_each_time(vit_classifier: Path) -> None:
    assert prepared(vit_classifier).info().difference(prepared(vit_classifier).info()) is None


def test_workers_get_the_encoder_without_its_weights_and_load_the_same(vit: Path) -> None:
    encoder = prepared(vit)
    weights = sum(tensor.numel() * 4 for tensor in ViTModel.from_pretrained(vit).state_dict().values())
    assert len(pickle.dumps(encoder)) < weights / 10
    content = in_memory(pictures(2))
    sample = pickle.loads(pickle.dumps(encoder)).load(content)
    np.testing.assert_array_equal(sample.rows, encoder.load(content).rows)
    np.testing.assert_allclose(encoder.encode([sample], 8)[0].tokens, tokens(encoder, pictures(2)), atol=1e-6)


def test_the_same_weights_in_another_folder_are_the_same_encoder_and_other_weights_are_not(
    vit: Path, tmp_path: Path
) -> None:
    copy = checkpoints.copy_with(vit, tmp_path / "copy", lambda state: state)
    other = checkpoints.write_vit(tmp_path / "other", seed=1)
    store = FeatureStore.create(tmp_path / "store", prepared(vit).info())
    assert FeatureStore.create(store.folder, prepared(copy).info()).info == store.info
    with pytest.raises(UserError, match=r"another encoder.*weights"):
        FeatureStore.create(store.folder, prepared(other).info())
    with pytest.raises(UserError, match="pool 'cls', not 'mean'"):
        FeatureStore.create(store.folder, prepared(vit, pool="mean").info())


def test_the_command_writes_what_the_model_makes_of_the_pictures_on_disk(vit: Path, tmp_path: Path, run: Run) -> None:
    for name, n in (("2", 3), ("10", 1)):
        write_frames(tmp_path / "frames" / name, pictures(n, seed=n))
    outcome = run(
        "extract_visual_features", "--input_folder", tmp_path / "frames", "--output_folder", tmp_path / "out",
        "--model_name", vit, "--layer", 1, "--pool", "mean", "--batch_size", 2, "--precision", "float32",
    )  # fmt: skip
    assert outcome.code == 0, outcome.said
    store = FeatureStore.open(tmp_path / "out")
    assert store.clips() == ["2", "10"]
    assert (store.info.encoder, store.info.modality, store.info.source) == ("image", "visual", "frames")
    images = [read_image(tmp_path / "frames" / "2" / f"frame_{i}.jpg") for i in range(3)]
    expected = by_transformers(vit, images, output_hidden_states=True).hidden_states[1].mean(dim=1).numpy()
    np.testing.assert_allclose(store.read("2").tokens, expected, atol=1e-5)
    np.testing.assert_allclose(store.read("2").time, [0, 0.1, 0.2], atol=1e-6)


def test_the_command_takes_crops_and_masks_those_without_a_face(tmp_path: Path, run: Run) -> None:
    points = np.full((5, 2), 20.0)
    write_faces(tmp_path / "faces" / "seen", pictures(3), [points, None, points])
    write_faces(tmp_path / "faces" / "skipped", [], [])
    outcome = run(
        "extract_visual_features", "--input_folder", tmp_path / "faces", "--output_folder", tmp_path / "out",
        "--model_name", "hog",
    )  # fmt: skip
    assert outcome.code == 0, outcome.said
    store = FeatureStore.open(tmp_path / "out")
    assert store.info.source == "faces"
    assert store.read("seen").mask.tolist() == [True, False, True]
    assert store.read("skipped").mask.tolist() == [False]


def test_hog_tells_the_direction_of_edges_and_not_the_brightness() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::8], stripes[:, 1::8] = 200, 200
    encoder = HogEncoder()
    upright, darker, lying = tokens(encoder, [stripes, stripes // 2, stripes.transpose(1, 0, 2).copy()])
    assert encoder.info().width == len(upright) == 1764
    np.testing.assert_allclose(upright, darker, atol=1e-3)
    assert np.abs(upright - lying).max() > 0.1
    # Nine orientations: horizontal change fills the first, vertical change the fifth (90 degrees).
    assert upright.reshape(-1, 9).sum(axis=0).argmax() == 0
    assert lying.reshape(-1, 9).sum(axis=0).argmax() == 4
