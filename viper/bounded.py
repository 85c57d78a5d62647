"""YAML and JSON that others may have written: what they may hold is bounded, and nothing in them is taken for a guess.

The parsers raise ValueError with one sentence; `viper.files.read_yaml` and `read_json` make it an error for people.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from typing import Any, NoReturn

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

# Far more than any file of viper's needs. A card has some dozens of entries, the record of a run some hundreds; the
# frames of a clip are of the kind of file that grows, with some 100 bytes a frame.
MAX_YAML_BYTES = 2**21
MAX_YAML_ENTRIES = 50_000
MAX_YAML_CHARACTERS = 2**22  # of all texts, with each alias standing for what it repeats
MAX_YAML_DEPTH = 20
MAX_JSON_BYTES = 2**26
MAX_JSON_DEPTH = 100
# A list of two bytes takes 64 of memory. The record of a face has some 30 entries.
MAX_JSON_ENTRIES = 5_000_000
MAX_DIGITS = 100  # of a whole number

_TAG = "tag:yaml.org,2002:"
_TYPES = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")}
_NOT_TEXT = "is read as {kind}, not as text; put it in quotes"
_KINDS = {"int": "a number", "float": "a number", "bool": "true or false", "null": "nothing"}


def parse_yaml(text: str) -> Any:
    """Return what a YAML document holds, made of dict (with text as keys), list, str, int, float, bool and None.

    Only true and false are truth values: `no` is text, and so are `1:30`, `010` and dates. Raises ValueError, with the
    line, for what is no YAML, for a key that appears twice, numbers that are not finite, types that are asked for by a
    tag, and for more than the bounds above: entries and texts are counted as often as aliases repeat them.
    """
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"line {mark.line + 1}: {said}" if mark else said) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"line {line}: the character U+{error.character:04X}: {error.reason}") from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with bounds."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  PyYAML's own way
    yaml_constructors = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._n_entries = self._n_characters = 0
        self._sizes: dict[str, tuple[int, int]] = {}  # of what an anchor names

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose one entry with all in it, and count it."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if event.anchor not in self._sizes:
                _refuse(f"*{event.anchor} stands within what it repeats", event.start_mark)
            self._count(*self._sizes[event.anchor], event.start_mark)
            return node
        if event.tag not in _TYPES | {None, "!"}:
            _refuse(f"the tag {event.tag} asks for a type that is not read here", event.start_mark)
        before = self._n_entries, self._n_characters
        self._depth += 1
        if self._depth > MAX_YAML_DEPTH:
            _refuse(f"more than {MAX_YAML_DEPTH} levels, each in the other", event.start_mark)
        self._count(1, len(event.value) if isinstance(event, yaml.ScalarEvent) else 0, event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = self._n_entries - before[0], self._n_characters - before[1]
        return node

    def _count(self, n_entries: int, n_characters: int, mark: Any) -> None:
        self._n_entries += n_entries
        self._n_characters += n_characters
        if self._n_entries > MAX_YAML_ENTRIES or self._n_characters > MAX_YAML_CHARACTERS:
            _refuse(f"more than {MAX_YAML_ENTRIES} entries or {MAX_YAML_CHARACTERS} characters, with aliases", mark)

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Compose a mapping whose keys are text, each there once."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                _refuse("a key must be text", key.start_mark)
            kind = key.tag.removeprefix(_TAG)
            if kind in _KINDS:
                _refuse(f"the key {key.value[:MAX_DIGITS]} " + _NOT_TEXT.format(kind=_KINDS[kind]), key.start_mark)
            if key.value in seen:
                _refuse(f"the key {key.value!r} appears twice", key.start_mark)
            seen.add(key.value)
        return node

    def construct_text(self, node: ScalarNode) -> str:
        """Return text that can be written as UTF-8; what JSON writes as two escapes is one character."""
        text = str(self.construct_scalar(node))
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            _refuse("text with half a character in it", node.start_mark)

    def construct_truth(self, node: ScalarNode) -> bool:
        """Return a bool."""
        text = str(self.construct_scalar(node)).lower()
        if text not in ("true", "false"):
            _refuse(f"{text[:MAX_DIGITS]} is not true or false", node.start_mark)
        return text == "true"

    def construct_whole_number(self, node: ScalarNode) -> int:
        """Return an int, with as many digits as anybody needs."""
        text = str(self.construct_scalar(node)).replace("_", "")
        if not re.fullmatch(rf"[-+]?[0-9]{{1,{MAX_DIGITS}}}", text):
            _refuse(f"{text[:MAX_DIGITS]} is not a whole number of at most {MAX_DIGITS} digits", node.start_mark)
        return int(text)

    def construct_number(self, node: ScalarNode) -> float:
        """Return a float that is finite."""
        text = str(self.construct_scalar(node)).replace("_", "")
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not abs(value) < float("inf"):
            _refuse(f"{text[:MAX_DIGITS]} is not a finite number", node.start_mark)
        return value


def _refuse(problem: str, mark: Any) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


# What PyYAML writes as plain text must be read as text: these patterns are a part of its own.
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+][0-9]+)?", "-+0123456789."),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(_TAG + _tag, re.compile(rf"(?:{_pattern})\Z"), list(_first))
for _tag, _constructor in {
    "bool": _Loader.construct_truth,
    "null": yaml.SafeLoader.construct_yaml_null,
    "int": _Loader.construct_whole_number,
    "float": _Loader.construct_number,
    "str": _Loader.construct_text,
    "seq": yaml.SafeLoader.construct_yaml_seq,
    "map": yaml.SafeLoader.construct_yaml_map,
}.items():
    _Loader.add_constructor(_TAG + _tag, _constructor)


def parse_json(text: str) -> Any:
    """Return what a JSON document holds.

    Raises ValueError for what is no JSON, a key that appears twice in an object, NaN and infinity (which are none),
    numbers too large for a float, text that cannot be written as UTF-8, and more levels or entries than the
    bounds above.
    """
    # Those within texts are counted too, which is soon done, before any memory is taken.
    if sum(map(text.count, "[{,")) > MAX_JSON_ENTRIES:
        raise ValueError(f"more than {MAX_JSON_ENTRIES} entries")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite,
                           parse_int=_whole)  # fmt: skip
        if _depth_is_beyond(value, MAX_JSON_DEPTH):
            raise RecursionError
    except RecursionError:
        raise ValueError(f"more than {MAX_JSON_DEPTH} levels, each in the other") from None
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("text with half a character in it") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[Hashable] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} appears twice")
    return made


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{text[:MAX_DIGITS]} is too large for a number")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:  # infinity; this is asked of each number, and quicker than a call
        raise ValueError(f"{text[:MAX_DIGITS]} is too large for a number")
    return value


def _depth_is_beyond(value: Any, bound: int) -> bool:
    nested = {dict, list}
    level = [value] if type(value) in nested else []
    for _ in range(bound):
        level = [inner for each in level for inner in (each.values() if type(each) is dict else each)]
        level = [each for each in level if type(each) in nested]
        if not level:
            return False
    return True
