"""The model card beside a checkpoint: what stands in it is true, parses on the hub, and its commands and code run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard
from planted import TARGETS, Planted, plant

from viper.cli import parse, run_command
from viper.files import read_json, write_json
from viper.fusion.checkpoint import load_checkpoint
from viper.fusion.model_card import model_card
from viper.fusion.perceiver import PerceiverFusion, PerceiverFusionConfig

TRAINING = ("--preset", "tiny", "--n_epochs", "2", "--batch_size", "16")
HOSTILE = "**x** | <img src=x onerror=alert(1)> `y` $z$ [a](b) &amp; #1\n---\nlicense: mit: \"'"


def train(planted: Planted, run: Path, *options: str) -> Path:
    assert run_command("train_perceiver", planted.training(run, *TRAINING, *options)) == 0
    return run


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def run(planted: Planted) -> Path:
    """A finished run, whose clips belong to people."""
    card = yaml.safe_load(planted.card.read_text())
    planted.card.write_text(yaml.safe_dump({**card, "group_column": "person", "description": "three planted targets"}))
    lines = planted.manifest.read_text().splitlines()
    people = ["person", *(f"p{i // 10}" for i in range(len(lines) - 1))]
    planted.manifest.write_text("".join(f"{line},{who}\n" for line, who in zip(lines, people, strict=True)))
    return train(planted, planted.root / "run")


def config_of(**changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "preset": "tiny",
        "modalities": {"audio": {"width": 4, "encoder": {"encoder": "logmel", "options": {"bands": 64}}}},
        "task": {"name": "moods", "kind": "regression", "targets": ["joy", "awe"], "range": [0, 1]},
    }
    return PerceiverFusionConfig(**{**settings, **changes}).to_dict()


def cells(card: str, first: str) -> list[str]:
    """The cells of the table row that begins with `first`."""
    line = next(line for line in card.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_its_numbers_are_those_of_the_summary(run: Path) -> None:
    summary, card = read_json(run / "summary.json"), ModelCard.load(run / "best" / "README.md")
    index = {result.metric_name: result for result in card.data.eval_results}
    for metric, title in (("pearson", "Pearson"), ("mse", "MSE")):
        score = summary["mean"][metric]
        assert index[title].metric_value == score["value"]
        direction = "higher" if metric == "pearson" else "lower"
        assert cells(card.text, title) == [f"{title} ({direction} is better)", f"{score['value']:.4f}", "24"]
        for target in TARGETS:
            assert index[f"{title}, {target}"].metric_value == summary["targets"][target][metric]["value"]
    for target, scores in summary["targets"].items():
        shown = [f"{scores[metric]['value']:.4f}" for metric in ("pearson", "mse")]
        assert cells(card.text, target) == [target, shown[0], "24", shown[1], "24"]
    assert {result.dataset_split for result in card.data.eval_results} == {"Val"}
    assert {result.dataset_name for result in card.data.eval_results} == {"planted"}
    assert f"after epoch {summary['best_epoch']['pearson']}." in card.text
    assert read_json(run / "best" / "config.json")["evaluation"]["mean"] == summary["mean"]


def test_each_epoch_has_its_own_scores(run: Path) -> None:
    rows = (run / "metrics.csv").read_text().splitlines()
    for epoch, row in enumerate(rows[1:], start=1):
        evaluation = read_json(run / f"perceiver_{epoch}" / "config.json")["evaluation"]
        assert evaluation["epoch"] == epoch
        assert f"{evaluation['mean']['pearson']['value']:.6g}" == row.split(",")[3]


def test_its_data_are_those_of_the_manifest(run: Path) -> None:
    card = (run / "best" / "README.md").read_text()
    assert cells(card, "split of the manifest") == ["split of the manifest", "clips", "with labels", "person"]
    assert cells(card, "Train") == ["Train (trained on)", "60", "60", "6"]
    assert cells(card, "Test") == ["Test (not looked at)", "16", "16", "2"]
    assert "three planted targets" in card
    assert cells(card, "audio") == ["audio", "planted", "-", "-", "faces", "4"]


def test_the_hub_can_read_it(run: Path) -> None:
    card = ModelCard.load(run / "best" / "README.md")
    assert card.data.library_name == "viper"
    assert {"viper", "affective-computing", "regression"} <= set(card.data.tags)
    assert card.data.pipeline_tag is None  # the hub knows classification of videos, but no regression
    written = yaml.safe_load(card.content.split("---\n")[1])
    assert written["model-index"] == card.data.to_dict()["model-index"]
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_it_says_what_it_is_not_for(run: Path) -> None:
    card = (run / "best" / "README.md").read_text()
    assert "## Intended use" in card
    assert "error-prone" in card
    assert "Regulation (EU) 2024/1689" in card
    assert "Article 5(1)(f)" in card


def test_its_code_runs_and_its_commands_parse(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = (run / "best" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(run / "best")
    exec(compile(code, "README.md", "exec"), {})
    answers = eval(capsys.readouterr().out)
    assert list(answers) == TARGETS
    assert all(0 < value < 1 for value in answers.values())
    commands = [shlex.split(line) for line in re.findall(r"^viper .*", card, re.MULTILINE)]
    assert [command[1] for command in commands] == ["predict", "submission_creation"]
    config = parse("submission_creation", commands[1][2:])
    assert config.model_path == Path()
    assert config.textual_features_input_folder == Path("features/textual")


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "preference"])
def test_the_other_kinds_of_task(tmp_path: Path, kind: str) -> None:
    run = train(plant(tmp_path / "planted", kind), tmp_path / "run")
    summary, card = read_json(run / "summary.json"), ModelCard.load(run / "best" / "README.md")
    found = {result.metric_value for result in card.data.eval_results}
    assert found >= {score["value"] for score in summary["mean"].values() if score["value"] is not None}
    if kind == "preference":
        assert cells(card.text, "Train") == ["Train (trained on)", "60", "210"]
        assert card.data.pipeline_tag is None
    else:
        assert cells(card.text, "Train") == ["Train (trained on)", "60", "60"]
        assert card.data.pipeline_tag == "video-classification"


def test_a_linear_model_has_a_card_too(planted: Planted, run: Path, tmp_path: Path) -> None:
    fitted = train(planted, tmp_path / "run", "--fusion", "linear")
    card = ModelCard.load(fitted / "best" / "README.md")
    value = read_json(fitted / "summary.json")["mean"]["pearson"]["value"]
    assert card.data.eval_results[0].metric_value == value
    assert "may leave" in card.text


def test_a_checkpoint_of_before_loads_and_says_that_nothing_is_recorded(run: Path, tmp_path: Path) -> None:
    config = read_json(run / "best" / "config.json")
    del config["evaluation"], config["training_data"]
    old = tmp_path / "old"
    old.mkdir()
    write_json(old / "config.json", config)
    (old / "model.safetensors").write_bytes((run / "best" / "model.safetensors").read_bytes())
    load_checkpoint(old).save_pretrained(tmp_path / "again")
    card = ModelCard.load(tmp_path / "again" / "README.md")
    assert card.data.eval_results is None
    assert "Not recorded in this checkpoint" in card.text
    assert "How many clips there were is not recorded" in card.text


def test_a_config_made_by_hand_has_a_card(tmp_path: Path) -> None:
    card = ModelCard(model_card(config_of(task={"targets": ["joy"]})))
    assert "an unnamed task" in card.text


def test_values_that_are_undefined_stay_out_of_the_index() -> None:
    scores = {"mean": {"pearson": {"value": None, "n": 3}, "mse": {"value": 0.5, "n": 3}},
              "targets": {"joy": {"pearson": {"value": None, "n": 3}, "mse": {"value": 0.5, "n": 3}}}}  # fmt: skip
    card = ModelCard(model_card(config_of(evaluation={"split": "Val", "epoch": 1, "n_clips": 3, **scores})))
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == [("mse", 0.5), ("mse", 0.5)]
    assert cells(card.text, "joy") == ["joy", "undefined", "3", "0.5000", "3"]


def test_names_cannot_break_out_of_their_place() -> None:
    task = {"name": HOSTILE, "kind": "single_label", "targets": [HOSTILE, "other"], "description": HOSTILE}
    scores = {"n_clips": 2, "mean": {"uar": {"value": 0.25, "n": 2}},
              "targets": {HOSTILE: {"uar": {"value": 0.25, "n": 2}}}}  # fmt: skip
    encoder = {"encoder": HOSTILE, "model": "/home/somebody/secret/vit", "options": {HOSTILE: HOSTILE * 9}}
    settings = config_of(
        task=task, evaluation={"split": "Val", "epoch": 1, **scores}, modalities={"a": {"width": 1, "encoder": encoder}}
    )
    text = model_card(json.loads(json.dumps(settings)), tags=[HOSTILE])
    card = ModelCard(text)
    one_line = HOSTILE.replace("\n", " ")
    assert card.data.eval_results[0].dataset_name == one_line
    assert card.data.license is None
    assert len(cells(card.text, r"\*\*x\*\*")) == 3
    assert len(cells(card.text, "a")) == 6
    outside_code = re.sub(r"```.*?```", "", card.text, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<img|(?<!\\)\]\(b\)|(?<!\\)\$z|(?<!\\)&amp;", outside_code)
    assert "somebody" not in text
    assert cells(card.text, "a")[2] == "vit"


def test_pushing_takes_the_card_along(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the hub only what is asked of it: a repository, and a place for a commit."""
    pushed: dict[str, bytes] = {}

    def create_repo(self: HfApi, repo_id: str, **kwargs: Any) -> Any:
        return type("Url", (), {"repo_id": repo_id})

    def create_commit(self: HfApi, repo_id: str, operations: Any, **kwargs: Any) -> Any:
        pushed.update({each.path_in_repo: Path(each.path_or_fileobj).read_bytes() for each in operations})
        return type("Commit", (), {"commit_url": f"hub/{repo_id}/commit/1"})

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    model = load_checkpoint(run)
    assert model.push_to_hub("me/model", tags=["reactions"]) == "hub/me/model/commit/1"
    assert sorted(pushed) == ["README.md", "config.json", "model.safetensors"]
    card = ModelCard(pushed["README.md"].decode())
    assert card.text == ModelCard((run / "best" / "README.md").read_text()).text
    assert "reactions" in card.data.tags


def test_a_resumed_run_has_the_same_cards(planted: Planted, run: Path, tmp_path: Path) -> None:
    """One that was stopped after its first epoch."""
    from viper.training import recorder

    save = recorder.save_checkpoint

    def dying(folder: Path, epoch: int, model: PerceiverFusion) -> None:
        save(folder, epoch, model)
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "save_checkpoint", dying)
        with pytest.raises(KeyboardInterrupt):
            train(planted, tmp_path / "run")
    train(planted, tmp_path / "run", "--resume")
    for epoch in (1, 2):
        again, before = (folder / f"perceiver_{epoch}" / "README.md" for folder in (tmp_path / "run", run))
        assert again.read_text() == before.read_text()


def test_torch_is_not_needed() -> None:
    code = (
        "import sys, viper.fusion.model_card; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
