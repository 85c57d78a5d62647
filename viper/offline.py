"""No network: said once, known to every library that would ask one, and to every process of a run."""

from __future__ import annotations

import os
import sys

# huggingface_hub's, and those of libraries that look at a variable of their own.
VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


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
