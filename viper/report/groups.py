"""Whether a model serves everybody alike: its headline metric by age, country, gender."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from viper.errors import UserError
from viper.evaluation.bootstrap import LEAST_UNITS, Bootstrap, Interval, Measured, interval
from viper.evaluation.measures import Score
from viper.manifest import Manifest
from viper.report.content import GroupColumn
from viper.task import Task

# As columns are headed, without case, spaces and punctuation.
GROUP_NAMES = (
    "age", "agegroup", "agerange", "country", "nationality", "region", "gender", "sex", "ethnicity", "race", "language",
    "nativelanguage",
)  # fmt: skip
SUBJECT_NAMES = (
    "subject", "subjectid", "subj", "speaker", "speakerid", "participant", "participantid", "person", "personid",
    "actor", "actorid", "user", "userid", "worker", "workerid", "patient", "patientid",
)  # fmt: skip
AGES = (18, 30, 45, 60)  # where one age group ends and the next begins
MAX_GROUPS = 30
LEAST_N = 10  # clips (or orders) of a group that is scored


def subject_column(manifest: Manifest, given: str | None) -> str | None:
    """Return the column that says whose clip a row is; None where there is none.

    The one that is given; or the card's group_column; or one of a usual name (`SUBJECT_NAMES`). One that is given and
    is not there is a UserError.
    """
    if given is not None:
        return _existing(manifest, given, "--subject_column")
    column = manifest.task.group_column
    if column is not None and column in manifest.table.columns:
        return column
    return next((name for name in _further_columns(manifest) if _plain(name) in SUBJECT_NAMES), None)


def group_columns(manifest: Manifest, given: Sequence[str]) -> list[str]:
    """Return the columns to group clips by: those given, or else all of a usual name (`GROUP_NAMES`)."""
    if given:
        return [_existing(manifest, name, "--group_columns") for name in given]
    return [name for name in _further_columns(manifest) if _plain(name) in GROUP_NAMES]


def scored_groups(
    task: Task, metric: str, column: pd.Series, predicted: np.ndarray, true: np.ndarray, bootstrap: Bootstrap
) -> GroupColumn | None:
    """Return a metric within each group of a column, and the gap between the best and the worst served group.

    The gap's interval is that of the difference between the same two groups on the same resamples, so that it may
    reach below 0: which two they are was chosen by looking, which makes a gap look larger than it is.

    Parameters
    ----------
    column : text, a row a clip; ages are put into groups (`grouped`), clips without one are left out.
    predicted, true : as of `viper.evaluation.metrics.evaluate`. An order is of a group whose clips all are.

    Returns
    -------
    None where the column tells fewer than two groups apart.
    """
    names = grouped(column)
    rows_of = {name: _rows(task, (names == name).to_numpy(), true) for name in names.unique() if name}
    rows_of = {name: rows for name, rows in rows_of.items() if len(rows)}
    if len(rows_of) < 2:
        return None
    measured: dict[str, Measured] = {}
    groups: dict[str, Interval] = {}
    for name, rows in sorted(rows_of.items(), key=lambda item: (-len(item[1]), item[0])):
        part = bootstrap.of(rows)
        if len(rows) < LEAST_N:
            groups[name] = interval(Score(float("nan"), len(rows)), np.empty(0), len(np.unique(part.unit)))
            continue
        own = predicted if task.kind == "preference" else predicted[rows]
        measured[name] = part.measure(task, metric, own, true[rows])
        groups[name] = measured[name].together
    return GroupColumn(str(column.name), groups, _gap(measured), LEAST_N)


def grouped(column: pd.Series) -> pd.Series:
    """Return a column's cells as names of groups: ages in years as ranges, other cells as they are."""
    cells = column.astype(str).str.strip()
    if _plain(str(column.name)) != "age":
        return cells
    years = pd.to_numeric(cells.where(cells != ""), errors="coerce")
    if years.isna().ne(cells == "").any() or years.nunique() <= len(AGES) + 1:  # groups already, or numbers of groups
        return cells
    names = [f"under {AGES[0]}", *(f"{a}-{b - 1}" for a, b in itertools.pairwise(AGES)), f"{AGES[-1]}+"]
    place = np.searchsorted(AGES, years.fillna(0), side="right")
    return pd.Series(np.where(years.isna(), "", np.array(names)[place]), index=column.index, name=column.name)


def has_too_many(column: pd.Series) -> bool:
    """Return whether a column has too many values to be groups, such as subjects or free text."""
    return grouped(column).nunique() > MAX_GROUPS


def _rows(task: Task, inside: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the rows of `true` in a group; `inside` (clips,) says which clips are in it."""
    if task.kind == "preference":
        return np.flatnonzero((inside[true.clip(min=0)] | (true < 0)).all(axis=1))
    return np.flatnonzero(inside)


def _gap(measured: dict[str, Measured]) -> Interval | None:
    values = {name: each.together.value for name, each in measured.items() if np.isfinite(each.together.value)}
    if len(values) < 2:
        return None
    high, low = (measured[choose(values, key=lambda name: values[name])] for choose in (max, min))
    score = Score(high.together.value - low.together.value, high.together.n + low.together.n)
    # Where one of the groups has too few subjects for an interval, the difference has none either.
    n_units = (high.together.n_units, low.together.n_units)
    return interval(score, high.samples - low.samples, min(n_units) if min(n_units) < LEAST_UNITS else sum(n_units))


def _existing(manifest: Manifest, name: str, option: str) -> str:
    if name not in manifest.table.columns:
        there = ", ".join(_further_columns(manifest)) or "no further columns"
        raise UserError(f"{option} {name}: {manifest.path} has no such column; it has {there}")
    return name


def _further_columns(manifest: Manifest) -> list[str]:
    task = manifest.task
    known = {task.id_column, task.split_column, *task.label_columns, *task.targets}
    return [name for name in manifest.table.columns if name not in known]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())
