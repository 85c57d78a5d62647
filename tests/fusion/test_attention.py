"""Where a tokens fusion looked: recomputed weights, and what may not change them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from viper.fusion.attention import attention_to_tokens, attention_weights, has_attention
from viper.fusion.layers import Attention
from viper.fusion.perceiver import PerceiverFusion, PerceiverFusionConfig

WIDTHS = {"visual": 5, "audio": 4, "FAU": 3}
TARGETS = ["joy", "awe"]
Inputs = list[dict[str, Tensor]]


def _model(fusion: str = "tokens", **sizes: Any) -> PerceiverFusion:
    torch.manual_seed(0)
    modalities = {name: {"width": width, "encoder": {}} for name, width in WIDTHS.items()}
    task = {"name": "t", "kind": "regression", "targets": TARGETS, "range": [0, 1]}
    return PerceiverFusion(
        PerceiverFusionConfig(fusion=fusion, preset="tiny", modalities=modalities, task=task, **sizes)
    ).eval()


@pytest.fixture(scope="module")
def model() -> PerceiverFusion:
    model = _model()
    with torch.no_grad():  # sharp attention, so that it differs from an average over everything
        for name, parameter in model.named_parameters():
            if "query.weight" in name or "key.weight" in name:
                parameter *= 4
    return model


@pytest.fixture
def inputs() -> Inputs:
    """Three clips; the second lacks sound, the third everything. Masked tokens hold NaN."""
    torch.manual_seed(1)
    lengths = {"visual": 6, "audio": 4, "FAU": 5}
    tokens = {name: torch.randn(3, n, WIDTHS[name]) for name, n in lengths.items()}
    mask = {name: torch.rand(3, n) > 0.3 for name, n in lengths.items()}
    for name in mask:
        mask[name][0, 0], mask[name][1, 0], mask[name][2] = True, True, False
        tokens[name][~mask[name]] = torch.nan
    mask["audio"][1] = False
    return [tokens, mask, {name: torch.rand(3, n) * 5 for name, n in lengths.items()}]


def test_recomputed_weights_reproduce_what_every_attention_of_the_model_gives(
    model: PerceiverFusion, inputs: Inputs
) -> None:
    checked: list[int] = []

    def check(module: Attention, given: tuple[Any, ...], output: Tensor) -> None:
        queries, context, mask = given
        weights = attention_weights(module, queries, context, mask)
        keys = module.norm(queries) if module.norm_context is None else module.norm_context(context)
        attended = weights @ module.split_heads(module.value(keys))
        torch.testing.assert_close(module.output(attended.transpose(1, 2).flatten(2)), output, atol=1e-5, rtol=1e-4)
        if mask is not None:
            assert (weights.transpose(1, 3)[~mask] == 0).all()
        checked.append(weights.shape[-1])

    hooks = [m.register_forward_hook(check) for m in model.modules() if isinstance(m, Attention)]
    with torch.inference_mode():
        model(*inputs)
    for hook in hooks:
        hook.remove()
    n_latents = model.config.n_latents
    assert checked == [1 + 6 + 4 + 5, *[n_latents] * model.config.n_layers, n_latents]


def test_shares_of_what_is_there_add_up_to_one_with_the_empty_token(model: PerceiverFusion, inputs: Inputs) -> None:
    found = attention_to_tokens(model, *inputs)
    assert {name: tuple(x.shape) for name, x in found.items()} == {
        "visual": (3, 2, 6), "audio": (3, 2, 4), "FAU": (3, 2, 5)
    }  # fmt: skip
    for name, weights in found.items():
        mask = inputs[1][name][:, None].expand_as(weights)
        assert (weights[~mask] == 0).all()
        assert (weights[mask] > 0).all()
    total = sum(weights.sum(dim=-1) for weights in found.values())
    assert isinstance(total, Tensor)
    assert ((total[:2] > 0.1) & (total[:2] < 1)).all()
    assert (total[2] == 0).all()  # the empty token has it all
    with torch.inference_mode():  # nothing of the model was changed by looking
        before = model(*inputs).logits
        attention_to_tokens(model, *inputs)
        torch.testing.assert_close(model(*inputs).logits, before, rtol=0, atol=0)


def test_one_layer_less_is_the_product_of_reading_and_answering(inputs: Inputs) -> None:
    model = _model(n_layers=0)
    found = attention_to_tokens(model, *inputs)
    body = model.body.perceiver
    tokens = {name: model.standardize[name](x, inputs[1][name]) for name, x in inputs[0].items()}
    sequence = [body.latents.new_tensor([]).new_empty(3, 0, model.config.d_latents), model.body.null.expand(3, 1, -1)]
    sequence += [model.body.adapters[name](x) + model.body.time(inputs[2][name]) for name, x in tokens.items()]
    everything = torch.cat(sequence, dim=1)
    keys = torch.cat([torch.ones(3, 1, dtype=torch.bool), *inputs[1].values()], dim=1)
    with torch.inference_mode():
        read = attention_weights(body.read.attention, body.latents[None], everything, keys).mean(dim=1)
        latents = body.read(body.latents[None], everything, keys)
        answer = attention_weights(body.answer.attention, body.queries[None], latents, None).mean(dim=1)
    torch.testing.assert_close(torch.cat(list(found.values()), dim=-1), (answer @ read)[..., 1:])


def test_padding_order_and_absence_change_nothing(model: PerceiverFusion, inputs: Inputs) -> None:
    found = attention_to_tokens(model, *inputs)
    tokens, mask, time = inputs
    padded = [
        {name: torch.cat([x, x.new_full((3, 2, *x.shape[2:]), value)], dim=1) for name, x in part.items()}
        for part, value in ((tokens, float("nan")), (mask, False), (time, float("nan")))
    ]
    for name, weights in attention_to_tokens(model, *padded).items():
        torch.testing.assert_close(weights[..., :-2], found[name])
        assert (weights[..., -2:] == 0).all()
    turned = [{name: part[name] for name in reversed(part)} for part in inputs]
    for name, weights in attention_to_tokens(model, *turned).items():
        torch.testing.assert_close(weights, found[name])
    alone = attention_to_tokens(model, *[{name: x[:1] for name, x in part.items()} for part in inputs])
    for name, weights in alone.items():
        torch.testing.assert_close(weights, found[name][:1])
    masked = dict(mask, audio=torch.zeros_like(mask["audio"]))
    hidden = attention_to_tokens(model, tokens, masked, time)
    without = attention_to_tokens(model, *[{n: x for n, x in part.items() if n != "audio"} for part in inputs])
    assert (hidden.pop("audio") == 0).all()
    for name, weights in without.items():
        torch.testing.assert_close(weights, hidden[name])


@pytest.mark.parametrize("fusion", ["channels", "linear", "mlp", "gru"])
def test_other_fusions_have_none(fusion: str, inputs: Inputs) -> None:
    sizes = {"n_tokens": 6, "n_latents": 4, "d_latents": 8} if fusion == "channels" else {}
    model = _model(fusion, **sizes)
    assert not has_attention(model)
    with pytest.raises(ValueError, match=f"{fusion} fusion has no attention"):
        attention_to_tokens(model, *inputs)
