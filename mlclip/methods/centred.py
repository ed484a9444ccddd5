"""Centred labels: how much more CLIP sees of a class in a photo than in the average photo. This goes beyond both papers.

CLIP's cosines with the prompt of one class are high in every photo, with another one low. CCD divides the scores by a bias, but
after a softmax in which the favoured classes have already suppressed the others. Here the level of each class, its mean cosine
over all views of one grid, is subtracted first. Then:

1. Softmax over the classes at `rank_scale` times CLIP's own scale, which would select only one class of a view.
2. The odds of the views are added and divided by the number of grids. Each grid covers the photo once, so an object that
   every grid shows in one view counts once. The logarithm of the sum is a soft maximum over views of all sizes.
3. The log-odds of one class over all photos come from two mixture components: photos without the class (lower) and photos
   with it (upper), Gaussians with the same variance. A photo's label is the posterior probability of the upper component.
   This keeps the order of the photos; its natural threshold is ½.

In step 1, names that mean the same would share one softmax, and each would suppress the other. Names whose cosines rise and
fall together over the views of the folder do not compete, see `competition`.

Pure functions of tensors; classes are the last axis. Letters: N photos, V views of one photo, C classes, G grids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MARGIN = 1e-6  # probabilities are kept this far from 0 and 1 before the logit
MIN_VARIANCE = 1e-3  # of a mixture component of log-odds
MAX_PHOTOS = 20_000  # a mixture is fitted to at most this many photos
CACHED_NUMBERS = 2**17  # of 8 bytes, in each of the four tables of a mixture's inner loop
TOLERANCE = 1e-5  # the fit stops when no label changes by more
TINY = 1e-9  # avoids a division by 0
DIFFERENT, SAME = 0.7, 0.9  # names with a lower correlation compete fully, with a higher one not at all
ROUNDS = 3  # to find which names are the same
MOST_DENSE = 2000  # names; of more, there is no matrix of all pairs, and only those that do not compete fully are kept
MOST_SAME = 64  # of these pairs, for each name
NUMBERS_AT_ONCE = 2**22  # of 8 bytes, in a block of pairs of very many names

Pairs = Sequence[tuple[int, int]]


def shrunk_levels(mean: Tensor, variance: Tensor, photos: Tensor) -> Tensor:
    """The level of each class (C,), from the mean and variance of its cosine and the number of `photos`, (C,) each.

    The level of a class is uncertain with few photos: by chance all of them may show the class. So levels are shrunk towards
    their common mean by the empirical-Bayes (James-Stein) factor τ² / (τ² + σ²/N). τ² is the true variance of levels between
    classes: their observed variance minus sampling noise. σ² is the variance of a class's cosine between photos. With one
    photo nothing is centred: all levels are equal. Numbers of photos need not be whole: each photo may count by its
    probability of not showing the class. A class without photos gets the common mean.

    >>> shrunk_levels(torch.tensor([0.20, 0.24]), torch.tensor([0.0004, 0.0004]), torch.tensor([1, 1]))
    tensor([0.2200, 0.2200])
    """
    seen = photos > 0  # (C,)
    common = mean[seen].mean() if seen.any() else mean.mean()
    if photos.max() < 2 or seen.sum() < 2:
        return common.expand_as(mean).clone()
    noise = variance / photos.clamp(min=1)  # (C,) σ²/N
    between = (mean[seen].var() - noise[seen].mean()).clamp(min=0)  # τ²
    levels = common + between / (between + noise).clamp(min=1e-12) * (mean - common)
    return torch.where(seen, levels, common)


def competition(views: int, total: Tensor, products: Tensor, related: Pairs = ()) -> Tensor | None:
    """How much each name (column) lowers the log-odds of each other name (row): (C, C) in [0, 1], 0 on the diagonal.

    `total` (C,) is the sum of the cosines over the `views`, `products` (C, C) the sum of their outer products. What all names have in
    common in a view, their mean, says nothing and is subtracted. Two names whose rest has a correlation up to DIFFERENT compete
    fully, from SAME on not at all. In the mean, names that are the same count as one name; so it is computed ROUNDS times.
    `related` are pairs that never compete, such as a class and its parent. None if every pair competes fully.

    >>> x = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # two views; the first two names are the same
    >>> competition(2, x.sum(0), x.T @ x)
    tensor([[0., 0., 1.],
            [0., 0., 1.],
            [1., 1., 0.]])
    """
    covariance = products / views - (total / views).outer(total / views)
    share = torch.full_like(total, 1 / len(total))  # (C,) of each name in the mean
    for _ in range(ROUNDS):
        shared = covariance @ share
        rest = covariance - shared[:, None] - shared + shared @ share
        deviation = rest.diagonal().clamp(min=TINY**2).sqrt()
        same = ((rest / deviation.outer(deviation) - DIFFERENT) / (SAME - DIFFERENT)).clamp(0, 1).fill_diagonal_(1)
        share = 1 / same.sum(1)
        share = share / share.sum()
    weights = 1 - same
    for first, second in related:
        weights[first, second] = weights[second, first] = 0
    return weights.float() if (weights < 1).sum() > len(weights) else None  # the diagonal is 0


def competition_of_many(
    views: int, total: Tensor, products: Tensor, text: Tensor, related: Pairs = ()
) -> Tensor | None:
    """`competition` of very many names, in memory that grows with their number; see `competition_of` for the result.

    `total` (D,) and `products` (D, D) are the sums of the embeddings and of their outer products; `text` (C, D) has the names. The
    covariance of cosines is text · covariance · textᵀ. Its rows are computed in blocks, and each name keeps at most MOST_SAME others.
    """
    text, mean = text.cpu().double(), total / views
    left = text @ (products / views - mean.outer(mean))  # (C, D)
    variance, share = (left * text).sum(1), torch.full_like(text[:, 0], 1 / len(text))  # (C,) each
    pairs: dict[tuple[int, int], float] = {}
    for number in range(ROUNDS):
        shared = left @ (text.T @ share)  # (C,)
        common, sums = shared @ share, []
        deviation = (variance - 2 * shared + common).clamp(min=TINY**2).sqrt()
        for rows in torch.arange(len(text)).split(max(1, NUMBERS_AT_ONCE // len(text))):
            rest = left[rows] @ text.T - shared[rows, None] - shared + common
            same = ((rest / deviation[rows].outer(deviation) - DIFFERENT) / (SAME - DIFFERENT)).clamp(0, 1)
            same[torch.arange(len(rows)), rows] = 0
            sums.append(1 + same.sum(1))
            if number == ROUNDS - 1:
                high, others = same.topk(MOST_SAME)
                first, place = (high > 0).nonzero().T
                both = torch.stack([rows[first], others[first, place]], dim=1).sort(dim=1).values.tolist()
                pairs |= zip(map(tuple, both), (1 - high[first, place]).tolist(), strict=True)
        share = 1 / torch.cat(sums)
        share = share / share.sum()
    pairs |= dict.fromkeys(related, 0.0)
    return competition_of([(*pair, weight) for pair, weight in pairs.items()], len(text))


def pairs_of(weights: Tensor) -> list[tuple[int, int, float]]:
    """The pairs of names that do not compete fully, from what `competition` returns: (name, name, weight)."""
    if not weights.is_sparse:
        return [(a, b, float(weights[a, b])) for a, b in weights.cpu().lt(1).triu(1).nonzero().tolist()]
    found = weights.cpu().coalesce()
    pairs = zip(*found.indices().tolist(), found.values().tolist(), strict=True)
    return [(a, b, 1 - same) for a, b, same in pairs if a < b]


def competition_of(pairs: Sequence[tuple[int, int, float]], names: int) -> Tensor | None:
    """The weights (names, names) of `competition` from the pairs that do not compete fully: (name, name, weight).

    For more than MOST_DENSE names it is sparse and has 1 - weight, which is 1 on the diagonal.

    >>> competition_of([(0, 2, 0.25)], 3)
    tensor([[0.0000, 1.0000, 0.2500],
            [1.0000, 0.0000, 1.0000],
            [0.2500, 1.0000, 0.0000]])
    """
    if pairs and names > MOST_DENSE:
        same = {(name, name): 1.0 for name in range(names)}
        for first, second, weight in pairs:
            same[first, second] = same[second, first] = 1 - weight
        places, values = torch.tensor(list(same)).T, list(same.values())
        return torch.sparse_coo_tensor(places, values, (names, names), check_invariants=True).coalesce()
    weights = 1 - torch.eye(names)
    for first, second, weight in pairs:
        weights[first, second] = weights[second, first] = weight
    return weights if len(pairs) else None


def log_odds(scores: Tensor, weights: Tensor | None = None) -> Tensor:
    """The log-odds of each class against the others: scores (..., C) -> (..., C).

    Without `weights`, they are those of the softmax. Else class c has scores_c − log Σ_k weights[c, k] · exp(scores_k), with
    `weights` (C, C) from `competition`. The results are within ±13.8, the log-odds of MARGIN.

    >>> log_odds(torch.tensor([2.0, 2.0, 0.0])), log_odds(torch.tensor([2.0, 2.0, 0.0]), torch.tensor([[0.0, 0, 1], [0, 0, 1], [1, 1, 0]]))
    (tensor([-0.1269, -0.1269, -2.6931]), tensor([ 2.0000,  2.0000, -2.6931]))
    """
    logits = torch.logit(scores.softmax(dim=-1), eps=MARGIN)
    if weights is None:
        return logits
    limit = math.log(1 / MARGIN - 1)
    if weights.is_sparse:
        scores = scores - scores.amax(-1, keepdim=True)
        odds = scores.exp()
        names = odds[..., : len(weights)]  # without the background of profiles, which competes with all of them
        same = (weights @ names.flatten(0, -2).T).T.view_as(names)
        others = (odds.sum(-1, keepdim=True) - same).clamp(min=TINY)
        return (scores[..., : len(weights)] - others.log()).clamp(-limit, limit)
    changed = (weights < 1).sum(1) > 1  # (C,) the diagonal is 0
    best = scores.amax(-1, keepdim=True)
    others = (scores - best).exp() @ weights[changed].T  # (..., changed)
    logits[..., changed] = (scores[..., changed] - best - others.log()).clamp(-limit, limit)
    return logits


def centred_logits(cosines: Tensor, levels: Tensor, logit_scale: float, weights: Tensor | None = None) -> Tensor:
    """The logit of each class in each view: cosines (..., C) and levels (broadcast) -> (..., C).

    It is the log-odds of the softmax of (cosine − level) · logit_scale over the classes. With `weights` (C, C), names that mean the
    same do not compete, see `log_odds`.

    >>> centred_logits(torch.tensor([0.26, 0.25]), torch.tensor([0.24, 0.20]), 100.0)
    tensor([-3.0000,  3.0000])
    """
    return log_odds((cosines - levels) * logit_scale, weights)


def excess(cosines: Tensor, levels: Tensor) -> Tensor:
    """Cosines above the level of their class, minus their mean over the classes: cosines (..., C), levels -> (..., C).

    >>> excess(torch.tensor([0.26, 0.25]), torch.tensor([0.24, 0.20]))
    tensor([-0.0150,  0.0150])
    """
    above = cosines - levels
    return above - above.mean(dim=-1, keepdim=True)


def pool_views(logits: Tensor, grids: int) -> Tensor:
    """Log-odds of each class in a photo: the logits (..., V, C) of its views in G `grids` -> (..., C).

    The odds of all views are added and divided by G.

    >>> pool_views(torch.tensor([[0.0, 3.0], [0.0, -9.0]]), 2)
    tensor([0.0000, 2.3069])
    """
    return logits.logsumexp(dim=-2) - math.log(grids)


def presence(logits: Tensor, prior_photos: float = 30.0) -> Tensor:
    """The probability that a photo shows a class, compared with all other photos: log-odds (N, C) -> labels (N, C) in [0, 1].

    It is the posterior of the upper of two mixture components, see `fit_mixture`: a logistic function of the log-odds. The
    further apart the components, the steeper the function.

    >>> presence(torch.tensor([[-9.0], [-8.0], [-7.0], [3.0], [4.0]])).flatten().round()
    tensor([0., 0., 0., 1., 1.])
    """
    return mixture_labels(logits, *fit_mixture(logits, prior_photos))


def mixture_labels(logits: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """Log-odds (N, C) -> labels (N, C) in [0, 1], with what `fit_mixture` has found, (C,) each."""
    return (slope * logits + offset).sigmoid()


def fit_mixture(logits: Tensor, prior_photos: float = 30.0, rounds: int = 500) -> tuple[Tensor, Tensor]:
    """Slope and offset (C,) per class: sigmoid(slope · log-odds + offset) is the posterior of the upper mixture component.

    Expectation-maximisation of two Gaussians with the same variance per class, on log-odds (N, C). The shares, means and
    variances of a class are pulled towards those of all classes, as if by `prior_photos` additional photos. So a class that no
    photo shows, or that every photo shows, is not split into two components, and with few photos a class uses the estimates
    of the others. EM starts from the split of all log-odds with the least variance within the parts. It uses at most MAX_PHOTOS
    photos, evenly spaced.
    """
    z = logits[:: math.ceil(len(logits) / MAX_PHOTOS)].double().T.contiguous()  # (C, N): sums read memory in order
    together = max(1, CACHED_NUMBERS // z.shape[1])  # classes; the tables of all of them would not fit into the cache
    parts, split = z.split(together), _least_variance_split(z.flatten())
    squares, uppers = [part.square() for part in parts], [(part > split).double() for part in parts]
    totals = torch.stack([z.sum(1), z.square().sum(1)])  # (2, C)
    sums = [_upper_sums(*part) for part in zip(uppers, parts, squares, strict=True)]
    for _ in range(rounds):
        slope, offset = _posterior(torch.cat(sums, dim=1), totals, z.shape[1], prior_photos)
        change = 0.0
        for number, (factor, first) in enumerate(zip(slope.split(together), offset.split(together), strict=True)):
            before, part = uppers[number], parts[number]
            uppers[number] = torch.addcmul(first[:, None], factor[:, None], part).sigmoid_()
            change = max(change, float(before.sub_(uppers[number]).abs_().max()))
            sums[number] = _upper_sums(uppers[number], part, squares[number])
        if change < TOLERANCE:
            break
    return slope.to(logits.dtype), offset.to(logits.dtype)


def _upper_sums(upper: Tensor, z: Tensor, square: Tensor) -> Tensor:
    """(3, C): the sums over the photos of the probabilities `upper` (C, N), and of z and z² with these weights."""
    return torch.stack([upper.sum(1), torch.linalg.vecdot(upper, z), torch.linalg.vecdot(upper, square)])


def _posterior(sums: Tensor, totals: Tensor, photos: int, kappa: float) -> tuple[Tensor, Tensor]:
    """Slope and offset (C,) from `_upper_sums` (3, C) and the sums of z and z² over all `photos` (2, C)."""
    count, above, above_square = sums  # (C,) each; the sums of the lower component are the rest
    below, below_square = totals - sums[1:]
    numbers = photos * len(count)
    all_upper = above.sum() / count.sum().clamp(min=TINY)
    all_lower = below.sum() / (numbers - count.sum()).clamp(min=TINY)
    high = (above + kappa * all_upper) / (count + kappa)  # (C,)
    low = (below + kappa * all_lower) / (photos - count + kappa)  # (C,)
    share = (count + kappa * count.sum() / numbers) / (photos + kappa)  # (C,)
    spread = above_square - 2 * high * above + high.square() * count  # Σ (z − mean)² of both components
    spread = spread + below_square - 2 * low * below + low.square() * (photos - count)
    variance = ((spread + kappa * spread.sum() / numbers) / (photos + kappa)).clamp(min=MIN_VARIANCE)
    slope = (high - low).clamp(min=0) / variance
    return slope, torch.logit(share, eps=MARGIN) - slope * (high + low) / 2


def _least_variance_split(values: Tensor) -> float:
    """The cut of numbers (n,) into two parts with the least variance within the parts (Otsu's threshold)."""
    ordered = values.sort().values
    below = torch.arange(1, len(ordered), dtype=ordered.dtype)  # (n - 1,) numbers below each cut
    if not len(below):
        return float(ordered[0])
    sums = ordered.cumsum(0)
    gap = (sums[-1] - sums[:-1]) / (len(ordered) - below) - sums[:-1] / below
    cut = int((below * (len(ordered) - below) * gap.square()).argmax())
    return float((ordered[cut] + ordered[cut + 1]) / 2)
