"""How commands that train many times (compare, tune) call train_perceiver: as a function, with an options object."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from viper.commands.convert import check_names, convert, option_types
from viper.commands.feature_options import MODALITIES, FeatureOptions
from viper.commands.train_perceiver import TrainOptions, train
from viper.errors import UserError
from viper.logs import running

OPTION_TYPES = option_types(TrainOptions)
# Options of the command itself: where a run goes, and whether it is started over.
ALWAYS_OWN = frozenset(
    {"output_checkpoint_folder", "output_log_file", "resume", "overwrite", "keep", "n_seeds", "seed"}
)


def train_options(features: FeatureOptions, values: Mapping[str, Any]) -> TrainOptions:
    """Return the options of a training on the features that a command reads, with these values."""
    named: dict[str, Any] = {}
    others = []
    for name, folder in features.folders().items():
        option = f"{name}_features_input_folder"
        if name in MODALITIES and getattr(features, option) == folder:
            named[option] = folder
        else:
            others.append(f"{name}={folder}")
    return TrainOptions(**named, features=others, **values)


def train_again(options: TrainOptions) -> None:
    """Train, or resume the training; its record names the train_perceiver command that does the same."""
    options = dataclasses.replace(options, keep="best", resume=True)
    with running("train_perceiver", as_typed(options)):
        train(options)


def as_typed(options: TrainOptions) -> list[str]:
    """Return what is typed after train_perceiver for these options, for people to read and run."""
    arguments = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if value == default:
            continue
        if isinstance(value, bool):
            arguments.append(f"--{field.name}" if value else f"--no-{field.name}")
        elif field.name == "features":  # once for each
            arguments += [part for pair in value for part in ("--features", pair)]
        elif isinstance(value, list):
            arguments += [f"--{field.name}", *value]
        else:
            arguments += [f"--{field.name}", str(value)]
    return arguments


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
