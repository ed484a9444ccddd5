"""torchvision's networks without their heads, with torchvision's parameter names, values and random numbers.

They stand here because `import torchvision` also imports torch's compiler, which takes as long as torch itself. A test compares
every network with torchvision's: the same initial weights from the same seed, the same outputs, the same state afterwards.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

CLASSES = 1000  # of the head that torchvision initialises and this file drops

Module = Callable[..., nn.Module]
Built = tuple[nn.Sequential, Callable[[], None]]  # a network, and what gives it its initial weights


def build_trunk(arch: str, *, initialise: bool = True) -> nn.Sequential:
    """The network `arch` up to its last feature map, with random weights. KeyError for an unknown name.

    Without `initialise` the weights are those of torch's layers. That is enough, and faster, if others are loaded next.
    """
    trunk, start = _NETWORKS[arch]()
    if initialise:
        start()
    return trunk


def _conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    norm: Module = nn.BatchNorm2d,
    activation: Module | None = nn.ReLU,
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    layers = [conv, norm(outputs)]
    return nn.Sequential(*layers, *([activation(inplace=True)] if activation else []))


def _divisible(value: float) -> int:
    """A number of channels that is a multiple of 8, at most 10 % below `value`."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def _initialise(
    trunk: nn.Module, build_head: Callable[[], nn.Module], linear: Callable[[nn.Linear], None] | None
) -> None:
    """The convolutions and the dropped head, in torchvision's order, so that the random numbers are the same."""
    head = build_head()
    for module in (*trunk.modules(), *head.modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear:
            linear(module)


def _small_normal(module: nn.Linear) -> None:
    nn.init.normal_(module.weight, 0, 0.01)
    nn.init.zeros_(module.bias)


def _small_uniform(module: nn.Linear) -> None:
    limit = 1 / math.sqrt(module.out_features)
    nn.init.uniform_(module.weight, -limit, limit)
    nn.init.zeros_(module.bias)


# --- ResNet -----------------------------------------------------------------------------------------------------------


class _BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class _Bottleneck(nn.Module):
    expansion = 4

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


def _resnet(block: type, depths: Sequence[int]) -> Built:
    trunk = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu=nn.ReLU(inplace=True),
            maxpool=nn.MaxPool2d(3, 2, 1),
        )
    )
    channels = 64
    for stage, depth in enumerate(depths):
        width, blocks = 64 * 2**stage, []
        for number in range(depth):
            stride, outputs, downsample = 2 if stage and not number else 1, width * block.expansion, None
            if stride == 2 or channels != outputs:
                conv = nn.Conv2d(channels, outputs, 1, stride, bias=False)
                downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))
            blocks.append(block(channels, width, stride, downsample))
            channels = outputs
        trunk.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
    return trunk, partial(_initialise, trunk, partial(nn.Linear, channels, CLASSES), None)


# --- MobileNet --------------------------------------------------------------------------------------------------------


class _InvertedResidual(nn.Module):
    """MobileNetV2's block: expand, depthwise, project. Its children are in `conv`."""

    def __init__(self, inputs: int, outputs: int, stride: int, ratio: int):
        super().__init__()
        hidden, conv = inputs * ratio, partial(_conv_norm, activation=nn.ReLU6)
        layers = [] if ratio == 1 else [conv(inputs, hidden, 1)]
        layers += [conv(hidden, hidden, 3, stride, hidden), nn.Conv2d(hidden, outputs, 1, bias=False)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2d(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def _mobilenet_v2() -> Built:
    layers, channels = [_conv_norm(3, 32, 3, 2, activation=nn.ReLU6)], 32
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for ratio, outputs, depth, stride in table:
        for number in range(depth):
            layers.append(_InvertedResidual(channels, outputs, stride if number == 0 else 1, ratio))
            channels = outputs
    layers.append(_conv_norm(channels, 1280, 1, activation=nn.ReLU6))
    trunk = nn.Sequential(OrderedDict(features=nn.Sequential(*layers)))
    return trunk, partial(_initialise, trunk, partial(nn.Linear, 1280, CLASSES), _small_normal)


class _SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, squeezed: int, activation: Module, gate: Module):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation, self.scale_activation = activation(), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))


class _StochasticDepth(nn.Module):
    """In training, a row of the input becomes 0 with probability `p`, and the others grow by 1 / (1 - p)."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        noise = torch.empty([len(x)] + [1] * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * noise.div_(1 - self.p)


class _SqueezedResidual(nn.Module):
    """The block of MobileNetV3 and EfficientNet: expand, depthwise, squeeze and excite, project. Its children are in `block`."""

    def __init__(self, layers: Sequence[nn.Module], residual: bool):
        super().__init__()
        self.block, self.residual = nn.Sequential(*layers), residual

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) + x if self.residual else self.block(x)


class _DroppedResidual(_SqueezedResidual):
    """EfficientNet's block, which is skipped for some photos in training."""

    def __init__(self, layers: Sequence[nn.Module], residual: bool, drop: float):
        super().__init__(layers, residual)
        self.stochastic_depth = _StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.stochastic_depth(self.block(x)) + x if self.residual else self.block(x)


