"""A user's own encoder: the page that explains it is run, and so is every mistake one may make."""

from __future__ import annotations

import copy
import json
import pickle
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from clips import pictures, write_frames, write_srt, write_wav
from conftest import Outcome, Run
from csv_files import rows_of, write_rows
from many import IS_LONG, long_test

from viper import encoders, predict_clip
from viper.cli import run_command
from viper.demo.media import write_video
from viper.encoders.registry import recorded_encoder
from viper.encoders.user_encoder import is_own, load_own
from viper.engine.device import choose_runtime
from viper.engine.failures import read_failures
from viper.errors import ClipError, UserError
from viper.media.sound import Sound, read_sound
from viper.store import Feature, FeatureStore

PAGE = Path(__file__).parents[2] / "docs" / "add_an_encoder.md"
RATE = 16000
N_CLIPS = 36
CARD = {"name": "loud", "kind": "regression", "targets": ["level"], "range": [0, 1]}
TRAINING = ["--task", "loud.yaml", "--preset", "tiny", "--n_epochs", "2", "--device", "cpu"]

START = "import numpy as np\nfrom viper import Encoder, EncoderInfo, Feature\n"
SMALL = f"""{START}
class Small(Encoder):
    modality = "small"
    reads = "sound"

    def info(self):
        return EncoderInfo("small", self.modality, width=1)

    def load(self, sound):
        return len(sound.samples)

    def encode(self, samples, batch_size):
        return [Feature.make([[n / 100]]) for n in samples]
"""


def _block(language: str) -> str:
    """The page's block of a language; where there are several, one after the other."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == (2 if language == "sh" else 1)
    return "".join(blocks)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page's commands are run: sounds, a manifest of how loud they are, its card, and the page's encoder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [["File_ID", "Split", "level"]]
    for number in range(N_CLIPS):
        level = float(rng.uniform())
        samples = rng.normal(size=RATE // 4) * 10 ** (level - 2)
        write_wav(tmp_path / "videos" / f"{number}.wav", samples.astype(np.float32), RATE)
        rows.append([f"[{number}]", ("Train", "Train", "Val", "Test")[number % 4], f"{level:.4f}"])
    write_rows(tmp_path / "manifest.csv", rows)
    (tmp_path / "loud.yaml").write_text(yaml.safe_dump(CARD))
    (tmp_path / "loudness.py").write_text(_block("python"))
    picture = np.zeros((16, 16, 3), np.uint8)
    loud = rng.normal(size=RATE // 4).astype(np.float32) * 0.1
    write_video(tmp_path / "new.mp4", [picture] * 5, 20, samples=loud, rate=RATE)
    return tmp_path


def _run_page() -> None:
    """The page's commands, in its order."""
    for line in _block("sh").replace("\\\n", " ").splitlines():
        program, command, *arguments = shlex.split(line)
        assert program == "viper"
        more = {
            "train_perceiver": TRAINING, "extract_audio_features": ["--n_workers", "2"], "predict": ["--device", "cpu"],
        }.get(command, [])  # fmt: skip
        assert run_command(command, [*arguments, *more]) == 0


def _pearson_on_test(submission: Path) -> float:
    true = {row["File_ID"]: float(row["level"]) for row in rows_of(Path("manifest.csv"))}
    pairs = [(true[row["File_ID"]], float(row["level"])) for row in rows_of(submission)]
    assert len(pairs) == N_CLIPS // 4
    return float(np.corrcoef(np.array(pairs).T)[0, 1])


def test_the_encoder_of_the_page_is_short_and_leads_to_a_submission(folder: Path) -> None:
    assert len(_block("python").splitlines()) < 40
    _run_page()
    store = FeatureStore.open("features/loudness")
    assert len(store.clips()) == N_CLIPS
    assert (store.info.encoder, store.info.modality, store.info.source) == ("loudness", "loudness", "sound")
    assert store.info.model == "loudness.py:Loudness"
    assert store.info.options["arguments"] == {"n_fragments": 8}
    assert is_own(store.info)
    feature = store.read("3")
    assert feature.tokens.shape == (8, 2)
    # Of noise of deviation s, 10 log10 of its square has a mean of 20 log10 s - 5.5 and a deviation of 9.6 decibels.
    level = float(rows_of(Path("manifest.csv"))[3]["level"])
    assert feature.tokens.mean(axis=0) == pytest.approx([20 * (level - 2) - 5.5, 9.6], abs=0.6)
    assert feature.time == pytest.approx((np.arange(8) + 0.5) * 0.25 / 8, abs=1e-3)
    assert _pearson_on_test(Path("submissions/loudness.csv")) > 0.95
    (row,) = rows_of(Path("new.csv"))
    # Its deviation is .1, that of a level of 1.
    assert (row["File_ID"], float(row["level"])) == ("new", pytest.approx(1, abs=0.3))
    _check_new_videos(folder)


