"""What a user may choose, each default written once, and the one error a user can cause. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

LABELS_FILE = "labels.pt"  # what `pseudolabel` writes and `train` and `report` read, unless told otherwise
MODEL_FILE = "model.pt"  # what `train` writes and `predict`, `calibrate` and `export` read


class InputError(Exception):
    """Something the user gave cannot be used. The message is one line: the thing, what is wrong, the remedy."""


class OptionError(InputError):
    """An option's value makes no sense, whatever the files hold: wrong usage."""


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise OptionError(f"{name} is {value}: it must be {wanted}")


def _require_finite(config: object) -> None:
    for field in fields(config):
        value = getattr(config, field.name)
        _require(not isinstance(value, float) or math.isfinite(value), _option(field.name), value, "a finite number")


def _refuse_foreign(config: object, method: str, owners: dict[str, tuple[str, ...]]) -> None:
    """OptionError for a field set by the user that another method owns: it would be ignored in silence."""
    for name, methods in owners.items():
        if method not in methods and getattr(config, name) != default_of(type(config), name):
            raise OptionError(
                f"{_option(name)} has no part in --method {method}; add --method {' or '.join(methods)}, or leave it away"
            )


OPTION_NAMES = {"disagreement": "--lambda"}  # where a field's option is not its own name


def _option(field: str) -> str:
    """What a field is called on the command line."""
    return OPTION_NAMES.get(field, "--" + field.replace("_", "-"))


@dataclass(frozen=True)
class PseudolabelConfig:
    """How view embeddings become pseudo labels. Defaults are centred labels, and within a paper's method that paper's."""

    method: str = "centred"
    part: str = "final"  # of CDUL's labels: "final", or "global" / "aggregate" alone, for comparison
    snippets: int = 3  # n of the n×n grid of local views
    zeta: float = 0.5  # ζ: a class whose best snippet reaches it takes its maximum, else its minimum
    disagreement: float = 0.0  # λ: weight of |global − aggregate| in the final labels (the paper's supplement)
    view_size: int | None = None  # CCD: side of the squeezed photo, pixels; None means 10/7 of CLIP's own (448 -> 640)
    max_entropy: float = 2.0  # CCD: a photo is confident up to this entropy, nats
    floor: float = 0.05  # CCD: scores are raised to it before they are debiased
    debias: bool = True  # CCD: divide by each class's bias
    grids: tuple[int, ...] = (1, 2, 3)  # centred: the views, n×n for each n; 1 is the whole photo
    rank_scale: float = 0.4  # centred: of CLIP's own logit scale, for the softmax within a view
    prior_photos: float = 30.0  # centred: how many photos' weight the other classes have in the fit of one class
    profiles: bool = True  # centred: ask a second opinion, what views that surely show each class look like
    temperature: float | None = None  # τ; None means CLIP's own, 1/100 for OpenAI's models

    METHODS = ("cdul", "ccd", "centred")
    PARTS = ("final", "global", "aggregate")
    OWNERS = {  # noqa: RUF012  (not a field)
        **dict.fromkeys(("part", "snippets", "zeta", "disagreement"), ("cdul",)),
        **dict.fromkeys(("view_size", "max_entropy", "floor", "debias"), ("ccd",)),
        **dict.fromkeys(("grids", "rank_scale", "prior_photos", "profiles"), ("centred",)),
    }

    def __post_init__(self):
        _require(self.method in self.METHODS, "--method", self.method, f"one of {', '.join(self.METHODS)}")
        _require(self.part in self.PARTS, "--part", self.part, f"one of {', '.join(self.PARTS)}")
        _require(1 <= self.snippets <= 16, "--snippets", self.snippets, "from 1 to 16")
        _require(0 <= self.zeta <= 1, "--zeta", self.zeta, "from 0 (always the maximum) to 1")
        _require(self.temperature is None or self.temperature > 0, "--temperature", self.temperature, "above 0")
        _require(0 <= self.disagreement <= 1, "--lambda", self.disagreement, "from 0 to 1")
        _require(self.view_size is None or self.view_size >= 32, "--view-size", self.view_size, "at least 32 pixels")
        _require(self.max_entropy > 0, "--max-entropy", self.max_entropy, "above 0 nats")
        _require(self.rank_scale > 0, "--rank-scale", self.rank_scale, "above 0")
        _require(self.prior_photos > 0, "--prior-photos", self.prior_photos, "above 0")
        text, sound = ",".join(map(str, self.grids)), all(1 <= n <= 16 for n in self.grids)
        wanted = "different numbers from 1 to 16, such as 1,2,3"
        _require(bool(self.grids) and sound and len(set(self.grids)) == len(self.grids), "--grids", text, wanted)
        object.__setattr__(self, "grids", tuple(sorted(self.grids)))
        _require(0 <= self.floor < 1, "--floor", self.floor, "from 0 to below 1")
        _require_finite(self)
        _refuse_foreign(self, self.method, self.OWNERS)


# Epochs, and photos per weight step: CDUL's, and CCD's.
PAPER_SCHEDULES = {"fixed": (20, 8), "cdul": (20, 8), "ccd": (10, 16), "consistent": (10, 16)}
# The share of the training so far that the student's weights are the average of. The papers average nothing.
AVERAGED = {"fixed": 0.1, "consistent": 0.1, "cdul": 0.0, "ccd": 0.0}


