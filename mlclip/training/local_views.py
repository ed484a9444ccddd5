"""CCD step 2, label update: which local views of a photo the teacher scores, and the local labels that its scores give.

The views come from the class maps of the student or of the teacher. The scores are computed in the same way as the labels, see
`CropScorer`.

Letters: N photos, C classes, K local views of one photo, h w cells of a map, k crops, D the joint embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import InputError
from ..distributed import Runtime
from ..files import refused
from ..images import Box, Photo, PhotoCrops, PhotoViews, photo_batches
from ..images.overlay import as_bytes
from ..labels.table import Labels
from ..methods import ccd, centred
from ..student.model import Classifier
from ..student.predict import class_maps
from ..teacher.scoring import Teacher, check_same_teacher, class_scores, embeddings_of
from ..teacher.where import CellMaps, square_photos

CAM_SIDE = 320  # class maps are resized to this many pixels per side ...
CAM_MARGIN = 40  # ... and boxes get a margin of this many: the paper's 80 at 640
PHOTOS_AT_ONCE = 256  # whose crops are scored together ...
CROPS_AT_ONCE = 64  # ... in batches of this many
OTHERWISE = 'train with `local_views="none"`.'
REPORTED_PHOTOS = 24  # photos whose maps are kept for the report, which draws as many


@dataclass
class LocalViews:
    """The local views of each photo: boxes as shares of its sides, and the class whose map gave each box."""

    boxes: list[list[Box]]  # N lists of K
    classes: list[list[int]]  # N lists of K class columns
    maps: dict[int, Tensor] = field(default_factory=dict)  # row -> uint8 (K, h, w), for the report


def pictured_rows(count: int) -> list[int]:
    """The rows of a table of `count` photos whose label update a report draws, evenly spaced."""
    shown = min(REPORTED_PHOTOS, count)
    return [i * count // shown for i in range(shown)]


@torch.inference_mode()
def choose_local_views(
    model: Classifier,
    photos: Sequence[Photo],
    scores: Tensor,
    threshold: float,
    runtime: Runtime,
    cells: CellMaps | None = None,
) -> LocalViews:
    """The local views of all photos, the same on every rank. The ranks share the photos.

    Each photo has as many views as it has classes with a score above `threshold`; `scores` are (N, C). A view is the box of
    the class's map by the student, or by the teacher where its maps are given as `cells`. Those are coarse, so that the margin of
    their boxes is at least one cell.
    """
    above = [(row > threshold).nonzero().flatten().tolist() for row in scores]  # NaN is never above
    rows = runtime.distributed.shard([row for row, classes in enumerate(above) if classes])
    own = [photos[row] for row in rows]
    dataset = square_photos(own, cells.teacher) if cells else PhotoViews(own, model.size)
    reported = set(pictured_rows(len(photos)))
    found: dict[int, list[Box]] = {}
    maps: dict[int, Tensor] = {}
    model.eval()
    batches = photo_batches(dataset, batch_size=32, num_workers=runtime.num_workers, device=runtime.device)
    with runtime.progress.bar("  local views", len(rows), "photos") as bar:
        for indices, pixels, unreadable in batches:
            bar.update(len(indices) + len(unreadable))
            if pixels is None:
                continue
            of_batch = cells(pixels[:, 0]) if cells else class_maps(model, pixels[:, 0], device=runtime.device)
            for index, of_photo in zip(indices.tolist(), of_batch, strict=True):  # (C, h, w)
                row = rows[index]
                cams = of_photo[above[row]]  # (K, h, w)
                margin = max(CAM_MARGIN, CAM_SIDE / min(cams.shape[1:]) if cells else 0.0)  # pixels
                large = F.interpolate(cams[None], size=(CAM_SIDE, CAM_SIDE), mode="bilinear", align_corners=False)[0]
                boxes = (ccd.cam_box(cam, margin=margin) for cam in large)
                found[row] = [tuple(side / CAM_SIDE for side in box) for box in boxes]
                if row in reported:
                    maps[row] = as_bytes(cams)
    views = LocalViews([[] for _ in photos], [[] for _ in photos])
    for rank_boxes, rank_maps in runtime.distributed.all_gather((found, maps)):
        views.maps |= rank_maps
        for row, boxes in rank_boxes.items():
            views.boxes[row], views.classes[row] = boxes, above[row]
    return views


@dataclass(frozen=True)
class CropScorer:
    """A teacher that scores crops. `text` (C + contrast, D) are the embeddings of its class prompts.

    For CCD and CDUL labels, as in the paper: the highest softmax score of all crops, raised to `floor` and divided by `bias` (C,).
    For centred and dense labels the crops are views of one more grid: `levels` (C + contrast,) are the class levels; `slope`
    and `offset` (C,) come from the mixture that made the labels.
    """

    teacher: Teacher
    text: Tensor
    classes: int
    logit_scale: float
    longest: int  # the longer side of a crop, pixels
    bias: Tensor | None = None
    floor: float = ccd.FLOOR
    levels: Tensor | None = None  # None: not centred
    slope: Tensor | None = None
    offset: Tensor | None = None
    weights: Tensor | None = None  # (K, K) of `centred.competition`

    @property
    def initial(self) -> float:  # the combined score of every class before the first crop
        return 0.0 if self.levels is None else -math.inf

    def score(self, embeddings: Tensor) -> Tensor:
        """Scores of crops: embeddings (k, D) -> (k, C)."""
        if self.levels is None:
            return class_scores(embeddings, self.text, self.logit_scale)[:, : self.classes]
        cosines = embeddings.float() @ self.text.T  # (k, C + contrast)
        logits = centred.centred_logits(cosines, self.levels, self.logit_scale, self.weights)
        return logits[:, : self.classes]

    def combine(self, combined: Tensor, scores: Tensor) -> Tensor:
        """The combined scores (C,) of a photo, with the `scores` (C,) of one more crop."""
        return torch.maximum(combined, scores) if self.levels is None else torch.logaddexp(combined, scores)

    def local_label(self, combined: Tensor) -> Tensor:
        """The local label (C,) of a photo. Without crops it is floor / bias, or NaN (not known) where labels are centred."""
        if self.levels is None:
            return ccd.local_scores(combined[None], self.bias, self.floor)
        return (self.slope * combined + self.offset).sigmoid().where(combined.isfinite(), torch.nan)


def crop_scorer_for(labels: Labels, teacher: Teacher, other_teacher: bool = False) -> CropScorer:
    """The scorer with the prompts, biases or levels, and view sizes that `labels` were made with.

    CDUL's labels are not debiased: their biases are 1. `other_teacher` allows another CLIP than that of the labels.
    """
    made, meta = labels.meta.get("clip"), labels.meta
    if not made or not meta.get("prompts"):
        what = "the labels do not say which CLIP and prompts made them"
        raise InputError(f"{what}; the label update needs both. Make them with `mlclip pseudolabel`, or {OTHERWISE}")
    if meta.get("method") == "dense" and "mixture" not in meta:
        what = f"labels from the view sets {', '.join(meta['settings']['views'])} have no levels for crops"
        raise InputError(f"{what}. Make them with `--views default`, or {OTHERWISE}")
    if not other_teacher:
        check_same_teacher(made, teacher)
    what = "the facts about how the labels were made are damaged"
    remedy = "Make the labels again with `mlclip pseudolabel`."
    with refused(what, remedy, KeyError, TypeError, ValueError, RuntimeError, AttributeError):
        settings, scale, classes = meta.get("settings", {}), made["logit_scale"], len(labels.classes)
        text = embeddings_of(meta, teacher)
        if meta.get("method") in ("centred", "dense"):
            levels = torch.tensor(list(meta["levels"].values())).mean(0)  # (C + contrast,) crops have all sizes
            slope, offset = torch.tensor(meta["mixture"])
            size, scale = made.get("view_size") or teacher.input_size, scale * settings["rank_scale"]
            mixture = {"levels": levels, "slope": slope, "offset": offset}
            weights = centred.competition_of(meta.get("same_names", []), len(text))
            return CropScorer(teacher, text, classes, scale, size, **mixture, weights=weights)
        bias = torch.tensor(meta.get("bias") or [1.0] * classes)
        size = (made.get("view_size", 0) if meta.get("method") == "ccd" else 0) or teacher.larger_size()
        return CropScorer(teacher, text, classes, scale, size, bias, settings.get("floor", ccd.FLOOR))


def local_labels(scorer: CropScorer, photos: Sequence[Photo], boxes: list[list[Box]], runtime: Runtime) -> Tensor:
    """CCD step 2: the local labels (N, C) of photos, from the scores of the crops in `boxes`. Every rank gets all of them.

    A photo without boxes, or one that cannot be read, gets the local label of the scorer's initial score.
    """
    distributed = runtime.distributed
    own = distributed.shard([row for row, views in enumerate(boxes) if views])
    combined = torch.full((len(photos), scorer.classes), scorer.initial)  # (N, C)
    with distributed.together(), runtime.bars.bar("  scoring crops", len(own), "photos") as bar:
        for first in range(0, len(own), PHOTOS_AT_ONCE):
            rows = own[first : first + PHOTOS_AT_ONCE]
            combined[rows] = _score_crops(scorer, [photos[r] for r in rows], [boxes[r] for r in rows], runtime)
            bar.update(len(rows))
    for rows, scores in distributed.all_gather((own, combined[own])):
        combined[rows] = scores
    return torch.stack([scorer.local_label(scores) for scores in combined])  # (N, C)


def _score_crops(scorer: CropScorer, photos: list[Photo], boxes: list[list[Box]], runtime: Runtime) -> Tensor:
    """The combined scores (n, C) of each photo's crops.

    Crops of the same size are encoded together, up to CROPS_AT_ONCE, also if they are from different photos.
    """
    combined = torch.full((len(photos), scorer.classes), scorer.initial)
    waiting: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}  # size -> (photo, pixels)

    def encode(crops: list[tuple[int, Tensor]]) -> None:
        embeddings = scorer.teacher.embed_views(torch.stack([pixels for _, pixels in crops])).cpu()  # (k, D)
        for (index, _), scores in zip(crops, scorer.score(embeddings), strict=True):
            combined[index] = scorer.combine(combined[index], scores)

    teacher = scorer.teacher
    dataset = PhotoCrops(photos, boxes, scorer.longest, teacher.stride, teacher.pixels.interpolation)
    loading = {"batch_size": 16, "num_workers": runtime.num_workers, "collate_fn": list, "device": teacher.device}
    for items in photo_batches(dataset, **loading):
        for index, crops in items:
            for pixels in () if isinstance(crops, str) else crops:
                same_size = waiting.setdefault(tuple(pixels.shape), [])
                same_size.append((index, pixels))
                if len(same_size) == CROPS_AT_ONCE:
                    encode(waiting.pop(tuple(pixels.shape)))
    for crops in waiting.values():
        encode(crops)
    return combined
