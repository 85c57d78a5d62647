"""report: a run -> one page that shows how good it is, on what, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from viper.commands.common import log
from viper.commands.feature_options import FeatureOptions
from viper.errors import UserError
from viper.files import prepare_outputs, write_json

if TYPE_CHECKING:
    from viper.report.content import ReportContent


@dataclass(kw_only=True)
class ReportOptions(FeatureOptions):
    """One page about a run: scores with intervals, where it errs and on whom, what it looked at, where it came from.

    The run's config.yaml says which manifest and which features; what is given here counts for more."""

    run: Path
    """The run (then its best), or one of its checkpoint folders."""
    output_path: Path
    """Folder that gets report.html, one file with all in it, and report.json with every number."""
    compare: list[Path] = field(default_factory=list)
    """Further runs of the same task, to be compared with on the clips that both have labels for."""
    split: str = "Val"
    """Which split is reported on: Train, Val or Test. Rows without labels are left out."""
    csv_path: Path | None = None
    """The manifest. By default the one the run was trained on."""
    frames_folder: Path | None = None
    """Frames or face crops, for pictures of clips. By default those the features were made from, if they are found."""
    subject_column: str | None = None
    """Whose clips belong together: intervals are over subjects. By default the task's, or a column of a usual name."""
    group_columns: list[str] = field(default_factory=list)
    """Columns by which clips are grouped. By default those of age, country, gender and the like."""
    n_resamples: int = 1000
    """Of the bootstrap."""
    seed: int = 0
    """Of the bootstrap."""
    n_cases: int = 10
    """How many of the best and of the worst clips are shown."""
    subset_clips: int = 200
    """Clips, drawn at random, on which subsets of the modalities are scored; 0: all."""
    batch_size: int = 64
    """Clips at once. It does not change the predictions."""
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda, cuda:1, mps ..."""


def run(config: ReportOptions) -> int:
    """Runs the stage; answers the exit code."""
    content = content_of(config)
    from viper.report.page import write_report

    folder = config.output_path
    prepare_outputs(folder)
    write_json(folder / "report.json", content.to_dict())
    write_report(content, folder)
    log.info("%s", content.summary)
    log.info("report: %d clips of %s -> %s", len(content.clips), content.split, folder / "report.html")
    return 0


def content_of(config: ReportOptions) -> ReportContent:
    """All that the report says; nothing is written."""
    _check(config)
    # Not above: importing torch takes seconds, and --help should not.
    from viper.commands.run_source import open_run
    from viper.engine.device import choose_device
    from viper.report.collect import Wanted, collect

    source = open_run(config.run, "--run", config.csv_path, config)
    others = [open_run(path, "--compare") for path in config.compare]
    wanted = Wanted(
        config.split, config.frames_folder, config.subject_column, config.group_columns, config.n_resamples,
        config.seed, config.n_cases, config.subset_clips, config.batch_size, choose_device(config.device),
    )  # fmt: skip
    return collect(source, others, wanted)


def _check(config: ReportOptions) -> None:
    if config.output_path.exists() and not config.output_path.is_dir():
        raise UserError(f"--output_path {config.output_path}: is a file; the report needs a folder")
    for name in ("n_resamples", "n_cases", "batch_size"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name} {getattr(config, name)}: must be at least 1")
    if config.subset_clips < 0:
        raise UserError(f"--subset_clips {config.subset_clips}: must be at least 0")
    if config.frames_folder is not None and not config.frames_folder.is_dir():
        raise UserError(f"--frames_folder {config.frames_folder}: no such folder")