@dataclass(frozen=True)
class TrainConfig:
    """How the student learns. Defaults are the papers' for VOC: ResNet-101, ImageNet weights, 448 px, Adam at 1e-5."""

    # "fixed": labels stay; "consistent": and two views must agree; "cdul": labels and weights learn in turns; "ccd": labels
    # are updated once from local views, and two views must agree
    method: str = "fixed"
    arch: str = "resnet101"
    init: str = "imagenet"  # "imagenet", "none", "clip" (with arch "clip-resnet"), or a file of torchvision weights
    size: int = 448  # the student's square input, pixels
    epochs: int | None = None  # None: the paper's of the method, see PAPER_SCHEDULES
    batch_size: int | None = None  # photos per weight step, over all processes together; None: the paper's
    lr: float = 1e-5
    head_lr_factor: float = (
        10.0  # learning rate of the new 1×1 convolution, as a multiple of lr (CCD's; CDUL says none)
    )
    average: float | None = None  # see `averaging.py`, 0 is none; None: the method's, see AVERAGED
    seed: int = 0
    warmup: int = 2  # epochs of weight steps on one view alone (CDUL says no number; this is CCD's)
    label_rate: float = 1.0  # η of CDUL's label step
    sigma: float = 1.0  # σ of the Gaussian gate ψ of CDUL's label step
    label_every: int = 1  # k: CDUL's label step comes at the end of every k-th epoch after the warm-up
    cam_boost: float = (
        3.0  # consistent, CCD: positive cells of the class maps are multiplied by it before they are pooled
    )
    local_views: str = "cam"  # CCD: where the label update looks: "cam", "grid", "random", "boxes", "around" boxes, or "none", no update
    update_keep: float = 0.2  # CCD: r, how much of the old label the update keeps
    consistency: float = (
        1.0  # consistent, CCD: weight of the loss between weak and strong view after the warm-up; 0 is none
    )
    stopping: bool = True  # CCD: end where the increase of the label-free measure accelerates

    METHODS = ("fixed", "consistent", "cdul", "ccd")
    LOCAL_VIEWS = ("cam", "grid", "random", "boxes", "around", "none")
    ANNOTATED_VIEWS = ("boxes", "around")
    OWNERS = {  # noqa: RUF012  (not a field)
        "warmup": ("consistent", "cdul", "ccd"),
        **dict.fromkeys(("label_rate", "sigma", "label_every"), ("cdul",)),
        **dict.fromkeys(("cam_boost", "consistency"), ("consistent", "ccd")),
        **dict.fromkeys(("local_views", "update_keep", "stopping"), ("ccd",)),
    }

    def __post_init__(self):
        _require(self.method in self.METHODS, "--method", self.method, f"one of {', '.join(self.METHODS)}")
        epochs, batch_size = PAPER_SCHEDULES[self.method]
        for name, value in (("epochs", epochs), ("batch_size", batch_size), ("average", AVERAGED[self.method])):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        _require(self.size >= 64, "--size", self.size, "at least 64 pixels")
        _require(self.epochs >= 1, "--epochs", self.epochs, "at least 1")
        _require(self.batch_size >= 1, "--batch-size", self.batch_size, "at least 1")
        _require(self.lr > 0, "--lr", self.lr, "above 0")
        _require(self.head_lr_factor > 0, "--head-lr-factor", self.head_lr_factor, "above 0")
        _require(
            0 <= self.average <= 1, "--average", self.average, "from 0 (the last step's weights) to 1 (the mean of all)"
        )
        _require(self.warmup >= 0, "--warmup", self.warmup, "0 or more")
        _require(self.label_rate >= 0, "--label-rate", self.label_rate, "0 (labels stay) or more")
        _require(self.sigma > 0, "--sigma", self.sigma, "above 0")
        _require(self.label_every >= 1, "--label-every", self.label_every, "at least 1")
        _require(self.cam_boost >= 1, "--cam-boost", self.cam_boost, "1 (none) or more")
        _require(self.local_views in self.LOCAL_VIEWS, "--local-views", self.local_views, ", ".join(self.LOCAL_VIEWS))
        if self.updates_labels:
            wanted = "at least 1: the label update needs a student that can point"
            _require(self.warmup >= 1, "--warmup", self.warmup, wanted)
        _require(0 <= self.update_keep <= 1, "--update-keep", self.update_keep, "from 0 to 1")
        _require(self.consistency >= 0, "--consistency", self.consistency, "0 (none) or more")
        _require_finite(self)
        _refuse_foreign(self, self.method, self.OWNERS)

    @property
    def updates_labels(self) -> bool:
        """Whether the teacher looks again where the student points, for CCD's label update."""
        return self.method == "ccd" and self.local_views != "none"

    @property
    def two_views(self) -> bool:
        """Whether the student is CCD's: boosted class maps, and a strong view that must agree with the weak one."""
        return self.method in ("consistent", "ccd")


def default_of(config: type, name: str) -> object:
    """The default of one field of a configuration class, for a command line to show."""
    return next(field.default for field in fields(config) if field.name == name)
