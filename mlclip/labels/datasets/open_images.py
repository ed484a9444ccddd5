"""Open Images' tables -> true labels and boxes. A class that a photo does not name was not checked there: it is unknown."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ...config import InputError
from ..class_names import shorten
from ..table import Labels
from .source import (
    UNKNOWN,
    Boxes,
    Tally,
    area_box,
    files_under,
    is_photo,
    photo_path,
    photo_size,
    read_start,
    read_text,
    table_of,
    without_photo_suffix,
)

Row = dict[str, str]


def read_open_images(source: str | Path, split: str | None = None) -> Labels:
    """True labels of Open Images from a table of image-level labels or of boxes, or from all of those in a folder.

    A table has the columns ImageID, LabelName and Confidence. A Confidence of 1 says that the class is there, 0 that it is
    not; a number between them is a machine's guess and counts as unknown. A row of a box says that the class is there. All
    other classes are unknown. The names of the classes come from a class-descriptions table in the same folder or the one above;
    without it they are the MIDs, such as /m/01yrx. `split` takes only the tables of a folder with this word in their name.
    Paths are `ImageID.jpg`, or the photo of this name below the folder. Raises InputError.
    """
    tables, home, tally = _tables(source, split)
    names, photos, rows = _class_names(home), _photos(home), {}
    for table in tables:
        for row in _rows(table):
            path, name, mark = _path(row, table, photos), _name(row, names, tally), _mark(row, table)
            marks = rows.setdefault(path, {})
            if mark != mark:
                tally.add("label", "with a Confidence between 0 and 1, a machine's guess: unknown", f"{path}, {name}")
            if {mark, marks.get(name)} == {0.0, 1.0}:
                tally.add("label", "given as there and as not there: taken as there", f"{path}, {name}")
            marks[name] = max((known for known in (mark, marks.get(name, UNKNOWN)) if known == known), default=UNKNOWN)
    tally.say("classes that the rows of a photo do not name are unknown, not negative")
    classes = sorted({name for marks in rows.values() for name in marks})
    size = sum(table.stat().st_size for table in tables)
    root = home if photos else "."
    return table_of(rows, classes, source, absent=UNKNOWN, size=size, root=root, notes=tally.notes())


def read_open_images_boxes(source: str | Path, split: str | None = None) -> Boxes:
    """{path: [(class, box_xyxy)]} of the boxes of `read_open_images`, without boxes of groups. Its boxes are shares of the
    photo's size, so the photos must lie below the folder."""
    tables, home, tally = _tables(source, split)
    names, photos, boxes, sizes = _class_names(home), _photos(home), {}, {}
    for table in tables:
        for row in _rows(table):
            path, name = _path(row, table, photos), _name(row, names, tally)
            if "XMin" not in row:
                continue
            found = boxes.setdefault(path, [])
            if row.get("IsGroupOf") == "1":
                tally.add("box", "of a group: left out", f"{path}, {name}")
                continue
            if path not in sizes:
                sizes[path] = photo_size(home / path)
            width, height = sizes[path]
            x0, x1, y0, y1 = (_number(row, side, table) for side in ("XMin", "XMax", "YMin", "YMax"))
            box = area_box((x0 * width, y0 * height, x1 * width, y1 * height))
            if box:
                found.append((name, box))
            else:
                tally.add("box", "without an area: left out", f"{path}, {name}")
    if not boxes:
        raise InputError(f"{source} contains no table of boxes (with the columns XMin, XMax, YMin, YMax). Give one.")
    return Boxes(boxes, tally.notes())


def is_open_images(file: Path) -> bool:
    """Whether a table, or a table in a folder, has the columns of Open Images."""
    files = sorted(file.glob("*.csv")) if os.path.isdir(file) else [file]
    return any({"ImageID", "LabelName"} <= set(_header(table)) for table in files)


def _header(table: Path) -> list[str]:
    line = read_start(table).split(b"\n")[0]
    return [name.strip() for name in line.decode("utf-8-sig", "replace").split(",")]


def _tables(source: str | Path, split: str | None) -> tuple[list[Path], Path, Tally]:
    source, tally = Path(source), Tally()
    if not os.path.isdir(source):
        next(_rows(source), None)  # refuses a file that is missing or no table
        return [source], source.parent, tally
    found = [table for table in sorted(source.glob("*.csv")) if {"ImageID", "LabelName"} <= set(_header(table))]
    chosen = [table for table in found if not split or split.lower() in table.stem.lower()]
    if not chosen:
        named = f" with {split!r} in its name (there are {shorten([table.name for table in found])})" if found else ""
        raise InputError(f"{source} contains no table of Open Images{named}. It has the columns ImageID and LabelName.")
    if len(chosen) > 1:
        tally.say(f"read together: {shorten([table.name for table in chosen])}")
    return chosen, source, tally


def _csv(table: Path) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(read_text(table), newline=""))
    try:
        yield from reader
    except csv.Error as error:
        raise InputError(f"{table}, line {reader.line_num}: {error}. Download the table again.") from error


def _rows(table: Path) -> Iterator[Row]:
    lines = _csv(table)
    header = [name.strip() for name in next(lines, [])]
    if not {"ImageID", "LabelName"} <= set(header):
        raise InputError(
            f"{table} is not a table of Open Images: it needs the columns ImageID, LabelName and Confidence."
        )
    for number, cells in enumerate(lines, start=2):
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise InputError(
                f"{table}, line {number}: {len(cells)} cells, but line 1 has {len(header)}. Correct the line."
            )
        yield dict(zip(header, map(str.strip, cells), strict=True))


def _class_names(home: Path) -> dict[str, str]:
    """{MID: name}. Where several MIDs have one name, the MID follows in brackets."""
    places = [*sorted(home.glob("*class-descriptions*.csv")), *sorted(home.parent.glob("*class-descriptions*.csv"))]
    pairs = {cells[0].strip(): cells[1].strip() for file in places for cells in _csv(file) if len(cells) == 2}
    counts = Counter(pairs.values())
    return {mid: name if counts[name] == 1 else f"{name} ({mid})" for mid, name in pairs.items() if name}


def _name(row: Row, names: dict[str, str], tally: Tally) -> str:
    if row["LabelName"] not in names:
        tally.add("row", "with a class that no class-descriptions table names: its MID is the name", row["LabelName"])
    return names.get(row["LabelName"], row["LabelName"])


def _photos(home: Path) -> dict[str, str]:
    """{ImageID: path} of the photos below the folder."""
    return {without_photo_suffix(path.rpartition("/")[2]): path for path in files_under(home, is_photo)}


def _path(row: Row, table: Path, photos: dict[str, str]) -> str:
    name = photo_path(row["ImageID"])
    if not name:
        raise InputError(f"{table}: a row without an ImageID. Download the table again.")
    return photos.get(name, name if is_photo(name) else f"{name}.jpg")


def _mark(row: Row, table: Path) -> float:
    confidence = _number(row, "Confidence", table) if row.get("Confidence") else 1.0
    if not 0 <= confidence <= 1:
        raise InputError(
            f"{table}: the Confidence {row['Confidence']!r:.40} is not from 0 to 1. Download the table again."
        )
    return confidence if confidence in (0, 1) else UNKNOWN


def _number(row: Row, column: str, table: Path) -> float:
    try:
        return float(row[column])
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{table}: {column} is {row.get(column)!r:.40}, not a number. Download the table again."
        ) from error
