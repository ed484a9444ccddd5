"""View embeddings on disk: half-precision shards, each written whole, and a manifest written last.

Embeddings are kept rather than similarities, so that new class names, prompts or thresholds cost no second pass
over the photos. A store belongs to one model and one set of views; a photo in it is known by its relative path,
size and modification time, so a changed photo is a new one. Shards hold everything that is needed to go on after a
kill; the manifest says what the store is for and whether its last run came to its end.

Letters: N photos, V views per photo, D the joint embedding.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import InputError
from ..files import atomic, cache_folder, load_plain, save_plain
from ..images import Photo

MANIFEST = "mlclip-store.json"
LOCK = "lock"
Identity = tuple[str, int, int]  # relative path, bytes, modification time in ns


@dataclass(frozen=True)
class StoreKey:
    """What embeddings depend on besides the photo. `grids` (1, 3) means the whole photo, then its 3×3 snippets."""

    sha256: str  # of the weight file
    activation: str
    input_size: int  # pixels, square; views are squeezed to it
    grids: tuple[int, ...]

    @property
    def views(self) -> int:
        """V: how many views a photo has."""
        return sum(n * n for n in self.grids)


def default_store(key: StoreKey, root: str) -> Path:
    """Where the store of photos under `root` lies unless the user names a place: in the cache."""
    name = hashlib.sha256(json.dumps([asdict(key), os.fsencode(root).hex()]).encode()).hexdigest()[:20]
    return cache_folder() / "embeddings" / name


def identity(photo: Photo) -> Identity:
    return photo.path, photo.size, photo.mtime_ns


class Store:
    """A folder of shards. Open it with the key it must have; several processes may write to it by rank."""

    def __init__(self, folder: str | Path, key: StoreKey):
        self.folder, self.key = Path(folder), key
        self._check_key()
        self._rows: dict[Identity, tuple[Path, int]] = {}
        for shard in sorted(self.folder.glob("shard-*.pt")):
            self._register(shard, load_plain(shard, kind="embeddings", made_by="mlclip pseudolabel")["photos"])

    def _check_key(self) -> None:
        manifest = self.folder / MANIFEST
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = json.loads(manifest.read_text())["key"] if manifest.exists() else None
        except OSError as error:
            raise InputError(
                f"cannot use {self.folder} as embedding store: {error.strerror}; choose another with --store"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{manifest} is damaged; remove the folder {self.folder} and run again") from error
        if held is None:
            self.write_manifest(complete=False)
        elif held != json.loads(json.dumps(asdict(self.key))):
            raise InputError(
                f"{self.folder} holds embeddings of another model or other views; choose another with --store"
            )

    def _register(self, shard: Path, photos: Sequence[Sequence]) -> None:
        for row, (path, size, mtime_ns) in enumerate(photos):
            self._rows[path, size, mtime_ns] = (shard, row)

    def __contains__(self, photo: Photo) -> bool:
        return identity(photo) in self._rows

    def write_shard(self, photos: Sequence[Photo], embeddings: Tensor, rank: int = 0) -> None:
        """Add the embeddings (N, V, D) of N photos as one file, whole or not at all."""
        number = 1 + max((int(p.stem.split("-")[1]) for p in self.folder.glob(f"shard-*-{rank}.pt")), default=-1)
        shard = self.folder / f"shard-{number:06d}-{rank}.pt"
        listed = [list(identity(photo)) for photo in photos]
        content = {"format": "mlclip.embeddings", "version": 1, "photos": listed, "embeddings": embeddings.half()}
        save_plain(content, shard)
        self._register(shard, listed)

    def write_manifest(self, *, complete: bool) -> None:
        """Say what the store is for, and whether the run that wrote it came to its end."""
        content = {"format": "mlclip.store", "version": 1, "key": asdict(self.key), "complete": complete}
        with atomic(self.folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")

    def refresh(self) -> None:
        """Take in shards that other processes have written since this one opened the store."""
        known = {shard for shard, _ in self._rows.values()}
        for shard in sorted(set(self.folder.glob("shard-*.pt")) - known):
            self._register(shard, load_plain(shard, kind="embeddings", made_by="mlclip pseudolabel")["photos"])

    def read(self, photos: Sequence[Photo]) -> Iterator[tuple[Tensor, Tensor]]:
        """For every shard in turn: indices (n,) into `photos`, and their embeddings (n, V, D) in float32."""
        by_shard: dict[Path, list[tuple[int, int]]] = {}
        for index, photo in enumerate(photos):
            shard, row = self._rows[identity(photo)]
            by_shard.setdefault(shard, []).append((index, row))
        for shard, pairs in by_shard.items():
            indices, rows = torch.tensor(pairs).unbind(1)
            embeddings = load_plain(shard, kind="embeddings", made_by="mlclip pseudolabel")["embeddings"]
            yield indices, embeddings[rows].float()


def refuse_foreign(folder: Path) -> None:
    """InputError if `folder` holds files but is no embedding store: nothing of the user's is written among."""
    ours = (folder / MANIFEST).exists() or (folder / LOCK).exists()
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise InputError(f"{folder} holds other files and is no embedding store; give --store an empty folder")
