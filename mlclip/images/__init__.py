"""Finds photos, decodes them safely, cuts them into views and loads them in batches."""

from .decode import BACKGROUND, MAX_PIXELS, Unreadable, open_image
from .find import STORE_MARK, SUFFIXES, Found, Photo, Skip, find_images
from .guard import MissingGuardWarning, safe_num_workers
from .loader import Box, PhotoCrops, PhotoViews, collate, crop_size, photo_batches, tile_boxes, view_pixels

__all__ = [
    "BACKGROUND",
    "MAX_PIXELS",
    "STORE_MARK",
    "SUFFIXES",
    "Box",
    "Found",
    "MissingGuardWarning",
    "Photo",
    "PhotoCrops",
    "PhotoViews",
    "Skip",
    "Unreadable",
    "collate",
    "crop_size",
    "find_images",
    "open_image",
    "photo_batches",
    "safe_num_workers",
    "tile_boxes",
    "view_pixels",
]
