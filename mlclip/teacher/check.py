"""A quick test of a teacher on pictures whose content is known.

Letters: N pictures, C names, D the joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import InputError
from .pseudolabel import FLAT_MARGIN
from .scoring import Teacher, class_embeddings, class_scores

TEMPLATE = "a photo of a {}"


@dataclass(frozen=True)
class TeacherCheck:
    """What a teacher says about some pictures."""

    pictures: int
    names: int
    right: int  # pictures whose name has the highest score
    mean_top1: float  # in [0, 1]; 1 / names if all scores are equal
    dimensions: int  # D

    @property
    def flat(self) -> bool:
        """Whether the scores say nothing about the names: the mean top-1 probability is that of equal scores."""
        return self.mean_top1 <= 1 / self.names + FLAT_MARGIN


def check_teacher(teacher: Teacher, pictures: Tensor, truth: Sequence[int], names: Sequence[str]) -> TeacherCheck:
    """Let a teacher name uint8 `pictures` (N, 3, S, S); `truth` (N,) are indices into `names`.

    InputError if an embedding is not finite: the weights are damaged.
    """
    text = class_embeddings(teacher, names, [TEMPLATE])  # (C, D)
    views = teacher.embed_views(pictures).cpu()  # (N, D)
    if not (text.isfinite().all() and views.isfinite().all()):
        raise InputError(f"{teacher.name} gives embeddings that are not finite. Its weights may be damaged.")
    top1, best = class_scores(views, text, teacher.logit_scale).max(dim=-1)  # (N,)
    right = int((best == torch.tensor(list(truth))).sum())
    return TeacherCheck(len(pictures), len(names), right, float(top1.double().mean()), text.shape[1])
