"""Where a tokens fusion looked: each answer's attention, through the latents, to every token of every modality."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from viper.fusion.layers import Attention, Block
from viper.fusion.perceiver import PerceiverFusion, TokensPerceiver


def has_attention(model: PerceiverFusion) -> bool:
    """Whether a model's attention can be told apart by modality: channels fusion mixes them, baselines have none."""
    return isinstance(model.body, TokensPerceiver)


@torch.inference_mode()
def attention_to_tokens(
    model: PerceiverFusion, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """How much of its attention each answer gives to each token.

    The attention of the output queries to the latents, times that of the latents to each other in every layer, times
    that of the latents to the tokens: attention rollout (Abnar and Zuidema, 2020, arXiv:2005.00928). Heads are
    averaged, and each layer's matrix A counts as (A + 1) / 2, for the residual connection beside it. It says where
    information could come from, not what was made of it.

    Parameters
    ----------
    model : of the tokens fusion (`has_attention`); another one is a ValueError.
    tokens, mask, time : as of `PerceiverFusion.forward`.

    Returns
    -------
    Modality -> (B, targets, T_m) shares, exactly 0 for masked tokens. Over all modalities, and the model's empty token,
    which has what is left, they add up to 1.
    """
    if not isinstance(model.body, TokensPerceiver):
        raise ValueError(f"{model.config.fusion} fusion has no attention to tokens")
    perceiver = model.body.perceiver
    blocks = [perceiver.read, *perceiver.layers, perceiver.answer]
    read, *layers, answer = _weights_of(model, blocks, tokens, mask, time)
    flow = answer.mean(dim=1)
    for layer in reversed(layers):
        mixed = layer.mean(dim=1)
        flow = flow @ ((mixed + torch.eye(mixed.shape[-1], device=mixed.device)) / 2)
    flow = flow @ read.mean(dim=1)
    names = [name for name in model.config.modality_order if name in tokens]
    # The empty token stands first.
    _, *parts = flow.split([1, *(tokens[name].shape[1] for name in names)], dim=-1)
    return dict(zip(names, parts, strict=True))


def attention_weights(module: Attention, queries: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
    """(B, heads, Q, K): the softmax by which the module averages its values, from its own projections.

    torch's scaled_dot_product_attention, which the module calls, does not give it away. Arguments as of the module.
    """
    queries = module.norm(queries)
    context = queries if module.norm_context is None else module.norm_context(context)
    query, key = module.split_heads(module.query(queries)), module.split_heads(module.key(context))
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
    return scores.softmax(dim=-1)


def _weights_of(model: PerceiverFusion, blocks: list[nn.Module], *inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Every block's attention weights in one pass of the model, in the order of the blocks."""
    found: dict[int, Tensor] = {}

    def record(module: nn.Module, given: tuple[Tensor | None, ...]) -> None:
        assert isinstance(module, Attention)
        queries, context, mask = given
        assert queries is not None
        found[id(module)] = attention_weights(module, queries, context, mask)

    attentions = [block.attention for block in blocks if isinstance(block, Block)]
    hooks = [attention.register_forward_pre_hook(record) for attention in attentions]
    try:
        model.eval()(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[id(attention)] for attention in attentions]
