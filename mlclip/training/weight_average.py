"""The average of the weights during a training. It is better than the last weights, and costs one more copy of the network.

At a constant learning rate the last weights depend on the last few batches. The average over the last part of the training
is more stable (Polyak & Juditsky 1992). It helps most where labels are noisy, because each batch has different errors. The
averaged part is a share of the training so far, not a number of steps (polynomial-decay averaging, Shamir & Zhang 2013). So
one setting works for 4 epochs and for 40, and a training can be continued with more epochs.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class WeightAverage(AveragedModel):
    """A copy of `model` with the average of its weights and batch-norm statistics. All tensors are updated in one call.

    The number of averaged steps stays on the CPU, so an update never waits for a GPU.
    """

    def __init__(self, model: nn.Module, share: float):
        super().__init__(model, use_buffers=True)
        self.share = share

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Add the weights and buffers of `model` to the average. Counters, such as those of batch norm, are copied."""
        averaged, pairs = int(self.n_averaged), list(zip(_tensors(self.module), _tensors(model), strict=True))
        learned = [(ours, theirs) for ours, theirs in pairs if averaged and ours.is_floating_point()]
        copied = [(ours, theirs) for ours, theirs in pairs if not (averaged and ours.is_floating_point())]
        if learned:
            torch._foreach_lerp_(*map(list, zip(*learned, strict=True)), 1 / (1 + self.share * averaged))
        if copied:
            torch._foreach_copy_(*map(list, zip(*copied, strict=True)))
        self.n_averaged += 1


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def start_average(model: nn.Module, share: float) -> WeightAverage:
    """A copy of `model`. Each call of its `update_parameters` adds weights and batch-norm statistics to the average.

    The weights of step n have the factor 1 / (1 + share · (n - 1)); the average before them has the rest. Share 1 is the mean
    of all steps, 0 is the weights of the last step. In between, the mean age of the averaged weights is share / (1 + share) of
    the training so far.
    """
    return WeightAverage(model, share)
