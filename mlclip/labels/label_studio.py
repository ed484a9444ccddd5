"""Label Studio: tasks with predictions as JSON, and the labelling configuration as XML beside it; and its exports, read back.

A task holds all scores of its photo in `meta.mlclip`, which Label Studio keeps and exports again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

from .. import __version__
from ..config import InputError
from ..files import atomic, beside
from .datasets import UNKNOWN, photo_path, read_json, table_of
from .labels import Labels, chosen, short

CONFIG = ".config.xml"  # ending of the configuration's name
CONTROL, OBJECT = "labels", "image"  # names of the choices and of the photo in the configuration
LOCAL_FILES = re.compile(r"/data/local-files/\?(?:.*&)?d=([^&]*)")
UPLOADED = re.compile(r"^data/upload/(?:\d+/)?(?:[0-9a-f]{8}-)?(?=[^/]+$)")  # Label Studio's own folder and prefix
# Characters that XML 1.0 cannot contain, even escaped. Surrogates are file names that are not valid text.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_label_studio(labels: Labels, file: Path, url_prefix: str) -> list[Path]:
    """Write the tasks to `file` and the labelling configuration to its name with .config.xml. Returns both.

    The URL of a photo is `url_prefix` and its path. A prediction chooses the classes that reach their thresholds. Its score is
    the mean of theirs; without a class it is 1 - the highest score.
    """
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", {"name": OBJECT, "value": f"${OBJECT}"})
    choices = ElementTree.SubElement(view, "Choices", {"name": CONTROL, "toName": OBJECT, "choice": "multiple"})
    for name in labels.classes:
        if _NOT_XML.search(name):
            raise InputError(
                f"{beside(file, CONFIG)} cannot store {name[:60]!r}: XML has no such characters. Rename it."
            )
        ElementTree.SubElement(choices, "Choice", {"value": name})
    ElementTree.indent(view)
    tasks = [_task(labels, *row, url_prefix) for row in zip(chosen(labels), labels.scores.tolist(), strict=True)]
    with atomic(beside(file, CONFIG)) as temporary:  # without a declaration: Label Studio refuses one with an encoding
        temporary.write_text(ElementTree.tostring(view, encoding="unicode") + "\n", encoding="utf-8", newline="\n")
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(tasks, indent=1), encoding="utf-8")
    return [file, beside(file, CONFIG)]


def _task(labels: Labels, found: tuple[str, dict[str, float]], scores: list[float], url_prefix: str) -> dict[str, Any]:
    path, names = found
    known = {n: None if x != x else short(x) for n, x in zip(labels.classes, scores, strict=True)}
    highest = max((x for x in known.values() if x is not None), default=0)
    certainty = sum(names.values()) / len(names) if names else 1 - highest
    result = {"id": CONTROL, "type": "choices", "from_name": CONTROL, "to_name": OBJECT}
    result["value"] = {"choices": list(names)}
    clip = (labels.meta.get("clip") or {}).get("name")
    made_by = [f"mlclip {__version__}", labels.meta.get("method"), clip and f"CLIP {clip}"]
    prediction = {
        "model_version": ", ".join(filter(None, made_by)),
        "score": short(certainty),
        "result": [result] if names else [],
    }
    return {
        "data": {OBJECT: url_prefix + quote(path, errors="surrogateescape")},
        "meta": {"mlclip": {"path": path, "scores": known}},
        "predictions": [prediction],
    }


# -- reading


class Task(NamedTuple):
    """What a task says about its photo: the choices of each annotation and of the last prediction, and our scores."""

    path: str
    votes: list[set[str]]
    predicted: list[str]
    scores: dict[str, float | None]


def read_label_studio(file: str | Path, *, truth: bool = False) -> Labels:
    """The labels in a JSON export of Label Studio.

    A photo with annotations gets 1 for the classes that are chosen and 0 for the others; where several annotators differ, NaN.
    A photo without annotations gets its predicted scores. With `truth`, it is left out if another photo has annotations;
    if no photo has, the predicted choices are 1. Raises InputError for another file.
    """
    file = Path(file)
    tasks = read_json(file)
    if not isinstance(tasks, list):
        raise InputError(f"{file} is not a list of Label Studio's tasks. Export the project as JSON.")
    found = [_read_task(task, file, number) for number, task in enumerate(tasks, start=1)]
    if truth and any(task.votes for task in found):
        found = [task for task in found if task.votes]
    names = (
        name for task in found for group in (task.scores, task.predicted, *map(sorted, task.votes)) for name in group
    )
    classes = list(dict.fromkeys(names))
    rows: dict[str, Mapping[str, float]] = {}
    for task in found:
        if task.votes:
            shares = {name: sum(name in vote for vote in task.votes) / len(task.votes) for name in classes}
            rows[task.path] = {name: share if share in (0, 1) else UNKNOWN for name, share in shares.items()}
        elif truth or not task.scores:
            rows[task.path] = dict.fromkeys(task.predicted, 1.0)
        else:
            known = {name: score for name, score in task.scores.items() if score is not None}
            rows[task.path] = dict.fromkeys(classes, UNKNOWN) | known
    if len(rows) < len(found):
        raise InputError(f"{file} has two tasks of one photo. Remove one.")
    return table_of(rows, classes, file)


def _read_task(task: Any, file: Path, number: int) -> Task:
    try:
        own = (task.get("meta") or {}).get("mlclip") or {}
        url = task["data"].get(OBJECT) or next(value for value in task["data"].values() if isinstance(value, str))
        path = photo_path(own.get("path") or path_of_url(url))
        scores = {str(name): None if score is None else float(score) for name, score in own.get("scores", {}).items()}
        if not path or not all(score is None or 0 <= score <= 1 for score in scores.values()):
            raise ValueError("no photo, or scores that are not from 0 to 1")
        annotations = task.get("annotations", task.get("completions")) or []
        votes = [set(_choices(each)) for each in annotations if not each.get("was_cancelled")]
        predictions = task.get("predictions") or []
        return Task(path, votes, _choices(predictions[-1]) if predictions else [], scores)
    except (KeyError, TypeError, AttributeError, ValueError, StopIteration) as error:
        reason = f"{type(error).__name__}: {str(error)[:60]}"
        raise InputError(f"{file}: task {number} is not one of Label Studio ({reason}). Export it again.") from error


def _choices(answer: Mapping[str, Any]) -> list[str]:
    """The classes that an annotation or a prediction chooses, without repeats."""
    results = [each for each in answer["result"] if each.get("type") == "choices"]
    ours = [each for each in results if each.get("from_name") == CONTROL]
    names = [name for each in ours or results for name in each["value"]["choices"]]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a choice that is not text")
    return list(dict.fromkeys(names))


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
