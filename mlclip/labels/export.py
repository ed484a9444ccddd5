"""Tables of labels for other tools. What is written of a photo are the classes that reach their thresholds; photos are never written."""

from __future__ import annotations

import json
import os
import posixpath
from pathlib import Path

from ..config import InputError
from ..files import atomic, beside, check_output
from .class_tree import ClassTree, ancestors
from .label_studio import CONFIG, write_label_studio
from .labels import Labels, chosen
from .sheet import save_csv
from .table import write_labels

KEYWORD_SEPARATOR = "; "  # between the keywords of a photo, for `exiftool -sep`


def export_labels(
    labels: Labels, output: str | Path, tool: str, *, url_prefix: str, overwrite: bool = False
) -> list[str]:
    """Write the table for another tool. `labels.thresholds` say which classes a photo has; `url_prefix` is for Label Studio.

    Returns the files. They are replaced only with `overwrite`. InputError if something cannot be written.
    """
    path = Path(output)
    if not len(labels):
        raise InputError("the labels have no photos, so there is nothing to write.")
    for file in [path, *([beside(path, CONFIG)] if tool == "label-studio" else [])]:
        check_output(file, overwrite=overwrite)
    if tool == "csv":
        write_labels(labels, path, overwrite=overwrite)
        return [str(path)]
    for name in labels.paths:
        parts = name.replace("\\", "/").split("/")
        if posixpath.isabs(name) or os.path.isabs(name) or ".." in parts or ":" in parts[0][1:2]:
            raise InputError(
                f"the labels have the path {name[:80]!r}, which leads out of their folder. Remove the row."
            )
    if tool == "label-studio":
        return list(map(str, write_label_studio(labels, path, url_prefix)))
    (write_coco if tool == "coco" else write_keywords)(labels, path)
    return [str(path)]


def write_coco(labels: Labels, file: Path) -> None:
    """COCO's json: an annotation with a `score` and no box for each class that reaches its threshold.

    `file_name` is the path. `supercategory` is the parent of a class.
    """
    parents = ClassTree.of(labels.meta).parents
    ids = {name: number for number, name in enumerate(labels.classes, start=1)}
    images, annotations = [], []
    for image, (path, names) in enumerate(chosen(labels), start=1):
        images.append({"id": image, "file_name": path})
        for name, score in names.items():
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": image, "category_id": ids[name], "score": score})
    categories = [{"id": id, "name": name, "supercategory": parents.get(name, "")} for name, id in ids.items()]
    content = {
        "info": {"description": "mlclip"},
        "images": images,
        "categories": categories,
        "annotations": annotations,
    }
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_keywords(labels: Labels, file: Path) -> None:
    """A .csv that `exiftool -csv=FILE -sep "; "` writes into photos or sidecars as keywords, which photo managers read.

    `Subject` has the classes of a photo, `HierarchicalSubject` the same with the classes above them: animal|dog.
    """
    parents = ClassTree.of(labels.meta).parents
    wrong = next((name for name in labels.classes if KEYWORD_SEPARATOR.strip() in name), None)
    if wrong:
        raise InputError(f"the class {wrong[:60]!r} has a semicolon, which separates keywords. Rename it.")
    rows = []
    for path, names in chosen(labels):
        nested = ["|".join([*reversed(ancestors(name, parents)), name]) for name in names]
        photo = os.path.abspath(os.path.join(labels.root, path))
        rows.append([photo, KEYWORD_SEPARATOR.join(names), KEYWORD_SEPARATOR.join(nested)])
    save_csv([["SourceFile", "Subject", "HierarchicalSubject"], *rows], file)
