"""What encoders of words share: the cues of subtitles as samples, and a network that embeds sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from viper.encoders.base import Encoder, split_like, weights_fingerprint
from viper.encoders.pretrained import config_digest, explained, load_processor, load_transformers_model, width_of
from viper.errors import UserError
from viper.files import digest_of
from viper.media.subtitles import Cue
from viper.store import Feature

if TYPE_CHECKING:
    import torch

    from viper.engine.device import Runtime

ROBERTA = "FacebookAI/roberta-base"
# Sentences by whose tokens, and by its vocabulary, a tokenizer is known.
PROBES = (
    'A person who is amused, laughs out loud & says "Oh, that\'s 100% great!"',
    "Überraschung: 表情 😀 naïve café",
)


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
        """Return the number of cues."""
        return len(sample)

    def load(self, content: list[Cue] | None) -> CueSample:
        """Return the texts and times of the cues."""
        cues = content or []
        return CueSample([cue.text for cue in cues], np.array([(cue.start + cue.end) / 2 for cue in cues]))

    @staticmethod
    def features(tokens: np.ndarray, samples: list[CueSample], width: int) -> list[Feature]:
        """Return one Feature a sample."""
        return [
            Feature.make(own, None, sample.times) if len(sample) else Feature.absent(width)
            for own, sample in zip(split_like(tokens, samples), samples, strict=True)
        ]


class SentenceModel:
    """A transformers text encoder; a sentence's embedding is its class (first) token in the last layer."""

    def __init__(self, model: str, runtime: Runtime) -> None:
        from transformers import AutoModel, AutoTokenizer

        from viper.engine.device import DeviceBatches

        with explained(model):
            self._tokenizer = load_processor(AutoTokenizer, model)
        network: Any = load_transformers_model(AutoModel, model)
        words = digest_of([sorted(self._tokenizer.get_vocab().items()), self._tokenizer(list(PROBES))["input_ids"]])
        self.options = {
            "weights": weights_fingerprint(network), "config": config_digest(model), "tokenizer": words,
        }  # fmt: skip
        self._model, self._n_words = model, network.get_input_embeddings().num_embeddings
        self.width, self.precision = int(network.config.hidden_size), runtime.precision_name
        # A tokenizer may not say its model's limit; position embeddings do, two of them taken by padding offsets.
        self._limit = min(self._tokenizer.model_max_length, network.config.max_position_embeddings - 2)
        self._network, self._batches = runtime.place(network), DeviceBatches(runtime, side_by_side=True)
        with explained(model):
            self._tokenizer.padding_side = "right"  # of a batch's sentences the first token stays the first
            if self._limit < 3:
                raise UserError(f"{model}: reads sentences of {self._limit} tokens, of which two say nothing")
            width_of(self.embed(["a", "a word"], 2), model)

    def embed(self, sentences: Sequence[str], batch_size: int) -> np.ndarray:
        """Return (sentences, width) float32. Padding is masked: a sentence's embedding does not depend on its batch."""
        import torch

        rows = np.zeros((len(sentences), self.width), np.float32)
        if not sentences:
            return rows
        ids = self._tokenizer(list(sentences), truncation=True, max_length=self._limit)["input_ids"]
        if (largest := max(max(row, default=0) for row in ids)) >= self._n_words:
            raise UserError(f"{self._model}: its tokenizer has word {largest}, its network {self._n_words} words")
        # Sentences of similar length go through together, so that there is little padding.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        parts = self._batches.map(self._forward, [ids[i] for i in order], batch_size)
        rows[order] = torch.cat(parts).float().cpu().numpy()
        return rows

    def _forward(self, ids: list[list[int]]) -> torch.Tensor:
        inputs = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        on_device = {name: self._batches.to_device(value) for name, value in inputs.items()}
        return self._network(**on_device).last_hidden_state[:, 0]
