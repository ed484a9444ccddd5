"""From the vectors of photos to pseudo labels, by CDUL, CCD, centring, or centring of several view sets ("dense").

Each method goes through the views batch by batch, so that a folder of any size fits into memory. `text` (K, D) holds the
embeddings of the class names, then those of the contrast names, which compete with the classes and are dropped at the end.
`classes` is C. `text` and the views are on the same device; labels and summaries (for the labels' `meta`) are on the CPU.

Letters: N photos, n photos of one batch, V views per photo (the whole photo first), C classes,
K = C + contrast names, D the joint embedding, G grids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import PseudolabelConfig
from ..methods import ccd, cdul, centred, dense, profiles
from .encode import StoredViews
from .scoring import class_scores

HISTOGRAM_BINS = 20
LEVEL_ROUNDS = 2  # first the levels of all photos, then of the photos without the class
MOST_VIEWS = 200_000  # covariances of embeddings and correlations of names are estimated from about so many views


# ------------------------------------------------------------------------------------------------------------------- CDUL


def label_by_cdul(
    views: StoredViews, text: Tensor, classes: int, logit_scale: float, config: PseudolabelConfig
) -> tuple[Tensor, dict]:
    """CDUL labels (N, C) and their summary.

    The summary has the mean top-1 probability of the whole photos and, for the paper's Figures 4 and 5, histograms of the
    global and the snippets' top-1 confidences.
    """
    scores = torch.empty(len(views), classes)
    counts = {"global": torch.zeros(HISTOGRAM_BINS), "snippets": torch.zeros(HISTOGRAM_BINS)}
    top1 = 0.0
    for rows, embeddings in views:  # (n,), (n, V, D)
        similarity = class_scores(embeddings, text, logit_scale)  # (n, V, K)
        best = similarity.amax(-1).cpu()  # (n, V)
        top1 += float(best[:, 0].double().sum())
        counts["global"] += torch.histc(best[:, 0], HISTOGRAM_BINS, 0, 1)
        counts["snippets"] += torch.histc(best[:, 1:], HISTOGRAM_BINS, 0, 1)
        scores[rows] = cdul_labels(similarity[..., :classes], config).cpu()
    return scores, {"mean_top1": top1 / len(views), "histograms": _histograms(counts)}


def cdul_labels(similarity: Tensor, config: PseudolabelConfig) -> Tensor:
    """CDUL step 1: similarities (N, V, C) of the whole photo and its snippets -> labels (N, C) in [0, 1]."""
    whole, local = similarity[:, 0], similarity[:, 1:]
    if config.part == "global":
        return whole
    aggregated = cdul.aggregate(local, config.zeta)
    if config.part == "aggregate":
        return aggregated
    return cdul.fuse(whole, aggregated, disagreement=config.disagreement)


# -------------------------------------------------------------------------------------------------------------------- CCD


def label_by_ccd(
    views: StoredViews, text: Tensor, classes: int, logit_scale: float, config: PseudolabelConfig
) -> tuple[Tensor, dict]:
    """CCD labels (N, C) and their summary.

    The summary has the mean top-1 probability, its histogram, the bias of each class, and the number of confident photos
    that the bias was estimated from (0: the bias is the mean of the other classes).
    """
    similarity = torch.empty(len(views), len(text))  # (N, K)
    for rows, embeddings in views:  # (n,), (n, 1, D)
        similarity[rows] = class_scores(embeddings[:, 0], text, logit_scale).cpu()
    confident = ccd.entropy(similarity) <= config.max_entropy  # (N,)
    estimated = torch.bincount(similarity.argmax(-1)[confident], minlength=len(text))[:classes]  # (C,)
    bias = ccd.complete_bias(ccd.class_bias(similarity, config.max_entropy)[:classes])  # (C,)
    if not config.debias:
        bias = torch.ones_like(bias)
    top1 = similarity.amax(-1)  # (N,)
    counts = torch.histc(top1, HISTOGRAM_BINS, 0, 1)
    return ccd.debias(similarity[:, :classes], bias, config.floor), {
        "mean_top1": float(top1.double().mean()),
        "histograms": _histograms({"global": counts}),
        "bias": bias.tolist(),
        "bias_photos": estimated.tolist(),
    }


# ---------------------------------------------------------------------------------------------------------------- centred


class Centred(NamedTuple):
    """What centring makes of one view set. Contrast names are treated like classes."""

    levels: Tensor  # (V, K) the level of each name in each view; equal within a grid
    slope: Tensor  # (K,) of the mixture: labels = sigmoid(slope · scores + offset)
    offset: Tensor  # (K,)
    scores: Tensor  # (N, K) log-odds of the photos
    labels: Tensor  # (N, K) in [0, 1]
    weights: Tensor | None  # (K, K) how the names compete


def centred_labels(
    views: StoredViews,
    text: Tensor,
    classes: int,
    logit_scale: float,
    config: PseudolabelConfig,
    related: centred.Pairs = (),
) -> tuple[Centred, Tensor, dict]:
    """What `centre` makes of the views, the centred labels (N, K) of all names after the re-ranking, and the summary.

    `related` are pairs of names that never compete: a class and one above it. In the summary, `same_names` has the pairs of names that do
    not compete fully: [name, name, how much they compete].
    """
    scale, weights = logit_scale * config.rank_scale, name_competition(views, text, related)
    by_levels = centre(views, text, scale, config.prior_photos, weights)
    labels, summary = by_levels.labels, _summary(views, text, logit_scale, weights)
    summary["mixture"] = [by_levels.slope[:classes].tolist(), by_levels.offset[:classes].tolist()]
    if config.profiles:
        scores, shown = scores_by_examples(views, text, by_levels, labels, scale, config.rank_scale)
        labels = profiles.rerank_by_profiles(labels, scores, shown, config.prior_photos)
        summary["profile_views"] = shown[:classes].tolist()
    summary["levels"] = levels_of_grids(views, by_levels.levels)
    return by_levels, labels, summary


def name_competition(views: StoredViews, text: Tensor, related: centred.Pairs) -> Tensor | None:
    """How much the names compete in these views, (K, K); None if all of them compete fully. See `centred.competition`."""
    count, total, products, many = 0, 0.0, 0.0, len(text) > centred.MOST_DENSE
    every = max(1, len(views) * sum(views.sizes) // MOST_VIEWS)
    for _, embeddings in views:  # (n, V, D)
        vectors = embeddings.flatten(0, 1)[::every]
        x = (vectors if many else vectors @ text.T).cpu().double()  # (n·V, D or K)
        count, total, products = count + len(x), total + x.sum(0), products + x.T @ x
    if many:
        weights = centred.competition_of_many(count, total, products, text, related)
    else:
        weights = centred.competition(count, total, products, related)
    return None if weights is None else weights.to(text.device)


def centre(
    views: StoredViews, text: Tensor, scale: float, prior_photos: float, weights: Tensor | None = None
) -> Centred:
    """Levels and labels, twice: first the levels of all photos, then those of the photos without the class."""
    labels = torch.zeros(len(views), len(text))  # (N, K)
    for _ in range(LEVEL_ROUNDS):
        levels = class_levels(views, text, 1 - labels)  # (V, K)
        scores, moved = torch.empty(len(views), len(text)), levels.to(text.device)  # (N, K)
        for rows, embeddings in views:  # (n,), (n, V, D)
            logits = centred.centred_logits(embeddings @ text.T, moved, scale, weights)  # (n, V, K)
            scores[rows] = centred.pool_views(logits, len(views.grids)).cpu()
        slope, offset = centred.fit_mixture(scores, prior_photos)
        labels = (slope * scores + offset).sigmoid()
    return Centred(levels, slope, offset, scores, labels, weights)


def class_levels(views: StoredViews, text: Tensor, absent: Tensor) -> Tensor:
    """The level of every class in each view of a photo, (V, K). All views of one grid have the same, see `shrunk_levels`.

    `absent` (N, K) in [0, 1] is the weight of each photo for each class: the probability that it does not show the class.
    """
    sizes = views.sizes
    sums = torch.zeros(3, len(sizes), len(text), dtype=torch.double)  # Σ of weights, of mean cosines, of their squares
    for rows, embeddings in views:  # (n,), (n, V, D)
        means = torch.stack([part.mean(1) @ text.T for part in embeddings.split(sizes, dim=1)]).cpu()  # (G, n, K)
        weights = absent[rows].double()  # (n, K)
        sums += torch.stack([(weights * means.double() ** power).sum(1) for power in (0, 1, 2)])
    count, mean = sums[0], sums[1] / sums[0].clamp(min=1e-9)  # (G, K)
    variance = (sums[2] / count.clamp(min=1e-9) - mean.square()).clamp(min=0) * count / (count - 1).clamp(min=1)
    levels = [centred.shrunk_levels(*of_grid) for of_grid in zip(mean, variance, count, strict=True)]
    return torch.cat([level.expand(size, -1) for level, size in zip(levels, sizes, strict=True)]).float()


def levels_of_grids(views: StoredViews, levels: Tensor) -> dict[str, list[float]]:
    """The levels (V, K) of each grid once, as `meta` holds them."""
    firsts = [sum(views.sizes[:number]) for number in range(len(views.grids))]  # the index of each grid's first view
    return {str(n): levels[first].tolist() for n, first in zip(views.grids, firsts, strict=True)}


def scores_by_examples(
    views: StoredViews, text: Tensor, own: Centred, labels: Tensor, scale: float, rank_scale: float, of_embeddings=False
) -> tuple[Tensor, Tensor]:
    """The log-odds (N, K) of all photos by the views that clearly show each name, and the number of these views (K,).

    In each photo with a confident label in `labels` (N, K), the view with the highest log-odds shows the class; all other views
    are background. Gaussians with one covariance (see `profiles.fit_profiles`) are fitted to the cosines of the views with all
    names, their profiles, or to their embeddings. `own` is what `centre` makes of the views.
    """
    levels, weights, sums, names = own.levels.to(text.device), own.weights, None, None
    if len(text) > centred.MOST_DENSE and not of_embeddings:
        names, basis = len(text), profiles.basis_of(text, levels)
    every = max(1, len(views) * sum(views.sizes) // MOST_VIEWS) if of_embeddings else 1
    for rows, embeddings in views:  # (n,), (n, V, D)
        cosines = embeddings @ text.T  # (n, V, K)
        logits = centred.centred_logits(cosines, levels, scale, weights)
        shown = profiles.sure_views(logits, labels[rows].to(text.device))
        features = embeddings if of_embeddings else centred.excess(cosines, levels)
        features = features if names is None else features @ basis
        part = profiles.statistics(features.cpu(), shown.cpu(), every)  # float64, which MPS lacks
        sums = part if sums is None else profiles.added(sums, part)
    fitted, scores = profiles.fit_profiles(sums, names=names), torch.empty(len(views), len(text))
    on_device = profiles.Profiles(*(part.to(text.device) for part in fitted))
    for rows, embeddings in views:  # (n,), (n, V, D)
        features = embeddings if of_embeddings else centred.excess(embeddings @ text.T, levels)
        features = features if names is None else features @ basis
        logits = profiles.profile_logits(on_device, features, rank_scale, weights)  # (n, V, K)
        scores[rows] = centred.pool_views(logits, len(views.grids)).cpu()
    return scores, fitted.shown


# ------------------------------------------------------------------------------------------------------------------ dense


def label_by_view_sets(
    sets: Mapping[str, StoredViews],
    text: Tensor,
    classes: int,
    logit_scale: float,
    config: PseudolabelConfig,
    related: centred.Pairs = (),
) -> tuple[Tensor, dict]:
    """Dense labels (N, C) and their summary: the mean of the labels of several view sets, weighted by their agreement.

    `sets` are those of `dense.encoded_sets`: the views of centred labels, and patch features. A set of patch features has two labels:
    those of its levels and those of Gaussians. The reference, which teaches the Gaussians and with which agreement is measured, is the
    centred labels; without views, the mean of the labels of all levels. A set that agrees less than `dense.least_agreement` does not
    count. The summary is that of the centred labels, and `view_sets`: for each set its agreements, and its levels.
    """
    scale = logit_scale * config.rank_scale
    by_levels = {
        name: centre(cells, text, scale, config.prior_photos, name_competition(cells, text, related))
        for name, cells in sets.items()
        if name != dense.VIEWS
    }
    if dense.VIEWS in sets:
        of_views, reference, summary = centred_labels(sets[dense.VIEWS], text, classes, logit_scale, config, related)
        by_levels[dense.VIEWS] = of_views._replace(labels=reference)
    else:
        first, reference = config.views[0], torch.stack([own.labels for own in by_levels.values()]).mean(0)
        summary = _summary(sets[first], text, logit_scale, by_levels[first].weights)
    known = reference[:, :classes]
    least = dense.least_agreement(known)

    counted, facts = [], {}
    for name in config.views:
        own = by_levels[name]
        opinions = [(own.labels[:, :classes], dense.agreement(own.scores[:, :classes], known))]
        counts = opinions[0][1] >= least
        if counts and config.profiles and name != dense.VIEWS:
            labels, scores = labels_by_gaussians(sets[name], text, own, reference, scale, config)
            opinions.append((labels[:, :classes], dense.agreement(scores[:, :classes], known)))
        facts[name] = {
            "agreements": [agrees for _, agrees in opinions],
            "levels": levels_of_grids(sets[name], own.levels),
        }
        counted += opinions if counts else []
    labels = dense.average_labels(*zip(*counted, strict=True)) if counted else known.contiguous()
    return labels, summary | {"view_sets": facts, "least_agreement": least}


def labels_by_gaussians(
    cells: StoredViews, text: Tensor, own: Centred, taught_by: Tensor, scale: float, config: PseudolabelConfig
) -> tuple[Tensor, Tensor]:
    """Labels and log-odds (N, K) of patch features by Gaussians in embedding space, taught by the labels `taught_by` (N, K).

    A class without a confident photo has no Gaussian, and keeps what its levels gave. In the mixtures, its constant log-odds would
    move the labels of all other classes.
    """
    scores, shown = scores_by_examples(cells, text, own, taught_by, scale, config.rank_scale, of_embeddings=True)
    learned, labels = shown > 0, own.labels.clone()
    if learned.any():
        labels[:, learned] = centred.presence(scores[:, learned], config.prior_photos)
    return labels, torch.where(learned, scores, own.scores)


# --------------------------------------------------------------------------------------------------------- for the report


def _summary(views: StoredViews, text: Tensor, logit_scale: float, weights: Tensor | None) -> dict:
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
    return same | {"mean_top1": top1 / len(views), "histograms": _histograms(counts)}


def _histograms(counts: Mapping[str, Tensor]) -> dict[str, dict]:
    """The paper's Figure 4 for the report: {name: {"edges", "counts"}} of top-1 confidences in [0, 1]."""
    edges = [bin / HISTOGRAM_BINS for bin in range(HISTOGRAM_BINS + 1)]
    return {name: {"edges": edges, "counts": [int(c) for c in count]} for name, count in counts.items()}
