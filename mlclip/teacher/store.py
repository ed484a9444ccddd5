"""Vectors of photos on disk: CLIP's embeddings of views, its patch features, or the features of a student's trunk.

A store keeps embeddings instead of similarities, so that new class names, prompts or thresholds do not need a second pass over the
photos. It belongs to one model and one set of views (its `Key`). It knows a photo by its content, so that another date or
name changes nothing. In its folder are:

- shards, `shard-NUMBER-RANK.pt`: for each photo the hash of its content, its bytes, and its vectors in half precision. Each is written
  completely or not at all.
- `photos.pt`: which content each file had, by its path, size and date. So files are not read again to find their content.
- the manifest, `mlclip-store.json`: the key, and whether the last run finished.

Letters: N photos, n photos of one shard, V vectors per photo, D the joint embedding.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..clip.pixels import OPENAI, Pixels
from ..config import InputError
from ..files import (
    FORMAT_VERSION,
    atomic,
    cache_folder,
    file_lock,
    load_plain,
    parse_json,
    refuse_nul,
    save_plain,
    shared_lock,
)
from ..images import STORE_MARK, Photo
from ..images.shards import content_hash

MANIFEST, PHOTOS, LOCK = STORE_MARK, "photos.pt", "lock"
KINDS = {
    "embeddings": "mlclip pseudolabel",
    "cells": "mlclip pseudolabel --method dense",
    "features": "mlclip train --method probe",
}  # what stores hold, and the command that makes it
Identity = tuple[str, int, int]  # absolute path, bytes, modification time in ns

SHARD = re.compile(r"shard-\d+-\d+\.pt")
TEMPORARY = re.compile(rf"\.(shard-\d+-\d+\.pt|{re.escape(PHOTOS)}|{re.escape(MANIFEST)})\..*|\.token-[0-9a-f]+")


@dataclass(frozen=True)
class Key:
    """What the vectors in a store depend on besides the photo. `grids` (1, 3) means the whole photo, then its 3×3 snippets."""

    kind: str  # one of KINDS
    sha256: str  # of the model's weights
    network: str  # CLIP's activation, or the architecture of a student
    input_size: int  # pixels; each view is resized to this square
    grids: tuple[int, ...] = (1,)
    side: int = 1  # a view has side × side vectors; more than one only for patch features
    attention: str = ""  # for patch features: of the second run of a transformer's last block, see `clip/encoders.py`
    precision: str = "fp32"  # of the image encoder
    pixels: Pixels = OPENAI  # how the views are resized and normalised

    def as_plain(self) -> dict:
        """The key as JSON holds it."""
        return asdict(self) | {"grids": list(self.grids), "pixels": self.pixels.for_embeddings()}

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of vectors of each grid."""
        return tuple(n * n * self.side**2 for n in self.grids)

    @property
    def vectors(self) -> int:
        """V: the number of vectors per photo."""
        return sum(self.sizes)

    @property
    def elsewhere(self) -> str:
        """How the user chooses another folder."""
        folder = "" if self.kind == "features" else "another folder with `store`, or "
        return f"Choose {folder}another cache with MLCLIP_CACHE."


def default_store(key: Key, root: str) -> Path:
    """The default folder, in the cache, of the store for photos under `root`."""
    name = hashlib.sha256(json.dumps([key.as_plain(), os.fsencode(root).hex()]).encode()).hexdigest()[:20]
    return cache_folder() / key.kind / name


def identity(photo: Photo) -> Identity:
    """What says that a file has not changed."""
    return os.path.abspath(photo.file), photo.size, photo.mtime_ns


def contents_of(photos: Sequence[Photo], threads: int = 4) -> list[bytes | None]:
    """The hash of each file's bytes; None for a file that cannot be read."""

    def read(photo: Photo) -> bytes | None:
        for _ in range(2):  # a network disk may fail once
            with suppress(OSError, ValueError):
                return content_hash(photo.file)
        return None

    with ThreadPoolExecutor(max(1, threads)) as executor:
        return list(executor.map(read, photos))


