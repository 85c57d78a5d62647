"""The folder of a run: what is written there before training starts, and how a run is found again to be resumed."""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import yaml

import viper
from viper.errors import UserError
from viper.files import (
    atomic_path,
    files_only,
    locked,
    read_bytes,
    read_json,
    read_yaml,
    refuse_foreign,
    remove,
    write_json,
    write_text,
)
from viper.logs import log
from viper.store import MODALITIES, EncoderInfo, FeatureStore
from viper.training.run_records import CONFIG_FILE, SUMMARY_FILE, read_card

METRICS_FILE = "metrics.csv"
SEEDS_FILE = "seeds.json"
DATA_FILE = "training_data.json"
LOCK_FILE = ".lock"
LOG_FILE = "train.log"
STATE_FILE = "training_state.safetensors"
RECORDED_PACKAGES = ("torch", "transformers", "accelerate", "numpy", "safetensors", "scikit-learn")
# Options that may differ between a run and its resumption: they do not change what comes out.
FREE_OPTIONS = frozenset(
    {"resume", "overwrite", "output_checkpoint_folder", "output_log_file", "log_steps", "keep", "report_to", "device"}
)
# Where the data are, which may be moved: what they hold is compared, where the run has noted it.
PLACES = frozenset({"csv_path", "task", "features", *(f"{name}_features_input_folder" for name in MODALITIES)})


class OtherRunError(UserError):
    """What a folder holds cannot be resumed: another training's, or damaged."""


