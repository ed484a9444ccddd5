"""One process or several (torchrun): rank, world size, device, and the communication between ranks.

The same code runs for both. With one process every collective operation here returns its input.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .config import InputError

DEVICES = "auto, cpu, cuda, cuda:N or mps"


@dataclass(frozen=True)
class Distributed:
    """The rank of this process and its device. Only the rank that `is_main` writes shared files and reports progress."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard(self, items: list) -> list:
        """This rank's part of `items`: every `world_size`-th one. The lengths of the parts differ by at most one."""
        return items[self.rank :: self.world_size]

    def all_gather(self, value: Any) -> list[Any]:
        """One plain object from every rank, in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks of a tensor with the same shape on each, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over all ranks, in one message. A parameter without a gradient counts as zero."""
        if self.world_size == 1:
            return
        parameters = [p for p in parameters if p.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        dist.all_reduce(flat)
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier()


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
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    before, after = (nn.SyncBatchNorm, _GpuSyncBatchNorm) if on_gpu else (nn.BatchNorm2d, SyncBatchNorm2d)
    for module in model.modules():
        if type(module) is before:
            module.__class__ = after


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device with this name, upper or lower case: "auto" (CUDA, else MPS, else CPU), "cpu", "cuda", "cuda:1", "mps".

    Raises InputError if there is no such device.
    """
    name = str(device).strip().lower()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise InputError(f'`device="{name}"` is not a device. Use {DEVICES}.') from error
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise InputError(f'`device="{name}"` is not supported. Use {DEVICES}.')
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InputError(f'`device="{name}"` does not exist: this machine has {count} CUDA devices. Use cpu or auto.')
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError('`device="mps"` does not exist on this machine. Use cpu or auto.')
    return chosen


def start_distributed(device: str | torch.device = "auto") -> Distributed:
    """This process's Distributed, from the environment variables that torchrun sets; one process without them.

    Joins the process group. The backend is nccl if every process has its own GPU, and gloo otherwise.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = choose_device(device)
    if size == 1:
        return Distributed(0, 1, chosen)
    if chosen.type == "cuda" and chosen.index is None:
        local_rank = int(os.environ.get("LOCAL_RANK", str(rank)))
        chosen = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        gpu_each = chosen.type == "cuda" and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= torch.cuda.device_count()
        dist.init_process_group("nccl" if gpu_each else "gloo")
    return Distributed(rank, size, chosen)


def stop_distributed() -> None:
    """Leave the process group, if this process has joined one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
