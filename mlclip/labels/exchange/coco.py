"""COCO: images, categories, and annotations without a box, which say that an image has a class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...config import InputError
from ...files import atomic
from ...plain import is_number
from ..class_tree import ClassTree
from ..datasets.source import photo_path, read_json, table_of
from ..table import Labels
from .chosen import checked_paths, chosen


def write_coco(labels: Labels, file: Path) -> list[Path]:
    """Write the table as COCO's json: an annotation with a `score` for each class that reaches its threshold.

    `file_name` is the path. `supercategory` is the parent of a class. Returns the file.
    """
    parents = ClassTree.of(labels.meta).parents
    ids = {name: number for number, name in enumerate(labels.classes, start=1)}
    images = [{"id": number, "file_name": path} for number, path in enumerate(checked_paths(labels), start=1)]
    categories = [{"id": id, "name": name, "supercategory": parents.get(name, "")} for name, id in ids.items()]
    annotations: list[dict[str, Any]] = []
    for image, (_, names) in enumerate(chosen(labels), start=1):
        for name, score in names.items():
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": image, "category_id": ids[name], "score": score})
    content = {"info": {"description": "mlclip"}, "licenses": [], "images": images, "categories": categories}
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(content | {"annotations": annotations}, indent=1), encoding="utf-8")
    return [file]


def read_coco_scores(file: str | Path) -> Labels:
    """The scores in a file of `write_coco`: 1 where an annotation has none, 0 where an image has no annotation of a class.

    `labels.datasets.read_coco` reads the same file as true labels. Raises InputError for another file.
    """
    file = Path(file)
    content = read_json(file)
    try:
        images = {item["id"]: photo_path(item["file_name"]) for item in content["images"]}
        names = {item["id"]: item["name"] for item in content["categories"]}
        rows: dict[str, dict[str, float]] = {path: {} for path in images.values()}
        for item in content["annotations"]:
            marks, name = rows[images[item["image_id"]]], names[item["category_id"]]
            score = item.get("score", 1.0)
            if not is_number(score) or not 0 <= score <= 1:
                raise ValueError("a score that is not from 0 to 1")
            marks[name] = max(marks.get(name, 0.0), float(score))
        if len(rows) < len(images):
            raise ValueError("two images with the same file name")
        return table_of(rows, list(dict.fromkeys(names.values())), file, size=file.stat().st_size)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{file} does not have the structure of COCO's json ({str(error)[:60]}).") from error
