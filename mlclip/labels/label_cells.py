"""A column of class names, one cell per photo or one row per pair: `cat dog`, `cat;dog`, `cat,dog`, `cat|dog`, ["cat","dog"]."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

from ..config import InputError, TableOptions
from ..files import parse_json
from ..spelling import one_line
from .class_names import CLASS_PRESETS, shorten
from .csv_lines import Say, Sheet, short_key

UNKNOWN = {"na", "n/a", "#n/a", "nan", "<na>", "null", "?", "unknown", "-", "–"}
MARKS = {"semicolon": ";", "comma": ",", "pipe": "|"}
_SEVERAL = {
    "labels",
    "tags",
    "classes",
    "categories",
    "targets",
    "annotations",
    "choices",
    "keywords",
    "objects",
    "attributes",
}
_QUOTED = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""")
_BRACKETS = {"[": "]", "(": ")", "{": "}"}

Names = list[str] | None  # None = nothing is known


def names_in_cells(
    sheet: Sheet, column: int, options: TableOptions, known: Collection[str], one_per_row: bool, say: Say
) -> list[Names]:
    """The class names in each cell of a column; None where the cell says that they are not known.

    `known` are class names of another table: they decide between two readings. `one_per_row`: photos have several rows, one
    per class. `say` gets the reading. InputError where two readings are possible: it shows both and the option that decides.
    """
    cells = [cell.strip() for cell in sheet.column(column)]
    plain = [cell for cell in cells if cell and not _is_list(cell) and cell.lower() not in UNKNOWN]
    readings = _readings(set(plain), known)
    name = options.label_separator or _choose(sheet, column, set(plain), readings, known, one_per_row)
    split = readings.get(name) or _splitter(name, known)
    shown = next((cell for cell in plain if len(split(cell)) > 1), None)
    if shown:
        between = "spaces" if name == "space" else f"{name}s"
        say(
            f"{sheet.file}: the names in {sheet.header[column]!r} are separated by {between}, such as {one_line(shown, 60)} = "
            + " + ".join(map(one_line, split(shown)[:4]))
        )
    empty = sum(not cell for cell in cells)
    if empty:
        meaning = "classes not known" if options.empty_cells == "unknown" else "no class"
        say(f"{sheet.file}: {empty} empty cell{'s' * (empty > 1)} in {sheet.header[column]!r}: {meaning}")
    blank: Names = None if options.empty_cells == "unknown" else []
    return [
        blank if not cell else None if cell.lower() in UNKNOWN else _items(cell) if _is_list(cell) else split(cell)
        for cell in cells
    ]


def _readings(cells: set[str], known: Collection[str]) -> dict[str, Callable[[str], list[str]]]:
    """The separators that can be in these cells; "none" is always possible."""
    found = [name for name, mark in MARKS.items() if any(mark in cell for cell in cells)]
    if not found and any(len(cell.split()) > 1 for cell in cells):
        found = ["space"]
    return {name: _splitter(name, known) for name in (*found, "none")}


def _splitter(name: str, known: Collection[str]) -> Callable[[str], list[str]]:
    if name == "none":
        return lambda cell: [cell]
    if name == "space":
        several = [n for n in known if len(n.split()) > 1]
        return (
            (lambda cell: _with_known(cell.split(), {" ".join(n.lower().split()) for n in several}))
            if several
            else str.split
        )
    return lambda cell: [part.strip() for part in cell.split(MARKS[name]) if part.strip()]


def _with_known(words: list[str], several: set[str]) -> list[str]:
    """Words as names; words that together are a name in `several` stay together, the longest first."""
    names, start, longest = [], 0, max(len(name.split()) for name in several)
    while start < len(words):
        ends = range(min(len(words), start + longest), start + 1, -1)
        end = next((e for e in ends if " ".join(words[start:e]).lower() in several), start + 1)
        names.append(" ".join(words[start:end]))
        start = end
    return names


