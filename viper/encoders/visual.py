"""Visual encoders: any transformers image encoder, and histograms of oriented gradients without weights."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import cv2
import numpy as np
import torch

from viper.encoders.base import Encoder, split_like, weights_fingerprint
from viper.encoders.pretrained import (
    choose_hidden,
    explained,
    is_offline,
    load_transformers_model,
    local_or_hub,
)
from viper.encoders.runtime import DeviceBatches, Runtime
from viper.files import digest_of
from viper.logs import quiet_transformers
from viper.media.frames import Frames
from viper.store import EncoderInfo, Feature

# What of an image processor's settings changes a picture; the rest is bookkeeping of the library's version.
_PROCESSOR_KEYS = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor",
                   "do_normalize", "image_mean", "image_std")  # fmt: skip


@dataclass(frozen=True)
class PictureSample:
    """One clip's pictures ready for the device, with the times and the mask of its T frames.

    `rows` is (n, 3, H, W) uint8 for a network, or (n, D) float32 where the host did all of the work: of the n frames
    that are `found` only. The token of another frame is masked, whatever is in the picture.
    """

    rows: np.ndarray
    times: np.ndarray
    found: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


class PictureEncoder(Encoder[Frames, PictureSample]):
    """An encoder of pictures: one token a frame, masked where no face was found."""

    modality = "visual"
    reads: ClassVar[str] = "frames"

    def size(self, sample: PictureSample) -> int:
        """Frames that are looked at."""
        return len(sample)

    def load(self, content: Frames) -> PictureSample:
        """Makes the pictures ready that a face was found in, or not looked for."""
        seen = content.seen()
        rows = self.rows(seen) if len(seen.images) else np.zeros((0, 1), np.float32)
        return PictureSample(rows, content.times, content.found)

    @abstractmethod
    def rows(self, frames: Frames) -> np.ndarray:
        """What `load` makes of at least one picture: see PictureSample."""

    @staticmethod
    def features(tokens: np.ndarray, samples: list[PictureSample], width: int) -> list[Feature]:
        """Puts the tokens of all samples' rows in the places of their frames; a clip without frames is absent."""
        features = []
        for own, sample in zip(split_like(tokens, samples), samples, strict=True):
            placed = np.zeros((len(sample.times), width), np.float32)
            placed[sample.found] = own
            features.append(Feature.make(placed, sample.found, sample.times) if len(placed) else Feature.absent(width))
        return features

    def on_host(self, samples: list[PictureSample]) -> list[Feature]:
        """The features of an encoder whose `load` did all of the work."""
        width = self.info().width
        return self.features(np.concatenate([sample.rows.reshape(-1, width) for sample in samples]), samples, width)


