"""The pieces fusions are made of: standardisation, random masks, time encoding, attention, the latent Perceiver.

Shapes are written with ``B`` clips, ``K`` input tokens, ``N`` latents, ``Q`` output queries and ``D`` channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHORTEST_PERIOD, LONGEST_PERIOD = 0.1, 60.0  # seconds, of the time encoding


def random_keep(present: Tensor, rate: float) -> Tensor:
    """Drop each present entry with probability `rate`, but never every present entry of a row.

    Parameters
    ----------
    present : bool tensor (..., n)
        What is there to be dropped; `n` must be at least 1.
    rate : float
        Probability of dropping, in [0, 1).

    Returns
    -------
    bool tensor (..., n)
        `present` without the dropped entries. A row that has something present keeps at least one entry.
    """
    draw = torch.rand(present.shape, device=present.device).masked_fill(~present, -1.0)
    # Lowering the threshold to the row's largest draw spares exactly one entry where all would have been dropped.
    threshold = draw.amax(dim=-1, keepdim=True).clamp(max=rate)
    return present & (draw >= threshold)


def drop_channels(tokens: Tensor, rate: float) -> Tensor:
    """Dropout of (B, K, D) tokens that silences a channel throughout a clip, not token by token.

    The tokens of a clip tell much the same, so a channel missing from one of them would hardly be missed.
    """
    clips, _, channels = tokens.shape
    return tokens * F.dropout(tokens.new_ones(clips, 1, channels), rate)


def divisible(mean: Tensor, std: Tensor) -> Tensor:
    """Return the standard deviations, with 1 for those of practically zero: constant channels are only centred.

    A channel that never varies still shows rounding noise in proportion to its mean; dividing by that noise would blow
    up the first clip that differs.
    """
    return torch.where(std <= 1e-6 * mean.abs().clamp(min=1.0), 1.0, std)


class Standardize(nn.Module):
    """Subtract a mean and divide by a standard deviation per channel; masked tokens become exact zeros.

    The statistics are buffers, so a checkpoint carries them. They start as the identity.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def set(self, mean: Tensor, std: Tensor) -> None:
        """Take over statistics of shape (width,); see `divisible` for constant channels."""
        if mean.shape != self.mean.shape or std.shape != self.std.shape:
            raise ValueError(f"statistics of shape {tuple(mean.shape)} and {tuple(std.shape)}, not {len(self.mean)}")
        if not (mean.isfinite().all() and std.isfinite().all() and (std >= 0).all()):
            raise ValueError("statistics that are not finite, or a negative standard deviation")
        self.mean.copy_(mean)
        self.std.copy_(divisible(mean, std))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Map (B, K, D) tokens and their (B, K) mask to standardised (B, K, D) tokens."""
        standardized = (tokens.to(self.mean.dtype) - self.mean) / self.std
        # Selecting, not multiplying: 0 * NaN is NaN, so a product would let masked garbage through.
        return torch.where(mask.unsqueeze(-1), standardized, 0.0)


class Adapter(nn.Module):
    """A modality's way in: a map to the latent width with one hidden layer, plus the modality's embedding.

    With a linear map, features of 150 clips are fused worse than by a GRU (docs/benchmarks.md): attention averages
    tokens, and what is to be averaged is rarely the raw feature.
    """

    def __init__(self, width: int, d_output: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, d_output)
        self.mix = nn.Linear(d_output, d_output, bias=False)
        self.embedding = nn.Parameter(torch.empty(d_output))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, K, width) to (B, K, d_output)."""
        return self.mix(F.gelu(self.project(tokens))) + self.embedding


class TimeEncoding(nn.Module):
    """Seconds to channels: sines and cosines of log-spaced periods, then a linear map.

    A continuous function of time, so modalities sampled at different rates share it and any token count will do.
    """

    def __init__(self, n_bands: int, d_output: int) -> None:
        super().__init__()
        self.n_bands = n_bands
        self.project = nn.Linear(2 * n_bands, d_output, bias=False)

    def forward(self, time: Tensor) -> Tensor:
        """Map (B, K) seconds to (B, K, d_output)."""
        # Always in float32: half precision cannot hold the phase of a 0.1 s period after some seconds.
        periods = torch.logspace(
            math.log10(SHORTEST_PERIOD), math.log10(LONGEST_PERIOD), self.n_bands, device=time.device
        )
        phase = 2 * math.pi * time.float().unsqueeze(-1) / periods
        return self.project(torch.cat([phase.sin(), phase.cos()], dim=-1).to(self.project.weight.dtype))


