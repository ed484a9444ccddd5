"""Compare two tables: average precision (AP), and its mean over the classes (mAP). `matching` finds what they share.

Letters: N photos (rows), C classes (columns).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..config import InputError
from .labels import Labels
from .matching import Match as Match
from .matching import match_tables as match_tables


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """Area under the precision-recall curve without interpolation, in [0, 1]; NaN without positives.

    `scores` and `truth` are 1-D, (N,). Truth is 1, 0, or NaN = ignored. Equal scores form one group, so their order does not
    matter. A score of NaN ranks below all others, so a missing score never helps.
    Example: scores 0.9 0.8 0.7 and truth 1 0 1 -> (1/1 + 2/3) / 2 = 0.8333.
    """
    known = ~truth.isnan()
    ranks, hits = (part[known].double().nan_to_num(nan=-1.0).cpu().numpy() for part in (scores, truth))
    if not np.isin(hits, (0, 1)).all():
        raise InputError("the truth contains numbers other than 1 and 0. Leave unknown cells empty.")
    if not hits.any():
        return math.nan
    order = np.argsort(-ranks, kind="stable")
    ranks, found = ranks[order], hits[order].cumsum()
    last = np.append(ranks[1:] != ranks[:-1], True).nonzero()[
        0
    ]  # index of the last score of each group of equal scores
    precision = found[last] / (last + 1)
    return float((precision * np.diff(found[last], prepend=0)).sum() / found[-1])


def matched_cells(labels: Labels, truth: Labels, match: Match | None = None) -> tuple[Tensor, Tensor]:
    """Scores and truth of the photos and classes that both tables have: two tensors of the same shape.

    `match` is the result of `match_tables`, where the caller has it.
    """
    match = match or match_tables(labels, truth)
    first, second = torch.tensor(match.rows).T
    columns = torch.tensor(match.columns).T
    return labels.scores[first][:, columns[0]], truth.scores[second][:, columns[1]]


def truth_for(labels: Labels, truth: Labels, match: Match) -> Labels:
    """The matched part of the truth with the paths and class names of `labels`, so that both tables name them alike."""
    paths, classes = [labels.paths[i] for i, _ in match.rows], [labels.classes[i] for i, _ in match.columns]
    return Labels(paths, classes, matched_cells(labels, truth, match)[1], labels.root, truth.meta)


def mean_average_precision(labels: Labels, truth: Labels, match: Match | None = None) -> tuple[float, dict[str, float]]:
    """mAP and {class: AP}, both in [0, 1], over the photos and classes that both tables have (see `match_tables`).

    A class without positive photos has AP NaN and is not counted. The mAP is NaN if no class has positive photos.
    Raises InputError if the tables share no photo or no class, or if `truth` contains numbers other than 1, 0 and NaN.
    """
    match = match or match_tables(labels, truth)
    scores, known = matched_cells(labels, truth, match)  # (matched photos, shared classes) each
    result = {name: average_precision(scores[:, c], known[:, c]) for c, name in enumerate(match.classes)}
    counted = [ap for ap in result.values() if not math.isnan(ap)]
    return (sum(counted) / len(counted) if counted else math.nan), result
