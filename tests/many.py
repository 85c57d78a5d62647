"""Many small clips for every stage that maps over clips, and runs of the stages as processes one can kill."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest
from clips import RATE, pictures, voice, write_faces, write_frames, write_srt, write_wav
from media import write_coded

from viper.media.pictures import FACES_FILE
from viper.store import ENCODER_FILE

ROOT = Path(__file__).parents[1]
IS_LONG = os.environ.get("VIPER_LONG_TESTS") == "1"
long_test = pytest.mark.skipif(not IS_LONG, reason="a long test: make test-long")
BROKEN = "broken"
N_KINDS = 3

# Run by a process that has imported what is asked for, and has done nothing else: a fork of it starts in milliseconds,
# not in seconds, and has no threads or gradients of its parent's to stumble over.
_LAUNCHER = """
import importlib, json, os, resource, sys
sys.path[:0] = json.loads(sys.argv[2])
for module in json.loads(sys.argv[1]):
    importlib.import_module(module)
from viper import cli
import torch

torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if isinstance(request, int):
        print(os.waitstatus_to_exitcode(os.waitpid(request, 0)[1]), flush=True)
        continue
    command, arguments, log, largest_file, environment = request
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        os.dup2(2, 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(environment)
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        code = 0
        try:
            module, _, function = command.rpartition(":")
            if module:
                getattr(importlib.import_module(module), function)(*arguments)
            else:
                cli.main(command, arguments)
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 99
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    print(child, flush=True)
"""
EXTRACTING = (
    "viper.commands.crop_images", "viper.commands.get_frame", "viper.commands.extract_features", "viper.engine.device",
    "skimage.feature", "viper.encoders.image", "viper.encoders.hog",
    *(("facenet_pytorch", "librosa.core.spectrum", "librosa.feature.spectral") if IS_LONG else ()),
)  # fmt: skip
TRAINING = ("viper.commands.train_perceiver", "viper.training.loop", "viper.fusion.perceiver", "viper.inference.stored")


@dataclass(frozen=True)
class Stage:
    """A command, and what it is given: the folder its clips are in, and its options."""

    command: str
    make: Callable[[Path, int], None]
    options: tuple[str, ...]
    input_option: str = "--input_folder"

    def arguments(self, inputs: Path, output: Path, *options: object) -> list[str]:
        given = (self.input_option, inputs, "--output_folder", output, *self.options, *options)
        return [str(argument) for argument in given]


def _link(source: Path, target: Path) -> None:
    """Gives a file, or the files of a folder, another name: a thousand clips take the disk of a few."""
    if source.is_dir():
        target.mkdir()
        for file in source.iterdir():
            os.link(file, target / file.name)
    else:
        os.link(source, target)


def _spread(folder: Path, kinds: list[Path], n: int) -> None:
    for number in range(n):
        _link(kinds[number % len(kinds)], folder / f"{number}{kinds[0].suffix}")


def make_videos(folder: Path, n: int) -> None:
    """Videos of 30 to 90 frames, and one that is broken."""
    kinds = [write_coded(folder.parent / f"kind{i}.mp4", 30 * (i + 1), 25) for i in range(N_KINDS)]
    _spread(folder, kinds, n)
    (folder / f"{BROKEN}.mp4").write_bytes(kinds[0].read_bytes()[:600])


def make_frames(folder: Path, n: int) -> None:
    """Clips of four frames, and one whose third is broken."""
    kinds = [write_frames(folder.parent / f"kind{i}", pictures(4, seed=i, height=72, width=96)) for i in range(N_KINDS)]
    _spread(folder, kinds, n)
    write_frames(folder / BROKEN, pictures(4))
    (folder / BROKEN / "frame_2.jpg").write_bytes(b"no picture")


def make_faces(folder: Path, n: int) -> None:
    """Crops of four frames with landmarks, and one clip with a broken record."""
    points = [np.array([[30, 30], [66, 30], [48, 45], [34, 58], [62, 58]]) + shift for shift in range(4)]
    kinds = [write_faces(folder.parent / f"kind{i}", pictures(4, i, 72, 96), points) for i in range(N_KINDS)]
    _spread(folder, kinds, n)
    write_faces(folder / BROKEN, pictures(4), points)
    (folder / BROKEN / FACES_FILE).write_text("{")


def make_sounds(folder: Path, n: int) -> None:
    """Sounds of two to four seconds, and one that is none."""
    kinds = [folder.parent / f"kind{i}.wav" for i in range(N_KINDS)]
    for i, path in enumerate(kinds):
        write_wav(path, voice(2.0 + i, seed=i), RATE)
    _spread(folder, kinds, n)
    (folder / f"{BROKEN}.wav").write_bytes(b"RIFF")


def make_subtitles(folder: Path, n: int) -> None:
    """Subtitles of a few cues, and a file that is too large to be any."""
    kinds = [folder.parent / f"kind{i}.srt" for i in range(N_KINDS)]
    for i, path in enumerate(kinds):
        write_srt(path, [(k, k + 0.9, f"word {k} of kind {i} and many others") for k in range(20 * (i + 1))])
    _spread(folder, kinds, n)
    with (folder / f"{BROKEN}.srt").open("wb") as file:
        file.truncate(17 << 20)


# Batches of a clip each, so that what a clip is encoded with does not depend on where a run was stopped.
STAGES = {
    "get_frame": Stage("get_frame", make_videos, ("--n_frames", "8")),
    "crop_images": Stage("crop_images", make_frames, ("--batch_size", "4", "--device", "cpu")),
    "visual": Stage(
        "extract_visual_features", make_frames, ("--model_name", "hog", "--batch_size", "4", "--device", "cpu")
    ),
    "FAU": Stage(
        "extract_FAU_features", make_faces, ("--model_name", "landmarks", "--batch_size", "4", "--device", "cpu")
    ),
    "audio": Stage(
        "extract_audio_features", make_sounds, ("--model_name", "logmel", "--n_fragments", "8", "--device", "cpu")
    ),
    "textual": Stage(
        "extract_textual_features", make_subtitles, ("--model_name", "hashed", "--device", "cpu"), "--subtitles"
    ),
}


# What holds for every stage: the quick suite proves it for one that only has host work, and one with a device.
TRIED = tuple(STAGES) if IS_LONG else ("get_frame", "visual")


class Launcher:
    """Starts commands as processes of their own, each in a session (and process group) of its own.

    `modules` are imported beforehand.
    """

    def __init__(self, folder: Path, modules: Sequence[str] = EXTRACTING) -> None:
        self._folder = folder
        self._logs: dict[int, Path] = {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, json.dumps(modules), json.dumps(sys.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self._line() == "ready"

    def __enter__(self) -> Launcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait(timeout=60)
        self._process.stdout.close()  # type: ignore[union-attr]

    def start(self, command: str, arguments: list[str], largest_file: int = 0, **environment: str) -> int:
        """Starts a command, or a function named "module:function"; its process.

        Its writes beyond `largest_file` bytes of a file fail, as on a full disk.
        """
        log = self._folder / str(len(self._logs))
        process = self._ask([command, arguments, str(log), largest_file, environment])
        self._logs[process] = log
        return process

    def together(self, command: str, arguments: list[str], n: int = 2) -> list[str]:
        """Runs n processes that know of each other, as torchrun starts them; what each has said."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        shared = {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        processes = [self.start(command, arguments, RANK=str(k), LOCAL_RANK=str(k), **shared) for k in range(n)]
        codes = [self.wait(process) for process in processes]
        said = [self.said(process) for process in processes]
        assert codes == [0] * n, "\n".join(said)[-3000:]
        return said

    def wait(self, process: int) -> int:
        """The exit code of a process that was started; negative: the signal that ended it. To be asked once of each."""
        return self._ask(process)

    def said(self, process: int) -> str:
        """What a process has said."""
        return self._logs[process].read_text()

    def run(self, command: str, arguments: list[str], largest_file: int = 0) -> tuple[int, str]:
        """Exit code and what was said."""
        process = self.start(command, arguments, largest_file)
        return self.wait(process), self.said(process)

    def _ask(self, request: object) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the launcher of commands has ended"
        return line


def is_running(process: int) -> bool:
    """Whether a process that was started has not ended (Linux)."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def session_members(session: int) -> list[int]:
    """The processes of a session (Linux)."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] not in "ZX":
                members.append(int(entry.name))
    return members


def wait_for_end(session: int, seconds: float = 60.0) -> None:
    """Waits until the workers of a killed process are gone too, as they have to be once they have started."""
    deadline = time.monotonic() + seconds
    while session_members(session):
        assert time.monotonic() < deadline, "workers outlive the process that started them"
        time.sleep(0.02)


def content(folder: Path) -> dict[str, bytes]:
    """What is in all files of a folder, hidden and temporary ones too; but not the lock of failures.csv, nor what
    encoder.json records of what was typed where.
    """
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): _content(path) for path in files}


def _content(path: Path) -> bytes:
    if path.name != ENCODER_FILE:
        return path.read_bytes()
    record = json.loads(path.read_text())
    return json.dumps(
        {name: value for name, value in record.items() if name not in ("command", "input_folder")}
    ).encode()


def n_done(folder: Path) -> int:
    """Clips that are done."""
    if not folder.is_dir():
        return 0
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sum(1 for path in entries if path.is_dir() or path.suffix == ".safetensors")
