"""Standard streams that are closed, full, unread or not UTF-8: no traceback, and the exit code of the work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from many import IS_LONG, long_test

from viper.cli import COMMANDS

# What a shell says, and the exit codes of: something that works, help, wrong usage.
STREAMS = {"2>&-": (0, 0, 2), ">&-": (0, 0, 2), "<&- >&- 2>&-": (0, 0, 2), "2>/dev/full": (0, 0, 2),
           "| true": (0, 0, 2), ">/dev/full": (1, 1, 2)}  # fmt: skip
TRIED = STREAMS if IS_LONG else ("2>&-", ">&-", "| true", ">/dev/full")


def _shell(arguments: str, streams: str, **environment: str) -> tuple[int, str, str]:
    """Exit code of viper, and what came out of the shell."""
    line = f"set -o pipefail; '{sys.executable}' -m viper.cli {arguments} {streams}"
    given = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=given | environment, timeout=120)
    return done.returncode, done.stdout.decode("latin-1"), done.stderr.decode("latin-1")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("streams", TRIED)
@pytest.mark.parametrize("kind", [0, 1, 2] if IS_LONG else [0, 2], ids=("works", "help", "wrong") if IS_LONG else None)
def test_streams_that_cannot_be_used(kind: int, streams: str) -> None:
    code, out, err = _shell(("tasks", "tasks --help", "tasks nope")[kind], streams)
    assert code == STREAMS[streams][kind], out + err
    assert "Traceback" not in out + err
    assert "Exception ignored" not in err
    if kind == 2:  # what went wrong is not mixed into results
        assert "viper: error" not in out
        assert len(err.splitlines()) == (0 if "2>" in streams else 1)
    elif streams == ">/dev/full":
        assert err.startswith("viper: error: output: No space left on device")
        assert len(err.splitlines()) == 1
    else:
        assert err == ""


def test_files_never_take_the_number_of_a_closed_stream() -> None:
    """Whatever a library says by itself would be written into them."""
    code = "import os; from viper.streams import settle_streams; settle_streams(); print(os.open(os.devnull, 0))"
    done = subprocess.run(["bash", "-c", f"'{sys.executable}' -c '{code}' <&- 2>&-"], capture_output=True, check=True)
    assert int(done.stdout) > 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"] if IS_LONG else ["ascii"])
def test_letters_that_the_terminal_lacks(encoding: str) -> None:
    code, out, err = _shell("tasks 喜び.yaml", "", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert code == 2
    assert err.startswith("viper: error: ")
    assert "\\u559c\\u3073.yaml" in err, err
    commands = ["", *COMMANDS] if IS_LONG else ["tasks"]
    for command in commands:
        code, out, err = _shell(f"{command} --help", "", PYTHONIOENCODING=encoding)
        assert (code, err) == (0, "")
        assert out.isascii()


@long_test
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", "| true", "2>/dev/full"])
def test_help_of_every_command(command: str, streams: str) -> None:
    code, shown, said = _shell(f"{command} --help", streams)
    assert (code, said) == (0, "")
    assert shown.startswith("usage: viper") == (streams == "2>/dev/full")
