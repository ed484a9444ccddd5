"""One store for several ranks, on one machine or on several.

Ranks that see the same folder (one machine, or a network folder) write their shards there. A rank on another machine, or with
another cache, has a folder of its own: what it has computed is kept there, so that it can resume, and is sent to the main
rank. So the main rank's store is complete at the end. A photo that nobody has is an error, never an omission.

Letters: N photos, n photos of one part.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..config import InputError
from ..distributed import Distributed
from ..files import locked
from ..images import Photo, Skip
from .embedding_store import LOCK, Key, Store, refuse_foreign, remove_leftovers, token_file

PART_PHOTOS = 256  # are sent to the main rank at once
VISIBLE_SECONDS = 40.0  # after which a network folder shows the files that other machines have written

Encode = Callable[[Store, list[Photo]], list[Skip]]  # writes shards; returns the photos that cannot be read
Missing = list[tuple[Store, list[Photo]]]  # several stores, each with this rank's share of the photos that it lacks


def fill_store(
    folder: Path, key: Key, photos: Sequence[Photo], encode: Encode, distributed: Distributed
) -> tuple[Store, list[Skip]]:
    """Put all `photos` into the store in `folder`. Returns it, and the photos that cannot be read, sorted by path.

    `folder` may be another one on each rank. `encode` puts this rank's share into a store. The main rank decides which photos
    are missing. Its store is complete at the end; the store of another rank is only complete if it is the same folder.
    Raises InputError on every rank if the ranks have different photos or keys, if a folder cannot be used, or if a photo has
    neither a row in the store nor a reason.
    """
    check_same_photos(photos, distributed)
    _check_same_key(key, distributed)
    with ExitStack() as locks:
        owners = _claim_folders(folder, key, distributed, locks)
        photos = _identities(photos, owners[distributed.rank], distributed)
        store = _open(folder, key, owners, distributed)
        missing = distributed.broadcast([row for row, photo in enumerate(photos) if photo not in store])
        kept = _kept_elsewhere(store, photos, missing, owners, distributed)
        todo = [row for row in missing if row not in kept]
        with distributed.together():
            skipped = encode(store, [photos[row] for row in distributed.shard(todo)])
        skipped = [skip for part in distributed.all_gather(skipped) for skip in part]
        for owner in sorted(set(owners) - {0}):
            ranks = [rank for rank in range(distributed.world_size) if owners[rank] == owner]
            rows = [row for row in missing if kept.get(row) == owner]
            rows += [row for rank in ranks for row in distributed.shard(todo, rank)]
            _send_rows(store, photos, rows, owner, distributed)
        with distributed.together():
            if distributed.is_main:
                _wait_for_all(store, photos, skipped, distributed)
            store.refresh()
            if owners[distributed.rank] == distributed.rank:
                store.write_manifest(complete=True)
    return store, sorted(skipped, key=lambda skip: skip.path)


def fill_stores(
    wanted: Sequence[tuple[Path, Key]],
    photos: Sequence[Photo],
    encode: Callable[[Missing], list[Skip]],
    distributed: Distributed,
) -> tuple[list[Store], list[Skip]]:
    """`fill_store` for several stores, by one pass over the photos that any of them lacks.

    `encode` puts into each store what it lacks. It gets the stores in the order of `wanted`. Returns them, and the photos that
    cannot be read.
    """
    stores: list[Store] = []

    def fill(opened: Missing) -> list[Skip]:
        if len(opened) == len(wanted):
            return encode(opened)
        folder, key = wanted[len(opened)]
        inner = lambda store, missing: fill([*opened, (store, missing)])  # noqa: E731
        store, skipped = fill_store(folder, key, photos, inner, distributed)
        stores.insert(0, store)
        return skipped

    skipped = {skip.path: skip for skip in fill([])}  # every rank has those of all ranks
    return stores, sorted(skipped.values(), key=lambda skip: skip.path)


def check_same_photos(photos: Sequence[Photo], distributed: Distributed) -> None:
    """InputError on every rank, unless all ranks have the same photos: paths and sizes in the same order."""
    if distributed.world_size == 1:
        return
    listed = [(photo.path, photo.size) for photo in photos]
    if len(set(distributed.all_gather(_digest(listed)))) == 1:
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


def _check_same_key(key: Key, distributed: Distributed) -> None:
    keys = distributed.all_gather(key.as_plain())
    for rank, other in enumerate(keys):
        names = [name for name in other if other[name] != keys[0].get(name)] or sorted(keys[0].keys() - other.keys())
        if names:
            raise InputError(
                f"rank {rank} and rank 0 would store different {key.kind}: their {', '.join(names)} differ. Every rank needs the "
                "same weight file, settings and kind of device."
            )


def _claim_folders(folder: Path, key: Key, distributed: Distributed, locks: ExitStack) -> list[int]:
    """For each rank the lowest rank that has the same folder: its owner, which holds the lock until `locks` is closed.

    The owner writes a token with a random name, and the other ranks look for it.
    """
    owners: list[int | None] = [None] * distributed.world_size
    name = distributed.broadcast(uuid.uuid4().hex)
    while None in owners:
        owner = owners.index(None)
        token = token_file(folder, f"{name}{owner:x}")
        mine = distributed.rank == owner
        with distributed.together():
            if mine:
                refuse_foreign(folder)
                locks.enter_context(locked(folder / LOCK, f"the {key.kind.removesuffix('s')} store {folder}"))
                remove_leftovers(folder)
                if distributed.world_size > 1:
                    _write_token(token, key)
        seen = distributed.all_gather(mine or os.path.exists(token))
        owners = [owner if old is None and sees else old for old, sees in zip(owners, seen, strict=True)]
        if mine:
            token.unlink(missing_ok=True)
    return owners


def _write_token(token: Path, key: Key) -> None:
    try:
        token.touch()
    except OSError as error:
        raise InputError(
            f"cannot use {token.parent} as store of {key.kind}: {error.strerror}. {key.elsewhere}"
        ) from error


def _identities(photos: Sequence[Photo], owner: int, distributed: Distributed) -> list[Photo]:
    """The photos as the owner of the folder knows them. Copies on two machines can have different modification times."""
    if distributed.world_size == 1:
        return list(photos)
    times = [photo.mtime_ns for photo in photos]
    if len(set(distributed.all_gather(_digest(times)))) == 1:
        return list(photos)
    every = distributed.all_gather(times)
    return [replace(photo, mtime_ns=time) for photo, time in zip(photos, every[owner], strict=True)]


def _open(folder: Path, key: Key, owners: list[int], distributed: Distributed) -> Store:
    """The store of each rank. The owners open it first, and create its manifest."""
    owns, store = owners[distributed.rank] == distributed.rank, None
    for turn in (True, False):
        with distributed.together():
            if owns is turn:
                store = Store(folder, key)
    return store


def _kept_elsewhere(
    store: Store, photos: list[Photo], missing: list[int], owners: list[int], distributed: Distributed
) -> dict[int, int]:
    """Row -> owner, for the `missing` rows that the folder of another owner has, from a run that was interrupted."""
    if not any(owners):
        return {}
    owns = owners[distributed.rank] == distributed.rank and not distributed.is_main
    rows = distributed.all_gather([row for row in missing if photos[row] in store] if owns else [])
    return {row: owner for owner in reversed(range(len(rows))) for row in rows[owner]}


def _send_rows(store: Store, photos: list[Photo], rows: list[int], owner: int, distributed: Distributed) -> None:
    """Send the embeddings of `rows` from the folder of `owner` to the main rank, which writes them to its store."""

    def parts() -> Iterator[tuple[list[int], Tensor]]:  # rows, (n, V, D)
        store.refresh()
        present = [row for row in rows if photos[row] in store]  # the others are unreadable
        for shard, pairs in store.rows_by_shard([photos[row] for row in present]).items():
            embeddings = store.read_shard(shard)
            for first in range(0, len(pairs), PART_PHOTOS):
                part = pairs[first : first + PART_PHOTOS]
                yield [present[index] for index, _ in part], embeddings[[place for _, place in part]]

    def write(part: tuple[list[int], Tensor]) -> None:
        store.write_shard([photos[row] for row in part[0]], part[1])

    distributed.transfer(owner, parts, write)


def _wait_for_all(store: Store, photos: list[Photo], skipped: list[Skip], distributed: Distributed) -> None:
    """Until the store has every photo that was not skipped. InputError if it does not get them."""
    reasons = {skip.path for skip in skipped}
    deadline = time.monotonic() + (VISIBLE_SECONDS if distributed.world_size > 1 else 0.0)
    while True:
        store.refresh()
        absent = [photo.path for photo in photos if photo not in store and photo.path not in reasons]
        if not absent:
            return
        if time.monotonic() > deadline:
            raise InputError(
                f"{len(absent)} of {len(photos)} photos are neither in the store {store.folder} nor skipped, such as {absent[0]}. "
                "Run the same command again: it computes only the missing ones."
            )
        time.sleep(1.0)


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode("utf-8", "surrogateescape")).hexdigest()
