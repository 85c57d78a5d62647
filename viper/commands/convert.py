"""What people write in a YAML file, as NAME=VALUE text or as a dict, as the options of a command; and back."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import typing
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro
from cattrs import Converter

from viper.errors import UserError, did_you_mean, either
from viper.logs import path_argument

Options = TypeVar("Options")
NOTHING: Mapping[str, Any] = {}


class _WrongValueError(ValueError):
    """Says what a value must be: "a whole number"."""


def build(
    options: type[Options],
    values: Mapping[str, Any],
    where: str,
    base: Path | None = None,
    given: Mapping[str, Any] = NOTHING,
    from_text: bool = False,
) -> Options:
    """Return the options dataclass that these values describe.

    Parameters
    ----------
    options : the dataclass, such as TrainOptions.
    values : option -> value, as YAML or JSON holds it.
    where : what an error begins with, such as "data.yaml: train".
    base : the folder that relative paths start from; None leaves paths as they are.
    given : options that the caller sets, as they are; `values` may not name them.
    from_text : values are text, as after NAME=: "3", "true", "a,b", "none".

    Raises
    ------
    UserError : an option that does not exist, that the caller sets, that is missing, or has a wrong value.
    """
    types = option_types(options)
    check_names(values, types.keys() - given.keys(), where)
    converted = {
        name: convert(value, types[name], f"{where}.{name}", base, from_text) for name, value in values.items()
    }
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.init and is_required and field.name not in converted and field.name not in given:
            raise UserError(f"{where} needs the option {field.name}")
    return options(**converted, **given)


def convert(value: Any, option_type: Any, where: str, base: Path | None = None, from_text: bool = False) -> Any:
    """Return a value as an option's type has it; a wrong one is a UserError: "`where` must be ..., not ..."."""
    try:
        return _converter(base, from_text).structure(value, option_type)
    except _WrongValueError as error:
        shown = "empty" if value is None else repr(value)
        raise UserError(f"{where} must be {error}, not {shown}") from None


def option_types(options: type) -> dict[str, Any]:
    """Return option -> type of an options dataclass, without what only the command line needs to know."""
    hints = typing.get_type_hints(options)
    return {field.name: hints[field.name] for field in dataclasses.fields(options) if field.init}


def arguments_of(options: Any) -> list[str]:
    """Return the arguments by which the command line makes these options: those that are not the defaults."""
    hints = typing.get_type_hints(type(options), include_extras=True)
    positional: list[str] = []
    arguments: list[str] = []
    fields = {field.name: field for field in dataclasses.fields(options)}
    for name in own_first(type(options)):
        field, value, markers = fields[name], getattr(options, name), getattr(hints[name], "__metadata__", ())
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        values = [_argument(each) for each in (value if isinstance(value, list | tuple) else [value])]
        if tyro.conf.Positional in markers:
            positional += values
        elif value is None or value == default:
            continue
        elif isinstance(value, bool):
            arguments.append(f"--{name}" if value else f"--no-{name}")
        elif tyro.conf.UseAppendAction in markers:
            arguments += [part for each in values for part in (f"--{name}", each)]
        elif isinstance(value, str) and value.startswith("-"):
            arguments.append(f"--{name}={value}")
        else:
            arguments += [f"--{name}", *values]
    return positional + arguments


def _argument(value: Any) -> str:
    return path_argument(value) if isinstance(value, Path) else str(value)


def own_first(options: type) -> list[str]:
    """Return the names of a command's options: what is special to it, then what it shares with others, its bases'."""
    depth = {
        name: i
        for i, base in reversed(list(enumerate(options.__mro__)))
        for name in vars(base).get("__annotations__", ())
    }
    return sorted((field.name for field in dataclasses.fields(options)), key=lambda name: depth[name])


def check_names(names: Collection[str], known: Collection[str], where: str) -> None:
    """Refuse a name that is no option: "`where` has no option 'n_epoch'; did you mean n_epochs?"."""
    for name in names:
        if name not in known:
            hint = did_you_mean(str(name), known) or f"; it takes {', '.join(sorted(known))}"
            raise UserError(f"{where} has no option {name!r}{hint}")


