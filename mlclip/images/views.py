"""Cuts photos into views: snippets of equal size, resized to squares. numpy and Pillow only, no torch.

Letters: V views of a photo, S side of a view in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .decode import SEVERAL, open_image

REDUCING_GAP = 3.0  # a large snippet is first reduced by an integer factor, to at least this many times the final size

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Box = tuple[float, float, float, float]  # x0, y0, x1, y1


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


def read_views(
    file: str, size: int, grids: Sequence[int] = (1,), interpolation: str = "bicubic"
) -> tuple[np.ndarray, bool]:
    """The views of the photo in `file` (see `view_array`), and whether the file has more frames or pages than the one used.

    Raises Unreadable. A JPEG is decoded at a fraction of its size if that is enough for the views.
    """
    (views,), several = read_parts(file, [(size, grids)], interpolation)
    return views, several


def read_parts(
    file: str, parts: Sequence[tuple[int, Sequence[int]]], interpolation: str = "bicubic"
) -> tuple[list[np.ndarray], bool]:
    """Several sets of views of the photo in `file`, decoded once: (size, grids) of each -> uint8 (V, 3, S, S) of each.

    Also whether the file has more frames or pages than the one used. Raises Unreadable.
    """
    needed = max(size * max(grids) for size, grids in parts)
    image = open_image(file, smallest=(needed, needed))
    return [view_array(image, size, grids, interpolation) for size, grids in parts], image.info[SEVERAL]


def crop_size(width: int, height: int, longest: int, stride: int) -> tuple[int, int]:
    """CCD 2: a crop's (width, height) in pixels when its longer side is resized to `longest`. Both are multiples of `stride`.

    >>> crop_size(200, 90, 640, 32)
    (640, 288)
    """
    scale = longest / max(width, height)
    return tuple(max(1, round(side * scale / stride)) * stride for side in (width, height))