def describe(
    options: Any, stores: Mapping[str, FeatureStore], command: str, packages: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content of config.yaml: all that is needed to make a run again, but for the data.

    Parameters
    ----------
    options : of the training, a dataclass.
    command : as it was typed; empty if it was called from Python.
    packages : the installed versions of `RECORDED_PACKAGES`.
    """
    values = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(options).items()}
    versions = {"viper": viper.__version__, "python": platform.python_version(), **packages}
    encoders = {name: dataclasses.asdict(store.info) for name, store in stores.items()}
    return {
        "command": command,
        "options": values,
        "encoders": encoders,
        "versions": versions,
        "git_revision": _git_revision(),
    }


def holds_run(folder: Path) -> bool:
    """Return whether there is anything in a folder that a training made: what only began leaves nothing to keep."""
    names = (STATE_FILE, METRICS_FILE, SUMMARY_FILE, SEEDS_FILE)
    epochs = (path for path in folder.glob("perceiver_*") if re.fullmatch(r"perceiver_\d+", path.name))
    return any(os.path.lexists(folder / name) for name in names) or any(epochs)


def _is_free(folder: Path) -> bool:
    """Return whether a run's first files may be written: none has its name, or a start that came to nothing left it."""
    if not any(os.path.lexists(folder / name) for name in (CONFIG_FILE, DATA_FILE)):
        return True
    try:
        card = read_yaml(folder / CONFIG_FILE)
    except UserError:
        return False
    return isinstance(card, dict) and {"options", "encoders", "versions"} <= card.keys()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a run's folder and keep other trainings out of it; a UserError if another one is at work there.

    A folder that it made, and in which nothing was left, is removed again.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / LOCK_FILE
    refusal = f"{folder}: another training is running in this folder; wait for it to end, or give another folder"
    with locked(lock, refusal):
        try:
            yield
        finally:
            # While it is held: a process that opened it before finds that it is gone, and makes its own.
            with suppress(OSError):
                lock.unlink()
            if is_new:
                with suppress(OSError):  # not empty
                    folder.rmdir()


def make_room(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds a run, with a UserError, or remove the run."""
    if overwrite:
        clear(folder)
    elif holds_run(folder) or not _is_free(folder):
        raise UserError(
            f"{folder}: holds a run already; give another folder, --resume to continue it, or --overwrite to replace it"
        )


def start(folder: Path, description: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Write what a run is made of into its folder: config.yaml, and a note of its data."""
    write_text(folder / CONFIG_FILE, yaml.safe_dump(dict(description), sort_keys=False, allow_unicode=True))
    write_json(folder / DATA_FILE, data)


def clear(folder: Path) -> None:
    """Remove a run from its folder, and the folder if that was all; other files in there stay.

    Nothing is removed, and it is an OSError, where a checkpoint's folder has something else in it.
    """
    from viper.fusion.checkpoint import BEST, CHECKPOINT_FILES, checkpoint_folders

    folders = [*checkpoint_folders(folder).values(), folder / BEST]
    for each in folders:
        refuse_foreign(each, CHECKPOINT_FILES)
    for each in folders:
        remove(each)
    for name in (CONFIG_FILE, DATA_FILE, METRICS_FILE, SUMMARY_FILE, SEEDS_FILE, LOG_FILE, STATE_FILE):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # not empty, or not there
        folder.rmdir()


def check_same(folder: Path, description: Mapping[str, Any], data: Mapping[str, Any], options_class: type) -> None:
    """Refuse to resume a run with other options or data than it was started with: an OtherRunError that names them.

    An option that an older version did not know had its default, as in `options_class`, then.
    """
    try:
        before = read_card(folder)
        options, encoders = before["options"], _identities(before["encoders"])
    except UserError as error:
        raise OtherRunError(f"{error}; --overwrite starts the run over") from error
    now = description["options"]
    options = {field.name: field.default for field in dataclasses.fields(options_class)} | options
    free = FREE_OPTIONS | (PLACES if (folder / DATA_FILE).is_file() else frozenset())
    for name in sorted((now.keys() | options.keys()) - free):
        if now.get(name) != options.get(name):
            raise OtherRunError(
                f"{folder}: was trained with --{name} {options.get(name)}, not {now.get(name)}; resume it with the "
                "same options, or give another folder"
            )
    if list(encoders) != list(description["encoders"]):
        raise OtherRunError(
            f"{folder}: was trained on {', '.join(encoders)}, not {', '.join(description['encoders'])}; resume it with "
            "the same modalities, or give another folder"
        )
    for name, identity in _identities(description["encoders"]).items():
        if encoders.get(name) != identity:
            raise OtherRunError(
                f"{folder}: was trained on {name} features of another encoder; --overwrite starts the run over"
            )
    if not (folder / DATA_FILE).is_file():
        log.warning("%s: an older version of viper began it and did not record its data, which is not compared", folder)
    elif difference := _difference(_noted(folder / DATA_FILE), data):
        raise OtherRunError(f"{folder}: was trained on {difference}; --overwrite starts the run over")


def _noted(path: Path) -> Any:
    try:
        return read_json(path)
    except UserError as error:
        if _is_out_of_reach(error):
            raise
        return None


def _is_out_of_reach(error: Exception) -> bool:
    """Return whether a file could not be read, which says nothing about what is in it."""
    return isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError)


def _difference(before: Any, now: Mapping[str, Any]) -> str:
    """Return in words how the data of two trainings differ, see `TrainingData.record`; empty where they do not."""
    try:
        if before["task"] != now["task"]:
            return "another task card"
        changed: dict[str, int] = {}
        for part, record in now["parts"].items():
            if before["parts"][part]["rows"] != record["rows"]:
                return f"other clips or labels ({part})"
            for name, digests in record["features"].items():
                pairs = zip(before["parts"][part]["features"][name].split(), digests.split(), strict=True)
                changed[name] = changed.get(name, 0) + sum(one != other for one, other in pairs)
    except (LookupError, TypeError, ValueError, AttributeError):
        return f"data that its {DATA_FILE} does not describe"
    counts = [f"{n} {'clip' if n == 1 else 'clips'} of {name}" for name, n in changed.items() if n]
    return f"other features ({', '.join(counts)})" if counts else ""


def _identities(encoders: Mapping[str, Any]) -> dict[str, str]:
    """Return modality -> what decides its features; the rest of an encoder.json is a record, and may have grown."""
    return {name: EncoderInfo.from_record(record, CONFIG_FILE).identity for name, record in encoders.items()}


def _git_revision() -> str | None:
    """Return the revision of viper's checkout; None if it was installed without one."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(viper.__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


class _LogFile(logging.StreamHandler[TextIO]):
    """A log in a file. One that can be written no more, as on a full disk, costs a line and not the training."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        log.removeHandler(self)
        reason = sys.exc_info()[1]
        with suppress(OSError):
            self.stream.close()
        log.warning("%s: the log ends here, the training goes on (%s)", self.stream.name, reason)


@contextmanager
def log_file(path: Path | None, append: bool) -> Iterator[None]:
    """While inside, the log goes into a file too, where one is named. With `append` it keeps what it held.

    The file is always a new one, under its own name only: a log is written bit by bit, and that would go through a
    link, or into a file of which this is another name.
    """
    if path is None:
        yield
        return
    kept = read_bytes(path) if append and path.is_file() and not path.is_symlink() else b""
    with atomic_path(path) as temporary:
        temporary.write_bytes(kept)
    handler = _LogFile(open(path, "a", encoding="utf-8", errors="backslashreplace", opener=_no_link))  # noqa: SIM115
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with suppress(OSError):
            handler.stream.close()


def _no_link(path: str, flags: int) -> int:
    return files_only(path, flags | getattr(os, "O_NOFOLLOW", 0))
