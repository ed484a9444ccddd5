"""CCD's strong view of a photo: colour jitter.

Letters: B photos, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

STRENGTH = 0.5  # of each of the four adjustments, as in the paper
_ADJUSTMENTS = (
    transforms.adjust_brightness,
    transforms.adjust_contrast,
    transforms.adjust_saturation,
    transforms.adjust_hue,
)


def jitter_table(photos: int, generator: torch.Generator) -> Tensor:
    """The random adjustments of each photo, (photos, 8): four factors, and four numbers whose order gives the order to apply them.

    Brightness, contrast and saturation are multiplied by 0.5 to 1.5. The hue is shifted by -0.5 to 0.5 of the colour circle.
    """
    factors = 1 + STRENGTH * (2 * torch.rand(photos, 4, generator=generator) - 1)
    factors[:, 3] -= 1
    return torch.cat([factors, torch.rand(photos, 4, generator=generator)], dim=1)


def jitter_colours(pixels: Tensor, table: Tensor) -> Tensor:
    """CCD step 2, strong view: uint8 pixels (B, 3, H, W) and rows (B, 8) of `jitter_table` -> pixels of the same shape."""
    if not len(pixels):
        return pixels
    return torch.stack([_jitter(photo, row) for photo, row in zip(pixels, table, strict=True)])


def _jitter(photo: Tensor, row: Tensor) -> Tensor:
    factors = row[:4].tolist()
    for index in row[4:].argsort().tolist():
        photo = _ADJUSTMENTS[index](photo, factors[index])
    return photo
