"""Which frames are taken by rate and by events: the choice itself, and the whole way from video files."""

from __future__ import annotations

import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from bursts import burst_frames, write_bursts
from conftest import Outcome, Run
from hypothesis import example, given, settings
from hypothesis import strategies as st
from many import IS_LONG
from media import frames_record, write_coded
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from viper.cli import run_command
from viper.demo import write_video
from viper.errors import UserError
from viper.media.motion import STIMUVAR_FPS, detect_events, motion_lengths, normalized, read_motion, smooth_curve
from viper.media.pictures import FrameClip, list_frame_clips
from viper.media.sampling import rate_indices, select, uniform_indices
from viper.media.video import read_frames, stream_frames

SMALL = (48, 64)
quick = settings(deadline=None, derandomize=True, database=None, max_examples=150 if IS_LONG else 40)


@st.composite
def choices(draw: st.DrawFn) -> tuple[int, list[int], int]:
    """Frames of a clip, its peaks, a budget: short clips and long ones, peaks apart and next to each other."""
    n_frames = draw(st.integers(1, 60) | st.integers(1, 3000))
    peaks = draw(st.sets(st.integers(0, n_frames - 1), max_size=12))
    return n_frames, sorted(peaks), draw(st.integers(1, 12) | st.integers(1, 200))


def check_indices(indices: np.ndarray, n_frames: int, total: int) -> None:
    assert indices.dtype == np.int64
    assert len(indices) == min(n_frames, total)
    assert (np.diff(indices) > 0).all()
    assert indices[0] >= 0
    assert indices[-1] < n_frames


# --- the published choice


@pytest.mark.parametrize(
    ("n_frames", "peaks", "expected"),
    [
        (300, [149], [0, 89, 134, 144, 154, 208]), (300, [79, 219], [0, 64, 79, 149, 204, 219]),
        (300, [39, 109, 179, 249], [0, 24, 94, 149, 164, 234]),
        (300, [30, 90, 150, 210, 270], [0, 50, 100, 150, 200, 250]), (40, [19], [0, 3, 4, 14, 24, 36]),
        (5, [], [0, 1, 2, 3, 4]), (11, [], [0, 1, 2, 3, 4, 5]), (1, [], [0]),
    ],
)  # fmt: skip
def test_stimuvar_takes_the_frames_it_is_known_to_take(n_frames: int, peaks: list[int], expected: list[int]) -> None:
    assert select(n_frames, peaks, 6, "stimuvar").tolist() == expected
    assert select(n_frames, np.array(peaks, int), 6, "stimuvar", fps=7.0).tolist() == expected  # frames are frames


def motion_curve(frames: Iterable[np.ndarray]) -> np.ndarray:
    """How much moves between each frame and the next, as shares of the clip's range."""
    return normalized(list(motion_lengths(frames)))


def test_where_stimuvar_crashed_it_is_uniform() -> None:
    assert select(33, [16], 6, "stimuvar").tolist() == [0, 5, 10, 15, 20, 25]
    assert select(300, [149], 62, "stimuvar").tolist() == [4 * i for i in range(62)]  # 31 frames of a window of 30


def test_stimuvar_cuts_the_latest_frames_of_events_off() -> None:
    assert select(300, [285], 6, "stimuvar").tolist() == [0, 89, 178, 267, 270, 280]


@quick
@given(choices())
@example((33, [16], 6))
@example((30, [15], 6))
@example((8, [0, 7], 6))
def test_stimuvar_always_answers(choice: tuple[int, list[int], int]) -> None:
    check_indices(select(*choice, "stimuvar"), choice[0], choice[2])


def test_stimuvars_events_are_counted_in_frames() -> None:
    for seed in range(20):
        curve = np.abs(gaussian_filter1d(np.random.default_rng(seed).normal(size=400), 8))
        curve = (curve - curve.min()) / np.ptp(curve)
        smooth = gaussian_filter1d(curve, 6, mode="reflect")
        published, _ = find_peaks(smooth, distance=30, prominence=0.3)
        assert len(published) > 1
        assert detect_events(curve, STIMUVAR_FPS).tolist() == published.tolist()


# --- the choice by events


