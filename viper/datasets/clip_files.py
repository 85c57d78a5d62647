"""Where clips' files lie, and a flat folder of links to them by clip id, as the extracting commands want it."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

from viper.datasets.labels import MEDIA_SUFFIXES, Clip, Labels, media_below
from viper.errors import UserError
from viper.files import check_own_folder, copy_file, own_folder, remove, visible_entries
from viper.fingerprints import fingerprint
from viper.manifest import clip_id
from viper.media.pictures import IMAGE_SUFFIXES
from viper.temporaries import temporary_path

NO_FILE = "clips without a media file"


def find_media(labels: Labels, folder: Path, without: Path | None = None) -> dict[str, Path]:
    """Return clip id -> its file below `folder`: the one the label files name, else the one of the clip's id.

    Where the path they name is not there, its last folder and name are looked for anywhere below `folder`, but not in
    the folder `without`: that of the links. A path that leads out of `folder` is never taken, only looked for in the
    same way.

    Clips without one are dropped, and so are comparisons of them. A UserError are two files that could both be a
    clip's, naming them, and a path out of `folder`, naming the row, where there is nothing else for the clip.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    by_name: dict[str, list[Path]] | None = None
    found: dict[str, Path] = {}
    for clip in labels.clips:
        path = _below(folder, clip.media) if clip.media else None
        leads_out = clip.media is not None and path is None
        if path is None or path.suffix.lower() not in MEDIA_SUFFIXES or not path.is_file():
            by_name = _by_name(folder, without) if by_name is None else by_name
            path = _only(clip, by_name.get(_tail(clip.media or ""), []) or by_name.get(clip.id, []))
        if path is None and leads_out:
            raise UserError(f"{clip.where}: {clip.media!r} is not in {folder}; name a --media_folder that holds it")
        if path is None:
            labels.drop(NO_FILE, clip.id)
        else:
            found[clip.id] = path
    labels.clips = [clip for clip in labels.clips if clip.id in found]
    if labels.drop_orders(f"comparisons of {NO_FILE}", lambda order: any(clip not in found for clip in order)):
        labels.keep_compared()
    return found


def _below(folder: Path, media: str) -> Path | None:
    """Return a path of a label file in a folder; None where it leads out of it, by `../` or from the root."""
    path = folder / os.path.normpath(media)  # `link/..` is the folder itself, not what is above the link's target
    return path if Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)) else None


def link_clips(files: dict[str, Path], folder: Path, overwrite: bool) -> int:
    """Make `<id>.<suffix>` in `folder` for each file: a relative link, a hard link or a copy, the first that works.

    A picture gets a folder of its own, `<id>/<id>.<suffix>`: it is what a folder of frames is. What is there already
    and leads to the same file is left; anything else of that name is a UserError unless `overwrite`. Answers how many
    other entries the folder has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = set()
    for identifier, path in files.items():
        name = f"{identifier}{path.suffix.lower()}"
        is_picture = path.suffix.lower() in IMAGE_SUFFIXES
        link = folder / identifier / name if is_picture else folder / name
        names.add(identifier if is_picture else name)
        if is_picture:
            check_own_folder(folder, identifier)
        if os.path.lexists(link):
            if link.exists() and _is_same(link, path):
                continue
            if not overwrite:
                raise UserError(f"{link}: already exists and is another file; use --overwrite to replace it")
        if is_picture:
            own_folder(folder, identifier)
        _link(path, link)
    return sum(entry.name not in names for entry in visible_entries(folder))


def _is_same(link: Path, path: Path) -> bool:
    """Return whether they are one file, or `link` is a copy."""
    one, other = link.stat(), path.stat()
    if os.path.samestat(one, other):
        return True
    return one.st_size == other.st_size and fingerprint(link) == fingerprint(path)


def _link(path: Path, link: Path) -> None:
    temporary = temporary_path(link.parent, link.suffix)
    target = os.path.relpath(path.resolve(), link.parent.resolve())
    try:
        for make in (
            lambda: os.symlink(target, temporary),
            lambda: os.link(path.resolve(), temporary),
        ):
            with contextlib.suppress(OSError, NotImplementedError):
                make()
                os.replace(temporary, link)
                return
        copy_file(path, link)
    finally:
        remove(temporary)


def _by_name(folder: Path, without: Path | None) -> dict[str, list[Path]]:
    """Return clip id by the name, and <its folder>/<name>, -> files."""
    files = defaultdict(list)
    left_out = without.absolute() if without else None
    for path in media_below(folder):
        if left_out is None or not path.absolute().is_relative_to(left_out):
            files[f"{path.parent.name}/{path.stem}"].append(path)
            with contextlib.suppress(UserError):  # a name that can be no id is no clip's
                files[clip_id(path.stem)].append(path)
    return files


def _tail(media: str) -> str:
    """Return the last folder and the name, without a media suffix, of a path; empty where it has no folder."""
    path = PurePosixPath(media)
    name = path.stem if path.suffix.lower() in MEDIA_SUFFIXES else path.name
    return f"{path.parent.name}/{name}" if path.parent.name else ""


def _only(clip: Clip, paths: list[Path]) -> Path | None:
    if len(paths) > 1:
        raise UserError(
            f"clip {clip.id!r}: {paths[0]} and {paths[1]} could both be its file; name a --media_folder with one"
        )
    return paths[0] if paths else None
