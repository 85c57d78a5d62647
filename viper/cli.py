"""The `viper` command: one subcommand a stage."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

import viper
from viper.errors import (
    ClipError,
    NothingDoneError,
    UserError,
    did_you_mean,
    first_line,
    forget_interruption,
    interrupt,
    is_out_of_memory,
    one_line,
    unbroken,
)
from viper.logs import colours, guard_terminal, say, start_logging
from viper.offline import go_offline
from viper.streams import settle_streams

PUBLISHED = "The steps of the ViPER paper, in order"
BEYOND = "More commands"


@dataclass(frozen=True)
class Command:
    """Where a command lives; its modules are imported only when it is asked for, so that --help is quick."""

    module: str
    options: str
    group: str
    summary: str


COMMANDS = {
    "get_frame": Command("get_frame", "GetFrameOptions", PUBLISHED, "videos -> frames"),
    "crop_images": Command("crop_images", "CropImagesOptions", PUBLISHED, "frames -> crops of one person's face"),
    "extract_visual_features": Command(
        "extract_features", "VisualOptions", PUBLISHED, "frames or crops -> visual features"
    ),
    "extract_audio_features": Command(
        "extract_features", "AudioOptions", PUBLISHED, "sound or videos -> audio features"
    ),
    "extract_textual_features": Command(
        "extract_features", "TextualOptions", PUBLISHED, "frames or subtitles -> textual features"
    ),
    "extract_FAU_features": Command("extract_features", "FAUOptions", PUBLISHED, "crops -> facial action units"),
    "train_perceiver": Command(
        "train_perceiver", "TrainOptions", PUBLISHED, "features + manifest -> a trained Perceiver"
    ),
    "submission_creation": Command(
        "submission_creation", "SubmissionOptions", PUBLISHED, "a checkpoint -> the submission CSV"
    ),
    "confusion_matrix": Command(
        "confusion_matrix", "ConfusionOptions", PUBLISHED, "a checkpoint -> matrices, scores, pictures"
    ),
    "prepare": Command("prepare", "PrepareOptions", BEYOND, "a dataset's own label files -> the manifest"),
    "pipeline": Command("pipeline", "PipelineOptions", BEYOND, "all of the above for one data set, from one YAML"),
    "ablate": Command("ablate", "AblateOptions", BEYOND, "a checkpoint -> the score of every subset of modalities"),
    "compare": Command("compare", "CompareOptions", BEYOND, "the Perceiver and the baselines, over seeds -> one table"),
    "tune": Command("tune", "TuneOptions", BEYOND, "options of train_perceiver, searched on the validation split"),
    "report": Command(
        "report", "ReportOptions", BEYOND, "a run -> one page: scores, errors, cases, where it came from"
    ),
    "ensemble": Command("ensemble", "EnsembleOptions", BEYOND, "several submissions -> their (weighted) average"),
    "tasks": Command("tasks", "TasksOptions", BEYOND, "the task cards: what each predicts and how it is scored"),
    "status": Command(
        "status", "StatusOptions", BEYOND, "which clips have their features; what is wrong with the others"
    ),
    "predict": Command("predict", "PredictOptions", BEYOND, "new videos and a checkpoint -> predictions, a page"),
    "export": Command("export", "ExportOptions", BEYOND, "a folder of features -> .npy files and an index in Parquet"),
    "doctor": Command("doctor", "DoctorOptions", BEYOND, "what is installed, which encoders can run here"),
    "demo_page": Command(
        "demo_page", "DemoPageOptions", BEYOND, "a page in the browser to try a checkpoint on (extra page)"
    ),
    "demo": Command("demo", "DemoOptions", BEYOND, "the whole way on clips made here, with known answers"),
}


def main(command: str | None = None, arguments: list[str] | None = None) -> NoReturn:
    """Run a command as `viper NAME ...`, or as its script when `command` is given; exit with its code."""
    settle_streams()
    guard_terminal()
    try:
        code = _main(command, list(sys.argv[1:] if arguments is None else arguments))
    except SystemExit as stop:  # tyro's, after help or about wrong usage
        code = int(stop.code or 0)
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        _say_error(_cannot_write(error))
        code = 1
    sys.exit(_all_written(code))


def _main(command: str | None, arguments: list[str]) -> int:
    if command is not None:
        return _run(command, arguments, f"{command}.py")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        say(*_overview().split("\n"))
        return 0 if arguments else 2
    if arguments[0] in ("--version", "-V"):
        say(f"viper {viper.__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        hint = did_you_mean(arguments[0], COMMANDS) or "; `viper --help` lists them"
        _say_error(f"there is no command {arguments[0]!r}{hint}")
        return 2
    return _run(arguments[0], arguments[1:], f"viper {arguments[0]}")


def _all_written(code: int) -> int:
    """Write out what was printed; return the exit code, which is 1 where that fails and nothing else had."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if code == 0:
            _say_error(_cannot_write(error))
        # What is left is written once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or 1
    return code


