"""Which clips a folder of media holds, and how its subfolders are read."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from viper.clip_ids import AUDIO_SUFFIXES as AUDIO_SUFFIXES
from viper.clip_ids import SEPARATOR, path_id
from viper.clip_ids import VIDEO_SUFFIXES as VIDEO_SUFFIXES
from viper.errors import ClipError, UnusableEntryError, UserError, unbroken
from viper.files import natural_key
from viper.fingerprints import fingerprint
from viper.logs import log
from viper.media.subtitles import SUBTITLE_SUFFIXES

UNFINISHED = (".part", ".crdownload", ".download", ".ytdl", ".tmp", ".partial", ".opdownload")
MAX_DEPTH = 30  # folders in each other
MAX_COUNTED = 20_000  # entries of subfolders that are only counted


@dataclass(frozen=True)
class MediaClip:
    """One file of one clip; its id is the file's name without the suffix, after those of the subfolders it is in.

    Attributes
    ----------
    problem : why no file can be this clip, or None: whatever reads it gets a ClipError that says so.
    """

    id: str
    path: Path
    problem: ClipError | None = field(default=None, kw_only=True, compare=False)

    def check(self) -> None:
        """Raise the problem, if there is one."""
        if self.problem is not None:
            raise self.problem

    def source(self) -> str:
        """Return a fingerprint of the file; ClipError where it cannot be read."""
        self.check()
        with clip_errors():
            return fingerprint(self.path)


@contextmanager
def clip_errors() -> Iterator[None]:
    """Turn an OSError about a clip's file into a ClipError, one line that names the file."""
    try:
        yield
    except OSError as error:
        raise ClipError(f"{Path(str(error.filename)).name}: cannot be read ({error.strerror})") from error


def list_videos(folder: Path, separator: str | None = None) -> list[MediaClip]:
    """Return the video files of a folder; see `list_files`."""
    return list_files(folder, VIDEO_SUFFIXES, "videos", separator=separator)


def list_sounds(
    folder: Path, separator: str | None = None, prefer: Literal["audio", "video"] = "audio"
) -> list[MediaClip]:
    """Return the files of a folder that have, or may have, sound: audio files and videos; see `list_files`.

    Where a clip has both, the one that is preferred is taken, and the log says so.
    """
    suffixes = AUDIO_SUFFIXES if prefer == "audio" else VIDEO_SUFFIXES
    n_both: list[str] = []

    def choose(paths: list[Path]) -> list[Path]:
        preferred = [path for path in paths if path.suffix.lower() in suffixes]
        if preferred and len(preferred) < len(paths):
            n_both.append(paths[0].stem)
        return preferred or paths

    clips = list_files(folder, (*AUDIO_SUFFIXES, *VIDEO_SUFFIXES), "audio or video files", (), separator, choose=choose)
    if n_both:
        log.info("%s: %d clips have an audio file and a video, such as %s: the %s is read (--prefer audio or video)",
                 folder, len(n_both), n_both[0], "audio file" if prefer == "audio" else "video")  # fmt: skip
    return clips


def list_subtitles(folder: Path, separator: str | None = None) -> list[MediaClip]:
    """Return the subtitle files of a folder, and the videos, which may have subtitles inside; see `list_files`."""
    places = Tree.of(folder, separator is not None).places
    suffixes = {os.path.splitext(place.path)[1].lower() for place in places}
    found = []
    for own, others in ((SUBTITLE_SUFFIXES, VIDEO_SUFFIXES), (VIDEO_SUFFIXES, SUBTITLE_SUFFIXES)):
        if suffixes & set(own):
            found += list_files(folder, own, "subtitles", others, separator)
    return found or list_files(folder, SUBTITLE_SUFFIXES, "subtitles", (), separator)


