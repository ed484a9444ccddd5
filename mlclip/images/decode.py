"""Reads a photo file into RGB pixels, or says why it cannot. The file name and the header are not trusted."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import threading
import warnings
import zlib
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from . import formats
from .formats import in_srgb, jpeg_endings
from .shards import locate

MAX_PIXELS = 178_000_000  # no more are decoded of a photo
MAX_BYTES = 2**30
SETTINGS = (  # of Pillow, while it decodes
    (ImageFile, "LOAD_TRUNCATED_IMAGES", False),
    (Image, "MAX_IMAGE_PIXELS", 2**62),  # MAX_PIXELS stands in its place; not None, which other threads may multiply
    (PngImagePlugin, "MAX_TEXT_CHUNK", 2**24),  # bytes of one text of a PNG, or of its colour profile
    (PngImagePlugin, "MAX_TEXT_MEMORY", 2**28),  # bytes of all texts
)
BACKGROUND = (255, 255, 255)  # white, behind transparent pixels
MARGIN = 2  # a JPEG may be decoded at a fraction of its size, but at no less than this many times the requested size
# not EPS: it would start Ghostscript
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM", "AVIF", "HEIF", "JXL")
READERS = ("Jpeg", "Mpo", "Png", "Bmp", "WebP", "Gif", "Tiff", "Ppm", "Avif")  # of FORMATS; Pillow has 30 more
ORIENTATION = 0x0112
NOTED = "noted"  # key of image.info: bit k is set if NOTES[k] is true of the file
SEVERAL, PROFILE = 1, 2  # these bits
NOTES = (  # of photos that are used, with the place of their number and an example
    "files with several frames or pages: {}. Only the first frame of each is used.",
    "colour profiles that cannot be used (damaged, over 4 MB, or for other colours): {}. These photos are read as sRGB.",
)
_TURN = Image.Transpose
# EXIF orientation -> the transpose that turns the photo upright
TURNS = {2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM, 5: _TURN.TRANSPOSE, 6: _TURN.ROTATE_270,
         7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_90}  # fmt: skip

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
JXL_HEADS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
# how files begin, in lower case
_PICTURES = {b"\xff\xd8": "JPEG", b"\x89png": "PNG", b"gif8": "GIF", b"bm": "BMP", b"ii*\0": "TIFF", b"mm\0*": "TIFF",
             b"riff": "WebP", b"\xff\n": "JPEG XL", b"\0\0\0\x0cjxl ": "JPEG XL"}  # fmt: skip
_OTHERS = {b"<!doctype html": "HTML", b"<html": "HTML", b"<?xml": "XML", b"<svg": "SVG", b"{": "JSON", b"%pdf": "PDF",
           b"%!ps": "PostScript", b"pk\3\4": "a zip archive"}  # fmt: skip

# what Pillow raises for damaged files
PILLOW_ERRORS = (OSError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, EOFError,
                 RuntimeError, struct.error, zlib.error)  # fmt: skip


class Unreadable(Exception):  # noqa: N818 (a property of the photo, not an error of the program)
    """A photo cannot be used. The message is the reason, without the file name."""


def open_image(file: str | Path, *, smallest: tuple[int, int] | None = None) -> Image.Image:
    """Decode the photo in `file`, which may be a member of a shard: fully loaded, mode RGB, turned upright by its EXIF orientation.

    Of an animation or a file with several pages, the first frame or page is used that is no reduced image. `info[NOTED]` has
    bits of NOTES. Transparent pixels are placed on BACKGROUND. 16-bit grey becomes 8-bit. Float grey must be in [0, 1] or
    [0, 255]. The colours become sRGB by the photo's profile.
    `smallest` (width, height in pixels) allows a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size, as long as both
    sides are at least MARGIN times the longer of the two. The whole file is read in any case, so the same damage is found.
    A JPEG of more than MAX_PIXELS is always decoded at such a fraction.
    Raises Unreadable with the reason. Starts no program, prints nothing, and closes the file.
    """
    return decode_image(_read(file), smallest=smallest)


def decode_image(data: bytes, *, smallest: tuple[int, int] | None = None) -> Image.Image:
    """The same for the bytes of a photo's file."""
    with _STRICT_AND_QUIET:
        try:
            return _decode(data, smallest)
        except UnidentifiedImageError as error:
            raise Unreadable(_why_not(data)) from error
        except MemoryError as error:
            raise Unreadable("not enough memory to decode it") from error
        except PILLOW_ERRORS as error:
            with suppress(*PILLOW_ERRORS):
                first, second = jpeg_endings(data)
                if _decode(first, None).tobytes() == _decode(second, None).tobytes():
                    return _decode(first, smallest)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            raise Unreadable(f"damaged or cut short ({reason})") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """A picture of Pillow as `open_image` returns it: RGB, upright, sRGB. Raises Unreadable."""
    with _STRICT_AND_QUIET:
        try:
            image = ImageOps.exif_transpose(image)
            rgb = _to_rgb(image)
            profile = image.info.get("icc_profile")
            return (in_srgb(image, rgb, profile) if profile else None) or rgb
        except PILLOW_ERRORS as error:
            raise Unreadable(f"damaged ({error})") from error


