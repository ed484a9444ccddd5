"""The ranks of one job (torchrun), and the communication between them. One process is a job with one rank.

The same code runs for both. With one process every collective operation here returns its input.

Plain objects go through gloo, also where the ranks have GPUs: a rank may wait for hours until another one has encoded its
share, and if that one is killed, the waiting rank sees a closed connection at once. Only gradients and batch statistics go
through NCCL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..config import InputError, OptionError
from ..progress import SILENT, Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Distributed:
    """The rank of this process and its device. Only the rank that `is_main` writes shared files and reports progress.

    What one rank checks, all ranks must learn: a rank that stops alone leaves the others waiting. `together` and `on_main`
    raise the InputError of one rank on every rank.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    group: Any = field(default=None, repr=False, compare=False)  # of the tensors: NCCL's, or None for the default group

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard(self, items: list[T], rank: int | None = None) -> list[T]:
        """The part of `items` of a rank (None: this one): every `world_size`-th. The lengths of the parts differ by at most one."""
        return items[self.rank if rank is None else rank :: self.world_size]

    def all_gather(self, value: T) -> list[T]:
        """One plain object from every rank, in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """The plain object of the main rank, on every rank."""
        if self.world_size == 1:
            return value
        values = [value if self.is_main else None]
        dist.broadcast_object_list(values, src=0)
        return value if self.is_main else values[0]

    def agree(self, error: InputError | None) -> None:
        """Raise the InputError of the lowest rank that has one, on every rank. Every rank must call this."""
        errors = self.all_gather(error and (isinstance(error, OptionError), str(error)))
        rank = next((rank for rank, other in enumerate(errors) if other), None)
        if rank is not None:
            wrong_usage, text = errors[rank]
            text = text if rank == 0 else f"rank {rank}: {text}"
            raise (OptionError if wrong_usage else InputError)(text) from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block without communication. If it raises an InputError on any rank, every rank raises that error at its end.

        All ranks have finished the block when one leaves it.
        """
        caught = None
        try:
            yield
        except InputError as error:
            caught = error
        self.agree(caught)

    def on_main(self, compute: Callable[[], T]) -> T:
        """The result of `compute` on every rank. Only the main rank runs it; its InputError is raised on every rank."""
        result = None
        with self.together():
            if self.is_main:
                result = compute()
        return self.broadcast(result)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks of a tensor with the same shape on each, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over all ranks, in one message. A parameter without a gradient counts as zero."""
        if self.world_size == 1:
            return
        parameters = [p for p in parameters if p.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        dist.all_reduce(flat, group=self.group)
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = torch.empty_like(p).copy_(
                part.view_as(p)
            )  # in the memory order of p, which a fused optimizer needs

    def copy_from_main(self, model: nn.Module) -> None:
        """Give `model` the weights and buffers that it has on the main rank."""
        if self.world_size > 1:
            for tensor in model.state_dict().values():
                received = tensor.contiguous()
                dist.broadcast(received, src=0, group=self.group)
                tensor.copy_(received)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.all_gather(None)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Around all work of several ranks: a lost connection becomes an InputError."""
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            raise InputError(
                f"rank {self.rank} has lost its connection to another rank, which was stopped or killed. Its own last message says "
                "why. Finished work is kept: run the same command again to continue."
            ) from error


@dataclass(frozen=True)
class Runtime:
    """What a long computation runs with."""

    distributed: Distributed = field(default_factory=Distributed)
    num_workers: int = 2  # that load photos
    progress: Progress = SILENT

    @property
    def device(self) -> torch.device:
        return self.distributed.device

    @property
    def bars(self) -> Progress:
        """Where progress bars are shown: the main rank has one for all."""
        return self.progress if self.distributed.is_main else SILENT
