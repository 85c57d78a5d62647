"""A metric's value together with what it was computed on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """A metric's value (nan where it has none) and the number of clips it was computed on."""

    value: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """JSON-ready: a value that is nan or infinite becomes None."""
        return {"value": self.value if math.isfinite(self.value) else None, "n": self.n}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Score:
        """The inverse of `to_dict`, but for infinity, which becomes nan."""
        return cls(math.nan if record["value"] is None else record["value"], record["n"])
