"""From a folder to pixels: find the photos, open them safely, cut them into views, read them in batches."""

from .decode import BACKGROUND, MAX_PIXELS, Unreadable, open_image
from .find import STORE_MARK, SUFFIXES, Found, Photo, Skip, find_images
from .loader import Box, PhotoCrops, PhotoViews, collate, crop_size, photo_batches, tile_boxes, view_pixels

__all__ = [
    "BACKGROUND",
    "MAX_PIXELS",
    "STORE_MARK",
    "SUFFIXES",
    "Box",
    "Found",
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
    "tile_boxes",
    "view_pixels",
]
