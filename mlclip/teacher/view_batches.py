"""The stored views of some photos as batches, for several passes over the same photos. Cells are views, too.

Letters: n photos of one batch, V views per photo, D the joint embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..images import Photo
from .embedding_store import Store

MEMORY_LIMIT = 16 << 20  # bytes of half-precision embeddings that stay in memory between passes; others are read again


class Views(Protocol):
    """Vectors of photos in batches. Every pass gives the same batches in the same order.

    `grids` names the n of each n×n grid of views, and `sizes` says how many vectors of a photo belong to each grid. The vectors
    of a photo are those of the first grid, then those of the second, and so on.
    """

    grids: tuple[int, ...]
    sizes: tuple[int, ...]

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


class MemoryViews:
    """Views in memory: L2-normalised vectors (N, V, D), with `sizes` vectors in each of the `grids`. There is one batch."""

    def __init__(self, vectors: Tensor, grids: Sequence[int] = (1,), sizes: Sequence[int] | None = None):
        self.grids, self.vectors = tuple(grids), vectors
        self.sizes = tuple(sizes) if sizes else (vectors.shape[1],)

    def __len__(self) -> int:
        return len(self.vectors)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices (N,) and vectors (N, V, D), float32."""
        yield torch.arange(len(self)), self.vectors.float()


class ViewBatches:
    """The embeddings of `photos`, one batch per shard of `store`. Every pass gives the same batches in the same order.

    The first pass reads each shard from disk. The embeddings stay in CPU memory in half precision, up to `memory_limit`
    bytes; later passes read only the other shards again. Batches are float32 on `device`.
    """

    def __init__(
        self,
        store: Store,
        photos: Sequence[Photo],
        device: torch.device | str = "cpu",
        memory_limit: int = MEMORY_LIMIT,
    ):
        self.grids, self.sizes = store.key.grids, store.key.sizes
        self.device = torch.device(device)
        self._store, self._photos = store, len(photos)
        self._shards = list(store.rows_by_shard(photos).items())
        self._kept: dict[int, Tensor] = {}
        self._free = memory_limit

    def __len__(self) -> int:
        """The number of photos, not of batches."""
        return self._photos

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Per shard: indices (n,) into `photos`, on the CPU, and embeddings (n, V, D)."""
        for number, (_, pairs) in enumerate(self._shards):
            indices, rows = torch.tensor(pairs).unbind(1)
            yield indices, self._embeddings(number, rows).to(self.device).float()

    def _embeddings(self, number: int, rows: Tensor) -> Tensor:
        if number in self._kept:
            return self._kept[number]
        embeddings = self._store.read_shard(self._shards[number][0])[rows]
        if embeddings.nbytes <= self._free:
            self._kept[number] = embeddings
            self._free -= embeddings.nbytes
        return embeddings
