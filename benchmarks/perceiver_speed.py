"""Training speed and memory of our models, against transformers' Perceiver of the same size and against each other.

    python benchmarks/perceiver_speed.py --against transformers --batch_size 2
    python benchmarks/perceiver_speed.py --against small --batch_size 16 --accumulate 8
    python benchmarks/perceiver_speed.py --against transformers --batch_size 64 --device cuda

--against transformers: `--preset` in `channels` fusion, and PerceiverModel with a PerceiverClassificationDecoder of the
same sizes and number of weights; in float32, in bf16 autocast where the processor has bf16 arithmetic (--bf16 True asks
for it anywhere), and on a GPU ours compiled too. --against small: `small` in `tokens` fusion, `--preset` in `channels`.

A step is forward, backward and AdamW (torch's fused one, for everybody) on random features of the published widths.
Every measurement is a process of its own, so that its peak memory is its own, and contenders take turns; medians are
printed. The first two steps (compilation, allocation of the optimiser's state) are not timed.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    import torch

WIDTHS = {"visual": 768, "audio": 512, "textual": 768, "FAU": 27}
N_TARGETS = 7
UNTIMED_STEPS = 2
PARTS = ("forward", "backward", "AdamW")


@dataclass
class Config:
    """Options."""

    against: Literal["transformers", "small"] = "transformers"
    """Which comparison."""
    preset: Literal["tiny", "small", "base", "paper"] = "paper"
    """Size in channels fusion."""
    batch_size: int = 2
    """Clips a step."""
    accumulate: int = 1
    """Parts in which a batch goes through channels and transformers, where memory does not hold it whole: `paper` keeps
    about 1 GB a clip for the backward pass. The gradient, and AdamW once a step, are those of the whole batch."""
    n_tokens: int = 32
    """Tokens of every modality."""
    steps: int = 2
    """Timed steps of a measurement, at least."""
    seconds: float = 5.0
    """Timed seconds of a measurement, at least."""
    repeats: int = 3
    """Measurements of each contender."""
    threads: int | None = None
    """CPU threads. By default as many as torch takes."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""
    bf16: bool | None = None
    """Measure bf16 autocast too. By default on a GPU and on a CPU that has bf16 arithmetic."""
    contender: str | None = None
    """Used by the script itself: measures one contender in this process and prints JSON."""


def contenders(config: Config, bf16: bool) -> list[str]:
    """What is compared: `<model> <precision>[ compiled]`; the last is what the others are compared with.

    `tokens` is of preset small, `channels` and `transformers` are of --preset.
    """
    if config.against == "small":
        return ["tokens float32", "channels float32"]
    ours = ["channels float32", *(["channels bf16"] if bf16 else [])]
    if config.device == "cuda":
        ours += ["channels float32 compiled", "channels bf16 compiled"]
    return [*ours, *(["transformers bf16"] if bf16 else []), "transformers float32"]


def has_bf16(device: str) -> bool:
    """Whether bf16 is computed, not merely stored."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def build_ours(fusion: str, preset: str, config: Config) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """A PerceiverFusion, and what computes its loss for one batch of random features."""
    import torch

    from viper.fusion.perceiver import PerceiverFusion, PerceiverFusionConfig

    modalities = {name: {"width": width} for name, width in WIDTHS.items()}
    task = {"targets": [f"target_{k}" for k in range(N_TARGETS)], "range": [0.0, 1.0]}
    settings = PerceiverFusionConfig(fusion=fusion, preset=preset, modalities=modalities, task=task)
    model: torch.nn.Module = PerceiverFusion(settings).to(config.device).train()
    shape = (config.batch_size, config.n_tokens)
    batch = {
        "tokens": {name: torch.randn(*shape, width, device=config.device) for name, width in WIDTHS.items()},
        "mask": {name: torch.ones(shape, dtype=torch.bool, device=config.device) for name in WIDTHS},
        "time": {name: torch.arange(shape[1], device=config.device).expand(shape).float() for name in WIDTHS},
    }
    labels = torch.rand(config.batch_size, N_TARGETS, device=config.device)
    run = model
    if (config.contender or "").endswith("compiled"):
        run = torch.compile(model)
    return model, lambda: run(**batch, labels=labels).loss


def build_transformers(config: Config) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """The same for transformers' model of the same sizes."""
    import torch
    from transformers import PerceiverConfig, PerceiverModel
    from transformers.models.perceiver.modeling_perceiver import PerceiverClassificationDecoder

    from viper.fusion.perceiver import PRESETS

    sizes = PRESETS[config.preset]
    width = sum(WIDTHS.values())
    width += -width % sizes.n_heads
    settings = PerceiverConfig(
        num_latents=sizes.n_latents,
        d_latents=sizes.d_latents,
        d_model=width,
        num_blocks=1,
        num_self_attends_per_block=sizes.n_layers,
        num_self_attention_heads=sizes.n_heads,
        num_cross_attention_heads=sizes.n_heads,
        self_attention_widening_factor=sizes.widening,
        cross_attention_widening_factor=sizes.widening,
        attention_probs_dropout_prob=sizes.dropout,
        num_labels=N_TARGETS,
    )
    decoder = PerceiverClassificationDecoder(
        settings,
        num_channels=sizes.d_latents,
        trainable_position_encoding_kwargs={"num_channels": sizes.d_latents, "index_dims": 1},
        use_query_residual=True,
        widening_factor=sizes.widening,
    )
    model = PerceiverModel(settings, decoder=decoder).to(config.device).train()
    inputs = torch.randn(config.batch_size, config.n_tokens, width, device=config.device)
    mask = torch.ones(inputs.shape[:2], device=config.device)
    labels = torch.rand(config.batch_size, N_TARGETS, device=config.device)
    return model, lambda: torch.nn.functional.mse_loss(model(inputs=inputs, attention_mask=mask).logits.float(), labels)


