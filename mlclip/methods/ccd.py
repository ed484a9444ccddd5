"""CCD's equations ("Classifier-guided CLIP Distillation for Unsupervised Multi-label Classification", CVPR 2025).

Pure functions of tensors; classes on the last axis. Letters: N photos, C classes, K local views; "..." any batch axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 0.05  # scores are raised to 1/20 before they are debiased


def entropy(scores: Tensor) -> Tensor:
    """Σ −s ln s of softmax scores (..., C), in nats: (...). ln C where nothing is known, 0 where one class has all.

    >>> entropy(torch.tensor([0.5, 0.5, 0.0]))
    tensor(0.6931)
    """
    return torch.special.entr(scores).sum(dim=-1)


def class_bias(scores: Tensor, max_entropy: float = 2.0) -> Tensor:
    """CCD step 1, bias: softmax scores (N, C) of whole photos -> (C,) in [0, 1], NaN where there is no estimate.

    Of the confident photos, those with an entropy of at most `max_entropy` nats, class c's bias is the mean top-1
    score of those whose top-1 class it is. NaN: class c is never a confident top-1; see `complete_bias`.

    >>> class_bias(torch.tensor([[0.9, 0.1], [0.7, 0.3]]))
    tensor([0.8000,    nan])
    """
    best, top = scores.max(dim=-1)  # (N,), (N,)
    sure = entropy(scores) <= max_entropy
    classes = scores.shape[-1]
    total = torch.zeros(classes, dtype=torch.double).index_add_(0, top[sure], best[sure].double())
    return (total / torch.bincount(top[sure], minlength=classes)).to(scores.dtype)


def complete_bias(bias: Tensor) -> Tensor:
    """A class without an estimate (NaN) takes the mean of the others; 1, no debiasing, where no class has one. (C,) -> (C,)

    >>> complete_bias(torch.tensor([0.8, float("nan"), 0.6]))
    tensor([0.8000, 0.7000, 0.6000])
    """
    return bias.nan_to_num(nan=float(bias.nanmean().nan_to_num(1.0)))


def debias(scores: Tensor, bias: Tensor, floor: float = FLOOR) -> Tensor:
    """CCD step 1, labels: scores (..., C), bias (C,) -> clamp(max(scores, floor) / bias, 0, 1).

    The floor smooths: no class is ever wholly excluded. Dividing lifts what CLIP under-rates for a class to 1.

    >>> debias(torch.tensor([0.6, 0.01]), torch.tensor([0.5, 0.8]))
    tensor([1.0000, 0.0625])
    """
    return (scores.clamp(min=floor) / bias).clamp(0, 1)


def calibrate_threshold(
    scores: Tensor, fewer_than: float = 6.0, sample: int = 100, start: float = 0.05, step: float = 0.001
) -> float:
    """CCD step 2, the class threshold t, without labels: scores (N, C) in [0, 1] -> t in [start, 1].

    On samples of 100 photos t is raised from 0.05 in steps of 0.001 until the mean number of classes above it comes
    into the paper's (4, 6), which from above means below 6; the mean of the samples' thresholds is taken. Where fewer are
    above it from the outset t stays at `start`.

    >>> calibrate_threshold(torch.tensor([[0.9, 0.8, 0.2]]), fewer_than=2.5, step=0.1)
    0.25
    """
    found = []
    for part in scores.split(sample):
        too_many = math.ceil(fewer_than * len(part))  # scores above t, in all
        order = part.flatten().sort(descending=True).values
        needed = float(order[too_many - 1]) if len(order) >= too_many else 0.0  # t must reach it
        steps = max(0, math.ceil((needed - start) / step - 1e-6))
        found.append(min(start + steps * step, 1.0))
    return round(sum(found) / len(found), 6)


def cam_box(cam: Tensor, level: float = 0.95, margin: float = 80.0) -> tuple[int, int, int, int]:
    """CCD step 2, local view: a class activation map (H, W) at the image's size -> (x0, y0, x1, y1) in pixels.

    The map is min-max normalised; the box holds every pixel above `level`, is grown by `margin` pixels on each side and
    clipped to the image; x1 and y1 are not included. A flat map has no hot pixels: the whole image.

    >>> cam = torch.zeros(10, 12); cam[2, 7] = cam[4, 5] = 1
    >>> cam_box(cam, margin=1)
    (4, 1, 9, 6)
    """
    height, width = cam.shape
    low, high = cam.min(), cam.max()
    if not high > low:
        return 0, 0, width, height
    hot = (cam - low) / (high - low) > level
    rows, columns = hot.any(1).nonzero().flatten(), hot.any(0).nonzero().flatten()
    m = round(margin)
    return (
        max(0, int(columns[0]) - m),
        max(0, int(rows[0]) - m),
        min(width, int(columns[-1]) + 1 + m),
        min(height, int(rows[-1]) + 1 + m),
    )


def local_scores(crops: Tensor, bias: Tensor, floor: float = FLOOR) -> Tensor:
    """CCD step 2: softmax scores (K, C) of one photo's local views, bias (C,) -> (C,), their debiased maximum.

    Without any local view (K = 0) that is floor / bias.

    >>> local_scores(torch.tensor([[0.6, 0.0], [0.1, 0.4]]), torch.tensor([1.0, 0.5]))
    tensor([0.6000, 0.8000])
    """
    best = crops.amax(dim=0) if len(crops) else torch.zeros_like(bias)
    return debias(best, bias, floor)


def merge_local(label: Tensor, local: Tensor, keep: float = 0.2) -> Tensor:
    """CCD step 2, label update: labels (..., C) and local scores (..., C) -> clamp(r·label + (1−r)·local, 0, 1), r = `keep`.

    >>> merge_local(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 1.0]))
    tensor([0.6000, 0.8000])
    """
    return (keep * label + (1 - keep) * local).clamp(0, 1)


def consistency_loss(weak: Tensor, strong: Tensor) -> Tensor:
    """CCD step 2, consistency: logits (..., C) of two views -> (...), the cross-entropy of strong against sigmoid(weak).

    Summed over classes, in nats. The weak view is the target and gets no gradient.

    >>> consistency_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor(0.6931)
    """
    return F.binary_cross_entropy_with_logits(strong, weak.detach().sigmoid(), reduction="none").sum(dim=-1)


def acceleration(history: Sequence[float]) -> int | None:
    """CCD's label-free stopping: the place, from 0, of the first epoch at which the increase accelerates, or None.

    `history` is an epoch's mAP of training predictions against the labels that are exactly 1, one number an epoch.
    Increase accelerates where the second difference is above 0.

    >>> acceleration([0.50, 0.60, 0.65, 0.68, 0.72])
    4
    """
    for place in range(2, len(history)):
        if history[place] - 2 * history[place - 1] + history[place - 2] > 0:
            return place
    return None
