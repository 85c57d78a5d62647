"""A Perceiver that fuses any subset of modalities: tokens + mask + time in, one number per target out.

``fusion="tokens"`` (default): each modality's tokens are brought to the latent width by an adapter, told apart by a
modality embedding and placed in time by an encoding of their seconds, then concatenated along the SEQUENCE. Latents
read them, output queries (one per target) read the latents. Since attention is over a set with a key mask, token counts
may differ, modalities may be missing, and padding, the order of modalities and the rest of the batch change nothing.

With a `linear_share`, a linear model of pooled features, fitted by a solver, gives that share of the answer.

``fusion="channels"``: the published layout, see `viper.fusion.published_perceiver`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from huggingface_hub import CommitOperationAdd, HfApi
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from viper.errors import UserError, one_line
from viper.files import read_json, write_text
from viper.fusion.baselines import BODIES as BASELINES
from viper.fusion.baselines import PooledLinear
from viper.fusion.config import PRESETS, PerceiverFusionConfig, Preset
from viper.fusion.layers import (
    Adapter,
    LatentPerceiver,
    Standardize,
    TimeEncoding,
    drop_channels,
    random_keep,
)
from viper.fusion.losses import compute_loss, compute_preference_loss
from viper.fusion.model_card import CARD_FILE, model_card
from viper.fusion.published_perceiver import ChannelsPerceiver, load_transformers_perceiver
from viper.offline import fetch
from viper.weights import SAFETENSORS, bounded_by, check_finite, load_state_dict, not_numbers

__all__ = [
    "BODIES",
    "PRESETS",
    "FusionOutput",
    "PerceiverFusion",
    "PerceiverFusionConfig",
    "Preset",
    "load_transformers_perceiver",
]


@dataclass
class FusionOutput(ModelOutput):
    """What the model answers.

    Attributes
    ----------
    loss : scalar tensor or None
        The config's loss over the labels that are not NaN; None without labels.
    logits : tensor (B, n_targets)
        Predictions: numbers of a regression, within the task's range but for channels and linear fusion; probabilities
        of a classification; a preference task's utilities. Named as transformers' Trainer expects.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None


class TokensPerceiver(nn.Module):
    """Fuse along the sequence; see the module's docstring."""

    def __init__(self, config: PerceiverFusionConfig) -> None:
        super().__init__()
        d, n_targets = config.d_latents, len(config.task["targets"])
        self.adapters = nn.ModuleDict({name: Adapter(spec["width"], d) for name, spec in config.modalities.items()})
        self.time = TimeEncoding(config.n_time_bands, d)
        # A key that is always there: a clip with nothing present still has something to attend to.
        self.null = nn.Parameter(torch.empty(d))
        self.perceiver = LatentPerceiver(
            d_input=d, d_attention=d, n_queries=n_targets, query_heads=config.n_heads, **config.perceiver_sizes()
        )
        self.head = nn.Linear(d, n_targets)

    def forward(self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]) -> Tensor:
        """Map standardised tokens, zero where masked, to unbounded predictions (B, n_targets)."""
        n_clips = len(next(iter(tokens.values())))
        sequence = [self.null.expand(n_clips, 1, -1)]
        keys = [torch.ones(n_clips, 1, dtype=torch.bool, device=self.null.device)]
        for name, x in tokens.items():
            seconds = torch.where(mask[name], time[name], 0.0)  # padding may hold anything, NaN included
            sequence.append(self.adapters[name](x) + self.time(seconds))
            keys.append(mask[name])
        answers = self.perceiver(torch.cat(sequence, dim=1), torch.cat(keys, dim=1))
        # Each target has its own query and its own row of the head.
        return (answers * self.head.weight).sum(dim=-1) + self.head.bias


BODIES: dict[str, type[nn.Module]] = {"tokens": TokensPerceiver, "channels": ChannelsPerceiver, **BASELINES}
# Whose regressions are not squashed into the task's range: the published layout, and what is fitted in closed form.
BEST = "best"  # in a run's folder: the checkpoint of its best epoch
UNBOUNDED = ("channels", "linear")


