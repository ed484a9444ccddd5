"""CDUL's equations ("CLIP-Driven Unsupervised Learning for Multi-Label Image Classification", ICCV 2023).

Pure functions of tensors; classes are the last axis. Letters: C classes, S snippets; "..." any batch axes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PROBABILITY_MARGIN = 1e-6  # probabilities are kept this far from 0 and 1 before a logarithm is taken


def aggregate(local: Tensor, threshold: float = 0.5) -> Tensor:
    """CDUL step 1, aggregation: snippet scores (..., S, C) in [0, 1] -> (..., C).

    Each class gets the maximum over the snippets if that maximum is at least `threshold` (the paper's ζ), else the minimum.
    So a class that one snippet shows clearly gets a high score, and a class that no snippet shows gets a low one.

    >>> aggregate(torch.tensor([[0.7, 0.2], [0.1, 0.3]]))
    tensor([0.7000, 0.2000])
    """
    highest, lowest = local.amax(dim=-2), local.amin(dim=-2)  # (..., C)
    return torch.where(highest >= threshold, highest, lowest)


def fuse(global_scores: Tensor, aggregate: Tensor, weight: float = 0.5, disagreement: float = 0.0) -> Tensor:
    """CDUL step 1, final labels: (..., C), (..., C) -> (..., C) in [0, 1].

    The result is (1 − weight)·global + weight·aggregate. The variant in the paper's supplement adds half of
    λ·|global − aggregate|; `disagreement` is λ.

    >>> fuse(torch.tensor([0.8, 0.1]), torch.tensor([0.4, 0.9]))
    tensor([0.6000, 0.5000])
    """
    fused = (1 - weight) * global_scores + weight * aggregate
    if disagreement:
        fused = fused + 0.5 * disagreement * (global_scores - aggregate).abs()
    return fused.clamp(0, 1)


def latent_of(label: Tensor, margin: float = PROBABILITY_MARGIN) -> Tensor:
    """CDUL step 2, start: the logit of labels (..., C) in [0, 1], after clamping to [margin, 1 − margin].

    >>> latent_of(torch.tensor([0.5, 0.88079708]))
    tensor([0., 2.])
    """
    return torch.logit(label, eps=margin)


def bernoulli_kl(target: Tensor, prediction: Tensor) -> Tensor:
    """CDUL step 2, loss: Σ_i KL(Bern(target_i) ‖ Bern(prediction_i)), (..., C) probabilities -> (...) in nats.

    It is 0 where both agree. Targets of exactly 0 and 1 are allowed. It is not a softmax over classes, because several
    classes can be present at once.

    >>> bernoulli_kl(torch.tensor([0.5, 1.0]), torch.tensor([0.5, 0.5]))
    tensor(0.6931)
    """
    prediction = prediction.clamp(PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)
    on = torch.xlogy(target, target) - target * prediction.log()
    off = torch.xlogy(1 - target, 1 - target) - (1 - target) * torch.log1p(-prediction)
    return (on + off).sum(dim=-1)


def bernoulli_kl_with_logits(target: Tensor, logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """`bernoulli_kl(target, sigmoid(logits))`, numerically stable: (..., C), (..., C) -> (...).

    Its gradient with respect to the logits is sigmoid(logits) − target, as for binary cross-entropy with soft targets.
    `weights` (..., C) are factors of the classes' parts; None is 1 for all.

    >>> bernoulli_kl_with_logits(torch.tensor([0.5, 1.0]), torch.tensor([0.0, 0.0]))
    tensor(0.6931)
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    divergence = cross_entropy - bernoulli_entropy(target)
    return (divergence if weights is None else divergence * weights).sum(dim=-1)


def bernoulli_entropy(label: Tensor) -> Tensor:
    """H(Bern(label)) of labels (..., C) in [0, 1], in nats, same shape; 0 at exactly 0 and 1, ln 2 at ½.

    >>> bernoulli_entropy(torch.tensor([0.5, 1.0]))
    tensor([0.6931, 0.0000])
    """
    return torch.special.entr(label) + torch.special.entr(1 - label)


def gaussian_gate(label: Tensor, sigma: float = 1.0) -> Tensor:
    """CDUL step 2, ψ: the normal density with mean ½ and deviation `sigma` at labels (..., C) in [0, 1], same shape.

    >>> gaussian_gate(torch.tensor([0.5, 1.0]))
    tensor([0.3989, 0.3521])
    """
    return torch.exp(-0.5 * ((label - 0.5) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))


def update_latent(latent: Tensor, prediction: Tensor, rate: float = 1.0, sigma: float = 1.0) -> Tensor:
    """CDUL step 2, label step: ỹ ← ỹ − rate · ψ(y) ∘ ∂L/∂y with y = sigmoid(ỹ), shapes (..., C).

    For the Bernoulli KL the derivative has a closed form: ∂L/∂y = logit(y) − logit(prediction) = ỹ − logit(prediction).
    So each latent label moves towards the logit of the prediction, by the share rate · ψ(y) of the distance.

    >>> update_latent(torch.tensor([0.0]), torch.tensor([0.88079708]))
    tensor([0.7979])
    """
    derivative = latent - torch.logit(prediction, eps=PROBABILITY_MARGIN)
    return latent - rate * gaussian_gate(latent.sigmoid(), sigma) * derivative
