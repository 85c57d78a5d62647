"""extract_*_features: one stage for every modality; the modalities differ in their encoder and in what it reads."""

from __future__ import annotations

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from viper.commands.common import finish
from viper.commands.extract_steps import Encode, IsDone, Save, read_clip
from viper.encoders.registry import find, is_own_name, short_names
from viper.engine import run as engine
from viper.engine.job import EngineOptions, Job
from viper.errors import ClipError, UserError
from viper.logs import command_line, log, package_versions
from viper.media.clips import (
    Clip,
    ForeignClip,
    RowsClip,
    SubtitleClip,
    inputs_of,
    list_foreign_clips,
    list_picture_clips,
    list_sound_clips,
    source_of,
)
from viper.media.listing import list_subtitles
from viper.media.pictures import FrameClip, list_frame_clips
from viper.store import Feature, FeatureStore, PrecisionError
from viper.task import load_task

if TYPE_CHECKING:
    from viper.encoders.base import Encoder

RECORDED_PACKAGES = ("torch", "transformers", "open-clip-torch", "py-feat", "scikit-image", "av")
# What MMSA's files call the modalities.
MMSA_KEYS = {"visual": "vision", "FAU": "vision", "audio": "audio", "textual": "text"}


@dataclass(kw_only=True)
class ExtractOptions(EngineOptions, ABC):
    """The options every modality has."""

    modality: ClassVar[str]

    output_folder: Path
    """Where <clip>.safetensors and encoder.json are written."""
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda, cuda:1, mps ..."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic of the model: auto goes on in the output folder's precision; in a new folder it takes bf16 where the
    device has it. Features stay the same to a cosine of .999."""
    compile: bool = False
    """Compile the model first (torch.compile): a longer start, for long runs."""
    offline: bool = False
    """Never touch the network (as HF_HUB_OFFLINE=1 does)."""
    step_seconds: float | None = None
    """Of features made elsewhere that have no times (.npy, .pt, .pkl): seconds from token to token; 1 unless given."""
    key: str | None = None
    """Of features made elsewhere, in a .pkl: what to take of it. By default vision, audio or text, by the command."""
    columns: list[str] = field(default_factory=list)
    """Of features made elsewhere, in .csv: take the columns whose names begin so, such as AU gaze pose. By default all,
    and of OpenFace's the action units."""

    @abstractmethod
    def clips(self) -> Sequence[Clip]:
        """The clips of the input folder."""

    @abstractmethod
    def encoder(self) -> Encoder[Any, Any]:
        """The encoder the options name, of those viper has."""

    @property
    def pictures(self) -> Path | None:
        """The folder whose pictures are read; None where no pictures are."""
        return None

    @property
    def foreign(self) -> Path | None:
        """Where features made elsewhere are, to be brought in instead of making some; None: make some."""
        return getattr(self, "from_files", None)

    @property
    def read_folder(self) -> Path | None:
        """The folder (or file) whose content becomes features."""
        return self.foreign or getattr(self, "subtitles", None) or getattr(self, "input_folder", None)


@dataclass(kw_only=True)
class VisualOptions(ExtractOptions):
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
    """Whose output: -1 the last layer's, k the k-th hidden state."""
    pool: Literal["auto", "cls", "mean"] = "auto"
    """The class token, or the mean of all tokens; auto: what a video network's own classifier reads, else cls."""
    n_windows: int = 1
    """Of a video network: windows a clip is cut into, one token each. Of each window's frames as many are taken,
    evenly, as the network wants; where there are fewer they are repeated."""
    from_files: Path | None = None
    """Instead: features made elsewhere, to bring into the store: a folder of <clip>.pt, .npy, .csv or .pkl, or one .pkl
    of MMSA."""

    @property
    def pictures(self) -> Path | None:
        """The input folder, but for features made elsewhere."""
        return None if self.from_files else self.input_folder

    def clips(self) -> Sequence[Clip]:
        """Folders of frames."""
        return list_picture_clips(self.input_folder)

    def encoder(self) -> Encoder[Any, Any]:
        """hog, or a transformers image or video encoder, as its config says."""
        from viper.encoders.video import VideoEncoder, is_video
        from viper.encoders.visual import HogEncoder, ImageEncoder

        model = "" if self.model_name == "hog" else _model("visual", self.model_name)
        if model and is_video(model):
            return VideoEncoder(model, self.n_windows, self.layer, self.pool)
        if self.n_windows != 1:
            raise UserError(f"--n_windows {self.n_windows}: {self.model_name} reads one frame at a time, not windows")
        return ImageEncoder(model, self.layer, "cls" if self.pool == "auto" else self.pool) if model else HogEncoder()


