"""tasks: which task cards there are, and what each of them asks for."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from viper.errors import one_line
from viper.logs import say
from viper.task import Task, load_task, task_names

KINDS = {
    "regression": "a number per target",
    "single_label": "one of the targets a clip",
    "multi_label": "any number of the targets a clip",
    "preference": "a utility a clip, learned from pairs and lists of clips",
}
WIDTH = 100


@dataclass(kw_only=True)
class TasksOptions:
    """List the task cards, or explain some: what they predict, how they are scored, what files they want."""

    names: Annotated[list[str], tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = field(default_factory=list)
    """Cards to explain: shipped ones by name, own ones by path. None: all shipped ones, a line each."""


def run(options: TasksOptions) -> int:
    """Print the list or the explanations; return the exit code."""
    if options.names:
        say(*"\n\n".join(explain(name) for name in options.names).split("\n"))
        return 0
    for name in task_names():
        task = load_task(name)
        say(f"{name:<20}{task.kind:<14}{task.description}")
    say("", "`viper tasks NAME` explains one. Your own card is a YAML file: --task FILE.yaml.")
    return 0


def explain(name: str) -> str:
    """Return a card in words, several lines. A wrong card is a UserError that names the key."""
    task = load_task(name)
    targets = ", ".join(task.targets)
    if task.range is not None and task.kind == "regression":
        targets += f"; each in [{task.range[0]:g}, {task.range[1]:g}]"
    rows = {
        "kind": f"{task.kind}: {KINDS[task.kind]}",
        f"targets ({len(task.targets)})": targets,
        "loss": f"{task.loss} (--loss takes another)",
        "metrics": f"{', '.join(task.metrics)}; {task.metrics[0]} chooses the best epoch",
        "prompts": str(task.prompts.name) if task.prompts else "none: textual features need --subtitles",
        "manifest": _manifest(task),
        "submission": _submission(task),
        "commands": f"viper prepare {name} ...; then --task {name}",
    }
    lines = [f"{task.name}: {one_line(task.description)}"]
    for key, text in rows.items():
        lines += textwrap.wrap(text, WIDTH, initial_indent=f"  {key:<14}", subsequent_indent=" " * 16)
    return "\n".join(lines)


def _manifest(task: Task) -> str:
    columns = f"{task.id_column}, {task.split_column} (Train, Val, Test)"
    if task.label_column is not None:
        columns += f", {task.label_column}"
    elif task.kind != "preference":
        columns += ", a column per target"
    else:
        columns += "; beside it <manifest>_preferences.csv: rank_1 (least preferred), rank_2, ..."
    return columns + (f"; {task.group_column}, where it is known" if task.group_column else "")


def _submission(task: Task) -> str:
    if list(task.submission_columns) == [task.id_column, *task.targets]:
        return f"{task.id_column}, a column per target"
    return ", ".join(
        header if header == column else f"{header} (holds {column})"
        for header, column in task.submission_columns.items()
    )
