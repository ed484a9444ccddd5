"""Calibrates a model with the true labels of a few photos. No other step uses true labels to change a model.

Letters: N photos, M of them with true labels, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from ..config import InputError
from ..labels.matching import match_classes, match_tables
from ..labels.table import Labels
from ..methods.calibration import (
    best_expected_f1,
    expected_calibration_error,
    f1_of_classes,
    fit_calibration,
    logits_of,
)
from ..spelling import shorten
from .checkpoint import Checkpoint

FEWEST = 3  # a class with fewer positives does not get a new threshold
ENOUGH = 20  # with this many photos or more, calibration improved F1, see docs/results.md
SOURCE = "true labels"


@dataclass(frozen=True)
class Quality:
    """How well a model's scores and thresholds fit the truth of some photos: both in [0, 1], NaN if nothing is known."""

    calibration_error: float
    macro_f1: float  # mean over the classes that have a positive


@dataclass(frozen=True)
class CalibrationResult:
    """A calibrated model, the true labels it was fitted to, and its quality on the same photos."""

    checkpoint: Checkpoint
    photos: int  # with true labels
    positives: dict[str, int]  # per class that has true labels
    kept: list[str]  # classes with too few positives for a new threshold
    untouched: list[str]  # classes without true labels
    unmatched: list[str]  # classes and then paths of the truth that are not in the predictions
    before: Quality
    after: Quality


def undo_calibration(checkpoint: Checkpoint) -> Checkpoint:
    """The model as its training left it, without an earlier calibration by true labels.

    So the same labels twice give the same model. The model inside `checkpoint` is changed in place and is also in the result. Its
    predictions are the network's own, without the hierarchy and groups of the classes: these are what a calibration is fitted to.
    """
    calibration = checkpoint.meta.get("calibration") or {}
    if calibration.get("source") != SOURCE:
        return replace(checkpoint, consistent=False)
    before = calibration["before"]
    checkpoint.model.scale.copy_(torch.tensor(before["scale"]))
    checkpoint.model.offset.copy_(torch.tensor(before["offset"]))
    meta = {**checkpoint.meta, "calibration": before["calibration"]}
    return Checkpoint(checkpoint.model, torch.tensor(before["thresholds"]), meta, consistent=False)


def calibrate(checkpoint: Checkpoint, predicted: Labels, truth: Labels) -> CalibrationResult:
    """Fit the model's calibration and thresholds to true labels. The model is changed in place.

    `predicted` are its scores for N photos. `truth` has labels for some of them, matched as in `mlclip evaluate`. The
    calibration has a prior at the current one, first for all classes together, then for each class (see `fit_calibration`).
    Without labels nothing changes, and a class with few positives uses the fit of all classes.

    The threshold with the best F1 on a few positives would mostly be chance: it only depends on the two nearest photos. So a
    class with FEWEST positives or more gets the threshold with the best expected F1 under the calibrated scores of all N
    photos, labelled or not (see `best_expected_f1`). The labels only change slope and offset, which many photos determine.
    For a class with fewer positives the threshold moves with the scores: the same photos are above it as before. A class
    without true labels does not change. `meta["calibration"]` has the facts, and the values before.
    """
    true, rows, unmatched = _align_truth(checkpoint, predicted, truth)  # (M, C), (M,)
    model, old = checkpoint.model, checkpoint.thresholds
    earlier = {"scale": model.scale.tolist(), "offset": model.offset.tolist(), "thresholds": old.tolist()}
    earlier |= {"calibration": checkpoint.meta.get("calibration")}  # for `undo_calibration`
    before = _quality(predicted.scores[rows], true, old)
    logits = logits_of(predicted.scores)
    slope, offset = fit_calibration(logits[rows], true)
    known, positives = (~true.isnan()).any(0), (true == 1).sum(0)  # (C,), (C,)
    slope, offset = torch.where(known, slope, 1.0), torch.where(known, offset, 0.0)
    scores = (slope * logits + offset).sigmoid().float()  # (N, C)
    enough = positives >= FEWEST
    moved = (slope * logits_of(old) + offset).sigmoid().float()
    thresholds = torch.where(enough, best_expected_f1(scores), torch.where(known, moved, old))
    model.calibrate(slope, offset)
    found = {name: int(positives[c]) for c, name in enumerate(model.classes) if known[c]}
    kept = [name for c, name in enumerate(model.classes) if known[c] and not enough[c]]
    after = _quality(scores[rows], true, thresholds)
    facts = {"source": SOURCE, "photos": len(rows), "positives": found, "kept": kept, "before": earlier}
    facts |= asdict(after)
    calibrated = Checkpoint(model, thresholds, {**checkpoint.meta, "calibration": facts})
    untouched = [name for name in model.classes if name not in found]
    return CalibrationResult(calibrated, len(rows), found, kept, untouched, unmatched, before, after)


def check_truth(classes: Sequence[str], truth: Labels) -> None:
    """The checks that need no photo: InputError if no class is shared, or if a value is not 1, 0 or unknown."""
    shared = [truth.classes[column] for _, column in match_classes(classes, truth.classes)[0]]
    if not shared:
        found, wanted = shorten(truth.classes), shorten(classes)
        raise InputError(f"the truth has no class of the model. The truth has {found}; the model has {wanted}.")
    scores = truth.aligned(truth.paths, shared).scores
    wrong = ~((scores == 0) | (scores == 1) | scores.isnan())
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        number, name = float(scores[row, column]), shared[column]
        what = f"the truth has the value {number:g} for {name!r} in {truth.paths[row]}"
        raise InputError(f"{what}. Write 1 or 0, or leave the cell empty if it is not known.")


def _align_truth(checkpoint: Checkpoint, predicted: Labels, truth: Labels) -> tuple[Tensor, Tensor, list[str]]:
    """True labels (M, C) as 1, 0 and NaN in the order of the model's classes, their rows (M,) in `predicted`, and what is unmatched."""
    check_truth(checkpoint.model.classes, truth)
    match, names = match_tables(predicted, truth), checkpoint.model.classes
    rows, truth_rows = torch.tensor(match.rows).T
    true = torch.full((len(rows), len(names)), torch.nan)
    true[:, [names.index(name) for name in match.classes]] = truth.scores[truth_rows][:, [j for _, j in match.columns]]
    labelled = ~true.isnan().all(1)
    if not labelled.any():
        raise InputError(f"the truth has no label for these {len(rows)} photos: every cell is empty. Fill in 1 or 0.")
    return true[labelled], rows[labelled], [*match.classes_only_second, *match.paths_only_second]


def _quality(scores: Tensor, true: Tensor, thresholds: Tensor) -> Quality:
    f1 = f1_of_classes(scores >= thresholds, true)
    return Quality(expected_calibration_error(scores, true), float(f1.nanmean()))
