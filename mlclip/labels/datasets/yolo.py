"""YOLO's detection folders: a text file for each photo, with a line for each object -> true labels and boxes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...config import InputError
from ..class_names import parse_classes
from ..simple_yaml import yaml_names
from ..table import Labels
from .source import (
    Box,
    Boxes,
    Tally,
    area_box,
    checked_folder,
    files_under,
    is_photo,
    photo_size,
    read_lines,
    read_text,
    table_of,
    without_photo_suffix,
)

NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt", "predefined_classes.txt")
OTHER_TEXTS = (
    "classes.txt",
    "labels.txt",
    "predefined_classes.txt",
    "train.txt",
    "val.txt",
    "test.txt",
    "readme.txt",
    "notes.txt",
)
MAX_TEXT = 64_000_000  # bytes of one file of objects
SAME = {"val": ("val", "valid", "validation"), "valid": ("val", "valid", "validation")}


class _Photo(NamedTuple):
    path: str  # relative to the data set's folder
    file: Path | None  # of the objects


def read_yolo(folder: str | Path, split: str | None = None) -> Labels:
    """True labels of a YOLO detection or segmentation folder. The names come from a .yaml file with `names:` or from classes.txt.

    The text files lie in `labels/` beside `images/`, in either order of the folders (images/train or train/images), or beside
    the photos. A photo has a class if a line begins with the number of the class. A photo without a text file, or with an empty
    one, has no class, as YOLO defines it; both are counted. `split` takes only the photos in a folder of this name. Paths are
    relative to `root`, which is `folder`. `folder` may also be the .yaml file in it. Raises InputError.
    """
    home, names, tally = *_names(folder), Tally()
    rows, size = {}, 0
    for path, file in _photos(home, split, tally):
        size += file.stat().st_size if file else 0
        lines = list(_objects(file, names)) if file else []
        if file and not lines:
            tally.add("photo", "with an empty text file: it has no class", path)
        rows[path] = {names[number]: 1.0 for number, _ in lines}
    return table_of(rows, dict.fromkeys(names.values()), home, size=size, root=home, notes=tally.notes())


def read_yolo_boxes(folder: str | Path, split: str | None = None) -> Boxes:
    """{path: [(class, box_xyxy)]} of the photos of `read_yolo`; an outline gives the box around it. The lines are shares of the
    photo's size, so the photos are needed."""
    home, names, tally = *_names(folder), Tally()
    boxes: dict = {}
    for path, file in _photos(home, split, tally):
        found, lines = boxes.setdefault(path, []), list(_objects(file, names)) if file else []
        width, height = photo_size(home / path) if lines else (0, 0)
        for number, shares in lines:
            box = _box(shares, width, height)
            if box:
                found.append((names[number], box))
            else:
                tally.add("object", "without a box that has an area: left out", f"{path}, {names[number]}")
    return Boxes(boxes, tally.notes())


def is_yolo(folder: Path) -> bool:
    """Whether there are names, and text files in a folder `labels` or beside the photos."""
    if not _name_file(folder):
        return False
    texts = (path for path in files_under(folder, _is_objects))
    return any(
        "labels" in path.split("/")[:-1] or os.path.exists((folder / path).with_suffix(".jpg")) for path in texts
    )


def _name_file(home: Path) -> Path | None:
    """The first .yaml file with `names:`, else a list of names, in the folder or in its `labels`."""
    for file in sorted([*home.glob("*.yaml"), *home.glob("*.yml")]):
        if file.stat().st_size < MAX_TEXT and yaml_names(read_text(file, MAX_TEXT), str(file)) is not None:
            return file
    places = (place / name for place in (home, home / "labels") for name in NAME_FILES)
    return next((file for file in places if os.path.isfile(file)), None)


def _names(folder: str | Path) -> tuple[Path, dict[int, str]]:
    """The data set's folder, and {number: name}."""
    folder = Path(folder)
    given = folder if folder.suffix.lower() in (".yaml", ".yml") and os.path.isfile(folder) else None
    home = folder.parent if given else checked_folder(folder)
    file = given or _name_file(home)
    if file is None:
        raise InputError(f"{home} has no names of classes: no .yaml file with `names:`, and no classes.txt. Add one.")
    if file.suffix.lower() in (".yaml", ".yml"):
        names = yaml_names(read_text(file, MAX_TEXT), str(file))
    else:
        names = dict(enumerate(parse_classes(file)))
    if not names:
        raise InputError(f"{file} contains no `names:` of classes. Add them.")
    return home, names


def _is_objects(name: str) -> bool:
    return name.lower().endswith(".txt") and name.lower() not in OTHER_TEXTS


def _photos(home: Path, split: str | None, tally: Tally) -> Iterator[_Photo]:
    """The photos of the split with their text files. A text file without a photo counts as a .jpg that is not there."""
    wanted = SAME.get(split or "", (split,))
    texts = {_key(path.rpartition(".")[0]): path for path in files_under(home, _is_objects)}
    photos = {_key(without_photo_suffix(path)): path for path in files_under(home, is_photo)}
    found = 0
    for key in sorted(photos.keys() | texts.keys()):
        path = photos.get(key) or _beside(texts[key])
        if split and not set(wanted) & set(path.split("/")[:-1]):
            continue
        found += 1
        if key not in texts:
            tally.add("photo", "without a text file: it has no class, as YOLO defines it", path)
        if key not in photos:
            tally.add("text file", "whose photo is not there: counted all the same", texts[key])
        yield _Photo(path, home / texts[key] if key in texts else None)
    if not found:
        where = f" in a folder {split!r}" if split else ""
        raise InputError(f"{home} contains no photos with text files{where}. Check the path.")


def _key(path: str) -> str:
    """The path without its folders `images` and `labels`: equal for a photo and its text file."""
    folder, _, name = path.rpartition("/")
    return "/".join([*(part for part in folder.split("/") if part not in ("images", "labels", "")), name])


def _beside(text: str) -> str:
    parts = text.rpartition(".")[0].split("/")
    return "/".join(["images" if part == "labels" else part for part in parts[:-1]] + [parts[-1]]) + ".jpg"


def _objects(file: Path, names: dict[int, str]) -> Iterator[tuple[int, list[float]]]:
    """(number of the class, shares of the photo's size) of each line."""
    for line in read_lines(file, MAX_TEXT):
        first, *rest = line.split()
        try:
            number, shares = int(float(first)) if len(first) < 12 else -1, [float(share) for share in rest]
        except (ValueError, OverflowError) as error:
            raise InputError(
                f"{file}: {line[:40]!r} is not a number of a class with a box. Correct the line."
            ) from error
        if number not in names or float(first) != number:
            raise InputError(
                f"{file}: {first[:40]!r} is not the number of one of the {len(names)} classes. Correct the names or the line."
            )
        yield number, shares


def _box(shares: list[float], width: int, height: int) -> Box | None:
    """4 or 5 numbers are centre and size (and a score), more are the corners of an outline."""
    if len(shares) in (4, 5):
        x, y, w, h = shares[:4]
        return area_box(((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height))
    across, down = shares[0::2], shares[1::2]
    if len(shares) < 6 or len(across) != len(down):
        return None
    return area_box((min(across) * width, min(down) * height, max(across) * width, max(down) * height))
