"""Random resized crops of a batch: another part of each photo, resized to the same square.

Letters: N photos, B photos of a batch, S side in pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 0.5  # share of the photo's area; from 1/12 (ImageNet's usual value) a small object would often be cut off
ASPECT = 4 / 3  # width : height of a crop, relative to the photo's, is from 1/ASPECT to ASPECT


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
