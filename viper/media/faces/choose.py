"""The one person a clip is about, among all who were followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from viper.media.faces.follow import LONGEST_GAP, Face, Track

# Who is seen at least so long as the one seen longest, as a share, is seen nearly as long. Of two frames in eight the
# ends of the clip stand for half as much as the others, so that time on screen is known to about a seventh.
NEARLY_AS_LONG = 0.7
# MTCNN takes a pattern for a face now and then, hardly ever twice in one place and seldom with such a probability.
SURE, SURE_ONCE = 0.9, 0.99
FEW_FRAMES = 8
# A poster, a photo on a wall or a call that froze: the structure of the face stays within .025 of its mean, in median,
# where that of 11 people in real clips differs from it by .06 to .23, also of those who hardly move.
_STILL = 0.04
_FEWEST_OF_STILL = 3  # frames; two are as near to their mean as they are to each other
# Somebody alive who is there for so long, as a share of the time of what is still, is who the clip is about.
_ALIVE_LONG_ENOUGH = 0.25


@dataclass(frozen=True)
class Person:
    """Somebody who was followed.

    Attributes
    ----------
    faces : frame number -> face.
    seconds : how long this person is on screen: the time that the frames stand for in which they were found.
    size : side of the face as a share of the frame (the geometric mean of width and height), the mean over time.
    prominence : the same, less the further from the middle; halved in a corner.
    score : the highest of MTCNN's probabilities.
    counts : False for what was seen too seldom to be taken for a face.
    still : whether it is the picture of a face, which never changes.
    """

    faces: dict[int, Face]
    seconds: float
    size: float
    prominence: float
    score: float
    counts: bool
    still: bool

    def record(self) -> dict[str, Any]:
        """Return what faces.json says."""
        return {
            "frames": len(self.faces),
            "seconds": round(self.seconds, 3),
            "size": round(self.size, 4),
            "score": round(self.score, 4),
            "counts": self.counts,
            "still": self.still,
        }


@dataclass(frozen=True)
class FaceBox:
    """Where the followed face is in a frame, in its pixels; not `found`: the box was taken from its neighbours."""

    box: np.ndarray
    found: bool
    score: float = 0.0
    landmarks: np.ndarray | None = None


def rank(tracks: Sequence[Track], times: np.ndarray) -> list[Person]:
    """Return everybody, the one the clip is about first, then by time on screen; last those who do not count.

    The clip is about whoever is on screen longest. Of those who are there nearly as long as the longest, it is the most
    prominent: the largest and nearest to the middle. Neither depends much on how many frames were chosen. What is
    still, such as a poster, comes behind whoever is not.
    """
    durations = seconds_of(times)
    people = [_person(track, durations) for track in tracks]
    people.sort(key=lambda person: (not person.counts, -person.seconds, -person.prominence))
    counting = [person for person in people if person.counts]
    alive = [person for person in counting if not person.still]
    if alive and alive[0].seconds >= _ALIVE_LONG_ENOUGH * counting[0].seconds:
        counting = alive
    if counting:
        enough = NEARLY_AS_LONG * counting[0].seconds
        first = max((person for person in counting if person.seconds >= enough), key=lambda person: person.prominence)
        people.remove(first)
        people.insert(0, first)
    return people


def seconds_of(times: np.ndarray) -> np.ndarray:
    """Return (n,) float64: the seconds each frame stands for, half way to its neighbours; 1 where none are known."""
    times = np.asarray(times, np.float64)
    edges = np.concatenate([times[:1], (times[1:] + times[:-1]) / 2, times[-1:]])
    durations = np.maximum(np.diff(edges), 0)
    return durations if durations.sum() > 0 else np.ones(len(times))


def boxes_of(person: Person, sizes: np.ndarray, times: np.ndarray, shots: np.ndarray) -> list[FaceBox | None]:
    """Return where a person's face is in each of n frames.

    Where it was not found the box lies between its neighbours', if they are of the same shot and at most `LONGEST_GAP`
    seconds apart, or is the nearest one, if that is as near. Elsewhere the person is not on screen: None.

    Parameters
    ----------
    sizes : (n, 2) width and height of each frame.
    times, shots : (n,) as of `follow`.
    """
    known = np.array(sorted(person.faces))
    shares = np.stack([person.faces[number].box for number in known])
    boxes: list[FaceBox | None] = []
    for number, size in enumerate(sizes):
        if number in person.faces:
            face = person.faces[number].detection
            boxes.append(FaceBox(face.box, True, face.score, face.landmarks))
            continue
        after = int(np.searchsorted(known, number))
        sides = [k for k in (after - 1, after) if 0 <= k < len(known) and shots[known[k]] == shots[number]]
        seconds = times[known[sides]]
        if not sides or max(np.ptp(seconds), np.abs(seconds - times[number]).max()) > LONGEST_GAP:
            boxes.append(None)
            continue
        place = [np.interp(times[number], seconds, shares[sides, side]) for side in range(4)]
        boxes.append(FaceBox(np.array(place) * np.tile(size, 2), False))
    return boxes


def _person(track: Track, durations: np.ndarray) -> Person:
    numbers = sorted(track.faces)
    weights = durations[numbers] + 1e-9 * (durations.sum() + 1)  # of frames of one time, all count
    boxes = np.stack([track.faces[number].box for number in numbers])
    sizes = np.sqrt(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1))
    # 0 in the middle of the frame, 1 in a corner.
    distances = np.minimum(np.linalg.norm(boxes[:, :2] + boxes[:, 2:] - 1, axis=1) / np.sqrt(2), 1)
    score = max(track.faces[number].detection.score for number in numbers)
    is_short = len(durations) <= FEW_FRAMES
    return Person(
        track.faces,
        float(durations[numbers].sum()),
        float(np.average(sizes, weights=weights)),
        float(np.average(sizes * (1 - distances / 2), weights=weights)),
        score,
        score >= SURE if len(numbers) > 1 else is_short and score >= SURE_ONCE,
        _is_still(track),
    )


def _is_still(track: Track) -> bool:
    """Return whether the face in a track is always the same but for the noise of a camera."""
    looks = [face.look for face in track.faces.values() if face.look is not None]
    if track.look is None or len(looks) < _FEWEST_OF_STILL:
        return False
    return float(np.median([track.look.difference(look)[0] for look in looks])) < _STILL