def list_files(
    folder: Path,
    suffixes: Iterable[str],
    what: str,
    others: Iterable[str] = (),
    separator: str | None = None,
    without: Collection[str] = (),
    choose: Callable[[list[Path]], list[Path]] = list,
) -> list[MediaClip]:
    """Return files with one of these suffixes as clips, in natural order of their names.

    A name that can be no id, two files that would be one clip, and what has a file's name and is none (a link to
    nowhere, a pipe, a folder) are clips with a problem: they fail, and the others are done.

    Parameters
    ----------
    others : suffixes of further files that belong here, and are not counted among those that are ignored.
    separator : joins the names of subfolders and files to ids. None: subfolders are not read; a warning counts what
        is in them.
    without : names of subfolders that hold something else.
    choose : which of several files of one clip may be it; more than one is a problem.

    Raises
    ------
    UserError when there are none.
    """
    suffixes, others = tuple(suffixes), tuple(others)
    tree = Tree.of(folder, separator is not None, without)
    files, folders, ignored = [], [], []
    for place in tree.places:
        suffix = os.path.splitext(place.parts[-1])[1].lower()
        if suffix not in suffixes:
            ignored += [] if place.is_folder or suffix in others else [suffix]
        elif place.is_folder:
            folders.append(place)
        else:
            files.append(place)
    # A folder that is called like a file is a subfolder like any other where there are files in it.
    folders = [each for each in folders if not any(file.parts[: len(each.parts)] == each.parts for file in files)]
    clips = one_each(_without_suffix(files), separator, choose)
    ids = {clip.id for clip in clips}
    for clip in one_each(_without_suffix(folders), separator):
        if clip.id not in ids:
            problem = clip.problem or ClipError(f"{clip.path.name}: is a folder, not a file")
            clips.append(MediaClip(clip.id, clip.path, problem=problem))
    clips += tree.unread
    lacking = "" if separator is not None else _not_read(tree, suffixes, what, without)
    if not clips:
        raise UserError(f"{folder}: no {what} in it{lacking} ({', '.join(suffixes)})")
    tree.warn()
    if lacking:
        log.warning("%s: %s", folder, lacking.removeprefix("; "))
    if ignored:
        n_unfinished = sum(suffix in UNFINISHED for suffix in ignored)
        unfinished = f"; {n_unfinished} of them are unfinished downloads" if n_unfinished else ""
        log.info("%s: ignoring %d files that are not %s%s", folder, len(ignored), what, unfinished)
    return clips


class Place(NamedTuple):
    """A file or folder, and the parts of its path below the folder that is read, as they name its clip."""

    parts: tuple[str, ...]
    path: str
    is_folder: bool


@dataclass(frozen=True)
class Tree:
    """What a folder holds, without what is hidden.

    Subfolders that are links are not looked into: they may lead out of the folder, or back.

    Attributes
    ----------
    folder : the folder.
    places : its files and folders, in natural order.
    links : subfolders that are links, where subfolders are looked into.
    unread : a clip with a problem for each subfolder that cannot be read.
    """

    folder: Path
    places: list[Place]
    links: list[str]
    unread: list[MediaClip]

    @classmethod
    def of(cls, folder: Path, is_deep: bool, without: Collection[str] = (), most: int | None = None) -> Tree:
        """Look through a folder.

        Parameters
        ----------
        is_deep : look through its subfolders too.
        without : names of subfolders that are left out.
        most : stop after so many places.

        Raises
        ------
        UserError : the folder is missing or cannot be read.
        """
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        tree = cls(folder, [], [], [])
        waiting: list[tuple[str, ...]] = [()]
        while waiting and (most is None or len(tree.places) < most):
            parts = waiting.pop()
            try:
                waiting += tree._look(parts, is_deep, without)
            except OSError as error:
                if not parts:
                    raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
                tree._leave_out(parts, f"cannot be read ({error.strerror})")
        tree.places.sort(key=lambda place: tuple(map(natural_key, place.parts)))
        return tree

    def _look(self, parts: tuple[str, ...], is_deep: bool, without: Collection[str]) -> list[tuple[str, ...]]:
        """Add what is in a subfolder; return the folders in it that are to be looked into."""
        deeper = []
        with os.scandir(self.folder.joinpath(*parts)) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                try:
                    is_folder = entry.is_dir()
                except OSError:
                    is_folder = False
                if is_folder and name in without:
                    continue
                below = (*parts, name)
                self.places.append(Place(below, entry.path, is_folder))
                if is_folder and is_deep:
                    if entry.is_symlink():
                        self.links.append("/".join(below))
                    elif len(below) > MAX_DEPTH:
                        self._leave_out(below, f"is not read: it is in {MAX_DEPTH} others")
                    else:
                        deeper.append(below)
        return deeper

    def _leave_out(self, parts: tuple[str, ...], why: str) -> None:
        name = "/".join(parts)
        problem = UnusableEntryError(f"the subfolder {unbroken(name)[:300]!r} {why}")
        self.unread.append(MediaClip(_stand_in(name), self.folder.joinpath(*parts), problem=problem))

    def warn(self) -> None:
        """Log what was not looked into."""
        if self.links:
            log.warning("%s: %d subfolders are links and are not read, such as %s", self.folder, len(self.links),
                        self.links[0])  # fmt: skip


