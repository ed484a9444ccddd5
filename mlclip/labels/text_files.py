"""Text files on disk: bytes to text and back. File names in them need not be valid text."""

from __future__ import annotations

from pathlib import Path

from ..config import InputError
from ..files import atomic
from .class_names import decode_text

LARGEST_TEXT = 2 << 30  # bytes of a text file; reading it takes up to 25 times as much memory
LOOKED_AT = 4000  # bytes at the start of a file that show UTF-16 without a byte-order mark


def save_text(text: str, path: Path) -> None:
    """Write UTF-8; surrogate escapes become the bytes that they stand for. The file is never half-written."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:  # half of a surrogate pair; only Windows allows it in a file name
        raise InputError(
            f"{path} cannot store a file name that is not valid text. Write a .pt or .json file."
        ) from error
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def load_text(path: Path, encoding: str | None = None) -> str:
    """The text of a file: UTF-8, or UTF-16 where its bytes show it, or `encoding`.

    Bytes that are not UTF-8 become surrogate escapes. Raises InputError for a file that is too large or cannot be read.
    """
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise InputError(
                f"{path} is larger than {LARGEST_TEXT >> 30} GiB. Use a .pt file for a table of this size."
            )
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Give a file that you can read.") from error
    try:
        encoding = encoding or _utf16_without_mark(data)
        return data.decode(encoding).removeprefix("\ufeff") if encoding else decode_text(data, errors="surrogateescape")
    except UnicodeError as error:
        wanted = encoding or "UTF-8 or UTF-16"
        raise InputError(f"{path} is not {wanted} text. Save it as UTF-8, or name its `encoding`.") from error


def _utf16_without_mark(data: bytes) -> str | None:
    """Which UTF-16 text is: in Latin text, every second byte is zero."""
    start = data[: min(LOOKED_AT, len(data) // 2 * 2)]
    if len(data) % 2 or not start or start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return None
    even, odd = start[::2].count(0), start[1::2].count(0)
    if not even and odd > len(start) // 4:
        return "utf-16-le"
    return "utf-16-be" if not odd and even > len(start) // 4 else None


def is_valid_text(text: str) -> bool:
    """Whether the text has no surrogate escapes: all of its bytes could be decoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