@cache
def _converter(base: Path | None, from_text: bool) -> Converter:
    converter = Converter(detailed_validation=False)
    converter.register_structure_hook(bool, _from_text({"true": True, "false": False}) if from_text else _bool)
    converter.register_structure_hook(int, _int_from_text if from_text else _int)
    converter.register_structure_hook(float, lambda value, _: _float(value))
    converter.register_structure_hook(str, lambda value, _: _text(value))
    converter.register_structure_hook(Path, lambda value, _: _path(value, base))
    converter.register_structure_hook_func(lambda kind: typing.get_origin(kind) is Literal, _literal)
    converter.register_structure_hook_factory(_is_optional, lambda kind: _optional(converter, kind, from_text))
    converter.register_structure_hook_factory(_is_sequence, lambda kind: _sequence(converter, kind, from_text))
    return converter


def _from_text(values: Mapping[str, Any]) -> Callable[[Any, Any], Any]:
    def convert_text(value: Any, _: Any) -> Any:
        if str(value).lower() not in values:
            raise _WrongValueError(either(list(values)))
        return values[str(value).lower()]

    return convert_text


def _bool(value: Any, _: Any) -> bool:
    # YAML once had these too; here they are text, for a target may be called no.
    words = {"yes": True, "on": True, "no": False, "off": False}
    if isinstance(value, str):
        value = words.get(value.lower(), value)
    if not isinstance(value, bool):
        raise _WrongValueError("true or false")
    return value


def _int(value: Any, _: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _WrongValueError("a whole number")
    return value


def _int_from_text(value: Any, _: Any) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise _WrongValueError("a whole number") from None


def _float(value: Any) -> float:
    # YAML reads 1e-4 as text.
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            if math.isfinite(number := float(value)):
                return number
    raise _WrongValueError("a number")


def _text(value: Any) -> str:
    if isinstance(value, Path):  # a task's card, a model's folder
        return str(value)
    if not isinstance(value, str):
        raise _WrongValueError("text")
    return value


def _path(value: Any, base: Path | None) -> Path:
    # YAML reads a folder called 2024 as a number.
    if isinstance(value, bool) or not isinstance(value, str | Path | int):
        raise _WrongValueError("a path")
    return Path(str(value)) if base is None else base / str(value)


def _literal(value: Any, kind: Any) -> Any:
    for choice in typing.get_args(kind):
        if type(value) is type(choice) and value == choice:
            return choice
    raise _WrongValueError(either([str(choice) for choice in typing.get_args(kind)]))


def _is_optional(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)


def _optional(converter: Converter, kind: Any, from_text: bool) -> Callable[[Any, Any], Any]:
    (inner,) = (each for each in typing.get_args(kind) if each is not type(None))
    empty = ("none", "null", "") if from_text else ()

    def convert_optional(value: Any, _: Any) -> Any:
        is_none = value is None or (isinstance(value, str) and value.lower() in empty)
        return None if is_none else converter.structure(value, inner)

    return convert_optional


def _is_sequence(kind: Any) -> bool:
    return kind in (list, tuple) or typing.get_origin(kind) in (list, tuple)


def _sequence(converter: Converter, kind: Any, from_text: bool) -> Callable[[Any, Any], Any]:
    """Convert lists and tuples, of items of one type or (in a tuple) each of its own; numbers do for text."""
    made = typing.get_origin(kind) or kind
    inner = [each for each in typing.get_args(kind) if each is not ...] or [str]
    fixed = made is tuple and ... not in typing.get_args(kind) and typing.get_args(kind)

    def convert_sequence(value: Any, _: Any) -> Any:
        if from_text and isinstance(value, str):
            value = [part.strip() for part in value.split(",")] if value else []
        if not isinstance(value, list | tuple) or (fixed and len(value) != len(inner)):
            raise _WrongValueError(f"a list of {len(inner)}" if fixed else "a list")
        types = inner if fixed else inner * len(value)
        try:
            return made(
                str(item) if each is str and isinstance(item, int | float) else converter.structure(item, each)
                for item, each in zip(value, types, strict=True)
            )
        except _WrongValueError as error:
            raise _WrongValueError(f"a list, each item {error}") from None

    return convert_sequence