class ImageEncoder(PictureEncoder):
    """A transformers image encoder (ViT, DeiT, DINOv2, Swin, ConvNeXt, the vision half of CLIP ...).

    Parameters
    ----------
    model : hub id or local folder.
    layer : whose output: -1 the last one's, after the model's final norm; k the k-th hidden state (0: embeddings).
    pool : "cls" takes the class token, "mean" the mean of all tokens; feature maps are always averaged.
    """

    kind: ClassVar[str] = "image"

    def __init__(self, model: str, layer: int = -1, pool: str = "cls") -> None:
        self.model, self.layer, self.pool = model, layer, pool
        self._network: Any = None
        self._width = 0

    def __getstate__(self) -> dict[str, Any]:
        # Workers load pictures; the weights stay on the device's side.
        return {**self.__dict__, "_network": None}

    @cached_property
    def processor(self) -> Any:
        """The model's own image processor: resizing and normalisation are its."""
        from transformers import AutoImageProcessor

        with quiet_transformers(), explained(self.model):
            return AutoImageProcessor.from_pretrained(local_or_hub(self.model), local_files_only=is_offline())

    def prepare(self, runtime: Runtime) -> None:
        """Loads the weights; the width is what the network answers for a black picture."""
        from transformers import AutoModel

        network: Any = load_transformers_model(AutoModel, self.model)
        self._fingerprint = weights_fingerprint(network)
        self._network = runtime.place(getattr(network, "vision_model", network))
        self._precision, self._batches = runtime.precision_name, DeviceBatches(runtime)
        self._scale, self._mean, self._std = self._normalization(runtime.device)
        blank = self.rows(Frames([np.zeros((64, 64, 3), np.uint8)], np.zeros(1), np.ones(1, bool)))
        self._width = self._batches.rows(self._forward, [blank], 1).shape[1]

    def _normalization(self, device: torch.device) -> tuple[float, torch.Tensor, torch.Tensor]:
        processor = self.processor
        scale = processor.rescale_factor if processor.do_rescale else 1.0
        normalize = processor.do_normalize
        mean = torch.tensor(processor.image_mean if normalize else [0.0] * 3, device=device)
        std = torch.tensor(processor.image_std if normalize else [1.0] * 3, device=device)
        return scale, mean.view(3, 1, 1), std.view(3, 1, 1)

    def info(self) -> EncoderInfo:
        """Weights, the processor's settings, layer and pooling decide the values."""
        settings = {key: value for key, value in self.processor.to_dict().items() if key in _PROCESSOR_KEYS}
        options = {
            "weights": self._fingerprint, "processor": digest_of(settings), "layer": self.layer, "pool": self.pool,
        }  # fmt: skip
        return EncoderInfo(self.kind, self.modality, self._width, options, self.model, precision=self._precision)

    def rows(self, frames: Frames) -> np.ndarray:
        """Resizes as the model's processor does, and stays with bytes: the rest is cheaper on the device."""
        batch = self.processor(list(frames.images), do_rescale=False, do_normalize=False, return_tensors="pt")
        pixels = batch["pixel_values"]
        if pixels.dtype != torch.uint8:
            pixels = pixels.round().clamp(0, 255).to(torch.uint8)
        return pixels.numpy()

    def encode(self, samples: list[PictureSample], batch_size: int) -> list[Feature]:
        """One token a frame."""
        tokens = self._batches.rows(self._forward, [sample.rows for sample in samples], batch_size)
        return self.features(tokens, samples, self._width)

    def inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the processor would give the network for these (n, 3, H, W) uint8: scaled and normalised, float32."""
        return (pixels.float() * self._scale - self._mean) / self._std

    def _forward(self, pixels: torch.Tensor) -> torch.Tensor:
        output = self._network(pixel_values=self.inputs(pixels), output_hidden_states=self.layer != -1)
        hidden = choose_hidden(output, self.layer, self.model)
        if hidden.ndim == 4:  # a convolutional network's (B, C, H, W)
            return hidden.float().mean(dim=(2, 3))
        return hidden[:, 0] if self.pool == "cls" else hidden.float().mean(dim=1)


class HogEncoder(PictureEncoder):
    """Histograms of oriented gradients (Dalal and Triggs 2005) of the grey picture at 64 x 64: no weights.

    9 orientations in cells of 8 x 8 pixels, normalised in blocks of 2 x 2 cells: 1764 channels.
    """

    kind: ClassVar[str] = "hog"
    SIDE = 64
    CELL = 8
    BLOCK = 2
    ORIENTATIONS = 9

    def info(self) -> EncoderInfo:
        """The geometry decides the values."""
        blocks = self.SIDE // self.CELL - self.BLOCK + 1
        width = blocks * blocks * self.BLOCK * self.BLOCK * self.ORIENTATIONS
        return EncoderInfo(self.kind, self.modality, width, {"side": self.SIDE, "cell": self.CELL, "block": self.BLOCK})

    def rows(self, frames: Frames) -> np.ndarray:
        """All of the work: it needs no device."""
        from skimage.feature import hog

        rows = []
        for image in frames.images:
            grey = cv2.resize(
                cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (self.SIDE, self.SIDE), interpolation=cv2.INTER_AREA
            )
            rows.append(hog(grey, self.ORIENTATIONS, (self.CELL, self.CELL), (self.BLOCK, self.BLOCK)))
        return np.array(rows, np.float32)

    def encode(self, samples: list[PictureSample], batch_size: int) -> list[Feature]:
        """Hands on what `load` made."""
        return self.on_host(samples)
