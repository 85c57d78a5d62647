"""The shipped cards, and `viper tasks`, which explains them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Run

from viper.encoders.clip_prompts import load_prompts
from viper.task import Task, load_task, task_names

KINDS = {
    "hume_reaction": ("regression", 7), "vce": ("regression", 27), "mosi": ("regression", 1), "v2v": ("preference", 1),
    "ve8": ("single_label", 8), "yf6": ("single_label", 6), "emoset": ("single_label", 8),
    "ravdess": ("single_label", 8), "emodb": ("single_label", 7), "moviegraphs_top10": ("multi_label", 10),
    "moviegraphs_top25": ("multi_label", 25), "emotic": ("multi_label", 26),
}  # fmt: skip


def test_every_data_set_has_its_card() -> None:
    assert {name: (card.kind, len(card.targets)) for name in task_names() if (card := load_task(name))} == KINDS
    assert load_task("moviegraphs_top25").targets[:10] == load_task("moviegraphs_top10").targets
    assert load_task("vce").metrics[0] == "vce_top3"
    assert (load_task("mosi").range, "binary_accuracy" in load_task("mosi").metrics) == ((-3.0, 3.0), True)


@pytest.mark.parametrize("name", KINDS)
def test_a_card_survives_a_checkpoint_and_its_prompts_fit(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    again = Task.from_dict(json.loads(json.dumps(task.to_dict(), sort_keys=True)))
    assert (again.targets, again.loss) == (task.targets, task.loss)
    assert list(again.submission_columns.items()) == list(task.submission_columns.items())
    if task.prompts is not None and task.kind != "preference":
        assert set(load_prompts(task.prompts).emotions) - {"neutral"} == set(task.targets) - {"neutral"}


def test_tasks_lists_all_and_explains_one(capsys: pytest.CaptureFixture[str]) -> None:
    shown = [_printed("tasks", names, capsys) for names in ([], ["v2v"], ["emodb", "vce"])]
    assert all(name in shown[0] for name in KINDS)
    assert "rank_1 (least preferred)" in shown[1]
    assert "pairwise_accuracy chooses the best epoch" in shown[1]
    assert "emotion; speaker, where it is known" in shown[2]
    assert "each in [0, 1]" in shown[2]


def _printed(command: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    from viper.cli import run_command

    capsys.readouterr()
    assert run_command(command, arguments) == 0
    return " ".join(capsys.readouterr().out.split())  # wherever lines are broken


def test_an_own_card_is_explained_and_a_wrong_one_names_its_key(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tmp_path / "mine.yaml"
    card.write_text(
        "name: mine\nkind: single_label\ntargets: [calm, tense]\nlabel_column: mood\n"
        "submission_columns: [tense, Filename: File_ID, Prediction: mood]\n"
    )
    assert "tense, Filename (holds File_ID), Prediction (holds mood)" in _printed("tasks", [str(card)], capsys)
    card.write_text("name: mine\nkind: regression\ntargets: [calm]\nlos: mse\n")
    outcome = run("tasks", card, n_workers=None)
    assert outcome.code == 2
    assert "unknown key 'los'" in outcome.said


WRONG = {
    "kind: ranking\ntargets: [a]": "kind 'ranking'",
    "kind: preference\ntargets: [a, b]": "targets of a preference task",
    "kind: preference\ntargets: [a]\nrange: [0, 1]": "range is for labels",
    "kind: preference\ntargets: [a]\nmetrics: [pearson]": "metrics must be a list out of pairwise_accuracy",
    "kind: preference\ntargets: [a]\nloss: mse": "loss 'mse'",
    "kind: regression\ntargets: [a]\ngroup_column: a": "a name appears twice",
    "kind: regression\ntargets: [a]\ngroup_column: 3": "group_column must be text",
    "kind: regression\ntargets: [a]\nsubmission_columns: [File_ID, b]": "submission_columns must be",
    "kind: regression\ntargets: [a]\nsubmission_columns: [a]": "submission_columns must have File_ID",
    "kind: regression\ntargets: [a]\nsubmission_columns: [[a]]": "submission_columns must be",
    "kind: regression\ntargets: [a, b]\nrange: [-1, 1]\nloss: kl": "kl needs several targets",
    "kind: single_label\ntargets: [a, b]": "'label_column' is missing",
}


@pytest.mark.parametrize("card", WRONG)
def test_what_is_wrong_in_a_card_is_named(tmp_path: Path, run: Run, card: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\n{card}\n")
    outcome = run("tasks", path, n_workers=None)
    assert outcome.code == 2
    assert WRONG[card] in outcome.said
    assert "mine.yaml" in outcome.said
