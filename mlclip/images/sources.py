"""What a source names: the files of a folder, a file, a pattern, a list file or a shard. Nothing is opened but lists and shards."""

from __future__ import annotations

import glob
import os
import shlex
import stat
from collections.abc import Iterable
from typing import NamedTuple

from ..config import InputError
from .list_file import read_paths
from .shards import index_of, is_shard

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
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
STORE_MARK = "mlclip-store.json"  # a folder with this file belongs to mlclip and is not searched
IGNORED = ("__MACOSX",)  # as are all names that begin with a dot
NO_IMAGES = "no images in this folder"
_REMEDY = "Name a folder, an image file, a .tar shard, or @list.txt."


class Gathered(NamedTuple):
    """What one source names: absolute paths of files, not checked yet, and (path, reason) of folders that failed."""

    base: str  # the deepest folder that contains all files
    files: list[str]
    failures: list[tuple[str, str]]


def gather(source: str) -> Gathered:
    path = os.path.abspath(source) if source else ""
    if os.path.isdir(path):
        files, failures = _walk(path)
        return Gathered(path, files, failures if files or failures else [(path, NO_IMAGES)])
    if os.path.isfile(path):
        _refuse_video(source)
        return Gathered(os.path.dirname(path), *_inside(path))
    if os.path.lexists(path):
        raise InputError(f"{source} is {what_is(path)}. {_REMEDY}")
    if source.startswith("@"):
        return _read_list(source[1:])
    try:
        matches = sorted(glob.glob(source, recursive=True)) if glob.has_magic(source) else []
    except ValueError:  # a NUL byte in the folder's name
        matches = []
    if not matches:
        raise InputError(f"{source or 'an empty name'} not found. {_REMEDY}")
    return _gather_matches([os.path.abspath(match) for match in matches])


def _gather_matches(matches: list[str]) -> Gathered:
    """The photos among the matches of a pattern: files with an image suffix, and the contents of folders."""
    folders = [match for match in matches if os.path.isdir(match)]
    used = [match for match in matches if (_has_suffix(match) or is_shard(match)) and match not in folders]
    bases, files, failures = [*folders, *map(os.path.dirname, used)], [], []
    for match in used:
        inside, more = _inside(match)
        files += inside
        failures += more
    for folder in folders:
        inside, more = _walk(folder)
        files += inside
        failures += more
    return Gathered(common_folder(bases or map(os.path.dirname, matches)), list(dict.fromkeys(files)), failures)


def _read_list(file: str) -> Gathered:
    """The paths in a list file. Paths that do not exist are skipped later, with a reason."""
    folder, entries = read_paths(file)
    files, failures, bases = [], [], []
    for entry in entries:
        inside, more = _walk(entry) if os.path.isdir(entry) else _inside(entry)
        bases += [entry if os.path.isdir(entry) else os.path.dirname(entry)] if os.path.exists(entry) else []
        files += inside
        failures += more
    return Gathered(common_folder(bases or [folder]), files, failures)


def _walk(top: str) -> tuple[list[str], list[tuple[str, str]]]:
    """All files with an image suffix under `top`, sorted, and (folder, reason) of folders that cannot be listed.

    Real folders are searched before links to folders, so that a photo gets its real path if it has one below `top`.
    """
    files, shards, failures, seen = [], [], [], set()
    folders, links = [top], []
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        try:
            status, names = os.stat(here), sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            failures.append((here, f"the folder cannot be listed ({error.strerror})"))
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in seen or any(entry.name == STORE_MARK for entry in names):
            continue
        seen.add(identity)
        for entry in names:
            if entry.name.startswith(".") or entry.name in IGNORED:
                continue
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry.path)
            elif _has_suffix(entry.name):
                files.append(entry.path)
            elif is_shard(entry.name):
                shards.append(entry.path)
    for shard in [] if files else sorted(shards):
        inside, more = _inside(shard)
        files += inside
        failures += more
    return (files if shards else sorted(files)), failures


def _inside(file: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The photos in a shard in its order, and (path, reason) of what cannot be read; any other file stands for itself."""
    if not is_shard(file) or not os.path.isfile(file):
        return [file], []
    try:
        index = index_of(file)
    except OSError as error:
        return [], [(file, f"cannot be read ({error.strerror})")]
    names = [name for name in index.members if _is_photo_name(name)]
    failures = [(_member(file, name), reason) for name, reason in index.refused.items() if _is_photo_name(name)]
    if index.problem or not names:
        failures.append((file, index.problem or "no images in this archive"))
    return [_member(file, name) for name in names], failures


def _member(shard: str, name: str) -> str:
    return os.path.join(shard, *name.strip("/").split("/"))


def _is_photo_name(name: str) -> bool:
    hidden = any((part.startswith(".") and part != "..") or part in IGNORED for part in name.split("/"))
    return _has_suffix(name) and not hidden


def _refuse_video(source: str) -> None:
    if source.lower().endswith(VIDEO_SUFFIXES):
        raise InputError(
            f"{source} is a video. Write its key frames as photos and name their folder: "
            f"mkdir frames && ffmpeg -skip_frame nokey -i {shlex.quote(source)} -fps_mode vfr -q:v 2 frames/%06d.jpg"
        )


def _has_suffix(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def what_is(path: str) -> str:
    """What `path` is, if it is not a regular file."""
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        return "in a folder without read permission"
    except ValueError:
        return "not a valid path"  # a NUL byte
    except OSError:
        return "a broken link" if os.path.islink(path) else "not found"
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def common_folder(folders: Iterable[str]) -> str:
    try:
        return os.path.commonpath(list(folders))
    except ValueError as error:  # Windows: different drives
        raise InputError("The photos are on different drives. Run once for each drive.") from error
