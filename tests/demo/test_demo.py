"""The demo's own code, in miniature: every stage by the commands a user types, and a second run that does nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from viper.cli import run_command
from viper.commands import demo
from viper.evaluation import confusion
from viper.files import read_json


def test_the_demo_runs_and_resumes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(demo, "N_TRAIN", 6)
    monkeypatch.setattr(demo, "N_VAL", 3)
    monkeypatch.setattr(demo, "N_TEST", 3)
    monkeypatch.setattr(demo, "N_FRAMES", 2)
    monkeypatch.setattr(demo, "TRAINING", {"preset": "tiny", "n_epochs": 1, "device": "cpu"})
    # Pictures of each target take most of the time; the overview is drawn by the same code.
    save_png = confusion.save_png
    monkeypatch.setattr(confusion, "matrix_figure", lambda matrix: None)
    monkeypatch.setattr(confusion, "save_png", lambda figure, path: figure and save_png(figure, path))
    folder = tmp_path / "demo"
    with caplog.at_level("INFO", "viper"):
        assert run_command("demo", ["--output_folder", str(folder)]) == 0
    shown = [record.getMessage().strip().removeprefix("$ viper ") for record in caplog.records]
    last = ["submission_creation", "confusion_matrix", "report"]
    commands = [line.split()[0] for line in shown if line.split()]
    commands = [name for name in commands if name in ("get_frame", "crop_images", "train_perceiver", *last)]
    assert commands == ["get_frame", "crop_images", *["train_perceiver"] * 5, *last]
    printed = capsys.readouterr().out
    for name in ("all", "visual", "audio", "textual", "FAU"):
        assert f"\n{name} " in printed
    assert (folder / "submission.csv").is_file()
    assert (folder / "confusion" / "confusion_overview.png").is_file()
    compared = read_json(folder / "report" / "report.json")["comparisons"]
    assert [Path(each["name"]).name for each in compared] == ["visual", "audio", "textual", "FAU"]
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    monkeypatch.setattr(demo, "_look_at", lambda *_: None)  # made anew each time, and drawing takes long
    assert run_command("demo", ["--output_folder", str(folder)]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == stamps
