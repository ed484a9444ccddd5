"""Files of thresholds: lines `class,threshold`, or an object {class: threshold} if the name of the file ends in .json."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..config import InputError
from ..files import existing_file, parse_json
from ..spelling import did_you_mean, shorten
from .sheet import check_names, load_text, number_in, read_sheet, save_csv, save_text


def write_thresholds(path: Path, classes: Sequence[str], thresholds: Sequence[float]) -> None:
    """Write one threshold per class."""
    if path.suffix.lower() == ".json":
        save_text(json.dumps(dict(zip(classes, thresholds, strict=True)), indent=1, ensure_ascii=False), path)
    else:
        rows = [[name, f"{value:.9g}"] for name, value in zip(classes, thresholds, strict=True)]
        save_csv([["class", "threshold"], *rows], path)


def read_thresholds(path: Path, classes: Sequence[str], default: Sequence[float]) -> list[float]:
    """The thresholds of `classes` from a file of `write_thresholds`; a class that the file does not name gets its `default`.

    Raises InputError for a class that is not in `classes`, a duplicate class, or a threshold that is not a number in [0, 1].
    """
    existing_file(path, "`mlclip export -o thresholds.csv` writes the thresholds of a model, which you can edit.")
    if path.suffix.lower() == ".json":
        cells = [(str(path), name, value) for name, value in _json_pairs(path)]
    else:
        sheet = read_sheet(path)
        keys = [name.lower() for name in sheet.header]
        if sorted(keys) not in (["class", "threshold"], ["", "class", "threshold"]):  # "": the index of pandas
            raise InputError(
                f"{path}, line 1: the line is not `class,threshold`. Write it, then one class and its threshold per line."
            )
        names = [cell.strip() for cell in sheet.column(keys.index("class"))]
        check_names(names, sheet.lines, path, "class")
        where = [f"{path}, line {line}" for line in sheet.lines]
        cells = list(zip(where, names, sheet.column(keys.index("threshold")), strict=True))
    found = {name: _threshold(cell, where, name) for where, name, cell in cells}
    unknown = [name for name in found if name not in classes]
    if unknown:
        hint = did_you_mean(unknown[0], classes)
        raise InputError(
            f"{path} names unknown classes: {shorten(unknown)}.{hint} The classes are {shorten(classes, 20)}."
        )
    return [found.get(name, value) for name, value in zip(classes, default, strict=True)]


def _json_pairs(path: Path) -> Iterable[tuple[str, Any]]:
    """(class, value) of each entry of the object in a file. InputError where it is none, or has a class twice."""

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        if twice:
            raise InputError(f"{path}: the class {twice[0]!r} appears twice. Remove one.")
        return dict(pairs)

    try:
        content = parse_json(load_text(path), without_duplicates)
    except ValueError as error:
        raise InputError(f"{path}, line {getattr(error, 'lineno', 1)}: not JSON ({str(error)[:80]}).") from error
    if not isinstance(content, dict):
        raise InputError(f'{path} contains no thresholds. Write an object such as {{"cat": 0.4, "dog": 0.6}}.')
    return content.items()


def _threshold(cell: Any, where: str, name: str) -> float:
    value = number_in(cell) if isinstance(cell, str) else cell  # 0,5 of a spreadsheet
    if isinstance(cell, bool) or cell is None or cell == "" or (isinstance(value, float) and math.isnan(value)):
        raise InputError(f"{where}: {name!r} has no threshold. Write a number from 0 to 1, or remove the class.")
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{where}: {str(cell)[:40]!r} is not a threshold. Write a number from 0 to 1.")
    return float(value)
