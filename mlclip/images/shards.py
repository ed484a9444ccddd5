"""Photos inside .tar files, such as the shards of webdataset. They are read in place; nothing is unpacked.

A member has a path like that of a file in a folder: `train/shard-000.tar/0001.jpg`. An index of a shard holds where the bytes
of each member lie, so that any photo is read with one seek, by any process or thread. Each process indexes a shard once.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import tarfile
from functools import lru_cache
from typing import NamedTuple

SUFFIX = ".tar"
HASH_BYTES = 16
PIECE = 1 << 20  # bytes that are read at a time
_TAR_ERRORS = (tarfile.TarError, OSError, ValueError, OverflowError, LookupError, RecursionError, MemoryError)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


class Index(NamedTuple):
    """The ordinary files in a shard, in its order, and what is wrong with the shard or None."""

    members: dict[str, tuple[int, int]]  # name -> (start, size) of its bytes in the shard
    refused: dict[str, str]  # name -> why it is not read
    problem: str | None
    repeated: tuple[str, ...] = ()  # names of members before one with the same name, which alone is read


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


def content_hash(file: str) -> bytes:
    """The BLAKE2b hash (16 bytes) of a photo's bytes. `file` may name a member of a shard. Raises OSError as `open` does.

    Dates and names do not enter it, so that a copied or unpacked photo has the hash of the original.
    """
    place = locate(file)
    digest, left = hashlib.blake2b(digest_size=HASH_BYTES), place.size
    with open(place.file, "rb") as stream:
        stream.seek(place.start)
        while left > 0 and (piece := stream.read(min(PIECE, left))):
            digest.update(piece)
            left -= len(piece)
    return digest.digest()


def index_of(shard: str) -> Index:
    """The index of a shard. It is made again if the file has changed. Raises OSError if the file cannot be opened."""
    status = os.stat(shard)
    return _index(os.path.abspath(shard), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def _index(shard: str, size: int, mtime_ns: int) -> Index:
    members: dict[str, tuple[int, int]] = {}
    refused: dict[str, str] = {}
    repeated: list[str] = []
    whole = False
    with open(shard, "rb") as file:
        head = file.read(6)
        if head.startswith(_COMPRESSED):
            return Index({}, {}, "compressed, so that photos in it cannot be found at once; unpack it to a .tar")
        file.seek(0)
        try:
            with tarfile.TarFile(fileobj=file) as archive:
                while (info := archive.next()) is not None and 0 <= info.size <= size - info.offset_data:
                    name = posixpath.normpath(info.name)
                    if members.pop(name, None):  # of several members with one name the last one counts
                        repeated.append(name)
                    refused.pop(name, None)
                    if name.startswith(("/", "../")) or name == "..":
                        refused[name] = "its name leads out of the archive"
                    elif info.issparse() or not (info.isreg() or info.isdir()):
                        refused[name] = "a link, a device or a sparse file in the archive"
                    elif info.isreg():
                        members[name] = (info.offset_data, info.size)
                    archive.members.clear()  # or every header would stay in memory
                file.seek(archive.offset)
                whole = info is None and file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
        except _TAR_ERRORS:
            pass  # `whole` says so
    if whole:
        return Index(members, refused, None, tuple(repeated))
    cut = f"damaged or cut short; the {len(members)} files before that place are used"
    return Index(members, refused, cut if members else "not a readable .tar file", tuple(repeated))
