"""A linear layer on fixed features, fitted to soft labels by L-BFGS: logistic regression with an L2 penalty.

A pooled head is a linear layer on each view of a photo. The pool "log-mean-exp" is for classes that one view shows: a smooth maximum
over the views, the logarithm of the mean of the exponentials, log (1/V Σ_v exp(w·f_v + b)). The division by V makes V equal views the
same as one view. Large weights give the maximum, small ones the mean, and the fit finds the scale of the weights. The pool "mean" is for
classes that most views show. It is a linear layer on the mean of the views.

Pure functions of tensors. Letters: N photos, V views per photo, M rows of features, K channels, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

POOLS = LOG_MEAN_EXP, MEAN = ("log-mean-exp", "mean")
FOLDS = 5
PATH_STEPS, PER_DECADE = 15, 2  # the penalties that are tried: 15 values, two per decade, from strong to weak
GAIN = 1e-4  # a weaker penalty must lower the loss at least by this share
PATIENCE = 2  # the search ends after this many penalties in a row that do not
MIN_FREQUENCY = 1e-3  # lowest class frequency in the first bias
MIN_CURVATURE = 1e-6  # for classes without known labels
MAX_STEPS = 500  # of L-BFGS

# Logits (M, C), and the function that turns a gradient for them into one for the head (C, K + 1).
Output = tuple[Tensor, Callable[[Tensor], Tensor]]


class Axes(NamedTuple):
    """The principal axes of features: their mean (K,), the axes as columns (K, K), and the variance along each axis (K,)."""

    mean: Tensor
    axes: Tensor
    variances: Tensor

    def rotate(self, features: Tensor) -> Tensor:
        """Features (..., K) -> coordinates (..., K) along the axes."""
        return (features - self.mean) @ self.axes

    def restore(self, head: Tensor) -> tuple[Tensor, Tensor]:
        """A head (C, K + 1) for coordinates, bias last -> the weight (C, K) and bias (C,) for features."""
        weight = head[:, :-1] @ self.axes.T
        return weight, head[:, -1] - weight @ self.mean


def principal_axes(features: Tensor) -> Axes:
    """The principal axes of features (M, K)."""
    mean = features.mean(0)
    centred = features - mean
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(features))
    return Axes(mean, axes, variances.clamp(min=0))


def fit_head(features: Tensor, labels: Tensor, l2: float, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The weight (C, K) and bias (C,) that fit labels (M, C) in [0, 1] best, for features (M, K). NaN labels are ignored.

    The objective is the mean over the rows of the cross-entropy, summed over the classes, plus l2/2 · |weight|². The bias has
    no penalty. `weights` (M, C) are factors of the cross-entropy of single labels; None is 1 for all. The computation is in the
    dtype of `features`.

    >>> features = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    >>> weight, bias = fit_head(features, torch.tensor([[0.2], [0.8]]), l2=1e-9)
    >>> round(float(weight), 4), round(float(bias.abs()), 4)  # sigmoid(1.3863) = 0.8
    (1.3863, 0.0)
    """
    axes = principal_axes(features)
    return axes.restore(minimise(axes.rotate(features), labels, axes.variances, l2, weights=weights))


def pooled_logits(views: Tensor, weight: Tensor, bias: Tensor, pool: str = LOG_MEAN_EXP) -> Tensor:
    """The logits (..., C) of photos with views (..., V, K), for weight (C, K), bias (C,) and one of POOLS.

    >>> views = torch.tensor([[[0.0], [10.0]]])
    >>> pooled_logits(views, torch.tensor([[1.0]]), torch.tensor([-1.0]))  # 10 - log 2 - 1
    tensor([[8.3069]])
    >>> pooled_logits(views, torch.tensor([[1.0]]), torch.tensor([-1.0]), "mean")  # 5 - 1
    tensor([[4.]])
    """
    if pool == MEAN:
        return views.mean(-2) @ weight.T + bias
    return (views @ weight.T).logsumexp(-2) - math.log(views.shape[-2]) + bias


