"""How labels change during a training: CDUL's label step and CCD's label update, and the facts reported about them.

Letters: N photos, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..config import TrainConfig
from ..images.loader import Batch
from ..labels.metrics import average_precision, mean_average_precision
from ..labels.table import Labels
from ..methods import ccd
from ..methods.cdul import bernoulli_entropy, update_latent
from ..methods.thresholds import match_expected_positives
from ..progress import Progress
from ..student.predict import score_photos
from ..teacher.where import CellMaps, cell_levels
from .crop_labels import CentredCropScorer, DebiasedCropScorer, local_labels
from .epoch_log import REPORT_ONLY
from .input_cache import InputCache
from .local_views import LocalViews, choose_local_views
from .schedule import label_step_due, stopping_measure_due
from .state import TrainingState, pinned

PREDICT_BATCH = 32  # photos per pass through the network


def label_step(latent: Tensor, predictions: Tensor, config: TrainConfig, corrected: Tensor | None = None) -> Tensor:
    """CDUL step 2, label step: the new latent labels (N, C). Rows without a prediction (NaN) do not change.

    `predictions` (N, C) in [0, 1] are made for all photos, without augmentation, at the end of the epoch. Labels that a person
    corrected (not NaN in `corrected` (N, C)) do not change.
    """
    moved = update_latent(latent, predictions, config.label_rate, config.sigma)
    fixed = predictions.isnan() if corrected is None else predictions.isnan() | ~corrected.isnan()
    return torch.where(fixed, latent, moved)


def update_labels(
    state: TrainingState,
    scorer: DebiasedCropScorer | CentredCropScorer,
    folder: Path,
    num_workers: int,
    progress: Progress,
) -> tuple[Tensor, dict]:
    """CCD step 2, label update: the new labels (N, C), and facts about the update for the report.

    The student's predictions give the class threshold. Each class above the threshold gives a local view, the teacher scores
    the views, and the local labels are mixed with the labels so far. Finished parts of the scores are saved in `folder`.
    """
    config = state.config
    scores = predict_all(state, num_workers, progress)  # (N, C)
    shuffled = torch.randperm(len(scores), generator=torch.Generator().manual_seed(config.seed))
    readable = scores[shuffled[~scores[shuffled].isnan().any(1)]]
    threshold = ccd.calibrate_threshold(readable)
    views = choose_local_views(
        state.student, state.photos, scores, threshold, config, num_workers=num_workers, distributed=state.distributed,
        progress=progress, cells=_cell_maps(state, scorer, num_workers) if config.local_views == "cells" else None,
    )  # fmt: skip
    per_photo = sum(map(len, views.boxes)) / len(state.photos)
    progress.log(
        f"label update: {per_photo:.1f} local views per photo ({config.local_views}), class threshold {threshold:.3f}"
    )
    local = local_labels(
        scorer, state.photos, views.boxes, folder, (state.identity, state.epochs), num_workers=num_workers,
        distributed=state.distributed, progress=progress,
    )  # fmt: skip
    merged = ccd.merge_local(state.labels, local, config.update_keep)
    labels = pinned(torch.where(scores.isnan() | local.isnan(), state.labels, merged), state.corrected)
    return labels, _update_facts(state, views, threshold)


def _cell_maps(state: TrainingState, scorer: DebiasedCropScorer | CentredCropScorer, num_workers: int) -> CellMaps:
    teacher, text = scorer.teacher, scorer.text
    levels = state.distributed.on_main(lambda: cell_levels(state.photos, teacher, text, num_workers))
    return CellMaps(teacher, text, scorer.logit_scale, levels)


def _update_facts(state: TrainingState, views: LocalViews, threshold: float) -> dict:
    return {
        "views": state.config.local_views,
        "threshold": threshold,
        "boxes": [[list(map(float, box)) for box in boxes] for boxes in views.boxes],
        "classes": views.classes,
        "maps": {row: maps.tolist() for row, maps in views.maps.items()},
        "before": state.labels,
    }


def predict_all(state: TrainingState, num_workers: int, progress: Progress) -> Tensor:
    """The student's scores (N, C) of all photos, without augmentation; NaN for unreadable photos. Every rank gets all rows."""
    distributed = state.distributed
    rows = distributed.shard(list(range(len(state.photos))))
    scores, unreadable = score_photos(
        state.student, [state.photos[row] for row in rows], device=distributed.device, batch_size=PREDICT_BATCH, num_workers=num_workers,
        progress=progress, label="  predicting",
        batches=_cached_batches(state.cache, rows) if state.cache else None,
    )  # fmt: skip
    state.skipped |= {state.photos[rows[index]].path: reason for index, reason in unreadable}
    gathered = torch.full_like(state.labels, float("nan"))
    for rank_rows, rank_scores in distributed.all_gather((rows, scores)):
        gathered[rank_rows] = rank_scores
    return gathered


