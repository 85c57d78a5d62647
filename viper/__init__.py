"""viper: from a folder of short videos and a CSV of labels to a CSV of predicted emotional reactions.

The public API, imported when first used so that `import viper` stays quick:

    get_frame, crop_images, extract    videos -> frames -> faces -> features on disk
    train, load_run, Run               features -> a model that predicts, is scored and draws
    predict, predict_clip              new videos -> what a run says of them
    evaluate, plot                     predictions against labels
    load_task, Task, Manifest          what is to be predicted, for which clips
    FeatureStore, Feature, EncoderInfo features on disk
    PerceiverFusion                    the model
    Encoder                            what an encoder of your own is made of
    UserError, ClipError, NothingDoneError    what is raised: a mistake, a clip that cannot be read, no clip done
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from viper.errors import ClipError, NothingDoneError, UserError

if TYPE_CHECKING:
    from viper.api import crop_images, evaluate, extract, get_frame, plot, predict, train
    from viper.encoders.base import Encoder
    from viper.fusion.perceiver import PerceiverFusion
    from viper.inference.predictor import predict_clip
    from viper.manifest import Manifest
    from viper.runs import Run, load_run
    from viper.store import EncoderInfo, Feature, FeatureStore
    from viper.task import Task, load_task

__version__ = "0.1.0"

__all__ = [
    "ClipError", "Encoder", "EncoderInfo", "Feature", "FeatureStore", "Manifest", "NothingDoneError",
    "PerceiverFusion", "Run", "Task", "UserError", "__version__", "crop_images", "evaluate", "extract", "get_frame",
    "load_run", "load_task", "plot", "predict", "predict_clip", "train",
]  # fmt: skip

_HOMES = {
    "viper.api": ("crop_images", "evaluate", "extract", "get_frame", "plot", "predict", "train"),
    "viper.encoders.base": ("Encoder",),
    "viper.fusion.perceiver": ("PerceiverFusion",),
    "viper.inference.predictor": ("predict_clip",),
    "viper.manifest": ("Manifest",),
    "viper.runs": ("Run", "load_run"),
    "viper.store": ("EncoderInfo", "Feature", "FeatureStore"),
    "viper.task": ("Task", "load_task"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'viper' has no attribute {name!r}", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    return sorted(__all__)
