"""The feature store: a folder with one safetensors file a clip and one encoder.json that says what made them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from viper.errors import ClipError, UserError, one_line
from viper.files import atomic_path, create_json, digest_of, files_only, natural_key, read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

SUFFIX = ".safetensors"
# The modalities that have commands and options of their own; a store may name any other.
MODALITIES = ("visual", "audio", "textual", "FAU")
ENCODER_FILE = "encoder.json"
# In a file's metadata: fingerprint of the input and, after blanks, identity of the encoder and checksum of the file's
# arrays. One key, because safetensors writes several in any order, and the same feature should be the same file.
SOURCE = "source"
CHECKSUM = re.compile("(.*) crc32:([0-9a-f]{8})", re.DOTALL)
MAX_WIDTH = 1 << 20  # channels of a token
FLOAT32, BF16 = PRECISIONS = ("float32", "bf16")
MAX_HEADER_BYTES = 2**20  # a feature's own has some 300
TENSORS = {"tokens": "F32", "mask": "BOOL", "time": "F32"}  # what a file holds, and as what


@dataclass(frozen=True)
class Feature:
    """What an encoder gives for one clip.

    Attributes
    ----------
    tokens : (T, D) float32, zeros where `mask` is False.
    mask : (T,) bool, True where a token says something (False: no face, no sound ...).
    time : (T,) float32, seconds from the start of the clip.
    """

    tokens: np.ndarray
    mask: np.ndarray
    time: np.ndarray

    @classmethod
    def make(cls, tokens: Any, mask: Any = None, time: Any = None) -> Feature:
        """Return a feature of arrays or lists, masked tokens set to zero; without `time`, tokens are a second apart.

        Raises ClipError for wrong shapes, and for a value that is not finite in a token that is not masked.
        """
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused below
            tokens = np.array(tokens, dtype=np.float32)
            time = np.arange(len(tokens)) if time is None else time
            time = np.array(time, dtype=np.float32)
        if tokens.ndim != 2:
            raise ClipError(f"a feature is (tokens, channels), not of shape {tokens.shape}")
        mask = np.ones(len(tokens), bool) if mask is None else np.array(mask, dtype=bool)
        if mask.shape != (len(tokens),) or time.shape != (len(tokens),):
            raise ClipError(f"{len(tokens)} tokens with a mask of {mask.shape} and times of {time.shape}")
        tokens[~mask] = 0.0
        if not np.isfinite(tokens).all() or not np.isfinite(time).all():
            raise ClipError("the feature holds values that are not finite")
        return cls(tokens, mask, time)

    @classmethod
    def absent(cls, width: int, n_tokens: int = 1) -> Feature:
        """Return the feature of a clip that lacks this modality: zeros, all masked."""
        return cls.make(np.zeros((n_tokens, width)), np.zeros(n_tokens, bool), np.zeros(n_tokens))


@dataclass(frozen=True)
class EncoderInfo:
    """What made the features of a store; the content of encoder.json.

    Attributes
    ----------
    encoder : registered name of the kind of encoder, e.g. "hog", "image".
    modality : visual, audio, textual, FAU or a user's own name.
    width : channels of a token.
    options : everything that decides the values, weights included (by their fingerprint).
    model : how the user named the weights; another spelling of the same weights is the same encoder.
    source : the kind of input: "frames", "faces", "sound", "subtitles", "files".
    versions : of the packages that made the features, for the record.
    precision : of the network's arithmetic, float32 or bf16; empty without a network, and in old records of float32.
    settings : for the record, what it takes beside the options to build the encoder again: prompts, names of weights.
    inputs : for the record, how the pictures that were read had been made: "sampling" as frames.json has it, "faces"
        the options of crop_images. What is not known is left out.
    input_folder : for the record, the folder that was read, relative to the store's.
    command : for the record, what was typed.
    """

    encoder: str
    modality: str
    width: int
    options: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    source: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    precision: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    input_folder: str = ""
    command: str = ""

    @classmethod
    def from_record(cls, record: Any, where: object) -> EncoderInfo:
        """Return what a file says of an encoder; a UserError that names `where` if it does not describe one."""
        try:
            info = cls(**record)
        except TypeError as error:
            said = str(error).removeprefix("EncoderInfo.__init__() ")
            raise UserError(f"{where}: not a description of an encoder ({one_line(said)})") from error
        info.check(where)
        return info

    def check(self, where: object) -> None:
        """Refuse values that are not of their kind, naming `where`: edited by hand, or by another program."""
        kinds = {"encoder": str, "modality": str, "width": int, "options": dict, "model": str, "source": str,
                 "versions": dict, "precision": str, "settings": dict, "inputs": dict, "input_folder": str,
                 "command": str}  # fmt: skip
        for name, kind in kinds.items():
            if type(getattr(self, name)) is not kind:
                raise UserError(f"{where}: not a description of an encoder ({name} is {getattr(self, name)!r})")
        if not 1 <= self.width <= MAX_WIDTH:
            raise UserError(f"{where}: not a description of an encoder (width {self.width})")

    def difference(self, other: EncoderInfo) -> str | None:
        """Return why features of `other` may not join those of this one, in words; None when they may."""
        for name in ("encoder", "modality", "width", "source"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} {getattr(self, name)!r}, not {getattr(other, name)!r}"
        if self.arithmetic != other.arithmetic:
            return f"precision {self.arithmetic}, not {other.arithmetic}"
        # One of the two was read from JSON, where a tuple became a list.
        mine, others = (json.loads(json.dumps(info.options)) for info in (self, other))
        for key in sorted(mine.keys() | others.keys()):
            if mine.get(key) != others.get(key):
                return f"{key} {mine.get(key)!r}, not {others.get(key)!r}"
        return None

    @property
    def arithmetic(self) -> str:
        """The precision that counts: float32 where none is recorded."""
        return self.precision or FLOAT32

    @cached_property
    def identity(self) -> str:
        """A short digest of what decides the values; the same for two encoders when `difference` finds none."""
        if self.arithmetic == FLOAT32:  # as before the precision counted, so that older files stay valid
            return self._identity
        return digest_of([self._identity, self.arithmetic])

    @cached_property
    def _identity(self) -> str:
        """The identity but for the precision."""
        # As `difference` compares them: 2 is 2.0, a tuple is a list, and an option that is None may as well be missing.
        options = json.loads(json.dumps(self.options), parse_int=float)
        given = {key: value for key, value in options.items() if value is not None}
        return digest_of([self.encoder, self.modality, self.width, self.source, given])


@dataclass(frozen=True)
class Look:
    """What there is to say of a clip's file: what is wrong with it, its tokens, and those that are not masked."""

    problem: str | None
    n_tokens: int = 0
    n_unmasked: int = 0


