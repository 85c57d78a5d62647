"""Visual encoders: any transformers image encoder, and histograms of oriented gradients without weights."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import torch

from viper.encoders.base import Encoder, split_like, weights_fingerprint
from viper.encoders.pixels import Pixels
from viper.encoders.pretrained import choose_hidden, load_transformers_model
from viper.engine.device import DeviceBatches, Runtime
from viper.media.pictures import Frames
from viper.store import EncoderInfo, Feature


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
        self.pixels = Pixels(model)
        self._network: Any = None
        self._width = 0

    def __getstate__(self) -> dict[str, Any]:
        # Workers load pictures; what is on the device stays there, and a worker does not open the device.
        return {**self.__dict__, "_network": None}

    def prepare(self, runtime: Runtime) -> None:
        """Loads the weights; the width is what the network answers for a black picture."""
        from transformers import AutoModel

        network: Any = load_transformers_model(AutoModel, self.model)
        self._fingerprint = weights_fingerprint(network)
        network = getattr(network, "vision_model", network)
        if hasattr(network.config, "mask_ratio"):
            network.config.mask_ratio = 0.0  # a masked autoencoder (ViTMAE) would leave out most patches, at random
        if self.layer == -1 and self.pool == "cls":
            _leave_out_unread_tokens(network)
        self._network = runtime.place(network)
        self._precision, self._batches = runtime.precision_name, DeviceBatches(runtime)
        self.pixels.place(runtime.device)
        blank = self.rows(Frames([np.zeros((64, 64, 3), np.uint8)], np.zeros(1), np.ones(1, bool)))
        self._width = self._batches.rows(self._forward, [blank], 1).shape[1]

    def info(self) -> EncoderInfo:
        """Weights, the processor's settings, layer and pooling decide the values."""
        options = {
            "weights": self._fingerprint, "processor": self.pixels.digest, "layer": self.layer, "pool": self.pool,
        }  # fmt: skip
        return EncoderInfo(self.kind, self.modality, self._width, options, self.model, precision=self._precision)

    def rows(self, frames: Frames) -> np.ndarray:
        """Resizes as the model's processor does, and stays with bytes: the rest is cheaper on the device."""
        return self.pixels.resized(frames.images)

    def encode(self, samples: list[PictureSample], batch_size: int) -> list[Feature]:
        """One token a frame."""
        tokens = self._batches.rows(self._forward, [sample.rows for sample in samples], batch_size)
        return self.features(tokens, samples, self._width)

    def _forward(self, pixels: torch.Tensor) -> torch.Tensor:
        output = self._network(pixel_values=self.pixels.inputs(pixels), output_hidden_states=self.layer != -1)
        hidden = choose_hidden(output, self.layer, self.model)
        if hidden.ndim == 4:  # a convolutional network's (B, C, H, W)
            return hidden.float().mean(dim=(2, 3))
        return hidden[:, 0] if self.pool == "cls" else hidden.float().mean(dim=1)


def _leave_out_unread_tokens(network: torch.nn.Module) -> None:
    """Of a ViT of which only the class token is read: its last MLP is given no other, 6 % of the arithmetic of ViT-B.

    The other rows of the answer are then of no use. Where transformers arranges a ViT otherwise it is left as it is.
    """
    from transformers import ViTModel

    last = getattr(network, "layers", [None])[-1]
    if isinstance(network, ViTModel) and hasattr(last, "mlp"):
        last.mlp.register_forward_pre_hook(lambda module, inputs: (inputs[0][:, :1],))


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
