"""CCD step 2, the label update: the teacher looks at the local views and says what it sees there.

It reads them as the labels were made: CCD's and CDUL's as a softmax, debiased where the labels are; centred labels' with each
class's level taken out, and as the probability of the upper heap.

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
from ..teacher.scoring import Teacher, class_embeddings, class_scores

SHARD_PHOTOS = 256  # photos whose local scores make one file of an unfinished update
CROPS_AT_ONCE = 64


@dataclass(frozen=True)
class CropScorer:
    """The teacher of an update: its class embeddings `text` (C + contrast, D), and how it looks at crops."""

    teacher: Teacher
    text: Tensor
    classes: int
    logit_scale: float
    longest: int  # the longer side of a crop, pixels

    @property
    def nothing(self) -> float:
        """What is known of every class before the first crop."""
        return 0.0

    def read(self, embeddings: Tensor) -> Tensor:
        """What crops say of the classes: (k, D) -> (k, C)."""
        return class_scores(embeddings, self.text, self.logit_scale)[:, : self.classes]

    def add(self, known: Tensor, said: Tensor) -> Tensor:
        """What is known (C,) of a photo after one crop more has `said` (C,)."""
        return torch.maximum(known, said)


@dataclass(frozen=True)
class DebiasedCropScorer(CropScorer):
    """As the paper has it: the best softmax score of all crops, raised to `floor` and divided by `bias` (C,)."""

    bias: Tensor
    floor: float

    def local(self, known: Tensor) -> Tensor:
        """The local label (C,) of a photo. One without crops has floor / bias."""
        return ccd.local_scores(known[None], self.bias, self.floor)


@dataclass(frozen=True)
class CentredCropScorer(CropScorer):
    """For centred labels: crops are views of one more grid. `levels` (C + contrast,); `slope`, `offset` (C,) of the heaps."""

    levels: Tensor
    slope: Tensor
    offset: Tensor

    @property
    def nothing(self) -> float:
        return -math.inf

    def read(self, embeddings: Tensor) -> Tensor:
        cosines = embeddings.float() @ self.text.T  # (k, C + contrast)
        return centred.centred_logits(cosines, self.levels, self.logit_scale)[:, : self.classes]

    def add(self, known: Tensor, said: Tensor) -> Tensor:
        return torch.logaddexp(known, said)

    def local(self, known: Tensor) -> Tensor:
        """The local label (C,) of a photo; NaN, nothing to say, without crops."""
        return (self.slope * known + self.offset).sigmoid().where(known.isfinite(), torch.nan)


def crop_scorer_for(
    labels: Labels, teacher: Teacher | None, *, other_teacher: bool = False
) -> DebiasedCropScorer | CentredCropScorer:
    """The teacher, with prompts, biases or levels, and sizes as `labels` were made with.

    Raises InputError where the labels do not say how they were made, and where `teacher` is another CLIP than theirs
    unless `other_teacher` allows it. CDUL's labels are not debiased: their biases are 1.
    """
    made, meta = labels.meta.get("clip"), labels.meta
    if not made or not meta.get("prompts"):
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
    text = class_embeddings(teacher, [*meta["prompts"], *meta.get("contrast", [])], meta["templates"])
    settings, scale, classes = meta.get("settings", {}), made["logit_scale"], len(labels.classes)
    if meta.get("method") == "centred" and "heaps" in meta:
        levels = torch.tensor(list(meta["levels"].values())).mean(0)  # (C + contrast,) crops come in all sizes
        slope, offset = torch.tensor(meta["heaps"])
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
    """CCD step 2: the teacher's local labels (N, C) of photos, from its scores of their boxes; on every process.

    Finished parts are kept in `folder` under the name of `run`, so that a stopped update goes on; who calls this removes
    the folder once the result is safe. A photo without boxes, or unreadable, has what the scorer makes of nothing.
    """
    name = hashlib.sha256(repr((run, boxes)).encode()).hexdigest()
    if distributed.is_main:
        folder.mkdir(parents=True, exist_ok=True)
    distributed.barrier()
    done = _read_parts(folder, name)
    missing = distributed.shard([row for row, own in enumerate(boxes) if own and row not in done])
    distributed.barrier()  # before anyone writes
    at_a_time = range(0, len(missing), SHARD_PHOTOS)
    with (progress if distributed.is_main else SILENT).bar("  looking again", len(missing), "photos") as bar:
        for first in at_a_time:
            rows = missing[first : first + SHARD_PHOTOS]
            known = _score_crops(scorer, [photos[r] for r in rows], [boxes[r] for r in rows], num_workers)  # (n, C)
            content = {"format": "mlclip.update", "version": 1, "run": name, "rows": rows, "known": known}
            save_plain(content, folder / f"part-{distributed.rank}-{rows[0]}.pt")
            bar.update(len(rows))
    distributed.barrier()
    done = _read_parts(folder, name)
    nothing = torch.full((scorer.classes,), scorer.nothing)
    return torch.stack([scorer.local(done.get(row, nothing)) for row in range(len(photos))])  # (N, C)


def _read_parts(folder: Path, name: str) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    for file in sorted(folder.glob("part-*.pt")):
        content = load_plain(file, kind="update", made_by="mlclip train --overwrite")
        if content["run"] == name:
            found |= dict(zip(content["rows"], content["known"], strict=True))
    return found


def _score_crops(scorer: CropScorer, photos: list[Photo], boxes: list[list[Box]], num_workers: int) -> Tensor:
    """What the scorer knows of each photo after all its crops: (n, C).

    Crops of one size are encoded together, as many as CROPS_AT_ONCE, whichever photos they are of.
    """
    known = torch.full((len(photos), scorer.classes), scorer.nothing)
    waiting: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}

    def encode(crops: list[tuple[int, Tensor]]) -> None:
        embeddings = scorer.teacher.embed_views(torch.stack([pixels for _, pixels in crops])).cpu()  # (k, D)
        for (index, _), said in zip(crops, scorer.read(embeddings), strict=True):
            known[index] = scorer.add(known[index], said)

    dataset = PhotoCrops(photos, boxes, scorer.longest, scorer.teacher.stride)
    for items in photo_batches(dataset, batch_size=16, num_workers=num_workers, collate_fn=list):
        for index, crops in items:
            for pixels in () if isinstance(crops, str) else crops:
                same = waiting.setdefault(tuple(pixels.shape), [])
                same.append((index, pixels))
                if len(same) == CROPS_AT_ONCE:
                    encode(waiting.pop(tuple(pixels.shape)))
    for crops in waiting.values():
        encode(crops)
    return known
