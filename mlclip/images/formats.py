"""What Pillow does not know of single formats: TIFF's pages and pixels, JPEGs without an end marker, and colour profiles (ICC)."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms, ImageFile, TiffImagePlugin

KIND, BITS, COLOURS, SAMPLES, LAYOUT, NUMBERS = 254, 258, 262, 277, 284, 339  # tags of TIFF
WHITE_IS_ZERO = 0  # a value of COLOURS
PLANAR = 2  # a value of LAYOUT: all red values, then all green ones, then all blue ones
SIGNED = 2  # a value of NUMBERS
_COLOURS = {0: "grey (0 is white)", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab", 32803: "RAW"}  # fmt: skip
_NUMBERS = {2: " signed", 3: " float", 5: " complex", 6: " complex"}

_END = b"\xff\xd9"  # marker of JPEG
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # in compressed data, any marker but those of a restart
_VIDEO = re.compile(rb"\0\0\0.ftyp", re.DOTALL)  # the start of an .mp4, which phones append to a photo
_NOISE = bytes(37 * n % 251 for n in range(1000))  # compressed data of no picture

MAX_PROFILE = 4 * 2**20  # bytes; a larger profile is not used
SAME = 3  # of 255: a profile that changes no colour by more than this is sRGB, as one of many programs writes it
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colours of a profile -> mode of the pixels


def tag(tags: Mapping, number: int, default: int = 1) -> int:
    """The value of a tag of TIFF, or the first of its values."""
    value = tags.get(number, default)
    return value[0] if isinstance(value, tuple) else value


def prepare_tiff(image: TiffImagePlugin.TiffImageFile) -> str | None:
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
    """The reason that names the pixel format of a page: it is not read, and never guessed."""
    colours = _COLOURS.get(tags[COLOURS], f"colours of kind {tags[COLOURS]}")
    numbers, planar = _NUMBERS.get(tag(tags, NUMBERS), ""), " planar" if tag(tags, LAYOUT) == PLANAR else ""
    form = f"{tag(tags, BITS)}-bit{numbers}{planar} {colours}, {tag(tags, SAMPLES)} values per pixel"
    return f"TIFF with pixels that are not supported ({form}); convert it to 8-bit RGB"


def refused_tiff(data: bytes) -> str:
    """The `refusal` of a TIFF that Pillow cannot read. Raises an error if `data` is damaged or no TIFF."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[:16] if b"+" in data[2:4] else data[:8])
    stream = io.BytesIO(data)
    stream.seek(tags.next)
    tags.load(stream)
    return refusal(tags)


def jpeg_endings(data: bytes) -> tuple[bytes, bytes]:
    """A JPEG without an end marker, with one; and the same with other bytes before it.

    Exactly if no pixel is missing, both decode to the same pixels. What follows the photo, such as a video, is left out.
    ValueError if `data` has an end marker, lacks a whole scan, or is no JPEG.
    """
    position, end, wanted, restarts = 2, 0, set(), 0
    while found := _MARKER.match(data, position):
        kind, start = data[found.end() - 1], found.end()
        position = start + int.from_bytes(data[start : start + 2], "big")
        if kind == _END[1]:
            raise ValueError("a JPEG with an end marker")
        if end and kind != 0xDA and data[position : position + 1] != b"\xff":
            break  # not a marker: bytes after the photo
        if kind in (0xC2, 0xCA):  # progressive: the first scans of a component lack details
            wanted = {(component, part) for component in data[start + 8 : position : 3] for part in (False, True)}
        if kind == 0xDA:  # a scan: compressed data follow
            last, bits = data[position - 2 : position]
            if last in (0, 63) and bits & 15 == 0:  # the last bits of the first or of the last coefficients
                wanted -= {(component, last == 63) for component in data[start + 3 : position - 3 : 2]}
            ends = (_VIDEO.search(data, position), _MARKER.search(data, position))
            end = min(hit.start() if hit else len(data) for hit in ends)
            restarts = len(re.findall(rb"\xff[\xd0-\xd7]", data[position:end]))
            position = end
    if not end or wanted:
        raise ValueError("no JPEG, or one that lacks a scan")
    whole = data[:end].rstrip(b"\xff")
    restart = bytes([0xFF, 0xD0 + restarts % 8])
    return whole + _END, whole + _NOISE + restart + _NOISE + _END


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