def fit_pooled_head(views: Tensor, labels: Tensor, l2: float, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The weight (C, K) and bias (C,) of `pooled_logits` for views (N, V, K) and labels (N, C) in [0, 1]. NaN labels are ignored.

    The objective is the mean over the photos of the cross-entropy, summed over the classes, plus l2/2 · |weight|². The bias has
    no penalty. With several views the objective is not convex. The fit starts at weight 0, where the gradient is that of a
    linear layer on the mean of the views, so the result does not depend on chance. `weights` (N, C) as in `fit_head`.

    >>> views = torch.tensor([[[-1.0], [-1.0]], [[1.0], [1.0]]], dtype=torch.float64)
    >>> weight, bias = fit_pooled_head(views, torch.tensor([[0.2], [0.8]]), l2=1e-9)
    >>> round(float(weight), 4), round(float(bias.abs()), 4)  # sigmoid(1.3863) = 0.8
    (1.3863, 0.0)
    """
    axes = principal_axes(views.flatten(0, 1))
    return axes.restore(minimise(axes.rotate(views), labels, axes.variances, l2, network=_pooled, weights=weights))


class Choice(NamedTuple):
    """The chosen penalty, the tried ones with their loss on held-out photos, and the held-out logits (N, C) for the chosen one."""

    l2: float
    tried: list[tuple[float, float]]
    held_out: Tensor


def choose_l2(
    features: Tensor, labels: Tensor, seed: int = 0, weights: Tensor | None = None, *, pooled: bool = False
) -> Choice:
    """The L2 penalty for `fit_head`, or with `pooled` for `fit_pooled_head`, that predicts the labels (N, C) of held-out photos best.

    `features` (N, V, K) are V views of each photo, for example the photo and its mirror image. All views of a photo are in the
    same fold; without `pooled` the first one is scored. `weights` (N, C) are factors of the cross-entropy of single labels.

    By FOLDS-fold cross-validation. The penalties are multiples of the total variance of the features: with the largest one, all
    logits are close to the bias. Each fit starts from the one before. The path ends after PATIENCE penalties without a gain.
    If several are equally good, the strongest is chosen.
    """
    axes = principal_axes(features.flatten(0, 1))
    rotated = axes.rotate(features)  # (N, V, K)
    factors = torch.ones_like(labels) if weights is None else weights  # (N, C)
    folds = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)) % min(FOLDS, len(labels))
    folds = folds.to(labels.device)

    def fit(photos: Tensor, l2: float, start: Tensor | None) -> Tensor:
        rows, targets, parts = rotated[photos], labels[photos], factors[photos]
        if pooled:
            return minimise(rows, targets, axes.variances, l2, start, _pooled, parts)
        targets, parts = (part.repeat_interleave(rows.shape[1], 0) for part in (targets, parts))  # (n·V, C)
        return minimise(rows.flatten(0, 1), targets, axes.variances, l2, start, weights=parts)

    largest = float(axes.variances.sum().clamp(min=MIN_CURVATURE))
    heads: dict[int, Tensor | None] = dict.fromkeys(range(int(folds.max()) + 1))
    tried: list[tuple[float, float]] = []
    best, lowest, since = Choice(largest, tried, torch.empty(0)), float("inf"), 0
    for step in range(PATH_STEPS):
        l2 = largest * 10 ** (-step / PER_DECADE)
        held_out = torch.empty(labels.shape, dtype=axes.variances.dtype, device=labels.device)
        for fold, head in heads.items():
            heads[fold] = head = fit(folds != fold, l2, head)
            here = folds == fold
            held_out[here] = _pooled(rotated[here], head)[0] if pooled else linear(rotated[here, 0], head)[0]
        loss = float((_cross_entropy(held_out, labels) * factors).nansum(1).mean())
        tried.append((l2, loss))
        if loss < lowest * (1 - GAIN):
            best, lowest, since = Choice(l2, tried, held_out), loss, 0
        else:
            since += 1
        if since == PATIENCE:
            break
    return best


def linear(rows: Tensor, head: Tensor) -> Output:
    """A linear layer: the logits (M, C) of rows (M, K), and how a gradient flows back through them."""

    def pull(residual: Tensor) -> Tensor:
        return torch.cat([residual.T @ rows, residual.sum(0)[:, None]], dim=1)

    return rows @ head[:, :-1].T + head[:, -1], pull


def _pooled(views: Tensor, head: Tensor) -> Output:
    """The logits (N, C) of views (N, V, K) for a head (C, K + 1), and how a gradient flows back through them."""
    flat = views.flatten(0, 1)  # (N·V, K)
    logits = (flat @ head[:, :-1].T).unflatten(0, views.shape[:2])  # (N, V, C)
    highest = logits.amax(1)
    parts = (logits - highest[:, None]).exp_()  # one pass for both the logits and the gradient
    total = parts.sum(1)  # (N, C)

    def pull(residual: Tensor) -> Tensor:
        to_views = (parts * (residual / total)[:, None]).flatten(0, 1)  # (N·V, C)
        return torch.cat([to_views.T @ flat, residual.sum(0)[:, None]], dim=1)

    return total.log() + highest - math.log(views.shape[1]) + head[:, -1], pull


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy with soft labels, not reduced; NaN where the label is."""
    return F.softplus(logits) - labels * logits


def minimise(
    rows: Tensor,
    labels: Tensor,
    variances: Tensor,
    l2: float,
    start: Tensor | None = None,
    network: Callable[[Tensor, Tensor], Output] = linear,
    weights: Tensor | None = None,
) -> Tensor:
    """The head (C, K + 1), bias last, for rows (M, ..., K) whose columns are uncorrelated and have these variances (K,).

    `network` gives the logits (M, C) of the rows; `weights` (M, C) are factors of the labels' losses. Each coordinate of
    the head is scaled by the curvature of the objective along its axis, so L-BFGS needs few steps.
    """
    known = ~labels.isnan()
    target, weight = torch.where(known, labels, 0).to(rows), known.to(rows) / len(rows)
    weight = weight if weights is None else weight * weights.to(rows)
    frequency = (labels.nanmean(0).nan_to_num(0.5)).to(rows).clamp(MIN_FREQUENCY, 1 - MIN_FREQUENCY)  # (C,)
    curvature = (frequency * (1 - frequency) * weight.sum(0)).clamp(min=MIN_CURVATURE)[:, None]
    scale = torch.cat([curvature * variances + l2, curvature], dim=1).rsqrt()  # (C, K + 1)
    if start is None:
        start = torch.cat([torch.zeros_like(scale[:, :-1]), frequency.logit()[:, None]], dim=1)
    unknown = (start / scale).requires_grad_()
    tolerance = torch.finfo(rows.dtype).eps ** 0.5 / 4
    solver = torch.optim.LBFGS([unknown], max_iter=MAX_STEPS, tolerance_grad=tolerance, tolerance_change=tolerance**2,
                               line_search_fn="strong_wolfe")  # fmt: skip

    @torch.no_grad()
    def objective() -> Tensor:
        head = unknown * scale
        logits, pull = network(rows, head)
        gradient = pull((logits.sigmoid() - target) * weight)  # (C, K + 1)
        gradient[:, :-1] += l2 * head[:, :-1]
        unknown.grad = gradient * scale
        return (_cross_entropy(logits, target) * weight).sum() + l2 / 2 * head[:, :-1].square().sum()

    solver.step(objective)
    return (unknown * scale).detach()
