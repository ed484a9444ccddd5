"""The student before training: its initial weights, and the initial bias of its head."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from ..clip import load_clip, read_state_dict
from ..config import CLIP_ARCH, InputError, TrainConfig
from ..files import refused
from ..labels.table import Labels
from .model import Classifier, clip_trunk

MIN_FREQUENCY = 1e-3  # lowest class frequency for the initial bias
OTHERWISE = f'Use `arch="{CLIP_ARCH}"` and the file of a CLIP as `init`.'
_HEADS = ("fc.", "classifier.")  # torchvision's names of the head, which this student replaces


def new_student(config: TrainConfig, labels: Labels, offline: bool) -> tuple[Classifier, str]:
    """The student before training, and a line that says where its weights come from.

    `init="clip"` takes the image ResNet of the CLIP that made the labels. `arch="clip-resnet"` takes that of a CLIP file.
    """
    boost = config.cam_boost if config.two_views else 1.0
    if config.init == "clip":
        teacher = labels.meta.get("clip")
        if not teacher:
            raise InputError(f'`init="clip"`: the labels do not say which CLIP made them. {OTHERWISE}')
        clip = load_clip(teacher["name"], offline=offline)
        if clip.sha256 != teacher["sha256"]:
            raise InputError(f'`init="clip"`: {teacher["name"]} has another sha256 than the labels\' CLIP. {OTHERWISE}')
        state, origin = clip.state_dict(), f"CLIP {teacher['name']}"
    elif config.arch == CLIP_ARCH:
        if config.init in ("imagenet", "none"):
            raise InputError(f'`arch="{CLIP_ARCH}"` needs a CLIP. Use `init="clip"`, or the file of a CLIP as `init`.')
        state, origin = _weights_of_file(config.init), config.init
    else:
        model = Classifier(config.arch, labels.classes, config.size, cam_boost=boost)
        return model, load_trunk(model, config.init, offline=offline)
    trunk = clip_trunk(state, origin)
    model = Classifier(CLIP_ARCH, labels.classes, config.size, trunk=trunk, cam_boost=boost)
    return model, f"the student starts from the image ResNet of {origin}"


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
        state, origin = _weights_of_file(init), init
    state = {k.removeprefix("module."): v for k, v in state.items()}  # torchvision's names -> those of the trunk
    if student.arch.startswith("convnext"):
        state = {k.replace("classifier.0.", "norm."): v for k, v in state.items()}
    state = {k: v for k, v in state.items() if not k.startswith(_HEADS)}
    remedy = "Use another `arch`, or another file as `init`."
    with refused(f"{origin} does not have weights of {student.arch}", remedy, RuntimeError):
        student.trunk.load_state_dict(state)
    return f"the student starts from {origin}"


def _weights_of_file(init: str) -> Mapping[str, Tensor]:
    if not Path(init).is_file():
        raise InputError(f'`init="{init}"` is not a file. Use imagenet, none, clip, or a file of torchvision weights.')
    return read_state_dict(init)


def _torchvision_weights(arch: str, offline: bool) -> tuple[Mapping[str, Tensor], str]:
    """torchvision's ImageNet weights from its own cache, which are downloaded and checked if they are missing."""
    import torchvision  # takes seconds, and only these weights need it

    weights = torchvision.models.get_model_weights(arch).DEFAULT
    if arch.startswith("resnet") or arch.startswith("mobilenet_v"):
        weights = torchvision.models.get_model_weights(arch).IMAGENET1K_V1  # the papers' ResNet-101 starts from these
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    remedy = f'Download {weights.url} to {file}, or use `init="none"` or a file as `init`.'
    if not file.is_file() and offline:
        raise InputError(f"torchvision's weights of {arch} are missing, and `offline=True` is set. {remedy}")
    if not file.is_file():
        sha256 = file.stem.rsplit("-", 1)[-1]  # its first digits, as in resnet18-f37072fd.pth
        what = f"torchvision's ImageNet weights of {arch} cannot be downloaded"
        with refused(what, remedy, OSError, RuntimeError, HTTPException):
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(weights.url, str(file), sha256, progress=False)
    return read_state_dict(file), f"torchvision's {weights}"


@torch.no_grad()
def start_bias(model: Classifier, targets: Tensor) -> None:
    """Set the head's bias to the logit of each class's mean label. `targets` are (N, C) in [0, 1] or NaN.

    Most photos do not show most classes. With a bias of 0 the whole network must first learn this, which takes a large part of
    the training at these learning rates. A bias represents it directly.
    """
    frequency = targets.nanmean(dim=0).nan_to_num(0.5)
    model.head.bias.copy_(torch.logit(frequency, eps=MIN_FREQUENCY))
