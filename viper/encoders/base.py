"""What every encoder is: how it names itself, how it is built, and what it does with a clip."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np

from viper.errors import UserError
from viper.fingerprints import fingerprint_bytes
from viper.store import EncoderInfo, Feature

if TYPE_CHECKING:
    import torch

    from viper.engine.device import Runtime

ContentT = TypeVar("ContentT")
SampleT = TypeVar("SampleT")

# Weights of published architectures that no encoder here reads: the pooler of a ViT or RoBERTa, and what stands for
# masked stretches of sound in the training of wav2vec 2.0 and its kin. Checkpoints often lack them.
UNREAD_WEIGHTS = ("pooler", "masked_spec_embed")
MAX_TOKENS = 10_000  # windows of a clip; more are a mistake, or somebody's attempt on the memory
_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class ShortName:
    """A name that --model_name takes.

    Attributes
    ----------
    name : such as "vit-base".
    summary : one line for people: what it is, and its width.
    hub_id : the model on the hub that it stands for; empty for an encoder that is not built from a model's name.
    weights : hub ids of weights it needs besides.
    is_default : whether the modality's command takes it when no name is given.
    """

    name: str
    summary: str
    hub_id: str = ""
    weights: tuple[str, ...] = ()
    is_default: bool = False


class Encoder(ABC, Generic[ContentT, SampleT]):
    """Turns the content of a clip into a Feature.

    `prepare` loads the weights. `load` is host work and runs in worker processes, to which the encoder is sent without
    its weights (see the `__getstate__` of those that have some). `encode` is device work on several clips at once. A
    feature never depends on which other clips are in the batch, but for the last bits of a network's sums.

    A module in viper/encoders is imported to learn the names in it, so it imports torch and other slow packages only
    inside functions.

    Attributes
    ----------
    kind : the name in encoder.json.
    modality : the modality it is made for.
    reads : the content it wants: "frames", "sound" or "subtitles".
    names : the names a user asks for it by; without any, its kind.
    packages : importable modules it needs beyond viper's own.
    extra : the extra of viper that installs those packages; empty where viper itself does.
    own_options : options that the modality's other encoders refuse -> what the message says of those.
    """

    kind: ClassVar[str]
    modality: str
    reads: ClassVar[str]
    names: ClassVar[tuple[ShortName, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    own_options: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def matches(cls, model: str) -> bool:
        """Return whether it takes a model that is no short name: a hub id, a folder, a file.

        The encoder with the modality's default name is asked last, so it may take whatever the others do not.
        """
        return False

    @classmethod
    def made(cls, info: EncoderInfo) -> bool:
        """Return whether features with this record were made by it."""
        return info.encoder == cls.kind

    @classmethod
    def from_options(cls, options: Mapping[str, Any], model: str) -> Encoder[Any, Any]:
        """Build it from the options of a command: each parameter of the constructor gets the option of its name.

        Parameters
        ----------
        options : by name; under "reads", the content that there is.
        model : for a parameter `model`: the hub id, folder or file; empty where --model_name stands for none.
        """
        given = {**options, "model": model} if model else options
        return cls(**arguments_of(cls, given, f"--model_name {options['model_name']}"))

    @classmethod
    def from_record(cls, info: EncoderInfo, model: str | None) -> Encoder[Any, Any]:
        """Build it from its record: each parameter of the constructor gets the recorded option of its name.

        `model` is another name or folder of the recorded weights; None: the recorded one. An option that is not
        recorded is a KeyError, unless its default is None.
        """
        arguments = {}
        for name, parameter in parameters_of(cls).items():
            if name == "model":
                arguments[name] = cls.hub_id(info.model if model is None else model)
            elif name in info.options or parameter.default is not None:
                arguments[name] = info.options[name]
        return cls(**arguments)

    @classmethod
    def hub_id(cls, name: str) -> str:
        """Return the hub id that one of its short names stands for; any other name as it is."""
        return next((known.hub_id for known in cls.names if known.name == name and known.hub_id), name)

    def prepare(self, runtime: Runtime) -> None:
        """Load the weights onto the runtime's device. Weight-free encoders have nothing to do."""

    @abstractmethod
    def info(self) -> EncoderInfo:
        """Return what encoder.json says; after `prepare`."""

    @abstractmethod
    def load(self, content: ContentT) -> SampleT:
        """Make the clip's content ready for the device."""

    @abstractmethod
    def encode(self, samples: list[SampleT], batch_size: int) -> list[Feature]:
        """Return one Feature per sample; at most `batch_size` items (frames, windows, sentences) at once."""

    def size(self, sample: SampleT) -> int:
        """Return how many device items a sample holds."""
        return 1


def parameters_of(encoder: type[Encoder[Any, Any]]) -> dict[str, inspect.Parameter]:
    """Return the named parameters of an encoder's constructor."""
    found = inspect.signature(encoder).parameters
    return {name: parameter for name, parameter in found.items() if parameter.kind not in _ANY_NUMBER}


def arguments_of(encoder: type[Encoder[Any, Any]], options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return those of the options that the constructor has parameters for.

    A parameter that is no option and has no default is a UserError that begins with `where`.
    """
    arguments = {}
    for name, parameter in parameters_of(encoder).items():
        if name in options:
            arguments[name] = options[name]
        elif parameter.default is parameter.empty:
            raise UserError(f"{where}: {encoder.__name__} wants {name}, which is no option here; give it a default")
    return arguments


def check_whole(option: str, value: Any, least: int, most: int) -> None:
    """Refuse what is no whole number within the bounds; it may come from a record, which may say anything."""
    if type(value) is not int or not least <= value <= most:
        at_least = f"must be at least {least}" if value is None or (type(value) is int and value < least) else ""
        raise UserError(f"--{option} {value}: {at_least or f'must be a whole number, at most {most}'}")


def is_read(weight: str) -> bool:
    """Return whether a weight of that name can make a difference to a feature."""
    return not any(part in weight for part in UNREAD_WEIGHTS)


def weights_fingerprint(module: torch.nn.Module) -> str:
    """Return a short digest of a module's weights: name, shape and values of every tensor that is read.

    Two folders with the same weights give the same digest, whatever they are called; what a checkpoint may lack, and is
    then random, is left out.
    """
    parts: list[bytes | memoryview] = []
    for name, tensor in sorted(module.state_dict().items()):
        if is_read(name):
            # float32 holds every half; of integers it would not hold all.
            values = tensor.detach().cpu()
            values = values.float() if values.is_floating_point() else values
            content = np.ascontiguousarray(values.numpy()).reshape(-1).view(np.uint8)
            parts += [f"{name}{tuple(tensor.shape)}".encode(), fingerprint_bytes(content.data).encode()]
    return fingerprint_bytes(*parts)


def split_like(values: Any, samples: Sequence[Any]) -> Iterator[Any]:
    """Cut rows that belong to several samples back into one piece per sample, by the samples' lengths."""
    start = 0
    for sample in samples:
        yield values[start : start + len(sample)]
        start += len(sample)
