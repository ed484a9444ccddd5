"""Text files that mlclip writes: tables of photos × classes, and files of thresholds. `csv_table` reads a .csv. No torch.

A table is (paths, classes, rows). `rows` holds N lists of C numbers in [0, 1]; None or NaN = not known. File names need not
be valid text: bytes that are not UTF-8 are kept as Python's surrogate escapes and are written back unchanged.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..config import InputError, TableOptions
from ..files import parse_json
from ..spelling import did_you_mean
from .cells import number_in
from .class_names import shorten
from .csv_lines import read_sheet
from .csv_table import Table, check_names, check_size
from .text_files import load_text, save_text

Rows = Sequence[Sequence[float | None]]


def write_csv(path: Path, paths: Sequence[str], classes: Sequence[str], rows: Rows) -> None:
    """A `path` column and one column per class; an empty cell is an unknown score."""
    if "path" in classes:
        raise InputError(f"{path} cannot have a class named 'path'. Write a .pt, .json or .jsonl file.")
    cells = [
        [name, *("" if score is None else f"{score:.9g}" for score in row)]
        for name, row in zip(paths, rows, strict=True)
    ]
    save_text(_csv_text([["path", *classes], *cells]), path)


def write_jsonl(path: Path, paths: Sequence[str], classes: Sequence[str], rows: Rows) -> None:
    """One line per photo: `{"path": ..., "scores": {class: score or null}}`."""
    pairs = zip(paths, rows, strict=True)
    lines = [json.dumps({"path": name, "scores": dict(zip(classes, row, strict=True))}) + "\n" for name, row in pairs]
    save_text("".join(lines), path)


def read_jsonl(path: Path) -> Table:
    """A table from `write_jsonl`. Other keys are ignored. A class that is missing in a line is unknown for that photo."""
    paths, lines, found = [], [], []
    for line, text in enumerate(load_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        photo = _json(text, path, line)
        if not (
            isinstance(photo, dict) and isinstance(photo.get("path"), str) and isinstance(photo.get("scores"), dict)
        ):
            raise InputError(
                f'{path}, line {line}: the line does not look like {{"path": ..., "scores": {{"cat": 0.9}}}}. Correct it.'
            )
        paths.append(photo["path"])
        lines.append(line)
        found.append({name: _score(cell, path, line) for name, cell in photo["scores"].items()})
    check_names(paths, lines, path, "path")
    classes = list(dict.fromkeys(name for scores in found for name in scores))
    check_size(path, len(paths), len(classes), sum(map(len, found)))
    return paths, classes, [[scores.get(name, math.nan) for name in classes] for scores in found]


def write_json(path: Path, content: dict) -> None:
    """One JSON object; tensors become lists."""
    save_text(json.dumps(content, indent=1, default=lambda tensor: tensor.tolist()) + "\n", path)


def read_json(path: Path) -> dict:
    """The object from `write_json`. Its `scores` are checked to be numbers."""
    content = _json(load_text(path), path, 1)
    if not isinstance(content, dict) or not isinstance(content.get("scores"), list):
        raise InputError(f"{path} is not a labels file. If it has one object per line, rename it to .jsonl.")
    if not all(isinstance(row, list) for row in content["scores"]):
        raise InputError(f"{path}: `scores` must contain one list per photo. Write the file again.")
    content["scores"] = [[_score(cell, path, 0) for cell in row] for row in content["scores"]]
    return content


def write_thresholds(path: Path, classes: Sequence[str], thresholds: Sequence[float]) -> None:
    """One threshold per class: lines `class,threshold`, or an object {class: threshold} if the file name ends in .json."""
    if path.suffix.lower() == ".json":
        return save_text(json.dumps(dict(zip(classes, thresholds, strict=True)), indent=1, ensure_ascii=False), path)
    rows = [[name, f"{value:.9g}"] for name, value in zip(classes, thresholds, strict=True)]
    return save_text(_csv_text([["class", "threshold"], *rows]), path)


def read_thresholds(path: Path, classes: Sequence[str], default: Sequence[float]) -> list[float]:
    """The thresholds of `classes` from a file of `write_thresholds`; a class that the file does not name gets its `default`.

    Raises InputError for a class that is not in `classes`, a duplicate class, or a threshold that is not a number in [0, 1].
    """
    if not path.is_file():
        raise InputError(
            f"{path} not found. `mlclip export -o thresholds.csv` writes the thresholds of a model, which you can edit."
        )
    found = _json_thresholds(path) if path.suffix.lower() == ".json" else _csv_thresholds(path)
    unknown = [name for name in found if name not in classes]
    if unknown:
        hint = did_you_mean(unknown[0], classes)
        raise InputError(
            f"{path} names unknown classes: {shorten(unknown)}.{hint} The classes are {shorten(classes, 20)}."
        )
    return [found.get(name, value) for name, value in zip(classes, default, strict=True)]


def _json_thresholds(path: Path) -> dict[str, float]:
    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        if twice:
            raise InputError(f"{path}: the class {twice[0]!r} appears twice. Remove one.")
        return dict(pairs)

    content = _json(load_text(path), path, 1, without_duplicates)
    if not isinstance(content, dict):
        raise InputError(f'{path} contains no thresholds. Write an object such as {{"cat": 0.4, "dog": 0.6}}.')
    return {name: _threshold(value, path, 0, name) for name, value in content.items()}


def _csv_thresholds(path: Path) -> dict[str, float]:
    sheet = read_sheet(path, TableOptions(), lambda line: None)
    keys = [name.lower() for name in sheet.header]
    if sorted(keys) not in (["class", "threshold"], ["", "class", "threshold"], ["class", "threshold", "unnamed: 0"]):
        raise InputError(
            f"{path}, line 1: the line is not `class,threshold`. Write it, then one class and its threshold per line."
        )
    names = [cell.strip() for cell in sheet.column(keys.index("class"))]
    check_names(names, sheet.lines, path, "class")
    cells = zip(names, sheet.lines, sheet.column(keys.index("threshold")), strict=True)
    return {name: _threshold(cell, path, line, name) for name, line, cell in cells}


def _threshold(cell: Any, path: Path, line: int, name: str) -> float:
    number = number_in(cell) if isinstance(cell, str) else None  # 0,5 of a spreadsheet
    value = math.nan if isinstance(cell, bool) else _score(cell if number is None else number, path, line, "threshold")
    if math.isnan(value):
        where = f"{path}, line {line}" if line else path
        raise InputError(f"{where}: {name!r} has no threshold. Write a number from 0 to 1, or remove the class.")
    return value


def _csv_text(rows: Iterable[Sequence[str]]) -> str:
    """Rows as CSV text with line ends "\\n".

    The writer keeps its default line end "\\r\\n": before Python 3.13 it quotes a "\\r" inside a cell only then.
    """
    lines: list[str] = []
    csv.writer(SimpleNamespace(write=lines.append)).writerows(rows)
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def _json(text: str, path: Path, line: int, object_of: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    try:
        return parse_json(text, object_of)
    except json.JSONDecodeError as error:
        where = line + error.lineno - 1
        raise InputError(f"{path}, line {where}: not JSON ({error.msg}). Write the file again.") from error
    except ValueError as error:  # too many brackets; a number of thousands of digits
        raise InputError(f"{path}, line {line}: the file is not a table in JSON. Write it again.") from error


def _score(cell: Any, path: Path, line: int, kind: str = "score") -> float:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return math.nan
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        value = math.inf
    if 0 <= value <= 1 or math.isnan(value):
        return value
    where = f"{path}, line {line}" if line else path
    remedy = "Write a number from 0 to 1" + (", or nothing if it is unknown." if kind == "score" else ".")
    raise InputError(f"{where}: {str(cell)[:40]!r} is not a {kind}. {remedy}")
