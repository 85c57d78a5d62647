"""Image encoders: any transformers network that reads one picture at a time."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from viper.encoders.base import ShortName, weights_fingerprint
from viper.encoders.pictures import PictureEncoder, PictureSample
from viper.encoders.pixels import INSTEAD, TRIED, Pixels
from viper.encoders.pretrained import (
    choose_hidden,
    config_digest,
    explained,
    is_model,
    load_transformers_model,
    width_of,
)
from viper.errors import UserError
from viper.media.pictures import Frames
from viper.store import EncoderInfo, Feature
from viper.weights import reason

if TYPE_CHECKING:
    import torch

    from viper.engine.device import Runtime


class ImageEncoder(PictureEncoder):
    """A transformers image encoder (ViT, DeiT, DINOv2, Swin, ConvNeXt, the vision half of CLIP ...).

    Parameters
    ----------
    model : hub id or local folder.
    layer : whose output: -1 the last one's, after the model's final norm; k the k-th hidden state (0: embeddings).
    pool : "cls" takes the class token, "mean" the mean of all tokens; "auto" what the architecture's own classifier
        reads: the class token where there is one, SigLIP's attention pooling ("head"), else the mean. Feature maps are
        always averaged.
    """

    kind: ClassVar[str] = "image"
    names = (
        ShortName("vit-base", "ViT-B/16, ImageNet-21k, 768", "google/vit-base-patch16-224-in21k", is_default=True),
        ShortName("vit-age", "ViT-B/16 trained on faces' ages, 768", "nateraw/vit-age-classifier"),
    )
    packages = ("transformers",)

    def __init__(self, model: str, layer: int = -1, pool: str = "auto") -> None:
        self.model, self.layer, self.pool = model, layer, pool
        self.pixels = Pixels(model)
        self._network: Any = None
        self._width = 0

    @classmethod
    def matches(cls, model: str) -> bool:
        """Take any model that is not a video network."""
        return is_model(model)

    def __getstate__(self) -> dict[str, Any]:
        # Workers load pictures; what is on the device stays there, and a worker does not open the device.
        return {**self.__dict__, "_network": None}

    def prepare(self, runtime: Runtime) -> None:
        """Load the weights; the width is what the network answers for a black picture."""
        import torch
        from transformers import AutoModel

        from viper.engine.device import DeviceBatches

        network: Any = load_transformers_model(AutoModel, self.model)
        self._fingerprint = weights_fingerprint(network)
        network = _seeing_half(network, self.model)
        if hasattr(network.config, "mask_ratio"):
            network.config.mask_ratio = 0.0  # a masked autoencoder (ViTMAE) would leave out most patches, at random
        with explained(self.model):
            self.pixels.place(torch.device("cpu"))
            tried = torch.from_numpy(self.pixels.resized(TRIED))
        with _explained_seeing(self.model, network), torch.inference_mode():
            self.pool = self._pool_of(network, tried)
            tokens = self._tokens(network, tried).float()
            self._width = width_of(tokens.numpy(), self.model)
            if torch.allclose(tokens[0], tokens[1], rtol=1e-6, atol=0):
                raise ValueError("two different pictures get the same vector")
        if self.layer == -1 and self.pool == "cls":
            _leave_out_unread_tokens(network)
        self._network = runtime.place(network)
        self._precision, self._batches = runtime.precision_name, DeviceBatches(runtime, side_by_side=True)
        self.pixels.place(runtime.device)

    def _pool_of(self, network: Any, pixels: torch.Tensor) -> str:
        hidden = self._hidden(network, pixels)
        if hidden.ndim != 3:
            return "mean" if self.pool == "mean" else "cls"  # maps are averaged, vectors are taken, either way
        has_class = any(_CLASS_TOKEN.search(name) for name, _ in network.named_parameters())
        if self.pool == "cls" and not has_class:
            raise UserError(f"--pool cls: {self.model} has no class token")
        if self.pool != "auto":
            return self.pool
        family = network.config.model_type
        if family in _POOLED_BY_HEAD and self.layer == -1 and getattr(network, "head", None) is not None:
            return HEAD
        reads_mean = family in _MEAN_BY_CONFIG and getattr(network.config, "use_mean_pooling", False)
        return "cls" if has_class and not reads_mean else "mean"

    def info(self) -> EncoderInfo:
        """Return what decides the values: weights, the processor's settings, layer and pooling."""
        options = {
            "weights": self._fingerprint, "config": config_digest(self.model), "processor": self.pixels.digest,
            "layer": self.layer, "pool": self.pool,
        }  # fmt: skip
        return EncoderInfo(self.kind, self.modality, self._width, options, self.model, precision=self._precision)

    def rows(self, frames: Frames) -> np.ndarray:
        """Resize as the model's processor does, and stay with bytes: the rest is cheaper on the device."""
        return self.pixels.resized(frames.images)

    def encode(self, samples: list[PictureSample], batch_size: int) -> list[Feature]:
        """Return one token a frame."""
        tokens = self._batches.rows(self._forward, [sample.rows for sample in samples], batch_size)
        return self.features(tokens, samples, self._width)

    def _forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._tokens(self._network, pixels)

    def _tokens(self, network: Any, pixels: torch.Tensor) -> torch.Tensor:
        """Return (n, width) of rows of `load`."""
        if self.pool == HEAD:
            return network(pixel_values=self.pixels.inputs(pixels)).pooler_output
        hidden = self._hidden(network, pixels)
        if hidden.ndim == 4:  # a convolutional network's (B, C, H, W)
            return hidden.float().mean(dim=(2, 3))
        if hidden.ndim == 2:
            return hidden
        return hidden[:, 0] if self.pool == "cls" else hidden.float().mean(dim=1)

    def _hidden(self, network: Any, pixels: torch.Tensor) -> torch.Tensor:
        # Asked for only where they are read: some networks do not know the word.
        more = {"output_hidden_states": True} if self.layer != -1 else {}
        output = network(pixel_values=self.pixels.inputs(pixels), **more)
        return choose_hidden(output, self.layer, self.model)


