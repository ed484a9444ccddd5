"""One process or several (torchrun): the ranks of one job, their communication, their devices, and how they start.

The same code runs for both. One process is a job with one rank, and every collective operation here returns its input.

Plain objects go through gloo, also where the ranks have GPUs: a rank may wait for hours until another one has encoded its
share, and if that one is killed, the waiting rank sees a closed connection at once. Only gradients and batch statistics go
through NCCL.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .config import InputError, OptionError
from .files import refused
from .progress import SILENT, Progress

DEVICES = "auto, cpu, cuda, cuda:N or mps"
WAIT = timedelta(hours=24)  # for a rank that has more to do than the others; one that ends is noticed at once
LAST_MESSAGE = 0.2  # seconds in which gloo frees the tensors of the last message

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

    def shard(self, items: list[T]) -> list[T]:
        """The part of `items` of this rank: every `world_size`-th. The lengths of the parts differ by at most one."""
        return items[self.rank :: self.world_size]

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
        errors = self.all_gather(caught and (isinstance(caught, OptionError), str(caught)))
        rank = next((rank for rank, other in enumerate(errors) if other), None)
        if rank is not None:
            wrong_usage, text = errors[rank]
            text = text if rank == 0 else f"rank {rank}: {text}"
            raise (OptionError if wrong_usage else InputError)(text) from caught

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
            p.grad = torch.empty_like(p).copy_(part.view_as(p))  # in p's memory order, which a fused optimizer needs

    def copy_from_main(self, model: nn.Module) -> None:
        """Give `model` the weights and buffers that it has on the main rank."""
        if self.world_size > 1:
            for tensor in model.state_dict().values():
                received = tensor.contiguous()
                dist.broadcast(received, src=0, group=self.group)
                tensor.copy_(received)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Around all work of several ranks: a lost connection becomes an InputError."""
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            what = f"rank {self.rank} has lost its connection to another rank, which was stopped or killed and says why"
            raise InputError(f"{what}. Finished work is kept: run the same command again to continue.") from error


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


# Devices and processes


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device with this name, upper or lower case: "auto" (CUDA, else MPS, else CPU), "cpu", "cuda", "cuda:1", "mps"."""
    name = str(device).strip().lower()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise InputError(f'`device="{name}"` is not known. Use {DEVICES}.')
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InputError(f'`device="{name}"` does not exist: this machine has {count} CUDA devices. Use cpu or auto.')
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError('`device="mps"` does not exist on this machine. Use cpu or auto.')
    return chosen


def describe_device(device: torch.device) -> str:
    """The device and what computes on it, for a message."""
    count = torch.get_num_threads()
    threads = f", {count} thread{'' if count == 1 else 's'}" if device.type == "cpu" else ""
    return f"device {device}{threads}, torch {torch.__version__}"


def start_distributed(device: str | torch.device = "auto") -> Distributed:
    """This process's Distributed, from the environment variables that torchrun sets; one process without them.

    With several ranks, "cuda" and "auto" give each rank of a machine a GPU of its own; all ranks must have the same kind of device.
    Tensors go through NCCL if every rank has its own GPU, and through gloo otherwise.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if size == 1:
        return Distributed(0, 1, choose_device(device))
    _join()
    distributed = Distributed(rank, size)
    with distributed.together():
        chosen = rank_device(device)
    distributed = replace(distributed, device=chosen)
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # on this machine
    kinds = distributed.all_gather((chosen.type, chosen.type == "cuda" and local_ranks <= torch.cuda.device_count()))
    for other, (kind, _) in enumerate(kinds):
        if kind != kinds[0][0]:
            what = f"rank 0 has the device {kinds[0][0]} and rank {other} has {kind}"
            raise InputError(f'{what}. All ranks need the same kind: pass `device="cpu"`, or use machines with GPUs.')
    if all(own_gpu for _, own_gpu in kinds) and dist.get_backend() != "nccl":
        distributed = replace(distributed, group=_nccl_group())
    return distributed


def rank_device(device: str | torch.device) -> torch.device:
    """The device of this rank, one of several. Raises InputError if it is one GPU for all ranks of this machine."""
    chosen, local_ranks = choose_device(device), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if chosen.type != "cuda":
        return chosen
    if chosen.index is not None and local_ranks > 1:
        what = f'`device="{chosen}"` would put all {local_ranks} processes of this machine on one GPU'
        raise InputError(f'{what}. Use `device="cuda"`: each process then takes a GPU of its own.')
    if chosen.index is None:
        local_rank = int(os.environ.get("LOCAL_RANK") or os.environ.get("RANK", "0"))
        chosen = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(chosen)
    return chosen


def restarted() -> bool:
    """Whether torchrun has started this job again, after a rank had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@cache
def _join() -> None:
    """Join the process group, unless the caller has, and leave it when the process ends.

    A script that ends inside the group is sometimes aborted: a thread of gloo still frees a tensor while Python ends.
    """
    if dist.is_initialized():
        return
    # Its functions have the group as a default, if there is one when it is imported. No thread of that group would ever end.
    import_module("torch.distributed.nn.functional")
    with refused("cannot join the other ranks", "", dist.DistError):
        store, rank, size = next(dist.rendezvous("env://", timeout=WAIT))
        # torchrun keeps the store when it starts a job again; without a prefix a rank could read the address of a killed one.
        attempt = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group("gloo", store=attempt, rank=rank, world_size=size, timeout=WAIT)
    atexit.register(stop_distributed)


@cache
def _nccl_group() -> Any:
    return dist.new_group(backend="nccl")


def stop_distributed() -> None:
    """Leave the process group, if this process has joined one.

    A thread of gloo may still be freeing the tensors of the last message, and needs Python's lock for it. Older versions of torch
    keep that lock while they wait for the thread, and would wait forever. So the thread gets a moment before.
    """
    if dist.is_available() and dist.is_initialized():
        time.sleep(LAST_MESSAGE)
        dist.destroy_process_group()
        _join.cache_clear()
        _nccl_group.cache_clear()
