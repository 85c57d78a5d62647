"""doctor: what is installed, what device there is, and which encoders can run here."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from dataclasses import dataclass
from pathlib import Path

import viper
from viper.encoders.registry import Registered, registered
from viper.errors import first_line
from viper.logs import package_versions, say
from viper.offline import go_offline, is_offline

PACKAGES = (
    "torch", "torchvision", "librosa", "torchcodec", "transformers", "accelerate", "safetensors", "facenet-pytorch",
    "open-clip-torch", "py-feat", "av", "opencv-python-headless", "scikit-image", "scikit-learn", "pandas", "numpy",
)  # fmt: skip

EXTRAS = {"ray": "--engine ray", "optuna": "viper tune", "opensmile": "--model_name egemaps",
          "pyarrow": "viper export", "gradio": "viper demo_page"}  # fmt: skip

SMALLEST_WEIGHTS = 1_000_000  # bytes: a cache that holds only a model's config has none


@dataclass(kw_only=True)
class DoctorOptions:
    """Say what is installed, and which encoders can run here; exit code 1 when a default one's packages are broken."""

    offline: bool = False
    """Count weights that are not on this machine as missing for good (as HF_HUB_OFFLINE=1 does)."""


def run(options: DoctorOptions) -> int:
    """Print the tables; return the exit code."""
    if options.offline:
        go_offline()
    say(f"viper {viper.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    versions = package_versions((*PACKAGES, *EXTRAS))
    for name in PACKAGES:
        say(f"  {name:<24}{versions.get(name, 'NOT INSTALLED')}")
    for name, use in EXTRAS.items():
        say(f"  {name:<24}{versions.get(name, 'not installed')} (only for {use})")
    say("", f"device: {_device()}")
    say(f"FFmpeg's shared libraries (py-feat needs them): {_ffmpeg() or 'found'}")
    say("", "encoders (* a command's default; yes: runs here; fetch: runs once its weights are fetched):")
    broken = False
    for entry in registered():
        lacks, is_broken = _lacks(entry)
        broken |= is_broken and entry.short.is_default
        star = "*" if entry.short.is_default else " "
        runs = "no" if is_broken else "fetch" if lacks else "yes"
        say(f" {star}{entry.modality:<9}{entry.name:<20}{runs:<6}{entry.short.summary}")
        for line in lacks:
            say(f"{'':<37}- {line}")
    return int(broken)


def _device() -> str:
    import torch

    from viper.engine.device import choose_device, has_bf16

    device = choose_device("auto")
    name = f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)
    if device.type == "cuda":
        name = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return f"{name}; --precision auto is {'bf16' if has_bf16(device) else 'float32'}"


def _ffmpeg() -> str:
    """Return what to do where torchcodec, through which py-feat reads media, lacks FFmpeg's libraries; else ''."""
    try:
        importlib.import_module("torchcodec")
    except (ImportError, RuntimeError, OSError):
        return "missing: install FFmpeg (on Debian and Ubuntu: apt-get install ffmpeg)"
    return ""


def _lacks(entry: Registered) -> tuple[list[str], bool]:
    """Return what an encoder lacks, a line each, and whether it cannot run (weights are still fetched when online)."""
    lines = []
    for package in entry.encoder.packages:
        problem = _ffmpeg() if package == "feat" else _import_problem(package)
        if package == "feat" and not problem and importlib.util.find_spec("feat") is None:
            problem = "feat: not installed"
        if problem:
            lines.append(problem + (f"; pip install 'viper[{entry.encoder.extra}]'" if entry.encoder.extra else ""))
    broken = bool(lines)
    for hub_id in entry.weights:
        if not _is_cached(hub_id):
            lines.append(f"weights not here: hf download {hub_id}" + ("" if is_offline() else " (or by the first use)"))
            broken |= is_offline()
    return lines, broken


def _import_problem(package: str) -> str:
    try:
        importlib.import_module(package)
    except Exception as error:  # whatever a package raises when it is imported
        return f"{package}: cannot be imported ({first_line(error)})"
    return ""


def _is_cached(hub_id: str) -> bool:
    """Return whether weights are in the hub's cache, or in the one py-feat keeps inside its own package."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.constants import HF_HUB_CACHE

    py_feat = importlib.util.find_spec("feat")
    caches = [Path(HF_HUB_CACHE), *([Path(py_feat.origin).parent / "resources"] if py_feat and py_feat.origin else [])]
    return any(
        repo.repo_id == hub_id and repo.size_on_disk > SMALLEST_WEIGHTS
        for cache in caches if cache.is_dir()
        for repo in scan_cache_dir(cache).repos
    )  # fmt: skip
