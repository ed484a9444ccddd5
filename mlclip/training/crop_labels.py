"""CCD step 2, label update: the teacher scores the local views, and its scores become local labels.

The scores are computed in the same way as the labels. For CCD and CDUL labels: a softmax, debiased if the labels are. For
centred labels: the level of each class is subtracted, and the result is the probability of the upper mixture component.

Letters: N photos, C classes, k crops, D the joint embedding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import InputError
from ..distributed import Distributed
from ..files import load_plain, save_plain
from ..images import Box, Photo, PhotoCrops, photo_batches
from ..labels.table import Labels
from ..methods import ccd, centred
from ..progress import SILENT, Progress
from ..teacher.scoring import Teacher, check_same_teacher, class_scores, embeddings_of

SHARD_PHOTOS = 256  # photos per file of an unfinished update
CROPS_AT_ONCE = 64


@dataclass(frozen=True)
class CropScorer:
    """A teacher that scores crops. `text` (C + contrast, D) are the embeddings of its class prompts."""

    teacher: Teacher
    text: Tensor
    classes: int
    logit_scale: float
    longest: int  # the longer side of a crop, pixels

    @property
    def initial(self) -> float:
        """The combined score of every class before the first crop."""
        return 0.0

    def score(self, embeddings: Tensor) -> Tensor:
        """Scores of crops: embeddings (k, D) -> (k, C)."""
        return class_scores(embeddings, self.text, self.logit_scale)[:, : self.classes]

    def combine(self, combined: Tensor, scores: Tensor) -> Tensor:
        """The combined scores (C,) of a photo, with the `scores` (C,) of one more crop."""
        return torch.maximum(combined, scores)


@dataclass(frozen=True)
class DebiasedCropScorer(CropScorer):
    """As in the paper: the highest softmax score of all crops, raised to `floor` and divided by `bias` (C,)."""

    bias: Tensor
    floor: float

    def local_label(self, combined: Tensor) -> Tensor:
        """The local label (C,) of a photo. It is floor / bias for a photo without crops."""
        return ccd.local_scores(combined[None], self.bias, self.floor)


@dataclass(frozen=True)
class CentredCropScorer(CropScorer):
    """For centred and dense labels: the crops are views of one more grid.

    `levels` (C + contrast,) are the class levels; `slope` and `offset` (C,) come from the mixture that made the labels.
    """

    levels: Tensor
    slope: Tensor
    offset: Tensor

    @property
    def initial(self) -> float:
        return -math.inf

    def score(self, embeddings: Tensor) -> Tensor:
        cosines = embeddings.float() @ self.text.T  # (k, C + contrast)
        return centred.centred_logits(cosines, self.levels, self.logit_scale)[:, : self.classes]

    def combine(self, combined: Tensor, scores: Tensor) -> Tensor:
        return torch.logaddexp(combined, scores)

    def local_label(self, combined: Tensor) -> Tensor:
        """The local label (C,) of a photo. It is NaN (not known) for a photo without crops."""
        return (self.slope * combined + self.offset).sigmoid().where(combined.isfinite(), torch.nan)


def crop_scorer_for(
    labels: Labels, teacher: Teacher | None, *, other_teacher: bool = False
) -> DebiasedCropScorer | CentredCropScorer:
    """The scorer with the prompts, biases or levels, and view sizes that `labels` were made with.

    Raises InputError if the labels do not say how they were made, or if `teacher` is not their CLIP and `other_teacher` is
    False. CDUL's labels are not debiased: their biases are 1.
    """
    made, meta = labels.meta.get("clip"), labels.meta
    if not made or not meta.get("prompts"):
        raise InputError(
            "the labels do not say which CLIP and prompts made them; the label update needs both. Make them with "
            '`mlclip pseudolabel`, or train with `local_views="none"`.'
        )
    if teacher is None:
        raise InputError(
            'the label update needs the CLIP that made the labels as `teacher`. Without it, train with `local_views="none"`.'
        )
    if not other_teacher:
        check_same_teacher(made, teacher)
    try:
        return _scorer_of(meta, made, teacher, len(labels.classes))
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"the facts about how the labels were made are damaged ({type(error).__name__}: {reason}). "
            "Make the labels again with `mlclip pseudolabel`."
        ) from error


def _scorer_of(meta: dict, made: dict, teacher: Teacher, classes: int) -> DebiasedCropScorer | CentredCropScorer:
    settings, scale = meta.get("settings", {}), made["logit_scale"]
    text = embeddings_of(meta, teacher)
    if meta.get("method") in ("centred", "dense") and "mixture" in meta:
        levels = torch.tensor(list(meta["levels"].values())).mean(0)  # (C + contrast,) crops have all sizes
        slope, offset = torch.tensor(meta["mixture"])
        size = made.get("view_size") or teacher.input_size
        return CentredCropScorer(teacher, text, classes, scale * settings["rank_scale"], size, levels, slope, offset)
    bias = torch.tensor(meta.get("bias") or [1.0] * classes)
    longest = (made.get("view_size", 0) if meta.get("method") == "ccd" else 0) or teacher.larger_size()
    return DebiasedCropScorer(teacher, text, classes, scale, longest, bias, settings.get("floor", ccd.FLOOR))


def local_labels(
    scorer: DebiasedCropScorer | CentredCropScorer,
    photos: Sequence[Photo],
    boxes: list[list[Box]],
    folder: Path,
    run: object,
    *,
    num_workers: int,
    distributed: Distributed,
    progress: Progress,
) -> Tensor:
    """CCD step 2: the local labels (N, C) of photos, from the scores of the crops in `boxes`. Every rank gets all of them.

    Each rank saves its finished parts in `folder` under a name made from `run` and `boxes`, so an interrupted update can
    continue; `folder` may be another one on each rank. The caller removes it when the result is saved. A photo without boxes,
    or one that cannot be read, gets the local label of the scorer's initial score. Raises InputError on every rank if one
    cannot use its folder.
    """
    name = hashlib.sha256(repr((run, boxes)).encode()).hexdigest()
    needed, done = [row for row, views in enumerate(boxes) if views], {}
    with distributed.together():
        done = _read_parts(folder, name, scorer.classes)
    saved = distributed.all_gather(sorted(done))
    owners = {row: rank for rank in reversed(range(len(saved))) for row in saved[rank]}  # the lowest rank that has it
    missing = distributed.shard([row for row in needed if row not in owners])
    with (
        distributed.together(),
        (progress if distributed.is_main else SILENT).bar("  scoring crops", len(missing), "photos") as bar,
    ):
        for first in range(0, len(missing), SHARD_PHOTOS):
            rows = missing[first : first + SHARD_PHOTOS]
            scores = _score_crops(scorer, [photos[r] for r in rows], [boxes[r] for r in rows], num_workers)  # (n, C)
            _save_part(folder, distributed.rank, name, rows, scores)
            done |= dict(zip(rows, scores, strict=True))
            bar.update(len(rows))
    own = {row: scores for row, scores in done.items() if owners.get(row, distributed.rank) == distributed.rank}
    done = _gathered(own, distributed)
    absent = [row for row in needed if row not in done]
    if absent:
        raise InputError(
            f"no rank has the scores of the crops of {len(absent)} photos, such as {photos[absent[0]].path}. Run again with "
            "`resume=True`."
        )
    initial = torch.full((scorer.classes,), scorer.initial)
    return torch.stack([scorer.local_label(done.get(row, initial)) for row in range(len(photos))])  # (N, C)


def _save_part(folder: Path, rank: int, name: str, rows: list[int], scores: Tensor) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}. Choose another output.") from error
    content = {"format": "mlclip.update", "version": 1, "run": name, "rows": rows, "known": scores}
    save_plain(content, folder / f"part-{rank}-{rows[0]}.pt")


def _gathered(own: dict[int, Tensor], distributed: Distributed) -> dict[int, Tensor]:
    """Row -> combined scores (C,) of all ranks."""
    if distributed.world_size == 1:
        return own
    parts = distributed.all_gather((list(own), torch.stack(list(own.values())) if own else None))  # rows, (n, C)
    return {row: row_scores for rows, scores in parts if rows for row, row_scores in zip(rows, scores, strict=True)}


def _read_parts(folder: Path, name: str, classes: int) -> dict[int, Tensor]:
    """Row -> combined scores (C,), from the saved parts of the update called `name`."""
    found: dict[int, Tensor] = {}
    for file in sorted(folder.glob("part-*.pt")):
        content = load_plain(file, kind="update", made_by="mlclip train --overwrite")
        if content["run"] == name and content["known"].shape[1] == classes:
            found |= dict(zip(content["rows"], content["known"], strict=True))
    return found


def _score_crops(scorer: CropScorer, photos: list[Photo], boxes: list[list[Box]], num_workers: int) -> Tensor:
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
    for items in photo_batches(dataset, batch_size=16, num_workers=num_workers, collate_fn=list, device=teacher.device):
        for index, crops in items:
            for pixels in () if isinstance(crops, str) else crops:
                same_size = waiting.setdefault(tuple(pixels.shape), [])
                same_size.append((index, pixels))
                if len(same_size) == CROPS_AT_ONCE:
                    encode(waiting.pop(tuple(pixels.shape)))
    for crops in waiting.values():
        encode(crops)
    return combined
