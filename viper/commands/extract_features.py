"""extract_*_features: one stage for every modality; the modalities differ in their encoder and in what it reads."""

from __future__ import annotations

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from viper.commands.common import PictureOptions, finish, pass_on_ids, report_masked
from viper.commands.extract_jobs import Encode, IsDone, Load, Read, Save, Size
from viper.encoders.base import Encoder
from viper.encoders.precomputed import ImportedEncoder
from viper.encoders.registry import choose_encoder
from viper.engine import run as engine
from viper.engine.job import EngineOptions, Job, Shard
from viper.errors import ClipError, UserError
from viper.logs import command_line, log, package_versions
from viper.media.clips import (
    Clip,
    first_usable,
    inputs_of,
    is_usable,
    list_picture_clips,
    list_sound_clips,
    list_subtitle_clips,
    source_of,
)
from viper.media.foreign import ForeignClip, RowsClip, TableClip, list_foreign_clips
from viper.media.imports.gaps import NanRule, ZeroRule
from viper.media.imports.table import Reading, TimeUnit
from viper.media.pictures import FrameClip, list_frame_clips
from viper.media.sound import SoundRule
from viper.media.subtitles import Cleaning, WordRules
from viper.offline import go_offline
from viper.store import FeatureStore, PrecisionError

RECORDED_PACKAGES = ("torch", "transformers", "open-clip-torch", "py-feat", "scikit-image", "av")
# What MMSA's files call the modalities.
MMSA_KEYS = {"visual": "vision", "FAU": "vision", "audio": "audio", "textual": "text"}

# Options for features made elsewhere, and what they are where nothing was said.
_FOREIGN_OPTIONS: dict[str, Any] = {
    "step_seconds": None, "key": None, "columns": [], "id_column": "", "time_unit": "auto", "nan": "mean",
    "zero_rows": "auto",
}  # fmt: skip


@dataclass(kw_only=True)
class ExtractOptions(EngineOptions, ABC):
    """The options every modality has."""

    modality: ClassVar[str]
    reads_pictures: ClassVar[bool] = True

    output_folder: Path
    """Where <clip>.safetensors and encoder.json are written."""
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda, cuda:1, mps ..."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic of the model: auto keeps the output folder's precision; in a new folder it takes bf16 where the
    device has it. Features stay the same to a cosine of .999."""
    compile: bool = False
    """Compile the model first (torch.compile): a longer start, for long runs."""
    offline: bool = False
    """Never touch the network (as HF_HUB_OFFLINE=1 does)."""
    step_seconds: float | None = None
    """With features made elsewhere: seconds between tokens if the file has no times (default 1)."""
    key: str | None = None
    """With features made elsewhere, in .pkl, .npz or .pt: the key to read (default vision, audio or text)."""
    columns: list[str] = field(default_factory=list)
    """With features made elsewhere, in .csv: beginnings of the columns to read, such as AU gaze (default: all; of
    OpenFace's and py-feat's the action units)."""
    id_column: str = ""
    """With features made elsewhere, in .csv: the column that names the clips, if not File_ID, video or the like."""
    time_unit: TimeUnit = "auto"
    """With features made elsewhere, in .csv: the unit of its times. auto: by the column's name, else by the steps."""
    nan: NanRule = "mean"
    """With features made elsewhere: how to fill in NaN. mean: the column's mean in the same clip. zero: 0. mask: not
    at all, such tokens are masked."""
    zero_rows: ZeroRule = "auto"
    """With features made elsewhere: whether to mask tokens of zeros only. auto: where they mean that nothing was
    found (docs/files.md)."""

    @abstractmethod
    def clips(self) -> Sequence[Clip]:
        """Return the clips of the input folder."""

    @property
    def encoder_options(self) -> dict[str, Any]:
        """The options by name, for the encoder that they ask for."""
        return vars(self)

    @property
    def foreign(self) -> Path | None:
        """Where features made elsewhere are, to be imported instead; None: extract them."""
        return getattr(self, "from_files", None)

    @property
    def read_folder(self) -> Path | None:
        """The folder (or file) whose content becomes features."""
        return self.foreign or getattr(self, "subtitles", None) or getattr(self, "input_folder", None)

    @property
    def pictures(self) -> Path | None:
        """The folder whose pictures are read; None where no pictures are."""
        is_other = not self.reads_pictures or self.foreign or getattr(self, "subtitles", None)
        return None if is_other else self.read_folder


