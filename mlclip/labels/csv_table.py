"""A .csv of mlclip, a spreadsheet or another program as a table of photos × classes. Plain lists, no torch.

A table is (paths, classes, rows). `rows` holds N lists of C numbers in [0, 1]; NaN = not known. A table has a column of
photos, and either a column for each class or one column with the names of each photo's classes. What is unusual gives one
line to `say`. What could be read in two ways is refused; docs/formats.md has recipes for such tables.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from ..config import InputError, TableOptions
from ..files import parse_json
from ..spelling import one_line, shorten
from .review import HEADER, read_corrections
from .sheet import RECIPES, Say, Sheet, check_names, number_in, photo_column, read_sheet, short_key

NAN = math.nan
UNKNOWN = frozenset(("", "na", "n/a", "#n/a", "nan", "<na>", "null", "none", "?", "unknown"))
MARKS = {"semicolons": ";", "commas": ",", "pipes": "|"}  # between the names in a cell
_NAMELESS = re.compile(r"(Unnamed: \d+(\.\d+)*)?")  # what pandas calls a column without a name
_WORDS = {"true": 1.0, "yes": 1.0, "t": 1.0, "y": 1.0, "false": 0.0, "no": 0.0, "f": 0.0, "n": 0.0}

# Names of columns, as `short_key` gives them: of class names, several or one in a cell; and of what is no class.
_SEVERAL_WORDS = "labels tags classes categories targets annotations choices keywords objects findinglabels subject"
_ONE_WORDS = "label tag class category categoryname classname labelname target choice species groundtruth"
_SPLIT_WORDS = "split splits subset partition fold folds phase set usage isvalid istrain istest istraining isval"
_OTHER_WORDS = """index idx row rowid rownumber id no nr number width height size area xmin ymin xmax ymax x y w h x1 y1 x2 y2 left top
right bottom bbox iscrowd isoccluded istruncated isgroupof isdepiction isinside labelid classid categoryid annotationid objectid
leadtime createdat updatedat timestamp hierarchicalsubject"""
_ONE_NAME = frozenset(_ONE_WORDS.split())
_NAME_COLUMNS = frozenset(_SEVERAL_WORDS.split()) | _ONE_NAME
_SPLITS = frozenset(_SPLIT_WORDS.split())
_NOT_CLASSES = _SPLITS | frozenset(_OTHER_WORDS.split())

Table = tuple[list[str], list[str], list[list[float]]]


def read_csv(file: Path, options: TableOptions | None, say: Say, known: Collection[str]) -> Table:
    """A table of `write_labels`, a spreadsheet, pandas, or the like. InputError names the file, the line, and what to do.

    `known` are the class names of a table that this one is compared with: they tell whether `potted plant` is one class or two.
    """
    options, sheet = options or TableOptions(), read_sheet(file, say)
    if sheet.header == HEADER:
        found = read_corrections(file)  # what it does not say is not known
        classes = list(dict.fromkeys(name for cells in found.values() for name in cells))
        return list(found), classes, [[cells.get(name, NAN) for name in classes] for cells in found.values()]
    table = _as_written(sheet) if replace(options, partial=False) == TableOptions() else None
    if table is None:
        table = _interpreted(sheet, options, say, known)
    cells = list(chain.from_iterable(table[2]))
    if 1 in cells and any(x != x for x in cells) and not any(x < 1 for x in cells):
        say(f'{file}: no cell is 0, and empty cells are unknown. If empty means absent: `empty="absent"`; {RECIPES}')
    return table


def _as_written(sheet: Sheet) -> Table | None:
    """The table if it is as `write_labels` writes it: a column `path`, and a number from 0 to 1 or nothing in every other cell.

    None for every other table. Here, a class may have the name of a column that is otherwise no class, such as `width`.
    """
    classes = [name for name in sheet.header if name != "path"]
    if "" in classes or len({*classes, "path"}) != len(sheet.header) or "path" not in sheet.header:
        return None
    if not classes or (len(classes) == 1 and short_key(classes[0]) in _NAME_COLUMNS):
        return None
    key = sheet.header.index("path")
    paths = sheet.column(key)
    try:
        rows = [[float(cell) if cell else NAN for cell in row[:key] + row[key + 1 :]] for row in sheet.rows]
    except ValueError:
        return None
    if not all(paths) or len({*paths}) < len(paths):
        return None
    return (paths, classes, rows) if all(0 <= x <= 1 or x != x for row in rows for x in row) else None


def _interpreted(sheet: Sheet, options: TableOptions, say: Say, known: Collection[str]) -> Table:
    """The table of another program: which column has the photos, which are classes, and what their cells mean."""
    path, rows = photo_column(sheet, options.path_column, say), range(len(sheet.rows))
    if options.split:
        rows = _rows_of(sheet, options.split)
        say(f"{sheet.file}: {len(rows)} of {len(sheet.rows)} rows are read, those with {options.split}")
    others = [n for n in range(len(sheet.header)) if n != path]
    titled = {n: {*sheet.column(n)} for n in others if short_key(sheet.header[n]) in _NAME_COLUMNS}
    names = [n for n in titled if any(number_in(c) is None and c.strip().lower() not in UNKNOWN for c in titled[n])]
    if len(names) > 1:
        columns = shorten([repr(sheet.header[n]) for n in names])
        raise InputError(f"{sheet.file}, line 1: several columns have class names: {columns}. Keep one; {RECIPES}.")
    classes = [n for n in others if n not in names and _is_class(sheet, n, bool(names), known)]
    ignored = [repr(sheet.header[n] or "without a name") for n in others if n not in {*names, *classes}]
    if ignored:
        say(f"{sheet.file}: no classes, ignored: {shorten(ignored)}")
    if names and classes:
        what = f"{sheet.header[names[0]]!r}, or {shorten([repr(sheet.header[n]) for n in classes], 3)}"
        raise InputError(f"{sheet.file}, line 1: the classes can be those in {what}; {RECIPES}.")
    if names:
        return _from_names(sheet, path, names[0], rows, known, say)
    return _from_columns(sheet, path, classes, rows, options, say)


# -- columns


def _rows_of(sheet: Sheet, split: str) -> list[int]:
    """The rows with the value `split` (VALUE or COLUMN=VALUE). InputError if no column of splits has it, or several."""
    name, _, value = split.rpartition("=")
    wanted = {short_key(name)} if name else _SPLITS
    columns = [n for n, title in enumerate(sheet.header) if short_key(title) in wanted]
    cells = {n: [cell.strip().lower() for cell in sheet.column(n)] for n in columns}
    found = [n for n in columns if value.strip().lower() in cells[n]]
    if len(found) != 1:
        there = [f"{sheet.header[n]!r} has {shorten(sorted(set(map(one_line, cells[n]))), 4)}" for n in columns]
        where = "several columns" if found else "no column"
        raise InputError(f"{sheet.file}: `split` {split!r} is in {where} ({'; '.join(there)}). Write COLUMN=VALUE.")
    return [row for row, cell in enumerate(cells[found[0]]) if cell == value.strip().lower()]


def _is_class(sheet: Sheet, column: int, beside_names: bool, known: Collection[str]) -> bool:
    """Whether a column holds scores. Beside a column of names, only if all of its cells are scores. InputError if only some are."""
    name, cells = sheet.header[column], set(sheet.column(column))
    if not name and column:
        raise InputError(f"{sheet.file}, line 1: a class has no name (column {column + 1}). Name or remove it.")
    is_other = _NAMELESS.fullmatch(name) or short_key(name) in _NOT_CLASSES  # row numbers, and the like
    if is_other and name not in known:
        return False
    wrong = {cell for cell in cells if _score(cell) is None}
    if not wrong or beside_names:
        return not wrong and any(cell.strip().lower() not in UNKNOWN for cell in cells)
    if len(wrong) < len(cells - {""}) or any(number_in(cell.strip().rstrip("%")) is not None for cell in wrong):
        line, cell = next((line, c) for line, c in zip(sheet.lines, sheet.column(column), strict=True) if c in wrong)
        remedy = f"Write a number from 0 to 1 (divide percentages by 100) or nothing, or remove the column; {RECIPES}."
        raise InputError(f"{sheet.file}, line {line}: {cell.strip()[:40]!r} is not a score of {name[:40]!r}. {remedy}")
    return False


# -- one column for each class


def _score(cell: str) -> float | None:
    """A number in [0, 1], -1, or NaN = unknown; None where the cell is no score."""
    key, value = cell.strip().lower(), number_in(cell)
    if key in UNKNOWN:
        return NAN
    if value is None:
        return _WORDS.get(key)
    return value if 0 <= value <= 1 or value == -1 else None


def _from_columns(
    sheet: Sheet, path: int, columns: list[int], rows: Sequence[int], options: TableOptions, say: Say
) -> Table:
    """A table with a column for each class. All rows say how -1 is read; the result has the chosen ones."""
    if not columns:
        raise InputError(f"{sheet.file} contains no classes: no column has scores or class names; {RECIPES}.")
    classes, paths = [sheet.header[n] for n in columns], sheet.column(path)
    if len(classes) == 1 and short_key(classes[0]) in _NAME_COLUMNS:
        raise InputError(f"{sheet.file}, line 1: {classes[0]!r} has numbers. Write the names of classes; {RECIPES}.")
    check_names(classes, [1] * len(classes), sheet.file, "class")
    check_names([paths[n] for n in rows], [sheet.lines[n] for n in rows], sheet.file, "path")
    counts = Counter(row[n] for row in sheet.rows for n in columns)
    meaning = {cell: _score(cell) if cell.strip() or options.empty == "unknown" else 0.0 for cell in counts}
    if -1 in meaning.values():
        reading = options.minus_one or _reading_of_minus_one(meaning, counts, sheet)
        minus, zero, other = (0.0, NAN, "unknown") if reading == "absent" else (NAN, 0.0, "absent")
        say(f"{sheet.file}: -1 is read as {reading} (`minus_one`), so 0 is {other}")
        meaning = {cell: minus if x == -1 else zero if x == 0 else x for cell, x in meaning.items()}
    return [paths[n] for n in rows], classes, [[meaning[sheet.rows[r][n]] for n in columns] for r in rows]


def _reading_of_minus_one(meaning: dict[str, float], counts: Counter[str], sheet: Sheet) -> str:
    """Absent in a table of 1 and -1, and in VOC's lists (0 = difficult); unknown beside fractions. InputError where both fit."""
    total = {value: sum(counts[cell] for cell, x in meaning.items() if x == value) for value in (-1, 0, 1)}
    if any(0 < value < 1 for value in meaning.values()):
        return "unknown"
    if total[1] and total[0] <= total[-1]:
        return "absent"
    line = next(line for line, row in zip(sheet.lines, sheet.rows, strict=True) if "-1" in map(str.strip, row))
    both = "'-1' can mean that the class is absent (0 is then unknown), or that it is not known (0 is then absent)"
    remedy = 'Write `minus_one="absent"` or `minus_one="unknown"`, or leave unknown cells empty'
    raise InputError(f"{sheet.file}, line {line}: {both}. {remedy}.")


