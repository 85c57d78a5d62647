"""status: which clips of a manifest have their features, and what is wrong with the others."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from viper.commands.common import MaskedShares
from viper.commands.feature_options import FeatureOptions
from viper.engine.failures import read_failures
from viper.engine.run import LOOKING_THREADS
from viper.errors import UserError, one_line
from viper.logs import progress_bar, say
from viper.manifest import Manifest, canonical_split
from viper.store import FeatureStore, Look
from viper.task import Task, load_task

NAMED_CLIPS = 5  # of each kind, in the table
OTHER_SPELLING = "its file's name is not in Unicode's composed form (NFC), so nothing finds it; rename it"


@dataclass(kw_only=True)
class StatusOptions(FeatureOptions):
    """Say which clips of a manifest have their features, and what is wrong with the others; changes nothing.

    Exit code 0: every clip has a valid feature of every modality. 3: some have not. 1: none has any.
    """

    csv_path: Path
    """The manifest: its clips are expected."""
    task: str | None = None
    """The task whose id and split columns the manifest has: a card's name or path. By default File_ID and Split."""
    split: str | None = None
    """Expect the clips of this split only: Train, Val or Test."""
    verify: bool = False
    """Read every file to its end and look at every value, not only at the files' headers and lengths."""
    json: bool = False
    """Print one JSON object, with every clip's id, instead of tables."""


@dataclass(frozen=True)
class ModalityStatus:
    """The features of one modality. Every expected clip is present, or in one of missing, invalid and failed.

    Attributes
    ----------
    folder : the store.
    encoder : what made its features; empty where the folder is no store.
    precision : of the encoder's arithmetic, float32 or bf16; empty without a network.
    masked : how much of the features that are present is masked.
    expected : clips of the manifest.
    present : how many of them have a valid feature.
    missing : those without a file.
    invalid : those whose file is not a valid feature of this store, with the reason.
    failed : those that the extraction could not do, by the folder's failures.csv, with the reason it gives.
    extra : clips with a file that are not in the manifest.
    problem : what is wrong with the folder as a whole, or None.
    """

    folder: Path
    encoder: str = ""
    expected: int = 0
    present: int = 0
    missing: list[str] = field(default_factory=list)
    invalid: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    problem: str | None = None
    precision: str = ""
    masked: MaskedShares = MaskedShares()  # noqa: RUF009  frozen

    @property
    def complete(self) -> bool:
        """Whether every expected clip has a valid feature."""
        return self.present == self.expected


def run(options: StatusOptions) -> int:
    """Print the state of every modality; return the exit code."""
    manifest = _read_manifest(options)
    expected = (manifest.split(options.split) if options.split else manifest).clips
    folders = options.folders()
    states = {name: look(folder, expected, manifest.clips, options.verify) for name, folder in folders.items()}
    if options.json:
        say(*json.dumps(_as_json(options, states), indent=2).split("\n"))
    else:
        _print_tables(options, states, len(expected))
    if all(state.complete for state in states.values()):
        return 0
    return 3 if any(state.present for state in states.values()) else 1


def look(folder: Path, expected: Sequence[str], known: Collection[str], verify: bool = False) -> ModalityStatus:
    """Return the state of a folder of features. Nothing in it is changed, and no run that writes to it is disturbed.

    Parameters
    ----------
    expected : clips that should have a feature.
    known : all clips of the manifest; a file of any other is extra.
    verify : read the files to their end.
    """
    failures, problem = _failures_of(folder)
    try:
        store = FeatureStore.open(folder)
        files = store.clips()
    except (UserError, OSError) as error:
        return _state(ModalityStatus(folder, problem=str(error)), expected, {}, failures)
    there = set(files)
    present = [clip for clip in expected if clip in there]
    looks = _looks(store, present, verify)
    reasons = {clip: each.problem for clip, each in zip(present, looks, strict=True)}
    known = set(known)
    extra = [clip for clip in files if clip not in known]
    reasons |= _spelled_otherwise([clip for clip in expected if clip not in there], extra)
    made = (store.info.encoder, store.info.precision)
    masked = MaskedShares.of(looks)
    state = ModalityStatus(folder, made[0], extra=extra, problem=problem, precision=made[1], masked=masked)
    return _state(state, expected, reasons, failures)


def _spelled_otherwise(lacking: Sequence[str], extra: Sequence[str]) -> dict[str, str]:
    """Return those of the clips without a file that have one of another name, with what is wrong with it."""
    # On its way from a Mac a file may have got a name that looks the same and is another.
    alike = {unicodedata.normalize("NFC", clip) for clip in extra}
    folded = {clip.casefold(): clip for clip in extra}
    reasons = {}
    for clip in lacking:
        other = folded.get(clip.casefold())
        if clip in alike:
            reasons[clip] = OTHER_SPELLING
        elif other is not None:
            reasons[clip] = f"its file is called {other!r}, in another case of letters; write both the same way"
    return reasons


