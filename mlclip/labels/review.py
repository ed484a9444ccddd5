"""Which labels a person should look at next: those that are probably wrong, of different classes and different photos.

No true labels are needed. Letters: N photos, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .corrections import corrected_cells
from .labels import Labels
from .matching import match_tables, placed

ALIKE = 0.1  # two photos whose beliefs differ by less in every class may be near duplicates


class Question(NamedTuple):
    """A label to look at. `score` is the label's, in [0, 1]; `wrong` is how probable it is that the label is wrong."""

    path: str
    name: str  # of the class
    score: float
    wrong: float
    reason: str


def belief(labels: Labels) -> Tensor:
    """How probable each label is (N, C), in [0, 1]: the score, stretched so that the threshold of its class is ½. NaN stays NaN.

    >>> belief(Labels(["a", "b"], ["cat"], torch.tensor([[0.2], [0.7]]), meta={"thresholds": [0.4]}))
    tensor([[0.2500],
            [0.7500]])
    """
    scores, thresholds = labels.scores, labels.thresholds.clamp(1e-6, 1 - 1e-6)
    above = 0.5 + (scores - thresholds) / (1 - thresholds) / 2
    return torch.where(scores < thresholds, scores / thresholds / 2, above).clamp(0, 1)


def matched_belief(labels: Labels, predictions: Labels) -> Tensor:
    """The beliefs of a model in the rows and columns of `labels` (N, C); NaN where `predictions` has no such photo or class."""
    return placed(belief(predictions), match_tables(labels, predictions), labels.scores.shape)


def wrong_labels(label: Tensor, model: Tensor | None = None) -> Tensor:
    """How probable it is that labels with these beliefs (N, C) are wrong, in [0, 1]. Labels without belief (NaN) get ½.

    The probability of a class is the mean of the beliefs of the label and, where it has one, of the model. So a label is
    suspicious if it is near its threshold, or if the model contradicts it.

    >>> wrong_labels(torch.tensor([[0.9, 0.6]]), torch.tensor([[0.1, float("nan")]]))
    tensor([[0.5000, 0.4000]])
    """
    label = label.nan_to_num(0.5)
    mean = label if model is None else torch.where(model.isnan(), label, (label + model) / 2)
    return torch.where(label >= 0.5, 1 - mean, mean)


def questions(labels: Labels, predictions: Labels | None = None, count: int = 20) -> list[Question]:
    """The `count` labels that are most worth a look, the best first. Corrected labels are left out.

    One after the other, the label with the highest probability of being wrong is chosen, after three deductions, so that the
    questions differ. A class that has been asked k times counts 1/(k + 1). A photo that is like one already chosen counts as
    little as it differs (see ALIKE); a photo itself is asked about once, until all have been. With `predictions`, labels that a
    model contradicts come first. Raises InputError if the predictions share no photo or no class with the labels.
    """
    label, model = belief(labels), None if predictions is None else matched_belief(labels, predictions)
    wrong = wrong_labels(label, model)
    wrong[~corrected_cells(labels, labels.paths).isnan()] = -1
    rows = label.nan_to_num(0.5) if model is None else torch.cat([label, model], 1).nan_to_num(0.5)  # (N, C or 2·C)
    new, asked, chosen = torch.ones(len(labels)), torch.zeros(len(labels.classes)), []
    for _ in range(min(count, int((wrong >= 0).sum()))):
        value = wrong * new[:, None] / (1 + asked)  # (N, C); below 0 where corrected or asked
        place = int(value.argmax())
        if float(value.flatten()[place]) <= 0:  # every photo has been asked about: begin again
            new.fill_(1.0)
            place = int((wrong / (1 + asked)).argmax())
        row, column = divmod(place, len(labels.classes))
        chosen.append(_question(labels, label, model, wrong, row, column))
        distance = (rows - rows[row]).abs().amax(1)  # (N,)
        new = torch.minimum(new, (distance / ALIKE).clamp(max=1))
        new[row], wrong[row, column] = 0, -1
        asked[column] += 1
    return chosen


def _question(labels: Labels, label: Tensor, model: Tensor | None, wrong: Tensor, row: int, column: int) -> Question:
    score, believed = float(labels.scores[row, column]), float(label[row, column])
    predicted = float("nan") if model is None else float(model[row, column])
    if believed != believed:
        reason = "not labelled"
    elif predicted == predicted and (predicted >= 0.5) != (believed >= 0.5):
        reason = "label yes, model no" if believed >= 0.5 else "label no, model yes"
    else:
        reason = "doubtful yes" if believed >= 0.5 else "doubtful no"
    return Question(labels.paths[row], labels.classes[column], score, float(wrong[row, column]), reason)
