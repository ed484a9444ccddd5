"""Class files -> classes: lines `label` or `label = prompt name`, JSON, or YAML with PyYAML. No torch here.

A file of thresholds has lines `class,threshold`, or an object {class: threshold} if its name ends in .json.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..config import InputError
from ..files import existing_file, parse_json
from ..spelling import did_you_mean, shorten
from .class_tree import ClassList, clean_name, named_classes
from .sheet import RECIPES, check_names, is_valid_text, json_in, load_text, number_in, read_sheet, save_csv, save_text

_COMMENT = re.compile(r"(?<!\s)\s+#\s.*$")
_NUMBERED = re.compile(r"\(?(\d{1,6})(?:[.):,;]\s*|\s+)(\S.{0,999})")  # `1. cat`, `(1) cat`, `0: cat`, `0 cat`, `0,cat`
_ASSIGNED = re.compile(r"\A\s*\w+\s*=\s*(?=[\[({])")  # `CLASSES = (...)`
# Around a name: brackets or quotes, a bullet, an id, a separator, a path, the suffix of a file; or a line of a nested structure.
_FRAME = re.compile(
    r"""["'(\[{<].*["')\]}>][,;]?$|[-*•+]\s|[a-z]{0,3}\d{2,}(?:[^\w\s]|_)|n\d{8}\s|.*?([,;|:\t/]|\\(?![=>])|->|\s[-–—]\s|\s\s)"""
    r"|.*(\.[a-z]\w{1,3}|[\[{(])$|[\]})]"
)
_NUMBER = re.compile(r"(\d+)\s|.*[\s_](-?\d+(?:\.\d+)?%?)$")  # at one end
NEARLY_ALL = 0.9  # of the lines
_GROUP = re.compile(r"exclusive\s*:(.*)", re.IGNORECASE)


def read_class_file(path: str) -> ClassList:
    """The classes in a class file: JSON, YAML with `names:`, or one name per line. InputError for another content."""
    text = load_text(Path(path))
    if not is_valid_text(text) or any(ord(c) < 32 and c not in "\t\n\r\f" for c in text):
        raise InputError(f"{path} is not text. Give a UTF-8 text file with one class name per line.")
    return read_class_text(text, path)


def read_class_text(text: str, source: str) -> ClassList:
    """The classes in the text of a class file. `source` is its name, for messages and for its suffix.

    >>> read_class_text("1. cat\\n2. dog\\n", "c.txt").notes
    ['c.txt: the lines are numbered: the numbers are left out']
    >>> read_class_text("3 wheeler\\n4 wheeler\\n", "c.txt")
    {'3 wheeler': '3 wheeler', '4 wheeler': '4 wheeler'}
    """
    suffix, name = source.lower().rpartition(".")[2], os.path.basename(source)
    bare = _ASSIGNED.sub("", text, count=1).strip()
    content, form = None, ""
    if suffix == "json" or bare[:1] in ("[", "{", "("):
        try:
            content, form = parse_json(text), "JSON"
        except ValueError as error:
            if suffix == "json":
                raise InputError(f"{source} is not JSON ({str(error)[:80]}). Write a list of names.") from error
            with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                content = ast.literal_eval(bare)
            form = "Python" if isinstance(content, list | tuple | dict) else ""  # lines may begin with a bracket
    if not form and suffix in ("yaml", "yml"):
        try:
            import yaml

            content, form = yaml.safe_load(text), "YAML"
        except ImportError as error:
            raise InputError(f"{source} is YAML, which needs PyYAML: pip install pyyaml.") from error
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise InputError(f"{source} is not YAML ({' '.join(str(error).split())[:80]}). Correct it.") from error
    if form:
        return named_classes(_from_content(content, source), source, (), [f"{name}: read as {form}"])
    lines, groups, notes, numbers = _from_lines(text, source)
    return named_classes(lines, source, groups, [f"{name}: {note}" for note in notes], numbers)


def _from_content(content: Any, source: str) -> list[str]:
    """The entries of a list of names, {"names": ...}, {number: name}, {name: number} or {label: prompt name}."""
    if isinstance(content, dict):
        content = next((content[key] for key in ("names", "categories", "classes") if key in content), content)
    if isinstance(content, list | tuple):
        return _texts((item.get("name") if isinstance(item, dict) else item for item in content), source)
    if not isinstance(content, dict):
        raise InputError(f'{source} contains no class names. Write a list such as ["cat", "dog"].')
    keys, values = list(content), list(content.values())
    if all(str(key).isdecimal() for key in keys):
        return _texts((content[key] for key in sorted(keys, key=int)), source)
    if all(type(value) is int for value in values):
        return _texts(sorted(keys, key=content.__getitem__), source)
    prompts = zip(_texts(keys, source), _texts(values, source), strict=True)
    return [f"{label} = {prompt}" for label, prompt in prompts]


