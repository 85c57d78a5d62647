"""Objects through a pipe between processes, with large arrays sent as they lie in memory.

multiprocessing's own `send` copies an array several times on either side, which for a clip's pictures takes six times
as long as this; shared memory would take none, but is too small for them in many containers.
"""

from __future__ import annotations

import os
import pickle
import struct
from multiprocessing.connection import Connection
from typing import Any

_COUNT = struct.Struct("!I")
_LENGTH = struct.Struct("!Q")


def pack(value: Any) -> list[memoryview]:
    """The pickled object and, apart from it, the memory of its arrays (pickle protocol 5)."""
    buffers: list[pickle.PickleBuffer] = []
    message = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return [memoryview(message), *(buffer.raw() for buffer in buffers)]


def send(connection: Connection, parts: list[memoryview]) -> None:
    """Sends what `pack` made: how many parts, their lengths, the parts. Raises OSError when the other end is closed."""
    header = _COUNT.pack(len(parts)) + b"".join(_LENGTH.pack(part.nbytes) for part in parts)
    for part in (memoryview(header), *parts):
        while part.nbytes:
            part = part[os.write(connection.fileno(), part) :]


def receive(connection: Connection) -> list[bytearray]:
    """The parts of the next message, for `unpack`. Raises EOFError when the other end is closed."""
    (count,) = _COUNT.unpack(_read(connection, _COUNT.size))
    lengths = [_LENGTH.unpack(_read(connection, _LENGTH.size))[0] for _ in range(count)]
    return [_read(connection, length) for length in lengths]


def unpack(parts: list[bytearray]) -> Any:
    """The object `pack` was given; its arrays are writable."""
    return pickle.loads(parts[0], buffers=parts[1:])


def _read(connection: Connection, length: int) -> bytearray:
    data = bytearray(length)
    rest = memoryview(data)
    while rest.nbytes:
        n_read = os.readv(connection.fileno(), [rest])
        if n_read == 0:
            raise EOFError
        rest = rest[n_read:]
    return data
