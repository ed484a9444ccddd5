"""Passes over the vectors of all photos, batch by batch: sums that levels and Gaussians are fitted to, scores, and summaries.

Letters: N photos, n photos of one batch, V views per photo, K names (classes and contrast names), D the joint embedding, G grids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..methods import centred, profiles
from .encode import StoredViews
from .scoring import class_scores

HISTOGRAM_BINS = 20
MOST_VIEWS = 200_000  # covariances of embeddings and correlations of names are estimated from about so many views
FEWEST_PHOTOS = 20  # in fewer, names that have nothing in common correlate by chance


class Centred(NamedTuple):
    """What centring makes of one view set. Contrast names are treated like classes."""

    levels: Tensor  # (V, K) the level of each name in each view; equal within a grid
    slope: Tensor  # (K,) of the mixture: labels = sigmoid(slope · scores + offset)
    offset: Tensor  # (K,)
    scores: Tensor  # (N, K) log-odds of the photos
    labels: Tensor  # (N, K) in [0, 1]
    weights: Tensor | None  # (K, K) how the names compete

    def fitted(self) -> dict[str, Any]:
        """What was fitted, for a file, which holds no sparse tensors."""
        weights, plain = self.weights, {"levels": self.levels, "slope": self.slope, "offset": self.offset}
        if weights is not None:
            weights = weights.cpu()
            weights = {"places": weights.indices(), "same": weights.values()} if weights.is_sparse else weights
        return plain | {"weights": weights}


def name_competition(views: StoredViews, text: Tensor, related: centred.Pairs) -> Tensor | None:
    """How much the names compete in these views, (K, K); None if all of them compete fully. See `centred.competition`."""
    count, total, products, many = 0, 0.0, 0.0, len(text) > centred.MOST_DENSE
    every = max(1, len(views) * sum(views.sizes) // MOST_VIEWS)
    for _, embeddings in views if len(views) >= FEWEST_PHOTOS else ():  # (n, V, D)
        vectors = embeddings.flatten(0, 1)[::every]
        x = (vectors if many else vectors @ text.T).cpu().double()  # (n·V, D or K)
        count, total, products = count + len(x), total + x.sum(0), products + x.T @ x
    if not count:
        weights = centred.competition_of([(*pair, 0.0) for pair in related], len(text))
    elif many:
        weights = centred.competition_of_many(count, total, products, text, related)
    else:
        weights = centred.competition(count, total, products, related)
    return None if weights is None else weights.to(text.device)


def level_sums(views: StoredViews, text: Tensor, absent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of photos, mean cosine and its variance between photos, (G, K) each, for each grid of views and each name.

    `absent` (N, K) in [0, 1] is the weight of each photo for each name: the probability that it does not show it.
    """
    sizes = views.sizes
    sums = torch.zeros(3, len(sizes), len(text), dtype=torch.double)  # Σ of weights, of mean cosines, of their squares
    for rows, embeddings in views:  # (n,), (n, V, D)
        means = torch.stack([part.mean(1) @ text.T for part in embeddings.split(sizes, dim=1)]).cpu()  # (G, n, K)
        weights = absent[rows].double()  # (n, K)
        sums += torch.stack([(weights * means.double() ** power).sum(1) for power in (0, 1, 2)])
    count, mean = sums[0], sums[1] / sums[0].clamp(min=1e-9)  # (G, K)
    variance = (sums[2] / count.clamp(min=1e-9) - mean.square()).clamp(min=0) * count / (count - 1).clamp(min=1)
    return count, mean, variance


def scores_by_levels(views: StoredViews, text: Tensor, levels: Tensor, scale: float, weights: Tensor | None) -> Tensor:
    """The log-odds (N, K) of all photos above the levels (V, K)."""
    scores, levels = torch.empty(len(views), len(text)), levels.to(text.device)
    for rows, embeddings in views:  # (n,), (n, V, D)
        logits = centred.centred_logits(embeddings @ text.T, levels, scale, weights)  # (n, V, K)
        scores[rows] = centred.pool_views(logits, len(views.grids)).cpu()
    return scores


def class_levels(views: StoredViews, text: Tensor, absent: Tensor) -> Tensor:
    """The level of every class in each view of a photo, (V, K). All views of one grid have the same, see `shrunk_levels`.

    `absent` (N, K) in [0, 1] is the weight of each photo for each class: the probability that it does not show the class.
    """
    count, mean, variance = level_sums(views, text, absent)  # (G, K) each
    levels = [centred.shrunk_levels(*of_grid) for of_grid in zip(mean, variance, count, strict=True)]
    return torch.cat([level.expand(size, -1) for level, size in zip(levels, views.sizes, strict=True)]).float()


