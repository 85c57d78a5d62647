"""What the commands that train many times (compare, tune) share: how they call train_perceiver."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from viper.commands.feature_options import MODALITIES, FeatureOptions
from viper.commands.train_perceiver import TrainOptions
from viper.errors import UserError

OPTIONS = {option.name: option for option in dataclasses.fields(TrainOptions)}
# Where a run goes and whether it is started over is not for whoever names further options.
ALWAYS_OWN = frozenset(
    {"output_checkpoint_folder", "output_log_file", "resume", "overwrite", "keep", "n_seeds", "seed"}
)


def feature_arguments(config: FeatureOptions) -> list[str]:
    """The options by which train_perceiver reads the same features as the command with this config."""
    arguments = []
    for name, folder in config.folders().items():
        named = name in MODALITIES and getattr(config, f"{name}_features_input_folder") == folder
        arguments += [f"--{name}_features_input_folder", str(folder)] if named else ["--features", f"{name}={folder}"]
    return arguments


def parse_train_options(pairs: Sequence[str], own: Collection[str]) -> dict[str, str]:
    """`--train_options NAME=VALUE ...` as a mapping.

    Raises UserError for what is no such pair, names no option of train_perceiver, or one that the command has itself
    (`own`, and where the runs go).
    """
    options = {}
    for pair in pairs:
        name, separator, value = pair.removeprefix("--").partition("=")
        if not (name and separator and value):
            raise UserError(f"--train_options {pair}: must be NAME=VALUE")
        check_option(name, f"--train_options {pair}", own)
        options[name] = value
    return options


def check_option(name: str, where: str, own: Collection[str]) -> None:
    """Refuses the name of no option of train_perceiver, or of one that the command sets itself."""
    if name in ALWAYS_OWN or name in own or name.endswith("_input_folder") or name in (*MODALITIES, "features"):
        raise UserError(f"{where}: the command sets {name} itself")
    if name not in OPTIONS:
        raise UserError(f"{where}: train_perceiver has no option {name!r}; `viper train_perceiver --help` lists them")


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """Options and their values as they are typed; a flag is given by true or false."""
    arguments = []
    for name, value in options.items():
        if OPTIONS[name].type == "bool":
            text = str(value).lower()
            if text not in ("true", "false"):
                raise UserError(f"{name}={value}: must be true or false")
            arguments.append(f"--{name}" if text == "true" else f"--no-{name}")
        else:
            arguments += [f"--{name}", str(value)]
    return arguments
