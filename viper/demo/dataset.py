"""A data set of reactions with known answers, laid out as the Hume-Reaction challenge ships its own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from numpy.typing import NDArray

from viper.demo.face import render_frames
from viper.demo.identity import Identity
from viper.demo.media import write_video
from viper.demo.reaction import EMOTIONS, FACE_EMOTIONS, check_intensities, rise
from viper.demo.voice import voice
from viper.demo.words import make_cues, write_srt
from viper.errors import ClipError
from viper.files import own_folder, write_csv
from viper.media.video import open_media

SOUND_RATE = 44100
FIRST_ID = 10001
_RECIPE = 2  # raised whenever the same arguments give another clip, so that resuming never mixes the two
_SHOWN_NOISE = 0.04  # standard deviation of what is shown around the label
_FLICKER = 0.03  # standard deviation of the slow wavering of the face


@dataclass(frozen=True)
class ClipPlan:
    """One clip of a data set, before it is made."""

    clip: str
    split: str
    intensities: dict[str, float]
    identity: Identity
    seed: int


def write_clip(
    path: str | Path,
    intensities: Mapping[str, float],
    identity: Identity,
    seed: int,
    seconds: float = 2.0,
    fps: float = 30.0,
    *,
    subtitles: str | Path | None = None,
) -> None:
    """Write one reaction: H.264 and AAC (in the container of the path's suffix) and, if asked, its .srt.

    The same arguments give the same frames, samples and words. An emotion not named in `intensities` is 0. What is
    shown is the intensity and a little noise, so that even a perfect observer is not perfectly right.

    Raises
    ------
    ValueError
        for an unknown emotion or an intensity outside [0, 1].
    """
    values = check_intensities(intensities)
    noise = np.random.default_rng([seed, 0]).normal(0, _SHOWN_NOISE, len(EMOTIONS))
    shown = {name: float(np.clip(value + e, 0, 1)) for (name, value), e in zip(values.items(), noise, strict=True)}
    if subtitles is not None:
        write_srt(subtitles, make_cues(shown, seconds, np.random.default_rng([seed, 1])))
    samples = voice(shown, identity, seconds, SOUND_RATE, np.random.default_rng([seed, 2]))
    write_video(
        path,
        clip_frames(shown, identity, np.random.default_rng([seed, 3]), seconds, fps),
        fps,
        samples=samples,
        rate=SOUND_RATE,
        metadata={"comment": _fingerprint(values, identity, seed, seconds, fps)},
    )


def clip_frames(
    intensities: Mapping[str, float], identity: Identity, rng: np.random.Generator, seconds: float, fps: float
) -> Iterator[NDArray[np.uint8]]:
    """Return the frames (H, W, 3) uint8 of one reaction, at least one: at rest, rising to the apex, holding it."""
    values = check_intensities(intensities)
    time = np.arange(max(1, round(seconds * fps))) / fps
    apex = np.array([values[name] for name in FACE_EMOTIONS])
    curves = np.stack([rise(time, seconds, rng) for _ in FACE_EMOTIONS], axis=1)
    waver = np.sin(2 * np.pi * rng.uniform(0.5, 1.5, 3) * time[:, None] + rng.uniform(0, 6, 3))
    return render_frames(identity, apex * curves + np.sqrt(2) * _FLICKER * waver, fps, rng)


def plan_dataset(n_train: int, n_val: int, n_test: int, seed: int = 0, clips_per_identity: int = 5) -> list[ClipPlan]:
    """Return who reacts how in each clip; no identity is in two splits.

    Each emotion's intensity is drawn on its own, from Beta(0.8, 0.8): all of [0, 1], its ends a little more often.
    """
    rng = np.random.default_rng([0xDA7A, seed])
    plans: list[ClipPlan] = []
    person = 0
    for split, count in (("Train", n_train), ("Val", n_val), ("Test", n_test)):
        for index in range(count):
            if index % clips_per_identity == 0:
                person += 1
                identity = Identity.from_seed(seed * 100_003 + person, name=f"person_{person:03d}")
            values = np.round(rng.beta(0.8, 0.8, len(EMOTIONS)), 4)
            intensities = dict(zip(EMOTIONS, values.tolist(), strict=True))
            clip_seed = int(rng.integers(2**31))
            plans.append(ClipPlan(str(FIRST_ID + len(plans)), split, intensities, identity, clip_seed))
    return plans


def make_dataset(
    folder: str | Path,
    n_train: int,
    n_val: int,
    n_test: int,
    seed: int = 0,
    n_workers: int | None = None,
    seconds: float = 2.0,
    fps: float = 30.0,
) -> Path:
    """Make a data set of reactions, or what is missing of it.

    Writes `videos/<clip>.mp4`, `subtitles/<clip>.srt`, `manifest.csv` (the Test labels left empty, as challenges ship
    them) and, kept aside, `test_labels.csv`. A clip that is there and whole is left as it is; one that is broken, or
    that other arguments made, is made again.

    Parameters
    ----------
    n_workers
        processes; by default one for each core. 1 works in this process.

    Returns
    -------
    The manifest's path.
    """
    folder = Path(folder)
    plans = plan_dataset(n_train, n_val, n_test, seed)
    own_folder(folder, "videos")
    own_folder(folder, "subtitles")
    missing = [plan for plan in plans if not _is_made(plan, folder, seconds, fps)]
    workers = min(n_workers or os.cpu_count() or 1, len(missing)) or 1
    # Processes of loky, not forks: a fork of one with threads (PyTorch, FFmpeg) may copy locks that are held.
    make = _make if workers == 1 else _make_beside_others
    Parallel(workers)(delayed(make)(plan, folder, seconds, fps) for plan in missing)
    if workers > 1:
        get_reusable_executor().shutdown()  # they would wait for more work, with all their memory, for minutes
    _write_manifest(folder / "test_labels.csv", [plan for plan in plans if plan.split == "Test"], labels=True)
    _write_manifest(folder / "manifest.csv", plans, labels=False)
    return folder / "manifest.csv"


def _paths(plan: ClipPlan, folder: Path) -> tuple[Path, Path]:
    return folder / "videos" / f"{plan.clip}.mp4", folder / "subtitles" / f"{plan.clip}.srt"


def _make(plan: ClipPlan, folder: Path, seconds: float, fps: float) -> None:
    video, subtitles = _paths(plan, folder)
    write_clip(video, plan.intensities, plan.identity, plan.seed, seconds, fps, subtitles=subtitles)


def _make_beside_others(plan: ClipPlan, folder: Path, seconds: float, fps: float) -> None:
    cv2.setNumThreads(1)  # one clip a core
    _make(plan, folder, seconds, fps)


def _is_made(plan: ClipPlan, folder: Path, seconds: float, fps: float) -> bool:
    video, subtitles = _paths(plan, folder)
    if not video.exists() or not subtitles.exists() or not subtitles.stat().st_size:
        return False
    try:
        with open_media(video) as container:  # a truncated .mp4 has lost its index, which is at the end
            comment = container.metadata.get("comment")
    except ClipError:
        return False
    return comment == _fingerprint(plan.intensities, plan.identity, plan.seed, seconds, fps)


def _fingerprint(intensities: Mapping[str, float], identity: Identity, seed: int, seconds: float, fps: float) -> str:
    """Return what a clip was made from, short; it is kept in the video's `comment`."""
    recipe = [_RECIPE, check_intensities(intensities), asdict(identity), seed, seconds, fps]
    return "viper.demo " + hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def _write_manifest(path: Path, plans: list[ClipPlan], *, labels: bool) -> None:
    rows = [["File_ID", "Split", *EMOTIONS, "Subject"]]
    for plan in plans:
        known = labels or plan.split != "Test"
        values = [f"{plan.intensities[name]:.4f}" if known else "" for name in EMOTIONS]
        rows.append([f"[{plan.clip}]", plan.split, *values, plan.identity.name])
    write_csv(path, rows)
