"""`viper report` on runs of every kind of task: its numbers, what it finds by itself, what it says when it cannot."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from clips import pictures, write_frames
from planted import TARGETS, WIDTHS, Planted, plant

from viper.cli import parse, run_command
from viper.commands import report as stage
from viper.errors import UserError
from viper.files import read_json
from viper.inference.run import open_run
from viper.report import collect as collecting
from viper.report.collect import Wanted, collect
from viper.report.provenance import find_pictures
from viper.store import Feature, FeatureStore

VAL = range(60, 84)  # numbers of the validation clips


def _train(planted: Planted, run: Path, *options: str) -> Path:
    arguments = ["--csv_path", str(planted.manifest), "--task", str(planted.card), "--device", "cpu", "--preset",
                 "tiny", "--n_epochs", "2", "--keep", "best", *(options or planted.inputs())]  # fmt: skip
    assert run_command("train_perceiver", [*arguments, "--output_checkpoint_folder", str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A regression with people, ages and gaps in its labels; clip 60 has no features, 61 no sound, 81 no labels."""
    lacking = {"visual": [60], "audio": [60, 61], "textual": [60]}
    planted = plant(tmp_path_factory.mktemp("planted"), lacking=lacking)
    table = pd.read_csv(planted.manifest)
    table["Subject"] = [f"s{k // 3}" for k in range(len(table))]
    table["Age"] = [20 + k % 50 for k in range(len(table))]
    table.loc[81, TARGETS] = np.nan
    table.loc[62, TARGETS[0]] = np.nan
    table.loc[table["Split"] == "Test", TARGETS] = np.nan
    table.to_csv(planted.manifest, index=False)
    for k in VAL:
        write_frames(planted.root / "faces" / str(500 - k), pictures(3, seed=k))
    return planted


@pytest.fixture(scope="module")
def trained(planted: Planted) -> Path:
    return _train(planted, planted.root / "runs" / "tokens")


def _report(run: Path, *options: str) -> dict[str, Any]:
    """The numbers, without the page, which takes a second."""
    given = ["--run", str(run), "--output_path", "unused", "--n_resamples", "50", "--device", "cpu", *options]
    return json.loads(json.dumps(stage.content_of(parse("report", given)).to_dict(), allow_nan=False))


def test_a_run_is_all_that_has_to_be_named(planted: Planted, trained: Path, tmp_path: Path) -> None:
    output, few = tmp_path / "report", ["--n_cases", "3", "--n_resamples", "50", "--device", "cpu"]
    assert run_command("report", ["--run", str(trained), "--output_path", str(output), *few]) == 0
    assert {path.name for path in output.iterdir()} == {"report.html", "report.json"}
    assert (output / "report.html").stat().st_size > 10_000
    found = read_json(output / "report.json")
    assert found == _report(trained, *few)
    arguments = ["--csv_path", str(planted.manifest), "--model_path", str(trained), *planted.inputs()]
    assert run_command("confusion_matrix", [*arguments, "--output_path", str(tmp_path / "c"), "--device", "cpu"]) == 0
    expected = read_json(tmp_path / "c" / "confusion.json")
    assert (found["task"]["name"], found["split"], found["metric"]) == ("planted", "Val", "pearson")
    for metric, score in expected["mean"].items():
        own = found["metrics"][metric]
        assert own["value"] == pytest.approx(score["value"], abs=1e-6)
        assert own["low"] < own["value"] < own["high"]
        assert (own["n"], own["n_units"]) == (23, 8)
    for row in found["targets"]:
        for metric in expected["mean"]:
            score = expected["targets"][row["target"]][metric]
            assert row["metrics"][metric]["value"] == pytest.approx(score["value"], abs=1e-6)
            assert row["metrics"][metric]["n"] == score["n"] == row["n"]
    assert found["unit"] == "subjects (column Subject)"
    assert found["split_report"]["mean"] == json.loads(json.dumps(expected["mean"]), parse_float=_rounded)
    assert len(found["clips"]) == len(found["predicted"]) == len(found["true"]) == 23
    assert found["training"]["epochs"] == [1, 2]
    assert [group["column"] for group in found["groups"]] == ["Age"]
    said = " ".join(found["notes"])
    for part in ("epoch was selected", "1 of the 24 clips of Val have no label", "1.4% of the labels", "440 has no",
                 "2 of the 23 clips of Val have no audio", "linear model gives 50%", "8 subjects"):  # fmt: skip
        assert part in said, part
    assert "3 targets (joy, awe, fear)" in found["summary"]


def _rounded(text: str) -> float:
    return float(f"{float(text):.7g}")


