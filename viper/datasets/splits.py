"""Splits where a dataset has none: whole groups (speakers, films), by a digest of seed and name."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from viper.datasets.labels import Clip
from viper.errors import UserError
from viper.files import digest_of
from viper.manifest import SPLITS


@dataclass(frozen=True)
class SplitOptions:
    """How splits are made.

    Attributes
    ----------
    val_share, test_share : shares of the clips. Where the dataset has Train and Test, `val_share` is one of Train.
    seed : another seed, other splits.
    val_groups, test_groups : groups by name, instead of a share.
    """

    val_share: float = 0.15
    test_share: float = 0.15
    seed: int = 0
    val_groups: tuple[str, ...] = ()
    test_groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("val_share", "test_share"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name):g}: must be at least 0 and below 1")
        if self.val_share + self.test_share >= 1:
            raise UserError("--val_share and --test_share: together below 1, or nothing is left to train on")
        both = set(self.val_groups) & set(self.test_groups)
        if both:
            raise UserError(f"--val_groups and --test_groups both name {min(both)!r}")


@dataclass
class SplitReport:
    """What was made of what: `made` says which splits are new, by which groups; `groups` where each of them is."""

    made: list[str] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)


def make_splits(
    clips: list[Clip], groups: Mapping[str, str] | None, options: SplitOptions, strata: Mapping[str, str] | None = None
) -> SplitReport:
    """Give every clip a split; return which were made.

    A dataset's own splits stay; where it has Train and Test but no Val, Val is taken out of Train. Without any, Test
    and Val are made. Groups named outright overrule the dataset's splits. All clips of a group get the same split,
    which depends on the seed, the names and the sizes of groups only, not on the order of rows.

    Parameters
    ----------
    groups : clip id -> group; None where none is known: then each clip goes by itself.
    strata : clip id -> class, for clips that go by themselves: each class is shared out alike.
    """
    report = SplitReport()
    if options.val_groups or options.test_groups:
        _by_name(clips, groups, options, report)
    else:
        missing = _missing(clips, options)
        free = [clip for clip in clips if clip.split in (None, "Train")]
        if missing:
            for clip in free:
                clip.split = "Train"
        for part in _strata(free, groups, strata):
            # The shares are of all that is free, also where Test has been taken away before Val.
            shares = {split: share * len(part) for split, share in missing}
            _share_out(part, groups, shares, options.seed)
        report.made = [split for split, _ in missing]
    _check_both_sides(clips, report, groups)
    if groups is not None:
        report.groups = {split: sorted({groups[c.id] for c in clips if c.split == split}) for split in SPLITS}
    return report


def crossing_groups(clips: Iterable[Clip], groups: Mapping[str, str]) -> list[str]:
    """Return groups that have clips in more than one split."""
    splits = defaultdict(set)
    for clip in clips:
        splits[groups[clip.id]].add(clip.split)
    return sorted(group for group, there in splits.items() if len(there) > 1)


def _missing(clips: list[Clip], options: SplitOptions) -> list[tuple[str, float]]:
    """Return (split, share) to be made, Test first: it is drawn before anything is decided by the others."""
    there = {clip.split for clip in clips}
    if there == {None}:
        return [(s, share) for s, share in (("Test", options.test_share), ("Val", options.val_share)) if share]
    return [("Val", options.val_share)] if "Train" in there and "Val" not in there and options.val_share else []


def _by_name(clips: list[Clip], groups: Mapping[str, str] | None, options: SplitOptions, report: SplitReport) -> None:
    if groups is None:
        raise UserError("--val_groups and --test_groups name groups: say which column has them, --group_column")
    known = set(groups.values())
    for name, wanted in (("val_groups", options.val_groups), ("test_groups", options.test_groups)):
        for group in wanted:
            if group not in known:
                raise UserError(f"--{name} {group}: no such group; there are {', '.join(sorted(known))}")
    for clip in clips:
        group = groups[clip.id]
        clip.split = "Test" if group in options.test_groups else "Val" if group in options.val_groups else "Train"
    shares = {}
    if not options.test_groups and options.test_share:
        shares["Test"] = options.test_share * len(clips)
    if not options.val_groups and options.val_share:
        shares["Val"] = options.val_share * len(clips)
    _share_out([clip for clip in clips if clip.split == "Train"], groups, shares, options.seed)
    named = {"Train", *(["Test"] if options.test_groups else []), *(["Val"] if options.val_groups else [])}
    report.made = [split for split in SPLITS if split in named | set(shares)]


def _strata(clips: list[Clip], groups: Mapping[str, str] | None, strata: Mapping[str, str] | None) -> list[list[Clip]]:
    if groups is not None or strata is None:
        return [clips]
    parts = defaultdict(list)
    for clip in clips:
        parts[strata[clip.id]].append(clip)
    return [parts[name] for name in sorted(parts)]


def _share_out(clips: list[Clip], groups: Mapping[str, str] | None, shares: dict[str, float], seed: int) -> None:
    """Move whole groups out of Train until each split is as near as can be to its number of clips.

    Groups come in the order of a digest of the seed and their name, so that one more clip, or group, changes little.
    """
    name_of = {clip.id: clip.id if groups is None else groups[clip.id] for clip in clips}
    sizes = Counter(name_of[clip.id] for clip in clips if clip.split == "Train")
    order = sorted(sizes, key=lambda group: (digest_of([seed, group]), group))
    splits: dict[str, str] = {}
    for split, wanted in shares.items():
        taken = 0
        for group in order:
            is_last = len(splits) + 1 >= len(order)  # something must be left to train on
            if group in splits or is_last or abs(taken + sizes[group] - wanted) >= abs(taken - wanted):
                continue
            splits[group] = split
            taken += sizes[group]
    for clip in clips:
        if clip.split == "Train":
            clip.split = splits.get(name_of[clip.id], "Train")


def _check_both_sides(clips: list[Clip], report: SplitReport, groups: Mapping[str, str] | None) -> None:
    """Return a UserError where a split that was to be made, or what is trained on, came out empty."""
    there = Counter(clip.split for clip in clips)
    n = len(clips if groups is None else set(groups.values()))
    for split in report.made:
        if not there[split]:
            what = "clips" if groups is None else "groups"
            raise UserError(
                f"{n} {what} are too few, or too uneven, to make the split {split} of them; "
                "other --val_share and --test_share, or --val_groups and --test_groups, may do"
            )
