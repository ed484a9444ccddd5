"""COCO's json and Label Studio's tasks, written and read back; keywords, and a folder for each class. Photos are never changed.

What is written of a photo are the classes that reach their thresholds. A task of Label Studio holds all scores of its photo in
`meta.mlclip`, which Label Studio keeps and exports again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from itertools import chain, compress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

from .. import __version__
from ..config import InputError
from ..files import beside
from ..images.names import output_names, photo_file
from ..spelling import shorten
from .class_tree import ClassTree, ancestors
from .datasets import UNKNOWN, notes_of, photo_path, table_of
from .labels import Labels, short
from .sheet import json_in, load_text, save_csv, save_text

KEYWORD_SEPARATOR = "; "  # between the keywords of a photo, for `exiftool -sep`
CONFIG = ".config.xml"  # ending of the configuration's name
EMPTY_IMAGES = "images_without_annotations"  # in the `info` of our COCO files: what these images say
CONTROL, OBJECT = "labels", "image"  # names of the choices and of the photo in the configuration
LOCAL_FILES = re.compile(r"/data/local-files/\?(?:.*&)?d=([^&]*)")
UPLOADED = re.compile(r"^data/upload/(?:\d+/)?(?:[0-9a-f]{8}-)?(?=[^/]+$)")  # Label Studio's own folder and prefix
# Characters that XML 1.0 cannot contain, even escaped. Surrogates are file names that are not valid text.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


# -- COCO


def read_coco(file: str | Path, split: str | None = None, *, scores: bool = False) -> Labels:
    """True labels of COCO from an `instances_*.json` file: categories by id (80 in COCO), images in the order of the file.

    `file` may be a folder that holds one such file, itself or in `annotations/`, or one with `split` in its name. An image has
    a class if it has any annotation of it; crowds count too, as usual. An image without annotations is unknown, unless the file is
    mlclip's own. In LVIS, images list their negative categories, and the others are NaN. With `scores`, a class gets the highest
    `score` of its annotations, as `mlclip export --to coco` writes it. `root` is the folder of the photos, if it is found
    beside the file. Raises InputError.
    """
    file = Path(file)
    if os.path.isdir(file):
        found = [each for each in coco_files(file) if not split or split in str(each.relative_to(file))]
        if len(found) != 1:
            raise InputError(f"{file} contains {len(found)} COCO files ({shorten(list(map(str, found)))}). Give one.")
        file = found[0]
    elif split:
        file = Path(f"{file}:{split}")  # a colon in the name of a file that is not there
    content = json_in(load_text(file), file)
    try:
        images = {item["id"]: photo_path(item["file_name"]) for item in content["images"]}
        names = {item["id"]: str(item["name"]).strip() for item in sorted(content["categories"], key=lambda c: c["id"])}
        rows: dict[str, dict[str, float]] = {path: {} for path in images.values()}
        if len(rows) < len(content["images"]) or len(names) < len(content["categories"]):
            raise ValueError("two images or two categories with one id or one name")
        for item in content["images"]:
            rows[images[item["id"]]] = {names[id]: 0.0 for id in item.get("neg_category_ids", ())}
        for item in content["annotations"]:
            marks, name = rows[images[item["image_id"]]], names[item["category_id"]]
            marks[name] = max(marks.get(name, 0.0), float(item.get("score", 1)) if scores else 1.0)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {str(error)[:80]}"
        raise InputError(f"{file} is no json of COCO ({reason}). Give one such as instances_val2014.json.") from error
    lvis = any("neg_category_ids" in item for item in content["images"])
    own = (content.get("info") or {}).get(EMPTY_IMAGES) == "absent"
    crowds = [images[item["image_id"]] for item in content["annotations"] if item.get("iscrowd")]
    unusual = {
        "crowds, which count as their class": crowds,
        "images of LVIS: classes that an image does not list are unknown": list(rows) if lvis else [],
    }
    # The photos are in the folder that holds the first of them; else in the one that is named like the file.
    above, first = file.parent.parent, next(iter(rows), "")
    named = above / file.stem.removeprefix("instances_")
    places = (named, above / "images" / named.name, above / "images", above, file.parent, file.parent / "images")
    here = next((place for place in places if os.path.exists(place / first)), None)
    root, absent = here or (named if os.path.isdir(named) else "."), UNKNOWN if lvis else 0.0
    if not (lvis or own or scores):
        rows = {path: marks or None for path, marks in rows.items()}
    return table_of(rows, dict.fromkeys(names.values()), file, root=root, notes=notes_of(unusual), absent=absent)


def coco_files(folder: Path) -> list[Path]:
    names = ("annotations/instances_*.json", "instances_*.json", "_annotations.coco.json", "*/_annotations.coco.json")
    return [file for name in names for file in sorted(folder.glob(name))]


def write_coco(labels: Labels, file: Path) -> None:
    """COCO's json: an annotation with a `score` and no box for each class that reaches its threshold."""
    parents = ClassTree.of(labels.meta).parents
    ids = {name: number for number, name in enumerate(labels.classes, start=1)}
    images, annotations = [], []
    for image, (path, names) in enumerate(zip(labels.paths, labels.chosen(), strict=True), start=1):
        images.append({"id": image, "file_name": path})
        for name, score in names.items():
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": image, "category_id": ids[name], "score": score})
    categories = [{"id": id, "name": name, "supercategory": parents.get(name, "")} for name, id in ids.items()]
    content = {"info": {"description": "mlclip", EMPTY_IMAGES: "absent"}, "images": images, "categories": categories}
    save_text(json.dumps(content | {"annotations": annotations}, indent=1), file)


