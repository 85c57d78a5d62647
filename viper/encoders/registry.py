"""The registry of encoders: the classes in this folder, found by short name, by model, or by the record of features.

A new encoder is a new module here and nothing else: each is imported to see which encoders it has, and each encoder
says the rest itself (viper.encoders.base.Encoder).
"""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from viper import encoders
from viper.encoders.base import Encoder, ShortName, parameters_of
from viper.errors import UserError
from viper.store import MODALITIES, EncoderInfo
from viper.weights import reason

if TYPE_CHECKING:
    from viper.engine.device import Runtime

AnyEncoder = Encoder[Any, Any]

# In this order they are listed. An encoder of any other modality is named in every command that gives what it reads.
# Which command gives an encoder what it reads.
COMMANDS = {
    "frames": "extract_visual_features",
    "sound": "extract_audio_features",
    "subtitles": "extract_textual_features with --subtitles",
}


@dataclass(frozen=True)
class Registered:
    """A short name, and the encoder that has it."""

    short: ShortName
    encoder: type[AnyEncoder]

    @property
    def name(self) -> str:
        """What --model_name takes."""
        return self.short.name

    @property
    def modality(self) -> str:
        """The modality it is made for."""
        return self.encoder.modality

    @property
    def weights(self) -> tuple[str, ...]:
        """The hub ids of all weights that must be here for it to run."""
        return (*([self.short.hub_id] if self.short.hub_id else []), *self.short.weights)

    @property
    def is_weight_free(self) -> bool:
        """Whether it runs with nothing but the installed packages."""
        return not self.weights


def encoder_classes() -> list[type[AnyEncoder]]:
    """Return the encoders of the modules in this folder, those that are not made for one modality first.

    Within a modality: the default's, those with weights, those without, and those that need an extra of viper.
    """
    found = []
    for name in sorted(module.name for module in pkgutil.iter_modules(encoders.__path__)):
        module = import_module(f"{encoders.__name__}.{name}")
        found += [
            value for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Encoder) and value.__module__ == module.__name__
            and not inspect.isabstract(value)
        ]  # fmt: skip
    return sorted(found, key=_rank)


def _rank(encoder: type[AnyEncoder]) -> tuple[int, str, bool, bool, bool]:
    modality = _modality(encoder)
    place = -1 if modality is None else MODALITIES.index(modality) if modality in MODALITIES else len(MODALITIES)
    entries = _entries(encoder)
    is_default = any(entry.short.is_default for entry in entries)
    is_weight_free = all(entry.is_weight_free for entry in entries)
    return place, modality or "", not is_default, is_weight_free, bool(encoder.extra)


def _modality(encoder: type[AnyEncoder]) -> str | None:
    """Return the modality an encoder is made for; None for one that takes its modality from what it is given."""
    modality = getattr(encoder, "modality", None)
    return modality if isinstance(modality, str) else None


def _entries(encoder: type[AnyEncoder]) -> list[Registered]:
    """Return the names of an encoder: its own, not those of the class it is derived from; or else its kind."""
    if _modality(encoder) is None:
        return []
    names = vars(encoder).get("names", ())
    summary = (inspect.getdoc(encoder) or "").split("\n")[0]
    return [Registered(name, encoder) for name in names or [ShortName(encoder.kind, summary)]]


def registered(modality: str | None = None) -> list[Registered]:
    """Return every short name, or those of a modality, in the order they are listed."""
    entries = [entry for encoder in encoder_classes() for entry in _entries(encoder)]
    return [entry for entry in entries if modality in (None, entry.modality)]


