"""The linear probe: a 1×1 convolution on the frozen trunk, fitted to the labels. A training method, and a start for the others.

The trunk sees each photo and its mirror image once. Only the head is fitted, by L-BFGS, with a penalty that is chosen by
cross-validation against the labels (`methods/linear_head.py`).

Letters: N photos, C classes, K trunk channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import InputError, TrainConfig
from ..distributed import Distributed, Runtime
from ..files import beside
from ..images import Photo
from ..labels.metrics import mean_average_precision
from ..labels.table import Labels
from ..methods.linear_head import FOLDS, choose_l2, fit_head
from ..progress import Progress
from ..student.checkpoint import Checkpoint
from ..student.features import photo_features
from ..student.model import Classifier
from ..student.predict import fitted_thresholds
from .epoch_log import REPORT_ONLY, write_rows
from .identity import identity_of, model_meta
from .start import new_model, training_photos
from .state import TrainingState, corrected_photos, label_weights


@dataclass(frozen=True)
class FittedHead:
    """A head with weight (C, K) and bias (C,), and how it was chosen."""

    weight: Tensor
    bias: Tensor
    l2: float
    tried: list[tuple[float, float]]  # (l2, loss on held-out photos), from strong to weak
    held_out: Tensor  # (N, C) logits of every photo, by a head fitted without it; NaN for unreadable photos


def train_probe(
    labels: Labels,
    output: str | Path,
    config: TrainConfig,
    *,
    truth: Labels | None,
    offline: bool,
    num_workers: int,
    distributed: Distributed,
    progress: Progress,
) -> Checkpoint:
    """Fit the head of a new student to the labels; its trunk does not change. Every rank returns the same student.

    The thresholds come from held-out predictions, which the head has not been fitted to.
    `model.log.csv` beside `output` lists the penalties that were tried. `truth` only adds mAPs of labels and held-out
    predictions to it. A stopped probe continues from the features in the cache.
    """
    photos, scores, skipped = training_photos(labels, config, num_workers, distributed, progress)
    model = new_model(labels, scores, config, offline, distributed, progress)
    corrected = corrected_photos(labels, photos)
    fitted, unreadable = _fit_probe(
        model, photos, scores, corrected, labels.root, config, num_workers, distributed, progress
    )
    _set_head(model, fitted)
    report_fit(fitted, photos, scores, labels.classes, truth, output, distributed, progress)
    meta = model_meta(identity_of(labels, config), labels, skipped | unreadable)
    thresholds = fitted_thresholds(fitted.held_out.sigmoid(), scores, labels.classes, meta)
    return Checkpoint(model.eval(), thresholds, meta)


def start_from_probe(state: TrainingState, root: str, num_workers: int, progress: Progress) -> None:
    """Give a new training the head of a probe, fitted to its labels. `root` is the folder of the photos.

    With boosted class maps (`cam_boost`) the first predictions are higher than the probe's.
    """
    fitted, unreadable = _fit_probe(
        state.model, state.photos, state.labels, state.corrected, root, state.config, num_workers, state.distributed, progress
    )  # fmt: skip
    state.skipped |= unreadable
    _set_head(state.model, fitted)


def _fit_probe(
    model: Classifier,
    photos: list[Photo],
    labels: Tensor,
    corrected: Tensor | None,
    root: str,
    config: TrainConfig,
    num_workers: int,
    distributed: Distributed,
    progress: Progress,
) -> tuple[FittedHead, dict[str, str]]:
    """The head for labels and corrections (N, C), and path -> reason of unreadable photos. The main rank fits it for all."""
    features, unreadable = photo_features(model, photos, root, Runtime(distributed, num_workers, progress))
    readable = len(photos) - len(unreadable)
    if readable < 2:
        raise InputError(f"only {readable} of the {len(photos)} labelled photos can be read. A probe needs at least 2.")
    device = distributed.device if distributed.device.type == "cuda" else torch.device("cpu")
    weights = label_weights(corrected, config)
    fitted = distributed.on_main(lambda: fit_probe(features, labels, config.seed, device, weights))
    loss = dict(fitted.tried)[fitted.l2]
    progress.log(
        f"probe: L2 penalty {fitted.l2:.3g}, the best of {len(fitted.tried)} in {FOLDS}-fold cross-validation against the labels "
        f"(loss {loss:.4f})"
    )
    return fitted, unreadable


def fit_probe(
    features: Tensor, labels: Tensor, seed: int, device: torch.device | None = None, weights: Tensor | None = None
) -> FittedHead:
    """The head for features (N, 2, K) of photos and their mirror images, and labels (N, C) in [0, 1]. NaN rows are left out.

    `weights` (N, C) are factors of single labels; None is 1 for all. InputError if features are not finite. The result is on
    the CPU.
    """
    readable = ~features.isnan().flatten(1).all(1)  # (N,)
    used, targets = features[readable].float().to(device), labels[readable].float().to(device)
    if not used.isfinite().all():
        raise InputError("the features of the trunk are not finite. Use other initial weights as `init`.")
    factors = torch.ones_like(targets) if weights is None else weights[readable].to(targets)
    choice = choose_l2(used, targets, seed, factors)
    views = used.shape[1]
    weight, bias = fit_head(
        used.flatten(0, 1), targets.repeat_interleave(views, 0), choice.l2, factors.repeat_interleave(views, 0)
    )
    held_out = torch.full(labels.shape, torch.nan)
    held_out[readable] = choice.held_out.cpu()
    return FittedHead(weight.cpu(), bias.cpu(), choice.l2, choice.tried, held_out)


def report_fit(
    fitted: FittedHead,
    photos: list[Photo],
    labels: Tensor,
    classes: list[str],
    truth: Labels | None,
    output: str | Path,
    distributed: Distributed,
    progress: Progress,
) -> None:
    """Write `model.log.csv` beside `output`: a row for each penalty. `truth` adds mAPs to the row of the chosen one."""
    rows: list[dict] = [{"l2": l2, "held_out_loss": loss, "chosen": int(l2 == fitted.l2)} for l2, loss in fitted.tried]
    if truth:
        facts = _true_facts({"labels": labels, "predictions": fitted.held_out.sigmoid()}, photos, classes, truth)
        rows = [row | facts if row["chosen"] else row for row in rows]
        progress.log("report only: " + ", ".join(f"{name} {100 * value:.1f}" for name, value in facts.items()))
    if distributed.is_main:
        write_rows(beside(output, ".log.csv"), rows)


@torch.no_grad()
def _set_head(model: Classifier, fitted: FittedHead) -> None:
    model.head.weight.copy_(fitted.weight[:, :, None, None])
    model.head.bias.copy_(fitted.bias)


def _true_facts(tables: dict[str, Tensor], photos: list[Photo], classes: list[str], truth: Labels) -> dict[str, float]:
    """mAP in [0, 1] of labels and held-out predictions (N, C) against the truth. For the report only."""
    facts = {}
    for name, scores in tables.items():
        known = (~scores.isnan().all(1)).nonzero().flatten().tolist()
        table = Labels([photos[row].path for row in known], classes, scores[known])
        facts[f"{name}_mAP_{REPORT_ONLY}"] = mean_average_precision(table, truth)[0]
    return facts