# -- Label Studio


def write_label_studio(labels: Labels, file: Path, url_prefix: str) -> list[Path]:
    """Write the tasks to `file` and the labelling configuration to its name with .config.xml. Returns both.

    The URL of a photo is `url_prefix` and its path. The score of a prediction is the mean score of its classes; without a class it
    is 1 - the highest score.
    """
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", {"name": OBJECT, "value": f"${OBJECT}"})
    choices = ElementTree.SubElement(view, "Choices", {"name": CONTROL, "toName": OBJECT, "choice": "multiple"})
    for name in labels.classes:
        if _NOT_XML.search(name):
            raise InputError(f"{beside(file, CONFIG)} cannot store {name[:60]!r}: XML has no such characters.")
        ElementTree.SubElement(choices, "Choice", {"value": name})
    ElementTree.indent(view)
    clip = (labels.meta.get("clip") or {}).get("name")
    made_by = [f"mlclip {__version__}", labels.meta.get("method"), clip and f"CLIP {clip}"]
    tasks = []
    for path, names, scores in zip(labels.paths, labels.chosen(), labels.scores.tolist(), strict=True):
        known = {n: None if x != x else short(x) for n, x in zip(labels.classes, scores, strict=True)}
        highest = max((x for x in known.values() if x is not None), default=0)
        certainty = sum(names.values()) / len(names) if names else 1 - highest
        result = {"id": CONTROL, "type": "choices", "from_name": CONTROL, "to_name": OBJECT}
        prediction = {"model_version": ", ".join(filter(None, made_by)), "score": short(certainty)}
        prediction["result"] = [result | {"value": {"choices": [*names]}}] if names else []
        data = {OBJECT: url_prefix + quote(path, errors="surrogateescape")}
        own = {"mlclip": {"path": path, "scores": known}}
        tasks.append({"data": data, "meta": own, "predictions": [prediction]})
    # Without a declaration: Label Studio refuses one with an encoding.
    save_text(ElementTree.tostring(view, encoding="unicode") + "\n", beside(file, CONFIG))
    save_text(json.dumps(tasks, indent=1), file)
    return [file, beside(file, CONFIG)]


Answer = dict[str, list[str]]  # the classes by control, see `_answer`
Task = tuple[str, list[Answer], Answer, dict[str, float]]  # path, annotations, last prediction, our scores


def read_label_studio(place: str | Path, *, truth: bool = False) -> Labels:
    """The labels in a JSON export of Label Studio: FILE, or FILE:CONTROL where a project has several controls.

    A photo with annotations gets 1 for the classes that are chosen or have a box and 0 for the others; where several annotators
    differ, NaN. Annotations that are marked as ground truth count alone. A photo without annotations gets its predicted scores.
    With `truth`, it is unknown if another photo has annotations; if no photo has, the predicted choices are 1. Raises
    InputError for another file, and for several controls of which none is ours.
    """
    folder, _, control = str(place).rpartition(":")
    file, control = (Path(folder), control) if folder and not os.path.exists(place) else (Path(place), "")
    tasks = json_in(load_text(file), file)
    if not isinstance(tasks, list):
        raise InputError(f"{file} is not a list of Label Studio's tasks. Export the project as JSON.")
    found = [_read_task(task, file, number) for number, task in enumerate(tasks, start=1)]
    answers = (answer for _, votes, predicted, _ in found for answer in (*votes, predicted))
    controls = list(dict.fromkeys(chain.from_iterable(answers)))
    chosen_one = control or (CONTROL if CONTROL in controls or not controls else controls[0])
    if (len(controls) > 1 and chosen_one not in (control, CONTROL)) or (control and control not in controls):
        raise InputError(f"{file} has the controls {shorten(controls)}. Choose one: label-studio:{file}:{controls[0]}")
    photos = [
        (path, [vote.get(chosen_one, []) for vote in votes], predicted.get(chosen_one, []), scores)
        for path, votes, predicted, scores in found
    ]
    named = (group for _, votes, predicted, scores in photos for group in (scores, predicted, *votes))
    classes = list(dict.fromkeys(chain.from_iterable(named)))
    annotated = truth and any(votes for _, votes, _, _ in photos)
    rows: dict[str, Mapping[str, float] | None] = {}
    for path, votes, predicted, scores in photos:
        if votes:
            shares = {name: sum(name in vote for vote in votes) / len(votes) for name in classes}
            rows[path] = {name: share if share in (0, 1) else UNKNOWN for name, share in shares.items()}
        elif annotated:
            rows[path] = None
        elif truth or not scores:
            rows[path] = dict.fromkeys(predicted, 1.0)
        else:
            rows[path] = dict.fromkeys(classes, UNKNOWN) | scores
    if len(rows) < len(found):
        raise InputError(f"{file} has two tasks of one photo. Remove one.")
    return table_of(rows, classes, file)


