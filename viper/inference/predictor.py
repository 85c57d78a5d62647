"""From a video's file to the numbers of a checkpoint's task, with the encoders its features were made with."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from viper.encoders.base import Encoder
from viper.encoders.registry import in_words_of, recorded_encoder
from viper.encoders.windows import WindowEncoder
from viper.engine.device import Runtime, choose_runtime
from viper.errors import ClipError, UserError
from viper.fusion.checkpoint import load_checkpoint, task_of
from viper.fusion.perceiver import PerceiverFusion
from viper.inference.reader import ClipContent, ClipReader, FaceTrack, Source, Words, source_of
from viper.inference.stored import answers, on_device, ready
from viper.logs import log
from viper.media.sound import SAMPLE_RATE, SoundRule
from viper.media.subtitles import WordRules
from viper.media.windows import check_windows
from viper.offline import go_offline
from viper.store import EncoderInfo, Feature
from viper.task import Task
from viper.training.data import collate_features
from viper.training.group_standardization import standardize_together

# Frames, windows of sound or sentences on the device at once; a processor takes fewer by itself.
ITEMS_AT_ONCE = 64
CLIPS_AT_ONCE = 64


@dataclass(frozen=True)
class ClipReading:
    """One clip, or one window of it, read and encoded: its features, in memory.

    Attributes
    ----------
    path : the video.
    start, end : seconds of the file.
    features : modality -> Feature, the same that the extracting commands would have written.
    absent : modality -> why it is not in `features`, in one line. Each of the checkpoint's modalities is in either.
    faces : the frames that were looked at; None where no modality looks at pictures, or there are none.
    """

    path: Path
    start: float
    end: float
    features: dict[str, Feature]
    absent: dict[str, str]
    faces: FaceTrack | None


@dataclass(frozen=True)
class _Stream:
    """A modality whose encoder can run here: the encoder, and what it reads."""

    encoder: Encoder[Any, Any]
    source: Source


class ClipPredictor:
    """A checkpoint with the encoders its features were made with.

    Attributes
    ----------
    task : what is predicted.
    modalities : the checkpoint's, in its order.
    unavailable : modality -> why its encoder cannot run here, in one line.
    """

    def __init__(
        self,
        model: PerceiverFusion,
        streams: Mapping[str, _Stream],
        unavailable: Mapping[str, str],
        runtime: Runtime,
        words: WordRules | None = None,
    ) -> None:
        self.task: Task = task_of(model)
        self.modalities: list[str] = list(model.config.modality_order)
        self.unavailable: dict[str, str] = dict(unavailable)
        self._streams, self._device = dict(streams), runtime.device
        rates = [stream.encoder.rate for stream in streams.values() if isinstance(stream.encoder, WindowEncoder)]
        sources = (stream.source for stream in streams.values())
        self._reader = ClipReader(sources, str(runtime.device), words, max(rates, default=SAMPLE_RATE))
        self._network = ready(model, self._device)

    @classmethod
    def load(
        cls,
        model_path: Path,
        *,
        models: Mapping[str, str] | None = None,
        device: str = "auto",
        offline: bool = False,
        words: WordRules | None = None,
        sound_track: int | None = None,
    ) -> ClipPredictor:
        """Load a checkpoint, or a run's best, and its encoders; one that cannot run here is left out, with a line.

        Parameters
        ----------
        models : modality -> name or folder of its model on this machine, where that is not the recorded one. Other
            weights than the features were made with are not taken.
        device : auto, cpu, cuda, cuda:1, mps ...
        offline : never ask the network.
        words : language and encoding of the videos' subtitles, where they are not those of the record.
        sound_track : the videos' sound track to read, from 1, where that is not the recorded choice.

        Raises
        ------
        UserError : no checkpoint; a device that is not there; a modality in `models` that the checkpoint has not; or
            none of its encoders can run here.
        """
        if offline:
            go_offline()
        model = load_checkpoint(Path(model_path))
        for name in models or {}:
            if name not in model.config.modalities:
                raise UserError(
                    f"--models {name}: the checkpoint has no such modality, only {', '.join(model.config.modalities)}"
                )
        streams: dict[str, _Stream] = {}
        unavailable: dict[str, str] = {}
        assumed = []
        for name in model.config.modality_order:
            try:
                info = _record(model.config.modalities[name].get("encoder"))
                source, is_recorded = source_of(info)
                if isinstance(source, SoundRule) and sound_track is not None:
                    source = replace(source, track=sound_track)
                encoder = recorded_encoder(info, _runtime(info, device), (models or {}).get(name))
            except UserError as error:
                unavailable[name] = in_words_of(error, name)
                continue
            streams[name] = _Stream(encoder, source)
            assumed += [] if is_recorded else [name]
        if not streams:
            raise UserError(f"{model_path}: no encoder of this checkpoint can run here ({in_words(unavailable)})")
        for name, reason in unavailable.items():
            log.warning("%s is left out: %s", name, reason)
        if assumed:
            log.warning(
                "%s: the checkpoint does not say how the pictures were made; the defaults of get_frame and crop_images "
                "are assumed", ", ".join(assumed)
            )  # fmt: skip
        return cls(model, streams, unavailable, choose_runtime(device, "float32"), words)

    def without_encoders(self) -> ClipPredictor:
        """Return one that shares the network and only predicts from readings, for they were made elsewhere."""
        other = copy.copy(self)
        other._streams, other._reader = {}, ClipReader((), str(self._device))
        return other

    @property
    def on_accelerator(self) -> bool:
        """Whether the networks run on another device than the processor."""
        return self._device.type != "cpu"

    @property
    def group_column(self) -> str | None:
        """The manifest's column within whose groups the checkpoint wants features standardised; None: it does not."""
        column: str | None = self._network.config.group_column
        return column

    def read(self, path: Path, subtitles: Words = None) -> ClipReading:
        """Read and encode a whole clip.

        Parameters
        ----------
        path : the video; a file of sound alone will do where the checkpoint listens.
        subtitles : their file, or a folder with <name>.srt, <name>.en.vtt or the like; by default the video's folder.

        Raises
        ------
        ClipError : the file cannot be opened, or holds nothing that the checkpoint can read.
        """
        path = Path(path)
        reading = self._encoded(path, self._reader.read(path, subtitles))
        if not reading.features:
            raise ClipError(nothing_to_read(path, reading.absent))
        return reading

    def read_windows(
        self, path: Path, every: float, window: float | None = None, subtitles: Words = None
    ) -> Iterator[ClipReading]:
        """Read and encode a video piece by piece, each as if it were a clip of its own, cut out of the file.

        Time begins at 0 in each, frames are chosen among its own, and a sentence belongs to the piece that has its
        middle. However long the video is, no more than a piece of it is in memory (and its sound, 4 bytes for each of
        16,000 samples a second).

        Parameters
        ----------
        every : seconds from the beginning of a piece to that of the next.
        window : seconds a piece lasts; by default `every`. The last may be shorter, down to half of it; what would be
            shorter still is joined to the piece before.

        Yields
        ------
        One reading a piece, in order. Its `features` are empty where nothing in it can be read.

        Raises
        ------
        UserError : `every` or `window` is no length of time.
        ClipError : as for `read`.
        """
        window = every if window is None else window
        check_windows(every, window)
        for piece in self._reader.windows(Path(path), every, window, subtitles):
            yield self._encoded(Path(path), piece)

    def predict(self, readings: Sequence[ClipReading], hidden: Collection[str] = ()) -> np.ndarray:
        """Return (readings, targets) float32: what the checkpoint answers, within the task's range.

        One whose modalities are all hidden or absent gets the answer of the learned queries alone. A checkpoint with a
        `group_column` standardises the features of all `readings` together, as one group.

        Parameters
        ----------
        hidden : modalities to leave out. One that the checkpoint has not is a UserError.
        """
        if unknown := sorted(set(hidden) - set(self.modalities)):
            raise UserError(f"{unknown[0]}: the checkpoint has no such modality, only {', '.join(self.modalities)}")
        clips = [{n: f for n, f in reading.features.items() if n not in hidden} for reading in readings]
        if self.group_column is not None:
            clips = standardize_together(clips)
        widths = {name: self._network.config.modalities[name]["width"] for name in self.modalities}
        rows = [np.zeros((0, len(self.task.targets)), np.float32)]
        for start in range(0, len(clips), CLIPS_AT_ONCE):
            batch = collate_features(clips[start : start + CLIPS_AT_ONCE], widths)
            rows.append(answers(self._network, on_device(batch, self._device)))
        predicted = np.concatenate(rows)
        return predicted if self.task.range is None else predicted.clip(*self.task.range)

    def _encoded(self, path: Path, clip: ClipContent) -> ClipReading:
        features: dict[str, Feature] = {}
        absent: dict[str, str] = {}
        for name in self.modalities:
            if name in self.unavailable:
                absent[name] = self.unavailable[name]
                continue
            stream = self._streams[name]
            content = clip.contents[stream.source]
            if isinstance(content, ClipError):
                absent[name] = str(content).removeprefix(f"{path.name}: ")
                continue
            try:
                (feature,) = stream.encoder.encode([stream.encoder.load(content)], ITEMS_AT_ONCE)
            except (ClipError, UserError) as error:
                absent[name] = str(error)
                continue
            if feature.mask.any():
                features[name] = feature
            else:
                absent[name] = "nothing in it that its encoder can use"
        return ClipReading(path, clip.start, clip.end, features, absent, clip.faces)


