"""Miniatures of published datasets: their own folders, names and label files, with clips made on the spot.

Every clip shows its labels by stripes and tones (`patterns`), so that `hog` and `logmel` features suffice
to learn them. What is shown is the label and a little noise. The same arguments give the same files. Each function
makes a folder and answers the truth: clip id -> what the labels are, also where the label files keep it back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from clips import write_wav
from patterns import FPS, MAX_LEVELS, RATE, stripe_frames, tones

from viper.demo.media import write_video
from viper.files import write_csv, write_json
from viper.task import load_task

Truth = dict[str, dict[str, float]]
N_FRAMES = 10
_SHOWN_NOISE = 0.03  # standard deviation of what is shown around the label
_RAVDESS_CODES = {"neutral": "01", "calm": "02", "happy": "03", "sad": "04", "angry": "05", "fearful": "06",
                  "disgust": "07", "surprised": "08"}  # fmt: skip
_EMODB_LETTERS = {"anger": "W", "boredom": "L", "disgust": "E", "fear": "A", "joy": "F", "neutral": "N",
                  "sadness": "T"}  # fmt: skip
_EMODB_SPEAKERS = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")


def write_hume(folder: Path, n_train: int = 40, n_val: int = 16, n_test: int = 12, seed: int = 0) -> Truth:
    """Hume-Reaction: `data_info.csv` (the labels of Test left empty) and `videos/<id>.mp4` with sound.

    Five of the intensities are seen and two, Anxiety and Fear, are heard.
    """
    rng = np.random.default_rng([1, seed])
    targets = load_task("hume_reaction").targets
    heard = ("Anxiety", "Fear")
    truth: Truth = {}
    rows = [["File_ID", "Split", *targets, "Age", "Country"]]
    for split, count in (("Train", n_train), ("Val", n_val), ("Test", n_test)):
        for _ in range(count):
            clip = str(10001 + len(truth))
            values = dict(zip(targets, rng.beta(0.8, 0.8, len(targets)).round(4).tolist(), strict=True))
            truth[clip] = values
            cells = [str(value) if split != "Test" else "" for value in values.values()]
            rows.append([f"[{clip}]", split, *cells, str(rng.integers(18, 60)), "United States"])
            seen = [value for name, value in values.items() if name not in heard]
            _video(folder / "videos" / f"{clip}.mp4", seen, rng, [values[name] for name in heard])
    write_csv(folder / "data_info.csv", rows)
    return truth


def write_vce(folder: Path, n_train: int = 120, n_test: int = 30, seed: int = 0) -> Truth:
    """VCE: `train_labels.json`, `test_labels.json`, `metadata.json` and `videos/<id>.mp4`, with all 27 intensities.

    A clip has four emotions of some strength and next to nothing of the others; some emotions are more frequent than
    others, so that a majority guess is better than chance.
    """
    rng = np.random.default_rng([2, seed])
    targets = load_task("vce").targets
    frequency = 1 / np.arange(3, 3 + len(targets))
    truth: Truth = {}
    metadata = {}
    for name, count in (("train", n_train), ("test", n_test)):
        labels = {}
        for _ in range(count):
            clip = f"{len(truth):05d}"
            values = rng.uniform(0, 0.1, len(targets))
            strong = rng.choice(len(targets), 4, replace=False, p=frequency / frequency.sum())
            values[strong] = [rng.uniform(0.8, 1), *rng.uniform(0.25, 0.7, 3)]
            truth[clip] = dict(zip(targets, values.round(4).tolist(), strict=True))
            top = sorted(truth[clip], key=lambda emotion: -truth[clip][emotion])[:3]
            file = f"videos/{clip}.mp4"
            labels[clip] = {"emotions": truth[clip], "file": file, "topK": top}
            metadata[clip] = _metadata(file)
            _video(folder / file, list(truth[clip].values()), rng)
        write_json(folder / f"{name}_labels.json", labels)
    write_json(folder / "metadata.json", metadata)
    return truth


def write_v2v(
    folder: Path, n_train: int = 90, n_test: int = 30, n_lists: int = 12, seed: int = 0, n_others: int = 3
) -> Truth:
    """V2V: `train_labels.json`, `test_labels.json`, `listwise_labels.json`, `metadata.json` and `videos/<id>.mp4`.

    Each video has a valence, which one of 1 + `n_others` kinds of patches shows, and nothing else tells; people prefer
    the higher one, but in one of twenty comparisons of Train.

    Parameters
    ----------
    n_train, n_test : pairs; there are half again as many videos.
    n_lists : lists of three or four, each of videos of its own.
    """
    rng = np.random.default_rng([3, seed])
    truth: Truth = {}

    def videos(count: int) -> list[str]:
        clips = []
        for _ in range(count):
            clips.append(f"{len(truth):05d}")
            truth[clips[-1]] = {"valence": round(float(rng.uniform()), 4)}
            _video(
                folder / "videos" / f"{clips[-1]}.mp4", [truth[clips[-1]]["valence"], *rng.uniform(size=n_others)], rng
            )
        return clips

    for name, count in (("train", n_train), ("test", n_test)):
        clips = videos(round(1.5 * count))
        comparisons = []
        for _ in range(count):
            less, more = sorted(rng.choice(clips, 2, replace=False).tolist(), key=lambda clip: truth[clip]["valence"])
            is_contrary = name == "train" and rng.uniform() < 0.05
            comparisons.append([more, less] if is_contrary else [less, more])
        write_json(folder / f"{name}_labels.json", {"comparisons": comparisons})
    lists = [sorted(videos(3 + i % 2), key=lambda clip: truth[clip]["valence"]) for i in range(n_lists)]
    write_json(folder / "listwise_labels.json", {"comparisons": lists})
    write_json(folder / "metadata.json", {clip: _metadata(f"videos/{clip}.mp4") for clip in truth})
    return truth


def write_folders(folder: Path, classes: Sequence[str], n_each: int = 14, seed: int = 0) -> Truth:
    """VE-8, YF-6 and the like: `<class>/<number>.mp4`. Numbers are the same in each class, as YouTube's are not."""
    rng = np.random.default_rng([4, seed])
    truth: Truth = {}
    for name in classes:
        for number in range(n_each):
            truth[f"{name}_{number}"] = _one_hot(name, classes)
            _video(folder / name / f"{number}.mp4", _class_levels(name, classes, rng), rng)
    return truth


