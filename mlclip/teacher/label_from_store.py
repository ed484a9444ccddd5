"""A store's view embeddings -> pseudo labels, by CDUL, by CCD or by centring, and what is worth knowing about them.

Each method is a function of the store, read shard by shard, so that no folder is too large. `text` (C + contrast, D) holds
the embeddings of the class names, and after them those of contrast names, which compete with the classes and are then
dropped; `classes` is C. The summary that comes with the labels goes into their `meta`.

Letters: N photos, n photos of one shard, V views per photo (the whole photo first), C classes, D the joint embedding, G grids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..config import PseudolabelConfig
from ..images import Photo
from ..methods import ccd, cdul, centred, profiles
from .embedding_store import Store
from .scoring import class_scores

HISTOGRAM_BINS = 20
LEVEL_ROUNDS = 2  # levels of all photos, then of those without the class


def label_by_cdul(
    store: Store, photos: Sequence[Photo], text: Tensor, classes: int, logit_scale: float, config: PseudolabelConfig
) -> tuple[Tensor, dict]:
    """CDUL labels (N, C) of photos in the store, shard by shard, and what is worth knowing about them.

    `text` (C + contrast, D) holds the first `classes` rows to keep. The summary has the mean top-1 probability of the
    whole photos and, for the paper's Figures 4 and 5, histograms of the global and the snippets' top-1 confidences.
    """
    scores = torch.empty(len(photos), classes)
    counts = {"global": torch.zeros(HISTOGRAM_BINS), "snippets": torch.zeros(HISTOGRAM_BINS)}
    top1 = 0.0
    for rows, embeddings in store.read(photos):  # (n,), (n, V, D)
        similarity = class_scores(embeddings, text, logit_scale)  # (n, V, C + contrast)
        top1 += float(similarity[:, 0].amax(-1).double().sum())
        for name, views in (("global", similarity[:, 0]), ("snippets", similarity[:, 1:])):
            counts[name] += torch.histc(views.amax(-1), HISTOGRAM_BINS, 0, 1)
        scores[rows] = cdul_labels(similarity[..., :classes], config)
    return scores, {"mean_top1": top1 / len(photos), "histograms": _histograms(counts)}


def cdul_labels(similarity: Tensor, config: PseudolabelConfig) -> Tensor:
    """CDUL step 1 on the similarities (N, V, C) of the whole photo and its snippets -> (N, C) in [0, 1]."""
    whole, local = similarity[:, 0], similarity[:, 1:]
    if config.part == "global":
        return whole
    aggregated = cdul.aggregate(local, config.zeta)
    if config.part == "aggregate":
        return aggregated
    return cdul.fuse(whole, aggregated, disagreement=config.disagreement)


def label_by_ccd(
    store: Store, photos: Sequence[Photo], text: Tensor, classes: int, logit_scale: float, config: PseudolabelConfig
) -> tuple[Tensor, dict]:
    """CCD labels (N, C) of photos in the store, shard by shard, and what is worth knowing about them.

    `text` as for `label_by_cdul`; contrast names compete for the top-1 and are then dropped. The summary has each class's
    bias, how many confident photos it was estimated from (0: it is the mean of the others), and a histogram.
    """
    similarity = torch.empty(len(photos), len(text))  # (N, C + contrast)
    for rows, embeddings in store.read(photos):  # (n,), (n, 1, D)
        similarity[rows] = class_scores(embeddings[:, 0], text, logit_scale)
    sure = ccd.entropy(similarity) <= config.max_entropy  # (N,)
    estimated = torch.bincount(similarity.argmax(-1)[sure], minlength=len(text))[:classes]  # (C,)
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


def label_by_centring(
    store: Store, photos: Sequence[Photo], text: Tensor, classes: int, logit_scale: float, config: PseudolabelConfig
) -> tuple[Tensor, dict]:
    """Centred labels (N, C) of photos in the store, in passes over its shards: levels and labels, twice, then profiles.

    `text` as for `label_by_cdul`; contrast names are classes like any other until the end, and are then dropped.
    """
    sizes = [n * n for n in store.key.grids]  # views of each grid
    scale = logit_scale * config.rank_scale
    labels = torch.zeros(len(photos), len(text))  # (N, C + contrast)
    for _ in range(LEVEL_ROUNDS):
        levels = class_levels(store, photos, text, sizes, 1 - labels)  # (V, C + contrast)
        scores = torch.empty_like(labels)
        for rows, embeddings in store.read(photos):  # (n,), (n, V, D)
            logits = centred.centred_logits(embeddings @ text.T, levels, scale)  # (n, V, C + contrast)
            scores[rows] = centred.pool_views(logits, len(sizes))  # log-odds
        slope, offset = centred.fit_mixture(scores, config.prior_photos)
        labels = (slope * scores + offset).sigmoid()
    summary = _confidences(store, photos, text, logit_scale)
    summary["heaps"] = [slope[:classes].tolist(), offset[:classes].tolist()]
    if config.profiles:
        fitted = class_profiles(store, photos, text, levels, labels, scale)
        for rows, embeddings in store.read(photos):
            excess = centred.excess(embeddings @ text.T, levels)
            scores[rows] = centred.pool_views(profiles.profile_logits(fitted, excess, config.rank_scale), len(sizes))
        labels = profiles.rerank_by_profiles(labels, scores, fitted.shown, config.prior_photos)
        summary["profile_views"] = fitted.shown[:classes].tolist()
    places = [sum(sizes[:g]) for g in range(len(sizes))]
    by_grid = zip(store.key.grids, places, strict=True)
    summary["levels"] = {str(n): levels[place].tolist() for n, place in by_grid}
    return labels[:, :classes].contiguous(), summary


def class_levels(store: Store, photos: Sequence[Photo], text: Tensor, sizes: Sequence[int], absent: Tensor) -> Tensor:
    """Every class's level in each of a photo's views, (V, C): the same for all views of one grid, see `shrunk_levels`.

    A photo counts for a class as much as the class is `absent` (N, C) from it.
    """
    sums = torch.zeros(3, len(sizes), len(text), dtype=torch.double)  # Σ of weights, of mean cosines, of their squares
    for rows, embeddings in store.read(photos):  # (n,), (n, V, D)
        means = torch.stack([part.mean(1) @ text.T for part in embeddings.split(list(sizes), dim=1)])  # (G, n, C)
        weights = absent[rows].double()  # (n, C)
        sums += torch.stack([(weights * means.double() ** power).sum(1) for power in (0, 1, 2)])
    count, mean = sums[0], sums[1] / sums[0].clamp(min=1e-9)  # (G, C)
    variance = (sums[2] / count.clamp(min=1e-9) - mean.square()).clamp(min=0) * count / (count - 1).clamp(min=1)
    levels = [centred.shrunk_levels(*own) for own in zip(mean, variance, count, strict=True)]
    return torch.cat([level.expand(size, -1) for level, size in zip(levels, sizes, strict=True)]).float()


def class_profiles(
    store: Store, photos: Sequence[Photo], text: Tensor, levels: Tensor, labels: Tensor, scale: float
) -> profiles.Profiles:
    """The profiles of all names, learned from the photos that `labels` (N, C + contrast) are sure of."""
    sums = None
    for rows, embeddings in store.read(photos):  # (n,), (n, V, D)
        cosines = embeddings @ text.T  # (n, V, C + contrast)
        given = profiles.sure_views(centred.centred_logits(cosines, levels, scale), labels[rows])
        part = profiles.statistics(centred.excess(cosines, levels), given)
        sums = part if sums is None else profiles.added(sums, part)
    return profiles.fit_profiles(sums)


def _confidences(store: Store, photos: Sequence[Photo], text: Tensor, logit_scale: float) -> dict:
    """How sure CLIP itself is of each view: the mean top-1 probability of the largest views, and a histogram for each grid."""
    counts, top1 = {_grid_name(n): torch.zeros(HISTOGRAM_BINS) for n in store.key.grids}, 0.0
    largest = store.key.grids[0] ** 2  # how many of them a photo has: 1, the whole of it, unless the user left that out
    for _, embeddings in store.read(photos):  # (n,), (n, V, D)
        best = class_scores(embeddings, text, logit_scale).amax(-1)  # (n, V)
        for count, views in zip(counts.values(), best.split([n * n for n in store.key.grids], dim=1), strict=True):
            count += torch.histc(views, HISTOGRAM_BINS, 0, 1)
        top1 += float(best[:, :largest].double().mean(1).sum())
    return {"mean_top1": top1 / len(photos), "histograms": _histograms(counts)}


def _grid_name(n: int) -> str:
    return "whole photos" if n == 1 else f"{n}×{n} snippets"


def _histograms(counts: Mapping[str, Tensor]) -> dict[str, dict]:
    """The paper's Figure 4, as a report draws it: {name: {"edges", "counts"}} of top-1 confidences in [0, 1]."""
    edges = [bin / HISTOGRAM_BINS for bin in range(HISTOGRAM_BINS + 1)]
    return {name: {"edges": edges, "counts": [int(c) for c in count]} for name, count in counts.items()}
