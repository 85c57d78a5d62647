"""Which encoders there are, by modality and short name, and what each needs to run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from viper.store import EncoderInfo

# By this among its options, a digest, encoder.json says that it was a user's own encoder.
SOURCE_CODE = "source_code"


@dataclass(frozen=True)
class Registered:
    """One short name a user can give as a model.

    Attributes
    ----------
    modality, name : what it is for and called.
    model : the hub id it stands for; empty where no weights are needed or the library brings its own way.
    summary : one line for people.
    weights : hub ids whose files must be here for it to run.
    packages : importable modules it needs beyond the base.
    extra : the extra of viper that installs those packages; empty where viper itself does.
    default : whether the command takes it when no name is given.
    """

    modality: str
    name: str
    summary: str
    model: str = ""
    weights: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    extra: str = ""
    default: bool = False

    @property
    def is_weight_free(self) -> bool:
        """Whether it runs with nothing but the installed packages."""
        return not self.weights


CLIP_HUB = "timm/vit_base_patch32_clip_224.openai"
FAU_HUB = "py-feat/face_multitask_v2"
ROBERTA = "FacebookAI/roberta-base"


def _pretrained(modality: str, name: str, model: str, summary: str, default: bool = False) -> Registered:
    return Registered(modality, name, summary, model, (model,), ("transformers",), default=default)


REGISTRY = (
    _pretrained("visual", "vit-base", "google/vit-base-patch16-224-in21k", "ViT-B/16, ImageNet-21k, 768", True),
    _pretrained("visual", "vit-age", "nateraw/vit-age-classifier", "ViT-B/16 trained on faces' ages, 768"),
    _pretrained("visual", "videomae-base", "MCG-NJU/videomae-base", "VideoMAE-B, 16 frames, without labels, 768"),
    _pretrained("visual", "videomae-k400", "MCG-NJU/videomae-base-finetuned-kinetics", "VideoMAE-B, Kinetics, 768"),
    _pretrained("visual", "timesformer-base", "facebook/timesformer-base-finetuned-k400", "TimeSformer, 8 frames, 768"),
    _pretrained("visual", "vivit-base", "google/vivit-b-16x2-kinetics400", "ViViT-B/16x2, 32 frames, 768"),
    Registered("visual", "hog", "histograms of oriented gradients, 1764"),
    _pretrained("audio", "wavlm-base-plus-sv", "microsoft/wavlm-base-plus-sv", "WavLM x-vector, 512", True),
    _pretrained("audio", "wav2vec2-base", "facebook/wav2vec2-base", "wav2vec 2.0, 768"),
    _pretrained("audio", "hubert-base", "facebook/hubert-base-ls960", "HuBERT, 768"),
    Registered("audio", "logmel", "statistics of log-mel bands, 192", packages=("librosa",)),
    Registered("audio", "acoustic", "a voice's cepstra, spectrum, pitch and voicing, 257", packages=("librosa",)),
    Registered(
        "audio", "egemaps", "eGeMAPS v02 by opensmile (licence: research only), 88",
        packages=("opensmile",), extra="opensmile",
    ),
    Registered(
        "textual", "clip", "CLIP picks each frame's best prompt, RoBERTa encodes it, 768",
        weights=(CLIP_HUB, ROBERTA), packages=("open_clip", "transformers"), default=True,
    ),
    _pretrained("textual", "roberta-base", ROBERTA, "RoBERTa on subtitles, 768"),
    Registered("textual", "hashed", "hashed words of subtitles, 256", packages=("sklearn",)),
    Registered(
        "FAU", "multitask", "py-feat: 20 action units and 7 emotions, 27",
        weights=(FAU_HUB,), packages=("feat",), default=True,
    ),
    Registered("FAU", "landmarks", "landmark geometry and texture of face crops, 53"),
)  # fmt: skip


def find(modality: str, name: str) -> Registered | None:
    """The registered encoder of that short name; None for a hub id or a folder."""
    return next((entry for entry in REGISTRY if (entry.modality, entry.name) == (modality, name)), None)


def short_names(modality: str) -> list[str]:
    """The short names of a modality."""
    return [entry.name for entry in REGISTRY if entry.modality == modality]


def is_own_name(model_name: str) -> bool:
    """Whether a model is named as a Python file of the user's, with or without a class."""
    return re.search(r"\.py(:|$)", model_name) is not None


def is_own(info: EncoderInfo) -> bool:
    """Whether features were made by a user's own encoder, whatever it is called."""
    return SOURCE_CODE in info.options
