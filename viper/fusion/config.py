"""Sizes and settings of a fusion model, and the config.json that makes a checkpoint need nothing beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import nn
from transformers import PretrainedConfig

FUSIONS = ("tokens", "channels", "linear", "mlp", "gru")
KINDS = ("regression", "single_label", "multi_label", "preference")


@dataclass(frozen=True)
class Preset:
    """Sizes and regularisation of a model; every field is a key of `PerceiverFusionConfig` too."""

    n_latents: int
    d_latents: int  # channels of a latent
    n_layers: int  # self-attention blocks over the latents
    n_heads: int
    widening: int  # hidden channels of an MLP, as a multiple of its width
    dropout: float = 0.1  # of attention probabilities
    # Probability, in training, of hiding a whole modality of a clip, or a single token. A clip keeps at least one of
    # its modalities, and a modality at least one of its tokens.
    modality_dropout: float = 0.1
    token_dropout: float = 0.3
    # Of a feature channel, throughout a clip.
    feature_dropout: float = 0.0
    n_time_bands: int = 16  # frequencies of the time encoding (tokens fusion)


PRESETS: dict[str, Preset] = {
    "tiny": Preset(n_latents=16, d_latents=64, n_layers=2, n_heads=4, widening=2),
    "small": Preset(n_latents=32, d_latents=256, n_layers=6, n_heads=4, widening=2),
    "base": Preset(n_latents=64, d_latents=512, n_layers=6, n_heads=8, widening=4),
    # The published model, whose only regularisation in the network was attention dropout.
    "paper": Preset(
        n_latents=256,
        d_latents=1280,
        n_layers=26,
        n_heads=8,
        widening=1,
        modality_dropout=0.0,
        token_dropout=0.0,
    ),
}

# The largest that are built: more is a mistake, or somebody's attempt on the memory.
MOST = {"n_latents": 1 << 16, "d_latents": 1 << 16, "n_layers": 1000, "n_heads": 1024, "widening": 64,
        "n_time_bands": 4096, "n_tokens": 1 << 20}  # fmt: skip
MAX_WIDTH, MAX_MODALITIES, MAX_TARGETS = 1 << 20, 100, 10_000

_DEFAULT_LOSS = {
    "regression": {"mse": 1.0}, "single_label": {"ce": 1.0}, "multi_label": {"bce": 1.0},
    "preference": {"plackett_luce": 1.0},
}  # fmt: skip
_SIZES = frozenset(field.name for field in fields(Preset))
# What transformers itself writes into a config.json, or hands to a config while loading one.
_BOOKKEEPING = frozenset(PretrainedConfig().to_dict()) | {
    "_name_or_path",
    "attn_implementation",
    "experts_implementation",
    "name_or_path",
    "torch_dtype",
    "use_cache",
}


class PerceiverFusionConfig(PretrainedConfig):
    """Everything needed to build the model, and to know what it was made for.

    Parameters
    ----------
    fusion : {"tokens", "channels", "linear", "mlp", "gru"}
        The last three are the baselines of `viper.fusion.baselines`.
    preset : str, optional
        Name in `PRESETS` of the sizes used where none are given; "paper" for channels fusion and else "small" unless
        given.
    modalities : mapping of str to mapping
        Name -> ``{"width": channels of a token, "encoder": the feature store's encoder.json}``. The encoder is kept for
        whoever loads the checkpoint and not read here.
    task : mapping
        The task card: ``{"name", "kind", "targets": [names], "range": [low, high] or None, ...}``. Only kind, targets
        and range are read here; the rest is kept for whoever loads the checkpoint.
    modality_order : sequence of str, optional
        Order of the modalities along the channels in channels fusion: JSON does not keep the order of a dict. As in
        `modalities` unless given.
    n_tokens : int, optional
        Token count to which channels fusion brings every modality; None: that of the longest in the batch.
    loss : mapping of str to float, optional
        Term of `viper.fusion.losses` -> weight. Unless given, mse for a regression, ce for one class a clip, bce for
        labels, plackett_luce for preferences.
    label_smoothing : float
        For ce and bce, see `viper.fusion.losses.compute_loss`.
    pos_weight : list of float, optional
        A weight per target, which the term weighted_bce needs.
    linear_share : float
        Share of the answer that a linear model of pooled features gives, in [0, 1); 0: there is none. It is fitted by a
        solver before the rest is trained (`viper.training.linear`): with few clips it errs little and elsewhere.
    group_column : str, optional
        The manifest's column within whose groups features are standardised before they come here. Kept for whoever
        loads the checkpoint.
    evaluation : mapping, optional
        What these weights were scored with: ``{"split", "epoch", **Scores.to_dict()}``. For the model card.
    training_data : mapping, optional
        Clips of each split of the manifest: ``{"splits": {split: {"clips", "labelled", ...}}, "group_column"}``, see
        `viper.training.data.TrainingData.counts`. For the model card.
    **kwargs
        The fields of `Preset`, each overriding the preset's; and what transformers keeps in a config.json.

    Raises
    ------
    ValueError
        For an unknown key (named) or an impossible value. Loading a config.json does the same checks.
    """

    model_type = "viper_perceiver"

    def __init__(
        self,
        fusion: str = "tokens",
        preset: str | None = None,
        modalities: Mapping[str, Mapping[str, Any]] | None = None,
        task: Mapping[str, Any] | None = None,
        modality_order: list[str] | None = None,
        n_tokens: int | None = None,
        loss: Mapping[str, float] | None = None,
        label_smoothing: float = 0.0,
        pos_weight: list[float] | None = None,
        linear_share: float = 0.0,
        group_column: str | None = None,
        evaluation: Mapping[str, Any] | None = None,
        training_data: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        _refuse_unknown("the config", kwargs, _SIZES | _BOOKKEEPING)
        _check_kinds(
            modalities=(modalities, Mapping), task=(task, Mapping), modality_order=(modality_order, list | tuple),
            loss=(loss, Mapping), pos_weight=(pos_weight, list | tuple), group_column=(group_column, str),
            evaluation=(evaluation, Mapping), training_data=(training_data, Mapping),
        )  # fmt: skip
        if fusion not in FUSIONS:
            raise ValueError(f"fusion is one of {', '.join(FUSIONS)}, not {fusion!r}")
        preset = preset or ("paper" if fusion == "channels" else "small")
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}: there are {', '.join(PRESETS)}")
        given = {name: kwargs.pop(name) for name in _SIZES & kwargs.keys()}
        self.fusion = fusion
        self.preset = preset
        self.modalities = {name: dict(spec) for name, spec in (modalities or {}).items()}
        self.modality_order = list(modality_order or self.modalities)
        self.task = dict(task or {"targets": []})
        self.n_tokens = n_tokens
        self.loss = dict(loss or _DEFAULT_LOSS.get(self.kind, {}))
        self.label_smoothing = label_smoothing
        self.pos_weight = pos_weight
        self.linear_share = linear_share
        self.group_column = group_column
        self.evaluation = dict(evaluation) if evaluation else None
        self.training_data = dict(training_data) if training_data else None
        sizes = replace(PRESETS[preset], **{name: value for name, value in given.items() if value is not None})
        for name, value in asdict(sizes).items():
            setattr(self, name, value)
        _check_modalities(self.modalities, self.modality_order)
        _check_task(self.task)
        _check_sizes(sizes, n_tokens)
        _check_share("label_smoothing", label_smoothing)
        _check_share("linear_share", linear_share)
        if "weighted_bce" in self.loss and len(pos_weight or []) != len(self.task["targets"]):
            raise ValueError("the loss weighted_bce needs pos_weight, a number per target")
        for name, value in {
            **self.loss,
            **{f"pos_weight {i}": each for i, each in enumerate(pos_weight or [])},
        }.items():
            if not _is_number(value) or not value >= 0:
                raise ValueError(f"{name} must have a weight of at least 0, not {value!r}")
        # The names that hub pages and pipelines show for the outputs.
        kwargs["id2label"] = dict(enumerate(self.task["targets"]))
        kwargs["label2id"] = {target: index for index, target in enumerate(self.task["targets"])}
        super().__init__(**kwargs)

    @property
    def kind(self) -> str:
        """The task's kind."""
        return str(self.task.get("kind", "regression"))

    def perceiver_sizes(self) -> dict[str, Any]:
        """Arguments of `LatentPerceiver` that do not depend on the fusion."""
        names = ("n_latents", "d_latents", "n_layers", "n_heads", "widening", "dropout")
        return {name: getattr(self, name) for name in names}


def _refuse_unknown(where: str, given: Mapping[str, Any], known: frozenset[str] | set[str]) -> None:
    if unknown := sorted(given.keys() - known):
        raise ValueError(f"unknown key in {where}: {', '.join(unknown)}")


def _check_kinds(**given: tuple[Any, Any]) -> None:
    for name, (value, kind) in given.items():
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{name} must not be {str(value)[:50]!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_share(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 <= value < 1:
        raise ValueError(f"{name} is a share below 1, not {value!r}")


def _check_modalities(modalities: Mapping[str, Mapping[str, Any]], order: list[str]) -> None:
    if len(modalities) > MAX_MODALITIES:
        raise ValueError(f"{len(modalities)} modalities are too many, at most {MAX_MODALITIES} fit")
    for name, spec in modalities.items():
        # Names become part of parameter names.
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or hasattr(nn.ModuleDict(), name):
            raise ValueError(f"modality name {name!r}: use letters, digits, '_' and '-', and no attribute of a module")
        _refuse_unknown(f"modality {name!r}", spec, {"width", "encoder"})
        if type(spec.get("width")) is not int or not 1 <= spec["width"] <= MAX_WIDTH:
            raise ValueError(
                f"modality {name!r} needs a width of at least 1 and at most {MAX_WIDTH}, not {spec.get('width')!r}"
            )
        if not isinstance(spec.get("encoder"), Mapping | None):
            raise ValueError(f"modality {name!r} needs the record of its encoder, not {str(spec['encoder'])[:50]!r}")
    if not all(isinstance(name, str) for name in order) or sorted(order) != sorted(modalities):
        raise ValueError(f"modality_order {order} does not list the modalities {sorted(modalities)} once each")


def _check_task(task: Mapping[str, Any]) -> None:
    targets: Any = task.get("targets")
    are_names = isinstance(targets, list | tuple) and all(isinstance(target, str) for target in targets)
    if not are_names or len(set(targets)) != len(targets):
        raise ValueError(f"the task's targets are a list of different names, not {targets!r}")
    if len(targets) > MAX_TARGETS:
        raise ValueError(f"{len(targets)} targets are too many, at most {MAX_TARGETS} fit")
    if task.get("kind", "regression") not in KINDS:
        raise ValueError(f"the task's kind is one of {', '.join(KINDS)}, not {task['kind']!r}")
    if task.get("range") is not None:
        ends = task["range"]
        are_ends = isinstance(ends, list | tuple) and len(ends) == 2 and all(_is_number(end) for end in ends)
        if not are_ends or not ends[0] < ends[1]:
            raise ValueError(f"the task's range is two numbers, low < high, not {task['range']}")


def _check_sizes(sizes: Preset, n_tokens: int | None) -> None:
    for name, value in {**asdict(sizes), "n_tokens": 1 if n_tokens is None else n_tokens}.items():
        if name.endswith("dropout"):
            if not _is_number(value) or not 0 <= value < 1:
                raise ValueError(f"{name} is a probability below 1, not {value!r}")
        elif type(value) is not int:
            raise ValueError(f"{name} must be a whole number, not {str(value)[:50]!r}")
        elif value < (0 if name == "n_layers" else 1):
            raise ValueError(f"{name} is too small: {value}")
        elif value > MOST[name]:
            raise ValueError(f"{name} is too large: {value}, at most {MOST[name]}")
    if sizes.d_latents % sizes.n_heads:
        raise ValueError(f"d_latents ({sizes.d_latents}) must be a multiple of n_heads ({sizes.n_heads})")
