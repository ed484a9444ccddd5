"""What happens to the labels during a training: CDUL's label step, CCD's label update, and what is said of both.

Letters: N photos, C classes.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from . import ccd
from .cdul import bernoulli_entropy, update_latent
from .config import TrainConfig
from .epochlog import REPORT_ONLY
from .judge import CentringJudge, DebiasingJudge, local_labels
from .labels import Labels, average_precision, mean_average_precision
from .localviews import Annotated, point
from .predict import score_photos
from .run import Run
from .talk import Talk
from .thresholds import match_expected_positives

PREDICT_BATCH = 32  # photos of one pass through the network


def label_step_due(config: TrainConfig, epoch: int) -> bool:
    """Whether epoch number `epoch`, from 1, ends with CDUL's label step: every k-th one after the warm-up does.

    The last epoch's moves no weight any more, but the refined labels have it.
    """
    since = epoch - config.warmup
    return config.method == "cdul" and since > 0 and since % config.label_every == 0


def label_step(latent: Tensor, predictions: Tensor, config: TrainConfig) -> Tensor:
    """CDUL step 2, label step: the new latent labels (N, C); rows without a prediction (NaN) stay.

    All photos move together, by predictions (N, C) in [0, 1] made on the un-augmented photos after the epoch.
    """
    moved = update_latent(latent, predictions, config.label_rate, config.sigma)
    return torch.where(predictions.isnan(), latent, moved)


def update_due(run: Run) -> bool:
    """Whether CCD's label update comes now: once, when the warm-up is over."""
    config = run.config
    return config.looks_again and run.epochs == config.warmup and not run.update


def update_labels(
    run: Run, judge: DebiasingJudge | CentringJudge, annotated: Annotated | None, folder: Path, loaders: int, talk: Talk
) -> tuple[Tensor, dict]:
    """CCD step 2, label update: the new labels (N, C), and what a report shows of how they came about.

    The student's predictions set the class threshold; each class above it says where to look; the teacher scores what is
    there; its local labels are mixed with those of before. Finished parts of the teacher's work are kept in `folder`.
    """
    config = run.config
    scores = predict_all(run, loaders, talk)  # (N, C)
    mixed = torch.randperm(len(scores), generator=torch.Generator().manual_seed(config.seed))
    seen = scores[mixed[~scores[mixed].isnan().any(1)]]
    threshold = ccd.calibrate_threshold(seen)
    pointer = point(
        run.student, run.photos, scores, threshold, config, annotated=annotated, loaders=loaders, workers=run.workers,
        talk=talk,
    )  # fmt: skip
    views = sum(map(len, pointer.boxes))
    talk.say(
        f"label update: {views / len(run.photos):.1f} local views a photo ({config.local_views}), threshold {threshold:.3f}"
    )
    local = local_labels(
        judge, run.photos, pointer.boxes, folder, (run.identity, run.epochs), loaders=loaders, workers=run.workers,
        talk=talk,
    )  # fmt: skip
    merged = ccd.merge_local(run.given, local, config.update_keep)
    labels = torch.where(scores.isnan() | local.isnan(), run.given, merged)
    facts = {
        "views": config.local_views,
        "threshold": threshold,
        "boxes": [[list(map(float, box)) for box in boxes] for boxes in pointer.boxes],
        "classes": pointer.classes,
        "maps": {row: maps.tolist() for row, maps in pointer.maps.items()},
        "before": run.given,
    }
    return labels, facts


def predict_all(run: Run, loaders: int, talk: Talk) -> Tensor:
    """The student's scores (N, C) of the run's photos, un-augmented; the same on every process; NaN where unreadable."""
    workers = run.workers
    rows = workers.share(list(range(len(run.photos))))
    scores, unreadable = score_photos(
        run.student, [run.photos[row] for row in rows], device=workers.device, batch_size=PREDICT_BATCH, loaders=loaders,
        talk=talk, label="  predicting",
    )  # fmt: skip
    run.skipped |= {run.photos[rows[index]].path: reason for index, reason in unreadable}
    everyone = torch.full_like(run.given, float("nan"))
    for part, values in workers.gather((rows, scores)):
        everyone[part] = values
    return everyone


def epoch_facts(
    run: Run, before: Tensor, predictions: Tensor | None, truth: Labels | None, *, moved: bool, measured: bool
) -> dict[str, float]:
    """What an epoch's log says of labels and predictions (N, C): of labels `before` and after, of what was `measured`, by the truth."""
    facts = label_facts(before, run.targets, moved)
    if measured:
        facts["stopping_measure"] = stopping_measure(predictions, run.targets)
    if truth:
        facts |= true_facts(run, predictions, truth)
    return facts


def label_facts(before: Tensor, after: Tensor, moved: bool) -> dict[str, float]:
    """Of labels (N, C) in [0, 1] or NaN: their mean entropy in nats after the epoch, and how many crossed ½ in it."""
    crossed = ((before >= 0.5) != (after >= 0.5)) & ~after.isnan()
    entropy = float(bernoulli_entropy(after).nanmean())
    return {"label_entropy": entropy, "labels_moved": int(moved), "labels_crossed_half": int(crossed.sum())}


def measure_due(config: TrainConfig, epoch: int) -> bool:
    """Whether epoch number `epoch`, from 1, ends with CCD's label-free measure: every one after the warm-up does."""
    return config.method == "ccd" and config.stopping and epoch > config.warmup


def stopping_measure(predictions: Tensor, labels: Tensor) -> float:
    """CCD's label-free measure: mAP in [0, 1] of predictions (N, C) against the labels (N, C) that are exactly 1.

    NaN where no label is.
    """
    sure = (labels == 1).float()
    values = [average_precision(predictions[:, c], sure[:, c]) for c in range(labels.shape[1])]
    counted = [value for value in values if not math.isnan(value)]
    return sum(counted) / len(counted) if counted else math.nan


def true_facts(run: Run, predictions: Tensor, truth: Labels) -> dict[str, float]:
    """mAP in [0, 1] of the labels and of predictions (N, C) by the truth. For the report: no decision may look at it."""
    tables = {"labels": run.targets, "predictions": predictions}
    return {f"{name}_mAP_{REPORT_ONLY}": _true_mean_ap(run, scores, truth) for name, scores in tables.items()}


def _true_mean_ap(run: Run, scores: Tensor, truth: Labels) -> float:
    known = (~scores.isnan().all(1)).nonzero().flatten().tolist()
    paths = [run.photos[row].path for row in known]
    return mean_average_precision(Labels(paths, run.student.classes, scores[known]), truth)[0]


def refined_labels(run: Run, labels: Labels) -> Labels:
    """The labels as the run left them, for the photos that could be read; thresholds are at their new sums."""
    kept = [row for row, photo in enumerate(run.photos) if photo.path not in run.skipped]
    meta = {**labels.meta, "refined": run.identity["settings"], "skipped": sorted(map(list, run.skipped.items()))}
    meta["thresholds"] = match_expected_positives(run.targets[kept], run.targets[kept]).tolist()
    if run.update:
        place = {row: i for i, row in enumerate(kept)}
        meta["update"] = {
            **run.update,
            "boxes": [run.update["boxes"][row] for row in kept],
            "classes": [run.update["classes"][row] for row in kept],
            "maps": {str(place[row]): maps for row, maps in run.update["maps"].items() if row in place},
            "before": run.update["before"][kept].tolist(),
        }
    return Labels([run.photos[row].path for row in kept], labels.classes, run.targets[kept], labels.root, meta)
