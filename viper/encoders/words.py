"""What encoders of words share: the cues of subtitles as samples, and a network that embeds sentences."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from viper.encoders.base import Encoder, split_like, weights_fingerprint
from viper.encoders.claims import SENTENCES, read_settings
from viper.encoders.pooling import CLS, family_pooling, further_steps, pooled, published_pooling
from viper.encoders.pretrained import (
    config_digest,
    explained,
    load_config,
    load_processor,
    load_transformers_model,
    local_folder,
    width_of,
)
from viper.errors import UserError
from viper.files import digest_of
from viper.logs import log
from viper.media.subtitles import Cue
from viper.store import Feature
from viper.weights import reason

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


# A cue is a sentence or two. A network that says no limit, or one of a hundred pages, is given no more than these.
MAX_WORDS, USUAL_WORDS = 2048, 512
# Sentences on which a network is tried: the first is padded beside the second.
_TRIED = (
    "Somebody laughs about a very old joke again",
    f"{PROBES[0]} and nobody knows what it was that made them so happy",
)
# By model_type, networks that read words, whose states are not what they were trained to give of a sentence alone.
_NOT_FOR_SENTENCES = {
    **dict.fromkeys(("siglip", "siglip2", "siglip_text_model", "siglip2_text_model"),
                    "was trained on words padded to a fixed length"),
    "tapas": "reads tables", "layoutlmv2": "reads pages with boxes", "esm": "reads proteins", "esmc": "reads proteins",
}  # fmt: skip
# To how many tokens sentences are padded for networks that cannot read one word: Canine and Funnel make one of several.
_FEW = 16
_INSTEAD = "take a text encoder, such as FacebookAI/roberta-base or one of sentence-transformers"
# How far a sentence in a batch may be from the same sentence alone, in float32, as a share of the largest value.
_NEAR = 1e-5


class SentenceModel:
    """A transformers network that reads text, and what it makes of a sentence.

    The encoder of an encoder-decoder, the half of an image-text model that reads, any other network as it is. The
    vector is what a folder of sentence-transformers says, else what the family's own heads read: see
    viper.encoders.pooling. A network is tried on a few sentences first: one that sees other sentences of its batch is
    given sentences of one length at a time, or one at a time; one whose vectors do not tell sentences apart is a
    UserError.
    """

    def __init__(self, model: str, runtime: Runtime) -> None:
        from transformers import AutoTokenizer

        from viper.engine.device import DeviceBatches

        self._model = model
        with explained(model):
            self._tokenizer = load_processor(AutoTokenizer, model)
        network: Any = _reading_half(_load(model), model)
        self._n_words, self._limit = _vocabulary_of(network), _limit_of(self._tokenizer, network, model)
        self._accepted = set(inspect.signature(network.forward).parameters)
        self._shortest = 0
        self._class_segment = self._class_segment_of()
        self._group, self._network = _PADDED, network.eval()
        with _explained_reading(model, network):
            self.pool, self.width = self._try_sentences(network.config)
        self.options = {
            "weights": weights_fingerprint(network), "config": config_digest(model), "tokenizer": self._words_digest(),
            # Class tokens were read before there was a choice.
            **({} if self.pool == CLS else {"pool": self.pool}),
        }  # fmt: skip
        self._network, self._batches = runtime.place(network), DeviceBatches(runtime, side_by_side=True)
        self.precision = runtime.precision_name

    def embed(self, sentences: Sequence[str], batch_size: int) -> np.ndarray:
        """Return (sentences, width) float32. A sentence's embedding does not depend on its batch."""
        import torch

        if not sentences:
            return np.zeros((0, self.width), np.float32)
        ids = self._ids(sentences)
        # Sentences of similar length go through together, so that there is little padding.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        parts = []
        for group in self._groups([ids[i] for i in order]):
            parts += self._batches.map(self._forward, group, 1 if self._group == _ALONE else batch_size)
        vectors = torch.cat(parts).float().cpu().numpy()
        rows = np.zeros_like(vectors)
        rows[order] = vectors
        return rows

    def _ids(self, sentences: Sequence[str]) -> list[list[int]]:
        rows = self._tokenizer(list(sentences), truncation=True, max_length=self._limit)["input_ids"]
        # Without special tokens a sentence may have none at all.
        ids = [list(row) or [self._filler] for row in rows]
        if (largest := max(max(row) for row in ids)) >= self._n_words:
            raise UserError(f"{self._model}: its tokenizer has word {largest}, its network {self._n_words} words")
        return ids

    @property
    def _filler(self) -> int:
        """The word that stands where there is none: padding is masked, or behind what a causal network reads."""
        tokenizer = self._tokenizer
        ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id)
        return next((each for each in ids if each is not None and 0 <= each < self._n_words), 0)

    def _groups(self, rows: list[list[int]]) -> Iterator[list[list[int]]]:
        """Yield rows, sorted by length, that may go through together."""
        if self._group == _PADDED:
            yield rows
        else:
            for _, group in itertools.groupby(rows, key=len):
                yield list(group)

    def _forward(self, ids: list[list[int]]) -> torch.Tensor:
        hidden, mask = self._states(ids, self._batches.to_device)
        return pooled(hidden, mask, self.pool)

    def _states(self, ids: list[list[int]], place: Callable[[Any], Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a network's states (B, T, D) of sentences padded on the right, and which are words: (B, T) int64."""
        import torch

        length = max(self._shortest, *(len(row) for row in ids))
        mask = place(torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids]))
        given = {"input_ids": [row + [self._filler] * (length - len(row)) for row in ids]}
        if self._class_segment:
            given["token_type_ids"] = [
                [self._class_segment if word == self._tokenizer.cls_token_id else 0 for word in row]
                for row in given["input_ids"]
            ]
        inputs = {name: place(torch.tensor(value)) for name, value in given.items()}
        if "attention_mask" in self._accepted:
            inputs["attention_mask"] = mask
        output = self._network(**inputs)
        hidden = getattr(output, "last_hidden_state", None)
        return (output.pooler_output if hidden is None else hidden), mask

    def _class_segment_of(self) -> int:
        """Return the segment by which XLNet and Funnel know the token that stands for all; 0 where there is none."""
        encoded = self._tokenizer(_TRIED[0])
        kinds = encoded.get("token_type_ids", [])
        of_class = [kind for kind, word in zip(kinds, encoded["input_ids"], strict=False)
                    if word == self._tokenizer.cls_token_id]  # fmt: skip
        return int(of_class[0]) if of_class and "token_type_ids" in self._accepted else 0

    def _words_digest(self) -> str:
        """Return by what a tokenizer is known: its vocabulary, and what it makes of the probes."""
        try:
            vocabulary = sorted(self._tokenizer.get_vocab().items())
        except NotImplementedError:  # letters are their own numbers
            vocabulary = []
        return digest_of([vocabulary, self._tokenizer(list(PROBES))["input_ids"]])

    def _try_sentences(self, config: Any) -> tuple[str, int]:
        """Return how words become a vector and its width, and find out which sentences may go through together.

        Vectors that do not tell the words apart are refused.
        """
        import torch

        def states(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.inference_mode():
                return self._states(rows, lambda tensor: tensor)

        whole, longer, *word = self._ids((*_TRIED, "?"))
        try:
            states(word)
        except Exception:  # networks raise anything
            self._shortest = _FEW
            states(word)
        ids = [whole, *self._changed(whole)]
        each = [states([row]) for row in ids]
        pool = self._pool(config, _is_causal(ids, each[0][0], each[1][0]), ids[0])
        alone = torch.cat([pooled(hidden, mask, pool).float() for hidden, mask in each])
        width = width_of(alone.numpy(), self._model)
        if not _is_near(pooled(*states([*ids, longer]), pool)[:3], alone):
            if not _is_near(pooled(*states(ids[:1]), pool), alone[:1]):
                raise ValueError("the same sentence gives another vector each time")
            turned = [ids[0], ids[0][::-1]]
            self._group = _ONE_LENGTH if _is_near(pooled(*states(turned), pool)[:1], alone[:1]) else _ALONE
        for other, place in ((1, "last"), (2, "first")):
            if ids[other] != ids[0] and _is_near(alone[0], alone[other], 1e-6):
                raise ValueError(f"its vector of a sentence does not change with the {place} word")
        return pool, width

    def _changed(self, ids: list[int]) -> list[list[int]]:
        """Return a sentence with another last word, and with another first: tokens that are not special."""
        special = set(self._tokenizer.all_special_ids)
        places = [place for place, word in enumerate(ids) if word not in special]
        if not places:
            return [ids, ids]
        first, last = places[0], places[-1]
        return [
            [ids[there] if place == here else word for place, word in enumerate(ids)]
            for here, there in ((last, first), (first, last))
        ]

    def _pool(self, config: Any, is_causal: bool, ids: list[int]) -> str:
        folder = local_folder(self._model)
        if steps := further_steps(folder):
            log.warning("%s: vectors are read before %s, which viper leaves out", self._model, ", ".join(steps))
        return published_pooling(folder) or family_pooling(config, is_causal, ids, self._tokenizer.cls_token_id)


def _is_causal(ids: list[list[int]], first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether states (1, T, D) of words do not change with what is behind them, in two sentences."""
    alike = next((i for i, pair in enumerate(zip(*ids[:2], strict=False)) if pair[0] != pair[1]), 0)
    if not alike or first.ndim != 3 or min(first.shape[1], second.shape[1]) < alike:
        return False
    return _is_near(first[:, :alike], second[:, :alike])


_PADDED, _ONE_LENGTH, _ALONE = "padded", "of one length", "alone"


def _is_near(first: torch.Tensor, second: torch.Tensor, share: float = _NEAR) -> bool:
    return bool((first - second).abs().max() <= share * max(1.0, float(second.abs().max())))


def _load(model: str) -> Any:
    """Return the network, all of it, in float32 on the host."""
    from transformers import AutoModel, AutoModelForTextEncoding

    config = load_config(model)
    if config.model_type in _NOT_FOR_SENTENCES:
        raise UserError(f"{model}: {config.model_type} {_NOT_FOR_SENTENCES[config.model_type]}; {_INSTEAD}")
    is_encoder_only = any(name.endswith("EncoderModel") for name in config.architectures or [])
    return load_transformers_model(AutoModelForTextEncoding if is_encoder_only else AutoModel, model)


def _reading_half(network: Any, model: str) -> Any:
    """Return the part of a network that reads text: an encoder-decoder's encoder, an image-text model's text half."""
    half = network
    for name in ("text_model", "language_model"):
        half = getattr(half, name, half)
    config = half.config
    if getattr(config, "is_encoder_decoder", False) and half.get_encoder() is not half:
        half = half.get_encoder()
        half.config = getattr(half, "config", config)
    if "input_ids" not in inspect.signature(half.forward).parameters:
        raise UserError(f"{model}: is a {network.config.model_type}, which does not read text alone; {_INSTEAD}")
    half.config.use_cache = False  # of what was read before, which only a writer needs
    # After a short text BigBird would read long ones in another way than before it.
    if hasattr(half, "set_attention_type"):
        half.set_attention_type("original_full")
    return half


def _vocabulary_of(network: Any) -> int:
    """Return how many words a network knows; letters, as Canine reads them, are as many as Unicode has."""
    try:
        return int(network.get_input_embeddings().num_embeddings)
    except (AttributeError, NotImplementedError):
        size = getattr(network.config, "vocab_size", None)
        return size if isinstance(size, int) else sys.maxunicode + 1


def _limit_of(tokenizer: Any, network: Any, model: str) -> int:
    """Return how many tokens of a sentence are read."""
    # A tokenizer may not say its model's limit; position embeddings do, two of them taken by padding offsets.
    positions = getattr(network.config, "max_position_embeddings", None)
    places = positions - 2 if isinstance(positions, int) and positions > 0 else USUAL_WORDS
    limits = [tokenizer.model_max_length, places, MAX_WORDS]
    path = local_folder(model) / SENTENCES
    if path.is_file():
        limits.append(read_settings(path).get("max_seq_length"))
    limit = min(each for each in limits if isinstance(each, int | float) and not isinstance(each, bool))
    if limit < 3:
        raise UserError(f"{model}: reads sentences of {limit:g} tokens, of which two say nothing")
    return int(limit)


@contextlib.contextmanager
def _explained_reading(model: str, network: Any) -> Iterator[None]:
    """Turn whatever a network raises over its first sentences into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # networks raise anything
        family = network.config.model_type
        raise UserError(f"{model}: a {family} cannot be read as sentences ({reason(error)}); {_INSTEAD}") from error
