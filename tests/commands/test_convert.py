"""YAML values, NAME=VALUE text and dicts as options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tyro

from viper.commands.convert import build, convert
from viper.commands.train_perceiver import TrainOptions
from viper.errors import UserError, either


@dataclass(kw_only=True)
class _Options:
    folder: Path
    n: int = 1
    rate: float | None = None
    flag: bool = False
    unset: bool | None = None
    size: Literal["tiny", "small", "base", "paper"] | None = None
    names: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    range: tuple[float, float] | None = None
    folders: list[Path] = field(default_factory=list)
    word: str = ""


def test_values_of_a_yaml_file_become_options() -> None:
    options = build(
        _Options,
        {"n": 3, "rate": "1e-4", "flag": True, "size": "tiny", "names": ["a", 2], "range": [0, 1], "folders": ["b"]},
        "data.yaml: train",
        Path("base"),
        {"folder": Path("set")},
    )
    assert options == _Options(
        folder=Path("set"), n=3, rate=1e-4, flag=True, size="tiny", names=["a", "2"], range=(0.0, 1.0),
        folders=[Path("base/b")],
    )  # fmt: skip
    assert isinstance(build(_Options, {"folder": "a", "rate": 1}, "").rate, float)
    assert build(_Options, {"folder": "a"}, "", Path("/b")).folder == Path("/b/a")
    assert build(_Options, {"folder": "/a"}, "", Path("/b")).folder == Path("/a")
    assert build(_Options, {"folder": 2024, "rate": None, "size": None}, "").folder == Path("2024")


def test_text_becomes_options() -> None:
    text = {"folder": "a", "n": "3", "rate": "1e-4", "flag": "true", "unset": "False", "size": "none",
            "names": "a, b", "word": "1"}  # fmt: skip
    options = build(_Options, text, "--train_options", from_text=True)
    assert options == _Options(
        folder=Path("a"), n=3, rate=1e-4, flag=True, unset=False, names=["a", "b"], word="1"
    )  # fmt: skip
    assert convert("-1", int | None, "n", from_text=True) == -1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": "huge"}, "x.size must be tiny, small, base or paper, not 'huge'"),
        ({"n": "two"}, "x.n must be a whole number, not 'two'"),
        ({"n": "2"}, "x.n must be a whole number, not '2'"),
        ({"n": True}, "x.n must be a whole number, not True"),
        ({"n": None}, "x.n must be a whole number, not empty"),
        ({"rate": "fast"}, "x.rate must be a number, not 'fast'"),
        ({"rate": True}, "x.rate must be a number, not True"),
        ({"flag": 1}, "x.flag must be true or false, not 1"),
        ({"flag": "maybe"}, "x.flag must be true or false, not 'maybe'"),
        ({"names": "a"}, "x.names must be a list, not 'a'"),
        ({"range": [1]}, "x.range must be a list of 2, not [1]"),
        ({"range": ["a", 1]}, "x.range must be a list, each item a number, not ['a', 1]"),
        ({"word": 3}, "x.word must be text, not 3"),
        ({"folders": [{}]}, "x.folders must be a list, each item a path, not [{}]"),
        ({"name": []}, "x has no option 'name'; did you mean names?"),
        ({"qqq": 1}, "x has no option 'qqq'; it takes flag, folders"),
        ({"folder": "b"}, "x has no option 'folder'"),
    ],
)
def test_a_wrong_value_is_said_as_a_person_would(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        build(_Options, values, "x", given={"folder": Path("a")})
    assert str(error.value).startswith(message)


def test_wrong_text_and_what_is_missing() -> None:
    for name, text, message in (("flag", "1", "true or false"), ("n", "two", "a whole number"), ("n", "1.0", "whole")):
        with pytest.raises(UserError, match=f"x.{name} must be .*{message}"):
            build(_Options, {"folder": "a", name: text}, "x", from_text=True)
    with pytest.raises(UserError, match="x needs the option folder"):
        build(_Options, {}, "x")


def test_options_of_a_command() -> None:
    """Whatever the types of a command's options are, they are understood."""
    made = build(TrainOptions, {"n_epochs": 2, "preset": "tiny", "report_to": ["wandb"]}, "data.yaml: train",
                 given={"csv_path": Path("m.csv"), "output_checkpoint_folder": Path("r")})  # fmt: skip
    assert (made.n_epochs, made.preset, made.report_to) == (2, "tiny", ["wandb"])
    with pytest.raises(UserError, match=r"data.yaml: train has no option 'n_epoch'; did you mean n_epochs\?"):
        build(TrainOptions, {"n_epoch": 2}, "data.yaml: train")


def test_a_list_of_words_as_a_sentence_has_it() -> None:
    assert [either(["a"]), either(["a", "b"]), either(["a", "b", "c"])] == ["a", "a or b", "a, b or c"]
