"""A Perceiver that fuses any subset of modalities: tokens + mask + time in, one number per target out.

``fusion="tokens"`` (default): each modality's tokens are brought to the latent width by an adapter, told apart by a
modality embedding and placed in time by an encoding of their seconds, then concatenated along the SEQUENCE. Latents
read them, output queries (one per target) read the latents. Since attention is over a set with a key mask, token counts
may differ, modalities may be missing, and padding, the order of modalities and the rest of the batch change nothing.

``fusion="channels"``: the published layout, see `viper.fusion.channels`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from viper.fusion.channels import ChannelsPerceiver, load_transformers_perceiver
from viper.fusion.layers import (
    Adapter,
    LatentPerceiver,
    Standardize,
    TimeEncoding,
    drop_channels,
    masked_mse,
    random_keep,
)

__all__ = [
    "PRESETS",
    "FusionOutput",
    "PerceiverFusion",
    "PerceiverFusionConfig",
    "Preset",
    "load_transformers_perceiver",
]


@dataclass(frozen=True)
class Preset:
    """Sizes and regularisation of a model; every field is a key of `PerceiverFusionConfig` too."""

    n_latents: int
    d_latents: int  # channels of a latent
    n_layers: int  # self-attention blocks over the latents
    n_heads: int
    widening: int  # hidden channels of an MLP, as a multiple of its width
    dropout: float = 0.1  # of attention probabilities
    # Probability, in training, of hiding a whole modality of a clip, or a single token. A clip keeps at least one of
    # its modalities, and a modality at least one of its tokens.
    modality_dropout: float = 0.1
    token_dropout: float = 0.1
    # Of a feature channel, throughout a clip. With wide features and few clips this is what keeps the adapters from
    # learning the clips by heart.
    feature_dropout: float = 0.3
    n_time_bands: int = 16  # frequencies of the time encoding (tokens fusion)


PRESETS: dict[str, Preset] = {
    "tiny": Preset(n_latents=16, d_latents=64, n_layers=2, n_heads=4, widening=2),
    "small": Preset(n_latents=32, d_latents=256, n_layers=6, n_heads=4, widening=2),
    "base": Preset(n_latents=64, d_latents=512, n_layers=6, n_heads=8, widening=4),
    # The published model, whose only regularisation in the network was attention dropout.
    "paper": Preset(
        n_latents=256,
        d_latents=1280,
        n_layers=26,
        n_heads=8,
        widening=1,
        modality_dropout=0.0,
        token_dropout=0.0,
        feature_dropout=0.0,
    ),
}

_SIZES = frozenset(field.name for field in fields(Preset))
# What transformers itself writes into a config.json, or hands to a config while loading one.
_BOOKKEEPING = frozenset(PretrainedConfig().to_dict()) | {
    "_name_or_path",
    "attn_implementation",
    "experts_implementation",
    "name_or_path",
    "torch_dtype",
    "use_cache",
}


class PerceiverFusionConfig(PretrainedConfig):
    """Everything needed to build the model, and to know what it was made for.

    Parameters
    ----------
    fusion : {"tokens", "channels"}
    preset : str, optional
        Name in `PRESETS` of the sizes used where none are given; "small" for tokens and "paper" for channels fusion
        unless given.
    modalities : mapping of str to mapping
        Name -> ``{"width": channels of a token, "encoder": the feature store's encoder.json}``. The encoder is kept for
        whoever loads the checkpoint and not read here.
    task : mapping
        The task card: ``{"name", "kind", "targets": [names], "range": [low, high] or None, ...}``. Only targets and
        range are read here; the rest is kept for whoever loads the checkpoint.
    modality_order : sequence of str, optional
        Order of the modalities along the channels in channels fusion: JSON does not keep the order of a dict. As in
        `modalities` unless given.
    n_tokens : int, optional
        Token count to which channels fusion brings every modality; None: that of the longest in the batch.
    **kwargs
        The fields of `Preset`, each overriding the preset's; and what transformers keeps in a config.json.

    Raises
    ------
    ValueError
        For an unknown key (named) or an impossible value. Loading a config.json does the same checks.
    """

    model_type = "viper_perceiver"

    def __init__(
        self,
        fusion: str = "tokens",
        preset: str | None = None,
        modalities: Mapping[str, Mapping[str, Any]] | None = None,
        task: Mapping[str, Any] | None = None,
        modality_order: list[str] | None = None,
        n_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        _refuse_unknown("the config", kwargs, _SIZES | _BOOKKEEPING)
        if fusion not in ("tokens", "channels"):
            raise ValueError(f"fusion is 'tokens' or 'channels', not {fusion!r}")
        preset = preset or ("small" if fusion == "tokens" else "paper")
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}: there are {', '.join(PRESETS)}")
        given = {name: kwargs.pop(name) for name in _SIZES & kwargs.keys()}
        self.fusion = fusion
        self.preset = preset
        self.modalities = {name: dict(spec) for name, spec in (modalities or {}).items()}
        self.modality_order = list(modality_order or self.modalities)
        self.task = dict(task or {"targets": []})
        self.n_tokens = n_tokens
        sizes = replace(PRESETS[preset], **{name: value for name, value in given.items() if value is not None})
        for name, value in asdict(sizes).items():
            setattr(self, name, value)
        _check_modalities(self.modalities, self.modality_order)
        _check_task(self.task)
        _check_sizes(sizes, n_tokens)
        # The names that hub pages and pipelines show for the outputs.
        kwargs["id2label"] = dict(enumerate(self.task["targets"]))
        kwargs["label2id"] = {target: index for index, target in enumerate(self.task["targets"])}
        super().__init__(**kwargs)

    def perceiver_sizes(self) -> dict[str, Any]:
        """Arguments of `LatentPerceiver` that do not depend on the fusion."""
        names = ("n_latents", "d_latents", "n_layers", "n_heads", "widening", "dropout")
        return {name: getattr(self, name) for name in names}


def _refuse_unknown(where: str, given: Mapping[str, Any], known: frozenset[str] | set[str]) -> None:
    if unknown := sorted(given.keys() - known):
        raise ValueError(f"unknown key in {where}: {', '.join(unknown)}")


def _check_modalities(modalities: Mapping[str, Mapping[str, Any]], order: list[str]) -> None:
    for name, spec in modalities.items():
        # Names become part of parameter names.
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or hasattr(nn.ModuleDict(), name):
            raise ValueError(f"modality name {name!r}: use letters, digits, '_' and '-', and no attribute of a module")
        _refuse_unknown(f"modality {name!r}", spec, {"width", "encoder"})
        if not isinstance(spec.get("width"), int) or spec["width"] < 1:
            raise ValueError(f"modality {name!r} needs a width of at least 1, not {spec.get('width')!r}")
    if sorted(order) != sorted(modalities):
        raise ValueError(f"modality_order {order} does not list the modalities {sorted(modalities)} once each")


def _check_task(task: Mapping[str, Any]) -> None:
    targets = task.get("targets")
    if not isinstance(targets, list | tuple) or len(set(targets)) != len(targets):
        raise ValueError(f"the task's targets are a list of different names, not {targets!r}")
    if task.get("range") is not None:
        low, high = task["range"]
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"the task's range is two numbers, low < high, not {task['range']}")


def _check_sizes(sizes: Preset, n_tokens: int | None) -> None:
    for name, value in {**asdict(sizes), "n_tokens": 1 if n_tokens is None else n_tokens}.items():
        if name.endswith("dropout"):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is a probability below 1, not {value}")
        elif value < (0 if name == "n_layers" else 1):
            raise ValueError(f"{name} is too small: {value}")
    if sizes.d_latents % sizes.n_heads:
        raise ValueError(f"d_latents ({sizes.d_latents}) must be a multiple of n_heads ({sizes.n_heads})")


@dataclass
class FusionOutput(ModelOutput):
    """What the model answers.

    Attributes
    ----------
    loss : scalar tensor or None
        Mean squared error over the labels that are not NaN; None without labels.
    logits : tensor (B, n_targets)
        Predictions, within the task's range in tokens fusion. Named as transformers' Trainer expects.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None


class TokensPerceiver(nn.Module):
    """Fuse along the sequence; see the module's docstring."""

    def __init__(self, config: PerceiverFusionConfig) -> None:
        super().__init__()
        d, n_targets = config.d_latents, len(config.task["targets"])
        self.adapters = nn.ModuleDict({name: Adapter(spec["width"], d) for name, spec in config.modalities.items()})
        self.time = TimeEncoding(config.n_time_bands, d)
        # A key that is always there: a clip with nothing present still has something to attend to.
        self.null = nn.Parameter(torch.empty(d))
        self.perceiver = LatentPerceiver(
            d_input=d, d_attention=d, n_queries=n_targets, query_heads=config.n_heads, **config.perceiver_sizes()
        )
        self.head = nn.Linear(d, n_targets)

    def forward(self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]) -> Tensor:
        """Map standardised tokens, zero where masked, to unbounded predictions (B, n_targets)."""
        n_clips = len(next(iter(tokens.values())))
        sequence = [self.null.expand(n_clips, 1, -1)]
        keys = [torch.ones(n_clips, 1, dtype=torch.bool, device=self.null.device)]
        for name, x in tokens.items():
            seconds = torch.where(mask[name], time[name], 0.0)  # padding may hold anything, NaN included
            sequence.append(self.adapters[name](x) + self.time(seconds))
            keys.append(mask[name])
        answers = self.perceiver(torch.cat(sequence, dim=1), torch.cat(keys, dim=1))
        # Each target has its own query and its own row of the head.
        return (answers * self.head.weight).sum(dim=-1) + self.head.bias


