"""Cuts photos into views: snippets of equal size, resized to squares; and reads them in batches. numpy and Pillow only, no torch.

Threads of this process read the batches, so that no worker has to start: Pillow works without Python's global lock.

Letters: n readable photos in a batch, V views of a photo, S side of a view in pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from ..config import InputError
from .decode import NOTED, NOTES, Unreadable, open_image
from .find import Found, Photo, Skip

T, R = TypeVar("T"), TypeVar("R")
AHEAD = 2  # batches that are being decoded while the caller uses another one

REDUCING_GAP = 3.0  # a large snippet is first reduced by an integer factor, to at least this many times the final size

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Box = tuple[float, float, float, float]  # x0, y0, x1, y1
Parts = Sequence[tuple[int, Sequence[int]]]  # sets of views: size and grids of each


def tile_boxes(width: int, height: int, n: int) -> list[tuple[int, int, int, int]]:
    """CDUL 1: the n×n equal snippets of an image, row by row, as (x0, y0, x1, y1) in pixels. They cover the whole image.

    Edges are rounded to whole pixels. If a side has fewer than n pixels, snippets overlap, so that none is empty.

    >>> tile_boxes(9, 3, 3)[:4]
    [(0, 0, 3, 1), (3, 0, 6, 1), (6, 0, 9, 1), (0, 1, 3, 2)]
    """
    return [(x0, y0, x1, y1) for y0, y1 in _cuts(height, n) for x0, x1 in _cuts(width, n)]


def _cuts(side: int, n: int) -> list[tuple[int, int]]:
    edges = [(2 * k * side + n) // (2 * n) for k in range(n + 1)]  # k · side / n, rounded
    starts = [min(edge, side - 1) for edge in edges[:-1]]
    return [(start, max(start + 1, end)) for start, end in zip(starts, edges[1:], strict=True)]


def view_array(
    image: Image.Image, size: int, grids: Sequence[int] = (1,), interpolation: str = "bicubic"
) -> np.ndarray:
    """CDUL 1: the views of an RGB image as uint8 (V, 3, S, S), V = Σ n² over `grids`.

    For each n the image is cut into n×n snippets, row by row (n = 1: the whole image). Each snippet is resized to S×S
    on its own, by antialiased interpolation ("bicubic" or "bilinear"). The aspect ratio is not kept.
    """
    boxes = [box for n in grids for box in tile_boxes(*image.size, n)]
    pixels = np.empty((len(boxes), 3, size, size), np.uint8)
    for view, box in zip(pixels, boxes, strict=True):
        snippet = image.crop(box).resize((size, size), RESAMPLING[interpolation], reducing_gap=REDUCING_GAP)
        view[:] = np.asarray(snippet).transpose(2, 0, 1)
    return pixels


def read_parts(file: str, parts: Parts, interpolation: str = "bicubic") -> tuple[list[np.ndarray], int]:
    """Several sets of views of the photo in `file`, decoded once: (size, grids) of each -> uint8 (V, 3, S, S) of each.

    Also the bits of NOTES that are true of it. Raises Unreadable, also for a picture of one colour.
    """
    needed = max(size * max(grids) for size, grids in parts)
    image = open_image(file, smallest=(needed, needed))
    some = image.resize((4, 4), Image.Resampling.NEAREST).getcolors()
    if len(some) == 1 and all(low == high for low, high in image.getextrema()):
        raise Unreadable("a picture of one colour only")
    return [view_array(image, size, grids, interpolation) for size, grids in parts], image.info[NOTED]


def crop_size(width: int, height: int, longest: int, stride: int) -> tuple[int, int]:
    """CCD 2: a crop's (width, height) in pixels when its longer side is resized to `longest`. Both are multiples of `stride`.

    >>> crop_size(200, 90, 640, 32)
    (640, 288)
    """
    scale = longest / max(width, height)
    return tuple(max(1, round(side * scale / stride)) * stride for side in (width, height))


# Batches


class PhotoBatch(NamedTuple):
    """`rows`: indices of the readable photos (n,). `pixels`: uint8 (n, 3, S, S). `unreadable`: (index, reason)."""

    rows: list[int]
    pixels: np.ndarray
    unreadable: list[tuple[int, str]]


def read_batches(
    photos: Sequence[Photo], size: int, *, batch_size: int, num_threads: int = 0, log: Callable = lambda line: None
) -> Iterator[PhotoBatch]:
    """Batches of photos resized to `size`×`size`; see `in_threads`. The aspect ratio is not kept. At the end `log` gets the `notes`."""

    def read(photo: Photo) -> tuple[np.ndarray, int] | tuple[str, int]:
        """The pixels (1, 3, S, S) and the bits of NOTES; or the reason why the photo cannot be read, and 0."""
        try:
            ([views], noted) = read_parts(photo.file, [(size, (1,))])
            return views, noted
        except Unreadable as error:
            return str(error), 0

    noted: list[int] = []
    for items in in_threads(read, photos, batch_size=batch_size, num_threads=num_threads):
        views, bits = zip(*items, strict=True)
        unreadable = [(row, reason) for row, reason in enumerate(views, len(noted)) if isinstance(reason, str)]
        rows = [row for row, pixels in enumerate(views, len(noted)) if not isinstance(pixels, str)]
        pixels = [views[row - len(noted)] for row in rows]
        yield PhotoBatch(rows, np.concatenate([np.empty((0, 3, size, size), np.uint8), *pixels]), unreadable)
        noted += bits
    for note in notes(photos, noted):
        log(note)


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


def notes(photos: Sequence[Photo], noted: Sequence[int]) -> Iterator[str]:
    """A line for each of NOTES that is true of a photo: how many, and the first. `noted` has the bits of each photo."""
    for kind, text in enumerate(NOTES):
        if paths := [photo.path for photo, bits in zip(photos, noted, strict=True) if bits >> kind & 1]:
            yield text.format(f"{len(paths)}, such as {paths[0]}")


def separate_unreadable(found: Found, unreadable: Sequence[tuple[int, str]]) -> tuple[list[int], list[Skip]]:
    """The rows of the readable photos, and everything that was skipped, sorted by path. InputError if no photo is readable."""
    bad = {row for row, _ in unreadable}
    reasons = [Skip(found.photos[row].path, reason) for row, reason in unreadable]
    skipped = sorted([*found.skipped, *reasons], key=lambda skip: skip.path)
    rows = [row for row in range(len(found.photos)) if row not in bad]
    if not rows and not found.known:
        first = f"{skipped[0].path}: {skipped[0].reason}"
        raise InputError(f"none of the {len(skipped)} photos in {found.root} can be read (first: {first})")
    return rows, skipped
