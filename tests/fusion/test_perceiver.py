"""The fusion model: what may not change its answer, what must, and that it equals and outlives its checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from many import long_test
from torch import Tensor
from transformers import PerceiverConfig, PerceiverModel, Trainer, TrainingArguments
from transformers.models.perceiver.modeling_perceiver import PerceiverClassificationDecoder

from viper.errors import UserError
from viper.fusion.layers import drop_channels, random_keep
from viper.fusion.perceiver import PRESETS, PerceiverFusion, PerceiverFusionConfig, load_transformers_perceiver
from viper.fusion.published_perceiver import fit_length

WIDTHS = {"visual": 12, "audio": 7, "FAU": 5}
PUBLISHED_WIDTHS = {"visual": 768, "audio": 512, "textual": 768, "FAU": 27}
TARGETS = ["joy", "fear", "awe"]
FUSIONS = pytest.mark.parametrize("fusion", ["tokens", "channels"])
Batch = dict[str, dict[str, Tensor]]


def make_config(fusion: str = "tokens", widths: dict[str, int] = WIDTHS, **options) -> PerceiverFusionConfig:
    task = {"name": "test", "kind": "regression", "targets": TARGETS, "range": [0.0, 1.0]}
    modalities = {name: {"width": width, "encoder": {"name": f"{name}-encoder"}} for name, width in widths.items()}
    return PerceiverFusionConfig(
        **{"fusion": fusion, "preset": "tiny", "modalities": modalities, "task": task, **options}
    )


def make_model(fusion: str = "tokens", seed: int = 0, **options) -> PerceiverFusion:
    """A model in eval mode whose features are standardised and whose weights are large enough for answers to differ."""
    torch.manual_seed(seed)
    model = PerceiverFusion(make_config(fusion, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    widths = {name: spec["width"] for name, spec in model.config.modalities.items()}
    model.set_normalization({name: (torch.randn(w), 0.5 + torch.rand(w)) for name, w in widths.items()})
    return model


def make_batch(n_clips: int = 4, seed: int = 1, widths: dict[str, int] = WIDTHS) -> Batch:
    """Clips whose modalities differ in length, with masked tokens in the middle and at the end."""
    generator = torch.Generator().manual_seed(seed)
    batch: Batch = {"tokens": {}, "mask": {}, "time": {}}
    for i, (name, width) in enumerate(widths.items()):
        n = 6 + 2 * i
        batch["tokens"][name] = torch.randn(n_clips, n, width, generator=generator)
        batch["mask"][name] = torch.rand(n_clips, n, generator=generator) < 0.7
        batch["mask"][name][:, 0] = True
        batch["time"][name] = torch.rand(n_clips, n, generator=generator).cumsum(1)
    return batch


def each(batch: Batch, change) -> Batch:
    """`change(kind, name, tensor)` for every tensor."""
    return {kind: {name: change(kind, name, x) for name, x in part.items()} for kind, part in batch.items()}


@torch.no_grad()
def predict(model: PerceiverFusion, batch: Batch) -> Tensor:
    return model(**batch).logits


def assert_same(a: Tensor, b: Tensor) -> None:
    assert a.isfinite().all()
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


# --- what may not change the answer -----------------------------------------------------------------------------------


@FUSIONS
def test_extra_padding_changes_nothing(fusion):
    model, batch = make_model(fusion), make_batch()
    padding = {"tokens": (0, 0, 0, 5), "mask": (0, 5), "time": (0, 5)}
    padded = each(batch, lambda kind, name, x: torch.nn.functional.pad(x, padding[kind]))
    assert_same(predict(model, padded), predict(model, batch))


@FUSIONS
def test_order_of_modalities_in_the_dict_changes_nothing(fusion):
    model, batch = make_model(fusion), make_batch()
    turned = {kind: dict(reversed(part.items())) for kind, part in batch.items()}
    assert torch.equal(predict(model, turned), predict(model, batch))


@FUSIONS
def test_a_clip_alone_gets_the_answer_it_gets_in_a_batch(fusion):
    model, batch = make_model(fusion), make_batch()
    together = predict(model, batch)
    assert difference(together[0], together[1]) > 1e-3  # clips do differ
    for i in range(4):
        length = {name: int(mask[i].nonzero().max()) + 1 for name, mask in batch["mask"].items()}
        alone = each(batch, lambda kind, name, x, i=i, length=length: x[i : i + 1, : length[name]])
        assert_same(predict(model, alone)[0], together[i])


@FUSIONS
@pytest.mark.parametrize("garbage", [1e6, math.nan, math.inf])
def test_masked_content_does_not_leak(fusion, garbage):
    model, batch = make_model(fusion), make_batch()

    def spoil(kind: str, name: str, x: Tensor) -> Tensor:
        if kind == "mask":
            return x
        mask = batch["mask"][name] if kind == "time" else batch["mask"][name].unsqueeze(-1)
        return torch.where(mask, x, garbage)

    spoiled = each(batch, spoil)
    assert_same(predict(model, spoiled), predict(model, batch))
    model.train()(**spoiled, labels=torch.rand(4, 3)).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@FUSIONS
def test_an_absent_modality_equals_one_that_is_masked_throughout(fusion):
    model, batch = make_model(fusion), make_batch()
    masked = each(batch, lambda kind, name, x: torch.zeros_like(x) if (kind, name) == ("mask", "audio") else x)
    absent = {kind: {name: x for name, x in part.items() if name != "audio"} for kind, part in batch.items()}
    empty = each(batch, lambda kind, name, x: x[:, :0] if name == "audio" else x)
    assert_same(predict(model, masked), predict(model, absent))
    assert_same(predict(model, empty), predict(model, absent))
    assert difference(predict(model, absent), predict(model, batch)) > 1e-3
    model.train()(**empty, labels=torch.rand(4, 3)).loss.backward()


def test_order_of_tokens_changes_nothing_while_each_keeps_its_time():
    model, batch = make_model(), make_batch()
    turned = each(batch, lambda kind, name, x: x.flip(1))
    assert_same(predict(model, turned), predict(model, batch))


@FUSIONS
def test_a_clip_with_nothing_present_has_its_own_finite_answer(fusion):
    model = make_model(fusion)

    def without_clip_2(batch: Batch) -> Batch:
        return each(batch, lambda kind, name, x: x & (torch.arange(4) != 2).unsqueeze(1) if kind == "mask" else x)

    first, second = make_batch(seed=1), make_batch(seed=2)
    answers = predict(model, without_clip_2(first))
    assert_same(answers[2], predict(model, without_clip_2(second))[2])
    alone = each(without_clip_2(first), lambda kind, name, x: x[2:3, :1])
    assert_same(answers[2], predict(model, alone)[0])
    others = [0, 1, 3]
    assert_same(answers[others], predict(model, first)[others])
    loss = model.train()(**without_clip_2(first), labels=torch.rand(4, 3)).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# --- what must change the answer --------------------------------------------------------------------------------------


def test_time_matters_in_tokens_fusion():
    model, batch = make_model(), make_batch()
    batch["mask"] = {name: torch.ones_like(mask) for name, mask in batch["mask"].items()}
    answers = predict(model, batch)
    permuted = each(batch, lambda kind, name, x: x.flip(1) if kind == "time" else x)
    shifted = each(batch, lambda kind, name, x: x + 0.5 if kind == "time" else x)
    assert difference(predict(model, permuted), answers) > 1e-3
    assert difference(predict(model, shifted), answers) > 1e-3


def test_modalities_of_the_same_width_are_told_apart():
    widths = {"left": 6, "right": 6}
    model = make_model(widths=widths)
    batch = make_batch(widths=widths)
    swapped = {kind: {"left": part["right"], "right": part["left"]} for kind, part in batch.items()}
    assert difference(predict(model, swapped), predict(model, batch)) > 1e-3


@FUSIONS
def test_every_parameter_gets_a_gradient(fusion):
    model = make_model(fusion).train()
    model(**make_batch(), labels=torch.rand(4, 3)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # Softmax is blind to a constant added to all scores of a query, which is all that a bias of the keys adds.
        if not name.endswith("key.bias"):
            rows = parameter.grad.reshape(len(parameter.grad), -1)  # each latent, each query, each target's head, ...
            assert rows.abs().amax(dim=1).min() > 1e-9, name


# --- equality with transformers ---------------------------------------------------------------------------------------


def make_transformers_perceiver(d_model: int) -> PerceiverModel:
    torch.manual_seed(3)
    config = PerceiverConfig(
        num_latents=9, d_latents=32, d_model=d_model, num_self_attends_per_block=3, num_self_attention_heads=4,
        num_cross_attention_heads=4, num_labels=len(TARGETS),
    )  # fmt: skip
    query = {"num_channels": config.d_latents, "index_dims": 1}
    decoder = PerceiverClassificationDecoder(
        config, num_channels=config.d_latents, trainable_position_encoding_kwargs=query, use_query_residual=True
    )
    model = PerceiverModel(config, decoder=decoder).eval()
    with torch.no_grad():  # weights beyond the initial 0.02, so that an error in any of them shows
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_reduced_channels(**options) -> PerceiverFusion:
    sizes = {"n_latents": 9, "d_latents": 32, "n_layers": 3, "n_heads": 4, "widening": 1}
    return PerceiverFusion(make_config("channels", **sizes, **options)).eval()


@pytest.mark.parametrize("prefix", ["", "perceiver."])
@pytest.mark.parametrize("masked", [False, True])
def test_channels_fusion_equals_transformers_perceiver(prefix, masked):
    reference = make_transformers_perceiver(d_model=24)
    model = make_reduced_channels(widths={"a": 11, "b": 13})
    load_transformers_perceiver(model, {prefix + name: x for name, x in reference.state_dict().items()})
    torch.manual_seed(4)
    inputs = torch.randn(5, 10, 24)
    mask = torch.rand(5, 10) < 0.5 if masked else torch.ones(5, 10, dtype=torch.bool)
    mask[1, 3] = True
    mask[2] = ~torch.tensor(masked)
    batch: Batch = {
        "tokens": {"a": inputs[..., :11], "b": inputs[..., 11:]},
        "mask": {"a": mask, "b": mask},
        "time": {"a": torch.zeros(5, 10), "b": torch.zeros(5, 10)},
    }
    with torch.no_grad():
        expected = reference(inputs=inputs * mask.unsqueeze(-1), attention_mask=mask.long()).logits
    assert expected.std(dim=0).min() > 0.02  # clips do differ
    assert difference(predict(model, batch), expected) < 1e-4


def test_channels_fusion_lays_modalities_out_in_order_and_fills_up_to_the_heads():
    reference = make_transformers_perceiver(d_model=16)
    model = make_reduced_channels(widths={"a": 3, "b": 7, "c": 4}, modality_order=["b", "c", "a"])
    load_transformers_perceiver(model, reference.state_dict())
    batch = make_batch(widths={"a": 3, "b": 7, "c": 4})
    inputs, seen = torch.zeros(4, 10, 16), torch.zeros(4, 10, dtype=torch.long)
    for name, start in (("b", 0), ("c", 7), ("a", 11)):
        mask, x = batch["mask"][name], batch["tokens"][name]
        inputs[:, : x.shape[1], start : start + x.shape[2]] = x * mask.unsqueeze(-1)
        seen[:, : x.shape[1]] |= mask
    with torch.no_grad():
        expected = reference(inputs=inputs, attention_mask=seen).logits
    assert difference(predict(model, batch), expected) < 1e-4


def test_weights_of_transformers_that_do_not_fit_are_named():
    reference = make_transformers_perceiver(d_model=24).state_dict()
    model = make_reduced_channels(widths={"a": 24})
    before = {name: x.clone() for name, x in model.state_dict().items()}
    missing = {name: x for name, x in reference.items() if name != "encoder.self_attends.1.mlp.dense1.bias"}
    with pytest.raises(ValueError, match=r"missing encoder\.self_attends\.1\.mlp\.dense1\.bias"):
        load_transformers_perceiver(model, missing)
    with pytest.raises(ValueError, match=r"unused input_preprocessor\.weight"):
        load_transformers_perceiver(model, reference | {"input_preprocessor.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"embeddings\.latents is \(8, 32\), not \(9, 32\)"):
        load_transformers_perceiver(model, reference | {"embeddings.latents": torch.zeros(8, 32)})
    with pytest.raises(ValueError, match="'tokens'"):
        load_transformers_perceiver(make_model(), reference)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_longer_clips_are_thinned_evenly_whatever_their_padding():
    tokens = torch.arange(8.0).view(1, 8, 1).repeat(3, 1, 1)
    lengths = torch.tensor([[8], [3], [5]])
    mask = torch.arange(8) < lengths
    thinned, thinned_mask = fit_length(tokens, mask, 4)
    assert thinned[..., 0].tolist() == [[0, 2, 5, 7], [0, 1, 2, 3], [0, 1, 3, 4]]
    assert thinned_mask.tolist() == [[True] * 4, [True] * 3 + [False], [True] * 4]
    model, batch = make_model("channels", n_tokens=4), make_batch()
    longer = each(batch, lambda kind, name, x: torch.cat([x, torch.zeros_like(x)], dim=1))
    assert_same(predict(model, longer), predict(model, batch))
    assert difference(predict(make_model("channels", n_tokens=8), batch), predict(model, batch)) > 1e-4


# --- sizes, configuration, errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fusion", "preset", "low", "high"),
    [
        ("tokens", "tiny", 0.2e6, 0.3e6),
        ("tokens", "small", 4e6, 6.5e6),
        ("tokens", "base", 25e6, 30e6),
        ("tokens", "paper", 270e6, 295e6),
        ("channels", "paper", 270e6, 295e6),
    ],
)
def test_presets_have_their_advertised_size(fusion, preset, low, high):
    with torch.device("meta"):
        model = PerceiverFusion(make_config(fusion, PUBLISHED_WIDTHS, preset=preset))
    assert low <= sum(parameter.numel() for parameter in model.parameters()) <= high


def test_default_presets_and_overrides():
    assert PerceiverFusionConfig().preset == "small"
    assert PerceiverFusionConfig(fusion="channels").preset == "paper"
    config = make_config(n_latents=5, modality_dropout=0.0)
    assert (config.n_latents, config.modality_dropout, config.d_latents) == (5, 0.0, PRESETS["tiny"].d_latents)
    assert config.id2label == {0: "joy", 1: "fear", 2: "awe"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_latent": 5}, "n_latent"),
        ({"fusion": "sum"}, "'sum'"),
        ({"preset": "huge"}, "'huge'"),
        ({"modalities": {"visual": {"width": 3, "wdith": 4}}}, "wdith"),
        ({"modalities": {"visual": {}}}, "width"),
        ({"modalities": {"a.b": {"width": 3}}}, "'a.b'"),
        ({"modalities": {"keys": {"width": 3}}}, "'keys'"),
        ({"modality_order": ["visual"]}, "modality_order"),
        ({"task": {"targets": ["joy", "joy"]}}, "joy"),
        ({"task": {"targets": ["joy"], "range": [1, 0]}}, "range"),
        ({"task": {"name": "none"}}, "targets"),
        ({"n_heads": 5}, "n_heads"),
        ({"n_tokens": 0}, "n_tokens"),
        ({"token_dropout": 1.0}, "token_dropout"),
    ],
)
def test_wrong_configurations_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        make_config(**options)


def test_a_model_needs_modalities_and_targets():
    with pytest.raises(ValueError, match="at least one modality and one target"):
        PerceiverFusion(PerceiverFusionConfig())


def test_wrong_inputs_are_refused_by_name():
    model, batch = make_model(), make_batch()
    wide = each(batch, lambda kind, name, x: torch.zeros(4, 8, 9) if (kind, name) == ("tokens", "audio") else x)
    with pytest.raises(ValueError, match=r"'audio'.* 9, .* 7"):
        model(**wide)
    unknown = {kind: {**part, "smell": part["audio"]} for kind, part in batch.items()}
    with pytest.raises(ValueError, match="'smell'"):
        model(**unknown)
    with pytest.raises(ValueError, match=r"'visual'.* mask"):
        model(batch["tokens"], {}, batch["time"])
    shorter = each(batch, lambda kind, name, x: x[:, 1:] if (kind, name) == ("time", "FAU") else x)
    with pytest.raises(ValueError, match="'FAU'"):
        model(**shorter)
    fewer = each(batch, lambda kind, name, x: x[1:] if name == "FAU" else x)
    with pytest.raises(ValueError, match=r"'FAU'.* 4 clips"):
        model(**fewer)
    with pytest.raises(ValueError, match="no modality"):
        model({}, {}, {})


# --- normalisation, outputs, loss -------------------------------------------------------------------------------------


@FUSIONS
def test_features_are_standardised_with_the_given_statistics(fusion):
    model, batch = make_model(fusion), make_batch()
    mean, std = torch.randn(7), torch.rand(7) + 0.5
    model.set_normalization({"audio": (torch.zeros(7), torch.ones(7))})
    before = predict(model, batch)
    moved = each(batch, lambda kind, name, x: x * std + mean if (kind, name) == ("tokens", "audio") else x)
    assert difference(predict(model, moved), before) > 1e-3
    model.set_normalization({"audio": (mean, std)})
    assert_same(predict(model, moved), before)


def test_constant_features_and_wrong_statistics():
    model = make_model()
    std = torch.tensor([0.0, 1e-9, 2.0, 1e-4, 1.0, 1.0, 1e-3])
    model.set_normalization({"audio": (torch.tensor([0, 0, 0, 1000.0, 0, 0, 0]), std)})
    expected = torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1e-3])
    assert torch.equal(model.standardize["audio"].std, expected)
    with pytest.raises(ValueError, match="smell"):
        model.set_normalization({"smell": (torch.zeros(7), torch.ones(7))})
    with pytest.raises(ValueError, match=r"audio.*\(6,\).*7"):
        model.set_normalization({"audio": (torch.zeros(6), torch.ones(6))})
    with pytest.raises(ValueError, match=r"audio.*finite"):
        model.set_normalization({"audio": (torch.full((7,), math.nan), torch.ones(7))})


def test_outputs_keep_to_the_range_of_the_task():
    batch = make_batch(64)
    free = make_model(task={"targets": TARGETS, "range": None})
    bounded = make_model(task={"targets": TARGETS, "range": [-2.0, 5.0]})
    for model in (free, bounded):
        with torch.no_grad():
            model.body.head.weight.mul_(20)
    raw, answers = predict(free, batch), predict(bounded, batch)
    assert raw.min() < -2
    assert raw.max() > 5
    assert answers.min() >= -2
    assert answers.max() <= 5
    assert_same(answers, -2 + 7 * raw.sigmoid())


def test_loss_is_the_mean_squared_error_of_what_is_labelled():
    model, batch = make_model(), make_batch()
    labels = torch.rand(4, 3)
    labels[0, 1] = labels[3] = math.nan
    output = model(**batch, labels=labels)
    labelled = ~labels.isnan()
    expected = ((output.logits - labels)[labelled] ** 2).mean()
    torch.testing.assert_close(output.loss, expected)
    assert next(iter(output)) == "loss"
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    nothing = model(**batch, labels=torch.full((4, 3), math.nan)).loss
    assert nothing.item() == 0
    assert model(**batch).loss is None


# --- training ---------------------------------------------------------------------------------------------------------


def test_random_keep_spares_one_and_drops_at_its_rate():
    torch.manual_seed(0)
    present = torch.rand(20000, 4) < 0.6
    for rate in (0.0, 0.3, 0.999):
        kept = random_keep(present, rate)
        assert not (kept & ~present).any()
        assert torch.equal(kept.any(1), present.any(1))
    full = torch.ones(20000, 4, dtype=torch.bool)
    assert torch.equal(random_keep(full, 0.0), full)
    # 0.3 of each, but for the 0.3^4 of rows where one of the four that would go is spared.
    share = 1 - random_keep(full, 0.3).float().mean(0)
    torch.testing.assert_close(share, torch.full((4,), 0.3 - 0.3**4 / 4), atol=0.015, rtol=0)


def test_modality_dropout_leaves_one_modality_and_is_off_in_eval():
    still = {"dropout": 0.0, "token_dropout": 0.0, "feature_dropout": 0.0}
    model, batch = make_model(modality_dropout=0.999, **still), make_batch(16)
    singles = []
    for name in WIDTHS:
        only = each(batch, lambda kind, other, x, name=name: x & (name == other) if kind == "mask" else x)
        singles.append(predict(model, only))
    whole = predict(model, batch)
    assert_same(predict(model, batch), whole)
    model.train()
    torch.manual_seed(0)
    answers = predict(model, batch)
    distance = (torch.stack(singles) - answers).abs().amax(dim=-1)  # (modality, clip)
    assert (distance.amin(dim=0) < 1e-5).all()
    assert set(distance.argmin(dim=0).tolist()) == {0, 1, 2}
    model.config.modality_dropout = 0.0
    assert_same(predict(model, batch), whole)


@pytest.mark.parametrize("name", ["dropout", "token_dropout", "feature_dropout"])
def test_each_dropout_acts_in_training_only(name):
    rates = {"dropout": 0.0, "modality_dropout": 0.0, "token_dropout": 0.0, "feature_dropout": 0.0}
    model, batch = make_model(**{**rates, name: 0.5}), make_batch()
    whole = predict(model, batch)
    assert_same(predict(model, batch), whole)
    assert difference(predict(model.train(), batch), whole) > 1e-3


def test_channel_dropout_silences_a_channel_throughout_a_clip():
    torch.manual_seed(0)
    dropped = drop_channels(torch.ones(50, 6, 40), 0.25)
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    torch.testing.assert_close(dropped.unique(), torch.tensor([0.0, 4 / 3]))
    assert abs((dropped == 0).float().mean() - 0.25) < 0.05


@long_test
def test_tiny_learns_eight_clips_by_heart():
    torch.manual_seed(0)
    still = {"dropout": 0.0, "modality_dropout": 0.0, "token_dropout": 0.0, "feature_dropout": 0.0}
    model = PerceiverFusion(make_config(**still)).train()
    batch, labels = make_batch(8), torch.rand(8, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(200):
        optimizer.zero_grad()
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


@FUSIONS
def test_bf16_autocast_stays_close_to_float32(fusion):
    model, batch = make_model(fusion), make_batch()
    whole = predict(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(**batch, labels=torch.rand(4, 3))
    assert half.logits.dtype == torch.float32
    assert difference(half.logits.detach(), whole) < 0.05 * max(1.0, whole.abs().max().item())
    half.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@long_test
@FUSIONS
def test_the_graph_compiles_whole(fusion):
    model, batch = make_model(fusion, n_layers=1), make_batch()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_same(compiled(**batch).logits.detach(), predict(model, batch))


# --- checkpoints ------------------------------------------------------------------------------------------------------


@FUSIONS
def test_a_checkpoint_comes_back_bit_for_bit(fusion, tmp_path):
    model, batch = make_model(fusion, modality_order=["visual", "FAU", "audio"]), make_batch()
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    torch.manual_seed(99)
    again = PerceiverFusion.from_pretrained(tmp_path)
    assert not again.training
    weights, before = again.state_dict(), model.state_dict()
    assert weights.keys() == before.keys()
    assert all(torch.equal(weights[name], before[name]) for name in before)
    # Sums may be added up in another order where a loaded tensor lies at another alignment in memory.
    torch.testing.assert_close(predict(again, batch), predict(model, batch), atol=1e-6, rtol=1e-6)
    for key in ("fusion", "preset", "modalities", "modality_order", "task", "n_tokens", *vars(PRESETS["tiny"])):
        assert getattr(again.config, key) == getattr(model.config, key), key


def test_an_unknown_key_in_a_checkpoint_is_refused_by_name(tmp_path: Path):
    make_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "n_latentz": 3}))
    with pytest.raises(UserError, match="n_latentz"):
        PerceiverFusion.from_pretrained(tmp_path)


class Clips(torch.utils.data.Dataset):
    """Clips of one length, so that the Trainer's own collation of nested dicts will do."""

    def __init__(self) -> None:
        self.batch, self.labels = make_batch(12), torch.rand(12, 3)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> dict:
        return {**each(self.batch, lambda kind, name, x: x[i]), "labels": self.labels[i]}


def test_transformers_trainer_trains_evaluates_and_saves_it(tmp_path, monkeypatch):
    # It takes the tests' own folder of that name for the package.
    monkeypatch.setattr("transformers.trainer.is_datasets_available", lambda: False)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=2, per_device_train_batch_size=4, eval_strategy="epoch",
        save_strategy="epoch", report_to=[], use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    model = make_model()
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Clips(), eval_dataset=Clips(),
        data_collator=torch.utils.data.default_collate, compute_metrics=lambda p: {"shape": p.predictions.shape[1]},
    )  # fmt: skip
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer.train()
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters() if p.dim() > 1)
    scores = trainer.evaluate()
    assert scores["eval_shape"] == 3
    assert math.isfinite(scores["eval_loss"])
    saved = PerceiverFusion.from_pretrained(tmp_path / "checkpoint-6")
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in saved.state_dict().items())
