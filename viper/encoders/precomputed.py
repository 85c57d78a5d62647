"""The encoder that encodes nothing: features other tools made, brought into a store."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from viper.encoders.base import Encoder
from viper.errors import ClipError, UserError, one_line
from viper.media.imports.gaps import Gaps, NanRule, ZeroRule, without_gaps
from viper.media.imports.table import Table, TimeUnit
from viper.store import EncoderInfo, Feature

DEFAULT_STEP = 1.0  # seconds
NAMED_CHANNELS = 5


@dataclass(frozen=True)
class Imported:
    """A clip's table without gaps, and what was missing in it."""

    table: Table
    gaps: Gaps


class ImportedEncoder(Encoder[Table, Imported]):
    """Pass tables on; every clip must have the channels of the first, and times if that has some.

    Parameters
    ----------
    modality : the modality they are for.
    example : a clip's table, which settles the width and the channels' names.
    step_seconds : between the tokens of a table without times, `DEFAULT_STEP` where it is None. For tables with times
        it must be None: else a UserError.
    key, time_unit : what was taken of files, where it was the user who chose it; for the record.
    nan, zero_rows : what becomes of values that are not there, see `without_gaps`.
    """

    kind: ClassVar[str] = "imported"
    reads: ClassVar[str] = "files"

    def __init__(
        self,
        modality: str,
        example: Table,
        step_seconds: float | None = None,
        key: str | None = None,
        nan: NanRule = "mean",
        zero_rows: ZeroRule = "auto",
        time_unit: TimeUnit = "auto",
    ) -> None:
        # A single token is at 0 in any case.
        self._has_times = example.times is not None if len(example.tokens) > 1 else None
        if step_seconds is not None and not (np.isfinite(step_seconds) and step_seconds > 0):
            raise UserError(f"--step_seconds {step_seconds:g}: must be above 0")
        if step_seconds is not None and self._has_times:
            raise UserError("--step_seconds: the files have times of their own; leave it out")
        self.modality = modality
        self._width, self._channels = example.tokens.shape[1], example.channels
        self._step, self._key, self._time_unit = step_seconds, key, time_unit
        self._nan: NanRule = nan
        self._zero_rows: ZeroRule = zero_rows
        self._tally = _Tally(self._width)

    @classmethod
    def made(cls, info: EncoderInfo) -> bool:
        """Return whether the record is of features made elsewhere."""
        return info.source == "files"

    @classmethod
    def from_record(cls, info: EncoderInfo, model: str | None) -> ImportedEncoder:
        """Refuse: nothing here can make such features."""
        raise UserError("its features were made elsewhere and brought in; no encoder here can make them")

    def info(self) -> EncoderInfo:
        """Return the channels and what the user said: all that is known."""
        options: dict[str, Any] = {"channels": list(self._channels)}
        unit = None if self._time_unit == "auto" else self._time_unit
        told = {"step_seconds": self._step, "key": self._key, "time_unit": unit}
        told |= {"nan": self._nan, "zero_rows": self._zero_rows}
        options |= {name: value for name, value in told.items() if value is not None}
        return EncoderInfo(self.kind, self.modality, self._width, options)

    def load(self, content: Table) -> Imported:
        """Check the channels, and fill or mask what is missing."""
        n_rows, width = content.tokens.shape
        if width != self._width:
            turned = " (are its axes turned?)" if n_rows == self._width else ""
            raise ClipError(f"{width} channels, while the first file has {self._width}{turned}")
        if content.channels != self._channels:
            raise ClipError("its channels have other names, or another order, than those of the first file")
        if self._has_times is not None and n_rows > 1 and self._has_times != (content.times is not None):
            raise ClipError(f"it has {'no ' * (content.times is None)}times, unlike the first file")
        return Imported(*without_gaps(content, self._nan, self._zero_rows))

    def encode(self, samples: list[Imported], batch_size: int) -> list[Feature]:
        """Return them as they are; a clip without any row lacks the modality."""
        features = []
        for sample in samples:
            self._tally.add(sample)
            table = sample.table
            if len(table.tokens):
                features.append(Feature.make(table.tokens, table.mask, self._times(table)))
            else:
                features.append(Feature.absent(self._width))
        return features

    def _times(self, table: Table) -> np.ndarray:
        if table.times is not None:
            return table.times
        steps = np.arange(len(table.tokens)) if table.steps is None else table.steps
        return steps * (DEFAULT_STEP if self._step is None else self._step)

    def remarks(self) -> list[str]:
        """Return what was decided and filled in, in words, of the clips that were encoded by this very object."""
        return self._tally.remarks(self._channels, self._nan)


class _Tally:
    """What was said of the clips, added up."""

    def __init__(self, width: int) -> None:
        self._n_clips = 0
        self._notes: Counter[str] = Counter()
        self._filled = np.zeros(width, int)
        self._clips = np.zeros(width, int)
        self._empty = np.zeros(width, int)
        self._n_without = self._n_zeros = 0

    def add(self, sample: Imported) -> None:
        """Count a clip in."""
        self._n_clips += 1
        self._notes.update(sample.table.notes)
        self._filled += sample.gaps.filled
        self._clips += sample.gaps.filled > 0
        self._empty += sample.gaps.empty
        self._n_without += sample.gaps.without_numbers
        self._n_zeros += sample.gaps.of_zeros

    def remarks(self, channels: tuple[str, ...], nan: NanRule) -> list[str]:
        """Return a line for each thing a user may want otherwise."""
        n = self._n_clips
        said = [f"{count} of {n} clips: {note}" for note, count in self._notes.items()]
        if self._filled.any():
            worst = np.argsort(-self._clips, kind="stable")[: np.count_nonzero(self._filled)]
            names = _named([f"{_name(channels, int(k))} in {self._clips[k]} clips" for k in worst])
            how = "with 0" if nan == "zero" else "with the clip's mean of the column, or 0 where the clip has none"
            said.append(
                f"{self._filled.sum()} cells in {len(worst)} of {len(self._filled)} columns are no numbers ({names}); "
                f"they are filled {how} (--nan)"
            )
        if n and (nowhere := np.flatnonzero(self._empty == n)).size:
            names = _named([_name(channels, int(k)) for k in nowhere])
            said.append(f"columns without a number in any of {n} clips: {names}")
        if self._n_without:
            few = "values that are no numbers" if nan == "mask" else "too few numbers"
            said.append(f"{self._n_without} tokens with {few} are masked (--nan)")
        if self._n_zeros:
            said.append(f"{self._n_zeros} tokens of zeros only are taken for nothing found, and masked (--zero_rows)")
        return said


def _name(channels: tuple[str, ...], place: int) -> str:
    return one_line(channels[place])[:60] if channels else f"column {place + 1}"


def _named(names: list[str]) -> str:
    return ", ".join(names[:NAMED_CHANNELS]) + (" ..." if len(names) > NAMED_CHANNELS else "")
