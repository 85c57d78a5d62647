"""Pickles of plain data, read without running anything in them.

A pickle is a program: its opcodes fetch any function of any module and call it. Here there are fewer opcodes, and the
functions are this module's own: what they make is None, truth values, numbers, text, bytes, tuples, lists, dictionaries
and numpy arrays. Whatever else a pickle asks for is refused by name.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, ClassVar

import numpy as np

from viper.errors import ClipError, one_line
from viper.files import files_only

# What an array may hold: truth values, integers, floats, complex numbers, text, bytes, dates, and plain objects.
_CODE = re.compile(r"([?bB]|b1|[iu][1248]|f[248]|c8|c16|[SU]\d{0,9}|O8?)")
_KEYS = (str, int, float, bool, bytes, type(None))


def load_plain(path: Path) -> Any:
    """Return the content of a pickle (protocols 0 to 5, numpy 1 and 2, Python 2 and 3) that holds plain data only.

    Arrays are `np.ndarray` or a subclass of it without a behaviour of its own. Memory is taken for what the file holds,
    not for what it claims. Raises ClipError, which does not name the file, for one that is damaged, and for one with
    anything else in it, naming what that is. Nothing in it is run.
    """
    try:
        with open(path, "rb", opener=files_only) as file:
            return _PlainUnpickler(file, path.stat().st_size).load()
    except OSError:
        raise
    except _RefusedError as error:
        raise ClipError(f"refused: {error}; only numpy arrays and plain lists and dictionaries are read") from error
    except Exception as error:  # a damaged program fails in any way
        reason = one_line(str(error).strip() or type(error).__name__)
        raise ClipError(f"cannot be read as a pickle ({reason})") from error


class _RefusedError(UnpicklingError):
    """The pickle wants what plain data does not need."""


class _Bounded:
    """A file that is asked for no more than there is: a length in a pickle may be any number."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.readline = file.readline

    def read(self, n: int) -> bytes:
        if not 0 <= n <= self._size - self._file.tell():
            raise UnpicklingError("it ends too early")
        return self._file.read(n)


class _PlainArray(np.ndarray):
    """An array whose state is checked before numpy takes it."""

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, is_fortran, data = state
        kind = _dtype_of(dtype)
        count = _count(shape)
        if kind.hasobject:
            if type(data) is not list or len(data) != count:
                raise UnpicklingError("an array of objects with another number of them")
        else:
            data = data.encode("latin1") if isinstance(data, str) else data
            if type(data) is not bytes or len(data) != count * kind.itemsize:
                raise UnpicklingError("an array whose data are not of its shape")
        super().__setstate__((1, shape, kind, bool(is_fortran), data))  # type: ignore[arg-type]


class _Dtype:
    """What a pickle says of a dtype, before it is one."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_flags: Any) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else code
        # dtype("f4") and then its byte order is what numpy writes; dtype("<f4") is what others do.
        if type(text) is not str or not (match := re.fullmatch(r"([<>|=]?)(.{1,10})", text)):
            raise _RefusedError("it has an array of a kind that holds no plain values")
        self.order, self.code = match[1] or "=", match[2]
        if not _CODE.fullmatch(self.code):
            raise _RefusedError(f"it has an array of the kind {one_line(self.code)!r}")
        if self.code in ("S", "U") or re.fullmatch(r"[SU]0+", self.code):
            raise UnpicklingError("an array of nothing")

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "=") or any(each is not None for each in state[2:5]):
            raise _RefusedError("it has an array of records")
        self.order = order


def _dtype_of(value: Any) -> np.dtype[Any]:
    if type(value) is not _Dtype:
        raise UnpicklingError("an array of no known kind")
    return np.dtype(value.order.replace("|", "=") + value.code)


def _count(shape: Any) -> int:
    """Return the number of elements of an array of this shape."""
    if type(shape) is not tuple or len(shape) > 32 or any(type(n) is not int or n < 0 for n in shape):
        raise UnpicklingError("an array without a shape")
    if any(n >= 2**62 for n in shape):
        raise UnpicklingError("it claims more than it holds")
    return math.prod(shape)


def _empty_array(*_arguments: Any) -> np.ndarray:
    # Its class, shape and kind stand here too, and are replaced by its state: they are not looked at.
    return np.ndarray.__new__(_PlainArray, (0,), np.uint8)


def _array_of_buffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    kind = _dtype_of(dtype)
    if kind.hasobject or type(buffer) not in (bytes, bytearray) or len(buffer) != _count(shape) * kind.itemsize:
        raise UnpicklingError("an array whose data are not of its shape")
    if not len(buffer):
        return np.empty(shape, kind)
    return np.frombuffer(buffer, kind).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, data: Any) -> Any:
    """Return the Python value of a numpy scalar."""
    kind = _dtype_of(dtype)
    data = data.encode("latin1") if isinstance(data, str) else data
    if kind.hasobject or type(data) is not bytes or len(data) != kind.itemsize:
        raise UnpicklingError("a number whose data are not of its size")
    return np.frombuffer(data, kind)[0].item()


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    # How protocols before 3 write bytes.
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"it wants to encode as {one_line(str(encoding)[:40])}")
    return text.encode("latin1")


def _bytes(*values: Any) -> bytes:
    return b"".join(value if type(value) is bytes else _encoded(value) for value in values[:1])


def _no_call(*_arguments: Any) -> Any:
    raise _RefusedError("it calls numpy.ndarray")


class _Global:
    """One of the functions a pickle may call. Not the function itself, which BUILD could give other defaults."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("it changes a function")


