"""A user's own encoder: a class in a Python file, named FILE.py:Class where a model is named. docs/add_an_encoder.md.

A file is run when the user names it, and never because an encoder.json or a checkpoint does.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from viper.encoders.base import Encoder, arguments_of
from viper.encoders.registry import COMMANDS
from viper.errors import ClipError, OutputError, UserError
from viper.files import digest_of, read_text
from viper.store import EncoderInfo, Feature

if TYPE_CHECKING:
    from viper.engine.device import Runtime

# What encoder.json says of a user's own encoder, among its options; the code by a digest.
CLASS, SOURCE_CODE, ARGUMENTS = "class", "source_code", "arguments"


def is_own_name(model_name: str) -> bool:
    """Return whether a model is named as a Python file of the user's, with or without a class."""
    return re.search(r"\.py(:|$)", model_name) is not None


def is_own(info: EncoderInfo) -> bool:
    """Return whether features were made by a user's own encoder, whatever it is called."""
    return SOURCE_CODE in info.options


MAX_CODE_BYTES = 1 << 24


@dataclass(frozen=True)
class Code:
    """A Python file as it was when it was named; other processes run this text, whatever becomes of the file."""

    path: Path
    text: str

    @property
    def digest(self) -> str:
        """Return a short digest of the text."""
        return digest_of(self.text)

    def module(self) -> ModuleType:
        """Return the module, run once in each process. What running it raises, this raises."""
        # The same name in every process: what the user's classes make is pickled by it.
        name = f"viper_own_{digest_of([str(self.path), self.text])}"
        if name not in sys.modules:
            module = ModuleType(name)
            module.__file__ = str(self.path)
            sys.modules[name] = module  # before it is run: dataclasses look their module up
            try:
                exec(compile(self.text, str(self.path), "exec"), module.__dict__)
            except BaseException:
                del sys.modules[name]
                raise
        return sys.modules[name]


def load_own(model_name: str, options: Mapping[str, Any], reads: str, option: str = "--model_name ") -> OwnEncoder:
    """Return the encoder that FILE.py:Class names.

    Parameters
    ----------
    model_name : the path of a Python file and a class in it that is an Encoder.
    options : a command's options; those that the class's constructor has parameters for are given to it.
    reads : the content there is for it: "frames", "sound" or "subtitles".
    option : what stands before the name on the command line, for messages.

    Raises UserError where the file, the class or a part of it is missing or cannot be used.
    """
    where = f"{option}{model_name}"
    file, _, name = model_name.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise UserError(f"{where}: say which class of the file it is: FILE.py:Class")
    code = _read(Path(file), where)
    with _as_user_error(code):
        found = getattr(code.module(), name, None)
    if not (isinstance(found, type) and issubclass(found, Encoder)):
        problem = f"there is no class {name} in it" if found is None else f"{name} is not a subclass of viper.Encoder"
        raise UserError(f"{where}: {problem}")
    _check_class(found, reads, where)
    arguments = {
        name: str(value) if isinstance(value, Path) else value  # as JSON holds it
        for name, value in arguments_of(found, options, where).items()
    }
    with _as_user_error(code):
        encoder = found(**arguments)
    return OwnEncoder(encoder, code, model_name, arguments)


