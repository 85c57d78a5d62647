"""The pipeline on real synthetic videos: all stages, nothing done twice, only what changed done again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from checkpoints import write_timesformer
from csv_files import rows_of
from many import long_test
from miniatures import write_v2v

from viper.cli import run_command
from viper.demo import make_dataset
from viper.errors import UserError
from viper.evaluation import confusion
from viper.files import read_json
from viper.media import pictures as frames
from viper.store import FeatureStore

CARD = {
    "csv_path": "manifest.csv",
    "videos": "videos",
    "output": "work",
    "subtitles": "subtitles",
    "device": "cpu",
    "n_workers": 0,
    "frames": {"n_frames": 3},
    "features": {
        "visual": {"model_name": "hog"},
        "audio": {"model_name": "logmel", "n_fragments": 3},
        "textual": {"model_name": "hashed"},
        "FAU": {"model_name": "landmarks"},
        "tone": {"command": "audio", "model_name": "logmel", "n_fragments": 2},
    },
    "train": {"n_epochs": 2, "preset": "tiny", "learning_rate": "1e-3", "batch_size": 4},
    "report": {"n_resamples": 20},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight short clips, taken through the whole pipeline once."""
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder, 4, 2, 2, n_workers=1, seconds=0.7)
    (folder / "data.yaml").write_text(yaml.safe_dump(CARD))
    with pytest.MonkeyPatch.context() as patch:
        _leave_out_pictures(patch)
        assert run_command("pipeline", [str(folder / "data.yaml")]) == 0
    return folder


def _leave_out_pictures(patch: pytest.MonkeyPatch) -> None:
    """Of each target; they take most of the time, and the overview is drawn by the same code."""
    save_png = confusion.save_png
    patch.setattr(confusion, "matrix_figure", lambda matrix: None)
    patch.setattr(confusion, "save_png", lambda figure, path: figure and save_png(figure, path))


def _stamps(folder: Path) -> dict[str, int]:
    # Locks and the list of failures are touched without anything being done again.
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")
    }  # fmt: skip


def test_everything_is_made(data: Path) -> None:
    work = data / "work"
    assert [row["File_ID"] for row in rows_of(work / "submission.csv")] == ["[10007]", "[10008]"]
    assert (work / "confusion" / "confusion_overview.png").is_file()
    assert read_json(work / "report" / "report.json")["clips"] == ["10005", "10006"]
    config = yaml.safe_load((work / "run" / "config.yaml").read_text())
    assert list(config["encoders"]) == ["visual", "audio", "textual", "FAU", "tone"]
    # A checkpoint may be given away, with how its features are made, but not with where they were.
    kept = read_json(work / "run" / "best" / "config.json")["modalities"]["visual"]["encoder"]
    assert (kept["command"], kept["input_folder"], kept["inputs"]["sampling"]["n_frames"]) == ("", "", 3)
    assert config["encoders"]["visual"]["command"]
    for name, n_tokens in (("visual", 3), ("audio", 3), ("tone", 2), ("FAU", 3)):
        feature = FeatureStore.open(work / "features" / name).read("10003")
        assert len(feature.mask) == n_tokens
        assert feature.mask.all()
    cues = FeatureStore.open(work / "features" / "textual").read("10003")
    assert cues.mask.all()
    assert not list(work.rglob(".tmp-*"))