# -- one column of class names


def _from_names(sheet: Sheet, path: int, column: int, rows: Sequence[int], known: Collection[str], say: Say) -> Table:
    """A column of class names, one row for each photo or for each pair: every name is 1 and the others 0."""
    title, paths = sheet.header[column], sheet.column(path)
    check_names(list(dict.fromkeys(paths)), [1] * len(set(paths)), sheet.file, "path")
    between = _between(sheet, column, known)
    cells = [cell.strip() for cell in sheet.column(column)]
    named = [_names_in(cell, between) for cell in cells]
    for word in sorted({cell for cell in cells if cell and cell.lower() in UNKNOWN}):
        is_class = word in known or any(word in (names or ()) for names in named)
        named = [[word] if is_class and cell == word else names for cell, names in zip(cells, named, strict=True)]
        meaning = "the class of this name" if is_class else "unknown; if it is a class, write it as a list"
        say(f"{sheet.file}: {word!r} in {title!r} is {meaning} ({cells.count(word)} rows)")
    found: dict[str, set[str] | None] = {}
    for row in rows:
        before = found.setdefault(paths[row], None)
        if named[row] is not None:
            found[paths[row]] = {*(before or ()), *named[row]}
    order = list(dict.fromkeys(name for names in named for name in names or ()))
    said = next((f" with {name} between them" for name, mark in MARKS.items() if mark == between), "")
    say(f"{sheet.file}: {title!r} names {len(order)} classes{said} ({shorten(order, 4)}); a photo has no others")
    values = [[NAN if names is None else float(name in names) for name in order] for names in found.values()]
    return list(found), order, values