class Store:
    """A folder of shards, opened with the key that it must have. Opening it writes nothing; several ranks may write shards."""

    def __init__(self, folder: str | Path, key: Key):
        self.folder, self.key = Path(folder), key
        self.damaged: list[Path] = []  # shards that cannot be read
        self.contents: dict[Identity, bytes] = {}
        self._rows: dict[bytes, tuple[Path, int]] = {}
        self._sizes: set[int] = set()  # in bytes, of the photos in the shards
        self._shards: set[Path] = set()
        self._check_manifest()
        with suppress(InputError, ValueError, TypeError):  # it is missing or damaged: the files are read again
            index = load_plain(self.folder / PHOTOS, kind="photos", made_by=KINDS[key.kind])
            self.contents = dict(zip(map(tuple, index["photos"]), _rows_of(index["content"]), strict=True))
        self._known = len(self.contents)
        self.refresh()

    def _check_manifest(self) -> None:
        refuse_nul(self.folder)
        try:
            found = read_manifest(self.folder)["key"] if (self.folder / MANIFEST).exists() else None
        except OSError as error:
            raise InputError(f"cannot use the store {self.folder}: {error.strerror}. {self.key.elsewhere}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.folder / MANIFEST} is damaged. Remove {self.folder} and run again.") from error
        if found not in (None, self.key.as_plain()):
            raise InputError(
                f"{self.folder} holds {self.key.kind} of another model or other views. {self.key.elsewhere}"
            )

    def refresh(self) -> None:
        """Add the shards that other processes have written since this process opened the store."""
        for shard in sorted(set(self.folder.glob("shard-*.pt")) - self._shards - set(self.damaged)):
            try:
                loaded = load_plain(shard, kind=self.key.kind, made_by=KINDS[self.key.kind], mmap=True)
                self._register(shard, loaded["content"], loaded["bytes"])
            except InputError:
                self.damaged.append(shard)

    def _register(self, shard: Path, content: Tensor, sizes: list[int]) -> None:
        self._shards.add(shard)
        self._sizes.update(sizes)
        self._rows.update((row_content, (shard, row)) for row, row_content in enumerate(_rows_of(content)))

    def __contains__(self, photo: Photo) -> bool:
        return self.contents.get(identity(photo)) in self._rows

    def shard_of(self, photo: Photo) -> Path:
        """The shard that holds a photo of this store."""
        return self._rows[self.contents[identity(photo)]][0]

    def recognise(self, photos: Sequence[Photo], threads: int = 4) -> None:
        """Find photos whose content is in the store under another name or date."""
        unknown = [photo for photo in photos if photo.size in self._sizes and identity(photo) not in self.contents]
        for photo, content in zip(unknown, contents_of(unknown, threads), strict=True):
            if content is not None:
                self.contents[identity(photo)] = content

    def take_from_others(self, photos: Sequence[Photo]) -> int:
        """Copy what this store lacks from stores of other folders in the cache: photos have moved or were copied. Returns how many."""
        for folder in sorted(filter(is_store, (cache_folder() / self.key.kind).glob("*"))):
            missing = [photo for photo in photos if photo not in self]
            if not missing or folder.resolve() == self.folder.resolve():
                continue
            with suppress(InputError):  # it has another key, or it is damaged or just deleted
                other = Store(folder, self.key)
                other.contents = (
                    self.contents
                )  # its own are of files in another folder; each photo is hashed once for all stores
                other.recognise(missing)
                known = [photo for photo in missing if photo in other]
                for shard, pairs in other.rows_by_shard(known).items():
                    found, vectors = [known[index] for index, _ in pairs], other.read_shard(shard)
                    contents = [other.contents[identity(photo)] for photo in found]
                    self.write_shard(self.next_shard(), found, contents, vectors[[row for _, row in pairs]])
        return sum(photo in self for photo in photos)

    def next_shard(self, rank: int = 0) -> Path:
        """A file for the next shard of a rank."""
        numbers = [int(file.stem.split("-")[1]) for file in self.folder.glob(f"shard-*-{rank}.pt")]
        return self.folder / f"shard-{1 + max(numbers, default=-1):06d}-{rank}.pt"

    def write_shard(self, shard: Path, photos: Sequence[Photo], contents: Sequence[bytes], vectors: Tensor) -> None:
        """Write the vectors (n, V, D) of photos with these contents as one file, completely or not at all."""
        content, sizes = as_tensor(contents), [photo.size for photo in photos]
        form = {"format": f"mlclip.{self.key.kind}", "version": FORMAT_VERSION}
        save_plain(form | {"content": content, "bytes": sizes, "embeddings": vectors.half()}, shard)
        self.contents.update(zip(map(identity, photos), contents, strict=True))
        self._register(shard, content, sizes)

    def write_index(self, *, complete: bool) -> None:
        """Write which content each file had, if that is new, and the manifest. `complete`: whether the run has finished."""
        if len(self.contents) > self._known:
            form = {"format": "mlclip.photos", "version": FORMAT_VERSION, "photos": list(map(list, self.contents))}
            save_plain(form | {"content": as_tensor(list(self.contents.values()))}, self.folder / PHOTOS)
            self._known = len(self.contents)
        form = {"format": "mlclip.store", "version": FORMAT_VERSION}
        with atomic(self.folder / MANIFEST) as temporary:
            text = json.dumps(form | {"key": self.key.as_plain(), "complete": complete}, indent=1)
            temporary.write_text(text + "\n")

    @contextmanager
    def writing(self, missing: int) -> Iterator[None]:
        """Hold the lock of the store and make its folder, to write the vectors of `missing` photos.

        Damaged shards are removed, so that their photos are encoded again. InputError if the folder holds other files, cannot be
        written, or is used by another process.
        """
        with ExitStack() as stack:
            try:
                if self.folder.is_dir() and not (self.folder / MANIFEST).exists():  # never among the files of the user
                    others = [file for file in self.folder.iterdir() if not is_store(file)]  # patch features are inside
                    foreign = [file for file in others if file.name != LOCK and not TEMPORARY.fullmatch(file.name)]
                    if foreign:
                        raise InputError(
                            f"{self.folder} holds other files and is not an embedding store. Pass an empty folder as `store`."
                        )
                stack.enter_context(lock_store(self.folder, self.key.elsewhere))
                for file in [*self.damaged, *files_of(self.folder, TEMPORARY)]:
                    file.unlink()
            except OSError as error:
                raise InputError(
                    f"{missing} photos are not in the store of {self.key.kind} {self.folder}, and it cannot be written: "
                    f"{error.strerror}. {self.key.elsewhere}"
                ) from error
            self.damaged.clear()
            self.write_index(complete=False)
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep `mlclip cache --clear` from deleting the store, where its folder can be written."""
        with shared_lock(self.folder / LOCK):
            if not all(shard.exists() for shard in self._shards):
                raise InputError(
                    f"the store {self.folder} was deleted while it was in use. Run the same command again."
                )
            if os.access(self.folder, os.W_OK):
                with suppress(InputError):
                    self.write_index(complete=True)  # its date is that of the last use
            yield

    def rows_by_shard(self, photos: Sequence[Photo]) -> dict[Path, list[tuple[int, int]]]:
        """For every shard that holds some of `photos`: pairs of the index into `photos` and the row in the shard."""
        by_shard: dict[Path, list[tuple[int, int]]] = {}
        for index, photo in enumerate(photos):
            shard, row = self._rows[self.contents[identity(photo)]]
            by_shard.setdefault(shard, []).append((index, row))
        return by_shard

    def read_shard(self, shard: Path) -> Tensor:
        """Read the vectors (n, V, D) of one shard from disk, in half precision."""
        try:
            return load_plain(shard, kind=self.key.kind, made_by=KINDS[self.key.kind])["embeddings"]
        except InputError as error:
            raise InputError(
                f"{shard} is missing or damaged. Delete it, if it is there, and run the same command again: only its photos are "
                "encoded again."
            ) from error


def is_store(folder: Path) -> bool:
    """Whether a folder holds a store, of any kind and key. A link to one does not count."""
    return folder.is_dir() and not folder.is_symlink() and (folder / MANIFEST).is_file()


def lock_store(folder: Path, otherwise: str = "") -> AbstractContextManager:
    """The lock of a store, for one process alone. InputError if another one has it, with `otherwise`, what else the user can do."""

    def refuse() -> None:
        raise InputError(f"another mlclip process is using the store {folder}. Wait until it ends. {otherwise}".strip())

    return file_lock(folder / LOCK, if_held=refuse)


def _rows_of(content: Tensor) -> list[bytes]:
    """Hashes (n, 16) as bytes."""
    data, width = content.numpy().tobytes(), content.shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]


def as_tensor(contents: Sequence[bytes]) -> Tensor:
    """Hashes as uint8 (n, 16)."""
    return torch.frombuffer(bytearray(b"".join(contents)), dtype=torch.uint8).view(len(contents), -1)


def read_manifest(folder: Path) -> dict:
    return parse_json((folder / MANIFEST).read_text())


def files_of(folder: Path, name: re.Pattern) -> list[Path]:
    files = (file for file in folder.iterdir() if name.fullmatch(file.name))
    return sorted(file for file in files if file.is_file() and not file.is_symlink())
