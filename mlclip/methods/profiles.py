"""Class profiles: what views that certainly show a class look like in this folder. They re-rank the centred labels.

A view with a sofa also looks a little like a chair and not at all like a sheep. The profile of a class is the vector of mean cosines
with *all* names. It is learned from the photos where the centred label is confident, and in each of them from the one view that
shows the class best. All other views are background. A Gaussian classifier with one common covariance (linear discriminant
analysis) then decides which profile a view fits. This discounts what two names always have in common.

Dense labels use the same classifier on patch features instead of cosines (D numbers instead of K). The statistics are sums, so
photos can be processed in portions of any size.

Pure functions of tensors. Letters: N photos, V views of one photo, K names (classes and contrast names).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .centred import MAX_PHOTOS, fit_mixture, log_odds, mixture_labels

SURE = 0.9  # a label is confident if it is at least this high
RIDGE = 0.1  # share of the covariance that is replaced by a multiple of the identity
ROUNDING = 1e-6  # a photo this near to one of the fit gets its label: it may be the same, rounded in another way
PROFILE_WEIGHT = 0.5  # weight of the profile's label if a profile is learned from very many views ...
HALF_WEIGHT_VIEWS = 10.0  # ... and with this many views half of that weight


class Statistics(NamedTuple):
    """Sums over views, in float64. The sums of two portions of the photos can be added."""

    views: float  # number of views
    total: Tensor  # (K,) Σ cosines
    products: Tensor  # (K, K) Σ cosines · cosinesᵀ
    shown: Tensor  # (K,) number (sum of weights) of views of each class
    sums: Tensor  # (K, K) Σ cosines of the views of each class; row = class


class Profiles(NamedTuple):
    """A linear classifier of views: cosines @ weights + offsets are the scores of K classes and, last, of the background."""

    weights: Tensor  # (K, K + 1)
    offsets: Tensor  # (K + 1,); −inf for a class without views
    shown: Tensor  # (K,) number of views that each class was learned from


class Ranking(NamedTuple):
    """How profiles re-rank the labels of the L classes with a profile, from the M photos of the fit, lowest first."""

    slope: Tensor  # (L,) of the mixture of the log-odds by profile
    offset: Tensor  # (L,)
    order: Tensor  # (L, M) the weighted means of label and probability
    labels: Tensor  # (L, M) the label that a photo with this mean gets


def sure_views(logits: Tensor, labels: Tensor, sure: float = SURE) -> Tensor:
    """Assign views to classes: log-odds of views (N, V, K) and labels of photos (N, K) -> weights (N, V, K) in [0, 1].

    If a photo's label for a class is at least `sure`, the class gets the view with the highest log-odds. The weight of the
    view is the label. The weights of a view that several classes get are scaled so that their sum is at most 1.

    >>> sure_views(torch.tensor([[[0.0, 2.0], [3.0, 1.0]]]), torch.tensor([[0.95, 0.5]]))
    tensor([[[0.0000, 0.0000],
             [0.9500, 0.0000]]])
    """
    weight = torch.where(labels >= sure, labels, 0.0)[:, None]  # (N, 1, K)
    weights = torch.zeros_like(logits).scatter(1, logits.argmax(1, keepdim=True), weight)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1)


def statistics(cosines: Tensor, weights: Tensor, every: int = 1) -> Statistics:
    """The sums over the views of some photos: cosines (N, V, K) or embeddings (N, V, D), and weights (N, V, K) from `sure_views`.

    The products, the most expensive of the sums, are estimated from each `every`-th photo, moved to the mean of all: with another
    mean, the covariance would have negative variances.
    """
    x, w = (part.flatten(0, 1).double() for part in (cosines, weights))  # (N·V, K)
    part = x
    if every > 1:
        part = cosines[::every].flatten(0, 1).double()
        part = part + (x.mean(0) - part.mean(0))
    return Statistics(len(x), x.sum(0), part.T @ part * (len(x) / len(part)), w.sum(0), w.T @ x)


def basis_of(text: Tensor, levels: Tensor) -> Tensor:
    """An orthonormal basis (K, D + V) of all `centred.excess` that embeddings can have, from text (K, D) and levels (V, K).

    In its coordinates profiles of K names need D + V numbers instead of K, and give the same log-odds.
    """
    both = torch.cat([text, levels.T], dim=1)
    return torch.linalg.qr((both - both.mean(0)).cpu().double()).Q.float().to(text.device)


def added(first: Statistics, second: Statistics) -> Statistics:
    """The sums over the views of both portions."""
    return Statistics(*(one + other for one, other in zip(first, second, strict=True)))


def fit_profiles(sums: Statistics, ridge: float = RIDGE, names: int | None = None) -> Profiles:
    """Linear discriminant analysis of the classes and the background (all views that belong to no class).

    With the mean μ of a class and the common covariance Σ within the classes and the background, the score of a view x is
    xᵀΣ⁻¹μ − ½ μᵀΣ⁻¹μ. The cosines of many names are nearly collinear, so `ridge` shrinks Σ towards a multiple of the identity.
    `names` is the number of names K, where the features are coordinates of `basis_of`.
    """
    shown = torch.cat([sums.shown, (sums.views - sums.shown.sum()).clamp(min=0)[None]])  # (K + 1,) background last
    totals = torch.cat([sums.sums, (sums.total - sums.sums.sum(0))[None]])  # (K + 1, K)
    common = sums.total / sums.views
    means = totals / shown.clamp(min=1e-9)[:, None] - common  # (K + 1, K)
    within = sums.products / sums.views - common.outer(common) - (means.T * shown) @ means / sums.views
    level = (within.diagonal().mean() if names is None else within.trace() / names).clamp(min=1e-12)
    within = (1 - ridge) * within + ridge * level * torch.eye(len(within), dtype=within.dtype)
    weights = torch.linalg.solve(within, means.T)  # (K, K + 1)
    offsets = -0.5 * (means.T * weights).sum(0) - common @ weights
    offsets = torch.where(shown > 0, offsets, -torch.inf)
    return Profiles(weights.float(), offsets.float(), sums.shown.float())


def profile_logits(profiles: Profiles, cosines: Tensor, scale: float, weights: Tensor | None = None) -> Tensor:
    """How well views (..., K) fit the profile of each class: log-odds (..., K) of a softmax over classes and background.

    A view may show several classes, so `scale` flattens the softmax, as in `centred_logits`. With `weights` (K, K), names that mean
    the same do not compete; the background competes with every name.
    """
    scores = (cosines @ profiles.weights + profiles.offsets) * scale  # (..., K + 1)
    if weights is not None and weights.is_sparse:
        return log_odds(scores, weights)
    if weights is not None:
        weights = F.pad(F.pad(weights, (0, 1), value=1), (0, 0, 0, 1), value=1)  # (K + 1, K + 1)
        weights[-1, -1] = 0
    return log_odds(scores, weights)[..., :-1]


def rerank_by_profiles(first: Tensor, logits: Tensor, shown: Tensor, prior_photos: float = 30.0) -> Tensor:
    """Re-ranking by profiles: labels (N, K) by cosine and log-odds (N, K) by profile -> labels (N, K) in a new order.

    The values of the labels stay; only their order over the photos changes. The log-odds become probabilities as in the
    centred labels (`centred.presence`). The order is that of a weighted mean of the label and this probability. The weight of
    the probability is ½ if the profile is learned from very many views `shown` (K,), and lower with fewer views. Then the labels are
    assigned again in that order, the highest to the first photo. A class without views for its profile keeps its labels.
    `fit_ranking` and `rerank` are the two steps.

    >>> rerank_by_profiles(torch.tensor([[0.9], [0.8], [0.1]]), torch.tensor([[-9.0], [9.0], [-9.0]]), torch.tensor([10.0]))
    tensor([[0.8000],
            [0.9000],
            [0.1000]])
    """
    return rerank(first, logits, shown, fit_ranking(first, logits, shown, prior_photos))


def fit_ranking(first: Tensor, logits: Tensor, shown: Tensor, prior_photos: float = 30.0) -> Ranking:
    """The `Ranking` of `rerank_by_profiles`. With more than MAX_PHOTOS photos, it keeps so many of them, evenly spaced in the order."""
    learned = shown > 0
    if not learned.any():
        return Ranking(*torch.zeros(2, 0), *torch.zeros(2, 0, 1))
    slope, offset = fit_mixture(logits[:, learned], prior_photos)
    order = _ranks(first, logits, shown, slope, offset)
    kept = torch.linspace(0, len(first) - 1, min(len(first), MAX_PHOTOS), dtype=torch.double).round().long()
    columns = [_reassigned(values, rank)[:, kept] for values, rank in zip(first[:, learned].T, order.T, strict=True)]
    return Ranking(slope, offset, *torch.stack(columns, 1).contiguous())


def rerank(first: Tensor, logits: Tensor, shown: Tensor, ranking: Ranking) -> Tensor:
    """Labels (N, K) in the order of a ranking. Between two photos of the fit, the label is interpolated; no photo depends on another."""
    learned, labels = shown > 0, first.clone()
    if learned.any():
        order = _ranks(first, logits, shown, ranking.slope, ranking.offset).T.contiguous()  # (L, N)
        place = torch.searchsorted(ranking.order, order, right=True)
        below, above = (place - 1).clamp(min=0), place.clamp(max=ranking.order.shape[1] - 1)
        left, right = ranking.order.gather(1, below), ranking.order.gather(1, above)
        gap = right - left
        margin = (gap / 4).clamp(max=ROUNDING)
        part = ((order - left - margin) / (gap - 2 * margin).clamp(min=torch.finfo(order.dtype).tiny)).clamp(0, 1)
        labels[:, learned] = ranking.labels.gather(1, below).lerp(ranking.labels.gather(1, above), part).T
    return labels


def _ranks(first: Tensor, logits: Tensor, shown: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """(N, L): the weighted means of label and probability by profile, of the classes with a profile."""
    learned = shown > 0
    by_profile = mixture_labels(logits[:, learned], slope, offset)
    weight = PROFILE_WEIGHT * shown[learned] / (shown[learned] + HALF_WEIGHT_VIEWS)
    return first[:, learned] + weight * (by_profile - first[:, learned])


def _reassigned(values: Tensor, order: Tensor) -> Tensor:
    """(2, n): `order` (n,), lowest first, and `values` (n,) in it: the highest gets the highest. Ties get the mean of their numbers."""
    ranks, count = order.unique(return_counts=True)  # groups of ties, lowest first
    edges = count.cumsum(0)
    total = values.double().sort().values.cumsum(0)
    sums = total[edges - 1].diff(prepend=total.new_zeros(1))
    return torch.stack([ranks, (sums / count).to(values.dtype).clamp(0, 1)]).repeat_interleave(count, dim=1)
