"""Class profiles: how views that surely show a class look in this folder. The second opinion of centred labels.

A class's own cosine is not all that CLIP says of it: a view with a sofa is also a little of a chair and nothing of a sheep. From
the photos that the centred labels are sure of, and in each from the one view that shows the class best, the mean cosines with
*all* names are learned: the class's profile. Every other view is background. A Gaussian classifier with one covariance for all
(linear discriminant analysis) then says of every view which profile it fits, and so discounts what two names always share.

Nothing is learned but from the folder's own views, and no label is asked. Statistics are sums, so that photos can come in any
portions. Pure functions of tensors; letters: N photos, V views of one photo, K names (classes and contrast names alike).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .centred import MARGIN, presence

SURE = 0.9  # a photo surely shows a class from this label on
RIDGE = 0.1  # share of the covariance that is replaced by one of equal, independent cosines
SECOND = 0.5  # weight of the second opinion where very many photos surely show a class ...
FEW_PHOTOS = 10.0  # ... and half of it where so many do


class Statistics(NamedTuple):
    """Sums over views, which add up over portions of the photos; float64."""

    views: float  # how many
    total: Tensor  # (K,) Σ cosines
    products: Tensor  # (K, K) Σ cosines · cosinesᵀ
    shown: Tensor  # (K,) how many views each class has been given
    sums: Tensor  # (K, K) Σ cosines of each class's views, row = class


class Profiles(NamedTuple):
    """A linear classifier of views: cosines @ weights + offsets are scores of the K classes and, last, of the background."""

    weights: Tensor  # (K, K + 1)
    offsets: Tensor  # (K + 1,); −inf for a class that no view surely shows
    shown: Tensor  # (K,) how many views each class was learned from


def sure_views(logits: Tensor, labels: Tensor, sure: float = SURE) -> Tensor:
    """Which views show which class: log-odds of views (N, V, K) and labels of photos (N, K) -> weights (N, V, K) in [0, 1].

    Where a photo's label is at least `sure`, the view with the highest log-odds is given to the class, with the label as its
    weight; a view given to several classes is shared out so that its weights sum to at most 1.

    >>> sure_views(torch.tensor([[[0.0, 2.0], [3.0, 1.0]]]), torch.tensor([[0.95, 0.5]]))
    tensor([[[0.0000, 0.0000],
             [0.9500, 0.0000]]])
    """
    weight = torch.where(labels >= sure, labels, 0.0)[:, None]  # (N, 1, K)
    given = torch.zeros_like(logits).scatter(1, logits.argmax(1, keepdim=True), weight)
    return given / given.sum(-1, keepdim=True).clamp(min=1)


def statistics(cosines: Tensor, given: Tensor) -> Statistics:
    """The sums over the views (N, V, K) of some photos, given to classes by `sure_views`."""
    x, w = (part.flatten(0, 1).double() for part in (cosines, given))  # (N·V, K)
    return Statistics(len(x), x.sum(0), x.T @ x, w.sum(0), w.T @ x)


def added(first: Statistics, second: Statistics) -> Statistics:
    """The sums over the views of both."""
    return Statistics(*(one + other for one, other in zip(first, second, strict=True)))


def fit_profiles(sums: Statistics, ridge: float = RIDGE) -> Profiles:
    """Linear discriminant analysis of the classes and of the background, to which whatever is given to no class belongs.

    With means μ and the covariance Σ within, classes and background alike, a view x scores xᵀΣ⁻¹μ − ½ μᵀΣ⁻¹μ. `ridge` draws Σ
    towards a multiple of the identity, as cosines of many names are nearly dependent.
    """
    shown = torch.cat([sums.shown, (sums.views - sums.shown.sum()).clamp(min=0)[None]])  # (K + 1,) the background last
    totals = torch.cat([sums.sums, (sums.total - sums.sums.sum(0))[None]])  # (K + 1, K)
    common = sums.total / sums.views
    means = totals / shown.clamp(min=1e-9)[:, None] - common  # (K + 1, K)
    within = sums.products / sums.views - common.outer(common) - (means.T * shown) @ means / sums.views
    level = within.diagonal().mean().clamp(min=1e-12)
    within = (1 - ridge) * within + ridge * level * torch.eye(len(within), dtype=within.dtype)
    weights = torch.linalg.solve(within, means.T)  # (K, K + 1)
    offsets = -0.5 * (means.T * weights).sum(0) - common @ weights
    offsets = torch.where(shown > 0, offsets, -torch.inf)
    return Profiles(weights.float(), offsets.float(), sums.shown.float())


def profile_logits(profiles: Profiles, cosines: Tensor, scale: float) -> Tensor:
    """How well views (..., K) fit each class's profile: log-odds (..., K) of a softmax over classes and background.

    `scale` flattens the softmax, as in `centred_logits`: a view may show several classes.
    """
    scores = (cosines @ profiles.weights + profiles.offsets) * scale  # (..., K + 1)
    return torch.logit(scores.softmax(dim=-1)[..., :-1], eps=MARGIN)


def rerank_by_profiles(first: Tensor, logits: Tensor, shown: Tensor, prior_photos: float = 30.0) -> Tensor:
    """Labels (N, K) by each class's own cosine, and log-odds (N, K) by its profile -> labels (N, K): both decide the order.

    Which photos have the class is one question, how many have it and how surely another. Profiles answer the first, as a
    mean of both opinions: their log-odds become labels as those of centred labels do (`centred.presence`), and weigh half
    where very many views `shown` (K,) taught the profile, less the fewer there were. The second answer stays the first
    opinion's: its labels are dealt out again in the new order. A class that no view taught keeps all of its first.

    >>> rerank_by_profiles(torch.tensor([[0.9], [0.8], [0.1]]), torch.tensor([[-9.0], [9.0], [-9.0]]), torch.tensor([10.0]))
    tensor([[0.8000],
            [0.9000],
            [0.1000]])
    """
    taught, labels = shown > 0, first.clone()
    if taught.any():
        second = presence(logits[:, taught], prior_photos)
        weight = SECOND * shown[taught] / (shown[taught] + FEW_PHOTOS)
        order = first[:, taught] + weight * (second - first[:, taught])
        labels[:, taught] = torch.stack([_dealt(*both) for both in zip(first[:, taught].T, order.T, strict=True)], 1)
    return labels


def _dealt(values: Tensor, order: Tensor) -> Tensor:
    """The numbers `values` (n,) dealt out in the order of `order` (n,), the highest to the highest; equals share alike."""
    _, group, count = order.unique(return_inverse=True, return_counts=True)  # groups of equals, lowest first
    edges = count.cumsum(0)
    total = values.double().sort().values.cumsum(0)
    sums = total[edges - 1].diff(prepend=total.new_zeros(1))
    return (sums / count)[group].to(values.dtype).clamp(0, 1)
