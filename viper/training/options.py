"""The options of a training, each said once: the model's and the loop's. No torch here, so that --help is quick."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from viper.errors import UserError

# The learning rate that suits each preset; the published recipe is that of `channels`.
LEARNING_RATES = {"tiny": 2e-3, "small": 5e-4, "base": 2e-4, "paper": 1e-4}
CHANNELS_LEARNING_RATE, CHANNELS_STEP_SIZE = 1e-5, 5
TOKENS_LINEAR_SHARE = 0.5


@dataclass(kw_only=True)
class ModelOptions:
    """Which model is trained. A size that is given overrides the preset's."""

    fusion: Literal["tokens", "channels", "linear", "mlp", "gru"] = "tokens"
    """tokens: any subset, any number of tokens. channels: the published layout. linear, mlp, gru: baselines."""
    preset: Literal["tiny", "small", "base", "paper"] | None = None
    """Size of the model. By default small, and paper for channels."""
    linear_share: float | None = None
    """Share of the prediction that comes from a linear model of pooled features. By default 0.5 for tokens, else 0."""
    n_latents: int | None = None
    """Latent vectors."""
    d_latents: int | None = None
    """Channels of a latent; for mlp and gru, channels of the hidden layers."""
    n_layers: int | None = None
    """Self-attention blocks over the latents."""
    n_heads: int | None = None
    """Attention heads."""
    widening: int | None = None
    """Hidden channels of a block's MLP, as a multiple of d_latents."""
    n_time_bands: int | None = None
    """Frequencies of the time encoding."""
    dropout: float | None = None
    """Dropout of attention probabilities, and of the hidden layers of mlp and gru."""
    modality_dropout: float | None = None
    """Probability, in training, of hiding a whole modality of a clip."""
    token_dropout: float | None = None
    """Probability, in training, of hiding a token."""
    feature_dropout: float | None = None
    """Probability, in training, of silencing a feature channel throughout a clip."""

    def sizes(self) -> dict[str, Any]:
        """Return the sizes that were given."""
        names = [
            field.name
            for field in dataclasses.fields(ModelOptions)
            if field.name not in ("fusion", "preset", "linear_share")
        ]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(kw_only=True)
class LoopOptions:
    """How a model is trained, whatever it is."""

    n_epochs: int = 30
    """Passes over the training split."""
    batch_size: int = 16
    """Clips per batch, over all processes; for a preference task, pairs and lists."""
    accumulate_steps: int = 1
    """Batches per optimizer step: gradients are averaged over batch_size x accumulate_steps clips."""
    learning_rate: float | None = None
    """By default 1e-5 for channels; for the others 2e-3 (tiny), 5e-4 (small), 2e-4 (base), 1e-4 (paper)."""
    step_size: int | None = None
    """Halve the learning rate every so many epochs. By default 5 for channels; warm-up and cosine for the others."""
    weight_decay: float = 0.01
    """Weight decay of AdamW; only matrices decay."""
    ema: float = 0.0
    """Decay, such as 0.99, of a running average of the weights; if set, the average is validated and saved."""
    max_grad_norm: float = 1.0
    """Gradient clipping: scale longer gradients down to this norm; 0 turns it off."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Precision of matrix products. auto: bf16 on a GPU that has it, else float32."""
    compile: bool = False
    """Compile the model first: minutes at the start, faster steps after."""
    log_steps: int = 50
    """Optimizer steps between two lines of training loss."""
    report_to: list[str] = field(default_factory=list)
    """Also log to these trackers: tensorboard, wandb, or another one that accelerate knows."""
    seed: int = 0
    """Seed of the initial weights, the order of clips and dropout."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train. Set CUDA_VISIBLE_DEVICES to pick a GPU."""

    def check(self) -> None:
        """Refuse a number out of range: a UserError that names the option."""
        for name in ("n_epochs", "batch_size", "accumulate_steps", "log_steps", "step_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: must be at least 1")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise UserError(f"--learning_rate {self.learning_rate}: must be above 0")
        for name in ("weight_decay", "max_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least 0")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed {self.seed}: must be at least 0 and below 2**32")
        if not 0 <= self.ema < 1:
            raise UserError(f"--ema {self.ema}: must be at least 0 and below 1")
