"""The network: that there is none is said once, to every library and process; what is fetched where there is one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# huggingface_hub's, and those of libraries that look at a variable of their own.
VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
# huggingface_hub itself waits without end for a hub behind a firewall that drops what it is sent.
ANSWER_SECONDS, REMEMBERED_SECONDS = 10.0, 60.0
_hubs: dict[str, tuple[float, bool]] = {}  # address -> when it was asked, and whether it answered


def go_offline() -> None:
    """Let no library ask the network from here on, whatever is imported already; child processes inherit it."""
    for name in VARIABLES:
        os.environ[name] = "1"
    # huggingface_hub looks at its variable once, when it is imported; transformers and others ask huggingface_hub.
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def is_offline() -> bool:
    """Return whether the user said so, with --offline, HF_HUB_OFFLINE=1 or TRANSFORMERS_OFFLINE=1."""
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in VARIABLES[:2])


def fetch(model: str, names: Iterable[str], **options: Any) -> Path:
    """Return the folder with those of the named files (or patterns) that a model of a hub has.

    Where no hub answers it is what was fetched before; an OSError where that is not enough. `options` are those of
    huggingface_hub's snapshot_download.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    is_local = is_offline() or options.get("local_files_only", False)
    is_silent = not is_local and not _is_hub_there()
    try:
        options["local_files_only"] = is_local or is_silent
        return Path(snapshot_download(model, allow_patterns=list(names), **options))
    except LocalEntryNotFoundError as error:
        if is_silent:
            raise ConnectionError("the hub does not answer, and nothing of it was fetched before") from error
        raise


def _is_hub_there() -> bool:
    from huggingface_hub import constants, get_session

    asked, answered = _hubs.get(constants.ENDPOINT, (-REMEMBERED_SECONDS, False))
    if time.monotonic() - asked > REMEMBERED_SECONDS:
        try:
            get_session().head(constants.ENDPOINT, timeout=ANSWER_SECONDS)
            answered = True
        except Exception:  # of whichever library asks, of the system, of a proxy
            answered = False
        _hubs[constants.ENDPOINT] = time.monotonic(), answered
    return answered
