"""Small stores with a planted answer, for any kind of task."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from viper.fusion.perceiver import PerceiverFusion, PerceiverFusionConfig
from viper.inference.stored import predict
from viper.manifest import Manifest, preferences_path
from viper.store import EncoderInfo, Feature, FeatureStore
from viper.task import Task, load_task
from viper.training.data import FusionData

TARGETS = ["joy", "awe", "fear"]
WIDTHS = {"visual": 5, "audio": 4, "textual": 3}
SIZES = {"Train": 60, "Val": 24, "Test": 16}


@dataclass(frozen=True)
class Planted:
    """Where the files are."""

    root: Path

    @property
    def card(self) -> Path:
        """The task card."""
        return self.root / "task.yaml"

    @property
    def manifest(self) -> Path:
        """The manifest."""
        return self.root / "manifest.csv"

    @property
    def task(self) -> Task:
        """The task."""
        return load_task(str(self.card))

    def inputs(self, *names: str) -> list[str]:
        """The options that name the features, of all modalities unless some are named."""
        return [part for name in names or WIDTHS for part in (f"--{name}_features_input_folder", str(self.root / name))]

    def training(self, run: Path, *options: str) -> list[str]:
        """The arguments of a training on the processor, on all modalities."""
        return ["--csv_path", str(self.manifest), "--task", str(self.card), *self.inputs(), "--device", "cpu",
                "--output_checkpoint_folder", str(run), *options]  # fmt: skip

    def stores(self, *names: str) -> dict[str, FeatureStore]:
        """The opened stores."""
        return {name: FeatureStore.open(self.root / name) for name in names or WIDTHS}

    def data(self, split: str, *names: str) -> FusionData:
        """A split's examples."""
        data = FusionData(self.stores(*names), Manifest.load(self.manifest, self.task).split(split))
        data.labels = data.labels.copy()  # for tests to write into
        return data

    def model(self, fusion: str, **sizes: Any) -> PerceiverFusion:
        """A new model for all modalities, standardised by the training split."""
        torch.manual_seed(0)
        modalities = {
            name: {"width": store.width, "encoder": vars(store.info)} for name, store in self.stores().items()
        }
        config = PerceiverFusionConfig(
            fusion=fusion, preset="tiny", modalities=modalities, task=self.task.to_dict(), **sizes
        )
        model = PerceiverFusion(config)
        model.set_normalization(self.data("Train").statistics())
        return model.eval()


def plant(root: Path, kind: str = "regression", seed: int = 0, lacking: dict[str, list[int]] | None = None) -> Planted:
    """Writes a card, a manifest whose splits are all labelled (or put in order), and stores.

    Target k follows channel 0 of modality k, with little noise, and nothing else. Clip i is called str(500 - i): in
    reverse, so that joining by row order would be seen. Token counts differ and some tokens are masked.

    Parameters
    ----------
    lacking : modality -> clips (by number) that have no features of it.
    """
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    card: dict[str, Any] = {"name": "planted", "kind": kind, "targets": TARGETS}
    card |= {
        "regression": {"range": [0, 1]}, "single_label": {"label_column": "feeling"}, "multi_label": {},
        "preference": {"targets": ["utility"]},
    }[kind]  # fmt: skip
    (root / "task.yaml").write_text(yaml.safe_dump(card))
    hidden = rng.uniform(0, 1, (sum(SIZES.values()), len(TARGETS)))
    planted = Planted(root)
    stores = {
        name: FeatureStore.create(root / name, EncoderInfo("planted", name, width, source="faces"))
        for name, width in WIDTHS.items()
    }
    splits = [split for split, n in SIZES.items() for _ in range(n)]
    with planted.manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["File_ID", "Split", *planted.task.label_columns])
        for i, (split, row) in enumerate(zip(splits, hidden, strict=True)):
            writer.writerow([f"[{500 - i}]", split, *_label_cells(kind, row)])
            for k, (name, store) in enumerate(stores.items()):
                n_tokens = int(rng.integers(2, 7))
                tokens = rng.normal(0, 0.1, (n_tokens, WIDTHS[name]))
                tokens[:, 0] += 3 * row[k]
                mask = rng.uniform(size=n_tokens) > 0.2
                mask[0] = True
                if i not in (lacking or {}).get(name, []):
                    store.write(str(500 - i), Feature.make(tokens, mask, np.arange(n_tokens) / 4), source="planted")
    if kind == "preference":
        _plant_orders(preferences_path(planted.manifest), hidden.sum(axis=1), rng)
    return planted


def _plant_orders(path: Path, utilities: np.ndarray, rng: np.random.Generator) -> None:
    """Pairs, and lists of three and four, within each split."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([f"rank_{k}" for k in range(1, 5)])
        first = 0
        for n in SIZES.values():
            for length in [2] * 3 * n + [3, 4] * (n // 4):
                clips = first + rng.permutation(n)[:length]
                row = [f"[{500 - i}]" for i in clips[np.argsort(utilities[clips])]]
                writer.writerow(row + [""] * (4 - length))
            first += n


def _label_cells(kind: str, row: np.ndarray) -> list[Any]:
    if kind == "preference":
        return []
    if kind == "single_label":
        return [TARGETS[int(row.argmax())]]
    return list((row > 0.5).astype(int)) if kind == "multi_label" else list(row.round(6))


def predict_all(model: PerceiverFusion, data: FusionData) -> np.ndarray:
    """The predictions that linear models are fitted by."""
    return predict(model, data, 64, torch.device("cpu"))