def _texts(names: Iterable[Any], source: str) -> list[str]:
    """Literal names as entries: `=`, `>` and `\\` get a backslash."""
    names = list(names)
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"{source} contains {str(name)[:40]}, which is not a class name. Write text.")
    return [re.sub(r"([\\=>])", r"\\\1", name) for name in names]


def _from_lines(text: str, source: str) -> tuple[list[str], list[list[str]], list[str], list[int]]:
    """The entries, the names in each line `exclusive: a, b`, how the lines were read in sentences, and the line numbers."""
    lines, groups, notes, places = [], [], [], []
    for place, line in enumerate(text.splitlines(), start=1):
        line = clean_name(line)
        short = _COMMENT.sub("", line)
        if short != line:
            notes = [f"text after ' # ' is a comment (first: {short})"]
        group = _GROUP.fullmatch(short)
        if group:
            groups.append([clean_name(name) for name in group[1].split(",")])
        elif short and not short.startswith("#"):
            lines.append(short)
            places.append(place)
    while len(lines) > 1 and all(numbered := [_NUMBERED.fullmatch(line) for line in lines]):
        numbers = [int(found[1]) for found in numbered]
        if numbers not in (list(range(len(lines))), list(range(1, len(lines) + 1))):
            break
        lines = [clean_name(found[2]) for found in numbered]
        notes.append("the lines are numbered: the numbers are left out")
    if len(lines) == 1 and "," in lines[0] and "=" not in lines[0]:
        lines, places = [clean_name(name) for name in lines[0].split(",")], []
        notes.append("its only line is read as names with commas between them")
    _refuse_frame(lines, source)
    tabbed = next((line for line in lines if "\t" in line), None)
    if tabbed is not None:
        raise InputError(f"{source} has a tab inside {tabbed!r:.60}. Write a space, or `label = prompt name`.")
    return lines, groups, notes, places


def _refuse_frame(lines: list[str], source: str) -> None:
    """InputError if something around the names is in nearly all lines, or different numbers are: no rule says what they are.

    A line with `=` says itself what its name is. Two lines are too few to tell numbers from names such as `3 wheeler`.
    """
    plain = [line for line in lines if not re.search(r"(?<!\\)=", line)]
    framed = sum(bool(_FRAME.match(line)) for line in plain)
    found = [match[1] or match[2] for match in map(_NUMBER.match, plain) if match]
    numbers = len(found) if len(found) > 2 and len({*found}) == len(found) else 0
    if len(plain) > 1 and max(framed, numbers) >= NEARLY_ALL * len(lines):
        raise InputError(
            f"{source}: nearly all lines have something around the name, and the first classes would be {plain[0][:60]!r} and "
            f"{plain[1][:60]!r}. Write one name in each line, or `label = prompt name` to keep them so; {RECIPES}."
        )


# Thresholds


def write_thresholds(path: Path, classes: Sequence[str], thresholds: Sequence[float]) -> None:
    """Write one threshold per class."""
    if path.suffix.lower() == ".json":
        save_text(json.dumps(dict(zip(classes, thresholds, strict=True)), indent=1, ensure_ascii=False), path)
    else:
        rows = [[name, f"{value:.9g}"] for name, value in zip(classes, thresholds, strict=True)]
        save_csv([["class", "threshold"], *rows], path)


def read_thresholds(path: Path, classes: Sequence[str], default: Sequence[float]) -> list[float]:
    """The thresholds of `classes` from a file of `write_thresholds`; a class that the file does not name gets its `default`."""
    existing_file(path, "`mlclip export -o thresholds.csv` writes the thresholds of a model, which you can edit.")
    if path.suffix.lower() == ".json":
        content = json_in(load_text(path), path)
        if not isinstance(content, dict):
            raise InputError(f'{path} contains no thresholds. Write an object such as {{"cat": 0.4, "dog": 0.6}}.')
        cells = [(str(path), name, value) for name, value in content.items()]
    else:
        sheet = read_sheet(path)
        keys = [name.lower() for name in sheet.header]
        if sorted(keys) not in (["class", "threshold"], ["", "class", "threshold"]):  # "": the index of pandas
            raise InputError(f"{path}, line 1: the line is not `class,threshold`. Write it, and one class per line.")
        names = [cell.strip() for cell in sheet.column(keys.index("class"))]
        check_names(names, sheet.lines, path, "class")
        where = [f"{path}, line {line}" for line in sheet.lines]
        cells = list(zip(where, names, sheet.column(keys.index("threshold")), strict=True))
    found = {}
    for where, name, cell in cells:
        value = number_in(cell) if isinstance(cell, str) else cell  # 0,5 of a spreadsheet
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InputError(
                f"{where}: {str(cell)[:40]!r} is not a threshold of {name!r:.40}. Write a number from 0 to 1."
            )
        found[name] = float(value)
    unknown = [name for name in found if name not in classes]
    if unknown:
        hint = did_you_mean(unknown[0], classes)
        raise InputError(f"{path} names unknown classes: {shorten(unknown)}.{hint} The classes are {shorten(classes)}.")
    return [found.get(name, value) for name, value in zip(classes, default, strict=True)]
