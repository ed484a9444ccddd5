"""Find what looks wrong in a table of labels before training: weak classes, confused pairs, photos without any class.

No true labels are needed for that. With true labels: what the hierarchy and the groups of the classes do to scores.
Letters: N photos, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..methods.hierarchy import consistent_scores, consistent_thresholds, count_overlaps, count_violations
from ..spelling import shorten
from .class_tree import ClassTree
from .labels import Labels
from .metrics import mean_average_precision

DOUBT = 0.5  # a label is doubtful if it is nearer to its threshold than this share of the way to 0 or to 1
# Methods whose labels often lie in the middle: CDUL halves what only one of its two views shows.
UNSURE = ("cdul", "ccd")
EVERYWHERE = 0.8  # a class in at least this share of the photos does not separate them
MOST = 0.5  # a class in more than this share may include photos that show none of the classes
FEW_PHOTOS = 20  # with fewer photos, a class in all or none of them is not suspicious
ALIKE = 0.5  # two classes are confused if at least this share of the photos with either have both (Jaccard index)
FEWEST = 5  # with fewer photos that have both, a pair is due to chance
MANY_EMPTY = 0.2  # share of photos without a class that is worth a line of advice
MOST_PAIRS = 5
CONTRAST = "photos that show none of the classes may be counted here; name what they show with `contrast`"


@dataclass(frozen=True)
class Diagnosis:
    """What was found. `photos` and `sure` have one number per class: photos with the class, and their mean score (NaN if none)."""

    classes: list[str]
    photos: list[int]
    sure: list[float]
    dead: list[str]  # no photo has it
    everywhere: list[str]  # nearly every photo has it
    frequent: list[str]  # more than half of the photos have it, but not nearly all
    doubtful: list[str]  # it has more doubtful photos than photos with the class
    confused: list[tuple[str, str, float]]  # pairs of classes, and the share of the photos with either that have both
    empty: list[str]  # paths of photos without any class
    known: int  # number of photos with at least one known score

    @property
    def many_empty(self) -> bool:
        """Whether so many photos have no class that it is worth a line of advice."""
        return len(self.empty) >= max(1, MANY_EMPTY * self.known)

    @property
    def advice(self) -> list[str]:
        """What looks wrong, one line each, with something to try."""
        lines = []
        if self.dead:
            them = "it" if len(self.dead) == 1 else "them"
            lines.append(
                f"No photo shows {shorten(self.dead)}. Remove {them}, or use other words (label = other words)."
            )
        if self.everywhere:
            lines.append(
                f"Nearly every photo shows {shorten(self.everywhere)}. Such a broad name does not separate the photos; try a "
                f"narrower one. If most photos do not show it, {CONTRAST}."
            )
        if self.frequent:
            lines.append(f"More than half of the photos show {shorten(self.frequent)}. If that is wrong, {CONTRAST}.")
        if self.doubtful:
            lines.append(
                f"The labels of {shorten(self.doubtful)} are more often doubtful than certain. Use other words "
                '(label = other words), or more prompts with `templates="ensemble"`.'
            )
        for first, second, share in self.confused:
            lines.append(
                f"{first} and {second} are found in the same photos (both in {share:.0%} of the photos with either). Use other "
                "words for one of them, or merge them."
            )
        if self.many_empty:
            lines.append(
                f"{len(self.empty)} of {self.known} photos show none of the classes, for example {', '.join(self.empty[:3])}. "
                "If they show other things, name those with `contrast`."
            )
        return lines


def diagnose(labels: Labels) -> Diagnosis:
    """Check labels (N, C) in [0, 1]; NaN is unknown and ignored.

    A photo has a class if its score is at least the threshold of the class, `labels.thresholds`.
    """
    scores, thresholds, names = labels.scores, labels.thresholds, labels.classes
    positive = scores >= thresholds  # (N, C)
    photos = positive.sum(0)  # (C,)
    known = (~scores.isnan()).sum(0)  # (C,)
    share = torch.where(known >= FEW_PHOTOS, photos / known, torch.nan).tolist()
    sure = torch.where(positive, scores, 0).sum(0) / photos  # (C,)
    without = (~positive.any(1) & ~scores.isnan().all(1)).nonzero().flatten().tolist()
    near = ((scores > DOUBT * thresholds) & (scores < 1 - DOUBT * (1 - thresholds))).sum(0)  # (C,)
    counts = zip(names, photos.tolist(), near.tolist(), strict=True)
    doubtful = [name for name, certain, many in counts if 0 < certain < many]
    return Diagnosis(
        names,
        photos.tolist(),
        sure.tolist(),
        [name for name, part in zip(names, share, strict=True) if part == 0],
        [name for name, part in zip(names, share, strict=True) if part >= EVERYWHERE],
        [name for name, part in zip(names, share, strict=True) if MOST < part < EVERYWHERE],
        [] if labels.meta.get("method") in UNSURE else doubtful,
        _confused(positive.float(), names),
        [labels.paths[row] for row in without],
        int((~scores.isnan()).any(1).sum()),
    )


def _confused(positive: Tensor, names: list[str]) -> list[tuple[str, str, float]]:
    both = positive.T @ positive  # (C, C)
    count = both.diagonal()
    share = (both / (count[:, None] + count - both).clamp(min=1)).triu(1)
    share = torch.where(both >= FEWEST, share, 0)
    pairs = [(names[a], names[b], float(share[a, b])) for a, b in (share >= ALIKE).nonzero().tolist()]
    return sorted(pairs, key=lambda pair: -pair[2])[:MOST_PAIRS]


# -- hierarchy and groups


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
