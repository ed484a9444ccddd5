"""Centred labels: what CLIP says of a class more than it says of that class everywhere. Beyond both papers.

CLIP's cosines with one class's prompt are high in every photo, with another's low. A softmax over raw cosines therefore
over-rates the first; dividing its result by a bias (CCD) comes too late, as the softmax has then let the favoured classes
crowd out the others. Here the level of each class, its mean cosine over all views of one grid, is taken out first. Then:

1. softmax over the classes at `rank_scale` times CLIP's own scale: a view often shows several classes, which CLIP's own,
   trained to pick one caption out of thousands, would force into one;
2. odds of the views added up, and divided by the number of grids: each grid covers the photo once, so a thing that every
   grid shows in one cell counts once. The logarithm of that sum is a soft maximum over views of every size;
3. a class's log-odds over the photos are two heaps, photos without it and photos with it. A mixture of two Gaussians of one
   variance is fitted to each class, and a photo's label is its posterior probability of the upper heap. That leaves the
   order alone; where the heaps part, and how sharply, is read off the photos themselves, with no label. A label of one
   half is the natural threshold.

Pure functions of tensors; classes on the last axis. Letters: N photos, V views of one photo, C classes, G grids.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MARGIN = 1e-6  # probabilities are kept this far from 0 and 1 before the logit
LEAST_VARIANCE = 1e-3  # of a heap of log-odds
FITTED = 20_000  # photos that a mixture is fitted to, at most
TOLERANCE = 1e-5  # the fit ends when no label moves by more
TINY = 1e-9


def shrunk_levels(mean: Tensor, variance: Tensor, photos: Tensor) -> Tensor:
    """Each class's level (C,), from the mean and the variance of its cosine over so many `photos`, (C,) each.

    Few photos say little about a class's level: by chance all of them may show it. So levels are drawn towards their common
    mean by τ² / (τ² + σ²/N), the empirical-Bayes (James-Stein) factor: τ² is how much levels truly differ between classes,
    their variance less what chance explains; σ² how much a class's cosine differs between photos. One photo alone is not
    centred. Numbers of photos need not be whole: each may count by how surely it does not show the class. A class without any
    gets the common mean.

    >>> shrunk_levels(torch.tensor([0.20, 0.24]), torch.tensor([0.0004, 0.0004]), torch.tensor([1, 1]))
    tensor([0.2200, 0.2200])
    """
    seen = photos > 0  # (C,)
    common = mean[seen].mean() if seen.any() else mean.mean()
    if photos.max() < 2 or seen.sum() < 2:
        return common.expand_as(mean).clone()
    chance = variance / photos.clamp(min=1)  # (C,)
    real = (mean[seen].var() - chance[seen].mean()).clamp(min=0)
    levels = common + real / (real + chance).clamp(min=1e-12) * (mean - common)
    return torch.where(seen, levels, common)


def centred_logits(cosines: Tensor, levels: Tensor, logit_scale: float) -> Tensor:
    """The logit of each class in each view: cosines (..., C) and levels, broadcast, -> (..., C).

    The softmax over the classes of (cosine − level) · logit_scale, as log-odds.

    >>> centred_logits(torch.tensor([0.26, 0.25]), torch.tensor([0.24, 0.20]), 100.0)
    tensor([-3.0000,  3.0000])
    """
    return torch.logit(((cosines - levels) * logit_scale).softmax(dim=-1), eps=MARGIN)


def excess(cosines: Tensor, levels: Tensor) -> Tensor:
    """How much more than usual a view says of each class than of the others: cosines (..., C), levels -> (..., C), mean 0.

    >>> excess(torch.tensor([0.26, 0.25]), torch.tensor([0.24, 0.20]))
    tensor([-0.0150,  0.0150])
    """
    above = cosines - levels
    return above - above.mean(dim=-1, keepdim=True)


def pool_views(logits: Tensor, grids: int) -> Tensor:
    """Log-odds of each class in a photo: its views' logits (..., V, C) over G `grids` -> (..., C).

    The odds of all views are added and divided by G.

    >>> pool_views(torch.tensor([[0.0, 3.0], [0.0, -9.0]]), 2)
    tensor([0.0000, 2.3069])
    """
    return logits.logsumexp(dim=-2) - math.log(grids)


def presence(logits: Tensor, prior_photos: float = 30.0) -> Tensor:
    """The probability that a photo shows a class, by its place among all photos: log-odds (N, C) -> labels (N, C) in [0, 1].

    The posterior of the upper of two heaps, see `fit_mixture`: a logistic function of the log-odds, steeper the further apart
    the heaps.

    >>> presence(torch.tensor([[-9.0], [-8.0], [-7.0], [3.0], [4.0]])).flatten().round()
    tensor([0., 0., 0., 1., 1.])
    """
    slope, offset = fit_mixture(logits, prior_photos)
    return (slope * logits + offset).sigmoid()


def fit_mixture(logits: Tensor, prior_photos: float = 30.0, rounds: int = 500) -> tuple[Tensor, Tensor]:
    """Slope and offset (C,) of each class: sigmoid(slope · log-odds + offset) is the posterior of its upper heap.

    Expectation-maximisation of two Gaussians of one variance for each class, on log-odds (N, C). Shares, means and variances
    of a class are drawn towards those of all classes as if by `prior_photos` further photos: so a class that no photo shows,
    or every one, has no heap made up for it, and few photos borrow from the other classes. Starts from the split of all
    log-odds that leaves the least variance. Of very many photos FITTED, evenly spread, are enough.
    """
    z = logits[:: math.ceil(len(logits) / FITTED)].double()
    photos, kappa = len(z), prior_photos
    upper = (z > _least_variance_split(z.flatten())).double()  # (N, C) how surely a photo is of the upper heap
    for _ in range(rounds):
        lower, count = 1 - upper, upper.sum(0)  # count (C,)
        all_upper = (upper * z).sum() / upper.sum().clamp(min=TINY)
        all_lower = (lower * z).sum() / lower.sum().clamp(min=TINY)
        high = ((upper * z).sum(0) + kappa * all_upper) / (count + kappa)  # (C,)
        low = ((lower * z).sum(0) + kappa * all_lower) / (photos - count + kappa)  # (C,)
        share = (count + kappa * upper.mean()) / (photos + kappa)  # (C,)
        spread = (upper * (z - high).square() + lower * (z - low).square()).sum(0)  # (C,)
        variance = ((spread + kappa * spread.sum() / z.numel()) / (photos + kappa)).clamp(min=LEAST_VARIANCE)
        slope = (high - low).clamp(min=0) / variance
        offset = torch.logit(share, eps=MARGIN) - slope * (high + low) / 2
        before, upper = upper, (slope * z + offset).sigmoid()
        if (upper - before).abs().max() < TOLERANCE:
            break
    return slope.to(logits.dtype), offset.to(logits.dtype)


def _least_variance_split(values: Tensor) -> float:
    """Where to cut numbers (n,) in two so that the parts' variance within is least (Otsu's threshold)."""
    ordered = values.sort().values
    below = torch.arange(1, len(ordered), dtype=ordered.dtype)  # (n - 1,) how many are below each cut
    if not len(below):
        return float(ordered[0])
    sums = ordered.cumsum(0)
    gap = (sums[-1] - sums[:-1]) / (len(ordered) - below) - sums[:-1] / below
    cut = int((below * (len(ordered) - below) * gap.square()).argmax())
    return float((ordered[cut] + ordered[cut + 1]) / 2)
