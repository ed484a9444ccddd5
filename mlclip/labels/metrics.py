"""Compare scores with true labels: average precision (AP), its mean over the classes (mAP), and the calibration error.

`matching` finds what two tables share. Letters: N photos (rows), C classes (columns).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import InputError, TableOptions
from ..methods.calibration import expected_calibration_error
from ..methods.hierarchy import consistent_scores, consistent_thresholds, count_overlaps, count_violations
from ..progress import LineProgress, Progress
from ..spelling import did_you_mean, shorten
from .class_names import CLASS_PRESETS, Classes, as_prompts
from .class_tree import ClassTree
from .matching import Match, enough_match, match_tables
from .parts import LabelFiles
from .table import Labels, read_labels, read_truth


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
    last = np.append(ranks[1:] != ranks[:-1], True).nonzero()[0]  # the last score of each group of equal scores
    precision = found[last] / (last + 1)
    return float((precision * np.diff(found[last], prepend=0)).sum() / found[-1])


def matched_cells(labels: Labels, truth: Labels, match: Match | None = None) -> tuple[Tensor, Tensor]:
    """Scores and truth of the photos and classes that both tables have, by `match_tables`: two tensors of the same shape."""
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

    A class without positive or without negative photos has AP NaN and is not counted. The mAP is NaN if no class is counted.
    Raises InputError if the tables share no photo or no class, or if `truth` contains numbers other than 1, 0 and NaN.
    """
    match = match or match_tables(labels, truth)
    scores, known = matched_cells(labels, truth, match)  # (matched photos, shared classes) each
    known[:, ~known.lt(1).any(0)] = math.nan  # without a negative photo, every order has an AP of 1
    result = {name: average_precision(scores[:, c], known[:, c]) for c, name in enumerate(match.classes)}
    counted = [ap for ap in result.values() if not math.isnan(ap)]
    return (sum(counted) / len(counted) if counted else math.nan), result


@dataclass(frozen=True, repr=False)
class Evaluation:
    """How good scores are by true labels; all numbers in [0, 1]."""

    mean_average_precision: float  # over the classes that have a positive and a negative photo
    average_precision: dict[str, float]  # of each of these classes
    without_positives: list[str]
    without_negatives: list[str]  # but with positives
    calibration_error: float  # expected calibration error over all known cells
    match: Match  # which photos and classes both tables have
    truth: Labels  # the true labels

    def __repr__(self) -> str:
        count = len(self.average_precision)
        return (
            f"<Evaluation: mAP {100 * self.mean_average_precision:.1f} % over {count} classes and {len(self.match.rows)} photos, "
            f"ECE {100 * self.calibration_error:.1f} %>"
        )

    def _repr_html_(self) -> str:
        """For a notebook: the line of `repr`, and the average precision of each class in %."""
        rows = [
            f"<tr><td>{escape(name)}</td><td>{100 * ap:.1f}</td></tr>" for name, ap in self.average_precision.items()
        ]
        return f"<p>{escape(repr(self))}</p><table><tr><th>class</th><th>AP (%)</th></tr>{''.join(rows)}</table>"


def evaluate(
    labels: Labels | LabelFiles,
    truth: Labels | str | Path,
    *,
    only: Classes | None = None,
    partial: bool = False,
    tables: TableOptions | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Average precision of each class, their mean, and the calibration error, as `mlclip evaluate` computes them.

    `truth`: a table or its file, or a form of `read_truth` such as "voc:DIR" or "coco:FILE". `only` limits the classes. `tables`
    says how a .csv of another program is read; its `split` is for the truth. Raises InputError where too little is in both
    tables (see `enough_match`), or where no class has a positive and a negative photo.
    """
    tables, progress = tables or TableOptions(), progress or LineProgress()
    scores = labels if isinstance(labels, Labels) else read_labels(labels, tables.for_scores, progress=progress)
    known = read_known(truth, scores.classes, tables, progress)
    if only is not None:
        names = list(as_prompts(only))
        unknown = [name for name in names if name not in known.classes]
        if unknown:
            hint = did_you_mean(unknown[0], [*known.classes, *CLASS_PRESETS])
            raise InputError(f"`only` names {unknown[0]}, but the truth has {shorten(known.classes, 20)}.{hint}")
        known = known.aligned(known.paths, names)
    names = name_of(labels, "the predictions"), name_of(truth, "the truth")
    match = enough_match(scores, known, *names, partial=partial or tables.partial)
    mean, per_class = mean_average_precision(scores, known, match)
    judged = {name: value for name, value in per_class.items() if value == value}  # without NaN
    if not judged:
        remedy = 'Write 0 where a class is absent, or say that empty cells are: `empty="absent"`.'
        raise InputError(f"no class has a photo that shows it and one that does not, so there is no mAP. {remedy}")
    compared, marks = matched_cells(scores, known, match)  # (matched photos, shared classes) each
    positive = dict(zip(match.classes, marks.eq(1).any(0).tolist(), strict=True))
    empty = [[name for name in per_class if name not in judged and positive[name] == which] for which in (False, True)]
    return Evaluation(mean, judged, *empty, expected_calibration_error(compared, marks), match, known)


def read_known(truth: Labels | str | Path, classes: Sequence[str], tables: TableOptions, progress: Progress) -> Labels:
    """The true labels, from where `truth` says. `classes` are those of the scores; they help to read a column of names."""
    if isinstance(truth, Labels):
        return truth
    return read_truth(os.fspath(truth), tables, progress=progress, known_classes=classes)


def name_of(table: Labels | LabelFiles, words: str) -> str:
    """What a message calls a table: its file, or these words."""
    return os.fspath(table) if isinstance(table, str | os.PathLike) else words


# -- hierarchy and groups


def compare_consistency(labels: Labels, truth: Labels, tree: ClassTree) -> list[str]:
    """Two lines: the mAP of scores that are not yet consistent, and of what `tree` makes of them; and their contradictions.

    Those are scores above the parent's, classes without their parent, and photos with two classes of a group.
    """
    parents, groups = tree.parent_columns(labels.classes), tree.group_columns(labels.classes)
    means, counts = [], []
    for table in (labels, consistent_labels(labels, tree)):
        chosen = table.scores >= table.thresholds  # (N, C)
        means.append(f"{100 * mean_average_precision(table, truth)[0]:.1f}")
        violations, orphans = count_violations(table.scores, parents), count_violations(chosen, parents)
        counts.append((violations, orphans, count_overlaps(chosen, groups)))
    kinds = ("scores above the parent's", "classes without their parent", "photos with two classes of a group")
    both = [f"{before} and {after} {kind}" for before, after, kind in zip(*counts, kinds, strict=True)]
    return [
        f"mAP without and with the hierarchy and groups of the classes: {' and '.join(means)} %",
        f"contradictions without and with them: {', '.join(both)}",
    ]


def consistent_labels(labels: Labels, tree: ClassTree) -> Labels:
    """The labels with consistent scores and thresholds. It is meant for predictions, once (see `methods.hierarchy`)."""
    parents, groups = tree.parent_columns(labels.classes), tree.group_columns(labels.classes)
    thresholds = consistent_thresholds(labels.thresholds, parents, groups).tolist()
    scores = consistent_scores(labels.scores, parents, groups)
    return replace(labels, scores=scores, meta={**labels.meta, "thresholds": thresholds, "hierarchy": tree.plain()})
