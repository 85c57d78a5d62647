"""What was read of a clip, together with the fingerprint of what it was read from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from viper.errors import ClipError

ValueT = TypeVar("ValueT")


class HasSource(Protocol):
    """A clip whose content has a fingerprint."""

    @property
    def id(self) -> str:
        """The clip's id."""
        ...

    def source(self) -> str:
        """Return a fingerprint of all that is read of the clip; ClipError where it cannot be read."""
        ...


@dataclass(frozen=True)
class Sourced(Generic[ValueT]):
    """Something made of a clip's content, and the fingerprint of that content."""

    value: ValueT
    source: str


def read_sourced(clip: HasSource, read: Callable[[], ValueT]) -> Sourced[ValueT]:
    """Return what `read` answers; ClipError if the clip's files changed meanwhile, and it may be half of the old."""
    source = clip.source()
    value = read()
    if clip.source() != source:
        raise ClipError(f"{clip.id}: its files changed while they were read; run the command again")
    return Sourced(value, source)


def is_made_from(clip: HasSource, source: Any) -> bool:
    """Return whether a clip's content still has this fingerprint."""
    try:
        return bool(source) and clip.source() == source
    except ClipError:
        return False
