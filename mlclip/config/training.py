"""The settings of training, and the presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .labelling import OptionError, check_values, config_of, rare, refuse_unused, require, setting, used_settings

_MOBILENETS = ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large")
_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
ARCHS = (*_RESNETS, *_MOBILENETS, "efficientnet_b0", "convnext_tiny")  # of torchvision
CLIP_ARCH = "clip-resnet"  # the image ResNet of a CLIP; widths and depths come from its weights
CLIP_HEAD = "clip-head"  # the `arch` that is a head on CLIP's embeddings
LARGEST_SIZE = 4096  # pixels, side of the student's input
LARGEST_SEED = 2**32 - 1

# What the student is and how long it learns, where the user does not say. "paper": the papers' values for VOC. "laptop": a student
# that a CPU trains in minutes.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"arch": "resnet101", "size": 448, "lr": 1e-5},
    "laptop": {"arch": "mobilenet_v2", "size": 224, "lr": 1e-4, "epochs": 4, "batch_size": 32},
}
# The same by method, below the preset: CDUL's and CCD's schedules. The papers do not average the weights.
_CDUL_SCHEDULE, _CCD_SCHEDULE = {"epochs": 20, "batch_size": 8}, {"epochs": 10, "batch_size": 16}
SCHEDULES: dict[str, dict[str, Any]] = {
    "fixed": {**_CDUL_SCHEDULE, "average": 0.1},
    "probe": {},
    "consistent": {**_CCD_SCHEDULE, "average": 0.1},
    "cdul": {**_CDUL_SCHEDULE, "average": 0.0},
    "ccd": {**_CCD_SCHEDULE, "average": 0.0},
}
_CDUL, _CCD, _TWO_VIEWS = ("cdul",), ("ccd",), ("consistent", "ccd")  # methods of training
_PROBE = ("probe",)  # it has no weight steps


def _default(name: str) -> str:
    """The default that the presets give to one setting, in words."""
    paper = PRESETS["paper"].get(name) or f"{_CDUL_SCHEDULE[name]}, or {_CCD_SCHEDULE[name]} with consistent and ccd"
    return f"{paper}; laptop: {PRESETS['laptop'][name]}"


@dataclass(frozen=True)
class TrainConfig:
    """How the student learns. What is None takes the value of the preset, by default the papers' for VOC."""

    METHODS = tuple(SCHEDULES)

    method: str | None = setting(
        None,
        "fixed: the labels do not change. probe: the same, and only the last layer learns, on features that are computed once. "
        "consistent: the labels do not change, and two augmented views of a photo must agree. "
        "cdul: weights and labels are updated in turn. ccd: as consistent, and CLIP looks again at the places that the "
        "student points to; this updates the labels once.",
        choices=METHODS,
        if_none=f"fixed; with --arch {CLIP_HEAD}: probe",
    )
    preset: str | None = setting(
        None,
        "Size of the student and length of its training. paper: as in the papers, for a GPU. laptop: a small student that a CPU "
        "trains in minutes.",
        choices=tuple(PRESETS),
        if_none="paper on a GPU, laptop on a CPU",
    )
    arch: str | None = setting(
        None,
        "Network of the student, such as resnet18, mobilenet_v2 or clip-resnet. clip-head: only a layer on CLIP's own embeddings "
        "is fitted, in seconds; prediction then needs that CLIP.",
        if_none=_default("arch"),
    )
    init: str = setting(
        "imagenet",
        "Initial weights: imagenet (torchvision's), none, clip (those of the labels' CLIP, for clip-resnet), or a FILE.",
    )
    size: int | None = setting(
        None, "Side of the student's square input, in pixels.", if_none=_default("size"), within=(64, LARGEST_SIZE)
    )
    epochs: int | None = setting(None, "Passes over the photos.", if_none=_default("epochs"), unused_by=_PROBE, least=1)
    batch_size: int | None = setting(
        None,
        "Photos per training step, over all processes together.",
        if_none=_default("batch_size"),
        unused_by=_PROBE,
        least=1,
    )
    lr: float | None = setting(None, "Learning rate of Adam.", if_none=_default("lr"), unused_by=_PROBE, above=0)
    head_lr_factor: float = rare(  # CCD's; CDUL gives none
        10.0, "Learning rate of the new last layer, as a multiple of the learning rate.", unused_by=_PROBE, above=0
    )
    head_init: str = rare(
        "labels",
        "How the last layer starts. labels: random, with a bias that predicts the mean of each class's labels. probe: as "
        '`method="probe"` fits it.',
        unused_by=_PROBE,
        choices=("labels", "probe"),
    )
    augment: str = rare(
        "flip",
        "Random changes of the photos. flip: half of them are mirrored. crop: also a random part of each, 50 to 100 % of its area.",
        unused_by=_PROBE,
        choices=("flip", "crop"),
    )
    average: float | None = rare(
        None,
        "Average the weights over this share of the training so far; 0 takes those of the last step.",
        if_none="0.1, or 0 with cdul and ccd, as in the papers",
        unused_by=_PROBE,
        within=(0, 1),
    )
    correction_weight: float = rare(
        4.0,  # a label that is wrong with probability e carries about (1 − 2e)² of the information of a certain one; e = ¼
        "A corrected label counts as much as this many others, see --corrections.",
        above=0,
    )
    seed: int = setting(0, "Seed of every random choice.", within=(0, LARGEST_SEED))
    precision: str = rare(
        "auto",
        "Number format of the training steps. auto: a 16-bit format on a GPU, bf16 on a CPU that is faster with it, else fp32.",
        choices=("auto", "fp32", "bf16"),
        unused_by=_PROBE,
    )
    cache: bool = rare(
        True,
        "With more than one epoch, decode the photos once, into a file in the cache that is deleted at the end.",
        unused_by=_PROBE,
    )
    warmup: int = rare(  # CDUL gives no number; this is CCD's
        2,
        "First epochs, with unchanged labels and one view of each photo.",
        methods=("consistent", "cdul", "ccd"),
        least=0,
    )
    label_rate: float = rare(1.0, "Step size η of the label step.", methods=_CDUL, least=0)
    sigma: float = rare(1.0, "Width σ of the Gaussian gate ψ: which labels around ½ move.", methods=_CDUL, above=0)
    label_every: int = rare(1, "A label step at the end of every k-th epoch after the warm-up.", methods=_CDUL, least=1)
    cam_boost: float = rare(
        3.0, "Factor for positive cells of the class maps, before pooling; 1 is off.", methods=_TWO_VIEWS, least=1
    )
    local_views: str = rare(
        "cam",
        "Where CLIP looks again: where the student sees a class (cam), where the cells of CLIP's own feature map show it (cells), "
        "or none: no label update.",
        methods=_CCD,
        choices=("cam", "cells", "none"),
    )
    update_keep: float = rare(0.2, "Share r of the old label that the label update keeps.", methods=_CCD, within=(0, 1))
    consistency: float = rare(
        1.0, "Weight of the loss between weak and strong view after the warm-up; 0 is off.", methods=_TWO_VIEWS, least=0
    )
    other_teacher: bool = rare(
        False, "Allow a different CLIP than the one that made the labels.", methods=("ccd", "probe")
    )
    stopping: bool = rare(True, "Stop early, when the label-free measure starts to rise faster.", methods=_CCD)

    def __post_init__(self):
        if self.preset is None:
            object.__setattr__(self, "preset", "paper")
        if self.method is None:
            object.__setattr__(self, "method", "probe" if self.arch == CLIP_HEAD else "fixed")
        check_values(self)
        if self.arch == CLIP_HEAD and self.method != "probe":
            raise OptionError(
                f'`arch="{CLIP_HEAD}"` works only with `method="probe"`, not with `method="{self.method}"`: CLIP itself is not '
                "trained. Remove `method`, or use another `arch`."
            )
        for name, default in (("size", None), ("init", "imagenet")) if self.arch == CLIP_HEAD else ():
            if getattr(self, name) != default:  # CLIP's weights, view size and embeddings are fixed
                raise OptionError(f'`{name}` has no effect with `arch="{CLIP_HEAD}"`. Do not set `{name}`.')
        used = used_settings(self)
        for name, value in {**SCHEDULES[self.method], **PRESETS[self.preset]}.items():
            if name in used and getattr(self, name) is None and not (name == "size" and self.arch == CLIP_HEAD):
                object.__setattr__(self, name, value)
        if self.updates_labels:
            wanted = "at least 1: the label update needs a student that has learned something"
            require(self.warmup >= 1, "warmup", self.warmup, wanted)
        refuse_unused(self)

    @property
    def updates_labels(self) -> bool:
        """Whether CCD's label update runs: the teacher scores the places that the student points to."""
        return self.method == "ccd" and self.local_views != "none"

    @property
    def two_views(self) -> bool:
        """Whether the student is CCD's: boosted class maps, and a strong view that must agree with the weak one."""
        return self.method in _TWO_VIEWS


def train_config(settings: dict[str, Any], device_type: str) -> TrainConfig:
    """The settings of a training: those given, and where nothing is given, those of the preset for the device ("cpu", "cuda", ...)."""
    preset = settings.get("preset") or ("laptop" if device_type == "cpu" else "paper")
    return config_of(TrainConfig, {**settings, "preset": preset})