def _check_new_videos(folder: Path) -> None:
    """One goes through the encoder where the user names it again, and it is the one the features were made with."""
    named = {"loudness": "loudness.py:Loudness"}
    row = rows_of(Path("submissions/loudness.csv"))[0]
    video = folder / "videos" / f"{row['File_ID'].strip('[]')}.wav"
    predicted = predict_clip(video, "runs/loudness", models=named, device="cpu")
    assert predicted["level"] == pytest.approx(float(row["level"]), abs=1e-4)
    with pytest.raises(UserError, match=r"own encoder, loudness\.py:Loudness; give --models NAME=FILE\.py:Class"):
        predict_clip(video, "runs/loudness", device="cpu")
    with pytest.raises(UserError, match=r"--models NAME=loudness\.py:Quiet: there is no class Quiet"):
        predict_clip(video, "runs/loudness", models={"loudness": "loudness.py:Quiet"}, device="cpu")
    (folder / "loudness.py").write_text(_block("python") + "# changed\n")
    with pytest.raises(UserError, match=r"the encoder here does not match .* \(source_code"):
        predict_clip(video, "runs/loudness", models=named, device="cpu")


def test_the_pipeline_takes_it_relative_to_its_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = {
        "csv_path": "manifest.csv", "task": "loud.yaml", "videos": "videos", "output": "work", "device": "cpu",
        "n_workers": 0, "train": {"preset": "tiny", "n_epochs": 2}, "confusion": False, "report": False,
        **yaml.safe_load(_block("yaml")),
    }  # fmt: skip
    (folder / "data.yaml").write_text(yaml.safe_dump(card))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run_command("pipeline", ["../data.yaml"]) == 0
    before = Path("../work/run/summary.json").stat().st_mtime_ns
    assert run_command("pipeline", ["../data.yaml"]) == 0
    assert Path("../work/run/summary.json").stat().st_mtime_ns == before
    monkeypatch.chdir(folder)
    assert _pearson_on_test(Path("work/submission.csv")) > 0.95
    model = json.loads(Path("work/run/best/config.json").read_text())
    assert list(model["modalities"]) == ["loudness"]


def _extract(
    run: Run, name: str = "own.py:Small", *more: Any, command: str = "audio", source: str = "videos"
) -> Outcome:
    inputs = ["--subtitles" if command == "textual" else "--input_folder", source]
    options = ["--output_folder", "out", "--model_name", name, "--device", "cpu"]
    return run(f"extract_{command}_features", *inputs, *options, *more)


def test_what_is_there_stays_and_changed_code_is_refused(folder: Path, run: Run) -> None:
    (folder / "own.py").write_text(SMALL)
    assert "36 done, 0 already there" in _extract(run).said
    (folder / "out" / "7.safetensors").unlink()
    assert "1 done, 35 already there" in _extract(run).said
    # Under another path, and so another module, it is the same encoder.
    (folder / "again").mkdir()
    (folder / "again" / "copied.py").write_text(SMALL)
    assert "0 done, 36 already there" in _extract(run, "again/copied.py:Small").said
    (folder / "own.py").write_text(SMALL.replace("n / 100", "n / 50"))
    outcome = _extract(run)
    assert outcome.code == 2
    assert "made by another encoder (source_code" in outcome.said
    assert FeatureStore.open(folder / "out").read("7").tokens[0, 0] == pytest.approx(40)


