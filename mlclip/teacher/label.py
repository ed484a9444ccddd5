"""From the vectors of photos to pseudo labels, by CDUL, CCD, centring, or centring of several view sets ("dense").

Each method goes through the views batch by batch, so that a folder of any size fits into memory. `text` (K, D) holds the
embeddings of the class names, then those of the contrast names, which compete with the classes and are dropped at the end.
`classes` is C. `text` and the views are on the same device; labels and summaries (for the labels' `meta`) are on the CPU.
Summaries have what was fitted to the photos, as "fitted". Given this as `fitted`, the same steps fit nothing: see `fitted.py`.

Letters: N photos, n photos of one batch, V views per photo (the whole photo first), C classes,
K = C + contrast names, D the joint embedding, G grids.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..config import PseudolabelConfig
from ..methods import ccd, cdul, centred, dense, profiles
from . import passes
from .encode import StoredViews
from .passes import Centred
from .scoring import class_scores

LEVEL_ROUNDS = 2  # first the levels of all photos, then of the photos without the class


# ------------------------------------------------------------------------------------------------------------------- CDUL


def label_by_cdul(
    views: StoredViews,
    text: Tensor,
    classes: int,
    logit_scale: float,
    config: PseudolabelConfig,
    fitted: Mapping | None = None,
) -> tuple[Tensor, dict]:
    """CDUL labels (N, C) and their summary.

    The summary has the mean top-1 probability of the whole photos and, for the paper's Figures 4 and 5, histograms of the
    global and the snippets' top-1 confidences. Nothing is fitted.
    """
    scores = torch.empty(len(views), classes)
    counts = {"global": torch.zeros(passes.HISTOGRAM_BINS), "snippets": torch.zeros(passes.HISTOGRAM_BINS)}
    top1 = 0.0
    for rows, embeddings in views:  # (n,), (n, V, D)
        similarity = class_scores(embeddings, text, logit_scale)  # (n, V, K)
        best = similarity.amax(-1).cpu()  # (n, V)
        top1 += float(best[:, 0].double().sum())
        counts["global"] += torch.histc(best[:, 0], passes.HISTOGRAM_BINS, 0, 1)
        counts["snippets"] += torch.histc(best[:, 1:], passes.HISTOGRAM_BINS, 0, 1)
        scores[rows] = cdul_labels(similarity[..., :classes], config).cpu()
    return scores, {"mean_top1": top1 / len(views), "histograms": passes.histograms_of(counts), "fitted": {}}


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
    views: StoredViews,
    text: Tensor,
    classes: int,
    logit_scale: float,
    config: PseudolabelConfig,
    fitted: Mapping | None = None,
) -> tuple[Tensor, dict]:
    """CCD labels (N, C) and their summary.

    The summary has the mean top-1 probability, its histogram, the bias of each class, and the number of confident photos
    that the bias was estimated from (0: the bias is the mean of the other classes).
    """
    similarity = torch.empty(len(views), len(text))  # (N, K)
    for rows, embeddings in views:  # (n,), (n, 1, D)
        similarity[rows] = class_scores(embeddings[:, 0], text, logit_scale).cpu()
    fitted = fitted or fit_bias(similarity, classes, config)
    top1 = similarity.amax(-1)  # (N,)
    counts = torch.histc(top1, passes.HISTOGRAM_BINS, 0, 1)
    return ccd.debias(similarity[:, :classes], fitted["bias"], config.floor), {
        "mean_top1": float(top1.double().mean()),
        "histograms": passes.histograms_of({"global": counts}),
        "bias": fitted["bias"].tolist(),
        "bias_photos": fitted["bias_photos"].tolist(),
        "fitted": fitted,
    }


def fit_bias(similarity: Tensor, classes: int, config: PseudolabelConfig) -> dict[str, Tensor]:
    """The bias of each class and the number of photos that it comes from, (C,) each, from similarities (N, K)."""
    confident = ccd.entropy(similarity) <= config.max_entropy  # (N,)
    estimated = torch.bincount(similarity.argmax(-1)[confident], minlength=similarity.shape[1])[:classes]  # (C,)
    bias = ccd.complete_bias(ccd.class_bias(similarity, config.max_entropy)[:classes])  # (C,)
    return {"bias": bias if config.debias else torch.ones_like(bias), "bias_photos": estimated}


# ---------------------------------------------------------------------------------------------------------------- centred


def centred_labels(
    views: StoredViews,
    text: Tensor,
    classes: int,
    logit_scale: float,
    config: PseudolabelConfig,
    related: centred.Pairs = (),
    fitted: Mapping | None = None,
) -> tuple[Centred, Tensor, dict]:
    """What `centre` makes of the views, the centred labels (N, K) of all names after the re-ranking, and the summary.

    `related` are pairs of names that never compete: a class and one above it. In the summary, `same_names` has the pairs of names that do
    not compete fully: [name, name, how much they compete].
    """
    scale = logit_scale * config.rank_scale
    own = centre(views, text, scale, config.prior_photos, related, fitted)
    labels, summary = own.labels, passes.summary_of(views, text, logit_scale, own.weights)
    summary["mixture"] = [own.slope[:classes].tolist(), own.offset[:classes].tolist()]
    summary["fitted"] = found = own.fitted()
    if config.profiles:
        found["examples"] = fitted["examples"] if fitted else passes.fit_examples(views, text, own, labels, scale)
        scores, shown = passes.scores_by_examples(views, text, own, found["examples"], config.rank_scale)
        found["ranking"] = (
            fitted["ranking"] if fitted else profiles.fit_ranking(labels, scores, shown, config.prior_photos)._asdict()
        )
        labels = profiles.rerank(labels, scores, shown, profiles.Ranking(**found["ranking"]))
        summary["profile_views"] = shown[:classes].tolist()
    summary["levels"] = passes.levels_of_grids(views, own.levels)
    return own, labels, summary


def centre(
    views: StoredViews,
    text: Tensor,
    scale: float,
    prior_photos: float,
    related: centred.Pairs = (),
    fitted: Mapping | None = None,
) -> Centred:
    """Levels and labels, twice: first the levels of all photos, then those of the photos without the class."""
    if fitted:
        weights, (levels, slope, offset) = fitted["weights"], (fitted[name] for name in ("levels", "slope", "offset"))
        if isinstance(weights, Mapping):
            places, same = weights["places"], weights["same"]
            weights = torch.sparse_coo_tensor(places, same, (len(text), len(text)), check_invariants=True).coalesce()
        weights = None if weights is None else weights.to(text.device)
        scores = passes.scores_by_levels(views, text, levels, scale, weights)
        return Centred(levels, slope, offset, scores, centred.mixture_labels(scores, slope, offset), weights)
    weights = passes.name_competition(views, text, related)
    labels = torch.zeros(len(views), len(text))  # (N, K)
    for _ in range(LEVEL_ROUNDS):
        levels = passes.class_levels(views, text, 1 - labels)  # (V, K)
        scores = passes.scores_by_levels(views, text, levels, scale, weights)
        slope, offset = centred.fit_mixture(scores, prior_photos)
        labels = centred.mixture_labels(scores, slope, offset)
    return Centred(levels, slope, offset, scores, labels, weights)


# ------------------------------------------------------------------------------------------------------------------ dense


def label_by_view_sets(
    sets: Mapping[str, StoredViews],
    text: Tensor,
    classes: int,
    logit_scale: float,
    config: PseudolabelConfig,
    related: centred.Pairs = (),
    fitted: Mapping | None = None,
) -> tuple[Tensor, dict]:
    """Dense labels (N, C) and their summary: the mean of the labels of several view sets, weighted by their agreement.

    `sets` are those of `dense.encoded_sets`: the views of centred labels, and patch features. A set of patch features has two labels:
    those of its levels and those of Gaussians. The reference, which teaches the Gaussians and with which agreement is measured, is the
    centred labels; without views, the mean of the labels of all levels. A set that agrees less than `dense.least_agreement` does not
    count. The summary is that of the centred labels, and `view_sets`: for each set its agreements, and its levels.
    """
    scale, fits = logit_scale * config.rank_scale, dict(fitted["sets"]) if fitted else {}
    by_levels = {
        name: centre(cells, text, scale, config.prior_photos, related, fits[name] if fitted else None)
        for name, cells in sets.items()
        if name != dense.VIEWS
    }
    if dense.VIEWS in sets:
        views, fit = sets[dense.VIEWS], fits[dense.VIEWS] if fitted else None
        of_views, reference, summary = centred_labels(views, text, classes, logit_scale, config, related, fit)
        by_levels[dense.VIEWS], fits[dense.VIEWS] = of_views._replace(labels=reference), summary["fitted"]
    else:
        first, reference = config.views[0], torch.stack([own.labels for own in by_levels.values()]).mean(0)
        summary = passes.summary_of(sets[first], text, logit_scale, by_levels[first].weights)
    known = reference[:, :classes]
    least = fitted["least_agreement"] if fitted else dense.least_agreement(known)

    counted, facts, agreements = [], {}, {}
    for name in config.views:
        own, fit = by_levels[name], dict(fits.get(name) or by_levels[name].fitted())
        agrees = dict(
            fitted["agreements"][name] if fitted else {"levels": dense.agreement(own.scores[:, :classes], known)}
        )
        opinions, counts = [own.labels[:, :classes]], agrees["levels"] >= least
        if counts and config.profiles and name != dense.VIEWS:
            labels, scores, fit["gaussians"] = labels_by_gaussians(
                sets[name], text, own, reference, scale, config, fit["gaussians"] if fitted else None
            )
            opinions.append(labels[:, :classes])
            if not fitted:
                agrees["gaussians"] = dense.agreement(scores[:, :classes], known)
        fits[name], agreements[name] = fit, agrees
        facts[name] = {"agreements": list(agrees.values()), "levels": passes.levels_of_grids(sets[name], own.levels)}
        counted += zip(opinions, agrees.values(), strict=True) if counts else []
    labels = dense.average_labels(*zip(*counted, strict=True)) if counted else known.contiguous()
    fitted = {"sets": fits, "agreements": agreements, "least_agreement": least}
    return labels, summary | {"view_sets": facts, "least_agreement": least, "fitted": fitted}


def labels_by_gaussians(
    cells: StoredViews,
    text: Tensor,
    own: Centred,
    taught_by: Tensor,
    scale: float,
    config: PseudolabelConfig,
    fitted: Mapping | None = None,
) -> tuple[Tensor, Tensor, dict]:
    """Labels and log-odds (N, K) of patch features by Gaussians in embedding space, taught by the labels `taught_by` (N, K).

    A class without a confident photo has no Gaussian, and keeps what its levels gave. In the mixtures, its constant log-odds would
    move the labels of all other classes. The third part is what was fitted.
    """
    found = dict(fitted or {"examples": passes.fit_examples(cells, text, own, taught_by, scale, of_embeddings=True)})
    scores, shown = passes.scores_by_examples(
        cells, text, own, found["examples"], config.rank_scale, of_embeddings=True
    )
    learned, labels = shown > 0, own.labels.clone()
    if learned.any():
        if not fitted:
            found["slope"], found["offset"] = centred.fit_mixture(scores[:, learned], config.prior_photos)
        labels[:, learned] = centred.mixture_labels(scores[:, learned], found["slope"], found["offset"])
    return labels, torch.where(learned, scores, own.scores), found
