"""Thresholds that turn scores into yes or no, per class, without labels; and F1 where labels exist.

Letters: N photos, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def match_expected_positives(scores: Tensor, labels: Tensor) -> Tensor:
    """The threshold of each class (C,) at which the number of positive photos is the number that the labels expect.

    `scores` (N, C) in [0, 1] are the student's scores for its training photos. `labels` (N, C) are its pseudo labels; their sum
    over the photos is the expected number of positives. Cells where either is NaN are ignored. The threshold lies half-way between
    the lowest score above it and the highest score below it. Photos with equal scores are all positive or all negative,
    whichever comes nearer to the expected number. A class without known cells gets ½.

    >>> match_expected_positives(torch.tensor([[0.1], [0.3], [0.2]]), torch.tensor([[0.1], [0.9], [0.0]]))
    tensor([0.2500])
    """
    return torch.stack([_matching_threshold(scores[:, c], labels[:, c]) for c in range(scores.shape[1])])


def _matching_threshold(scores: Tensor, labels: Tensor) -> Tensor:
    known = ~(scores.isnan() | labels.isnan())
    if not known.any():
        return torch.tensor(0.5)
    between, reached = _cuts(scores[known])
    return between[(reached - labels[known].sum().round()).abs().argmin()]


def best_expected_f1(scores: Tensor) -> Tensor:
    """The threshold of each class (C,) with the best expected F1, for calibrated scores (N, C).

    If each score is the probability that the photo has the class, the expected number of positives among the k best photos
    is the sum of their scores. The expected F1 is then 2 · (sum of the k best) / (k + sum of all). This does not depend on the
    label of any single photo. NaN is ignored; a class without scores gets ½.

    >>> best_expected_f1(torch.tensor([[0.9], [0.5], [0.1], [0.1]]))
    tensor([0.3000])
    """
    return torch.stack([_best_threshold(scores[:, c]) for c in range(scores.shape[1])])


def _best_threshold(scores: Tensor) -> Tensor:
    known = scores[~scores.isnan()]
    if not len(known):
        return torch.tensor(0.5)
    between, reached = _cuts(known)
    best = torch.cat([known.new_zeros(1), known.sort(descending=True).values.cumsum(0)])  # (n + 1,)
    return between[(2 * best[reached] / (reached + known.sum()).clamp(min=1e-9)).argmax()]


def _cuts(scores: Tensor) -> tuple[Tensor, Tensor]:
    """All thresholds between different scores (n,), highest first, and the number of photos that reach each of them.

    No threshold is above 1, so a photo with score 1 reaches all of them.
    """
    values, counts = scores.unique(return_counts=True)  # ascending
    upper = torch.cat([values.new_ones(1), values.flip(0)])
    lower = torch.cat([values.flip(0), values.new_zeros(1)])
    middle = (upper + lower) / 2
    between = torch.where(middle > lower, middle, upper)  # neighbouring floats have nothing between them
    reached = torch.cat([counts.new_zeros(1), counts.flip(0).cumsum(0)])
    possible = slice(int(values[-1] >= 1), None)
    return between[possible], reached[possible]


def thresholds_of_labels(scores: Tensor, method: str) -> list[float]:
    """The threshold of each class for pseudo labels (N, C): a photo has the class if its score is at least the threshold.

    A centred or dense label is a posterior probability; its natural threshold is ½. The labels of the papers are not probabilities.
    Their threshold is the one where the number of positives is the sum of the labels.
    """
    if method in ("centred", "dense"):
        return [0.5] * scores.shape[1]
    return match_expected_positives(scores, scores).tolist()


def f1_of_classes(predicted: Tensor, truth: Tensor) -> Tensor:
    """F1 in [0, 1] per class (C,): bool predictions (N, C) against truth (N, C) of 1 and 0; NaN truth is ignored.

    A class without positives has F1 NaN.

    >>> f1_of_classes(torch.tensor([[True], [True], [False]]), torch.tensor([[1.0], [0.0], [float("nan")]]))
    tensor([0.6667])
    """
    hits = (predicted & (truth == 1)).sum(0)
    positives = (truth == 1).sum(0)
    f1 = 2 * hits / ((predicted & ~truth.isnan()).sum(0) + positives)
    return torch.where(positives > 0, f1, torch.nan)
