"""What is the same, byte for byte, whatever the number of threads and workers and the batch; and how near the rest is.

docs/trust.md, "Same bytes", says the same. Frames and features without weights: all of it. What networks make (MTCNN's
crops among it), and models that are trained: the same for the same threads and batches, by which sums are split.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from csv_files import rows_of
from many import long_test
from planted import WIDTHS, plant
from safetensors.numpy import load_file

from viper.demo import Identity, write_clip
from viper.files import read_json
from viper.store import ENCODER_FILE

SAME = 1e-5  # of the largest number: what another batch or number of threads may change in a network's features
WEIGHT_FREE: dict[str, tuple[str, list[str]]] = {
    "hog": ("visual", ["--input_folder", "faces", "--model_name", "hog"]),
    "landmarks": ("FAU", ["--input_folder", "faces", "--model_name", "landmarks"]),
    "logmel": ("audio", ["--input_folder", "videos", "--model_name", "logmel", "--n_fragments", "4"]),
    "acoustic": ("audio", ["--input_folder", "videos", "--model_name", "acoustic", "--n_fragments", "4"]),
    "hashed": ("textual", ["--subtitles", "subtitles", "--model_name", "hashed"]),
}
NETWORKS: dict[str, tuple[str, list[str]]] = {
    "vit": ("visual", ["--input_folder", "faces", "--model_name", "models/vit"]),
    "resnet": ("visual", ["--input_folder", "faces", "--model_name", "models/resnet"]),
    "videomae": ("visual", ["--input_folder", "faces", "--model_name", "models/videomae"]),
    "xvector": ("audio", ["--input_folder", "videos", "--model_name", "models/xvector", "--n_fragments", "4"]),
    "wav2vec2": ("audio", ["--input_folder", "videos", "--model_name", "models/wav2vec2", "--n_fragments", "4"]),
    "roberta": ("textual", ["--subtitles", "subtitles", "--model_name", "models/roberta"]),
    "prompts": ("textual", ["--input_folder", "faces", "--model_name", "models/roberta",
                            "--clip_model", "models/clip"]),
}  # fmt: skip
# Threads, workers, batch size (0: the default one), and whether a network's features must be the same, too.
SETTINGS = [(1, 2, 0, True), (2, 0, 0, False), (3, 1, 0, False), (4, 0, 0, False), (1, 0, 1, False), (2, 2, 3, False)]
# Run by a process for each setting, as users have them.
_COMMANDS = """
import json, sys
from viper.cli import run_command
for each in json.loads(sys.argv[1]):
    print(run_command(*each))
"""


def _run(root: Path, threads: int, commands: list[tuple[str, list[str]]]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment |= {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", _COMMANDS, json.dumps(commands)],
        cwd=root, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert set(done.stdout.split()) == {"0"}, done.stderr[-3000:]


def _commands(out: str, workers: int, batch: int) -> list[tuple[str, list[str]]]:
    shared = ["--n_workers", str(workers)]
    on_device = [*shared, "--device", "cpu", *(["--batch_size", str(batch)] if batch else [])]
    frames, faces = f"{out}/frames", f"{out}/faces"
    found = [
        ("get_frame", ["--input_folder", "videos", "--output_folder", frames, "--n_frames", "4", *shared]),
        ("crop_images", ["--input_folder", frames, "--output_folder", faces, *on_device]),
    ]
    for name, (modality, options) in (WEIGHT_FREE | NETWORKS).items():
        output = ["--output_folder", f"{out}/features/{name}", "--precision", "float32"]
        found.append((f"extract_{modality}_features", [*options, *output, *on_device]))
    inputs = [part for name in WIDTHS for part in (f"--{name}_features_input_folder", f"planted/{name}")]
    data = ["--csv_path", "planted/manifest.csv", *inputs, "--device", "cpu"]
    training = ["--task", "planted/task.yaml", "--preset", "tiny", "--n_epochs", "2"]
    found.append(("train_perceiver", [*data, *training, "--output_checkpoint_folder", f"{out}/run"]))
    answers = [*data, "--model_path", "run", *(["--batch_size", str(batch)] if batch else [])]
    found.append(("submission_creation", [*answers, "--output_path", f"{out}/submission.csv"]))
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips with words, crops, networks, a run; and what one thread without workers makes of them, in `1-0-0`."""
    folder = tmp_path_factory.mktemp("same_bytes")
    for name in ("videos", "subtitles", "models"):
        (folder / name).mkdir()
    for k in range(3):
        words = folder / "subtitles" / f"{k}.srt"
        person = Identity.from_seed(k)
        write_clip(folder / "videos" / f"{k}.mp4", {"Fear": 0.4}, person, k, 1 + k / 3, subtitles=words)
    writers: dict[str, Callable[[Path], Any]] = {
        "vit": checkpoints.write_vit, "resnet": checkpoints.write_resnet, "videomae": checkpoints.write_videomae,
        "xvector": checkpoints.write_xvector, "wav2vec2": checkpoints.write_wav2vec2,
        "roberta": checkpoints.write_roberta, "clip": checkpoints.write_open_clip,
    }  # fmt: skip
    for name, write in writers.items():
        write(folder / "models" / name)
    plant(folder / "planted")
    before = _commands("before", 0, 0)
    crops = [("get_frame", before[0][1]), ("crop_images", before[1][1])]
    training = next(arguments for name, arguments in before if name == "train_perceiver")
    _run(folder, 1, [*crops, ("train_perceiver", [part.replace("before/run", "run") for part in training])])
    (folder / "before" / "faces").rename(folder / "faces")
    _run(folder, 1, _commands("1-0-0", 0, 0))
    return folder