def _allowed() -> dict[tuple[str, str], _Global]:
    allowed = {
        ("numpy", "ndarray"): _no_call,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encoded,
    }
    for core in ("numpy.core", "numpy._core"):  # of numpy 1 and 2
        allowed[f"{core}.multiarray", "_reconstruct"] = _empty_array
        allowed[f"{core}.multiarray", "scalar"] = _scalar
        allowed[f"{core}.numeric", "_frombuffer"] = _array_of_buffer
    for builtins in ("builtins", "__builtin__"):
        allowed[builtins, "bytes"] = _bytes
        allowed[builtins, "bytearray"] = _bytes
    return {name: _Global(function) for name, function in allowed.items()}


_ALLOWED = _allowed()
# Out: persistent ids, extensions, classes (NEWOBJ, OBJ, INST), sets, buffers from elsewhere.
_OPCODES = (
    "MARK", "STOP", "POP", "POP_MARK", "DUP", "FLOAT", "INT", "BININT", "BININT1", "LONG", "BININT2", "NONE",
    "NEWTRUE", "NEWFALSE", "LONG1", "LONG4", "BINFLOAT", "REDUCE", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8", "APPEND", "APPENDS", "BUILD", "GLOBAL", "STACK_GLOBAL", "DICT", "EMPTY_DICT", "EMPTY_LIST", "LIST",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT",
    "LONG_BINPUT", "MEMOIZE", "SETITEM", "SETITEMS", "PROTO", "FRAME",
)  # fmt: skip


# The unpickler written in Python: in the one written in C opcodes cannot be left out, and ten bytes (LONG_BINPUT) make
# it take gigabytes. Arrays are single opcodes, so that it is as quick with these.
class _PlainUnpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Any]] = {}
    stack: list[Any]
    read: Callable[[int], bytes]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__(_Bounded(file, size), encoding="latin1")
        self._left = 16 * size + 2**20

    def load(self) -> Any:
        try:
            return super().load()
        except KeyError as error:  # of `dispatch`
            opcode = bytes([error.args[0]])
            if opcode in _NAMES:
                raise _RefusedError(f"it has the opcode {_NAMES[opcode]}") from error
            raise UnpicklingError(f"{opcode!r} is no opcode") from error

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"it wants {one_line(f'{module}.{name}'[:200])}")
        return _ALLOWED[module, name]

    def load_build(self) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) not in (_PlainArray, _Dtype):
            raise _RefusedError("it gives a state to something that has none")
        self.stack[-1].__setstate__(state)
        self._count_bytes(self.stack[-1])

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        if type(self.stack[-1]) is not _Global or type(arguments) is not tuple:
            raise _RefusedError("it calls something that is no function")
        self.stack[-1] = self.stack[-1](*arguments)
        self._count_bytes(self.stack[-1])

    def _count_bytes(self, made: Any) -> None:
        """Stop a pickle that makes array after array of the same few bytes."""
        self._left -= made.nbytes if isinstance(made, np.ndarray) else len(made) if isinstance(made, str | bytes) else 0
        if self._left < 0:
            raise UnpicklingError("it claims more than it holds")

    def load_bytearray8(self) -> None:
        # Read, then copied: the other way round memory is taken for what the pickle claims.
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def load_append(self) -> None:
        value = self.stack.pop()
        _a(self.stack[-1], list).append(value)

    def load_appends(self) -> None:
        values = self.pop_mark()
        _a(self.stack[-1], list).extend(values)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def _set(self, key: Any, value: Any) -> None:
        if type(key) not in _KEYS:  # hashing a tuple in a tuple in a tuple ... ends the process
            raise _RefusedError(f"it has a dictionary with a {type(key).__name__} for a key")
        _a(self.stack[-1], dict)[key] = value


def _a(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise _RefusedError(f"it adds to something that is no {kind.__name__}")
    return value


_NAMES = {getattr(pickle, name): name for name in pickle.__all__ if isinstance(getattr(pickle, name), bytes)}


def _fill_dispatch() -> None:
    for name in _OPCODES:
        opcode = getattr(pickle, name)[0]
        function = pickle._Unpickler.dispatch[opcode]
        _PlainUnpickler.dispatch[opcode] = getattr(_PlainUnpickler, function.__name__, function)


_fill_dispatch()