def test_cases_show_what_was_looked_at_and_what_hiding_changes(trained: Path, tmp_path: Path) -> None:
    content = collect(open_run(trained, "--run", folders={}), [], Wanted(n_resamples=20, n_cases=11))
    errors = [case.error for case in content.best], [case.error for case in content.worst]
    assert errors[0] == sorted(errors[0])
    assert errors[1] == sorted(errors[1], reverse=True)
    assert max(errors[0]) <= min(errors[1])
    cases = {case.clip: case for case in (*content.best, *content.worst)}
    assert len(cases) == 22
    rows = {clip: row for row, clip in enumerate(content.clips)}
    for clip, case in cases.items():
        assert list(case.predicted.values()) == content.predicted[rows[clip]].tolist()
        known = ~np.isnan(content.true[rows[clip]])
        distances = np.abs(content.predicted[rows[clip]] - content.true[rows[clip]])
        assert case.error == pytest.approx(distances[known].mean())
        total = sum(each.weights.sum(axis=1) for each in case.attention.values())
        assert np.all(np.asarray(total) <= 1 + 1e-5)
        assert [picture.time for picture in case.thumbnails] == [0, 0.1, 0.2]
        for each in case.attention.values():
            assert each.weights.shape == (3, len(each.times))
            assert np.all(np.diff(each.times) > 0)
    if "440" in cases:  # nothing there: nothing looked at, nothing to hide
        assert cases["440"].attention == {}
    if some := cases.get("439"):
        assert set(some.attention) == {"visual", "textual"}
        assert some.hidden["audio"] == pytest.approx(some.predicted, abs=1e-5)
        assert some.hidden["visual"] != pytest.approx(some.predicted, abs=1e-5)
    assert len(content.subsets) == 7
    assert content.subsets[-1].score.value == pytest.approx(content.headline.value)
    assert not any("picture" in note for note in content.notes)


def test_pictures_are_those_the_features_were_made_from_or_lie_beside_them(planted: Planted, trained: Path) -> None:
    source = open_run(trained, "--run", folders={})
    assert find_pictures(source, ["440"]) == planted.root.resolve() / "faces"
    assert find_pictures(source, ["500"]) is None  # no clip's pictures are there
    write_frames(planted.root / "pictures" / "[440]", pictures(1))
    info = dataclasses.replace(source.stores["visual"].info, input_folder="../pictures")
    recorded = dataclasses.replace(source, stores={"visual": FeatureStore(planted.root / "visual", info)})
    assert find_pictures(recorded, ["440"]) == planted.root / "pictures"


def test_subsets_of_many_clips_are_scored_on_some(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_run(trained, "--run", folders={})
    content = collect(source, [], Wanted(n_resamples=20, subset_clips=15))
    assert {each.score.n for each in content.subsets} == {15}
    assert any("on 15 of the clips, drawn at random" in note for note in content.notes)
    assert content.headline.n == 23
    monkeypatch.setattr(collecting, "find_pictures", lambda *_: None)
    again = collect(source, [], Wanted(n_resamples=20, subset_clips=15))
    assert again.subsets == content.subsets
    assert again.metrics == content.metrics
    assert any("No folder of frames" in note for note in again.notes)


def test_runs_are_compared_on_the_same_clips(planted: Planted, trained: Path, tmp_path: Path) -> None:
    linear = _train(planted, tmp_path / "linear", "--fusion", "linear", *planted.inputs("visual"))
    found = _report(trained, "--compare", str(linear), str(trained / "best"))
    other, same = found["comparisons"]
    alone = _report(linear)
    assert other["score"] == {**alone["metrics"]["pearson"]}
    headline = found["metrics"]["pearson"]["value"]
    assert other["difference"]["value"] == pytest.approx(other["score"]["value"] - headline, abs=1e-6)
    assert other["options"]["fusion"] == ["tokens", "linear"]
    assert other["options"]["audio_features_input_folder"] == [str(planted.root / "audio"), None]
    assert "output_checkpoint_folder" not in other["options"]
    assert same["options"] == {}
    assert (same["difference"]["value"], same["difference"]["low"], same["difference"]["high"]) == (0, 0, 0)
    assert alone["training"] is None
    assert alone["best"][0]["attention"] == alone["best"][0]["hidden"] == {}
    strangers = plant(tmp_path / "other", "multi_label")
    third = _train(strangers, tmp_path / "third", "--fusion", "linear", *strangers.inputs())
    with pytest.raises(UserError, match=r"--compare .*third: is of the task planted, not of planted"):
        _report(trained, "--compare", str(third))


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "preference"])
def test_every_kind_of_task(kind: str, tmp_path: Path) -> None:
    planted = plant(tmp_path / "data", kind, lacking={"audio": [62]})
    run = _train(planted, tmp_path / "run", "--fusion", "linear", *planted.inputs())
    found = _report(run, "--n_cases", "4", "--split", "Test")
    assert found["metric"] == {"single_label": "uar", "multi_label": "map", "preference": "pairwise_accuracy"}[kind]
    headline = found["metrics"][found["metric"]]
    assert headline["low"] <= headline["value"] <= headline["high"]
    assert found["unit"] == ("orders" if kind == "preference" else "clips")
    assert not any("epoch was selected on this split" in note for note in found["notes"])
    assert [len(each["modalities"]) for each in found["subsets"]] == [1, 1, 1, 2, 2, 2, 3]
    names = [each["name"] for each in found["calibration"]]
    assert names == {"single_label": ["highest probability", *TARGETS], "multi_label": TARGETS,
                     "preference": ["pairs"]}[kind]  # fmt: skip
    assert len(found["best"]) == len(found["worst"]) == 4
    assert found["best"][0]["error"] < found["worst"][0]["error"]
    if kind == "preference":
        assert headline["n"] == 48
        assert set(found["metrics"]) == {"pairwise_accuracy", "listwise_accuracy", "kendall_tau"}
        assert found["targets"][0]["metrics"] == {}
    assert found["split_report"] is not None


