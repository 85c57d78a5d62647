"""Speech encoders: any transformers network that reads sound (WavLM, wav2vec 2.0, HuBERT, Whisper, AST ...)."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from viper.encoders.base import ShortName, weights_fingerprint
from viper.encoders.hearing import (
    Listener,
    Window,
    explained_hearing,
    extracted,
    over_time,
    seconds_at_once,
    shape_of,
    stacked,
)
from viper.encoders.pretrained import (
    config_digest,
    explained,
    is_model,
    load_config,
    load_processor,
    load_transformers_model,
    width_of,
)
from viper.encoders.windows import SoundSample, WindowEncoder, cut_windows
from viper.errors import UserError
from viper.files import digest_of
from viper.logs import log
from viper.media.sampling import window_bounds
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
    """A transformers encoder of sound (WavLM, wav2vec 2.0, HuBERT, Whisper, w2v-BERT ...).

    An x-vector model answers its embedding, and so do AST and CLAP. Of an encoder-decoder the encoder is read, and what
    an extractor pads beyond the sound is left out of the mean.

    Parameters
    ----------
    model : hub id or local folder.
    layer : -1 the last hidden state, k the k-th one; a model that answers one vector has none to choose.
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

        with explained(self.model), explained_hearing(self.model):
            return load_processor(AutoFeatureExtractor, self.model)

    @property
    def rate(self) -> int:
        """The samples a second that the model's extractor wants."""
        rate = getattr(self.extractor, "sampling_rate", None)
        if type(rate) is not int or not 1000 <= rate <= MAX_RATE:
            raise UserError(f"{self.model}: wants sound at {rate} Hz; must be from 1000 to {MAX_RATE}")
        return rate

    def prepare(self, runtime: Runtime) -> None:
        """Load the weights, with the x-vector head where the checkpoint has one."""
        from transformers import AutoModel, AutoModelForAudioXVector

        from viper.engine.device import DeviceBatches

        self._is_xvector = any("XVector" in name for name in load_config(self.model).architectures or [])
        network: Any = load_transformers_model(AutoModelForAudioXVector if self._is_xvector else AutoModel, self.model)
        windows = self._prepared(_tried(self.rate))
        self._listener = None if self._is_xvector else Listener(network, self.model, windows)
        answers_one = self._listener is None or self._listener.answers_one
        if answers_one and (self.layer, self.pool) != (-1, "mean"):
            option = f"--layer {self.layer}" if self.layer != -1 else f"--pool {self.pool}"
            what = "an x-vector" if self._is_xvector else "one vector a window"
            raise UserError(f"{option}: {self.model} answers {what} and has no layers to choose from")
        half = network if self._listener is None else self._listener.half
        self._fingerprint = weights_fingerprint(half)
        if self._listener is not None:
            self._listener.half = None  # not twice in memory
        self._network = runtime.place(_spared(half, runtime.device))
        self._precision, self._batches = runtime.precision_name, DeviceBatches(runtime, side_by_side=True)
        with explained(self.model):
            tokens = self._batches.map(self._forward, windows[:1], 1)[0]
            self._width = width_of(tokens.float().cpu().numpy(), self.model)
        self._limit = seconds_at_once(self.extractor, self.rate)

    def info(self) -> EncoderInfo:
        """Return what decides the values: weights, layer, pooling and windows."""
        settings = self.extractor.to_dict()
        if self._makes_waves:
            settings = {name: value for name, value in settings.items() if name in _EXTRACTOR_SETTINGS}
        else:  # of a spectrogram anything may change it; its tables follow from the rest
            settings = {name: value for name, value in settings.items() if isinstance(value, str | int | float | None)}
        config = {"config": config_digest(self.model), "extractor": digest_of(settings)}
        options = {"weights": self._fingerprint, **config, "layer": self.layer, "pool": self.pool, **self.options}
        return EncoderInfo(self.kind, self.modality, self._width, options, self.model, precision=self._precision)

    def windows(self, sound: Sound) -> tuple[np.ndarray, np.ndarray]:
        """Return the windows as others do, none longer than the model's extractor takes at once."""
        asked = self.fragment_seconds
        if self._limit is None or (asked is not None and asked <= self._limit):
            return super().windows(sound)
        bounds, times = cut_windows(sound, self.n_fragments, self._limit)
        whole = window_bounds(len(sound.samples), self.n_fragments)[0, 1] / sound.rate
        if whole > self._limit:
            log.warning(
                "%s hears %g s at once: of windows of %.1f s it reads the first part; more --n_fragments make them "
                "shorter", self.model, self._limit, whole,
            )  # fmt: skip
        return bounds, times

    def cut(self, sound: Sound, bounds: np.ndarray) -> list[Window]:
        """Return each window as the model's feature extractor wants it; a very short one is repeated up to 0.4 s."""
        shortest = int(MIN_WINDOW_SECONDS * sound.rate)
        windows = []
        for start, stop in bounds:
            window = sound.samples[start:stop]
            windows.append(np.resize(window, shortest) if len(window) < shortest else window)
        return self._prepared(windows)

    def _prepared(self, windows: list[np.ndarray]) -> list[Window]:
        return extracted(self.extractor, windows, self.rate, self.model)

    @property
    def _makes_waves(self) -> bool:
        return type(self.extractor).__name__ == "Wav2Vec2FeatureExtractor"

    def encode(self, samples: list[SoundSample], batch_size: int) -> list[Feature]:
        """Put windows of equal length, from any clips, through together: none is padded, so none is changed."""
        import torch

        windows = [window for sample in samples for window in sample.windows]
        tokens = np.zeros((len(windows), self._width), np.float32)
        by_shape: dict[Any, list[int]] = {}
        for position, window in enumerate(windows):
            by_shape.setdefault(shape_of(window), []).append(position)
        groups = [[windows[i] for i in positions] for positions in by_shape.values()]
        made = self._batches.map_groups(self._forward, groups, batch_size)
        for positions, parts in zip(by_shape.values(), made, strict=True):
            tokens[positions] = torch.cat(parts).float().cpu().numpy()
        return self.features(tokens, samples, self._width)

    def _forward(self, windows: list[Window]) -> torch.Tensor:
        inputs = {name: self._batches.to_device(value) for name, value in stacked(windows).items()}
        if self._listener is None:
            return self._network(**inputs).embeddings
        return over_time(*self._listener.states(self._network, inputs, self.layer), self.pool)


def _tried(rate: int) -> list[np.ndarray]:
    """Return two sounds, of two lengths, on which a model is tried."""
    noise = np.random.default_rng(0).standard_normal(rate).astype(np.float32)
    return [0.1 * noise[: int(MIN_WINDOW_SECONDS * rate)], np.sin(np.arange(rate, dtype=np.float32) / 9)]


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

    base = getattr(network, "base_model", network)
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
