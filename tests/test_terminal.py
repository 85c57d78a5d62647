"""Nothing that a file, a name or a message holds steers the terminal, or a log that is shown on one."""

from __future__ import annotations

import ast
import copy
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import planted
import pytest
from many import IS_LONG, Launcher

import viper
from viper.errors import one_line, printable, unbroken
from viper.store import ENCODER_FILE

# A title, a cleared screen, both ends of the 8-bit controls, an overwritten line, a line of ours, a reversed one.
STEERING = "\x1b]0;title\x07\x1b[2J\x9b31m\x90q\x9c\rgood\nviper: error: forged\x0b\x7f\u202eabc\u2066\u200b"
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b]")
TEXT = "😀 👨‍👩‍👧 表情　感情 é é می‌خواهم עברית C:\\new\\x1b 50% {} %s $(x) «a» a b"


def assert_harmless(said: str | bytes) -> None:
    """No control but line breaks and tabs, no line that somebody else wrote."""
    text = said if isinstance(said, str) else said.decode()
    assert not STEERS.findall(text), ascii(text)
    assert not [line for line in text.splitlines() if line.startswith("viper: error: forged")], text
    assert "Traceback" not in text


def test_what_is_shown_and_what_is_escaped() -> None:
    assert printable(TEXT) == unbroken(TEXT) == TEXT
    assert printable("a\nb\tc") == "a\nb\tc"
    assert unbroken("a\nb\tc") == r"a\nb\tc"
    assert printable("\x1b\x9b\r\u202e\udce9\x00") == r"\x1b\x9b\r\u202e\udce9\x00"
    assert one_line("C:\\new\n  \x1b[2J") == "C:\\new \\x1b[2J"


def goes_round_the_guard(node: ast.AST) -> str:
    """What is wrong with a statement; empty where nothing is."""
    if isinstance(node, ast.Call):
        call = ast.unparse(node.func)
        if call == "print" or re.search(r"\bstd(out|err)(\.buffer)?\.write|\bos\.write$", call):
            return f"{call}; say it by viper.logs.say or log"
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
    is_bar = any(name.split(".")[0] == "tqdm" for name in names)
    return "imports tqdm; viper.logs.progress_bar is the bar" if is_bar else ""


