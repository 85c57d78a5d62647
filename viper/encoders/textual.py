"""Textual encoders: the words that fit a frame best (CLIP and RoBERTa), or the words of subtitles."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from viper.encoders.base import Encoder, split_like, weights_fingerprint
from viper.encoders.pretrained import (
    explained,
    is_offline,
    load_state_dict,
    load_transformers_model,
    local_or_hub,
)
from viper.encoders.prompts import Prompts
from viper.encoders.visual import PictureEncoder, PictureSample
from viper.engine.device import DeviceBatches, Runtime
from viper.errors import UserError
from viper.files import digest_of
from viper.logs import quiet_transformers
from viper.media.pictures import Frames
from viper.media.subtitles import Cue
from viper.store import EncoderInfo, Feature

# What open_clip's list of published weights says of the pictures they were trained on.
_PICTURE_KEYS = ("mean", "std", "interpolation", "resize_mode")


@contextlib.contextmanager
def _quiet_root_log() -> Iterator[None]:
    """open_clip writes to the root logger; what matters of it is raised as well."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)


class SentenceModel:
    """A transformers text encoder; a sentence's embedding is its class (first) token in the last layer."""

    def __init__(self, model: str, runtime: Runtime) -> None:
        from transformers import AutoModel, AutoTokenizer

        with quiet_transformers(), explained(model):
            self._tokenizer = AutoTokenizer.from_pretrained(local_or_hub(model), local_files_only=is_offline())
        network: Any = load_transformers_model(AutoModel, model)
        self.fingerprint = weights_fingerprint(network)
        self.width, self.precision = int(network.config.hidden_size), runtime.precision_name
        # A tokenizer may not say its model's limit; position embeddings do, two of them taken by padding offsets.
        self._limit = min(self._tokenizer.model_max_length, network.config.max_position_embeddings - 2)
        self._network, self._batches = runtime.place(network), DeviceBatches(runtime)

    def embed(self, sentences: Sequence[str], batch_size: int) -> np.ndarray:
        """(sentences, width) float32. Padding is masked, so a sentence's embedding does not depend on its batch."""
        rows = np.zeros((len(sentences), self.width), np.float32)
        if not sentences:
            return rows
        ids = self._tokenizer(list(sentences), truncation=True, max_length=self._limit)["input_ids"]
        # Sentences of similar length go through together, so that there is little padding.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        parts = self._batches.map(self._forward, [ids[i] for i in order], batch_size)
        rows[order] = torch.cat(parts).float().cpu().numpy()
        return rows

    def _forward(self, ids: list[list[int]]) -> torch.Tensor:
        inputs = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        on_device = {name: self._batches.to_device(value) for name, value in inputs.items()}
        return self._network(**on_device).last_hidden_state[:, 0]