@quick
@given(choices(), st.sampled_from([0.1, 5.0, 25.0, 29.97, 120.0, 2e9]))
@example((2, [1], 1), 25.0)
@example((3, [0, 2], 2), 25.0)
@example((20, [19], 2), 25.0)
def test_events_are_taken_and_the_rest_is_spread(choice: tuple[int, list[int], int], fps: float) -> None:
    n_frames, peaks, total = choice
    indices = select(n_frames, peaks, total, "events", fps=fps)
    check_indices(indices, n_frames, total)
    assert (indices == select(n_frames, peaks, total, fps=fps)).all()  # the default
    if not peaks:
        assert (indices == uniform_indices(n_frames, total)).all()
    elif len(peaks) <= total:
        assert set(peaks) <= set(indices.tolist())
    else:
        assert set(indices.tolist()) <= set(peaks)
    if 0 < len(peaks) < total:
        assert indices[-1] == n_frames - 1
        # Half of the budget at most is bound by events where there is one, as good as all where there are many.
        n_free = total // (len(peaks) + 1)
        longest = np.diff(indices).max(initial=0)
        assert n_free == 1 or longest <= np.ceil((n_frames - 1) / (n_free - 1))


def test_an_event_gets_its_share_and_the_end_is_included() -> None:
    assert select(300, [149], 6).tolist() == [0, 139, 149, 159, 229, 299]
    assert select(300, [149], 6, fps=60).tolist() == [0, 129, 149, 169, 234, 299]  # half a second is 30 frames
    assert select(33, [16], 6).tolist() == [0, 6, 11, 16, 26, 32]
    assert select(300, [149], 2).tolist() == [149, 299]
    assert select(300, [295], 6).tolist() == [0, 95, 190, 285, 295, 299]
    assert select(300, [], 6).tolist() == [0, 60, 120, 179, 239, 299]


def test_of_too_many_events_the_most_prominent_are_taken() -> None:
    peaks, prominences = [10, 50, 90, 130, 170], [0.4, 0.9, 0.3, 0.8, 0.5]
    assert select(200, peaks, 3, prominences=prominences).tolist() == [50, 130, 170]
    assert select(200, peaks, 1, prominences=prominences).tolist() == [50]
    assert select(200, peaks, 5, prominences=prominences).tolist() == peaks
    assert select(200, peaks, 3).tolist() == [10, 90, 170]


# --- motion


def test_the_curve_follows_the_motion() -> None:
    curve = motion_curve(burst_frames(60, [30], size=(96, 128)))
    assert curve.shape == (59,)
    assert (curve.min(), curve.max()) == (0, 1)
    assert (np.flatnonzero(curve > 0.5) == np.arange(22, 39)).all()  # 17 frames, from 30 - 8 to 30 + 8


def test_gray_colour_and_large_pictures_give_the_same_curve() -> None:
    colour = list(burst_frames(40, [20], size=(96, 128)))
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in colour]
    np.testing.assert_array_equal(motion_curve(colour), motion_curve(gray))
    wide = list(burst_frames(40, [20], size=(100, 320)))
    large = [cv2.resize(frame, (1280, 400), interpolation=cv2.INTER_NEAREST) for frame in wide]
    np.testing.assert_allclose(motion_curve(wide), motion_curve(large), atol=0.01)


def test_motion_that_is_flat_is_zeros() -> None:
    frame = next(burst_frames(1, []))
    for frames in ([frame] * 5, [np.zeros_like(frame)] * 5, [frame, frame], [frame, frame[::-1]]):
        assert motion_curve(frames).tolist() == [0.0] * (len(frames) - 1)
        assert detect_events(motion_curve(frames), 25).tolist() == []
    for few in ([], [frame]):
        assert motion_curve(few).shape == (0,)
        assert detect_events(motion_curve(few), 25).tolist() == []


def test_pictures_of_any_size_and_of_changing_size() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (2, 700), (400, 1)):
        curve = motion_curve(rng.integers(0, 256, (4, *shape), dtype=np.uint8))
        assert curve.shape == (3,)
        assert np.isfinite(curve).all()
    frames = [cv2.resize(f, (80, 48)) if i > 20 else f for i, f in enumerate(burst_frames(40, [10]))]
    curve = motion_curve(frames)
    assert curve.shape == (39,)
    assert np.isfinite(curve).all()


def test_events_are_found_in_seconds_whatever_the_rate() -> None:
    for fps in (10, 25, 29.97, 60):
        seconds = np.arange(round(12 * fps)) / fps
        heights = ((2.0, 1.0), (2.8, 0.8), (6.0, 0.7), (9.0, 0.1))
        curve = np.sum([height * np.exp(-((seconds - at) ** 2) / 0.08) for at, height in heights], axis=0)
        # The second is too near to a higher one, and the last too low.
        np.testing.assert_allclose(detect_events(curve, fps) / fps, [2.0, 6.0], atol=1.01 / fps)


