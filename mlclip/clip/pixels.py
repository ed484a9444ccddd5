"""What a CLIP expects of its input pixels: how they are normalised, and how photos were resized in its training. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..config import InputError, OptionError

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of RGB in [0, 1], as in OpenAI's training
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
INTERPOLATIONS = ("bicubic", "bilinear")
RESIZE_MODES = ("shortest", "squash", "longest")
WANTED = "Use `clip_pixels=openai`, `half`, or numbers, such as `clip_pixels=0.48,0.46,0.41/0.27,0.26,0.28/bilinear`."


@dataclass(frozen=True)
class Pixels:
    """The pixels that a CLIP was trained on; the defaults are OpenAI's. `mean` and `std` are of RGB in [0, 1].

    `resize` says how a photo became a square in the training: "squash" changes the aspect ratio, "shortest" keeps it and cuts
    off the ends of the longer side, "longest" keeps it and pads the shorter side. It is recorded with the labels and does not change
    what mlclip computes: each view is a crop that is squashed to a square, as in both papers, so that no end of a photo is lost and no
    padding is labelled.
    """

    mean: tuple[float, float, float] = IMAGE_MEAN
    std: tuple[float, float, float] = IMAGE_STD
    interpolation: str = "bicubic"
    resize: str = "shortest"

    def __post_init__(self) -> None:
        """InputError for values that no CLIP can have."""
        for name, values, least in (("mean", self.mean, 0.0), ("std", self.std, 1e-3)):
            triple = isinstance(values, tuple) and len(values) == 3
            if not triple or not all(type(v) in (int, float) and least <= v <= 1 for v in values):
                raise InputError(f"the pixels' {name} is {str(values)[:60]!r}, not three numbers from {least:g} to 1")
        if self.interpolation not in INTERPOLATIONS or self.resize not in RESIZE_MODES:
            found = f"{self.interpolation}, {self.resize}"
            known = f"one of {', '.join(INTERPOLATIONS)}, and one of {', '.join(RESIZE_MODES)}"
            raise InputError(f"the pixels' interpolation and resize mode are {found[:60]!r}: they must be {known}")

    def as_plain(self) -> dict[str, Any]:
        """All fields, as plain containers."""
        return {**self.for_embeddings(), "resize": self.resize}

    def for_embeddings(self) -> dict[str, Any]:
        """The fields that embeddings depend on, as plain containers."""
        return {"mean": list(self.mean), "std": list(self.std), "interpolation": self.interpolation}

    def same_as(self, other: Pixels) -> bool:
        """Whether embeddings are the same with both."""
        return self.for_embeddings() == other.for_embeddings()

    def __str__(self) -> str:
        names = {(IMAGE_MEAN, IMAGE_STD): "OpenAI's mean and std", (HALF, HALF): "mean 0.5, std 0.5"}
        mean, std = (",".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        numbers = names.get((self.mean, self.std)) or f"mean {mean}, std {std}"
        return f"{numbers}, {self.interpolation}, {self.resize}"


def pixels_of(content: Any) -> Pixels:
    """The Pixels in the dict of `as_plain`; fields that are missing are OpenAI's. InputError for wrong values."""
    if not isinstance(content, dict):
        return OPENAI
    triples = {name: tuple(content[name]) for name in ("mean", "std") if isinstance(content.get(name), list | tuple)}
    words = {name: content[name] for name in ("interpolation", "resize") if name in content}
    return Pixels(**triples, **words)


def parse_pixels(text: str) -> Pixels:
    """Pixels from a word or numbers: "openai", "half", or MEAN/STD[/INTERPOLATION]; each of MEAN and STD is one number or three.

    >>> parse_pixels("0.5/0.5/bilinear").interpolation
    'bilinear'

    Raises OptionError for any other text.
    """
    known = {"openai": OPENAI, "half": HALF_PIXELS}
    if text.lower() in known:
        return known[text.lower()]
    try:
        mean, std, *interpolation = text.split("/")
        numbers = [tuple(float(part) for part in numbers.split(",")) for numbers in (mean, std)]
        return Pixels(*(found * 3 if len(found) == 1 else found for found in numbers), *interpolation)
    except (ValueError, TypeError, InputError) as error:
        raise OptionError(f"`clip_pixels={text}` is not known. {WANTED}") from error


OPENAI = Pixels()
HALF_PIXELS = Pixels(HALF, HALF)
