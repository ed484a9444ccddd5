"""Encode photos into view embeddings in a store. Resumable: photos that are already in the store are not encoded again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..distributed import Distributed
from ..images import Photo, PhotoViews, Skip, photo_batches
from ..progress import SILENT, Progress
from .embedding_store import Store, StoreKey, default_store
from .scoring import Teacher
from .shared_store import fill_store

SHARD_PHOTOS = 1024  # a shard is written when it holds this many photos ...
SHARD_VECTORS = 16_384  # ... or this many embeddings, so that a shard of cells stays small ...
SHARD_SECONDS = 60.0  # ... or after this time, so that a kill loses little work


def store_key(teacher: Teacher, grids: Sequence[int], size: int | None = None) -> StoreKey:
    """The key of a store for this teacher and these views. `size` in pixels; None means CLIP's input size."""
    size = size or teacher.input_size
    return StoreKey(teacher.sha256, teacher.clip.activation, size, tuple(grids), teacher.precision, teacher.pixels)


def embed_images(
    photos: Sequence[Photo],
    teacher: Teacher,
    *,
    root: str,
    grids: Sequence[int] = (1, 3),
    size: int | None = None,
    store: str | Path | None = None,
    batch_size: int = 64,
    num_workers: int = 2,
    distributed: Distributed | None = None,
    progress: Progress = SILENT,
) -> tuple[Store, list[Skip]]:
    """Put the views of every readable photo into the store. Returns the store and the photos that could not be read.

    `grids` (1, 3) means the whole photo and its 3×3 snippets, each resized to a square of `size` pixels (None: CLIP's input
    size). `batch_size` counts views, not photos. `store` is a folder, by default one in the cache. With several ranks, each
    encodes its share, and the store of the main rank is complete, also if the ranks have different folders or machines (see
    `fill_store`). Raises InputError if the store cannot be used or if the ranks have different photos.
    """
    distributed = distributed or Distributed()
    key = store_key(teacher, grids, size)
    folder = Path(store) if store else default_store(key, root)
    progress.detail(f"store of embeddings: {folder}")

    def encode(opened: Store, missing: list[Photo]) -> list[Skip]:
        return _encode(opened, missing, len(photos), teacher, batch_size, num_workers, distributed, progress)

    return fill_store(folder, key, photos, encode, distributed)


def _encode(
    store: Store,
    missing: list[Photo],
    photos: int,
    teacher: Teacher,
    batch_size: int,
    num_workers: int,
    distributed: Distributed,
    progress: Progress,
) -> list[Skip]:
    """Put the `missing` photos of this rank into the store; `photos` is the number of all. Returns those that cannot be read."""
    if distributed.world_size == 1:
        progress.detail(f"{photos - len(missing)} of {photos} photos are already in the store")
    if not missing:
        return []
    already_done = photos - len(missing) if distributed.world_size == 1 else 0  # unknown with several ranks
    skipped: list[Skip] = []
    shard = ShardWriter(store, distributed.rank)
    dataset = PhotoViews(missing, store.key.input_size, store.key.grids, teacher.pixels.interpolation)
    batches = photo_batches(
        dataset, batch_size=max(1, batch_size // store.key.views), num_workers=num_workers, device=teacher.device
    )
    total = already_done + len(missing)
    with (progress if distributed.is_main else SILENT).bar(
        "encoding photos", total, "photos", done=already_done
    ) as bar:
        for indices, pixels, unreadable in batches:
            distributed.check()
            skipped += [Skip(missing[index].path, reason) for index, reason in unreadable]
            if pixels is not None:
                embeddings = teacher.embed_photos(pixels, batch_size)  # (n, V, D)
                shard.add([missing[i] for i in indices.tolist()], embeddings.half().cpu())
            bar.update(len(indices) + len(unreadable))
    shard.flush()
    report_frames([missing[index].path for index in dataset.several.nonzero().flatten().tolist()], progress)
    return skipped


def report_frames(paths: list[str], progress: Progress) -> None:
    """Say which files have several frames or pages."""
    if paths:
        progress.log(
            f"files with several frames or pages: {len(paths)}, such as {paths[0]}. Only the first frame of each is used."
        )


class ShardWriter:
    """Collects embeddings and writes them as a shard when there are enough, or when enough time has passed."""

    def __init__(self, store: Store, rank: int):
        self.store, self.rank = store, rank
        self._clear()

    def _clear(self) -> None:
        self.photos: list[Photo] = []
        self.parts: list[Tensor] = []
        self.since = time.monotonic()

    def add(self, photos: list[Photo], embeddings: Tensor) -> None:  # (n, V, D)
        self.photos += photos
        self.parts.append(embeddings)
        vectors = len(self.photos) * embeddings.shape[1]
        if (
            len(self.photos) >= SHARD_PHOTOS
            or vectors >= SHARD_VECTORS
            or time.monotonic() - self.since > SHARD_SECONDS
        ):
            self.flush()

    def flush(self) -> None:
        if self.photos:
            self.store.write_shard(self.photos, torch.cat(self.parts), self.rank)
        self._clear()
