"""Scores into yes and no, class by class, without a label.

Letters: N photos, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def match_expected_positives(scores: Tensor, labels: Tensor) -> Tensor:
    """The threshold of each class (C,) from which on as many photos have it as the labels expect.

    `scores` (N, C) in [0, 1] are a student's for the photos it learned, `labels` (N, C) its pseudo labels, whose sum over the
    photos is the expected number of positives; cells where either is NaN do not count. A student's scores are rarely
    calibrated, rare classes least of all, but their order is good. The threshold lies half-way between the last photo that is
    taken and the first that is not; a class with nothing to count gets ½.

    >>> match_expected_positives(torch.tensor([[0.1], [0.3], [0.2]]), torch.tensor([[0.1], [0.9], [0.0]]))
    tensor([0.2500])
    """
    return torch.stack([_threshold(scores[:, c], labels[:, c]) for c in range(scores.shape[1])])


def _threshold(scores: Tensor, labels: Tensor) -> Tensor:
    known = ~(scores.isnan() | labels.isnan())
    if not known.any():
        return torch.tensor(0.5)
    ordered = scores[known].sort(descending=True).values
    edges = torch.cat(
        [ordered.new_ones(1), ordered, ordered.new_zeros(1)]
    )  # from 1, above which no photo is, down to 0
    taken = int(labels[known].sum().round())
    return (edges[taken] + edges[taken + 1]) / 2
