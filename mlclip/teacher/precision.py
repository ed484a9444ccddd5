"""The number format of CLIP's image encoder: float32, or a 16-bit format where that is faster.

The text encoder always runs in float32, and so do cosines and everything after them.
"""

from __future__ import annotations

import time
from functools import lru_cache

import torch
from torch import nn

from ..config import OptionError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", *DTYPES)
FASTER = 1.3  # auto takes bf16 on a CPU where a matrix product is this much faster than in float32
SMALLEST = 10_000_000  # parameters; below this size decoding photos takes longer than encoding them
ROUNDS = 5


def choose_precision(name: str, device: torch.device, encoder: nn.Module) -> str:
    """The precision that `name` means on `device`: "fp32", "bf16" or "fp16".

    "auto": fp16 on CUDA; bf16 on a CPU that computes it clearly faster, for encoders of SMALLEST parameters or more; else
    fp32. Raises OptionError for another name, and for fp16 on a CPU, where it is slow.
    """
    if name not in PRECISIONS:
        raise OptionError(f"`precision` is {name!r}: it must be one of {', '.join(PRECISIONS)}")
    if name == "fp16" and device.type == "cpu":
        raise OptionError('`precision="fp16"` needs a GPU; use "bf16", "fp32" or "auto" on a CPU')
    if name != "auto":
        return name
    if device.type == "cuda":
        return "fp16"
    large = sum(parameter.numel() for parameter in encoder.parameters()) >= SMALLEST
    return "bf16" if device.type == "cpu" and large and cpu_bf16_is_faster() else "fp32"


@lru_cache
def cpu_bf16_is_faster() -> bool:
    """Whether this CPU multiplies bf16 matrices at least FASTER times as fast as float32 ones; measured once (about 0.1 s)."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(512, 768, dtype=dtype), torch.ones(768, 3072, dtype=dtype)
        a @ b  # the first call also sets up kernels
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - started)
        seconds[dtype] = min(times)
    return seconds[torch.float32] >= FASTER * seconds[torch.bfloat16]