class PerceiverFusion(PreTrainedModel):
    """Predictions of a task's targets from any subset of the configured modalities.

    One checkpoint serves clips with a missing or partly missing modality, token counts that differ, and subsets chosen
    at inference. A clip with nothing present gets a defined answer, that of the learned queries alone.
    """

    config_class = PerceiverFusionConfig

    def __init__(self, config: PerceiverFusionConfig) -> None:
        super().__init__(config)
        if not config.modalities or not config.task["targets"]:
            raise ValueError("a model needs at least one modality and one target")
        self.standardize = nn.ModuleDict({name: Standardize(spec["width"]) for name, spec in config.modalities.items()})
        self.body = BODIES[config.fusion](config)
        # Fitted by a solver, so no gradient reaches it: see `viper.training.linear.fit_linear_member`.
        self.linear = PooledLinear(config).requires_grad_(False) if config.linear_share else None
        self.post_init()

    @classmethod
    def from_pretrained(  # type: ignore[override]  # transformers names each of its options
        cls, name: str | os.PathLike[str], *args: Any, **options: Any
    ) -> PerceiverFusion:
        """Return the model of a hub id, of a checkpoint's folder, or of a run's (then its best).

        Its config.json and model.safetensors are read and nothing else; no code, whatever they say. `options` are those
        of transformers' from_pretrained, such as revision, token and local_files_only for a hub id, or dtype.

        Raises
        ------
        UserError : the name is not one of these, or cannot be loaded: weights are missing, left over, of another shape
            or not finite, or the sizes of the config are not those of the weights.
        """
        try:
            folder = _folder_of(name, {key: options.pop(key) for key in _HUB_OPTIONS & options.keys()})
            config = options.pop("config", None) or cls.config_class(**_settings_of(folder / "config.json"))
            state = load_state_dict(folder / SAFETENSORS)
            with bounded_by(state, exactly=True):
                loaded: Any = super().from_pretrained(
                    None, *args, config=config, state_dict=state, output_loading_info=True,
                    ignore_mismatched_sizes=True, **options,
                )  # fmt: skip
            model: PerceiverFusion = loaded[0]
            _check_loaded(model, state, loaded[1], folder)
        except UserError:
            raise
        except Exception as error:  # a config may say anything, and transformers passes on what its readers raise
            raise UserError(f"{os.fspath(name)}: cannot be loaded as a checkpoint ({one_line(str(error))})") from error
        return model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Channels: 0.02 everywhere, as transformers' Perceiver. Tokens: activations of about 1 at every width.

        With 0.02 a narrow model starts with nearly the same activations for every clip, and small data takes many
        epochs to leave that plateau.
        """
        published = self.config.fusion == "channels"
        if isinstance(module, nn.Linear):
            is_head = module is self.body.head  # small, so that training starts from mid-range predictions
            nn.init.trunc_normal_(module.weight, std=0.02 if published or is_head else module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GRU):
            module.reset_parameters()
        elif isinstance(module, Standardize):
            nn.init.zeros_(module.mean)
            nn.init.ones_(module.std)
        else:  # latents, queries, embeddings
            std = 1.0 if isinstance(module, LatentPerceiver) and not published else 0.02
            for parameter in module.parameters(recurse=False):
                nn.init.trunc_normal_(parameter, std=std)

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, is_main_process: bool = True, **kwargs: Any
    ) -> None:
        """As transformers' (config.json, model.safetensors), with the model card beside them."""
        super().save_pretrained(save_directory, is_main_process, **kwargs)
        if is_main_process:
            write_text(Path(save_directory) / CARD_FILE, model_card(self.config.to_dict()))

    def push_to_hub(  # type: ignore[override]  # transformers wraps the method
        self,
        repo_id: str,
        *,
        tags: list[str] | None = None,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = "50GB",
    ) -> str:
        """Upload what `save_pretrained` writes to a repository of a hub, as transformers does; return the commit's URL.

        The card is the model's own, with these tags; transformers would put one there that knows nothing of the model.
        """
        api = HfApi(token=token)
        repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            (Path(folder) / CARD_FILE).write_text(model_card(self.config.to_dict(), tags or ()), encoding="utf-8")
            commit = api.create_commit(
                repo_id=repository,
                operations=[CommitOperationAdd(file.name, file) for file in sorted(Path(folder).iterdir())],
                commit_message=commit_message or "Upload model",
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
            )
        return str(commit.commit_url)

    def set_normalization(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Standardise features with these statistics from now on; they are saved in the checkpoint.

        Parameters
        ----------
        statistics : mapping of str to (mean, std)
            Per modality, both of shape (width,). A std of practically zero becomes 1. Modalities not named stay as
            they are.

        Raises
        ------
        ValueError
            For a modality the model does not have, or statistics of another width, not finite or negative.
        """
        for name, (mean, std) in statistics.items():
            self._check_known(name)
            try:
                cast(Standardize, self.standardize[name]).set(mean, std)
            except ValueError as error:
                raise ValueError(f"modality {name!r}: {error}") from None

    def forward(
        self,
        tokens: Mapping[str, Tensor],
        mask: Mapping[str, Tensor],
        time: Mapping[str, Tensor],
        labels: Tensor | None = None,
        orders: Tensor | None = None,
    ) -> FusionOutput:
        """Predict.

        Parameters
        ----------
        tokens : mapping of str to tensor (B, T_m, width)
            Features per modality, in any order; a modality of the config that is not here is simply not there.
        mask : mapping of str to bool tensor (B, T_m)
            True where a token is present. What masked tokens hold is never looked at, be it NaN.
        time : mapping of str to tensor (B, T_m)
            Seconds from the start of the clip.
        labels : tensor (B, n_targets), optional
            NaN where a target is not labelled.
        orders : int64 tensor (B', L), optional
            For a preference task: clips of this batch from the least to the most preferred, -1 at the end of shorter
            orders. Without them the loss of such a task is 0.

        Raises
        ------
        ValueError
            For a modality that is not in the config, another width than there, or shapes that do not fit together.
        """
        self._check_inputs(tokens, mask, time)
        # In one order, so that rounding and random masks do not depend on how the dict came.
        tokens = {name: tokens[name] for name in self.config.modality_order if name in tokens}
        if self.training:
            mask = self._drop(tokens, mask)
        tokens = {name: self.standardize[name](x, mask[name]) for name, x in tokens.items()}
        if self.training:
            tokens = {name: drop_channels(x, self.config.feature_dropout) for name, x in tokens.items()}
        raw = self.body(tokens, mask, time).float()
        predictions = self._squash(raw, within_range=self.config.fusion not in UNBOUNDED)
        loss = None
        if self.config.kind == "preference":
            if orders is not None:
                loss = compute_preference_loss(self.config.loss, raw.squeeze(1), orders)
            elif labels is not None:
                loss = raw.sum() * 0.0
        elif labels is not None:
            value_range, smoothing = self.config.task.get("range"), self.config.label_smoothing
            pos_weight = self.config.pos_weight
            # Of the body alone: were the linear member in it, the body would learn only what that one gets wrong on the
            # training clips, which it knows by heart.
            loss = compute_loss(self.config.loss, raw, predictions, labels, value_range, smoothing, pos_weight)
        if self.linear is not None and not self.training:
            # A regression's linear member is fitted as it is, and may leave the range.
            linear = self._squash(self.linear(tokens, mask, time).float(), within_range=False)
            if self.config.task.get("range") is not None:
                linear = linear.clamp(*self.config.task["range"])
            predictions = torch.lerp(predictions, linear, self.config.linear_share)
        return FusionOutput(loss=loss, logits=predictions)

    def _squash(self, raw: Tensor, within_range: bool) -> Tensor:
        """Raw outputs to what the task's kind asks for: probabilities, or numbers, `within_range` or as they are."""
        if self.config.kind == "single_label":
            return raw.softmax(dim=-1)
        if self.config.kind == "multi_label":
            return raw.sigmoid()
        if self.config.task.get("range") is None or not within_range:
            return raw
        low, high = self.config.task["range"]
        return low + (high - low) * raw.sigmoid()

    def _drop(self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks of training: with tokens and whole modalities hidden at random."""
        names = [name for name, x in tokens.items() if x.shape[1]]
        if not names:
            return dict(mask)
        present = torch.stack([mask[name].any(dim=1) for name in names], dim=1)
        kept = random_keep(present, self.config.modality_dropout).unbind(dim=1)
        return dict(mask) | {
            name: random_keep(mask[name], self.config.token_dropout) & keep.unsqueeze(1)
            for name, keep in zip(names, kept, strict=True)
        }

    def _check_known(self, name: str) -> None:
        if name not in self.config.modalities:
            raise ValueError(f"modality {name!r} is not one of the model's: {', '.join(self.config.modality_order)}")

    def _check_inputs(
        self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
    ) -> None:
        if not tokens:
            raise ValueError("no modality given: for a clip without any, give one with an all-False mask")
        n_clips = len(next(iter(tokens.values())))
        for name, x in tokens.items():
            self._check_known(name)
            width = self.config.modalities[name]["width"]
            if x.shape[-1] != width:
                raise ValueError(f"modality {name!r} has tokens of width {x.shape[-1]}, but the model wants {width}")
            if name not in mask or name not in time:
                raise ValueError(f"modality {name!r} comes without its mask or its time")
            shape = (n_clips, x.shape[1])
            if (*x.shape[:-1],) != shape or mask[name].shape != shape or time[name].shape != shape:
                raise ValueError(
                    f"modality {name!r}: tokens {tuple(x.shape)}, mask {tuple(mask[name].shape)} and time"
                    f" {tuple(time[name].shape)} do not fit together, or not the {n_clips} clips of the batch"
                )


_HUB_OPTIONS = {"revision", "token", "cache_dir", "local_files_only", "force_download"}
# What transformers writes into a config.json of how it runs a network; some of it would be fetched. Any other key that
# is no setting of the model is an error.
_RUNNING = ("attn_implementation", "experts_implementation", "dtype", "torch_dtype", "_name_or_path", "name_or_path")


def _folder_of(name: str | os.PathLike[str], hub: Mapping[str, Any]) -> Path:
    folder = Path(name)
    if (folder / BEST).is_dir():
        folder = folder / BEST
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{name}: neither a checkpoint (config.json, model.safetensors) nor a run with one")
        return folder
    return fetch(os.fspath(name), ["config.json", SAFETENSORS], **hub)


def _settings_of(path: Path) -> dict[str, Any]:
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise UserError(f"{path}: must be a mapping")
    return {key: value for key, value in settings.items() if key not in _RUNNING}


def _check_loaded(model: PerceiverFusion, state: Mapping[str, Tensor], report: Mapping[str, Any], folder: Path) -> None:
    """Refuse a model some of whose weights are not those of its file."""
    wrong = {
        "missing": report["missing_keys"],
        "unexpected": report["unexpected_keys"],
        "of another shape": [key for key, *_ in report["mismatched_keys"]],
        "no floating point numbers": not_numbers(state, model),
    }
    if problems := [f"{', '.join(sorted(keys)[:3])}: {what}" for what, keys in wrong.items() if keys]:
        raise ValueError(f"its weights are not those of its config; {'; '.join(problems)}")
    check_finite(model, folder)
    for name, module in model.named_modules():
        if isinstance(module, Standardize) and not (module.std > 0).all():
            raise ValueError(f"{name}.std must be above 0")
