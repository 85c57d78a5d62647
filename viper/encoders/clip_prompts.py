"""Prompts: an image-text model picks the sentence that fits a frame best, and a text network encodes it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from viper.encoders.base import ShortName, weights_fingerprint
from viper.encoders.image_text import load_image_text, only_words
from viper.encoders.nearest import Nearest
from viper.encoders.pictures import PictureEncoder, PictureSample, blank_frames
from viper.encoders.pretrained import explained, is_model, local_folder
from viper.encoders.remembered import key_of, recall, remember
from viper.encoders.words import ROBERTA, SentenceModel
from viper.errors import UserError
from viper.files import digest_of, read_yaml
from viper.fingerprints import fingerprint_folder
from viper.media.pictures import Frames
from viper.store import EncoderInfo, Feature
from viper.task import load_task

if TYPE_CHECKING:
    import torch

    from viper.engine.device import Runtime

MAX_SENTENCES = 5000  # a network reads each, and each is recorded
MAX_CHARACTERS = 2000  # of one; the network reads some 77 words
# Between the two models, as encoder.json and --models write them.
AND = " + "
# What of a text model's folder may decide its values: settings, words, weights.
_READ = (".json", ".txt", ".model", ".safetensors", ".bin")


@dataclass(frozen=True)
class Prompts:
    """Sentences, and the emotion each stands for ("neutral" for none)."""

    sentences: tuple[str, ...]
    emotions: tuple[str, ...]


def load_prompts(path: Path) -> Prompts:
    """Read a prompt list: every word of every emotion in every pattern, then the neutral sentences as they are.

    Raises UserError naming the file and the key that is wrong.
    """
    card = read_yaml(path, "a prompt list")
    if not isinstance(card, dict) or set(card) != {"patterns", "emotions", "neutral"}:
        raise UserError(f"{path}: a prompt list has the keys patterns, emotions and neutral")
    patterns = _sentences(card["patterns"], path, "patterns")
    for pattern in patterns:
        if "{word}" not in pattern:
            raise UserError(f"{path}: the pattern {pattern!r} has no {{word}} in it")
    if not isinstance(card["emotions"], dict) or not card["emotions"]:
        raise UserError(f"{path}: emotions must name each emotion with a list of words")
    words = [
        (word, emotion)
        for emotion, given in card["emotions"].items()
        for word in _sentences(given, path, f"emotions.{emotion}")
    ]
    neutral = _sentences(card["neutral"], path, "neutral")
    n = len(patterns) * len(words) + len(neutral)
    if n > MAX_SENTENCES:
        raise UserError(
            f"{path}: {len(patterns)} patterns times {len(words)} words: {n} prompts; at most {MAX_SENTENCES}"
        )
    pairs = [(pattern.replace("{word}", word), emotion) for word, emotion in words for pattern in patterns]
    pairs += [(sentence, "neutral") for sentence in neutral]
    return Prompts(tuple(sentence for sentence, _ in pairs), tuple(emotion for _, emotion in pairs))


def _sentences(value: Any, path: Path, key: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(entry, str) and entry.strip() for entry in value):
        raise UserError(f"{path}: {key} must be a list of sentences")
    if longest := next((entry for entry in value if len(entry) > MAX_CHARACTERS), ""):
        raise UserError(f"{path}: {key}: {longest[:40]!r} ... has more than {MAX_CHARACTERS} characters")
    return value


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
    names = (
        ShortName(
            "clip", "CLIP picks each frame's best prompt, RoBERTa encodes it, 768",
            weights=("timm/vit_base_patch32_clip_224.openai", ROBERTA), is_default=True,
        ),
    )  # fmt: skip
    packages = ("open_clip", "transformers")

    def __init__(
        self,
        prompts: Prompts,
        clip_model: str = "ViT-B-32",
        clip_pretrained: str = "openai",
        clip_checkpoint_path: Path | None = None,
        text_model: str = ROBERTA,
    ) -> None:
        self.prompts, self.clip_model, self.text_model = prompts, clip_model, text_model
        self.clip_pretrained, self.clip_checkpoint_path = clip_pretrained, clip_checkpoint_path
        self._clip: Any = None

    @classmethod
    def matches(cls, model: str) -> bool:
        """Take any model, as the text encoder."""
        return is_model(model)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], model: str) -> PromptEncoder:
        """Take the prompts of a task's card, CLIP as the options say, and `model` as the text encoder."""
        task = options["task"]
        prompts = load_task(task).prompts
        if prompts is None:
            raise UserError(f"--task {task}: its card names no prompts; add `prompts: FILE` or give --subtitles")
        return cls(
            load_prompts(prompts),
            options["clip_model"],
            options["clip_pretrained"],
            options["clip_checkpoint_path"],
            model or ROBERTA,
        )

    @classmethod
    def from_record(cls, info: EncoderInfo, model: str | None) -> PromptEncoder:
        """Take the recorded prompts and models, or the two that `model` names, "CLIP + TEXT"."""
        settings = info.settings
        if "sentences" not in settings:
            raise UserError(
                "the prompts of its features were not recorded; extract them again with this version of viper"
            )
        sentences = tuple(settings["sentences"])
        clip_model, text_model = settings["clip_model"], settings["text_model"]
        checkpoint = settings["clip_checkpoint_path"]
        if model is not None:
            clip_name, separator, text_model = model.partition(AND)
            if not separator:
                raise UserError(f"--models NAME={model}: there are two models, write them as 'CLIP{AND}TEXT'")
            # A folder has its own weights; a file's are of the recorded architecture.
            checkpoint = clip_name if Path(clip_name).is_file() else None
            clip_model = clip_model if checkpoint else clip_name
        path = None if checkpoint is None else Path(checkpoint)
        # What each sentence stands for makes no difference to a feature, and is not recorded.
        prompts = Prompts(sentences, ("",) * len(sentences))
        return cls(prompts, clip_model, settings["clip_pretrained"], path, text_model)

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_clip": None,
            "_nearest": None,
            "_prompt_directions": None,
            "_mean": None,
            "_std": None,
        }

    def prepare(self, runtime: Runtime) -> None:
        """Load both models and embed the prompts with each, or recall what earlier runs made of them."""
        import torch

        from viper.engine.device import DeviceBatches

        # Always float32: the feature is a choice, and where two prompts are nearly as good bf16 may choose the other,
        # whose embedding is another sentence's. bf16 is asked first (viper.encoders.nearest).
        exact = dataclasses.replace(runtime, precision=torch.float32)
        loaded = load_image_text(self.clip_model, self.clip_pretrained, self.clip_checkpoint_path)
        clip, self._has_quick_gelu = loaded.network, loaded.has_quick_gelu
        self._architecture = loaded.architecture
        self._clip_fingerprint = weights_fingerprint(clip)
        self._preprocessing = dict(clip.visual.preprocess_cfg)
        self._embed_by_text_model(dataclasses.replace(exact, compiled=False))
        self._batches = DeviceBatches(exact, side_by_side=True)
        mean, std = (torch.tensor(self._preprocessing[name], device=runtime.device) for name in ("mean", "std"))
        self._mean, self._std = mean.view(3, 1, 1), std.view(3, 1, 1)
        self._clip = clip.eval().requires_grad_(False).to(runtime.device)
        self._clip.visual = runtime.place(clip.visual)
        with explained(self.clip_model, "--clip_model FOLDER"):
            words = loaded.tokenizer(list(self.prompts.sentences))
            self._prompt_directions = torch.from_numpy(self._directions(words, runtime))
            self._batches.rows(self._seen, [self.rows(blank_frames())], 1)
        if not self._prompt_directions.isfinite().all():
            raise UserError(f"{self.clip_model}: returns values that are not finite")
        is_fast = runtime.precision is torch.bfloat16
        fast = DeviceBatches(runtime, side_by_side=True)
        self._nearest = Nearest(
            self._prompt_directions.numpy(),
            lambda pictures, batch_size: self._batches.rows(self._seen, pictures, batch_size),
            (lambda pictures, batch_size: fast.rows(self._seen, pictures, batch_size)) if is_fast else None,
        )

    def _embed_by_text_model(self, runtime: Runtime) -> None:
        """Set what the text model makes of each prompt, its width and the record of its weights."""
        with explained(self.text_model):
            folder = local_folder(self.text_model, weights=True)
        key = None
        with contextlib.suppress(OSError):
            names = (path.name for path in folder.iterdir() if path.suffix in _READ and path.is_file())
            files = fingerprint_folder(folder, names)
            key = key_of("text", files, self.prompts.sentences, _device_name(runtime))
        if key is not None and (kept := recall(key)):
            self._prompt_tokens, self._text_options = kept[0]["tokens"], kept[1]
        else:
            sentences = SentenceModel(self.text_model, runtime)
            self._text_options = sentences.options
            self._prompt_tokens = sentences.embed(self.prompts.sentences, 64)
            if key is not None:
                remember(key, {"tokens": self._prompt_tokens}, self._text_options)
        self._width = self._prompt_tokens.shape[1]

    def _directions(self, words: torch.Tensor, runtime: Runtime) -> np.ndarray:
        """Return (prompts, width), of length 1, what CLIP makes of the prompts' words (prompts, context)."""
        import torch

        made_of = [self._clip_fingerprint, self._has_quick_gelu, self._architecture, words.tolist()]
        key = key_of("clip", *made_of, _device_name(runtime))
        if kept := recall(key):
            return kept[0]["directions"]
        with only_words(self._clip, words) as read:
            directions = torch.cat(self._batches.map(self._embed_prompts, read, 64)).float().cpu().numpy()
        remember(key, {"directions": directions}, {})
        return directions

    def info(self) -> EncoderInfo:
        """Return what decides the values: both models and the prompts."""
        options = {
            "clip_weights": self._clip_fingerprint,
            "clip_quick_gelu": self._has_quick_gelu,
            "clip_config": digest_of([self._architecture, self._preprocessing]),
            **{f"text_{name}": value for name, value in self._text_options.items()},
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
        model = f"{self.clip_model}{AND}{self.text_model}"
        return EncoderInfo(
            self.kind, self.modality, self._width, options, model, precision="float32", settings=settings
        )

    def rows(self, frames: Frames) -> np.ndarray:
        """Resize and crop as open_clip does; scaling and normalisation are left to the device."""
        from PIL import Image

        resize = self._geometry()
        return np.array(
            [np.asarray(resize(Image.fromarray(image)), np.uint8).transpose(2, 0, 1) for image in frames.images]
        )

    def _geometry(self) -> Any:
        """Return open_clip's own transform up to, and without, the conversion to numbers."""
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from torchvision.transforms import Compose, Normalize, ToTensor

        steps = image_transform_v2(PreprocessCfg(**self._preprocessing), is_train=False).transforms
        return Compose([step for step in steps if not isinstance(step, ToTensor | Normalize)])

    def encode(self, samples: list[PictureSample], batch_size: int) -> list[Feature]:
        """Return one token a frame: the embedding of its best prompt."""
        best = self.best_prompts([sample.rows for sample in samples], batch_size)
        return self.features(self._prompt_tokens[best], samples, self._width)

    def best_prompts(self, pictures: list[np.ndarray], batch_size: int) -> np.ndarray:
        """Return (frames,) the index of the prompt each frame is most similar to (cosine)."""
        return self._nearest.choose([array for array in pictures if len(array)], batch_size)

    def inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return what open_clip's transform would give the network for these (n, 3, H, W) uint8, float32."""
        return (pixels.float() / 255 - self._mean) / self._std

    def _embed_prompts(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._clip.encode_text(self._batches.to_device(tokens), normalize=True)

    def _seen(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._clip.encode_image(self.inputs(pixels), normalize=True).float()


def _device_name(runtime: Runtime) -> str:
    import torch

    device = runtime.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