def levels_of_grids(views: StoredViews, levels: Tensor) -> dict[str, list[float]]:
    """The levels (V, K) of each grid once, as `meta` holds them."""
    firsts = [sum(views.sizes[:number]) for number in range(len(views.grids))]  # the index of each grid's first view
    return {str(n): levels[first].tolist() for n, first in zip(views.grids, firsts, strict=True)}


def fit_examples(
    views: StoredViews, text: Tensor, own: Centred, labels: Tensor, scale: float, of_embeddings=False
) -> dict[str, Tensor]:
    """Gaussians of the views that clearly show each name, as fitted values.

    In each photo with a confident label in `labels` (N, K), the view with the highest log-odds shows the class; all other views
    are background. Gaussians with one covariance (see `profiles.fit_profiles`) are fitted to the cosines of the views with all
    names, their profiles, or to their embeddings. `own` is what `centre` makes of the views.
    """
    levels, sums, names, basis = own.levels.to(text.device), None, None, None
    if len(text) > centred.MOST_DENSE and not of_embeddings:
        names, basis = len(text), profiles.basis_of(text, levels)
    every = max(1, len(views) * sum(views.sizes) // MOST_VIEWS) if of_embeddings else 1
    for rows, embeddings in views:  # (n,), (n, V, D)
        logits = centred.centred_logits(embeddings @ text.T, levels, scale, own.weights)
        shown = profiles.sure_views(logits, labels[rows].to(text.device))
        features = embeddings if of_embeddings else _excess(embeddings, text, levels, basis)
        part = profiles.statistics(features.cpu(), shown.cpu(), every)  # float64, which MPS lacks
        sums = part if sums is None else profiles.added(sums, part)
    found = profiles.fit_profiles(sums, names=names)._asdict()
    return found if basis is None else found | {"basis": basis.cpu()}


def scores_by_examples(
    views: StoredViews, text: Tensor, own: Centred, examples: Mapping, rank_scale: float, of_embeddings=False
) -> tuple[Tensor, Tensor]:
    """The log-odds (N, K) of all photos by the Gaussians of `fit_examples`, and the number of views (K,) of each."""
    on_device = {name: part.to(text.device) for name, part in examples.items()}
    basis, levels, scores = on_device.pop("basis", None), own.levels.to(text.device), torch.empty_like(own.scores)
    fitted = profiles.Profiles(**on_device)
    for rows, embeddings in views:  # (n,), (n, V, D)
        features = embeddings if of_embeddings else _excess(embeddings, text, levels, basis)
        logits = profiles.profile_logits(fitted, features, rank_scale, own.weights)  # (n, V, K)
        scores[rows] = centred.pool_views(logits, len(views.grids)).cpu()
    return scores, examples["shown"]


def _excess(embeddings: Tensor, text: Tensor, levels: Tensor, basis: Tensor | None) -> Tensor:
    """The features (n, V, K) of profiles; of very many names, in the coordinates of `profiles.basis_of`."""
    excess = centred.excess(embeddings @ text.T, levels)
    return excess if basis is None else excess @ basis


def summary_of(views: StoredViews, text: Tensor, logit_scale: float, weights: Tensor | None) -> dict:
    """How confident CLIP is: the mean top-1 probability of the largest views, and a histogram for each grid. And `same_names`."""
    sizes, whole = views.sizes, "whole photos" if views.sizes[0] == 1 else "patch features"
    names = [whole if n == 1 else f"{n}×{n} snippets" for n in views.grids]
    counts, top1 = {name: torch.zeros(HISTOGRAM_BINS) for name in names}, 0.0
    for _, embeddings in views:  # (n,), (n, V, D)
        best = class_scores(embeddings, text, logit_scale).amax(-1).cpu()  # (n, V)
        for count, of_grid in zip(counts.values(), best.split(sizes, dim=1), strict=True):
            count += torch.histc(of_grid, HISTOGRAM_BINS, 0, 1)
        top1 += float(best[:, : sizes[0]].double().mean(1).sum())
    same = {} if weights is None else {"same_names": [list(pair) for pair in centred.pairs_of(weights)]}
    return same | {"mean_top1": top1 / len(views), "histograms": histograms_of(counts)}


def histograms_of(counts: Mapping[str, Tensor]) -> dict[str, dict]:
    """The paper's Figure 4 for the report: {name: {"edges", "counts"}} of top-1 confidences in [0, 1]."""
    edges = [bin / HISTOGRAM_BINS for bin in range(HISTOGRAM_BINS + 1)]
    return {name: {"edges": edges, "counts": [int(c) for c in count]} for name, count in counts.items()}
