"""The number format of CLIP's image encoder: float32, or a 16-bit format where that is faster.

The text encoder always runs in float32, and so do cosines and everything after them.
"""

from __future__ import annotations

import os
from functools import lru_cache

import torch
from torch import nn

from ..config import OptionError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", *DTYPES)
SMALLEST = 10_000_000  # parameters; below this size decoding photos takes longer than encoding them


def choose_precision(name: str, device: torch.device, encoder: nn.Module) -> str:
    """The precision that `name` means on `device`: "fp32", "bf16" or "fp16".

    "auto": fp16 on CUDA; bf16 on a CPU with instructions for it, for encoders of SMALLEST parameters or more; else
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
    """Whether this CPU has instructions for bf16 products (AVX-512 BF16 or AMX), which are about twice as fast as float32 ones.

    The instructions decide and not a measurement: a busy moment must not change which numbers a run computes. False where torch's
    oneDNN, which has these products, is off or may not use the instructions (ONEDNN_MAX_CPU_ISA).
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    allowed = limit in ("", "ALL", "DEFAULT") or any(part in limit for part in ("BF16", "FP16", "AMX", "AVX10"))
    if not (allowed and torch.backends.mkldnn.is_available()):
        return False
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check)
