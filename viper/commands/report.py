"""report: a run -> one page that shows how good it is, on what, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from viper.commands.feature_options import FeatureOptions
from viper.errors import UserError
from viper.files import prepare_outputs, write_json
from viper.logs import log
from viper.store import MODALITIES

if TYPE_CHECKING:
    from viper.report.content import ReportContent


@dataclass(kw_only=True)
class ReportOptions(FeatureOptions):
    """One page about a run: scores with intervals, errors, subgroups, attention, provenance.

    The manifest and the features are those in the run's config.yaml, unless given here."""

    run: Path
    """The run (then its best), or one of its checkpoint folders."""
    output_path: Path
    """Folder for report.html, a self-contained page, and report.json with every number."""
    compare: list[Path] = field(default_factory=list)
    """Other runs of the same task, compared on the clips that both have labels for."""
    split: str = "Val"
    """Split to report on: Train, Val or Test. Rows without labels are left out."""
    csv_path: Path | None = None
    """The manifest (default: the one the run was trained on)."""
    frames_folder: Path | None = None
    """Frames or face crops for pictures of clips (default: those the features were made from, if found)."""
    subject_column: str | None = None
    """Column of subjects, which are resampled for intervals (default: the task's, or one of a usual name)."""
    group_columns: list[str] = field(default_factory=list)
    """Columns to group clips by (default: those of age, country, gender and the like)."""
    n_resamples: int = 1000
    """Bootstrap resamples."""
    seed: int = 0
    """Seed of the bootstrap."""
    n_cases: int = 10
    """Best and worst clips to show, of each."""
    subset_clips: int = 200
    """Clips, drawn at random, for scores of modality subsets; 0: all."""
    batch_size: int = 64
    """Clips per batch. It does not change the predictions."""
    device: str = "auto"
    """Device of the model: auto, cpu, cuda, cuda:1, mps ..."""


def run(options: ReportOptions) -> int:
    """Write the report and return the exit code."""
    content = content_of(options)
    from viper.report.page import write_report

    folder = options.output_path
    prepare_outputs(folder)
    write_json(folder / "report.json", content.to_dict())
    write_report(content, folder)
    log.info("%s", content.summary)
    log.info("report: %d clips of %s -> %s", len(content.clips), content.split, folder / "report.html")
    return 0


def content_of(options: ReportOptions) -> ReportContent:
    """Return all that the report says; nothing is written."""
    _check(options)
    # Not above: importing torch takes seconds, and --help should not.
    from viper.engine.device import choose_device
    from viper.inference.run import open_run
    from viper.report.collect import Wanted, collect

    source = open_run(options.run, "--run", options.csv_path, *_given_features(options))
    others = [open_run(path, "--compare") for path in options.compare]
    wanted = Wanted(
        options.split, options.frames_folder, options.subject_column, options.group_columns, options.n_resamples,
        options.seed, options.n_cases, options.subset_clips, options.batch_size, choose_device(options.device),
    )  # fmt: skip
    return collect(source, others, wanted)


def _given_features(options: FeatureOptions) -> tuple[dict[str, Path], list[str]]:
    """Return the folders given by options, and the modalities that are switched off."""
    without = [name for name in MODALITIES if getattr(options, name) is False]
    named = [getattr(options, f"{name}_features_input_folder") for name in MODALITIES if name not in without]
    return (options.folders() if options.features or any(named) else {}), without


def _check(options: ReportOptions) -> None:
    if options.output_path.exists() and not options.output_path.is_dir():
        raise UserError(f"--output_path {options.output_path}: is a file; the report needs a folder")
    for name in ("n_resamples", "n_cases", "batch_size"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least 1")
    if options.subset_clips < 0:
        raise UserError(f"--subset_clips {options.subset_clips}: must be at least 0")
    if options.frames_folder is not None and not options.frames_folder.is_dir():
        raise UserError(f"--frames_folder {options.frames_folder}: no such folder")