def test_a_second_run_does_nothing_and_a_change_only_what_follows_from_it(data: Path) -> None:
    # Brings up to date what another test may have left behind.
    assert run_command("pipeline", [str(data / "data.yaml")]) == 0
    before = _stamps(data / "work")
    assert run_command("pipeline", [str(data / "data.yaml")]) == 0
    assert _stamps(data / "work") == before

    (data / "data.yaml").write_text(yaml.safe_dump({**CARD, "submission": {"split": "Val"}}))
    assert run_command("pipeline", [str(data / "data.yaml")]) == 0
    after = _stamps(data / "work")
    changed = {path for path in after if before.get(path) != after[path]}
    assert changed == {"submission.csv", "pipeline.json"}

    feature = data / "work" / "features" / "FAU" / "10002.safetensors"
    feature.write_bytes(feature.read_bytes()[:-8])
    (data / "data.yaml").write_text(yaml.safe_dump(CARD))
    assert run_command("pipeline", [str(data / "data.yaml")]) == 0
    repaired = _stamps(data / "work")
    changed = {
        path for path in repaired if after.get(path) != repaired[path] and path.startswith(("features", "frames"))
    }
    assert changed == {"features/FAU/10002.safetensors"}


@long_test
def test_another_video_under_the_same_name_is_done_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _leave_out_pictures(monkeypatch)
    before = _stamps(data / "work")
    video = data / "videos" / "10001.mp4"
    original = video.read_bytes()
    video.write_bytes((data / "videos" / "10004.mp4").read_bytes())
    try:
        assert run_command("pipeline", [str(data / "data.yaml")]) == 0
    finally:
        video.write_bytes(original)
    after = _stamps(data / "work")
    changed = {path for path in after if before.get(path) != after[path]}
    assert {f"features/{name}/10001.safetensors" for name in ("visual", "audio", "FAU", "tone")} <= changed
    assert not any("/10002" in path for path in changed)
    assert "run/metrics.csv" in changed
    assert "submission.csv" in changed


