"""Finds photos, decodes them safely, cuts them into views and loads them in batches. The names are looked up on first use.

Only `loader` and `overlay` import torch.
"""

from .. import lazy_names

_NAMES = {
    "decode": "BACKGROUND MAX_PIXELS NOTED NOTES PROFILE SEVERAL Unreadable open_image",
    "find": "STORE_MARK SUFFIXES Found Images Photo Skip find_images",
    "loader": "PhotoCrops PhotoParts PhotoViews collate collate_parts photo_batches view_pixels",
    "views": "Box crop_size read_parts tile_boxes view_array",
}
__all__, __getattr__, __dir__ = lazy_names(__name__, _NAMES)
