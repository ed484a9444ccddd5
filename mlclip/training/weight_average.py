"""The average of the weights during a training. It is better than the last weights, and costs one more copy of the network.

At a constant learning rate the last weights depend on the last few batches. The average over the last part of the training
is more stable (Polyak & Juditsky 1992). It helps most where labels are noisy, because each batch has different errors. The
averaged part is a share of the training so far, not a number of steps (polynomial-decay averaging, Shamir & Zhang 2013). So
one setting works for 4 epochs and for 40, and a training can be continued with more epochs.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def start_average(model: nn.Module, share: float) -> AveragedModel:
    """A copy of `model`. Each call of its `update_parameters` adds weights and batch-norm statistics to the average.

    The weights of step n have the factor 1 / (1 + share · (n − 1)); the average before them has the rest. Share 1 is the mean
    of all steps, 0 is the weights of the last step. In between, the mean age of the averaged weights is share / (1 + share) of
    the training so far.
    """

    def updated(mean: Tensor, weights: Tensor, averaged: Tensor) -> Tensor:
        return mean + (weights - mean) / (1 + share * averaged)

    return AveragedModel(model, avg_fn=updated, use_buffers=True)
