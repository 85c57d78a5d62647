"""Synthetic reactions: what is shown follows the labels, and the files are what they claim to be."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from csv_files import rows_of
from many import long_test
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from viper.demo import (
    CHANNELS,
    EMOTIONS,
    Identity,
    clip_frames,
    make_cues,
    make_dataset,
    plan_dataset,
    render_frames,
    voice,
    write_clip,
    write_srt,
    write_video,
)
from viper.demo.words import GRADES, Cue

RATE = 16000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def grey_frames(count: int, height: int = 48, width: int = 64) -> list[NDArray[np.uint8]]:
    """Frames whose mean brightness rises by 10 each, so that one can tell them apart after coding."""
    return [np.full((height, width, 3), 20 + 10 * i, np.uint8) for i in range(count)]


def encoded(path: Path, height: int, width: int) -> bytes:
    """A short video of a moving texture with sound, as bytes."""
    rng = np.random.default_rng(0)
    texture = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (width + 40, height), interpolation=cv2.INTER_CUBIC)
    write_video(
        path, [texture[:, 2 * i : 2 * i + width] for i in range(15)], 30,
        samples=0.1 * rng.standard_normal(8000), rate=RATE,
    )  # fmt: skip
    return path.read_bytes()


def decoded(path: Path) -> tuple[list[float], list[NDArray[np.uint8]]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [float(frame.time) for frame in frames], [frame.to_ndarray(format="rgb24") for frame in frames]


def still(identity: Identity, amusement: float, disgust: float, surprise: float) -> NDArray[np.uint8]:
    return next(render_frames(identity, [(amusement, disgust, surprise)], 30, rng()))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    path = folder / "10001.mp4"
    write_clip(path, {"Amusement": 0.8, "Fear": 0.5}, Identity.from_seed(3), 5, subtitles=folder / "10001.srt")
    return path


class TestFace:
    def test_channels_share_out_all_emotions(self):
        shared_out = [name for names in CHANNELS.values() for name in names]
        assert sorted(shared_out) == sorted(EMOTIONS)
        assert len(EMOTIONS) == 7

    def test_expression_changes_the_mouth_but_not_the_background(self):
        identity = Identity.from_seed(1)
        change = np.abs(still(identity, 1, 0, 0).astype(int) - still(identity, 0, 0, 0)).mean(axis=2)
        height, width = change.shape
        x, y = (round(p * s) for p, s in zip(identity.position, identity.frame_size, strict=True))
        reach = round(45 * identity.face_scale)
        mouth = change[y : y + reach, x - reach // 2 : x + reach // 2]
        assert mouth.mean() > 5
        assert change[: height // 8].max() == 0
        assert change[:, : width // 12].max() == 0
        assert change[-height // 12 :].max() == 0

    @pytest.mark.parametrize("emotion", range(3))
    def test_a_stronger_expression_is_further_from_rest(self, emotion):
        identity = Identity.from_seed(2)
        at_rest = still(identity, 0, 0, 0).astype(int)
        distances = [np.abs(still(identity, *np.eye(3)[emotion] * k) - at_rest).mean() for k in (0.3, 0.6, 1.0)]
        assert distances == sorted(distances)
        assert distances[0] > 0.3

    def test_only_face_emotions_show_in_the_face(self):
        identity = Identity.from_seed(4)
        others = dict.fromkeys((*CHANNELS["voice"], *CHANNELS["words"]), 1.0)
        frames = list(clip_frames(others, identity, rng(), 0.5, 10))
        expected = list(clip_frames({}, identity, rng(), 0.5, 10))
        np.testing.assert_array_equal(frames, expected)

    def test_the_reaction_rises_and_then_holds(self):
        identity = Identity.from_seed(6)
        pairs = zip(
            clip_frames({"Surprise": 1.0}, identity, rng(), 2, 10), clip_frames({}, identity, rng(), 2, 10), strict=True
        )
        strength = np.array([np.abs(a.astype(int) - b).mean() for a, b in pairs])
        assert strength[0] == 0
        assert strength[10:].min() > 0.7 * strength.max()

    def test_identities_differ_and_their_frames_have_even_sizes(self):
        people = [Identity.from_seed(seed) for seed in range(40)]
        assert len({person.skin for person in people}) == 40
        assert len({person.frame_size for person in people}) > 20
        assert all(size % 2 == 0 and 160 <= size <= 224 for person in people for size in person.frame_size)
        assert Identity.from_seed(7) == Identity.from_seed(7)

    def test_mtcnn_finds_exactly_one_face(self):
        mtcnn = pytest.importorskip("facenet_pytorch").MTCNN(
            keep_all=True, min_face_size=40, post_process=False, device="cpu"
        )
        found = []
        for seed in range(100, 106):
            frames = list(render_frames(Identity.from_seed(seed), rng(seed).uniform(size=(4, 3)), 30, rng(seed)))
            _, probabilities = mtcnn.detect(frames)
            found += [len(p) == 1 and p[0] is not None and p[0] > 0.9 for p in probabilities]
        assert sum(found) >= 23, f"{sum(found)} of {len(found)}"


def pitch(samples: NDArray[np.float32]) -> float:
    """Median fundamental frequency (Hz) of the loud 40 ms windows, from the peak of the autocorrelation."""
    windows = np.lib.stride_tricks.sliding_window_view(samples, 640)[::160].astype(float)
    power = (windows**2).mean(axis=1)
    found = []
    for window in windows[power > np.median(power)]:
        correlation = np.correlate(window, window, "full")[len(window) - 1 :]
        lags = np.arange(RATE // 500, RATE // 75)
        found.append(RATE / lags[np.argmax(correlation[lags])])
    return float(np.median(found))


class TestVoice:
    def test_shape_range_and_determinism(self):
        samples = voice({"Fear": 0.4}, Identity.from_seed(0), 1.5, RATE, rng())
        assert samples.shape == (24000,)
        assert samples.dtype == np.float32
        assert 0.05 < np.abs(samples).max() <= 1
        np.testing.assert_array_equal(samples, voice({"Fear": 0.4}, Identity.from_seed(0), 1.5, RATE, rng()))

    @pytest.mark.parametrize("seed", range(4))
    def test_fear_raises_the_pitch(self, seed):
        identity = Identity.from_seed(seed)
        pitches = [pitch(voice({"Fear": fear}, identity, 2, RATE, rng(seed))[RATE:]) for fear in (0.0, 0.5, 1.0)]
        assert pitches[0] == pytest.approx(identity.pitch, rel=0.25)
        assert pitches[1] > 1.2 * pitches[0]
        assert pitches[2] > 1.2 * pitches[1]

    @pytest.mark.parametrize("seed", range(4))
    def test_anxiety_adds_breath(self, seed):
        highpass = butter(4, 3500, "highpass", fs=RATE, output="sos")
        identity = Identity.from_seed(seed)
        levels = [
            np.std(sosfilt(highpass, voice({"Anxiety": anxiety}, identity, 2, RATE, rng(seed))))
            for anxiety in (0.0, 0.5, 1.0)
        ]
        assert levels[1] > 1.5 * levels[0]
        assert levels[2] > 1.5 * levels[1]

    def test_syllables_leave_gaps(self):
        samples = voice({}, Identity.from_seed(5), 2, RATE, rng(3))
        loudness = np.sqrt((samples[: 2 * RATE].reshape(-1, 320) ** 2).mean(axis=1))
        assert np.percentile(loudness, 10) < 0.15 * np.percentile(loudness, 90)

    def test_only_voice_emotions_are_heard(self):
        others = dict.fromkeys((*CHANNELS["face"], *CHANNELS["words"]), 1.0)
        identity = Identity.from_seed(8)
        np.testing.assert_array_equal(voice(others, identity, 1, RATE, rng()), voice({}, identity, 1, RATE, rng()))

    @pytest.mark.parametrize("wrong", [{"Joy": 0.5}, {"Fear": 1.2}, {"Fear": float("nan")}])
    def test_wrong_intensities_are_refused(self, wrong):
        with pytest.raises(ValueError, match=r"unknown emotions|outside \[0, 1\]"):
            voice(wrong, Identity.from_seed(0), 1, RATE, rng())


def mean_grade(emotion: str, intensities: dict[str, float]) -> float:
    texts = [cue.text for seed in range(30) for cue in make_cues(intensities, 2, rng(seed))]
    step_of = {word: step for step, words in enumerate(GRADES[emotion]) for word in words}
    words = [word.strip(",") for text in texts for word in text.split()]
    return float(np.mean([step_of[word] for word in words if word in step_of]))


class TestWords:
    @pytest.mark.parametrize("emotion", CHANNELS["words"])
    def test_grades_follow_the_intensity(self, emotion):
        for intensity in (0.0, 0.3, 0.6, 1.0):
            assert mean_grade(emotion, {emotion: intensity}) == pytest.approx(4 * intensity, abs=0.15)

    def test_one_emotion_leaves_the_words_of_the_other_alone(self):
        assert mean_grade("Adoration", {"Empathic-Pain": 1.0}) == 0

    def test_cues_tile_the_clip_with_varied_text(self):
        cues = make_cues({"Adoration": 0.5}, 2.0, rng())
        assert [cue.start for cue in cues[1:]] == [cue.end for cue in cues[:-1]]
        assert (cues[0].start, cues[-1].end) == (0.0, 2.0)
        assert len({make_cues({"Adoration": 0.5}, 2.0, rng(seed))[0].text for seed in range(20)}) > 15

    def test_srt(self, tmp_path):
        write_srt(tmp_path / "a.srt", [Cue(0, 0.6667, "one"), Cue(3661.5, 3662, "two")])
        assert (tmp_path / "a.srt").read_text() == (
            "1\n00:00:00,000 --> 00:00:00,667\none\n\n2\n01:01:01,500 --> 01:01:02,000\ntwo\n"
        )


class TestMedia:
    def test_clip_properties(self, clip):
        with av.open(str(clip)) as container:
            video, sound = container.streams.video[0], container.streams.audio[0]
            assert video.codec_context.name == "h264"
            assert video.codec_context.pix_fmt == "yuv420p"
            assert video.average_rate == 30
            assert (video.codec_context.width, video.codec_context.height) == Identity.from_seed(3).frame_size
            assert sound.codec_context.name == "aac"
            assert container.duration == pytest.approx(2_000_000, abs=30_000)
            assert sum(1 for _ in container.decode(video=0)) == 60
        with av.open(str(clip)) as container:
            heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert len(heard) == pytest.approx(2 * sound.rate, abs=2048)
        assert heard.std() > 0.01
        assert 20_000 < clip.stat().st_size < 200_000
        assert clip.with_suffix(".srt").read_text().startswith("1\n00:00:00,000 --> ")

    @pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi", ".mpg", ".webm"])
    def test_every_container_keeps_frames_and_sound(self, tmp_path, suffix):
        path = tmp_path / f"a{suffix}"
        samples = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
        assert write_video(path, grey_frames(20), 20, samples=samples, rate=RATE) == 20
        _, frames = decoded(path)
        assert [round(float(f.mean()) / 10) for f in frames] == [2 + i for i in range(20)]
        with av.open(str(path)) as container:
            sound = list(container.decode(audio=0))
            seconds = sum(frame.samples for frame in sound) / sound[0].sample_rate
            heard = np.concatenate([frame.to_ndarray().astype(float).ravel() for frame in sound])
        assert seconds == pytest.approx(1.0, abs=0.15)
        assert heard.std() > 0
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
    def test_variable_times_come_back_as_written(self, tmp_path, suffix):
        times = [0.0, 0.04, 0.08, 0.3, 0.35, 0.9, 0.91, 1.6]
        write_video(tmp_path / f"a{suffix}", grey_frames(8), 25, times=times)
        assert decoded(tmp_path / f"a{suffix}")[0] == pytest.approx(times, abs=0.001)

    def test_no_sound_one_frame_two_faces(self, tmp_path):
        left, right = (next(render_frames(Identity.from_seed(s), [(0, 0, 0)], 30, rng())) for s in (1, 2))
        height = min(len(left), len(right))
        write_video(tmp_path / "two.mp4", [np.hstack([left[:height], right[:height]])], Fraction(30000, 1001))
        with av.open(str(tmp_path / "two.mp4")) as container:
            assert not container.streams.audio
        assert [frame.shape for frame in decoded(tmp_path / "two.mp4")[1]] == [
            (height, left.shape[1] + right.shape[1], 3)
        ]

    def test_rotation_is_kept_beside_the_stored_frames(self, tmp_path):
        write_video(tmp_path / "a.mp4", grey_frames(3), 25, rotation=-90)
        with av.open(str(tmp_path / "a.mp4")) as container:
            frame = next(container.decode(video=0))
        assert frame.rotation == -90
        assert (frame.width, frame.height) == (64, 48)

    def test_ten_bit_stereo(self, tmp_path):
        samples = np.stack([np.zeros(RATE), np.full(RATE, 0.2)], axis=1)
        write_video(tmp_path / "a.mkv", grey_frames(10), 10, samples=samples, rate=RATE, pixel_format="yuv420p10le")
        with av.open(str(tmp_path / "a.mkv")) as container:
            assert container.streams.video[0].codec_context.pix_fmt == "yuv420p10le"
            assert container.streams.audio[0].codec_context.channels == 2

    @pytest.mark.parametrize(
        ("name", "frames", "options", "message"),
        [
            ("a.gif", grey_frames(2), {}, "unknown suffix"),
            ("a.mp4", [], {}, "at least one frame"),
            ("a.mp4", grey_frames(2, 47), {}, "must be even"),
            ("a.avi", grey_frames(2), {"times": [0, 0.3]}, "constant frame rate"),
            ("a.mp4", grey_frames(2), {"times": [0.3, 0.3]}, "do not rise"),
            ("a.mp4", grey_frames(3), {"times": [0.1, 0.3]}, "more frames than the 2 times"),
            ("a.mp4", grey_frames(1), {"times": [0.1, 0.3]}, "1 frames, but 2 times"),
            ("a.mp4", grey_frames(2), {"samples": np.zeros(10)}, "needs its rate"),
            ("a.avi", grey_frames(2), {"rotation": 90}, "cannot keep a rotation"),
        ],
    )
    def test_what_cannot_be_written_is_refused_and_leaves_nothing(self, tmp_path, name, frames, options, message):
        with pytest.raises(ValueError, match=message):
            write_video(tmp_path / name, frames, 25, **options)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
    def test_the_same_frames_are_the_same_file_whatever_was_in_memory(self, tmp_path, suffix):
        # 176 x 208: multiples of 16, as the encoder's blocks are; 170 x 202: even, as most identities' frames are.
        for height, width in ((176, 208), (170, 202)):
            files = set()
            for attempt in range(6):
                files.add(encoded(tmp_path / f"a{suffix}", height, width))
                # What the next encoder's buffers are made of.
                [np.random.default_rng(attempt).integers(0, 256, 200_000, dtype=np.uint8) for _ in range(20)]
            assert len(files) == 1

    @long_test
    def test_a_clip_is_the_same_file_in_any_process_with_any_number_of_threads(self, tmp_path):
        code = (
            "import sys; from viper.demo import *; "
            "write_clip(sys.argv[1], {'Amusement': 0.8, 'Fear': 0.5}, Identity.from_seed(3), 5, 0.5)"
        )
        for attempt, threads in enumerate(["1", "2", "4", "1", "2", "4"]):
            environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
            path = tmp_path / f"{attempt}.mp4"
            subprocess.run([sys.executable, "-c", code, path], env=environment, check=True)
        assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1

    def test_a_failing_source_leaves_the_old_file(self, tmp_path):
        def failing():
            yield from grey_frames(3)
            raise RuntimeError("camera unplugged")

        (tmp_path / "a.mp4").write_bytes(b"old")
        with pytest.raises(RuntimeError, match="camera unplugged"):
            write_video(tmp_path / "a.mp4", failing(), 25)
        assert (tmp_path / "a.mp4").read_bytes() == b"old"
        assert len(list(tmp_path.iterdir())) == 1


class TestDataset:
    def test_plan_is_deterministic_and_keeps_people_apart(self):
        plans = plan_dataset(23, 11, 7, seed=4)
        assert plans == plan_dataset(23, 11, 7, seed=4)
        assert plans != plan_dataset(23, 11, 7, seed=5)
        people = {split: {p.identity for p in plans if p.split == split} for split in ("Train", "Val", "Test")}
        assert [len(people[split]) for split in people] == [5, 3, 2]
        assert len(set().union(*people.values())) == 10
        values = np.array([list(p.intensities.values()) for p in plan_dataset(400, 0, 0)])
        assert (np.abs(np.corrcoef(values.T) - np.eye(7)) < 0.2).all()
        assert all(np.histogram(column, 4, (0, 1))[0].min() > 50 for column in values.T)

    def test_the_same_arguments_give_the_same_clip(self, clip, tmp_path):
        write_clip(tmp_path / "again.mp4", {"Amusement": 0.8, "Fear": 0.5}, Identity.from_seed(3), 5)
        np.testing.assert_array_equal(decoded(tmp_path / "again.mp4")[1], decoded(clip)[1])
        write_clip(tmp_path / "other.mp4", {"Amusement": 0.8, "Fear": 0.5}, Identity.from_seed(3), 6)
        assert not np.array_equal(decoded(tmp_path / "other.mp4")[1], decoded(clip)[1])

    @long_test
    def test_files_labels_and_resuming(self, tmp_path):
        manifest = make_dataset(tmp_path, 3, 1, 2, seed=1, n_workers=2, seconds=0.4)
        assert manifest == tmp_path / "manifest.csv"
        rows, answers = rows_of(manifest), rows_of(tmp_path / "test_labels.csv")
        assert list(rows[0]) == ["File_ID", "Split", *EMOTIONS, "Subject"]
        assert [row["File_ID"] for row in rows] == [f"[{10001 + i}]" for i in range(6)]
        assert [row["Split"] for row in rows] == ["Train"] * 3 + ["Val"] + ["Test"] * 2
        assert all(row[name] == "" for row in rows[4:] for name in EMOTIONS)
        assert [row["File_ID"] for row in answers] == ["[10005]", "[10006]"]
        assert all(0 <= float(row[name]) <= 1 for row in rows[:4] + answers for name in EMOTIONS)
        videos = sorted((tmp_path / "videos").iterdir())
        assert [path.name for path in videos] == [f"{10001 + i}.mp4" for i in range(6)]
        assert [p.name for p in sorted((tmp_path / "subtitles").iterdir())] == [f"{10001 + i}.srt" for i in range(6)]

        before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in videos]
        videos[0].write_bytes(b"")
        videos[1].write_bytes(before[1][1][: len(before[1][1]) // 2])
        (tmp_path / "subtitles" / "10003.srt").unlink()
        first = manifest.read_bytes()
        make_dataset(tmp_path, 3, 1, 2, seed=1, n_workers=1, seconds=0.4)
        assert [path.read_bytes() for path in videos] == [content for _, content in before]
        assert [p.stat().st_mtime_ns == t for p, (t, _) in zip(videos, before, strict=True)] == [False] * 3 + [True] * 3
        assert manifest.read_bytes() == first
        assert (tmp_path / "subtitles" / "10003.srt").exists()

    def test_clips_of_other_arguments_are_made_again(self, tmp_path):
        make_dataset(tmp_path, 1, 0, 0, seed=1, n_workers=1, seconds=0.2)
        make_dataset(tmp_path, 1, 0, 0, seed=2, n_workers=1, seconds=0.4)
        assert len(decoded(tmp_path / "videos" / "10001.mp4")[1]) == 12
