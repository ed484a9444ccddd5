"""Folders, files, patterns and lists → the photos they name, whatever else lies between them. Opens nothing."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..config import InputError

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".bmp",
    ".webp",
    ".gif",
    ".tif",
    ".tiff",
    ".heic",
    ".heif",
    ".avif",
)
STORE_MARK = "mlclip-store.json"  # a folder that holds this file is mlclip's own
LEFT_OUT = ("__MACOSX",)  # and every name that begins with a dot


@dataclass(frozen=True)
class Photo:
    """A file that should be a photo. `path` is relative to the root, with "/", and may hold surrogate escapes."""

    path: str
    file: str  # absolute
    size: int  # bytes
    mtime_ns: int


@dataclass(frozen=True)
class Skip:
    """Something that was asked for and is not used."""

    path: str
    reason: str


@dataclass(frozen=True)
class Found:
    """What the sources hold: `photos` in the order of the sources, sorted within a folder; `repeated` came twice."""

    root: str
    photos: list[Photo]
    skipped: list[Skip]
    repeated: int


class _Gathered(NamedTuple):
    """What one source names: absolute files not yet looked at, and (path, reason) of what is known to fail."""

    base: str  # the deepest folder that holds them all
    files: list[str]
    troubles: list[tuple[str, str]]


def find_images(sources: Sequence[str | Path]) -> Found:
    """Every photo that the sources name, each once; nothing is opened.

    A source is a folder (searched with all its subfolders for SUFFIXES in any case; hidden ones, and mlclip's stores,
    left out), a file (taken whatever its suffix), a pattern such as "trip/*.jpg", or "@list.txt": one path per line,
    relative to the list, "#" begins a comment. Links to folders are followed, each folder once per source.
    The root is the deepest folder that holds all sources. Raises InputError for a source that does not exist or is
    neither file nor folder, and when no photo is found at all.
    """
    names = [os.fspath(source) for source in ([sources] if isinstance(sources, str | Path) else sources)]
    if not names:
        raise InputError("no photos given; name a folder, files, or @list.txt")
    gathered = [_gather(name) for name in names]
    root = _common_folder(each.base for each in gathered)
    photos, skipped, seen, repeated = [], [], set(), 0
    real_folder = lru_cache(os.path.realpath)
    for each in gathered:
        for file in each.files:
            folder, name = os.path.split(file)
            real = os.path.realpath(file) if os.path.islink(file) else os.path.join(real_folder(folder), name)
            repeated += real in seen
            if real not in seen:
                seen.add(real)
                photo = _look_at(file, root)
                (photos if isinstance(photo, Photo) else skipped).append(photo)
        skipped += [Skip(_relative(path, root), reason) for path, reason in each.troubles]
    if not photos:
        raise InputError(_nothing_found(names, skipped))
    return Found(root, photos, skipped, repeated)


def _nothing_found(names: list[str], skipped: list[Skip]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    real_skips = [skip for skip in skipped if skip.reason != _NO_IMAGES]
    why = f"; skipped {len(real_skips)}, first {real_skips[0].path}: {real_skips[0].reason}" if real_skips else ""
    return f"no images found in {shown}{why} (looked for {' '.join(SUFFIXES)}); name another folder or file"


def _gather(source: str) -> _Gathered:
    path = os.path.abspath(source) if source else ""
    if os.path.isdir(path):
        files, troubles = _walk(path)
        return _Gathered(path, files, troubles if files or troubles else [(path, _NO_IMAGES)])
    if os.path.isfile(path):
        return _Gathered(os.path.dirname(path), [path], [])
    if os.path.lexists(path):
        raise InputError(f"{source} is {_what_is(path)}; name a folder, an image file, or @list.txt")
    if source.startswith("@"):
        return _read_list(source[1:])
    matches = sorted(glob.glob(source, recursive=True)) if glob.has_magic(source) else []
    if not matches:
        raise InputError(f"{source or 'an empty name'} not found; name a folder, an image file, or @list.txt")
    return _gather_matches([os.path.abspath(match) for match in matches])


_NO_IMAGES = "no images in this folder"


def _gather_matches(matches: list[str]) -> _Gathered:
    """The matches of a pattern: files with an image's suffix, and what folders among them hold."""
    folders = [match for match in matches if os.path.isdir(match)]
    files = [match for match in matches if _has_suffix(match) and match not in folders]
    bases, troubles = [*folders, *map(os.path.dirname, files)], []
    for folder in folders:
        inside, more = _walk(folder)
        files += inside
        troubles += more
    return _Gathered(_common_folder(bases or map(os.path.dirname, matches)), list(dict.fromkeys(files)), troubles)


def _read_list(file: str) -> _Gathered:
    """The paths in a list file; what does not exist among them is noticed later, as a skip."""
    try:
        data = Path(file).read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"the list @{file} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    lines = (line.strip() for line in data.decode(encoding, "surrogateescape").split("\n"))
    folder = os.path.dirname(os.path.abspath(file))
    entries = [os.path.abspath(os.path.join(folder, line)) for line in lines if line and not line.startswith("#")]
    if not entries:
        raise InputError(f"the list {file} names no photos; write one path per line")
    files, troubles, bases = [], [], []
    for entry in entries:
        inside, more = _walk(entry) if os.path.isdir(entry) else ([entry], [])
        bases += [entry if os.path.isdir(entry) else os.path.dirname(entry)] if os.path.exists(entry) else []
        files += inside
        troubles += more
    return _Gathered(_common_folder(bases or [folder]), files, troubles)


def _walk(top: str) -> tuple[list[str], list[tuple[str, str]]]:
    """All names with an image's suffix under `top`, sorted, and the folders that cannot be listed.

    Real folders are searched before links to folders, so that a photo goes by its real name where it has one.
    """
    files, troubles, seen = [], [], set()
    folders, links = [top], []
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        try:
            status, names = os.stat(here), sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            troubles.append((here, f"the folder cannot be listed ({error.strerror})"))
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in seen or any(entry.name == STORE_MARK for entry in names):
            continue
        seen.add(identity)
        for entry in names:
            if entry.name.startswith(".") or entry.name in LEFT_OUT:
                continue
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry.path)
            elif _has_suffix(entry.name):
                files.append(entry.path)
    return sorted(files), troubles


def _has_suffix(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _look_at(file: str, root: str) -> Photo | Skip:
    path = _relative(file, root)
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return Skip(path, _what_is(file))
    if not stat.S_ISREG(status.st_mode):
        return Skip(path, _what_is(file))
    return Photo(path, file, status.st_size, status.st_mtime_ns)


def _what_is(path: str) -> str:
    """What stands at `path`, where no regular file does."""
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        return "in a folder without permission"
    except (OSError, ValueError):
        return "a broken link" if os.path.islink(path) else "not found"
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _relative(path: str, root: str) -> str:
    inside = path.removeprefix(root.rstrip(os.sep) + os.sep)
    return path if inside == path else inside.replace(os.sep, "/")


def _common_folder(folders: Iterable[str]) -> str:
    try:
        return os.path.commonpath(list(folders))
    except ValueError as error:  # Windows: different drives
        raise InputError("the photos lie on different drives; run the command once for each") from error
