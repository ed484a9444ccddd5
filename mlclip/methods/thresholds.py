"""Scores into yes and no, class by class: thresholds that need no label, and F1 where there are some.

Letters: N photos, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def match_expected_positives(scores: Tensor, labels: Tensor) -> Tensor:
    """The threshold of each class (C,) from which on as many photos have it as the labels expect.

    `scores` (N, C) in [0, 1] are a student's for the photos it learned, `labels` (N, C) its pseudo labels, whose sum over the
    photos is the expected number of positives; cells where either is NaN do not count. A student's scores are rarely
    calibrated, rare classes least of all, but their order is good. The threshold lies half-way between the last photo that is
    taken and the first that is not; photos of equal scores are taken together or not at all, whichever is nearer to the
    number. A class with nothing to count gets ½.

    >>> match_expected_positives(torch.tensor([[0.1], [0.3], [0.2]]), torch.tensor([[0.1], [0.9], [0.0]]))
    tensor([0.2500])
    """
    return torch.stack([_matching(scores[:, c], labels[:, c]) for c in range(scores.shape[1])])


def _matching(scores: Tensor, labels: Tensor) -> Tensor:
    known = ~(scores.isnan() | labels.isnan())
    if not known.any():
        return torch.tensor(0.5)
    between, taken = _cuts(scores[known])
    return between[(taken - labels[known].sum().round()).abs().argmin()]


def best_expected_f1(scores: Tensor) -> Tensor:
    """The threshold of each class (C,) that promises the best F1, where scores (N, C) are calibrated.

    If each score is the probability that the photo has the class, then of the k best photos their sum has it, and F1 is
    expected to be 2 · sum of the k best / (k + sum of all). No single photo's label decides, so few labels, which a
    calibration has made two numbers of, go further than in a search for the best F1 on them. NaN does not count; a class
    without any score gets ½.

    >>> best_expected_f1(torch.tensor([[0.9], [0.5], [0.1], [0.1]]))
    tensor([0.3000])
    """
    return torch.stack([_promising(scores[:, c]) for c in range(scores.shape[1])])


def _promising(scores: Tensor) -> Tensor:
    known = scores[~scores.isnan()]
    if not len(known):
        return torch.tensor(0.5)
    between, taken = _cuts(known)
    best = torch.cat([known.new_zeros(1), known.sort(descending=True).values.cumsum(0)])  # (n + 1,)
    return between[(2 * best[taken] / (taken + known.sum()).clamp(min=1e-9)).argmax()]


def _cuts(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Every threshold between different scores (n,), from above all to below all, and how many photos each takes.

    No threshold is above a score of 1, which is so taken by all of them.
    """
    values, counts = scores.unique(return_counts=True)  # ascending
    upper = torch.cat([values.new_ones(1), values.flip(0)])
    lower = torch.cat([values.flip(0), values.new_zeros(1)])
    middle = (upper + lower) / 2
    between = torch.where(middle > lower, middle, upper)  # neighbours have nothing between them
    taken = torch.cat([counts.new_zeros(1), counts.flip(0).cumsum(0)])
    possible = slice(int(values[-1] >= 1), None)
    return between[possible], taken[possible]


def thresholds_of_labels(scores: Tensor, method: str) -> list[float]:
    """From which score on a pseudo label (N, C) counts as given, for each class.

    A centred label is a posterior probability, and one half its natural threshold. The papers' labels are none; they are
    taken at their sum, the number of positives that they expect.
    """
    if method == "centred":
        return [0.5] * scores.shape[1]
    return match_expected_positives(scores, scores).tolist()


def f1_of_classes(said: Tensor, truth: Tensor) -> Tensor:
    """F1 in [0, 1] of each class (C,) of bool (N, C) against 1 and 0; NaN truth is left out, NaN where nothing is positive.

    >>> f1_of_classes(torch.tensor([[True], [True], [False]]), torch.tensor([[1.0], [0.0], [float("nan")]]))
    tensor([0.6667])
    """
    hits = (said & (truth == 1)).sum(0)
    positives = (truth == 1).sum(0)
    f1 = 2 * hits / ((said & ~truth.isnan()).sum(0) + positives)
    return torch.where(positives > 0, f1, torch.nan)
