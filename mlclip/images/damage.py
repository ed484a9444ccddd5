"""Rules that find damage in JPEG and PNG files which Pillow decodes without an error."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator

from PIL.JpegImagePlugin import JpegImageFile

PILLOW_ERRORS = (  # what Pillow raises for damaged files, besides OSError
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # not a stuffed 255, a fill byte, or a restart marker
_SOI, _EOI, _SOS, _DHT, _DAC, _TEM = 0xD8, 0xD9, 0xDA, 0xC4, 0xCC, 0x01
_AFTER_A_SCAN = {_DHT, _DAC, _EOI, _SOS, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}
_ZEROS = bytes(64)
_A_LITTLE = 8  # bytes; the last code of a picture may begin before a run of zeros and end inside it
_MORE_DATA = bytes(range(1, 255))
_END = b"\xff\xd9"


def find_damage(data: bytes) -> str | None:
    """The reason if a JPEG or PNG has damage that Pillow decodes without an error, otherwise None.

    Each rule finds damage that Pillow does not find, and refuses no good file.
    Neither finds most changes of a single byte of a JPEG, a third of the stretches of random bytes, and most zeros in a
    progressive JPEG. A file that ends early is left to Pillow, which must be strict
    (`ImageFile.LOAD_TRUNCATED_IMAGES` is False, as by default).
    """
    return next((reason for rule in RULES if (reason := rule(data))), None)


def wrong_checksum(data: bytes) -> str | None:
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


def stray_marker(data: bytes) -> str | None:
    """JPEG: a marker that the standard does not allow after a scan. Pillow skips it if the file has restart markers."""
    in_scans = False
    for code, start, _ in _segments(data):
        if in_scans and code not in _AFTER_A_SCAN:
            return f"damaged (unexpected marker in the image data, at byte {start:,})"
        in_scans = in_scans or code == _SOS
    return None


def zero_run(data: bytes) -> str | None:
    """JPEG: 64 zero bytes inside the AC coefficients of the image data.

    If the code of zero bits means a coefficient, they are hundreds of equal coefficients in a row. No photo has those.
    Zero bytes after the end of the picture are padding, which some cameras write. Not checked are scans where zero bits
    can be right: DC coefficients, and the lower bits of coefficients (progressive JPEG).
    """
    first_symbols: dict[int, int] = {}  # of each AC code table: the symbol of its shortest code, which is all zero bits
    for code, start, body in _segments(data):
        if code == _DHT:
            first_symbols |= _first_ac_symbols(body)
        if code == _SOS and _has_coefficient_for_zeros(body, first_symbols):
            scan = start + 4 + len(body)
            end = _MARKER.search(data, scan)
            at = data.find(_ZEROS, scan, end.start() if end else len(data))
            if at >= 0 and not _complete(data[: at + _A_LITTLE]):
                return f"damaged (run of zero bytes in the image data, at byte {at:,})"
    return None


RULES = (wrong_checksum, stray_marker, zero_run)


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The (code, position, content) of each marker of a JPEG up to its end marker; nothing for other files."""
    position = 2 if data.startswith(b"\xff\xd8") else len(data)
    while found := _MARKER.search(data, position):
        start, code = found.start(), data[found.start() + 1]
        if code == _EOI:
            return
        bare = code in (_SOI, _TEM)
        position = start + 2 + (0 if bare else int.from_bytes(data[start + 2 : start + 4], "big"))
        yield code, start, data[start + 4 : position]


def _has_coefficient_for_zeros(scan_header: bytes, first_symbols: dict[int, int]) -> bool:
    if len(scan_header) < 6:
        return False
    table = scan_header[2] & 0x0F  # of the scan's first component
    last_coefficient, higher_bits_known = scan_header[-2], scan_header[-1] >> 4
    return last_coefficient > 0 and not higher_bits_known and first_symbols.get(table, 0) & 0x0F > 0


def _first_ac_symbols(tables: bytes) -> dict[int, int]:
    """{table id: first symbol} of the AC tables in the content of a DHT segment."""
    first, position = {}, 0
    while position + 17 < len(tables):
        kind, count = tables[position], sum(tables[position + 1 : position + 17])
        if kind & 0x10:
            first[kind & 0x0F] = tables[position + 17]
        position += 17 + count
    return first


def _complete(data: bytes) -> bool:
    """Whether a JPEG has its whole picture in `data`. What follows in the file is then padding, not damage.

    More image data changes the pixels of a picture that is not complete. Half the size is enough to see that.
    """
    try:
        return _half_size_pixels(data + _END) == _half_size_pixels(data + _MORE_DATA + _END)
    except PILLOW_ERRORS:
        return False


def _half_size_pixels(data: bytes) -> bytes:
    image = JpegImageFile(io.BytesIO(data))
    image.draft(None, (max(1, image.width // 2), max(1, image.height // 2)))
    image.load()
    return image.tobytes()