def write_emoset(folder: Path, n_train: int = 10, n_val: int = 3, n_test: int = 4, seed: int = 0) -> Truth:
    """EmoSet-118K: `train.json`, `val.json`, `test.json` and `image/<class>/<id>.jpg`; so many pictures a class."""
    from viper.media.pictures import write_image

    rng = np.random.default_rng([5, seed])
    classes = load_task("emoset").targets
    truth: Truth = {}
    for split, count in (("train", n_train), ("val", n_val), ("test", n_test)):
        entries = []
        for name in classes:
            for _ in range(count):
                clip = f"{name}_{len(truth):05d}"
                truth[clip] = _one_hot(name, classes)
                image = folder / "image" / name / f"{clip}.jpg"
                image.parent.mkdir(parents=True, exist_ok=True)
                # In one picture a patch is one way or the other: most of the four of its class are upright.
                likely = np.tile([0.9 if other == name else 0.15 for other in classes], MAX_LEVELS // len(classes))
                levels = (rng.uniform(size=len(likely)) < likely).astype(float)
                write_image(image, next(stripe_frames(levels.tolist(), 1, rng)))
                entries.append([name, f"image/{name}/{clip}.jpg", f"annotation/{name}/{clip}.json"])
        write_json(folder / f"{split}.json", entries)
    return truth


def write_ravdess(folder: Path, n_actors: int = 7, seed: int = 0) -> Truth:
    """RAVDESS: `Actor_<n>/<codes>.mp4`, speech, two statements of each emotion by each actor.

    Of the first statements of the first actor there are also the files without sound and without picture.
    """
    rng = np.random.default_rng([6, seed])
    truth: Truth = {}
    for actor in range(1, n_actors + 1):
        parent = folder / f"Actor_{actor:02d}"
        for emotion, code in _RAVDESS_CODES.items():
            for statement in ("01", "02"):
                performance = f"01-{code}-01-{statement}-01-{actor:02d}"
                truth[f"01-{performance}"] = _one_hot(emotion, list(_RAVDESS_CODES))
                levels, sound = _class_levels(emotion, list(_RAVDESS_CODES), rng), rng.uniform(size=2).tolist()
                _video(parent / f"01-{performance}.mp4", levels, rng, sound)
                if actor == 1 and statement == "01":
                    _video(parent / f"02-{performance}.mp4", levels, rng)
                    write_wav(parent / f"03-{performance}.wav", tones(sound, N_FRAMES / FPS, rng), RATE)
    return truth


def write_emodb(folder: Path, n_texts: int = 2, seed: int = 0) -> Truth:
    """EmoDB: `wav/<speaker><text><letter><version>.wav`, each emotion by each of the ten speakers."""
    rng = np.random.default_rng([7, seed])
    classes = list(_EMODB_LETTERS)
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    truth: Truth = {}
    for speaker in _EMODB_SPEAKERS:
        for emotion, letter in _EMODB_LETTERS.items():
            for text in range(1, n_texts + 1):
                clip = f"{speaker}a{text:02d}{letter}a"
                truth[clip] = _one_hot(emotion, classes)
                # Seven classes in the three bits of three tones.
                bits = [classes.index(emotion) + 1 >> bit & 1 for bit in range(3)]
                levels = [float(np.clip(0.15 + 0.7 * bit + rng.normal(0, 0.07), 0, 1)) for bit in bits]
                write_wav(folder / "wav" / f"{clip}.wav", tones(levels, 0.8, rng), RATE)
    return truth


def write_moviegraphs(folder: Path, n_movies: int = 10, n_scenes: int = 9, task: str = "moviegraphs_top10",
                      seed: int = 0) -> Truth:  # fmt: skip
    """MovieGraphs: `emotions.json`, {<movie>_<scene>: {"emotions": [words], "movie": ...}}, and `videos/<id>.mp4`.

    A fifth of the scenes also have a word that is none of the task's.
    """
    rng = np.random.default_rng([8, seed])
    targets = load_task(task).targets
    truth: Truth = {}
    scenes = {}
    for movie in range(n_movies):
        for scene in range(n_scenes):
            clip = f"tt{1000 + movie}_scene-{scene:03d}"
            there = rng.uniform(size=len(targets)) < 0.3
            there[rng.integers(len(targets))] = True
            truth[clip] = dict(zip(targets, there.astype(float).tolist(), strict=True))
            words = [name for name, is_there in zip(targets, there, strict=True) if is_there]
            scenes[clip] = {"emotions": [*words, *(["melancholic"] if scene % 5 == 0 else [])], "movie": clip[:6]}
            _video(folder / "videos" / f"{clip}.mp4", (0.15 + 0.7 * there).tolist(), rng)
    write_json(folder / "emotions.json", scenes)
    return truth


def write_mosi(folder: Path, n_train: int = 9, n_valid: int = 3, n_test: int = 4, seed: int = 0) -> Truth:
    """CMU-MOSI as MMSA ships it: `label.csv` and `Raw/<video>/<clip>.mp4`; so many videos, of six utterances each."""
    rng = np.random.default_rng([9, seed])
    truth: Truth = {}
    rows = [["video_id", "clip_id", "text", "label", "annotation", "mode"]]
    for mode, count in (("train", n_train), ("valid", n_valid), ("test", n_test)):
        for _ in range(count):
            video = f"_vid{len(rows):03d}"
            for clip in range(1, 7):
                value = round(float(rng.uniform(-3, 3)), 1)
                truth[f"{video}_{clip}"] = {"sentiment": value}
                sense = "Positive" if value > 0 else "Negative" if value < 0 else "Neutral"
                rows.append([video, str(clip), "AND I REALLY MEAN IT", str(value), sense, mode])
                _video(folder / "Raw" / video / f"{clip}.mp4", [(value + 3) / 6, *rng.uniform(size=3)], rng)
    write_csv(folder / "label.csv", rows)
    return truth


def _video(path: Path, levels: Sequence[float], rng: np.random.Generator, heard: Sequence[float] = ()) -> None:
    """One clip of a second that shows, and plays, these levels and a little noise around each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = np.clip(np.asarray(levels) + rng.normal(0, _SHOWN_NOISE, len(levels)), 0, 1)
    samples = tones(heard, N_FRAMES / FPS, rng) if len(heard) else None
    write_video(path, stripe_frames(shown.tolist(), N_FRAMES, rng), FPS, samples=samples, rate=RATE)


def _class_levels(name: str, classes: Sequence[str], rng: np.random.Generator) -> list[float]:
    """A level a class: high for its own, low for the others, never clear-cut."""
    return [float(rng.uniform(0.75, 1) if other == name else rng.uniform(0, 0.3)) for other in classes]


def _one_hot(name: str, classes: Sequence[str]) -> dict[str, float]:
    return {other: float(other == name) for other in classes}


def _metadata(file: str) -> Mapping[str, str | int]:
    """What VCE and V2V say of a video: numbers that are not whole as text."""
    return {
        "codec_name": "h264", "duration": f"{N_FRAMES / FPS:.6f}", "file": file, "frame_rate": f"{FPS}/1", "height": 96,
        "number_of_frames": str(N_FRAMES), "width": 96,
    }  # fmt: skip
