"""What the commands share: how a stage that maps over clips ends."""

from __future__ import annotations

import logging
from pathlib import Path

from viper.engine import Summary
from viper.failures import FILE_NAME

log = logging.getLogger("viper")


def finish(summary: Summary, output_folder: Path) -> int:
    """Says what came of a stage and answers its exit code."""
    log.info("%s", summary)
    if summary.failed:
        log.warning("%s: the clips that failed, and why, are in %s", summary.stage, output_folder / FILE_NAME)
    return summary.exit_code
