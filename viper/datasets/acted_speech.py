"""RAVDESS and Berlin EmoDB, which have no label files: the names of the clips say who speaks how."""

from __future__ import annotations

import re
from pathlib import Path

from viper.datasets.labels import Clip, Format, Labels, ReadOptions, class_cell, is_card_folder, media_below
from viper.errors import UserError
from viper.media.listing import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from viper.task import Task

# RAVDESS: seven numbers of two digits. Which code stands for what, in the order of the name's parts.
_RAVDESS = (
    ("modality", {"01": "full-av", "02": "video-only", "03": "audio-only"}),
    ("vocal_channel", {"01": "speech", "02": "song"}),
    ("emotion", {"01": "neutral", "02": "calm", "03": "happy", "04": "sad", "05": "angry", "06": "fearful",
                 "07": "disgust", "08": "surprised"}),
    ("intensity", {"01": "normal", "02": "strong"}),
    ("statement", {"01": "kids", "02": "dogs"}),  # "Kids are talking by the door", "Dogs are sitting by the door"
    ("repetition", {"01": "1", "02": "2"}),
)  # fmt: skip
_MODALITIES = list(_RAVDESS[0][1].values())  # fullest first
# EmoDB: speaker, text, emotion (its German word's letter), version.
_EMODB = re.compile(r"(\d\d)([ab]\d\d)([A-Z])([a-z])")
_EMODB_EMOTIONS = {
    "W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "joy", "N": "neutral", "T": "sadness",
}  # fmt: skip
_EMODB_MEN = {"03", "10", "11", "12", "15"}
_EMODB_WOMEN = {"08", "09", "13", "14", "16"}


def read_ravdess(folder: Path, task: Task, _: ReadOptions) -> Labels:
    """Return the clips of `03-01-06-01-02-01-12.mp4` and the like, at any depth.

    The id is the name without the suffix.
    """
    labels = Labels()
    for path in _media(folder):
        parts = path.stem.split("-")
        if len(parts) != 7 or not all(re.fullmatch(r"\d\d", part) for part in parts):
            labels.drop("files that are not named as RAVDESS names its own", path.name)
            continue
        columns = {
            name: _decoded(path, name, code, known) for (name, known), code in zip(_RAVDESS, parts, strict=False)
        }
        actor = parts[6]
        if not 1 <= int(actor) <= 24:
            raise UserError(f"{path}: actor {actor} must be 01 to 24")
        emotion = class_cell(columns.pop("emotion"), str(path), task)
        extra = {task.group_column or "actor": actor, "gender": "male" if int(actor) % 2 else "female", **columns}
        media = path.relative_to(folder).as_posix()
        labels.clips.append(
            Clip(path.stem, str(path), {task.label_column or "emotion": emotion}, extra=extra, media=media)
        )
    return labels


def one_a_performance(labels: Labels) -> None:
    """Keep the fullest file of each RAVDESS performance: picture and sound, else picture, else sound.

    They are the same person saying the same thing once; each would be a copy of the others, in the same split or not.
    """
    best: dict[str, Clip] = {}
    for clip in sorted(labels.clips, key=lambda clip: _MODALITIES.index(clip.extra["modality"])):
        best.setdefault(clip.id[3:], clip)
    for clip in labels.clips:
        if best[clip.id[3:]] is not clip:
            labels.drop("further files of a performance (another modality)", clip.id)
    labels.clips = [clip for clip in labels.clips if best[clip.id[3:]] is clip]


def read_emodb(folder: Path, task: Task, _: ReadOptions) -> Labels:
    """Return the clips of `03a01Fa.wav` and the like, at any depth; the id is the name without the suffix."""
    labels = Labels()
    for path in _media(folder):
        match = _EMODB.fullmatch(path.stem)
        if match is None:
            labels.drop("files that are not named as EmoDB names its own", path.name)
            continue
        speaker, text, letter, version = match.groups()
        if letter not in _EMODB_EMOTIONS:
            raise UserError(f"{path}: the emotion {letter!r} is not one of {', '.join(_EMODB_EMOTIONS)}")
        if speaker not in _EMODB_MEN | _EMODB_WOMEN:
            raise UserError(
                f"{path}: the speaker {speaker!r} is not one of {', '.join(sorted(_EMODB_MEN | _EMODB_WOMEN))}"
            )
        extra = {
            task.group_column or "speaker": speaker,
            "gender": "male" if speaker in _EMODB_MEN else "female",
            "text": text,
            "version": version,
        }
        emotion = class_cell(_EMODB_EMOTIONS[letter], str(path), task)
        media = path.relative_to(folder).as_posix()
        labels.clips.append(
            Clip(path.stem, str(path), {task.label_column or "emotion": emotion}, extra=extra, media=media)
        )
    return labels


def _decoded(path: Path, name: str, code: str, known: dict[str, str]) -> str:
    if code not in known:
        raise UserError(f"{path}: {name} {code} is not one of {', '.join(f'{c} ({v})' for c, v in known.items())}")
    return known[code]


def _media(folder: Path) -> list[Path]:
    """Return sound and video files below a folder, in the order of their names."""
    return sorted(media_below(folder, (*VIDEO_SUFFIXES, *AUDIO_SUFFIXES)), key=lambda path: (path.name, path))


RAVDESS = Format(
    "ravdess", read_ravdess, is_card_folder("ravdess"), "single_label",
    is_folder=True, takes_every_file=True, finish=one_a_performance,
)  # fmt: skip
EMODB = Format("emodb", read_emodb, is_card_folder("emodb"), "single_label", is_folder=True, takes_every_file=True)
