"""doctor: what is installed, what device there is, and which encoders can run here."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

from packaging.requirements import Requirement

import viper
from viper.commands.licences import closure, licence, required
from viper.encoders.registry import Registered, registered
from viper.errors import UserError, first_line
from viper.logs import package_versions, say
from viper.offline import go_offline, is_offline

PACKAGES = (
    "torch", "torchvision", "librosa", "transformers", "accelerate", "safetensors", "huggingface-hub",
    "facenet-pytorch", "open-clip-torch", "av", "opencv-python-headless", "scikit-image", "scikit-learn", "pandas",
    "numpy",
)  # fmt: skip

# Package -> what needs it, and the extra of viper that installs it.
EXTRAS = {
    "py-feat": ("--model_name multitask", "fau"), "torchcodec": ("py-feat", "fau"), "ray": ("--engine ray", "ray"),
    "optuna": ("viper tune", "tune"), "opensmile": ("--model_name egemaps", "opensmile"),
    "pyarrow": ("viper export", "parquet"), "gradio": ("viper demo_page", "page"),
}  # fmt: skip

SMALLEST_WEIGHTS = 1_000_000  # bytes: a cache that holds only a model's config has none


@dataclass(kw_only=True)
class DoctorOptions:
    """Say what is installed, and which encoders can run here; exit code 1 when a default one is broken.

    An encoder whose extra is not installed does not count as broken.
    """

    offline: bool = False
    """Count weights that are not on this machine as missing for good (as HF_HUB_OFFLINE=1 does)."""
    licences: bool = False
    """List every package that viper requires, directly or through others, with its licence, and nothing else."""


def run(options: DoctorOptions) -> int:
    """Print the tables; return the exit code."""
    if options.licences:
        _print_licences()
        return 0
    if options.offline:
        go_offline()
    say(f"viper {viper.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    versions = package_versions((*PACKAGES, *EXTRAS))
    for name in PACKAGES:
        say(f"  {name:<24}{versions.get(name, 'NOT INSTALLED')}")
    for name, (use, extra) in EXTRAS.items():
        say(f"  {name:<24}{versions.get(name) or 'not installed'} (only for {use}: pip install 'viper[{extra}]')")
    say("", f"device: {_device()}")
    if "torchcodec" in versions:
        say(f"FFmpeg's shared libraries (py-feat needs them): {_ffmpeg() or 'found'}")
    say("", "encoders (* a command's default; yes: runs here; fetch: runs once its weights are fetched):")
    broken = False
    for entry in registered():
        lacks, runs, is_broken = _lacks(entry)
        broken |= is_broken and entry.short.is_default
        star = "*" if entry.short.is_default else " "
        say(f" {star}{entry.modality:<9}{entry.name:<20}{runs:<6}{entry.short.summary}")
        for line in lacks:
            say(f"{'':<37}- {line}")
    return int(broken)


def _print_licences() -> None:
    """Print the packages that viper cannot do without, then those that only an extra which is installed needs."""
    try:
        base = closure(required("viper"))
    except PackageNotFoundError:
        raise UserError("--licences: viper itself is not installed here: pip install -e .") from None
    say("required:")
    _print_packages(base)
    for extra in sorted({extra for _, extra in EXTRAS.values()}):
        more = {name: package for name, package in closure(required("viper", extra)).items() if name not in base}
        if None not in more.values():
            say("", f"only for viper[{extra}]:")
            _print_packages(more)


def _print_packages(packages: Mapping[str, Distribution | None]) -> None:
    for name, package in packages.items():
        say(f"  {name:<28}{package.version:<20}{licence(package)}" if package else f"  {name:<28}NOT INSTALLED")


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
        return "FFmpeg is missing: install it (on Debian and Ubuntu: apt-get install ffmpeg)"
    return ""


def _lacks(entry: Registered) -> tuple[list[str], str, bool]:
    """Return what an encoder lacks, a line each; whether it runs here ("yes", "no", "fetch"); and whether it is broken.

    One whose extra was left out cannot run, but is not broken.
    """
    packages, extra = entry.encoder.packages, entry.encoder.extra
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    advice = f": pip install 'viper[{extra}]'" if extra else ""
    lines = [f"{package}: not installed{advice}" for package in absent]
    faulty = [problem for package in packages if package not in absent and (problem := _import_problem(package))]
    lines += faulty
    runs = "no" if lines else "yes"
    is_broken = bool(faulty or (absent and not extra))
    for hub_id in entry.weights:
        if not _is_cached(hub_id):
            lines.append(f"weights not here: hf download {hub_id}" + ("" if is_offline() else " (or by the first use)"))
            is_broken |= is_offline() and not absent
            runs = "no" if is_offline() or runs == "no" else "fetch"
    return lines, runs, is_broken


def _import_problem(package: str) -> str:
    """Return why an installed package cannot be imported; '' if it can."""
    if package == "feat":  # importing it takes seconds
        lost = [name for name, found in closure([Requirement("py-feat")]).items() if found is None]
        return f"feat: lacks {', '.join(lost)}: pip install 'viper[fau]'" if lost else _ffmpeg()
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
