"""The number format of the student's weight steps. Weights, losses and Adam are float32 in any case."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..student.model import CLIP_ARCH
from ..teacher.scoring import DTYPES, cpu_bf16_is_faster

# A weight step in bf16 on a CPU with AVX-512 bf16 takes 0.46 (resnet50), 0.56 (resnet18), 0.64 (convnext_tiny) and 0.54
# (mobilenet_v2) of the time in float32; but 1.0 (efficientnet_b0, mobilenet_v3_large) and 1.2 (mobilenet_v3_small).
FASTER_IN_BF16 = ("resnet", "convnext", "mobilenet_v2", CLIP_ARCH)


def choose_training_precision(name: str, arch: str, device: torch.device) -> str:
    """The precision that `name` ("auto", "fp32" or "bf16") means for weight steps of `arch` on `device`: "fp32", "bf16" or "fp16".

    "auto": bf16 on GPUs that have it and fp16 on older ones; bf16 on a CPU with instructions for it, for the
    architectures that gain from it; else fp32.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    gains = device.type == "cpu" and arch.startswith(FASTER_IN_BF16)
    return "bf16" if gains and cpu_bf16_is_faster() else "fp32"


def training_autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass in `precision`: "fp32", "bf16" or "fp16"."""
    dtype = torch.bfloat16 if precision == "fp32" else DTYPES[precision]
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


class _Float32Conv2d(nn.Conv2d):
    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float()).to(features.dtype)


@contextmanager
def fast_convolutions(model: nn.Module, device: torch.device, precision: str) -> Iterator[None]:
    """Inside it, bf16 on a CPU leaves the depthwise convolutions with a stride in float32.

    Their backward pass is then 3 times as fast (mobilenet_v2).
    """
    affected = device.type == "cpu" and precision == "bf16"
    chosen = [
        conv
        for conv in model.modules()
        if affected and type(conv) is nn.Conv2d and conv.groups > 1 and conv.stride[0] > 1
    ]
    for conv in chosen:
        conv.__class__ = _Float32Conv2d
    try:
        yield
    finally:
        for conv in chosen:
            conv.__class__ = nn.Conv2d
