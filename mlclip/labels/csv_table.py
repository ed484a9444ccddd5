"""A .csv of mlclip, a spreadsheet or another program as a table of photos × classes. Plain lists, no torch.

A table is (paths, classes, rows). `rows` holds N lists of C numbers in [0, 1]; NaN = not known. A table has a column of
photos, and either a column for each class or one column with the names of each photo's classes. What is unusual gives one
line to `say`. What could be read in two ways is refused; docs/formats.md has recipes for such tables.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from ..config import InputError, TableOptions
from ..spelling import one_line
from .class_names import shorten
from .name_column import ONE_NAME, SEVERAL_NAMES, UNKNOWN, names_in_column
from .sheet import (
    INVISIBLE,
    PATH_NAMES,
    RECIPES,
    Say,
    Sheet,
    is_valid_text,
    load_text,
    parse_lines,
    read_sheet,
    short_key,
)

NAN = math.nan
_PHOTO = re.compile(r"\.(jpe?g|png|gif|bmp|tiff?|webp|ppm|pgm|heic|avif|jfif)$", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
_NAMELESS = re.compile(r"(Unnamed: \d+(\.\d+)*)?")  # what pandas calls a column without a name
_WORDS = {"true": 1.0, "yes": 1.0, "t": 1.0, "y": 1.0, "false": 0.0, "no": 0.0, "f": 0.0, "n": 0.0}

# Names of columns that are no classes, as `short_key` gives them.
_SPLIT_WORDS = "split splits subset partition fold folds phase set usage isvalid istrain istest istraining isval"
_OTHER_WORDS = """index idx row rowid rownumber id no nr number width height size area xmin ymin xmax ymax x y w h x1 y1 x2 y2 left top
right bottom bbox iscrowd isoccluded istruncated isgroupof isdepiction isinside labelid classid categoryid annotationid objectid
leadtime createdat updatedat timestamp"""
_SPLITS = frozenset(_SPLIT_WORDS.split())
_NOT_CLASSES = _SPLITS | frozenset(_OTHER_WORDS.split())

Table = tuple[list[str], list[str], list[list[float]]]


def read_csv(
    file: Path, options: TableOptions | None = None, say: Say = lambda line: None, known: Collection[str] = ()
) -> Table:
    """A table from `write_csv`, a spreadsheet, pandas, or the like.

    `known` are the class names of a table that this one is compared with: they tell whether `potted plant` is one class or
    two. InputError names the file, the line, and what to do.
    """
    options, text = options or TableOptions(), load_text(file)
    plain = _as_written(text, file) if options == TableOptions() else None
    if plain is not None:
        if _has_no_zero(value for row in plain[2] for value in row):
            say(f"{file}: {_NO_ZERO}")
        return plain
    sheet = read_sheet(file, say, text)
    path = _photo_column(sheet, options.path_column, say)
    rows: Sequence[int] = range(len(sheet.rows))
    if options.split:
        rows = _rows_of(sheet, options.split)
        say(f"{file}: {len(rows)} of {len(sheet.rows)} rows are read, those with {options.split}")
    titled = [n for n, name in enumerate(sheet.header) if n != path and short_key(name) in ONE_NAME | SEVERAL_NAMES]
    told = {n: [cell for cell in sheet.column(n) if cell.strip().lower() not in UNKNOWN] for n in titled}
    names = [n for n in titled if any(number_in(cell) is None for cell in told[n])]  # not only numbers
    if len(names) > 1:
        columns = shorten([repr(sheet.header[n]) for n in names])
        raise InputError(f"{file}, line 1: several columns have names of classes: {columns}. Keep one; {RECIPES}.")
    classes = [n for n in range(len(sheet.header)) if n not in {path, *names} and _is_class(sheet, n, bool(names))]
    ignored = [
        repr(sheet.header[n] or "without a name") for n in range(len(sheet.header)) if n not in {path, *names, *classes}
    ]
    if ignored:
        say(f"{file}: no classes, ignored: {shorten(ignored)}")
    if names:
        return _from_names(sheet, path, names[0], classes, rows, known, say)
    return _from_columns(sheet, path, classes, rows, options.minus_one, say)


def _as_written(text: str, file: Path) -> Table | None:
    """The table if it is as `write_csv` writes it: a column `path`, and a number from 0 to 1 or nothing in every other cell.

    None for every other table.
    """
    try:
        (_, header), *body = parse_lines(text, ",", file)
        header = [name.strip() for name in header]
        key = header.index("path")
        rows = [cells for _, cells in body]
        paths = [cells.pop(key) for cells in rows]
        header.pop(key)
        values = [[float(cell) if cell else NAN for cell in cells] for cells in rows]
    except (InputError, ValueError, IndexError):  # no header, no `path`, a short line, or text
        return None
    one_label = len(header) == 1 and short_key(header[0]) in ONE_NAME | SEVERAL_NAMES
    clean = all(name and name == name.strip(INVISIBLE) and is_valid_text(name) for name in header)
    distinct = len(set(header)) == len(header) and len(set(paths)) == len(paths) and all(paths)
    if not header or one_label or not clean or not distinct or any(len(row) != len(header) for row in values):
        return None
    return (paths, header, values) if all(0 <= x <= 1 or x != x for row in values for x in row) else None


def check_names(names: Sequence[str], lines: Sequence[int], file: Path, kind: str) -> None:
    """InputError for a blank name or one that is there twice; `kind` is "path" or "class"."""
    first: dict[str, int] = {}
    for name, line in zip(names, lines, strict=True):
        if not name:
            raise InputError(f"{file}, line {line}: a {kind} has no name. Give it one or remove it.")
        if name in first:
            raise InputError(
                f"{file}, line {line}: the {kind} {name!r:.200} is already in line {first[name]}. Remove one of them."
            )
        first[name] = line


# -- columns


def _photo_column(sheet: Sheet, wanted: str | None, say: Say) -> int:
    """The number of the column with the photos, by its name or else by its cells. InputError if none or several could be it."""
    header, keys, where = sheet.header, [short_key(name) for name in sheet.header], f"{sheet.file}, line 1"
    photo = next((name for name in header if _PHOTO.search(name)), None)
    if photo:
        raise InputError(
            f"{where}: the first line has a photo ({photo!r}) instead of the names of the columns. Write path,class,class,... "
            "above it."
        )
    shown = shorten([repr(name) if name else "without a name" for name in header])
    exact = [n for n, name in enumerate(header) if name == "path"]
    if wanted:
        found = [n for n, name in enumerate(header) if name == wanted]
        found = found or [n for n, key in enumerate(keys) if key == short_key(wanted)] or exact
        if not found:
            raise InputError(f"{where}: `path_column` {wanted!r} is none of the columns: {shown}. Correct it.")
        return found[0]
    found = exact or [n for n, key in enumerate(keys) if key in PATH_NAMES]
    if len(found) != 1 and not exact:
        photos = [
            n for n in range(len(header)) if sheet.rows and all(_PHOTO.search(c.strip()) for c in sheet.column(n))
        ]
        found = [n for n in photos if n in found] or found or photos
        found = found or [n for n, key in enumerate(keys) if key in ("name", "id", "key")][:1]
    if not found and not header[0]:  # the index of pandas, if it has different texts
        cells = sheet.column(0)
        texts = all(cell.strip() and number_in(cell) is None for cell in cells)
        found = [0] if cells and texts and len(set(cells)) == len(cells) else []
    if len(found) > 1:
        choices = " or ".join(f'`path_column="{one_line(header[n])}"`' for n in found[:3])
        raise InputError(f"{where}: several columns could hold the photos. Choose one: {choices}.")
    if not found:
        raise InputError(
            f"{where}: no column `path` with the photos. The columns are {shown}. Write path,class,class,..., or name the "
            'column with `path_column="..."`.'
        )
    if header[found[0]].lower() != "path":
        say(f"{sheet.file}: the photos are in the column {header[found[0]] or 'without a name'!r}")
    return found[0]


def _rows_of(sheet: Sheet, split: str) -> list[int]:
    """The rows with the value `split` (VALUE or COLUMN=VALUE). InputError if no column of splits has it, or several."""
    name, _, value = split.rpartition("=")
    wanted = {short_key(name)} if name else _SPLITS
    columns = [n for n, title in enumerate(sheet.header) if short_key(title) in wanted]
    found = [
        [r for r, cell in enumerate(sheet.column(n)) if cell.strip().lower() == value.strip().lower()] for n in columns
    ]
    found = [rows for rows in found if rows]
    if len(found) != 1:
        there = [f"{sheet.header[n]!r} has {shorten(sorted(set(map(one_line, sheet.column(n)))), 4)}" for n in columns]
        raise InputError(
            f"{sheet.file}: `split` {split!r} is in {'several columns' if found else 'no column'} "
            f"({'; '.join(there) or 'no such column'}). Write COLUMN=VALUE, or remove it."
        )
    return found[0]


def _is_class(sheet: Sheet, column: int, beside_names: bool) -> bool:
    """Whether a column holds scores. Beside a column of names, only if all of its cells are scores.

    InputError for a column without a name, or with cells of which only some are scores.
    """
    name, cells = sheet.header[column], set(sheet.column(column))
    if not name and column:
        raise InputError(
            f"{sheet.file}, line 1: a class has no name (column {column + 1}). Give the column a name or remove it."
        )
    if _NAMELESS.fullmatch(name) or short_key(name) in _NOT_CLASSES:  # row numbers, and the like
        return False
    wrong = {cell for cell in cells if _score(cell) is None}
    if not wrong or beside_names:
        return not wrong and any(cell.strip().lower() not in UNKNOWN for cell in cells)
    if len(wrong) < len(cells - {""}) or any(number_in(cell.strip().rstrip("%")) is not None for cell in wrong):
        line, cell = next((line, c) for line, c in zip(sheet.lines, sheet.column(column), strict=True) if c in wrong)
        raise InputError(
            f"{sheet.file}, line {line}: {cell.strip()[:40]!r} is not a score of {name[:40]!r}. Write a number from 0 to 1 "
            f"(divide percentages by 100), or nothing if it is unknown. If the column is no class, remove it; {RECIPES}."
        )
    return False


# -- one column for each class


def number_in(cell: str) -> float | None:
    """The number in a cell, with a decimal point or a decimal comma; None where there is none.

    >>> number_in(" 0,25 "), number_in("1.0"), number_in("cat")
    (0.25, 1.0, None)
    """
    text = cell.strip()
    if "_" in text:  # Python would read 2008_000008 as a number
        return None
    try:
        return float(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text)
    except ValueError:
        return None


def _score(cell: str) -> float | None:
    """A number in [0, 1], -1, or NaN = unknown; None where the cell is no score."""
    key, value = cell.strip().lower(), number_in(cell)
    if key in UNKNOWN:
        return NAN
    if value is None:
        return _WORDS.get(key)
    return value if 0 <= value <= 1 or value == -1 else None


def _from_columns(
    sheet: Sheet, path: int, columns: list[int], rows: Sequence[int], minus_one: str | None, say: Say
) -> Table:
    """A table with a column for each class. All rows say how -1 is read; the result has the chosen ones."""
    if not columns:
        raise InputError(
            f"{sheet.file} contains no classes: no column has numbers from 0 to 1, and none is called labels or class. {RECIPES}."
        )
    classes, paths = [sheet.header[n] for n in columns], sheet.column(path)
    if len(classes) == 1 and short_key(classes[0]) in ONE_NAME | SEVERAL_NAMES:
        raise InputError(
            f"{sheet.file}, line 1: the column {classes[0]!r} has numbers: it can be one class, or numbers of classes. Give the "
            f"column the name of the class, or write names into it; {RECIPES}."
        )
    check_names(classes, [1] * len(classes), sheet.file, "class")
    check_names([paths[n] for n in rows], [sheet.lines[n] for n in rows], sheet.file, "path")
    counts = Counter(row[n] for row in sheet.rows for n in columns)
    meaning = {cell: _score(cell) for cell in counts}
    spoken = sorted({cell.strip().lower() for cell in counts} & {*_WORDS, *UNKNOWN} - {""})
    if spoken:
        readings = [f"{word!r} as {_WORDS[word]:g}" if word in _WORDS else f"{word!r} as unknown" for word in spoken]
        say(f"{sheet.file}: reads {', '.join(readings)}")
    if -1 in meaning.values():
        absent = (minus_one or _reading_of_minus_one(meaning, counts, sheet)) == "absent"
        zero, minus = (NAN, 0.0) if absent else (0.0, NAN)
        other = "" if minus_one else f'; `minus_one="{"unknown" if absent else "absent"}"` reads it otherwise'
        also = f" and 0 as {'unknown' if absent else 'absent'}" if 0 in meaning.values() else ""
        say(f"{sheet.file}: -1 is read as {'absent' if absent else 'unknown'}{also}{other}")
        meaning = {cell: minus if x == -1 else zero if x == 0 else x for cell, x in meaning.items()}
    if _has_no_zero(meaning.values()):
        say(f"{sheet.file}: {_NO_ZERO}")
    return [paths[n] for n in rows], classes, [[meaning[sheet.rows[r][n]] for n in columns] for r in rows]


_NO_ZERO = f"no cell says that a class is absent; empty cells are unknown. If they mean absent, write 0; {RECIPES}"


def _has_no_zero(values: Iterable[float]) -> bool:
    """Whether all known values are 1, and there are unknown ones."""
    kinds = set()
    for value in values:
        if value < 1:
            return False
        kinds.add(value == 1)
    return kinds == {True, False}


def _reading_of_minus_one(meaning: dict[str, float], counts: Counter[str], sheet: Sheet) -> str:
    """Absent in a table of 1 and -1, and in VOC's lists (0 = difficult); unknown beside fractions. InputError where both fit."""
    total = {value: sum(counts[cell] for cell, x in meaning.items() if x == value) for value in (-1, 0, 1)}
    if any(0 < value < 1 for value in meaning.values()):
        return "unknown"
    if total[1] and total[0] <= total[-1]:
        return "absent"
    line = next(line for line, row in zip(sheet.lines, sheet.rows, strict=True) if "-1" in map(str.strip, row))
    raise InputError(
        f"{sheet.file}, line {line}: '-1' can mean that the class is absent (0 is then unknown), or that it is not known (0 is "
        'then absent). Say which with `minus_one="absent"` or `minus_one="unknown"`.'
    )


# -- one column of class names


def _from_names(
    sheet: Sheet, path: int, column: int, classes: list[int], rows: Sequence[int], known: Collection[str], say: Say
) -> Table:
    """A column of class names, one row for each photo or for each pair: every name is 1 and the others 0."""
    title, paths = sheet.header[column], sheet.column(path)
    if classes:
        raise InputError(
            f"{sheet.file}, line 1: the classes can be the names in {title!r}, or the columns with numbers "
            f"{shorten([repr(sheet.header[n]) for n in classes], 3)}. Remove one of both; {RECIPES}."
        )
    check_names(list(dict.fromkeys(paths)), [1] * len(set(paths)), sheet.file, "path")
    named = names_in_column(sheet, column, known, say)
    found: dict[str, set[str] | None] = {}
    for row in rows:
        before = found.setdefault(paths[row], None)
        if named[row] is not None:
            found[paths[row]] = {*(before or ()), *named[row]}
    order = list(dict.fromkeys(name for names in named for name in names or ()))
    say(f"{sheet.file}: {title!r} names {len(order)} classes ({shorten(order, 4)}); a photo has no others")
    values = [[NAN if names is None else float(name in names) for name in order] for names in found.values()]
    return list(found), order, values
