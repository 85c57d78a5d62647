"""What a checkpoint says of a video, piece by piece: collected while the pieces are streamed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from viper.errors import ClipError
from viper.inference.predictor import ClipPredictor, ClipReading, nothing_to_read
from viper.media.sampling import uniform_indices

MOST_THUMBNAILS = 12


class Timeline:
    """The predictions of one video; of the pieces themselves nothing is kept but a few small pictures.

    Parameters
    ----------
    predictor : what predicts. One that standardises within groups needs all pieces of all videos first: it is asked by
        `predict_together`, and the features are kept until then.
    with_pictures : keep thumbnails of the face.
    name : what the video is called where it is shown; by default its file's name.

    Attributes
    ----------
    path : the video.
    name : what it is called.
    spans : (start, end) of each piece, seconds of the file.
    used : modalities that at least one piece has.
    absent : the others, with the reason of the first piece.
    """

    def __init__(self, predictor: ClipPredictor, path: Path, with_pictures: bool = False, name: str = "") -> None:
        self.path, self.name = path, name or path.name
        self.spans: list[tuple[float, float]] = []
        self.waiting: list[ClipReading] = []
        self._rows: list[np.ndarray] = []
        self._predictor, self._with_pictures = predictor, with_pictures
        self._used: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._thumbnails: list[tuple[float, np.ndarray]] = []

    def add(self, reading: ClipReading) -> None:
        """Take the next piece."""
        self.spans.append((reading.start, reading.end))
        self._used |= reading.features.keys()
        self._reasons = reading.absent | self._reasons
        if self._with_pictures:
            self._thumbnails += _thumbnails(reading, MOST_THUMBNAILS)
            if len(self._thumbnails) > 8 * MOST_THUMBNAILS:  # a film has thousands of pieces
                del self._thumbnails[1::2]
        if self._predictor.group_column is not None:
            self.waiting.append(dataclasses.replace(reading, faces=None))
        else:
            self.take(self._predictor.predict([reading]) if reading.features else _nothing(self._predictor))

    def check(self) -> None:
        """Raise ClipError, after the last piece, if nothing could be read."""
        if not self._used:
            raise ClipError(nothing_to_read(self.path, self._reasons))

    def take(self, rows: np.ndarray) -> None:
        """Take the predictions (n, targets) of the next n pieces."""
        self._rows += list(rows)

    @property
    def rows(self) -> np.ndarray:
        """(pieces, targets) float32; NaN for a piece in which nothing could be read."""
        return np.stack(self._rows)

    @property
    def used(self) -> list[str]:
        """Modalities that at least one piece has, in the checkpoint's order."""
        return [name for name in self._predictor.modalities if name in self._used]

    @property
    def absent(self) -> dict[str, str]:
        """Modality -> why no piece has it."""
        return {name: reason for name, reason in self._reasons.items() if name not in self._used}

    @property
    def thumbnails(self) -> list[tuple[float, np.ndarray]]:
        """Second of the file, and the face then, or the frame where no face was looked for: (H, W, 3) uint8 RGB."""
        return [self._thumbnails[i] for i in uniform_indices(len(self._thumbnails), MOST_THUMBNAILS)]


def predict_together(predictor: ClipPredictor, timelines: Sequence[Timeline]) -> None:
    """Predict what waits: all pieces of all videos are one group."""
    readings = [reading for timeline in timelines for reading in timeline.waiting]
    rows = predictor.predict(readings)
    for row, reading in zip(rows, readings, strict=True):
        row[:] = row if reading.features else np.nan
    for timeline in timelines:
        timeline.take(rows[: len(timeline.waiting)])
        rows = rows[len(timeline.waiting) :]
        timeline.waiting.clear()


def _nothing(predictor: ClipPredictor) -> np.ndarray:
    return np.full((1, len(predictor.task.targets)), np.nan, np.float32)


def _thumbnails(reading: ClipReading, most: int) -> list[tuple[float, np.ndarray]]:
    """Return thumbnails of the frames with a face, or of all without any."""
    track = reading.faces
    if track is None or not len(track.times):
        return []
    places = np.flatnonzero(track.found) if track.found.any() else np.arange(len(track.times))
    chosen = places[uniform_indices(len(places), most)]
    return [(reading.start + float(track.times[i]), track.crops[i]) for i in chosen]