ALL_CONTENTS = f"""{START}
from dataclasses import dataclass


@dataclass
class Sample:
    values: list
    times: list


class Base(Encoder):
    modality = "mine"
    factor = None

    def prepare(self, runtime):
        self.factor = 10.0

    def info(self):
        return EncoderInfo("mine", self.modality, 1, {{"factor": self.factor}})

    def encode(self, samples, batch_size):
        assert self.factor == 10.0
        return [Feature.make(self.factor * np.array(s.values)[:, None], None, s.times) for s in samples]


class Brightness(Base):
    reads = "frames"

    def load(self, frames):
        assert self.factor is None  # `prepare` is for what encodes
        return Sample([image.mean() for image in frames.images], frames.times)


class Words(Base):
    reads = "subtitles"

    def load(self, cues):
        cues = cues or []
        return Sample([len(cue.text.split()) for cue in cues] or [0], [cue.start for cue in cues] or [0])
"""


@pytest.mark.parametrize("n_workers", [0, 2] if IS_LONG else [2])
def test_encoders_of_frames_and_of_subtitles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, n_workers: int
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(ALL_CONTENTS)
    for clip in ("1", "2"):
        write_frames(tmp_path / "frames" / clip, pictures(3, seed=int(clip)))
        write_srt(tmp_path / "words" / f"{clip}.srt", [(0, 1, "one two"), (2, 3, "three")])
    for command in ("visual", "FAU", "textual"):
        source, name = ("words", "Words") if command == "textual" else ("frames", "Brightness")
        # FAU's own encoders want face crops; these are pictures without a record of where they come from.
        if command == "FAU":
            for record in (tmp_path / "frames").rglob("frames.json"):
                record.unlink()
        more = ["--n_workers", n_workers, "--output_folder", tmp_path / command]
        outcome = _extract(run, f"own.py:{name}", *more, command=command, source=source)
        assert outcome.code == 0, outcome.said
        assert f"extract_{command}_features: 2 done" in outcome.said
    bright = FeatureStore.open(tmp_path / "visual").read("1")
    assert bright.tokens[:, 0] == pytest.approx([10 * image.mean() for image in pictures(3, seed=1)], abs=20)
    assert bright.time == pytest.approx([0, 0.1, 0.2])
    words = FeatureStore.open(tmp_path / "textual").read("2")
    assert (words.tokens[:, 0].tolist(), words.time.tolist()) == ([20, 10], [0, 2])
    assert FeatureStore.open(tmp_path / "textual").info.options["factor"] == 10.0


def test_another_process_runs_the_code_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(SMALL)
    encoder = load_own(f"{path}:Small", {}, "sound")
    sent = pickle.dumps(encoder)
    path.write_text("raise SystemExit")
    for name in [name for name in sys.modules if name.startswith("viper_own_")]:
        del sys.modules[name]
    received = pickle.loads(sent)
    assert received.info() == encoder.info()
    assert received.load(Sound(np.zeros(300), RATE, 0.0)) == 300
    (feature,) = received.encode([300], 1)
    assert feature.tokens.tolist() == [[3]]


def test_a_subclass_of_one_of_vipers_takes_its_options(folder: Path, run: Run) -> None:
    (folder / "own.py").write_text(
        "import numpy as np\n"
        "from viper import EncoderInfo\n"
        "from viper.encoders.windows import MeasuringEncoder\n\n"
        "class Peak(MeasuringEncoder):\n"
        "    width = 1\n"
        "    def info(self):\n"
        "        return EncoderInfo('peak', self.modality, self.width, self.options)\n"
        "    def cut(self, sound, bounds):\n"
        "        return [np.abs(sound.samples[a:b]).max(keepdims=True) for a, b in bounds]\n"
    )
    assert _extract(run, "own.py:Peak", "--n_fragments", 5, "--fragment_seconds", 0.01).code == 0
    store = FeatureStore.open(folder / "out")
    assert store.info.options["arguments"] == {"n_fragments": 5, "fragment_seconds": 0.01}
    assert store.read("0").tokens.shape == (5, 1)


