"""What every reader of a data set needs: bounded files, safe paths, a tally of unusual things, and the finished table.

The files are not trusted. Whatever they contain, a reader returns a table or raises InputError.
"""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ...config import InputError
from ...files import parse_json
from ...images import SUFFIXES, Unreadable, open_image
from ..class_names import decode_text
from ..table import Labels

LARGEST_FILE = 2 << 30  # bytes
ALWAYS_ALLOWED = 20_000_000  # cells of a table; a larger one needs a byte of annotations for every CELLS_PER_BYTE cells
CELLS_PER_BYTE = 20
MOST_CELLS = 1_000_000_000
UNKNOWN = math.nan
Box = tuple[float, float, float, float]
Marks = Mapping[str, float]  # class -> 1, 0 or NaN


class Boxes(dict[str, list[tuple[str, Box]]]):
    """{path: [(class, box_xyxy in pixels)]}, and `notes`: sentences about what was unusual in the files."""

    notes: list[str]

    def __init__(self, boxes: Mapping[str, list[tuple[str, Box]]], notes: Iterable[str] = ()):
        super().__init__(boxes)
        self.notes = list(notes)


class Tally:
    """Counts unusual things by kind, with the name of the first.

    >>> tally = Tally()
    >>> tally.add("photo", "without an XML file: unknown, not negative", "a.jpg")
    >>> tally.add("photo", "without an XML file: unknown, not negative", "b.jpg")
    >>> tally.notes()
    ['2 photos without an XML file: unknown, not negative (first: a.jpg)']
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._first: dict[tuple[str, str], str] = {}
        self._sentences: list[str] = []

    def add(self, noun: str, what: str, name: str) -> None:
        self._counts[noun, what] = self._counts.get((noun, what), 0) + 1
        self._first.setdefault((noun, what), name[:100] if name.isprintable() else repr(name[:100]))

    def say(self, sentence: str) -> None:
        self._sentences.append(sentence)

    def notes(self) -> list[str]:
        counted = [
            f"{count} {noun}{'s' * (count > 1)} {what} (first: {self._first[noun, what]})"
            for (noun, what), count in self._counts.items()
        ]
        return [*self._sentences, *counted]


def read_data(file: Path, most: int = LARGEST_FILE) -> bytes:
    """The bytes of a regular file. InputError if it cannot be read or has more than `most` bytes."""
    try:
        if os.path.exists(file) and not os.path.isfile(file):
            raise InputError(f"{file} is not a file. Check the path or unpack the data set again.")
        if file.stat().st_size > most:
            raise InputError(f"{file} is too large ({file.stat().st_size:,} bytes, over {most:,}). Remove it.")
        return file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{file} cannot be read ({reason}). Check the path or unpack the data set again.") from error


def read_start(file: Path, most: int = 4000) -> bytes:
    """The first bytes of a file, enough for the name of a format or a header; nothing of a file that cannot be read."""
    try:
        with open(file, "rb") as stream:
            return stream.read(most)
    except (OSError, ValueError):
        return b""


def read_text(file: Path, most: int = LARGEST_FILE) -> str:
    try:
        return decode_text(read_data(file, most), errors="surrogateescape")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is neither UTF-8 nor UTF-16 text. Save it as UTF-8.") from error


def read_lines(file: Path, most: int = LARGEST_FILE) -> list[str]:
    """The lines of a text file without the spaces around them and without blank lines."""
    return [line.strip() for line in read_text(file, most).split("\n") if line.strip()]


def read_json(file: Path, most: int = LARGEST_FILE) -> Any:
    try:
        return parse_json(read_text(file, most))
    except ValueError as error:
        raise InputError(f"{file} is damaged ({str(error)[:80]}). Unpack or export it again.") from error


def checked_folder(folder: str | Path) -> Path:
    """The folder as a Path. InputError if there is no such folder."""
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise InputError(f"{folder} is not a folder. Give the folder of the data set.")
    return folder


def photo_path(name: str) -> str:
    r"""A photo's name in a data set as a path that stays inside the data set's folder, with forward slashes.

    >>> [photo_path(name) for name in ("a\\1.jpg", "./a/1.jpg", "C:\\data\\1.jpg", "../../1.jpg")]
    ['a/1.jpg', 'a/1.jpg', 'data/1.jpg', '1.jpg']
    """
    name = name.strip().replace("\\", "/")
    if name[1:3] == ":/":
        name = name[3:]
    parts = [part for part in posixpath.normpath(name).split("/") if part not in ("", ".", "..")]
    return "/".join(parts)


def is_photo(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def without_photo_suffix(name: str) -> str:
    return name.rpartition(".")[0] if is_photo(name) else name


def files_under(folder: Path, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Paths relative to `folder`, sorted by folder and name, of the files whose names are `wanted`.

    Hidden names and __MACOSX are left out. Links to folders are not followed.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _hidden(name))
        base = os.path.relpath(place, folder)
        for name in sorted(names):
            if wanted(name) and not _hidden(name):
                yield (name if base == "." else os.path.join(base, name)).replace(os.sep, "/")


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def photo_size(file: Path) -> tuple[int, int]:
    """Width and height in pixels of a photo, turned upright. InputError if it cannot be read."""
    try:
        return open_image(file).size
    except Unreadable as error:
        raise InputError(f"{file}: {error}. The boxes are shares of its size, so the photo is needed.") from error


def area_box(corners: Iterable[float]) -> Box | None:
    """x0, y0, x1, y1 in order, or None where the box has no area or a number is not finite."""
    x0, y0, x1, y1 = (float(number) for number in corners)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 and all(map(math.isfinite, (x0, y0, x1, y1))) else None


def check_cells(photos: int, classes: int, size: int, source: str | Path) -> None:
    """InputError if a table is far larger than `size` bytes of annotations can fill."""
    cells = photos * classes
    if cells > MOST_CELLS or cells > max(ALWAYS_ALLOWED, CELLS_PER_BYTE * size):
        raise InputError(
            f"{source} names {photos:,} photos and {classes:,} classes, but has few annotations. Remove the photos and classes "
            "that are not needed."
        )


def table_of(
    rows: Mapping[str, Marks | None],
    classes: Iterable[str],
    source: str | Path,
    *,
    absent: float = 0.0,
    size: int = 0,
    root: str | Path = ".",
    notes: Iterable[str] = (),
) -> Labels:
    """The table of {path: {class: mark}}. A class that a row does not name is `absent`; a row of None is unknown.

    `size` is the number of bytes that were read. Raises InputError with `source` for a table that is too large, for no
    photo, no class, or a name that cannot be used.
    """
    classes = list(classes)
    if not rows or not classes:
        raise InputError(f"{source} names no {'classes' if rows else 'photos'}. Check the path.")
    check_cells(len(rows), len(classes), size, source)
    scores = torch.full((len(rows), len(classes)), absent)
    column = {name: c for c, name in enumerate(classes)}
    cells = [(r, column[name], mark) for r, marks in enumerate(rows.values()) if marks for name, mark in marks.items()]
    if cells:
        at, across, marks = zip(*cells, strict=True)
        scores[torch.tensor(at), torch.tensor(across)] = torch.tensor(marks, dtype=torch.float32)
    unknown = [r for r, marks in enumerate(rows.values()) if marks is None]
    scores[unknown] = UNKNOWN
    return labels_of(list(rows), classes, scores, source, root, notes)


def labels_of(
    paths: list[str],
    classes: list[str],
    scores: torch.Tensor,
    source: str | Path,
    root: str | Path,
    notes: Iterable[str],
) -> Labels:
    """Labels with `meta["notes"]`; an InputError names the source."""
    try:
        return Labels(paths, classes, scores, root=str(root), meta={"notes": list(notes)})
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
