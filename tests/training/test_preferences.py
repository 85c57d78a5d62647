"""Preference tasks: orders beside a manifest, metrics with known answers, batches, and learning utilities from them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run
from csv_files import rows_of
from many import long_test
from planted import SIZES, Planted, plant, predict_all

from viper.errors import UserError
from viper.evaluation.measures import kendall_tau, listwise_accuracy, pairwise_accuracy
from viper.evaluation.metrics import evaluate
from viper.fusion.checkpoint import load_checkpoint
from viper.inference.stored import predict
from viper.manifest import Manifest, all_pairs, order_rows, preferences_path
from viper.task import load_task
from viper.training.data import OrderData
from viper.training.linear import fit_linear

QUICK = ["--preset", "tiny", "--n_epochs", "12", "--device", "cpu", "--keep", "best"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted") / "preferences", "preference")


def write(
    folder: Path, preferences: str, manifest: str = "File_ID,Split\n[a],Train\nb,Train\nc,Train\nd,Val\n"
) -> Path:
    (folder / "clips.csv").write_text(manifest)
    (folder / "clips_preferences.csv").write_text(preferences)
    return folder / "clips.csv"


def test_orders_are_read_by_name_and_belong_to_their_clips_split(tmp_path: Path) -> None:
    table = "File_ID,Split\n[a],Train\nb,Train\nc,Train\nd,Val\ne,devel\nf,Test\n"
    path = write(tmp_path, "rank_1,rank_2,rank_3\nb,[a],\nc,b,a\ne,d,\n", table)
    manifest = Manifest.load(path, load_task("v2v"))
    assert manifest.orders == (("b", "a"), ("c", "b", "a"), ("e", "d"))
    train = manifest.split("Train")
    np.testing.assert_array_equal(train.truth, [[1, 0, -1], [2, 1, 0]])
    np.testing.assert_array_equal(manifest.split("Val").truth, [[1, 0]])
    assert manifest.split("Test").orders == ()
    with pytest.raises(UserError, match=r"the split Test has a preference in .*clips_preferences\.csv"):
        manifest.split("Test").labelled()


def test_clips_in_no_order_are_not_trained_on(tmp_path: Path) -> None:
    manifest = Manifest.load(write(tmp_path, "rank_1,rank_2\nc,a\n"), load_task("v2v")).split("Train").labelled()
    assert manifest.clips == ["a", "c"]
    np.testing.assert_array_equal(manifest.truth, [[1, 0]])


@pytest.mark.parametrize(
    ("preferences", "message"),
    [
        ("less,more\na,b\n", "columns must be rank_1"),
        ("rank_1,rank_2\na,b\nb,x\n", "line 3: the clip 'x' is not in the manifest"),
        ("rank_1,rank_2\na,[a]\n", "line 2: the clip 'a' appears twice"),
        ("rank_1,rank_2\na,d\n", "line 2: clips of different splits: 'a' is in Train, 'd' in Val"),
        ("rank_1,rank_2\na,\n", "line 2: an order has at least two clips"),
        ("rank_1,rank_2,rank_3\na,,b\n", "line 2: an order fills its cells"),
        ("rank_1,rank_2\na,b,c\n", "line 2: an order fills its cells"),
        ("rank_1,rank_2\na,b/../c\n", "line 2: the id 'b/../c' is not a path within a folder"),
    ],
)
def test_a_wrong_order_is_named(tmp_path: Path, preferences: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        Manifest.load(write(tmp_path, preferences), load_task("v2v"))


def test_orders_as_rows_and_pairs() -> None:
    rows = order_rows([("x", "y"), ("z", "x", "y")], ["y", "z", "x"])
    np.testing.assert_array_equal(rows, [[2, 0, -1], [1, 2, 0]])
    less, more = all_pairs(rows)
    assert sorted(zip(less.tolist(), more.tolist(), strict=True)) == [(1, 0), (1, 2), (2, 0), (2, 0)]


def utilities(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def test_known_answers_of_pairs() -> None:
    pairs = np.array([[0, 1, -1], [1, 0, -1], [0, 2, -1], [3, 1, -1]])
    score = pairwise_accuracy(utilities(0.1, 0.3, 0.1, math.nan), pairs)
    assert (score.value, score.n) == (0.25, 4)  # right, wrong, a tie is wrong, NaN is wrong
    assert pairwise_accuracy(utilities(0, 1), np.array([[0, 1]])).value == 1
    assert pairwise_accuracy(utilities(0, math.inf), np.array([[0, 1]])).value == 0
    lists = np.array([[0, 1, 2]])
    assert pairwise_accuracy(utilities(0, 1, 2), lists).n == 0


def test_known_answers_of_lists() -> None:
    least_to_most = np.array([[0, 1, 2]])
    wrong = listwise_accuracy(utilities(0.1, 0.3, 0.2), least_to_most)
    assert (wrong.value, wrong.n) == (0, 1)
    assert kendall_tau(utilities(0.1, 0.3, 0.2), least_to_most).value == pytest.approx(1 / 3)
    assert listwise_accuracy(utilities(0.1, 0.2, 0.3), least_to_most).value == 1
    assert listwise_accuracy(utilities(0.1, 0.1, 0.3), least_to_most).value == 0
    assert kendall_tau(utilities(0.1, 0.1, 0.3), least_to_most).value == pytest.approx(2 / 3)
    assert listwise_accuracy(utilities(0.1, math.nan, 0.3), least_to_most).value == 0
    assert kendall_tau(utilities(0.1, math.nan, 0.3), least_to_most).value == pytest.approx(-1 / 3)
    four = np.array([[0, 1, 2, -1], [3, 2, 1, 0], [0, 1, -1, -1]])
    assert listwise_accuracy(utilities(0, 1, 2, 3), four).n == 2
    assert kendall_tau(utilities(0, 1, 2, 3), four).value == pytest.approx((1 - 1) / 2)


def test_scores_of_a_split_say_what_they_count(planted: Planted) -> None:
    data = planted.data("Val")
    scores = evaluate(planted.task, np.zeros((len(data), 1)), data.truth)
    n = SIZES["Val"]
    assert {name: score.n for name, score in scores.together.items()} == {
        "pairwise_accuracy": 3 * n, "listwise_accuracy": 2 * (n // 4), "kendall_tau": 2 * (n // 4),
    }  # fmt: skip
    assert scores.mean("pairwise_accuracy").value == 0  # nothing but ties
    assert scores.n_clips == n
    with pytest.raises(ValueError, match="orders"):
        evaluate(planted.task, np.zeros((3, 1)), data.truth)


def test_a_batch_holds_each_clip_once_and_gives_the_same_loss(planted: Planted) -> None:
    data, model = planted.data("Train"), planted.model("tokens")
    orders = OrderData(data)
    some = [orders[i] for i in (0, 1, 2, 2, len(orders) - 1, len(orders) - 2)]
    batch = orders.collate(some)
    n_clips = len({int(row) for order in some for row in order if row >= 0})
    assert n_clips < sum(int((order >= 0).sum()) for order in some)
    assert all(len(x) == n_clips for x in batch["tokens"].values())
    whole = data.collate([data[i] for i in range(len(data))])
    del whole["labels"]
    with torch.inference_mode():
        packed = model(**batch)
        everything = model(**whole, orders=torch.from_numpy(np.stack(some)))
    assert packed.loss.item() == pytest.approx(everything.loss.item(), abs=1e-5)
    for order, expected in zip(batch["orders"], some, strict=True):
        own = packed.logits[order[order >= 0], 0]
        torch.testing.assert_close(own, everything.logits[torch.from_numpy(expected[expected >= 0]), 0], atol=1e-5,
                                   rtol=0)  # fmt: skip


def test_the_linear_member_is_bradley_and_terrys_model(planted: Planted) -> None:
    """Its utilities order pairs, and without an intercept a clip's utility does not depend on the rest."""
    model = planted.model("linear")
    fit_linear(model, planted.task, planted.data("Train"), planted.data("Val"), predict_all)
    predicted = predict(model, planted.data("Test"), 16, torch.device("cpu"))
    assert pairwise_accuracy(predicted, planted.data("Test").truth).value > 0.85
    assert float(model.body.head.bias.detach()) == 0


