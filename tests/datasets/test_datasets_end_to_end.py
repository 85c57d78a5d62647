"""docs/datasets.md is run: each dataset's commands, on its miniature, from label files and videos to a score."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import miniatures
import numpy as np
import pytest
import yaml
from many import IS_LONG
from patterns import FPS, stripe_frames

from viper.cli import run_command
from viper.demo.media import write_video
from viper.evaluation import confusion
from viper.evaluation.submission import read_submission
from viper.files import write_text
from viper.task import load_task

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"
# What is made smaller than the page has it. `faces`: miniatures show stripes, in which there are none to crop.
SMALLER = {
    "faces": False,
    "frames": {"n_frames": 5},
    "train": {"preset": "tiny", "n_epochs": 3},
    "confusion": False,
    "device": "cpu",
    "n_workers": 0,
}
SMALLER_OPTIONS = {
    "extract_visual_features": ["--n_workers", "0", "--device", "cpu"],
    "train_perceiver": ["--preset", "tiny", "--n_epochs", "3", "--device", "cpu"],
    "confusion_matrix": ["--device", "cpu"],
}


@dataclass(frozen=True)
class Case:
    """A section of the page.

    Attributes
    ----------
    make : makes the miniature in the folder that the section's commands read.
    metric, bar : what the commands have to reach.
    """

    heading: str
    make: Callable[[Path], miniatures.Truth]
    metric: str
    bar: float


def _own(root: Path) -> miniatures.Truth:
    """Fifty-six videos of fourteen subjects, a CSV of paths, two ratings and the subject, and the card of the page."""
    rng = np.random.default_rng(0)
    lines, truth = ["path,tense,calm,subject"], {}
    for number in range(56):
        levels = rng.uniform(size=2).round(3).tolist()
        path = root / "ratings" / f"subject_{number % 14}" / f"clip{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, stripe_frames(levels, 10, rng), FPS)
        lines.append(f"subject_{number % 14}/clip{number}.mp4,{levels[0]},{levels[1]},{number % 14}")
        truth[f"clip{number}"] = {"tense": levels[0], "calm": levels[1]}
    write_text(root / "ratings" / "ratings.csv", "\n".join(lines) + "\n")
    write_text(root / "tension.yaml", _blocks("Your own", "yaml")[0])
    return truth


# A clip shows its labels with noise of .03, so that features without weights can tell them; what keeps the scores from
# 1 are some 60 to 130 training clips and three epochs. Each bar is about three standard deviations, or more, above what
# guessing gives on so few Test clips: 0 for Pearson and CCC, 1/8 or 1/7 for accuracy and UAR, one half for pairs, about
# .4 (the share of clips that have a label) for mAP, and .32 for vce_top3 of the three most frequent emotions.
CASES = {
    "hume": Case("Hume-Reaction", lambda root: miniatures.write_hume(root / "hume", 40, 14, 8), "pearson", 0.6),
    "vce": Case("VCE", lambda root: miniatures.write_vce(root / "vce", 100, 24), "vce_top3", 0.65),
    "v2v": Case(
        "V2V", lambda root: miniatures.write_v2v(root / "v2v", 80, 36, 4, n_others=1), "pairwise_accuracy", 0.75
    ),
    "ve8": Case(
        "VideoEmotion-8",
        lambda root: miniatures.write_folders(root / "ve8", load_task("ve8").targets, 12),
        "accuracy",
        0.5,
    ),
    "emoset": Case("EmoSet", lambda root: miniatures.write_emoset(root / "emoset", 20, 6, 6), "accuracy", 0.5),
    "ravdess": Case("RAVDESS", lambda root: miniatures.write_ravdess(root / "ravdess", 6), "uar", 0.5),
    "emodb": Case("Berlin EmoDB", lambda root: miniatures.write_emodb(root / "emodb"), "uar", 0.5),
    "moviegraphs": Case(
        "MovieGraphs", lambda root: miniatures.write_moviegraphs(root / "moviegraphs", 12, 6), "map", 0.7
    ),
    "mosi": Case("CMU-MOSI", lambda root: miniatures.write_mosi(root / "mosi", 6, 2, 3), "pearson", 0.7),
    "own": Case("Your own", _own, "ccc", 0.6),
}


pytestmark = pytest.mark.usefixtures("log_as_before")


def _blocks(heading: str, language: str) -> list[str]:
    """The code blocks of a section of the page."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (section,) = [section for section in sections if section.startswith(heading)]
    return re.findall(rf"^```{language}\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)


def test_every_section_of_the_page_is_run() -> None:
    headings = re.findall(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(headings) == len(CASES)
    assert all(any(heading.startswith(case.heading) for case in CASES.values()) for heading in headings)


# The others go much the same way; test_kinds trains every kind of task.
@pytest.mark.parametrize("name", CASES if IS_LONG else ["own"])
def test_the_commands_of_the_page_lead_to_a_score(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    truth = case.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    if name in ("vce", "hume", "own"):  # 29, 9 and 4 pictures take seconds; the others draw those of every kind
        for drawing in ("matrix_figure", "overview_figure"):
            monkeypatch.setattr(confusion, drawing, lambda *_: None)
        monkeypatch.setattr(confusion, "save_png", lambda figure, path: path.write_bytes(b"PNG"))
    (commands,) = _blocks(case.heading, "sh")
    folder = None
    for line in commands.replace("\\\n", " ").splitlines():
        program, command, *arguments = shlex.split(line)
        assert program == "viper"
        assert run_command(command, arguments + SMALLER_OPTIONS.get(command, [])) == 0
        if command == "prepare" and "--pipeline" in arguments:
            path = Path(arguments[arguments.index("--pipeline") + 1])
            path.write_text(yaml.safe_dump(_smaller(yaml.safe_load(path.read_text()))))
        if command == "confusion_matrix":
            folder = Path(arguments[arguments.index("--output_path") + 1])
    assert folder is not None
    scores = json.loads((folder / "confusion.json").read_text())["mean"]
    assert scores[case.metric]["value"] > case.bar
    if name == "hume":
        _check_submission(tmp_path / "hume_work" / "submission.csv", truth)


def _smaller(card: dict[str, Any]) -> dict[str, Any]:
    if "audio" in card["features"]:
        card["features"]["audio"]["n_fragments"] = 6  # of a second of sound
    return {**card, **SMALLER}


def _check_submission(path: Path, truth: miniatures.Truth) -> None:
    """The labels of Test were never in the manifest, and yet the submission has them nearly right."""
    task = load_task("hume_reaction")
    predicted = read_submission(path, task)
    true = np.array([list(truth[clip].values()) for clip in predicted.index])
    correlations = [np.corrcoef(predicted[target], true[:, column])[0, 1] for column, target in enumerate(task.targets)]
    assert np.mean(correlations) > 0.6
