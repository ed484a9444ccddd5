"""What a user may choose, each default written once, and the one error a user can cause. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, fields


class InputError(Exception):
    """Something the user gave cannot be used. The message is one line: the thing, what is wrong, the remedy."""


class OptionError(InputError):
    """An option's value makes no sense, whatever the files hold: wrong usage."""


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise OptionError(f"{name} is {value}: it must be {wanted}")


@dataclass(frozen=True)
class PseudolabelConfig:
    """How view embeddings become pseudo labels. Defaults are CDUL's (ICCV 2023)."""

    method: str = "cdul"
    part: str = "final"  # of CDUL's labels: "final", or "global" / "aggregate" alone, for comparison
    snippets: int = 3  # n of the n×n grid of local views
    zeta: float = 0.5  # ζ: a class whose best snippet reaches it takes its maximum, else its minimum
    temperature: float | None = None  # τ; None means CLIP's own, 1/100 for OpenAI's models
    disagreement: float = 0.0  # λ: weight of |global − aggregate| in the final labels (the paper's supplement)

    METHODS = ("cdul",)
    PARTS = ("final", "global", "aggregate")

    def __post_init__(self):
        _require(self.method in self.METHODS, "--method", self.method, f"one of {', '.join(self.METHODS)}")
        _require(self.part in self.PARTS, "--part", self.part, f"one of {', '.join(self.PARTS)}")
        _require(1 <= self.snippets <= 16, "--snippets", self.snippets, "from 1 to 16")
        _require(0 <= self.zeta <= 1, "--zeta", self.zeta, "from 0 (always the maximum) to 1")
        _require(self.temperature is None or self.temperature > 0, "--temperature", self.temperature, "above 0")
        _require(0 <= self.disagreement <= 1, "--disagreement", self.disagreement, "from 0 to 1")


@dataclass(frozen=True)
class TrainConfig:
    """How the student learns. Defaults are CDUL's for VOC: ResNet-101, ImageNet weights, 448 px, Adam at 1e-5."""

    method: str = "fixed"  # "fixed" labels, or "cdul": labels and weights learn in turns
    arch: str = "resnet101"
    init: str = "imagenet"  # "imagenet", "none", "clip" (with arch "clip-resnet"), or a file of torchvision weights
    size: int = 448  # the student's square input, pixels
    epochs: int = 20
    batch_size: int = 8  # photos per weight step, over all processes together
    lr: float = 1e-5
    head_lr_factor: float = (
        10.0  # learning rate of the new 1×1 convolution, as a multiple of lr (CCD's; CDUL says none)
    )
    seed: int = 0
    label_rate: float = 1.0  # η of CDUL's label step
    sigma: float = 1.0  # σ of the Gaussian gate ψ of the label step
    label_every: int = 1  # k: a label step at the end of every k-th epoch after the warm-up
    warmup: int = 2  # epochs of weight steps alone (CDUL says no number; this is CCD's)

    METHODS = ("fixed", "cdul")

    def __post_init__(self):
        _require(self.method in self.METHODS, "--method", self.method, f"one of {', '.join(self.METHODS)}")
        _require(self.size >= 64, "--size", self.size, "at least 64 pixels")
        _require(self.epochs >= 1, "--epochs", self.epochs, "at least 1")
        _require(self.batch_size >= 1, "--batch-size", self.batch_size, "at least 1")
        _require(self.lr > 0, "--lr", self.lr, "above 0")
        _require(self.head_lr_factor > 0, "--head-lr-factor", self.head_lr_factor, "above 0")
        _require(self.label_rate >= 0, "--label-rate", self.label_rate, "0 (labels stay) or more")
        _require(self.sigma > 0, "--sigma", self.sigma, "above 0")
        _require(self.label_every >= 1, "--label-every", self.label_every, "at least 1")
        _require(self.warmup >= 0, "--warmup", self.warmup, "0 or more")
        for name in ("label_rate", "sigma", "label_every", "warmup") if self.method == "fixed" else ():
            if getattr(self, name) != default_of(type(self), name):
                option = "--" + name.replace("_", "-")
                raise OptionError(f"{option} has no part in --method fixed; add --method cdul, or leave it away")


def default_of(config: type, name: str) -> object:
    """The default of one field of a configuration class, for a command line to show."""
    return next(field.default for field in fields(config) if field.name == name)
