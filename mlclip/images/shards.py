"""Photos inside .tar files, such as the shards of webdataset. They are read in place; nothing is unpacked.

A member has a path like that of a file in a folder: `train/shard-000.tar/0001.jpg`. An index of a shard holds where the bytes
of each member lie, so that any photo is read with one seek, by any process or thread. Each process indexes a shard once.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from typing import BinaryIO, NamedTuple

SUFFIX = ".tar"
LARGEST_HEADER = 1 << 16  # bytes of one extended header, which holds a long name
MOST_GLOBAL = 1000  # settings for all members, in global headers; tarfile copies them for each member
BLOCK = tarfile.BLOCKSIZE
_TAR_ERRORS = (tarfile.TarError, OSError, ValueError, OverflowError, LookupError, RecursionError)
_COMPRESSED = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))


class Span(NamedTuple):
    """Where the bytes of a member lie in its shard."""

    start: int
    size: int


class Index(NamedTuple):
    """The members of a shard that are ordinary files, in the order of the shard, and what is wrong with the shard or None."""

    members: dict[str, Span]
    refused: dict[str, str]  # name of a member -> why it is not read
    problem: str | None


class Place(NamedTuple):
    """Where the bytes of a photo are: a file, or a part of one. `size` in bytes."""

    file: str
    start: int
    size: int
    mtime_ns: int


def is_shard(name: str) -> bool:
    """Whether a file of this name is read as a shard."""
    return name.lower().endswith(SUFFIX)


def split_member(file: str | os.PathLike) -> tuple[str, str] | None:
    """The shard and the name of the member, if `file` names a member; None for a file of its own."""
    text = os.fspath(file).replace(os.sep, "/")
    at = text.lower().find(SUFFIX + "/")
    while at >= 0:
        shard = text[: at + len(SUFFIX)].replace("/", os.sep)
        if os.path.isfile(shard):
            return shard, text[at + len(SUFFIX) + 1 :]
        at = text.lower().find(SUFFIX + "/", at + 1)
    return None


def locate(file: str | os.PathLike) -> Place:
    """Where the bytes of a photo are. Raises OSError as `os.stat` does, also for a member that its shard does not have."""
    found = split_member(file)
    if found is None:
        status = os.stat(file)
        return Place(os.fspath(file), 0, status.st_size, status.st_mtime_ns)
    shard, name = found
    index = index_of(shard)
    if name in index.refused:
        raise OSError(0, index.refused[name])
    if name not in index.members:
        raise FileNotFoundError(2, f"not in {os.path.basename(shard)}")
    return Place(shard, *index.members[name], os.stat(shard).st_mtime_ns)


def index_of(shard: str) -> Index:
    """The index of a shard. It is made again if the file has changed. Raises OSError if the file cannot be opened."""
    status = os.stat(shard)
    return _index(os.path.abspath(shard), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def _index(shard: str, size: int, mtime_ns: int) -> Index:
    with open(shard, "rb") as file:
        kind = _compression(file)
        if kind:
            return Index(
                {}, {}, f"compressed with {kind}, so that photos in it cannot be found at once; unpack it to a .tar"
            )
        members: dict[str, Span] = {}
        refused: dict[str, str] = {}
        end, whole = 0, True
        try:
            for info, following in _headers(file):
                end = following
                name = posixpath.normpath(info.name)
                reason = _refusal(info, name)
                whole = reason is not None or info.offset_data + info.size <= size
                if not whole:
                    break
                members.pop(name, None)  # of several members with one name the last one counts
                refused.pop(name, None)
                if reason:
                    refused[name] = reason
                elif info.isreg():
                    members[name] = Span(info.offset_data, info.size)
            if whole:
                file.seek(end)
                whole = file.read(BLOCK) == bytes(BLOCK)  # an archive ends with blocks of zeros
        except _TAR_ERRORS:
            whole = False
    if whole:
        return Index(members, refused, None)
    cut = f"damaged or cut short; the {len(members)} files before that place are used"
    return Index(members, refused, cut if members else "not a readable .tar file")


def _refusal(info: tarfile.TarInfo, name: str) -> str | None:
    """Why a member is not read; None for ordinary files and folders."""
    if name.startswith(("/", "../")) or name == "..":
        return "its name leads out of the archive"
    if info.issparse():
        return "a sparse file in the archive"
    if info.issym() or info.islnk():
        return "a link in the archive"
    return None if info.isreg() or info.isdir() else "a device in the archive"


class _HeadersOnly:
    """A file of which only small pieces can be read: headers are small, and tarfile believes the sizes that they declare."""

    def __init__(self, file: BinaryIO):
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_HEADER:
            raise tarfile.ReadError("a header is too large")
        return self.file.read(size)


def _headers(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Each header, and the place of the next one."""
    file.seek(0)
    with tarfile.TarFile(fileobj=_HeadersOnly(file), mode="r") as archive:
        place = -1
        while (info := archive.next()) is not None:
            if archive.offset <= place or info.size < 0:
                raise tarfile.ReadError("a negative size")  # the next header would be read again and again
            if len(archive.pax_headers) > MOST_GLOBAL:
                raise tarfile.ReadError("too many global headers")
            place = archive.offset
            archive.members.clear()  # or every header would stay in memory
            yield info, place


def _compression(file: BinaryIO) -> str | None:
    head = file.read(6)
    return next((kind for start, kind in _COMPRESSED if head.startswith(start)), None)
