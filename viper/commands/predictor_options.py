"""The options by which commands name a checkpoint whose encoders run on new videos."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from viper.errors import UserError

if TYPE_CHECKING:
    from viper.inference.predictor import ClipPredictor


@dataclass(kw_only=True)
class PredictorOptions:
    """A checkpoint, and where its encoders' models are and run."""

    model_path: Path
    """A checkpoint folder, or a run (then its best)."""
    models: Annotated[list[str], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=MODEL")] = field(
        default_factory=list
    )
    """Where the model of a modality is on this machine, such as visual=FOLDER; may be given again for another. CLIP's
    prompts have two, written 'textual=CLIP + TEXT'."""
    device: str = "auto"
    """Where the models run: auto, cpu, cuda, cuda:1, mps ..."""
    offline: bool = False
    """Never touch the network (as HF_HUB_OFFLINE=1 does)."""

    def models_by_name(self) -> dict[str, str]:
        """Modality -> model, of those given; a wrong pair is a UserError."""
        models: dict[str, str] = {}
        for pair in self.models:
            name, separator, model = pair.partition("=")
            if not (name and separator and model):
                raise UserError(f"--models {pair}: must be NAME=MODEL, such as visual=FOLDER")
            models[name] = model
        return models

    def predictor(self) -> ClipPredictor:
        """The checkpoint and those of its encoders that can run here."""
        # Not above: importing torch takes seconds, and --help should not.
        from viper.inference.predictor import ClipPredictor

        models = self.models_by_name()
        return ClipPredictor.load(self.model_path, models=models, device=self.device, offline=self.offline)
