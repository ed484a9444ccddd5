"""One process or many (torchrun): rank, device, sharing out, gathering. One process is the normal case.

The same code runs for both: with one process every function here is the identity.
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


@dataclass(frozen=True)
class Distributed:
    """This process among its fellows; only the one that `is_main` writes shared files and talks."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard(self, items: list) -> list:
        """This process's part of `items`: every size-th one, so that parts differ by at most one."""
        return items[self.rank :: self.world_size]

    def all_gather(self, value: Any) -> list[Any]:
        """One plain object of every process, in order of rank, on every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor of one shape over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes in one message; a parameter without one counts as zero."""
        if self.world_size == 1:
            return
        parameters = [p for p in parameters if p.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        dist.all_reduce(flat)
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)

    def barrier(self) -> None:
        """Return once every process has come here."""
        if self.world_size > 1:
            dist.barrier()


class _AllReduceSum(torch.autograd.Function):
    """Σ over the processes, differentiable: every process's loss depends on every process's input."""

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
    """Batch norm over the batches (B, C, H, W) of all processes taken together, on any device; B may be 0 here.

    torch's own SyncBatchNorm runs on GPUs only. Equal to `nn.BatchNorm2d` on the whole batch, to rounding.
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


def sync_batch_norm(model: nn.Module, distributed: Distributed) -> None:
    """Let every batch norm of `model` see the photos of all processes; nothing changes where there is only one."""
    for module in model.modules() if distributed.world_size > 1 else ():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d


def choose_device(name: str = "auto") -> torch.device:
    """The device called `name` in any case: "auto" (CUDA, else MPS, else CPU), "cpu", "cuda", "cuda:1", "mps"."""
    name = name.strip().lower()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name} is not a device; use auto, cpu, cuda, cuda:N or mps") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"--device {name} is not supported; use auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: {torch.cuda.device_count()} CUDA devices here; use --device cpu or auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps: no MPS here; use --device cpu or auto")
    return device


def start_distributed(device: str = "auto") -> Distributed:
    """This process's Distributed, read from the environment that torchrun sets; alone when there is none.

    Joins the process group: nccl where every process has its own GPU, gloo otherwise.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = choose_device(device)
    if size == 1:
        return Distributed(0, 1, chosen)
    if chosen.type == "cuda" and chosen.index is None:
        local = int(os.environ.get("LOCAL_RANK", str(rank)))
        chosen = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        own_gpu = chosen.type == "cuda" and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= torch.cuda.device_count()
        dist.init_process_group("nccl" if own_gpu else "gloo")
    return Distributed(rank, size, chosen)


def stop_distributed() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
