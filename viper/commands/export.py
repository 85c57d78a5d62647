"""export: a store of features as files that other programs read."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from viper.errors import ClipError, NothingDoneError, UserError
from viper.files import atomic_path, own_folder, prepare_outputs
from viper.logs import log, progress_bar
from viper.media.imports.files import COMPANIONS
from viper.store import SUFFIX, Feature, FeatureStore

INDEX_FILE = "index.parquet"
ENCODER_KEY = b"viper.encoder"  # of the index's metadata: encoder.json


@dataclass(kw_only=True)
class ExportOptions:
    """Write a folder of features as .npy files, and an index of them in Parquet.

    --from_files of an extract command reads the .npy files back, with their times and masks.
    """

    features_input_folder: Path
    """Folder made by one of the extract commands."""
    output_folder: Path
    """Where <clip>.npy, time/<clip>.npy, mask/<clip>.npy and index.parquet are written."""
    format: list[Literal["npy", "parquet"]] = field(default_factory=lambda: ["npy", "parquet"])
    """npy: the features, a file a clip. parquet: the index, a row a clip (pip install 'viper[parquet]')."""


def run(options: ExportOptions) -> int:
    """Export every clip; return the exit code: 3 where some could not be read."""
    _check(options)
    store = FeatureStore.open(options.features_input_folder)
    clips = store.clips()
    if not clips:
        raise NothingDoneError(f"{store.folder}: there are no features in it")
    prepare_outputs(options.output_folder)
    for name in COMPANIONS if "npy" in options.format else ():
        prepare_outputs(own_folder(options.output_folder, name))
    rows = []
    for clip in progress_bar(clips, "export", unit="clip"):
        try:
            feature = store.read(clip)
            rows.append(_row(store, clip, feature, "npy" in options.format))
        except ClipError as error:
            log.warning("export: %s", error)
            continue
        if "npy" in options.format:
            _write_arrays(options.output_folder, clip, feature)
    if not rows:
        raise NothingDoneError(f"{store.folder}: none of its features can be read")
    if "parquet" in options.format:
        _write_index(options.output_folder / INDEX_FILE, rows, store)
    _warn_of_others(options.output_folder, clips)
    log.info("export: %d of %d clips, to %s", len(rows), len(clips), options.output_folder)
    return 0 if len(rows) == len(clips) else 3


def _check(options: ExportOptions) -> None:
    if not options.format:
        raise UserError("--format: give npy, parquet or both")
    if "parquet" in options.format and importlib.util.find_spec("pyarrow") is None:
        raise UserError("--format parquet: needs pyarrow: pip install 'viper[parquet]', or give --format npy")
    if options.output_folder.resolve() == options.features_input_folder.resolve():
        raise UserError(f"--output_folder {options.output_folder}: is the folder of the features; give another")


def _row(store: FeatureStore, clip: str, feature: Feature, as_npy: bool) -> dict[str, Any]:
    """Return a clip's line of the index."""
    has_tokens = len(feature.time) > 0
    return {
        "clip": clip,
        "file": f"{clip}.npy" if as_npy else f"{clip}{SUFFIX}",
        "n_tokens": len(feature.tokens),
        "n_unmasked": int(feature.mask.sum()),
        "width": feature.tokens.shape[1],
        "first_time": float(feature.time[0]) if has_tokens else None,
        "last_time": float(feature.time[-1]) if has_tokens else None,
        "source": store.source(clip),
        "modality": store.info.modality,
        "encoder": store.info.encoder,
        "encoder_identity": store.info.identity,
    }


def _write_arrays(folder: Path, clip: str, feature: Feature) -> None:
    # The tokens last: where they are, all is.
    for name in COMPANIONS:
        _save(folder / name / f"{clip}.npy", getattr(feature, name))
    _save(folder / f"{clip}.npy", feature.tokens)


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _write_index(path: Path, rows: list[dict[str, Any]], store: FeatureStore) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    integers, numbers = ("n_tokens", "n_unmasked", "width"), ("first_time", "last_time")
    kinds = {name: pa.int64() for name in integers} | {name: pa.float64() for name in numbers}
    metadata = {ENCODER_KEY: json.dumps(dataclasses.asdict(store.info)).encode()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in rows[0]], metadata)
    with atomic_path(path) as temporary:
        parquet.write_table(pa.Table.from_pylist(rows, schema), temporary)


def _warn_of_others(folder: Path, clips: list[str]) -> None:
    """Say what else --from_files would find there: the clips of an earlier export that the store no longer has."""
    others = {path.stem for path in folder.glob("[!.]*.npy")} - set(clips)
    if others:
        log.warning("export: %s has %d .npy files of clips that the features lack; delete them", folder, len(others))
