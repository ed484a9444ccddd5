"""Calibrated scores: of all photos with a score of 0.7 for a class, 70 % should show the class.

This file measures how far scores are from that goal. It also fits two numbers per class that correct the logits (Platt
scaling). Pure functions of tensors. Letters: N photos, C classes, B bins.
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
