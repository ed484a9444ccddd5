"""CCD step 2, the label update: where the student points, the teacher looks again.

Letters: N photos, C classes, K local views of one photo, D the joint embedding, h w cells of a map.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import ccd
from .classifier import Classifier
from .config import InputError, TrainConfig
from .files import load_plain, save_plain
from .images import Box, Photo, PhotoCrops, PhotoViews, Unreadable, open_image, photo_batches
from .labels import Labels
from .overlay import normalised
from .predict import class_maps
from .talk import SILENT, Talk
from .teacher import Teacher, class_embeddings, class_scores
from .workers import Workers

CAM_SIDE = 320  # class maps are enlarged to this many pixels a side ...
CAM_MARGIN = 40  # ... and boxes grown by this many: the paper's 80 at 640
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
GRID = 3  # local views of "grid" are cells of a 3×3 grid
RANDOM_SIDES = (0.25, 0.75)  # of a random box, as shares of the photo's
SHARD_PHOTOS = 256  # photos whose local scores make one file of an unfinished update
CROPS_AT_ONCE = 64
PICTURED = 60  # photos whose maps are kept for the report's pictures

Annotated = Mapping[str, Sequence[tuple[str, Box]]]  # path -> (class, box_xyxy in pixels)


@dataclass
class Pointer:
    """Where to look again: per photo its boxes, as shares of its sides; `classes` those that a map pointed for."""

    boxes: list[list[Box]]  # N lists of K
    classes: list[list[int]]  # N lists of K class columns; empty where no class led to a box
    maps: dict[int, Tensor] = field(default_factory=dict)  # row -> uint8 (K, h, w) for the report's pictures


def pictured_rows(count: int) -> list[int]:
    """The rows of a table of `count` photos that a report of its usual length shows."""
    shown = min(PICTURED, count)
    return [i * count // shown for i in range(shown)]


def point(
    model: Classifier, photos: Sequence[Photo], scores: Tensor, threshold: float, config: TrainConfig, *,
    annotated: Annotated | None, loaders: int, workers: Workers, talk: Talk,
) -> Pointer:  # fmt: skip
    """The local views of all photos, the same on every process.

    Every photo has as many views as it has classes whose score, of `scores` (N, C), is above `threshold`; "cam" takes the
    boxes of those classes' maps. "grid", "random", "boxes" and "around" spend the same number of views on cells of a grid,
    on boxes of random place and size, on `annotated` boxes (as many as the photo has), on those grown by the maps' margin.
    """
    above = [(row > threshold).nonzero().flatten().tolist() for row in scores]  # NaN is never above
    if config.local_views == "cam":
        return _point_by_maps(model, photos, above, loaders, workers, talk)
    chance = [np.random.default_rng([config.seed, row]) for row in range(len(photos))]
    if config.local_views == "grid":
        boxes = [_grid_cells(len(classes), rng) for classes, rng in zip(above, chance, strict=True)]
    elif config.local_views == "random":
        boxes = [[_random_box(rng) for _ in classes] for classes, rng in zip(above, chance, strict=True)]
    else:
        margin = CAM_MARGIN / CAM_SIDE if config.local_views == "around" else 0.0
        rows = zip(photos, above, chance, strict=True)
        boxes = [_annotated_boxes(annotated or {}, photo, len(classes), rng, margin) for photo, classes, rng in rows]
    return Pointer(boxes, [[] for _ in photos])


@torch.inference_mode()
def _point_by_maps(
    model: Classifier, photos: Sequence[Photo], above: list[list[int]], loaders: int, workers: Workers, talk: Talk
) -> Pointer:
    rows = workers.share([row for row, classes in enumerate(above) if classes])
    kept = set(pictured_rows(len(photos)))
    found: dict[int, list[Box]] = {}
    maps: dict[int, Tensor] = {}
    batches = photo_batches(PhotoViews([photos[row] for row in rows], model.size), batch_size=32, workers=loaders)
    model.eval()
    with talk.bar("  local views", len(rows), "photos") as bar:
        for indices, pixels, unreadable in batches:
            bar.update(len(indices) + len(unreadable))
            if pixels is None:
                continue
            batch = class_maps(model, pixels[:, 0], workers.device)
            for index, own in zip(indices.tolist(), batch, strict=True):  # own (C, h, w)
                row = rows[index]
                own = own[above[row]]  # (K, h, w)
                found[row] = [_box_of(cam) for cam in own]
                if row in kept:
                    maps[row] = _bytes(own)
    pointer = Pointer([[] for _ in photos], [[] for _ in photos])
    for part, pictures in workers.gather((found, maps)):
        pointer.maps |= pictures
        for row, boxes in part.items():
            pointer.boxes[row], pointer.classes[row] = boxes, above[row]
    return pointer


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


@dataclass(frozen=True)
class Judge:
    """The teacher of an update: its class embeddings `text` (C + contrast, D), biases (C,), and how it looks."""

    teacher: Teacher
    text: Tensor
    bias: Tensor
    floor: float
    logit_scale: float
    longest: int  # the longer side of a crop, pixels


def judge_of(labels: Labels, teacher: Teacher | None, *, other_teacher: bool = False) -> Judge:
    """The teacher, with prompts, biases and sizes as `labels` were made with.

    Raises InputError where the labels do not say how they were made, and where `teacher` is another CLIP than theirs
    unless `other_teacher` allows it. Labels made by another method than CCD are not debiased: their biases are 1.
    """
    made, settings = labels.meta.get("clip"), labels.meta.get("settings", {})
    if not made or not labels.meta.get("prompts"):
        raise InputError(
            "the labels do not say which CLIP and prompts made them, which the label update needs: make them with "
            "`mlclip pseudolabel`, or train with --local-views none"
        )
    if teacher is None:
        raise InputError("the label update needs the labels' own CLIP as teacher; or train with --local-views none")
    if teacher.sha256 != made["sha256"] and not other_teacher:
        raise InputError(
            f"CLIP {teacher.name} is not the one that made the labels ({made['name']}, sha256 {made['sha256'][:12]}...); "
            "name that one with --clip, or add --other-teacher"
        )
    bias = torch.tensor(labels.meta.get("bias") or [1.0] * len(labels.classes))
    names = [*labels.meta["prompts"], *labels.meta.get("contrast", [])]
    text = class_embeddings(teacher, names, labels.meta["templates"])
    longest = made.get("view_size", 0) if labels.meta.get("method") == "ccd" else 0
    return Judge(
        teacher, text, bias, settings.get("floor", ccd.FLOOR), made["logit_scale"], longest or teacher.larger_size()
    )


def local_labels(
    judge: Judge, photos: Sequence[Photo], boxes: list[list[Box]], folder: Path, run: object, *, loaders: int,
    workers: Workers, talk: Talk,
) -> Tensor:  # fmt: skip
    """CCD step 2: the teacher's local labels (N, C) of photos, from its scores of their boxes; on every process.

    Finished parts are kept in `folder` under the name of `run`, so that a stopped update goes on; who calls this removes
    the folder once the result is safe. A photo without boxes, or unreadable, has floor / bias.
    """
    name = hashlib.sha256(repr((run, boxes)).encode()).hexdigest()
    if workers.is_main:
        folder.mkdir(parents=True, exist_ok=True)
    workers.wait()
    done = _read_parts(folder, name)
    missing = workers.share([row for row, own in enumerate(boxes) if own and row not in done])
    workers.wait()  # before anyone writes
    at_a_time = range(0, len(missing), SHARD_PHOTOS)
    with (talk if workers.is_main else SILENT).bar("  looking again", len(missing), "photos") as bar:
        for first in at_a_time:
            rows = missing[first : first + SHARD_PHOTOS]
            best = _best_of_crops(judge, [photos[r] for r in rows], [boxes[r] for r in rows], loaders)  # (n, C)
            content = {"format": "mlclip.update", "version": 1, "run": name, "rows": rows, "best": best}
            save_plain(content, folder / f"part-{workers.rank}-{rows[0]}.pt")
            bar.update(len(rows))
    workers.wait()
    done = _read_parts(folder, name)
    result = ccd.debias(torch.zeros(len(photos), len(judge.bias)), judge.bias, judge.floor)  # (N, C)
    for row, best in done.items():
        result[row] = ccd.local_scores(best[None], judge.bias, judge.floor)
    return result


def _read_parts(folder: Path, name: str) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    for file in sorted(folder.glob("part-*.pt")):
        content = load_plain(file, kind="update", made_by="mlclip train --overwrite")
        if content["run"] == name:
            found |= dict(zip(content["rows"], content["best"], strict=True))
    return found


def _best_of_crops(judge: Judge, photos: list[Photo], boxes: list[list[Box]], loaders: int) -> Tensor:
    """The maximum over each photo's crops of the teacher's class scores: (n, C); 0 where a photo is unreadable.

    Crops of one size are encoded together, as many as CROPS_AT_ONCE, whichever photos they are of.
    """
    classes = len(judge.bias)
    best = torch.zeros(len(photos), classes)
    waiting: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}

    def encode(crops: list[tuple[int, Tensor]]) -> None:
        embeddings = judge.teacher.embed_views(torch.stack([pixels for _, pixels in crops])).cpu()  # (k, D)
        scores = class_scores(embeddings, judge.text, judge.logit_scale)[:, :classes]  # (k, C)
        for (index, _), own in zip(crops, scores, strict=True):
            best[index] = torch.maximum(best[index], own)

    dataset = PhotoCrops(photos, boxes, judge.longest, judge.teacher.stride)
    for items in photo_batches(dataset, batch_size=16, workers=loaders, collate_fn=list):
        for index, crops in items:
            for pixels in () if isinstance(crops, str) else crops:
                same = waiting.setdefault(tuple(pixels.shape), [])
                same.append((index, pixels))
                if len(same) == CROPS_AT_ONCE:
                    encode(waiting.pop(tuple(pixels.shape)))
    for crops in waiting.values():
        encode(crops)
    return best
