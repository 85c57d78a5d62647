"""pipeline: every stage for one data set from one YAML; what is up to date is not done again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from viper.clip_ids import separator_of
from viper.engine.job import EngineOptions
from viper.errors import UserError
from viper.files import check_own_folder, digest_of, read_json, remove, write_json, write_text
from viper.fingerprints import fingerprint, fingerprint_tree
from viper.logs import log, shell_line
from viper.manifest import Manifest
from viper.offline import go_offline
from viper.store import MODALITIES, FeatureStore
from viper.task import load_task
from viper.training.run_folder import METRICS_FILE
from viper.training.run_records import CONFIG_FILE, SUMMARY_FILE

if TYPE_CHECKING:
    from viper.commands.extract_features import ExtractOptions
    from viper.commands.pipeline_plan import Plan, Step

STATE_FILE = "pipeline.json"
DONE = (0, 3)  # exit codes after which the next stage has something to work on
TRAIN = "train"  # the step that makes a run
# Options that do not change what a command makes, and those that the pipeline itself sets.
NEUTRAL = ("n_workers", "device", "offline", "overwrite", "resume", "output_log_file")
OWN = ("task", "csv_path", "model_path", "run", "output_path", "output_checkpoint_folder", "features",
       *(f"{name}_features_input_folder" for name in MODALITIES))  # fmt: skip

TEMPLATE = """\
# One data set, from videos to a submission:  {command}
# Run it again after a stop or a change: only what is out of date is done again. Paths are relative to this file.

task: hume_reaction          # a card's name, or the path of your own
csv_path: manifest.csv       # File_ID, Split (Train, Val, Test), a column per target
videos: videos               # <File_ID without brackets>.mp4, .mov, .mkv, ...
subfolders: false            # true: read its subfolders too; a/1.mp4 is then the clip a_1 (id_separator: _)
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
    inputs = _inputs(plan)
    for step in plan.steps:
        made_of = _made_of(plan, step, inputs)
        if _is_up_to_date(step, made_of, plan.output):
            log.info("%s: up to date", step.name)
            continue
        written, code = _run_step(step, plan.output)
        if code:
            return code
        inputs = _inputs(plan)
        if _made_of(plan, step, inputs) == made_of:
            state = _read_state(plan.output)
            state[step.name] = {"made_of": made_of, "files": _fingerprints(written, plan.output)}
            write_json(plan.output / STATE_FILE, state)
        else:  # nobody knows which of them it was made of
            log.warning("%s: its inputs changed meanwhile; run the pipeline again", step.name)
    return 0


def _run_step(step: Step, output: Path) -> tuple[list[Path], int]:
    """Run a step; return the files that it wrote, and its exit code."""
    before = _states(step)
    try:
        if step.name != TRAIN:
            code = step.run(step.options)
            return [path for path, status in _states(step).items() if before.get(path) != status], code
        state = _read_state(output)
        if state.pop(TRAIN, None):  # what is there is another training, or damaged
            remove(step.product)  # by which a run is known to be finished
            write_json(output / STATE_FILE, state)
        code = step.run(step.options)
        return _files_of_run(step.folder), code
    except KeyboardInterrupt:
        # Without the step's own words, which name options that this command does not have.
        raise KeyboardInterrupt from None


def _read_state(output: Path) -> dict[str, dict[str, Any]]:
    """Return what has been done; what an earlier version or another program wrote there says that nothing has."""
    path = output / STATE_FILE
    try:
        state = read_json(path) if path.exists() else {}
    except UserError as error:
        log.warning("%s; what is there is looked at anew", error)
        return {}
    if not isinstance(state, dict):
        return {}
    return {name: value for name, value in state.items() if isinstance(value, dict)}


