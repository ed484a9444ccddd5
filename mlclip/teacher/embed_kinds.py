"""Encode the views of photos and the cells of several kinds, in one pass, into one store for each.

A photo is decoded once, and a view is encoded once for its embedding and its cells. Only what is missing is computed: a store of
views from an earlier run stays as it is.

Letters: n photos of one batch, V views of a photo, h w cells of a view, D the joint embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..config import InputError
from ..distributed import Distributed
from ..images import Photo, PhotoParts, Skip, collate_parts, photo_batches
from ..methods.dense import VIEWS, pool_cells
from ..progress import SILENT, Progress
from .cells import CellKey, cell_key, embed_views_and_cells
from .embed import ShardWriter, report_frames, store_key
from .embedding_store import Store, default_store
from .scoring import Teacher
from .shared_store import Missing, fill_stores


def embed_kinds(
    photos: Sequence[Photo],
    teacher: Teacher,
    *,
    root: str,
    grids: Sequence[int],
    kinds: Sequence[str],
    attention: str,
    store: str | Path | None = None,
    batch_size: int = 64,
    num_workers: int = 2,
    distributed: Distributed | None = None,
    progress: Progress = SILENT,
) -> tuple[Store, dict[str, Store], list[Skip]]:
    """The store of the views, the store of each kind of cells, and the photos that could not be read.

    As `embed_images`. `kinds` are those of `PseudolabelConfig`. The cells of a kind have a store of their own, in the cache or in a
    subfolder of `store`.
    """
    distributed = distributed or Distributed()
    names = [kind for kind in kinds if kind != VIEWS]
    keys = [store_key(teacher, grids), *(cell_key(kind, teacher, grids, attention) for kind in names)]
    _refuse_equal(names, keys[1:])
    folders = [Path(store) if store else default_store(keys[0], root)]
    folders += [_beside(folders[0], key) if store else default_store(key, root) for key in keys[1:]]

    for folder, key in zip(folders, keys, strict=True):
        progress.detail(f"store of {key.kind}: {folder}")

    def encode(missing: Missing) -> list[Skip]:
        for opened, lacking in missing:
            progress.detail(
                f"{len(photos) - len(lacking)} of {len(photos)} photos are already in the store of {opened.key.kind}"
            )
        return _encode(missing, teacher, batch_size, num_workers, distributed, progress)

    stores, skipped = fill_stores(list(zip(folders, keys, strict=True)), photos, encode, distributed)
    return stores[0], dict(zip(names, stores[1:], strict=True)), skipped


def _refuse_equal(kinds: Sequence[str], keys: Sequence[CellKey]) -> None:
    """InputError for two kinds that are the same cells, because sides are rounded to whole strides."""
    for kind, key in zip(kinds, keys, strict=True):
        first = kinds[keys.index(key)]
        if first != kind:
            raise InputError(
                f"`kinds` {first} and {kind} are the same cells for this CLIP: the photo at {key.input_size} pixels. Leave out one."
            )


def _beside(folder: Path, key: CellKey) -> Path:
    """The subfolder of a store of views that holds the cells of one kind."""
    return folder / f"cells-{hashlib.sha256(json.dumps(key.as_plain()).encode()).hexdigest()[:20]}"


@dataclass
class _Part:
    """Views of one size and set of grids, and the stores that get their embeddings or cells; at most one store of cells."""

    size: int  # pixels
    grids: tuple[int, ...]
    writers: list[tuple[ShardWriter, dict[str, Photo]]] = field(default_factory=list)  # with the missing photos by path

    @property
    def cells(self) -> CellKey | None:
        """The key of the store that lacks cells; None if only embeddings are missing."""
        return next((writer.store.key for writer, _ in self.writers if writer.store.key.kind == "cells"), None)

    def pixels(self) -> int:
        """The pixels of all views of a photo: proportional to the work."""
        return sum(n * n for n in self.grids) * self.size**2


def _parts(missing: Missing, rank: int) -> list[_Part]:
    parts: list[_Part] = []
    for store, photos in missing:
        if photos:
            size, grids = store.key.input_size, store.key.grids
            joined = [part for part in parts if (part.size, part.grids) == (size, grids) and part.cells is None]
            parts += [] if joined else [_Part(size, grids)]
            part = joined[0] if joined else parts[-1]
            part.writers.append((ShardWriter(store, rank), {photo.path: photo for photo in photos}))
    return parts


def _encode(
    missing: Missing,
    teacher: Teacher,
    batch_size: int,
    num_workers: int,
    distributed: Distributed,
    progress: Progress,
) -> list[Skip]:
    """Put the missing photos of this rank into the stores. Returns those that cannot be read."""
    parts = _parts(missing, distributed.rank)
    photos = list({photo.path: photo for _, lacking in missing for photo in lacking}.values())
    if not photos:
        return []
    progress = progress if distributed.is_main else SILENT
    _report_size(missing, teacher, progress)
    skipped: list[Skip] = []
    dataset = PhotoParts(photos, [(part.size, part.grids) for part in parts], teacher.pixels.interpolation)
    at_once = max(1, batch_size * teacher.input_size**2 // sum(part.pixels() for part in parts))
    batches = photo_batches(
        dataset, batch_size=at_once, num_workers=num_workers, collate_fn=collate_parts, device=teacher.device
    )
    with progress.bar("encoding photos", len(photos), "photos") as bar:
        for indices, pixels, unreadable in batches:
            distributed.check()
            skipped += [Skip(photos[index].path, reason) for index, reason in unreadable]
            paths = [photos[index].path for index in indices.tolist()]
            for part, views in zip(parts, pixels, strict=bool(pixels)):
                _encode_part(part, paths, views, teacher, batch_size)
            bar.update(len(indices) + len(unreadable))
    for part in parts:
        for writer, _ in part.writers:
            writer.flush()
    report_frames([photos[index].path for index in dataset.several.nonzero().flatten().tolist()], progress)
    return skipped


def _encode_part(part: _Part, paths: list[str], pixels: Tensor, teacher: Teacher, batch_size: int) -> None:
    """Encode uint8 views (n, V, 3, S, S) of photos, and give each store the photos that it lacks."""
    rows = [row for row, path in enumerate(paths) if any(path in lacking for _, lacking in part.writers)]
    if not rows:
        return
    at_once = max(1, batch_size * teacher.input_size**2 // part.size**2)
    encoded = [_vectors(views, part.cells, teacher) for views in pixels[rows].flatten(0, 1).split(at_once)]
    embeddings, cells = (torch.cat(vectors).unflatten(0, (len(rows), -1)) for vectors in zip(*encoded, strict=True))
    for writer, lacking in part.writers:
        vectors = cells.flatten(1, 2) if writer.store.key.kind == "cells" else embeddings  # (n, M, D)
        kept = [(place, lacking[paths[row]]) for place, row in enumerate(rows) if paths[row] in lacking]
        if kept:
            places, photos = zip(*kept, strict=True)
            writer.add(list(photos), vectors[list(places)])


def _vectors(views: Tensor, key: CellKey | None, teacher: Teacher) -> tuple[Tensor, Tensor]:
    """Embeddings (V, D) and pooled cells (V, s·s, D) of views, in half precision on the CPU; no cells without a `key`."""
    if key is None:
        embeddings = teacher.embed_views(views)
        return embeddings.half().cpu(), embeddings.new_empty(len(views), 0, embeddings.shape[1], device="cpu")
    embeddings, cells = embed_views_and_cells(teacher, views, key.attention)
    return embeddings.half().cpu(), pool_cells(cells, key.side).half().cpu()


def _report_size(missing: Missing, teacher: Teacher, progress: Progress) -> None:
    """Say how much space the missing cells will need."""
    lacking = [(store.key.bytes_per_photo(teacher.clip.embed_dim), len(photos)) for store, photos in missing
               if store.key.kind == "cells" and photos]  # fmt: skip
    if lacking:
        each, total = sum(size for size, _ in lacking), sum(size * count for size, count in lacking)
        progress.log(f"the cells need {each / 1000:.0f} kB per photo on disk, {total / 1e6:.0f} MB in total")
