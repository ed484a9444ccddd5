"""Tables of photos × classes as text: .csv, .jsonl and .json; and a threshold for each class. Plain lists, no torch.

A table is (paths, classes, rows); `rows` holds N lists of C numbers in [0, 1], None or NaN = not known. Names of files
need not be text: bytes that are not UTF-8 travel as Python's surrogate escapes and come back as they were.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..config import InputError
from ..files import atomic
from .class_names import decode_text, shorten

Rows = Sequence[Sequence[float | None]]
Table = tuple[list[str], list[str], list[list[float]]]


def write_csv(path: Path, paths: Sequence[str], classes: Sequence[str], rows: Rows) -> None:
    """A `path` column and one per class; an empty cell is a score not known."""
    if "path" in classes:
        raise InputError(f"{path} cannot hold a class called 'path'; write a .pt, .json or .jsonl file")
    lines = [",".join(map(_quoted, ["path", *classes]))]
    for name, row in zip(paths, rows, strict=True):
        lines.append(",".join([_quoted(name), *("" if score is None else f"{score:.9g}" for score in row)]))
    _save_text("\n".join(lines) + "\n", path)


def read_csv(path: Path) -> Table:
    """What `write_csv` wrote, or a spreadsheet saved; the `path` column may stand anywhere."""
    header, body = _csv_lines(path)
    if header.count("path") != 1:
        raise InputError(f"{path}, line 1: no column `path`; write path,class,class,... separated by commas")
    key = header.index("path")
    paths, rows = [], []
    for line, cells in body:
        if len(cells) != len(header):
            raise InputError(f"{path}, line {line}: {len(cells)} cells where line 1 has {len(header)}; make them equal")
        paths.append(cells.pop(key))
        rows.append([_score(cell, path, line) for cell in cells])
    header.pop(key)
    _check_names(header, [1] * len(header), path, "class")
    _check_names(paths, [line for line, _ in body], path, "path")
    return paths, header, rows


def write_jsonl(path: Path, paths: Sequence[str], classes: Sequence[str], rows: Rows) -> None:
    """One line for each photo: `{"path": ..., "scores": {class: score or null}}`."""
    pairs = zip(paths, rows, strict=True)
    lines = [json.dumps({"path": name, "scores": dict(zip(classes, row, strict=True))}) + "\n" for name, row in pairs]
    _save_text("".join(lines), path)


def read_jsonl(path: Path) -> Table:
    """What `write_jsonl` wrote; other keys are ignored, a class that a line leaves out is not known there."""
    paths, lines, found = [], [], []
    for line, text in enumerate(_load_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        photo = _json(text, path, line)
        if not (
            isinstance(photo, dict) and isinstance(photo.get("path"), str) and isinstance(photo.get("scores"), dict)
        ):
            raise InputError(f'{path}, line {line}: not of the form {{"path": ..., "scores": {{"cat": 0.9}}}}; mend it')
        paths.append(photo["path"])
        lines.append(line)
        found.append({name: _score(cell, path, line) for name, cell in photo["scores"].items()})
    _check_names(paths, lines, path, "path")
    classes = list(dict.fromkeys(name for scores in found for name in scores))
    return paths, classes, [[scores.get(name, math.nan) for name in classes] for scores in found]


def write_json(path: Path, content: dict) -> None:
    """One object, one key to a line, and each of `content["scores"]` on a line of its own; tensors become lists."""

    def text_of(value: Any) -> str:
        return json.dumps(value, default=lambda tensor: tensor.tolist())

    rows = ",\n  ".join(text_of(row) for row in content["scores"])
    lines = [f"{text_of(key)}: {text_of(value)}" for key, value in content.items() if key != "scores"]
    _save_text("{" + ",\n ".join([*lines, f'"scores": [\n  {rows}\n ]']) + "}\n", path)


def read_json(path: Path) -> dict:
    """The object that `write_json` wrote, its `scores` checked to be numbers."""
    content = _json(_load_text(path), path, 1)
    if not isinstance(content, dict) or not isinstance(content.get("scores"), list):
        raise InputError(f"{path} is no labels file of mlclip; for one object on each line the suffix is .jsonl")
    if not all(isinstance(row, list) for row in content["scores"]):
        raise InputError(f"{path}: `scores` must hold one list for each photo")
    content["scores"] = [[_score(cell, path, 0) for cell in row] for row in content["scores"]]
    return content


def write_thresholds(path: Path, classes: Sequence[str], thresholds: Sequence[float]) -> None:
    """A threshold for each class: lines `class,threshold`, or the object {class: threshold} where the file is named .json."""
    if path.suffix.lower() == ".json":
        return _save_text(json.dumps(dict(zip(classes, thresholds, strict=True)), indent=1, ensure_ascii=False), path)
    lines = [f"{_quoted(name)},{value:.9g}" for name, value in zip(classes, thresholds, strict=True)]
    return _save_text("\n".join(["class,threshold", *lines]) + "\n", path)


def read_thresholds(path: Path, classes: Sequence[str], own: Sequence[float]) -> list[float]:
    """The thresholds of `classes`: what the file says as `write_thresholds` wrote it, and `own` where it names no such class.

    InputError for a class not in `classes`, one named twice, a threshold that is no number in [0, 1].
    """
    if not path.is_file():
        raise InputError(
            f"{path} not found; `mlclip export -o thresholds.csv` writes a model's thresholds to start from"
        )
    found = _json_thresholds(path) if path.suffix.lower() == ".json" else _csv_thresholds(path)
    unknown = [name for name in found if name not in classes]
    if unknown:
        raise InputError(f"{path} names {shorten(unknown)}, which is no class here; there are {shorten(classes, 20)}")
    return [found.get(name, value) for name, value in zip(classes, own, strict=True)]


def _json_thresholds(path: Path) -> dict[str, float]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        if twice:
            raise InputError(f"{path}: the class {twice[0]!r} stands there twice; remove one")
        return dict(pairs)

    content = _json(_load_text(path), path, 1, once)
    if not isinstance(content, dict):
        raise InputError(f'{path} holds no thresholds; write {{"cat": 0.4, "dog": 0.6}}')
    return {name: _threshold(value, path, 0, name) for name, value in content.items()}


def _csv_thresholds(path: Path) -> dict[str, float]:
    header, body = _csv_lines(path)
    if header != ["class", "threshold"]:
        raise InputError(
            f"{path}, line 1: not `class,threshold`; write that, and below it a class and its threshold a line"
        )
    wrong = next((line for line, cells in body if len(cells) != 2), None)
    if wrong:
        raise InputError(f"{path}, line {wrong}: write a class, a comma and its threshold")
    names = [cells[0].strip() for _, cells in body]
    _check_names(names, [line for line, _ in body], path, "class")
    return {name: _threshold(cells[1], path, line, name) for name, (line, cells) in zip(names, body, strict=True)}


def _threshold(cell: Any, path: Path, line: int, name: str) -> float:
    value = math.nan if isinstance(cell, bool) else _score(cell, path, line, "threshold")
    if math.isnan(value):
        where = f"{path}, line {line}" if line else path
        raise InputError(f"{where}: {name!r} has no threshold; write a number from 0 to 1, or leave the class away")
    return value


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def _csv_lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names in the first line, and the other lines that are not empty with their numbers."""
    reader = csv.reader(io.StringIO(_load_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        return header, [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}; save it as a comma-separated file") from error


def _json(text: str, path: Path, line: int, object_of: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    try:
        return json.loads(text, object_pairs_hook=object_of)
    except json.JSONDecodeError as error:
        where = line + error.lineno - 1
        raise InputError(f"{path}, line {where}: not JSON ({error.msg}); write the file again") from error
    except (RecursionError, ValueError) as error:  # thousands of brackets; a number of thousands of digits
        raise InputError(f"{path}, line {line}: not a table in JSON; write the file again") from error


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
    remedy = "write a number from 0 to 1" + (", or nothing for not known" if kind == "score" else "")
    raise InputError(f"{where}: {str(cell)[:40]!r} is no {kind}; {remedy}")


def _check_names(names: Sequence[str], lines: Sequence[int], path: Path, kind: str) -> None:
    first: dict[str, int] = {}
    for name, line in zip(names, lines, strict=True):
        if not name:
            raise InputError(f"{path}, line {line}: a {kind} without a name; give it one or remove it")
        if name in first:
            raise InputError(
                f"{path}, line {line}: the {kind} {name!r} stood in line {first[name]} already; remove one"
            )
        first[name] = line


def _save_text(text: str, path: Path) -> None:
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:  # a half of a pair, which only Windows lets into a file name
        raise InputError(f"{path} cannot hold a file name that is not text; write a .pt or .json file") from error
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def _load_text(path: Path) -> str:
    try:
        return decode_text(path.read_bytes(), errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); name an existing labels file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is neither UTF-8 nor UTF-16 text; save it as UTF-8") from error
