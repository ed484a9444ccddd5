"""What happens to the labels during a training: CDUL's label step, CCD's label update, and what is said of both.

Letters: N photos, C classes.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from ..config import TrainConfig
from ..labels.metrics import average_precision, mean_average_precision
from ..labels.table import Labels
from ..methods import ccd
from ..methods.cdul import bernoulli_entropy, update_latent
from ..methods.thresholds import match_expected_positives
from ..progress import Progress
from ..student.predict import score_photos
from .crop_labels import CentredCropScorer, DebiasedCropScorer, local_labels
from .epoch_log import REPORT_ONLY
from .local_views import Annotated, choose_local_views
from .state import TrainingState

PREDICT_BATCH = 32  # photos of one pass through the network


def label_step(latent: Tensor, predictions: Tensor, config: TrainConfig) -> Tensor:
    """CDUL step 2, label step: the new latent labels (N, C); rows without a prediction (NaN) stay.

    All photos move together, by predictions (N, C) in [0, 1] made on the un-augmented photos after the epoch.
    """
    moved = update_latent(latent, predictions, config.label_rate, config.sigma)
    return torch.where(predictions.isnan(), latent, moved)


def update_labels(
    state: TrainingState,
    scorer: DebiasedCropScorer | CentredCropScorer,
    annotated: Annotated | None,
    folder: Path,
    num_workers: int,
    progress: Progress,
) -> tuple[Tensor, dict]:
    """CCD step 2, label update: the new labels (N, C), and what a report shows of how they came about.

    The student's predictions set the class threshold; each class above it says where to look; the teacher scores what is
    there; its local labels are mixed with those of before. Finished parts of the teacher's work are kept in `folder`.
    """
    config = state.config
    scores = predict_all(state, num_workers, progress)  # (N, C)
    mixed = torch.randperm(len(scores), generator=torch.Generator().manual_seed(config.seed))
    seen = scores[mixed[~scores[mixed].isnan().any(1)]]
    threshold = ccd.calibrate_threshold(seen)
    views_found = choose_local_views(
        state.student, state.photos, scores, threshold, config, annotated=annotated, num_workers=num_workers, distributed=state.distributed,
        progress=progress,
    )  # fmt: skip
    views = sum(map(len, views_found.boxes))
    progress.log(
        f"label update: {views / len(state.photos):.1f} local views a photo ({config.local_views}), threshold {threshold:.3f}"
    )
    local = local_labels(
        scorer,
        state.photos,
        views_found.boxes,
        folder,
        (state.identity, state.epochs),
        num_workers=num_workers,
        distributed=state.distributed,
        progress=progress,
    )
    merged = ccd.merge_local(state.given, local, config.update_keep)
    labels = torch.where(scores.isnan() | local.isnan(), state.given, merged)
    facts = {
        "views": config.local_views,
        "threshold": threshold,
        "boxes": [[list(map(float, box)) for box in boxes] for boxes in views_found.boxes],
        "classes": views_found.classes,
        "maps": {row: maps.tolist() for row, maps in views_found.maps.items()},
        "before": state.given,
    }
    return labels, facts


def predict_all(state: TrainingState, num_workers: int, progress: Progress) -> Tensor:
    """The student's scores (N, C) of the run's photos, un-augmented; the same on every process; NaN where unreadable."""
    distributed = state.distributed
    rows = distributed.shard(list(range(len(state.photos))))
    scores, unreadable = score_photos(
        state.student, [state.photos[row] for row in rows], device=distributed.device, batch_size=PREDICT_BATCH, num_workers=num_workers,
        progress=progress, label="  predicting",
    )  # fmt: skip
    state.skipped |= {state.photos[rows[index]].path: reason for index, reason in unreadable}
    everyone = torch.full_like(state.given, float("nan"))
    for part, values in distributed.all_gather((rows, scores)):
        everyone[part] = values
    return everyone


def epoch_facts(
    state: TrainingState,
    before: Tensor,
    predictions: Tensor | None,
    truth: Labels | None,
    *,
    moved: bool,
    measured: bool,
) -> dict[str, float]:
    """What an epoch's log says of labels and predictions (N, C): of labels `before` and after, of what was `measured`, by the truth."""
    facts = label_facts(before, state.targets, moved)
    if measured:
        facts["stopping_measure"] = stopping_measure(predictions, state.targets)
    if truth:
        facts |= true_facts(state, predictions, truth)
    return facts


def label_facts(before: Tensor, after: Tensor, moved: bool) -> dict[str, float]:
    """Of labels (N, C) in [0, 1] or NaN: their mean entropy in nats after the epoch, and how many crossed ½ in it."""
    crossed = ((before >= 0.5) != (after >= 0.5)) & ~after.isnan()
    entropy = float(bernoulli_entropy(after).nanmean())
    return {"label_entropy": entropy, "labels_moved": int(moved), "labels_crossed_half": int(crossed.sum())}


def stopping_measure(predictions: Tensor, labels: Tensor) -> float:
    """CCD's label-free measure: mAP in [0, 1] of predictions (N, C) against the labels (N, C) that are exactly 1.

    NaN where no label is.
    """
    sure = (labels == 1).float()
    values = [average_precision(predictions[:, c], sure[:, c]) for c in range(labels.shape[1])]
    counted = [value for value in values if not math.isnan(value)]
    return sum(counted) / len(counted) if counted else math.nan


def true_facts(state: TrainingState, predictions: Tensor, truth: Labels) -> dict[str, float]:
    """mAP in [0, 1] of the labels and of predictions (N, C) by the truth. For the report: no decision may look at it."""
    tables = {"labels": state.targets, "predictions": predictions}
    return {f"{name}_mAP_{REPORT_ONLY}": _true_mean_ap(state, scores, truth) for name, scores in tables.items()}


def _true_mean_ap(state: TrainingState, scores: Tensor, truth: Labels) -> float:
    known = (~scores.isnan().all(1)).nonzero().flatten().tolist()
    paths = [state.photos[row].path for row in known]
    return mean_average_precision(Labels(paths, state.student.classes, scores[known]), truth)[0]


def refined_labels(state: TrainingState, labels: Labels) -> Labels:
    """The labels as the run left them, for the photos that could be read; thresholds are at their new sums."""
    kept = [row for row, photo in enumerate(state.photos) if photo.path not in state.skipped]
    meta = {**labels.meta, "refined": state.identity["settings"], "skipped": sorted(map(list, state.skipped.items()))}
    meta["thresholds"] = match_expected_positives(state.targets[kept], state.targets[kept]).tolist()
    if state.update:
        place = {row: i for i, row in enumerate(kept)}
        meta["update"] = {
            **state.update,
            "boxes": [state.update["boxes"][row] for row in kept],
            "classes": [state.update["classes"][row] for row in kept],
            "maps": {str(place[row]): maps for row, maps in state.update["maps"].items() if row in place},
            "before": state.update["before"][kept].tolist(),
        }
    return Labels([state.photos[row].path for row in kept], labels.classes, state.targets[kept], labels.root, meta)
