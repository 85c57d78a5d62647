"""Training and what follows it, on small stores with a planted answer."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from csv_files import rows_of
from many import Launcher, is_running

from viper.cli import run_command
from viper.errors import ClipError, NothingDoneError, UserError
from viper.fusion.checkpoint import load_checkpoint, resolve_checkpoint
from viper.inference.stored import predict
from viper.manifest import Manifest
from viper.store import EncoderInfo, Feature, FeatureStore
from viper.task import load_task
from viper.training.data import FusionData
from viper.training.optimizer import learning_rate_factor, make_average, make_optimizer
from viper.training.options import LoopOptions

TARGETS = load_task("hume_reaction").targets
WIDTHS = {"visual": 6, "audio": 5, "textual": 4, "FAU": 7, "heart": 3}
N_TRAIN, N_VAL, N_TEST = 48, 16, 8


def _write_stores(root: Path, rng: np.random.Generator) -> None:
    """Clips whose k-th label is in channel 0 or 1 of one modality; token counts differ from clip to clip."""
    labels = rng.uniform(0, 1, (N_TRAIN + N_VAL + N_TEST, len(TARGETS)))
    stores = {
        name: FeatureStore.create(root / name, EncoderInfo("planted", name, width, source="faces"))
        for name, width in WIDTHS.items()
    }
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["File_ID", "Split", *TARGETS])
        for i, row in enumerate(labels):
            split = "Train" if i < N_TRAIN else "Val" if i < N_TRAIN + N_VAL else "Test"
            # In reverse, so that joining by row order instead of by id would be seen.
            clip = f"{1000 - i}"
            writer.writerow([f"[{clip}]", split, *(row.round(6) if split != "Test" else [""] * len(TARGETS))])
            for k, (name, store) in enumerate(stores.items()):
                n_tokens = int(rng.integers(2, 9))
                tokens = rng.normal(0, 0.05, (n_tokens, WIDTHS[name]))
                tokens[:, 0] += 3 * row[2 * k % 7]
                tokens[:, 1] += 3 * row[(2 * k + 1) % 7]
                mask = rng.uniform(size=n_tokens) > 0.2
                mask[0] = True
                store.write(clip, Feature.make(tokens, mask, np.arange(n_tokens) / 4), source="planted")
    np.save(root / "labels.npy", labels)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("planted")
    _write_stores(root, np.random.default_rng(0))
    return root


def _train(root: Path, run: Path, modalities: list[str], *options: str) -> int:
    return run_command(
        "train_perceiver",
        ["--csv_path", str(root / "manifest.csv"), "--output_checkpoint_folder", str(run), *_inputs(root, modalities),
         "--preset", "tiny", "--device", "cpu", *options],
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(planted: Path) -> Path:
    run = planted / "run"
    modalities = ["visual", "audio", "textual", "FAU"]
    heart = f"heart={planted / 'heart'}"
    assert _train(planted, run, modalities, "--features", heart, "--n_epochs", "25", "--learning_rate", "3e-3") == 0
    return run


def _inputs(root: Path, names: list[str]) -> list[str]:
    return [part for name in names for part in (f"--{name}_features_input_folder", str(root / name))]


def test_training_learns_what_was_planted_and_keeps_every_epoch(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["mean"]["pearson"]["value"] > 0.8  # chance is 0; the planted signal to noise would allow .99
    rows = rows_of(trained / "metrics.csv")
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, 26)]
    for epoch in range(1, 26):
        assert (trained / f"perceiver_{epoch}" / "model.safetensors").is_file()
    by_pearson = max(rows, key=lambda row: float(row["pearson"]))
    assert (trained / "best").resolve().name == f"perceiver_{by_pearson['epoch']}"
    assert summary["best_epoch"] == {
        "pearson": int(by_pearson["epoch"]),
        "mse": int(min(rows, key=lambda row: float(row["mse"]))["epoch"]),
    }
    # The loss is that epoch's own mean: it falls, and is never missing.
    losses = [float(row["training_loss"]) for row in rows]
    assert losses[-1] < losses[0] / 2


def test_a_run_holds_no_pickle_and_says_how_it_was_made(trained: Path) -> None:
    assert not [path for path in trained.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    card = yaml.safe_load((trained / "config.yaml").read_text())
    assert card["options"]["learning_rate"] == 3e-3
    assert card["options"]["preset"] == "tiny"
    assert card["encoders"]["heart"]["width"] == 3
    assert {"torch", "transformers", "viper", "python"} <= card["versions"].keys()
    log = (trained / "train.log").read_text()
    assert "best by validation Pearson: epoch" in log
    assert "best by validation MSE: epoch" in log


def test_validation_score_is_that_of_the_best_checkpoint(planted: Path, trained: Path) -> None:
    """What metrics.csv says of an epoch is what its checkpoint gives when it is loaded again."""
    task = load_task("hume_reaction")
    manifest = Manifest.load(planted / "manifest.csv", task).split("Val")
    data = FusionData({name: FeatureStore.open(planted / name) for name in WIDTHS}, manifest)
    predictions = predict(load_checkpoint(trained), data, 5, torch.device("cpu"))
    expected = np.mean([np.corrcoef(predictions[:, k], manifest.labels[:, k])[0, 1] for k in range(7)])
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["mean"]["pearson"]["value"] == pytest.approx(expected, abs=1e-5)


def test_predictions_do_not_depend_on_the_batch(planted: Path, trained: Path) -> None:
    manifest = Manifest.load(planted / "manifest.csv", load_task("hume_reaction")).split("Val")
    data = FusionData({name: FeatureStore.open(planted / name) for name in WIDTHS}, manifest)
    model = load_checkpoint(trained)
    alone, together = (predict(model, data, size, torch.device("cpu")) for size in (1, 16))
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_the_same_seed_gives_the_same_weights(planted: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        assert _train(planted, tmp_path / name, ["FAU"], "--n_epochs", "2", "--seed", seed) == 0
    a, b, c = (load_checkpoint(tmp_path / name).state_dict() for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_a_FAU_only_run_is_trained_and_used(planted: Path, tmp_path: Path) -> None:
    """The published scripts refused it."""
    assert _train(planted, tmp_path / "run", ["FAU"], "--FAU", "--n_epochs", "3", "--keep", "best") == 0
    arguments = ["--csv_path", str(planted / "manifest.csv"), "--model_path", str(tmp_path / "run")]
    arguments += _inputs(planted, ["FAU"])
    assert run_command("submission_creation", [*arguments, "--output_path", str(tmp_path / "s.csv")]) == 0
    assert len(rows_of(tmp_path / "s.csv")) == N_TEST
    kept = {path.name for path in (tmp_path / "run").glob("perceiver_*")}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert kept == {f"perceiver_{epoch}" for epoch in (3, *summary["best_epoch"].values())}


@pytest.mark.parametrize("names", [["visual"], ["audio", "FAU"], ["visual", "audio", "textual", "FAU"]])
def test_one_checkpoint_serves_any_subset(planted: Path, trained: Path, tmp_path: Path, names: list[str]) -> None:
    arguments = ["--csv_path", str(planted / "manifest.csv"), "--model_path", str(trained), *_inputs(planted, names)]
    assert run_command("submission_creation", [*arguments, "--output_path", str(tmp_path)]) == 0
    rows = rows_of(tmp_path / "submission.csv")
    assert [row["File_ID"] for row in rows] == [f"[{1000 - i}]" for i in range(N_TRAIN + N_VAL, 72)]
    values = np.array([[float(row[target]) for target in TARGETS] for row in rows])
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert (values <= 1).all()
    truth = np.load(planted / "labels.npy")[N_TRAIN + N_VAL :]
    # What this subset carries is predicted; target 0 is planted in the visual features alone.
    if "visual" in names:
        assert np.corrcoef(values[:, 0], truth[:, 0])[0, 1] > 0.6


def test_submission_is_joined_by_id(planted: Path, trained: Path, tmp_path: Path) -> None:
    lines = (planted / "manifest.csv").read_text().splitlines()
    shuffled = tmp_path / "manifest.csv"
    shuffled.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    for name, manifest in (("a", planted / "manifest.csv"), ("b", shuffled)):
        arguments = ["--csv_path", str(manifest), "--model_path", str(trained), *_inputs(planted, ["visual", "FAU"])]
        assert run_command("submission_creation", [*arguments, "--output_path", str(tmp_path / f"{name}.csv")]) == 0
    a, b = ({row["File_ID"]: row for row in rows_of(tmp_path / f"{name}.csv")} for name in "ab")
    assert a.keys() == b.keys()
    for file_id, row in a.items():
        for target in TARGETS:
            assert float(row[target]) == pytest.approx(float(b[file_id][target]), abs=1e-5)


def test_a_clip_without_features_is_predicted_and_named(
    planted: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (planted / "manifest.csv").read_text().splitlines()
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join([*lines, "[nowhere],Test" + "," * len(TARGETS)]) + "\n")
    arguments = ["--csv_path", str(manifest), "--model_path", str(trained), *_inputs(planted, ["visual"])]
    with caplog.at_level("WARNING", "viper"):
        assert run_command("submission_creation", [*arguments, "--output_path", str(tmp_path / "s.csv")]) == 0
    assert "nowhere" in caplog.text
    rows = rows_of(tmp_path / "s.csv")
    assert rows[-1]["File_ID"] == "[nowhere]"
    assert len(rows) == N_TEST + 1
    assert all(0 <= float(rows[-1][target]) <= 1 for target in TARGETS)


def test_confusion_matrix_of_a_checkpoint(planted: Path, trained: Path, tmp_path: Path) -> None:
    arguments = ["--csv_path", str(planted / "manifest.csv"), "--model_path", str(trained / "perceiver_25")]
    arguments += [*_inputs(planted, ["visual", "audio"]), "--output_path", str(tmp_path / "confusion")]
    assert run_command("confusion_matrix", arguments) == 0
    numbers = json.loads((tmp_path / "confusion" / "confusion.json").read_text())
    assert numbers["n_clips"] == N_VAL
    assert (tmp_path / "confusion" / "confusion_overview.png").is_file()
    with pytest.raises(UserError, match="no row of the split Test has a label"):
        run_command("confusion_matrix", [*arguments, "--split", "Test"])


def test_features_of_another_encoder_are_refused_at_inference(planted: Path, trained: Path, tmp_path: Path) -> None:
    other = FeatureStore.create(tmp_path / "other", EncoderInfo("elsewise", "visual", 6, source="faces"))
    other.write("1", Feature.make(np.zeros((1, 6))))
    arguments = ["--csv_path", str(planted / "manifest.csv"), "--model_path", str(trained)]
    arguments += ["--visual_features_input_folder", str(tmp_path / "other"), "--output_path", str(tmp_path / "s.csv")]
    with pytest.raises(UserError, match="encoder 'planted', not 'elsewise'"):
        run_command("submission_creation", arguments)
    with pytest.raises(UserError, match="no modality 'pulse'"):
        run_command("submission_creation", [*arguments[:4], "--features", f"pulse={planted / 'heart'}"])


def test_channels_fusion_takes_differing_token_counts(planted: Path, tmp_path: Path) -> None:
    """The published layout, at a size a test can train; every tensor used to be assumed to have 32 rows."""
    assert _train(planted, tmp_path / "run", ["visual", "FAU"], "--fusion", "channels", "--n_epochs", "2") == 0
    card = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert card["options"]["learning_rate"] == 1e-5
    assert card["options"]["step_size"] == 5
    arguments = ["--csv_path", str(planted / "manifest.csv"), "--model_path", str(tmp_path / "run")]
    arguments += [*_inputs(planted, ["visual", "FAU"]), "--output_path", str(tmp_path / "s.csv")]
    assert run_command("submission_creation", arguments) == 0
    values = [float(row[target]) for row in rows_of(tmp_path / "s.csv") for target in TARGETS]
    assert min(values) >= 0
    assert max(values) <= 1


def test_statistics_ignore_masked_tokens_and_match_numpy(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "f", EncoderInfo("planted", "visual", 2))
    store.write("1", Feature.make([[1.0, 10.0], [3.0, 30.0], [99.0, 99.0]], [True, True, False]))
    store.write("2", Feature.make([[5.0, 50.0]]))
    manifest = tmp_path / "m.csv"
    header = ",".join(["File_ID", "Split", *TARGETS])
    manifest.write_text(header + "\n" + "\n".join(f"{i},Train" + ",0.5" * 7 for i in (1, 2, 3)) + "\n")
    data = FusionData({"visual": store}, Manifest.load(manifest, load_task("hume_reaction")))
    mean, deviation = data.statistics()["visual"]
    np.testing.assert_allclose(mean, [3.0, 30.0])
    np.testing.assert_allclose(deviation, np.std([[1, 10], [3, 30], [5, 50]], axis=0), rtol=1e-6)
    batch = data.collate([data[0], data[1], data[2]])
    assert batch["mask"]["visual"].tolist() == [[True, True, False], [True, False, False], [False] * 3]
    assert data.without_any() == ["3"]


def test_schedules_have_known_values() -> None:
    halving = learning_rate_factor(LoopOptions(n_epochs=10, step_size=2), steps_per_epoch=3)
    assert [halving(3 * epoch) for epoch in range(6)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert halving(5) == 1  # the last step of the second epoch
    curve = learning_rate_factor(LoopOptions(n_epochs=10), steps_per_epoch=10)
    assert [curve(0), curve(9), curve(10)] == pytest.approx([0.1, 1, 1])
    assert curve(55) == pytest.approx(0.5)
    assert curve(100) == pytest.approx(0, abs=1e-9)


def test_the_running_average_forgets_where_it_began() -> None:
    """Decay (1 + n) / (10 + n) until it reaches the one asked for."""
    model = torch.nn.Linear(1, 1, bias=False)
    average, expected = make_average(model, 0.3), 0.0
    for n, value in enumerate([5.0, 1.0, -2.0, 4.0, 4.0, 7.0]):
        model.weight.data.fill_(value)
        average.update_parameters(model)
        decay = min(0.3, (1 + n) / (10 + n))
        expected = value if n == 0 else decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected)


def test_averaged_weights_are_what_is_validated_and_saved(planted: Path, tmp_path: Path) -> None:
    options = ["--n_epochs", "3", "--learning_rate", "1e-2", "--seed", "1"]
    assert _train(planted, tmp_path / "own", ["visual"], *options) == 0
    assert _train(planted, tmp_path / "average", ["visual"], *options, "--ema", "0.999") == 0
    task = load_task("hume_reaction")
    manifest = Manifest.load(planted / "manifest.csv", task).split("Val")
    data = FusionData({"visual": FeatureStore.open(planted / "visual")}, manifest)
    model = load_checkpoint(tmp_path / "average" / "perceiver_3")
    errors = np.square(predict(model, data, 16, torch.device("cpu")) - manifest.labels)
    last = rows_of(tmp_path / "average" / "metrics.csv")[-1]
    assert float(last["mse"]) == pytest.approx(errors.mean(), rel=1e-4)
    # Training itself went the same way: the average does not feed back.
    losses = [[row["training_loss"] for row in rows_of(tmp_path / n / "metrics.csv")] for n in ("own", "average")]
    assert losses[0] == losses[1]
    assert last["mse"] != rows_of(tmp_path / "own" / "metrics.csv")[-1]["mse"]


def test_training_in_bfloat16_comes_close(planted: Path, tmp_path: Path) -> None:
    for name in ("float32", "bf16"):
        assert _train(planted, tmp_path / name, ["visual"], "--n_epochs", "2", "--precision", name) == 0
    rows = [rows_of(tmp_path / name / "metrics.csv")[-1] for name in ("float32", "bf16")]
    assert rows[0]["training_loss"] != rows[1]["training_loss"]
    assert float(rows[0]["training_loss"]) == pytest.approx(float(rows[1]["training_loss"]), rel=0.02)


def test_only_matrices_decay(trained: Path) -> None:
    model = load_checkpoint(trained)
    decayed, free = make_optimizer(model, 1e-3, 0.05).param_groups
    assert decayed["weight_decay"] == 0.05
    assert free["weight_decay"] == 0
    linear = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear)}
    assert {id(p) for p in decayed["params"]} == linear
    assert {id(p) for group in (decayed, free) for p in group["params"]} == {id(p) for p in model.parameters()}


def test_what_a_user_gets_wrong_is_one_line(planted: Path, trained: Path, tmp_path: Path) -> None:
    csv_path = ["--csv_path", str(planted / "manifest.csv")]
    run = ["--output_checkpoint_folder", str(tmp_path / "run")]
    cases = [
        (["--visual_features_input_folder", str(planted / "nothing")], "no such folder of features"),
        ([], "no features given"),
        (["--visual"], "--visual needs --visual_features_input_folder"),
        (["--features", "heart"], "must be NAME=FOLDER"),
        ([*_inputs(planted, ["FAU"]), "--n_epochs", "0"], "--n_epochs 0"),
        ([*_inputs(planted, ["FAU"]), "--task", "nonsense"], "no such card"),
        ([*_inputs(planted, ["FAU"]), "--no-FAU"], "no features given"),
    ]
    for options, message in cases:
        with pytest.raises(UserError, match=message):
            run_command("train_perceiver", [*csv_path, *run, *options])
        assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="holds a run already"):
        _train(planted, trained, ["FAU"])
    with pytest.raises(UserError, match="neither a checkpoint"):
        resolve_checkpoint(tmp_path)


def test_overwriting_a_run_removes_the_run_and_nothing_else(planted: Path, tmp_path: Path) -> None:
    assert _train(planted, tmp_path, ["FAU"], "--n_epochs", "2") == 0
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "perceiver_old").mkdir()
    assert _train(planted, tmp_path, ["FAU"], "--n_epochs", "1", "--overwrite") == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "notes.txt", "perceiver_old", "perceiver_1", "best",
        "config.yaml", "metrics.csv", "summary.json", "train.log", "training_data.json",
    }  # fmt: skip
    assert len(rows_of(tmp_path / "metrics.csv")) == 1


def test_a_stopped_training_says_what_is_kept(planted: Path, trainings: Launcher, tmp_path: Path) -> None:
    """Ctrl-C in the middle: one line, exit code 130, and a best that can be used."""
    arguments = ["--csv_path", str(planted / "manifest.csv"), *_inputs(planted, ["FAU"]), "--output_checkpoint_folder",
                 str(tmp_path / "run"), "--preset", "tiny", "--n_epochs", "5000", "--device", "cpu",
                 "--keep", "best"]  # fmt: skip
    process = trainings.start("train_perceiver", arguments)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "best").exists():
        assert time.monotonic() < deadline
        assert is_running(process), trainings.said(process)
        time.sleep(0.02)
    os.kill(process, signal.SIGINT)
    assert trainings.wait(process) == 130
    errors = trainings.said(process)
    assert "Traceback" not in errors
    assert "the epochs that were finished are in" in errors.splitlines()[-1]
    assert load_checkpoint(tmp_path / "run").config.task["targets"] == list(TARGETS)
    assert not list((tmp_path / "run").glob(".tmp-*"))


def test_a_broken_feature_stops_training_and_is_named(tmp_path: Path) -> None:
    _write_stores(tmp_path, np.random.default_rng(1))
    path = tmp_path / "FAU" / "1000.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ClipError, match=r"1000\.safetensors"):
        _train(tmp_path, tmp_path / "run", ["FAU"], "--n_epochs", "1")


def test_ids_that_match_no_file_are_an_error_not_a_model(tmp_path: Path) -> None:
    _write_stores(tmp_path, np.random.default_rng(2))
    text = (tmp_path / "manifest.csv").read_text().replace("[", "[clip_")
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(NothingDoneError, match="are the manifest's ids the files' names"):
        _train(tmp_path, tmp_path / "run", ["FAU"])


def test_a_mistake_that_stops_training_at_once_leaves_nothing_in_the_way(planted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--report_to nonsense"):
        _train(planted, tmp_path / "run", ["FAU"], "--n_epochs", "1", "--report_to", "nonsense")
    assert _train(planted, tmp_path / "run", ["FAU"], "--n_epochs", "1") == 0