@dataclass(kw_only=True)
class AudioOptions(ExtractOptions):
    """Audio features of sound files, or of the sound in videos: one token a window."""

    modality: ClassVar[str] = "audio"

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
    """Whose output: -1 the last layer's, k the k-th hidden state."""
    pool: Literal["mean", "meanstd"] = "mean"
    """Over the time steps of a window: the mean, or mean and standard deviation."""
    from_files: Path | None = None
    """Instead: features made elsewhere, to bring into the store: a folder of <clip>.pt, .npy, .csv or .pkl, or one .pkl
    of MMSA."""

    def clips(self) -> Sequence[Clip]:
        """Files with sound."""
        return list_sound_clips(self.input_folder)

    def encoder(self) -> Encoder[Any, Any]:
        """One without weights, or a transformers speech encoder."""
        from viper.encoders.audio import SpeechEncoder
        from viper.encoders.audio_measures import AcousticEncoder, EgemapsEncoder, LogMelEncoder

        for measuring in (LogMelEncoder, AcousticEncoder, EgemapsEncoder):
            if self.model_name == measuring.kind:
                return measuring(self.n_fragments, self.fragment_seconds)
        model = _model("audio", self.model_name)
        return SpeechEncoder(model, self.n_fragments, self.fragment_seconds, self.layer, self.pool)


@dataclass(kw_only=True)
class TextualOptions(ExtractOptions):
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
    """Which of open_clip's published weights, where --clip_model is no folder; with a checkpoint, those it was trained
    further from."""
    clip_checkpoint_path: Path | None = None
    """Own weights of that architecture: a state dict, or one under model_state_dict."""
    task: str = "hume_reaction"
    """The task whose prompts are scored: a card's name or path."""
    subtitles: Path | None = None
    """Folder of <clip>.srt or <clip>.vtt: their cues are encoded instead of frames."""
    batch_size: int = 64
    """Frames or sentences on the device at once, from any clips."""
    from_files: Path | None = None
    """Instead: features made elsewhere, to bring into the store: a folder of <clip>.pt, .npy, .csv or .pkl, or one .pkl
    of MMSA."""

    @property
    def pictures(self) -> Path | None:
        """The input folder, but for features made elsewhere and subtitles."""
        return None if self.from_files or self.subtitles else self.input_folder

    def clips(self) -> Sequence[Clip]:
        """Folders of frames, or subtitles."""
        if self.subtitles is None:
            return list_picture_clips(self.input_folder)
        files = {clip.id: clip.path for clip in list_subtitles(self.subtitles)}
        ids = list(files)
        if self.input_folder is not None:
            ids = [clip.id for clip in list_frame_clips(self.input_folder)]
        return [SubtitleClip(identifier, files.get(identifier)) for identifier in ids]

    def encoder(self) -> Encoder[Any, Any]:
        """Prompts and CLIP, a text encoder, or hashed words."""
        from viper.encoders.prompts import load_prompts
        from viper.encoders.textual import HashedWordsEncoder, PromptEncoder, SubtitleEncoder

        if self.model_name == "hashed":
            if self.subtitles is None:
                raise UserError("--model_name hashed encodes words: give --subtitles FOLDER")
            return HashedWordsEncoder()
        if self.model_name == "clip" and self.subtitles is not None:
            raise UserError("--model_name clip looks at frames: for --subtitles give roberta-base or hashed")
        text_model = _model("textual", "roberta-base" if self.model_name in ("", "clip") else self.model_name)
        if self.subtitles is not None:
            return SubtitleEncoder(text_model)
        prompts = load_task(self.task).prompts
        if prompts is None:
            raise UserError(f"--task {self.task}: its card names no prompts; add `prompts: FILE` or give --subtitles")
        return PromptEncoder(
            load_prompts(prompts), self.clip_model, self.clip_pretrained, self.clip_checkpoint_path, text_model
        )


@dataclass(kw_only=True)
class FAUOptions(ExtractOptions):
    """Facial action units of face crops: one token a frame."""

    modality: ClassVar[str] = "FAU"

    input_folder: Path | None = None
    """Folder of face crops, as crop_images writes it."""
    model_name: str = "multitask"
    """multitask (py-feat: 20 action units and 7 emotions), or landmarks (needs no weights). Or an encoder of your own:
    FILE.py:Class."""
    weights: Path | None = None
    """A local .safetensors of py-feat's multitask network, instead of the published one."""
    batch_size: int = 32
    """Faces on the device at once, from any clips."""
    from_csv: Path | None = None
    """Instead: features made elsewhere, to bring into the store: a folder of <clip>.csv, made by OpenFace or shipped by
    the organisers, or of .pt, .npy or .pkl, or one .pkl of MMSA."""

    @property
    def pictures(self) -> Path | None:
        """The input folder, but for features made elsewhere."""
        return None if self.from_csv else self.input_folder

    @property
    def foreign(self) -> Path | None:
        """Where features made elsewhere are."""
        return self.from_csv

    def clips(self) -> Sequence[Clip]:
        """Folders of crops. Whole frames, by their record, are a UserError."""
        clips = list_picture_clips(self.input_folder, "--from_csv")
        if any(isinstance(clip, FrameClip) and clip.is_whole for clip in clips):
            raise UserError(f"{self.input_folder}: holds whole frames; action units are read from crop_images' output")
        return clips

    def encoder(self) -> Encoder[Any, Any]:
        """py-feat's network, or landmarks."""
        from viper.encoders.fau import LandmarkEncoder, MultitaskEncoder

        if self.model_name == "landmarks":
            return LandmarkEncoder()
        if self.model_name != "multitask":
            raise UserError(f"--model_name {self.model_name}: is none of {', '.join(short_names('FAU'))}")
        return MultitaskEncoder(self.weights)