def _between(sheet: Sheet, column: int, known: Collection[str]) -> str:
    """What separates the names in the cells: a mark, a blank, or "" where a cell is one name. InputError if unclear.

    A blank can be a part of a name: the names `known`, or the title of the column, say which it is.
    """
    cells = [cell.strip() for cell in sheet.column(column)]
    plain = [cell for cell in dict.fromkeys(cells) if cell.lower() not in UNKNOWN and not _is_list(cell)]
    marks = [mark for mark in MARKS.values() if any(mark in cell for cell in plain)]
    several = [cell for cell in plain if len(cell.split()) > 1]
    known_keys = set(map(short_key, known))
    if known_keys.issuperset(map(short_key, plain)) or not (marks or several):
        return ""
    if len(marks) == 1:
        return marks[0]
    whole = any(short_key(cell) in known_keys for cell in several)
    words = any(known_keys.issuperset(map(short_key, cell.split())) for cell in several)
    if not marks and words != whole:
        return " " if words else ""
    if not marks and not words and short_key(sheet.header[column]) in _ONE_NAME:
        return ""
    cell = min(several or plain, key=len)
    line = sheet.lines[cells.index(cell)]
    raise InputError(f"{sheet.file}, line {line}: {cell[:60]!r} can be one name or several. Write cat;dog; {RECIPES}.")


def _names_in(cell: str, between: str) -> list[str] | None:
    """The class names in a cell, also in a list as JSON, Python or Label Studio write it; None where they are unknown.

    >>> _names_in('["cat", "hot dog"]', ""), _names_in("['cat', 'dog']", ""), _names_in('{"choices": ["cat"]}', "")
    (['cat', 'hot dog'], ['cat', 'dog'], ['cat'])
    >>> _names_in("cat; hot dog;", ";"), _names_in("", ";"), _names_in("?", ";")
    (['cat', 'hot dog'], [], None)
    """
    if cell and cell.lower() in UNKNOWN:
        return None
    parts = cell.split(between) if between else [cell]
    if _is_list(cell):
        try:
            content = parse_json(cell)
        except ValueError:
            content = [part.strip().strip("'\"") for part in cell[1:-1].split(",")]
        if isinstance(content, dict):
            content = next((value for value in content.values() if isinstance(value, list)), [])
        parts = content
    return [name for part in parts if (name := str(part).strip())]


def _is_list(cell: str) -> bool:
    return cell[:1] + cell[-1:] in ("[]", "{}")
