"""The encoder of an encoder.json built again: the features it makes in memory are those on disk."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import write_timesformer, write_videomae, write_vit, write_vivit
from many import IS_LONG

from viper.commands import crop_images as faces
from viper.commands import extract_features as extract
from viper.commands import get_frame as frames
from viper.demo import Identity, write_clip
from viper.encoders.registry import in_words_of, recorded_encoder
from viper.engine.device import Runtime
from viper.errors import UserError
from viper.inference.reader import ClipReader, PictureSource, Source, source_of
from viper.media.faces.crop import FOLLOWING, CropOptions
from viper.media.pictures import write_record
from viper.media.sampling import FrameRule
from viper.store import ENCODER_FILE, EncoderInfo, FeatureStore

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
        assert frames.run(frames.GetFrameOptions(**given, **rule)) == 0
    for name, options in {"uniform": {}, "events": {"margin": 0.3, "image_size": 96, "min_face_size": 30}}.items():
        given = {"input_folder": folder / f"frames_{name}", "output_folder": folder / f"faces_{name}", "n_workers": 0}
        assert faces.run(faces.CropImagesOptions(**given, **options, device="cpu")) == 0
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
    config = getattr(extract, f"{command}Options")
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

# Like another of the kind in all that matters here, but for their own arithmetic.
ONLY_LONG = ("layer", "timesformer", "vivit", "speech")


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


@pytest.mark.parametrize("name", [name for name in NETWORKS if IS_LONG or name not in ONLY_LONG])
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


# The record


def test_encoder_json_says_how_its_pictures_were_made(root: Path, tmp_path: Path) -> None:
    store = extracted(root, tmp_path / "deep" / "features", "Visual", "faces_events", model_name="hog")
    sampling = {"method": "events", "n_frames": N_FRAMES}
    assert sampling.items() <= store.info.inputs["sampling"].items()
    faces_options = {"margin": 0.3, "min_face_size": 30, "image_size": 96, "no_face": "whole", "following": FOLLOWING}
    assert store.info.inputs["faces"] == faces_options
    assert (store.folder / store.info.input_folder).resolve() == (root / "faces_events").resolve()
    assert not Path(store.info.input_folder).is_absolute()
    assert store.info.command == ""  # the stage was called from Python; test_pipeline.py has one that was typed
    sound = extracted(root, tmp_path / "sound", "Audio", "videos", model_name="logmel").info
    assert (sound.inputs, Path(sound.input_folder).name) == ({"sound": {"track": None}}, "videos")


def test_the_record_follows_the_pictures(root: Path, tmp_path: Path) -> None:
    """A folder of crops that is made again in another way: encoder.json must not tell of the old one."""
    crops = Path(shutil.copytree(root / "faces_events", tmp_path / "faces"))
    config = extract.VisualOptions(input_folder=crops, output_folder=tmp_path / "out", model_name="hog", n_workers=0)
    assert extract.run(config) == 0
    before = FeatureStore.open(tmp_path / "out").info
    shutil.rmtree(crops)
    shutil.copytree(root / "faces_uniform", crops)
    assert extract.run(config) == 0
    after = FeatureStore.open(tmp_path / "out").info
    assert before.inputs["sampling"]["method"] == "events"
    assert after.inputs["sampling"] == {"method": "uniform", "n_frames": N_FRAMES}
    assert after.identity == before.identity


def test_records_of_before_are_read_and_kept(root: Path, tmp_path: Path) -> None:
    """What an older version wrote says nothing of sampling, and is neither refused nor made again for it."""
    crops = Path(shutil.copytree(root / "faces_uniform", tmp_path / "faces"))
    record = json.loads((crops / CLIP / "faces.json").read_text())
    del record["sampling"], record["content"]
    write_record(crops / CLIP, "faces.json", record)
    written = (crops / CLIP / "faces.json").stat().st_mtime_ns
    given = {"input_folder": root / "frames_uniform", "output_folder": crops, "n_workers": 0}
    assert faces.run(faces.CropImagesOptions(**given, device="cpu")) == 0
    assert (crops / CLIP / "faces.json").stat().st_mtime_ns == written
    config = extract.VisualOptions(input_folder=crops, output_folder=tmp_path / "out", model_name="hog", n_workers=0)
    assert extract.run(config) == 0
    card = json.loads((tmp_path / "out" / ENCODER_FILE).read_text())
    assert "sampling" not in card["inputs"]
    for name in ("settings", "inputs", "input_folder", "command"):
        del card[name]
    (tmp_path / "out" / ENCODER_FILE).write_text(json.dumps(card))
    store = FeatureStore.open(tmp_path / "out")
    assert store.problem(CLIP, verify=True) is None
    assert source_of(store.info) == (PictureSource(FrameRule(), CropOptions()), False)


@pytest.mark.parametrize(
    ("record", "is_known"),
    [
        ({"method": "uniform", "n_frames": 3}, True),
        ({"method": "fps", "n_frames": None, "fps": 2.5}, True),
        (FrameRule("events", 7).record(), True),
        ({**FrameRule("events", 7).record(), "sigma": 0.3}, False),
        ({"method": "uniform", "n_frames": 0}, False),
        ({"method": "fps", "n_frames": None, "fps": "2"}, False),
        ({"method": "by heart", "n_frames": 3}, False),
        ({}, False),
    ],
)
def test_a_rule_comes_back_from_its_record(record: dict[str, Any], is_known: bool) -> None:
    if is_known:
        assert FrameRule.from_record(json.loads(json.dumps(record))).record() == record
    else:
        with pytest.raises(UserError, match="in a way that this version of viper does not know"):
            FrameRule.from_record(record)


# What cannot be built again


def test_weights_that_have_moved_are_named(vit: Path, tmp_path: Path) -> None:
    here = Path(shutil.copytree(vit, tmp_path / "here"))
    info = dataclasses.replace(prepared_info(here), source="faces")
    shutil.move(here, tmp_path / "there")
    with pytest.raises(UserError) as error:
        recorded_encoder(info, CPU)
    assert in_words_of(error.value, "visual") == (
        f"{here}: no such folder; a model is a short name, a hub id (owner/name) or a local folder; give the one it "
        "was made with: --models visual=FOLDER"
    )
    recorded_encoder(info, CPU, str(tmp_path / "there"))


def test_other_weights_are_not_taken(vit: Path, tmp_path: Path) -> None:
    info = dataclasses.replace(prepared_info(vit), source="faces")
    other = write_vit(tmp_path / "other", seed=1)
    with pytest.raises(UserError) as error:
        recorded_encoder(info, CPU, str(other))
    said = in_words_of(error.value, "visual")
    assert said.startswith("the encoder here does not match the one that made its features (weights ")
    assert said.endswith("; give the one it was made with: --models visual=FOLDER")


def test_weights_of_the_hub_that_are_not_here(vit: Path) -> None:
    info = dataclasses.replace(prepared_info(vit), source="faces", model="somebody/something")
    with pytest.raises(UserError) as error:
        recorded_encoder(info, CPU)
    said = in_words_of(error.value, "visual")
    assert "weights for 'somebody/something' are not available on this machine" in said
    assert said.endswith("copy the folder here and give `--models visual=FOLDER`")


def test_an_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What predict says of it names no option that predict lacks, and asks for no other model."""
    info = EncoderInfo("multitask", "FAU", 27, {}, "py-feat/face_multitask_v2", source="faces")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        recorded_encoder(info, CPU)
    assert in_words_of(error.value, "FAU") == (
        "multitask: needs py-feat (which needs a package under the GPL): pip install 'viper[fau]'"
    )


