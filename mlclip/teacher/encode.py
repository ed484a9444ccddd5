"""What CLIP computes for photos: embeddings of views, and the patch features of its feature maps, in stores on disk.

A view is encoded once for its embedding and its patch features. These are averaged to a small map.

Letters: N views, n photos of one batch, V views of a photo, h w patch features of a view, s side of a pooled map, D the joint embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clip.encoders import embed_with_cells
from ..config import InputError
from ..distributed import Runtime
from ..images import Photo
from ..methods.centred import MOST_DENSE
from ..methods.dense import CELLS, VIEWS, encoded_sets, pool_cells, side_at
from .fill import Filled, filled_stores
from .scoring import Teacher
from .store import Key, Store, default_store

PHOTO_SIDE = 7  # the patch features of a whole photo are averaged to at most 7×7 ...
VIEW_SIDE = 2  # ... and those of one of the 14 views to at most 2×2
BATCH_VECTORS = 16_384  # in a batch of stored vectors
MEMORY_LIMIT = 16 << 20  # bytes of half-precision vectors that stay in memory between passes; others are read again


def view_key(teacher: Teacher, grids: Sequence[int], size: int | None = None) -> Key:
    """The key of a store of embeddings. `size` in pixels; None means CLIP's input size."""
    return Key("embeddings", teacher.sha256, teacher.clip.activation, size or teacher.input_size, tuple(grids),
               precision=teacher.precision, pixels=teacher.pixels)  # fmt: skip