@pytest.fixture(scope="module")
def run_folder(planted: Planted) -> Path:
    from viper.cli import run_command

    folder = planted.root / "run"
    assert run_command("train_perceiver", planted.training(folder, *QUICK)) == 0
    return folder


def test_utilities_are_learned_from_pairs_and_lists(planted: Planted, run_folder: Path) -> None:
    """Chance is .5 of pairs and .1 of lists; the planted order is learnable nearly without error."""
    scores = json.loads((run_folder / "summary.json").read_text())["mean"]
    assert scores["pairwise_accuracy"]["value"] > 0.85
    assert scores["listwise_accuracy"]["value"] > 0.5
    assert scores["kendall_tau"]["value"] > 0.7
    data = planted.data("Test")
    predicted = predict(load_checkpoint(run_folder), data, 64, torch.device("cpu"))
    assert pairwise_accuracy(predicted, data.truth).value > 0.85


def test_a_submission_holds_a_utility_per_clip(planted: Planted, run_folder: Path, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    arguments = ["--csv_path", planted.manifest, *planted.inputs(), "--model_path", run_folder, "--output_path", path]
    assert run("submission_creation", *arguments, n_workers=None).code == 0
    rows = rows_of(path)
    assert [list(row) for row in rows[:1]] == [["File_ID", "utility"]]
    assert len(rows) == SIZES["Test"]
    preferences_path(planted.manifest).rename(tmp_path / "kept")  # a split without preferences can be predicted
    try:
        again = run("submission_creation", *arguments, n_workers=None)
        assert again.code == 0
        assert rows_of(path) == rows
        refused = run("train_perceiver", "--csv_path", planted.manifest, "--task", planted.card, *planted.inputs(),
                      "--output_checkpoint_folder", tmp_path / "run", n_workers=None)  # fmt: skip
    finally:
        (tmp_path / "kept").rename(preferences_path(planted.manifest))
    assert refused.code == 2
    assert "no row of the split Train has a preference in" in refused.said


def test_the_other_commands_take_it(planted: Planted, run_folder: Path, run: Run, tmp_path: Path) -> None:
    arguments = ["--csv_path", planted.manifest, *planted.inputs()]
    ablation = tmp_path / "ablation"
    assert run("ablate", *arguments, "--model_path", run_folder, "--output_path", ablation, n_workers=None).code == 0
    members = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for member in members:
        assert run("submission_creation", *arguments, "--model_path", run_folder, "--output_path", member,
                   n_workers=None).code == 0  # fmt: skip
    status = run("status", "--csv_path", planted.manifest, "--task", planted.card, *planted.inputs(), n_workers=None)
    assert status.code == 0
    ensemble = ["ensemble", "--task", planted.card, "--predictions", *members, "--output_path", tmp_path / "both.csv"]
    assert run(*ensemble, n_workers=None).code == 0
    fitted = run(*ensemble, "--csv_path", planted.manifest, "--validation_predictions", *members, n_workers=None)
    assert fitted.code == 2
    assert "utilities are only averaged" in fitted.said


@long_test
def test_the_same_seed_draws_the_same_batches(planted: Planted, tmp_path: Path, run: Run) -> None:
    arguments = ["--csv_path", planted.manifest, "--task", planted.card, *planted.inputs("visual"), *QUICK[:2],
                 "--n_epochs", "3", "--device", "cpu"]  # fmt: skip
    for name in ("one", "two"):
        folder = tmp_path / name
        assert run("train_perceiver", *arguments, "--output_checkpoint_folder", folder, n_workers=None).code == 0
    one, two = (rows_of(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    assert one == two
    assert float(one[0]["training_loss"]) > float(one[-1]["training_loss"])


def test_validation_without_what_chooses_the_epoch_is_refused(planted: Planted, tmp_path: Path, run: Run) -> None:
    lists = [row for row in rows_of(preferences_path(planted.manifest)) if row["rank_3"]]
    (tmp_path / "clips.csv").write_bytes(planted.manifest.read_bytes())
    lines = [",".join(lists[0]), *(",".join(row.values()) for row in lists)]
    (tmp_path / "clips_preferences.csv").write_text("\n".join(lines))
    arguments = ["--csv_path", tmp_path / "clips.csv", *planted.inputs("visual"), *QUICK[:2], "--n_epochs", "1"]
    output = ["--output_checkpoint_folder", tmp_path / "run"]
    refused = run("train_perceiver", *arguments, *output, "--task", planted.card, n_workers=None)
    assert refused.code == 2
    assert "the split Val hold no pairs, and pairwise_accuracy chooses the best epoch" in refused.said
    own = tmp_path / "own.yaml"
    own.write_text(planted.card.read_text() + "metrics: [listwise_accuracy]\n")
    assert run("train_perceiver", *arguments, *output, "--task", own, n_workers=None).code == 0


@long_test
def test_several_seeds_may_lack_a_metric(planted: Planted, tmp_path: Path, run: Run) -> None:
    """V2V's lists are all in Test: on Val two of three metrics have no value."""
    pairs = [row for row in rows_of(preferences_path(planted.manifest)) if not row["rank_3"]]
    (tmp_path / "clips.csv").write_bytes(planted.manifest.read_bytes())
    lines = ["rank_1,rank_2", *(f"{row['rank_1']},{row['rank_2']}" for row in pairs)]
    (tmp_path / "clips_preferences.csv").write_text("\n".join(lines))
    arguments = ["--csv_path", tmp_path / "clips.csv", *planted.inputs("visual"), *QUICK[:2], "--n_epochs", "1"]
    output = ["--output_checkpoint_folder", tmp_path / "run", "--task", planted.card, "--n_seeds", "2"]
    assert run("train_perceiver", *arguments, *output, n_workers=None).code == 0
    scores = json.loads((tmp_path / "run" / "seeds.json").read_text())["Val"]
    assert scores["kendall_tau"] == {"mean": None, "std": None, "values": [None, None]}
    assert scores["pairwise_accuracy"]["mean"] == pytest.approx(np.mean(scores["pairwise_accuracy"]["values"]))