def test_prompts_have_two_models(root: Path, roberta: Path, clip: Path, tmp_path: Path) -> None:
    options = {"model_name": str(roberta), "clip_model": str(clip)}
    info = extracted(root, tmp_path / "out", "Textual", "frames_uniform", **options).info
    moved = dataclasses.replace(info, settings={**info.settings, "clip_model": "gone", "text_model": "gone"})
    assert recorded_encoder(moved, CPU, f"{clip} + {roberta}").info().identity
    with pytest.raises(UserError, match=r"there are two models, write them as 'CLIP \+ TEXT'"):
        recorded_encoder(info, CPU, str(clip))
    with pytest.raises(UserError, match="the prompts of its features were not recorded"):
        recorded_encoder(dataclasses.replace(info, settings={}), CPU)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (EncoderInfo("imported", "visual", 3, source="files"), "made elsewhere and brought in"),
        (
            EncoderInfo("telepathy", "visual", 3, source="faces"),
            "an encoder 'telepathy' that this version of viper lacks",
        ),
        (
            EncoderInfo("logmel", "audio", 192, {"bands": 64}, source="sound"),
            "the record of its encoder is not complete",
        ),
        (EncoderInfo("logmel", "audio", 192, {"bands": 32, "n_fragments": 4}, source="sound"), "bands 32, not 64"),
        (
            EncoderInfo("loud", "audio", 1, {"source_code": "1", "arguments": {}}, "loud.py:Loud", "sound"),
            "a user's own encoder, loud.py:Loud; give --models NAME=FILE.py:Class",
        ),
    ],
)
def test_what_no_encoder_here_can_make(info: EncoderInfo, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recorded_encoder(info, CPU)


def test_a_users_own_encoder_is_run_when_the_user_names_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "bright.py").write_text(
        "import numpy as np\n"
        "from viper import Encoder, EncoderInfo, Feature\n"
        "class Bright(Encoder):\n"
        "    modality = 'bright'\n"
        "    reads = 'frames'\n"
        "    def info(self):\n"
        "        return EncoderInfo('bright', 'bright', 1)\n"
        "    def load(self, content):\n"
        "        return content\n"
        "    def encode(self, samples, batch_size):\n"
        "        return [Feature.make([[i.mean()] for i in s.images], s.found, s.times) for s in samples]\n"
    )
    name = f"{tmp_path / 'bright.py'}:Bright"
    store = extracted(root, tmp_path / "out", "Visual", "faces_uniform", model_name=name)
    encoder = recorded_encoder(store.info, CPU, name)
    content = ClipReader([source_of(store.info)[0]], "cpu").read(root / "videos" / f"{CLIP}.mp4")
    (feature,) = encoder.encode([encoder.load(next(iter(content.contents.values())))], 8)
    np.testing.assert_array_equal(feature.tokens, store.read(CLIP).tokens)
    with pytest.raises(UserError, match="own encoder"):
        recorded_encoder(store.info, CPU)


def prepared_info(model: Path) -> EncoderInfo:
    """What a ViT's encoder.json says."""
    from viper.encoders.image import ImageEncoder

    encoder = ImageEncoder(str(model))
    encoder.prepare(CPU)
    return encoder.info()
