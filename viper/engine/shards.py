"""Shards: parts of the clips for jobs that run side by side and know nothing of each other."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from viper.errors import UserError


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, counted from 1.

    A clip's id alone decides its shard, not its place among the clips: what a folder lists may differ from job to job,
    as when another job is still writing to it. Shards are disjoint, complete, and nearly of one size.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard | None:
        """The shard written as "k/n"; None for an empty text. Anything else is a UserError."""
        if not text:
            return None
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"--shard {text}: must be k/n, such as 3/16, with k from 1 to n")
        return cls(int(match[1]), int(match[2]))

    def has(self, clip: str) -> bool:
        """Whether the clip of that id belongs to it."""
        digest = hashlib.blake2b(clip.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest) % self.count == self.number - 1