def cell_key(view_set: str, teacher: Teacher, grids: Sequence[int], attention: str) -> Key:
    """The key of a store of patch features: "cells" (of the views in `grids`), or a multiple of CLIP's side for the whole photo."""
    of_views = view_set == CELLS
    size = teacher.input_size if of_views else side_at(view_set, teacher.input_size, teacher.stride)
    side = min(VIEW_SIDE if of_views else PHOTO_SIDE, size // teacher.stride)
    return Key("cells", teacher.sha256, teacher.clip.activation, size, tuple(grids) if of_views else (1,), side, attention,
               teacher.precision, teacher.pixels)  # fmt: skip


@contextmanager
def encoded_views(
    photos: Sequence[Photo],
    teacher: Teacher,
    *,
    root: str,
    grids: Sequence[int] = (1, 3),
    size: int | None = None,
    view_sets: Sequence[str] = (VIEWS,),
    attention: str = "key",
    store: str | Path | None = None,
    batch_size: int = 64,
    runtime: Runtime | None = None,
) -> Iterator[Filled]:
    """The store of each of `encoded_sets(view_sets)` for all photos: the views, and patch features. Nobody deletes them in this block.

    `grids` (1, 3) means the whole photo and its 3×3 snippets, each resized to a square of `size` pixels (None: CLIP's input
    size). `batch_size` counts views, not photos. `store` is a folder for the views, with a subfolder for each set of
    patch features; by default all are in the cache. Raises InputError if a store cannot be used or if the ranks have different photos.
    """
    names, of_views = encoded_sets(view_sets), view_key(teacher, grids, size)
    keys = [of_views if name == VIEWS else cell_key(name, teacher, grids, attention) for name in names]
    for name, key in zip(names, keys, strict=True):
        first = names[keys.index(key)]
        if first != name:
            raise InputError(
                f"`views` {first} and {name} are the same for this CLIP: the photo at {key.input_size} pixels. Leave out one."
            )
    folders = [default_store(key, root) for key in keys]
    if store:
        hashes = [hashlib.sha256(json.dumps(key.as_plain()).encode()).hexdigest()[:20] for key in keys]
        folders = [
            Path(store) / ("" if key == of_views else f"cells-{text}") for key, text in zip(keys, hashes, strict=True)
        ]

    def encode_part(views: Tensor, wanted: list[Key]) -> list[Tensor]:
        """For each key: embeddings (V, 1, D) or pooled patch features (V, s·s, D) of uint8 views, in half precision on the CPU."""
        if all(key.kind != "cells" for key in wanted):
            return [teacher.embed_views(views)[:, None].half().cpu()] * len(wanted)
        embeddings, cells = embed_views_and_cells(teacher, views, attention)
        vectors = (pool_cells(cells, key.side) if key.kind == "cells" else embeddings[:, None] for key in wanted)
        return [part.half().cpu() for part in vectors]

    def encode(pixels: Tensor, wanted: list[Key]) -> list[Tensor]:
        at_once = max(1, batch_pixels // wanted[0].input_size ** 2)
        parts = [encode_part(part, wanted) for part in pixels.flatten(0, 1).split(at_once)]
        return [torch.cat(vectors).unflatten(0, pixels.shape[:2]).flatten(1, 2) for vectors in zip(*parts, strict=True)]

    wanted, batch_pixels = list(zip(folders, keys, strict=True)), batch_size * of_views.input_size**2
    with filled_stores(wanted, photos, encode, batch_pixels, teacher.clip.embed_dim, runtime or Runtime()) as filled:
        yield filled


@torch.inference_mode()
def embed_views_and_cells(teacher: Teacher, pixels: Tensor, attention: str) -> tuple[Tensor, Tensor]:
    """uint8 views (N, 3, H, W) -> embeddings (N, D) and patch features (N, h, w, D), L2-normalised, float32, on the teacher's device."""
    visual = teacher.clip.visual
    dtype = next(visual.parameters()).dtype
    parts = [
        embed_with_cells(visual, teacher.normalised(part).to(dtype), attention) for part in teacher.portions(pixels)
    ]
    embeddings, cells = (torch.cat(part).float() for part in zip(*parts, strict=True))
    return F.normalize(embeddings, dim=-1), F.normalize(cells, dim=-1)


class StoredViews:
    """The vectors of `photos` in a store, in batches: indices (n,) on the CPU, and vectors (n, V, D), float32, on `device`.

    `grids` names the n of each n×n grid of views, and `sizes` says how many vectors of a photo belong to each grid. The vectors
    of a photo are those of the first grid, then those of the second, and so on. The length is the number of photos.

    Every pass gives the same batches in the same order. They do not depend on the shards: a run that was stopped leaves smaller
    ones, and sums over other batches would be rounded in another way. The vectors that the first pass reads stay in CPU memory in
    half precision, up to `memory_limit` bytes; later passes read only the other shards again. With very many `names`, with which they
    are compared, the batches are smaller.
    """

    def __init__(
        self,
        store: Store,
        photos: Sequence[Photo],
        device: torch.device | str = "cpu",
        memory_limit: int = MEMORY_LIMIT,
        names: int = 0,
    ):
        self.grids, self.sizes = store.key.grids, store.key.sizes
        self.device = torch.device(device)
        self._store, self._photos = store, len(photos)
        self._shards = list(store.rows_by_shard(photos).items())
        self._kept: dict[Path, Tensor] = {}
        self._free = memory_limit
        self._vectors = BATCH_VECTORS if names <= MOST_DENSE else BATCH_VECTORS * MOST_DENSE // names

    def __len__(self) -> int:
        return self._photos

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        size, indices, vectors = max(1, self._vectors // sum(self.sizes)), torch.empty(0, dtype=torch.int64), None
        for shard, pairs in self._shards:
            more, rows = torch.tensor(pairs).unbind(1)
            read = self._kept.get(shard)
            if read is None:
                read = self._store.read_shard(shard)[rows]
                if read.nbytes <= self._free:
                    self._kept[shard] = read
                    self._free -= read.nbytes
            indices, vectors = torch.cat([indices, more]), read if vectors is None else torch.cat([vectors, read])
            while len(indices) >= size:
                yield indices[:size], vectors[:size].to(self.device).float()
                indices, vectors = indices[size:], vectors[size:]
        if len(indices):
            yield indices, vectors.to(self.device).float()