HEAD = "head"
_CLASS_TOKEN = re.compile(r"(^|[._])(cls_token|class_token|class_embedding|cls_embedding)s?$")
_POOLED_BY_HEAD = ("siglip_vision_model",)
_MEAN_BY_CONFIG = ("beit", "data2vec-vision")


def _seeing_half(network: Any, model: str) -> Any:
    """Return the part of a network that sees; a network that finds things in pictures is a UserError."""
    from transformers.models.auto import modeling_auto as auto

    family = network.config.model_type
    finding = (
        auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES, auto.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES,
        auto.MODEL_FOR_KEYPOINT_DETECTION_MAPPING_NAMES, auto.MODEL_FOR_KEYPOINT_MATCHING_MAPPING_NAMES,
    )  # fmt: skip
    if any(family in names for names in finding) and family not in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        raise UserError(f"{model}: {family} finds things in pictures, and has no vector of a whole one; {INSTEAD}")
    if hasattr(getattr(network, "vision_model", None), "config"):
        return network.vision_model
    half = network.get_encoder(modality="image")
    return half if half is not None and hasattr(half, "config") else network


@contextlib.contextmanager
def _explained_seeing(model: str, network: Any) -> Iterator[None]:
    """Turn whatever a network raises over its first pictures into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # networks raise anything
        family = network.config.model_type
        raise UserError(f"{model}: a {family} cannot read pictures alone ({reason(error)}); {INSTEAD}") from error


def _leave_out_unread_tokens(network: torch.nn.Module) -> None:
    """Give the last MLP of a ViT only the class token, where nothing else is read: saves 6 % of ViT-B's arithmetic.

    The other rows of the answer are then of no use. Where transformers arranges a ViT otherwise it is left as it is.
    """
    from transformers import ViTModel

    last = getattr(network, "layers", [None])[-1]
    if isinstance(network, ViTModel) and hasattr(last, "mlp"):
        last.mlp.register_forward_pre_hook(lambda module, inputs: (inputs[0][:, :1],))
