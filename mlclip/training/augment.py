"""CCD's strong view of a photo: its colours shaken.

Letters: B photos, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

STRENGTH = 0.5  # of every part, as in the paper
_PARTS = (
    transforms.adjust_brightness,
    transforms.adjust_contrast,
    transforms.adjust_saturation,
    transforms.adjust_hue,
)


def jitter_table(photos: int, chance: torch.Generator) -> Tensor:
    """What to do to each photo, (photos, 8): four factors, and the four numbers whose order is that of the parts.

    Brightness, contrast and saturation are multiplied by 0.5 to 1.5; the hue is turned by -0.5 to 0.5 of the circle.
    """
    factors = 1 + STRENGTH * (2 * torch.rand(photos, 4, generator=chance) - 1)
    factors[:, 3] -= 1
    return torch.cat([factors, torch.rand(photos, 4, generator=chance)], dim=1)


def jitter_colours(pixels: Tensor, table: Tensor) -> Tensor:
    """CCD step 2, strong view: uint8 pixels (B, 3, H, W) and rows (B, 8) of `jitter_table` -> pixels, same shape."""
    return (
        torch.stack([_shake(photo, row) for photo, row in zip(pixels, table, strict=True)]) if len(pixels) else pixels
    )


def _shake(photo: Tensor, row: Tensor) -> Tensor:
    factors = row[:4].tolist()
    for part in row[4:].argsort().tolist():
        photo = _PARTS[part](photo, factors[part])
    return photo
