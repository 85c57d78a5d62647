"""The YAML of `viper pipeline` for a manifest that was just made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from viper.encoders.registry import Registered, registered
from viper.errors import UserError
from viper.logs import shell_line
from viper.media.listing import VIDEO_SUFFIXES
from viper.task import Task

# Of these the labels are about the person who is seen; of the others about the scene, or about who looks at it.
SHOW_FACES = ("hume_reaction", "ravdess", "mosi")


def choose_features(names: Sequence[str], files: Mapping[str, Path], faces: bool) -> dict[str, str]:
    """Modality -> model: those named, or the defaults for what the files are.

    A name is one of the registry, such as hog, or MODALITY=MODEL for a hub id or a folder.
    """
    if not names:
        has_video = any(path.suffix.lower() in VIDEO_SUFFIXES for path in files.values())
        modalities = ("visual", "audio", *(["FAU"] if faces else [])) if has_video else ("audio",)
        entries = [entry for modality in modalities for entry in registered(modality)]
        return {entry.modality: entry.name for entry in entries if entry.short.is_default}
    chosen: dict[str, str] = {}
    for name in names:
        modality, separator, model = name.partition("=")
        if not separator:
            modality, model = _registered(name).modality, name
        if modality not in {entry.modality for entry in registered()} or not model:
            raise UserError(f"--features {name}: must be a model's short name, or MODALITY=MODEL")
        if modality in chosen:
            raise UserError(f"--features {name}: {modality} features are already made by {chosen[modality]}")
        chosen[modality] = model
    return chosen


def pipeline_text(
    path: Path, task: str, manifest: Path, videos: Path, features: Mapping[str, str], faces: bool, has_test: bool
) -> str:
    """Return the YAML's text, with paths relative to it, for `task` (a card's name or path)."""
    is_path = task.endswith((".yaml", ".yml"))
    card: dict[str, Any] = {
        "task": _relative(Path(task), path) if is_path else task,
        "csv_path": _relative(manifest, path),
        "videos": _relative(videos, path),
        "output": f"{path.stem}_work",
        "device": "auto",
        "frames": {"n_frames": 32},
        "faces": {"margin": 0.1} if faces else False,
        "features": {modality: {"model_name": model} for modality, model in features.items()},
        "train": {"preset": "small", "n_epochs": 30},
        "submission": {"split": "Test"} if has_test else False,
        "confusion": {"split": "Val"},
        "report": {"split": "Val"},
    }
    head = (
        f"# {manifest.name}, from videos to a submission:  {shell_line(['viper', 'pipeline', Path(path.name)])}\n"
        "# `viper pipeline FILE --init` writes one with every key explained. Paths are relative to this file.\n"
    )
    return head + yaml.safe_dump(card, sort_keys=False, allow_unicode=True)


def default_faces(task: Task) -> bool:
    """Return whether faces are cropped unless one says otherwise."""
    return task.name in SHOW_FACES


def _registered(name: str) -> Registered:
    entry = next((entry for entry in registered() if entry.name == name), None)
    if entry is None:
        known = ", ".join(entry.name for entry in registered())
        raise UserError(f"--features {name}: no such model; there are {known}, or give MODALITY=MODEL")
    return entry


def _relative(path: Path, file: Path) -> str:
    return Path(os.path.relpath(path, file.parent)).as_posix()
