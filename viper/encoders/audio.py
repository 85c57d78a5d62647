"""Audio encoders with weights (any transformers speech encoder), and the windows that all audio encoders cut."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from viper.encoders.base import Encoder, split_like, weights_fingerprint
from viper.encoders.pretrained import (
    choose_hidden,
    explained,
    is_offline,
    load_config,
    load_transformers_model,
    local_or_hub,
)
from viper.engine.device import DeviceBatches, Runtime
from viper.errors import UserError
from viper.logs import quiet_transformers
from viper.media.sampling import window_bounds
from viper.media.sound import Sound
from viper.store import EncoderInfo, Feature

# The receptive field of a WavLM x-vector is about 0.3 s: a shorter window would leave its statistics nothing to pool.
MIN_WINDOW_SECONDS = 0.4


@dataclass(frozen=True)
class SoundSample:
    """One clip's windows, each a row of its own length, and the second in the middle of each. No sound: no windows."""

    windows: list[np.ndarray]
    times: np.ndarray

    def __len__(self) -> int:
        return len(self.windows)


class WindowEncoder(Encoder["Sound | None", SoundSample]):
    """An encoder of sound: one token a window; n_fragments half-overlapping windows a clip.

    Parameters
    ----------
    n_fragments : windows a clip.
    fragment_seconds : where given, no window is longer than this (it is cut at its end); a shorter window stays as it
        is: zeros added to it would change its embedding, so none are.
    """

    modality = "audio"
    reads: ClassVar[str] = "sound"

    def __init__(self, n_fragments: int = 32, fragment_seconds: float | None = None) -> None:
        if n_fragments < 1:
            raise UserError(f"--n_fragments {n_fragments}: must be at least 1")
        if fragment_seconds is not None and fragment_seconds <= 0:
            raise UserError(f"--fragment_seconds {fragment_seconds}: must be above 0")
        self.n_fragments, self.fragment_seconds = n_fragments, fragment_seconds

    @property
    def options(self) -> dict[str, Any]:
        """What decides the windows."""
        return {"n_fragments": self.n_fragments, "fragment_seconds": self.fragment_seconds}

    def size(self, sample: SoundSample) -> int:
        """Windows."""
        return len(sample)

    def windows(self, sound: Sound) -> tuple[np.ndarray, np.ndarray]:
        """Bounds (n, 2) of the windows in samples, and the second in the middle of each."""
        bounds = window_bounds(len(sound.samples), self.n_fragments)
        if self.fragment_seconds is not None:
            longest = max(1, round(self.fragment_seconds * sound.rate))
            bounds = np.stack([bounds[:, 0], np.minimum(bounds[:, 1], bounds[:, 0] + longest)], axis=1)
        return bounds, sound.start + bounds.mean(axis=1) / sound.rate

    def load(self, content: Sound | None) -> SoundSample:
        """Cuts the sound into windows and makes each ready."""
        if content is None or not len(content.samples):
            return SoundSample([], np.zeros(0))
        bounds, times = self.windows(content)
        return SoundSample(self.cut(content, bounds), times)

    @abstractmethod
    def cut(self, sound: Sound, bounds: np.ndarray) -> list[np.ndarray]:
        """The windows' arrays."""

    def features(self, tokens: Any, samples: list[SoundSample], width: int) -> list[Feature]:
        """One Feature a sample; zeros, all masked, for a clip without sound."""
        return [
            Feature.make(own, None, sample.times) if len(sample) else Feature.absent(width, self.n_fragments)
            for own, sample in zip(split_like(tokens, samples), samples, strict=True)
        ]


