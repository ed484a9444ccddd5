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

from ..config import InputError
from .notices import Notices, as_error, as_plain

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
    notices: Notices | None = field(default=None, repr=False, compare=False)

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
        if self.world_size == 1:
            if error:
                raise error
            return
        if error and self.notices:
            self.notices.post(as_plain(error, self.rank))
        errors = [plain for plain in self.all_gather(error and as_plain(error, self.rank)) if plain]
        if self.notices:
            self.notices.section += 1
        if errors:
            raise as_error(errors[0]) from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block without communication. If it raises an InputError on any rank, every rank raises that error at its end.

        All ranks have finished the block when one leaves it. A long block calls `check` now and then.
        """
        caught = None
        try:
            yield
        except InputError as error:
            caught = error
        self.agree(caught)

    def check(self) -> None:
        """Raise the InputError with which another rank has ended a `together` block that this rank is still in."""
        if self.notices and (plain := self.notices.read()):
            raise as_error(plain)

    def on_main(self, compute: Callable[[], T]) -> T:
        """The result of `compute` on every rank. Only the main rank runs it; its InputError is raised on every rank."""
        result = None
        with self.together():
            if self.is_main:
                result = compute()
        return self.broadcast(result)

    def transfer(self, source: int, items: Callable[[], Iterable[Any]], use: Callable[[Any], None]) -> None:
        """Send the `items` of the rank `source` to the main rank, which calls `use` with each. One is in memory at a time.

        The other ranks wait. An InputError of either rank is raised on every rank.
        """
        with self.together():
            if self.rank == source:
                self._send_all(items())
            elif self.is_main:
                self._receive_all(source, use)

    def _send_all(self, items: Iterable[Any]) -> None:
        try:
            for item in items:
                dist.send_object_list([(item,)], dst=0)
                if not _receive(0):  # the main rank has an error
                    return
        except InputError:
            dist.send_object_list([None], dst=0)
            raise
        dist.send_object_list([None], dst=0)

    def _receive_all(self, source: int, use: Callable[[Any], None]) -> None:
        while message := _receive(source):
            try:
                use(message[0])
            except InputError:
                dist.send_object_list([False], dst=source)
                raise
            dist.send_object_list([True], dst=source)

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
        """Around all work of several ranks: they learn why another rank stops, and a lost connection becomes an InputError."""
        try:
            yield
        except InputError as error:
            if self.notices and not hasattr(error, "rank"):  # only this rank knows it
                self.notices.post(as_plain(error, self.rank))
            raise
        except RuntimeError as error:
            if self.world_size == 1 or not _is_lost_connection(error):
                raise
            self.check()
            raise InputError(
                f"rank {self.rank} has lost its connection to another rank, which was stopped or killed. Its own last message says "
                "why. Finished work is kept: run the same command again to continue."
            ) from error


def _receive(source: int) -> Any:
    values = [None]
    dist.recv_object_list(values, src=source)
    return values[0]


def _is_lost_connection(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)
