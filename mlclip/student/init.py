"""The student before training: its initial weights, and the initial bias of its head."""

from __future__ import annotations

import torch
from torch import Tensor

from ..clip import load_clip
from ..config import InputError, TrainConfig
from ..labels.table import Labels
from .model import CLIP_ARCH, Classifier, clip_trunk, load_trunk, weights_of_file

MIN_FREQUENCY = 1e-3  # lowest class frequency for the initial bias


def new_student(config: TrainConfig, labels: Labels, offline: bool) -> tuple[Classifier, str]:
    """The student before training, and a line that says where its weights come from.

    `init="clip"` takes the image ResNet of the CLIP that made the labels. `arch="clip-resnet"` takes that of a CLIP file.
    """
    if config.init == "clip":
        teacher = labels.meta.get("clip")
        if not teacher:
            raise InputError(
                f'`init="clip"`: the labels do not say which CLIP made them. Use `arch="{CLIP_ARCH}"` and the file of a CLIP as `init`.'
            )
        clip = load_clip(teacher["name"], offline=offline)
        if clip.sha256 != teacher["sha256"]:
            raise InputError(
                f'`init="clip"`: {teacher["name"]} is not the CLIP that made the labels (its sha256 is different). '
                f'Use `arch="{CLIP_ARCH}"` and the file of a CLIP as `init`.'
            )
        state, origin = clip.state_dict(), f"CLIP {teacher['name']}"
    elif config.arch == CLIP_ARCH:
        if config.init in ("imagenet", "none"):
            raise InputError(
                f'`arch="{CLIP_ARCH}"` needs the weights of a CLIP. Use `init="clip"`, or the file of a CLIP as `init`.'
            )
        state, origin = weights_of_file(config.init), config.init
    else:
        model = Classifier(config.arch, labels.classes, config.size, cam_boost=_boost(config))
        return model, load_trunk(model, config.init, offline=offline)
    trunk = clip_trunk(state, origin)
    model = Classifier(CLIP_ARCH, labels.classes, config.size, trunk=trunk, cam_boost=_boost(config))
    return model, f"the student starts from the image ResNet of {origin}"


def _boost(config: TrainConfig) -> float:
    return config.cam_boost if config.two_views else 1.0


@torch.no_grad()
def start_bias(model: Classifier, targets: Tensor) -> None:
    """Set the head's bias to the logit of each class's mean label. `targets` are (N, C) in [0, 1] or NaN.

    Most photos do not show most classes. With a bias of 0 the whole network must first learn this, which takes a large part of
    the training at these learning rates. A bias represents it directly.
    """
    frequency = targets.nanmean(dim=0).nan_to_num(0.5)
    model.head.bias.copy_(torch.logit(frequency, eps=MIN_FREQUENCY))
