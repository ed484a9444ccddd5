"""How labels change during a training: CDUL's label step and CCD's label update, both from the student's own predictions.

Letters: N photos, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import TrainConfig
from ..labels.table import Labels
from ..methods import ccd
from ..methods.calibration import match_expected_positives
from ..methods.cdul import update_latent
from ..student.predict import score_photos
from ..teacher.where import CellMaps, cell_levels
from .local_views import CropScorer, choose_local_views, local_labels
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


def update_labels(state: TrainingState, scorer: CropScorer) -> tuple[Tensor, dict]:
    """CCD step 2, label update: the new labels (N, C), and facts about the update for the report.

    The student's predictions give the class threshold. Each class above the threshold gives a local view, the teacher scores
    the views, and the local labels are mixed with the labels so far.
    """
    config, runtime = state.config, state.runtime
    scores = predict_all(state)  # (N, C)
    shuffled = torch.randperm(len(scores), generator=torch.Generator().manual_seed(config.seed))
    readable = scores[shuffled[~scores[shuffled].isnan().any(1)]]
    threshold = ccd.calibrate_threshold(readable)
    cells = None
    if config.local_views == "cells":
        facts = (state.photos, scorer.teacher, scorer.text, runtime.num_workers)
        levels = runtime.distributed.on_main(lambda: cell_levels(*facts))
        cells = CellMaps(scorer.teacher, scorer.text, scorer.logit_scale, levels)
    views = choose_local_views(state.student, state.photos, scores, threshold, runtime, cells)
    per_photo = f"{sum(map(len, views.boxes)) / len(state.photos):.1f} local views per photo"
    runtime.progress.log(f"label update: {per_photo} ({config.local_views}), class threshold {threshold:.3f}")
    local = local_labels(scorer, state.photos, views.boxes, runtime)
    merged = ccd.merge_local(state.labels, local, config.update_keep)
    labels = pinned(torch.where(scores.isnan() | local.isnan(), state.labels, merged), state.corrected)
    return labels, {
        "views": config.local_views,
        "threshold": threshold,
        "boxes": [[list(map(float, box)) for box in boxes] for boxes in views.boxes],
        "classes": views.classes,
        "maps": {row: maps.tolist() for row, maps in views.maps.items()},
        "before": state.labels,
    }


def predict_all(state: TrainingState) -> Tensor:
    """The student's scores (N, C) of all photos, without augmentation; NaN for unreadable photos. Every rank gets all rows."""
    distributed = state.distributed
    rows = distributed.shard(list(range(len(state.photos))))
    scores, unreadable = score_photos(
        state.student, state.photos, rows, device=distributed.device, batch_size=PREDICT_BATCH,
        num_workers=state.runtime.num_workers, progress=state.runtime.progress, label="  predicting",
        batches=state.cache.batches(rows, PREDICT_BATCH) if state.cache else None,
    )  # fmt: skip
    state.skipped |= {state.photos[row].path: reason for row, reason in unreadable}
    gathered = torch.full_like(state.labels, torch.nan)
    for rank_rows, rank_scores in distributed.all_gather((rows, scores[rows])):
        gathered[rank_rows] = rank_scores
    return gathered


def refined_labels(state: TrainingState, labels: Labels) -> Labels:
    """The labels at the end of the training, for the photos that could be read, with new thresholds."""
    kept = [row for row, photo in enumerate(state.photos) if photo.path not in state.skipped]
    paths = [state.photos[row].path for row in kept]
    meta = {**labels.aligned(paths, labels.classes).meta, "refined": state.identity["settings"]}
    meta.pop("fitted", None)  # is about the labels before
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