def _looks(store: FeatureStore, clips: Sequence[str], verify: bool) -> list[Look]:
    with ThreadPoolExecutor(LOOKING_THREADS) as pool:
        found = pool.map(lambda clip: store.look(clip, verify), clips)
        return list(progress_bar(found, desc=store.folder.name, total=len(clips), leave=False, unit="clip"))


def _state(
    state: ModalityStatus, expected: Sequence[str], reasons: Mapping[str, str | None], failures: Mapping[str, str]
) -> ModalityStatus:
    """Sort the clips; `reasons` has those with a file, and None for a valid one."""
    lacking = [clip for clip in expected if reasons.get(clip, "no file") is not None]
    failed = {clip: failures[clip] for clip in lacking if clip in failures}
    others = [clip for clip in lacking if clip not in failed]
    invalid = {clip: reason for clip in others if (reason := reasons.get(clip)) is not None}
    missing = [clip for clip in others if clip not in invalid]
    n_present = len(expected) - len(lacking)
    return replace(state, expected=len(expected), present=n_present, missing=missing, invalid=invalid, failed=failed)


def _failures_of(folder: Path) -> tuple[dict[str, str], str | None]:
    try:
        return {row.clip: f"{row.error}: {row.message}" for row in read_failures(folder)}, None
    except (UserError, OSError) as error:
        return {}, str(error)


def _read_manifest(options: StatusOptions) -> Manifest:
    """Return the manifest without its labels and preferences, which may be wrong or not there yet."""
    task = load_task(options.task) if options.task else Task("any", "regression", ())
    card = replace(task, kind="regression", targets=(), label_column=None)
    return Manifest.load(options.csv_path, card, options.id_separator())


def _as_json(options: StatusOptions, states: Mapping[str, ModalityStatus]) -> dict[str, Any]:
    modalities = {
        name: {**asdict(state), "folder": str(state.folder), "complete": state.complete}
        for name, state in states.items()
    }
    return {
        "csv_path": str(options.csv_path),
        "split": canonical_split(options.split) if options.split else None,
        "verified": options.verify,
        "complete": all(state.complete for state in states.values()),
        "modalities": modalities,
    }


def _print_tables(options: StatusOptions, states: Mapping[str, ModalityStatus], n_clips: int) -> None:
    width = max(10, *(len(name) for name in states)) + 2
    columns = ("expected", "present", "missing", "invalid", "failed", "extra")
    say(f"{options.csv_path}: {n_clips} clips{f' of {options.split}' if options.split else ''}")
    say(f"{'modality':<{width}}" + "".join(f"{column:>10}" for column in (*columns, "masked", "precision")))
    for name, state in states.items():
        numbers = (state.expected, state.present, *(len(getattr(state, column)) for column in columns[2:]))
        masked = f"{state.masked.masked_tokens / state.masked.tokens:.0%}" if state.masked.tokens else "-"
        say(f"{name:<{width}}" + "".join(f"{cell:>10}" for cell in (*numbers, masked, state.precision or "-")))
    for name, state in states.items():
        if state.problem or not state.complete or state.extra or state.masked.is_most:
            say("", f"{name}: {state.folder}" + (f", made by {state.encoder}" if state.encoder else ""))
            _print_clips(state)
    if not options.verify and all(state.complete for state in states.values()):
        say("complete, by the files' headers and lengths; --verify reads all of them")


def _print_clips(state: ModalityStatus) -> None:
    if state.problem:
        say(f"  {state.problem}")
    if state.masked.is_most:
        say(f"  masked   most of it: {state.masked}; training learns nothing of them")
    for kind, clips in (("missing", state.missing), ("extra", state.extra)):
        if clips:
            say(f"  {kind:<9}{', '.join(one_line(clip) for clip in clips[:NAMED_CLIPS])}{_more(clips)}")
    for kind, reasons in (("invalid", state.invalid), ("failed", state.failed)):
        for clip, reason in list(reasons.items())[:NAMED_CLIPS]:
            say(f"  {kind:<9}{one_line(clip)}: {one_line(reason)}")
        if len(reasons) > NAMED_CLIPS:
            say(f"  {kind:<9}{_more(reasons).strip()}")


def _more(clips: Collection[str]) -> str:
    rest = len(clips) - NAMED_CLIPS
    return f" ... and {rest} more" if rest > 0 else ""
