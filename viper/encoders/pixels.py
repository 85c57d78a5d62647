"""Make pictures ready for a network as its own processor does: bytes on the host, arithmetic on the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from viper.encoders.pretrained import explained, load_processor
from viper.errors import UserError
from viper.files import digest_of
from viper.weights import reason

if TYPE_CHECKING:
    import torch

# What of a processor's settings changes a picture; the rest is bookkeeping of the library's version.
_SETTINGS = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "offset",
             "do_normalize", "image_mean", "image_std")  # fmt: skip
# Processors that do more are known by all of their settings but names and the kind of arrays they make.
_NAMES = ("image_processor_type", "processor_class", "feature_extractor_type", "return_tensors", "data_format",
          "device", "dtype", "disable_grouping", "input_data_format", "image_processor_class",
          "transformers_version")  # fmt: skip
INSTEAD = "take an image encoder, such as google/vit-base-patch16-224-in21k"


def _tried() -> list[np.ndarray]:
    """Return two pictures of different shapes, with every colour, light and shade, on which a processor is tried."""
    pictures = []
    for height, width in ((48, 64), (64, 40)):
        y, x = np.mgrid[:height, :width].astype(np.float64)
        colours = [(x * 4 + y) % 256, (y * 5 + x * x / 9) % 256, 127.5 + 127.5 * np.sin(x / 5) * np.cos(y / 7)]
        pictures.append(np.stack(colours, axis=-1).astype(np.uint8))
    return pictures


TRIED = _tried()


class Pixels:
    """A checkpoint's processor in two halves: `resized` is host work, `inputs` is the device's.

    Where a processor does more than resize, crop, scale and normalise (EfficientNet's normalises twice), which is found
    out by trying both ways on a picture, all of its work is the host's, and rows are float32.

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
        settings = self.processor.to_dict()
        if self.is_plain:
            return digest_of({key: value for key, value in settings.items() if key in _SETTINGS})
        return digest_of({key: value for key, value in settings.items() if key not in _NAMES})

    @cached_property
    def is_plain(self) -> bool:
        """Return whether scaling and normalising bytes gives what the whole processor gives, but for their rounding."""
        import torch

        if self.of_video:
            return True
        try:
            scale, mean, std = self._arithmetic()
            apart = (torch.from_numpy(self._bytes(TRIED)).float() * scale - mean) / std
        except (AttributeError, KeyError, TypeError, ValueError):
            return False
        whole = self._whole(TRIED)
        return whole.shape == apart.shape and bool(
            ((torch.from_numpy(whole) - apart).abs() <= 1.01 * scale / std).all()
        )

    def resized(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return (n, 3, H, W) uint8 of at least one picture, resized and cropped as the processor does.

        float32, all done, where the processor is not plain.
        """
        return self._bytes(images) if self.is_plain else self._whole(images)

    def _whole(self, images: Sequence[np.ndarray]) -> np.ndarray:
        try:
            made = self.processor(list(images), return_tensors="pt")
        except (TypeError, ValueError) as error:  # pictures of several sizes, or that want a text, or lines on them
            raise UserError(
                f"{self.model}: its processor ({type(self.processor).__name__}) does not make pictures of one size "
                f"({reason(error)}); {INSTEAD}"
            ) from error
        pixels = made.get("pixel_values")
        if pixels is None or isinstance(pixels, list) or pixels.ndim != 4 or pixels.shape[1] != 3:
            shape = f"pixel_values {tuple(pixels.shape)}" if hasattr(pixels, "shape") else ", ".join(made)
            raise UserError(
                f"{self.model}: its processor ({type(self.processor).__name__}) makes {shape} of {len(images)} "
                f"pictures, not as many of one size; {INSTEAD}"
            )
        return np.asarray(pixels.float().numpy())

    def _bytes(self, images: Sequence[np.ndarray]) -> np.ndarray:
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

        self._scale, mean, std = self._arithmetic() if self.is_plain else (1.0, torch.zeros(3), torch.ones(3))
        self._mean, self._std = mean.to(device).view(3, 1, 1), std.to(device).view(3, 1, 1)

    def _arithmetic(self) -> tuple[float, torch.Tensor, torch.Tensor]:
        """Return the scale, and what is then taken off and divided by (3, 1, 1)."""
        import torch

        processor = self.processor
        mean = torch.tensor(processor.image_mean if processor.do_normalize else [0.0] * 3)
        std = torch.tensor(processor.image_std if processor.do_normalize else [1.0] * 3)
        if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
            raise UserError(f"{self.model}: image_mean and image_std must be three numbers each, image_std above 0")
        # ViViT's processors scale to [0, 2] and take 1 off, before they normalise as others do. That of videos, which
        # older versions of transformers 5 lack, has no option for it.
        has_offset = getattr(processor, "offset", type(processor).__name__ == "VivitVideoProcessor")
        shift = 1.0 if has_offset and processor.do_rescale else 0.0
        scale = processor.rescale_factor if processor.do_rescale else 1.0
        return scale, (mean + shift).view(3, 1, 1), std.view(3, 1, 1)

    def inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return these (..., 3, H, W) uint8 as the processor gives them to the network: scaled, normalised, float32.

        What `resized` has done already is not done again.
        """
        if not self.is_plain:
            return pixels
        return (pixels.float() * self._scale - self._mean) / self._std
