"""Batch norm over the batches of all ranks together, on GPUs and on CPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..distributed import Distributed


class _AllReduceSum(torch.autograd.Function):
    """The sum over the ranks, differentiable: the loss of each rank depends on the inputs of all ranks."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches (B, C, H, W) of all ranks together, on any device. B may be 0 on this rank.

    It is used on the CPU, where torch's own SyncBatchNorm does not run. The result equals `nn.BatchNorm2d` on the whole
    batch, up to rounding.
    """

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        axes, wide = (0, 2, 3), features.float()
        cells = features.numel() // features.shape[1]
        sums = _AllReduceSum.apply(torch.cat([wide.sum(axes), wide.new_tensor([float(cells)])]))  # (C + 1,)
        count = sums[-1].detach()
        mean = sums[:-1] / count  # (C,)
        centred = wide - mean[:, None, None]
        variance = _AllReduceSum.apply(centred.square().sum(axes)) / count  # (C,)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(features.dtype)


class _GpuSyncBatchNorm(nn.SyncBatchNorm):
    """torch's SyncBatchNorm for mixed precision with an empty batch on some ranks.

    torch communicates float32 statistics for a batch in half precision, but half-precision zeros for an empty one. The
    messages of the ranks would then have different sizes.
    """

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features if len(features) else features.float())


def sync_batch_norm(model: nn.Module, distributed: Distributed) -> None:
    """Let every batch norm of `model` use the photos of all ranks, in place. With one rank nothing changes."""
    if distributed.world_size == 1:
        return
    on_gpu = distributed.device.type == "cuda"
    if on_gpu:
        nn.SyncBatchNorm.convert_sync_batchnorm(model, distributed.group)
    before, after = (nn.SyncBatchNorm, _GpuSyncBatchNorm) if on_gpu else (nn.BatchNorm2d, SyncBatchNorm2d)
    for module in model.modules():
        if type(module) is before:
            module.__class__ = after
