"""Reads a .csv of mlclip, a spreadsheet or another program as a table of photos × classes. Plain lists, no torch.

A table is (paths, classes, rows). `rows` holds N lists of C numbers in [0, 1]; NaN = not known. Every rule that is applied to
a table of another program gives one line to `say`. Where its content allows two readings, an InputError shows both, and names
the field of TableOptions that decides.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from ..config import InputError, TableOptions
from .cells import is_score, meanings, no_zero, refuse
from .csv_columns import Columns, chosen_rows, find_columns
from .csv_lines import INVISIBLE, Say, Sheet, parse_lines, read_sheet, short_key
from .label_cells import names_in_cells, show_counts
from .text_files import is_valid_text, load_text

MOST_CELLS = 10_000_000  # a table with more cells must have a score in every CELLS_PER_SCORE-th cell
CELLS_PER_SCORE = 50
NAN = math.nan
# With one of these the whole reader runs, even for a table as mlclip writes it.
_CHANGING = ("path_column", "label_column", "split", "ignore_columns", "empty_cells", "encoding")

# Names of columns that may be something else than a class.
_ODD = {
    "isvalid",
    "istrain",
    "istest",
    "istraining",
    "isval",
    "fold",
    "folds",
    "split",
    "set",
    "subset",
    "partition",
    "phase",
}
_ODD |= {
    "usage",
    "index",
    "idx",
    "id",
    "row",
    "rowid",
    "no",
    "nr",
    "number",
    "label",
    "labels",
    "class",
    "target",
    "iscrowd",
}

Table = tuple[list[str], list[str], list[list[float]]]


def read_csv(
    file: Path, options: TableOptions | None = None, say: Say = lambda line: None, known: Collection[str] = ()
) -> Table:
    """A table from `write_csv`, a spreadsheet, pandas, or the like; see README, "Tables that mlclip reads".

    `say` gets a line for each rule that was applied. `known` are the class names of a table that this one is compared with: they
    tell whether `potted plant` is one class or two. InputError names the file, the line, and what to do.
    """
    options = options or TableOptions()
    plain = _read_plain(file, options, say)
    if plain is not None:
        return plain
    sheet = read_sheet(file, options, say)
    columns = find_columns(sheet, options, say)
    rows = chosen_rows(sheet, options.split) if options.split else range(len(sheet.rows))
    if options.split:
        say(f"{file}: {len(rows)} of {len(sheet.rows)} rows are read, those with {options.split}")
    bad = sum(not is_valid_text(cell) for cell in sheet.column(columns.path))
    if bad:
        say(
            f'warning: {file}: {bad} path{"s are" if bad > 1 else " is"} not UTF-8; an older Excel file needs `encoding="cp1252"`'
        )
    if columns.labels is None:
        return _wide(sheet, columns, rows, options, say)
    return _from_names(sheet, columns, rows, options, known, say)


def _read_plain(file: Path, options: TableOptions, say: Say) -> Table | None:
    """The table if it is as `write_csv` writes it: a column `path`, and a number from 0 to 1 or nothing in every other cell.

    None for every other table, and where a name such as "fold" or "is_valid" needs a closer look.
    """
    if any(getattr(options, name) is not None for name in _CHANGING) or options.separator not in (None, "comma"):
        return None
    try:
        (_, header), *body = parse_lines(load_text(file), ",", file)
        header = [name.strip() for name in header]
        key = header.index("path")
    except (InputError, ValueError):  # no header, no `path`
        return None
    odd = any(short_key(name) in _ODD for name in header) and options.keep_columns is None
    if odd or not all(header) or len(set(header)) < len(header) or any(len(cells) != len(header) for _, cells in body):
        return None
    paths = [cells.pop(key) for _, cells in body]
    header.pop(key)
    try:
        rows = [[float(cell) if cell else NAN for cell in cells] for _, cells in body]
    except ValueError:
        return None
    if any(name != name.strip(INVISIBLE) for name in header):
        return None
    if not all(0 <= value <= 1 or value != value for row in rows for value in row) or not all(
        map(is_valid_text, header)
    ):
        return None
    if len(set(paths)) < len(paths) or not all(paths):
        return None
    if rows and not any(value < 1 for row in rows for value in row) and any(v != v for row in rows for v in row):
        say(f"{file}: {no_zero()}")
    return paths, header, rows


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


def check_size(file: Path, photos: int, classes: int, scores: int) -> None:
    """InputError for a table that is far larger than its file: almost every cell would be made up here."""
    if photos * classes > MOST_CELLS and photos * classes > CELLS_PER_SCORE * scores:
        raise InputError(
            f"{file} has {photos} photos and {classes} classes, but only {scores} scores. "
            "Write a score or null for every class in each line, or use fewer classes."
        )


def _wide(sheet: Sheet, columns: Columns, rows: Sequence[int], options: TableOptions, say: Say) -> Table:
    """A column for each class. All rows say how the cells are read; the result has the chosen ones."""
    classes, paths = [sheet.header[n] for n in columns.classes], sheet.column(columns.path)
    check_names(classes, [1] * len(classes), sheet.file, "class")
    check_names([paths[n] for n in rows], [sheet.lines[n] for n in rows], sheet.file, "path")
    values = _values(sheet, columns.classes, options, say)
    return [paths[n] for n in rows], classes, [values[n] for n in rows]


def _values(sheet: Sheet, columns: Sequence[int], options: TableOptions, say: Say) -> list[list[float]]:
    """The cells of some columns as scores."""
    counts = Counter(row[n] for row in sheet.rows for n in columns)
    if any(not is_score(cell) for cell in counts):
        places = zip(sheet.lines, sheet.rows, strict=True)
        refuse(((line, sheet.header[n], row[n]) for line, row in places for n in columns), sheet.file)
    first = next(
        (line for line, row in zip(sheet.lines, sheet.rows, strict=True) for n in columns if "-1" in row[n]), 1
    )
    meaning = meanings(counts, options, sheet.file, say, f"line {first}")
    return [[meaning[row[n]] for n in columns] for row in sheet.rows]


def _from_names(
    sheet: Sheet, columns: Columns, rows: Sequence[int], options: TableOptions, known: Collection[str], say: Say
) -> Table:
    """A column of class names: every name is 1 and the others 0, or one row per pair with a score."""
    cells, scored = sheet.column(columns.path), columns.score is not None
    check_names(list(dict.fromkeys(cells)), [1] * len(set(cells)), sheet.file, "path")
    repeated = len(set(cells)) < len(cells)
    named = names_in_cells(sheet, columns.labels, options, known, repeated or scored, say)
    classes = list(dict.fromkeys(name for names in named for name in names or ()))
    values = [row[0] for row in _values(sheet, [columns.score], options, say)] if scored else [1.0] * len(cells)
    found: dict[str, dict[str, float] | None] = {}
    for n in rows:
        before = found.setdefault(cells[n], None)
        if named[n] is not None:
            found[cells[n]] = _joined(before or {}, named[n], values[n], sheet, n)
    check_size(sheet.file, len(found), len(classes), len(sheet.rows) + sum(len(names or ()) for names in named))
    say(
        f"{sheet.file}: {sheet.header[columns.labels]!r} names {show_counts(classes)}"
        + _pairs_said(sheet, columns, repeated)
    )
    rest = NAN if scored else 0.0
    table = [
        [NAN] * len(classes) if given is None else [given.get(c, rest) for c in classes] for given in found.values()
    ]
    return list(found), classes, table


def _joined(scores: dict[str, float], names: Sequence[str], value: float, sheet: Sheet, row: int) -> dict[str, float]:
    """The scores of a photo with those of one more row. InputError if a class has two different ones."""
    for name in names:
        if scores.setdefault(name, value) != value and value == value:
            raise InputError(
                f"{sheet.file}, line {sheet.lines[row]}: the photo has two scores for {name!r:.200}. Keep one of them."
            )
    return scores


def _pairs_said(sheet: Sheet, columns: Columns, repeated: bool) -> str:
    if columns.score is not None:
        return f", each with its {sheet.header[columns.score]!r}; a class that a photo has no row for is unknown"
    return ", in several rows per photo; a photo has the classes of its rows and no others" if repeated else ""
