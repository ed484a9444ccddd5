"""A few photos with true labels -> the model, calibrated by them. The one step that takes labels to choose by: the user's.

Letters: N photos, M of them with true labels, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import InputError
from ..labels.class_names import shorten
from ..labels.metrics import match_tables
from ..labels.table import Labels
from ..methods.calibration import expected_calibration_error, fit_calibration, logits_of
from ..methods.thresholds import best_expected_f1, f1_of_classes
from .checkpoint import Checkpoint

FEWEST = 3  # positives below which a class's threshold stays where it is
ENOUGH = 20  # photos from which on F1 was better by it, see docs/results.md
SOURCE = "true labels"


@dataclass(frozen=True)
class Judged:
    """How good a model's scores and thresholds are on some photos, by their truth: both in [0, 1], NaN where nothing is known."""

    calibration_error: float
    macro_f1: float  # over the classes that have a positive


@dataclass(frozen=True)
class CalibrationResult:
    """A calibrated model, what it was calibrated by, and what that did to the very photos it was fitted to."""

    checkpoint: Checkpoint
    photos: int
    positives: dict[str, int]  # of each class that the truth says anything about
    kept: list[str]  # of them those with too few positives for a threshold of their own
    untouched: list[str]  # classes that the truth says nothing about
    unmatched: list[str]  # what of the truth is no class and no photo here: names, then paths
    before: Judged
    after: Judged


def undo_calibration(checkpoint: Checkpoint) -> Checkpoint:
    """The model as its training left it: an earlier calibration by true labels is undone, its weights are shared.

    So the labels of one calibration do not count again in the next, and the same labels twice give the same model. The
    model that is given is changed, and is the one in the result.
    """
    calibration = checkpoint.meta.get("calibration") or {}
    if calibration.get("source") != SOURCE:
        return checkpoint
    before = calibration["before"]
    checkpoint.model.scale.copy_(torch.tensor(before["scale"]))
    checkpoint.model.offset.copy_(torch.tensor(before["offset"]))
    meta = {**checkpoint.meta, "calibration": before["calibration"]}
    return Checkpoint(checkpoint.model, torch.tensor(before["thresholds"]), meta)


def calibrate(checkpoint: Checkpoint, predicted: Labels, truth: Labels) -> CalibrationResult:
    """Fit the model's calibration and thresholds to true labels; the model is changed in place.

    `predicted` are its scores for N photos, of which `truth` knows some, matched as `mlclip evaluate` does. The calibration is
    drawn towards the present one, first that of all classes together, then each class's own (see `fit_calibration`): with
    no labels nothing changes, and a class that few photos show borrows from the others.

    A threshold that gives the best F1 on a handful of positives is a place between two of them, mostly chance. So for a
    class of FEWEST positives or more the threshold is where F1 is best by expectation, under the calibrated scores of all N
    photos, labelled or not (see `best_expected_f1`); labels have their say through slope and offset alone, which many
    photos share. A class of fewer positives keeps its threshold's place among the photos: it is said of the same ones as
    before. A class that the truth does not know stays as it is. `meta["calibration"]` says what was there and what was before.
    Raises InputError where no photo or class is in both tables, where no cell is known, and as `check_truth` does.
    """
    answers, rows, unmatched = _answers(checkpoint, predicted, truth)  # (M, C), (M,)
    model, before, old = checkpoint.model, _state(checkpoint), checkpoint.thresholds
    judged = _judged(predicted.scores[rows], answers, old)
    logits = logits_of(predicted.scores)
    slope, offset = fit_calibration(logits[rows], answers)
    known = (~answers.isnan()).any(0)
    slope, offset = torch.where(known, slope, 1.0), torch.where(known, offset, 0.0)
    scores = (slope * logits + offset).sigmoid().float()  # (N, C)
    positives = (answers == 1).sum(0)
    enough = positives >= FEWEST
    moved = (slope * logits_of(old) + offset).sigmoid().float()
    thresholds = torch.where(enough, best_expected_f1(scores), torch.where(known, moved, old))
    model.calibrate(slope, offset)
    names = model.classes
    found = {name: int(positives[c]) for c, name in enumerate(names) if known[c]}
    kept = [name for c, name in enumerate(names) if known[c] and not enough[c]]
    facts = {"source": SOURCE, "photos": len(rows), "positives": found, "kept": kept, "before": before}
    made = Checkpoint(model, thresholds, {**checkpoint.meta, "calibration": facts})
    untouched = [name for name in names if name not in found]
    after = _judged(scores[rows], answers, thresholds)
    return CalibrationResult(made, len(rows), found, kept, untouched, unmatched, judged, after)


def check_truth(classes: Sequence[str], truth: Labels) -> None:
    """What can be told of a truth before any photo is looked at: InputError for other numbers than 1 and 0, or other classes."""
    known = set(classes)
    shared = [name for name in truth.classes if name in known]
    if not shared:
        both = f"{shorten(truth.classes)} | {shorten(classes)}"
        raise InputError(f"the truth has no class of the model ({both}); name them as the model does")
    scores = truth.aligned(truth.paths, shared).scores
    wrong = ~((scores == 0) | (scores == 1) | scores.isnan())
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        number, name = float(scores[row, column]), shared[column]
        raise InputError(
            f"the truth says {number:g} of {name!r} in {truth.paths[row]}; write 1, 0, or nothing where it is not known"
        )


def _answers(checkpoint: Checkpoint, predicted: Labels, truth: Labels) -> tuple[Tensor, Tensor, list[str]]:
    """Truth (M, C) in 1, 0 and NaN in the order of the model's classes, the rows (M,) of `predicted` it is about, the rest."""
    check_truth(checkpoint.model.classes, truth)
    match, names = match_tables(predicted, truth), checkpoint.model.classes
    own, theirs = torch.tensor(match.rows).T
    columns = [truth.classes.index(name) for name in match.classes]
    answers = torch.full((len(own), len(names)), torch.nan)
    answers[:, [names.index(name) for name in match.classes]] = truth.scores[theirs][:, columns]
    some = ~answers.isnan().all(1)
    if not some.any():
        raise InputError(
            f"the truth says nothing of these {len(own)} photos: every cell is empty; write 1 or 0 into some"
        )
    return answers[some], own[some], [*match.classes_only_second, *match.paths_only_second]


def _state(checkpoint: Checkpoint) -> dict:
    """What `undo_calibration` puts back."""
    model, calibration = checkpoint.model, checkpoint.meta.get("calibration")
    numbers = {"scale": model.scale, "offset": model.offset, "thresholds": checkpoint.thresholds}
    return {**{name: values.tolist() for name, values in numbers.items()}, "calibration": calibration}


def _judged(scores: Tensor, answers: Tensor, thresholds: Tensor) -> Judged:
    f1 = f1_of_classes(scores >= thresholds, answers)
    return Judged(expected_calibration_error(scores, answers), float(f1.nanmean()))
