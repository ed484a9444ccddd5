"""What a table of labels says of itself, before anyone trains on it: weak classes, confused pairs, photos that fit nothing.

No truth is asked. Letters: N photos, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .class_names import shorten
from .table import Labels

DOUBT = 0.5  # a label nearer to its threshold than this share of the way to 0 or to 1 is neither given nor not
UNSURE = ("cdul", "ccd")  # whose labels lie in the middle by their making: CDUL's halve what one of two views says
EVERYWHERE = 0.8  # share of the photos from which on a class tells nothing
MOST = 0.5  # ... and from which on it may have taken in the photos that show none of the classes
FEW_PHOTOS = 20  # below which a class in all or in none of them is no wonder
ALIKE = 0.5  # two classes are confused where so much of the photos with either have both (Jaccard)
FEWEST = 5  # photos with both, below which a pair is chance
MANY_EMPTY = 0.2  # share of photos without a label that deserves a word
MOST_PAIRS = 5
CONTRAST = "photos that show none of the names are taken for it: name what else is in them with --contrast"


@dataclass(frozen=True)
class Diagnosis:
    """`photos` and `sure` are per class: how many photos have it, and their mean score (NaN where none has)."""

    classes: list[str]
    photos: list[int]
    sure: list[float]
    dead: list[str]  # no photo has it
    everywhere: list[str]  # nearly every photo has it
    frequent: list[str]  # more than half of the photos have it, though not nearly all
    doubtful: list[str]  # more photos are neither here nor there than have it
    confused: list[tuple[str, str, float]]  # pairs of classes, and which share of the photos with either has both
    empty: list[str]  # paths of photos without any label
    known: int  # photos of which anything is known

    @property
    def many_empty(self) -> bool:
        return len(self.empty) >= max(1, MANY_EMPTY * self.known)

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
                f"nearly every photo shows {shorten(self.everywhere)}: a name so broad tells photos not apart, a narrower one may; "
                f"if most do not show it, {CONTRAST}"
            )
        if self.frequent:
            lines.append(f"more than half of the photos show {shorten(self.frequent)}: if that is not so, {CONTRAST}")
        if self.doubtful:
            lines.append(
                f"more doubtful photos than sure ones for {shorten(self.doubtful)}: reword, or --template ensemble"
            )
        for first, second, share in self.confused:
            lines.append(
                f"{first} and {second} are said of the same photos ({share:.0%} of those with either): reword one, or merge them"
            )
        if self.many_empty:
            lines.append(
                f"{len(self.empty)} of {self.known} photos fit no class, such as {', '.join(self.empty[:3])}: if they show other "
                "things, name those with --contrast"
            )
        return lines


def diagnose(labels: Labels) -> Diagnosis:
    """Look over labels (N, C) in [0, 1]; NaN is not known and counts for nothing.

    A label is given from its class's threshold on, `labels.thresholds`.
    """
    scores, least = labels.scores, labels.thresholds
    said = scores >= least  # (N, C)
    photos = said.sum(0)  # (C,)
    known = (~scores.isnan()).sum(0)  # (C,)
    share = torch.where(known >= FEW_PHOTOS, photos / known, torch.nan).tolist()
    sure = torch.where(said, scores, 0).sum(0) / photos  # (C,)
    neither = ((scores > DOUBT * least) & (scores < 1 - DOUBT * (1 - least))).sum(0)
    without = (~said.any(1) & ~scores.isnan().all(1)).nonzero().flatten().tolist()
    names = labels.classes
    doubtful = [name for name, a, b in zip(names, photos.tolist(), neither.tolist(), strict=True) if 0 < a < b]
    return Diagnosis(
        names,
        photos.tolist(),
        sure.tolist(),
        [name for name, part in zip(names, share, strict=True) if part == 0],
        [name for name, part in zip(names, share, strict=True) if part >= EVERYWHERE],
        [name for name, part in zip(names, share, strict=True) if MOST < part < EVERYWHERE],
        [] if labels.meta.get("method") in UNSURE else doubtful,
        _confused(said.float(), names),
        [labels.paths[row] for row in without],
        int((~scores.isnan()).any(1).sum()),
    )


def _confused(said: Tensor, names: list[str]) -> list[tuple[str, str, float]]:
    both = said.T @ said  # (C, C)
    alone = both.diagonal()
    share = (both / (alone[:, None] + alone - both).clamp(min=1)).triu(1)
    share = torch.where(both >= FEWEST, share, 0)
    pairs = [(names[a], names[b], float(share[a, b])) for a, b in (share >= ALIKE).nonzero().tolist()]
    return sorted(pairs, key=lambda pair: -pair[2])[:MOST_PAIRS]
