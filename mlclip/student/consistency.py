"""The hierarchy and the exclusive groups of a model's classes, applied to its scores and thresholds.

Letters: N photos, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..labels.class_tree import ClassTree
from ..methods.hierarchy import consistent_scores, consistent_thresholds
from ..methods.thresholds import match_expected_positives
from .checkpoint import Checkpoint


def make_consistent(scores: Tensor, classes: Sequence[str], meta: Mapping[str, Any]) -> Tensor:
    """Scores (N, C) that agree with the tree in `meta`; without one, the same scores."""
    tree = ClassTree.of(meta)
    return consistent_scores(scores, tree.parent_columns(classes), tree.group_columns(classes)) if tree else scores


def fitted_thresholds(scores: Tensor, labels: Tensor, classes: Sequence[str], meta: Mapping[str, Any]) -> Tensor:
    """The thresholds (C,) with which the consistent scores (N, C) give each class as many photos as the labels expect."""
    return match_expected_positives(make_consistent(scores, classes, meta), labels)


def thresholds_of(checkpoint: Checkpoint) -> Tensor:
    """The model's thresholds (C,), so that no child is chosen without its parent, and at most one class of a group."""
    tree, classes = ClassTree.of(checkpoint.meta), checkpoint.model.classes
    if not tree or not checkpoint.consistent:
        return checkpoint.thresholds
    return consistent_thresholds(checkpoint.thresholds, tree.parent_columns(classes), tree.group_columns(classes))
