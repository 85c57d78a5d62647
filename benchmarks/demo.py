"""The demo's data: the Perceiver against the baselines, on all modalities and on each alone, over several seeds.

    viper demo --output_folder demo
    python benchmarks/demo.py --demo demo --output_folder compared

Every table is one `viper compare`. The best epoch is chosen on the validation split; the test labels, which the demo
keeps aside, are looked at after that. "one missing" hides one modality of 30 % of the clips, the same for every model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from viper.cli import run_command
from viper.files import read_json
from viper.store import MODALITIES

# The demo's own training.
TRAINING = ["--preset", "tiny", "--n_epochs", "60", "--device", "cpu"]
MODELS = ["tokens", "linear", "mlp", "gru", "perceiver-channels"]


@dataclass
class Config:
    """Options."""

    demo: Path = Path("demo")
    """Folder of a finished demo."""
    output_folder: Path = Path("compared")
    """Where the runs go. Called again, finished ones are not trained again."""
    n_seeds: int = 5
    """Seeds 0, 1, ..."""
    missing: float = 0.3
    """Share of clips that lack one modality in the second scoring of the models that read all of them."""


def compare(config: Config, modalities: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Model -> view -> mean and std of its Pearson."""
    is_single = len(modalities) == 1
    folder = config.output_folder / (modalities[0] if is_single else "all")
    # Of one modality there is nothing to lay side by side along the channels.
    models = MODELS[:-1] if is_single else MODELS
    features = [
        part
        for name in modalities
        for part in (f"--{name}_features_input_folder", str(config.demo / "features_weight_free" / name))
    ]
    arguments = [
        "--csv_path", str(config.demo / "manifest.csv"), "--test_csv_path", str(config.demo / "test_labels.csv"),
        "--output_path", str(folder), *features, *TRAINING, "--n_seeds", str(config.n_seeds),
        "--missing", str(0.0 if is_single else config.missing), "--models", *models,
    ]  # fmt: skip
    assert run_command("compare", arguments) == 0
    found = read_json(folder / "compare.json")["models"]
    return {
        name: {view: scores["pearson"] for view, scores in model["scores"].items()} for name, model in found.items()
    }


def main() -> None:
    """Prints the table."""
    config = tyro.cli(Config, use_underscores=True)
    rows = {}
    for modalities in [list(MODALITIES), *([name] for name in MODALITIES)]:
        found = compare(config, modalities)
        for view in next(iter(found.values())):
            label = f"{'all' if len(modalities) > 1 else modalities[0]}: {view}"
            rows[label] = [_cell(found[model][view]) if model in found else "" for model in MODELS]
    print("| Pearson | " + " | ".join(MODELS) + " |\n|" + "---|" * (len(MODELS) + 1))
    for label, cells in rows.items():
        print(f"| {label} | " + " | ".join(cells) + " |")


def _cell(score: dict[str, float]) -> str:
    return f"{score['mean']:.3f}" + ("" if score["std"] is None else f" ± {score['std']:.3f}")


if __name__ == "__main__":
    main()
