"""Scores that agree with what is known about the classes: a child is never above its parent, and a photo has at most one class
of an exclusive group.

Letters: N photos, C classes. `parents` has one column per class, that of its parent, or -1. `groups` are lists of columns.
Scores are probabilities in [0, 1], NaN = unknown; the functions return new tensors.

In an exclusive group, each class is an independent event with its score as probability. Given that at most one of them happens, class
i has the probability o_i / (1 + sum of o_j) with the odds o = p / (1 - p). A sure class stays sure, two equally sure ones share, the
sum is at most 1, and so at most one class is above 1/2. Setting all but the best class to 0 would lose the order of the photos. The
conditioning must be done once, so only predictions get it. Labels get `raise_parents`, which changes nothing when it is done again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SURE = 1e-7  # a score of 0 or 1 counts as this far from it
ABOVE_HALF = math.nextafter(0.5, 1) + 1e-6  # also above 1/2 in float32


def top_down(parents: Sequence[int]) -> list[int]:
    """The columns that have a parent, every parent before its children. ValueError for a circle.

    >>> top_down([1, 2, -1])
    [1, 0]
    """
    depth = {column: 0 for column, parent in enumerate(parents) if parent < 0}
    for start in range(len(parents)):
        path, column = [], start
        while column not in depth:
            path.append(column)
            column = parents[column]
            if len(path) > len(parents):
                raise ValueError("the parents form a circle")
        for step, below in enumerate(reversed(path), start=depth[column] + 1):
            depth[below] = step
    return sorted((column for column in depth if parents[column] >= 0), key=depth.__getitem__)


def related(parents: Sequence[int]) -> list[tuple[int, int]]:
    """The pairs of a class and one above it, the smaller column first.

    >>> related([-1, 0, 1])
    [(0, 1), (1, 2), (0, 2)]
    """
    above: dict[int, list[int]] = {}
    for column in top_down(parents):
        above[column] = [parents[column], *above.get(parents[column], ())]
    return [(min(column, other), max(column, other)) for column, others in above.items() for other in others]


def raise_parents(scores: Tensor, parents: Sequence[int]) -> Tensor:
    """Scores (N, C) where every parent has at least the highest score of its children; children stay.

    >>> raise_parents(torch.tensor([[0.2, 0.9, 0.1]]), [-1, 0, 1])
    tensor([[0.9000, 0.9000, 0.1000]])
    """
    scores = scores.clone()
    for column in reversed(top_down(parents)):
        above = parents[column]
        scores[:, above] = torch.fmax(scores[:, above], scores[:, column])
    return scores


def lower_children(scores: Tensor, parents: Sequence[int]) -> Tensor:
    """Scores (N, C) where every child has at most the score of its parent; parents stay."""
    scores = scores.clone()
    for column in top_down(parents):
        child, above = scores[:, column], scores[:, parents[column]]
        scores[:, column] = torch.where(child > above, above, child)
    return scores


def exclude(scores: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Scores (N, C) given that at most one class of each group is in a photo: odds / (1 + sum of the odds of the group).

    >>> exclude(torch.tensor([[0.9, 0.9, 0.3], [0.9, 0.1, 0.3]]), [[0, 1]])
    tensor([[0.4737, 0.4737, 0.3000],
            [0.8901, 0.0110, 0.3000]])
    """
    scores = scores.clone()
    for group in groups:
        members = scores[:, group]  # (N, classes of the group)
        known = ~members.isnan()
        logits = members.double().logit(SURE).masked_fill(~known, -math.inf)
        none = torch.zeros(len(scores), 1, dtype=torch.float64)
        given = torch.cat([none, logits], dim=1).softmax(dim=1)[:, 1:]
        scores[:, group] = torch.where(known, given.to(scores.dtype), members)
    return scores


def consistent_scores(scores: Tensor, parents: Sequence[int], groups: Sequence[Sequence[int]]) -> Tensor:
    """Scores (N, C) that agree with both: parents are raised first, then groups are exclusive, then children are lowered.

    In this order a sure dog speaks for `animal` before `animal` and `vehicle` exclude each other, and the loser's children fall
    with it. Without groups this is `raise_parents`.
    """
    raised = raise_parents(scores, parents)
    return lower_children(exclude(raised, groups), parents) if groups else raised


def consistent_thresholds(thresholds: Tensor, parents: Sequence[int], groups: Sequence[Sequence[int]]) -> Tensor:
    """Thresholds (C,) with which consistent scores never choose a child without its parent, or two classes of a group.

    Classes of a group get at least a little over 1/2. Then a child gets at least the threshold of its parent: naming a
    specific class less often is the smaller error.
    """
    thresholds = thresholds.clone()
    for group in groups:
        thresholds[list(group)] = thresholds[list(group)].clamp(min=ABOVE_HALF)
    for column in top_down(parents):
        thresholds[column] = torch.maximum(thresholds[column], thresholds[parents[column]])
    return thresholds


def count_violations(scores: Tensor, parents: Sequence[int]) -> int:
    """In how many cells of (N, C) a child has a higher score than its parent."""
    return sum(int((scores[:, column] > scores[:, parents[column]]).sum()) for column in top_down(parents))


def count_overlaps(chosen: Tensor, groups: Sequence[Sequence[int]]) -> int:
    """How often a photo has more than one class of a group. `chosen` is bool (N, C)."""
    return sum(int((chosen[:, list(group)].sum(dim=1) > 1).sum()) for group in groups)