def _read(file: str | Path, again: bool = True) -> bytes:
    try:
        place = locate(file)
        if not stat.S_ISREG(os.stat(place.file).st_mode):  # opening a named pipe would block
            raise Unreadable("not a regular file")
        if place.size > MAX_BYTES:
            raise Unreadable(f"too large ({place.size:,} bytes, over {MAX_BYTES:,})")
        with open(place.file, "rb") as stream:
            stream.seek(place.start)
            data = stream.read(place.size)
    except FileNotFoundError as error:
        raise Unreadable("the file no longer exists") from error
    except PermissionError as error:
        raise Unreadable("no permission to read it") from error
    except (OSError, ValueError) as error:
        if again and isinstance(error, OSError):
            return _read(file, again=False)  # a network disk may fail once
        raise Unreadable(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not data:
        raise Unreadable("empty file")
    return data


class _StrictAndQuiet(AbstractContextManager):
    """Make Pillow strict about damage but not about size, whatever the calling program has set, and silence its warnings.

    These are settings of the whole process. Threads share them: the first one in sets them, the last one out restores them.
    """

    def __init__(self):
        self._lock, self._inside, self._restore = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            for module, name, value in SETTINGS:
                self._restore.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, value)
            self._restore.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore.close()


_STRICT_AND_QUIET = _StrictAndQuiet()


