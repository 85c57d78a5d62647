"""Video encoders: any transformers network that reads a window of frames at once (VideoMAE, TimeSformer, ViViT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from viper.encoders.base import MAX_TOKENS, Encoder, ShortName, check_whole, split_like, weights_fingerprint
from viper.encoders.pixels import Pixels
from viper.encoders.pretrained import (
    choose_hidden,
    config_digest,
    explained,
    is_model,
    load_config,
    load_transformers_model,
    width_of,
)
from viper.errors import UserError
from viper.media.pictures import Frames
from viper.store import EncoderInfo, Feature

if TYPE_CHECKING:
    import torch

    from viper.engine.device import Runtime

MAX_FRAMES = 512  # that a network reads at once
# The video networks that are read here, and whether they have a class token.
HAS_CLASS_TOKEN = {"videomae": False, "timesformer": True, "vivit": True}


def is_video(model: str) -> bool:
    """Return whether a checkpoint's config is a video network's: one transformers has a video classifier for."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES

    return load_config(model).model_type in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES


def window_frames(n_frames: int, n_windows: int, length: int) -> np.ndarray:
    """Return which frames of a clip its windows are made of: (n_windows, length) int64, in order.

    The clip is cut into n_windows equal parts, one after another, and each into `length`; of each of those the frame in
    its middle is taken. Where a part has fewer frames than `length` they are repeated, and where the clip has fewer
    frames than windows the windows are: a network always sees the pace of the clip.
    """
    n_slots = n_windows * length
    return ((2 * np.arange(n_slots) + 1) * n_frames // (2 * n_slots)).reshape(n_windows, length)


def show_faces(windows: np.ndarray, frames: Frames) -> np.ndarray:
    """Put the nearest frame of its window with a face in the place of each without; in place.

    A frame without a face shows something else, and one left out would make the others move faster: a still does
    neither.

    Returns
    -------
    (n_windows,) bool: False for a window in whose part of the clip no face was found; it is left as it is.
    """
    n_windows, n_frames = len(windows), len(frames.times)
    seen = np.zeros(n_windows, bool)
    for number, window in enumerate(windows):
        part = np.arange(number * n_frames // n_windows, -(-(number + 1) * n_frames // n_windows))
        found = part[frames.found[part]]
        seen[number] = len(found) > 0
        lost = ~frames.found[window]
        if seen[number] and lost.any():
            distances = np.abs(frames.times[window[lost], None] - frames.times[found])
            window[lost] = found[distances.argmin(axis=1)]
    return seen


@dataclass(frozen=True)
class WindowSample:
    """One clip's windows ready for the device.

    Attributes
    ----------
    rows : (n, 3, H, W) uint8, each picture once.
    windows : (W, F) int64, which of the rows each window with a face in it shows.
    times : (n_windows,) float64, the mean second of each window's frames.
    seen : (n_windows,) bool, True for those W with a face in them, or where none was looked for.
    """

    rows: np.ndarray
    windows: np.ndarray
    times: np.ndarray
    seen: np.ndarray

    def __len__(self) -> int:
        return len(self.windows)


class VideoEncoder(Encoder[Frames, WindowSample]):
    """A transformers video network (VideoMAE, TimeSformer, ViViT), with or without a head: one token a window.

    Parameters
    ----------
    model : hub id or local folder.
    n_windows : tokens a clip; each is made of as many frames as the network's config says (`num_frames`).
    layer : whose output: -1 the last one's, after the model's final norm; k the k-th hidden state (0: embeddings).
    pool : "cls" takes the class token, "mean" the mean of all tokens, "auto" the one the architecture's own classifier
        reads: ViViT's and TimeSformer's the class token, VideoMAE's the mean. A VideoMAE classifier norms the mean once
        more (`fc_norm`), in the place of the final norm its encoder then lacks: so does the token of its last layer.
    """

    kind: ClassVar[str] = "video"
    names = (
        ShortName("videomae-base", "VideoMAE-B, 16 frames, without labels, 768", "MCG-NJU/videomae-base"),
        ShortName("videomae-k400", "VideoMAE-B, Kinetics, 768", "MCG-NJU/videomae-base-finetuned-kinetics"),
        ShortName("timesformer-base", "TimeSformer, 8 frames, 768", "facebook/timesformer-base-finetuned-k400"),
        ShortName("vivit-base", "ViViT-B/16x2, 32 frames, 768", "google/vivit-b-16x2-kinetics400"),
    )
    packages = ("transformers",)
    own_options: ClassVar[Mapping[str, str]] = {"n_windows": "reads one frame at a time, not windows"}
    modality = "visual"
    reads: ClassVar[str] = "frames"

    def __init__(self, model: str, n_windows: int = 1, layer: int = -1, pool: str = "auto") -> None:
        check_whole("n_windows", n_windows, 1, MAX_TOKENS)
        self.model, self.n_windows, self.layer = model, n_windows, layer
        self.pool = self._pool(pool)
        self.pixels = Pixels(model, of_video=True)
        self._network: Any = None
        self._width = 0

    @classmethod
    def matches(cls, model: str) -> bool:
        """Take what its config says is a video network."""
        return is_model(model) and is_video(model)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    @cached_property
    def config(self) -> Any:
        """Return the checkpoint's config. A video network that is not supported is a UserError."""
        config = load_config(self.model)
        if config.model_type not in HAS_CLASS_TOKEN:
            known = ", ".join(HAS_CLASS_TOKEN)
            raise UserError(f"{self.model}: is a {config.model_type}; the video networks that are read are {known}")
        check_whole("num_frames", config.num_frames, 1, MAX_FRAMES)
        return config

    @property
    def length(self) -> int:
        """Return the frames the network wants in a window."""
        return int(self.config.num_frames)

    @property
    def is_classifier(self) -> bool:
        """Return whether the checkpoint has a classifier's head."""
        return any(name.endswith("ForVideoClassification") for name in self.config.architectures or [])

    def _pool(self, pool: str) -> str:
        # A VideoMAE classifier without mean pooling was trained to read its first token.
        reads_first = HAS_CLASS_TOKEN[self.config.model_type]
        reads_first |= self.is_classifier and not getattr(self.config, "use_mean_pooling", True)
        if pool == "cls" and not reads_first:
            raise UserError(f"--pool cls: {self.model} has no class token")
        return ("cls" if reads_first else "mean") if pool == "auto" else pool

    def prepare(self, runtime: Runtime) -> None:
        """Load the weights; the width is what the network answers for a black window."""
        from transformers import AutoModel, AutoModelForVideoClassification

        from viper.engine.device import MOST_ON_CPU, DeviceBatches

        # With its head a classifier's every weight has its place, and `fc_norm` can be had.
        auto_class = AutoModelForVideoClassification if self.is_classifier else AutoModel
        loaded: Any = load_transformers_model(auto_class, self.model)
        norm = getattr(loaded, "fc_norm", None) if (self.layer, self.pool) == (-1, "mean") else None
        network = _pooled(loaded.base_model, norm, self.layer, self.pool, self.model)
        self._fingerprint = weights_fingerprint(network)
        self._network, self._precision = runtime.place(network), runtime.precision_name
        self._batches = DeviceBatches(runtime, max(1, MOST_ON_CPU // self.length))
        with explained(self.model):
            self.pixels.place(runtime.device)
            blank = self.pixels.resized([np.zeros((64, 64, 3), np.uint8)])
            try:
                token = self._batches.map(self._forward, [(blank, np.zeros(self.length, np.int64))], 1)[0]
            except ValueError as error:
                raise UserError(f"{self.model}: its processor and its network do not fit ({error})") from error
            self._width = width_of(token.float().cpu().numpy(), self.model)

    def info(self) -> EncoderInfo:
        """Return what decides the values: weights, the processor's settings, layer, pooling and windows."""
        options = {
            "weights": self._fingerprint, "config": config_digest(self.model), "processor": self.pixels.digest,
            "layer": self.layer, "pool": self.pool,
            "n_windows": self.n_windows, "n_frames": self.length,
        }  # fmt: skip
        return EncoderInfo(self.kind, self.modality, self._width, options, self.model, precision=self._precision)

    def size(self, sample: WindowSample) -> int:
        """Return the number of frames that are looked at."""
        return len(sample) * self.length

    def load(self, content: Frames) -> WindowSample:
        """Choose each window's frames, and make those ready that are in any."""
        if not len(content.images):
            return WindowSample(np.zeros((0, 1), np.uint8), np.zeros((0, self.length), np.int64),
                                np.zeros(self.n_windows), np.zeros(self.n_windows, bool))  # fmt: skip
        windows = window_frames(len(content.images), self.n_windows, self.length)
        seen = show_faces(windows, content)
        used, places = np.unique(windows[seen], return_inverse=True)
        rows = self.pixels.resized([content.images[i] for i in used]) if len(used) else np.zeros((0, 1), np.uint8)
        return WindowSample(rows, places.reshape(-1, self.length), content.times[windows].mean(axis=1), seen)

    def encode(self, samples: list[WindowSample], batch_size: int) -> list[Feature]:
        """Return one token a window. Windows of any clips go through together, as many as have `batch_size` frames."""
        import torch

        windows = [(sample.rows, window) for sample in samples for window in sample.windows]
        tokens = np.zeros((len(windows), self._width), np.float32)
        if windows:
            parts = self._batches.map(self._forward, windows, max(1, batch_size // self.length))
            tokens[:] = torch.cat(parts).float().cpu().numpy()
        features = []
        for own, sample in zip(split_like(tokens, samples), samples, strict=True):
            placed = np.zeros((self.n_windows, self._width), np.float32)
            placed[sample.seen] = own
            features.append(Feature.make(placed, sample.seen, sample.times))
        return features

    def _forward(self, windows: list[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
        import torch

        pixels = torch.from_numpy(np.stack([rows[window] for rows, window in windows]))
        return self._network(self.pixels.inputs(self._batches.to_device(pixels)))


def _pooled(base: Any, norm: torch.nn.Module | None, layer: int, pool: str, model: str) -> torch.nn.Module:
    """Return a video network that makes one token (B, D) of each window's pixels (B, F, 3, H, W)."""
    import torch

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.norm = base, norm

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            output = self.base(pixel_values=pixels, output_hidden_states=layer != -1)
            hidden = choose_hidden(output, layer, model)
            tokens = hidden[:, 0] if pool == "cls" else hidden.float().mean(dim=1)
            return tokens if self.norm is None else self.norm(tokens)

    return Pooled()
