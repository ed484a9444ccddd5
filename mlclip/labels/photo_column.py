"""Which column of a .csv holds the photos, by its name or by its cells; and how columns are named in options and messages."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..config import InputError, TableOptions
from ..spelling import one_line
from .cells import is_score
from .class_names import shorten
from .csv_lines import PATH_NAMES, Say, Sheet, short_key

_WEAK_PATHS = {"name", "id", "key", "item", "title", "sample"}  # taken where no other column can be the photos
_NAMELESS = re.compile(r"Unnamed: \d+(\.\d+|_level_\d+)*")  # what pandas calls a column without a name
_PHOTO = re.compile(r"\.(jpe?g|png|gif|bmp|tiff?|webp|ppm|pgm|heic|avif|jfif)$", re.IGNORECASE)


def photo_column(sheet: Sheet, options: TableOptions, say: Say) -> int:
    """The number of the column with the photos. InputError if none or several could be it."""
    photo = next((name for name in sheet.header if _PHOTO.search(name)), None)
    if photo:
        raise InputError(
            f"{sheet.file}, line 1: the first line has a photo ({photo!r}) instead of the names of the columns. Write "
            "path,class,class,... above it."
        )
    header, keys = sheet.header, [short_key(name) for name in sheet.header]
    if options.path_column:
        found = named(sheet, options.path_column) or [n for n, name in enumerate(header) if name == "path"]
        if not found:
            refuse_missing(sheet, options.path_column, "path_column")
        return found[0]
    exact = [n for n, name in enumerate(header) if name == "path"]
    if len(exact) > 1:
        raise InputError(
            f"{sheet.file}, line 1: the table needs exactly one column `path`, but has {len(exact)}. Rename one."
        )
    found = exact or _only(sheet, [n for n, key in enumerate(keys) if key in PATH_NAMES])
    found = found or _by_content(sheet) or _only(sheet, [n for n, key in enumerate(keys) if key in _WEAK_PATHS])
    if not found:
        raise InputError(
            f"{sheet.file}, line 1: no column `path` with the photos. The columns are {shorten(shown(header))}. Write "
            'path,class,class,..., or name the column with `path_column="..."`.'
        )
    if header[found[0]].lower() != "path":
        say(f"{sheet.file}: the photos are in the column {shown([header[found[0]]])[0]}")
    return found[0]


def _only(sheet: Sheet, found: list[int]) -> list[int]:
    """The one of several columns that holds file names; InputError if that is not clear."""
    if len(found) < 2:
        return found
    share = {n: sum(bool(_PHOTO.search(c.strip())) for c in sheet.column(n)) for n in found}
    files = [n for n in found if share[n] == len(sheet.rows)] if sheet.rows else []
    if len(files) > 1:
        files = [n for n in files if all(_ends_with(sheet, n, other) for other in files)][:1] or files
    if len(files) != 1:
        shown = " or ".join(f'`path_column="{one_line(sheet.header[n])}"`' for n in found[:3])
        raise InputError(f"{sheet.file}, line 1: several columns could hold the photos. Choose one: {shown}.")
    return files


def _ends_with(sheet: Sheet, whole: int, part: int) -> bool:
    return all(row[whole].strip().endswith(row[part].strip()) for row in sheet.rows)


def _by_content(sheet: Sheet) -> list[int]:
    """The one column whose cells are all file names of photos; else a first column without a name, of different texts."""
    cells = range(len(sheet.header)) if sheet.rows else ()
    photos = [n for n in cells if all(_PHOTO.search(cell.strip()) for cell in sheet.column(n))]
    if len(photos) == 1:
        return photos
    if sheet.rows and is_nameless(sheet.header[0]):
        first = sheet.column(0)
        if len(set(first)) == len(first) and all(cell.strip() and not is_score(cell) for cell in first):
            return [] if all(cell.strip().isdigit() for cell in first) else [0]
    return []


def shown(names: Iterable[str]) -> list[str]:
    return [repr(name) if name else "without a name" for name in names]


def is_nameless(name: str) -> bool:
    return not name or bool(_NAMELESS.fullmatch(name))


def named(sheet: Sheet, names: str | None) -> list[int]:
    """The columns that an option names: as in the header, else in another letter case."""
    if names is None:
        return []
    whole = [n for n, name in enumerate(sheet.header) if name == names]
    wanted = {short_key(name) for name in (names.split(",") if not whole else [names])}
    return whole or [n for n, name in enumerate(sheet.header) if short_key(name) in wanted]


def refuse_missing(sheet: Sheet, name: str, option: str) -> None:
    raise InputError(
        f"{sheet.file}, line 1: `{option}` {name!r} is none of the columns: {shorten(shown(sheet.header))}. Correct it."
    )
