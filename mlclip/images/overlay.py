"""Class activation maps and boxes, drawn over a photo.

Letters: h w cells of a map, H W pixels of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

STRENGTH = 0.55  # how much the colours cover the photo
RAMP = ((0, 0, 90), (0, 90, 220), (0, 200, 180), (190, 220, 40), (255, 140, 0), (190, 0, 0))  # weakest to strongest
BOX_COLOURS = ("#e6194b", "#4363d8", "#3cb44b", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")


def lay_over(photo: Image.Image, cam: Tensor) -> Image.Image:
    """An RGB photo under the colours of a class activation map (h, w), resized bilinearly and min-max normalised."""
    heat = Image.fromarray(normalised(cam).numpy()).resize(photo.size, Image.Resampling.BILINEAR)
    ramp = np.asarray(RAMP, dtype=np.float32)  # (colours, 3)
    place = np.asarray(heat, dtype=np.float32).clip(0, 1) * (len(ramp) - 1)  # (H, W)
    colours = np.stack([np.interp(place, np.arange(len(ramp)), ramp[:, c]) for c in range(3)], axis=-1)  # (H, W, 3)
    mixed = (1 - STRENGTH) * np.asarray(photo, dtype=np.float32) + STRENGTH * colours
    return Image.fromarray(mixed.round().astype(np.uint8))


def normalised(cam: Tensor) -> Tensor:
    """A class activation map (h, w) from 0 at its weakest cell to 1 at its strongest; 0 everywhere if it is flat.

    >>> normalised(torch.tensor([[2.0, 4.0], [3.0, 2.0]]))
    tensor([[0.0000, 1.0000],
            [0.5000, 0.0000]])
    """
    low, high = cam.min(), cam.max()
    return (cam.float() - low) / (high - low) if high > low else torch.zeros_like(cam, dtype=torch.float32)


def draw_boxes(photo: Image.Image, boxes: Sequence[Sequence[float]], width: int = 3, first: int = 0) -> Image.Image:
    """An RGB photo with boxes (x0, y0, x1, y1 in shares of its sides) outlined, in BOX_COLOURS from `first` on."""
    picture = photo.copy()
    draw = ImageDraw.Draw(picture)
    right, low = photo.width - 1, photo.height - 1
    for place, (x0, y0, x1, y1) in enumerate(boxes, start=first):
        corners = (round(x0 * right), round(y0 * low), round(x1 * right), round(y1 * low))
        draw.rectangle(corners, outline=BOX_COLOURS[place % len(BOX_COLOURS)], width=width)
    return picture