@dataclass(kw_only=True)
class VisualOptions(PictureOptions, ExtractOptions):
    """Visual features of frames or face crops: one token a frame, or of a video network one a window of frames."""

    modality: ClassVar[str] = "visual"

    input_folder: Path | None = None
    """Folder of face crops (crop_images) or of frames (get_frame)."""
    model_name: str = "vit-base"
    """vit-base, vit-age, hog (needs no weights), or the hub id or local folder of a transformers image encoder. Or a
    video network, which reads a window of frames at once: videomae-base, videomae-k400, timesformer-base, vivit-base,
    or the id or folder of another VideoMAE, TimeSformer or ViViT. Or an encoder of your own: FILE.py:Class."""
    batch_size: int = 64
    """Frames on the device at once, from any clips."""
    layer: int = -1
    """Layer to read: -1 is the last, k the k-th hidden state."""
    pool: Literal["auto", "cls", "mean"] = "auto"
    """The class token, or the mean of all tokens; auto: what the network's own classifier reads."""
    n_windows: int = 1
    """With a video network: windows per clip, one token each. The network's number of frames is taken evenly from each
    window; if there are fewer, they are repeated."""
    from_files: Path | None = None
    """Instead: bring in features made elsewhere: a folder of <clip>.npy, .pt, .csv or .pkl, or one file of many clips
    (.csv, .npz, MMSA's .pkl)."""

    def clips(self) -> Sequence[Clip]:
        """Return folders of frames."""
        return list_picture_clips(self.input_folder, self.names, separator=self.separator)


@dataclass(kw_only=True)
class AudioOptions(ExtractOptions):
    """Audio features of sound files, or of the sound in videos: one token a window."""

    modality: ClassVar[str] = "audio"
    reads_pictures: ClassVar[bool] = False

    input_folder: Path | None = None
    """Folder of videos or of wav, flac, mp3 ... files."""
    model_name: str = "wavlm-base-plus-sv"
    """wavlm-base-plus-sv, wav2vec2-base, hubert-base, or the hub id or local folder of a transformers speech encoder.
    Without weights: logmel (any sound), acoustic (voices), egemaps (needs the package opensmile, for research only).
    Or an encoder of your own: FILE.py:Class."""
    n_fragments: int = 32
    """Half-overlapping windows a clip: each 2L/(n+1) long for a sound of length L."""
    fragment_seconds: float | None = None
    """No window longer than this. A shorter one is not padded: that would change its embedding."""
    batch_size: int = 16
    """Windows on the device at once, from any clips."""
    layer: int = -1
    """Layer to read: -1 is the last, k the k-th hidden state."""
    pool: Literal["mean", "meanstd"] = "mean"
    """Over the time steps of a window: the mean, or mean and standard deviation."""
    prefer: Literal["audio", "video"] = "audio"
    """Which file is read where a clip has both an audio file and a video."""
    sound_track: int | None = None
    """Sound track to read of every video, from 1 (default: the one flagged as default, else FFmpeg's choice)."""
    from_files: Path | None = None
    """Instead: bring in features made elsewhere: a folder of <clip>.npy, .pt, .csv or .pkl, or one file of many clips
    (.csv, .npz, MMSA's .pkl)."""

    def clips(self) -> Sequence[Clip]:
        """Return files with sound."""
        return list_sound_clips(self.input_folder, SoundRule(self.sound_track), self.separator, self.prefer)