def _without_suffix(places: Iterable[Place]) -> list[Place]:
    return [Place((*parts[:-1], os.path.splitext(parts[-1])[0]), path, is_it) for parts, path, is_it in places]


def _not_read(tree: Tree, suffixes: tuple[str, ...], what: str, without: Collection[str]) -> str:
    """Return what is to be said of the files in subfolders, which are not read; empty where there are none."""
    subfolders = [place for place in tree.places if place.is_folder]
    counts: dict[str, int] = {}
    example, left = "", MAX_COUNTED
    for each in subfolders:
        if left <= 0:
            break
        below = Tree.of(Path(each.path), True, without, left) if os.access(each.path, os.R_OK) else None
        places = [] if below is None else below.places
        left -= 1 + len(places)
        files = [place for place in places if not place.is_folder and place.path.lower().endswith(suffixes)]
        if files:
            counts[each.parts[-1]] = len(files)
            (first,) = _without_suffix(files[:1])
            example = example or SEPARATOR.join((*each.parts, *first.parts))
    if not counts:
        return ""
    at_least = "at least " if left <= 0 else ""
    have = "its subfolder has" if len(counts) == 1 else f"its {at_least}{len(counts)} subfolders have"
    n_files = sum(counts.values())
    these = f"1 {what.removesuffix('s')}, which is" if n_files == 1 else f"{at_least}{n_files} {what}, which are"
    return f"; {have} {these} not read: --subfolders reads them, as {example!r} and so on"


def one_each(
    places: Iterable[Place], separator: str | None, choose: Callable[[list[Path]], list[Path]] = list
) -> list[MediaClip]:
    """Return one clip per id; a name that can be none, and two places of one id, are clips with a problem."""
    clips: dict[str, list[str]] = {}
    problems: dict[str, ClipError] = {}
    for parts, path, _ in places:
        try:
            identifier = path_id(parts, separator or SEPARATOR)
        except UserError as error:
            shown = "/".join((*parts[:-1], os.path.basename(path)))
            identifier = _stand_in(shown)
            problems[identifier] = UnusableEntryError(f"{unbroken(shown)[:300]!r} can be no clip: {error}; rename it")
        clips.setdefault(identifier, []).append(path)
    result = []
    for identifier, texts in clips.items():
        paths, problem = [Path(text) for text in texts], problems.get(identifier)
        if len(paths) > 1 and problem is None:
            paths = choose(paths)
            if len(paths) > 1:
                one, other = _shown(paths[0], paths), _shown(paths[1], paths)
                problem = ClipError(f"{one} and {other} would both be clip {identifier!r}; rename or remove one")
        result.append(MediaClip(identifier, paths[0], problem=problem))
    _warn_of_case(clips)
    return result


def _stand_in(name: str) -> str:
    """Return what stands for a name that can be no id: in failures.csv, and where an output of it is looked for.

    It is no clip's id, and no other name's.
    """
    shown = unbroken(name).replace("/", SEPARATOR).replace("\\", SEPARATOR).lstrip(".")
    is_long = len(shown.encode()) > 100
    with contextlib.suppress(UserError):
        is_long = is_long or path_id([shown]) == shown
    digest = hashlib.blake2b(os.fsencode(name), digest_size=4).hexdigest()
    return f"{shown[:25]}...{digest}" if is_long else shown


def _shown(path: Path, paths: Sequence[Path]) -> str:
    """Return a path as far as it tells apart several."""
    return repr(os.path.relpath(path, os.path.commonpath([each.parent for each in paths])))


def _warn_of_case(ids: Iterable[str]) -> None:
    folded: dict[str, str] = {}
    for identifier in ids:
        other = folded.setdefault(identifier.casefold(), identifier)
        if other is not identifier:
            log.warning("the clips %s and %s differ in the case of letters only: a disk that does not tell them apart "
                        "(of macOS or Windows) keeps one of the two", other, identifier)  # fmt: skip
            return