class OwnEncoder(Encoder[Any, Any]):
    """What stands between the engine and a user's encoder.

    It says in which line the user's code failed, checks what it answers, and adds its code to encoder.json. It can be
    sent to other processes although the user's class is in no package: the code is sent with it.

    Parameters
    ----------
    encoder : the user's, not yet prepared.
    code : the file it comes from.
    model_name : as the user named it, for the record.
    arguments : of its constructor.
    """

    def __init__(self, encoder: Encoder[Any, Any], code: Code, model_name: str, arguments: Mapping[str, Any]) -> None:
        self.modality = encoder.modality
        self.reads = encoder.reads  # type: ignore[misc]  # here it is the user's class that decides it
        self._code, self._model_name, self._arguments = code, model_name, dict(arguments)
        # `load` runs in other processes, where nothing is prepared: it is never shown what `prepare` made.
        self._host = encoder
        self._device = copy.copy(encoder)
        self._precision = ""

    @classmethod
    def matches(cls, model: str) -> bool:
        """Take a Python file."""
        return is_own_name(model)

    @classmethod
    def made(cls, info: EncoderInfo) -> bool:
        """Return whether the record has a digest of code."""
        return is_own(info)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], model: str) -> OwnEncoder:
        """Run the file; its class gets the options that its constructor has parameters for."""
        return load_own(model, options, options["reads"])

    @classmethod
    def from_record(cls, info: EncoderInfo, model: str | None) -> OwnEncoder:
        """Run the file that the user names now; what a record names is never run, for it may be anybody's."""
        if model is None:
            raise UserError(
                f"its features were made by a user's own encoder, {info.model}; give --models NAME=FILE.py:Class"
            )
        reads = "frames" if info.source == "faces" else info.source
        return load_own(model, info.options[ARGUMENTS], reads, "--models NAME=")

    def __reduce__(self) -> tuple[Any, ...]:
        # The code comes first: the rest can only be read once its classes are known.
        return _with_code, (self._code,), {**self.__dict__, "_device": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._device = copy.copy(self._host)

    def prepare(self, runtime: Runtime) -> None:
        """Do as the user's does; what goes wrong is a UserError."""
        with _as_user_error(self._code):
            self._device.prepare(runtime)
        if type(self._device).prepare is not Encoder.prepare:
            self._precision = runtime.precision_name

    def info(self) -> EncoderInfo:
        """Return what the user's says, with its class, its constructor's arguments and a digest of the code."""
        with _as_user_error(self._code):
            info = self._device.info()
        if not isinstance(info, EncoderInfo) or type(info.width) is not int or info.width < 1:
            raise self._wrong("info must answer an EncoderInfo whose width is a whole number above 0")
        own = {CLASS: type(self._host).__name__, SOURCE_CODE: self._code.digest, ARGUMENTS: self._arguments}
        try:
            options = json.loads(json.dumps({**info.options, **own}))
        except (TypeError, ValueError) as error:
            raise self._wrong(f"info answers options that JSON cannot hold ({error})") from error
        return dataclasses.replace(
            info,
            modality=self.modality,
            options=options,
            model=self._model_name,
            precision=info.precision or self._precision,
        )

    def load(self, content: Any) -> Any:
        """Do as the user's does; what goes wrong is a ClipError."""
        with _as_clip_error(self._code):
            return self._host.load(content)

    def encode(self, samples: list[Any], batch_size: int) -> list[Feature]:
        """Do as the user's does; what goes wrong is a ClipError, an answer that cannot be right a UserError."""
        with _as_clip_error(self._code):
            features = self._device.encode(samples, batch_size)
        if not isinstance(features, list) or not all(isinstance(feature, Feature) for feature in features):
            raise self._wrong("encode must answer a list of Feature")
        if len(features) != len(samples):
            raise self._wrong(f"encode answered {len(features)} features for {len(samples)} clips")
        # Made again, in case it was not `make` that made them: types, and values that are not finite.
        features = [Feature.make(feature.tokens, feature.mask, feature.time) for feature in features]
        width = self.info().width
        for feature in features:
            if feature.tokens.shape[1] != width:
                raise self._wrong(f"encode answered tokens of width {feature.tokens.shape[1]}, and info says {width}")
        return features

    def size(self, sample: Any) -> int:
        """Return what the user's says; what goes wrong is a UserError."""
        with _as_user_error(self._code):
            return int(self._device.size(sample))

    def _wrong(self, problem: str) -> UserError:
        return UserError(f"{self._model_name}: {problem}")


def _with_code(code: Code) -> OwnEncoder:
    """Return an OwnEncoder still to be filled, in a process that now knows the classes of its code."""
    code.module()
    return OwnEncoder.__new__(OwnEncoder)


def _read(path: Path, where: str) -> Code:
    try:
        return Code(path.resolve(), read_text(path, MAX_CODE_BYTES))
    except FileNotFoundError:
        raise UserError(f"{where}: there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {path} cannot be read ({error})") from error


def _check_class(found: type[Encoder[Any, Any]], reads: str, where: str) -> None:
    missing = sorted(found.__abstractmethods__)
    if missing:
        raise UserError(f"{where}: {found.__name__} lacks {', '.join(missing)}")
    modality = getattr(found, "modality", None)
    if not isinstance(modality, str) or not modality:
        raise UserError(f"{where}: {found.__name__} must say its modality, such as modality = 'loudness'")
    wants = getattr(found, "reads", None)
    if wants not in COMMANDS:
        raise UserError(f"{where}: {found.__name__} must say what it reads: reads = 'frames', 'sound' or 'subtitles'")
    if wants != reads:
        raise UserError(f"{where}: {found.__name__} reads {wants}, but would get {reads} here; use {COMMANDS[wants]}")


@contextmanager
def _as_clip_error(code: Code) -> Iterator[None]:
    try:
        yield
    except (UserError, ClipError, OutputError):
        raise
    except Exception as error:  # the user's code may raise anything
        raise ClipError(_told(error, code)) from error


@contextmanager
def _as_user_error(code: Code) -> Iterator[None]:
    try:
        yield
    except (UserError, OutputError):
        raise
    except Exception as error:  # the user's code may raise anything
        raise UserError(_told(error, code)) from error


def _told(error: Exception, code: Code) -> str:
    """Return the error with the line of the user's file in which it arose."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(code.path)]
    message = str(error)
    if isinstance(error, SyntaxError) and error.filename == str(code.path):
        lines, message = [error.lineno], error.msg
    where = f", line {lines[-1]}" if lines else ""
    return f"{code.path.name}{where}: {type(error).__name__}: {message}"
