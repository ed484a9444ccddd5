"""A linear layer on each view of a photo, pooled over the views and fitted to soft labels of the photo.

A class counts as present if any view shows it. So its logit is a smooth maximum over the views, the logarithm of the mean of
the exponentials: log (1/V Σ_v exp(w·f_v + b)). The division by V makes V equal views the same as one view. With one view this
is `linear_head`. Large weights give the maximum, small ones the mean, and the fit finds the scale of the weights.

Pure functions of tensors. Letters: N photos, V views per photo, D channels, C classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .linear_head import Choice, Output, minimise, principal_axes, search_l2


def pooled_logits(views: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The logits (..., C) of photos with views (..., V, D), for weight (C, D) and bias (C,).

    >>> views = torch.tensor([[[0.0], [10.0]]])
    >>> pooled_logits(views, torch.tensor([[1.0]]), torch.tensor([-1.0]))  # 10 - log 2 - 1
    tensor([[8.3069]])
    """
    return _pool(views @ weight.T) + bias


def _pool(logits: Tensor) -> Tensor:
    """Logits of views (..., V, C) -> the logarithm of the mean of their exponentials (..., C)."""
    return logits.logsumexp(-2) - math.log(logits.shape[-2])


def fit_pooled_head(views: Tensor, labels: Tensor, l2: float, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The weight (C, D) and bias (C,) of `pooled_logits` for views (N, V, D) and labels (N, C) in [0, 1]. NaN labels are ignored.

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


def choose_pooled_l2(views: Tensor, labels: Tensor, seed: int = 0, weights: Tensor | None = None) -> Choice:
    """The L2 penalty for `fit_pooled_head` with the lowest cross-entropy to the labels (N, C) of held-out photos.

    The views (N, V, D) of a photo are always in the same fold. See `linear_head.search_l2`.
    """
    axes = principal_axes(views.flatten(0, 1))
    rotated = axes.rotate(views)  # (N, V, D)

    def fit(photos: Tensor, l2: float, start: Tensor | None) -> Tensor:
        factors = None if weights is None else weights[photos]
        return minimise(rotated[photos], labels[photos], axes.variances, l2, start, _pooled, factors)

    def predict(photos: Tensor, head: Tensor) -> Tensor:
        return _pooled(rotated[photos], head)[0]

    return search_l2(labels, axes, fit, predict, seed, weights)


def _pooled(views: Tensor, head: Tensor) -> Output:
    """The logits (N, C) of views (N, V, D) for a head (C, D + 1), and how a gradient flows back through them."""
    flat = views.flatten(0, 1)  # (N·V, D)
    logits = (flat @ head[:, :-1].T).unflatten(0, views.shape[:2])  # (N, V, C)
    highest = logits.amax(1)
    parts = (logits - highest[:, None]).exp_()  # one pass for both the logits and the gradient
    total = parts.sum(1)  # (N, C)

    def pull(residual: Tensor) -> Tensor:
        to_views = (parts * (residual / total)[:, None]).flatten(0, 1)  # (N·V, C)
        return torch.cat([to_views.T @ flat, residual.sum(0)[:, None]], dim=1)

    return total.log() + highest - math.log(views.shape[1]) + head[:, -1], pull
