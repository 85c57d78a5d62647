"""The command line: help, versions, wrong usage, stopping."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from many import long_test

import viper
from viper.cli import COMMANDS, parse, run_command
from viper.commands.convert import arguments_of
from viper.demo import write_video
from viper.logs import command_line, shell_line

SCRIPTS = Path(viper.__file__).parents[1] / "scripts"


def _viper(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "viper.cli", *arguments], capture_output=True, text=True, timeout=120)


def test_overview_lists_every_command_and_is_quick_to_import() -> None:
    answer = _viper("--help")
    assert answer.returncode == 0
    for name in COMMANDS:
        assert f"  {name} " in answer.stdout
    assert _viper().returncode == 2
    check = "import sys, viper.cli; assert not {'torch', 'transformers', 'pandas'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_version_everywhere() -> None:
    for arguments in (["--version"], ["get_frame", "--version"]):
        answer = _viper(*arguments)
        assert (answer.returncode, answer.stdout.strip()) == (0, f"viper {viper.__version__}")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_names_every_option_as_published(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = COMMANDS[name]
    options = getattr(importlib.import_module(f"viper.commands.{command.module}"), command.options)
    with pytest.raises(SystemExit) as stop:
        parse(name, ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(options):
        if "Positional" not in str(field.type):
            assert re.search(rf"--{field.name}\b", text), field.name
    # Every option says what it is: a line of help is more than its name and its default.
    assert text.count("(default") + text.count("(required)") + text.count("(repeatable)") >= len(
        [field for field in dataclasses.fields(options) if field.name != "config"]
    )


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_scripts_are_the_commands(name: str) -> None:
    text = (SCRIPTS / f"{name}.py").read_text()
    assert f'main("{name}")' in text
    assert len(text.splitlines()) < 10


def test_a_script_runs_its_command() -> None:
    script = subprocess.run(
        [sys.executable, str(SCRIPTS / "get_frame.py"), "--help"], capture_output=True, text=True, timeout=60
    )
    command = _viper("get_frame", "--help")
    assert script.returncode == 0
    assert script.stdout.replace("get_frame.py", "viper get_frame") == command.stdout


def test_booleans_have_both_spellings_of_no() -> None:
    folders = ["--input_folder", "a", "--output_folder", "b"]
    assert parse("get_frame", folders).incremental is True
    assert parse("get_frame", [*folders, "--incremental"]).incremental is True
    assert parse("get_frame", [*folders, "--no-incremental"]).incremental is False
    assert parse("get_frame", [*folders, "--no_incremental"]).incremental is False
    training = ["--csv_path", "m.csv", "--output_checkpoint_folder", "r", "--visual", "--no-FAU"]
    options = parse("train_perceiver", [*training, "--features", "a=b", "--features", "c=d"])
    assert (options.visual, options.FAU, options.features) == (True, False, ["a=b", "c=d"])


# What each command needs, and options of every type.
TYPED = {
    "get_frame": "--input_folder a --output_folder 'b c' --n_frames 3 --sampling events --plot --no-incremental",
    "crop_images": "--input_folder a --output_folder b --margin 0.25 --no_face skip",
    "extract_visual_features": "--input_folder a --output_folder b --layer -2 --columns x y",
    "extract_audio_features": "--output_folder b --fragment_seconds 1.5 --from_files c",
    "extract_textual_features": "--output_folder b --subtitles s --offline",
    "extract_FAU_features": "--output_folder b --model_name landmarks",
    "train_perceiver": "--csv_path m --output_checkpoint_folder r --no-visual --features a=b --features c=d "
    "--preset tiny --learning_rate 0.0001 --report_to tensorboard wandb",
    "submission_creation": "--csv_path m --model_path r",
    "confusion_matrix": "--csv_path m --model_path r --output_path c --split Test",
    "predict": "a.mp4 b.mp4 --model_path r --every 2.0",
    "tasks": "mosi v2v",
    "report": "--run r --output_path o --compare a b",
    "status": "--csv_path m --features visual=a --verify",
}


@pytest.mark.parametrize("name", TYPED)
def test_options_can_be_written_as_they_are_typed(name: str) -> None:
    options = parse(name, shlex.split(TYPED[name]))
    again = arguments_of(options)
    assert parse(name, again) == options
    assert sorted(again) == sorted(shlex.split(TYPED[name]))


def test_wrong_usage_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    unknown = _viper("get_frames")
    assert unknown.returncode == 2
    assert "did you mean get_frame?" in unknown.stderr
    missing = _viper("get_frame", "--input_folder", str(tmp_path))
    assert missing.returncode == 2
    assert "--output_folder" in missing.stderr
    empty = _viper("get_frame", "--input_folder", str(tmp_path), "--output_folder", str(tmp_path / "o"))
    assert empty.returncode == 2
    assert len(empty.stderr.strip().splitlines()) == 1
    assert "no videos in it" in empty.stderr
    for answer in (unknown, missing, empty):
        assert "Traceback" not in answer.stderr


def test_an_output_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "a.mp4", np.zeros((3, 32, 32, 3), np.uint8), 25)
    (tmp_path / "frames").write_text("in the way")
    answer = _viper(
        "get_frame", "--input_folder", str(tmp_path / "videos"), "--output_folder", str(tmp_path / "frames")
    )
    assert answer.returncode == 1
    (line,) = answer.stderr.splitlines()
    assert str(tmp_path / "frames") in line
    assert (tmp_path / "frames").read_text() == "in the way"


# A terminal's Ctrl-C reaches the workers too, and so do some schedulers' signals.
@pytest.mark.parametrize(
    ("signal_number", "to_all"),
    [
        (signal.SIGINT, True),
        (signal.SIGTERM, False),
        pytest.param(signal.SIGTERM, True, marks=long_test),
    ],
)
def test_a_stopped_stage_says_so_keeps_what_is_done_and_goes_on(
    tmp_path: Path, signal_number: signal.Signals, to_all: bool
) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 240, 320, 3), dtype=np.uint8)
    write_video(tmp_path / "videos" / "000.mp4", noise, 25)
    content = (tmp_path / "videos" / "000.mp4").read_bytes()
    for number in range(1, 300):
        (tmp_path / "videos" / f"{number:03d}.mp4").write_bytes(content)
    command = [sys.executable, "-m", "viper.cli", "get_frame", "--input_folder", str(tmp_path / "videos"),
               "--output_folder", str(tmp_path / "frames"), "--n_frames", "40", "--n_workers", "2"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("frames/[0-9]*/frames.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if to_all:
        os.killpg(process.pid, signal_number)
    else:
        process.send_signal(signal_number)
    asked = time.monotonic()
    _, errors = process.communicate(timeout=30)  # its end comes when the last worker is gone too
    assert time.monotonic() - asked < 10
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "interrupted; what was finished is kept" in errors.strip().splitlines()[-1]
    done = {path.parent.name for path in tmp_path.glob("frames/[0-9]*/frames.json")}
    assert 0 < len(done) < 300
    assert all(len(list((tmp_path / "frames" / clip).glob("*.jpg"))) == 40 for clip in done)
    assert not list((tmp_path / "frames").glob(".tmp-*"))


def test_the_command_that_runs_is_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a command that another one runs, as the demo does."""
    recorded: list[str] = []

    def run(options: object) -> int:
        recorded.append(command_line())
        return 0 if recorded[1:] else run_command("tasks", ["mosi"])

    monkeypatch.setattr("viper.commands.tasks.run", run)
    assert run_command("tasks", ["a task"]) == 0
    assert recorded == ["viper tasks 'a task'", "viper tasks mosi"]
    assert command_line() == ""