def measure(config: Config) -> dict[str, float]:
    """Trains the contender in this process."""
    import torch

    assert config.contender
    torch.manual_seed(0)
    if config.threads:
        torch.set_num_threads(config.threads)
    name, precision = config.contender.split()[:2]
    n_parts = 1 if name == "tokens" else config.accumulate
    config = replace(config, batch_size=config.batch_size // n_parts)
    if name == "transformers":
        model, loss_of = build_transformers(config)
    else:
        model, loss_of = build_ours(name, "small" if name == "tokens" else config.preset, config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    autocast = torch.autocast(config.device, torch.bfloat16, enabled=precision == "bf16")

    def now() -> float:
        if config.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step() -> list[float]:
        forward = backward = 0.0
        for _ in range(n_parts):
            start = now()
            with autocast:
                loss = loss_of() / n_parts
            middle = now()
            loss.backward()
            forward, backward = forward + middle - start, backward + now() - middle
        start = now()
        optimizer.step()
        optimizer.zero_grad()
        return [forward, backward, now() - start]

    for _ in range(UNTIMED_STEPS):
        step()
    found = []
    while len(found) < config.steps or sum(map(sum, found)) < config.seconds:
        found.append(step())
    parts = dict(zip(PARTS, map(statistics.median, zip(*found, strict=True)), strict=True))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    seconds = statistics.median(map(sum, found))
    return {"seconds": seconds, **parts, "peak": peak_bytes(config.device), "parameters": parameters}


def peak_bytes(device: str) -> float:
    """The most memory this process held: on the GPU what torch allocated there, else what was resident."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1000


def measure_apart(config: Config, contender: str) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--contender", contender]
    for name in ("preset", "batch_size", "accumulate", "n_tokens", "steps", "seconds", "threads", "device"):
        if getattr(config, name) is not None:
            command += [f"--{name}", str(getattr(config, name))]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()[-1])


def describe(config: Config, bf16: bool) -> str:
    """The machine and the sizes, in a line."""
    import torch

    where = f"{config.threads or torch.get_num_threads()} threads of {torch.cpu.get_capabilities()['cpu_name']}"
    if config.device == "cuda":
        where = torch.cuda.get_device_name()
    return (
        f"{where} ({'with' if has_bf16(config.device) else 'without'} bf16 arithmetic), torch {torch.__version__};"
        f" channels of preset {config.preset}{', tokens of small' if config.against == 'small' else ''};"
        f" batch {config.batch_size}{f' in {config.accumulate} parts' if config.accumulate > 1 else ''},"
        f" {config.n_tokens} tokens;"
        f" median of {config.repeats} processes{'' if bf16 else ', bf16 not measured'}"
    )


def main() -> None:
    """Prints a row per contender."""
    config = tyro.cli(Config, use_underscores=True)
    if config.contender:
        print(json.dumps(measure(config)))
        return
    if config.batch_size % config.accumulate:
        raise SystemExit(f"--batch_size {config.batch_size} cannot be split into {config.accumulate} equal parts")
    bf16 = has_bf16(config.device) if config.bf16 is None else config.bf16
    names = contenders(config, bf16)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(config.repeats):
        for name in names:
            runs[name].append(measure_apart(config, name))
    print(describe(config, bf16), end="\n\n")
    print(f"| | M weights | steps/s | s a step ({' + '.join(PARTS)}) | peak memory, GB | speed / {names[-1]} |")
    print("|---|---|---|---|---|---|")
    medians = {
        name: {key: statistics.median(run[key] for run in runs[name]) for key in runs[name][0]} for name in names
    }
    for name, row in medians.items():
        parts = " + ".join(f"{row[part]:.3g}" for part in PARTS)
        ratio = medians[names[-1]]["seconds"] / row["seconds"]
        print(f"| {name} | {row['parameters'] / 1e6:.1f} | {1 / row['seconds']:.3g} | {row['seconds']:.3g} ({parts})"
              f" | {row['peak'] / 1e9:.2f} | {ratio:.3g} |")  # fmt: skip


if __name__ == "__main__":
    main()