def _read_task(task: Any, file: Path, number: int) -> Task:
    try:
        own = (task.get("meta") or {}).get("mlclip") or {}
        url = task["data"].get(OBJECT) or next(value for value in task["data"].values() if isinstance(value, str))
        path = photo_path(own.get("path") or path_of_url(url))
        scores = {name: UNKNOWN if score is None else float(score) for name, score in own.get("scores", {}).items()}
        if not path or any(score < 0 or score > 1 for score in scores.values()):
            raise ValueError("no photo, or scores that are not from 0 to 1")
        given = [each for each in task.get("annotations") or [] if not each.get("was_cancelled")]
        given = [each for each in given if each.get("ground_truth")] or given
        predictions = task.get("predictions") or []
        return path, list(map(_answer, given)), _answer(predictions[-1]) if predictions else {}, scores
    except (KeyError, TypeError, AttributeError, ValueError, StopIteration) as error:
        reason = f"{type(error).__name__}: {str(error)[:60]}"
        raise InputError(f"{file}: task {number} is not one of Label Studio ({reason}). Export it again.") from error


def _answer(given: Mapping[str, Any]) -> Answer:
    """The classes that an annotation or a prediction names, by control. Boxes and other regions are the control `boxes`."""
    found: dict[str, dict[str, None]] = {}
    for each in given["result"]:
        kind = each.get("type") or ""
        if kind == "choices" or kind.endswith("labels"):
            control = (each.get("from_name") or kind) if kind == "choices" else "boxes"
            found.setdefault(control, {}).update(dict.fromkeys(each["value"][kind]))
    return {control: list(names) for control, names in found.items()}


def path_of_url(url: str) -> str:
    """The path of a photo in its URL in Label Studio.

    >>> path_of_url("/data/local-files/?d=photos/a%20b.jpg"), path_of_url("https://host/photos/a.jpg?size=1")
    ('photos/a b.jpg', 'photos/a.jpg')
    >>> path_of_url("/data/upload/3/0a1b2c3d-dog.jpg"), path_of_url("s3://bucket/dogs/1.jpg")
    ('dog.jpg', 'dogs/1.jpg')
    """
    local = LOCAL_FILES.search(url)
    path = local[1] if local else urlsplit(url).path
    return UPLOADED.sub("", unquote(path, errors="surrogateescape").lstrip("/"))


# -- keywords for photo managers


def write_keywords(labels: Labels, file: Path) -> None:
    """A .csv that `exiftool -csv=FILE -sep "; "` writes into photos or sidecars as keywords, which photo managers read.

    `Subject` has the classes of a photo, `HierarchicalSubject` the same with the classes above them: animal|dog.
    """
    parents = ClassTree.of(labels.meta).parents
    wrong = next((name for name in labels.classes if KEYWORD_SEPARATOR.strip() in name), None)
    if wrong:
        raise InputError(f"the class {wrong[:60]!r} has a semicolon, which separates keywords. Rename it.")
    rows = []
    for path, names in zip(labels.paths, labels.chosen(), strict=True):
        nested = ["|".join([*reversed(ancestors(name, parents)), name]) for name in names]
        photo = os.path.abspath(os.path.join(labels.root, path))
        rows.append([photo, KEYWORD_SEPARATOR.join(names), KEYWORD_SEPARATOR.join(nested)])
    if not any(os.path.isfile(photo) for photo, *_ in rows):
        where = os.path.abspath(labels.root)
        raise InputError(
            f"no photo of the table is a file in {where} (a member of a .tar is none). Say with `root` where they are."
        )
    save_csv([["SourceFile", "Subject", "HierarchicalSubject"], *rows], file)


def write_folders(labels: Labels, folder: Path) -> None:
    """A folder for each class with links to its photos, or copies where links are not possible. InputError if no photo is there."""
    pairs = [(name, path) for path, names in zip(labels.paths, labels.chosen(), strict=True) for name in names]
    places = output_names([f"{name.replace('/', '_')}/{path}" for name, path in pairs], "")
    there = [os.path.isfile(photo_file(labels.root, path)) for _, path in pairs]
    if not any(there):
        raise InputError(f"no photo that has a class is a file in {labels.root}. Say with `root` where the photos are.")
    for (_, path), place in compress(zip(pairs, places, strict=True), there):
        photo, link = photo_file(labels.root, path), folder / place
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        try:
            os.symlink(photo, link)
        except OSError:  # Windows without the right, or a file system without links
            shutil.copyfile(photo, link)
