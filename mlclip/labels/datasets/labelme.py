"""LabelMe: one json file for each photo, with outlines and flags -> true labels and boxes."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...config import InputError
from ...plain import is_number
from ..table import Labels
from .source import (
    Box,
    Boxes,
    Tally,
    area_box,
    checked_folder,
    files_under,
    is_photo,
    photo_path,
    read_json,
    table_of,
    without_photo_suffix,
)

MAX_JSON = 256_000_000  # bytes; a file may hold its photo


def read_labelme(folder: str | Path) -> Labels:
    """True labels of a folder of LabelMe's json files, with its subfolders. The classes are the labels of all shapes, sorted.

    A photo has a class if a shape or a flag that is true has this label; a photo without shapes has no class. A photo
    without a json file is unknown: nobody has looked at it yet. Other json files are counted and left out. Paths are those
    of the photos relative to `root`, which is `folder`. Raises InputError for damaged files.
    """
    home, tally, size = checked_folder(folder), Tally(), 0
    rows: dict[str, dict[str, float] | None] = {}
    for path, file, content in _annotations(home, tally):
        size += file.stat().st_size
        flags = content.get("flags") or {}
        if not isinstance(flags, dict):
            raise InputError(f"{file}: `flags` is not an object. Save the photo again in LabelMe.")
        named = [label for label, _ in _shapes(content, file)] + [name for name, on in flags.items() if on is True]
        marks = rows.setdefault(path, {})
        marks.update(dict.fromkeys(named, 1.0))
        if not named:
            tally.add("photo", "without shapes: it has no class", path)
    annotated = {without_photo_suffix(path) for path in rows}
    for path in files_under(home, is_photo):
        if without_photo_suffix(path) not in annotated:
            rows[path] = None
            tally.add("photo", "without a json file: unknown, not negative", path)
    classes = sorted({name for marks in rows.values() for name in marks or ()})
    return table_of(rows, classes, home, size=size, root=home, notes=tally.notes())


def read_labelme_boxes(folder: str | Path) -> Boxes:
    """{path: [(class, box_xyxy)]}: the box around each shape of `read_labelme`. Points and lines without an area are left out."""
    boxes, tally = {}, Tally()
    home = checked_folder(folder)
    for path, file, content in _annotations(home, tally):
        found = boxes.setdefault(path, [])
        for label, shape in _shapes(content, file):
            box = _box(shape, file)
            if box:
                found.append((label, box))
            else:
                tally.add("shape", "without an area: left out", f"{path}, {label}")
    if not boxes:
        raise InputError(f"{home} contains no json file of LabelMe. Check the path.")
    return Boxes(boxes, tally.notes())


def is_labelme(folder: Path) -> bool:
    """Whether one of the first json files of a folder has LabelMe's fields."""
    for file in sorted(folder.glob("*.json"))[:5]:
        try:
            content = read_json(file, MAX_JSON)
        except InputError:
            continue
        if _is_annotation(content):
            return True
    return False


def _is_annotation(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def _annotations(home: Path, tally: Tally) -> Iterator[tuple[str, Path, dict]]:
    """(path of the photo, file, content) of each json file of LabelMe."""
    for name in files_under(home, lambda name: name.lower().endswith(".json")):
        content = read_json(home / name, MAX_JSON)
        if _is_annotation(content):
            yield _photo(home, name, content), home / name, content
        else:
            tally.add("json file", "that is not LabelMe's: left out", name)


def _photo(home: Path, name: str, content: dict) -> str:
    """The photo's path: `imagePath` from the json file's folder if that is in the data set, else beside the json file."""
    given = content["imagePath"]
    if not isinstance(given, str) or not photo_path(given) or "\0" in given:
        raise InputError(f"{home / name}: `imagePath` is not the name of a photo. Save the photo again in LabelMe.")
    folder = posixpath.dirname(name)
    from_file = posixpath.normpath(posixpath.join(folder, given.replace("\\", "/")))
    if not from_file.startswith(("..", "/")) and from_file[1:3] != ":/":
        return from_file
    return posixpath.join(folder, photo_path(given).rpartition("/")[2])


def _shapes(content: dict, file: Path) -> Iterator[tuple[str, dict]]:
    for shape in content["shapes"]:
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label.strip():
            raise InputError(f"{file}: a shape without a label. Correct it in LabelMe.")
        yield label.strip(), shape


def _box(shape: dict, file: Path) -> Box | None:
    points = shape.get("points")
    pair = lambda point: isinstance(point, list) and len(point) == 2 and all(map(is_number, point))  # noqa: E731
    if not isinstance(points, list) or not points or not all(map(pair, points)):
        raise InputError(f"{file}: a shape without a list of points (x, y). Correct it in LabelMe.")
    across, down = zip(*points, strict=True)
    if shape.get("shape_type") == "circle" and len(points) == 2:  # the centre, and a point on the circle
        radius = ((across[0] - across[1]) ** 2 + (down[0] - down[1]) ** 2) ** 0.5
        return area_box((across[0] - radius, down[0] - radius, across[0] + radius, down[0] + radius))
    return area_box((min(across), min(down), max(across), max(down)))
