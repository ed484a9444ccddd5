"""The student: a torchvision trunk, a 1×1 convolution to the classes, and an average pool.

The output of the convolution is the class activation map (CAM). It shows where the student saw a class.

Letters: N photos, C classes, K trunk channels, H W pixels, h w cells of the map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn

from ..clip.pixels import IMAGE_MEAN, IMAGE_STD
from ..config import ARCHS, CLIP_ARCH, CLIP_HEAD, InputError
from ..spelling import did_you_mean
from .backbones import build_trunk

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)
_HEADS = ("fc.", "classifier.")  # torchvision's names of the head, which this student replaces


def _trunk(arch: str, *, initialise: bool = True) -> nn.Sequential:
    """torchvision's `arch` up to its last feature map, with the parameter names of torchvision's files."""
    if arch not in ARCHS:
        known = [*ARCHS, CLIP_ARCH, CLIP_HEAD]
        raise InputError(f'`arch="{arch}"` is not known.{did_you_mean(arch, known)} Use one of {", ".join(known)}.')
    return build_trunk(arch, initialise=initialise)


def clip_trunk(state: Mapping[str, Tensor], origin: str) -> nn.Module:
    """The image ResNet of a CLIP state dict up to its last feature map, with the weights of `state`."""
    prefix = "visual."
    visual = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix) and "attnpool" not in k}
    if "layer4.0.conv1.weight" not in visual:
        raise InputError(f'{origin} is not a CLIP with a ResNet. `arch="{CLIP_ARCH}"` needs one, such as RN50 or tiny.')
    wrong = _wrong_tensors(lambda: _empty_clip_trunk(visual), visual)
    if wrong:
        raise InputError(
            f"{origin} does not have weights of a CLIP with a ResNet ({len(wrong)} tensors differ, such as {wrong[0]}). "
            "Use another one."
        )
    trunk = _empty_clip_trunk(visual)
    trunk.load_state_dict(visual, strict=False)
    return trunk


def _wrong_tensors(build: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors of `state` that do not fit what `build` makes, or why it cannot be made.

    The network is built without memory: a small file cannot make us allocate more than its size.
    """
    try:
        with torch.device("meta"):
            return _differences(build().state_dict(), state)
    except (KeyError, IndexError, RuntimeError, ZeroDivisionError) as error:
        return [_reason(error)]


def _reason(error: Exception) -> str:
    """The first line of an error, for a message."""
    text = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return f"{text} is missing" if isinstance(error, KeyError) else text


