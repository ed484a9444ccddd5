"""Finds the photos that folders, files, patterns, list files and shards name. Does not open the photos."""

from __future__ import annotations

import glob
import os
import shlex
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

from ..config import InputError
from ..files import refuse_nul
from ..progress import Progress
from .shards import index_of, is_shard, locate, split_member
from .sources import LeftOut, read_paths

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
SUFFIXES += (".heic", ".heif", ".avif", *([".jxl"] if find_spec("pillow_jxl") else []))
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
STORE_MARK = "mlclip-store.json"  # a folder with this file belongs to mlclip and is not searched
IGNORED = ("__MACOSX",)  # as are all names that begin with a dot
NO_IMAGES = "no images in this folder"
_REMEDY = "Name a folder, an image file, a .tar shard, or @list.txt."

Contents = tuple[list[str], list[tuple[str, str]]]  # absolute paths of files, and (path, reason) of what failed


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
    """The photos of the sources, in the order of the sources and sorted within a folder. `repeated` counts duplicates.

    `left_out` are lines about folders and files that look like photos and were not read.
    """

    root: str
    photos: list[Photo]
    skipped: list[Skip]
    repeated: int
    known: int = 0  # photos left out because a table has them
    left_out: Sequence[str] = ()

    def say_left_out(self, progress: Progress) -> None:
        for line in self.left_out:
            progress.log(line)
        if self.repeated:
            progress.log(f"named or linked more than once, used once: {self.repeated} photos")


Images = str | os.PathLike | Sequence[str | os.PathLike] | Found  # what `find_images` takes


def find_images(sources: Images, exclude: Sequence[str] = ()) -> Found:
    """All photos that the sources name, each of them once. No photo is opened. What was found already is returned as it is.

    A source is one of: a folder, which is searched with all its subfolders for SUFFIXES in upper or lower case, without
    hidden names, mlclip's stores, thumbnails and recycle bins, and for .tar shards where it has no photos of its own; a file with
    any suffix; a .tar shard, whose members with SUFFIXES are photos; a pattern such as "trip/*.jpg"; "@list.txt", and a column of
    a table, as `read_paths` takes them. Links to folders are followed; each folder is searched once per source. The root is the
    deepest folder that contains all sources. `exclude` are patterns such as "*_mask.png" for names of files and folders, or "a/b*"
    for paths from a source or the current folder. InputError if a source does not exist, or if no photo is found.
    """
    if isinstance(sources, Found):
        return sources
    names = [os.fspath(source) for source in ([sources] if isinstance(sources, str | os.PathLike) else sources)]
    if not names:
        raise InputError("No photos are named. Name a folder, files, or @list.txt.")
    left = LeftOut(exclude)
    gathered = [_gather(name, left) for name in names]
    root = _common_folder(base for base, _, _ in gathered)
    photos, skipped, seen, repeated = [], [], set(), 0
    real_folder = lru_cache(os.path.realpath)
    for base, files, failures in gathered:
        for file in files:
            if left.excludes(file, base):
                continue
            folder, name = os.path.split(file)
            real = os.path.realpath(file) if os.path.islink(file) else os.path.join(real_folder(folder), name)
            real = os.path.normcase(real)  # Windows has no upper and lower case
            if real in seen:
                repeated += 1
                continue
            seen.add(real)
            photo = _check(file, root)
            (photos if isinstance(photo, Photo) else skipped).append(photo)
        skipped += [Skip(_relative(path, root), reason) for path, reason in failures]
    if not photos:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        real = [skip for skip in skipped if skip.reason != NO_IMAGES]
        why = f" Skipped {len(real)}, the first is {real[0].path}: {real[0].reason}." if real else ""
        why += "".join(f" {line[0].upper()}{line[1:]}." for line in left.lines())
        kinds = " ".join(SUFFIXES)
        raise InputError(f"No images found in {shown} (searched for {kinds}).{why} Name another folder or file.")
    return Found(root, photos, skipped, repeated, left_out=left.lines())


def _check(file: str, root: str) -> Photo | Skip:
    path = _relative(file, root)
    try:
        place = locate(file)
        if place.file == file and not stat.S_ISREG(os.stat(file).st_mode):
            return Skip(path, _what_is(file))
    except OSError as error:
        return Skip(path, str(error.strerror) if split_member(file) else _what_is(file))
    return Photo(path, file, place.size, place.mtime_ns)


def _relative(path: str, root: str) -> str:
    inside = path.removeprefix(root.rstrip(os.sep) + os.sep)
    return path if inside == path else inside.replace(os.sep, "/")