WRONG: dict[str, tuple[str, Callable[[str], str], str]] = {
    "no file": ("nowhere.py:Small", str, "there is no file nowhere.py"),
    "no class said": ("own.py", str, "say which class of the file it is: FILE.py:Class"),
    "no class": ("own.py:Large", str, "there is no class Large in it"),
    "no encoder": ("own.py:np", str, "np is not a subclass of viper.Encoder"),
    "a method missing": (
        "own.py:Small",
        lambda code: code.replace("def encode", "def other").replace("def info", "def another"),
        "Small lacks encode, info",
    ),
    "no modality": ("own.py:Small", lambda c: c.replace('modality = "small"', ""), "Small must say its modality"),
    "reads nothing": ("own.py:Small", lambda c: c.replace('"sound"', '"noise"'), "Small must say what it reads"),
    "reads frames": (
        "own.py:Small",
        lambda c: c.replace('"sound"', '"frames"'),
        "Small reads frames, but would get sound here; use extract_visual_features",
    ),
    "wants what there is not": (
        "own.py:Small",
        lambda c: c.replace("    def info", "    def __init__(self, gain): ...\n\n    def info"),
        "Small wants gain, which is no option here; give it a default",
    ),
    "a slip of the pen": ("own.py:Small", lambda c: c.replace("def load(", "def load"), "own.py, line 11: SyntaxError"),
    "an import": (
        "own.py:Small",
        lambda c: c.replace("import numpy", "import nowhere, numpy"),
        "own.py, line 1: ModuleNotFoundError: No module named 'nowhere'",
    ),
    "prepare raises": (
        "own.py:Small",
        lambda c: c + "\n    def prepare(self, runtime):\n        open('weights.pt')\n",
        "own.py, line 18: FileNotFoundError",
    ),
    "info": (
        "own.py:Small",
        lambda c: c.replace("width=1", "width=1.5"),
        "info must answer an EncoderInfo whose width",
    ),
    "options": (
        "own.py:Small",
        lambda c: c.replace("width=1", "width=1, options={'x': Encoder}"),
        "info answers options that JSON cannot hold",
    ),
    "too few features": (
        "own.py:Small",
        lambda c: c.replace("in samples]", "in samples[1:]]"),
        "own.py:Small: encode answered 15 features for 16 clips",
    ),
    "another width": (
        "own.py:Small",
        lambda c: c.replace("[[n / 100]]", "[[n, n]]"),
        "own.py:Small: encode answered tokens of width 2, and info says 1",
    ),
    "arrays": ("own.py:Small", lambda c: c.replace("Feature.make", "np.array"), "encode must answer a list of Feature"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line(case: str, folder: Path, run: Run) -> None:
    name, spoil, message = WRONG[case]
    assert spoil is str or spoil(SMALL) != SMALL
    (folder / "own.py").write_text(spoil(SMALL))
    outcome = _extract(run, name)
    assert outcome.code == 2
    (line,) = [line for line in outcome.said.splitlines() if "error" in line.lower()]
    assert line.startswith("viper: error: ")
    assert message in line
    assert "Traceback" not in outcome.said


@pytest.mark.parametrize("n_workers", [0, 2] if IS_LONG else [0])
def test_an_error_of_one_clip_costs_that_clip(folder: Path, run: Run, n_workers: int) -> None:
    write_wav(folder / "videos" / "short.wav", np.zeros(160, np.float32), RATE)
    write_wav(folder / "videos" / "odd.wav", np.zeros(1600, np.float32), RATE)
    code = SMALL.replace("return len(sound.samples)", "return 1 // (len(sound.samples) - 160) + len(sound.samples)")
    code = code.replace("return [F", "assert 1600 not in samples, 'odd'\n        return [F")
    (folder / "own.py").write_text(code)
    outcome = _extract(run, "own.py:Small", "--n_workers", n_workers)
    assert outcome.code == 3
    failures = {failure.clip: f"{failure.error}: {failure.message}" for failure in read_failures(folder / "out")}
    assert failures == {
        "odd": "ClipError: own.py, line 15: AssertionError: odd",
        "short": "ClipError: own.py, line 12: ZeroDivisionError: integer division or modulo by zero",
    }
    assert len(FeatureStore.open(folder / "out").clips()) == N_CLIPS


def test_what_it_answers_is_stored_as_features_are(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    bare = "[Feature(np.full((1, 1), n), np.ones(1, int), np.zeros(1)) for n in samples]"
    path.write_text(re.sub(r"\[Feature.make.*", bare, SMALL))
    encoder = load_own(f"{path}:Small", {}, "sound")
    encoder.prepare(choose_runtime("cpu"))
    (feature,) = encoder.encode([3.0], 1)
    assert isinstance(feature, Feature)
    assert [array.dtype.name for array in (feature.tokens, feature.mask, feature.time)] == [
        "float32",
        "bool",
        "float32",
    ]
    with pytest.raises(ClipError, match="not finite"):
        encoder.encode([np.inf], 1)
    assert copy.copy(encoder).info() == encoder.info()


def test_no_data_names_a_file_to_be_run(folder: Path, run: Run) -> None:
    """Only an option does: a store that names one, and a checkpoint trained on it, are read without running it."""
    (folder / "own.py").write_text(SMALL)
    assert _extract(run).code == 0
    (folder / "own.py").write_text("open('ran', 'w')")
    assert run_command("train_perceiver", ["--csv_path", "manifest.csv", "--features", "small=out",
                                           "--output_checkpoint_folder", "run", *TRAINING]) == 0  # fmt: skip
    assert run_command("export", ["--features_input_folder", "out", "--output_folder", "npy", "--format", "npy"]) == 0
    assert not (folder / "ran").exists()


def test_fau_knows_its_own_models(folder: Path, run: Run) -> None:
    write_frames(folder / "crops" / "1", pictures(1))
    (folder / "crops" / "1" / "frames.json").unlink()
    outcome = _extract(run, "openface", command="FAU", source="crops")
    assert outcome.code == 2
    assert "--model_name openface: must be multitask or landmarks" in outcome.said


@pytest.fixture
def part_of_viper(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's file in a folder that counts as viper/encoders."""
    (folder / "encoders").mkdir()
    (folder / "loudness.py").rename(folder / "encoders" / "loudness.py")
    monkeypatch.setattr(encoders, "__path__", [*encoders.__path__, str(folder / "encoders")])
    yield
    sys.modules.pop("viper.encoders.loudness", None)
    vars(encoders).pop("loudness", None)


def test_the_same_file_in_vipers_folder_is_part_of_viper(
    folder: Path, part_of_viper: None, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _extract(run, "loudness", "--n_fragments", 4).code == 0
    store = FeatureStore.open(folder / "out")
    assert (store.info.encoder, store.info.modality, store.info.options) == ("loudness", "loudness", {"n_fragments": 4})
    assert not is_own(store.info)
    encoder = recorded_encoder(store.info, choose_runtime("cpu", "float32"))
    (feature,) = encoder.encode([encoder.load(read_sound(folder / "videos" / "3.wav"))], 1)
    np.testing.assert_array_equal(feature.tokens, store.read("3").tokens)
    capsys.readouterr()
    run_command("doctor", ["--offline"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.split()[:2] == ["loudness", "loudness"]]
    assert line.split()[2:4] == ["yes", "Turns"]
    # A picture's command does not offer it, nor another modality's an encoder of its own.
    write_frames(folder / "frames" / "1", pictures(1))
    said = _extract(run, "loudness", command="visual", source="frames").said
    assert "--model_name loudness: reads sound, not frames; use extract_audio_features" in said
    assert "--model_name hog: must be wavlm-base-plus-sv, " in _extract(run, "hog").said


def test_the_names_of_encoders_are_known_without_what_they_need() -> None:
    code = (
        "import sys; from viper.encoders.registry import registered; assert registered()\n"
        "print([name for name in ('torch', 'transformers', 'open_clip', 'feat', 'sklearn') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_a_missing_content_is_said(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SMALL)
    with pytest.raises(UserError, match="Small reads sound, but would get subtitles here"):
        load_own(f"{tmp_path / 'own.py'}:Small", {}, "subtitles")


@long_test
def test_it_is_sent_to_the_processes_of_ray(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'viper[ray]'")
    monkeypatch.setenv("PYTHONPATH", str(PAGE.parents[1]))
    outcome = _extract(run, "loudness.py:Loudness", "--n_fragments", 4, "--engine", "ray")
    assert outcome.code == 0, outcome.said
    assert FeatureStore.open("out").read("3").tokens.shape == (4, 2)