NAMES = [
    "a b",
    "it's",
    'q"uo',
    "-dash",
    "--output_folder",
    "喜び",
    "line\nbreak",
    "$(touch pwned)",
    "a\tb\\n",
    "\udcff",
]


def test_commands_that_are_printed_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    line = shell_line(["printf", "%s\\0", *map(Path, NAMES), *NAMES])
    assert "\n" not in line
    said = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, check=True).stdout
    printed = os.fsdecode(said).split("\0")[:-1]
    assert [Path(each) for each in printed[: len(NAMES)]] == [Path(each) for each in NAMES]
    assert printed[len(NAMES) :] == NAMES
    assert not any(each.startswith("-") for each in printed[: len(NAMES)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_options_are_written_so_that_no_name_is_taken_for_an_option(name: str) -> None:
    options = parse("get_frame", ["--input_folder", "a", "--output_folder", f"./{name}"])
    assert options.output_folder == Path(name)
    assert parse("get_frame", arguments_of(options)) == options
    options = parse("extract_visual_features", ["--output_folder", "a", f"--model_name={name}"])
    assert parse("extract_visual_features", arguments_of(options)) == options


@long_test
@pytest.mark.parametrize("name", ["-my data's.yaml", *(each for each in NAMES if "-" not in each)])
def test_the_command_that_a_stage_proposes_runs(name: str, tmp_path: Path) -> None:
    said = _viper("pipeline", str(tmp_path / name), "--init").stderr
    (tmp_path / name).rename(tmp_path / "kept")
    proposed = said.split("then: ")[1].strip().replace("viper pipeline", f"{sys.executable} -m viper.cli pipeline")
    (command,) = re.findall("`(.*)`", subprocess.run(["bash", "-c", proposed], capture_output=True, text=True).stderr)
    proposed = command.replace("viper pipeline", f"{sys.executable} -m viper.cli pipeline")
    assert subprocess.run(["bash", "-c", proposed], capture_output=True).returncode == 0
    assert (tmp_path / name).read_text() == (tmp_path / "kept").read_text()
