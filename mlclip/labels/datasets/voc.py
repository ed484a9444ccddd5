"""PASCAL VOC, and folders of XML files in its format -> true labels and boxes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from ...config import InputError
from ..class_names import CLASS_PRESETS, shorten
from ..table import Labels
from .source import (
    UNKNOWN,
    Box,
    Boxes,
    Tally,
    area_box,
    is_photo,
    read_data,
    read_lines,
    table_of,
    without_photo_suffix,
)

MAX_XML = 4_000_000  # bytes; the files of VOC have fewer than 10,000
LONGEST_ID = 250  # characters; file systems have no longer names
_MARKS = {"1": 1.0, "-1": 0.0, "0": UNKNOWN}  # of a list of one class; 0 = only difficult objects


class _Photo(NamedTuple):
    file: Path  # of the annotation
    path: str
    tree: ElementTree.Element | None  # None: there is no file
    size: int  # bytes


def read_voc(folder: str | Path, split: str | None = None) -> Labels:
    """True labels of PASCAL VOC from `VOCdevkit` or one of its `VOC20xx` folders: 20 classes, all photos or those of a split.

    A split is a list in ImageSets/Main or ImageSets/Layout, such as "train" or "val". A label is NaN if all instances of the
    class are difficult. A photo of the split without an XML file gets its labels from the lists of each class (such as
    cat_val.txt, with 1, -1 or 0 = difficult); without these they are NaN. Other folders with XML files of this format, in
    Annotations or beside the photos, may have other classes: then the classes are the names in the files, sorted.
    Paths are file names in `root`, the folder JPEGImages. InputError names a missing or damaged file.
    """
    home, tally, size = _home(folder), Tally(), 0
    listed = cache(lambda: _class_lists(home, split))
    rows: dict[str, dict[str, float] | None] = {}
    source: dict[str, Path] = {}  # the first file that names a class
    for photo in _photos(home, split, tally):
        size += photo.size
        if photo.tree is None:
            rows[photo.path] = listed().get(without_photo_suffix(photo.path))
            what = "unknown, not negative" if rows[photo.path] is None else "labels from the lists of each class"
            tally.add("photo", f"without an XML file: {what}", photo.path)
            continue
        marks = rows.setdefault(photo.path, {})
        for name, difficult, _ in _objects(photo):
            source.setdefault(name, photo.file)
            marks[name] = 1.0 if not difficult or marks.get(name) == 1 else UNKNOWN
        if any(mark != mark for mark in marks.values()):
            tally.add("photo", "with a class of which all objects are difficult: unknown", photo.path)
    if all(marks is None for marks in rows.values()):
        raise InputError(
            f"{home / 'Annotations' / (_stem(rows) + '.xml')} not found, and no other XML of these photos."
        )
    classes = _classes(home, source, tally)
    return table_of(rows, classes, home, size=size, root=_photo_folder(home), notes=tally.notes())


def read_voc_boxes(folder: str | Path, split: str | None = None) -> Boxes:
    """{path: [(class, box_xyxy)]} of the photos of `read_voc` that have an XML file, without the difficult instances."""
    boxes, tally = {}, Tally()
    for photo in _photos(_home(folder), split, tally):
        if photo.tree is None:
            tally.add("photo", "without an XML file: left out", photo.path)
            continue
        found = boxes[photo.path] = []
        for name, difficult, item in _objects(photo):
            box = None if item.find("bndbox") is None else _box(item, photo.file)
            if box is None:
                tally.add("object", "without a box that has an area: left out", f"{photo.file.name}, {name}")
            elif not difficult:
                found.append((name, box))
    if not boxes:
        raise InputError(f"{folder}: none of the photos has an XML file. Unpack VOC's annotations.")
    return Boxes(boxes, tally.notes())


def is_voc(folder: Path) -> bool:
    """Whether a folder looks like VOC or like a folder of XML files."""
    return bool(_homes(folder))


def _stem(rows: dict) -> str:
    return without_photo_suffix(next(iter(rows), "*"))


def _homes(folder: Path) -> list[Path]:
    inside = [home for parent in (folder, folder / "VOCdevkit") for home in sorted(parent.glob("VOC2*"))]
    with_folders = [
        home
        for home in (folder, *inside)
        if os.path.isdir(home / "Annotations") or any((home / "ImageSets" / "Main").glob("*_*.txt"))
    ]
    return with_folders or [folder] * any(folder.glob("*.xml"))


def _home(folder: str | Path) -> Path:
    folder = Path(folder)
    homes = _homes(folder) if os.path.isdir(folder) else []
    if not homes:
        raise InputError(f"{folder} contains no VOC data set (no Annotations folder). Give VOCdevkit or its VOC2012.")
    if len(homes) > 1 and homes[0] != folder:
        raise InputError(
            f"{folder} contains several VOC data sets. Give one: {shorten([str(home) for home in homes])}."
        )
    return homes[0]


def _annotation_folder(home: Path) -> Path:
    return home if not os.path.isdir(home / "Annotations") and any(home.glob("*.xml")) else home / "Annotations"


def _photo_folder(home: Path) -> Path:
    return home if _annotation_folder(home) == home else home / "JPEGImages"


def _classes(home: Path, source: dict[str, Path], tally: Tally) -> list[str]:
    """VOC's 20 classes, or those of the files where the folder is not VOC's own and has another class."""
    known = CLASS_PRESETS["voc"]
    other = [name for name in source if name not in known]
    if not other:
        return list(known)
    if re.fullmatch(r"VOC20\d\d", home.name):
        raise InputError(
            f"{source[other[0]]}: {other[0]!r} is not one of VOC's 20 classes. Give other classes as a .csv file, or "
            f"rename the folder {home.name}: in other folders the classes are the names in the files."
        )
    tally.say(f"{shorten(other)}: not among VOC's 20 classes, so the classes are the {len(source)} names in the files")
    return sorted(source)


def _split_lists(home: Path, split: str) -> list[Path]:
    name = split.removesuffix(".txt")
    if any(mark in name for mark in ("/", "\\", "\0")):
        raise InputError(f"{split!r} is not the name of a split. Give the name of a list in ImageSets/Main.")
    return [home / "ImageSets" / kind / f"{name}.txt" for kind in ("Main", "Layout")]


def _ids(home: Path, split: str | None) -> list[str]:
    if split is None:
        folder = _annotation_folder(home)
        ids = sorted(file.stem for file in folder.glob("*.xml")) or list(_class_lists(home, None))
        if not ids:
            raise InputError(f"{folder} contains no .xml file. Unpack VOC's annotations there.")
        return ids
    lists = _split_lists(home, split)
    found = next((file for file in lists if os.path.isfile(file)), None)
    if found is None:
        listed = _class_lists(home, split)
        if listed:
            return list(listed)
        splits = sorted(file.stem for file in lists[0].parent.glob("*.txt") if "_" not in file.stem)
        raise InputError(f"{lists[0]} not found. The splits in this folder are: {shorten(splits) or 'none'}.")
    ids = list(dict.fromkeys(_id(line, found) for line in read_lines(found)))
    if not ids:
        raise InputError(f"{found} is empty. Unpack VOC's lists again.")
    return ids


def _id(line: str, file: Path) -> str:
    """`2007_000027`, `2007_000027.jpg 1` or `JPEGImages/2007_000027.jpg` -> 2007_000027."""
    name = re.split(r"[\\/]", re.sub(r"\s+-?[01]$", "", line.strip()))[-1]
    name = without_photo_suffix(name).removesuffix(".xml")
    if not name or "\0" in name or name in (".", "..") or len(name) > LONGEST_ID:
        raise InputError(f"{file}: {line[:40]!r} is not the name of a photo. Unpack VOC's lists again.")
    return name


def _class_lists(home: Path, split: str | None) -> dict[str, dict[str, float]]:
    """{id: {class: 1, 0 or NaN}} from the lists such as cat_val.txt; a class without a list is NaN."""
    marks: dict[str, dict[str, float]] = {}
    classes, end = set(), split.removesuffix(".txt").rpartition("_")[2] if split else None
    for file in sorted((home / "ImageSets" / "Main").glob("*_*.txt")):
        name, _, part = file.stem.rpartition("_")
        if end not in (None, part) or name not in CLASS_PRESETS["voc"]:
            continue
        classes.add(name)
        for line in read_lines(file):
            words = line.split()
            if len(words) != 2 or words[1] not in _MARKS:
                raise InputError(f"{file}: {line[:40]!r} is not a photo with 1, -1 or 0. Unpack VOC's lists again.")
            marks.setdefault(_id(line, file), {})[name] = _MARKS[words[1]]
    unlisted = [name for name in CLASS_PRESETS["voc"] if name not in classes]
    return {id: row | dict.fromkeys(unlisted, UNKNOWN) for id, row in marks.items()}


def _photos(home: Path, split: str | None, tally: Tally) -> Iterator[_Photo]:
    """The photos of the split with their annotations; photos that are not in JPEGImages are counted."""
    folder = _photo_folder(home)
    names = sorted(filter(is_photo, os.listdir(folder))) if os.path.isdir(folder) else []
    present = {without_photo_suffix(name): name for name in names}
    ids = _ids(home, split)
    extra = [] if split else sorted(present.keys() - set(ids))
    for id in [*ids, *extra]:
        file = _annotation_folder(home) / f"{id}.xml"
        data = read_data(file, MAX_XML) if os.path.isfile(file) else None
        tree = None if data is None else _parse(data, file)
        named = "" if tree is None else (tree.findtext("filename") or "").strip()
        path = named if without_photo_suffix(named) == id and "\\" not in named else f"{id}.jpg"
        if present and id not in present:
            tally.add("photo", f"with labels, but not in {folder.name}", path)
        yield _Photo(file, present.get(id, path), tree, len(data or b""))


def _parse(data: bytes, file: Path) -> ElementTree.Element:
    """The root of an annotation. A document type is refused, so no entity is ever defined, expanded or fetched."""
    if b"<!DOCTYPE" in data or b"\0" in data:
        raise InputError(f"{file} is not a VOC annotation (it has a document type or is binary). Remove it.")
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise InputError(f"{file} is damaged ({str(error)[:80]}). Unpack it again.") from error


def _objects(photo: _Photo) -> Iterator[tuple[str, bool, ElementTree.Element]]:
    """(class, difficult, element) of each object. The head, hands and feet of a person are parts, not objects."""
    for item in photo.tree.findall("object"):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise InputError(f"{photo.file}: an object without a name. Unpack the file again.")
        yield name, (item.findtext("difficult") or "0").strip().lower() in ("1", "true"), item


def _box(item: ElementTree.Element, file: Path) -> Box | None:
    try:
        x0, y0, x1, y1 = (float(item.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError as error:
        raise InputError(f"{file}: an object without a complete bndbox. Unpack the file again.") from error
    return area_box((x0 - 1, y0 - 1, x1, y1))  # VOC counts pixels from 1 and includes the last
