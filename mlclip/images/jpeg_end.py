"""A JPEG without its end marker, as every viewer shows it: is anything else missing?"""

from __future__ import annotations

import re

_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # in compressed data, any marker but those of a restart
_VIDEO = re.compile(rb"\0\0\0.ftyp", re.DOTALL)  # the start of an .mp4, which phones append to a photo
_NOISE = bytes(37 * n % 251 for n in range(1000))  # compressed data of no picture


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
