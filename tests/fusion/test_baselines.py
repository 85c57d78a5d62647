"""The baselines: the same invariances as the Perceiver, and a linear fit that is the solver's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from planted import Planted, plant, predict_all
from sklearn.linear_model import LogisticRegression, Ridge

from viper.errors import UserError
from viper.evaluation.measures import pearson
from viper.evaluation.metrics import evaluate
from viper.fusion.baselines import BODIES, mean_and_deviation
from viper.fusion.checkpoint import load_checkpoint, save_checkpoint
from viper.fusion.perceiver import PerceiverFusion
from viper.inference.stored import predict
from viper.training.linear import STRENGTHS, fit_linear, fit_linear_member, set_pooling_statistics

CPU = torch.device("cpu")
Batch = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Clips 3 and 70 lack a modality; 62 has none at all."""
    lacking = {"visual": [62], "audio": [3, 62, 70], "textual": [5, 62]}
    return plant(tmp_path_factory.mktemp("regression"), lacking=lacking)


@pytest.fixture(scope="module", params=sorted(BODIES))
def model(request: pytest.FixtureRequest, regression: Planted) -> PerceiverFusion:
    made = regression.model(request.param)
    if request.param != "gru":
        set_pooling_statistics(made, regression.data("Train"), predict_all)
    with torch.no_grad():
        # An untrained head is nearly zero, which would hide what reaches it.
        made.body.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    return made


@pytest.fixture(scope="module")
def batch(regression: Planted) -> Batch:
    data = regression.data("Val")
    batch = data.collate([data[i] for i in range(8)])
    return {kind: batch[kind] for kind in ("tokens", "mask", "time")}


def _answer(model: PerceiverFusion, batch: Batch) -> torch.Tensor:
    with torch.inference_mode():
        return model(**batch).logits


def test_padding_and_what_is_masked_change_nothing(model: PerceiverFusion, batch: Batch) -> None:
    padded: Batch = {"tokens": {}, "mask": {}, "time": {}}
    for name, x in batch["tokens"].items():
        garbage = torch.full((len(x), 5, x.shape[2]), torch.nan)
        hole = torch.where(batch["mask"][name].unsqueeze(-1), x, torch.nan)
        # In front, too: a recurrent model would have read it first.
        padded["tokens"][name] = torch.cat([garbage, hole, garbage], dim=1)
        absent = torch.zeros(len(x), 5, dtype=torch.bool)
        padded["mask"][name] = torch.cat([absent, batch["mask"][name], absent], dim=1)
        padded["time"][name] = torch.cat([absent.float(), batch["time"][name], absent.float()], dim=1)
    torch.testing.assert_close(_answer(model, padded), _answer(model, batch), atol=1e-5, rtol=0)


def test_order_of_modalities_and_batch_composition_change_nothing(model: PerceiverFusion, batch: Batch) -> None:
    expected = _answer(model, batch)
    turned = {kind: dict(reversed(inputs.items())) for kind, inputs in batch.items()}
    torch.testing.assert_close(_answer(model, turned), expected, atol=1e-5, rtol=0)
    alone = [{kind: {n: x[i : i + 1] for n, x in inputs.items()} for kind, inputs in batch.items()} for i in range(8)]
    torch.testing.assert_close(torch.cat([_answer(model, one) for one in alone]), expected, atol=1e-5, rtol=0)


def test_an_absent_modality_is_one_whose_tokens_are_all_masked(model: PerceiverFusion, batch: Batch) -> None:
    hidden = {**batch, "mask": batch["mask"] | {"audio": torch.zeros_like(batch["mask"]["audio"])}}
    without = {kind: {n: x for n, x in inputs.items() if n != "audio"} for kind, inputs in batch.items()}
    torch.testing.assert_close(_answer(model, without), _answer(model, hidden), atol=1e-5, rtol=0)
    difference = (_answer(model, without) - _answer(model, batch)).abs().amax(dim=1)
    assert (difference[batch["mask"]["audio"].any(dim=1)] > 1e-4).all()


def test_nothing_present_has_a_finite_answer(model: PerceiverFusion, batch: Batch) -> None:
    nothing = {**batch, "mask": {name: torch.zeros_like(mask) for name, mask in batch["mask"].items()}}
    answers = _answer(model, nothing)
    assert answers.isfinite().all()
    torch.testing.assert_close(answers, answers[:1].expand_as(answers))
    empty = {kind: {name: x[:, :0] for name, x in inputs.items()} for kind, inputs in batch.items()}
    torch.testing.assert_close(_answer(model, empty), answers, atol=1e-5, rtol=0)


def test_every_token_and_its_order_matter_to_the_gru_alone(regression: Planted, batch: Batch) -> None:
    name = "visual"
    full = {**batch, "mask": {n: torch.ones_like(mask) for n, mask in batch["mask"].items()}}
    turned = {**full, "tokens": full["tokens"] | {name: full["tokens"][name].flip(1)}}
    for fusion in BODIES:
        made = regression.model(fusion)
        difference = (_answer(made, turned) - _answer(made, full)).abs().max()
        assert (difference > 1e-4) == (fusion == "gru")