def _bytes(folder: Path) -> dict[str, bytes]:
    """Every file but the records of what was typed."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ENCODER_FILE)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@long_test
@pytest.mark.parametrize(("threads", "workers", "batch", "is_all_same"), SETTINGS)
def test_what_is_the_same_for_any_threads_workers_and_batches(
    root: Path, threads: int, workers: int, batch: int, is_all_same: bool
) -> None:
    name = f"{threads}-{workers}-{batch}"
    _run(root, threads, _commands(name, workers, batch))
    one, other = root / "1-0-0", root / name
    for part in ("frames", *(f"features/{encoder}" for encoder in WEIGHT_FREE), *(["faces"] if is_all_same else [])):
        assert _bytes(one / part) == _bytes(other / part), part
        assert _bytes(one / part)
    # MTCNN is a network, too: a box may move by a hair.
    found = [[read_json(path) for path in sorted(made.glob("faces/*/faces.json"))] for made in (one, other)]
    for before, after in zip(*found, strict=True):
        for a, b in zip(before["frames"], after["frames"], strict=True):
            assert (a["index"], a["found"]) == (b["index"], b["found"])
            if a["found"]:
                np.testing.assert_allclose(b["landmarks"], a["landmarks"], rtol=0, atol=0.02)
    for encoder in NETWORKS:
        a, b = one / "features" / encoder, other / "features" / encoder
        if is_all_same:
            assert _bytes(a) == _bytes(b), encoder
        for path in sorted(a.glob("*.safetensors")):
            before, after = load_file(path), load_file(b / path.name)
            np.testing.assert_array_equal(before["mask"], after["mask"])
            np.testing.assert_array_equal(before["time"], after["time"])
            largest = np.abs(before["tokens"]).max()
            np.testing.assert_allclose(after["tokens"], before["tokens"], rtol=0, atol=SAME * largest)
    weights = [(folder / "run" / "perceiver_2" / "model.safetensors") for folder in (one, other)]
    scores = [np.array(_numbers(folder / "run" / "metrics.csv")) for folder in (one, other)]
    if threads == 1:  # training has a batch size of its own, and no workers
        assert weights[0].read_bytes() == weights[1].read_bytes()
        assert (one / "run" / "metrics.csv").read_bytes() == (other / "run" / "metrics.csv").read_bytes()
    np.testing.assert_allclose(scores[1], scores[0], rtol=0, atol=1e-3)
    answers = [np.array(_numbers(folder / "submission.csv")) for folder in (one, other)]
    if is_all_same:
        assert (one / "submission.csv").read_bytes() == (other / "submission.csv").read_bytes()
    np.testing.assert_allclose(answers[1], answers[0], rtol=0, atol=1e-6)


def _numbers(path: Path) -> list[list[float]]:
    """The columns of a CSV that hold numbers only."""
    rows = rows_of(path)
    names = [name for name in rows[0] if all(_is_number(row[name]) for row in rows)]
    return [[float(row[name]) for name in names] for row in rows]


def _is_number(cell: str) -> bool:
    try:
        return np.isfinite(float(cell)).item()
    except ValueError:
        return False