class SpeechEncoder(WindowEncoder):
    """A transformers speech encoder (WavLM, wav2vec 2.0, HuBERT ...); an x-vector model answers its embedding.

    Parameters
    ----------
    model : hub id or local folder.
    layer : -1 the last hidden state, k the k-th one; an x-vector model has none to choose.
    pool : "mean" or "meanstd" (mean and standard deviation) over the window's time steps.
    """

    kind: ClassVar[str] = "speech"

    def __init__(
        self,
        model: str,
        n_fragments: int = 32,
        fragment_seconds: float | None = None,
        layer: int = -1,
        pool: str = "mean",
    ) -> None:
        super().__init__(n_fragments, fragment_seconds)
        self.model, self.layer, self.pool = model, layer, pool
        self._network: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    @cached_property
    def extractor(self) -> Any:
        """The model's own feature extractor: it says the rate and whether each window is standardised."""
        from transformers import AutoFeatureExtractor

        with quiet_transformers(), explained(self.model):
            return AutoFeatureExtractor.from_pretrained(local_or_hub(self.model), local_files_only=is_offline())

    def prepare(self, runtime: Runtime) -> None:
        """Loads the weights, with the x-vector head where the checkpoint has one."""
        from transformers import AutoModel, AutoModelForAudioXVector

        self._is_xvector = any("XVector" in name for name in load_config(self.model).architectures or [])
        if self._is_xvector and self.layer != -1:
            raise UserError(f"--layer {self.layer}: {self.model} answers an x-vector and has no layers to choose from")
        auto_class = AutoModelForAudioXVector if self._is_xvector else AutoModel
        network = load_transformers_model(auto_class, self.model)
        self._fingerprint = weights_fingerprint(network)
        self._network = runtime.place(_spared(network, runtime.device))
        self._precision, self._batches = runtime.precision_name, DeviceBatches(runtime)
        silence = np.zeros(int(MIN_WINDOW_SECONDS * self.extractor.sampling_rate), np.float32)
        self._width = self._batches.map(self._forward, [silence], 1)[0].shape[1]

    def info(self) -> EncoderInfo:
        """Weights, layer, pooling and windows decide the values."""
        options = {"weights": self._fingerprint, "layer": self.layer, "pool": self.pool, **self.options}
        return EncoderInfo(self.kind, self.modality, self._width, options, self.model, precision=self._precision)

    def cut(self, sound: Sound, bounds: np.ndarray) -> list[np.ndarray]:
        """Each window as the model's feature extractor wants it; a very short one is repeated up to 0.4 s."""
        if self.extractor.sampling_rate != sound.rate:
            raise UserError(f"{self.model} wants sound at {self.extractor.sampling_rate} Hz, not {sound.rate}")
        shortest = int(MIN_WINDOW_SECONDS * sound.rate)
        windows = []
        for start, stop in bounds:
            window = sound.samples[start:stop]
            windows.append(np.resize(window, shortest) if len(window) < shortest else window)
        return [
            np.asarray(row, np.float32) for row in self.extractor(windows, sampling_rate=sound.rate)["input_values"]
        ]

    def encode(self, samples: list[SoundSample], batch_size: int) -> list[Feature]:
        """Windows of equal length, from any clips, go through together: none is padded, so none is changed."""
        windows = [window for sample in samples for window in sample.windows]
        tokens = np.zeros((len(windows), self._width), np.float32)
        by_length: dict[int, list[int]] = {}
        for position, window in enumerate(windows):
            by_length.setdefault(len(window), []).append(position)
        for positions in by_length.values():
            parts = self._batches.map(self._forward, [windows[i] for i in positions], batch_size)
            tokens[positions] = torch.cat(parts).float().cpu().numpy()
        return self.features(tokens, samples, self._width)

    def _forward(self, windows: list[np.ndarray]) -> torch.Tensor:
        waves = self._batches.to_device(torch.from_numpy(np.stack(windows)))
        if self._is_xvector:
            return self._network(input_values=waves).embeddings
        output = self._network(input_values=waves, output_hidden_states=self.layer != -1)
        hidden = choose_hidden(output, self.layer, self.model).float()
        if self.pool == "meanstd":
            return torch.cat([hidden.mean(dim=1), hidden.std(dim=1, unbiased=False)], dim=1)
        return hidden.mean(dim=1)


# A processor's cache holds what the convolutions make of so many samples (16 MB in the first layer); with four times as
# many at once they take 1.3 to 1.8 times as long.
_SAMPLES_AT_ONCE = 40_000


class _InPieces(torch.nn.Module):
    """Convolutions over sound, a few windows at a time. Windows do not see each other, so the answer is the same."""

    def __init__(self, convolutions: torch.nn.Module) -> None:
        super().__init__()
        self.convolutions = convolutions

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        most = max(1, _SAMPLES_AT_ONCE // waves.shape[1])
        return torch.cat([self.convolutions(piece) for piece in waves.split(most)])


def _spared(network: Any, device: torch.device) -> Any:
    """The network with two detours taken out that cost a batch its advantage; the values are the same."""
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    base = network.base_model
    if device.type == "cpu" and hasattr(base, "feature_extractor"):
        base.feature_extractor = _InPieces(base.feature_extractor)
    for module in base.modules():
        if isinstance(module, WavLMAttention):
            module.register_forward_pre_hook(_lay_out_by_time, with_kwargs=True)
    return network


def _lay_out_by_time(module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Hidden states (B, T, C) stored as (T, B, C).

    WavLM hands them to torch's attention in that order. A view of them as they come is not contiguous there, and torch
    then multiplies every window with a copy of the weights of its own, at a third of the speed.
    """
    hidden, *others = args
    return (hidden.transpose(0, 1).contiguous().transpose(0, 1), *others), options
