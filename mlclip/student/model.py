"""The student: a trunk, a 1×1 convolution to the classes, and an average pool.

The output of the convolution is the class activation map (CAM). It shows where the student saw a class.

Letters: N photos, C classes, K trunk channels, H W pixels, h w cells of the map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..clip.pixels import IMAGE_MEAN, IMAGE_STD
from ..config import CLIP_ARCH, InputError
from .backbones import build_trunk

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


class Classifier(nn.Module):
    """The network: photos -> logits and class activation maps.

    `classes` are the names in the order of the logits. `size` is the side of the square input in pixels; other sizes also
    work. `trunk` computes feature maps (N, K, h, w); the default is torchvision's `arch`, with random weights until
    `load_trunk` or `load_state_dict`. `cam_boost` multiplies positive cells of the class maps before pooling (CCD step 2); 1
    is off. `scale` and `offset` (C,) calibrate the pooled logits; they are 1 and 0 until `calibrate`. These three are buffers:
    they are saved with the weights but not trained.
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
    try:
        with torch.device("meta"):
            build().load_state_dict(weights, assign=True)
    except (KeyError, IndexError, RuntimeError, ZeroDivisionError) as error:
        raise InputError(f"{what} ({reason_of(error)})") from error
    network = build()
    network.load_state_dict(weights)
    return network


def reason_of(error: Exception) -> str:
    """What does not fit, from an error of `load_state_dict`, whose first line names only the class."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[min(1, len(lines) - 1)].strip()[:200]


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
