"""Make pictures ready for a network as its own processor does: bytes on the host, arithmetic on the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from viper.encoders.pretrained import explained, load_processor
from viper.errors import UserError
from viper.files import digest_of

if TYPE_CHECKING:
    import torch

# What of a processor's settings changes a picture; the rest is bookkeeping of the library's version.
_SETTINGS = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "offset",
             "do_normalize", "image_mean", "image_std")  # fmt: skip


class Pixels:
    """A checkpoint's processor in two halves: `resized` is host work, `inputs` is the device's.

    Parameters
    ----------
    model : hub id or local folder.
    of_video : whether the processor of a video network is wanted. Most checkpoints have one of images, which is taken
        where it is there: the video processor that stands for ViViT's does not know its `offset`, and rounds otherwise.
    """

    def __init__(self, model: str, of_video: bool = False) -> None:
        self.model, self.of_video = model, of_video

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mean": None, "_std": None}

    @cached_property
    def processor(self) -> Any:
        """Return the model's own processor."""
        from transformers import AutoImageProcessor, AutoVideoProcessor

        with explained(self.model):
            try:
                return load_processor(AutoImageProcessor, self.model)
            except OSError:
                if not self.of_video:
                    raise
                return load_processor(AutoVideoProcessor, self.model)

    @property
    def digest(self) -> str:
        """Return a digest of the settings that change a picture."""
        return digest_of({key: value for key, value in self.processor.to_dict().items() if key in _SETTINGS})

    def resized(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return (n, 3, H, W) uint8 of at least one picture, resized and cropped as the processor does."""
        import torch

        keep = {"do_rescale": False, "do_normalize": False}
        if hasattr(self.processor, "offset"):
            keep["offset"] = False
        pixels = self.processor(list(images), **keep, return_tensors="pt")["pixel_values"]
        if pixels.ndim == 5:  # one clip of n frames
            pixels = pixels[0]
        if pixels.dtype != torch.uint8:
            pixels = pixels.round().clamp(0, 255).to(torch.uint8)
        return pixels.numpy()

    def place(self, device: torch.device) -> None:
        """Make `inputs` ready for that device."""
        import torch

        processor = self.processor
        mean = torch.tensor(processor.image_mean if processor.do_normalize else [0.0] * 3, device=device)
        std = torch.tensor(processor.image_std if processor.do_normalize else [1.0] * 3, device=device)
        if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
            raise UserError(f"{self.model}: image_mean and image_std must be three numbers each, image_std above 0")
        self._scale = processor.rescale_factor if processor.do_rescale else 1.0
        # ViViT's processors scale to [0, 2] and take 1 off, before they normalise as others do. That of videos, which
        # older versions of transformers 5 lack, has no option for it.
        has_offset = getattr(processor, "offset", type(processor).__name__ == "VivitVideoProcessor")
        shift = 1.0 if has_offset and processor.do_rescale else 0.0
        self._mean, self._std = (mean + shift).view(3, 1, 1), std.view(3, 1, 1)

    def inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return these (..., 3, H, W) uint8 as the processor gives them to the network: scaled, normalised, float32."""
        return (pixels.float() * self._scale - self._mean) / self._std
