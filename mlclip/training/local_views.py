"""CCD step 2, label update: which local views of a photo the teacher scores.

They come from the class maps of the student or of the teacher, or from another choice with the same number of views.

Letters: N photos, C classes, K local views of one photo, h w cells of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import TrainConfig
from ..distributed import Distributed
from ..images import Box, Photo, PhotoViews, photo_batches
from ..images.overlay import as_bytes
from ..methods import ccd
from ..progress import Progress
from ..student.model import Classifier
from ..student.predict import class_maps
from ..teacher.where import CellMaps

CAM_SIDE = 320  # class maps are resized to this many pixels per side ...
CAM_MARGIN = 40  # ... and boxes get a margin of this many: the paper's 80 at 640
GRID = 3  # local views of "grid" are cells of a 3×3 grid
RANDOM_SIDES = (0.25, 0.75)  # range of the sides of a random box, as shares of the photo's
REPORTED_PHOTOS = 60  # photos whose maps are kept for the report

MapsOf = Callable[[Tensor], Tensor]  # uint8 photos (n, 3, S, S) -> class maps (n, C, h, w)


@dataclass
class LocalViews:
    """The local views of each photo: boxes as shares of its sides, and the class whose map gave each box."""

    boxes: list[list[Box]]  # N lists of K
    classes: list[list[int]]  # N lists of K class columns; empty where the boxes do not come from class maps
    maps: dict[int, Tensor] = field(default_factory=dict)  # row -> uint8 (K, h, w), for the report


def pictured_rows(count: int) -> list[int]:
    """The rows of a table of `count` photos that a report of the default length shows."""
    shown = min(REPORTED_PHOTOS, count)
    return [i * count // shown for i in range(shown)]


def choose_local_views(
    model: Classifier, photos: Sequence[Photo], scores: Tensor, threshold: float, config: TrainConfig, *,
    num_workers: int, distributed: Distributed, progress: Progress, cells: CellMaps | None = None,
) -> LocalViews:  # fmt: skip
    """The local views of all photos, the same on every rank.

    Each photo has as many views as it has classes with a score above `threshold`; `scores` are (N, C). "cam" takes the boxes
    of these classes' maps by the student, "cells" of those by the teacher, `cells`. The other choices use the same number of
    views: cells of a grid ("grid"), or boxes with random place and size ("random").
    """
    above = [(row > threshold).nonzero().flatten().tolist() for row in scores]  # NaN is never above
    more = (photos, above, num_workers, distributed, progress)
    if config.local_views == "cam":
        model.eval()
        maps_of = partial(class_maps, model, device=distributed.device)
        return _views_from_maps(maps_of, partial(PhotoViews, size=model.size), *more)
    if config.local_views == "cells":
        return _views_from_maps(cells, cells.views, *more, least_margin=1.0)
    boxes_of = _grid_cells if config.local_views == "grid" else _random_boxes
    boxes = [boxes_of(len(classes), np.random.default_rng([config.seed, row])) for row, classes in enumerate(above)]
    return LocalViews(boxes, [[] for _ in photos])


@torch.inference_mode()
def _views_from_maps(
    maps_of: MapsOf,
    views_of: Callable[[Sequence[Photo]], PhotoViews],
    photos: Sequence[Photo],
    above: list[list[int]],
    num_workers: int,
    distributed: Distributed,
    progress: Progress,
    least_margin: float = 0.0,
) -> LocalViews:
    """The box of each class in `above`, from its map of the photo as `views_of` resizes it; `least_margin` is in cells.

    The ranks share the photos, and every rank gets all views.
    """
    rows = distributed.shard([row for row, classes in enumerate(above) if classes])
    reported = set(pictured_rows(len(photos)))
    found: dict[int, list[Box]] = {}
    maps: dict[int, Tensor] = {}
    batches = photo_batches(
        views_of([photos[row] for row in rows]),
        batch_size=32,
        num_workers=num_workers,
        device=distributed.device,
    )
    with progress.bar("  local views", len(rows), "photos") as bar:
        for indices, pixels, unreadable in batches:
            bar.update(len(indices) + len(unreadable))
            if pixels is None:
                continue
            batch = maps_of(pixels[:, 0])
            for index, cams in zip(indices.tolist(), batch, strict=True):  # cams (C, h, w)
                row = rows[index]
                cams = cams[above[row]]  # (K, h, w)
                found[row] = [_box_of(cam, least_margin) for cam in cams]
                if row in reported:
                    maps[row] = as_bytes(cams)
    views = LocalViews([[] for _ in photos], [[] for _ in photos])
    for rank_boxes, rank_maps in distributed.all_gather((found, maps)):
        views.maps |= rank_maps
        for row, boxes in rank_boxes.items():
            views.boxes[row], views.classes[row] = boxes, above[row]
    return views


def _box_of(cam: Tensor, least_margin: float) -> Box:
    """The box of one class map (h, w), as shares of the photo's sides. Its margin is at least so many cells."""
    margin = max(CAM_MARGIN, least_margin * CAM_SIDE / min(cam.shape))
    large = F.interpolate(cam[None, None], size=(CAM_SIDE, CAM_SIDE), mode="bilinear", align_corners=False)[0, 0]
    return tuple(side / CAM_SIDE for side in ccd.cam_box(large, margin=margin))


def _grid_cells(count: int, rng: np.random.Generator) -> list[Box]:
    cells = rng.permutation(GRID * GRID)[:count].tolist()
    return [
        ((c % GRID) / GRID, (c // GRID) / GRID, (c % GRID + 1) / GRID, (c // GRID + 1) / GRID) for c in sorted(cells)
    ]


def _random_boxes(count: int, rng: np.random.Generator) -> list[Box]:
    return [_random_box(rng) for _ in range(count)]


def _random_box(rng: np.random.Generator) -> Box:
    width, height = rng.uniform(*RANDOM_SIDES, 2)
    x, y = rng.uniform(0, (1 - width, 1 - height))
    return x, y, x + width, y + height
