"""What the hierarchy and the exclusive groups of the classes do to scores: quality and contradictions, before and after."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..methods.hierarchy import consistent_scores, consistent_thresholds, count_overlaps, count_violations
from .class_tree import ClassTree
from .metrics import mean_average_precision
from .table import Labels


@dataclass(frozen=True)
class Consistency:
    """Before and after the scores were made consistent. mAPs and APs are in [0, 1]; the rest are counts."""

    mean_average_precision: tuple[float, float]
    average_precision: dict[str, tuple[float, float]]  # of each class in both tables; NaN without positives
    violations: tuple[int, int]  # cells where a child has a higher score than its parent
    orphans: tuple[int, int]  # cells where a child reaches its threshold and its parent does not
    overlaps: tuple[int, int]  # photos with more than one class of a group, for each group

    def summary(self) -> list[str]:
        """Two lines for a person."""
        before, after = (f"{100 * value:.1f}" for value in self.mean_average_precision)
        return [
            f"mAP without and with the hierarchy and groups of the classes: {before} and {after} %",
            f"contradictions without and with them: {self.violations[0]} and {self.violations[1]} scores above the parent's, "
            f"{self.orphans[0]} and {self.orphans[1]} classes without their parent, "
            f"{self.overlaps[0]} and {self.overlaps[1]} photos with two classes of a group",
        ]


def compare_consistency(labels: Labels, truth: Labels, tree: ClassTree | None = None) -> Consistency:
    """Compare scores that are not yet consistent with what `tree` makes of them. None: the tree in the labels' `meta`.

    Raises InputError as `mean_average_precision` does.
    """
    tree = ClassTree.of(labels.meta) if tree is None else tree
    after = consistent_labels(labels, tree)
    parents, groups = tree.parent_columns(labels.classes), tree.group_columns(labels.classes)
    means, per_class, violations, orphans, overlaps = [], [], [], [], []
    for table in (labels, after):
        mean, each = mean_average_precision(table, truth)
        chosen = table.scores >= table.thresholds  # (N, C)
        means.append(mean)
        per_class.append(each)
        violations.append(count_violations(table.scores, parents))
        orphans.append(count_violations(chosen, parents))
        overlaps.append(count_overlaps(chosen, groups))
    both = {name: (value, per_class[1][name]) for name, value in per_class[0].items()}
    return Consistency(tuple(means), both, tuple(violations), tuple(orphans), tuple(overlaps))


def consistent_labels(labels: Labels, tree: ClassTree) -> Labels:
    """The labels with consistent scores and thresholds. It is meant for predictions, once (see `methods.hierarchy`)."""
    parents, groups = tree.parent_columns(labels.classes), tree.group_columns(labels.classes)
    thresholds = consistent_thresholds(labels.thresholds, parents, groups).tolist()
    scores = consistent_scores(labels.scores, parents, groups)
    return replace(labels, scores=scores, meta={**labels.meta, "thresholds": thresholds, "hierarchy": tree.plain()})
