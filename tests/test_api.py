"""viper from Python: what the commands do, as functions, on planted features."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from planted import SIZES, TARGETS, Planted, plant

import viper
from viper.cli import run_command
from viper.evaluation.submission import read_submission

QUICK = {"preset": "tiny", "n_epochs": 4, "device": "cpu", "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def run(planted: Planted) -> viper.Run:
    features = {"visual": str(planted.root / "visual"), "audio": planted.stores()["audio"],
                "textual": planted.root / "textual"}  # fmt: skip
    return viper.train(planted.manifest, features, planted.root / "run", task=str(planted.card), **QUICK)


def test_importing_viper_is_quick_and_dir_lists_everything() -> None:
    check = """
import sys, viper
assert dir(viper) == sorted(viper.__all__)
assert not {"torch", "numpy", "pandas", "transformers", "matplotlib"} & sys.modules.keys()
"""
    assert subprocess.run([sys.executable, "-c", check], timeout=120).returncode == 0
    for name in dir(viper):
        assert getattr(viper, name) is not None, name
    assert (Path(viper.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        viper.trane  # type: ignore[attr-defined]  # noqa: B018
    assert issubclass(viper.errors.OutputError, OSError)  # reachable without another import


def test_a_training_is_a_run_that_says_what_it_is(run: viper.Run, planted: Planted) -> None:
    assert repr(run).startswith(f"Run('{planted.root}/run': planted from visual, audio, textual, perceiver_")
    assert list(run.history.index) == [1, 2, 3, 4]
    assert {"training_loss", "pearson", "pearson_joy"} <= set(run.history)
    recorded = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert recorded["command"].startswith(f"viper train_perceiver --csv_path {planted.manifest}")


def test_a_split_is_predicted_as_by_the_command(run: viper.Run, planted: Planted, tmp_path: Path) -> None:
    predicted = run.predict("Test")
    assert predicted.shape == (SIZES["Test"], 3)
    assert list(predicted.columns) == TARGETS
    options = ["--csv_path", str(planted.manifest), "--model_path", str(run.folder), "--device", "cpu"]
    output = tmp_path / "s.csv"
    assert run_command("submission_creation", [*options, *planted.inputs(), "--output_path", str(output)]) == 0
    submitted = read_submission(output, planted.task)
    assert list(submitted.index) == list(predicted.index)
    assert np.allclose(submitted[TARGETS], predicted.clip(0, 1), atol=1e-6)


def test_stores_without_a_manifest_are_predicted(run: viper.Run, planted: Planted) -> None:
    every = run.predict({name: planted.root / name for name in ("visual", "audio", "textual")})
    assert len(every) == sum(SIZES.values())
    test = run.predict("Test")
    assert np.allclose(every.loc[test.index], test, atol=1e-6)
    stores = list(planted.stores().values())
    assert np.array_equal(run.predict(stores), every)
    with pytest.raises(viper.UserError, match="two stores of visual features"):
        run.predict([stores[0], stores[0]])
    alone = run.predict(viper.FeatureStore.open(planted.root / "visual"))
    assert np.isfinite(alone).all(axis=None)
    assert not np.allclose(alone.loc[test.index], test, atol=1e-3)


def test_scores_are_those_of_the_training(run: viper.Run, planted: Planted) -> None:
    scores = run.evaluate()
    assert list(scores.index) == [*TARGETS, "all"]
    best = run.history["pearson"].max()
    assert scores.loc["all", "pearson"] == pytest.approx(best, abs=1e-5)
    again = viper.evaluate(run.predict("Val"), planted.manifest, str(planted.card))
    assert np.allclose(scores, again, atol=1e-6)
    with pytest.raises(viper.UserError, match="no row for 24 clips of Val"):
        viper.evaluate(run.predict("Test"), run.manifest)
    with pytest.raises(viper.UserError, match="no column 'fear'"):
        viper.evaluate(run.predict("Val").drop(columns="fear"), run.manifest)


def test_predictions_are_scored_however_they_were_kept(run: viper.Run, planted: Planted, tmp_path: Path) -> None:
    table, scores = run.predict("Val"), run.evaluate()
    table.to_csv(tmp_path / "val.csv")
    for kept in (
        tmp_path / "val.csv",
        pd.read_csv(tmp_path / "val.csv"),  # ids are numbers here, in a column
        pd.read_csv(tmp_path / "val.csv", index_col="clip"),
        table.rename_axis("File_ID").reset_index(),
    ):
        assert np.allclose(viper.evaluate(kept, run.manifest), scores, atol=1e-5)
    assert np.allclose(viper.evaluate(table, planted.manifest, run.task), scores, atol=1e-5)
    with pytest.raises(viper.UserError, match="two rows for the clip 440"):
        viper.evaluate(pd.concat([table, table]), run.manifest)
    with pytest.raises(viper.UserError, match="something that is not a number"):
        viper.evaluate(table.assign(joy="much"), run.manifest)
    with pytest.raises(viper.UserError, match="must be a path, not a ndarray"):
        viper.evaluate(table.to_numpy(), run.manifest)  # type: ignore[arg-type]
    (tmp_path / "ragged.csv").write_text("clip,joy,awe,fear\n1,2\n3,4,5,6,7,8\n")
    with pytest.raises(viper.UserError, match=r"ragged\.csv: cannot be read"):
        viper.evaluate(tmp_path / "ragged.csv", run.manifest)


def test_a_manifest_says_what_it_is(planted: Planted) -> None:
    manifest = viper.Manifest.load(str(planted.manifest), planted.card)
    assert repr(manifest).endswith("manifest.csv': 100 clips (60 Train, 24 Val, 16 Test) of the task planted)")
    assert "24 clips (24 Val)" in repr(manifest.split("Val"))


def test_a_damaged_run_is_said(run: viper.Run, tmp_path: Path) -> None:
    broken = tmp_path / "run"
    shutil.copytree(run.folder, broken, symlinks=True)
    (broken / "metrics.csv").write_text("x")
    with pytest.raises(viper.UserError, match=r"metrics\.csv: cannot be read"):
        viper.load_run(broken).history  # noqa: B018
    (broken / "best" / "model.safetensors").write_bytes(b"xx")
    for load in (viper.load_run, viper.PerceiverFusion.from_pretrained):
        with pytest.raises(viper.UserError, match="cannot be read as plain tensors"):
            load(broken)


def test_figures_are_drawn_and_shown_by_a_notebook(run: viper.Run) -> None:
    plots = viper.plot(run.predict("Test"), run.manifest)
    for figure in (
        run.plot.confusion(), run.plot.confusion("joy"), run.plot.scatter(), run.plot.scatter("awe", split="Test"),
        run.plot.bars(), run.plot.bars("mse"), run.plot.history(), plots.bars(split="Test"),
    ):  # fmt: skip
        assert isinstance(figure, matplotlib.figure.Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert ".confusion(), .history()" in repr(run.plot)
    (axes,) = run.plot.scatter("fear").axes
    title = run.plot.scatter("fear").get_suptitle()
    assert title.startswith("fear, Val: Pearson")
    assert f"{run.evaluate().loc['fear', 'pearson']:.3f}" in title
    assert axes.get_title() == ""
    for draw, message in (
        (lambda: run.plot.confusion("anger"), "target must be joy, awe or fear, not 'anger'"),
        (lambda: run.plot.bars("f1"), "metric must be pearson.*not 'f1'"),
        (lambda: run.plot.precision_recall(), "is for multi_label tasks"),
        (lambda: run.plot.utilities(), "is for preference tasks"),
    ):
        with pytest.raises(viper.UserError, match=message):
            draw()


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "preference"])
def test_other_kinds_of_tasks_have_their_figures(tmp_path: Path, kind: str) -> None:
    planted = plant(tmp_path, kind)
    made = viper.train(planted.manifest, {"visual": tmp_path / "visual"}, tmp_path / "run", task=str(planted.card),
                       preset="tiny", n_epochs=1, device="cpu")  # fmt: skip
    assert len(made.predict("Val")) == SIZES["Val"]
    assert np.isfinite(made.evaluate().loc["all"]).any()
    drawn = {"single_label": "confusion", "multi_label": "precision_recall", "preference": "utilities"}[kind]
    for name in ("confusion", "precision_recall", "utilities"):
        if name == drawn:
            assert isinstance(getattr(made.plot, name)(), matplotlib.figure.Figure)
        else:
            with pytest.raises(viper.UserError, match=f"plot.{name}"):
                getattr(made.plot, name)()


def test_a_history_of_one_epoch_is_seen(planted: Planted, tmp_path: Path) -> None:
    made = viper.train(planted.manifest, planted.stores("visual")["visual"], tmp_path / "run", task=planted.card,
                       fusion="linear", device="cpu")  # fmt: skip
    (panel,) = made.plot.history().axes  # a linear model has no training loss
    assert panel.get_title() == "validation Pearson"
    assert panel.lines[0].get_marker() == "o"


def test_a_run_is_loaded_by_its_folder_also_as_a_model(run: viper.Run, planted: Planted) -> None:
    loaded = viper.load_run(run.folder, features={"visual": planted.root / "visual"})
    assert np.allclose(loaded.predict("Test"), run.predict("Test"), atol=1e-6)
    assert np.allclose(viper.load_run(run).predict("Test"), run.predict("Test"), atol=1e-6)
    for folder in (run.folder, str(run.folder / "best"), run.checkpoint, run):
        model = viper.PerceiverFusion.from_pretrained(folder)
        pairs = zip(model.parameters(), run.model.parameters(), strict=True)
        assert all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs)
    for folder, message in (
        (planted.root / "none", "no such folder"),
        (planted.root / "visual", "neither a checkpoint"),
    ):
        with pytest.raises(viper.UserError, match=message):
            viper.load_run(folder)
    for folder, message in ((planted.root / "visual", "neither a checkpoint"), ("./none", "cannot be loaded")):
        with pytest.raises(viper.UserError, match=message):
            viper.PerceiverFusion.from_pretrained(folder)


def test_a_run_is_opened_where_it_was_moved_to(run: viper.Run, planted: Planted, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "run", symlinks=True)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(planted.root), "/nowhere"))
    features = {name: planted.root / name for name in ("visual", "audio", "textual")}
    with pytest.raises(viper.UserError, match=r'give features=\{"visual": FOLDER\}, or leave it out with hidden='):
        viper.load_run(tmp_path / "run")
    with pytest.raises(viper.UserError, match="names it as the manifest; give csv_path="):
        viper.load_run(tmp_path / "run", features=features)
    moved = viper.load_run(tmp_path / "run", planted.manifest, features)
    assert np.allclose(moved.predict("Test"), run.predict("Test"), atol=1e-6)
    alone = viper.load_run(
        tmp_path / "run", planted.manifest, {"visual": features["visual"]}, hidden=["audio", "textual"]
    )
    assert np.allclose(alone.predict("Test"), run.predict(alone.stores).loc[alone.predict("Test").index], atol=1e-6)
    with pytest.raises(viper.UserError, match=r"no modality 'visul', only .*; did you mean visual\?"):
        viper.load_run(run, features={"visul": features["visual"]})
    shutil.copytree(run.checkpoint, tmp_path / "alone" / "perceiver_1")
    with pytest.raises(viper.UserError, match=r'no features are known; give features=\{"visual": FOLDER\}'):
        viper.load_run(tmp_path / "alone" / "perceiver_1")


def test_what_is_wrong_is_raised_in_a_line(planted: Planted, tmp_path: Path) -> None:
    features = {"visual": planted.root / "visual"}
    for options, message in (
        ({"n_epoch": 3}, r"train has no option 'n_epoch'; did you mean n_epochs\?"),
        ({"preset": "huge"}, "train.preset must be tiny, small, base or paper, not 'huge'"),
        ({"n_seeds": 3}, "train has no option 'n_seeds'"),
        ({"batch_size": 0}, "--batch_size 0: must be at least 1"),
        ({"learning_rate": -1}, "--learning_rate -1.0: must be above 0"),
        ({"weight_decay": -1}, "--weight_decay -1.0: must be at least 0"),
        ({"seed": -1}, "--seed -1: must be at least 0"),
        ({"dropout": 2.0}, "dropout is a probability"),
        ({"report_to": ["tensorbord"]}, "--report_to tensorbord"),
        ({"visual": False}, "train has no option 'visual'"),
        ({"n_epochs": "3"}, "train.n_epochs must be a whole number, not '3'"),
    ):
        with pytest.raises(viper.UserError, match=message):
            viper.train(planted.manifest, features, tmp_path / "run", task=str(planted.card), **options)
        assert not (tmp_path / "run").exists()
    for wrong in ([tmp_path], tmp_path, None):
        with pytest.raises(viper.UserError, match="features must be a dict"):
            viper.train(planted.manifest, wrong, tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(viper.UserError, match="no features given"):
        viper.train(planted.manifest, {}, tmp_path / "run")
    with pytest.raises(viper.UserError, match="a modality's name must be text without '=', not 'a=b'"):
        viper.train(planted.manifest, {"a=b": planted.root / "visual"}, tmp_path / "run")
    with pytest.raises(viper.UserError, match="csv_path must be a path, not None"):
        viper.train(None, features, tmp_path / "run")  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    for inside in ("file", "file/run"):
        with pytest.raises(viper.UserError, match="file: is a file, where a folder is wanted"):
            viper.train(planted.manifest, features, tmp_path / inside)
    with pytest.raises(viper.UserError, match="modality must be visual, audio, textual or FAU, not 'video'"):
        viper.extract("video", tmp_path, output_folder=tmp_path)
    with pytest.raises(viper.UserError, match=r"extract_visual_features\.layer must be a whole number, not 'last'"):
        viper.extract("visual", tmp_path, output_folder=tmp_path, layer="last")
    for videos, message in ((tmp_path / "none.mp4", "no such video or folder"), ([], "no video given")):
        with pytest.raises(viper.UserError, match=message):
            viper.predict(videos, planted.root / "run")


def test_wrong_arguments_of_a_run_are_said(run: viper.Run) -> None:
    for call, message in (
        (lambda: run.predict("Tset"), "the split 'Tset' must be Train, Val or Test"),
        (lambda: run.predict(None), "features must be a dict"),
        (lambda: run.predict(batch_size=0), "batch_size must be at least 1"),
        (lambda: run.predict(device="gpu"), "gpu: cannot be used here"),
        (lambda: run.evaluate(None), "the split 'None' must be"),
        (lambda: viper.predict(run, "clip.mp4"), "the videos come first"),
        (lambda: viper.predict("clip.mp4", None), "no such video"),
    ):
        with pytest.raises(viper.UserError, match=message):
            call()


def test_options_may_be_numbers_of_numpy_and_paths(planted: Planted, tmp_path: Path) -> None:
    made = viper.train(planted.manifest, planted.stores("visual")["visual"], tmp_path / "run", task=planted.card,
                       preset="tiny", n_epochs=np.int64(1), learning_rate=np.float32(1e-3), device="cpu")  # fmt: skip
    assert list(made.stores) == ["visual"]


def test_a_store_says_what_it_is_and_becomes_a_table(planted: Planted) -> None:
    store = viper.FeatureStore.open(planted.root / "visual")
    assert repr(store) == f"FeatureStore('{planted.root}/visual': 100 clips, visual features by planted, 5 wide)"
    table = store.to_dataframe(["500", "499"])
    assert list(table.columns) == ["time", "mask", 0, 1, 2, 3, 4]
    feature = store.read("500")
    assert np.array_equal(table.loc["500", [0, 1, 2, 3, 4]], feature.tokens)
    assert np.array_equal(table.loc["500", "mask"], feature.mask)
    assert np.array_equal(table.loc["500", "time"], feature.time)
    assert store.to_dataframe("500").equals(store.to_dataframe(["500"]))
    assert (len(store), next(iter(store)), "500" in store) == (100, "401", True)
    with pytest.raises(viper.ClipError, match=r"7\.safetensors: no such file"):
        store.read("7")
    assert store.to_dataframe([]).empty
    assert isinstance(store.to_dataframe().groupby("clip")[0].mean(), pd.Series)