@dataclass(kw_only=True)
class TextualOptions(PictureOptions, ExtractOptions):
    """Textual features: the prompt that fits each frame best, or the words of subtitles."""

    modality: ClassVar[str] = "textual"

    input_folder: Path | None = None
    """Folder of frames or face crops. With --subtitles: only says which clips there are, and may be left out."""
    model_name: str = ""
    """clip (the default: roberta-base encodes the prompt CLIP picks); with --subtitles roberta-base (the default) or
    hashed (needs no weights). Or, in the place of roberta-base, the hub id or local folder of another text encoder. Or
    an encoder of your own: FILE.py:Class."""
    clip_model: str = "ViT-B-32"
    """An open_clip architecture, or a local folder with open_clip_config.json and weights."""
    clip_pretrained: str = "openai"
    """Which of open_clip's published weights, if --clip_model is not a folder; with a checkpoint, the weights it was
    fine-tuned from."""
    clip_checkpoint_path: Path | None = None
    """Own weights of that architecture: a state dict, or one under model_state_dict."""
    task: str = "hume_reaction"
    """The task whose prompts are scored: a card's name or path."""
    subtitles: Path | None = None
    """Folder of <clip>.srt, <clip>.en.vtt, .ass or others, or of videos with subtitles inside: encode their words
    instead of frames."""
    language: str | None = None
    """With --subtitles: the language to read where clips have several, such as en. none: take file names whole
    (talk.no.srt is the clip talk.no)."""
    encoding: str | None = None
    """With --subtitles: encoding of the files, such as cp1251 or gb18030 (default: detected for each)."""
    subtitle_fps: float | None = None
    """With --subtitles: frames per second of files that count frames (.sub), if neither they nor the videos say it."""
    clean: list[Cleaning] = field(default_factory=lambda: ["dashes"])
    """With --subtitles: what to leave out: dashes before speech, speakers (ANN:), music notes, lyrics between them,
    sounds ([laughs]). --clean alone keeps everything."""
    batch_size: int = 64
    """Frames or sentences on the device at once, from any clips."""
    from_files: Path | None = None
    """Instead: bring in features made elsewhere: a folder of <clip>.npy, .pt, .csv or .pkl, or one file of many clips
    (.csv, .npz, MMSA's .pkl)."""

    @property
    def encoder_options(self) -> dict[str, Any]:
        """The options by name, with the default model for frames or for subtitles."""
        default = "clip" if self.subtitles is None else "roberta-base"
        return {**vars(self), "model_name": self.model_name or default}

    def clips(self) -> Sequence[Clip]:
        """Return folders of frames, or subtitles."""
        if self.subtitles is None:
            for option in ("language", "encoding", "subtitle_fps"):
                if getattr(self, option) is not None:
                    raise UserError(f"--{option}: is for --subtitles FOLDER")
            return list_picture_clips(self.input_folder, self.names, separator=self.separator)
        pictures = None if self.input_folder is None else list_frame_clips(self.input_folder, self.separator)
        rules = WordRules(tuple(self.clean), self.language, self.encoding, self.subtitle_fps)
        return list_subtitle_clips(self.subtitles, rules, pictures, self.separator)


@dataclass(kw_only=True)
class FAUOptions(PictureOptions, ExtractOptions):
    """Facial action units of face crops: one token a frame."""

    modality: ClassVar[str] = "FAU"

    input_folder: Path | None = None
    """Folder of face crops, as crop_images writes it."""
    model_name: str = "multitask"
    """multitask (py-feat: 20 action units and 7 emotions; pip install 'viper[fau]'), or landmarks (needs no weights).
    Or an encoder of your own: FILE.py:Class."""
    weights: Path | None = None
    """A local .safetensors of py-feat's multitask network, instead of the published one."""
    batch_size: int = 32
    """Faces on the device at once, from any clips."""
    from_csv: Path | None = None
    """Instead: bring in features made elsewhere: a folder of <clip>.csv (OpenFace's, the organisers'), .npy, .pt or
    .pkl, or one file of many clips."""

    @property
    def foreign(self) -> Path | None:
        """Where features made elsewhere are."""
        return self.from_csv

    def clips(self) -> Sequence[Clip]:
        """Return folders of crops. Whole frames, by their record, are a UserError."""
        clips = list_picture_clips(self.input_folder, self.names, "--from_csv", self.separator)
        if any(isinstance(clip, FrameClip) and is_usable(clip) and clip.is_whole for clip in clips):
            raise UserError(f"{self.input_folder}: holds whole frames; action units are read from crop_images' output")
        return clips


EXTRACT_OPTIONS: dict[str, type[ExtractOptions]] = {
    each.modality: each for each in (VisualOptions, AudioOptions, TextualOptions, FAUOptions)
}


def run(options: ExtractOptions) -> int:
    """Extract the features of one modality; return the exit code."""
    return run_together([options])[0]


