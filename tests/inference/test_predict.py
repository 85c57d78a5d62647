"""New videos straight to predictions: the numbers are those by way of the disk, piece by piece too; what goes wrong."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import RATE, voice, write_srt, write_wav
from conftest import Run
from csv_files import write_rows
from many import IS_LONG, long_test
from media import coded_frames, read_code, write_coded

import viper
from viper.commands import crop_images as faces
from viper.commands import extract_features as extract
from viper.commands import get_frame as frames
from viper.demo import Identity, write_clip, write_video
from viper.errors import UserError
from viper.fusion.checkpoint import point_best, save_checkpoint
from viper.fusion.perceiver import PerceiverFusion, PerceiverFusionConfig
from viper.inference.predictor import ClipPredictor
from viper.media.sampling import FrameRule
from viper.media.video import StreamedFrame, VideoFrames
from viper.media.windows import read_windows, spans
from viper.store import FeatureStore
from viper.task import load_task

CLIPS = ("10001", "10002")
N_FRAMES = 4
MODALITIES = ("visual", "audio", "textual", "FAU")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, the second without subtitles, and their features as the commands make them."""
    folder = tmp_path_factory.mktemp("predict")
    for name in ("videos", "subtitles"):
        (folder / name).mkdir()
    for number, clip in enumerate(CLIPS):
        words = folder / "subtitles" / f"{clip}.srt" if number == 0 else None
        shown = {"Amusement": 0.9 * number, "Fear": 0.6, "Surprise": 0.5}
        identity = Identity.from_seed(number, name=clip)
        write_clip(folder / "videos" / f"{clip}.mp4", shown, identity, number, 1.0, subtitles=words)
    common: dict[str, Any] = {"n_workers": 0}
    places = {"input_folder": folder / "videos", "output_folder": folder / "frames"}
    assert frames.run(frames.GetFrameOptions(**places, n_frames=N_FRAMES, **common)) == 0
    common["device"] = "cpu"
    places = {"input_folder": folder / "frames", "output_folder": folder / "faces"}
    assert faces.run(faces.CropImagesOptions(**places, **common)) == 0
    crops = {"input_folder": folder / "faces", **common}
    configs = [
        extract.VisualOptions(output_folder=folder / "visual", model_name="hog", **crops),
        extract.AudioOptions(output_folder=folder / "audio", model_name="logmel", n_fragments=3,
                            input_folder=folder / "videos", **common),
        extract.TextualOptions(output_folder=folder / "textual", model_name="hashed",
                              subtitles=folder / "subtitles", **common),
        extract.FAUOptions(output_folder=folder / "FAU", model_name="landmarks", **crops),
    ]  # fmt: skip
    assert [extract.run(config) for config in configs] == [0] * 4
    targets = load_task("hume_reaction").targets
    rows = [["File_ID", "Split", *targets, "Subject"]]
    rows += [[f"[{clip}]", "Test", *[""] * len(targets), "somebody"] for clip in CLIPS]
    write_rows(folder / "manifest.csv", rows)
    return folder