def _differences(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors that are missing, unknown or of another shape. The counters of batch norm may be missing."""
    wrong = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    wrong += [k for k in state if k not in expected]
    return wrong + [k for k in expected if k in state and state[k].shape != expected[k].shape]


def _empty_clip_trunk(weights: Mapping[str, Tensor]) -> nn.Module:
    from ..clip.encoders import ModifiedResNet

    layers = tuple(len({k.split(".")[1] for k in weights if k.startswith(f"layer{n}.")}) for n in (1, 2, 3, 4))
    trunk = ModifiedResNet(64, weights["layer1.0.conv1.weight"].shape[0], layers, 1)
    trunk.attnpool = nn.Identity()
    return trunk


def classifier_of(arch: str, classes: Sequence[str], size: int, weights: Mapping[str, Tensor]) -> Classifier:
    """The student with these `weights`, its whole state dict. InputError if they are not those of `arch` with `classes`.

    All shapes are compared before memory for the network is allocated.
    """
    prefix = "trunk."
    trunk = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}

    def empty() -> nn.Module:
        return _empty_clip_trunk(trunk) if arch == CLIP_ARCH else _trunk(arch, initialise=False)

    wrong = _wrong_tensors(lambda: Classifier(arch, classes, size, trunk=empty()), weights)
    if wrong:
        found, count = _arch_of(trunk), len(classes)
        other = f"are those of {found}, not of {arch}" if found != arch else f"do not fit {arch} with {count} classes"
        raise InputError(f"the weights {other} ({len(wrong)} tensors differ, such as {wrong[0]})")
    model = Classifier(arch, classes, size, trunk=empty())
    model.load_state_dict(weights)
    return model


def _arch_of(trunk: Mapping[str, Tensor]) -> str:
    """The network whose trunk has these weights, for a message: a name of ARCHS, or "another network"."""
    for arch in ARCHS:
        with torch.device("meta"):
            expected = _trunk(arch, initialise=False).state_dict()
        if not _differences(expected, trunk):
            return arch
    return CLIP_ARCH if "conv3.weight" in trunk else "another network"


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
        self.trunk = _trunk(arch) if trunk is None else trunk
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


def load_trunk(student: Classifier, init: str, *, offline: bool = False) -> str:
    """Load weights into the student's trunk: "imagenet" (torchvision's weights), "none" (random), or a file.

    Returns a line that says where the weights come from. There is no fallback: weights that cannot be downloaded or do not
    fit raise an InputError that says what to do.
    """
    if init == "none":
        return 'the student starts from random weights (`init="none"`)'
    if init == "imagenet":
        state, origin = _torchvision_weights(student.arch, offline)
    else:
        state, origin = weights_of_file(init), init
    state = {k.removeprefix("module."): v for k, v in state.items()}  # torchvision's names -> those of the trunk
    if student.arch.startswith("convnext"):
        state = {k.replace("classifier.0.", "norm."): v for k, v in state.items()}
    state = {k: v for k, v in state.items() if not k.startswith(_HEADS)}
    wrong = _differences(student.trunk.state_dict(), state)
    if wrong:
        raise InputError(
            f"{origin} does not have weights of {student.arch}, but of {_arch_of(state)} ({len(wrong)} tensors differ, such as "
            f"{wrong[0]}). Use another `arch`, or another file as `init`."
        )
    bad = next((k for k, v in state.items() if v.is_floating_point() and not v.float().isfinite().all()), None)
    if bad:
        raise InputError(f"{origin} has NaN or infinite weights ({bad}). Download the file again.")
    student.trunk.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, strict=False
    )
    return f"the student starts from {origin}"


def weights_of_file(init: str) -> Mapping[str, Tensor]:
    """The state dict of a weight file. No code in the file is executed."""
    from ..clip import read_state_dict

    if not Path(init).is_file():
        raise InputError(f'`init="{init}"` is not a file. Use imagenet, none, clip, or a file of torchvision weights.')
    return read_state_dict(init)


def _torchvision_weights(arch: str, offline: bool) -> tuple[Mapping[str, Tensor], str]:
    """torchvision's ImageNet weights from its own cache, which are downloaded if they are missing.

    Nothing in the file is executed, and its hash is always checked.
    """
    import torchvision  # takes seconds, and only these weights need it

    from ..clip import read_state_dict
    from ..clip.registry import hash_file

    weights = torchvision.models.get_model_weights(arch).DEFAULT
    if arch.startswith("resnet") or arch.startswith("mobilenet_v"):
        weights = torchvision.models.get_model_weights(arch).IMAGENET1K_V1  # the papers' ResNet-101 starts from these
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    expected = file.stem.rsplit("-", 1)[-1]  # as in resnet18-f37072fd.pth
    remedy = f'Download {weights.url} to {file}, or use `init="none"` or a file as `init`.'
    if not file.is_file() and offline:
        raise InputError(
            f"torchvision's weights of {arch} are missing, and `offline=True` allows no download. {remedy}"
        )
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(weights.url, str(file), expected, progress=False)
        except (OSError, RuntimeError, HTTPException) as error:
            raise InputError(
                f"torchvision's ImageNet weights of {arch} cannot be downloaded ({_reason(error)}). {remedy}"
            ) from error
    try:
        sha256 = hash_file(file)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}. Check its permissions.") from error
    if not sha256.startswith(expected):
        raise InputError(
            f"{file} is truncated or not torchvision's file of {arch}: its sha256 is {sha256}, expected {expected}... "
            f"Delete it, and it is downloaded again from {weights.url}."
        )
    try:
        return read_state_dict(file), f"torchvision's {weights}"
    except InputError as error:
        raise InputError(f"torchvision's ImageNet weights of {arch}: {error}") from error
