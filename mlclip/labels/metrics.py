"""How well two tables agree: matching rows and classes, average precision, and their mean.

Letters: N photos (rows), C classes (columns).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import InputError
from .class_names import shorten
from .table import Labels


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """Area under the precision-recall curve without interpolation, in [0, 1]; NaN if nothing is positive.

    `scores` and `truth` are 1-D, (N,); truth is 1, 0, or NaN = left out. Equal scores are taken together, so their
    order does not matter. A score of NaN ranks below all others: not answering never helps.
    Example: scores 0.9 0.8 0.7 and truth 1 0 1 -> (1/1 + 2/3) / 2 = 0.8333.
    """
    known = ~truth.isnan()
    ranks, hits = (part[known].double().nan_to_num(nan=-1.0).cpu().numpy() for part in (scores, truth))
    if not np.isin(hits, (0, 1)).all():
        raise InputError("the truth holds numbers other than 1 and 0; leave a cell empty where it is not known")
    if not hits.any():
        return math.nan
    order = np.argsort(-ranks, kind="stable")
    ranks, found = ranks[order], hits[order].cumsum()
    last = np.append(ranks[1:] != ranks[:-1], True).nonzero()[0]  # of each group of equal scores
    precision = found[last] / (last + 1)
    return float((precision * np.diff(found[last], prepend=0)).sum() / found[-1])


@dataclass(frozen=True, eq=False)
class Match:
    """What two tables share: `rows` (row in the first, row in the second) and `classes`; and what only one has."""

    rows: list[tuple[int, int]]
    classes: list[str]
    paths_only_first: list[str]
    paths_only_second: list[str]
    classes_only_first: list[str]
    classes_only_second: list[str]


def match_tables(labels: Labels, truth: Labels) -> Match:
    """Rows by path, classes by name. Where no path is equal, by file name alone, if it is unique in each table.

    Raises InputError if no photo or no class is in both.
    """
    rows = _match_rows(labels.paths, truth.paths) or _match_rows(_unique_names(labels), _unique_names(truth))
    answered = set(truth.classes)
    classes = [name for name in labels.classes if name in answered]
    if not rows:
        example = f"{labels.paths[0]!r} and {truth.paths[0]!r}" if len(labels) and len(truth) else "one has none"
        raise InputError(f"no photo is in both tables (paths such as {example}); give the truth of these very photos")
    if not classes:
        both = f"{shorten(labels.classes, 20)} | {shorten(truth.classes, 20)}"
        raise InputError(f"no class is in both tables ({both}); name them alike, with `label = prompt name` if need be")
    first, second, shared = {i for i, _ in rows}, {j for _, j in rows}, set(classes)
    return Match(
        rows,
        classes,
        [path for i, path in enumerate(labels.paths) if i not in first],
        [path for j, path in enumerate(truth.paths) if j not in second],
        [name for name in labels.classes if name not in shared],
        [name for name in truth.classes if name not in shared],
    )


def _match_rows(first: Sequence[str | None], second: Sequence[str | None]) -> list[tuple[int, int]]:
    position = {name: j for j, name in enumerate(second) if name is not None}
    return [(i, position[name]) for i, name in enumerate(first) if name in position]


def _unique_names(labels: Labels) -> list[str | None]:
    """Each path's last part, None where another path ends in it too."""
    names = [path.rsplit("/", 1)[-1] for path in labels.paths]
    counts = Counter(names)
    return [name if counts[name] == 1 else None for name in names]


def matched_cells(labels: Labels, truth: Labels) -> tuple[Tensor, Tensor]:
    """Scores and truth of the photos and classes that both tables have (see `match_tables`), two tensors of one shape."""
    match = match_tables(labels, truth)
    first, second = torch.tensor(match.rows).T
    columns = [[table.classes.index(name) for name in match.classes] for table in (labels, truth)]
    return labels.scores[first][:, columns[0]], truth.scores[second][:, columns[1]]


def mean_average_precision(labels: Labels, truth: Labels) -> tuple[float, dict[str, float]]:
    """mAP and {class: AP}, both in [0, 1], over the photos and classes that both tables have (see `match_tables`).

    A class without a positive photo has the AP NaN and is not counted; the mAP is NaN if no class has one.
    Raises InputError if the tables share no photo or no class, or if `truth` holds other numbers than 1, 0 and NaN.
    """
    scores, answers = matched_cells(labels, truth)  # (matched, C of both)
    shared = set(truth.classes)
    names = [name for name in labels.classes if name in shared]
    result = {name: average_precision(scores[:, c], answers[:, c]) for c, name in enumerate(names)}
    counted = [ap for ap in result.values() if not math.isnan(ap)]
    return (sum(counted) / len(counted) if counted else math.nan), result
