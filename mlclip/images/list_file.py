"""List files: text files with one path per line, or a column of a table, named on the command line as @list.txt."""

from __future__ import annotations

import os
import re

from ..config import InputError
from .path_column import csv_paths, parquet_paths, split_column

_ADDRESS = re.compile(r"(https?|s3|gs|hdfs)://")
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_CONTROL_BYTES = frozenset(range(1, 32)) - set(b"\t\n\v\f\r\x1b")  # that text files do not have


def read_paths(spec: str) -> tuple[str, list[str]]:
    """The folder of a list file and the absolute paths in it. Empty lines and lines that begin with "#" are ignored.

    `spec` is the file, or "table.csv:column", also of a .tsv or .parquet file; without a column, that is `path`.
    Raises InputError if the file cannot be read, is not text, has no such column, or names no path.
    """
    file, column = (spec, None) if os.path.isfile(spec) else split_column(spec)
    folder = os.path.dirname(os.path.abspath(file))
    names = _names(file, column)
    address = next((name for name in names if _ADDRESS.match(name)), None)
    if address:
        raise InputError(f"@{spec} holds addresses such as {address[:60]}, not paths. Download the photos first.")
    if not names:
        raise InputError(f"@{spec} names no photos. Write one path per line.")
    return folder, [os.path.abspath(os.path.join(folder, name)) for name in names]


def _names(file: str, column: str | None) -> list[str]:
    """The paths as they stand in a list file or in the column of a table."""
    if file.lower().endswith(".parquet"):
        return parquet_paths(file, column)
    text = _text(file)
    found = csv_paths(file, text, column) if column or file.lower().endswith((".csv", ".tsv")) else None
    lines = (line.strip() for line in text.split("\n"))
    return [line for line in lines if line and not line.startswith("#")] if found is None else found


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