def run(config: ExtractOptions) -> int:
    """Runs the stage; answers the exit code."""
    return run_together([config])[0]


def run_together(configs: Sequence[ExtractOptions]) -> list[int]:
    """Runs the stage for several modalities that read the same clips, each of which is read once; the exit codes."""
    clips = _clips(configs[0])
    jobs = [make_job(config, clips if config is configs[0] else _clips(config)) for config in configs]
    summaries = engine.run_together(jobs, clips, [config.output_folder for config in configs], configs[0])
    return [finish(summary, config.output_folder) for summary, config in zip(summaries, configs, strict=True)]


def _clips(config: ExtractOptions) -> Sequence[Clip]:
    if config.foreign is not None:
        return list_foreign_clips(config.foreign, config.key or MMSA_KEYS[config.modality], tuple(config.columns))
    for option in ("step_seconds", "key", "columns"):
        if getattr(config, option) not in (None, []):
            raise UserError(f"--{option}: is for features made elsewhere only (--from_files, --from_csv)")
    return config.clips()


def make_job(config: ExtractOptions, clips: Sequence[Clip]) -> Job[Clip, Any, Feature]:
    """What the engine is to do, with the encoder on its device and the store opened."""
    if config.offline:
        # Not above: importing torch takes seconds, and --help should not.
        from viper.encoders.pretrained import go_offline

        go_offline()
    encoder = _encoder(config, clips) if config.foreign is None else _imported(config, clips)
    try:
        encode, store = _begin(config, clips, encoder)
    except PrecisionError:
        if config.precision != "auto":
            raise
        # Another process has just begun the folder, in its own machine's precision.
        encode, store = _begin(config, clips, encoder)
    return Job(
        stage=f"extract_{config.modality}_features",
        read=read_clip,
        load=encoder.load,
        encode=encode,
        save=Save(store),
        is_done=IsDone(store),
        size=encoder.size,
        batch_size=encode.batch_size,
    )


def _begin(config: ExtractOptions, clips: Sequence[Clip], encoder: Encoder[Any, Any]) -> tuple[Encode, FeatureStore]:
    """Prepare the encoder in the precision the output folder was begun in, and open the store."""
    encode = Encode(encoder, config)
    encode.prepare(FeatureStore.begun_in(config.output_folder))
    info = dataclasses.replace(
        encoder.info(),
        source=source_of(clips[0]),
        versions=package_versions(RECORDED_PACKAGES),
        inputs=inputs_of(clips),
        input_folder=_relative(config.read_folder, config.output_folder),
        command=command_line(),
    )
    return encode, FeatureStore.create(config.output_folder, info)


def _relative(folder: Path | None, start: Path) -> str:
    """The folder that is read, as seen from the store: the two may be moved together."""
    if folder is None:
        return ""
    try:
        return Path(os.path.relpath(folder.resolve(), start.resolve())).as_posix()
    except ValueError:  # on another of Windows' drives
        return str(folder.resolve())


def _encoder(config: ExtractOptions, clips: Sequence[Clip]) -> Encoder[Any, Any]:
    """The encoder the options name: the user's own, or one of viper's."""
    name = str(getattr(config, "model_name"))  # noqa: B009  each subclass has it, with its own default
    if not is_own_name(name):
        return config.encoder()
    # Not above: importing torch takes seconds, and --help should not.
    from viper.encoders.user_encoder import load_own

    source = source_of(clips[0])
    return load_own(name, vars(config), "frames" if source == "faces" else source)


def _imported(config: ExtractOptions, clips: Sequence[Clip]) -> Encoder[Any, Any]:
    """The importing encoder; the first clip that can be read settles the channels."""
    # Not above: importing torch takes seconds, and --help should not.
    from viper.encoders.precomputed import ImportedEncoder

    for clip in clips:
        if isinstance(clip, ForeignClip | RowsClip):
            try:
                example = clip.read()
            except ClipError as error:
                log.warning("%s", error)
            else:
                return ImportedEncoder(config.modality, example, config.step_seconds, config.key)
    raise UserError("none of the features' files can be read")


def _model(modality: str, name: str) -> str:
    """The hub id a short name stands for; a hub id or a folder as it is."""
    registered = find(modality, name)
    if registered is not None:
        return registered.model
    if "/" not in name and not Path(name).is_dir():
        known = ", ".join(short_names(modality))
        raise UserError(f"--model_name {name}: is none of {known}, no folder here and no hub id (owner/name)")
    return name
