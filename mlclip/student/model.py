"""The student: a trunk, a 1×1 convolution to the classes, and an average pool.

The output of the convolution is the class activation map (CAM). It shows where the student saw a class.

The trunks are torchvision's networks without their heads, with torchvision's parameter names. The two default students, resnet101 and
mobilenet_v2, are written here, and a test compares them: `import torchvision` also imports torch's compiler, and that takes as long as
the rest of `mlclip predict` for one photo.

Letters: N photos, C classes, K trunk channels, H W pixels, h w cells of the map.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..clip.pixels import IMAGE_MEAN, IMAGE_STD
from ..config import ARCHS, CLIP_ARCH, CLIP_HEAD, InputError
from ..files import refused
from ..spelling import did_you_mean

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)
CLASSES = 1000  # of the head that torchvision initialises and this file drops


class Classifier(nn.Module):
    """The network: photos -> logits and class activation maps.

    `classes` are the names in the order of the logits. `size` is the side of the square input in pixels; other sizes also
    work. `trunk` computes feature maps (N, K, h, w); the default is torchvision's `arch`, with random weights. The buffer `cam_boost`
    multiplies positive cells of the class maps before pooling (CCD step 2); 1 is off. The buffers `scale` and `offset` (C,) calibrate
    the pooled logits; they are 1 and 0 until `calibrate`.
    """

    def __init__(
        self, arch: str, classes: Sequence[str], size: int, *, trunk: nn.Module | None = None, cam_boost: float = 1.0
    ):
        super().__init__()
        self.arch, self.classes, self.size = arch, list(classes), size
        self.trunk = build_trunk(arch) if trunk is None else trunk
        *_, last = self.trunk.parameters()  # of the trunk's last layer, whose first axis is its output channels
        channels = last.shape[0]
        self.head = nn.Conv2d(channels, len(self.classes), 1)
        mean, std = (IMAGE_MEAN, IMAGE_STD) if arch == CLIP_ARCH else (IMAGENET_MEAN, IMAGENET_STD)
        self.register_buffer("cam_boost", torch.tensor(float(cam_boost)))
        self.register_buffer("scale", torch.ones(len(self.classes)))
        self.register_buffer("offset", torch.zeros(len(self.classes)))
        self.register_buffer("_mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (N, 3, H, W) -> float32, normalised as the trunk expects."""
        return (pixels.float() / 255 - self._mean) / self._std

    def maps(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (N, 3, H, W) -> class activation maps (N, C, h, w): the output of the 1×1 convolution."""
        return self.head(self.trunk(self.normalise(pixels)))

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (N, 3, H, W) -> logits (N, C): the calibrated means of the maps after boosting positive cells."""
        maps = self.maps(pixels)
        pooled = torch.where(maps > 0, maps * self.cam_boost, maps).mean(dim=(2, 3))  # (N, C)
        return self.scale * pooled + self.offset

    @torch.no_grad()
    def calibrate(self, slope: Tensor, offset: Tensor) -> None:
        """From now on each logit becomes slope · logit + offset; both are (C,)."""
        slope, offset = slope.to(self.scale), offset.to(self.offset)
        self.offset.copy_(slope * self.offset + offset)
        self.scale.mul_(slope)


def filled(build: Callable[[], nn.Module], weights: Mapping[str, Tensor], what: str) -> nn.Module:
    """The network that `build` makes, with these weights. InputError that begins with `what` if they do not fit.

    All names and shapes are compared before memory is allocated: a small file cannot make us allocate more than its size. The
    counters of batch norm may be missing.
    """
    with refused(what, "", LookupError, RuntimeError, ZeroDivisionError), torch.device("meta"):
        build().load_state_dict(weights, assign=True)
    network = build()
    network.load_state_dict(weights)
    return network


def clip_trunk(state: Mapping[str, Tensor], origin: str) -> nn.Module:
    """The image ResNet of a CLIP state dict up to its last feature map, with the weights of `state`."""
    prefix = "visual."
    visual = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix) and "attnpool" not in k}
    if "layer4.0.conv1.weight" not in visual:
        raise InputError(f'{origin} is not a CLIP with a ResNet. `arch="{CLIP_ARCH}"` needs one, such as RN50 or tiny.')
    return filled(lambda: _empty_clip_trunk(visual), visual, f"{origin} does not have weights of a CLIP with a ResNet")


def _empty_clip_trunk(weights: Mapping[str, Tensor]) -> nn.Module:
    from ..clip.encoders import ModifiedResNet

    layers = tuple(len({k.split(".")[1] for k in weights if k.startswith(f"layer{n}.")}) for n in (1, 2, 3, 4))
    trunk = ModifiedResNet(64, weights["layer1.0.conv1.weight"].shape[0], layers, 1)
    trunk.attnpool = nn.Identity()
    return trunk


def classifier_of(arch: str, classes: Sequence[str], size: int, weights: Mapping[str, Tensor]) -> Classifier:
    """The student with these `weights`, its whole state dict. InputError if they are not those of `arch` with `classes`."""
    prefix = "trunk."
    trunk = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}

    def build() -> Classifier:
        empty = _empty_clip_trunk(trunk) if arch == CLIP_ARCH else build_trunk(arch, initialise=False)
        return Classifier(arch, classes, size, trunk=empty)

    return filled(build, weights, f"the weights are not those of {arch} with {len(classes)} classes")


# Trunks


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


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of a model in eval mode that has no batch norms after its convolutions: their weights are in the convolutions.

    The outputs are equal up to rounding, and a CPU reads and writes every feature map once less.
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    model = copy.deepcopy(model)
    for parent in model.modules():
        for (name, conv), (next_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, next_name, nn.Identity())
    return model