def _gather(source: str, left: LeftOut) -> tuple[str, list[str], list[tuple[str, str]]]:
    """What one source names: the deepest folder that contains all of it, files (not checked yet), and what failed with reasons."""
    refuse_nul(source)
    path = os.path.abspath(source) if source else ""
    if os.path.isdir(path):
        files, failures = _walk(path, left)
        return path, files, failures if files or failures else [(path, NO_IMAGES)]
    if os.path.isfile(path):
        if source.lower().endswith(VIDEO_SUFFIXES):
            ffmpeg = f"ffmpeg -skip_frame nokey -i {shlex.quote(source)} -fps_mode vfr -q:v 2 frames/%06d.jpg"
            remedy = "Write its key frames as photos and name their folder"
            raise InputError(f"{source} is a video. {remedy}: mkdir frames && {ffmpeg}")
        return os.path.dirname(path), *_inside(path, left)
    if os.path.lexists(path):
        raise InputError(f"{source} is {_what_is(path)}. {_REMEDY}")
    if source.startswith("@"):  # paths in it that do not exist are skipped later, with a reason
        folder, entries = read_paths(source[1:])
        there = [entry for entry in entries if os.path.exists(entry)]
        bases = [entry if os.path.isdir(entry) else os.path.dirname(entry) for entry in there]
        return _common_folder(bases or [folder]), *_contents(entries, left)
    matches = [os.path.abspath(match) for match in sorted(glob.glob(source, recursive=True)) if glob.has_magic(source)]
    if not matches:
        raise InputError(f"{source or 'an empty name'} not found. {_REMEDY}")
    folders = [match for match in matches if os.path.isdir(match)]
    used = [match for match in matches if (is_photo(match) or is_shard(match)) and match not in folders]
    files, failures = _contents([*used, *folders], left)  # files with an image suffix, then the contents of folders
    bases = [*folders, *map(os.path.dirname, used)]
    return _common_folder(bases or map(os.path.dirname, matches)), list(dict.fromkeys(files)), failures


def _contents(paths: Iterable[str], left: LeftOut) -> Contents:
    """The photos that folders, shards and files hold, one after the other."""
    files, failures = [], []
    for path in paths:
        inside, more = _walk(path, left) if os.path.isdir(path) else _inside(path, left)
        files += inside
        failures += more
    return files, failures


def _walk(top: str, left: LeftOut) -> Contents:
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
        photos, others = [], []
        for entry in names:
            is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
            if is_folder and left.has_folder(here, entry.name):
                continue
            if entry.name.startswith(".") or entry.name in IGNORED or left.excludes(entry.path, top):
                continue
            if is_folder:
                (links if entry.is_symlink() else folders).append(entry.path)
            elif is_photo(entry.name):
                photos.append(entry.path)
            elif is_shard(entry.name):
                shards.append(entry.path)
            elif entry.is_file():
                others.append(entry.path)
        files += photos
        if others:
            left.add_files(others, {os.path.splitext(os.path.basename(photo))[0].lower() for photo in photos})
    if files and shards:
        left.files["shard"] += sorted(shards)
    if files or not shards:
        return sorted(files), failures
    files, more = _contents(sorted(shards), left)
    return files, failures + more


def _inside(file: str, left: LeftOut) -> Contents:
    """The photos in a shard in its order, and (path, reason) of what cannot be read; any other file stands for itself.

    `a.seg.png` beside `a.jpg` is a picture that belongs to the photo `a.jpg`, as webdataset has it.
    """
    if not is_shard(file) or not os.path.isfile(file):
        return [file], []
    try:
        index = index_of(file)
    except OSError as error:
        return [], [(file, f"cannot be read ({error.strerror})")]

    def inside(name: str) -> str:
        return os.path.join(file, *name.strip("/").split("/"))

    names = [name for name in index.members if _is_photo_inside(name)]
    samples = {os.path.splitext(name)[0] for name in names}
    photos = []
    for name in names:
        folder, base = os.path.split(name)
        sample = os.path.join(folder, base.partition(".")[0])
        if sample in samples and sample != os.path.splitext(name)[0]:
            left.files["mask"].append(inside(name))
        else:
            photos.append(inside(name))
    if repeated := [inside(name) for name in index.repeated if _is_photo_inside(name)]:
        left.files["same name"] += repeated
    failures = [(inside(name), reason) for name, reason in index.refused.items() if _is_photo_inside(name)]
    if index.problem or not photos:
        failures.append((file, index.problem or "no images in this archive"))
    return photos, failures


def _is_photo_inside(name: str) -> bool:
    hidden = any((part.startswith(".") and part != "..") or part in IGNORED for part in name.split("/"))
    return is_photo(name) and not hidden


def is_photo(name: str) -> bool:
    """Whether a file of this name is searched for."""
    return name.lower().endswith(SUFFIXES)


def _what_is(path: str) -> str:
    """What `path` is, if it is not a regular file."""
    try:
        os.stat(path)
        return "a named pipe or a device, not a file"
    except PermissionError:
        return "in a folder without read permission"
    except OSError:
        return "a broken link" if os.path.islink(path) else "not found"


def _common_folder(folders: Iterable[str]) -> str:
    try:
        return os.path.commonpath(list(folders))
    except ValueError as error:  # Windows: different drives
        raise InputError("The photos are on different drives. Run once for each drive.") from error
