"""Calibrated scores: of all photos with a score of 0.7 for a class, 70 % should show the class. And thresholds: yes or no.

This file measures how far scores are from that goal. It also fits two numbers per class that correct the logits (Platt
scaling), and finds thresholds without labels. Pure functions of tensors. Letters: N photos, C classes, B bins.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 15  # of equal width, as in most papers on calibration
PRIOR_CELLS = 30.0  # weight of the prior in the fit of one class, in cells; see `fit_calibration`
MIN_SLOPE = 0.05  # above 0, so that the order of the photos never changes
MAX_LOGIT = 30.0  # larger logits are clamped: their sigmoid is 0 or 1 in any case
MARGIN = 1e-7  # scores are kept this far from 0 and 1 before the logit
MIN_PRECISION = 1e-3  # of the prior, where the logits carry no information about slope or offset
MAX_PHOTOS = 20_000  # a calibration is fitted to at most this many photos
MAX_STEPS, MAX_HALVINGS, TOLERANCE = 100, 40, 1e-9  # of Newton's method


class Reliability(NamedTuple):
    """The numbers of a reliability diagram, (B,) each: cells per bin, their mean score, their share of positives (NaN if none)."""

    count: Tensor
    mean_score: Tensor
    positives: Tensor


def reliability(scores: Tensor, truth: Tensor, bins: int = BINS) -> Reliability:
    """Sort scores in [0, 1] into `bins` bins of equal width; `truth` has the same shape and holds 1 or 0.

    Cells where either is NaN are ignored.

    >>> reliability(torch.tensor([0.1, 0.2, 0.9]), torch.tensor([0.0, 1.0, 1.0]), bins=2).positives
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    known = ~(scores.isnan() | truth.isnan())
    score, positive = scores[known].double(), truth[known].double()
    place = (score * bins).long().clamp(max=bins - 1)
    count = torch.bincount(place, minlength=bins)
    total = torch.stack([torch.bincount(place, weights, minlength=bins) for weights in (score, positive)])  # (2, B)
    return Reliability(count, *(total / count))


def expected_calibration_error(scores: Tensor, truth: Tensor, bins: int = BINS) -> float:
    """ECE in [0, 1]: the mean of |mean score − share of positives| of the bins, weighted by the number of cells in each bin.

    All (photo, class) cells are pooled, see `reliability`. NaN if no cell is known. With many classes most cells are easy,
    confident negatives. So use the ECE to compare models on the same photos, not to compare sets of photos.

    >>> round(expected_calibration_error(torch.tensor([0.1, 0.2, 0.9]), torch.tensor([0.0, 1.0, 1.0]), bins=2), 4)
    0.2667
    """
    found = reliability(scores, truth, bins)
    filled = found.count > 0
    if not filled.any():
        return float("nan")
    gaps = (found.mean_score - found.positives).abs()[filled]
    return float((gaps * found.count[filled]).sum() / found.count.sum())


def logits_of(scores: Tensor) -> Tensor:
    """The logits of scores in [0, 1], in float64. They are finite for scores of 0 and 1; NaN stays NaN.

    >>> logits_of(torch.tensor([0.5, 0.0]))
    tensor([  0.0000, -16.1181], dtype=torch.float64)
    """
    return torch.logit(scores.double(), eps=MARGIN)


def fit_calibration(logits: Tensor, labels: Tensor, prior: float = PRIOR_CELLS) -> tuple[Tensor, Tensor]:
    """Platt scaling: the slope and offset (C,) per class that make sigmoid(slope · logit + offset) most likely.

    `logits` and `labels` are (N, C); labels lie in [0, 1], soft or hard. Cells where either is NaN are ignored.

    With one positive or none, every slope fits one class alone. So a Gaussian prior pulls each class towards the slope and
    offset that all classes share. These are fitted first, to all cells pooled, with a prior around 1 and 0 (scores unchanged).
    The precision of each prior is the Fisher information of `prior` average cells. The objective is convex; Newton's method
    finds its minimum in float64. Slopes stay above 0, so the order of the photos never changes.

    >>> logits = torch.linspace(-4, 4, 1000)[:, None]
    >>> [round(float(number), 2) for number in fit_calibration(logits, (2 * logits - 1).sigmoid())]
    [1.99, -1.0]
    """
    step = math.ceil(len(logits) / MAX_PHOTOS) or 1
    z, y = logits[::step].double(), labels[::step].double()
    identity = torch.tensor([1.0, 0.0], dtype=torch.double)
    shared = _fit(z.reshape(-1, 1), y.reshape(-1, 1), identity, prior)[0]  # (2,)
    per_class = _fit(z, y, shared, prior)  # (C, 2)
    return per_class[:, 0].float(), per_class[:, 1].float()


