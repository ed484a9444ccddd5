"""CCD's strong view of a photo: colour jitter, for all photos of a batch at once.

The adjustments are those of torchvision's `adjust_brightness`, `adjust_contrast`, `adjust_saturation` and `adjust_hue`, which
have one factor for a whole batch. Here every photo has its own.

Letters: B photos, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

STRENGTH = 0.5  # of each of the four adjustments, as in the paper
GREY = (0.2989, 0.587, 0.114)  # share of red, green and blue in the brightness of a pixel


def jitter_table(photos: int, generator: torch.Generator) -> Tensor:
    """The random adjustments of each photo, (photos, 8): four factors, and four numbers whose order gives the order to apply them.

    Brightness, contrast and saturation are multiplied by 0.5 to 1.5. The hue is shifted by -0.5 to 0.5 of the colour circle.
    """
    factors = 1 + STRENGTH * (2 * torch.rand(photos, 4, generator=generator) - 1)
    factors[:, 3] -= 1
    return torch.cat([factors, torch.rand(photos, 4, generator=generator)], dim=1)


def jitter_colours(pixels: Tensor, table: Tensor) -> Tensor:
    """CCD step 2, strong view: uint8 pixels (B, 3, H, W) and rows (B, 8) of `jitter_table` -> pixels of the same shape.

    The four adjustments have a different order in each photo. So there are up to four groups of photos in each of four rounds.
    """
    pixels, order = pixels.clone(), table[:, 4:].argsort(dim=1)  # (B, 3, H, W), (B, 4)
    for column in order.T:
        for index, adjust in enumerate(ADJUSTMENTS):
            rows = (column == index).nonzero().flatten()
            if len(rows):
                factors = table[rows, index].to(pixels.device).view(-1, 1, 1, 1)
                rows = rows.to(pixels.device)
                pixels[rows] = adjust(pixels[rows], factors)
    return pixels


def adjust_brightness(pixels: Tensor, factors: Tensor) -> Tensor:
    """uint8 pixels (B, 3, H, W), each photo multiplied by its factor (B, 1, 1, 1)."""
    return _as_bytes(pixels * factors)


def adjust_contrast(pixels: Tensor, factors: Tensor) -> Tensor:
    """uint8 pixels (B, 3, H, W); the distance to the photo's mean grey is multiplied by its factor (B, 1, 1, 1)."""
    return _blend(pixels, _grey(pixels).mean(dim=(1, 2, 3), keepdim=True), factors)


def adjust_saturation(pixels: Tensor, factors: Tensor) -> Tensor:
    """uint8 pixels (B, 3, H, W); the distance to the pixel's own grey is multiplied by the photo's factor (B, 1, 1, 1)."""
    return _blend(pixels, _grey(pixels), factors)


def adjust_hue(pixels: Tensor, factors: Tensor) -> Tensor:
    """uint8 pixels (B, 3, H, W); the hue of each photo is turned by its factor (B, 1, 1, 1), in turns of the colour circle.

    Hue, saturation and value are those of the HSV colour space. Each channel is value · (1 - saturation · share), where the
    share depends on the distance of the hue to that channel on the circle.
    """
    rgb = pixels.float() / 255  # (B, 3, H, W)
    low, value = rgb.aminmax(dim=1, keepdim=True)  # (B, 1, H, W)
    span = value - low
    red, green, blue = rgb.split(1, dim=1)
    sixths = torch.where(
        value == red, green - blue, torch.where(value == green, 2 * span + blue - red, 4 * span + red - green)
    )
    hue = sixths / span.clamp(min=1e-9) + 6 * factors  # (B, 1, H, W) in sixths of the circle; a grey pixel has span 0
    channels = torch.tensor([5.0, 3.0, 1.0], device=pixels.device).view(1, 3, 1, 1)
    distance = (channels + hue).remainder(6)  # (B, 3, H, W)
    share = torch.minimum(distance, 4 - distance).clamp(0, 1)
    return ((value - span * share) * (256 - 1e-3)).to(torch.uint8)  # as torchvision converts colours in [0, 1]


ADJUSTMENTS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def _grey(pixels: Tensor) -> Tensor:
    """The brightness of uint8 pixels (B, 3, H, W), rounded down: float32 (B, 1, H, W)."""
    red, green, blue = pixels.float().split(1, dim=1)
    return (GREY[0] * red).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2]).floor_()


def _blend(pixels: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    return _as_bytes((pixels * factors).add_(other * (1 - factors)))


def _as_bytes(values: Tensor) -> Tensor:
    return values.clamp_(0, 255).to(torch.uint8)
