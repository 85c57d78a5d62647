"""pipeline: every stage for one data set from one YAML; what is up to date is not done again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from viper.engine.job import EngineOptions
from viper.errors import UserError
from viper.files import check_own_folder, digest_of, read_json, write_json, write_text
from viper.fingerprints import fingerprint
from viper.logs import log, shell_line
from viper.manifest import preferences_path
from viper.offline import go_offline
from viper.store import ENCODER_FILE, FeatureStore

if TYPE_CHECKING:
    from viper.commands.extract_features import ExtractOptions
    from viper.commands.pipeline_plan import Plan, Step

STATE_FILE = "pipeline.json"
BEGUN = "train begun"  # in the state: of which inputs
DONE = (0, 3)  # exit codes after which the next stage has something to work on
# Options that do not change what a command makes.
NEUTRAL = ("n_workers", "device", "offline", "overwrite", "resume")

TEMPLATE = """\
# One data set, from videos to a submission:  {command}
# Run it again after a stop or a change: only what is out of date is done again. Paths are relative to this file.

task: hume_reaction          # a card's name, or the path of your own
csv_path: manifest.csv       # File_ID, Split (Train, Val, Test), a column per target
videos: videos               # <File_ID without brackets>.mp4, .mov, .mkv, ...
output: work                 # frames, faces, features, run, submission.csv, matrices and report go here
# subtitles: subtitles       # <clip>.srt or .vtt; textual features are then made of words, not frames
device: auto                 # auto, cpu, cuda, cuda:1, mps
n_workers: -1                # processes that decode; -1: one a core
offline: false               # true: never touch the network
clip_timeout: 600            # seconds to read one clip, before it counts as failed
engine: local                # or ray, with ray_address and num_gpus

# Below, each section takes the options of the command it is named after, spelled as there (viper COMMAND --help).
frames:                      # get_frame
  n_frames: 32
faces:                       # crop_images; write `faces: false` to use whole frames
  margin: 0.1

features:                    # one entry a modality; leave out those you do not want
  visual:                    # extract_visual_features
    model_name: vit-base     # or hog, which needs no weights
  audio:                     # extract_audio_features
    model_name: wavlm-base-plus-sv   # or logmel or acoustic, which need no weights
    n_fragments: 32
  textual:                   # extract_textual_features
    batch_size: 64           # with subtitles: `model_name: hashed` needs no weights
  FAU:                       # extract_FAU_features
    model_name: multitask    # or landmarks, which needs no weights
  # A further modality of any name says which command makes it:
  # age:
  #   command: visual
  #   model_name: vit-age    # or an encoder of your own: FILE.py:Class

train:                       # train_perceiver
  n_epochs: 30
  preset: small

submission:                  # submission_creation; `submission: false` for none
  split: Test

confusion:                   # confusion_matrix; `confusion: false` for none
  split: Val

report:                      # report; `report: false` for none
  split: Val
"""


@dataclass(kw_only=True)
class PipelineOptions:
    """Run every stage for one data set, as a YAML file says. Resumable: only what is out of date is done again."""

    config: tyro.conf.Positional[Path]
    """The YAML file."""
    init: bool = False
    """Write a commented YAML to that path, to be filled in, and do nothing else."""
    offline: bool = False
    """Never touch the network, as `offline: true` in the file does (and HF_HUB_OFFLINE=1)."""


def run(options: PipelineOptions) -> int:
    """Run the pipeline; return the exit code: 3 when some clips failed on the way."""
    if options.init:
        return _write_template(options.config)
    # Not above: the commands import much, and --help should be quick.
    from viper.commands.pipeline_plan import read_plan

    plan = read_plan(options.config)
    if options.offline or plan.is_offline:
        go_offline()
    for names in (("frames",), ("faces",), *(("features", name) for name in plan.features), ("run",), ("confusion",),
                  ("report",)):  # fmt: skip
        check_own_folder(plan.output, *names)
    extracted = _extract(plan)
    if extracted not in DONE:
        return extracted
    return _make_products(plan) or extracted


def _write_template(path: Path) -> int:
    if path.exists():
        raise UserError(f"{path}: already exists; choose another name")
    command = shell_line(["viper", "pipeline", path])
    write_text(path, TEMPLATE.format(command=command))
    log.info("pipeline: wrote %s; fill it in, then: %s", path, command)
    return 0


def _extract(plan: Plan) -> int:
    """Run the stages that map over clips; each skips what is up to date, and the first that fails ends it."""
    from viper.commands import crop_images, extract_features, get_frame

    worst = 0
    if plan.needs_frames():
        worst = get_frame.run(plan.frames)
        if worst in DONE and plan.faces is not None:
            code = crop_images.run(plan.faces)
            worst = max(worst, code) if code in DONE else code
    for group in _groups(plan):
        if worst not in DONE:
            return worst
        codes = extract_features.run_together(group)
        worst = next((code for code in codes if code not in DONE), max(worst, *codes))
    return worst


def _groups(plan: Plan) -> list[list[ExtractOptions]]:
    """Return the modalities, those together that read the same pictures in the same way: each is decoded once."""
    groups: dict[Any, list[ExtractOptions]] = {}
    for name, options in plan.features.items():
        engine = tuple(getattr(options, each.name) for each in dataclasses.fields(EngineOptions))
        is_alone = options.pictures is None or options.engine != "local"
        groups.setdefault(name if is_alone else (options.pictures, engine), []).append(options)
    return list(groups.values())


def _make_products(plan: Plan) -> int:
    """Run what is out of date of the steps after the extraction; return the first exit code that is not 0."""
    state_path = plan.output / STATE_FILE
    train = plan.steps[0].options
    trained = digest_of([_input_digest(plan), _plain(train)])
    for step in plan.steps:
        code = _run_step(step, digest_of([trained, _plain(step.options)]), state_path)
        if code:
            return code
    return 0


def _run_step(step: Step, digest: str, state_path: Path) -> int:
    """Run a step unless its product is there and was made from the same inputs with the same options."""
    state = read_json(state_path) if state_path.is_file() else {}
    if state.get(step.name) == digest and step.product.exists():
        log.info("%s: up to date", step.name)
        return 0
    options = step.options
    if step.name == "train":
        # A training of the same inputs that was stopped is resumed; any other is replaced.
        has_begun = state.get(BEGUN) == digest
        options = dataclasses.replace(options, resume=has_begun, overwrite=not has_begun)
        state = {**state, BEGUN: digest}
        write_json(state_path, state)
    try:
        code = step.run(options)
    except KeyboardInterrupt:
        # Without the step's own words, which name options that this command does not have.
        raise KeyboardInterrupt from None
    if code == 0:
        write_json(state_path, {**state, step.name: digest})
    return code


def _input_digest(plan: Plan) -> str:
    """Return the digest of the manifest and the preferences beside it, every encoder and every feature."""
    beside = preferences_path(plan.csv_path)
    parts: list[Any] = [fingerprint(path) for path in (plan.csv_path, beside) if path.is_file()]
    for name, options in plan.features.items():
        store = FeatureStore.open(options.output_folder)
        parts.append([name, fingerprint(store.folder / ENCODER_FILE)])
        parts += [[clip, fingerprint(store.path(clip))] for clip in store.clips()]
    return digest_of(parts)


def _plain(options: Any) -> dict[str, Any]:
    """Return options as JSON for a digest, without those that do not change a result."""
    values = {name: value for name, value in dataclasses.asdict(options).items() if name not in NEUTRAL}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
