"""Colour profiles (ICC): the pixels of a photo in any colours become sRGB. Without a profile they are sRGB already."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE = 4 * 2**20  # bytes; a larger profile is not used
SAME = 3  # of 255: a profile that changes no colour by more than this is sRGB, as one of many programs writes it
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colours of a profile -> mode of the pixels


def in_srgb(image: Image.Image, rgb: Image.Image, profile: bytes | None) -> Image.Image | None:
    """`rgb`, the RGB pixels of `image`, from the colours of `profile` to sRGB, relative colorimetric. None if it cannot be used.

    For sRGB itself, `rgb` is returned as it is. The transform of a profile is made once.
    """
    if not profile or len(profile) > MAX_PROFILE:
        return None
    try:
        mode, transform = _transform(profile)
        if mode == "RGB" and image.mode not in ("CMYK", "LAB"):
            return transform.apply(rgb) if transform else rgb
        if mode == "L" and image.mode[:1] in "1LIF" and image.mode != "LAB":
            return transform.apply(rgb.getchannel(0))
        return transform.apply(image) if mode == image.mode == "CMYK" else None
    except (ImageCms.PyCMSError, OSError, LookupError, ValueError, TypeError, ImportError):
        return None  # damaged, or its colours are not those of the pixels


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode of the pixels that `profile` describes, and their transform to sRGB; None for sRGB itself."""
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = _MODES[opened.profile.xcolor_space.strip()]
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB", intent)
    if mode == "RGB":
        colours = np.mgrid[0:256:15, 0:256:15, 0:256:15].astype(np.uint8).reshape(3, -1, 18).transpose(1, 2, 0)
        changed = np.asarray(transform.apply(Image.fromarray(np.ascontiguousarray(colours))))
        if np.abs(changed.astype(int) - colours).max() <= SAME:
            return mode, None
    return mode, transform
