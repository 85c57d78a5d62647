"""Any transformers network that hears: what its feature extractor makes of a window, and the half of it that listens.

Extractors make waves or spectrograms, with or without padding and a mask; networks are encoders, encoder-decoders, the
halves of larger ones, or codecs. Each is tried on two sounds before it is believed.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from viper.errors import UserError
from viper.weights import reason

if TYPE_CHECKING:
    import torch

# What an extractor makes of one window: a wave as it is, or named arrays, such as a spectrogram and its mask.
Window = np.ndarray | dict[str, np.ndarray]
WAVE = "input_values"
_SOUNDS = ("input_features", "input_values", "audio_mel", "audio_values", "inputs")
_MASKS = ("attention_mask", "input_features_mask", "feature_attention_mask", "padding_mask", "audio_mel_mask")
_FRAME_SECONDS = 0.01  # of AST's spectrograms
# Codecs, whose encoder makes maps (B, C, T) of waves; the rest of them makes codes of those.
_CODECS = ("encodec", "dac", "mimi")
# Networks whose sequence is not one of time (AST's patches), or is a map (CLAP's): they answer one vector a window.
_ANSWER_ONE = ("audio-spectrogram-transformer", "clap", "clap_audio_model")
# Networks that make sound of sound or of words, and whose states nobody was meant to read.
_SPEAKING = ("univnet", "fastspeech2_conformer_with_hifigan", "vits", "bark", "musicgen", "speecht5_hifigan")
INSTEAD = "take a speech encoder, such as microsoft/wavlm-base-plus-sv or facebook/wav2vec2-base"


def extracted(extractor: Any, windows: list[np.ndarray], rate: int, model: str) -> list[Window]:
    """Return what a feature extractor makes of windows of sound, each on its own: none is padded for another's sake."""
    if type(extractor).__name__ == "Wav2Vec2FeatureExtractor":
        made = extractor(windows, sampling_rate=rate)
        return [np.asarray(row, np.float32) for row in made[WAVE]]
    return [_named(extractor, window, rate, model) for window in windows]


def _named(extractor: Any, window: np.ndarray, rate: int, model: str) -> dict[str, np.ndarray]:
    # A codec for stereo sound is given the same on both sides.
    is_stereo = getattr(extractor, "feature_size", 1) == 2 and WAVE in extractor.model_input_names
    sound = np.stack([window, window]) if is_stereo else window
    wanted: dict[str, Any] = {"sampling_rate": rate, "return_tensors": "np"}
    if "return_attention_mask" in inspect.signature(extractor.__call__).parameters:
        wanted["return_attention_mask"] = True
    try:
        made = extractor([sound], **wanted)
    except Exception as error:  # extractors raise anything
        raise UserError(
            f"{model}: its feature extractor ({type(extractor).__name__}) cannot read a window of "
            f"{len(window) / rate:.2f} s ({reason(error)}); {INSTEAD}"
        ) from error
    arrays = {name: np.asarray(value)[0] for name, value in made.items() if np.asarray(value).dtype.kind in "fiub"}
    if not any(name in arrays for name in _SOUNDS):
        raise UserError(f"{model}: its feature extractor makes {', '.join(made)}, no sound that is known; {INSTEAD}")
    return {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in arrays.items()}


def seconds_at_once(extractor: Any, rate: int) -> float | None:
    """Return the longest window an extractor takes whole, in seconds; None where there is no such limit.

    Whisper's cuts what is longer than 30 s, AST's after 10.24 s, CLAP's takes 10 s of it at random: without a word.
    """
    for name in ("n_samples", "nb_max_samples"):  # Whisper and its kin; CLAP
        if isinstance(value := getattr(extractor, name, None), int) and value > 0:
            return value / rate
    if type(extractor).__name__ == "ASTFeatureExtractor":
        return int(extractor.max_length) * _FRAME_SECONDS
    return None