def _cached_batches(cache: InputCache, rows: list[int]) -> Iterator[Batch]:
    """The photos of `rows` from the cache as `score_photos` takes them: a photo is known by its place in `rows`."""
    place = {row: index for index, row in enumerate(rows)}
    for readable, pixels, unreadable in cache.batches(rows, PREDICT_BATCH):
        indices = torch.tensor([place[row] for row in readable.tolist()], dtype=torch.int64)
        yield indices, pixels, [(place[row], reason) for row, reason in unreadable]


def epoch_facts(
    state: TrainingState, epoch: int, before: Tensor, predictions: Tensor | None, truth: Labels | None
) -> dict[str, float]:
    """The numbers that the log of `epoch` has about labels and predictions (N, C). `before` are the labels of its weight steps."""
    facts = label_facts(before, state.targets, label_step_due(state.config, epoch))
    if stopping_measure_due(state.config, epoch):
        facts["stopping_measure"] = stopping_measure(predictions, state.targets)
    if truth:
        facts |= true_facts(state, predictions, truth)
    return facts


def label_facts(before: Tensor, after: Tensor, moved: bool) -> dict[str, float]:
    """For labels (N, C) in [0, 1] or NaN: their mean entropy in nats after the epoch, and how many crossed ½ in it."""
    crossed = ((before >= 0.5) != (after >= 0.5)) & ~after.isnan()
    entropy = float(bernoulli_entropy(after).nanmean())
    return {"label_entropy": entropy, "labels_moved": int(moved), "labels_crossed_half": int(crossed.sum())}


def stopping_measure(predictions: Tensor, labels: Tensor) -> float:
    """CCD's label-free measure: mAP in [0, 1] of predictions (N, C); the positives are the labels (N, C) that are exactly 1.

    NaN if no label is exactly 1.
    """
    positive = (labels == 1).float()
    values = [average_precision(predictions[:, c], positive[:, c]) for c in range(labels.shape[1])]
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def true_facts(state: TrainingState, predictions: Tensor, truth: Labels) -> dict[str, float]:
    """mAP in [0, 1] of the labels and of predictions (N, C) against the truth. For the report only: no decision may use it."""
    tables = {"labels": state.targets, "predictions": predictions}
    return {f"{name}_mAP_{REPORT_ONLY}": _true_mean_ap(state, scores, truth) for name, scores in tables.items()}


def _true_mean_ap(state: TrainingState, scores: Tensor, truth: Labels) -> float:
    known = (~scores.isnan().all(1)).nonzero().flatten().tolist()
    paths = [state.photos[row].path for row in known]
    return mean_average_precision(Labels(paths, state.student.classes, scores[known]), truth)[0]


def refined_labels(state: TrainingState, labels: Labels) -> Labels:
    """The labels at the end of the training, for the photos that could be read, with new thresholds."""
    kept = [row for row, photo in enumerate(state.photos) if photo.path not in state.skipped]
    paths = [state.photos[row].path for row in kept]
    meta = {**labels.aligned(paths, labels.classes).meta, "refined": state.identity["settings"]}
    meta["skipped"] = sorted(map(list, state.skipped.items()))
    meta["thresholds"] = match_expected_positives(state.targets[kept], state.targets[kept]).tolist()
    if state.update:
        new_row = {row: i for i, row in enumerate(kept)}
        meta["update"] = {
            **state.update,
            "boxes": [state.update["boxes"][row] for row in kept],
            "classes": [state.update["classes"][row] for row in kept],
            "maps": {str(new_row[row]): maps for row, maps in state.update["maps"].items() if row in new_row},
            "before": state.update["before"][kept].tolist(),
        }
    return Labels(paths, labels.classes, state.targets[kept], labels.root, meta)
