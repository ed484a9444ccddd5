"""The student's trunks: torchvision's networks without their heads, with torchvision's parameter names.

The two default students, resnet101 and mobilenet_v2, are written here: `import torchvision` also imports torch's compiler, and
that takes as long as the rest of `mlclip predict` for one photo. A test compares them with torchvision's: the same initial
weights from the same seed, the same outputs, the same state after a step of training.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ..config import ARCHS, CLIP_ARCH, CLIP_HEAD, InputError
from ..spelling import did_you_mean

CLASSES = 1000  # of the head that torchvision initialises and this file drops


def build_trunk(arch: str, *, initialise: bool = True) -> nn.Sequential:
    """torchvision's `arch` up to its last feature map, with random weights. InputError for an unknown name.

    Without `initialise`, the weights of the default students are those of torch's layers: that is faster, and enough if others
    are loaded next.
    """
    if arch not in ARCHS:
        known = [*ARCHS, CLIP_ARCH, CLIP_HEAD]
        raise InputError(f'`arch="{arch}"` is not known.{did_you_mean(arch, known)} Use one of {", ".join(known)}.')
    if arch not in _OWN:
        return _torchvision_trunk(arch)
    trunk, channels = _OWN[arch]()
    if initialise:  # in torchvision's order, the dropped head too, so that the random numbers are the same
        head = nn.Linear(channels, CLASSES)
        for module in trunk.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if arch == "mobilenet_v2":
            nn.init.normal_(head.weight, 0, 0.01)
    return trunk


def _torchvision_trunk(arch: str) -> nn.Sequential:
    with torch.device("cpu"):  # the import of torch 2.6 computes with tensors, which fails where the meta device is set
        import torchvision

    network = torchvision.models.get_model(arch, weights=None)
    parts = OrderedDict(network.named_children())
    head = [parts.pop(name) for name in ("avgpool", "classifier", "fc") if name in parts]
    if arch.startswith("convnext"):
        parts["norm"] = head[1][0]  # ConvNeXt's last norm, which torchvision has in its head
    return nn.Sequential(parts)


class _Bottleneck(nn.Module):
    """ResNet's block: 1×1 to `width` channels, 3×3, 1×1 to 4 · `width`."""

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def _resnet101() -> tuple[nn.Sequential, int]:
    stem = OrderedDict(
        conv1=nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, 2, 1),
    )
    trunk, channels = nn.Sequential(stem), 64
    for stage, depth in enumerate((3, 4, 23, 3)):
        width, blocks = 64 * 2**stage, []
        for number in range(depth):
            stride, downsample = 2 if stage and number == 0 else 1, None
            if number == 0:
                conv = nn.Conv2d(channels, 4 * width, 1, stride, bias=False)
                downsample = nn.Sequential(conv, nn.BatchNorm2d(4 * width))
            blocks.append(_Bottleneck(channels, width, stride, downsample))
            channels = 4 * width
        trunk.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
    return trunk, channels


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class _InvertedResidual(nn.Module):
    """MobileNetV2's block: expand by `ratio`, depthwise, project. Its children are in `conv`."""

    def __init__(self, inputs: int, outputs: int, stride: int, ratio: int):
        super().__init__()
        hidden = inputs * ratio
        layers = [] if ratio == 1 else [_conv_norm(inputs, hidden, 1)]
        layers += [_conv_norm(hidden, hidden, 3, stride, hidden), nn.Conv2d(hidden, outputs, 1, bias=False)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2d(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def _mobilenet_v2() -> tuple[nn.Sequential, int]:
    layers, channels = [_conv_norm(3, 32, 3, 2)], 32
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for ratio, outputs, depth, stride in table:
        for number in range(depth):
            layers.append(_InvertedResidual(channels, outputs, stride if number == 0 else 1, ratio))
            channels = outputs
    layers.append(_conv_norm(channels, 1280, 1))
    return nn.Sequential(OrderedDict(features=nn.Sequential(*layers))), 1280


_OWN = {"resnet101": _resnet101, "mobilenet_v2": _mobilenet_v2}
