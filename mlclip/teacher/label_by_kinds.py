"""Dense labels: from the views of a photo and the cells of several kinds to labels (see `methods/dense.py`).

Letters: N photos, n photos of one batch, M cells of a photo, C classes, K = C + contrast names, D the joint embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import PseudolabelConfig
from ..methods import centred, dense, profiles
from .label_from_store import Centred, centre, centred_labels, levels_of_grids
from .view_batches import Views

COVARIANCE_CELLS = 200_000  # with more cells, the covariance is estimated from about this many


class Opinion(NamedTuple):
    """What one kind of views says."""

    labels: Tensor  # (N, K) in [0, 1]
    agreement: float  # with the centred labels, in [0, 1]


def label_by_kinds(
    cells: Mapping[str, Views], views: Views, text: Tensor, classes: int, logit_scale: float, config: PseudolabelConfig
) -> tuple[Tensor, dict]:
    """Dense labels (N, C) and their summary.

    `cells` are those of each kind in `config.kinds` but "views", in any order. `views` are the views of centred labels. The summary
    is that of the centred labels, and `kinds`: per kind its agreement, that of its second opinion, and the levels of its cells.
    """
    scale = logit_scale * config.rank_scale
    today, taught, summary = centred_labels(views, text, classes, logit_scale, config)
    opinions, facts = [], {}
    for kind in config.kinds:
        if kind == dense.VIEWS:
            found = [Opinion(taught, dense.agreement(today.scores[:, :classes], taught[:, :classes]))]
            levels = summary["levels"]
        else:
            own = centre(cells[kind], text, scale, config.prior_photos)
            found = [_opinion(own.scores, own.labels, taught, classes)]
            if config.profiles:
                scores = gaussian_scores(cells[kind], text, own, taught, scale, config.rank_scale)
                found.append(_opinion(scores, centred.presence(scores, config.prior_photos), taught, classes))
            levels = levels_of_grids(cells[kind], own.levels)
        opinions += found
        facts[kind] = {"agreements": [opinion.agreement for opinion in found], "levels": levels}
    labels = dense.average_labels([o.labels[:, :classes] for o in opinions], [o.agreement for o in opinions])
    return labels, summary | {"kinds": facts}


def _opinion(scores: Tensor, labels: Tensor, taught: Tensor, classes: int) -> Opinion:
    return Opinion(labels, dense.agreement(scores[:, :classes], taught[:, :classes]))


def gaussian_scores(
    cells: Views, text: Tensor, own: Centred, taught: Tensor, scale: float, rank_scale: float
) -> Tensor:
    """The second opinion: log-odds (N, K) of the photos by Gaussians of the classes in embedding space.

    In each photo with a confident label (`taught`, (N, K)), the cell with the highest log-odds shows the class; all other cells
    are background. The Gaussians have one covariance, see `profiles.fit_profiles`.
    """
    every = max(1, len(cells) * sum(cells.sizes) // COVARIANCE_CELLS)
    levels, sums = own.levels.to(text.device), None
    for rows, embeddings in cells:  # (n,), (n, M, D)
        logits = centred.centred_logits(embeddings @ text.T, levels, scale)  # (n, M, K)
        weights = profiles.sure_views(logits, taught[rows].to(text.device))
        part = profiles.statistics(embeddings.cpu(), weights.cpu(), every)  # float64, which MPS lacks
        sums = part if sums is None else profiles.added(sums, part)
    fitted = profiles.Profiles(*(part.to(text.device) for part in profiles.fit_profiles(sums)))
    scores = torch.empty(len(cells), len(text))
    for rows, embeddings in cells:  # (n,), (n, M, D)
        logits = profiles.profile_logits(fitted, embeddings, rank_scale)
        scores[rows] = centred.pool_views(logits, len(cells.grids)).cpu()
    return scores
