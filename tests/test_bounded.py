"""YAML, JSON and CSV that ask for more than they are, or that mean something else than they show."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from many import IS_LONG

from viper.bounded import MAX_JSON_DEPTH, MAX_JSON_ENTRIES, MAX_YAML_BYTES, parse_json, parse_yaml
from viper.encoders.clip_prompts import load_prompts
from viper.errors import ClipError, UserError
from viper.files import read_csv_cells, read_json, read_yaml
from viper.store import EncoderInfo, FeatureStore
from viper.task import load_task

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (BOMB, 5, "entries"), (MERGES, 6, "entries"),
        (f"a: &a {'x' * 10**6}\nb: [*a, *a, *a, *a, *a]", 2, "characters"),
        ("a: &a [*a]", 1, "stands within"), ("x: 1\ny: " + "[" * 10**5, 2, "levels"), ("{a: " * 10**5, 1, "levels"),
        ("- " * 10**5, 1, "levels"), ("? " * 10**5, 1, "levels"),
        ("name: a\nkind: b\nname: c", 3, "the key 'name' appears twice"), ("a: {b: 1, 'b': 2}", 1, "appears twice"),
        ("<<: {a: 1}\n<<: {a: 2}", 2, "appears twice"),
        ("a: 1\n5: x", 2, "the key 5 is read as a number, not as text"), ("null: x", 1, "is read as nothing"),
        ("true: x", 1, "is read as true or false"), ("? [a]\n: b", 1, "a key must be text"),
        ("a: .nan", 1, "not a finite number"), ("- -.inf", 1, "not a finite"), ("a: 1.0e+999", 1, "not a finite"),
        ("a: " + "9" * 10**5, 1, "whole number"), ("a: !!int x", 1, "whole number"),
        ("a: !!float x", 1, "not a finite"), ('a: "\\ud800"', 1, "half a character"),
        ("a: !!python/object/apply:os.system [x]", 1, "asks for a type"), ("a: !!binary eA==", 1, "asks for a type"),
        ("a: !!set {x}", 1, "asks for a type"), ("a: !!timestamp 2001-01-01", 1, "asks for a type"),
        ("a: !mine x", 1, "asks for a type"), ("a: !!bool x", 1, "true or false"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a: b: c", 1, "not allowed here"), ("a: \x00", 1, "U.0000"), ("a: 1\nb: \x1b", 2, "U.001B"),
        ("a: *b", 1, "undefined"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused_with_its_line(text: str, line: int, said: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=f"line {line}: .*{said}"):
        parse_yaml(text)
    assert time.process_time() - began < 20


def test_yaml_means_what_it_shows() -> None:
    text = (
        "[no, yes, on, OFF, 1:30, 010, 0o7, 0x1F, 2001-01-01, =, 1e-3, '5', +, ., ~, '', 1_000, -3, 0.5, 1.0e-05, true]"
    )
    assert parse_yaml(text) == [
        "no", "yes", "on", "OFF", "1:30", "010", "0o7", "0x1F", "2001-01-01", "=", "1e-3", "5", "+", ".", None, "",
        1000, -3, 0.5, 1e-05, True,
    ]  # fmt: skip
    assert parse_yaml("a: &x {b: [1]}\nc: *x\nd: {<<: *x, e: 2}") == {
        "a": {"b": [1]}, "c": {"b": [1]}, "d": {"b": [1], "e": 2}
    }  # fmt: skip
    assert parse_yaml("") is None
    assert parse_yaml("\ufeffa: 1") == {"a": 1}


def test_yaml_is_read_as_it_is_written() -> None:
    odd = ["no", "1:30", "010", "1e3", "1.5e3", ".inf", "~", "null", "true", "=", "<<", "- a", "a: b", "#", "", "0x1",
           "😀", "\x1b[2J", "a\r\nb"]  # fmt: skip
    value = {**{each: each for each in odd}, "list": odd, "numbers": [0, -1, 1e-05, 0.1, 1e300, True, None]}
    assert parse_yaml(yaml.safe_dump(value)) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' appears twice"), ("NaN", "NaN is no number"),
        ("[1, -Infinity]", "-Infinity is no number"), ("1e400", "too large"), ("9" * 10**5, "too large"),
        ("[" * 10**5, "levels"), ('{"a":' * 10**5, "levels"), ("[" * 101 + "]" * 101, "levels"),
        ('["\\ud800"]', "half a character"), ('{"\\udc00": 1}', "half a character"), ("{", "Expecting"),
        ("", "Expecting"),
    ],
)  # fmt: skip
def test_json_that_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(text)


@pytest.mark.parametrize("entry", ["[]", "{}", "0", '""'])
def test_json_of_many_entries(entry: str) -> None:
    """A file within the bound of its size took 2 GiB of memory and ten seconds."""
    began = time.process_time()
    with pytest.raises(ValueError, match="more than 5000000 entries"):
        parse_json(f"[{','.join([entry] * (MAX_JSON_ENTRIES + 1))}]")
    assert time.process_time() - began < 2
    assert len(parse_json(f"[{','.join([entry] * 100_000)}]")) == 100_000


def test_json_that_is_fine() -> None:
    assert parse_json('{"a": [1, 2.5e3, "\\ud83d\\ude00", null]}') == {"a": [1, 2500.0, "😀", None]}
    assert parse_json("[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH)


@pytest.mark.parametrize("content", [b"\xff\xfea\x00", "a: é".encode("latin-1"), "a: 1".encode("utf-16")])
def test_other_encodings_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    for read in (read_yaml, read_json):
        with pytest.raises(UserError, match="cannot be read as") as error:
            read(tmp_path / "f")
        assert "\n" not in str(error.value)


def test_files_are_read_up_to_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match=r"large: cannot be read as YAML \(the file is larger than 2 MiB"):
        read_yaml(path)
    with pytest.raises(UserError, match="larger than 1 MiB"):
        read_json(path, 2**20)


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))


@pytest.mark.parametrize("command", ["tasks", "pipeline"] if IS_LONG else ["tasks"])
def test_a_bomb_costs_a_command_a_second_and_a_line(tmp_path: Path, command: str) -> None:
    assert len(BOMB) < MAX_YAML_BYTES / 1000
    (tmp_path / "bomb.yaml").write_text(BOMB.replace("a: &a", "name: &a", 1) + "kind: *i\n")
    script = "import sys; from viper.cli import main; main(None, sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", script, command, str(tmp_path / "bomb.yaml")], capture_output=True, text=True,
        timeout=60, preexec_fn=limited,
    )  # fmt: skip
    assert (done.returncode, len(done.stderr.splitlines()), done.stdout) == (2, 1, ""), done.stderr
    assert "line 5: more than" in done.stderr


CARD: dict[str, Any] = {"name": "mine", "kind": "regression", "targets": ["joy"]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"targets": ["joy", False]}, "False is not text; put it in quotes"), ({"targets": [5]}, "5 is not text"),
        ({"targets": ["a\x1b[2J"]}, "cannot be a name"), ({"targets": ["a\nb"]}, "cannot be a name"),
        ({"targets": [" "]}, "cannot be a name"), ({"targets": ["x" * 201]}, "cannot be a name"),
        ({"targets": ["a\u202eb"]}, "cannot be a name"), ({"targets": [f"t{i}" for i in range(1001)]}, "1001 targets"),
        ({"name": "a\tb"}, "cannot be a name"), ({"id_column": "\x07"}, "cannot be a name"),
        ({"submission_columns": ["File_ID", {"\x1b": "joy"}]}, "cannot be a name"), ({"range": [False, True]}, "range"),
        ({"range": [0, 10**400]}, "number"),
    ],
)  # fmt: skip
def test_a_card_with_a_name_that_is_none(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CARD | changed))
    with pytest.raises(UserError, match=said) as error:
        load_task(str(tmp_path / "c.yaml"))
    assert len(str(error.value)) < 1000


def test_names_that_only_look_odd_are_names(tmp_path: Path) -> None:
    targets = ["no", "1:30", "__proto__", "=cmd()", "../x", "<b>", "50% {}", "😀", "می‌خواهم", "a, b", "null"]
    (tmp_path / "c.yaml").write_text(f"name: mine\nkind: regression\ntargets: {json.dumps(targets)}\n")
    assert list(load_task(str(tmp_path / "c.yaml")).targets) == targets


def test_prompts_that_multiply(tmp_path: Path) -> None:
    prompts = {"patterns": ["{word} a"] * 1000, "emotions": {"joy": ["w"] * 1000}, "neutral": ["n"]}
    (tmp_path / "p.yaml").write_text(json.dumps(prompts))
    with pytest.raises(UserError, match="1000 patterns times 1000 words: 1000001 prompts"):
        load_prompts(tmp_path / "p.yaml")


def test_a_header_that_makes_each_short_row_a_long_one(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(",".join(f"c{i}" for i in range(5000)) + "\n" + "1,Train\n" * 5000)
    began = time.process_time()
    with pytest.raises(UserError, match=r"m\.csv: the header has 5000 columns, and most of the 5000 rows lack most"):
        read_csv_cells(tmp_path / "m.csv")
    assert time.process_time() - began < 5


def test_a_feature_whose_header_lists_a_million_arrays(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "store", EncoderInfo("planted", "visual", 2, source="faces"))
    entry = ",".join(f'"t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(30_000))
    header = f"{{{entry}}}".encode()
    store.path("1").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ClipError, match="bytes, which no feature has"):
        store.read("1")
