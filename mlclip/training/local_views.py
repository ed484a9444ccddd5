"""CCD step 2, the label update: where the student points, and what else can be looked at for the same budget.

Letters: N photos, C classes, K local views of one photo, h w cells of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import TrainConfig
from ..distributed import Distributed
from ..images import Box, Photo, PhotoViews, Unreadable, open_image, photo_batches
from ..images.overlay import normalised
from ..methods import ccd
from ..progress import Progress
from ..student.model import Classifier
from ..student.predict import class_maps

CAM_SIDE = 320  # class maps are enlarged to this many pixels a side ...
CAM_MARGIN = 40  # ... and boxes grown by this many: the paper's 80 at 640
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
GRID = 3  # local views of "grid" are cells of a 3×3 grid
RANDOM_SIDES = (0.25, 0.75)  # of a random box, as shares of the photo's
PICTURED = 60  # photos whose maps are kept for the report's pictures

Annotated = Mapping[str, Sequence[tuple[str, Box]]]  # path -> (class, box_xyxy in pixels)


@dataclass
class LocalViews:
    """Where to look again: per photo its boxes, as shares of its sides; `classes` those that a map pointed for."""

    boxes: list[list[Box]]  # N lists of K
    classes: list[list[int]]  # N lists of K class columns; empty where no class led to a box
    maps: dict[int, Tensor] = field(default_factory=dict)  # row -> uint8 (K, h, w) for the report's pictures


def pictured_rows(count: int) -> list[int]:
    """The rows of a table of `count` photos that a report of its usual length shows."""
    shown = min(PICTURED, count)
    return [i * count // shown for i in range(shown)]


def choose_local_views(
    model: Classifier, photos: Sequence[Photo], scores: Tensor, threshold: float, config: TrainConfig, *,
    annotated: Annotated | None, num_workers: int, distributed: Distributed, progress: Progress,
) -> LocalViews:  # fmt: skip
    """The local views of all photos, the same on every process.

    Every photo has as many views as it has classes whose score, of `scores` (N, C), is above `threshold`; "cam" takes the
    boxes of those classes' maps. "grid", "random", "boxes" and "around" spend the same number of views on cells of a grid,
    on boxes of random place and size, on `annotated` boxes (as many as the photo has), on those grown by the maps' margin.
    """
    above = [(row > threshold).nonzero().flatten().tolist() for row in scores]  # NaN is never above
    if config.local_views == "cam":
        return _point_by_maps(model, photos, above, num_workers, distributed, progress)
    chance = [np.random.default_rng([config.seed, row]) for row in range(len(photos))]
    if config.local_views == "grid":
        boxes = [_grid_cells(len(classes), rng) for classes, rng in zip(above, chance, strict=True)]
    elif config.local_views == "random":
        boxes = [[_random_box(rng) for _ in classes] for classes, rng in zip(above, chance, strict=True)]
    else:
        margin = CAM_MARGIN / CAM_SIDE if config.local_views == "around" else 0.0
        rows = zip(photos, above, chance, strict=True)
        boxes = [_annotated_boxes(annotated or {}, photo, len(classes), rng, margin) for photo, classes, rng in rows]
    return LocalViews(boxes, [[] for _ in photos])


@torch.inference_mode()
def _point_by_maps(
    model: Classifier,
    photos: Sequence[Photo],
    above: list[list[int]],
    num_workers: int,
    distributed: Distributed,
    progress: Progress,
) -> LocalViews:
    rows = distributed.shard([row for row, classes in enumerate(above) if classes])
    kept = set(pictured_rows(len(photos)))
    found: dict[int, list[Box]] = {}
    maps: dict[int, Tensor] = {}
    batches = photo_batches(
        PhotoViews([photos[row] for row in rows], model.size), batch_size=32, num_workers=num_workers
    )
    model.eval()
    with progress.bar("  local views", len(rows), "photos") as bar:
        for indices, pixels, unreadable in batches:
            bar.update(len(indices) + len(unreadable))
            if pixels is None:
                continue
            batch = class_maps(model, pixels[:, 0], distributed.device)
            for index, own in zip(indices.tolist(), batch, strict=True):  # own (C, h, w)
                row = rows[index]
                own = own[above[row]]  # (K, h, w)
                found[row] = [_box_of(cam) for cam in own]
                if row in kept:
                    maps[row] = _bytes(own)
    views_found = LocalViews([[] for _ in photos], [[] for _ in photos])
    for part, pictures in distributed.all_gather((found, maps)):
        views_found.maps |= pictures
        for row, boxes in part.items():
            views_found.boxes[row], views_found.classes[row] = boxes, above[row]
    return views_found


def _box_of(cam: Tensor) -> Box:
    """The box of one class map (h, w), in shares of the photo's sides."""
    large = F.interpolate(cam[None, None], size=(CAM_SIDE, CAM_SIDE), mode="bilinear", align_corners=False)[0, 0]
    return tuple(side / CAM_SIDE for side in ccd.cam_box(large, margin=CAM_MARGIN))


def _bytes(maps: Tensor) -> Tensor:
    """Class maps (K, h, w), each min-max normalised, as uint8."""
    return (torch.stack([normalised(cam) for cam in maps]) * 255).round().to(torch.uint8)


def _grid_cells(count: int, rng: np.random.Generator) -> list[Box]:
    cells = rng.permutation(GRID * GRID)[:count].tolist()
    return [
        ((c % GRID) / GRID, (c // GRID) / GRID, (c % GRID + 1) / GRID, (c // GRID + 1) / GRID) for c in sorted(cells)
    ]


def _random_box(rng: np.random.Generator) -> Box:
    width, height = rng.uniform(*RANDOM_SIDES, 2)
    x, y = rng.uniform(0, (1 - width, 1 - height))
    return x, y, x + width, y + height


def _annotated_boxes(
    annotated: Annotated, photo: Photo, count: int, rng: np.random.Generator, margin: float
) -> list[Box]:
    """At most `count` of a photo's boxes, grown on each side by `margin`, a share of the photo's side."""
    given = [box for _, box in annotated.get(photo.path, annotated.get(photo.path.rsplit("/", 1)[-1], ()))]
    if not given or not count:
        return []
    try:
        width, height = open_image(photo.file).size
    except Unreadable:
        return []
    chosen = [given[i] for i in sorted(rng.permutation(len(given))[:count].tolist())]
    grown = (-margin, -margin, margin, margin)
    shares = [(x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in chosen]
    return [tuple(min(1.0, max(0.0, s + m)) for s, m in zip(box, grown, strict=True)) for box in shares]
