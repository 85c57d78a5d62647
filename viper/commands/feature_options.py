"""The options by which training and its followers name features of any modalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from viper.clip_ids import separator_of
from viper.errors import UserError
from viper.store import MODALITIES, FeatureStore


@dataclass(kw_only=True)
class FeatureOptions:
    """Which features are read, from which folders."""

    visual: bool = True
    """Use visual features, where their folder is given."""
    audio: bool = True
    """Use audio features, where their folder is given."""
    textual: bool = True
    """Use textual features, where their folder is given."""
    FAU: bool = True
    """Use facial action units, where their folder is given."""
    visual_features_input_folder: Path | None = None
    """Folder made by extract_visual_features."""
    audio_features_input_folder: Path | None = None
    """Folder made by extract_audio_features."""
    textual_features_input_folder: Path | None = None
    """Folder made by extract_textual_features."""
    FAU_features_input_folder: Path | None = None
    """Folder made by extract_FAU_features."""
    features: Annotated[list[str], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=FOLDER")] = field(
        default_factory=list
    )
    """A further modality of any name; may be given again for another."""

    def folders(self) -> dict[str, Path]:
        """Modality -> folder, of those to be used. None at all is a UserError."""
        folders: dict[str, Path] = {}
        for name in MODALITIES:
            folder = getattr(self, f"{name}_features_input_folder")
            if folder is not None and getattr(self, name):
                folders[name] = folder
        for pair in self.features:
            name, separator, folder = pair.partition("=")
            if not (name and separator and folder):
                raise UserError(f"--features {pair}: must be NAME=FOLDER")
            if name in folders:
                raise UserError(f"--features {pair}: the modality {name!r} is given twice")
            folders[name] = Path(folder)
        if not folders:
            raise UserError(
                "no features given: name a folder with --visual_features_input_folder or another of its kind"
            )
        return folders

    def id_separator(self) -> str:
        """What joins the parts of a manifest's paths to ids: as the folders record it."""
        return separator_of(self.folders().values())

    def stores(self) -> dict[str, FeatureStore]:
        """Modality -> opened store."""
        return {name: FeatureStore.open(folder) for name, folder in self.folders().items()}


def feature_fields(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Return the options that name these folders (modality -> folder), for a dataclass that has FeatureOptions'."""
    fields: dict[str, Any] = {
        f"{name}_features_input_folder": path for name, path in folders.items() if name in MODALITIES
    }
    return {**fields, "features": [f"{name}={path}" for name, path in folders.items() if name not in MODALITIES]}
