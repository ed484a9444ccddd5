"""TIFF: which page is the photo, and which pixel formats are read. The others are named and never guessed."""

from __future__ import annotations

import io
from collections.abc import Mapping

from PIL import ImageFile, TiffImagePlugin

KIND, BITS, COLOURS, SAMPLES, LAYOUT, NUMBERS = 254, 258, 262, 277, 284, 339  # tags
WHITE_IS_ZERO = 0  # a value of COLOURS
PLANAR = 2  # a value of LAYOUT: all red values, then all green ones, then all blue ones
SIGNED = 2  # a value of NUMBERS
_COLOURS = {0: "grey (0 is white)", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab", 32803: "RAW"}  # fmt: skip
_NUMBERS = {2: " signed", 3: " float", 5: " complex", 6: " complex"}


def tag(tags: Mapping, number: int, default: int = 1) -> int:
    """The value of a tag, or the first of its values."""
    value = tags.get(number, default)
    return value[0] if isinstance(value, tuple) else value


def prepare(image: TiffImagePlugin.TiffImageFile) -> str | None:
    """Go to the page that is the photo, before it is loaded. Returns the reason why it cannot be read, or None."""
    while tag(image.tag_v2, KIND, 0) & 1:  # a smaller copy of another page
        if image.tell() + 1 == image.n_frames:
            return "a RAW file or a thumbnail: no page of full size can be read; see `exiftool -b -PreviewImage`"
        image.seek(image.tell() + 1)
    tags, bits = image.tag_v2, tag(image.tag_v2, BITS)
    if (tag(tags, NUMBERS) == SIGNED and bits <= 16) or (tag(tags, COLOURS, 0) == WHITE_IS_ZERO and bits > 16):
        return refusal(tags)
    if bits == 16 and tag(tags, LAYOUT) == PLANAR and image.tile[0][0] == "raw":  # Pillow reads it as if it had 8 bits
        order, make = (";16B" if tags.prefix == b"MM" else ";16L"), getattr(ImageFile, "_Tile", lambda *parts: parts)
        image.tile = [make(*parts, (args[0] + order, *args[1:])) for *parts, args in image.tile]
    return None


def refusal(tags: Mapping) -> str:
    """The reason that names the pixel format of a page."""
    colours = _COLOURS.get(tags[COLOURS], f"colours of kind {tags[COLOURS]}")
    numbers, planar = _NUMBERS.get(tag(tags, NUMBERS), ""), " planar" if tag(tags, LAYOUT) == PLANAR else ""
    form = f"{tag(tags, BITS)}-bit{numbers}{planar} {colours}, {tag(tags, SAMPLES)} values per pixel"
    return f"TIFF with pixels that are not supported ({form}); convert it to 8-bit RGB"


def refused(data: bytes) -> str:
    """The `refusal` of a TIFF that Pillow cannot read. Raises an error if `data` is damaged or no TIFF."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[:16] if b"+" in data[2:4] else data[:8])
    stream = io.BytesIO(data)
    stream.seek(tags.next)
    tags.load(stream)
    return refusal(tags)