def run_together(together: Sequence[ExtractOptions]) -> list[int]:
    """Extract the features of several modalities from the same clips, reading each once.

    Returns
    -------
    The exit code of each: 0 all done, 1 nothing usable, 3 some clips failed, which its failures.csv lists.

    Raises
    ------
    UserError : the options or the folder cannot be used; nothing was encoded.
    """
    first = together[0]
    clips = _clips(first)
    for each in together:
        read = (getattr(each, "input_folder", None) if each.foreign is None else None, each.read_folder)
        pass_on_ids(each, read, each.output_folder)
    jobs = [make_job(options, clips if options is first else _clips(options)) for options in together]
    summaries = engine.run_together(jobs, clips, [each.output_folder for each in together], first)
    codes = [finish(summary, each.output_folder) for summary, each in zip(summaries, together, strict=True)]
    shard = Shard.parse(first.shard)
    for job, summary in zip(jobs, summaries, strict=True):
        assert isinstance(job.save, Save)
        assert isinstance(job.encode, Encode)
        if isinstance(job.encode.encoder, ImportedEncoder):
            for remark in job.encode.encoder.remarks():
                log.info("%s: %s", job.stage, remark)
        if summary.done:
            report_masked(job.stage, job.save.store, [clip.id for clip in clips if shard.has(clip.id)])
    return codes


def _clips(options: ExtractOptions) -> Sequence[Clip]:
    if options.foreign is not None:
        key = options.key or MMSA_KEYS[options.modality]
        reading = Reading(key, tuple(options.columns), options.id_column, options.time_unit)
        return list_foreign_clips(options.foreign, reading, bool(options.key), options.separator)
    for option, default in _FOREIGN_OPTIONS.items():
        if getattr(options, option) != default:
            raise UserError(f"--{option}: is for features made elsewhere only (--from_files, --from_csv)")
    return options.clips()


def make_job(options: ExtractOptions, clips: Sequence[Clip]) -> Job[Clip, Any, Any]:
    """Return what the engine is to do, with the encoder on its device and the store opened."""
    if options.offline:
        go_offline()
    encoder = _encoder(options, clips) if options.foreign is None else _imported(options, clips)
    try:
        encode, store = _begin(options, clips, encoder)
    except PrecisionError:
        if options.precision != "auto":
            raise
        # Another process has just begun the folder, in its own machine's precision.
        encode, store = _begin(options, clips, encoder)
    return Job(
        stage=f"extract_{options.modality}_features",
        read=Read(getattr(encoder, "rate", None)),
        load=Load(encoder),
        encode=encode,
        save=Save(store),
        is_done=IsDone(store),
        size=Size(encoder),
        batch_size=encode.batch_size,
    )


def _begin(options: ExtractOptions, clips: Sequence[Clip], encoder: Encoder[Any, Any]) -> tuple[Encode, FeatureStore]:
    """Prepare the encoder in the precision the output folder was begun in, and open the store."""
    # Each subclass has it, with its own default.
    batch_size: int = getattr(options, "batch_size")  # noqa: B009
    encode = Encode(encoder, batch_size, (options.device, options.precision, options.compile))
    encode.prepare(FeatureStore.begun_in(options.output_folder))
    info = dataclasses.replace(
        encoder.info(),
        source=source_of(first_usable(clips)),
        versions=package_versions(RECORDED_PACKAGES),
        inputs=inputs_of(clips),
        input_folder=_relative(options.read_folder, options.output_folder),
        command=command_line(),
    )
    return encode, FeatureStore.create(options.output_folder, info)


def _relative(folder: Path | None, start: Path) -> str:
    """Return the folder that is read, as seen from the store: the two may be moved together."""
    if folder is None:
        return ""
    try:
        return Path(os.path.relpath(folder.resolve(), start.resolve())).as_posix()
    except ValueError:  # on another of Windows' drives
        return str(folder.resolve())


def _encoder(options: ExtractOptions, clips: Sequence[Clip]) -> Encoder[Any, Any]:
    source = source_of(first_usable(clips))
    reads = "frames" if source == "faces" else source
    return choose_encoder(options.modality, reads, options.encoder_options)


def _imported(options: ExtractOptions, clips: Sequence[Clip]) -> Encoder[Any, Any]:
    """Return the importing encoder; the first clip that can be read settles the channels."""
    for clip in clips:
        if isinstance(clip, ForeignClip | RowsClip | TableClip) and is_usable(clip):
            try:
                example = clip.read()
            except ClipError as error:
                log.warning("%s", error)
            else:
                told = (options.step_seconds, options.key, options.nan, options.zero_rows, options.time_unit)
                return ImportedEncoder(options.modality, example, *told)
    raise UserError("none of the features' files can be read")


# What the engine does with a clip. It is sent to other processes.
