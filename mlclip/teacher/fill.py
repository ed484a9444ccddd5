"""Fill stores in one pass over the photos that any of them lacks. Resumable: only what is missing is computed.

A photo is decoded once for all stores. The loop is the same for CLIP's embeddings and patch features (`encode.py`) and for the features
of a student's trunk (`training/probe.py`). With several ranks (torchrun), each encodes its share. All of them write shards into the same
folders; the main rank decides what is missing and holds the locks.

Letters: N photos, n photos of one batch, V views of a photo, M vectors of a photo, D the joint embedding.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import InputError
from ..distributed import Distributed, Runtime
from ..images import Photo, PhotoParts, Skip, collate_parts, photo_batches
from ..images.views import notes, read_batches
from ..spelling import shorten
from .store import Key, Store, contents_of, identity

SHARD_PHOTOS = 1024  # a shard is full when it holds this many photos ...
SHARD_VECTORS = 16_384  # ... or this many vectors
SAVE_SECONDS = 10.0  # the shard that is not yet full is written again after this time, so that a kill loses little work
SEEN_SECONDS = 5.0  # after which a shared folder shows a new file to the other ranks ...
LISTED_SECONDS = 40.0  # ... and after which its list of files is up to date
GONE = "the file no longer exists"

# uint8 views (n, V, 3, S, S) and the keys of the stores that need them -> vectors (n, M, D) for each key, half precision, on the CPU
Encode = Callable[[Tensor, list[Key]], list[Tensor]]


class Filled(NamedTuple):
    """The stores with the vectors of all readable photos, and the photos that cannot be read, sorted by path."""

    stores: list[Store]
    skipped: list[Skip]


@contextmanager
def filled_stores(
    wanted: Sequence[tuple[Path, Key]],
    photos: Sequence[Photo],
    encode: Encode,
    batch_pixels: int,
    channels: int,
    runtime: Runtime,
) -> Iterator[Filled]:
    """Put what is missing into the stores, and keep them from being deleted until the block ends.

    A store that lacks nothing is not written, so its folder may be read-only. A batch has about `batch_pixels` pixels in all its
    views. `channels` is D. Raises InputError on every rank if the ranks have different photos, keys or folders, if a folder cannot
    be used, or if a photo has neither a row in a store nor a reason.
    """
    distributed = runtime.distributed
    keys = {
        f"the {name} of {key.kind} at {key.input_size} px": value
        for _, key in wanted
        for name, value in key.as_plain().items()
    }
    check_same(keys, photos, distributed)
    folders = distributed.broadcast([folder for folder, _ in wanted])
    with ExitStack() as in_use:
        missing: list[list[int]] = []  # for each store the rows of the photos that it lacks
        with distributed.together():
            stores = [Store(folder, key) for folder, (_, key) in zip(folders, wanted, strict=True)]
            if distributed.is_main:
                missing = [_missing(store, photos, channels, runtime) for store in stores]
        missing = distributed.broadcast(missing)
        lacking = [(store, rows) for store, rows in zip(stores, missing, strict=True) if rows]
        skipped = distributed.on_main(lambda: _none_readable(lacking, photos, runtime)) if lacking else []
        if lacking and not skipped:
            with ExitStack() as writing:
                left = []
                with distributed.together():
                    for store, rows in lacking if distributed.is_main else ():
                        writing.enter_context(store.writing(len(rows)))
                        if taken := store.take_from_others([photos[row] for row in rows]):
                            runtime.progress.log(
                                f"{taken} photos were encoded in another folder: their {store.key.kind} are used"
                            )
                        left.append([row for row in rows if photos[row] not in store])
                left = distributed.broadcast(left)
                lacking = [(store, rows) for (store, _), rows in zip(lacking, left, strict=True) if rows]
                for store, _ in lacking:
                    _check_common_folder(store.folder, distributed)
                skipped = _encode_missing(lacking, photos, encode, batch_pixels, runtime) if lacking else []
        with distributed.together():
            for store in stores if distributed.is_main else ():
                in_use.enter_context(store.reading())
        yield Filled(stores, skipped)


def _missing(store: Store, photos: Sequence[Photo], channels: int, runtime: Runtime) -> list[int]:
    """The rows of the photos that the store lacks."""
    store.recognise(photos, runtime.num_workers)
    rows = [row for row, photo in enumerate(photos) if photo not in store]
    known = len(photos) - len(rows)
    runtime.progress.detail(f"store of {store.key.kind}: {known} of {len(photos)} photos are already in {store.folder}")
    if store.damaged and rows:
        runtime.progress.log(
            f"{len(store.damaged)} files of the store {store.folder} are damaged, such as {store.damaged[0].name}. "
            "The photos in them are encoded again."
        )
    if rows and store.key.kind == "cells":
        megabytes = 2 * store.key.vectors * channels * len(rows) / 1e6  # half precision
        runtime.progress.log(f"patch features, {store.key.input_size} px: {megabytes:.0f} MB on disk")
    return rows


def _none_readable(lacking: list[tuple[Store, list[int]]], photos: Sequence[Photo], runtime: Runtime) -> list[Skip]:
    """The photos that read-only stores lack, if none of them can be read: then nothing must be written. Else an empty list."""
    if any(not store.folder.exists() or os.access(store.folder, os.W_OK) for store, _ in lacking):
        return []
    rows = sorted({row for _, part in lacking for row in part})
    batches = read_batches([photos[row] for row in rows], 8, batch_size=16, num_threads=runtime.num_workers)
    unreadable = [Skip(photos[rows[index]].path, reason) for batch in batches for index, reason in batch.unreadable]
    return sorted(unreadable, key=lambda skip: skip.path) if len(unreadable) == len(rows) else []


def _encode_missing(
    lacking: list[tuple[Store, list[int]]], photos: Sequence[Photo], encode: Encode, batch_pixels: int, runtime: Runtime
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
            store.refresh()
            while absent := [photos[row].path for row in rows if row not in skipped and photos[row] not in store]:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"{len(absent)} of {len(photos)} photos are neither in the store {store.folder} nor skipped, such as "
                        f"{absent[0]}. Run the same command again: it computes only the missing ones."
                    )
                time.sleep(1.0)  # the file of another rank is listed late
                store.refresh()
    return sorted(skipped.values(), key=lambda skip: skip.path)


def _encode_share(
    lacking: list[tuple[Store, list[int]]], photos: Sequence[Photo], encode: Encode, batch_pixels: int, runtime: Runtime
) -> tuple[dict[int, Skip], dict[int, bytes]]:
    """Encode this rank's share. Returns the unreadable photos and the contents of the others, by row."""
    distributed = runtime.distributed
    rows = distributed.shard(sorted({row for _, part in lacking for row in part}))
    skipped: dict[int, Skip] = {}
    contents: dict[int, bytes] = {}
    first: dict[bytes, int] = {}  # content -> the first row that has it; its copies are not encoded
    view_sets: dict[tuple, list[ShardWriter]] = {}  # (size, grids) of views -> where their vectors go
    for store, part in lacking:
        writer = ShardWriter(store, set(part), photos, contents, distributed.rank)
        view_sets.setdefault((store.key.input_size, store.key.grids), []).append(writer)
    pixels_per_photo = sum(size**2 * sum(n * n for n in grids) for size, grids in view_sets)
    dataset = PhotoParts([photos[row] for row in rows], list(view_sets), lacking[0][0].key.pixels.interpolation)
    batches = photo_batches(
        dataset,
        batch_size=max(1, batch_pixels // pixels_per_photo),
        num_workers=runtime.num_workers,
        collate_fn=collate_parts,
        device=runtime.device,
    )
    done = len(photos) - len(rows) if distributed.world_size == 1 else 0
    with ExitStack() as stack:
        for writers in view_sets.values():
            for writer in writers:
                stack.callback(writer.save)  # also after an error or Ctrl-C
        bar = stack.enter_context(runtime.bars.bar("encoding photos", done + len(rows), "photos", done=done))
        for indices, parts, unreadable in batches:
            skipped |= {rows[index]: Skip(photos[rows[index]].path, reason) for index, reason in unreadable}
            read = [rows[index] for index in indices.tolist()]
            for row, content in zip(read, contents_of([photos[row] for row in read]), strict=True):
                if content is None:
                    skipped[row] = Skip(photos[row].path, GONE)
                else:
                    contents[row] = content
                    first.setdefault(content, row)
            new = [first.get(contents.get(row)) == row for row in read]
            for writers, pixels in zip(view_sets.values(), parts, strict=bool(parts)):  # pixels (n, V, 3, S, S)
                places = [place for place, row in enumerate(read) if new[place] and any(w.needs(row) for w in writers)]
                if places:
                    vectors = encode(pixels[places], [writer.store.key for writer in writers])  # each (n, M, D)
                    for writer, part in zip(writers, vectors, strict=True):
                        writer.add([read[place] for place in places], part)
            bar.update(len(indices) + len(unreadable))
    for note in notes(dataset.photos, dataset.noted.tolist()):
        runtime.progress.log(note)
    return skipped, contents


class ShardWriter:
    """Collects vectors of the photos that a store lacks, and writes them as shards: now and then, and when one is full.

    `contents` are those of the photos read so far, by row. The caller calls `save` at the end.
    """

    def __init__(self, store: Store, missing: set[int], photos: Sequence[Photo], contents: dict[int, bytes], rank: int):
        self.store, self.missing, self.photos, self.contents, self.rank = store, missing, photos, contents, rank
        self._start_shard()

    def _start_shard(self) -> None:
        self.rows: list[int] = []
        self.parts: list[Tensor] = []
        self.shard = self.store.next_shard(self.rank)
        self.saved, self.saved_at = 0, time.monotonic()

    def needs(self, row: int) -> bool:
        """Whether the store lacks a photo that has been read."""
        return row in self.missing and row in self.contents

    def add(self, rows: list[int], vectors: Tensor) -> None:
        """Keep the vectors (n, M, D) of the photos that are needed."""
        kept = [place for place, row in enumerate(rows) if self.needs(row)]
        if not kept:
            return
        self.rows += [rows[place] for place in kept]
        self.parts.append(vectors[kept])
        if len(self.rows) >= SHARD_PHOTOS or len(self.rows) * vectors.shape[1] >= SHARD_VECTORS:
            self.save()
            self._start_shard()
        elif time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write what is there, in place of what was written of this shard before."""
        if len(self.rows) > self.saved:
            self.parts = [torch.cat(self.parts)]
            photos, contents = ([source[row] for row in self.rows] for source in (self.photos, self.contents))
            self.store.write_shard(self.shard, photos, contents, self.parts[0])
            self.saved, self.saved_at = len(self.rows), time.monotonic()


def check_same(facts: dict[str, Any], photos: Sequence[Photo], distributed: Distributed) -> None:
    """InputError on every rank, unless all ranks have the same facts, name -> value, and the same photos in the same order."""
    if distributed.world_size == 1:
        return
    facts = facts | {f"the photo {photo.path}": photo.size for photo in photos}
    digest = hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()
    if len(set(distributed.all_gather(digest))) == 1:
        return
    every = distributed.all_gather(facts)
    rank = next(rank for rank, other in enumerate(every) if list(other.items()) != list(every[0].items()))
    differ = [name for name in every[0] | every[rank] if every[0].get(name) != every[rank].get(name)]
    raise InputError(
        f"rank {rank} and rank 0 differ in {shorten(differ) if differ else 'the order of the photos'}. Every rank needs the same "
        "photos, labels, settings and weight file, and the same kind of device."
    )


def _check_common_folder(folder: Path, distributed: Distributed) -> None:
    """InputError on every rank, unless all of them see the same folder: the main rank writes a file, and the others look for it."""
    if distributed.world_size == 1:
        return
    token = folder / f".token-{distributed.broadcast(uuid.uuid4().hex)}"
    if distributed.is_main:
        token.touch()
    distributed.all_gather(None)  # it is there now
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