def test_a_rate_that_cannot_be_is_no_burden() -> None:
    curve, began = np.random.default_rng(0).uniform(size=2000), time.monotonic()
    for fps in (1e-9, 1e9):
        assert np.isfinite(smooth_curve(curve, fps)).all()
        assert detect_events(curve, fps).dtype == np.int64
    assert detect_events(curve, 1e9).tolist() == []
    assert time.monotonic() - began < 5


# --- by rate


@pytest.mark.parametrize(
    ("n_frames", "own", "fps", "expected"),
    [
        (125, 25, 5, [*range(0, 125, 5)]), (25, 25, 10, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]), (30, 30, 1, [0]),
        (6, 30, 20, [0, 1, 3, 4]), (50, 25, 25, [*range(50)]), (50, 25, 60, [*range(50)]), (1, 25, 5, [0]),
        (250, 25, 0.5, [0, 50, 100, 150, 200]), (0, 25, 5, []), (31, 10, 1, [0, 10, 20, 30]),
    ],
)  # fmt: skip
def test_so_many_frames_a_second(n_frames: int, own: float, fps: float, expected: list[int]) -> None:
    for start in (0.0, 0.0334, 1000.0):
        assert rate_indices(start + np.arange(n_frames) / own, fps).tolist() == expected


def test_times_decide_not_numbers() -> None:
    times = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.9, 1.45, 1.6, 4.0, 4.1])
    # For 2.0, 2.5, 3.0 and 3.5 there is nothing within a quarter of a second.
    assert rate_indices(times, 2).tolist() == [0, 5, 6, 7, 9]


@quick
@given(
    st.lists(st.floats(1e-4, 2) | st.sampled_from([1 / 30, 0.04, 1e6]), max_size=60),
    st.sampled_from([0.3, 1, 5, 12.5, 24000 / 1001, 30, 1e5]),
)
def test_each_frame_is_the_nearest_to_its_moment(steps: list[float], fps: float) -> None:
    times = np.concatenate([[0.0], np.cumsum(steps)])
    indices = rate_indices(times, fps)
    assert indices[0] == 0
    assert (np.diff(indices) > 0).all()
    moments = np.rint(times[indices] * fps) / fps
    distances = np.abs(times[:, None] - moments)
    assert (np.diff(moments) > 0).all()
    assert (distances[indices, np.arange(len(indices))] <= distances.min(axis=0) + 1e-5 / fps).all()


# --- nothing is kept


