"""Compare two tables: match rows and classes, average precision (AP), and its mean over the classes (mAP).

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

SHOWN_NAMES = 3  # photos or classes without a match that a summary names


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


@dataclass(frozen=True, eq=False)
class Match:
    """What two tables share: `rows` (row in the first, row in the second) and `classes`; and what only one of them has."""

    rows: list[tuple[int, int]]
    classes: list[str]
    paths_only_first: list[str]
    paths_only_second: list[str]
    classes_only_first: list[str]
    classes_only_second: list[str]

    def summary(self, first: str = "labels", second: str = "truth") -> list[str]:
        """One line per table: how many of its photos and classes matched, and the first few that did not.

        `first` and `second` are the names of the tables in these lines.

        >>> Match([(0, 0)], ["cat"], ["b.jpg"], [], [], ["cow"]).summary()[0]
        'labels: 1 of 2 photos and 1 of 1 classes matched (photos not matched: b.jpg)'
        """
        return [
            self._line(first, self.paths_only_first, self.classes_only_first),
            self._line(second, self.paths_only_second, self.classes_only_second),
        ]

    def _line(self, table: str, paths: list[str], classes: list[str]) -> str:
        photos, columns = len(self.rows), len(self.classes)
        counts = f"{photos} of {photos + len(paths)} photos and {columns} of {columns + len(classes)} classes matched"
        kinds = (("photos", paths), ("classes", classes))
        missing = [f"{kind} not matched: {_first_few(names)}" for kind, names in kinds if names]
        return f"{table}: {counts}" + (f" ({'; '.join(missing)})" if missing else "")


def _first_few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES] + ["..."] * (len(names) > SHOWN_NAMES))


def match_tables(labels: Labels, truth: Labels) -> Match:
    """Match rows by path and classes by name. If no path is equal, file names that are unique in each table are compared.

    Raises InputError if no photo or no class is in both tables.
    """
    rows = _match_rows(labels.paths, truth.paths) or _match_rows(_unique_names(labels), _unique_names(truth))
    known = set(truth.classes)
    classes = [name for name in labels.classes if name in known]
    _check_match(labels, truth, rows, classes)
    first, second, shared = {i for i, _ in rows}, {j for _, j in rows}, set(classes)
    return Match(
        rows,
        classes,
        [path for i, path in enumerate(labels.paths) if i not in first],
        [path for j, path in enumerate(truth.paths) if j not in second],
        [name for name in labels.classes if name not in shared],
        [name for name in truth.classes if name not in shared],
    )


def _check_match(labels: Labels, truth: Labels, rows: list[tuple[int, int]], classes: list[str]) -> None:
    if not rows:
        example = f"{labels.paths[0]!r} and {truth.paths[0]!r}" if len(labels) and len(truth) else "one is empty"
        raise InputError(f"no photo is in both tables (paths such as {example}). Give the true labels of these photos.")
    if not classes:
        both = f"{shorten(labels.classes, 20)} | {shorten(truth.classes, 20)}"
        raise InputError(f"no class is in both tables ({both}). Use the same class names in both.")


def _match_rows(first: Sequence[str | None], second: Sequence[str | None]) -> list[tuple[int, int]]:
    position = {name: j for j, name in enumerate(second) if name is not None}
    return [(i, position[name]) for i, name in enumerate(first) if name in position]


def _unique_names(labels: Labels) -> list[str | None]:
    """The file name of each path; None where two paths have the same file name."""
    names = [path.rsplit("/", 1)[-1] for path in labels.paths]
    counts = Counter(names)
    return [name if counts[name] == 1 else None for name in names]


def matched_cells(labels: Labels, truth: Labels) -> tuple[Tensor, Tensor]:
    """Scores and truth of the photos and classes that both tables have (see `match_tables`): two tensors of the same shape."""
    match = match_tables(labels, truth)
    first, second = torch.tensor(match.rows).T
    columns = [[table.classes.index(name) for name in match.classes] for table in (labels, truth)]
    return labels.scores[first][:, columns[0]], truth.scores[second][:, columns[1]]


def mean_average_precision(labels: Labels, truth: Labels) -> tuple[float, dict[str, float]]:
    """mAP and {class: AP}, both in [0, 1], over the photos and classes that both tables have (see `match_tables`).

    A class without positive photos has AP NaN and is not counted. The mAP is NaN if no class has positive photos.
    Raises InputError if the tables share no photo or no class, or if `truth` contains numbers other than 1, 0 and NaN.
    """
    scores, known = matched_cells(labels, truth)  # (matched photos, shared classes) each
    shared = set(truth.classes)
    names = [name for name in labels.classes if name in shared]
    result = {name: average_precision(scores[:, c], known[:, c]) for c, name in enumerate(names)}
    counted = [ap for ap in result.values() if not math.isnan(ap)]
    return (sum(counted) / len(counted) if counted else math.nan), result
