"""Fixtures of all tests: tiny checkpoints, made once a session, and commands run in this process."""

from __future__ import annotations

import os

# Before any import of a library that would ask a hub: nothing here may touch a network.
os.environ["HF_HUB_OFFLINE"] = "1"

import atexit
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

# What viper remembers of files goes into a cache folder of the tests' own; xdist's workers inherit it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # The fonts found on this machine may stay known, which takes seconds otherwise.
    os.environ.setdefault("MPLCONFIGDIR", str(Path(caches) / "matplotlib"))
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="viper-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# pytest puts tests/ on the path, where transformers would take the folder tests/datasets for the library datasets.
if (_found := importlib.util.find_spec("datasets")) is not None and _found.origin is None:
    sys.modules["datasets"] = None  # type: ignore[assignment]

import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import checkpoints
import pytest
from browser import browser, chromium  # noqa: F401  fixtures
from many import TRAINING, Launcher

from viper import cli
from viper.encoders.multitask import import_py_feat
from viper.errors import UserError
from viper.offline import VARIABLES

# With `--dist loadfile --no-loadscope-reorder` files are given out whole, in the order in which they are collected:
# those that take longest first; otherwise one process is still at work on the last while the others wait.
HEAVIEST = (
    "web/test_demo_page_served.py", "engine/test_ray.py", "training/test_train.py", "commands/test_up_to_date.py",
    "datasets/test_datasets_end_to_end.py", "training/test_resume.py", "engine/test_kill.py",
    "training/test_preferences.py", "training/test_parallel.py", "report/test_page_browser.py",
    "commands/test_pipeline.py", "engine/test_disk.py", "demo/test_demo.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the heaviest files first."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(HEAVIEST)}
    items.sort(key=lambda item: places.get(item.path, len(HEAVIEST)))


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code, and what it wrote on standard error."""

    code: int
    said: str


Run = Callable[..., Outcome]


@pytest.fixture(autouse=True, scope="session")
def _listen_to_signals() -> None:
    """A shell's background jobs ignore SIGINT, nohup's SIGHUP, and what they start inherits that: tests would hang."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _as_offline_as_before() -> Iterator[None]:
    """What --offline says to a process stays said."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def log_as_before() -> Iterator[None]:
    """Commands set up the log, which is the process's: afterwards it is as it was."""
    log = logging.getLogger("viper")
    before = log.handlers, log.level, log.propagate
    yield
    log.handlers, log.level, log.propagate = before


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], log_as_before: None) -> Any:
    """`run(command, *arguments)`: the viper command, in this process and without workers.

    `n_workers=None` for a command that has no such option.
    """
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}

    def run_command(command: str, *arguments: Any, n_workers: int | None = 0) -> Outcome:
        capsys.readouterr()
        given = [str(argument) for argument in arguments]
        if n_workers is not None and "--n_workers" not in given:
            given += ["--n_workers", str(n_workers)]
        with pytest.raises(SystemExit) as stop:
            cli.main(command, given)
        return Outcome(int(stop.value.code or 0), capsys.readouterr().err)

    yield run_command
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Commands as processes that can be killed."""
    with Launcher(tmp_path_factory.mktemp("launcher")) as launcher:
        yield launcher


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Trainings as processes that can be killed, or that share the work."""
    with Launcher(tmp_path_factory.mktemp("trainings"), TRAINING) as launcher:
        yield launcher


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """An empty folder for a test's videos."""
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A place for a checkpoint of that name."""
    root = tmp_path_factory.mktemp("checkpoints")
    return lambda name: root / name


@pytest.fixture(scope="session")
def vit(folder_of: Callable[[str], Path]) -> Path:
    """A ViTModel and its processor."""
    return checkpoints.write_vit(folder_of("vit"))


@pytest.fixture(scope="session")
def vit_classifier(folder_of: Callable[[str], Path]) -> Path:
    """A ViTForImageClassification, which has no pooler."""
    return checkpoints.write_vit_classifier(folder_of("vit_classifier"))


@pytest.fixture(scope="session")
def xvector(folder_of: Callable[[str], Path]) -> Path:
    """A WavLMForXVector."""
    return checkpoints.write_xvector(folder_of("xvector"))


@pytest.fixture(scope="session")
def wav2vec2(folder_of: Callable[[str], Path]) -> Path:
    """A Wav2Vec2Model whose extractor standardises each window."""
    return checkpoints.write_wav2vec2(folder_of("wav2vec2"))


@pytest.fixture(scope="session")
def roberta(folder_of: Callable[[str], Path]) -> Path:
    """A RobertaModel and its tokenizer."""
    return checkpoints.write_roberta(folder_of("roberta"))


@pytest.fixture(scope="session")
def clip(folder_of: Callable[[str], Path]) -> Path:
    """An open_clip model in a local folder."""
    return checkpoints.write_open_clip(folder_of("clip"))


@pytest.fixture(scope="session")
def multitask(folder_of: Callable[[str], Path]) -> Path:
    """A file of py-feat's multitask network; skips where py-feat cannot be imported."""
    try:
        import_py_feat()
    except UserError as error:
        pytest.skip(str(error))
    return checkpoints.write_multitask(folder_of("multitask.safetensors"))
