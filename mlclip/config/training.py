"""The settings of training, and the presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .fields import OptionError, check_values, config_of, refuse_unused, require, setting, used_settings

ARCHS = (  # of torchvision, for the student
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
# Epochs and photos per weight step with the preset "paper": CDUL's and CCD's.
PAPER_SCHEDULES = {"fixed": (20, 8), "cdul": (20, 8), "ccd": (10, 16), "consistent": (10, 16)}
# The weights of the student are averaged over this share of the training so far. The papers do not average.
AVERAGED = {"fixed": 0.1, "consistent": 0.1, "cdul": 0.0, "ccd": 0.0}

_CDUL, _CCD, _TWO_VIEWS = ("cdul",), ("ccd",), ("consistent", "ccd")  # methods of training
_PROBE = ("probe",)  # it has no weight steps


def _scheduled(place: int) -> str:
    """The default of one part of PAPER_SCHEDULES, in words."""
    name = ("epochs", "batch_size")[place]
    paper = f"{PAPER_SCHEDULES['cdul'][place]}, or {PAPER_SCHEDULES['ccd'][place]} with consistent and ccd"
    return f"{paper}; laptop: {PRESETS['laptop'][name]}"


def _preset(name: str) -> str:
    """The default that the presets give to one setting, in words."""
    return f"{PRESETS['paper'][name]}; laptop: {PRESETS['laptop'][name]}"


@dataclass(frozen=True)
class TrainConfig:
    """How the student learns. What is None takes the value of the preset, by default the papers' for VOC."""

    METHODS = ("fixed", "probe", "consistent", "cdul", "ccd")
    LOCAL_VIEWS = ("cam", "cells", "none")
    PRECISIONS = ("auto", "fp32", "bf16")

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
        if_none=_preset("arch"),
    )
    init: str = setting(
        "imagenet",
        "Initial weights: imagenet (torchvision's), none, clip (those of the labels' CLIP, for clip-resnet), or a FILE.",
    )
    size: int | None = setting(None, "Side of the student's square input, in pixels.", if_none=_preset("size"))
    epochs: int | None = setting(None, "Passes over the photos.", if_none=_scheduled(0), unused_by=_PROBE)
    batch_size: int | None = setting(
        None, "Photos per training step, over all processes together.", if_none=_scheduled(1), unused_by=_PROBE
    )
    lr: float | None = setting(None, "Learning rate of Adam.", if_none=_preset("lr"), unused_by=_PROBE)
    head_lr_factor: float = setting(  # CCD's; CDUL gives none
        10.0, "Learning rate of the new last layer, as a multiple of the learning rate.", unused_by=_PROBE, rare=True
    )
    head_init: str = setting(
        "labels",
        "How the last layer starts. labels: random, with a bias that predicts the mean of each class's labels. probe: as "
        '`method="probe"` fits it.',
        unused_by=_PROBE,
        choices=("labels", "probe"),
        rare=True,
    )
    augment: str = setting(
        "flip",
        "Random changes of the photos. flip: half of them are mirrored. crop: also a random part of each, 50 to 100 % of its area.",
        unused_by=_PROBE,
        choices=("flip", "crop"),
        rare=True,
    )
    average: float | None = setting(
        None,
        "Average the weights over this share of the training so far; 0 takes those of the last step.",
        if_none=f"{AVERAGED['fixed']:g}, or {AVERAGED['cdul']:g} with cdul and ccd, as in the papers",
        unused_by=_PROBE,
        rare=True,
    )
    correction_weight: float = setting(
        4.0,  # a label that is wrong with probability e carries about (1 − 2e)² of the information of a certain one; e = ¼
        "A corrected label counts as much as this many others, see --corrections.",
        rare=True,
    )
    seed: int = setting(0, "Seed of every random choice.")
    precision: str = setting(
        "auto",
        "Number format of the training steps. auto: a 16-bit format on a GPU, bf16 on a CPU that is faster with it, else fp32.",
        choices=PRECISIONS,
        unused_by=_PROBE,
        rare=True,
    )
    cache: bool = setting(
        True,
        "With more than one epoch, decode the photos once, into a file in the cache that is deleted at the end.",
        unused_by=_PROBE,
        rare=True,
    )
    warmup: int = setting(  # CDUL gives no number; this is CCD's
        2,
        "First epochs, with unchanged labels and one view of each photo.",
        methods=("consistent", "cdul", "ccd"),
        rare=True,
    )
    label_rate: float = setting(1.0, "Step size η of the label step.", methods=_CDUL, rare=True)
    sigma: float = setting(1.0, "Width σ of the Gaussian gate ψ: which labels around ½ move.", methods=_CDUL, rare=True)
    label_every: int = setting(
        1, "A label step at the end of every k-th epoch after the warm-up.", methods=_CDUL, rare=True
    )
    cam_boost: float = setting(
        3.0, "Factor for positive cells of the class maps, before pooling; 1 is off.", methods=_TWO_VIEWS, rare=True
    )
    local_views: str = setting(
        "cam",
        "Where CLIP looks again: where the student sees a class (cam), where the cells of CLIP's own feature map show it (cells), "
        "or none: no label update.",
        methods=_CCD,
        choices=LOCAL_VIEWS,
        rare=True,
    )
    update_keep: float = setting(0.2, "Share r of the old label that the label update keeps.", methods=_CCD, rare=True)
    consistency: float = setting(
        1.0,
        "Weight of the loss between weak and strong view after the warm-up; 0 is off.",
        methods=_TWO_VIEWS,
        rare=True,
    )
    other_teacher: bool = setting(
        False,
        "Allow a different CLIP than the one that made the labels.",
        methods=("ccd", "probe"),
        rare=True,
    )
    stopping: bool = setting(
        True, "Stop early, when the label-free measure starts to rise faster.", methods=_CCD, rare=True
    )

    def __post_init__(self):
        if self.preset is None:
            object.__setattr__(self, "preset", "paper")
        if self.method is None:
            object.__setattr__(self, "method", "probe" if self.arch == CLIP_HEAD else "fixed")
        check_values(self)
        if self.arch == CLIP_HEAD:
            self._require_clip_head()
        epochs, batch_size = PAPER_SCHEDULES.get(self.method, (None, None))
        schedule = {"epochs": epochs, "batch_size": batch_size, "average": AVERAGED.get(self.method)}
        used = used_settings(self)
        for name, value in {**schedule, **PRESETS[self.preset]}.items():
            if name in used and getattr(self, name) is None and not (name == "size" and self.arch == CLIP_HEAD):
                object.__setattr__(self, name, value)
        if self.arch != CLIP_HEAD:
            require(64 <= self.size <= LARGEST_SIZE, "size", self.size, f"from 64 to {LARGEST_SIZE} pixels")
        require(0 <= self.seed <= LARGEST_SEED, "seed", self.seed, f"from 0 to {LARGEST_SEED}")
        if self.method != "probe":
            self._require_schedule()
        require(self.correction_weight > 0, "correction_weight", self.correction_weight, "above 0")
        require(self.warmup >= 0, "warmup", self.warmup, "0 or more")
        require(self.label_rate >= 0, "label_rate", self.label_rate, "0 (labels do not change) or more")
        require(self.sigma > 0, "sigma", self.sigma, "above 0")
        require(self.label_every >= 1, "label_every", self.label_every, "at least 1")
        require(self.cam_boost >= 1, "cam_boost", self.cam_boost, "1 (off) or more")
        if self.updates_labels:
            wanted = "at least 1: the label update needs a student that has learned something"
            require(self.warmup >= 1, "warmup", self.warmup, wanted)
        require(0 <= self.update_keep <= 1, "update_keep", self.update_keep, "from 0 to 1")
        require(self.consistency >= 0, "consistency", self.consistency, "0 (off) or more")
        refuse_unused(self)

    def _require_clip_head(self) -> None:
        """CLIP's weights, view size and embeddings are fixed; only the head is fitted."""
        if self.method != "probe":
            raise OptionError(
                f'`arch="{CLIP_HEAD}"` works only with `method="probe"`, not with `method="{self.method}"`: CLIP itself is not '
                "trained. Remove `method`, or use another `arch`."
            )
        for name, default in (("size", None), ("init", "imagenet")):
            if getattr(self, name) != default:
                raise OptionError(f'`{name}` has no effect with `arch="{CLIP_HEAD}"`. Do not set `{name}`.')

    def _require_schedule(self) -> None:
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(self.head_lr_factor > 0, "head_lr_factor", self.head_lr_factor, "above 0")
        wanted = "from 0 (the weights of the last step) to 1 (the mean of all steps)"
        require(0 <= self.average <= 1, "average", self.average, wanted)

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
