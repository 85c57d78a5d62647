"""docs/tutorial.md is run: its commands in the page's order, on small videos of faces and voices."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from csv_files import rows_of, write_rows
from many import IS_LONG

from viper.cli import parse, run_command
from viper.demo.dataset import plan_dataset, write_clip
from viper.evaluation.submission import read_submission
from viper.manifest import Manifest
from viper.task import load_task

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
BLOCK = re.compile(r"(?:<!-- not run: (.*?) -->\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
RATED = {"joy": "Amusement", "tension": "Anxiety"}  # and what the clips show of it
# What is made smaller than the page has it.
SMALLER = {
    "frames": {"n_frames": 2},
    "train": {"preset": "tiny", "n_epochs": 2},
    "device": "cpu",
    "n_workers": 0,
    "report": {"n_resamples": 20},
    "confusion": False,  # drawing takes seconds, and other tests look at it
}
TINY = ["--preset", "tiny", "--n_epochs", "2", "--device", "cpu"]
SMALLER_OPTIONS = {
    "train_perceiver": TINY,
    "compare": TINY,
    "ablate": ["--device", "cpu"],
    "submission_creation": ["--device", "cpu"],
    "get_frame": ["--n_workers", "0", "--n_frames", "2"],
    "predict": ["--device", "cpu"],
    "report": ["--device", "cpu", "--n_resamples", "20"],
}


pytestmark = pytest.mark.usefixtures("log_as_before")


def _blocks(language: str) -> list[tuple[str, str]]:
    """(why it is not run, else "", the text) of each block of the page."""
    found = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    return [(reason, text) for reason, each, text in found if each == language]


def _lines(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()


def _words(line: str) -> list[str]:
    return shlex.split(line, comments=True)


def _make_study(root: Path) -> None:
    """What step 2 says one has: rated videos of four people, two of a fifth without ratings, and a new one."""
    videos = root / "recordings" / "videos"
    videos.mkdir(parents=True)
    rows = [["file", "person", "Split", *RATED]]
    for plan in plan_dataset(8, 0, 2, clips_per_identity=2):
        write_clip(videos / f"{plan.clip}.mp4", plan.intensities, plan.identity, plan.seed, seconds=0.5, fps=10)
        ratings = [str(plan.intensities[shown]) if plan.split == "Train" else "" for shown in RATED.values()]
        rows.append([f"videos/{plan.clip}.mp4", plan.identity.name, plan.split, *ratings])
    shutil.copy(videos / f"{plan.clip}.mp4", root / "new.mp4")
    write_rows(root / "recordings" / "ratings.csv", rows)
    (root / "reactions.yaml").write_text(_blocks("yaml")[0][1])


def test_the_commands_of_the_page_lead_to_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    _make_study(tmp_path)
    said: list[str] = []
    for reason, block in _blocks("sh"):
        for program, command, *arguments in [] if reason else map(_words, _lines(block)):
            assert program == "viper"
            if command == "doctor" and not IS_LONG:  # it imports everything there is, and has a test of its own
                parse(command, arguments)
                continue
            caplog.clear()
            code = run_command(command, arguments + SMALLER_OPTIONS.get(command, []))
            # Where pretrained weights are missing, and the network is not to be used, doctor answers 1.
            assert code == 0 or command == "doctor", (command, caplog.text)
            said.append(f"{command}: {caplog.text}")
            if command == "prepare":
                path = Path(arguments[arguments.index("--pipeline") + 1])
                path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **SMALLER}))
    _check_products(tmp_path)
    changed = yaml.safe_load(_blocks("yaml")[1][1])["features"]
    assert changed.keys() == yaml.safe_load((tmp_path / "pretrained.yaml").read_text())["features"].keys()
    first, second = (text for text in said if text.startswith("pipeline:"))
    assert "up to date" not in first
    assert second.count("up to date") == 3
    trained, again = (text for text in said if text.startswith("train_perceiver:"))
    assert "epoch 2" in trained
    assert "epoch" not in again


def _check_products(root: Path) -> None:
    """What the page says there is in the end."""
    task = load_task(str(root / "reactions.yaml"))
    manifest = Manifest.load(root / "manifest.csv", task)
    assert [len(manifest.split(split).clips) for split in ("Train", "Val", "Test")] == [6, 2, 2]
    for name, split in (("study_work/submission.csv", "Test"), ("submissions/val.csv", "Val")):
        predicted = read_submission(root / name, task)
        assert list(predicted.index) == manifest.split(split).clips
        assert np.isfinite(predicted[list(task.targets)].to_numpy()).all()
    rows = rows_of(root / "new.csv")
    assert rows
    assert all(0 <= float(row[target]) <= 1 for row in rows for target in task.targets)
    for page in ("new.html", "study_work/report/report.html", "study_work/compared/report.html"):
        assert "joy" in (root / page).read_text(encoding="utf-8")
    named = re.findall(r"`(study_work/[a-zA-Z_/.]+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) >= 8
    assert [name for name in named if not (root / name).exists()] == ["study_work/confusion/"]
    assert len(list((root / "shared_frames").glob("*/frames.json"))) == 10


def test_what_is_not_run_says_why_and_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """The network and endless commands stay out; those of viper's are looked at all the same."""
    skipped = [(reason, block) for reason, block in _blocks("sh") if reason]
    assert [reason for reason, _ in skipped] == [
        "needs the network", "runs until it is stopped", "needs the network",
    ]  # fmt: skip
    for words in (_words(line) for _, block in skipped for line in _lines(block)):
        if words[0] == "viper":
            parse(words[1], words[2:])


def test_the_settings_for_a_cluster_fit_the_file_prepare_writes() -> None:
    """Step 9 changes sections of a YAML: they must be options of the commands."""
    _, text = (text for _, text in _blocks("yaml"))
    settings = yaml.safe_load(text)
    assert settings.pop("offline") is True
    for modality, options in settings.pop("features").items():
        given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        parse(f"extract_{modality}_features", ["--output_folder", "features", *given])
    assert not settings
