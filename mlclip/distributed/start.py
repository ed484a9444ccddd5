"""The device of a process, and how the processes that torchrun started become one group."""

from __future__ import annotations

import atexit
import os
import time
from dataclasses import replace
from datetime import timedelta
from functools import cache
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist

from ..config import InputError
from .ranks import Distributed

DEVICES = "auto, cpu, cuda, cuda:N or mps"
WAIT = timedelta(hours=24)  # for a rank that has more to do than the others; one that ends is noticed at once
LAST_MESSAGE = 0.2  # seconds in which gloo frees the tensors of the last message


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


def describe_device(device: torch.device) -> str:
    """The device and what computes on it, for a message."""
    count = torch.get_num_threads()
    threads = f", {count} thread{'' if count == 1 else 's'}" if device.type == "cpu" else ""
    return f"device {device}{threads}, torch {torch.__version__}"


def start_distributed(device: str | torch.device = "auto") -> Distributed:
    """This process's Distributed, from the environment variables that torchrun sets; one process without them.

    Joins the process group. With several ranks, "cuda" and "auto" give each rank of a machine a GPU of its own, by its
    LOCAL_RANK; all ranks must have the same kind of device. Tensors go through NCCL if every rank has its own GPU, and
    through gloo otherwise. Raises InputError on every rank if one of them cannot have its device.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if size == 1:
        return Distributed(0, 1, choose_device(device))
    _join()
    distributed = Distributed(rank, size)
    with distributed.together():
        chosen = rank_device(device)
    distributed = replace(distributed, device=chosen)
    kinds = distributed.all_gather((chosen.type, chosen.type == "cuda" and local_ranks() <= torch.cuda.device_count()))
    for other, (kind, _) in enumerate(kinds):
        if kind != kinds[0][0]:
            raise InputError(
                f"rank 0 has the device {kinds[0][0]} and rank {other} has {kind}. All ranks need the same kind: pass "
                '`device="cpu"`, or use machines with GPUs only.'
            )
    if all(own_gpu for _, own_gpu in kinds) and dist.get_backend() != "nccl":
        distributed = replace(distributed, group=_nccl_group())
    return distributed


def rank_device(device: str | torch.device) -> torch.device:
    """The device of this rank, one of several. Raises InputError if it is one GPU for all ranks of this machine."""
    chosen = choose_device(device)
    if chosen.type != "cuda":
        return chosen
    if chosen.index is not None and local_ranks() > 1:
        raise InputError(
            f'`device="{chosen}"` would put all {local_ranks()} processes of this machine on one GPU. Use `device="cuda"`: '
            "each process then takes a GPU of its own."
        )
    if chosen.index is None:
        local_rank = int(os.environ.get("LOCAL_RANK") or os.environ.get("RANK", "0"))
        chosen = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(chosen)
    return chosen


def local_ranks() -> int:
    """The number of ranks on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


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
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=WAIT))
        # torchrun keeps the store when it starts a job again; without a prefix a rank could read the address of a killed one.
        attempt = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group("gloo", store=attempt, rank=rank, world_size=size, timeout=WAIT)
    except dist.DistError as error:
        raise InputError(f"cannot join the other ranks: {str(error).splitlines()[0]}") from error
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
