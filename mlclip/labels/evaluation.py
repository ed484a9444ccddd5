"""Scores and true labels to average precision."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import InputError, TableOptions
from ..methods.calibration import expected_calibration_error
from ..progress import LineProgress, Progress
from ..spelling import did_you_mean
from .class_names import CLASS_PRESETS, Classes, as_prompts
from .matching import Match, match_tables, refuse_small_match
from .metrics import matched_cells, mean_average_precision
from .table import Labels, read_labels, read_truth


@dataclass(frozen=True)
class Evaluation:
    """How good scores are by true labels; all numbers in [0, 1]."""

    mean_average_precision: float  # over the classes that have a positive photo
    average_precision: dict[str, float]  # of each class with a positive photo
    without_positives: list[str]
    calibration_error: float  # expected calibration error over all known cells
    match: Match  # which photos and classes both tables have
    truth: Labels  # the true labels


def evaluate(
    labels: Labels | str | Path,
    truth: Labels | str | Path,
    *,
    only: Classes | None = None,
    partial: bool = False,
    tables: TableOptions | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Average precision of each class, their mean, and the calibration error, as `mlclip evaluate` computes them.

    `truth`: a table or its file, or a form of `read_truth` such as "voc:DIR" or "coco:FILE". `only` limits the classes. `tables`
    says how a .csv of another program is read; its `split` is for the truth. Raises InputError where no photo
    or no class is in both tables, where fewer than half of those of the smaller table are (unless `partial`), or where no class
    has a positive photo.
    """
    tables, progress = tables or TableOptions(), progress or LineProgress()
    scores = labels if isinstance(labels, Labels) else read_labels(labels, tables.for_scores, progress=progress)
    known = read_known(truth, scores.classes, tables, progress)
    if only is not None:
        known = known.aligned(known.paths, _chosen(only, known.classes))
    match = match_tables(scores, known)
    first, second = name_of(labels, "the predictions"), name_of(truth, "the truth")
    refuse_small_match(match, first, second, partial=partial or tables.partial)
    mean, per_class = mean_average_precision(scores, known, match)
    judged = {name: value for name, value in per_class.items() if value == value}  # without NaN
    if not judged:
        raise InputError("no class has a positive photo among those that both tables have; nothing can be evaluated")
    error = expected_calibration_error(*matched_cells(scores, known, match))
    empty = [name for name in per_class if name not in judged]
    return Evaluation(mean, judged, empty, error, match, known)


def read_known(truth: Labels | str | Path, classes: Sequence[str], tables: TableOptions, progress: Progress) -> Labels:
    """The true labels, from where `truth` says. `classes` are those of the scores; they help to read a column of names."""
    if isinstance(truth, Labels):
        return truth
    return read_truth(os.fspath(truth), tables, progress=progress, known_classes=classes)


def name_of(table: Labels | str | Path, words: str) -> str:
    """What a message calls a table: its file, or these words."""
    return words if isinstance(table, Labels) else os.fspath(table)


def _chosen(only: Classes, classes: list[str]) -> list[str]:
    names = list(as_prompts(only))
    unknown = [name for name in names if name not in classes]
    if unknown:
        hint = did_you_mean(unknown[0], [*classes, *CLASS_PRESETS])
        raise InputError(
            f"`only` names {', '.join(unknown)}, which the truth does not have.{hint} It has {', '.join(classes)}"
        )
    return names
