"""The encoder of an encoder.json built again: the features it makes in memory are those on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import write_timesformer, write_videomae, write_vivit

from viper.encoders.recorded import recorded_encoder
from viper.encoders.runtime import Runtime
from viper.inference.reader import ClipReader, Source, source_of
from viper.stages import extract, faces, frames
from viper.store import FeatureStore
from viper.synth import Identity, write_clip

CPU = Runtime(torch.device("cpu"))
CLIP = "7"
N_FRAMES = 5


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip with subtitles, its frames by several rules, and crops of them."""
    folder = tmp_path_factory.mktemp("recorded")
    for name in ("videos", "subtitles"):
        (folder / name).mkdir()
    words = folder / "subtitles" / f"{CLIP}.srt"
    identity = Identity.from_seed(3, name="somebody")
    write_clip(folder / "videos" / f"{CLIP}.mp4", {"Amusement": 0.9, "Fear": 0.4}, identity, 5, 1.5, subtitles=words)
    rules: dict[str, Any] = {
        "uniform": {"n_frames": N_FRAMES}, "fps": {"sampling": "fps", "fps": 4.0},
        "events": {"sampling": "events", "n_frames": N_FRAMES}, "stimuvar": {"sampling": "stimuvar", "n_frames": 6},
    }  # fmt: skip
    for name, rule in rules.items():
        given = {"input_folder": folder / "videos", "output_folder": folder / f"frames_{name}", "n_workers": 0}
        assert frames.run(frames.GetFrameConfig(**given, **rule)) == 0
    for name, options in {"uniform": {}, "events": {"margin": 0.3, "image_size": 96, "min_face_size": 30}}.items():
        given = {"input_folder": folder / f"frames_{name}", "output_folder": folder / f"faces_{name}", "n_workers": 0}
        assert faces.run(faces.CropImagesConfig(**given, **options, device="cpu")) == 0
    return folder


@pytest.fixture(scope="module")
def contents(root: Path) -> Callable[[Source], Any]:
    """What is read in memory, by source; each is read once."""
    known: dict[Source, Any] = {}

    def read(source: Source) -> Any:
        if source not in known:
            video, words = root / "videos" / f"{CLIP}.mp4", root / "subtitles"
            known[source] = ClipReader([source], "cpu").read(video, words).contents[source]
        return known[source]

    return read


def extracted(root: Path, out: Path, command: str, read: str, **options: Any) -> FeatureStore:
    """The store an extracting command makes."""
    config = getattr(extract, f"{command}Config")
    if read == "subtitles":
        options["subtitles"] = root / read
    else:
        options["input_folder"] = root / read
    assert extract.run(config(output_folder=out, device="cpu", precision="float32", n_workers=0, **options)) == 0
    return FeatureStore.open(out)


# What the commands are given, and whether there is a network in it, whose sums depend on the batch in the last bits.
WEIGHT_FREE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "hog": ("Visual", "faces_uniform", {"model_name": "hog"}),
    "hog of frames": ("Visual", "frames_uniform", {"model_name": "hog"}),
    "hog of frames a second": ("Visual", "frames_fps", {"model_name": "hog"}),
    "hog of events": ("Visual", "frames_events", {"model_name": "hog"}),
    "hog of stimuvar's events": ("Visual", "frames_stimuvar", {"model_name": "hog"}),
    "landmarks": ("FAU", "faces_uniform", {"model_name": "landmarks"}),
    "landmarks of other crops": ("FAU", "faces_events", {"model_name": "landmarks"}),
    "logmel": ("Audio", "videos", {"model_name": "logmel", "n_fragments": 4}),
    "acoustic": ("Audio", "videos", {"model_name": "acoustic", "n_fragments": 3, "fragment_seconds": 0.6}),
    "hashed": ("Textual", "subtitles", {"model_name": "hashed"}),
}
NETWORKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("Visual", "faces_uniform", {"model_name": "vit"}),
    "layer": ("Visual", "faces_events", {"model_name": "vit", "layer": 1, "pool": "mean"}),
    "videomae": ("Visual", "faces_uniform", {"model_name": write_videomae, "n_windows": 2}),
    "timesformer": ("Visual", "frames_uniform", {"model_name": write_timesformer}),
    "vivit": ("Visual", "faces_uniform", {"model_name": write_vivit, "layer": 1}),
    "multitask": ("FAU", "faces_uniform", {"weights": "multitask"}),
    "xvector": ("Audio", "videos", {"model_name": "xvector", "n_fragments": 4}),
    "speech": ("Audio", "videos", {"model_name": "wav2vec2", "n_fragments": 3, "layer": 1, "pool": "meanstd"}),
    "roberta": ("Textual", "subtitles", {"model_name": "roberta"}),
    "prompts": ("Textual", "faces_uniform", {"model_name": "roberta", "clip_model": "clip"}),
}


def compared(store: FeatureStore, contents: Callable[[Source], Any], tolerance: float) -> None:
    """The store's feature of the clip, and that of its encoder, built again from encoder.json."""
    source, is_recorded = source_of(store.info)
    assert is_recorded
    encoder = recorded_encoder(store.info, CPU)
    (feature,) = encoder.encode([encoder.load(contents(source))], 64)
    expected = store.read(CLIP)
    assert expected.mask.any()
    np.testing.assert_array_equal(feature.mask, expected.mask)
    np.testing.assert_array_equal(feature.time, expected.time)
    np.testing.assert_allclose(feature.tokens, expected.tokens, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", WEIGHT_FREE)
def test_features_without_weights_are_the_same_to_the_bit(
    name: str, root: Path, contents: Callable[[Source], Any], tmp_path: Path
) -> None:
    command, read, options = WEIGHT_FREE[name]
    compared(extracted(root, tmp_path / "features", command, read, **options), contents, 0.0)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_of_networks_are_the_same(
    name: str, root: Path, contents: Callable[[Source], Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    command, read, options = NETWORKS[name]
    given: dict[str, Any] = {}
    for option, value in options.items():
        if callable(value):
            given[option] = str(value(tmp_path / "model"))
        elif option in ("model_name", "weights", "clip_model"):
            given[option] = (
                request.getfixturevalue(value) if option == "weights" else str(request.getfixturevalue(value))
            )
        else:
            given[option] = value
    compared(extracted(root, tmp_path / "features", command, read, **given), contents, 1e-5)
