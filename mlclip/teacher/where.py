"""Where CLIP sees a class in a photo: maps from its patch features. Nobody has to train anything for them.

Letters: N photos, n photos of one batch, K names, h w patch features of a photo, D the joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..clip import load_clip
from ..clip.pixels import pixels_of
from ..config import InputError, PseudolabelConfig
from ..images import Photo, PhotoViews, photo_batches
from ..images.names import photo_file
from ..images.overlay import as_bytes
from ..labels.table import Labels
from ..methods import centred
from ..methods.dense import side_at
from ..progress import SILENT, Progress
from .encode import embed_views_and_cells
from .scoring import Teacher, embeddings_of

SIZE = "2"  # the patch features are those of the whole photo at this multiple of CLIP's input size
LEVEL_PHOTOS = 200  # the level of a class is its mean cosine over the patch features of at most this many photos
SHOWN_PHOTOS, SHOWN_CLASSES = 24, 4  # in a report
ATTENTION = "key"
BATCH = 16


@dataclass(frozen=True)
class CellMaps:
    """Draws class maps from CLIP's patch features. `text` (K, D) are the embeddings of the names, `levels` (K,) their mean cosines."""

    teacher: Teacher
    text: Tensor
    scale: float  # of the softmax within a patch
    levels: Tensor
    weights: Tensor | None = None  # (K, K) of `centred.competition`: names that mean the same do not compete

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 photos (n, 3, S, S) -> the log-odds of each name in each patch, (n, K, h, w), float32 on the CPU."""
        cosines = _cosines(self.teacher, self.text, pixels)
        logits = centred.centred_logits(cosines, self.levels, self.scale, self.weights)
        return logits.permute(0, 3, 1, 2)  # (n, K, h, w)


def square_photos(photos: Sequence[Photo], teacher: Teacher) -> PhotoViews:
    """The photos for class maps: whole, each side twice CLIP's input size."""
    side = side_at(SIZE, teacher.input_size, teacher.stride)
    return PhotoViews(photos, side, interpolation=teacher.pixels.interpolation)


def _cosines(teacher: Teacher, text: Tensor, pixels: Tensor) -> Tensor:
    _, cells = embed_views_and_cells(teacher, pixels, ATTENTION)  # (n, h, w, D)
    return cells.cpu() @ text.T  # (n, h, w, K)


def cell_levels(photos: Sequence[Photo], teacher: Teacher, text: Tensor, num_workers: int = 2) -> Tensor:
    """The level (K,) of each name: its mean cosine over the patch features of at most LEVEL_PHOTOS of the photos, evenly spaced."""
    sample = square_photos(photos[:: max(1, -(-len(photos) // LEVEL_PHOTOS))], teacher)
    total, count = torch.zeros(len(text)), 0
    for _, pixels, _ in photo_batches(sample, batch_size=BATCH, num_workers=num_workers, device=teacher.device):
        if pixels is not None:
            cosines = _cosines(teacher, text, pixels[:, 0]).flatten(0, 2)  # (n·h·w, K)
            total, count = total + cosines.sum(0), count + len(cosines)
    return total / max(1, count)


def maps_of_labels(labels: Labels, teacher: Teacher, *, num_workers: int = 2, progress: Progress = SILENT) -> dict:
    """Class maps of at most SHOWN_PHOTOS photos of a table, for `meta["where"]` and the report.

    The photos are spread evenly over those with at least one label. The result has, by row, "classes": the columns of the highest
    labels, at most SHOWN_CLASSES, and "maps": uint8 maps (K, h, w) as lists, each from 0 to 255. Photos that cannot be read are
    left out. InputError if the labels do not say which prompts made them.
    """
    meta, reached = labels.meta, (labels.scores >= labels.thresholds)  # (N, C)
    if not meta.get("prompts") or not meta.get("templates"):
        raise InputError("the labels do not say which prompts made them. Make them with `mlclip pseudolabel`.")
    text = embeddings_of(meta, teacher)
    rows = reached.any(1).nonzero().flatten().tolist()
    shown = min(SHOWN_PHOTOS, len(rows))
    rows = [rows[i * len(rows) // shown] for i in range(shown)]
    photos = [Photo(path, photo_file(labels.root, path), 0, 0) for path in (labels.paths[row] for row in rows)]
    scale = teacher.logit_scale * PseudolabelConfig().rank_scale
    weights = centred.competition_of(meta.get("same_names", []), len(text))
    maps = CellMaps(teacher, text, scale, cell_levels(photos, teacher, text, num_workers), weights)
    where: dict[str, dict] = {"classes": {}, "maps": {}}
    with progress.bar("class maps of CLIP", len(photos), "photos") as bar:
        views = square_photos(photos, teacher)
        batches = photo_batches(views, batch_size=BATCH, num_workers=num_workers, device=teacher.device)
        for indices, pixels, unreadable in batches:
            bar.update(len(indices) + len(unreadable))
            for index, drawn in zip(indices.tolist(), maps(pixels[:, 0]) if pixels is not None else (), strict=True):
                row = rows[index]
                order = labels.scores[row].nan_to_num(-1).argsort(descending=True, stable=True).tolist()
                columns = [column for column in order if reached[row, column]][:SHOWN_CLASSES]
                where["classes"][row], where["maps"][row] = columns, as_bytes(drawn[columns]).tolist()
    return where


def teacher_of(labels: Labels, device: torch.device, *, progress: Progress = SILENT) -> Teacher:
    """The CLIP that made the labels, from the name or path in their `meta`. InputError if they do not name one."""
    made = labels.meta.get("clip")
    if not isinstance(made, dict) or "name" not in made:
        raise InputError("the labels do not say which CLIP made them. Make them with `mlclip pseudolabel`.")
    settings = {"activation": made.get("activation"), "pixels": pixels_of(made.get("pixels"))}
    return Teacher(load_clip(made["name"], **settings, progress=progress), device)