class Attention(nn.Module):
    """Pre-norm multi-head attention with an output projection.

    Queries attend to a context of `d_context` channels, or to themselves where `d_context` is None. Dropout acts on the
    attention probabilities, as in transformers' Perceiver.
    """

    def __init__(self, d_query: int, d_context: int | None, d_attention: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        if d_attention % n_heads:
            raise ValueError(f"{d_attention} attention channels cannot be split into {n_heads} heads")
        self.n_heads = n_heads
        self.dropout = dropout
        self.norm = nn.LayerNorm(d_query)
        self.norm_context = None if d_context is None else nn.LayerNorm(d_context)
        self.query = nn.Linear(d_query, d_attention)
        self.key = nn.Linear(d_context or d_query, d_attention)
        self.value = nn.Linear(d_context or d_query, d_attention)
        self.output = nn.Linear(d_attention, d_query)

    def forward(self, queries: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend; `mask` is boolean (B, K), True where a key may be seen. Every row must have a True.

        Learned queries may come as (1, Q, D): they are projected once and shared by the batch.
        """
        queries = self.norm(queries)
        context = queries if self.norm_context is None else self.norm_context(context)
        query, key, value = (
            self.split_heads(self.query(queries)),
            self.split_heads(self.key(context)),
            self.split_heads(self.value(context)),
        )
        attended = F.scaled_dot_product_attention(
            query.expand(len(key), -1, -1, -1),
            key,
            value,
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(attended.transpose(1, 2).flatten(2))

    def split_heads(self, x: Tensor) -> Tensor:
        """Map (B, K, n_heads * D) to (B, n_heads, K, D)."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Residual attention, then a residual pre-norm GELU MLP: one layer of a Perceiver.

    Parameters are those of `Attention`, and `widening`: hidden channels of the MLP over `d_query`.
    """

    def __init__(
        self, d_query: int, d_context: int | None, d_attention: int, n_heads: int, widening: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention = Attention(d_query, d_context, d_attention, n_heads, dropout)
        self.norm = nn.LayerNorm(d_query)
        self.widen = nn.Linear(d_query, widening * d_query)
        self.narrow = nn.Linear(widening * d_query, d_query)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Map (B, Q, D) to (B, Q, D)."""
        x = x + self.attention(x, context, mask)
        return x + self.narrow(F.gelu(self.widen(self.norm(x))))


class LatentPerceiver(nn.Module):
    """Learned latents read the inputs, think, and are read by learned output queries.

    Perceiver IO (Jaegle et al., 2021, arXiv:2107.14795): one cross-attention from latents to inputs, `n_layers`
    self-attention blocks over the latents, one cross-attention from the output queries to the latents.

    Parameters
    ----------
    d_input : int
        Channels of an input token.
    d_attention : int
        Channels of queries, keys and values in the first cross-attention.
    n_queries, query_heads : int
        Number of output queries and attention heads with which they read the latents.
    n_latents, d_latents, n_layers, n_heads, widening, dropout
        As in `viper.fusion.perceiver.Preset`.
    """

    def __init__(
        self,
        *,
        d_input: int,
        d_attention: int,
        n_queries: int,
        query_heads: int,
        n_latents: int,
        d_latents: int,
        n_layers: int,
        n_heads: int,
        widening: int,
        dropout: float,
    ) -> None:
        super().__init__()
        d = d_latents
        self.latents = nn.Parameter(torch.empty(n_latents, d))
        self.read = Block(d, d_input, d_attention, n_heads, widening, dropout)
        self.layers = nn.ModuleList(Block(d, None, d, n_heads, widening, dropout) for _ in range(n_layers))
        self.queries = nn.Parameter(torch.empty(n_queries, d))
        self.answer = Block(d, d, d, query_heads, widening, dropout)

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Map inputs (B, K, d_input) with key mask (B, K) to answers (B, Q, d_latents)."""
        latents = self.read(self.latents.unsqueeze(0), inputs, mask)
        for layer in self.layers:
            latents = layer(latents)
        return self.answer(self.queries.unsqueeze(0), latents)