def _is_up_to_date(step: Step, made_of: str, output: Path) -> bool:
    """Return whether a step's files were made of this, are there, and hold what they held then."""
    done = _read_state(output).get(step.name, {})
    files = done.get("files")
    if done.get("made_of") != made_of or not isinstance(files, dict) or _name(step.product, output) not in files:
        return False
    try:
        return files == _fingerprints([output / name for name in files], output)
    except (OSError, ValueError):  # of a name that no file has, or one outside the folder
        return False


def _states(step: Step) -> dict[Path, tuple[int, ...]]:
    """Return a step's files that are there, each with what changes when it is written."""
    paths = step.folder.iterdir() if step.folder.is_dir() else [step.product]
    states: dict[Path, tuple[int, ...]] = {}
    for path in paths:
        if path.is_file():
            status = path.stat()
            states[path] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return states


def _files_of_run(run: Path) -> list[Path]:
    """Return what others read of a run: its record, and its best checkpoint. Other epochs may be deleted."""
    from viper.fusion.checkpoint import BEST, files_of

    return [*(run / name for name in (CONFIG_FILE, METRICS_FILE, SUMMARY_FILE)), *files_of(run / BEST)]


def _fingerprints(files: Iterable[Path], output: Path) -> dict[str, str]:
    """Return each file's fingerprint by its place in the output folder."""
    return {_name(path, output): fingerprint(path) for path in files}


def _name(path: Path, output: Path) -> str:
    return path.relative_to(output).as_posix()


@dataclass(frozen=True)
class _Inputs:
    """Digests of what is read: by the training, and by what follows it, beside the run."""

    training: str
    others: str


def _inputs(plan: Plan) -> _Inputs:
    """Return what the steps read, by what it says: not how a manifest's lines end, nor clips that it does not have.

    A row of Test does not concern the training, unless it standardizes within groups, which are of all splits.
    """
    task = load_task(plan.task)
    manifest = Manifest.load(plan.csv_path, task, separator_of(each.output_folder for each in plan.features.values()))
    splits, known = manifest.table[task.split_column], set(manifest.clips)
    encoders, features = {}, {}
    for name, options in plan.features.items():
        store = FeatureStore.open(options.output_folder)
        encoders[name] = [store.info.identity, store.info.inputs, store.info.settings]
        features[name] = {clip: fingerprint(store.path(clip)) for clip in store.clips() if clip in known}
    card = task.to_dict()
    others = digest_of([card, manifest.table.to_csv(), manifest.orders, encoders, features])
    if any(step.name == TRAIN and step.options.group_column is not None for step in plan.steps):
        return _Inputs(others, others)
    learnt = manifest.table.loc[splits != "Test", [task.split_column, *task.targets]]
    orders = [order for order in manifest.orders if order[0] in learnt.index]
    read = {name: [each.get(clip) for clip in learnt.index] for name, each in features.items()}
    return _Inputs(digest_of([card, learnt.to_csv(), orders, encoders, read]), others)


def _made_of(plan: Plan, step: Step, inputs: _Inputs) -> str:
    """Return a digest of all that decides what a step makes."""
    if step.name == TRAIN:
        return digest_of([inputs.training, _option_digest(step.options)])
    (run,) = (each.folder for each in plan.steps if each.name == TRAIN)
    model = _fingerprints(_files_of_run(run), plan.output)
    return digest_of([inputs.others, model, _option_digest(step.options)])


def _option_digest(options: Any) -> str:
    """Return a digest of the options that change a result, and of what is in the files and folders that they name.

    The pipeline's own folders and the task are left out: what is in them is looked at elsewhere. A data set that is
    moved, with the YAML, stays as it is.
    """
    parts: dict[str, Any] = {}
    for name, value in dataclasses.asdict(options).items():
        if name not in (*NEUTRAL, *OWN):
            paths = value if isinstance(value, list) else [value]
            found = [_content(path) for path in paths if isinstance(path, Path)]
            parts[name] = found or value
    return digest_of(parts)


def _content(path: Path) -> str:
    if not path.exists():  # the command will say so
        return str(path)
    return fingerprint_tree(path) if path.is_dir() else fingerprint(path)
