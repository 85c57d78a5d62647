"""A run's folder: perceiver_<epoch>/ for each epoch kept, and `best`, which points to one of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from viper.errors import UserError, one_line
from viper.files import atomic_folder, copy_file, refuse_foreign, remove
from viper.fingerprints import fingerprint_folder
from viper.fusion.perceiver import BEST, PerceiverFusion
from viper.logs import log, quiet_transformers
from viper.store import EncoderInfo, FeatureStore
from viper.task import Task
from viper.temporaries import temporary_path

# What a checkpoint's folder holds: transformers splits large weights.
CHECKPOINT_FILES = r"config\.json|README\.md|(generation_config|model.*)\.json|model.*\.safetensors"


def checkpoint_folder(run: Path, epoch: int) -> Path:
    """Return where an epoch's checkpoint is."""
    return run / f"perceiver_{epoch}"


def checkpoint_folders(run: Path) -> dict[int, Path]:
    """Return what has the name of an epoch's checkpoint in a run, by the epoch."""
    found = ((re.fullmatch(r"perceiver_(\d+)", path.name), path) for path in run.glob("perceiver_*"))
    return {int(match[1]): path for match, path in found if match}


def save_checkpoint(run: Path, epoch: int, model: PerceiverFusion) -> None:
    """Write an epoch's checkpoint (config.json, model.safetensors, README.md) atomically."""
    with atomic_folder(checkpoint_folder(run, epoch), own=CHECKPOINT_FILES) as folder, quiet_transformers():
        model.save_pretrained(folder)


def point_best(run: Path, epoch: int) -> None:
    """Make `best` name an epoch's checkpoint: a link, or a copy where the file system has none.

    A folder of that name that is no checkpoint is the user's: an OSError.
    """
    refuse_foreign(run / BEST, CHECKPOINT_FILES)
    target = checkpoint_folder(run, epoch)
    temporary = temporary_path(run)
    try:
        temporary.symlink_to(target.name, target_is_directory=True)
    except OSError:
        with atomic_folder(run / BEST) as folder:
            for file in target.iterdir():
                copy_file(file, folder / file.name)
        return
    try:
        if not (run / BEST).is_symlink():
            remove(run / BEST)
        os.replace(temporary, run / BEST)
    finally:
        temporary.unlink(missing_ok=True)


def remove_other_checkpoints(run: Path, keep: set[int]) -> None:
    """Delete the checkpoints of all other epochs; a link of such a name, not what it points to.

    A folder that has something else in it stays: somebody put it there.
    """
    for epoch, folder in checkpoint_folders(run).items():
        if epoch not in keep:
            try:
                refuse_foreign(folder, CHECKPOINT_FILES)
            except OSError as error:
                log.warning("%s: %s", folder, error.strerror)
            else:
                remove(folder)


def files_of(checkpoint: Path) -> list[Path]:
    """Return the files of a checkpoint that are read again: all but its card, which people edit."""
    return sorted(path for path in checkpoint.iterdir() if re.fullmatch(r".*\.(json|safetensors)", path.name))


def best_fingerprint(run: Path) -> str:
    """Return a fingerprint of a run's best checkpoint; OSError where there is none."""
    return fingerprint_folder(run / BEST, (path.name for path in files_of(run / BEST)))


def is_intact(run: Path, written: Any) -> bool:
    """Return whether a run's best checkpoint is as it was written; of a run that does not say (None), is there."""
    try:
        return bool(files_of(run / BEST)) if written is None else best_fingerprint(run) == written
    except OSError:
        return False


def resolve_checkpoint(path: Path, option: str = "--model_path") -> Path:
    """Return the checkpoint an option means: itself, or the best of a run. Anything else is a UserError."""
    if (path / "config.json").is_file():
        return path
    if (path / BEST / "config.json").is_file():
        return path / BEST
    if not path.is_dir():
        raise UserError(f"{option} {path}: no such folder")
    if seeds := sorted(each.name for each in path.glob("seed_*") if (each / BEST / "config.json").is_file()):
        raise UserError(f"{option} {path}: holds a run for each of {len(seeds)} seeds; name one, {path / seeds[0]}")
    raise UserError(f"{option} {path}: neither a checkpoint (config.json, model.safetensors) nor a run with one")


def load_checkpoint(path: Path) -> PerceiverFusion:
    """Return the model of a checkpoint or of a run's best, in eval mode; one that cannot be loaded is a UserError."""
    folder = resolve_checkpoint(path)
    try:
        with quiet_transformers():
            return PerceiverFusion.from_pretrained(folder, local_files_only=True).eval()
    except UserError:
        raise
    except Exception as error:  # transformers passes on whatever its readers raise
        raise UserError(f"{folder}: cannot be loaded as a checkpoint ({one_line(str(error))})") from error


def task_of(model: PerceiverFusion) -> Task:
    """Return the task a checkpoint was trained for."""
    return Task.from_dict(model.config.task)


def check_stores(model: PerceiverFusion, stores: dict[str, FeatureStore]) -> None:
    """Refuse features the checkpoint cannot read: a modality it lacks, or another encoder than it was trained on."""
    known = model.config.modalities
    for name, store in stores.items():
        if name not in known:
            raise UserError(f"{store.folder}: the checkpoint has no modality {name!r}, only {', '.join(known)}")
        recorded = EncoderInfo.from_record(known[name].get("encoder"), f"the checkpoint's modality {name}")
        difference = recorded.difference(store.info)
        if difference:
            raise UserError(f"{store.folder}: the checkpoint was trained on other {name} features ({difference})")