def _overview() -> str:
    lines = ["viper: from a folder of videos and a CSV of labels to a CSV of predictions.", "",
             "usage: viper COMMAND [options]        viper COMMAND --help        viper --version"]  # fmt: skip
    for group in (PUBLISHED, BEYOND):
        lines += ["", f"{group}:"]
        lines += [f"  {name:<26}{command.summary}" for name, command in COMMANDS.items() if command.group == group]
    return "\n".join(lines)


def _run(name: str, arguments: list[str], program: str) -> int:
    """Run a command and return its exit code; say in one line what a user can fix."""
    if "--version" in arguments:
        say(f"viper {viper.__version__}")
        return 0
    start_logging()
    forget_interruption()
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs ignore it
        signal.signal(signal.SIGINT, interrupt)
    try:
        return run_command(name, arguments, program)
    except UserError as error:
        _say_error(str(error))
        return 2
    except (NothingDoneError, ClipError) as error:
        _say_error(str(error))
        return 1
    except KeyboardInterrupt as stop:
        kept = "what was finished is kept, and the same command goes on from there"
        _say_error(f"interrupted; {str(stop) or kept}")
        return 130
    except (MemoryError, RuntimeError, ImportError) as error:
        if not is_out_of_memory(error):
            raise
        _say_error(f"out of memory ({first_line(error)}); what was finished is kept")
        return 1


def _cannot_write(error: OSError) -> str:
    return f"{error.filename or 'output'}: {error.strerror or error}; what was finished is kept"


def run_command(name: str, arguments: list[str], program: str | None = None) -> int:
    """Parse a command's arguments and run it; return the exit code, raise what the command raises."""
    if "--offline" in arguments:
        go_offline()  # first: what is imported from here on may look only once
    options = parse(name, arguments, program)
    _check_flags(options, arguments)
    from viper.logs import running

    with running(name, arguments):
        # Imported by `parse`, with its options: the command's module.
        return int(sys.modules[type(options).__module__].run(options))


def parse(name: str, arguments: list[str], program: str | None = None) -> Any:
    """Return the options of a command from its arguments; wrong ones end in a message of tyro's and exit code 2."""
    import tyro

    from viper.commands.convert import own_first

    command = COMMANDS[name]
    options_class = getattr(import_module(f"viper.commands.{command.module}"), command.options)
    # --help lists options in the order of the fields.
    fields = options_class.__dataclass_fields__
    options_class.__dataclass_fields__ = {name: fields[name] for name in own_first(options_class)}
    # In colours, unless what the shell has filled in, such as names of files, could bring its own.
    with colours() if all(unbroken(each) == each for each in arguments) else contextlib.nullcontext():
        return tyro.cli(
            options_class,
            prog=program or f"viper {name}",
            args=arguments,
            use_underscores=True,
            compact_help=False,
        )


def _check_flags(options: Any, arguments: list[str]) -> None:
    """Refuse a modality asked for by its flag but without a folder, which the model would silently lack."""
    for argument in arguments:
        folder = f"{argument.removeprefix('--')}_features_input_folder"
        if argument.startswith("--") and getattr(options, folder, "none of its options") is None:
            raise UserError(f"{argument} needs --{folder} FOLDER")


def _say_error(message: str) -> None:
    say(f"viper: error: {one_line(message)}", file=sys.stderr)


if __name__ == "__main__":
    main()
