"""Encode photos into stores. Resumable: only what the stores lack is computed, in one pass over the photos.

A photo is decoded once for all stores, and a view is encoded once for its embedding and its cells. The loop is the same for the
features of a student's trunk (`student/features.py`). With several ranks (torchrun), each encodes its share. All of them write
shards into the same folders; the main rank decides what is missing and holds the locks.

Letters: N photos, n photos of one batch, V views of a photo, h w cells of a view, s side of a pooled map, D the joint embedding.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clip.cells import embed_with_cells
from ..config import InputError
from ..distributed import Distributed, Runtime
from ..images import Photo, PhotoParts, Skip, collate_parts, photo_batches
from ..methods.dense import CELLS, VIEWS, pool_cells, side_of_kind
from ..progress import Progress
from .scoring import Teacher
from .store import Key, Store, contents_of, default_store, identity

PHOTO_SIDE = 7  # the cells of a whole photo are averaged to at most 7×7 ...
VIEW_SIDE = 2  # ... and those of one of the 14 views to at most 2×2
SHARD_PHOTOS = 1024  # a shard is full when it holds this many photos ...
SHARD_VECTORS = 16_384  # ... or this many vectors
SAVE_SECONDS = 10.0  # the shard that is not yet full is written again after this time, so that a kill loses little work
SEEN_SECONDS = 5.0  # after which a shared folder shows a new file to the other ranks ...
LISTED_SECONDS = 40.0  # ... and after which its list of files is up to date
GONE = "the file no longer exists"

# uint8 views (n, V, 3, S, S) and the keys of the stores that need them -> vectors (n, M, D) for each key, half precision, on the CPU
Encode = Callable[[Tensor, list[Key]], list[Tensor]]


class Encoded(NamedTuple):
    """The stores with the vectors of all readable photos, and the photos that cannot be read, sorted by path."""

    stores: list[Store]
    skipped: list[Skip]


def view_key(teacher: Teacher, grids: Sequence[int], size: int | None = None) -> Key:
    """The key of a store of embeddings. `size` in pixels; None means CLIP's input size."""
    facts = {"precision": teacher.precision, "pixels": teacher.pixels}
    return Key("embeddings", teacher.sha256, teacher.clip.activation, size or teacher.input_size, tuple(grids), **facts)