def test_each_picture_is_decoded_once_for_all_modalities(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    read_image = frames.read_image

    def counting(path: Path) -> np.ndarray:
        read.append(path)
        return read_image(path)

    monkeypatch.setattr(frames, "read_image", counting)
    config = data / "together.yaml"
    card = {**CARD, "output": "together", "subtitles": None, "submission": False, "confusion": False, "report": False}
    card["features"] = {"visual": {"model_name": "hog"}, "age": {"command": "visual", "model_name": "hog"},
                        "FAU": {"model_name": "landmarks"},
                        "motion": {"command": "visual", "model_name": str(write_timesformer(tmp_path / "video"))},
                        }  # fmt: skip
    config.write_text(yaml.safe_dump(card))
    assert run_command("pipeline", [str(config)]) == 0
    pictures = {path for path in read if path.parts[-3] == "faces"}
    assert len(pictures) == 8 * 3
    assert sum(path.parts[-3] == "faces" for path in read) == len(pictures)
    for name in ("visual", "FAU"):
        alone = FeatureStore.open(data / "work" / "features" / name)
        together = FeatureStore.open(data / "together" / "features" / name)
        assert alone.clips() == together.clips()
        for clip in alone.clips()[1:]:  # the first is another video's there, by the test before
            assert np.array_equal(alone.read(clip).tokens, together.read(clip).tokens)

    motion = FeatureStore.open(data / "together" / "features" / "motion")
    assert (motion.info.encoder, [motion.read(clip).tokens.shape for clip in motion.clips()]) == (
        "video",
        [(1, 32)] * 8,
    )

    # One clip of one modality is missing: only that one is made, and the pictures of no other clip are looked at.
    read.clear()
    (data / "together" / "features" / "age" / "10003.safetensors").unlink()
    before = _stamps(data / "together" / "features")
    assert run_command("pipeline", [str(config)]) == 0
    after = _stamps(data / "together" / "features")
    assert {path for path in after if before.get(path) != after[path]} == {"age/10003.safetensors"}
    assert {path.parts[-2] for path in read} == {"10003"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": "x"}, r"unknown key 'video'; did you mean videos\?"),
        ({"videos": None}, "the key 'videos' is missing"),
        ({"frames": {"nframes": 3}}, r"frames has no option 'nframes'; did you mean n_frames\?"),
        ({"features": {"visual": {"model": "hog"}}}, "features.visual has no option 'model'"),
        ({"features": {"depth": {}}}, "features.depth: say which command makes it"),
        ({"features": {}}, "the key 'features' is missing"),
        ({"train": {"n_epochs": "many"}}, "data.yaml: train.n_epochs must be a whole number, not 'many'"),
        ({"train": {"preset": "huge"}}, "data.yaml: train.preset must be tiny, small, base or paper, not 'huge'"),
        ({"frames": {"shard": "1/2"}}, "frames has no option 'shard'"),
        ({"features": {"visual": {"model_name": "hog", "shard": "1/2"}}}, "features.visual has no option 'shard'"),
        ({"train": {"csv_path": "x"}}, "train has no option 'csv_path'"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(tmp_path: Path, change: dict[str, object], message: str) -> None:
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({**CARD, **change}))
    with pytest.raises(UserError, match=message):
        run_command("pipeline", [str(tmp_path / "data.yaml")])
    assert not (tmp_path / "work").exists()


def test_init_writes_a_file_that_parses_and_spares_one_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    assert run_command("pipeline", [str(path), "--init"]) == 0
    text = path.read_text()
    # It names every section, and running it complains of nothing but the missing videos.
    with pytest.raises(UserError, match="videos: no such folder"):
        run_command("pipeline", [str(path)])
    with pytest.raises(UserError, match="already exists"):
        run_command("pipeline", [str(path), "--init"])
    assert path.read_text() == text
    with pytest.raises(UserError, match="--init"):
        run_command("pipeline", [str(tmp_path / "none.yaml")])


def test_some_failed_clips_end_in_exit_code_3(tmp_path: Path) -> None:
    make_dataset(tmp_path, 3, 2, 1, n_workers=1, seconds=0.5)
    (tmp_path / "videos" / "10001.mp4").write_bytes(b"no video at all")
    features = {"visual": {"model_name": "hog"}, "audio": {"model_name": "logmel", "n_fragments": 2}}
    quick = {"train": {"n_epochs": 1, "preset": "tiny"}, "confusion": False, "report": False}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({**CARD, "subtitles": None, "features": features, **quick}))
    assert run_command("pipeline", [str(tmp_path / "data.yaml")]) == 3
    for folder in ("frames", "features/audio"):
        assert [row["clip"] for row in rows_of(tmp_path / "work" / folder / "failures.csv")] == ["10001"]
    assert (tmp_path / "work" / "submission.csv").is_file()


def test_other_preferences_are_trained_on_again(tmp_path: Path) -> None:
    write_v2v(tmp_path / "v2v", 16, 4, 2)
    made = ["v2v", "--source", tmp_path / "v2v", "--output", tmp_path / "v2v.csv", "--pipeline", tmp_path / "v2v.yaml"]
    options = ["--clips_folder", tmp_path / "clips", "--features", "hog"]
    assert run_command("prepare", [str(argument) for argument in [*made, *options]]) == 0
    card = yaml.safe_load((tmp_path / "v2v.yaml").read_text())
    card |= {
        "frames": {"n_frames": 2},
        "train": CARD["train"],
        "n_workers": 0,
        "device": "cpu",
        "confusion": False,
        "report": False,
    }
    (tmp_path / "v2v.yaml").write_text(yaml.safe_dump(card))
    assert run_command("pipeline", [str(tmp_path / "v2v.yaml")]) == 0
    before = _stamps(tmp_path / "v2v_work")
    preferences = tmp_path / "v2v_preferences.csv"
    header, first, *others = preferences.read_text().splitlines()
    less, more, *_ = first.split(",")
    preferences.write_text("\n".join([header, f"{more},{less}", *others]) + "\n")
    assert run_command("pipeline", [str(tmp_path / "v2v.yaml")]) == 0
    after = _stamps(tmp_path / "v2v_work")
    assert {"run/summary.json", "submission.csv"} <= {path for path in after if before[path] != after[path]}
    assert not any(path.startswith(("frames", "features/visual/0")) for path in after if before[path] != after[path])
