"""Finds photos, decodes them safely, cuts them into views and loads them in batches. The names are looked up on first use.

Only `loader` and `overlay` import torch.
"""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .decode import BACKGROUND as BACKGROUND
    from .decode import MAX_PIXELS as MAX_PIXELS
    from .decode import SEVERAL as SEVERAL
    from .decode import Unreadable as Unreadable
    from .decode import open_image as open_image
    from .find import STORE_MARK as STORE_MARK
    from .find import SUFFIXES as SUFFIXES
    from .find import Found as Found
    from .find import Images as Images
    from .find import Photo as Photo
    from .find import Skip as Skip
    from .find import find_images as find_images
    from .loader import PhotoCrops as PhotoCrops
    from .loader import PhotoParts as PhotoParts
    from .loader import PhotoViews as PhotoViews
    from .loader import collate as collate
    from .loader import collate_parts as collate_parts
    from .loader import photo_batches as photo_batches
    from .loader import view_pixels as view_pixels
    from .views import Box as Box
    from .views import crop_size as crop_size
    from .views import read_views as read_views
    from .views import tile_boxes as tile_boxes
    from .views import view_array as view_array

_NAMES = {
    "decode": ("BACKGROUND", "MAX_PIXELS", "SEVERAL", "Unreadable", "open_image"),
    "find": ("STORE_MARK", "SUFFIXES", "Found", "Images", "Photo", "Skip", "find_images"),
    "loader": ("PhotoCrops", "PhotoParts", "PhotoViews", "collate", "collate_parts", "photo_batches", "view_pixels"),
    "views": ("Box", "crop_size", "read_views", "tile_boxes", "view_array"),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}
__all__, __getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