def write_run(root: Path, run: Path, fusion: str = "tokens", **options: Any) -> Path:
    """A run whose checkpoint reads the stores of `root`, with random weights."""
    stores = {name: FeatureStore.open(root / name) for name in MODALITIES}
    modalities = {name: {"width": store.width, "encoder": vars(store.info)} for name, store in stores.items()}
    for spec in modalities.values():
        spec["encoder"] = {k: v for k, v in spec["encoder"].items() if k != "identity"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = load_task("hume_reaction").to_dict()
        config = PerceiverFusionConfig(fusion=fusion, preset="tiny", modalities=modalities, task=task, **options)
        model = PerceiverFusion(config)
        for parameter in model.parameters():  # heads start near zero, and would hide a difference
            parameter.data += 0.1 * torch.randn(parameter.shape)
    model.set_normalization({name: _moments(store) for name, store in stores.items()})
    save_checkpoint(run, 1, model)
    point_best(run, 1)
    return run


def _moments(store: FeatureStore) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = np.concatenate([store.read(clip).tokens for clip in store.clips()])
    return torch.from_numpy(tokens.mean(axis=0)), torch.from_numpy(tokens.std(axis=0) + 0.1)


@pytest.fixture(scope="module")
def checkpoint(root: Path) -> Path:
    """A run of tokens fusion."""
    return write_run(root, root / "run")


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> ClipPredictor:
    """Its predictor."""
    return ClipPredictor.load(checkpoint, device="cpu")


def rows_of(path: Path) -> list[list[str]]:
    """A CSV's rows."""
    with path.open(newline="") as file:
        return list(csv.reader(file))


def numbers(path: Path, first: int = 1) -> np.ndarray:
    """The numbers of a CSV, from a column on."""
    return np.array([row[first:] for row in rows_of(path)[1:]], float)


def submitted(root: Path, model: Path, out: Path, run: Run, names: tuple[str, ...] = MODALITIES) -> np.ndarray:
    """What submission_creation writes."""
    folders = [part for name in names for part in (f"--{name}_features_input_folder", root / name)]
    told = run("submission_creation", "--csv_path", root / "manifest.csv", "--model_path", model, *folders,
               "--output_path", out, "--device", "cpu", n_workers=None)  # fmt: skip
    assert told.code == 0, told.said
    return numbers(out)


@pytest.mark.parametrize("fusion", ["tokens", "channels", *(["linear", "mlp", "gru"] if IS_LONG else [])])
def test_predictions_are_those_of_the_submission(fusion: str, root: Path, tmp_path: Path, run: Run) -> None:
    model = write_run(root, tmp_path / "run", fusion)
    expected = submitted(root, model, tmp_path / "submission.csv", run)
    assert np.ptp(expected, axis=0).max() > 0.01  # the two clips differ, so that mixing them up would show
    told = run("predict", root / "videos", "--subtitles", root / "subtitles", "--model_path", model, "--device", "cpu",
               "--csv", tmp_path / "predicted.csv", n_workers=None)  # fmt: skip
    assert told.code == 0, told.said
    assert rows_of(tmp_path / "predicted.csv")[0] == rows_of(tmp_path / "submission.csv")[0]
    assert [row[0] for row in rows_of(tmp_path / "predicted.csv")[1:]] == list(CLIPS)
    np.testing.assert_allclose(numbers(tmp_path / "predicted.csv"), expected, rtol=0, atol=1e-5)
    assert f"{CLIPS[1]}.mp4: without textual: no subtitles of its name, none inside" in told.said
    assert CLIPS[0] not in told.said


def test_predict_clip_is_the_same_from_python(
    root: Path, checkpoint: Path, predictor: ClipPredictor, tmp_path: Path, run: Run
) -> None:
    expected = submitted(root, checkpoint, tmp_path / "all.csv", run)
    without = submitted(root, checkpoint, tmp_path / "some.csv", run, ("visual", "FAU"))
    video, words = root / "videos" / f"{CLIPS[0]}.mp4", root / "subtitles" / f"{CLIPS[0]}.srt"
    answer = viper.predict_clip(str(video), predictor, subtitles=words)
    assert list(answer) == list(predictor.task.targets)
    np.testing.assert_allclose(list(answer.values()), expected[0], rtol=0, atol=1e-5)
    fewer = viper.predict_clip(video, checkpoint, hidden={"audio", "textual"}, device="cpu")
    np.testing.assert_allclose(list(fewer.values()), without[0], rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="smell: the checkpoint has no such modality"):
        viper.predict_clip(video, predictor, hidden={"smell"})


def test_a_reading_says_what_was_looked_at(root: Path, predictor: ClipPredictor) -> None:
    reading = predictor.read(root / "videos" / f"{CLIPS[1]}.mp4")
    assert set(reading.features) == {"visual", "audio", "FAU"}
    assert set(reading.absent) == {"textual"}
    assert (reading.start, reading.end) == (0.0, pytest.approx(1.0))
    track = reading.faces
    assert track is not None
    assert track.found.all()
    assert ((track.boxes > 0) & (track.boxes < 1)).all()
    assert (track.boxes[:, 2:] > track.boxes[:, :2]).all()
    assert [image.shape for image in track.crops] == [(96, 96, 3)] * N_FRAMES
    assert len(track.frames) == len(track.times) == N_FRAMES


def test_what_two_modalities_read_is_looked_at_once(
    root: Path, predictor: ClipPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from viper.media.faces.detect import FaceDetector

    seen: list[int] = []
    detect = FaceDetector.detect
    monkeypatch.setattr(
        FaceDetector, "detect", lambda self, images, n: seen.append(len(images)) or detect(self, images, n)
    )
    predictor.read(root / "videos" / f"{CLIPS[0]}.mp4")
    assert seen == [N_FRAMES]


def test_subtitles_beside_the_video_are_found(root: Path, predictor: ClipPredictor, tmp_path: Path) -> None:
    video = Path(shutil.copy(root / "videos" / f"{CLIPS[0]}.mp4", tmp_path))
    shutil.copy(root / "subtitles" / f"{CLIPS[0]}.srt", tmp_path)
    own = predictor.read(video).features["textual"]
    np.testing.assert_array_equal(own.tokens, FeatureStore.open(root / "textual").read(CLIPS[0]).tokens)


@long_test
def test_videos_called_alike_have_the_subtitles_of_their_subfolders(
    root: Path, checkpoint: Path, tmp_path: Path, run: Run
) -> None:
    for folder in ("a", "b"):
        (tmp_path / "videos" / folder).mkdir(parents=True)
        shutil.copy(root / "videos" / f"{CLIPS[0]}.mp4", tmp_path / "videos" / folder)
    (tmp_path / "words" / "a").mkdir(parents=True)
    for folder in (".", "a"):
        shutil.copy(root / "subtitles" / f"{CLIPS[0]}.srt", tmp_path / "words" / folder)
    told = run("predict", tmp_path / "videos", "--subfolders", "--subtitles", tmp_path / "words", "--model_path",
               checkpoint, "--device", "cpu", "--csv", tmp_path / "predicted.csv", n_workers=None)  # fmt: skip
    assert told.code == 0
    assert f"b_{CLIPS[0]}.mp4: without textual: no subtitles of its name, none inside" in told.said
    assert f"a_{CLIPS[0]}.mp4: without" not in told.said
    first, second = numbers(tmp_path / "predicted.csv")
    assert np.abs(first - second).max() > 1e-6


def test_a_group_is_what_is_predicted_together(root: Path, tmp_path: Path, run: Run) -> None:
    model = write_run(root, tmp_path / "run", group_column="Subject")
    expected = submitted(root, model, tmp_path / "submission.csv", run)
    told = run("predict", root / "videos", "--subtitles", root / "subtitles", "--model_path", model, "--device", "cpu",
               "--csv", tmp_path / "predicted.csv", n_workers=None)  # fmt: skip
    assert "standardised within Subject: these 2 videos count as one group" in told.said
    np.testing.assert_allclose(numbers(tmp_path / "predicted.csv"), expected, rtol=0, atol=1e-5)


# Piece by piece


@pytest.mark.parametrize(
    ("length", "every", "window", "expected"),
    [
        (6.0, 2, 2, [(0, 2), (2, 4), (4, 6)]),
        (5.1, 2, 2, [(0, 2), (2, 4), (4, 5.1)]),  # half a window is a piece
        (4.9, 2, 2, [(0, 2), (2, 4.9)]),  # less belongs to the one before
        (0.3, 2, 2, [(0, 0.3)]),  # a video shorter than half a window is one piece
        (6.0, 1, 4, [(0, 4), (1, 5), (2, 6)]),  # pieces that overlap end with the first that reaches the end
        (6.2, 1, 4, [(0, 4), (1, 5), (2, 6), (3, 6.2)]),
        (11, 5, 2, [(0, 2), (5, 7), (10, 11)]),
        (10.9, 5, 2, [(0, 2), (5, 7)]),  # with gaps between them, what is too short is left out
    ],
)
def test_windows_reach_to_the_end(
    length: float, every: float, window: float, expected: list[tuple[float, float]]
) -> None:
    found = list(spans(length, every, window))
    assert [(span.start, span.end) for span in found] == [pytest.approx(pair) for pair in expected]
    assert [span.is_last for span in found] == [False] * (len(found) - 1) + [True]


@pytest.mark.parametrize("times", [None, np.cumsum(np.r_[0, np.resize([0.02, 0.05, 0.08], 79)])])
@pytest.mark.parametrize(("every", "window"), [(1.0, 1.0), (0.5, 1.25), (1.5, 0.5)])
def test_pieces_hold_the_frames_of_their_time(
    videos: Path, every: float, window: float, times: np.ndarray | None
) -> None:
    path = write_coded(videos / "a.mkv", 80, 25, **({} if times is None else {"times": times.tolist()}))
    rules = (FrameRule("uniform", 6), FrameRule("fps", None, 5.0))
    at = np.arange(80) / 25 if times is None else times
    pieces = list(read_windows(path, rules, every, window))
    length = at[-1] + np.diff(at).mean()
    assert [(p.span.start, p.span.end) for p in pieces] == [
        pytest.approx((s.start, s.end), abs=2e-3) for s in spans(length, every, window)
    ]
    for piece in pieces:
        inside = (at >= piece.span.start - 1e-3) & (at < piece.span.end - 1e-3)
        own = np.flatnonzero(inside)
        for rule in rules:
            expected = own[rule.choose(at[own])]
            video = piece.chosen[rule]
            assert [read_code(image) for image in video.images] == expected.tolist()
            np.testing.assert_allclose(video.times, at[expected] - piece.span.start, atol=2e-3)


def test_a_frame_is_converted_once_and_not_kept(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_coded(videos / "a.mp4", 200, 25)
    converted: list[np.ndarray] = []
    rgb = StreamedFrame.rgb
    monkeypatch.setattr(StreamedFrame, "rgb", lambda self: converted.append(rgb(self)) or converted[-1])
    pieces = read_windows(path, [FrameRule("uniform", 3)], 1.0, 2.0)
    seen = 0
    for number, piece in enumerate(pieces):
        assert isinstance(piece.chosen[FrameRule("uniform", 3)], VideoFrames)
        # Of pieces of 2 s a second apart two are under way at a time: what is read ahead does not grow.
        assert len(converted) <= 3 * (number + 2)
        seen += 1
    assert seen == 7
    codes = [read_code(image) for image in converted]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("rule", [FrameRule("events", 5), FrameRule("stimuvar", 6)])
def test_events_of_a_piece_are_those_of_the_piece_alone(videos: Path, rule: FrameRule) -> None:
    """A square that leaps once a piece: cut out of the file, the same frames would be chosen."""
    from viper.media.sampling import read_chosen

    pictures = np.zeros((80, 64, 96, 3), np.uint8)
    for number, picture in enumerate(pictures):
        place = 8 + 3 * max(0, min(8, number - 15)) + 3 * max(0, min(8, number - 58))
        picture[20:44, place : place + 24] = np.random.default_rng(0).integers(80, 255, (24, 24, 1))
    lossless: dict[str, Any] = {"codec": "ffv1", "pixel_format": "bgr0"}
    write_video(videos / "all.mkv", pictures, 20, **lossless)
    for number, piece in enumerate(read_windows(videos / "all.mkv", [rule], 2.0, 2.0)):
        own = videos / f"{number}.mkv"
        write_video(own, pictures[40 * number : 40 * number + 40], 20, **lossless)
        expected, video = read_chosen(own, rule).video, piece.chosen[rule]
        np.testing.assert_array_equal(video.indices, expected.indices)
        np.testing.assert_allclose(video.times, expected.times, atol=1e-6)
        assert all((a == b).all() for a, b in zip(video.images, expected.images, strict=True))
        assert not np.array_equal(expected.indices, FrameRule("uniform", rule.n_frames).choose(np.arange(40)))


def test_sound_and_words_of_a_piece_are_those_of_the_piece_alone(predictor: ClipPredictor, tmp_path: Path) -> None:
    samples = voice(5.0)
    write_wav(tmp_path / "all.wav", samples, RATE)
    write_srt(tmp_path / "all.srt", [(0.2, 1.4, "oh no"), (1.8, 2.6, "how funny"), (4.4, 4.9, "dear me")])
    readings = list(predictor.read_windows(tmp_path / "all.wav", 2.0))
    assert [(reading.start, reading.end) for reading in readings] == [(0, 2), (2, 4), (4, 5)]
    for reading in readings:
        first, last = (int(second * RATE) for second in (reading.start, reading.end))
        write_wav(tmp_path / "own.wav", samples[first:last], RATE)
        own = predictor.read(tmp_path / "own.wav").features["audio"]
        np.testing.assert_array_equal(reading.features["audio"].tokens, own.tokens)
        np.testing.assert_array_equal(reading.features["audio"].time, own.time)
    words = [reading.features["textual"].time.tolist() if "textual" in reading.features else [] for reading in readings]
    assert words == [[pytest.approx(0.8)], [pytest.approx(0.2)], [pytest.approx(0.65)]]
    assert "has no video" in readings[0].absent["visual"]


def test_every_gives_a_row_a_piece(root: Path, checkpoint: Path, tmp_path: Path, run: Run) -> None:
    told = run("predict", root / "videos" / f"{CLIPS[0]}.mp4", "--model_path", checkpoint, "--device", "cpu",
               "--every", "0.5", "--csv", tmp_path / "out", n_workers=None)  # fmt: skip
    assert told.code == 0, told.said
    header, *rows = rows_of(tmp_path / "out" / "submission.csv")
    assert header == ["File_ID", "start", "end", *load_task("hume_reaction").targets]
    assert [row[:3] for row in rows] == [[CLIPS[0], "0.000", "0.500"], [CLIPS[0], "0.500", "1.000"]]
    assert np.ptp(np.array([row[3:] for row in rows], float), axis=0).max() > 1e-4


def test_the_page_shows_faces_timelines_and_what_failed(root: Path, checkpoint: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    videos = [root / "videos" / f"{clip}.mp4" for clip in CLIPS]
    told = run("predict", *videos, tmp_path / "broken.mp4", "--model_path", checkpoint, "--device", "cpu",
               "--every", "0.5", "--html", tmp_path / "page.html", n_workers=None)  # fmt: skip
    assert told.code == 3, told.said
    page = (tmp_path / "page.html").read_text()
    names = [*(f"{clip}.mp4" for clip in CLIPS), "broken.mp4", *load_task("hume_reaction").targets]
    lacking = "no subtitles of its name, none inside"
    for text in (*names, "cannot be opened as audio or video", "of 2 pieces of 0.5 s", lacking):
        assert text in page, text
    assert page.count("data:image/jpeg;base64,") >= 2 * 2 * N_FRAMES
    assert 'src="http' not in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.mp4", "page.html"]


# What goes wrong


def arguments(tmp_path: Path, checkpoint: Path) -> list[Any]:
    """The options of most tests below."""
    return ["--model_path", checkpoint, "--device", "cpu", "--csv", tmp_path / "out.csv"]


def test_a_bad_file_costs_a_line(root: Path, checkpoint: Path, tmp_path: Path, run: Run) -> None:
    write_coded(tmp_path / "faceless.mp4", 6)
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    (tmp_path / "empty.mp4").write_bytes(b"")
    write_video(tmp_path / "noise.mp4", coded_frames(8), 25, samples=0.1 * voice(1.0), rate=RATE)
    told = run(
        "predict", tmp_path, root / "videos" / f"{CLIPS[0]}.mp4", *arguments(tmp_path, checkpoint), n_workers=None
    )
    assert told.code == 3
    lines = told.said.splitlines()
    for said in (
        "broken.mp4: cannot be opened as audio or video", "empty.mp4: the file is empty",
        "faceless.mp4: holds nothing that the checkpoint can read (visual, FAU: no face in any of the 4 frames that "
        "were looked at; audio: no sound in it; textual: no subtitles of its name, none inside)",
    ):  # fmt: skip
        assert sum(line.startswith(said) for line in lines) == 1, (said, lines)
    assert [row[0] for row in rows_of(tmp_path / "out.csv")[1:]] == ["noise", CLIPS[0]]


@pytest.mark.parametrize("every", [[], ["--every", "0.1"]])
def test_nothing_but_bad_files(every: list[str], checkpoint: Path, tmp_path: Path, run: Run) -> None:
    write_coded(tmp_path / "faceless.mp4", 6)
    told = run("predict", tmp_path / "faceless.mp4", *every, *arguments(tmp_path, checkpoint), n_workers=None)
    assert told.code == 1
    assert told.said.splitlines()[-1] == "viper: error: predict: none of the 1 videos could be predicted"
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere.mp4"], "nowhere.mp4: no such video or folder"),
        (["empty"], "empty: no videos in it"),
        (["a.mp4", "other/a.mp4"], "would both be clip 'a'"),
        (["a.mp4", "--window", "2"], "--window 2: is for --every"),
        (["a.mp4", "--every", "0"], "--every 0: seconds, above 0"),
        (["a.mp4", "--every", "2", "--window", "nan"], "--window nan: seconds, above 0"),
        (["a.mp4", "--html", "page.csv"], "--html page.csv: give the page a name that ends in .html"),
        (["a.mp4", "--csv", "a.mp4/out.csv"], "cannot be written"),
        (["a.mp4", "--models", "visual"], "--models visual: must be NAME=MODEL"),
        (["a.mp4", "--models", "smell=x"], "--models smell: the checkpoint has no such modality"),
        (["a.mp4", "--subtitles", "nowhere"], "--subtitles nowhere: no such folder"),
        (["a.mp4", "--model_path", "empty"], "neither a checkpoint"),
        ([], "name at least one video"),
    ],
)
def test_mistakes_are_said_in_one_line(
    options: list[str], message: str, checkpoint: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "other"):
        (tmp_path / folder).mkdir()
    for name in ("a.mp4", "other/a.mp4"):
        (tmp_path / name).write_bytes(b"x")
    before = sorted(tmp_path.rglob("*"))
    model = [] if "--model_path" in options else ["--model_path", checkpoint]
    told = run("predict", *options, *model, "--device", "cpu", n_workers=None)
    assert told.code == 2
    assert message in told.said.splitlines()[-1]
    assert len(told.said.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_written_but_what_is_asked_for(
    root: Path, checkpoint: Path, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = Path(shutil.copytree(root / "videos", tmp_path / "videos"))
    before = sorted(tmp_path.rglob("*"))
    from viper.cli import run_command

    assert run_command("predict", [str(videos), "--model_path", str(checkpoint), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out.split("\n")
    assert shown[0].split() == ["video", *load_task("hume_reaction").targets]
    assert [line.split()[0] for line in shown[1:3]] == [f"{clip}.mp4" for clip in CLIPS]
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interruption_leaves_nothing(
    root: Path, checkpoint: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: ClipPredictor, path: Path, subtitles: Path | None = None) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(ClipPredictor, "read", interrupted)
    told = run("predict", root / "videos", *arguments(tmp_path, checkpoint), n_workers=None)
    assert told.code == 130
    assert told.said.splitlines()[-1] == "viper: error: interrupted; nothing was written"
    assert list(tmp_path.iterdir()) == []


def test_a_modality_that_cannot_be_had_is_left_out(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stores = {name: FeatureStore.open(root / name) for name in MODALITIES}
    model = write_run(root, tmp_path / "run")
    config = tmp_path / "run" / "perceiver_1" / "config.json"
    config.write_text(config.read_text().replace('"encoder": "logmel"', '"encoder": "a later one"'))
    with caplog.at_level(logging.WARNING, "viper"):
        predictor = ClipPredictor.load(model, device="cpu")
    assert predictor.unavailable == {
        "audio": "its features were made by an encoder 'a later one' that this version of viper lacks"
    }
    assert "audio is left out: its features were made by an encoder 'a later one'" in caplog.text
    reading = predictor.read(root / "videos" / f"{CLIPS[0]}.mp4", root / "subtitles")
    assert reading.absent == predictor.unavailable
    assert set(reading.features) == stores.keys() - {"audio"}


def test_a_checkpoint_of_before_the_record_takes_the_defaults(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = write_run(root, tmp_path / "run")
    path = tmp_path / "run" / "perceiver_1" / "config.json"
    config = json.loads(path.read_text())
    for spec in config["modalities"].values():
        for name in ("inputs", "input_folder", "command", "settings"):
            del spec["encoder"][name]
    path.write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING, "viper"):
        ClipPredictor.load(model, device="cpu")
    assert "visual, FAU: the checkpoint does not say how the pictures were made; the defaults of" in caplog.text