def test_frames_are_streamed(tmp_path: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def watched(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for frame in frames:
            assert sum(ref() is not None for ref in alive) <= 1  # what the curve compares the next one with
            alive.append(weakref.ref(frame))
            yield frame
            del frame

    assert motion_curve(watched(burst_frames(30, [15], size=(48, 64)))).shape == (29,)
    write_bursts(tmp_path / "a.mp4", 30, [15], 25)
    alive.clear()
    assert motion_curve(watched(frame.gray() for frame in stream_frames(tmp_path / "a.mp4"))).shape == (29,)
    assert len(alive) == 30


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    peaks = []
    for n_frames in (10, 50):
        path = tmp_path / f"{n_frames}.mp4"
        write_bursts(path, n_frames, [5], 25)
        read_motion(path)  # what is imported on the way is not counted
        tracemalloc.start()
        read_motion(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2 * 96 * 160  # 40 frames more, but not two


# --- from video files


@pytest.fixture
def get_frame(run: Run, videos: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """`get_frame(*options)`: the command, from the folder `videos` to the folder `frames`."""
    folders = ("--input_folder", videos, "--output_folder", tmp_path / "frames")
    return lambda *options: run("get_frame", *folders, *options)


def indices_of(clip: Path, key: str = "frames") -> list[int]:
    return [entry["index"] for entry in frames_record(clip)[key]]


@pytest.mark.parametrize("fps", [15, 25, 50])
def test_each_burst_is_an_event(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome], fps: int) -> None:
    centres = [round(1.3 * fps), round(3.1 * fps)]
    n_frames = round(4.4 * fps)
    write_bursts(videos / "a.mp4", n_frames, centres, fps, size=(64, 112))
    assert get_frame("--sampling", "events", "--n_frames", 9).code == 0
    kept = frames_record(tmp_path / "frames" / "a")
    events, frames = kept["events"], kept["frames"]
    assert len(events) == 2
    np.testing.assert_allclose([event["index"] for event in events], centres, atol=2)
    np.testing.assert_allclose([event["time"] for event in events], np.array(centres) / fps, atol=2.01 / fps)
    assert all(0.3 <= event["prominence"] <= 1 for event in events)
    chosen = [frame["index"] for frame in frames]
    assert len(chosen) == 9
    assert chosen[-1] == n_frames - 1
    assert {event["index"] for event in events} <= set(chosen)
    np.testing.assert_allclose([frame["time"] for frame in frames], np.array(chosen) / fps, atol=0.001)
    for event in events:  # three frames of each, half a second around it
        assert np.sum(np.abs(np.array(chosen) - event["index"]) <= 0.5 * fps + 1) >= 3
    # The pictures are those of the numbers, not of others.
    every = np.stack([frame.gray() for frame in stream_frames(videos / "a.mp4")]).astype(int)
    pictures = FrameClip("a", tmp_path / "frames" / "a").read().images
    for index, picture in zip(chosen, pictures, strict=True):
        differences = np.abs(every - cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)).mean(axis=(1, 2))
        assert differences.argmin() == index


def test_stimuvar_from_a_video(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]) -> None:
    write_bursts(videos / "a.mp4", 150, [60], 25, size=(64, 112))
    assert get_frame("--sampling", "stimuvar", "--n_frames", 6).code == 0
    clip = tmp_path / "frames" / "a"
    (peak,) = indices_of(clip, "events")
    assert abs(peak - 60) <= 2
    assert indices_of(clip) == select(150, [peak], 6, "stimuvar").tolist()


@pytest.mark.parametrize("mode", ["events", "stimuvar"])
def test_clips_of_a_frame_or_two_and_without_motion(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome], mode: str
) -> None:
    write_bursts(videos / "one.mp4", 1, [], 25, size=SMALL)
    write_bursts(videos / "two.mp4", 2, [], 25, size=SMALL)
    write_video(videos / "still.mp4", [next(burst_frames(1, [], size=SMALL))] * 30, 25)
    plot = ["--plot"] if mode == "events" else []
    assert get_frame("--sampling", mode, "--n_frames", 4, *plot).code == 0
    frames = tmp_path / "frames"
    assert (indices_of(frames / "one"), indices_of(frames / "two")) == ([0], [0, 1])
    assert indices_of(frames / "still") == {"events": [0, 10, 19, 29], "stimuvar": [0, 7, 14, 21]}[mode]
    assert all(frames_record(clip)["events"] == [] for clip in frames.iterdir() if clip.is_dir())


def test_damaged_frames_are_numbered_alike_in_both_passes(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]
) -> None:
    path = videos / "a.mkv"
    write_bursts(path, 100, [30], 25, size=SMALL)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    n_frames = read_frames(path, lambda times: np.arange(min(len(times), 1))).n_frames
    assert 40 < n_frames < 100
    assert get_frame("--sampling", "events", "--n_frames", 5).code == 0
    kept = frames_record(tmp_path / "frames" / "a")
    assert kept["n_frames"] == n_frames
    assert indices_of(tmp_path / "frames" / "a")[-1] == n_frames - 1
    assert [frame["time"] for frame in kept["frames"]][-1] == pytest.approx((n_frames - 1) / 25, abs=0.01)


def test_a_rate_from_videos(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]) -> None:
    write_coded(videos / "even.mp4", 50, 25)
    steps = np.random.default_rng(0).choice([0.02, 0.04, 0.1, 0.35], 39)
    times = np.concatenate([[0.0], np.cumsum(steps)])
    write_coded(videos / "uneven.mkv", 40, 25, times=times.tolist())
    write_coded(videos / "without_times.avi", 50, 25)
    assert get_frame("--sampling", "fps", "--fps", 5).code == 0
    frames = tmp_path / "frames"
    assert indices_of(frames / "even") == [*range(0, 50, 5)] == indices_of(frames / "without_times")
    assert frames_record(frames / "even")["sampling"] == {"method": "fps", "n_frames": None, "fps": 5.0}
    chosen = indices_of(frames / "uneven")
    assert chosen == rate_indices(np.round(times, 3), 5).tolist()
    np.testing.assert_allclose(
        [frame["time"] for frame in frames_record(frames / "uneven")["frames"]], times[chosen], atol=2e-3
    )
    # With --n_frames no more than that, evenly thinned.
    assert get_frame("--sampling", "fps", "--fps", 5, "--n_frames", 4).code == 0
    assert indices_of(frames / "even") == [0, 15, 30, 45]