class PerceiverFusion(PreTrainedModel):
    """Predictions of a task's targets from any subset of the configured modalities.

    One checkpoint serves clips with a missing or partly missing modality, token counts that differ, and subsets chosen
    at inference. A clip with nothing present gets a defined answer, that of the learned queries alone.
    """

    config_class = PerceiverFusionConfig

    def __init__(self, config: PerceiverFusionConfig) -> None:
        super().__init__(config)
        if not config.modalities or not config.task["targets"]:
            raise ValueError("a model needs at least one modality and one target")
        self.standardize = nn.ModuleDict({name: Standardize(spec["width"]) for name, spec in config.modalities.items()})
        self.body = TokensPerceiver(config) if config.fusion == "tokens" else ChannelsPerceiver(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Channels: 0.02 everywhere, as transformers' Perceiver. Tokens: activations of about 1 at every width.

        With 0.02 a narrow model starts with nearly the same activations for every clip, and small data takes many
        epochs to leave that plateau.
        """
        published = self.config.fusion == "channels"
        if isinstance(module, nn.Linear):
            is_head = module is self.body.head  # small, so that training starts from mid-range predictions
            nn.init.trunc_normal_(module.weight, std=0.02 if published or is_head else module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Standardize):
            nn.init.zeros_(module.mean)
            nn.init.ones_(module.std)
        else:  # latents, queries, embeddings
            std = 1.0 if isinstance(module, LatentPerceiver) and not published else 0.02
            for parameter in module.parameters(recurse=False):
                nn.init.trunc_normal_(parameter, std=std)

    def set_normalization(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Standardise features with these statistics from now on; they are saved in the checkpoint.

        Parameters
        ----------
        statistics : mapping of str to (mean, std)
            Per modality, both of shape (width,). A std of practically zero becomes 1. Modalities not named stay as
            they are.

        Raises
        ------
        ValueError
            For a modality the model does not have, or statistics of another width, not finite or negative.
        """
        for name, (mean, std) in statistics.items():
            self._check_known(name)
            try:
                cast(Standardize, self.standardize[name]).set(mean, std)
            except ValueError as error:
                raise ValueError(f"modality {name!r}: {error}") from None

    def forward(
        self,
        tokens: Mapping[str, Tensor],
        mask: Mapping[str, Tensor],
        time: Mapping[str, Tensor],
        labels: Tensor | None = None,
    ) -> FusionOutput:
        """Predict.

        Parameters
        ----------
        tokens : mapping of str to tensor (B, T_m, width)
            Features per modality, in any order; a modality of the config that is not here is simply not there.
        mask : mapping of str to bool tensor (B, T_m)
            True where a token is present. What masked tokens hold is never looked at, be it NaN.
        time : mapping of str to tensor (B, T_m)
            Seconds from the start of the clip.
        labels : tensor (B, n_targets), optional
            NaN where a target is not labelled.

        Raises
        ------
        ValueError
            For a modality that is not in the config, another width than there, or shapes that do not fit together.
        """
        self._check_inputs(tokens, mask, time)
        # In one order, so that rounding and random masks do not depend on how the dict came.
        tokens = {name: tokens[name] for name in self.config.modality_order if name in tokens}
        if self.training:
            mask = self._drop(tokens, mask)
        tokens = {name: self.standardize[name](x, mask[name]) for name, x in tokens.items()}
        if self.training:
            tokens = {name: drop_channels(x, self.config.feature_dropout) for name, x in tokens.items()}
        logits = self.body(tokens, mask, time).float()
        value_range = self.config.task.get("range")
        if value_range is not None and self.config.fusion == "tokens":
            low, high = value_range
            logits = low + (high - low) * torch.sigmoid(logits)
        return FusionOutput(loss=None if labels is None else masked_mse(logits, labels), logits=logits)

    def _drop(self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks of training: with tokens and whole modalities hidden at random."""
        names = [name for name, x in tokens.items() if x.shape[1]]
        if not names:
            return dict(mask)
        present = torch.stack([mask[name].any(dim=1) for name in names], dim=1)
        kept = random_keep(present, self.config.modality_dropout).unbind(dim=1)
        return dict(mask) | {
            name: random_keep(mask[name], self.config.token_dropout) & keep.unsqueeze(1)
            for name, keep in zip(names, kept, strict=True)
        }

    def _check_known(self, name: str) -> None:
        if name not in self.config.modalities:
            raise ValueError(f"modality {name!r} is not one of the model's: {', '.join(self.config.modality_order)}")

    def _check_inputs(
        self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
    ) -> None:
        if not tokens:
            raise ValueError("no modality given: for a clip without any, give one with an all-False mask")
        n_clips = len(next(iter(tokens.values())))
        for name, x in tokens.items():
            self._check_known(name)
            width = self.config.modalities[name]["width"]
            if x.shape[-1] != width:
                raise ValueError(f"modality {name!r} has tokens of width {x.shape[-1]}, but the model wants {width}")
            if name not in mask or name not in time:
                raise ValueError(f"modality {name!r} comes without its mask or its time")
            shape = (n_clips, x.shape[1])
            if (*x.shape[:-1],) != shape or mask[name].shape != shape or time[name].shape != shape:
                raise ValueError(
                    f"modality {name!r}: tokens {tuple(x.shape)}, mask {tuple(mask[name].shape)} and time"
                    f" {tuple(time[name].shape)} do not fit together, or not the {n_clips} clips of the batch"
                )
