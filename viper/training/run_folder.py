"""The folder of a run: what is written there before training starts, and how a run is found again to be resumed."""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

import viper
from viper.errors import UserError
from viper.files import atomic_path, digest_of, files_only, read_bytes, read_yaml, refuse_foreign, remove, write_text
from viper.logs import log
from viper.manifest import Manifest
from viper.store import EncoderInfo, FeatureStore

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.csv"
SUMMARY_FILE = "summary.json"
SEEDS_FILE = "seeds.json"
LOG_FILE = "train.log"
STATE_FILE = "training_state.safetensors"
RECORDED_PACKAGES = ("torch", "transformers", "accelerate", "numpy", "safetensors", "scikit-learn")
# Options that may differ between a run and its resumption: they do not change what comes out.
FREE_OPTIONS = frozenset(
    {"resume", "overwrite", "output_checkpoint_folder", "output_log_file", "log_steps", "keep", "report_to", "device"}
)


def describe(
    options: Any, stores: Mapping[str, FeatureStore], manifest: Manifest, command: str, packages: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content of config.yaml: all that is needed to make a run again.

    Parameters
    ----------
    options : of the training, a dataclass.
    command : as it was typed; empty if it was called from Python.
    packages : the installed versions of `RECORDED_PACKAGES`.
    """
    values = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(options).items()}
    versions = {"viper": viper.__version__, "python": platform.python_version(), **packages}
    encoders = {name: dataclasses.asdict(store.info) for name, store in stores.items()}
    data = digest_of([manifest.clips, manifest.truth.astype(float).round(7).astype(str).tolist()])
    return {
        "command": command,
        "options": values,
        "encoders": encoders,
        "data": data,
        "versions": versions,
        "git_revision": _git_revision(),
    }


def start(folder: Path, description: Mapping[str, Any], overwrite: bool) -> None:
    """Make a run's folder with its config.yaml. A folder that holds a run is a UserError, or is emptied of it."""
    if any((folder / name).exists() for name in (CONFIG_FILE, SEEDS_FILE)):
        if not overwrite:
            raise UserError(
                f"{folder}: holds a run already; give another folder, --resume to continue it, or --overwrite to "
                "replace it"
            )
        clear(folder)
    write_text(folder / CONFIG_FILE, yaml.safe_dump(dict(description), sort_keys=False, allow_unicode=True))


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
    for name in (CONFIG_FILE, METRICS_FILE, SUMMARY_FILE, SEEDS_FILE, LOG_FILE, STATE_FILE):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # not empty, or not there
        folder.rmdir()


def check_same(folder: Path, description: Mapping[str, Any], options_class: type) -> None:
    """Refuse to resume a run with other options or data than it was started with: a UserError that names them.

    An option that an older version did not know had its default, as in `options_class`, then.
    """
    path = folder / CONFIG_FILE
    try:
        before = read_yaml(path)
        options, encoders, data = before["options"], _identities(before["encoders"]), before["data"]
    except (UserError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); --overwrite starts the run over") from error
    now = description["options"]
    options = {field.name: field.default for field in dataclasses.fields(options_class)} | options
    for name in sorted((now.keys() | options.keys()) - FREE_OPTIONS):
        if now.get(name) != options.get(name):
            raise UserError(
                f"{folder}: was trained with --{name} {options.get(name)}, not {now.get(name)}; resume it with the "
                "same options, or give another folder"
            )
    if encoders != _identities(description["encoders"]) or data != description["data"]:
        raise UserError(
            f"{folder}: was trained on other features or labels than these; --overwrite starts the run over"
        )


def _identities(encoders: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return modality -> what decides its features; the rest of an encoder.json is a record, and may have grown."""
    return {name: EncoderInfo(**record).identity for name, record in encoders.items()}


def _git_revision() -> str | None:
    """Return the revision of viper's checkout; None if it was installed without one."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(viper.__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


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
    with open(path, "a", encoding="utf-8", opener=_no_link) as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)


def _no_link(path: str, flags: int) -> int:
    return files_only(path, flags | getattr(os, "O_NOFOLLOW", 0))