def test_a_task_without_a_range_and_predictions_that_are_all_the_same(tmp_path: Path) -> None:
    planted = plant(tmp_path / "data")
    card = yaml.safe_load(planted.card.read_text())
    del card["range"]
    planted.card.write_text(yaml.safe_dump({**card, "targets": ["joy"]}))
    for name, store in planted.stores("visual", "audio").items():
        for clip in store.clips():  # nothing to tell clips apart by
            store.write(clip, Feature.make(np.ones((2, WIDTHS[name]))))
    run = _train(planted, tmp_path / "run", "--fusion", "linear", *planted.inputs("visual", "audio"))
    found = _report(run)
    assert found["split_report"] is None
    assert found["metrics"]["pearson"] == {"value": None, "low": None, "high": None, "n": 24, "n_units": 24}
    assert found["metrics"]["mse"]["low"] < found["metrics"]["mse"]["high"]
    assert len(found["calibration"][0]["bins"]) == 1
    assert any("no range" in note for note in found["notes"])


def test_what_is_gone_is_named_with_the_option_that_mends_it(planted: Planted, trained: Path, tmp_path: Path) -> None:
    moved = tmp_path / "runs" / "moved"
    shutil.copytree(trained, moved, symlinks=True)
    card = yaml.safe_load((moved / "config.yaml").read_text())
    card["options"]["visual_features_input_folder"] = "gone/visual"
    (moved / "config.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(UserError, match=r"gone/visual: no such folder, though .*config.yaml names it for visual feat.*"
                                        r"--visual_features_input_folder, or --no-visual"):  # fmt: skip
        _report(moved)
    assert len(_report(moved, "--no-visual")["subsets"]) == 3
    named = _report(moved, "--visual_features_input_folder", str(planted.root / "visual"))
    assert [each["modalities"] for each in named["subsets"]][-1] == ["visual", "audio", "textual"]
    card["options"]["csv_path"] = "gone.csv"
    (moved / "config.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(UserError, match=r"gone.csv: no such file, though .* give --csv_path"):
        _report(moved, "--no-visual")
    assert _report(moved, "--no-visual", "--csv_path", str(planted.manifest))["clips"]
    (moved / "config.yaml").unlink()
    with pytest.raises(UserError, match="no features given"):
        _report(moved)
    with pytest.raises(UserError, match=r"no config.yaml beside the checkpoint says which manifest .*--csv_path"):
        _report(moved, *planted.inputs())
    options = ("--csv_path", str(planted.manifest), *planted.inputs())
    assert _report(moved / "best", *options)["provenance"]["versions"] == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "Test"], "no row of the split Test has a label"),
        (["--split", "Nowhere"], "the split 'Nowhere' must be Train, Val or Test"),
        (["--frames_folder", "gone"], "--frames_folder gone: no such folder"),
        (["--subject_column", "Who"], "--subject_column Who: .* has no such column"),
        (["--group_columns", "Subject"], "--group_columns Subject: .* more than 30 values"),
        (["--n_resamples", "0"], "--n_resamples 0: must be at least 1"),
        (["--compare", "gone"], "--compare gone: no such folder"),
    ],
)
def test_mistakes_are_said_before_anything_is_written(
    trained: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_command("report", ["--run", str(trained), "--output_path", str(tmp_path / "report"), *options])
    assert not (tmp_path / "report").exists()


def test_a_run_of_several_seeds_is_asked_for_one(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "seeds" / "seed_0", symlinks=True)
    with pytest.raises(UserError, match=r"--run .*seeds: holds a run for each of 1 seeds; name one, .*seed_0"):
        run_command("report", ["--run", str(tmp_path / "seeds"), "--output_path", str(tmp_path / "report")])


def test_stopped_on_the_way_nothing_half_written_is_left(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    (tmp_path / "report.json").write_text("of before")
    monkeypatch.setattr("viper.files.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        run_command("report", ["--run", str(trained), "--output_path", str(tmp_path), "--n_resamples", "9"])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"report.json": "of before"}


def test_the_command_line_of_the_training_is_on_record(trained: Path, tmp_path: Path) -> None:
    found = _report(trained)["provenance"]
    recorded = yaml.safe_load((trained / "config.yaml").read_text())
    assert found["commands"]["train_perceiver"] == recorded["command"]
    assert found["seed"] == 0
    assert found["checkpoint"].endswith(("perceiver_1", "perceiver_2"))
    assert found["modalities"]["audio"]["missing"] == ["440", "439"]
    assert found["modalities"]["audio"]["encoder"]["encoder"] == "planted"