def test_another_sampling_is_done_again(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]) -> None:
    write_bursts(videos / "a.mp4", 80, [50], 25, size=SMALL)
    clip = tmp_path / "frames" / "a"
    runs: list[tuple[Any, ...]] = [
        ("--n_frames", 6), ("--sampling", "fps", "--fps", 4), ("--sampling", "fps", "--fps", 5),
        ("--sampling", "fps", "--fps", 5, "--n_frames", 6), ("--sampling", "events", "--n_frames", 6),
        ("--sampling", "stimuvar", "--n_frames", 6), ("--sampling", "events", "--n_frames", 7),
    ]  # fmt: skip
    seen = []
    for options in runs:
        assert "1 done, 0 already there" in get_frame(*options).said
        assert "0 done, 1 already there" in get_frame(*options).said
        seen.append(frames_record(clip)["sampling"])
    assert all(one != other for i, one in enumerate(seen) for other in seen[:i])
    # What was there before is as it was, key by key: it is not done again by this version.
    assert get_frame("--n_frames", 6).code == 0
    kept = frames_record(clip)
    assert kept["sampling"] == {"method": "uniform", "n_frames": 6}
    assert "events" not in kept
    assert indices_of(clip) == uniform_indices(80, 6).tolist()
    assert get_frame().code == 0
    assert frames_record(clip)["sampling"] == {"method": "uniform", "n_frames": 32}


def test_the_plot(videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome]) -> None:
    write_bursts(videos / "a.mp4", 80, [50], 25, size=SMALL)
    clip = tmp_path / "frames" / "a"
    for options in (("--sampling", "events"), ("--sampling", "fps", "--fps", "4")):
        assert "1 done" in get_frame(*options).said
        before = (clip / "frames.json").read_bytes()
        assert not (clip / "motion.png").exists()
        assert "1 done" in get_frame(*options, "--plot").said
        height, width = cv2.imread(str(clip / "motion.png")).shape[:2]
        assert (width, height) == (1500, 600)
        # Features made of the frames stay valid, and what reads the frames does not see the plot.
        assert (clip / "frames.json").read_bytes() == before
        assert all(path.suffix == ".jpg" for path in list_frame_clips(tmp_path / "frames")[0].paths())
        assert "0 done, 1 already there" in get_frame(*options, "--plot").said
        assert "0 done, 1 already there" in get_frame(*options).said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sampling", "fps"), "--fps 5"), (("--fps", "5"), "--sampling fps"),
        (("--sampling", "fps", "--fps", "0"), "0"), (("--sampling", "fps", "--fps", "nan"), "nan"),
        (("--sampling", "events", "--fps", "5"), "--sampling fps"),
        (("--sampling", "events", "--n_frames", "0"), "--n_frames 0"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(
    videos: Path, tmp_path: Path, get_frame: Callable[..., Outcome], options: tuple[str, ...], said: str
) -> None:
    write_coded(videos / "a.mp4", 3)
    outcome = get_frame(*options)
    (line,) = outcome.said.splitlines()
    assert outcome.code == 2
    assert line.startswith("viper: error: --")
    assert said in line
    assert not (tmp_path / "frames").exists()


def test_a_pipeline_takes_the_options(tmp_path: Path, videos: Path) -> None:
    rows = ["File_ID,Split,Fear"]
    for number in range(4):
        write_bursts(videos / f"{number}.mp4", 40, [20], 25, size=SMALL, seed=number)
        rows.append(f"{number},{'Train' if number < 2 else 'Val'},0.{number}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    task = {"name": "one", "kind": "regression", "targets": ["Fear"], "range": [0, 1], "metrics": ["mse"]}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    card: dict[str, Any] = {
        "task": "task.yaml", "csv_path": "labels.csv", "videos": "videos", "output": "work", "n_workers": 0,
        "frames": {"sampling": "fps", "fps": 5}, "faces": False, "features": {"visual": {"model_name": "hog"}},
        "train": {"fusion": "linear"}, "submission": False, "confusion": False,
    }  # fmt: skip

    def pipeline() -> int:
        (tmp_path / "data.yaml").write_text(yaml.safe_dump(card))
        return run_command("pipeline", [str(tmp_path / "data.yaml")])

    clip = tmp_path / "work" / "frames" / "0"
    assert pipeline() == 0
    assert len(indices_of(clip)) == 8
    card["frames"] = {"sampling": "events", "n_frames": 4}
    assert pipeline() == 0
    assert len(indices_of(clip)) == 4
    assert len(frames_record(clip)["events"]) == 1
    card["frames"] = {"sampling": "often"}
    with pytest.raises(UserError, match=r"frames.sampling must be uniform, fps, events or stimuvar, not 'often'"):
        pipeline()
