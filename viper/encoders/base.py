"""What every encoder is."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch

from viper.encoders.pretrained import is_read
from viper.engine.device import Runtime
from viper.store import EncoderInfo, Feature

ContentT = TypeVar("ContentT")
SampleT = TypeVar("SampleT")


class Encoder(ABC, Generic[ContentT, SampleT]):
    """Turns the content of a clip into a Feature.

    `prepare` loads the weights. `load` is host work and runs in worker processes, to which the encoder is sent without
    its weights (see the `__getstate__` of those that have some). `encode` is device work on several clips at once. A
    feature never depends on which other clips are in the batch.

    Attributes
    ----------
    kind : the name in encoder.json.
    modality : the modality it is made for.
    reads : the content it wants: "frames", "sound" or "subtitles".
    """

    kind: ClassVar[str]
    modality: str
    reads: ClassVar[str]

    def prepare(self, runtime: Runtime) -> None:
        """Loads the weights onto the runtime's device. Weight-free encoders have nothing to do."""

    @abstractmethod
    def info(self) -> EncoderInfo:
        """What encoder.json says; after `prepare`."""

    @abstractmethod
    def load(self, content: ContentT) -> SampleT:
        """The clip's content, made ready for the device."""

    @abstractmethod
    def encode(self, samples: list[SampleT], batch_size: int) -> list[Feature]:
        """One Feature a sample, at most `batch_size` device items (frames, windows, sentences) at once."""

    def size(self, sample: SampleT) -> int:
        """How many device items a sample holds."""
        return 1


def weights_fingerprint(module: torch.nn.Module) -> str:
    """A short digest of a module's weights: name, shape and first values of every tensor that makes a difference.

    Two folders with the same weights give the same digest, whatever they are called; what a checkpoint may lack, and is
    then random, is left out.
    """
    digest = hashlib.blake2b(digest_size=12)
    for name, tensor in sorted(module.state_dict().items()):
        if not is_read(name):
            continue
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def split_like(values: Any, samples: Sequence[Any]) -> Iterator[Any]:
    """Cuts rows that belong to several samples back into one piece a sample, by the samples' lengths."""
    start = 0
    for sample in samples:
        yield values[start : start + len(sample)]
        start += len(sample)