class PromptEncoder(PictureEncoder):
    """open_clip scores each frame against prompts; the best prompt's RoBERTa class token is the frame's feature.

    Every prompt is embedded once, by both models, when the encoder is prepared.

    Parameters
    ----------
    prompts : the sentences.
    clip_model : an open_clip architecture ("ViT-B-32"), or a local folder with open_clip_config.json.
    clip_pretrained : which of open_clip's published weights, where `clip_model` is no folder; with a checkpoint, those
        it was trained further from: they settle the activation and the normalisation of pictures.
    clip_checkpoint_path : own weights for the architecture, a state dict or one under `model_state_dict`.
    text_model : hub id or local folder of the text encoder.
    """

    kind: ClassVar[str] = "clip_prompts"
    modality = "textual"

    def __init__(
        self,
        prompts: Prompts,
        clip_model: str = "ViT-B-32",
        clip_pretrained: str = "openai",
        clip_checkpoint_path: Path | None = None,
        text_model: str = "FacebookAI/roberta-base",
    ) -> None:
        self.prompts, self.clip_model, self.text_model = prompts, clip_model, text_model
        self.clip_pretrained, self.clip_checkpoint_path = clip_pretrained, clip_checkpoint_path
        self._clip: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_clip": None, "_prompt_directions": None, "_mean": None, "_std": None}

    def prepare(self, runtime: Runtime) -> None:
        """Loads both models and embeds the prompts with each."""
        # Always float32: the feature is a choice. Where two prompts are nearly as good bf16 may choose the other, whose
        # embedding is another sentence's; and what can be proved of bf16's error is far wider than the gap between the
        # best prompts, so that recomputing close calls in float32 would recompute nearly all frames.
        runtime = dataclasses.replace(runtime, precision=torch.float32)
        clip, tokenizer = self._load_clip()
        self._clip_fingerprint = weights_fingerprint(clip)
        self._preprocessing = dict(clip.visual.preprocess_cfg)
        sentences = SentenceModel(self.text_model, dataclasses.replace(runtime, compiled=False))
        self._text_fingerprint, self._width = sentences.fingerprint, sentences.width
        self._prompt_tokens = sentences.embed(self.prompts.sentences, 64)
        self._batches = DeviceBatches(runtime)
        mean, std = (torch.tensor(self._preprocessing[name], device=runtime.device) for name in ("mean", "std"))
        self._mean, self._std = mean.view(3, 1, 1), std.view(3, 1, 1)
        self._clip = clip.eval().requires_grad_(False).to(runtime.device)
        self._clip.visual = runtime.place(clip.visual)
        tokens = tokenizer(list(self.prompts.sentences))
        self._prompt_directions = torch.cat(self._batches.map(self._embed_prompts, tokens, 64))

    def _load_clip(self) -> tuple[Any, Any]:
        """The image-text model and its tokenizer."""
        import open_clip

        is_folder, is_own = Path(self.clip_model).is_dir(), self.clip_checkpoint_path is not None
        name = f"local-dir:{self.clip_model}" if is_folder else self.clip_model
        if not is_folder and name not in open_clip.list_models():
            raise UserError(f"--clip_model {name}: neither a folder nor an architecture open_clip knows")
        # How the published weights were trained: OpenAI's with another activation than the architecture's name says.
        published: dict[str, Any] = {} if is_folder else open_clip.get_pretrained_cfg(name, self.clip_pretrained)
        if not (is_folder or is_own or published):
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(name))
            raise UserError(f"--clip_pretrained {self.clip_pretrained}: of {name} there are {tags or 'no weights'}")
        hub = "/".join(str(published.get("hf_hub", "")).split("/")[:2])
        with explained(hub or self.clip_model, "--clip_model FOLDER"), _quiet_root_log():
            # weights_only is open_clip's default too; it is said here because nothing else would be safe.
            clip: Any = open_clip.create_model(
                name,
                pretrained=None if is_folder or is_own else self.clip_pretrained,
                load_weights=not is_own,
                require_pretrained=not is_own,
                force_quick_gelu=bool(published.get("quick_gelu")),
                force_preprocess_cfg={key: published[key] for key in _PICTURE_KEYS if key in published},
                weights_only=True,
            )
            tokenizer: Any = open_clip.get_tokenizer(name)
        if self.clip_checkpoint_path is not None:
            try:
                clip.load_state_dict(load_state_dict(self.clip_checkpoint_path))
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"{self.clip_checkpoint_path}: does not fit {self.clip_model} ({reason})") from error
        self._has_quick_gelu = any(isinstance(module, open_clip.transformer.QuickGELU) for module in clip.modules())
        return clip, tokenizer

    def info(self) -> EncoderInfo:
        """Both models and the prompts decide the values."""
        options = {
            "clip_weights": self._clip_fingerprint,
            "clip_quick_gelu": self._has_quick_gelu,
            "text_weights": self._text_fingerprint,
            "prompts": digest_of(self.prompts.sentences),
        }
        checkpoint = self.clip_checkpoint_path
        settings = {
            "sentences": list(self.prompts.sentences),
            "clip_model": self.clip_model,
            "clip_pretrained": self.clip_pretrained,
            "clip_checkpoint_path": None if checkpoint is None else str(checkpoint),
            "text_model": self.text_model,
        }
        model = f"{self.clip_model} + {self.text_model}"
        return EncoderInfo(
            self.kind, self.modality, self._width, options, model, precision="float32", settings=settings
        )

    def rows(self, frames: Frames) -> np.ndarray:
        """Resizes and crops as open_clip does; scaling and normalisation are left to the device."""
        from PIL import Image

        resize = self._geometry()
        return np.array(
            [np.asarray(resize(Image.fromarray(image)), np.uint8).transpose(2, 0, 1) for image in frames.images]
        )

    def _geometry(self) -> Any:
        """open_clip's own transform up to, and without, the conversion to numbers."""
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from torchvision.transforms import Compose, Normalize, ToTensor

        steps = image_transform_v2(PreprocessCfg(**self._preprocessing), is_train=False).transforms
        return Compose([step for step in steps if not isinstance(step, ToTensor | Normalize)])

    def encode(self, samples: list[PictureSample], batch_size: int) -> list[Feature]:
        """One token a frame: the embedding of its best prompt."""
        best = self.best_prompts([sample.rows for sample in samples], batch_size)
        return self.features(self._prompt_tokens[best], samples, self._width)

    def best_prompts(self, pictures: list[np.ndarray], batch_size: int) -> np.ndarray:
        """(frames,) index of the prompt each frame is most similar to (cosine)."""
        return self._batches.rows(self._best, pictures, batch_size).reshape(-1).astype(np.int64)

    def inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """What open_clip's transform would give the network for these (n, 3, H, W) uint8, float32."""
        return (pixels.float() / 255 - self._mean) / self._std

    def _embed_prompts(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._clip.encode_text(self._batches.to_device(tokens), normalize=True)

    def _best(self, pixels: torch.Tensor) -> torch.Tensor:
        directions = self._clip.encode_image(self.inputs(pixels), normalize=True)
        return (directions @ self._prompt_directions.T).argmax(dim=1, keepdim=True)


@dataclass(frozen=True)
class CueSample:
    """One clip's cues: sentences and the second in the middle of each; or their vectors, where the host made them."""

    texts: list[str]
    times: np.ndarray
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.texts)