def nothing_to_read(path: Path, reasons: Mapping[str, str]) -> str:
    """Return what is said of a video that has none of the modalities."""
    return f"{path.name}: holds nothing that the checkpoint can read ({in_words(reasons)})"


def in_words(reasons: Mapping[str, str]) -> str:
    """Return modality -> reason on one line; modalities with the same reason share it."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(own)}: {reason}" for reason, own in names.items())


def _record(record: Mapping[str, Any] | None) -> EncoderInfo:
    if not record:
        raise UserError("the checkpoint does not say which encoder made its features")
    try:
        info = EncoderInfo(**record)
    except TypeError as error:
        raise UserError(f"the record of its encoder cannot be read ({error})") from error
    info.check("the checkpoint")
    return info


def _runtime(info: EncoderInfo, device: str) -> Runtime:
    """Return the runtime in the precision that the features were made in."""
    return choose_runtime(device, recorded=info.arithmetic)


def predict_clip(
    path: str | Path,
    model: str | Path | ClipPredictor,
    *,
    subtitles: str | Path | None = None,
    hidden: Collection[str] = (),
    models: Mapping[str, str] | None = None,
    device: str = "auto",
    offline: bool = False,
) -> dict[str, float]:
    """Predict one video: its frames, faces, sound and words go through the encoders the checkpoint was trained with.

    Parameters
    ----------
    path : the video's file. A modality that it lacks (no sound, no face, no subtitles) is left out.
    model : a checkpoint's folder, or a run's (then its best); or a `ClipPredictor`, which spares loading the networks
        again for every video.
    subtitles : their file, or a folder with one of the video's name; by default the video's own folder.
    hidden : modalities to leave out, such as {"audio"}.
    models, device, offline : as for `ClipPredictor.load`; of no effect where `model` is one.

    Returns
    -------
    Target -> what is predicted: the intensity of a regression, within the task's range; the probability of a class or
    a label; the utility of a preference task. The numbers that submission_creation writes for the clip, but for their
    last digits where networks run in other batches or with another number of threads.

    Raises
    ------
    UserError : the checkpoint cannot be loaded, or none of its encoders can run here.
    ClipError : the video cannot be opened, or holds nothing the checkpoint can read.

    Examples
    --------
    >>> viper.predict_clip("reaction.mp4", "runs/all")                                        # doctest: +SKIP
    {'Adoration': 0.12, 'Amusement': 0.81, ...}
    """
    if not isinstance(model, ClipPredictor):
        model = ClipPredictor.load(Path(model), models=models, device=device, offline=offline)
    reading = model.read(Path(path), None if subtitles is None else Path(subtitles))
    (row,) = model.predict([reading], hidden)
    return dict(zip(model.task.targets, row.tolist(), strict=True))