class Listener:
    """The part of a network that hears, and how it is called.

    Attributes
    ----------
    half : the module.
    answers_one : whether it answers one vector a window, without a sequence of states to choose from.
    """

    def __init__(self, network: Any, model: str, tried: list[Window]) -> None:
        self._model, self._family = model, str(network.config.model_type)
        if self._family in _SPEAKING:
            raise UserError(f"{model}: a {self._family} makes sound, and has no encoder of it; {INSTEAD}")
        self.answers_one = self._family in _ANSWER_ONE
        problems: list[Exception] = []
        for half in _halves(network):
            self.half = half
            self._accepted = list(inspect.signature(half.forward).parameters)
            try:
                answers = [self._answer(half, stacked([window]), -1) for window in tried]
                self._check(answers)
            except UserError:
                raise
            except Exception as error:  # networks raise anything
                problems.append(error)
            else:
                return
        raise UserError(
            f"{model}: a {self._family} cannot read sound alone ({reason(problems[0])}); {INSTEAD}"
        ) from problems[0]

    @staticmethod
    def _check(answers: list[tuple[torch.Tensor, torch.Tensor | None]]) -> None:
        import torch

        means = [hidden.float().flatten(0, -2).mean(dim=0) for hidden, _ in answers]
        if not all(mean.isfinite().all() for mean in means):
            raise ValueError("its states are not finite")
        if torch.allclose(means[0], means[1], rtol=1e-6, atol=0):
            raise ValueError("two different sounds get the same vector")

    def states(self, network: Any, inputs: Mapping[str, torch.Tensor], layer: int) -> tuple[Any, Any]:
        """Return hidden states (B, T, D) and which of them are of sound, (B, T) bool or None for all.

        Of a network that answers one vector a window: (B, D) and None. `network` is the half on its device.
        """
        return self._answer(network, inputs, layer)

    def _answer(self, network: Any, inputs: Mapping[str, torch.Tensor], layer: int) -> tuple[Any, Any]:
        import torch

        from viper.encoders.pretrained import choose_hidden

        sound = next(name for name in _SOUNDS if name in inputs)
        masks = {name: value for name, value in inputs.items() if "mask" in name}
        given: dict[str, Any] = {name: value for name, value in inputs.items() if name in self._accepted}
        unknown = next((name for name in _MASKS if name in self._accepted), None)
        if masks and not masks.keys() & given.keys() and unknown:
            given[unknown] = next(iter(masks.values()))
        if layer != -1:
            given["output_hidden_states"] = True
        with torch.no_grad():
            output = network(**given) if sound in given else network(inputs[sound], **given)
        output = getattr(output, "latents", output)
        if isinstance(output, torch.Tensor):
            if self._family not in _CODECS or output.ndim != 3:
                raise ValueError(f"it answers a tensor {tuple(output.shape)}")
            if layer != -1:
                raise UserError(f"--layer {layer}: {self._model} is a codec, and has no layers to choose from")
            return output.transpose(1, 2), None
        if self.answers_one:
            return output.pooler_output, None
        hidden = choose_hidden(output, layer, self._model)
        if hidden.ndim != 3:
            raise ValueError(f"it answers states {tuple(hidden.shape)}, not one for each step of time")
        return hidden, _heard(hidden, getattr(output, "attention_mask", None), next(iter(masks.values()), None))


def _heard(hidden: torch.Tensor, own: Any, mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return which states (B, T) are of sound and not of padding; None for all."""
    import torch

    n_states = hidden.shape[1]
    if isinstance(own, torch.Tensor) and own.shape == hidden.shape[:2]:
        return own.bool()
    if mask is None or mask.ndim != 2:
        return None
    # As many of the states as there is sound in the steps that were made into them.
    n_heard = torch.ceil(mask.sum(dim=1) * n_states / mask.shape[1]).clamp(1, n_states)
    return torch.arange(n_states, device=hidden.device)[None] < n_heard[:, None]


def _halves(network: Any) -> Iterator[Any]:
    """Yield the parts of a network that may be the one that hears, the likeliest first."""
    import torch

    config, seen = network.config, [network]
    for name in ("audio_model", "audio_tower", "audio_encoder", "speech_encoder"):
        if isinstance(getattr(network, name, None), torch.nn.Module):  # a model without ears has None there
            seen.insert(0, getattr(network, name))
    is_codec = config.model_type in _CODECS
    if getattr(config, "is_encoder_decoder", False) or is_codec or type(network).__name__.endswith(_READING_ALOUD):
        seen = [getattr(network, "encoder", network.get_encoder()), *([] if is_codec else seen)]
    yield from dict.fromkeys(seen)


_READING_ALOUD = ("ForCTC", "ForRNNT", "ForTDT")  # networks with their head, which have no other class


def stacked(windows: list[Window]) -> dict[str, torch.Tensor]:
    """Return windows of one shape as tensors with a batch dimension."""
    import torch

    waves = [window for window in windows if isinstance(window, np.ndarray)]
    if waves:
        return {WAVE: torch.from_numpy(np.stack(waves))}
    named = [window for window in windows if isinstance(window, dict)]
    return {name: torch.from_numpy(np.stack([window[name] for window in named])) for name in named[0]}


def shape_of(window: Window) -> tuple[Any, ...]:
    """Return what windows that go through together have in common."""
    if isinstance(window, np.ndarray):
        return window.shape
    return tuple((name, array.shape) for name, array in sorted(window.items()))


def over_time(hidden: torch.Tensor, heard: torch.Tensor | None, pool: str) -> torch.Tensor:
    """Return the mean of states over their time steps, or mean and standard deviation ("meanstd"), float32."""
    import torch

    hidden = hidden.float()
    if hidden.ndim == 2:
        return hidden
    if heard is None:
        mean = hidden.mean(dim=1)
        return mean if pool == "mean" else torch.cat([mean, hidden.std(dim=1, unbiased=False)], dim=1)
    weights = heard.unsqueeze(-1).float()
    weights = weights / weights.sum(dim=1, keepdim=True)
    mean = (hidden * weights).sum(dim=1)
    if pool == "mean":
        return mean
    variance = ((hidden - mean[:, None]) ** 2 * weights).sum(dim=1)
    return torch.cat([mean, variance.sqrt()], dim=1)


@contextlib.contextmanager
def explained_hearing(model: str) -> Iterator[None]:
    """Turn an extractor that is not there into one line."""
    try:
        yield
    except (OSError, ImportError, KeyError, ValueError) as error:
        raise UserError(f"{model}: has no feature extractor for sound ({reason(error)}); {INSTEAD}") from error
