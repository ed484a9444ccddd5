"""CCD's equations ("Classifier-guided CLIP Distillation for Unsupervised Multi-label Classification", CVPR 2025).

Pure functions of tensors; classes are the last axis. Letters: N photos, C classes, K local views; "..." any batch axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 0.05  # scores are raised to 1/20 before they are debiased


def entropy(scores: Tensor) -> Tensor:
    """Σ −s ln s of softmax scores (..., C) -> (...), in nats: ln C for equal scores, 0 where one class has score 1.

    >>> entropy(torch.tensor([0.5, 0.5, 0.0]))
    tensor(0.6931)
    """
    return torch.special.entr(scores).sum(dim=-1)


def class_bias(scores: Tensor, max_entropy: float = 2.0) -> Tensor:
    """CCD step 1, bias: softmax scores (N, C) of whole photos -> (C,) in [0, 1], NaN where there is no estimate.

    A photo is confident if its entropy is at most `max_entropy` nats. The bias of class c is the mean top-1 score of the
    confident photos whose top-1 class is c. It is NaN if there is no such photo; see `complete_bias`.

    >>> class_bias(torch.tensor([[0.9, 0.1], [0.7, 0.3]]))
    tensor([0.8000,    nan])
    """
    best, top = scores.max(dim=-1)  # (N,), (N,)
    sure = entropy(scores) <= max_entropy
    classes = scores.shape[-1]
    total = torch.zeros(classes, dtype=torch.double).index_add_(0, top[sure], best[sure].double())
    return (total / torch.bincount(top[sure], minlength=classes)).to(scores.dtype)


def complete_bias(bias: Tensor) -> Tensor:
    """Replace NaN (no estimate) by the mean of the other classes, or by 1 (no debiasing) if all are NaN. (C,) -> (C,)

    >>> complete_bias(torch.tensor([0.8, float("nan"), 0.6]))
    tensor([0.8000, 0.7000, 0.6000])
    """
    return bias.nan_to_num(nan=float(bias.nanmean().nan_to_num(1.0)))


def debias(scores: Tensor, bias: Tensor, floor: float = FLOOR) -> Tensor:
    """CCD step 1, labels: scores (..., C), bias (C,) -> clamp(max(scores, floor) / bias, 0, 1).

    The floor smooths the labels: no class gets exactly 0. The division raises the scores of classes that CLIP under-rates.

    >>> debias(torch.tensor([0.6, 0.01]), torch.tensor([0.5, 0.8]))
    tensor([1.0000, 0.0625])
    """
    return (scores.clamp(min=floor) / bias).clamp(0, 1)


def calibrate_threshold(
    scores: Tensor, fewer_than: float = 6.0, sample: int = 100, start: float = 0.05, step: float = 0.001
) -> float:
    """CCD step 2, the class threshold t, without labels: scores (N, C) in [0, 1] -> t in [start, 1].

    On samples of 100 photos, t rises from 0.05 in steps of 0.001 until the mean number of classes above it lies in the
    paper's interval (4, 6). As the number only falls, that means: until it is below 6. The result is the mean of the samples'
    thresholds. If the number is below 6 from the beginning, t stays at `start`.

    >>> calibrate_threshold(torch.tensor([[0.9, 0.8, 0.2]]), fewer_than=2.5, step=0.1)
    0.25
    """
    found = []
    for part in scores.split(sample):
        too_many = math.ceil(fewer_than * len(part))  # the smallest number of scores above t that is too many
        order = part.flatten().sort(descending=True).values
        needed = float(order[too_many - 1]) if len(order) >= too_many else 0.0  # t must reach it
        steps = max(0, math.ceil((needed - start) / step - 1e-6))
        found.append(min(start + steps * step, 1.0))
    return round(sum(found) / len(found), 6)


def cam_box(cam: Tensor, level: float = 0.95, margin: float = 80.0) -> tuple[int, int, int, int]:
    """CCD step 2, local view: a class activation map (H, W) at the image's size -> (x0, y0, x1, y1) in pixels.

    The map is min-max normalised. The box contains every pixel above `level`, grows by `margin` pixels on each side and is
    clipped to the image. x1 and y1 are exclusive. A constant map has no such pixels; its box is the whole image.

    >>> cam = torch.zeros(10, 12); cam[2, 7] = cam[4, 5] = 1
    >>> cam_box(cam, margin=1)
    (4, 1, 9, 6)
    """
    height, width = cam.shape
    low, high = cam.min(), cam.max()
    if not high > low:
        return 0, 0, width, height
    above = (cam - low) / (high - low) > level
    rows, columns = above.any(1).nonzero().flatten(), above.any(0).nonzero().flatten()
    m = round(margin)
    return (
        max(0, int(columns[0]) - m),
        max(0, int(rows[0]) - m),
        min(width, int(columns[-1]) + 1 + m),
        min(height, int(rows[-1]) + 1 + m),
    )


def local_scores(crops: Tensor, bias: Tensor, floor: float = FLOOR) -> Tensor:
    """CCD step 2: softmax scores (K, C) of one photo's local views, bias (C,) -> their debiased maximum (C,).

    Without local views (K = 0) the result is floor / bias.

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
    """CCD's label-free stopping: the index, from 0, of the first epoch where the increase accelerates, or None.

    `history` has one number per epoch: the mAP of the training predictions against the labels that are exactly 1.
    The increase accelerates where the second difference is above 0.

    >>> acceleration([0.50, 0.60, 0.65, 0.68, 0.72])
    4
    """
    for epoch in range(2, len(history)):
        if history[epoch] - 2 * history[epoch - 1] + history[epoch - 2] > 0:
            return epoch
    return None
