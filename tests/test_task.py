from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from viper.errors import UserError
from viper.task import Task, load_task, task_names

CARD: dict[str, Any] = {"name": "mine", "kind": "regression", "targets": ["Joy", "Fear"]}


def write_card(folder: Path, text: str | dict[str, Any], name: str = "card.yaml") -> str:
    path = folder / name
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text), encoding="utf-8")
    return str(path)


def test_the_hume_reaction_card_is_shipped() -> None:
    assert "hume_reaction" in task_names()
    task = load_task("hume_reaction")
    assert task.name == "hume_reaction"
    assert task.targets == ("Adoration", "Amusement", "Anxiety", "Disgust", "Empathic-Pain", "Fear", "Surprise")
    assert task.range == (0.0, 1.0)
    assert task.metrics[0] == "pearson"
    assert list(task.submission_columns) == ["File_ID", *task.targets]


@pytest.mark.parametrize("name", task_names())
def test_every_shipped_card_loads(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    assert task.prompts is None or task.prompts.is_file()


def test_a_users_card_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "mine.yaml").write_text("Joy: [a glad face]\n", encoding="utf-8")
    card = {**CARD, "range": [-1, 1], "metrics": ["mse"], "prompts": "prompts/mine.yaml", "id_column": "clip",
            "split_column": "part", "description": "mine"}  # fmt: skip
    task = load_task(write_card(tmp_path, card))
    assert task.targets == ("Joy", "Fear")
    assert task.range == (-1.0, 1.0)
    assert task.metrics == ("mse",)
    # Relative to the card, not to where the command is run.
    assert task.prompts == tmp_path / "prompts" / "mine.yaml"
    assert list(task.submission_columns) == ["clip", "Joy", "Fear"]
    assert task.split_column == "part"


def test_what_a_card_may_leave_out(tmp_path: Path) -> None:
    task = load_task(write_card(tmp_path, CARD, "card.yml"))
    # A key without a value is left out too.
    assert task == load_task(write_card(tmp_path, {**CARD, "prompts": None, "range": None}))
    assert task.range is None
    assert task.prompts is None
    assert task.metrics == ("pearson", "mse")
    assert (task.id_column, task.split_column) == ("File_ID", "Split")


WRONG: list[tuple[dict[Any, Any], str]] = [
    ({**CARD, "target": ["Joy"]}, "target"),
    ({**CARD, 3: "x"}, "3"),
    ({"kind": "regression", "targets": ["Joy"]}, "name"),
    ({"name": "mine", "targets": ["Joy"]}, "kind"),
    ({"name": "mine", "kind": "regression"}, "targets"),
    ({**CARD, "kind": "ranking"}, "kind"),
    ({**CARD, "kind": ["regression"]}, "kind"),
    ({**CARD, "name": 7}, "name"),
    ({**CARD, "targets": []}, "targets"),
    ({**CARD, "targets": "Joy"}, "targets"),
    ({**CARD, "targets": ["Joy", 1]}, "targets"),
    ({**CARD, "targets": ["Joy", "Joy"]}, "targets"),
    ({**CARD, "targets": ["Joy", "File_ID"]}, "targets"),
    ({**CARD, "metrics": []}, "metrics"),
    ({**CARD, "metrics": "pearson"}, "metrics"),
    ({**CARD, "metrics": ["accuracy"]}, "metrics"),
    ({**CARD, "metrics": [["pearson"]]}, "metrics"),
    ({**CARD, "range": [1, 0]}, "range"),
    ({**CARD, "range": [0, 0]}, "range"),
    ({**CARD, "range": [0, 1, 2]}, "range"),
    ({**CARD, "range": ["0", "1"]}, "range"),
    ({**CARD, "range": 1}, "range"),
    ({**CARD, "range": [float("nan"), 1]}, ".nan is not a finite number"),
    ({**CARD, "prompts": "nowhere.yaml"}, "prompts"),
    ({**CARD, "prompts": 5}, "prompts"),
    ({**CARD, "id_column": 5}, "id_column"),
    ({**CARD, "split_column": None}, "split_column"),
    ({**CARD, "id_column": "Split"}, "id_column"),
    ({**CARD, "description": ["mine"]}, "description"),
]


@pytest.mark.parametrize(("card", "key"), WRONG, ids=[f"{key}-{number}" for number, (_, key) in enumerate(WRONG)])
def test_a_wrong_card_is_named_with_its_key(tmp_path: Path, card: dict[str, Any], key: str) -> None:
    path = write_card(tmp_path, card)
    with pytest.raises(UserError) as error:
        load_task(path)
    assert path in str(error.value)
    assert key in str(error.value).removeprefix(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "name: [unclosed\nkind: x", "\x00"])
def test_a_file_that_is_no_card(tmp_path: Path, text: str) -> None:
    path = write_card(tmp_path, text)
    with pytest.raises(UserError, match=r"card\.yaml") as error:
        load_task(path)
    assert "\n" not in str(error.value)


def test_a_card_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hume_reaction"):
        load_task("hume")
    with pytest.raises(UserError, match=r"none\.yaml"):
        load_task(str(tmp_path / "none.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(UserError, match=r"folder\.yaml"):
        load_task(str(tmp_path / "folder.yaml"))


def test_a_checkpoint_keeps_all_of_a_card_but_its_prompts() -> None:
    task = load_task("hume_reaction")
    through_json = json.loads(json.dumps(task.to_dict()))
    back = Task.from_dict(through_json)
    assert back == Task(**{**task.__dict__, "prompts": None})
    free = Task("free", "regression", ("a",), None, ("mse", "pearson"), None, "id", "part", "words")
    assert Task.from_dict(json.loads(json.dumps(free.to_dict()))) == free


def test_a_wrong_card_of_a_checkpoint_is_an_error_too() -> None:
    with pytest.raises(UserError, match=r"checkpoint.*'colour'"):
        Task.from_dict({**load_task("hume_reaction").to_dict(), "colour": "red"})
