"""The average of a training's weights: steadier than the last step's, and it costs one more copy of the network.

At a constant learning rate the last weights are wherever the last few batches have pushed them. Their average over the last
part of the training lies in the middle (Polyak & Juditsky 1992), and it is better still where labels are noisy, since every
batch errs in another way. How far back it reaches is a share of the training so far and no number of steps (polynomial-decay
averaging, Shamir & Zhang 2013): so one setting serves four epochs and forty, and a training can be prolonged.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def start_average(model: nn.Module, share: float) -> AveragedModel:
    """A copy of `model` that `update_parameters` makes the average of all it has been shown, batch-norm statistics too.

    The weights of step n enter with 1 / (1 + share · (n − 1)), and what was there keeps the rest: share 1 is the plain mean of
    all steps, 0 the last step's weights alone, and between them an average whose mean age is share / (1 + share) of the training.
    """

    def newer(mean: Tensor, weights: Tensor, averaged: Tensor) -> Tensor:
        return mean + (weights - mean) / (1 + share * averaged)

    return AveragedModel(model, avg_fn=newer, use_buffers=True)