def _decode(data: bytes, smallest: tuple[int, int] | None) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=_formats_for(data))
    if image.format == "TIFF" and (problem := formats.prepare_tiff(image)):
        raise Unreadable(problem)
    part = 1
    while image.width * image.height > MAX_PIXELS * part**2:
        if image.format not in ("JPEG", "MPO"):
            raise Unreadable(f"too large ({image.width:,}×{image.height:,}, over {MAX_PIXELS:,} pixels)")
        part *= 2
    if damage := _wrong_checksum(data):
        raise Unreadable(damage)
    if smallest or part > 1:
        side = MARGIN * max(smallest or image.size)
        image.draft(None, (min(side, image.width // part), min(side, image.height // part)))
    several = image.format != "MPO" and getattr(image, "is_animated", False)  # MPO: the others are previews
    several &= image.format != "TIFF" or not image.tell()  # it has gone on from a thumbnail
    deep = image.mode.startswith("I") or any(";16" in str(tile) for tile in image.tile)
    image.load()
    pixels = rgb = _to_rgb(image)
    if "icc_profile" in image.info:
        pixels = in_srgb(image, rgb, image.info["icc_profile"])
    ignored, pixels = pixels is None, pixels or rgb
    if deep and max(high for _, high in pixels.getextrema()) <= 16:
        raise Unreadable("nearly black, perhaps 12 bits in 16; spread its values over 0 to 65535 or make them 8 bits")
    if (orientation := _orientation(image, data)) in TURNS:
        pixels = pixels.transpose(TURNS[orientation])
    pixels.info[NOTED] = (SEVERAL if several else 0) | (PROFILE if ignored else 0)
    return pixels


def _orientation(image: Image.Image, data: bytes) -> int | None:
    """The EXIF orientation of the pixels that were loaded, or None."""
    try:
        value = image.getexif().get(ORIENTATION)
        if image.format == "HEIF":  # pillow-heif has taken it out of the EXIF, as if irot or imir had turned the pixels
            start = data.index(b"ipco")  # the list of properties
            properties = data[start : start + int.from_bytes(data[start - 4 : start], "big")]
            value = None if re.search(b"irot|imir", properties) else image.info.get("original_orientation")
        if image.format == "JXL":  # libjxl has turned it
            value = None
        return int(value[0] if isinstance(value, bytes | tuple) else value or 1)
    except PILLOW_ERRORS:  # damaged EXIF: use the photo without turning it
        return None


def _wrong_checksum(data: bytes) -> str | None:
    """PNG: an image data chunk (IDAT) has a wrong checksum. Pillow checks the other critical chunks, but not this one."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    view, position = memoryview(data), 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data) or kind == b"IEND":
            return None
        if kind == b"IDAT" and zlib.crc32(view[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return f"damaged (wrong checksum in the image data, at byte {position:,})"
        position = end + 4
    return None


def _formats_for(data: bytes) -> tuple[str, ...]:
    return _formats(_brand(data) in HEIF_BRANDS + AVIF_BRANDS or data.startswith(JXL_HEADS))


def _brand(data: bytes) -> bytes:
    """The four-letter brand of an ISO media file (HEIC, AVIF, MP4), or b"" for any other file."""
    return data[8:12] if data[4:8] == b"ftyp" else b""


def _why_not(data: bytes) -> str:
    """The reason why no decoder recognised `data`, and what to do where that is known."""
    brand, readable = _brand(data), _formats_for(data)
    if data.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the photo itself; run `git lfs pull`"
    if brand in HEIF_BRANDS and "HEIF" not in readable:
        return "HEIC needs a plug-in; run `pip install pillow-heif`"
    if brand in AVIF_BRANDS and "AVIF" not in readable:
        return "AVIF needs a newer Pillow or a plug-in; run `pip install -U pillow` or `pip install pillow-avif-plugin`"
    if data.startswith(JXL_HEADS) and "JXL" not in readable:
        return "JPEG XL needs a plug-in; run `pip install pillow-jxl-plugin`"
    head = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    picture = "HEIC or AVIF" if brand in HEIF_BRANDS + AVIF_BRANDS else None
    picture = picture or next((name for start, name in _PICTURES.items() if head.startswith(start)), None)
    with suppress(*PILLOW_ERRORS):
        return formats.refused_tiff(data)
    if picture:
        return f"damaged or cut short (it begins like {picture})"
    kind = "a video" if brand else next((name for start, name in _OTHERS.items() if head.startswith(start)), None)
    if not kind and not set(head) & (set(range(32)) - set(b"\t\n\r\f")):  # no control characters
        kind = "text"
    return f"not an image (looks like {kind})" if kind else "not an image"


@lru_cache
def _formats(plug_ins: bool) -> tuple[str, ...]:
    """The FORMATS that this Pillow can read. With `plug_ins`, installed plug-ins for HEIC, AVIF and JPEG XL are registered first."""
    for module in READERS:
        with suppress(ImportError):  # an older Pillow has no reader of AVIF
            import_module(f"PIL.{module}ImagePlugin")
    if plug_ins:
        with suppress(ImportError):
            import_module("pillow_heif").register_heif_opener()
        for name in ("pillow_avif", "pillow_jxl"):  # the import registers it
            with suppress(ImportError):
                import_module(name)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        low, high = int(grey.min()), int(grey.max())
        if low < 0 or high > 65535:
            raise Unreadable(f"integer pixels from {low} to {high}; only 0 to 65535 is supported")
        tags = image.tag_v2 if image.format == "TIFF" else {}
        most = 4095 if formats.tag(tags, formats.BITS, 16) == 12 else 65535
        grey = (grey.astype(np.uint32) * 255 + most // 2) // most
        if formats.tag(tags, formats.COLOURS) == formats.WHITE_IS_ZERO:
            grey = 255 - grey
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        grey = np.asarray(image)
        low, high = float(grey.min()), float(grey.max())  # NaN if any pixel is
        if not (low >= 0 and high <= 255):
            raise Unreadable(f"float pixels from {low:g} to {high:g}; only 0 to 1 or 0 to 255 is supported")
        scale = 255 if high <= 1 else 1
        return Image.fromarray(np.rint(grey * scale).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        if image.format == "BMP" and layer.getchannel("A").getextrema() == (0, 0):
            return image.convert("RGB")  # many programs leave the alpha of a BMP empty
        canvas = Image.new("RGB", image.size, BACKGROUND)
        canvas.paste(layer, mask=layer.getchannel("A"))
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")
