"""What each column of a .csv is: the photos, a class, names of classes, a split, or something to ignore."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from ..config import InputError, TableOptions
from ..spelling import one_line
from .cells import is_known_score, is_score, number_in
from .class_names import shorten
from .csv_lines import LABEL_NAMES, Say, Sheet, short_key
from .photo_column import is_nameless, named, photo_column, refuse_missing, shown


def _words(text: str) -> list[str]:
    return text.split()


# Names of columns, in lower case without blanks, hyphens and underscores.
_SCORES = _words("score scores confidence conf prob probability value present presence")
_SPLITS = _words("split splits subset partition fold folds phase set usage isvalid istrain istest istraining isval")
_ALWAYS_SPLIT = _words("isvalid istrain istest istraining isval")  # never a class
_ROWS = _words("index idx row rowid rownumber id no nr number")
_OTHER = _words("""width height size area xmin ymin xmax ymax x y w h x1 y1 x2 y2 left top right bottom bbox bboxx bboxy bboxwidth
bboxheight iscrowd isoccluded istruncated isgroupof isdepiction isinside labelid classid categoryid annotationid objectid boxid leadtime
annotator
createdat updatedat timestamp source imagewidth imageheight depth channels md5 sha1 hash""")


@dataclass
class Columns:
    """The numbers of the columns of each kind."""

    path: int
    classes: list[int] = field(default_factory=list)
    labels: int | None = None  # names of classes
    score: int | None = None  # of the one class that `labels` names


def find_columns(sheet: Sheet, options: TableOptions, say: Say) -> Columns:
    """The kind of each column, by its name and its cells. InputError where a column can be read in two ways, or none is the photos."""
    path = photo_column(sheet, options, say)
    ignored, kept = (named(sheet, option) for option in (options.ignore_columns, options.keep_columns))
    for option in (options.ignore_columns, options.keep_columns):
        if option and not named(sheet, option):
            say(f"{sheet.file}: it has no column {option!r}")
    labels = named(sheet, options.label_column)
    if options.label_column and not labels:
        refuse_missing(sheet, options.label_column, "label_column")
    rest = [n for n in range(len(sheet.header)) if n not in {path, *ignored, *labels}]
    kinds = {n: "class" if n in kept else _kind(sheet, n) for n in rest}
    found = labels or [n for n in rest if kinds[n] == "labels"]
    if len(found) > 1:
        shown = " or ".join(f'`label_column="{one_line(sheet.header[n])}"`' for n in found[:3])
        raise InputError(f"{sheet.file}, line 1: several columns have names of classes. Choose one: {shown}.")
    columns = Columns(path, [n for n in rest if kinds[n] == "class"], found[0] if found else None)
    if columns.labels is not None:
        _settle_labels(sheet, columns, kept)
    else:
        _settle_classes(sheet, columns, [n for n in rest if kinds[n] == "unclear"], kept)
    used = {path, *columns.classes, columns.labels, columns.score}
    _say_ignored(sheet, [n for n in range(len(sheet.header)) if n not in used], options, say)
    return columns


def chosen_rows(sheet: Sheet, split: str) -> list[int]:
    """The rows with the value `split` (VALUE or COLUMN=VALUE) in a column. InputError if no column has it, or several."""
    name, equals, value = split.rpartition("=")
    columns = named(sheet, name) if equals else range(len(sheet.header))
    wanted = value.strip().lower()
    having = [n for n in columns if any(cell.strip().lower() == wanted for cell in sheet.column(n))]
    having = [n for n in having if short_key(sheet.header[n]) in _SPLITS] or (
        having if equals else _texts(sheet, having)
    )
    if len(having) != 1:
        splits = [n for n in range(len(sheet.header)) if short_key(sheet.header[n]) in _SPLITS]
        values = {
            sheet.header[n]: shorten(sorted({one_line(cell) for cell in sheet.column(n)}), 4)
            for n in (having or splits)
        }
        there = "; ".join(f"{name!r} has {shown}" for name, shown in values.items()) or "no column looks like a split"
        raise InputError(
            f"{sheet.file}: `split` {split!r} is {'in several columns' if having else 'in no column'} ({there}). "
            "Write COLUMN=VALUE, or remove it."
        )
    return [row for row, cell in enumerate(sheet.column(having[0])) if cell.strip().lower() == wanted]


def _texts(sheet: Sheet, columns: Iterable[int]) -> list[int]:
    """The columns in which no cell is a score."""
    return [n for n in columns if not any(map(is_known_score, sheet.column(n)))]


# -- the other columns


def _kind(sheet: Sheet, number: int) -> str:
    """class, labels, score, split, other (ignored), or rows (row numbers). InputError for two readings."""
    name, key, cells = sheet.header[number], short_key(sheet.header[number]), sheet.column(number)
    if not name and number:
        raise InputError(
            f"{sheet.file}, line 1: a class has no name (column {number + 1}). Give the column a name or remove it."
        )
    if (is_nameless(name) or key in _ROWS) and _are_row_numbers(cells, sorted_ones=not is_nameless(name)):
        return "rows"
    if key in _ALWAYS_SPLIT:
        return "split"
    known = [cell for cell in cells if is_known_score(cell)]
    scores = all(map(is_score, cells)) and (known or key not in LABEL_NAMES)
    if key in LABEL_NAMES and not scores:
        if all(number_in(cell) is not None for cell in cells if cell.strip()):
            raise InputError(
                f"{sheet.file}, line 1: the column {name!r} has numbers that are no scores. If they are numbers of classes, "
                f'`label_column="{one_line(name)}"` reads them as names; `ignore_columns="{one_line(name)}"` leaves them out.'
            )
        return "labels"
    if key in _SCORES and scores:
        return "score"
    if key in {*_SPLITS, *_ROWS, *_OTHER}:
        if scores and known:
            return "unclear"
        return "split" if key in _SPLITS else "other"
    return "class" if scores or known or any(map(_is_percentage, cells)) else "other"


def _is_percentage(cell: str) -> bool:
    return cell.strip().endswith("%") and number_in(cell.strip()[:-1]) is not None


def _settle_classes(sheet: Sheet, columns: Columns, unclear: list[int], kept: Collection[int]) -> None:
    """A table with a column for each class: InputError if it has none, or if a column may be something else."""
    for n in unclear:
        name = sheet.header[n]
        raise InputError(
            f"{sheet.file}, line 1: the column {name!r} can be a class, or something about the photos. Say which: "
            f'`keep_columns="{one_line(name)}"` (a class) or `ignore_columns="{one_line(name)}"`.'
        )
    columns.classes += [] if columns.classes else _score_columns(sheet, columns)
    single = columns.classes[0] if len(columns.classes) == 1 else None
    if single is not None and single not in kept and short_key(sheet.header[single]) in LABEL_NAMES:
        name = sheet.header[single]
        if {number_in(cell) for cell in sheet.column(single) if is_known_score(cell)} <= {0, 1, None}:
            raise InputError(
                f"{sheet.file}, line 1: the column {name!r} can be one class with 1 and 0, or name the classes '0' and '1'. Say "
                f'which: `keep_columns="{one_line(name)}"` (one class) or `label_column="{one_line(name)}"` (names).'
            )
    if not columns.classes:
        others = [sheet.header[n] for n in range(len(sheet.header)) if n != columns.path and sheet.header[n]]
        hint = f'`label_column="{one_line(others[0])}"`' if others else '`label_column="..."`'
        raise InputError(
            f"{sheet.file} contains no classes: no column has numbers from 0 to 1, and none is called labels. If a column holds "
            f"the names of classes, say so with {hint}."
        )


def _score_columns(sheet: Sheet, columns: Columns) -> list[int]:
    """Columns called "score" and the like, which are classes where no column names the class."""
    rest = [n for n in range(len(sheet.header)) if n != columns.path]
    return [n for n in rest if short_key(sheet.header[n]) in _SCORES and all(map(is_score, sheet.column(n)))]


def _settle_labels(sheet: Sheet, columns: Columns, kept: Collection[int]) -> None:
    """A table has either a column of names, with at most a score beside it, or a column for each class."""
    scores = [n for n in range(len(sheet.header)) if n != columns.path and n != columns.labels and n not in kept]
    scores = [n for n in scores if short_key(sheet.header[n]) in _SCORES and all(map(is_score, sheet.column(n)))]
    columns.classes = [
        n for n in columns.classes if n not in scores and (n in kept or all(map(is_score, sheet.column(n))))
    ]
    if columns.classes:
        names, label = [one_line(sheet.header[n]) for n in columns.classes], one_line(sheet.header[columns.labels])
        raise InputError(
            f"{sheet.file}, line 1: the classes are either the names in {label!r} or the columns {shorten(names, 3)}. Say "
            f'which: `ignore_columns="{label}"`, or `ignore_columns="{",".join(names[:3])}"`.'
        )
    columns.score = scores[0] if len(scores) == 1 else None


def _say_ignored(sheet: Sheet, ignored: list[int], options: TableOptions, say: Say) -> None:
    rows = [n for n in ignored if is_nameless(sheet.header[n]) or short_key(sheet.header[n]) in _ROWS]
    splits = [n for n in ignored if short_key(sheet.header[n]) in _SPLITS]
    others = [n for n in ignored if n not in rows and n not in splits]
    if rows:
        say(f"{sheet.file}: the column {shorten(shown(sheet.header[n] for n in rows))} has row numbers, ignored")
    if others:
        say(
            f"{sheet.file}: no classes, ignored: the column{'s' * (len(others) > 1)} {shorten(shown(sheet.header[n] for n in others))}"
        )
    for n in splits if not options.split else ():
        values = sorted({one_line(cell) for cell in sheet.column(n)})
        example = f'`split="{one_line(sheet.header[n])}={values[-1]}"`' if values else "`split`"
        say(
            f"{sheet.file}: all rows are read, whatever {sheet.header[n]!r} says ({shorten(values, 4)}); {example} chooses"
        )


def _are_row_numbers(cells: list[str], *, sorted_ones: bool) -> bool:
    """Whether the cells are different whole numbers; with `sorted_ones` 0, 1, 2, ... or 1, 2, 3, ... only."""
    if not all(cell.strip().isdecimal() and cell.strip().isascii() and len(cell) < 19 for cell in cells):
        return False
    numbers = [int(cell) for cell in cells]
    if sorted_ones:
        return numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))
    return len(set(numbers)) == len(numbers)
