"""A column of class names, several in a cell: `cat dog`, `cat;dog`, `cat,dog`, `cat|dog`, ["cat", "dog"]."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

from ..config import InputError
from ..files import parse_json
from .class_names import CLASS_PRESETS
from .sheet import RECIPES, Say, Sheet, short_key

UNKNOWN = frozenset(("", "na", "n/a", "#n/a", "nan", "<na>", "null", "none", "?", "unknown"))
MARKS = {"semicolons": ";", "commas": ",", "pipes": "|"}

# Names of such columns, as `short_key` gives them.
_SEVERAL_WORDS = "labels tags classes categories targets annotations choices keywords objects findinglabels subject"
_ONE_WORDS = "label tag class category categoryname classname labelname target choice species groundtruth"
SEVERAL_NAMES, ONE_NAME = frozenset(_SEVERAL_WORDS.split()), frozenset(_ONE_WORDS.split())


def names_in_column(sheet: Sheet, column: int, known: Collection[str], say: Say) -> list[list[str] | None]:
    """The class names in each cell of a column; none in an empty cell, and None where the cell says that they are unknown.

    `known` are the class names of another table. `say` gets what separates the names. InputError if that is unclear.
    """
    cells = [cell.strip() for cell in sheet.column(column)]
    plain = {cell for cell in cells if cell.lower() not in UNKNOWN and not _is_list(cell)}
    between = _between(sheet, column, plain, known)
    if between:
        said = next((name for name, mark in MARKS.items() if mark == between), "blanks")
        say(f"{sheet.file}: the names in {sheet.header[column]!r} are separated by {said}")
    found: list[list[str] | None] = []
    for cell in cells:
        if cell and cell.lower() in UNKNOWN:
            found.append(None)
        elif _is_list(cell):
            found.append(_list_items(cell))
        else:
            parts = cell.split(between) if between else [cell]
            found.append([part.strip() for part in parts if part.strip()])
    return found


def _between(sheet: Sheet, column: int, cells: set[str], known: Collection[str]) -> str:
    """What separates the names in these cells: a mark, a blank, or "" where a cell is one name. InputError if unclear."""
    marks = [mark for mark in MARKS.values() if any(mark in cell for cell in cells)]
    known_keys, one_name = {_letters(name) for name in known}, short_key(sheet.header[column]) in ONE_NAME
    if {_letters(cell) for cell in cells} <= known_keys:
        return ""
    if len(marks) == 1:
        return marks[0]
    several = [cell for cell in cells if len(cell.split()) > 1]
    if not marks:
        whole = any(_letters(cell) in known_keys for cell in several)
        split = any({_letters(word) for word in cell.split()} <= known_keys for cell in several)
        if not several or (whole and not split) or (one_name and not split):
            return ""
        if split and not whole:
            return " "
        counts = Counter(word for cell in cells for word in {*cell.lower().split()})
        shared = any(counts[word] > 1 for cell in several for word in cell.lower().split())
        well_known = any(name in cell.lower() for cell in several for name in _WITH_BLANKS)
        if shared and not (split or whole or well_known):
            return " "
    cell = min(several or cells, key=lambda cell: (len(cell), cell))
    line = sheet.lines[[text.strip() for text in sheet.column(column)].index(cell)]
    raise InputError(
        f"{sheet.file}, line {line}: {cell[:60]!r} can be one name or several. Put semicolons between names; {RECIPES}."
    )


_WITH_BLANKS = {name for preset in CLASS_PRESETS.values() for pair in preset.items() for name in pair if " " in name}


def _letters(name: str) -> str:
    return re.sub(r"[\s_\-]+", "", name.casefold())


def _is_list(cell: str) -> bool:
    return cell[:1] + cell[-1:] in ("[]", "{}")


def _list_items(cell: str) -> list[str]:
    """The names in a list as JSON, Python or Label Studio write it.

    >>> _list_items('["cat", "hot dog"]'), _list_items("['cat', 'dog']"), _list_items('{"choices": ["cat"]}')
    (['cat', 'hot dog'], ['cat', 'dog'], ['cat'])
    """
    try:
        content = parse_json(cell)
    except ValueError:
        content = [part.strip().strip("'\"") for part in cell[1:-1].split(",")]
    if isinstance(content, dict):
        content = next((value for value in content.values() if isinstance(value, list)), [])
    return [name for item in content if (name := str(item).strip())]
