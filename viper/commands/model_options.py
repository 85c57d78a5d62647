"""The options by which training names the model: its fusion, its preset, and any size of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(kw_only=True)
class ModelOptions:
    """Which model is trained. A size that is given overrides the preset's."""

    fusion: Literal["tokens", "channels", "linear", "mlp", "gru"] = "tokens"
    """tokens: any subset, any number of tokens. channels: the published layout. linear, mlp, gru: baselines."""
    preset: Literal["tiny", "small", "base", "paper"] | None = None
    """Size of the model. By default small, and paper for channels."""
    linear_share: float | None = None
    """Share of the answer that a linear model of pooled features gives. By default 0.5 for tokens, and none else."""
    n_latents: int | None = None
    """Latent vectors."""
    d_latents: int | None = None
    """Channels of a latent; of the hidden layers, for mlp and gru."""
    n_layers: int | None = None
    """Self-attention blocks over the latents."""
    n_heads: int | None = None
    """Attention heads."""
    widening: int | None = None
    """Hidden channels of a block's MLP, as a multiple of d_latents."""
    n_time_bands: int | None = None
    """Frequencies of the time encoding."""
    dropout: float | None = None
    """Of attention probabilities, and of the hidden layers of mlp and gru."""
    modality_dropout: float | None = None
    """Probability, in training, of hiding a whole modality of a clip."""
    token_dropout: float | None = None
    """Probability, in training, of hiding a token."""
    feature_dropout: float | None = None
    """Probability, in training, of silencing a feature channel throughout a clip."""

    def sizes(self) -> dict[str, Any]:
        """The sizes that were given."""
        names = [
            field.name
            for field in dataclasses.fields(ModelOptions)
            if field.name not in ("fusion", "preset", "linear_share")
        ]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
