"""Everybody's face through the frames of a clip, from the detections in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from viper.media.faces.detect import Detection
from viper.media.faces.look import Look, look_of, mean_look

# Two boxes in neighbouring frames belong to one person when, grown to so many times their size, they overlap at least
# so much (intersection over union). Chosen frames may be a second apart, in which a head moves by its own width.
REACH = 2.0
SAME_PERSON_OVERLAP = 0.2
# So long somebody may be out of sight and still be known by the place alone.
LONGEST_GAP = 2.0
# What a clip has of small faces in a crowd; the largest are followed.
MOST_FACES = 50
# Tracks that are compared with each other by their looks: those seen longest.
MOST_JOINED = 100


@dataclass(frozen=True)
class Face:
    """One face in one frame: its detection, in pixels, and its box as shares of the frame's width and height.

    The resolution may change from frame to frame, so that only shares can be compared. `look` is None where it is not
    known; such a face is followed by its place alone.
    """

    detection: Detection
    box: np.ndarray
    look: Look | None = None


class Track:
    """One person: frame number -> face, and the mean look."""

    def __init__(self, number: int, face: Face) -> None:
        self.faces = {number: face}
        self.look = face.look

    @property
    def last(self) -> int:
        """Return the last frame in which this person was seen."""
        return max(self.faces)

    def add(self, number: int, face: Face) -> None:
        """Add the face in one more frame."""
        self.join(Track(number, face))

    def join(self, other: Track) -> None:
        """Take over the faces of another track, none of which may be in a frame of this one."""
        if self.look is None or other.look is None:
            self.look = self.look or other.look
        else:
            self.look = mean_look(self.look, len(self.faces), other.look, len(other.faces))
        self.faces |= other.faces


def faces_in(image: np.ndarray, detections: Sequence[Detection]) -> list[Face]:
    """Return the faces of an image (H, W, 3) uint8 RGB, at most the `MOST_FACES` largest, in order of size."""
    size = np.tile(image.shape[1::-1], 2)
    largest = sorted(detections, key=lambda face: (-_area(face.box), *face.box.tolist()))[:MOST_FACES]
    return [Face(face, face.box / size, look_of(image, face)) for face in largest]


def follow(frames: Sequence[Sequence[Face]], times: np.ndarray, shots: np.ndarray) -> list[Track]:
    """Follow everybody through the frames of a clip.

    Within a shot a face joins the track whose last box it overlaps most, both boxes grown, unless their looks cannot be
    one person's; that box is in the frame before or at most `LONGEST_GAP` seconds ago. Across cuts and longer gaps
    tracks are joined by their looks alone, the most alike first; if in doubt they stay two.

    Parameters
    ----------
    frames : the faces in each of n frames.
    times : (n,) seconds, ascending.
    shots : (n,) the number of the shot each frame is in.

    Returns
    -------
    Tracks, in the order in which they were first seen.
    """
    tracks: list[Track] = []
    near: list[Track] = []
    for number, faces in enumerate(frames):
        near = [track for track in near if _is_near(track.last, number, times, shots)]
        pairs = [(_affinity(track, face), p, f) for p, track in enumerate(near) for f, face in enumerate(faces)]
        joined: set[int] = set()
        taken: set[int] = set()
        for affinity, p, f in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:])):
            if affinity > 0 and f not in joined and p not in taken:
                near[p].add(number, faces[f])
                joined.add(f)
                taken.add(p)
        new = [Track(number, face) for f, face in enumerate(faces) if f not in joined]
        tracks += new
        near += new
    return _joined_by_look(tracks)


def overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two boxes (x0, y0, x1, y1)."""
    width, height = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    if width <= 0 or height <= 0:
        return 0.0
    return float(width * height / (_area(box) + _area(other) - width * height))


def _area(box: np.ndarray) -> float:
    return float(np.prod(np.maximum(box[2:] - box[:2], 0)))


def _is_near(last: int, number: int, times: np.ndarray, shots: np.ndarray) -> bool:
    """Return whether somebody last seen in one frame may be known in another by the place."""
    return bool(shots[last] == shots[number]) and (
        last == number - 1 or bool(times[number] - times[last] <= LONGEST_GAP)
    )


def _affinity(track: Track, face: Face) -> float:
    """Return how well a face continues a track, in [0, 1], by the place, and among near ones by the look."""
    shared = overlap(_grown(track.faces[track.last].box), _grown(face.box))
    if shared < SAME_PERSON_OVERLAP:
        return 0.0
    if track.look is None or face.look is None:
        return shared
    return 0.0 if track.look.contradicts(face.look) else shared * (1 - max(track.look.difference(face.look)))


def _grown(box: np.ndarray) -> np.ndarray:
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return np.concatenate([middle - REACH * half, middle + REACH * half])


def _joined_by_look(tracks: list[Track]) -> list[Track]:
    """Join tracks of one look, none of whose frames has both, until no two are left; the most alike first."""
    longest = sorted(range(len(tracks)), key=lambda k: (-len(tracks[k].faces), k))[:MOST_JOINED]
    alike = {pair: _unlikeness(tracks, *pair) for pair in combinations(sorted(longest), 2)}
    gone: set[int] = set()
    while alike:
        one, other = min(alike, key=lambda pair: (alike[pair], pair))
        if not alike[one, other] < np.inf:
            break
        tracks[one].join(tracks[other])
        gone.add(other)
        alike = {pair: value for pair, value in alike.items() if other not in pair}
        for pair in alike:
            if one in pair:
                alike[pair] = _unlikeness(tracks, *pair)
    return [track for k, track in enumerate(tracks) if k not in gone]


def _unlikeness(tracks: list[Track], one: int, other: int) -> float:
    """Return how far the looks of two tracks are apart; infinity where they must not be joined."""
    a, b = tracks[one], tracks[other]
    if a.look is None or b.look is None or a.faces.keys() & b.faces.keys() or not a.look.agrees(b.look):
        return np.inf
    return max(a.look.difference(b.look))
