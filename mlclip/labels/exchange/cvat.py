"""CVAT: an XML file "CVAT for images 1.1" with a tag for each class of a photo."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree.ElementTree import Element

from ...config import InputError
from ...files import atomic, beside
from ..datasets.source import photo_path, read_data, table_of
from ..table import Labels
from .chosen import checked_paths, chosen
from .xml_file import LARGEST_XML, XmlError, add, parse_xml, save_xml

LABELS = ".labels.json"  # ending of the name of the file with the task's labels
SCORE = "score"  # the attribute of a tag that holds its score


def write_cvat(labels: Labels, file: Path) -> list[Path]:
    """Write the tags to `file`, and the labels that the CVAT task needs to its name with .labels.json. Returns both.

    A photo has a tag for each class that reaches its threshold, with the score as an attribute. CVAT drops the attribute
    where the task's labels do not have it. CVAT matches photos by `name`, their path.
    """
    checked_paths(labels)
    root = Element("annotations")
    add(root, "version", "1.1")
    task = add(add(root, "meta"), "task")
    add(task, "name", "mlclip")
    add(task, "size", str(len(labels)))
    add(task, "mode", "annotation")
    declared = add(task, "labels")
    for name in labels.classes:
        _declare(declared, name)
    for number, (path, names) in enumerate(chosen(labels)):
        image = add(root, "image", id=str(number), name=path)
        for name, score in names.items():
            tag = add(image, "tag", label=name, source="auto")
            add(tag, "attribute", f"{score:.7g}", name=SCORE)
    save_xml(root, file)
    return [file, _write_labels(labels.classes, beside(file, LABELS))]


def _declare(labels: Element, name: str) -> None:
    label = add(labels, "label")
    add(label, "name", name)
    add(label, "type", "tag")
    attribute = add(add(label, "attributes"), "attribute")
    for field, value in _attribute().items():
        add(attribute, field, str(value))


def _attribute() -> dict[str, str]:
    return {"name": SCORE, "mutable": "False", "input_type": "text", "default_value": "", "values": ""}


def _write_labels(classes: list[str], file: Path) -> Path:
    """The labels as CVAT's "raw" label editor takes them."""
    attribute = _attribute() | {"mutable": False, "values": []}
    content = [{"name": name, "type": "tag", "attributes": [attribute]} for name in classes]
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return file


def read_cvat(file: str | Path, *, truth: bool = False) -> Labels:
    """The labels in an XML file of "CVAT for images": a photo has the classes of its tags and of its shapes.

    A class has the `score` of its tag, or 1 where the tag has none; with `truth`, it is always 1. The other classes are 0.
    Raises InputError for another file.
    """
    file = Path(file)
    data = read_data(file, LARGEST_XML)
    try:
        root = parse_xml(data)
    except XmlError as error:
        raise InputError(f"{file} is not a file of CVAT: it {error}. Export it as CVAT for images 1.1.") from error
    images = root.findall("image")
    if root.tag != "annotations" or not images:
        raise InputError(f"{file} has no images of CVAT. Export the task as CVAT for images 1.1.")
    declared = [name.text for name in root.findall("meta//labels/label/name") if name.text]
    rows: dict[str, dict[str, float]] = {}
    for image in images:
        path = photo_path(image.get("name", ""))
        if not path or path in rows:
            what = f"twice the image {path[:80]!r}" if path else "an image without a name"
            raise InputError(f"{file} has {what}. Export it again.")
        rows[path] = _marks(image, file, truth=truth)
    classes = dict.fromkeys([*declared, *(name for marks in rows.values() for name in marks)])
    return table_of(rows, classes, file, size=len(data))


def _marks(image: Element, file: Path, *, truth: bool) -> dict[str, float]:
    """{class: score} of an image element; the highest score where a class has several tags or shapes."""
    marks: dict[str, float] = {}
    for item in image:
        name = item.get("label")
        if name:
            marks[name] = max(marks.get(name, 0.0), 1.0 if truth else _score(item, file))
    return marks


def _score(item: Element, file: Path) -> float:
    text = next((each.text for each in item.findall("attribute") if each.get("name") == SCORE), None)
    try:
        score = float(text) if text and text.strip() else 1.0
    except ValueError:
        score = math.nan
    if not 0 <= score <= 1:
        raise InputError(f"{file}: {str(text)[:40]!r} is not a score from 0 to 1. Correct it in CVAT.")
    return score
