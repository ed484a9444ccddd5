"""The stores in the cache: what they hold, and how they are deleted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..config import InputError
from ..files import cache_folder, load_plain
from .store import KINDS, LOCK, MANIFEST, PHOTOS, SHARD, TEMPORARY, files_of, is_store, lock_store, read_manifest


@dataclass(frozen=True)
class StoreInfo:
    """One store on disk. Damaged files do not raise: a damaged shard counts no photos."""

    path: Path
    size: int  # bytes of all its files
    photos: int  # with vectors in the store; an old version of a changed photo counts too
    complete: bool  # the last run that wrote to it finished
    kind: str = "embeddings"  # or another one of KINDS


def list_stores() -> list[StoreInfo]:
    """All stores in the cache, by kind, in the order of their folder names."""
    roots = [(kind, cache_folder() / kind) for kind in KINDS]
    folders = [(kind, folder) for kind, root in roots if root.is_dir() for folder in sorted(root.iterdir())]
    return [_describe(folder, kind) for kind, folder in folders if is_store(folder)]


def _describe(folder: Path, kind: str) -> StoreInfo:
    photos, complete = 0, False
    for shard in files_of(folder, SHARD):
        with suppress(InputError):
            photos += len(load_plain(shard, kind=kind, made_by=KINDS[kind], mmap=True)["content"])
    with suppress(OSError, ValueError, KeyError, TypeError):
        complete = read_manifest(folder)["complete"] is True
    size = sum(file.lstat().st_size for file in folder.iterdir() if file.is_file())
    return StoreInfo(folder, size, photos, complete, kind)


def clear_stores(stores: Iterable[StoreInfo]) -> int:
    """Delete stores and return the bytes that were freed. Only files that mlclip wrote are deleted.

    If a store's folder holds other files, the folder stays, with those files and the manifest. Raises InputError if a
    path is not a store, if another process is using it, or if a file cannot be deleted. Earlier stores in the list
    are then already deleted.
    """
    freed = 0
    for folder in [info.path for info in stores]:
        if not is_store(folder):
            raise InputError(f"{folder} is not an embedding store of mlclip. Nothing in it was deleted.")
        with lock_store(folder):
            for pattern in (SHARD, TEMPORARY, re.compile(re.escape(PHOTOS))):
                freed += sum(map(_delete, files_of(folder, pattern)))
            if {file.name for file in folder.iterdir()} <= {MANIFEST, LOCK}:
                freed += _delete(folder / MANIFEST)
        with suppress(OSError):  # not empty: other files stay
            folder.rmdir()
    return freed


def _delete(file: Path) -> int:
    """Delete one file and return its size in bytes."""
    try:
        size = file.lstat().st_size
        file.unlink()
    except OSError as error:
        raise InputError(f"cannot delete {file}: {error.strerror}. Check its permissions.") from error
    return size
