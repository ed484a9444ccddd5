"""What a table of labels says of itself, before anyone trains on it: weak classes, confused pairs, photos that fit nothing.

No truth is asked. Letters: N photos, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .labels import Labels
from .presets import shorten

DOUBT = 0.5  # a label nearer to its threshold than this share of the way to 0 or to 1 is neither given nor not
UNSURE = ("cdul", "ccd")  # whose labels lie in the middle by their making: CDUL's halve what one of two views says
EVERYWHERE = 0.8  # share of the photos from which on a class tells nothing
ALIKE = 0.5  # two classes are confused where so much of the photos with either have both (Jaccard)
FEWEST = 5  # photos with both, below which a pair is chance
MANY_EMPTY = 0.2  # share of photos without a label that deserves a word
MOST_PAIRS = 5


@dataclass(frozen=True)
class Diagnosis:
    """`photos` and `sure` are per class: how many photos have it, and their mean score (NaN where none has)."""

    classes: list[str]
    photos: list[int]
    sure: list[float]
    dead: list[str]  # no photo has it
    everywhere: list[str]  # nearly every photo has it
    doubtful: list[str]  # more photos are neither here nor there than have it
    confused: list[tuple[str, str, float]]  # pairs of classes, and which share of the photos with either has both
    empty: list[str]  # paths of photos without any label

    @property
    def advice(self) -> list[str]:
        """What is suspicious, one line each, with what to try."""
        lines = []
        if self.dead:
            lines.append(
                f"no photo shows {shorten(self.dead)}: leave the class out, or reword it (`name = other words`)"
            )
        if self.everywhere:
            lines.append(
                f"nearly every photo shows {shorten(self.everywhere)}: a name so broad tells photos not apart; a narrower one may"
            )
        if self.doubtful:
            lines.append(
                f"more doubtful photos than sure ones for {shorten(self.doubtful)}: reword, or --template ensemble"
            )
        for first, second, share in self.confused:
            lines.append(
                f"{first} and {second} are said of the same photos ({share:.0%} of those with either): reword one, or merge them"
            )
        total = len(self.empty)
        if total:
            lines.append(
                f"{total} photos fit no class, such as {shorten(self.empty, 3)}: if they show other things, name those with "
                "--contrast"
            )
        return lines


def diagnose(labels: Labels) -> Diagnosis:
    """Look over labels (N, C) in [0, 1]; NaN is not known and counts for nothing.

    A label is given from its class's threshold on, `labels.thresholds`.
    """
    scores, least = labels.scores, labels.thresholds
    said = scores >= least  # (N, C)
    photos = said.sum(0)  # (C,)
    known = (~scores.isnan()).sum(0).clamp(min=1)
    sure = torch.where(said, scores, 0).sum(0) / photos  # (C,)
    neither = ((scores > DOUBT * least) & (scores < 1 - DOUBT * (1 - least))).sum(0)
    without = (~said.any(1) & ~scores.isnan().all(1)).nonzero().flatten().tolist()
    names = labels.classes
    doubtful = [name for name, a, b in zip(names, photos.tolist(), neither.tolist(), strict=True) if 0 < a < b]
    few = len(without) < MANY_EMPTY * len(labels)
    return Diagnosis(
        names,
        photos.tolist(),
        sure.tolist(),
        [name for name, count in zip(names, photos.tolist(), strict=True) if count == 0],
        [name for name, share in zip(names, (photos / known).tolist(), strict=True) if share >= EVERYWHERE],
        [] if labels.meta.get("method") in UNSURE else doubtful,
        _confused(said.float(), names),
        [] if few else [labels.paths[row] for row in without],
    )


def _confused(said: Tensor, names: list[str]) -> list[tuple[str, str, float]]:
    both = said.T @ said  # (C, C)
    alone = both.diagonal()
    share = (both / (alone[:, None] + alone - both).clamp(min=1)).triu(1)
    share = torch.where(both >= FEWEST, share, 0)
    pairs = [(names[a], names[b], float(share[a, b])) for a, b in (share >= ALIKE).nonzero().tolist()]
    return sorted(pairs, key=lambda pair: -pair[2])[:MOST_PAIRS]
