"""viper: from a folder of short videos and a CSV of labels to a CSV of predicted emotional reactions.

The public API, imported when first used so that `import viper` stays quick:

    load_task, Manifest    what is to be predicted, for which clips
    FeatureStore, Feature  features on disk
    PerceiverFusion        the model
    predict_clip           a video's file -> what a checkpoint says of it
    Encoder, EncoderInfo   what an encoder of one's own is made of
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from viper.encoders.base import Encoder
    from viper.fusion.perceiver import PerceiverFusion
    from viper.inference.predictor import predict_clip
    from viper.manifest import Manifest
    from viper.store import EncoderInfo, Feature, FeatureStore
    from viper.task import Task, load_task

__version__ = "0.1.0"

__all__ = [
    "Encoder", "EncoderInfo", "Feature", "FeatureStore", "Manifest", "PerceiverFusion", "Task", "__version__",
    "load_task", "predict_clip",
]  # fmt: skip

_HOMES = {
    "Encoder": "viper.encoders.base",
    "EncoderInfo": "viper.store",
    "Feature": "viper.store",
    "FeatureStore": "viper.store",
    "Manifest": "viper.manifest",
    "PerceiverFusion": "viper.fusion.perceiver",
    "Task": "viper.task",
    "load_task": "viper.task",
    "predict_clip": "viper.inference.predictor",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'viper' has no attribute {name!r}")
