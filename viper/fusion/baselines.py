"""The simple models that a fusion must beat, behind the same interface: tokens, mask and time in, raw outputs out.

``fusion="linear"``: every modality's mean and standard deviation over time, and one linear map, fitted by a solver.
``fusion="mlp"``: the same pooled vector through two hidden layers.
``fusion="gru"``: a bidirectional GRU per modality, as the baselines of the MuSe challenges are built, fused by
concatenating what each has read.

All of them take any subset of the modalities: one that is absent contributes what an average clip would (linear, mlp)
or nothing at all (gru).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from viper.fusion.layers import Standardize

if TYPE_CHECKING:
    from viper.fusion.config import PerceiverFusionConfig


class Pooling(nn.Module):
    """Each modality's masked mean and standard deviation over time, standardised, side by side.

    The statistics of the pooled vectors (`set`) make an absent modality's zeros mean "as in an average clip". A flag
    per modality says that it is absent; where no training clip lacks it, the flag never varies and weighs nothing.

    Parameters
    ----------
    widths : modality -> channels of a token.
    balanced : divide each modality's columns by the root of their number, so that all modalities vary as much as each
        other. A penalty on the weights would otherwise leave wide modalities free and hold narrow ones back.

    Attributes
    ----------
    width : P, channels of the pooled vector: twice each modality's, and one.
    """

    def __init__(self, widths: Mapping[str, int], balanced: bool = False) -> None:
        super().__init__()
        self.scale = {name: (2 * width) ** -0.5 if balanced else 1.0 for name, width in widths.items()}
        self.standardize = nn.ModuleDict({name: Standardize(2 * width) for name, width in widths.items()})
        self.widths = dict(widths)
        self.width = sum(2 * width + 1 for width in widths.values())

    def set(self, pooled: Tensor) -> None:
        """Standardise with the statistics of these vectors (n, P) from now on; they are what `reset` left."""
        for name, columns in zip(self.widths, pooled.double().split(self._sizes(), dim=1), strict=True):
            present = columns[columns[:, -1] == 0, :-1] / self.scale[name]
            if len(present):
                spread = present.std(dim=0, correction=0)
                cast(Standardize, self.standardize[name]).set(present.mean(dim=0).float(), spread.float())

    def reset(self) -> None:
        """Back to no standardisation."""
        for module in self.standardize.values():
            standardize = cast(Standardize, module)
            standardize.set(torch.zeros_like(standardize.mean), torch.ones_like(standardize.std))

    def forward(self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> Tensor:
        """Map tokens (B, T_m, width), zero where masked, to pooled vectors (B, P)."""
        some = next(iter(tokens.values()))
        columns = []
        for name, width in self.widths.items():
            if name in tokens:
                present = mask[name].any(dim=1, keepdim=True)
                pooled = mean_and_deviation(tokens[name], mask[name]).unsqueeze(1)
                standardized = self.standardize[name](pooled, present).squeeze(1)
                columns += [self.scale[name] * standardized, (~present).to(some.dtype)]
            else:
                columns += [some.new_zeros(len(some), 2 * width), some.new_ones(len(some), 1)]
        return torch.cat(columns, dim=1)

    def _sizes(self) -> list[int]:
        return [2 * width + 1 for width in self.widths.values()]


def mean_and_deviation(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean and standard deviation over the present tokens of (B, T, D), as (B, 2 D); zeros where none is present."""
    present = mask.unsqueeze(-1)
    count = present.sum(dim=1).clamp(min=1)
    mean = torch.where(present, tokens, 0.0).sum(dim=1) / count
    deviation = torch.where(present, tokens - mean.unsqueeze(1), 0.0)
    return torch.cat([mean, (deviation.square().sum(dim=1) / count).sqrt()], dim=1)


class PooledLinear(nn.Module):
    """One linear map of the pooled vector: ridge or logistic regression, once `viper.training.linear` has fitted it."""

    def __init__(self, config: PerceiverFusionConfig) -> None:
        super().__init__()
        self.pool = Pooling(_widths(config), balanced=True)
        self.head = nn.Linear(self.pool.width, len(config.task["targets"]))

    def forward(self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]) -> Tensor:
        """Map standardised tokens, zero where masked, to raw predictions (B, n_targets); `time` is not used."""
        return self.head(self.pool(tokens, mask))


class PooledMLP(nn.Module):
    """Two hidden layers of `d_latents` channels over the pooled vector, with dropout."""

    def __init__(self, config: PerceiverFusionConfig) -> None:
        super().__init__()
        self.pool = Pooling(_widths(config))
        self.widen = nn.Linear(self.pool.width, config.d_latents)
        self.hidden = nn.Linear(config.d_latents, config.d_latents)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.d_latents, len(config.task["targets"]))

    def forward(self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]) -> Tensor:
        """Map standardised tokens, zero where masked, to raw predictions (B, n_targets); `time` is not used."""
        x = self.dropout(F.gelu(self.widen(self.pool(tokens, mask))))
        return self.head(self.dropout(F.gelu(self.hidden(x))))


class RecurrentFusion(nn.Module):
    """Per modality a linear map and a bidirectional GRU; the last state of each direction, side by side, into the head.

    A GRU reads the present tokens in their order and no others: padding and tokens that say nothing are left out, not
    read as zeros. An absent modality's state is zero.
    """

    def __init__(self, config: PerceiverFusionConfig) -> None:
        super().__init__()
        d = config.d_latents
        self.widths = _widths(config)
        self.project = nn.ModuleDict({name: nn.Linear(width, d) for name, width in self.widths.items()})
        self.read = nn.ModuleDict(
            {name: nn.GRU(d, d // 2, batch_first=True, bidirectional=True) for name in self.widths}
        )
        self.dropout = nn.Dropout(config.dropout)
        self.d_state = 2 * (d // 2)
        self.head = nn.Linear(self.d_state * len(self.widths), len(config.task["targets"]))

    def forward(self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]) -> Tensor:
        """Map standardised tokens, zero where masked, to raw predictions (B, n_targets); `time` is not used."""
        some = next(iter(tokens.values()))
        states = [
            self._state(name, tokens[name], mask[name])
            if name in tokens and tokens[name].shape[1]
            else some.new_zeros(len(some), self.d_state)
            for name in self.widths
        ]
        return self.head(self.dropout(torch.cat(states, dim=1)))

    def _state(self, name: str, tokens: Tensor, mask: Tensor) -> Tensor:
        # Present tokens to the front, in their order: a packed sequence knows only lengths, not holes.
        front = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
        projected = F.relu(self.project[name](tokens.take_along_dim(front.unsqueeze(-1), dim=1)))
        # Packing refuses a length of 0; what such a clip's one token leaves behind is taken away again below.
        lengths = mask.sum(dim=1).clamp(min=1).cpu()
        packed = pack_padded_sequence(projected, lengths, batch_first=True, enforce_sorted=False)
        _, last = self.read[name](packed)
        state = last.transpose(0, 1).flatten(1)
        return torch.where(mask.any(dim=1, keepdim=True), state, torch.zeros_like(state))


def _widths(config: PerceiverFusionConfig) -> dict[str, int]:
    return {name: config.modalities[name]["width"] for name in config.modality_order}


BODIES: dict[str, type[nn.Module]] = {"linear": PooledLinear, "mlp": PooledMLP, "gru": RecurrentFusion}
"""Value of `fusion` -> what it builds."""
