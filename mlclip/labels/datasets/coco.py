"""COCO's json files, and those of tools that write its format -> true labels and boxes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...config import InputError
from ...plain import is_number
from ..class_names import shorten
from ..table import Labels
from .source import LARGEST_FILE, UNKNOWN, Boxes, Tally, area_box, check_cells, labels_of, photo_path, read_json

REMEDY = "Give a file such as COCO's annotations/instances_val2014.json."
Id = int | str


class _Coco(NamedTuple):
    file: Path
    images: dict[Id, str]  # id -> path
    names: dict[Id, str]  # category id -> name
    instances: list[tuple[Id, Id, list[float] | None]]  # image, category, [x, y, width, height]; None: crowd, or no box
    negatives: dict[Id, list[Id]]  # image -> categories that are not in it, where the file says so
    tally: Tally


def read_coco(file: str | Path, split: str | None = None) -> Labels:
    """True labels of COCO from an `instances_*.json` file: categories by id (80 in COCO), images in the order of the file.

    `file` may be a folder that holds one such file, itself or in `annotations/`, or one with `split` in its name.
    Ids may have gaps. An image has a class if it has any instance of it; crowds count too, as usual. Outlines are not read.
    An image without annotations has no class, except in LVIS: there, images list their negative categories, and the others
    are NaN. Paths are `file_name`. `root` is the folder of the photos beside the file or beside `annotations/`, if it exists.
    Raises InputError if the file is missing, damaged, or has another structure.
    """
    found = _coco(file, split)
    classes = list(dict.fromkeys(found.names.values()))
    position = {name: c for c, name in enumerate(classes)}
    row, column = {id: r for r, id in enumerate(found.images)}, {id: position[name] for id, name in found.names.items()}
    check_cells(len(row), len(classes), found.file.stat().st_size, found.file)
    scores = torch.full((len(row), len(classes)), UNKNOWN if found.negatives else 0.0)
    for image, categories in found.negatives.items():
        scores[row[image], [column[category] for category in categories]] = 0
    rows = torch.tensor([row[image] for image, _, _ in found.instances], dtype=torch.long)
    columns = torch.tensor([column[category] for _, category, _ in found.instances], dtype=torch.long)
    scores[rows, columns] = 1
    if found.negatives:
        found.tally.say(
            "the images list their negative categories (LVIS): classes that an image does not list are unknown"
        )
    elif empty := len(row) - len(set(rows.tolist())):
        found.tally.say(f"images without annotations, which have no class: {empty} of {len(row)}")
    return labels_of(list(found.images.values()), classes, scores, found.file, _root(found), found.tally.notes())


def read_coco_boxes(file: str | Path, split: str | None = None) -> Boxes:
    """{path: [(class, box_xyxy)]} of the images of `read_coco`, without crowds: their boxes contain many objects."""
    found = _coco(file, split)
    boxes: dict = {path: [] for path in found.images.values()}
    for image, category, box in found.instances:
        corners = area_box((box[0], box[1], box[0] + box[2], box[1] + box[3])) if box else None
        if corners:
            boxes[found.images[image]].append((found.names[category], corners))
        elif box:
            found.tally.add("box", "without an area: left out", found.images[image])
    return Boxes(boxes, found.tally.notes())


def coco_files(folder: Path) -> list[Path]:
    """The files of a folder that are named like COCO's."""
    names = ("annotations/instances_*.json", "instances_*.json", "_annotations.coco.json", "*/_annotations.coco.json")
    return [file for name in names for file in sorted(folder.glob(name))]


def _coco(file: str | Path, split: str | None) -> _Coco:
    file, tally = _one_file(Path(file), split), Tally()
    content = read_json(file, LARGEST_FILE)
    if isinstance(content, list):
        raise InputError(f"{file} is a list, such as COCO's results of a detector, not annotations. {REMEDY}")
    try:
        names = _names(content["categories"], tally)
        images = _images(content["images"], file)
        instances = [_instance(item, tally) for item in content["annotations"]]
        negatives = {item["id"]: item["neg_category_ids"] for item in content["images"] if "neg_category_ids" in item}
        unknown = next(
            (item for item in _pairs(instances, negatives) if item[0] not in images or item[1] not in names), None
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{file} does not have the structure of COCO's instances ({error!s:.80}). {REMEDY}") from error
    if unknown:
        raise InputError(
            f"{file} has an annotation with the unknown image {unknown[0]!r:.40} or the unknown category {unknown[1]!r:.40}. {REMEDY}"
        )
    if not images or not names:
        raise InputError(f"{file} names no {'categories' if images else 'images'}. {REMEDY}")
    return _Coco(file, images, names, instances, negatives, tally)


def _one_file(file: Path, split: str | None) -> Path:
    if not os.path.isdir(file):
        return Path(f"{file}:{split}") if split else file  # a colon in the name of a file that is not there
    found = [each for each in coco_files(file) if not split or split in str(each.relative_to(file))]
    if len(found) != 1:
        raise InputError(
            f"{file} contains {len(found)} COCO files ({shorten([str(each) for each in found]) or 'none'}). {REMEDY}"
        )
    return found[0]


def _pairs(instances: list, negatives: dict) -> Iterator[tuple[Id, Id]]:
    yield from ((image, category) for image, category, _ in instances)
    yield from ((image, category) for image, categories in negatives.items() for category in categories)


def _names(categories: list[dict[str, Any]], tally: Tally) -> dict[Id, str]:
    """{category id: name}, sorted by id. Several ids may have one name."""
    names: dict[Id, str] = {}
    taken: set[str] = set()
    for item in sorted(categories, key=lambda item: item["id"]):
        _check(item["id"] not in names and isinstance(item["id"], int | str), "two categories with one id", item["id"])
        _check(isinstance(item["name"], str) and bool(item["name"].strip()), "a category without a name", item["id"])
        if item["name"] in taken:
            tally.add("category", "with the name of another one: taken as the same class", item["name"])
        names[item["id"]] = item["name"]
        taken.add(item["name"])
    return names


def _images(items: list[dict[str, Any]], file: Path) -> dict[Id, str]:
    images: dict[Id, str] = {}
    for item in items:
        path = photo_path(item["file_name"])
        _check(
            isinstance(item["id"], int | str) and images.get(item["id"], path) == path, "two images with one id", path
        )
        images[item["id"]] = path
    return images


def _check(holds: bool, problem: str, name: Any) -> None:
    if not holds:
        raise ValueError(f"{problem}: {name!r:.40}")


def _instance(item: dict[str, Any], tally: Tally) -> tuple[Id, Id, list[float] | None]:
    """(image id, category id, [x, y, width, height]); the box of a crowd is None."""
    image, category, box = item["image_id"], item["category_id"], item.get("bbox")
    if item.get("iscrowd"):
        tally.add("crowd", "counted as their class, without a box", f"image {image!r:.40}")
        return image, category, None
    if not box:
        tally.add("instance", "without a box", f"image {image!r:.40}")
        return image, category, None
    _check(isinstance(box, list) and len(box) == 4 and all(map(is_number, box)), "a box without four numbers", image)
    return image, category, [float(number) for number in box]


def _root(found: _Coco) -> str:
    """The folder that holds the first photo; else the one that is named like the file; else "."."""
    home, first = found.file.parent, next(iter(found.images.values()))
    named = home.parent / found.file.stem.removeprefix("instances_")
    places = [named, home.parent / "images", home, home / "images", home.parent, home.parent / "images" / named.name]
    return str(
        next((place for place in places if os.path.exists(place / first)), named if os.path.isdir(named) else ".")
    )
