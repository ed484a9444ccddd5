"""Reads photos in batches with threads of this process: no worker has to start, and torch is not needed.

Pillow decodes and resizes without Python's global lock, so that threads use several cores.

Letters: n readable photos in a batch, S side of the square in pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from ..config import InputError
from .decode import Unreadable
from .find import Found, Photo, Skip
from .views import read_views

T, R = TypeVar("T"), TypeVar("R")
AHEAD = 2  # batches that are being decoded while the caller uses another one


class PhotoBatch(NamedTuple):
    """`rows`: indices of the readable photos (n,). `pixels`: uint8 (n, 3, S, S). `unreadable`: (index, reason)."""

    rows: list[int]
    pixels: np.ndarray
    unreadable: list[tuple[int, str]]


def read_batches(photos: Sequence[Photo], size: int, *, batch_size: int, num_threads: int = 0) -> Iterator[PhotoBatch]:
    """Batches of photos resized to `size`×`size`, in order. The aspect ratio is not kept.

    `num_threads` threads decode in advance. With 0, or for a single photo, the calling thread decodes.
    """

    def read(photo: Photo) -> np.ndarray | str:
        """The pixels (3, S, S), or the reason why the photo cannot be read."""
        try:
            return read_views(photo.file, size)[0][0]
        except Unreadable as error:
            return str(error)

    start = 0
    for items in in_threads(read, photos, batch_size=batch_size, num_threads=num_threads):
        readable = {row: item for row, item in enumerate(items, start) if not isinstance(item, str)}
        pixels = np.stack(list(readable.values())) if readable else np.empty((0, 3, size, size), np.uint8)
        unreadable = [(row, item) for row, item in enumerate(items, start) if isinstance(item, str)]
        yield PhotoBatch(list(readable), pixels, unreadable)
        start += len(items)


def in_threads(read: Callable[[T], R], items: Sequence[T], *, batch_size: int, num_threads: int) -> Iterator[list[R]]:
    """The results of `read` for all items, in order, in lists of `batch_size`.

    `num_threads` threads work in advance. With 0, or for at most one item, the calling thread works.
    """
    starts = range(0, len(items), batch_size)
    if num_threads == 0 or len(items) <= 1:
        for start in starts:
            yield [read(item) for item in items[start : start + batch_size]]
        return
    from concurrent.futures import ThreadPoolExecutor

    executor = ThreadPoolExecutor(min(num_threads, len(items)), thread_name_prefix="decode")
    waiting: deque = deque()
    try:
        for start in starts:
            waiting.append([executor.submit(read, item) for item in items[start : start + batch_size]])
            if len(waiting) > AHEAD:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        executor.shutdown(cancel_futures=True)


def separate_unreadable(found: Found, unreadable: Sequence[tuple[int, str]]) -> tuple[list[int], list[Skip]]:
    """The rows of the readable photos, and everything that was skipped, sorted by path. InputError if no photo is readable."""
    bad = {row for row, _ in unreadable}
    reasons = [Skip(found.photos[row].path, reason) for row, reason in unreadable]
    skipped = sorted([*found.skipped, *reasons], key=lambda skip: skip.path)
    rows = [row for row in range(len(found.photos)) if row not in bad]
    if not rows:
        raise InputError(
            f"none of the {len(skipped)} photos in {found.root} can be read (first: {skipped[0].path}: {skipped[0].reason})"
        )
    return rows, skipped
