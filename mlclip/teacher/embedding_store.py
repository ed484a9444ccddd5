"""View embeddings on disk: half-precision shards, each written completely or not at all, and a manifest.

The store keeps embeddings instead of similarities. So new class names, prompts or thresholds do not need a second pass over
the photos. A store belongs to one model and one set of views. It knows a photo by its relative path, size and
modification time, so a changed photo counts as a new one. The shards hold everything needed to continue after a kill. The
manifest says which model and views the store is for, and whether its last run finished. The features of a student's trunk
(`student/features.py`) and the cells of CLIP's feature maps (`teacher/cells.py`) are kept in the same way, in other folders of
the cache.

Letters: N photos, V views per photo, D the joint embedding.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from torch import Tensor

from ..clip.pixels import OPENAI, Pixels
from ..config import InputError
from ..files import (
    TEMPORARY,
    atomic,
    cache_folder,
    is_stale,
    load_plain,
    locked,
    parse_json,
    refuse_nul,
    save_plain,
)
from ..images import Photo

MANIFEST = "mlclip-store.json"
LOCK = "lock"
KINDS = {
    "embeddings": "mlclip pseudolabel",
    "cells": "mlclip pseudolabel --method dense",
    "features": "mlclip train",
}  # what stores hold, and the command that makes it
Identity = tuple[str, int, int]  # relative path, bytes, modification time in ns
_SHARD = re.compile(r"shard-\d+-\d+\.pt")
_TEMPORARY = re.compile(
    TEMPORARY.format(name=rf"(?:shard-\d+-\d+\.pt|{re.escape(MANIFEST)})") + r"|\.token-[0-9a-f]+\.tmp"
)  # see `files.atomic` and `token_file`


class Key(Protocol):
    """What the content of a store depends on besides the photo."""

    kind: ClassVar[str]  # of the content, one of KINDS
    elsewhere: ClassVar[str]  # how the user chooses another folder

    def as_plain(self) -> dict: ...


@dataclass(frozen=True)
class StoreKey:
    """What embeddings depend on besides the photo. `grids` (1, 3) means the whole photo, then its 3×3 snippets."""

    kind: ClassVar[str] = "embeddings"
    elsewhere: ClassVar[str] = "Choose another folder with `store`."

    sha256: str  # of the weight file
    activation: str
    input_size: int  # pixels; each view is resized to this square
    grids: tuple[int, ...]
    precision: str = "fp32"  # of the image encoder
    pixels: Pixels = OPENAI  # how the views are resized and normalised

    def as_plain(self) -> dict:
        """The key as JSON holds it. fp32 and OpenAI's pixels are left out, so that older stores stay valid."""
        content = asdict(self) | {"grids": list(self.grids), "pixels": self.pixels.for_embeddings()}
        if self.pixels.same_as(OPENAI):
            del content["pixels"]
        if self.precision == "fp32":
            del content["precision"]
        return content

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of views in each grid."""
        return tuple(n * n for n in self.grids)

    @property
    def views(self) -> int:
        """V: the number of views per photo."""
        return sum(self.sizes)


def stores_folder(kind: str = "embeddings") -> Path:
    """The folder in the cache that holds the default stores of one kind."""
    return cache_folder() / kind


def default_store(key: Key, root: str) -> Path:
    """The default folder, in the cache, of the store for photos under `root`."""
    name = hashlib.sha256(json.dumps([key.as_plain(), os.fsencode(root).hex()]).encode()).hexdigest()[:20]
    return stores_folder(key.kind) / name


def identity(photo: Photo) -> Identity:
    """What a store knows a photo by."""
    return photo.path, photo.size, photo.mtime_ns


def _load_shard(shard: Path, kind: str, *, mmap: bool = False) -> dict:
    return load_plain(shard, kind=kind, made_by=KINDS[kind], mmap=mmap)


class Store:
    """A folder of shards, opened with the key that it must have. Several ranks may write to it at the same time."""

    def __init__(self, folder: str | Path, key: Key):
        self.folder, self.key = Path(folder), key
        self._check_key()
        self._rows: dict[Identity, tuple[Path, int]] = {}
        for shard in sorted(self.folder.glob("shard-*.pt")):
            self._register(shard, _load_shard(shard, key.kind, mmap=True)["photos"])

    def _check_key(self) -> None:
        manifest = self.folder / MANIFEST
        try:
            refuse_nul(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            found = parse_json(manifest.read_text())["key"] if manifest.exists() else None
        except OSError as error:
            raise InputError(
                f"cannot use {self.folder} as store of {self.key.kind}: {error.strerror}. {self.key.elsewhere}"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{manifest} is damaged. Remove the folder {self.folder} and run again.") from error
        if found is None:
            self.write_manifest(complete=False)
        elif found != self.key.as_plain():
            raise InputError(
                f"{self.folder} holds {self.key.kind} of another model or other views. {self.key.elsewhere}"
            )

    def _register(self, shard: Path, photos: Sequence[Sequence]) -> None:
        for row, (path, size, mtime_ns) in enumerate(photos):
            self._rows[path, size, mtime_ns] = (shard, row)

    def __contains__(self, photo: Photo) -> bool:
        return identity(photo) in self._rows

    def write_shard(self, photos: Sequence[Photo], embeddings: Tensor, rank: int = 0) -> None:
        """Write the embeddings (N, V, D) of N photos as one file, completely or not at all."""
        number = 1 + max((int(p.stem.split("-")[1]) for p in self.folder.glob(f"shard-*-{rank}.pt")), default=-1)
        shard = self.folder / f"shard-{number:06d}-{rank}.pt"
        listed = [list(identity(photo)) for photo in photos]
        form = f"mlclip.{self.key.kind}"
        content = {"format": form, "version": 1, "photos": listed, "embeddings": embeddings.half()}
        save_plain(content, shard)
        self._register(shard, listed)

    def write_manifest(self, *, complete: bool) -> None:
        """Write the key of the store, and whether the run that wrote it finished."""
        content = {"format": "mlclip.store", "version": 1, "key": self.key.as_plain(), "complete": complete}
        with atomic(self.folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")

    def refresh(self) -> None:
        """Add the shards that other processes have written since this process opened the store."""
        known = {shard for shard, _ in self._rows.values()}
        for shard in sorted(set(self.folder.glob("shard-*.pt")) - known):
            self._register(shard, _load_shard(shard, self.key.kind, mmap=True)["photos"])

    def rows_by_shard(self, photos: Sequence[Photo]) -> dict[Path, list[tuple[int, int]]]:
        """For every shard that holds some of `photos`: pairs of the index into `photos` and the row in the shard."""
        by_shard: dict[Path, list[tuple[int, int]]] = {}
        for index, photo in enumerate(photos):
            shard, row = self._rows[identity(photo)]
            by_shard.setdefault(shard, []).append((index, row))
        return by_shard

    def read_shard(self, shard: Path) -> Tensor:
        """Read the embeddings (n, V, D) of one shard from disk, in half precision."""
        return _load_shard(shard, self.key.kind)["embeddings"]


def refuse_foreign(folder: Path) -> None:
    """InputError if `folder` holds files but is not an embedding store: mlclip must not write among the user's files.

    The manifest is the first file of a store, beside the lock and temporary files.
    """
    if not folder.is_dir() or (folder / MANIFEST).exists():
        return
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise InputError(f"cannot use {folder} as a store: {error.strerror}. Check its permissions.") from error
    if any(name != LOCK and not _TEMPORARY.fullmatch(name) for name in names):
        raise InputError(f"{folder} holds other files and is not an embedding store. Pass an empty folder as `store`.")


def token_file(folder: Path, name: str) -> Path:
    """A file by which ranks find out that they see the same folder. `name` consists of hexadecimal digits."""
    return folder / f".token-{name}.tmp"


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files and tokens of processes that were killed. The caller holds the lock."""
    for file in _files(folder, _TEMPORARY):
        if is_stale(file):
            with suppress(OSError):
                file.unlink()


