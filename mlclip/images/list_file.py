"""List files: text files with one path per line, named on the command line as @list.txt."""

from __future__ import annotations

import os

from ..config import InputError

_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_CONTROL_BYTES = frozenset(range(1, 32)) - set(b"\t\n\v\f\r\x1b")  # that text files do not have


def read_paths(file: str) -> tuple[str, list[str]]:
    """The folder of a list file and the absolute paths in it. Empty lines and lines that begin with "#" are ignored.

    Raises InputError if the file cannot be read, is not text, or names no path.
    """
    lines = (line.strip() for line in _text(file).split("\n"))
    folder = os.path.dirname(os.path.abspath(file))
    entries = [os.path.abspath(os.path.join(folder, line)) for line in lines if line and not line.startswith("#")]
    if not entries:
        raise InputError(f"@{file} names no photos. Write one path per line.")
    return folder, entries


def _text(file: str) -> str:
    """The text of a list file: UTF-8, with surrogate escapes for other bytes, or UTF-16 with a byte order mark."""
    try:
        with open(file, "rb") as stream:
            head = stream.read(1024)
            data = head if _is_binary(head) else head + stream.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"@{file} cannot be read ({reason}). Check the name of the list file.") from error
    if _is_binary(head):
        raise InputError(f"@{file} is not a text file with one path per line. To use a photo, name it without the @.")
    if not data.startswith(_UTF_16_MARKS):
        return data.decode("utf-8-sig", "surrogateescape")
    try:
        return data.decode("utf-16")
    except UnicodeDecodeError as error:
        raise InputError(f"@{file} is damaged UTF-16 text ({error.reason}). Save the list again as UTF-8.") from error


def _is_binary(head: bytes) -> bool:
    """Whether a file that begins with `head` is not a list: NUL bytes and other control bytes, or many NUL bytes."""
    if head.startswith(_UTF_16_MARKS) or b"\0" not in head:
        return False
    return not _CONTROL_BYTES.isdisjoint(head) or head.count(b"\0") > len(head) / 4