def test_pooling_is_numpy_s_mean_and_deviation() -> None:
    tokens = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, False, True, True, False, True], [False] * 6])
    pooled = mean_and_deviation(tokens, mask).numpy()
    kept = tokens[0][mask[0]].numpy()
    np.testing.assert_allclose(pooled[0], np.concatenate([kept.mean(axis=0), kept.std(axis=0)]), rtol=1e-5)
    assert (pooled[1] == 0).all()


def test_pooled_vectors_are_standardised_over_the_clips_that_have_the_modality(regression: Planted) -> None:
    made = regression.model("linear")
    data = regression.data("Train")
    set_pooling_statistics(made, data, predict_all)
    batch = data.collate([data[i] for i in range(len(data))])
    tokens = {name: made.standardize[name](x, batch["mask"][name]) for name, x in batch["tokens"].items()}
    visual, audio, _ = made.body.pool(tokens, batch["mask"]).split([11, 9, 7], dim=1)
    present = torch.arange(len(data)) != 3
    torch.testing.assert_close(audio[present, :-1].mean(dim=0), torch.zeros(8), atol=1e-5, rtol=0)
    # Eight columns that vary by 1 together: a wide modality weighs no more than a narrow one.
    deviation = audio[present, :-1].std(dim=0, correction=0)
    torch.testing.assert_close(deviation, torch.full((8,), 8**-0.5), atol=1e-4, rtol=0)
    assert audio[:, -1].tolist() == [float(i == 3) for i in range(len(data))]
    assert (audio[3, :-1] == 0).all()
    assert (visual[:, -1] == 0).all()


def test_linear_is_ridge_and_survives_saving(regression: Planted, tmp_path: Path) -> None:
    made, task = regression.model("linear"), regression.task
    training, validation = regression.data("Train"), regression.data("Val")
    training.labels[:4, 1] = np.nan  # and a target that four clips lack
    strength = fit_linear(made, task, training, validation, predict_all)
    assert strength in STRENGTHS
    predictions = predict(made, validation, 7, CPU)
    captured: list[torch.Tensor] = []
    with_hook = made.body.pool.register_forward_hook(lambda m, i, output: captured.append(output))
    for data in (training, validation):
        predict(made, data, 1000, CPU)
    with_hook.remove()
    x, x_validation = (output.double().numpy() for output in captured)
    for k, target in enumerate(task.targets):
        rows = slice(4, None) if k == 1 else slice(None)
        expected = Ridge(alpha=strength).fit(x[rows], training.labels[rows, k]).predict(x_validation)
        np.testing.assert_allclose(predictions[:, k], expected, atol=1e-4, err_msg=target)
    assert min(pearson(predictions[:, k], validation.labels[:, k]).value for k in range(3)) > 0.9  # one clip is empty
    save_checkpoint(tmp_path, 1, made)
    again = predict(load_checkpoint(tmp_path / "perceiver_1"), validation, 7, CPU)
    np.testing.assert_allclose(again, predictions, atol=1e-6)


def test_strength_is_chosen_on_validation(regression: Planted) -> None:
    """Noise for labels is best met by predicting next to nothing; the planted labels are not."""
    made, task = regression.model("linear"), regression.task
    training, validation = regression.data("Train"), regression.data("Val")
    chosen = fit_linear(made, task, training, validation, predict_all)
    rng = np.random.default_rng(1)  # not the seed of the planted ones
    training.labels[:], validation.labels[:] = rng.uniform(size=(60, 3)), rng.uniform(size=(24, 3))
    by_error = type(task)(**{**vars(task), "metrics": ("mse", "pearson")})
    assert fit_linear(made, by_error, training, validation, predict_all) > 10 * chosen


def test_linear_classifies(tmp_path: Path) -> None:
    planted_data = plant(tmp_path, "single_label")
    made = planted_data.model("linear")
    training, validation = planted_data.data("Train"), planted_data.data("Val")
    training.labels[:5] = np.nan
    fit_linear(made, planted_data.task, training, validation, predict_all)
    predictions = predict(made, validation, 7, CPU)
    np.testing.assert_allclose(predictions.sum(axis=1), 1, atol=1e-5)
    # Which of three channels is largest is a linear question; chance is 1/3, and near ties cost something.
    assert evaluate(planted_data.task, predictions, validation.labels).mean("uar").value > 0.8
    # Two of the three classes in training: the third is possible and unlikely.
    seen = training.labels[:, 2] == 0
    training.labels[~seen] = np.nan
    fit_linear(made, planted_data.task, training, validation, predict_all)
    predictions = predict(made, validation, 7, CPU)
    assert 0 < predictions[:, 2].max() < 0.05
    in_two = validation.labels[:, 2] == 0
    assert (predictions[in_two].argmax(axis=1) == validation.labels[in_two].argmax(axis=1)).mean() > 0.8
    training.labels[:] = [1, 0, 0]
    with pytest.raises(UserError, match="all training clips are of one class"):
        fit_linear(made, planted_data.task, training, validation, predict_all)


