"""Scores that mean what they say: of the photos with a score of 0.7, seven in ten should have the class.

How far scores are from that, and the two numbers for each class that bring logits nearer to it (Platt scaling). Pure
functions of tensors. Letters: N photos, C classes, B bins.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 15  # of equal width, as most papers count calibration errors
PRIOR_CELLS = 30.0  # what all classes together count in the fit of one, see `fit_calibration`
LEAST_SLOPE = 0.05  # above 0, so that the order of photos never changes
LARGEST_LOGIT = 30.0  # beyond it a sigmoid tells nothing apart
MARGIN = 1e-7  # scores are kept this far from 0 and 1 before the logit
FLOOR = 1e-3  # of a fit's precision, where logits say nothing of slope or offset
FITTED = 20_000  # photos that a calibration is fitted to, at most
ROUNDS, HALVINGS, TOLERANCE = 100, 40, 1e-9


class Reliability(NamedTuple):
    """What a reliability diagram shows, (B,) each: cells in a bin, their mean score, their share of positives (NaN if none)."""

    count: Tensor
    mean_score: Tensor
    positives: Tensor


def reliability(scores: Tensor, truth: Tensor, bins: int = BINS) -> Reliability:
    """Scores in [0, 1] and truth in {1, 0}, of one shape, in `bins` bins of equal width; cells where either is NaN are left out.

    >>> reliability(torch.tensor([0.1, 0.2, 0.9]), torch.tensor([0.0, 1.0, 1.0]), bins=2).positives
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    known = ~(scores.isnan() | truth.isnan())
    own, true = scores[known].double(), truth[known].double()
    place = (own * bins).long().clamp(max=bins - 1)
    count = torch.bincount(place, minlength=bins)
    total = torch.stack([torch.bincount(place, weights, minlength=bins) for weights in (own, true)])  # (2, B)
    return Reliability(count, *(total / count))


def expected_calibration_error(scores: Tensor, truth: Tensor, bins: int = BINS) -> float:
    """How far scores are from the share of positives, in [0, 1], over all (photo, class) cells pooled; NaN if none is known.

    The mean over the cells of |mean score − share of positives| of their bin, see `reliability`. Most cells of many classes
    are sure negatives, which are easy: compare models on the same photos, not photos.

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
    """The logits of scores in [0, 1], in double, finite where a score is 0 or 1; NaN stays.

    >>> logits_of(torch.tensor([0.5, 0.0]))
    tensor([  0.0000, -16.1181], dtype=torch.float64)
    """
    return torch.logit(scores.double(), eps=MARGIN)


def fit_calibration(logits: Tensor, labels: Tensor, prior: float = PRIOR_CELLS) -> tuple[Tensor, Tensor]:
    """Slope and offset (C,) of each class, such that sigmoid(slope · logit + offset) is as likely as can be: Platt scaling.

    `logits` and `labels` in [0, 1], soft or hard, are (N, C); cells where either is NaN do not count. A class alone says
    little: with one positive, or none, any slope will do. So each class is drawn towards the slope and the offset that all
    classes share, which are fitted first to all cells pooled and are themselves drawn towards 1 and 0, the scores as they are.
    Both draws are a Gaussian prior whose precision is the information of `prior` cells of average content: 30 such hold about
    as many positives as a class needs to have a say, and vanish beside a thousand photos. The objective is convex, its one
    minimum found by Newton's method in double. Slopes stay above 0: the order of the photos never changes.

    >>> logits = torch.linspace(-4, 4, 1000)[:, None]
    >>> [round(float(number), 2) for number in fit_calibration(logits, (2 * logits - 1).sigmoid())]
    [1.99, -1.0]
    """
    step = math.ceil(len(logits) / FITTED) or 1
    z, y = logits[::step].double(), labels[::step].double()
    as_they_are = torch.tensor([1.0, 0.0], dtype=torch.double)
    shared = _fit(z.reshape(-1, 1), y.reshape(-1, 1), as_they_are, prior)[0]  # (2,)
    own = _fit(z, y, shared, prior)  # (C, 2)
    return own[:, 0].float(), own[:, 1].float()


def _fit(logits: Tensor, labels: Tensor, centre: Tensor, prior: float) -> Tensor:
    """(C, 2) slope and offset of each column of double (N, C), drawn towards `centre` (2,)."""
    known = ~(logits.isnan() | labels.isnan())
    cells = _Cells(
        torch.where(known, logits, 0).clamp(-LARGEST_LOGIT, LARGEST_LOGIT),
        torch.where(known, labels, 0),
        known.double(),
    )
    start = centre.expand(logits.shape[1], 2)
    mean = cells.information(start).sum(0) / known.sum().clamp(min=1)  # (2, 2) of one cell of average content
    precision = prior * mean + FLOOR * torch.eye(2, dtype=torch.double)
    least = torch.tensor(LEAST_SLOPE, dtype=torch.double)
    found = _newton(cells, start, centre, precision, torch.ones_like(start))
    flat = (found[:, 0] < least)[
        :, None
    ]  # the bound holds: by convexity the best is on it, at the offset that suits it
    bound = torch.where(flat, torch.stack([least, centre[1]]), found)
    offset_alone = torch.where(flat, torch.tensor([0.0, 1.0], dtype=torch.double), 1.0)
    return _newton(cells, bound, centre, precision, offset_alone) if flat.any() else found


class _Cells(NamedTuple):
    """Logits and labels (N, C) of the cells that are known, weight 1, and of those that are not, weight 0."""

    logits: Tensor
    labels: Tensor
    weight: Tensor

    def loss(self, theta: Tensor) -> Tensor:
        """(C,) cross-entropy, summed over the photos, of slopes and offsets (C, 2)."""
        u = self.logits * theta[:, 0] + theta[:, 1]
        return (self.weight * (F.softplus(u) - self.labels * u)).sum(0)

    def gradient(self, theta: Tensor) -> Tensor:
        """(C, 2) of `loss`."""
        miss = self.weight * ((self.logits * theta[:, 0] + theta[:, 1]).sigmoid() - self.labels)
        return torch.stack([(miss * self.logits).sum(0), miss.sum(0)], dim=1)

    def information(self, theta: Tensor) -> Tensor:
        """(C, 2, 2) the second derivatives of `loss`: Fisher's information."""
        p = (self.logits * theta[:, 0] + theta[:, 1]).sigmoid()
        w = self.weight * p * (1 - p)
        cross = (w * self.logits).sum(0)
        return torch.stack([(w * self.logits.square()).sum(0), cross, cross, w.sum(0)], dim=1).reshape(-1, 2, 2)


def _newton(cells: _Cells, theta: Tensor, centre: Tensor, precision: Tensor, free: Tensor) -> Tensor:
    """The minimum (C, 2) of cross-entropy and prior, where `free` (C, 2) is 1; each class's step is halved until it helps."""

    def objective(theta: Tensor) -> Tensor:
        away = theta - centre
        return cells.loss(theta) + (away @ precision * away).sum(1) / 2

    for _ in range(ROUNDS):
        gradient = (cells.gradient(theta) + (theta - centre) @ precision) * free
        curvature = (cells.information(theta) + precision) * free[:, :, None] * free[:, None, :]
        step = torch.linalg.solve(curvature + torch.diag_embed(1 - free), gradient)
        before, size = objective(theta), torch.ones(len(theta), 1, dtype=torch.double)
        for _ in range(HALVINGS):
            worse = objective(theta - size * step) > before
            if not worse.any():
                break
            size = torch.where(worse[:, None], size / 2, size)
        theta = theta - size * step
        if float((size * step).abs().max()) < TOLERANCE:
            break
    return theta
