"""The encoder that an encoder.json describes, built again."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viper.encoders.registry import find, is_own
from viper.errors import UserError
from viper.store import EncoderInfo

if TYPE_CHECKING:
    from viper.encoders.base import Encoder
    from viper.engine.device import Runtime

# Between the two models of encoders that have two, as encoder.json and --models write them.
AND = " + "
_PY_FEAT = "py-feat/face_multitask_v2"


def recorded_encoder(info: EncoderInfo, runtime: Runtime, model: str | None = None) -> Encoder[Any, Any]:
    """The encoder that made features with this record, prepared, and proved to be the same.

    Parameters
    ----------
    info : the content of encoder.json, as a checkpoint keeps it too.
    runtime : where it is to run.
    model : another name or folder of its weights on this machine; of CLIP and a text encoder both, "CLIP + TEXT". None:
        the recorded one.

    Raises
    ------
    UserError : it cannot be built from its record (features made elsewhere); its weights or packages are not here; or
        what is here would give other features. One line, which says so and what to do.
    """
    build = _own if is_own(info) else _BUILDERS.get(info.encoder)
    if build is None:
        if info.source == "files":
            raise UserError("its features were made elsewhere and brought in; no encoder here can make them")
        raise UserError(f"its features were made by an encoder {info.encoder!r} that this version of viper lacks")
    try:
        encoder = build(info, model)
        encoder.prepare(runtime)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the record of its encoder is not complete ({type(error).__name__}: {error})") from error
    difference = info.difference(dataclasses.replace(encoder.info(), source=info.source))
    if difference:
        raise UserError(f"the encoder here is another than the one its features were made with ({difference})")
    return encoder


def in_words_of(error: UserError, name: str) -> str:
    """What is wrong with a modality's encoder, naming the option of `predict`, not the extracting command's."""
    text = re.sub(r"`--\w+ FOLDER[^`]*`", f"`--models {name}=FOLDER`", str(error))
    if "--models" in text or not re.search("model|weights|encoder here", text):
        return text
    return f"{text}; give the one it was made with: --models {name}=FOLDER"


def _named(info: EncoderInfo, model: str | None) -> str:
    """The model to load: a short name stands for its hub id, as in the extracting commands."""
    name = info.model if model is None else model
    registered = find(info.modality, name)
    return registered.model if registered is not None and registered.model else name


def _own(info: EncoderInfo, model: str | None) -> Encoder[Any, Any]:
    # What a record names is never run: it came with a checkpoint, and may be anybody's.
    if model is None:
        raise UserError(
            f"its features were made by a user's own encoder, {info.model}; give --models NAME=FILE.py:Class"
        )
    from viper.encoders.user_encoder import ARGUMENTS, load_own

    reads = "frames" if info.source == "faces" else info.source
    return load_own(model, info.options[ARGUMENTS], reads, "--models NAME=")


def _hog(info: EncoderInfo, model: str | None) -> Encoder[Any, Any]:
    from viper.encoders.visual import HogEncoder

    return HogEncoder()


def _image(info: EncoderInfo, model: str | None) -> Encoder[Any, Any]:
    from viper.encoders.visual import ImageEncoder

    return ImageEncoder(_named(info, model), info.options["layer"], info.options["pool"])


def _video(info: EncoderInfo, model: str | None) -> Encoder[Any, Any]:
    from viper.encoders.video import VideoEncoder

    options = info.options
    return VideoEncoder(_named(info, model), options["n_windows"], options["layer"], options["pool"])


def _speech(info: EncoderInfo, model: str | None) -> Encoder[Any, Any]:
    from viper.encoders.audio import SpeechEncoder

    options = info.options
    return SpeechEncoder(_named(info, model), *_fragments(info), options["layer"], options["pool"])


def _measuring(info: EncoderInfo, model: str | None) -> Encoder[Any, Any]:
    from viper.encoders.audio_measures import AcousticEncoder, EgemapsEncoder, LogMelEncoder

    for measuring in (LogMelEncoder, AcousticEncoder, EgemapsEncoder):
        if info.encoder == measuring.kind:
            return measuring(*_fragments(info))
    raise KeyError(info.encoder)


def _fragments(info: EncoderInfo) -> tuple[int, float | None]:
    return info.options["n_fragments"], info.options.get("fragment_seconds")


def _prompts(info: EncoderInfo, model: str | None) -> Encoder[Any, Any]:
    from viper.encoders.prompts import Prompts
    from viper.encoders.textual import PromptEncoder

    settings = info.settings
    if "sentences" not in settings:
        raise UserError("the prompts of its features were not recorded; extract them again with this version of viper")
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
    return PromptEncoder(prompts, clip_model, settings["clip_pretrained"], path, text_model)


def _multitask(info: EncoderInfo, model: str | None) -> Encoder[Any, Any]:
    from viper.encoders.fau import MultitaskEncoder

    name = model or info.model
    return MultitaskEncoder(None if name in (_PY_FEAT, "multitask") else Path(name))


def _landmarks(info: EncoderInfo, model: str | None) -> Encoder[Any, Any]:
    from viper.encoders.fau import LandmarkEncoder

    return LandmarkEncoder()


def _subtitles(info: EncoderInfo, model: str | None) -> Encoder[Any, Any]:
    from viper.encoders.textual import SubtitleEncoder

    return SubtitleEncoder(_named(info, model))


def _hashed(info: EncoderInfo, model: str | None) -> Encoder[Any, Any]:
    from viper.encoders.textual import HashedWordsEncoder

    return HashedWordsEncoder()


_BUILDERS: dict[str, Callable[[EncoderInfo, str | None], Encoder[Any, Any]]] = {
    "hog": _hog,
    "image": _image,
    "video": _video,
    "speech": _speech,
    "logmel": _measuring,
    "acoustic": _measuring,
    "egemaps": _measuring,
    "clip_prompts": _prompts,
    "multitask": _multitask,
    "landmarks": _landmarks,
    "subtitles": _subtitles,
    "hashed": _hashed,
}
