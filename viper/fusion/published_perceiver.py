"""The published ViPER layout: features side by side along the channels, read by a plain Perceiver IO.

Numerically this is transformers' ``PerceiverModel`` with a ``PerceiverClassificationDecoder``;
`load_transformers_perceiver` takes over weights of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viper.fusion.layers import LatentPerceiver

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from viper.fusion.config import PerceiverFusionConfig


class ChannelsPerceiver(nn.Module):
    """Fuse by position: token i of every modality makes up input i, modalities side by side along the channels.

    A modality that is absent, or masked at a position, leaves zeros in its channels; a position is attended to where
    any modality is present. `time` is not used: the published model aligns by position alone. The output has no bounds.
    """

    def __init__(self, config: PerceiverFusionConfig) -> None:
        super().__init__()
        self.widths = {name: config.modalities[name]["width"] for name in config.modality_order}
        self.n_tokens = config.n_tokens
        total = sum(self.widths.values())
        # Cross-attention keeps the width of the inputs, so the heads must divide it: zero channels fill it up.
        d_model = total + -total % config.n_heads
        self.n_fill = d_model - total
        self.perceiver = LatentPerceiver(
            d_input=d_model, d_attention=d_model, n_queries=1, query_heads=1, **config.perceiver_sizes()
        )
        self.head = nn.Linear(config.d_latents, len(config.task["targets"]))

    def forward(self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]) -> Tensor:
        """Map standardised tokens, zero where masked, to raw predictions (B, n_targets)."""
        some = next(iter(tokens.values()))
        n = self.n_tokens or max(1, *(x.shape[1] for x in tokens.values()))
        columns, present = [], []
        for name, width in self.widths.items():
            if name in tokens:
                column, column_mask = fit_length(tokens[name], mask[name], n)
                columns.append(column)
                present.append(column_mask)
            else:
                columns.append(some.new_zeros(len(some), n, width))
        inputs = F.pad(torch.cat(columns, dim=-1), (0, self.n_fill))
        seen = torch.stack(present).any(dim=0)
        # A clip with nothing present attends to its (all zero) inputs, since attention to no key is undefined. All of
        # them being equal, the answer does not depend on how many there are.
        seen = seen | ~seen.any(dim=1, keepdim=True)
        return self.head(self.perceiver(inputs, seen)[:, 0])


def fit_length(tokens: Tensor, mask: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Bring (B, K, D) tokens and their (B, K) mask to exactly `n` tokens.

    Shorter clips are padded with masked zeros. A clip that is longer, counted up to its last present token so that the
    padding of its batch does not matter, keeps `n` tokens evenly spread over its length: rounded linspace(0, K - 1, n).
    """
    length = mask.shape[1]
    if length <= n:
        return F.pad(tokens, (0, 0, 0, n - length)), F.pad(mask, (0, n - length))
    position = torch.arange(n, device=mask.device)
    last = (mask * torch.arange(length, device=mask.device)).amax(dim=1, keepdim=True)
    spread = (position * last / max(1, n - 1)).round().long()
    index = torch.where(last >= n, spread, position)
    return tokens.take_along_dim(index.unsqueeze(-1), dim=1), mask.take_along_dim(index, dim=1)


# Our parameter names -> those of transformers, applied in order.
_RENAMES = (
    ("body.perceiver.latents", "embeddings.latents"),
    ("body.perceiver.queries", "decoder.decoder.output_position_encodings.position_embeddings"),
    ("body.perceiver.read", "encoder.cross_attention"),
    ("body.perceiver.layers", "encoder.self_attends"),
    ("body.perceiver.answer", "decoder.decoder.decoding_cross_attention"),
    ("body.head", "decoder.decoder.final_layer"),
    (".attention.norm_context.", ".attention.self.layernorm2."),
    (".attention.norm.", ".attention.self.layernorm1."),
    (".attention.query.", ".attention.self.query."),
    (".attention.key.", ".attention.self.key."),
    (".attention.value.", ".attention.self.value."),
    (".attention.output.", ".attention.output.dense."),
    (".norm.", ".layernorm."),
    (".widen.", ".mlp.dense1."),
    (".narrow.", ".mlp.dense2."),
)


def load_transformers_perceiver(model: PreTrainedModel, state_dict: Mapping[str, Tensor]) -> None:
    """Copy the weights of transformers' ``PerceiverModel(config, decoder=PerceiverClassificationDecoder(...))``.

    Parameters
    ----------
    model : viper.PerceiverFusion
        A model with ``fusion="channels"`` of the same sizes; its ``modality_order`` must be the order in which the
        features were concatenated.
    state_dict : mapping of str to tensor
        Names with or without a leading ``perceiver.``.

    Raises
    ------
    ValueError
        If the model has another fusion, or a weight is missing, left over or of another shape (each is named). The
        model is then unchanged.
    """
    if model.config.fusion != "channels":
        raise ValueError(f"transformers' Perceiver weights fit fusion 'channels', not {model.config.fusion!r}")
    given = {name.removeprefix("perceiver."): weight for name, weight in state_dict.items()}
    wanted = {}
    for name, parameter in model.named_parameters():
        for ours, theirs in _RENAMES:
            name = name.replace(ours, theirs)
        wanted[name] = parameter
    problems = [f"missing {name}" for name in sorted(wanted.keys() - given.keys())]
    problems += [f"unused {name}" for name in sorted(given.keys() - wanted.keys())]
    problems += [
        f"{name} is {tuple(given[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & given.keys())
        if given[name].shape != wanted[name].shape
    ]
    if problems:
        raise ValueError("weights do not fit: " + "; ".join(problems))
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(given[name])