class CueEncoder(Encoder["list[Cue] | None", CueSample]):
    """An encoder of subtitles: one token a cue; a clip without any is absent."""

    modality = "textual"
    reads: ClassVar[str] = "subtitles"

    def size(self, sample: CueSample) -> int:
        """Cues."""
        return len(sample)

    def load(self, content: list[Cue] | None) -> CueSample:
        """Texts and times of the cues."""
        cues = content or []
        return CueSample([cue.text for cue in cues], np.array([(cue.start + cue.end) / 2 for cue in cues]))

    @staticmethod
    def features(tokens: np.ndarray, samples: list[CueSample], width: int) -> list[Feature]:
        """One Feature a sample."""
        return [
            Feature.make(own, None, sample.times) if len(sample) else Feature.absent(width)
            for own, sample in zip(split_like(tokens, samples), samples, strict=True)
        ]


class SubtitleEncoder(CueEncoder):
    """A transformers text encoder over subtitles: each cue's class token."""

    kind: ClassVar[str] = "subtitles"

    def __init__(self, model: str) -> None:
        self.model = model
        self._sentences: SentenceModel | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sentences": None}

    def prepare(self, runtime: Runtime) -> None:
        """Loads the text encoder."""
        self._sentences = SentenceModel(self.model, runtime)

    def info(self) -> EncoderInfo:
        """The weights decide the values."""
        assert self._sentences is not None
        options = {"weights": self._sentences.fingerprint}
        return EncoderInfo(
            self.kind, self.modality, self._sentences.width, options, self.model, precision=self._sentences.precision
        )

    def encode(self, samples: list[CueSample], batch_size: int) -> list[Feature]:
        """One token a cue."""
        assert self._sentences is not None
        texts = [text for sample in samples for text in sample.texts]
        return self.features(self._sentences.embed(texts, batch_size), samples, self._sentences.width)


class HashedWordsEncoder(CueEncoder):
    """Bags of hashed words (scikit-learn's HashingVectorizer, signed, unit length): 256 channels, no weights."""

    kind: ClassVar[str] = "hashed"
    WIDTH = 256

    def info(self) -> EncoderInfo:
        """Nothing to choose."""
        return EncoderInfo(self.kind, self.modality, self.WIDTH)

    def load(self, content: list[Cue] | None) -> CueSample:
        """All of the work."""
        from sklearn.feature_extraction.text import HashingVectorizer

        sample = super().load(content)
        if not len(sample):
            return sample
        vectors = HashingVectorizer(n_features=self.WIDTH).transform(sample.texts).toarray()
        return CueSample(sample.texts, sample.times, vectors.astype(np.float32))

    def encode(self, samples: list[CueSample], batch_size: int) -> list[Feature]:
        """Hands on what `load` made."""
        rows = [sample.rows for sample in samples if sample.rows is not None]
        return self.features(np.concatenate(rows) if rows else np.zeros((0, self.WIDTH)), samples, self.WIDTH)