def _fit(logits: Tensor, labels: Tensor, centre: Tensor, prior: float) -> Tensor:
    """Slope and offset (C, 2) of each column of float64 (N, C), with a prior around `centre` (2,)."""
    known = ~(logits.isnan() | labels.isnan())
    logits = torch.where(known, logits, 0).clamp(-MAX_LOGIT, MAX_LOGIT)
    cells = _Cells(logits, torch.where(known, labels, 0), known.double())
    start = centre.expand(logits.shape[1], 2)
    mean = cells.information(start).sum(0) / known.sum().clamp(min=1)  # (2, 2) of one average cell
    precision = prior * mean + MIN_PRECISION * torch.eye(2, dtype=torch.double)
    lowest = torch.tensor(MIN_SLOPE, dtype=torch.double)
    found = _newton(cells, start, centre, precision, torch.ones_like(start))
    # Where the slope is below its bound, the optimum lies on the bound (the objective is convex): fit the offset again.
    flat = (found[:, 0] < lowest)[:, None]
    bound = torch.where(flat, torch.stack([lowest, centre[1]]), found)
    offset_alone = torch.where(flat, torch.tensor([0.0, 1.0], dtype=torch.double), 1.0)
    return _newton(cells, bound, centre, precision, offset_alone) if flat.any() else found


class _Cells(NamedTuple):
    """Logits and labels (N, C), and the weight of each cell: 1 where both are known, else 0."""

    logits: Tensor
    labels: Tensor
    weight: Tensor

    def loss(self, theta: Tensor) -> Tensor:
        """Cross-entropy (C,), summed over the photos, for slopes and offsets (C, 2)."""
        u = self.logits * theta[:, 0] + theta[:, 1]
        return (self.weight * (F.softplus(u) - self.labels * u)).sum(0)

    def gradient(self, theta: Tensor) -> Tensor:
        """The gradient (C, 2) of `loss`."""
        residual = self.weight * ((self.logits * theta[:, 0] + theta[:, 1]).sigmoid() - self.labels)
        return torch.stack([(residual * self.logits).sum(0), residual.sum(0)], dim=1)

    def information(self, theta: Tensor) -> Tensor:
        """The second derivatives (C, 2, 2) of `loss`: the Fisher information."""
        p = (self.logits * theta[:, 0] + theta[:, 1]).sigmoid()
        w = self.weight * p * (1 - p)
        cross = (w * self.logits).sum(0)
        return torch.stack([(w * self.logits.square()).sum(0), cross, cross, w.sum(0)], dim=1).reshape(-1, 2, 2)


def _newton(cells: _Cells, theta: Tensor, centre: Tensor, precision: Tensor, free: Tensor) -> Tensor:
    """Minimise cross-entropy plus prior over the parameters (C, 2) where `free` (C, 2) is 1.

    The step of each class is halved until the objective no longer increases.
    """

    def objective(theta: Tensor) -> Tensor:
        away = theta - centre
        return cells.loss(theta) + (away @ precision * away).sum(1) / 2

    for _ in range(MAX_STEPS):
        gradient = (cells.gradient(theta) + (theta - centre) @ precision) * free
        curvature = (cells.information(theta) + precision) * free[:, :, None] * free[:, None, :]
        step = torch.linalg.solve(curvature + torch.diag_embed(1 - free), gradient)
        before, size = objective(theta), torch.ones(len(theta), 1, dtype=torch.double)
        for _ in range(MAX_HALVINGS):
            worse = objective(theta - size * step) > before
            if not worse.any():
                break
            size = torch.where(worse[:, None], size / 2, size)
        theta = theta - size * step
        if float((size * step).abs().max()) < TOLERANCE:
            break
    return theta


# Thresholds


def match_expected_positives(scores: Tensor, labels: Tensor) -> Tensor:
    """The threshold of each class (C,) at which the number of positive photos is the number that the labels expect.

    `scores` (N, C) in [0, 1] are the student's scores for its training photos. `labels` (N, C) are its pseudo labels; their sum
    over the photos is the expected number of positives. Cells where either is NaN are ignored. The threshold lies half-way between
    the lowest score above it and the highest score below it. Photos with equal scores are all positive or all negative,
    whichever comes nearer to the expected number. A class without known cells gets ½.

    >>> match_expected_positives(torch.tensor([[0.1], [0.3], [0.2]]), torch.tensor([[0.1], [0.9], [0.0]]))
    tensor([0.2500])
    """
    found = torch.full((scores.shape[1],), 0.5, dtype=scores.dtype)
    for c, known in enumerate((~(scores.isnan() | labels.isnan())).T):  # (N,)
        if known.any():
            between, reached = _cuts(scores[known, c])
            found[c] = between[(reached - labels[known, c].sum().round()).abs().argmin()]
    return found


def best_expected_f1(scores: Tensor) -> Tensor:
    """The threshold of each class (C,) with the best expected F1, for calibrated scores (N, C).

    If each score is the probability that the photo has the class, the expected number of positives among the k best photos
    is the sum of their scores. The expected F1 is then 2 · (sum of the k best) / (k + sum of all). This does not depend on the
    label of any single photo. NaN is ignored; a class without scores gets ½.

    >>> best_expected_f1(torch.tensor([[0.9], [0.5], [0.1], [0.1]]))
    tensor([0.3000])
    """
    found = torch.full((scores.shape[1],), 0.5, dtype=scores.dtype)
    for c, column in enumerate(scores.T):
        known = column[~column.isnan()]
        if len(known):
            between, reached = _cuts(known)
            best = torch.cat([known.new_zeros(1), known.sort(descending=True).values.cumsum(0)])  # (n + 1,)
            found[c] = between[(2 * best[reached] / (reached + known.sum()).clamp(min=1e-9)).argmax()]
    return found


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