def choose_encoder(modality: str, reads: str, options: Mapping[str, Any]) -> AnyEncoder:
    """Return the encoder that a command's options ask for, not yet prepared.

    Parameters
    ----------
    modality : the command's.
    reads : the content there is: "frames", "sound" or "subtitles".
    options : the command's, by name; `model_name` is a short name, a hub id, a local folder or FILE.py:Class.

    Raises
    ------
    UserError : no encoder takes that model, or not this content, or not one of the options.
    """
    name = str(options["model_name"])
    encoder, model = _find(modality, reads, name)
    for other in encoder_classes():
        if _modality(encoder) is None or _modality(other) != modality:
            continue
        for option in other.own_options.keys() - parameters_of(encoder).keys():
            if options.get(option) not in (None, parameters_of(other)[option].default):
                raise UserError(f"--{option} {options[option]}: {name} {other.own_options[option]}")
    return encoder.from_options({**options, "reads": reads}, model)


def _find(modality: str, reads: str, name: str) -> tuple[type[AnyEncoder], str]:
    """Return the encoder of a name, and the model it is to be built from: a hub id, a folder, a file or nothing."""
    classes = [encoder for encoder in encoder_classes() if _serves(encoder, modality)]
    entries = [entry for encoder in classes for entry in _entries(encoder)]
    entry = next((entry for entry in entries if entry.name == name), None)
    if entry is not None and entry.encoder.reads == reads:
        return entry.encoder, entry.short.hub_id
    # What a short name stands for may also be read by another encoder: the words of a prompt as those of subtitles.
    model = entry.short.hub_id if entry else name
    defaults = {entry.encoder for entry in entries if entry.short.is_default}
    for encoder in sorted(classes, key=lambda encoder: encoder in defaults):
        if model and getattr(encoder, "reads", reads) == reads and encoder.matches(model):
            return encoder, model
    if entry is not None:
        wants, own = entry.encoder.reads, [other.name for other in entries if other.encoder.reads == reads]
        if (wants, modality) == ("subtitles", "textual"):
            advice = "give --subtitles FOLDER"
        elif entry.modality == modality and own:
            advice = f"for {reads} give {' or '.join(own)}"
        else:
            advice = f"use {COMMANDS[wants]}"
        raise UserError(f"--model_name {name}: reads {wants}, not {reads}; {advice}")
    known = [entry.name for entry in entries]
    if any(entry.short.hub_id for entry in entries):
        known += ["a local folder", "a hub id (owner/name)"]
    raise UserError(f"--model_name {name}: must be {', '.join(known[:-1])} or {known[-1]}")


def _serves(encoder: type[AnyEncoder], modality: str) -> bool:
    own = _modality(encoder)
    return own is None or own == modality or own not in MODALITIES


def recorded_encoder(info: EncoderInfo, runtime: Runtime, model: str | None = None) -> AnyEncoder:
    """Return the encoder that made features with this record, prepared, and proved to be the same.

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
    made_by = next((encoder for encoder in encoder_classes() if encoder.made(info)), None)
    if made_by is None:
        raise UserError(f"its features were made by an encoder {info.encoder!r} that this version of viper lacks")
    try:
        encoder = made_by.from_record(info, model)
        encoder.prepare(runtime)
    except UserError:
        raise
    except Exception as error:  # a record may hold anything, and a network raise anything
        raise UserError(
            f"the record of its encoder is not complete ({type(error).__name__}: {reason(error)})"
        ) from error
    difference = info.difference(dataclasses.replace(encoder.info(), source=info.source))
    if difference:
        raise UserError(f"the encoder here does not match the one that made its features ({difference})")
    return encoder


def in_words_of(error: UserError, name: str) -> str:
    """Return what is wrong with a modality's encoder, naming the option of `predict`, not the extracting command's."""
    text = re.sub(r"`--\w+ FOLDER[^`]*`", f"`--models {name}=FOLDER`", str(error))
    if "pip install" in text:  # no other model would do
        return re.sub(r"^--model_name |, or give --model_name \w+", "", text)
    if "--models" in text or not re.search("model|weights|encoder here", text):
        return text
    return f"{text}; give the one it was made with: --models {name}=FOLDER"