class PrecisionError(UserError):
    """A store was begun by the same encoder in another precision."""


class FeatureStore:
    """Features of one encoder on disk, one file a clip."""

    def __init__(self, folder: Path, info: EncoderInfo) -> None:
        self.folder = folder
        self.info = info

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> FeatureStore:
        """Open an existing store; a folder that is not one is a UserError that says what it lacks."""
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of features")
        if not (folder / ENCODER_FILE).is_file():
            raise UserError(f"{folder}: no {ENCODER_FILE} in it; make features with one of viper's extract commands")
        return cls(folder, EncoderInfo.from_record(read_json(folder / ENCODER_FILE), folder / ENCODER_FILE))

    @classmethod
    def create(cls, folder: str | Path, info: EncoderInfo) -> FeatureStore:
        """Open a store for writing; one made by another encoder is a UserError that says what differs.

        What is only for the record stays as it is in encoder.json, but for inputs that were made in another way, or are
        not recorded: features of the old ones are made again. Of several processes that begin a store at once, the
        first decides.

        Raises
        ------
        PrecisionError
            Where only the precision differs: the caller may go on in the store's.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        card = dataclasses.asdict(info)
        if not (folder / ENCODER_FILE).is_file() and create_json(folder / ENCODER_FILE, card):
            return cls(folder, info)
        store = cls.open(folder)
        store._check_joins(info)
        if not info.inputs or store.info.inputs == info.inputs:
            return store
        write_json(folder / ENCODER_FILE, card)
        return cls(folder, info)

    def __repr__(self) -> str:
        made = f"{self.info.modality} features by {self.info.encoder}, {self.width} wide"
        return f"FeatureStore({str(self.folder)!r}: {len(self.clips())} clips, {made})"

    def to_dataframe(self, clips: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Return the tokens of a clip, of several, or of all (the default), as a table.

        One row per token, indexed by clip and token; columns "time" (seconds), "mask" and one per channel, 0 to D - 1.
        """
        # Not above: pandas takes half a second to import, and --help should not.
        import pandas as pd

        names = self.clips() if clips is None else [clips] if isinstance(clips, str) else list(clips)
        features = [self.read(clip) for clip in names]
        pairs = [(clip, k) for clip, feature in zip(names, features, strict=True) for k in range(len(feature.mask))]
        tokens = [np.zeros((0, self.width), np.float32), *(feature.tokens for feature in features)]
        table = pd.DataFrame(np.concatenate(tokens), index=pd.MultiIndex.from_tuples(pairs, names=["clip", "token"]))
        for place, name in enumerate(("time", "mask")):
            parts = [getattr(feature, name) for feature in features]
            table.insert(place, name, np.concatenate(parts) if parts else [])
        return table

    @staticmethod
    def begun_in(folder: str | Path) -> str | None:
        """Return the precision of the features in a folder, float32 or bf16; None where there is no store yet."""
        folder = Path(folder)
        return FeatureStore.open(folder).info.arithmetic if (folder / ENCODER_FILE).is_file() else None

    def _check_joins(self, info: EncoderInfo) -> None:
        """Refuse features of another encoder, or in another precision, than this store's."""
        difference = self.info.difference(dataclasses.replace(info, precision=self.info.precision))
        if difference:
            raise UserError(
                f"{self.folder}: its features were made by another encoder ({difference}); give another output folder"
            )
        if self.info.arithmetic != info.arithmetic:
            raise PrecisionError(
                f"{self.folder}: its features are in {self.info.arithmetic}, not {info.arithmetic}; leave out "
                f"--precision (auto keeps {self.info.arithmetic}), or give another output folder"
            )

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.info.width

    def path(self, clip: str) -> Path:
        """Return the file of a clip, whether it exists or not."""
        return self.folder / f"{clip}{SUFFIX}"

    def __contains__(self, clip: str) -> bool:
        return self.path(clip).is_file()

    def __iter__(self) -> Iterator[str]:
        return iter(self.clips())

    def __len__(self) -> int:
        return len(self.clips())

    def clips(self) -> list[str]:
        """Return the ids of the clips in it, in natural order."""
        names = (path.name for path in self.folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))
        return sorted((name.removesuffix(SUFFIX) for name in names), key=natural_key)

    def write(self, clip: str, feature: Feature, source: str = "") -> None:
        """Write a clip's feature atomically; `source` is the fingerprint of what it was made from."""
        if feature.tokens.shape[1] != self.width:
            raise ClipError(f"a feature of width {feature.tokens.shape[1]} for a store of width {self.width}")
        tensors = {"tokens": feature.tokens, "mask": feature.mask, "time": feature.time}
        with atomic_path(self.path(clip), make_parent=False) as temporary:
            # Written by Python: safetensors' own writer does not say OSError when the disk is full.
            arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
            made_of = f"{source} {self.info.identity}"
            temporary.write_bytes(save(arrays, metadata={SOURCE: f"{made_of} crc32:{_checksum(arrays):08x}"}))

    def read(self, clip: str) -> Feature:
        """Return a clip's feature; a file that is missing, or is not a valid feature of this store, is a ClipError."""
        if clip not in self:
            raise ClipError(f"{self.path(clip)}: no such file; the store has no features of this clip")
        try:
            return self._read(clip)
        except ClipError as error:
            raise ClipError(
                f"{self.path(clip)}: not a valid feature ({error}); delete it and extract it again"
            ) from error

    def problem(self, clip: str, verify: bool = False) -> str | None:
        """Return why the clip's file is not a valid feature of this store, in a few words; None when it is.

        Only its header and length are checked, which finds all but wrong values; with `verify` all of it is read.
        """
        return self.look(clip, verify).problem

    def look(self, clip: str, verify: bool = False) -> Look:
        """Return what there is to say of the clip's file without its values; `verify` as of `problem`."""
        try:
            if verify:
                mask = self._read(clip).mask
            else:
                with self._opened(clip) as file:
                    mask = file.get_tensor("mask")
        except ClipError as error:
            return Look(str(error))
        return Look(None, len(mask), int(np.count_nonzero(mask)))

    def is_current(self, clip: str, source: str) -> bool:
        """Return whether the clip's file exists, opens, belongs to this store, and was made from `source`."""
        try:
            return self.source(clip) == source
        except ClipError:
            return False

    def source(self, clip: str) -> str:
        """Return the fingerprint of what the clip's feature was made from; ClipError where its file is not valid."""
        with self._opened(clip) as file:
            return _made_of(file)[0]

    def _read(self, clip: str) -> Feature:
        with self._opened(clip) as file:
            arrays = {name: file.get_tensor(name) for name in TENSORS}
            found = CHECKSUM.fullmatch(_metadata(file))
        if found and int(found[2], 16) != _checksum(arrays):
            raise ClipError("its numbers are not those that were written: the checksum differs")
        if arrays["mask"].view(np.uint8).max(initial=0) > 1:
            raise ClipError("a mask that is neither true nor false")
        return Feature.make(**arrays)

    @contextlib.contextmanager
    def _opened(self, clip: str) -> Iterator[Any]:
        """Open the clip's file; a ClipError says what is wrong with its header as a feature of this store."""
        path = self.path(clip)
        try:
            if not path.is_file():  # a pipe of that name would be waited for
                raise ClipError("no such file")
            _check_header_size(path)
            with safe_open(path, framework="numpy") as file:
                self._check_header(file)
                yield file
        except (SafetensorError, OSError) as error:
            raise ClipError(one_line(str(error))) from error

    def _check_header(self, file: Any) -> None:
        shapes: dict[str, list[int]] = {}
        names = set(file.keys())
        for name, dtype in TENSORS.items():
            if name not in names:
                raise ClipError(f"it holds no {name}")
            tensor = file.get_slice(name)
            if tensor.get_dtype() != dtype:
                raise ClipError(f"{name} as {tensor.get_dtype()}, not {dtype}")
            shapes[name] = tensor.get_shape()
        tokens = shapes["tokens"]
        if len(tokens) != 2 or not shapes["mask"] == shapes["time"] == tokens[:1]:
            raise ClipError(f"tokens of shape {tokens} with a mask of {shapes['mask']} and times of {shapes['time']}")
        if tokens[1] != self.width:
            raise ClipError(f"width {tokens[1]} in a store of width {self.width}")
        encoder = _made_of(file)[1]
        if encoder not in ("", self.info.identity):
            others = (dataclasses.replace(self.info, precision=name).identity for name in PRECISIONS)
            raise ClipError("made in another precision" if encoder in others else "made by another encoder")


def _metadata(file: Any) -> str:
    return str((file.metadata() or {}).get(SOURCE, ""))


def _checksum(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the CRC-32 of a feature's arrays, in the order of TENSORS and as they lie in the file."""
    value = 0
    for name in TENSORS:
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).data, value)
    return value


def _check_header_size(path: Path) -> None:
    """Refuse a header that lists millions of arrays, before it is parsed: that takes a minute and gigabytes."""
    with open(path, "rb", opener=files_only) as file:
        n_bytes = int.from_bytes(file.read(8), "little")
    if n_bytes > MAX_HEADER_BYTES:
        raise ClipError(f"a header of {n_bytes} bytes, which no feature has")


def _made_of(file: Any) -> tuple[str, str]:
    """The fingerprint of what a file was made from, and the identity of its encoder, where they are known."""
    text = _metadata(file)
    if found := CHECKSUM.fullmatch(text):  # files of old have none
        text = found[1]
    # An identity has no blank in it; what a feature was made from may have some, and files of old have no identity.
    source, _, encoder = text.rpartition(" ") if " " in text else (text, "", "")
    return source, encoder
