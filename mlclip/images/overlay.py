"""Draws class activation maps and boxes over a photo.

Letters: h, w rows and columns of a map; H, W height and width of a photo in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

STRENGTH = 0.55  # opacity of the colours
RAMP = ((0, 0, 90), (0, 90, 220), (0, 200, 180), (190, 220, 40), (255, 140, 0), (190, 0, 0))  # weakest to strongest
BOX_COLOURS = ("#e6194b", "#4363d8", "#3cb44b", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")


def lay_over(photo: Image.Image, cam: Tensor) -> Image.Image:
    """Blend an RGB photo with the colours of a class activation map (h, w), min-max normalised and resized bilinearly."""
    heat = Image.fromarray(normalised(cam).numpy()).resize(photo.size, Image.Resampling.BILINEAR)
    ramp = np.asarray(RAMP, dtype=np.float32)  # (colours, 3)
    position = np.asarray(heat, dtype=np.float32).clip(0, 1) * (len(ramp) - 1)  # (H, W)
    colours = np.stack([np.interp(position, np.arange(len(ramp)), ramp[:, c]) for c in range(3)], axis=-1)  # (H, W, 3)
    mixed = (1 - STRENGTH) * np.asarray(photo, dtype=np.float32) + STRENGTH * colours
    return Image.fromarray(mixed.round().astype(np.uint8))


def normalised(cam: Tensor) -> Tensor:
    """Scale a class activation map (h, w) linearly so that its minimum is 0 and its maximum is 1. A constant map becomes 0.

    >>> normalised(torch.tensor([[2.0, 4.0], [3.0, 2.0]]))
    tensor([[0.0000, 1.0000],
            [0.5000, 0.0000]])
    """
    low, high = cam.min(), cam.max()
    return (cam.float() - low) / (high - low) if high > low else torch.zeros_like(cam, dtype=torch.float32)


def as_bytes(cams: Tensor) -> Tensor:
    """Class activation maps (K, h, w) as uint8 from 0 to 255; each is min-max normalised."""
    return torch.stack([(normalised(cam) * 255).round().to(torch.uint8) for cam in cams]) if len(cams) else cams.byte()


def draw_boxes(photo: Image.Image, boxes: Sequence[Sequence[float]], width: int = 3, first: int = 0) -> Image.Image:
    """Outline boxes (x0, y0, x1, y1), in fractions of width and height, on a copy of an RGB photo, from colour `first` on."""
    copy = photo.copy()
    draw = ImageDraw.Draw(copy)
    right, bottom = photo.width - 1, photo.height - 1
    for index, (x0, y0, x1, y1) in enumerate(boxes, start=first):
        corners = (round(x0 * right), round(y0 * bottom), round(x1 * right), round(y1 * bottom))
        draw.rectangle(corners, outline=BOX_COLOURS[index % len(BOX_COLOURS)], width=width)
    return copy