@dataclass(frozen=True)
class StoreInfo:
    """One store on disk. Damaged files do not raise: a damaged shard counts no photos, a damaged manifest has no key."""

    path: Path
    size: int  # bytes of all its files
    photos: int  # with embeddings in the store; an old version of a changed photo counts too
    sha256: str  # of the model's weight file; "" if the manifest is damaged
    grids: tuple[int, ...]
    complete: bool  # the last run that wrote to it finished
    kind: str = "embeddings"  # or another one of KINDS


def list_stores() -> list[StoreInfo]:
    """All stores in the cache: those of embeddings, of cells and of features, in the order of their folder names."""
    roots = [(kind, stores_folder(kind)) for kind in KINDS]
    folders = [(kind, folder) for kind, root in roots if root.is_dir() for folder in sorted(root.iterdir())]
    return [_describe(folder, kind) for kind, folder in folders if is_store(folder)]


def clear_stores(stores: Iterable[StoreInfo]) -> int:
    """Delete stores and return the bytes that were freed. Only files that mlclip wrote are deleted.

    If a store's folder holds other files, the folder stays, with those files and the manifest. Raises InputError if a
    path is not a store, if another process is writing to it, or if a file cannot be deleted. Earlier stores in the list
    are then already deleted.
    """
    return sum(_clear(info.path) for info in stores)


def is_store(folder: Path) -> bool:
    """Whether a folder holds a store, of any kind and key. A link to one does not count."""
    return folder.is_dir() and not folder.is_symlink() and (folder / MANIFEST).is_file()


def _describe(folder: Path, kind: str) -> StoreInfo:
    photos, key, complete = 0, {}, False
    for shard in _files(folder, _SHARD):
        with suppress(InputError):
            photos += len(_load_shard(shard, kind, mmap=True)["photos"])
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = parse_json((folder / MANIFEST).read_text())
        key, complete = (
            {"sha256": str(content["key"]["sha256"]), "grids": tuple(content["key"].get("grids", ()))},
            content["complete"],
        )
    size = sum(file.lstat().st_size for file in folder.iterdir() if file.is_file())
    return StoreInfo(folder, size, photos, key.get("sha256", ""), key.get("grids", ()), complete is True, kind)


def _files(folder: Path, name: re.Pattern) -> list[Path]:
    files = (file for file in folder.iterdir() if name.fullmatch(file.name))
    return sorted(file for file in files if file.is_file() and not file.is_symlink())


def _clear(folder: Path) -> int:
    if not is_store(folder):
        raise InputError(f"{folder} is not an embedding store of mlclip. Nothing in it was deleted.")
    with locked(folder / LOCK, f"the embedding store {folder}"):
        freed = sum(_delete(file) for file in [*_files(folder, _SHARD), *_files(folder, _TEMPORARY)])
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