def cell_key(kind: str, teacher: Teacher, grids: Sequence[int], attention: str) -> Key:
    """The key of a store of cells: "cells" (those of the views in `grids`), or a multiple of CLIP's side for the whole photo."""
    of_views = kind == CELLS
    size = teacher.input_size if of_views else side_of_kind(kind, teacher.input_size, teacher.stride)
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
    kinds: Sequence[str] = (),
    attention: str = "key",
    store: str | Path | None = None,
    batch_size: int = 64,
    runtime: Runtime | None = None,
) -> Iterator[Encoded]:
    """The store of the views of all photos, then those of the cells of each of `kinds` but "views". Nobody deletes them in this block.

    `grids` (1, 3) means the whole photo and its 3×3 snippets, each resized to a square of `size` pixels (None: CLIP's input
    size). `batch_size` counts views, not photos. `store` is a folder for the views, with a subfolder for each kind of cells; by
    default all are in the cache. Raises InputError if a store cannot be used or if the ranks have different photos.
    """
    runtime = runtime or Runtime()
    names = [kind for kind in kinds if kind != VIEWS]
    keys = [view_key(teacher, grids, size), *(cell_key(kind, teacher, grids, attention) for kind in names)]
    for kind, key in zip(names, keys[1:], strict=True):
        first = names[keys[1:].index(key)]
        if first != kind:
            raise InputError(
                f"`kinds` {first} and {kind} are the same cells for this CLIP: the photo at {key.input_size} pixels. Leave out one."
            )
    folders = [_folder(key, root, Path(store) if store else None) for key in keys]

    def encode(pixels: Tensor, wanted: list[Key]) -> list[Tensor]:
        at_once = max(1, batch_size * keys[0].input_size ** 2 // wanted[0].input_size ** 2)
        parts = [_encode_views(teacher, part, wanted) for part in pixels.flatten(0, 1).split(at_once)]
        return [torch.cat(vectors).unflatten(0, pixels.shape[:2]).flatten(1, 2) for vectors in zip(*parts, strict=True)]

    wanted, pixels = list(zip(folders, keys, strict=True)), batch_size * keys[0].input_size ** 2
    with filled_stores(wanted, photos, encode, pixels, teacher.clip.embed_dim, runtime) as encoded:
        yield encoded


def _folder(key: Key, root: str, store: Path | None) -> Path:
    if store is None:
        return default_store(key, root)
    digest = hashlib.sha256(json.dumps(key.as_plain()).encode()).hexdigest()[:20]
    return store / f"cells-{digest}" if key.kind == "cells" else store


def _encode_views(teacher: Teacher, views: Tensor, wanted: list[Key]) -> list[Tensor]:
    """For each key: embeddings (V, 1, D) or pooled cells (V, s·s, D) of uint8 views, in half precision on the CPU."""
    with_cells = [key for key in wanted if key.kind == "cells"]
    if not with_cells:
        return [teacher.embed_views(views)[:, None].half().cpu()] * len(wanted)
    embeddings, cells = embed_views_and_cells(teacher, views, with_cells[0].attention)
    vectors = (pool_cells(cells, key.side) if key.kind == "cells" else embeddings[:, None] for key in wanted)
    return [part.half().cpu() for part in vectors]


@torch.inference_mode()
def embed_views_and_cells(teacher: Teacher, pixels: Tensor, attention: str) -> tuple[Tensor, Tensor]:
    """uint8 views (N, 3, H, W) -> embeddings (N, D) and cells (N, h, w, D), L2-normalised, float32, on the teacher's device."""
    visual, dtype = teacher.clip.visual, teacher.clip.dtype
    parts = [
        embed_with_cells(visual, teacher.normalised(part).to(dtype), attention) for part in teacher.portions(pixels)
    ]
    embeddings, cells = (torch.cat(part).float() for part in zip(*parts, strict=True))
    return F.normalize(embeddings, dim=-1), F.normalize(cells, dim=-1)


@contextmanager
def filled_stores(
    wanted: Sequence[tuple[Path, Key]],
    photos: Sequence[Photo],
    encode: Encode,
    batch_pixels: int,
    channels: int,
    runtime: Runtime,
) -> Iterator[Encoded]:
    """Put what is missing into the stores, and keep them from being deleted until the block ends.

    A store that lacks nothing is not written, so its folder may be read-only. A batch has about `batch_pixels` pixels in all its
    views. `channels` is D. Raises InputError on every rank if the ranks have different photos, keys or folders, if a folder cannot
    be used, or if a photo has neither a row in a store nor a reason.
    """
    distributed = runtime.distributed
    check_same_photos(photos, distributed)
    _check_same_keys([key for _, key in wanted], distributed)
    folders = distributed.broadcast([folder for folder, _ in wanted])
    with ExitStack() as in_use:
        missing: list[list[int]] = []  # for each store the rows of the photos that it lacks
        with distributed.together():
            stores = [Store(folder, key) for folder, (_, key) in zip(folders, wanted, strict=True)]
            if distributed.is_main:
                missing = [_missing(store, photos, runtime) for store in stores]
                _report_size(stores, missing, channels, runtime.progress)
        missing = distributed.broadcast(missing)
        skipped: list[Skip] = []
        if any(missing):
            lacking = [(store, rows) for store, rows in zip(stores, missing, strict=True) if rows]
            with ExitStack() as writing:
                with distributed.together():
                    for store, rows in lacking if distributed.is_main else ():
                        writing.enter_context(store.writing(len(rows)))
                for store, _ in lacking:
                    _check_common_folder(store.folder, distributed)
                skipped = _encode_missing(lacking, photos, encode, batch_pixels, runtime)
        with distributed.together():
            for store in stores if distributed.is_main else ():
                in_use.enter_context(store.reading())
        yield Encoded(stores, skipped)


def _missing(store: Store, photos: Sequence[Photo], runtime: Runtime) -> list[int]:
    """The rows of the photos that the store lacks."""
    store.recognise(photos, runtime.num_workers)
    rows = [row for row, photo in enumerate(photos) if photo not in store]
    runtime.progress.detail(f"store of {store.key.kind}: {store.folder}")
    runtime.progress.detail(
        f"{len(photos) - len(rows)} of {len(photos)} photos are already in the store of {store.key.kind}"
    )
    if store.damaged and rows:
        runtime.progress.log(
            f"{len(store.damaged)} files of the store {store.folder} are damaged, such as {store.damaged[0].name}. "
            "The photos in them are encoded again."
        )
    return rows


def _report_size(stores: list[Store], missing: list[list[int]], channels: int, progress: Progress) -> None:
    """Say how much space the missing cells will need."""
    cells = [(2 * store.key.vectors * channels, len(rows)) for store, rows in zip(stores, missing, strict=True)
             if store.key.kind == "cells" and rows]  # fmt: skip
    if cells:
        each, total = sum(size for size, _ in cells), sum(size * count for size, count in cells)
        progress.log(f"the cells need {each / 1000:.0f} kB per photo on disk, {total / 1e6:.0f} MB in total")


def _encode_missing(
    lacking: list[tuple[Store, list[int]]],
    photos: Sequence[Photo],
    encode: Encode,
    batch_pixels: int,
    runtime: Runtime,
) -> list[Skip]:
    """Put the rows that each store lacks into it; each rank does its share. Returns the unreadable photos of all ranks."""
    distributed, result = runtime.distributed, None
    with distributed.together():
        result = _encode_share(lacking, photos, encode, batch_pixels, runtime)
    skipped: dict[int, Skip] = {}
    for rank_skipped, rank_contents in distributed.all_gather(result):
        skipped |= rank_skipped
        for store, _ in lacking:
            store.contents |= {identity(photos[row]): content for row, content in rank_contents.items()}
    with distributed.together():
        deadline = time.monotonic() + (LISTED_SECONDS if distributed.world_size > 1 else 0.0)
        for store, rows in lacking if distributed.is_main else ():
            _wait_for_all(store, photos, [row for row in rows if row not in skipped], deadline)
    return sorted(skipped.values(), key=lambda skip: skip.path)


def _encode_share(
    lacking: list[tuple[Store, list[int]]],
    photos: Sequence[Photo],
    encode: Encode,
    batch_pixels: int,
    runtime: Runtime,
) -> tuple[dict[int, Skip], dict[int, bytes]]:
    """Encode this rank's share. Returns the unreadable photos and the contents of the others, by row."""
    distributed = runtime.distributed
    rows = distributed.shard(sorted({row for _, part in lacking for row in part}))
    views: dict[
        tuple, list[tuple[Store, set[int]]]
    ] = {}  # (size, grids) -> the stores of these views, and what they lack
    for store, part in lacking:
        views.setdefault((store.key.input_size, store.key.grids), []).append((store, set(part)))
    per_photo = sum(size**2 * sum(n * n for n in grids) for size, grids in views)  # pixels of all views
    interpolation = lacking[0][0].key.pixels.interpolation
    dataset = PhotoParts([photos[row] for row in rows], list(views), interpolation)
    batches = photo_batches(
        dataset,
        batch_size=max(1, batch_pixels // per_photo),
        num_workers=runtime.num_workers,
        collate_fn=collate_parts,
        device=runtime.device,
    )
    alone = distributed.world_size == 1
    total, done = (len(photos), len(photos) - len(rows)) if alone else (len(rows), 0)
    skipped, contents = {}, {}
    with ExitStack() as stack:
        writers = {store: stack.enter_context(ShardWriter(store, distributed.rank)) for store, _ in lacking}
        bar = stack.enter_context(runtime.bars.bar("encoding photos", total, "photos", done=done))
        for indices, parts, unreadable in batches:
            read = [rows[index] for index in indices.tolist()]
            hashes = dict(zip(read, contents_of([photos[row] for row in read]), strict=True))
            skipped |= {rows[index]: Skip(photos[rows[index]].path, reason) for index, reason in unreadable}
            skipped |= {row: Skip(photos[row].path, GONE) for row, content in hashes.items() if content is None}
            contents |= {row: content for row, content in hashes.items() if content is not None}
            for stores, pixels in zip(views.values(), parts, strict=bool(parts)):
                places = [
                    place for place, row in enumerate(read) if row in contents and any(row in s for _, s in stores)
                ]
                if not places:
                    continue
                vectors = encode(pixels[places], [store.key for store, _ in stores])  # of each store (n, M, D)
                for (store, wanted), part in zip(stores, vectors, strict=True):
                    kept = [number for number, place in enumerate(places) if read[place] in wanted]
                    of_photos = [read[places[number]] for number in kept]
                    writers[store].add(
                        [photos[row] for row in of_photos], [contents[row] for row in of_photos], part[kept]
                    )
            bar.update(len(indices) + len(unreadable))
    several = [photos[rows[index]].path for index in dataset.several.nonzero().flatten().tolist()]
    if several:
        runtime.progress.log(
            f"files with several frames or pages: {len(several)}, such as {several[0]}. Only the first frame of each is used."
        )
    return skipped, contents


class ShardWriter:
    """Collects vectors and writes them as shards: now and then, when a shard is full, and at the end, also if an error ends the block."""

    def __init__(self, store: Store, rank: int):
        self.store, self.rank = store, rank
        self._start()

    def _start(self) -> None:
        self.photos: list[Photo] = []
        self.contents: list[bytes] = []
        self.parts: list[Tensor] = []
        self.shard = self.store.next_shard(self.rank)
        self.saved, self.since = 0, time.monotonic()

    def add(self, photos: list[Photo], contents: list[bytes], vectors: Tensor) -> None:  # (n, M, D)
        if not photos:
            return
        self.photos += photos
        self.contents += contents
        self.parts.append(vectors)
        if len(self.photos) >= SHARD_PHOTOS or len(self.photos) * vectors.shape[1] >= SHARD_VECTORS:
            self.save()
            self._start()
        elif time.monotonic() - self.since > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write what is there, in place of what was written of this shard before."""
        if len(self.photos) > self.saved:
            self.parts = [torch.cat(self.parts)]
            self.store.write_shard(self.shard, self.photos, self.contents, self.parts[0])
            self.saved, self.since = len(self.photos), time.monotonic()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()


def _wait_for_all(store: Store, photos: Sequence[Photo], rows: list[int], deadline: float) -> None:
    """Until the store lists the shards of all ranks. InputError if it does not get the photos of all `rows`."""
    while True:
        store.refresh()
        absent = [photos[row].path for row in rows if photos[row] not in store]
        if not absent:
            return
        if time.monotonic() > deadline:
            raise InputError(
                f"{len(absent)} of {len(photos)} photos are neither in the store {store.folder} nor skipped, such as {absent[0]}. "
                "Run the same command again: it computes only the missing ones."
            )
        time.sleep(1.0)


def check_same_photos(photos: Sequence[Photo], distributed: Distributed) -> None:
    """InputError on every rank, unless all ranks have the same photos: paths and sizes in the same order."""
    if distributed.world_size == 1:
        return
    listed = [(photo.path, photo.size) for photo in photos]
    digest = hashlib.sha256(repr(listed).encode("utf-8", "surrogateescape")).hexdigest()
    if len(set(distributed.all_gather(digest))) == 1:
        return
    every = distributed.all_gather(listed)
    rank = next(rank for rank, other in enumerate(every) if other != every[0])
    raise InputError(_difference(every[0], every[rank], rank))


def _difference(main: list[tuple[str, int]], other: list[tuple[str, int]], rank: int) -> str:
    """What differs between the (path, size) of the main rank's photos and those of `rank`."""
    sizes, others = dict(main), dict(other)
    only_main, only_other = sizes.keys() - others.keys(), others.keys() - sizes.keys()
    changed = [path for path in sizes.keys() & others.keys() if sizes[path] != others[path]]
    if only_main:
        detail = f"only rank 0 has {min(only_main)}"
    elif only_other:
        detail = f"only rank {rank} has {min(only_other)}"
    elif changed:
        path = min(changed)
        detail = f"{path} has {sizes[path]} bytes on rank 0 and {others[path]} bytes on rank {rank}"
    else:
        detail = "their order differs: name the folders in the same order"
    return (
        f"rank {rank} finds {len(other)} photos, rank 0 finds {len(main)}; every rank needs the same photos ({detail})"
    )


def _check_same_keys(keys: list[Key], distributed: Distributed) -> None:
    """InputError on every rank, unless all ranks would store the same vectors."""
    every = distributed.all_gather([key.as_plain() for key in keys])
    for rank, other in enumerate(every):
        for first, mine in zip(every[0], other, strict=False):
            names = [name for name in mine if mine[name] != first[name]]
            if names:
                raise InputError(
                    f"rank {rank} and rank 0 would store different {first['kind']}: their {', '.join(names)} differ. Every rank "
                    "needs the same weight file, settings and kind of device."
                )


def _check_common_folder(folder: Path, distributed: Distributed) -> None:
    """InputError on every rank, unless all of them see the same folder: the main rank writes a file, and the others look for it."""
    if distributed.world_size == 1:
        return
    token = folder / f".token-{distributed.broadcast(uuid.uuid4().hex)}"
    if distributed.is_main:
        token.touch()
    distributed.barrier()
    deadline = time.monotonic() + SEEN_SECONDS
    while not token.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    seen = distributed.all_gather(token.exists())
    if distributed.is_main:
        token.unlink()
    if not all(seen):
        raise InputError(
            f"rank {seen.index(False)} does not see the store {folder} of rank 0. All ranks need one folder: pass `store` with a "
            "folder on a disk that all machines share."
        )