def test_two_classes_are_scikit_learn_s_probabilities(tmp_path: Path) -> None:
    """scikit-learn gives two classes one logit; the head has two."""
    planted_data = plant(tmp_path, "single_label")
    made, task = planted_data.model("linear"), planted_data.task
    by_accuracy = type(task)(**{**vars(task), "metrics": ("accuracy",)})
    training, validation = planted_data.data("Train"), planted_data.data("Val")
    training.labels[training.labels[:, 2] == 1] = np.nan
    strength = fit_linear(made, by_accuracy, training, validation, predict_all)
    captured: list[torch.Tensor] = []
    hook = made.body.pool.register_forward_hook(lambda m, i, output: captured.append(output))
    predict(made, training, 1000, CPU)
    predictions = predict(made, validation, 1000, CPU)
    hook.remove()
    x, x_validation = (output.double().numpy() for output in captured)
    known = ~np.isnan(training.labels[:, 0])
    reference = LogisticRegression(C=0.5 / strength, max_iter=1000)
    reference.fit(x[known], training.labels[known].argmax(axis=1))
    shares = predictions[:, :2] / predictions[:, :2].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, reference.predict_proba(x_validation), atol=1e-3)


def test_linear_labels_each_target_by_itself(tmp_path: Path) -> None:
    planted_data = plant(tmp_path, "multi_label")
    made, task = planted_data.model("linear"), planted_data.task
    training, validation = planted_data.data("Train"), planted_data.data("Val")
    training.labels[:20, 0] = np.nan
    fit_linear(made, task, training, validation, predict_all)
    predictions = predict(made, validation, 7, CPU)
    assert evaluate(task, predictions, validation.labels).mean("map").value > 0.95
    training.labels[:, 1] = 0  # never there in training
    fit_linear(made, task, training, validation, predict_all)
    np.testing.assert_allclose(predict(made, validation, 7, CPU)[:, 1], 0.5 / (60 + 1), atol=1e-3)


@pytest.mark.parametrize("fusion", ["mlp", "gru"])
def test_networks_learn_what_was_planted(regression: Planted, fusion: str, tmp_path: Path) -> None:
    made = regression.model(fusion)
    training, validation = regression.data("Train"), regression.data("Val")
    if fusion == "mlp":
        set_pooling_statistics(made, training, predict_all)
    batch = training.collate([training[i] for i in range(len(training))])
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    made.train()
    for _ in range(60):
        optimizer.zero_grad()
        made(**batch).loss.backward()
        optimizer.step()
    made.eval()
    predictions = predict(made, validation, 7, CPU)
    assert np.mean([pearson(predictions[:, k], validation.labels[:, k]).value for k in range(3)]) > 0.85
    save_checkpoint(tmp_path, 1, made)
    again = predict(load_checkpoint(tmp_path / "perceiver_1"), validation, 7, CPU)
    np.testing.assert_allclose(again, predictions, atol=1e-6)


def test_a_linear_member_gives_its_share_of_the_answer(tmp_path: Path) -> None:
    planted = plant(tmp_path, lacking={"audio": [3, 70]})
    model = planted.model("tokens", linear_share=0.25)
    strength = fit_linear_member(model, planted.task, planted.data("Train"), planted.data("Val"), predict_all)
    alone = planted.model("linear")
    assert fit_linear(alone, planted.task, planted.data("Train"), planted.data("Val"), predict_all) == strength
    without = planted.model("tokens")
    without.body.load_state_dict(model.body.state_dict())
    data = planted.data("Val")
    answers = [predict(each, data, 5, CPU) for each in (model, without, alone)]
    np.testing.assert_allclose(answers[0], 0.75 * answers[1] + 0.25 * answers[2].clip(0, 1), atol=1e-6)
    # It is in the checkpoint, and no gradient reaches it.
    model.save_pretrained(tmp_path / "saved")
    loaded = PerceiverFusion.from_pretrained(tmp_path / "saved").eval()
    np.testing.assert_array_equal(predict(loaded, data, 5, CPU), answers[0])
    assert loaded.linear is not None
    batch = data.collate([data[0], data[1]])
    loaded.train()(**batch).loss.backward()
    assert all(parameter.grad is None for parameter in loaded.linear.parameters())
    assert any(parameter.grad is not None for parameter in loaded.body.parameters())


@pytest.mark.parametrize("kind", ["regression", "single_label", "multi_label"])
def test_a_blend_depends_on_nothing_but_the_clip(tmp_path: Path, kind: str) -> None:
    planted = plant(tmp_path, kind, lacking={"audio": [62], "visual": [63, 64]})
    model = planted.model("tokens", linear_share=0.5)
    fit_linear_member(model, planted.task, planted.data("Train"), planted.data("Val"), predict_all)
    alone, together = (predict(model, planted.data("Val"), size, CPU) for size in (1, 24))
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert (together >= 0).all()
    assert (together <= 1).all()
    swapped = predict(model, planted.data("Val", "textual", "visual", "audio"), 24, CPU)
    np.testing.assert_allclose(swapped, together, atol=1e-5)
