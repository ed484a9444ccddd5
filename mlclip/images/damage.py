"""What a photo file's bytes tell that Pillow keeps quiet about: damage it decodes over, and what a non-image is."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Collection

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")

_IMAGES = (  # how the formats begin that are read here
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"RIFF", "WebP"),
)
_OTHERS = (  # and what else is found under an image's name
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"PK\3\4", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
)
_TEXTS = (
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # not a stuffed 255, a fill byte, or a restart
_SOI, _EOI, _SOS, _DHT, _TEM = 0xD8, 0xD9, 0xDA, 0xC4, 0x01
_AFTER_A_SCAN = {_DHT, _EOI, _SOS, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}
_SEQUENTIAL = (0xC0, 0xC1)
_ZEROS = bytes(64)


def brand(data: bytes) -> bytes:
    """The four letters that say what an ISO media file (HEIC, AVIF, MP4) holds; b"" for any other file."""
    return data[8:12] if data[4:8] == b"ftyp" else b""


def explain(data: bytes, formats: Collection[str]) -> str:
    """Why none of the decoders for `formats` (Pillow's names) recognised `data`: a reason a person can act on."""
    if data.startswith(b"version https://git-lfs"):
        return "a Git LFS views_found, not the photo itself; run `git lfs pull`"
    if brand(data) in HEIF_BRANDS and "HEIF" not in formats:
        return "HEIC needs a plug-in; run `pip install pillow-heif`"
    if brand(data) in AVIF_BRANDS and "AVIF" not in formats:
        return "AVIF needs a newer Pillow or a plug-in; run `pip install -U pillow` or `pip install pillow-avif-plugin`"
    name = next((name for start, name in _IMAGES if data.startswith(start)), None)
    if brand(data) in HEIF_BRANDS + AVIF_BRANDS:
        name = "HEIC or AVIF"
    if name:
        return f"damaged or cut short (it begins like {name})"
    kind = _other_kind(data)
    return f"not an image (looks like {kind})" if kind else "not an image"


def _other_kind(data: bytes) -> str | None:
    if brand(data):
        return "a video"
    for start, name in _OTHERS:
        if data.startswith(start):
            return name
    head = data[:1024]
    if not head.strip(b"\0"):
        return "nothing but zero bytes"
    words = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, name in _TEXTS:
        if words.startswith(start):
            return name
    control = set(head) & (set(range(32)) - set(b"\t\n\r\f\x1b"))
    return None if control else "text"


def find_damage(data: bytes) -> str | None:
    """A reason if a JPEG or PNG is damaged in a way that may decode without an error, else None.

    JPEG: a marker where only picture data may stand, or a run of zero bytes that no encoder writes. (An overwritten
    stretch that happens to be valid code, such as zeros in a progressive file, stays unseen.) PNG: a critical
    chunk whose checksum does not match. A file that ends early is left to the decoder, which knows if pixels lack.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg_damage(data)
    return _png_damage(data) if data.startswith(b"\x89PNG\r\n\x1a\n") else None


def _png_damage(data: bytes) -> str | None:
    view, position = memoryview(data), 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data) or kind == b"IEND":
            return None
        critical = not kind[0] & 0x20
        if critical and zlib.crc32(view[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return f"damaged (a checksum does not match, chunk {kind.decode('latin-1')!r})"
        position = end + 4
    return None


def _jpeg_damage(data: bytes) -> str | None:
    position, in_scans, sequential = 2, False, False
    first_symbols: dict[int, int] = {}  # of each AC code table: what its shortest code, all zero bits, stands for
    while found := _MARKER.search(data, position):
        start, kind = found.start(), data[found.start() + 1]
        if kind == _EOI:
            return None
        if in_scans and kind not in _AFTER_A_SCAN:
            return f"damaged (a stray marker inside the picture data, at byte {start:,})"
        if kind in (_SOI, _TEM):
            position = start + 2
            continue
        position = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        sequential = sequential or kind in _SEQUENTIAL
        if kind == _DHT:
            first_symbols |= _first_ac_symbols(data[start + 4 : position])
        if kind == _SOS:
            in_scans = True
            table = data[start + 6] & 0x0F if start + 6 < len(data) else 0  # of the scan's first component
            if sequential and first_symbols.get(table) and (hole := _hole(data, position)):
                return f"damaged (a stretch of zero bytes inside the picture data, at byte {hole:,})"
    return None


def _hole(data: bytes, scan: int) -> int | None:
    """Where 64 zero bytes stand in the scan that begins at `scan`.

    Unless the zero code ends a block (symbol 0), they would be blocks of 63 equal coefficients: no photo has those.
    """
    end = _MARKER.search(data, scan)
    at = data.find(_ZEROS, scan, end.start() if end else len(data))
    return at if at >= 0 else None


def _first_ac_symbols(tables: bytes) -> dict[int, int]:
    """From a DHT segment: {table id: first symbol} of its AC tables."""
    first, position = {}, 0
    while position + 17 < len(tables):
        kind, count = tables[position], sum(tables[position + 1 : position + 17])
        if kind & 0x10:
            first[kind & 0x0F] = tables[position + 17]
        position += 17 + count
    return first