def _mobilenet_v3(table: Sequence[tuple], hidden: int) -> Built:
    """`table`: (kernel, expanded, outputs, squeeze and excite, hard swish, stride) of each block. `hidden`: units of the head."""
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
    layers, channels = [_conv_norm(3, 16, 3, 2, norm=norm, activation=nn.Hardswish)], 16
    for kernel, expanded, outputs, squeezes, swish, stride in table:
        conv = partial(_conv_norm, norm=norm, activation=nn.Hardswish if swish else nn.ReLU)
        block = [] if expanded == channels else [conv(channels, expanded, 1)]
        block.append(conv(expanded, expanded, kernel, stride, expanded))
        if squeezes:
            block.append(_SqueezeExcitation(expanded, _divisible(expanded // 4), nn.ReLU, nn.Hardsigmoid))
        block.append(_conv_norm(expanded, outputs, 1, norm=norm, activation=None))
        layers.append(_SqueezedResidual(block, stride == 1 and channels == outputs))
        channels = outputs
    layers.append(_conv_norm(channels, 6 * channels, 1, norm=norm, activation=nn.Hardswish))
    trunk = nn.Sequential(OrderedDict(features=nn.Sequential(*layers)))

    def head() -> nn.Module:
        return nn.Sequential(nn.Linear(6 * channels, hidden), nn.Linear(hidden, CLASSES))

    return trunk, partial(_initialise, trunk, head, _small_normal)


_V3_SMALL = (
    (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1), (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1), (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2), (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
)  # fmt: skip
_V3_LARGE = (
    (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1), (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1), (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1), (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
)  # fmt: skip


def _efficientnet_b0() -> Built:
    stages, channels, number = [_conv_norm(3, 32, 3, 2, activation=nn.SiLU)], 32, 0
    table = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
             (6, 3, 1, 320, 1))  # fmt: skip
    total = sum(row[-1] for row in table)
    for ratio, kernel, first_stride, outputs, depth in table:
        blocks = []
        for place in range(depth):
            stride, hidden = first_stride if place == 0 else 1, channels * ratio
            layers = [] if ratio == 1 else [_conv_norm(channels, hidden, 1, activation=nn.SiLU)]
            layers.append(_conv_norm(hidden, hidden, kernel, stride, hidden, activation=nn.SiLU))
            layers.append(_SqueezeExcitation(hidden, channels // 4, partial(nn.SiLU, inplace=True), nn.Sigmoid))
            layers.append(_conv_norm(hidden, outputs, 1, activation=None))
            blocks.append(_DroppedResidual(layers, stride == 1 and channels == outputs, 0.2 * number / total))
            channels, number = outputs, number + 1
        stages.append(nn.Sequential(*blocks))
    stages.append(_conv_norm(channels, 1280, 1, activation=nn.SiLU))
    trunk = nn.Sequential(OrderedDict(features=nn.Sequential(*stages)))
    return trunk, partial(_initialise, trunk, partial(nn.Linear, 1280, CLASSES), _small_uniform)


# --- ConvNeXt ---------------------------------------------------------------------------------------------------------


class _LayerNorm2d(nn.LayerNorm):
    """Over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return nn.functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class _Permute(nn.Module):
    def __init__(self, *axes: int):
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.axes)


class _ConvNextBlock(nn.Module):
    def __init__(self, width: int, drop: float):
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            _Permute(0, 2, 3, 1),
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            _Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.ones(width, 1, 1) * 1e-6)
        self.stochastic_depth = _StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.stochastic_depth(self.layer_scale * self.block(x)) + x


def _convnext_tiny() -> Built:
    widths, depths, number = (96, 192, 384, 768), (3, 3, 9, 3), 0
    layers = [nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), _LayerNorm2d(widths[0], eps=1e-6))]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        blocks = []
        for _ in range(depth):
            blocks.append(_ConvNextBlock(width, 0.1 * number / (sum(depths) - 1)))
            number += 1
        layers.append(nn.Sequential(*blocks))
        if stage + 1 < len(widths):
            layers.append(nn.Sequential(_LayerNorm2d(width, eps=1e-6), nn.Conv2d(width, widths[stage + 1], 2, 2)))
    features = nn.Sequential(*layers)
    trunk = nn.Sequential(OrderedDict(features=features, norm=_LayerNorm2d(widths[-1], eps=1e-6)))
    return trunk, partial(_initialise_convnext, features, widths[-1])


def _initialise_convnext(features: nn.Module, width: int) -> None:
    for module in (*features.modules(), nn.Linear(width, CLASSES)):
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


_NETWORKS: dict[str, Callable[[], Built]] = {
    "resnet18": lambda: _resnet(_BasicBlock, (2, 2, 2, 2)),
    "resnet34": lambda: _resnet(_BasicBlock, (3, 4, 6, 3)),
    "resnet50": lambda: _resnet(_Bottleneck, (3, 4, 6, 3)),
    "resnet101": lambda: _resnet(_Bottleneck, (3, 4, 23, 3)),
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v3_small": lambda: _mobilenet_v3(_V3_SMALL, 1024),
    "mobilenet_v3_large": lambda: _mobilenet_v3(_V3_LARGE, 1280),
    "efficientnet_b0": _efficientnet_b0,
    "convnext_tiny": _convnext_tiny,
}
