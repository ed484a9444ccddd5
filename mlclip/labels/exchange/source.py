"""What the readers need: bounded files, paths that stay inside a folder, and the finished table. The files are not trusted."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ...config import InputError
from ...files import parse_json
from ..class_names import decode_text
from ..table import Labels

LARGEST_FILE = 1 << 30  # bytes
ALWAYS_ALLOWED = 20_000_000  # cells of a table; a larger one needs a byte of labels for every CELLS_PER_BYTE cells
CELLS_PER_BYTE = 20


def read_data(file: Path, most: int = LARGEST_FILE) -> bytes:
    """The bytes of a regular file. InputError if it cannot be read or has more than `most` bytes."""
    try:
        if file.exists() and not file.is_file():
            raise InputError(f"{file} is not a file. Check the path.")
        if file.stat().st_size > most:
            raise InputError(f"{file} is too large ({file.stat().st_size:,} bytes, over {most:,}). Export it in parts.")
        return file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{file} cannot be read ({reason}). Check the path.") from error


def read_json(file: Path, most: int = LARGEST_FILE) -> Any:
    try:
        return parse_json(decode_text(read_data(file, most), errors="surrogateescape"))
    except ValueError as error:
        raise InputError(f"{file} is damaged ({str(error)[:80]}). Export it again.") from error


def photo_path(name: str) -> str:
    r"""A photo's name in a file of another tool as a path that stays inside a folder, with forward slashes.

    >>> [photo_path(name) for name in ("a\\1.jpg", "./a/1.jpg", "C:\\data\\1.jpg", "../../1.jpg")]
    ['a/1.jpg', 'a/1.jpg', 'data/1.jpg', '1.jpg']
    """
    name = name.replace("\\", "/")
    if name[1:3] == ":/":
        name = name[3:]
    return "/".join(part for part in posixpath.normpath(name).split("/") if part not in ("", ".", ".."))


def table_of(
    rows: Mapping[str, Mapping[str, float] | None],
    classes: Iterable[str],
    source: str | Path,
    *,
    size: int,
    root: str | Path = ".",
) -> Labels:
    """The table of {path: {class: score}}. A class that a row does not name is 0; a row of None is unknown.

    `size` is the number of bytes that were read. InputError with `source` for a table that is too large for them, for no
    photo, no class, or a name that cannot be used.
    """
    classes = list(classes)
    if not rows or not classes:
        raise InputError(f"{source} names no {'classes' if rows else 'photos'}. Check the path.")
    if len(rows) * len(classes) > max(ALWAYS_ALLOWED, CELLS_PER_BYTE * size):
        raise InputError(f"{source} names {len(rows):,} photos and {len(classes):,} classes, but has few labels.")
    scores = torch.zeros(len(rows), len(classes))
    column = {name: c for c, name in enumerate(classes)}
    for r, marks in enumerate(rows.values()):
        if marks is None:
            scores[r] = torch.nan
        elif marks:
            scores[r, [column[name] for name in marks]] = torch.tensor(list(marks.values()), dtype=torch.float32)
    try:
        return Labels(list(rows), classes, scores, root=str(root))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
