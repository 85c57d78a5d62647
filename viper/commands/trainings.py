"""How commands that train many times (compare, tune) call train_perceiver: as a function, with an options object."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from viper.commands.convert import arguments_of, check_names, convert, option_types
from viper.commands.feature_options import FeatureOptions, feature_fields
from viper.commands.train_perceiver import TrainOptions, train
from viper.errors import UserError
from viper.logs import running
from viper.store import MODALITIES

OPTION_TYPES = option_types(TrainOptions)
# Options of the command itself: where a run goes, and whether it is started over.
ALWAYS_OWN = frozenset(
    {"output_checkpoint_folder", "output_log_file", "resume", "overwrite", "keep", "n_seeds", "seed"}
)


def train_options(features: FeatureOptions, values: Mapping[str, Any]) -> TrainOptions:
    """Return the options of a training on the features that a command reads, with these values."""
    return TrainOptions(**feature_fields(features.folders()), **values)


def train_again(options: TrainOptions) -> None:
    """Train, or resume the training; its record names the train_perceiver command that does the same."""
    options = dataclasses.replace(options, keep="best", resume=True)
    with running("train_perceiver", arguments_of(options)):
        train(options)


def parse_train_options(pairs: Sequence[str], own: Collection[str]) -> dict[str, Any]:
    """Return `--train_options NAME=VALUE ...` as option -> value of train_perceiver.

    Raises UserError for a pair without "=", an option that train_perceiver does not have or that the command sets
    itself (`own`, and where the runs go), or a wrong value.
    """
    options = {}
    for pair in pairs:
        name, separator, value = pair.removeprefix("--").partition("=")
        if not (name and separator and value):
            raise UserError(f"--train_options {pair}: must be NAME=VALUE")
        check_option(name, f"--train_options {pair}", own)
        options[name] = convert(value, OPTION_TYPES[name], f"--train_options: {name}", from_text=True)
    return options


def check_option(name: str, where: str, own: Collection[str]) -> None:
    """Refuse the name of an option that train_perceiver does not have, or that the command sets itself."""
    if name in ALWAYS_OWN or name in own or name.endswith("_input_folder") or name in (*MODALITIES, "features"):
        raise UserError(f"{where}: the command sets {name} itself")
    check_names([name], OPTION_TYPES.keys(), f"{where}: train_perceiver")
