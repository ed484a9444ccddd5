"""The student: a torchvision trunk, a 1×1 convolution to the classes, an average pool.

The convolution's output is the class activation map (CAM), so every student can say where it saw a class.

Letters: N photos, C classes, K trunk channels, H W pixels, h w cells of the map.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from .config import InputError

ARCHS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "convnext_tiny",
)
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)
_HEADS = ("fc.", "classifier.")  # what torchvision calls the part that we replace


def _trunk(arch: str) -> nn.Sequential:
    """torchvision's `arch` up to its last feature map, parameter names as in torchvision's files."""
    if arch not in ARCHS:
        raise InputError(f"unknown --arch {arch!r}: choose one of {', '.join(ARCHS)}")
    network = torchvision.models.get_model(arch, weights=None)
    if arch.startswith("resnet"):
        parts = OrderedDict((n, m) for n, m in network.named_children() if n not in ("avgpool", "fc"))
        return nn.Sequential(parts)
    parts = OrderedDict(features=network.features)
    if arch.startswith("convnext"):
        parts["norm"] = network.classifier[0]  # a per-cell layer norm, which torchvision puts after its pool
    return nn.Sequential(parts)


class Classifier(nn.Module):
    """Photos in, logits and class activation maps out.

    `classes` are the names in the order of the logits; `size` is the square input in pixels the student is made for
    (any other works). Weights are random until `load_trunk` or `load_state_dict`.
    """

    def __init__(self, arch: str, classes: Sequence[str], size: int):
        super().__init__()
        self.arch, self.classes, self.size = arch, list(classes), size
        self.trunk = _trunk(arch)
        with torch.no_grad():
            training = self.trunk.training
            channels = self.trunk.eval()(torch.zeros(1, 3, 64, 64)).shape[1]
            self.trunk.train(training)
        self.head = nn.Conv2d(channels, len(self.classes), 1)
        self.register_buffer("_mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (N, 3, H, W) -> float32, as torchvision's weights expect them."""
        return (pixels.float() / 255 - self._mean) / self._std

    def maps(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (N, 3, H, W) -> class activation maps (N, C, h, w); their means are the logits."""
        return self.head(self.trunk(self.normalise(pixels)))

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (N, 3, H, W) -> logits (N, C)."""
        return self.maps(pixels).mean(dim=(2, 3))


def _trunk_names(arch: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision state dict under the trunk's own names, without its classification head."""
    state = {k.removeprefix("module."): v for k, v in state.items()}
    if arch.startswith("convnext"):
        state = {k.replace("classifier.0.", "norm."): v for k, v in state.items()}
    return {k: v for k, v in state.items() if not k.startswith(_HEADS)}


def load_trunk(student: Classifier, init: str, *, offline: bool = False) -> str:
    """Fill the student's trunk: "imagenet" (torchvision's own weights), "none" (left random), or a file of such weights.

    Returns a line about what was taken. Never falls back to something else: weights that cannot be had or do not fit
    are an InputError that says where to put them.
    """
    if init == "none":
        return "the student starts from random weights (--init none)"
    if init == "imagenet":
        state, origin = _torchvision_weights(student.arch, offline)
    else:
        state, origin = _weights_of_file(init), init
    state = _trunk_names(student.arch, state)
    own = student.trunk.state_dict()
    wrong = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    wrong += [k for k in state if k not in own] + [k for k in own if k in state and state[k].shape != own[k].shape]
    if wrong:
        raise InputError(
            f"{origin} does not hold weights of {student.arch} ({len(wrong)} tensors differ, such as {wrong[0]}); "
            "name the right --arch, or another file with --init"
        )
    bad = next((k for k, v in state.items() if v.is_floating_point() and not v.float().isfinite().all()), None)
    if bad:
        raise InputError(f"{origin} holds NaN or infinite weights ({bad}); get the file again")
    student.trunk.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, strict=False
    )
    return f"the student starts from {origin}"


def _weights_of_file(init: str) -> Mapping[str, Tensor]:
    from .clip import read_state_dict

    if not Path(init).is_file():
        raise InputError(f"--init {init}: no such file; give imagenet, none, or a file of torchvision weights")
    return read_state_dict(init)


def _torchvision_weights(arch: str, offline: bool) -> tuple[Mapping[str, Tensor], str]:
    weights = torchvision.models.get_model_weights(arch).DEFAULT
    if arch.startswith("resnet") or arch.startswith("mobilenet_v"):
        weights = torchvision.models.get_model_weights(arch).IMAGENET1K_V1  # what the papers' ResNet-101 starts from
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    remedy = f"put {weights.url} at {file} by hand, or use --init none or --init FILE"
    if offline and not file.is_file():
        raise InputError(f"--offline, and torchvision's weights of {arch} are not here: {remedy}")
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"torchvision's ImageNet weights of {arch} cannot be had ({error}): {remedy}") from error
    return state, f"torchvision's {weights}"