def _choose(
    sheet: Sheet, column: int, cells: set[str], readings: dict, known: Collection[str], one_per_row: bool
) -> str:
    """The separator: the only one possible, or the only one under which every name is in `known`, or what the cells show."""
    if len(readings) == 1:
        return "none"
    keys = {_key(name) for name in known}
    parts = {name: {_key(part) for cell in cells for part in split(cell)} for name, split in readings.items()}
    complete = [name for name in readings if keys and parts[name] <= keys]
    if "space" in complete and {_key(word) for cell in cells for word in cell.split()} <= keys:
        complete = ["space", "none"] if any(len(readings["space"](c)) < len(c.split()) for c in cells) else complete
    elif {"space", "none"} <= set(complete):
        return "none"
    if len(complete) == 1:
        return complete[0]
    found = [name for name in readings if name != "none"]
    several = short_key(sheet.header[column]) in _SEVERAL
    if not complete and len(found) == 1 and not one_per_row:
        if found[0] != "space":
            return found[0]
        if several and not _bound_words(cells):
            return "space"
        if not several and not _shared_words(cells):
            return "none"
    if not complete and one_per_row and found == ["space"] and not _shared_words(cells):
        return "none"
    _ask(sheet, column, cells, complete if len(complete) > 1 else list(readings), readings)
    raise AssertionError  # `_ask` has raised


def _ask(sheet: Sheet, column: int, cells: set[str], names: list[str], readings: dict) -> None:
    readings = {**readings, "space": str.split}
    first = next((n for n in names if n != "none"), "none")
    other = next((n for n in names if n not in ("none", first)), "none")
    cell = min((c for c in cells if readings[first](c) != readings[other](c)), key=lambda c: (len(c), c))
    shown = [" + ".join(repr(part[:40]) for part in readings[n](cell)[:4]) for n in (first, other)]
    where = f"{sheet.file}, line {sheet.lines[[c.strip() for c in sheet.column(column)].index(cell)]}"
    raise InputError(
        f'{where}: {cell[:60]!r} can mean {shown[0]}, or {shown[1]}. Say which with `label_separator="{first}"` or '
        f'`label_separator="{other}"`.'
    )


def _key(name: str) -> str:
    return re.sub(r"[\s_\-]+", "", name.casefold())


_KNOWN_SEVERAL = {
    name.lower() for preset in CLASS_PRESETS.values() for pair in preset.items() for name in pair if " " in name
}


def _bound_words(cells: set[str]) -> bool:
    """Whether some words look like one name: they only occur side by side, or are such a name of VOC, COCO or NUS-WIDE.

    >>> _bound_words({"potted plant", "dog"}), _bound_words({"cat dog", "dog"})
    (True, False)
    """
    words = Counter(word for cell in cells for word in cell.lower().split())
    pairs = Counter(pair for cell in cells for pair in pairwise(cell.lower().split()))
    return any(
        (words[one] == words[two] == count and one != two) or f"{one} {two}" in _KNOWN_SEVERAL
        for (one, two), count in pairs.items()
    )


def _shared_words(cells: set[str]) -> bool:
    """Whether a word of a cell with several words is also in another cell."""
    words = Counter(word for cell in cells for word in {*cell.lower().split()})
    return any(words[word] > 1 for cell in cells if len(cell.split()) > 1 for word in cell.lower().split())


# -- lists in a cell


def _is_list(cell: str) -> bool:
    return cell[0] in _BRACKETS and cell[-1] == _BRACKETS[cell[0]]


def _items(cell: str) -> list[str]:
    """The names in a list as JSON, Python, numpy or Label Studio write it.

    >>> _items('["cat", "hot dog"]'), _items("['cat' 'dog']"), _items("[cat, dog]"), _items('{"choices": ["cat"]}')
    (['cat', 'hot dog'], ['cat', 'dog'], ['cat', 'dog'], ['cat'])
    """
    try:
        content = parse_json(cell)
    except (json.JSONDecodeError, ValueError):
        content = None
    if isinstance(content, dict):
        content = next((value for value in content.values() if isinstance(value, list)), None)
    if isinstance(content, list) and all(isinstance(item, str | int) for item in content):
        return [name for item in content if (name := str(item).strip())]
    inside = cell[1:-1]
    if re.fullmatch(r"[\s,]*", _QUOTED.sub("", inside)) and inside.strip():
        return [name for one, two in _QUOTED.findall(inside) if (name := _unescaped(one or two).strip())]
    return [part.strip().strip("'\"") for part in inside.split(",") if part.strip()]


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def show_counts(names: Sequence[str]) -> str:
    """The classes that a column names, for a message."""
    return f"{len(names)} classes ({shorten([one_line(name) for name in names], 4)})"
