"""The untrained student: whose weights it starts from, and what its head says before the first step."""

from __future__ import annotations

import torch
from torch import Tensor

from ..clip import load_clip
from ..config import InputError, TrainConfig
from ..labels.table import Labels
from .model import CLIP_ARCH, Classifier, clip_trunk, load_trunk, weights_of_file

RAREST = 1e-3  # the head's first bias takes no class to be rarer than this


def new_student(config: TrainConfig, labels: Labels, offline: bool) -> tuple[Classifier, str]:
    """The untrained student and a line on what it starts from.

    `init` "clip" takes the image ResNet of the labels' own teacher; so does arch "clip-resnet" with a CLIP's file.
    """
    if config.init == "clip":
        teacher = labels.meta.get("clip")
        if not teacher:
            raise InputError(
                f"--init clip: these labels do not say which CLIP made them; add --arch {CLIP_ARCH} --init FILE"
            )
        clip = load_clip(teacher["name"], offline=offline)
        if clip.sha256 != teacher["sha256"]:
            raise InputError(f"--init clip: {teacher['name']} is not the CLIP that made the labels (another sha256)")
        state, origin = clip.state_dict(), f"CLIP {teacher['name']}"
    elif config.arch == CLIP_ARCH:
        if config.init in ("imagenet", "none"):
            raise InputError(f"--arch {CLIP_ARCH} takes its shape from a CLIP: add --init clip, or --init FILE")
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
    """Let the head's bias say each class's mean label from the start: targets (N, C) in [0, 1] or NaN.

    Most classes are absent from most photos. From a bias of 0 the whole network would first be bent to say so, which at
    these learning rates takes much of the training; and a bias is what says it best.
    """
    frequency = targets.nanmean(dim=0).nan_to_num(0.5)
    model.head.bias.copy_(torch.logit(frequency, eps=RAREST))
