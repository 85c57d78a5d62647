"""Speech encoders: any transformers network that reads sound (WavLM, wav2vec 2.0, HuBERT ...)."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from viper.encoders.base import ShortName, weights_fingerprint
from viper.encoders.pretrained import (
    choose_hidden,
    config_digest,
    explained,
    is_model,
    load_config,
    load_processor,
    load_transformers_model,
    width_of,
)
from viper.encoders.windows import SoundSample, WindowEncoder
from viper.errors import UserError
from viper.files import digest_of
from viper.media.sound import Sound
from viper.store import EncoderInfo, Feature

if TYPE_CHECKING:
    import torch

    from viper.engine.device import Runtime

# The receptive field of a WavLM x-vector is about 0.3 s: a shorter window would leave its statistics nothing to pool.
MIN_WINDOW_SECONDS = 0.4
MAX_RATE = 192_000
# What of an extractor's settings changes a window of sound.
_EXTRACTOR_SETTINGS = ("do_normalize", "sampling_rate", "feature_extractor_type", "return_attention_mask")


class SpeechEncoder(WindowEncoder):
    """A transformers speech encoder (WavLM, wav2vec 2.0, HuBERT ...); an x-vector model answers its embedding.

    Parameters
    ----------
    model : hub id or local folder.
    layer : -1 the last hidden state, k the k-th one; an x-vector model has none to choose.
    pool : "mean" or "meanstd" (mean and standard deviation) over the window's time steps.
    """

    kind: ClassVar[str] = "speech"
    names = (
        ShortName("wavlm-base-plus-sv", "WavLM x-vector, 512", "microsoft/wavlm-base-plus-sv", is_default=True),
        ShortName("wav2vec2-base", "wav2vec 2.0, 768", "facebook/wav2vec2-base"),
        ShortName("hubert-base", "HuBERT, 768", "facebook/hubert-base-ls960"),
    )
    packages = ("transformers",)

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

    @classmethod
    def matches(cls, model: str) -> bool:
        """Take any model."""
        return is_model(model)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    @cached_property
    def extractor(self) -> Any:
        """Return the model's own feature extractor, which says the rate and whether each window is standardised."""
        from transformers import AutoFeatureExtractor

        with explained(self.model):
            return load_processor(AutoFeatureExtractor, self.model)

    def prepare(self, runtime: Runtime) -> None:
        """Load the weights, with the x-vector head where the checkpoint has one."""
        from transformers import AutoModel, AutoModelForAudioXVector

        from viper.engine.device import DeviceBatches

        self._is_xvector = any("XVector" in name for name in load_config(self.model).architectures or [])
        if self._is_xvector and self.layer != -1:
            raise UserError(f"--layer {self.layer}: {self.model} answers an x-vector and has no layers to choose from")
        auto_class = AutoModelForAudioXVector if self._is_xvector else AutoModel
        network = load_transformers_model(auto_class, self.model)
        self._fingerprint = weights_fingerprint(network)
        self._network = runtime.place(_spared(network, runtime.device))
        self._precision, self._batches = runtime.precision_name, DeviceBatches(runtime, side_by_side=True)
        with explained(self.model):
            rate = self.extractor.sampling_rate
            if type(rate) is not int or not 1000 <= rate <= MAX_RATE:
                raise UserError(f"{self.model}: wants sound at {rate} Hz; must be from 1000 to {MAX_RATE}")
            silence = np.zeros(int(MIN_WINDOW_SECONDS * rate), np.float32)
            windows = self._prepared([silence], rate)
            self._width = width_of(self._batches.map(self._forward, windows, 1)[0].float().cpu().numpy(), self.model)

    def info(self) -> EncoderInfo:
        """Return what decides the values: weights, layer, pooling and windows."""
        extractor = {name: value for name, value in self.extractor.to_dict().items() if name in _EXTRACTOR_SETTINGS}
        config = {"config": config_digest(self.model), "extractor": digest_of(extractor)}
        options = {"weights": self._fingerprint, **config, "layer": self.layer, "pool": self.pool, **self.options}
        return EncoderInfo(self.kind, self.modality, self._width, options, self.model, precision=self._precision)

    def cut(self, sound: Sound, bounds: np.ndarray) -> list[np.ndarray]:
        """Return each window as the model's feature extractor wants it; a very short one is repeated up to 0.4 s."""
        if self.extractor.sampling_rate != sound.rate:
            raise UserError(f"{self.model} wants sound at {self.extractor.sampling_rate} Hz, not {sound.rate}")
        shortest = int(MIN_WINDOW_SECONDS * sound.rate)
        windows = []
        for start, stop in bounds:
            window = sound.samples[start:stop]
            windows.append(np.resize(window, shortest) if len(window) < shortest else window)
        return self._prepared(windows, sound.rate)

    def _prepared(self, windows: list[np.ndarray], rate: int) -> list[np.ndarray]:
        made = self.extractor(windows, sampling_rate=rate)
        if "input_values" not in made:
            raise UserError(f"{self.model}: its feature extractor makes {', '.join(made)}, not a wave for each window")
        return [np.asarray(row, np.float32) for row in made["input_values"]]

    def encode(self, samples: list[SoundSample], batch_size: int) -> list[Feature]:
        """Put windows of equal length, from any clips, through together: none is padded, so none is changed."""
        import torch

        windows = [window for sample in samples for window in sample.windows]
        tokens = np.zeros((len(windows), self._width), np.float32)
        by_length: dict[int, list[int]] = {}
        for position, window in enumerate(windows):
            by_length.setdefault(len(window), []).append(position)
        groups = [[windows[i] for i in positions] for positions in by_length.values()]
        made = self._batches.map_groups(self._forward, groups, batch_size)
        for positions, parts in zip(by_length.values(), made, strict=True):
            tokens[positions] = torch.cat(parts).float().cpu().numpy()
        return self.features(tokens, samples, self._width)

    def _forward(self, windows: list[np.ndarray]) -> torch.Tensor:
        import torch

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


def _in_pieces(convolutions: torch.nn.Module) -> torch.nn.Module:
    """Return convolutions over sound that take a few windows at a time.

    Windows do not see each other, so the answer is the same.
    """
    import torch

    class InPieces(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolutions = convolutions

        def forward(self, waves: torch.Tensor) -> torch.Tensor:
            most = max(1, _SAMPLES_AT_ONCE // waves.shape[1])
            return torch.cat([self.convolutions(piece) for piece in waves.split(most)])

    return InPieces()


def _spared(network: Any, device: torch.device) -> Any:
    """Return the network without two detours that cost a batch its advantage; the values are the same."""
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    base = network.base_model
    if device.type == "cpu" and hasattr(base, "feature_extractor"):
        base.feature_extractor = _in_pieces(base.feature_extractor)
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
