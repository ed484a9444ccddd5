"""Second tries for files that every viewer shows: a PNG with very long texts, and a JPEG without its end marker."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from .colour import MAX_PROFILE

_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # in compressed data, any marker but those of a restart
_VIDEO = re.compile(rb"\0\0\0.ftyp", re.DOTALL)  # the start of an .mp4, which phones append to a photo
_NOISE = bytes(37 * n % 251 for n in range(1000))  # compressed data of no picture


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The whole chunks of a PNG up to its end: kind, and start and end of the content. None for another file."""
    position = 8
    while data.startswith(b"\x89PNG\r\n\x1a\n") and position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            return
        yield kind, position + 8, end
        if kind == b"IEND":
            return
        position = end + 4


def without_texts(data: bytes) -> tuple[bytes, bytes | None] | None:
    """A PNG without its texts and its colour profile, and the profile by itself. None if it has neither, or for another file.

    Pillow refuses a PNG with long texts or a long profile. A profile above MAX_PROFILE is cut just above it.
    """
    parts, profile, start = [], None, 0
    for kind, begin, end in png_chunks(data):
        if kind in _TEXTS:
            parts.append(data[start : begin - 8])
            start = end + 4
        if kind == b"iCCP":
            packed = data[begin:end].partition(b"\0")[2][1:]  # after a name and the kind of compression
            profile = zlib.decompressobj().decompress(packed, MAX_PROFILE + 1)
    return (b"".join([*parts, data[start:]]), profile) if parts else None


def jpeg_endings(data: bytes) -> tuple[bytes, bytes] | None:
    """A JPEG without an end marker, with one; and the same with other bytes before it. None if it has one, or lacks a scan.

    Exactly if no pixel is missing, both decode to the same pixels. What follows the photo, such as a video, is left out.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    position, end, wanted, restarts = 2, 0, set(), 0
    while found := _MARKER.match(data, position):
        kind, start = data[found.end() - 1], found.end()
        position = start + int.from_bytes(data[start : start + 2], "big")
        if kind == _END[1]:
            return None
        if end and data[position : position + 1] != b"\xff" and kind != 0xDA:
            break  # not a marker: bytes after the photo
        if kind in (0xC2, 0xCA):  # progressive: the first scans of a component lack details
            wanted = {(component, part) for component in data[start + 8 : position : 3] for part in (False, True)}
        if kind == 0xDA:
            last, bits = data[position - 2 : position]
            if last in (0, 63) and bits & 15 == 0:  # the last bits of the first or of the last coefficients
                wanted -= {(component, last == 63) for component in data[start + 3 : position - 3 : 2]}
            ends = (_VIDEO.search(data, position), _MARKER.search(data, position))
            end = min(hit.start() if hit else len(data) for hit in ends)
            restarts = len(re.findall(rb"\xff[\xd0-\xd7]", data[position:end]))
            position = end
    if not end or wanted:
        return None
    whole = data[:end].rstrip(b"\xff")
    restart = bytes([0xFF, 0xD0 + restarts % 8])
    return whole + _END, whole + _NOISE + restart + _NOISE + _END