def test_only_the_log_prints() -> None:
    """Where text leaves is one place; nobody goes round the guard that stands there."""
    package = Path(viper.__file__).parent
    wrong = [
        f"{path.relative_to(package)}:{node.lineno}: {problem}"  # type: ignore[attr-defined]
        for path in sorted(package.rglob("*.py"))
        if path.name != "logs.py" and re.search(r"print\(|tqdm|\.write\(", text := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if (problem := goes_round_the_guard(node))
    ]
    assert not wrong, "\n".join(wrong)


def on_a_terminal(*command: str, **environment: str) -> bytes:
    """Runs a process on a terminal of its own; what the terminal was sent."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env={**os.environ, **environment}
    )
    os.close(theirs)
    sent = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        sent += part
    os.close(ours)
    process.wait(timeout=60)
    return sent.replace(b"\r\n", b"\n")


EVERY_WAY = """
import logging, sys, warnings
from viper.logs import guard_terminal, log, progress_bar, say, start_logging
text = sys.argv[1]
guard_terminal()
guard_terminal()
start_logging()
say(f"said {text}", "second")
print(f"printed {text}")
sys.stdout.writelines([f"lines {text}", chr(10)])
log.warning("logged %s, %r, %d, %.1f %s", text, text, 3, 0.5, ValueError(text))
log.warning(f"filled in {text}")
try:
    raise ValueError(text)
except ValueError:
    log.exception("caught")
logging.getLogger("other").error(text)
warnings.warn(text)
for _ in progress_bar([1, 2], text, mininterval=0):
    log.info("within %s", text)
raise RuntimeError(text)
"""


def test_no_way_to_print_steers_a_terminal() -> None:
    text = STEERING.replace("\n", " ")
    sent = on_a_terminal(sys.executable, "-c", EVERY_WAY, text, TERM="xterm").decode()
    assert "2/2" in sent, "there was a bar, which moves the cursor"
    for name in ("said", "printed", "lines", "logged", "filled in", "within", "RuntimeError: "):
        assert f"{name} {printable(text)}" in sent.replace("RuntimeError:", "RuntimeError: "), name
    assert not STEERS.findall(sent.replace("\r", "").replace("\x1b[A", "")), ascii(sent)
    assert sent.count("\r") < 40
    assert "\rgood" not in sent


def test_help_has_its_colours_unless_an_argument_brings_its_own() -> None:
    script = "import sys; from viper.cli import main; main(None, sys.argv[1:])"
    assert b"\x1b[" in on_a_terminal(sys.executable, "-c", script, "tasks", "--help", TERM="xterm")
    assert_harmless(on_a_terminal(sys.executable, "-c", script, "tasks", "--oh", f"--{STEERING}", TERM="xterm"))
    assert_harmless(on_a_terminal(sys.executable, "-c", script, STEERING, TERM="xterm"))


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> planted.Planted:
    """A data set whose files hold, wherever they may hold any text, what steers a terminal."""
    there = planted.plant(tmp_path_factory.mktemp("poisoned"))
    there.card.write_text(there.card.read_text() + f"description: {json.dumps(STEERING)}\n")
    path = there.root / "visual" / ENCODER_FILE
    record = json.loads(path.read_text())
    record |= dict.fromkeys(("encoder", "model", "source", "input_folder", "command"), STEERING)
    record |= {name: {STEERING: STEERING} for name in ("options", "versions", "settings", "inputs")}
    path.write_text(json.dumps(record))
    (there.root / "visual" / "failures.csv").write_text(
        f'clip,stage,error,message\n500,visual,"{STEERING}","{STEERING}"\n"{STEERING}",visual,E,m\n', newline=""
    )
    header, *rows = there.manifest.read_text().splitlines()
    there.manifest.write_text(f'{header},"{STEERING}"\n' + "".join(f'{row},"{STEERING}"\n' for row in rows), newline="")
    return there


@pytest.fixture(scope="module")
def poisoned_run(trainings: Launcher, poisoned: planted.Planted) -> Path:
    """A run trained on it."""
    run = poisoned.root / "run"
    code, said = trainings.run("train_perceiver", [
        "--csv_path", str(poisoned.manifest), "--task", str(poisoned.card), *poisoned.inputs("visual"), "--device",
        "cpu", "--output_checkpoint_folder", str(run), "--preset", "tiny", "--n_epochs", "1",
    ])  # fmt: skip
    # Features of another identity than the folder's are refused, feature by feature; the folder's is said.
    assert_harmless(said)
    assert code == 2, said
    return run


def test_a_training_on_poisoned_files(trainings: Launcher, poisoned: planted.Planted, tmp_path: Path) -> None:
    store = poisoned.root / "audio" / ENCODER_FILE  # what is only for the record: the features are the folder's
    record = json.loads(store.read_text())
    record |= dict.fromkeys(("model", "input_folder", "command"), STEERING)
    record |= {name: {STEERING: STEERING} for name in ("versions", "settings", "inputs")}
    store.write_text(json.dumps(record))
    folder = tmp_path / f"run {STEERING.replace('/', '')}"
    code, said = trainings.run("train_perceiver", [
        "--csv_path", str(poisoned.manifest), "--task", str(poisoned.card), *poisoned.inputs("audio"), "--device",
        "cpu", "--output_checkpoint_folder", str(folder), "--preset", "tiny", "--n_epochs", "1",
    ])  # fmt: skip
    assert code == 0, said
    assert_harmless(said)
    assert_harmless((folder / "train.log").read_text())


@pytest.mark.parametrize("command", ["tasks", "status", "submission_creation"])
def test_commands_on_poisoned_files(command: str, trainings: Launcher, poisoned: planted.Planted) -> None:
    arguments = {
        "tasks": [str(poisoned.card)],
        "status": ["--csv_path", str(poisoned.manifest), "--features", f"visual={poisoned.root / 'visual'}",
                   "--features", f"x={poisoned.root / STEERING}"],
        "submission_creation": ["--csv_path", str(poisoned.manifest), "--model_path", STEERING, "--output_path", "x",
                                *poisoned.inputs()],
    }[command]  # fmt: skip
    code, said = trainings.run(command, arguments)
    assert_harmless(said)
    assert code == {"tasks": 0, "status": 1, "submission_creation": 2}[command], said


Place = tuple[Any, ...]


def places(value: Any, path: Place = ()) -> Iterator[Place]:
    """Where a JSON document has text or could have some; a key as (key,)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, (key,))
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))
    else:
        yield path


def poison(value: Any, place: Place) -> Any:
    value = inner = copy.deepcopy(value)
    for step in place[:-1]:
        inner = inner[step]
    if isinstance(place[-1], tuple):
        (key,) = place[-1]
        inner[f"{key}{STEERING}"] = inner.pop(key)
    else:
        inner[place[-1]] = f"{inner[place[-1]]}{STEERING}"
    return value


SOME_PLACES: list[Place] = [
    ("task", "targets", 0), ("task", "name"), ("modalities", ("visual",)), ("preset",),
    ("modalities", "visual", "encoder", "source"),
    ("modalities", "visual", "encoder", ("model",)),
]  # fmt: skip


def test_a_poisoned_checkpoint(trainings: Launcher, tmp_path: Path) -> None:
    there = planted.plant(tmp_path / "data")
    there.model("tokens").save_pretrained(tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    for place in list(places(config)) if IS_LONG else SOME_PLACES:
        (tmp_path / "run" / "config.json").write_text(json.dumps(poison(config, place)))
        code, said = trainings.run("submission_creation", [
            "--csv_path", str(there.manifest), "--model_path", str(tmp_path / "run"), "--output_path",
            str(tmp_path / "s.csv"), *there.inputs(),
        ])  # fmt: skip
        assert_harmless(said)
        assert code in ((0, 2) if IS_LONG else (2,)), (place, said)
        if code == 2:  # one error, none that is forged; the log may have said something before
            assert [line for line in said.splitlines() if line.startswith("viper: error:")] == said.splitlines()[-1:]
