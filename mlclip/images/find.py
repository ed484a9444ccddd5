"""Finds the photos that folders, files, patterns and list files name. Does not open the photos."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..config import InputError
from .shards import locate, split_member
from .sources import NO_IMAGES, SUFFIXES, common_folder, gather, what_is


@dataclass(frozen=True)
class Photo:
    """A file that should be a photo. `path` is relative to the root, with "/", and may contain surrogate escapes.

    A photo in a shard has a path below it, `shard-000.tar/0001.jpg`, and the modification time of the shard.
    """

    path: str
    file: str  # absolute
    size: int  # bytes
    mtime_ns: int


@dataclass(frozen=True)
class Skip:
    """A file or folder that was named or found but cannot be used. `path` is relative to the root."""

    path: str
    reason: str


@dataclass(frozen=True)
class Found:
    """The photos of the sources, in the order of the sources and sorted within a folder. `repeated` counts duplicates."""

    root: str
    photos: list[Photo]
    skipped: list[Skip]
    repeated: int


def find_images(sources: Sequence[str | Path]) -> Found:
    """All photos that the sources name, each of them once. No photo is opened.

    A source is one of: a folder, which is searched with all its subfolders for SUFFIXES in upper or lower case, without
    hidden names and mlclip's stores, and for .tar shards where it has no photos of its own; a file with any suffix; a .tar
    shard, whose members with SUFFIXES are photos; a pattern such as "trip/*.jpg"; "@list.txt", a text file
    with one path per line, relative to the list file, where "#" begins a comment line; "@table.csv:column" or
    "@table.parquet:column", a column of such paths. Links to folders are followed;
    each folder is searched once per source. The root is the deepest folder that contains all sources.
    Raises InputError if a source does not exist or is neither a file nor a folder, and if no photo is found.
    """
    names = [os.fspath(source) for source in ([sources] if isinstance(sources, str | Path) else sources)]
    if not names:
        raise InputError("No photos are named. Name a folder, files, or @list.txt.")
    gathered = [gather(name) for name in names]
    root = common_folder(each.base for each in gathered)
    photos, skipped, seen, repeated = [], [], set(), 0
    real_folder = lru_cache(_real_path)
    for each in gathered:
        for file in each.files:
            folder, name = os.path.split(file)
            real = _real_path(file) if os.path.islink(file) else os.path.join(real_folder(folder), name)
            real = os.path.normcase(real)  # Windows has no upper and lower case
            repeated += real in seen
            if real not in seen:
                seen.add(real)
                photo = _check(file, root)
                (photos if isinstance(photo, Photo) else skipped).append(photo)
        skipped += [Skip(_relative(path, root), reason) for path, reason in each.failures]
    if not photos:
        raise InputError(_nothing_found(names, skipped))
    return Found(root, photos, skipped, repeated)


def _nothing_found(names: list[str], skipped: list[Skip]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    real_skips = [skip for skip in skipped if skip.reason != NO_IMAGES]
    why = (
        f" Skipped {len(real_skips)}, the first is {real_skips[0].path}: {real_skips[0].reason}." if real_skips else ""
    )
    return f"No images found in {shown} (searched for {' '.join(SUFFIXES)}).{why} Name another folder or file."


def _check(file: str, root: str) -> Photo | Skip:
    path = _relative(file, root)
    try:
        place = locate(file)
        if place.file == file and not stat.S_ISREG(os.stat(file).st_mode):
            return Skip(path, what_is(file))
    except (OSError, ValueError) as error:
        return Skip(path, str(error.strerror) if split_member(file) else what_is(file))
    return Photo(path, file, place.size, place.mtime_ns)


def _real_path(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a NUL byte
        return path


def _relative(path: str, root: str) -> str:
    inside = path.removeprefix(root.rstrip(os.sep) + os.sep)
    return path if inside == path else inside.replace(os.sep, "/")
