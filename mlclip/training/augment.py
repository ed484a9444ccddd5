"""Random changes of the photos of a batch: CCD's strong view (colour jitter), and resized crops.

The colour adjustments are those of torchvision's `adjust_brightness`, `adjust_contrast`, `adjust_saturation` and `adjust_hue`,
which have one factor for a whole batch. Here every photo has its own.

Letters: N photos, B photos of a batch, H W pixels, S side of a square photo.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTH = 0.5  # of each of the four adjustments, as in the paper
SMALLEST = 0.5  # share of the photo's area; from 1/12 (ImageNet's usual value) a small object would often be cut off
ASPECT = 4 / 3  # width : height of a crop, relative to the photo's, is from 1/ASPECT to ASPECT
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
    other = torch.where(value == green, 2 * span + blue - red, 4 * span + red - green)
    sixths = torch.where(value == red, green - blue, other)
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


def crop_boxes(photos: int, generator: torch.Generator) -> Tensor:
    """The random crop of each photo, (photos, 4): x0, y0, x1, y1 in fractions of width and height, all in [0, 1].

    The area is uniform from SMALLEST to 1, the aspect ratio log-uniform, the place uniform among those inside the photo. A side
    that would be longer than the photo's is cut to it.
    """
    area, aspect, x, y = torch.rand(photos, 4, generator=generator).unbind(1)
    area = SMALLEST + (1 - SMALLEST) * area
    aspect = torch.exp((2 * aspect - 1) * math.log(ASPECT))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x0, y0 = x * (1 - width), y * (1 - height)
    return torch.stack([x0, y0, x0 + width, y0 + height], dim=1)


def crops(pixels: Tensor, boxes: Tensor) -> Tensor:
    """uint8 pixels (B, 3, S, S) and rows (B, 4) of `crop_boxes` -> the crops, resized by bilinear interpolation, same shape.

    The crop is taken from the pixels, not from the file, so a small crop is a little blurred. The box 0, 0, 1, 1 changes nothing.
    """
    x0, y0, x1, y1 = boxes.to(pixels.device, torch.float32).unbind(1)
    zero = torch.zeros_like(x0)
    rows = [torch.stack([x1 - x0, zero, x0 + x1 - 1], 1), torch.stack([zero, y1 - y0, y0 + y1 - 1], 1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(pixels.shape), align_corners=False)  # (B, S, S, 2)
    found = F.grid_sample(pixels.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found.round().clamp(0, 255).to(torch.uint8)
