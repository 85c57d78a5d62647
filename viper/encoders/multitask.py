"""Facial action units, by py-feat's multitask network."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from viper.encoders.base import ShortName, weights_fingerprint
from viper.encoders.claims import check_numbers
from viper.encoders.pictures import PictureEncoder, PictureSample, blank_frames
from viper.encoders.pretrained import explained, width_of
from viper.errors import UserError, first_line
from viper.media.pictures import Frames
from viper.offline import is_offline
from viper.store import EncoderInfo, Feature
from viper.weights import bounded_by, check_finite, load_state_dict, not_numbers

if TYPE_CHECKING:
    import torch

    from viper.engine.device import Runtime

PUBLISHED = "py-feat/face_multitask_v2"


class MultitaskEncoder(PictureEncoder):
    """py-feat's multitask network on face crops: 20 action units and 7 emotions, as probabilities: 27 channels.

    The crop should leave a tenth of the face box on every side (crop_images' default margin), as in its training.

    Parameters
    ----------
    weights : a local .safetensors with the network's configuration in its metadata; None: py-feat's published one.
    """

    kind: ClassVar[str] = "multitask"
    modality = "FAU"
    names = (
        ShortName("multitask", "py-feat: 20 action units and 7 emotions, 27", weights=(PUBLISHED,), is_default=True),
    )
    packages = ("feat",)
    extra = "fau"
    CHIP = 256

    def __init__(self, weights: Path | None = None) -> None:
        self.weights = weights
        self._network: Any = None

    @classmethod
    def from_record(cls, info: EncoderInfo, model: str | None) -> MultitaskEncoder:
        """Take the published weights, or those of the file that is named."""
        name = model or info.model
        return cls(None if name in (PUBLISHED, "multitask") else Path(name))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    def prepare(self, runtime: Runtime) -> None:
        """Load the network. py-feat reads other files than .safetensors by unpickling, so they are refused.

        It is not compiled: py-feat found the compiled network's action units off by up to .16 in bf16.
        """
        from viper.engine.device import DeviceBatches

        if self.weights is not None and (self.weights.suffix != ".safetensors" or not self.weights.is_file()):
            raise UserError(f"--weights {self.weights}: must be an existing .safetensors file")
        multitask = import_py_feat()
        name = str(self.weights) if self.weights else PUBLISHED
        self._precision, self._batches = runtime.precision_name, DeviceBatches(runtime)
        with explained(name, "--weights FOLDER/NAME.safetensors"):
            weights = self.weights or _published()
            _check(weights)
            self._network = multitask(device=str(runtime.device), weights_path=str(weights), amp=False)
            check_finite(self._network.model, name)
            self._names = [*self._network.au_names, *self._network.emotion_names]
            blank = self._batches.rows(self._forward, [self.rows(blank_frames())], 1)
            if (width := width_of(blank, name)) != len(self._names):
                raise UserError(f"{name}: answers {width} values, and {len(self._names)} are known by name")
        self._model_name = name
        self._fingerprint = weights_fingerprint(self._network.model)

    def info(self) -> EncoderInfo:
        """Return the weights, which decide the values, and the channels' names."""
        options = {"weights": self._fingerprint, "channels": self._names}
        return EncoderInfo(
            self.kind, self.modality, len(self._names), options, self._model_name, precision=self._precision
        )

    def rows(self, frames: Frames) -> np.ndarray:
        """Return pictures of the size py-feat cuts faces to."""
        return np.array([_resized(image, self.CHIP).transpose(2, 0, 1) for image in frames.images])

    def encode(self, samples: list[PictureSample], batch_size: int) -> list[Feature]:
        """Return one token a frame."""
        tokens = self._batches.rows(self._forward, [sample.rows for sample in samples], batch_size)
        return self.features(tokens, samples, len(self._names))

    def _forward(self, chips: torch.Tensor) -> torch.Tensor:
        import torch

        output = self._network(chips.float() / 255)
        return torch.from_numpy(np.concatenate([output.au, output.emotion], axis=1))


def _published() -> Path:
    """Return py-feat's published weights, in its own cache; nothing is fetched when offline."""
    from feat.multitask.inference import HF_REPO, HF_WEIGHTS_FILE
    from feat.utils.io import get_resource_path
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(HF_REPO, HF_WEIGHTS_FILE, cache_dir=get_resource_path(), local_files_only=is_offline()))


def _check(weights: Path) -> None:
    """Compare the configuration in a file's metadata with its weights, before py-feat builds what it says."""
    import timm
    import torch
    from feat.multitask.model_v2 import MEGraphAUv2, ModelV2Config
    from safetensors import safe_open

    state = load_state_dict(weights)
    with safe_open(weights, framework="pt") as file:
        config = json.loads((file.metadata() or {}).get("config", "null"))
    if not isinstance(config, dict):
        raise UserError(f"{weights}: has no configuration of py-feat's multitask network in its metadata")
    check_numbers(config, weights)
    backbone = config.get("backbone", ModelV2Config.backbone)
    if str(backbone).split(".")[0] not in timm.list_models():  # others are fetched, or read from anywhere
        raise UserError(f"{weights}: timm has no network {backbone!r}")
    known = {key: value for key, value in config.items() if key in ModelV2Config.__dataclass_fields__}
    with torch.device("meta"), bounded_by(state):
        planned = MEGraphAUv2(ModelV2Config(**{**known, "pretrained": False}))
    if wrong := not_numbers(state, planned):
        raise UserError(f"{weights}: {wrong[0]} must hold floating point numbers")


def import_py_feat() -> Any:
    """Return py-feat's MultitaskModel; a UserError where it, or what it needs, is missing."""
    if importlib.util.find_spec("feat") is None:
        raise UserError(
            "--model_name multitask: needs py-feat (which needs a package under the GPL): pip install 'viper[fau]', "
            "or give --model_name landmarks"
        )
    # Importing it sets OMP_NUM_THREADS for this process' children, which is not its business.
    threads = os.environ.get("OMP_NUM_THREADS")
    try:
        from feat.multitask.inference import MultitaskModel
    except ModuleNotFoundError as error:
        raise UserError(
            f"py-feat lacks {error.name}: pip install 'viper[fau]', or give --model_name landmarks"
        ) from error
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(
            "py-feat cannot be imported here, most likely because FFmpeg's shared libraries are missing (on Debian: "
            f"the package ffmpeg; {first_line(error)}). `--model_name landmarks` needs none of it"
        ) from error
    finally:
        if threads is None:
            os.environ.pop("OMP_NUM_THREADS", None)
    return MultitaskModel


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    interpolation = cv2.INTER_AREA if max(image.shape[:2]) > side else cv2.INTER_CUBIC
    return image if image.shape[:2] == (side, side) else cv2.resize(image, (side, side), interpolation=interpolation)
