"""Names on disk: the file of a photo that a table names, and names for files that are written about photos."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from types import ModuleType

from ..config import InputError

LONGEST_NAME = 200  # bytes of a file name that is written; file systems allow 255, and a temporary name is longer
_FORBIDDEN = re.compile(r'[<>:"|?*\\\x00-\x1f]')  # in names on Windows
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)


def photo_file(root: str | os.PathLike, path: str, *, system: ModuleType = os.path) -> str:
    """The absolute file of the photo `path` of a table, below the folder `root`.

    An absolute `path` may name a file below `root`, too. Links are followed, because only their owner can put them there.
    InputError if the path leads out of `root`: a table from a stranger must not name any file of the user. `system` is
    `posixpath` or `ntpath`, by default that of this machine.

    >>> import posixpath
    >>> photo_file("/photos", "a/1.jpg", system=posixpath), photo_file("/photos", "/photos/2.jpg", system=posixpath)
    ('/photos/a/1.jpg', '/photos/2.jpg')
    """
    folder = system.abspath(os.fspath(root))
    file = system.normpath(system.join(folder, path))
    inside = system.normcase(folder).rstrip(system.sep) + system.sep
    if not system.normcase(file).startswith(inside):
        remedy = "Write paths relative to that folder, or pass a folder that holds all photos as `root`."
        raise InputError(f"the photo {path!r} of the labels is not in {root}, the folder of the photos. {remedy}")
    return file


def output_names(paths: Sequence[str], ending: str, *, windows: bool | None = None) -> list[str]:
    """For each photo path the relative name of a file about it: the path, with `ending`. Folders are separated by "/".

    No name leads out of the folder, and no name is longer than a file system allows. The names differ also where upper and
    lower case, or the two ways to write an accent, are the same. `windows` (None: if this is Windows) makes them fit for it.

    >>> output_names(["a/1.jpg", "A/1.jpg", "../x.jpg"], ".txt")
    ['a/1.jpg.txt', 'A/1.jpg~2.txt', 'x.jpg.txt']
    >>> output_names(["con.jpg", "12:30.jpg", "trip. /1.jpg"], ".txt", windows=True)
    ['_con.jpg.txt', '12_30.jpg.txt', 'trip__/1.jpg.txt']
    """
    windows = os.name == "nt" if windows is None else windows
    taken, names = set(), []
    for path in paths:
        parts = [_writable(part, windows) for part in path.split("/") if part not in ("", ".", "..")] or ["_"]
        base, number = "/".join(parts), 1
        while True:  # some file systems have no upper and lower case, or take composed letters for the same
            name = base + (f"~{number}" if number > 1 else "") + ending
            key = unicodedata.normalize("NFC", name).casefold()
            if key not in taken:
                break
            number += 1
        taken.add(key)
        names.append(name)
    return names


def _writable(part: str, windows: bool) -> str:
    """One part of a path as a name that can be written."""
    if windows:
        part = _FORBIDDEN.sub("_", part)
        kept = part.rstrip(". ")
        part = kept + "_" * (len(part) - len(kept))
        part = f"_{part}" if _DEVICES.fullmatch(part.partition(".")[0].rstrip(" ")) else part
    data = part.encode("utf-8", "surrogatepass" if windows else "surrogateescape")
    if len(data) <= LONGEST_NAME:
        return part
    short = data[: LONGEST_NAME - 17].decode("utf-8", "ignore")
    return f"{short}~{hashlib.sha256(data).hexdigest()[:16]}"
