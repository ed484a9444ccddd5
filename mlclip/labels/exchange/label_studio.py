"""Label Studio: tasks with pre-annotations as JSON, and the labelling configuration as XML beside it.

A task holds all scores of its photo in `meta.mlclip`, which Label Studio keeps and exports again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from xml.etree.ElementTree import Element

from ... import __version__
from ...config import InputError
from ...files import atomic, beside
from ...plain import is_dict_of, is_number, is_text
from ..datasets.source import photo_path, read_json, table_of
from ..table import Labels
from .chosen import checked_paths, chosen, short
from .xml_file import add, save_xml

CONFIG = ".config.xml"  # ending of the configuration's name
CONTROL, OBJECT = "labels", "image"  # names of the choices and of the photo in the configuration
LOCAL_FILES = re.compile(r"/data/local-files/\?(?:.*&)?d=([^&]*)")
UPLOADED = re.compile(r"^data/upload/(?:\d+/)?(?:[0-9a-f]{8}-)?(?=[^/]+$)")  # Label Studio's own folder and prefix


def write_label_studio(labels: Labels, file: Path, url_prefix: str) -> list[Path]:
    """Write the tasks to `file` and the labelling configuration to its name with .config.xml. Returns both.

    The URL of a photo is `url_prefix` and its path. A prediction chooses the classes that reach their thresholds. Its score is
    the mean of theirs; without a class it is 1 - the highest score.
    """
    config = beside(file, CONFIG)
    tasks = list(_tasks(labels, url_prefix))
    save_xml(_config(labels.classes), config)
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(tasks, indent=1), encoding="utf-8")
    return [file, config]


def _config(classes: list[str]) -> Element:
    view = Element("View")
    add(view, "Image", name=OBJECT, value=f"${OBJECT}")
    choices = add(view, "Choices", name=CONTROL, toName=OBJECT, choice="multiple", showInline="true")
    for name in classes:
        add(choices, "Choice", value=name)
    return view


def _tasks(labels: Labels, url_prefix: str) -> Iterator[dict[str, Any]]:
    version, checked_rows = model_version(labels), zip(chosen(labels), labels.scores.tolist(), strict=True)
    checked_paths(labels)
    for (path, names), scores in checked_rows:
        known = {n: None if x != x else short(x) for n, x in zip(labels.classes, scores, strict=True)}
        result = {"id": CONTROL, "type": "choices", "from_name": CONTROL, "to_name": OBJECT}
        result["value"] = {"choices": list(names)}
        highest = max((x for x in known.values() if x is not None), default=0)
        certainty = sum(names.values()) / len(names) if names else 1 - highest
        prediction = {"model_version": version, "score": short(certainty), "result": [result] if names else []}
        yield {
            "data": {OBJECT: url_prefix + quote(path, errors="surrogateescape")},
            "meta": {"mlclip": {"path": path, "scores": known}},
            "predictions": [prediction],
        }


def model_version(labels: Labels) -> str:
    """What made the labels, in a few words, from what is recorded."""
    made, method = labels.meta.get("clip"), labels.meta.get("method")
    teacher = made.get("name") if isinstance(made, Mapping) else None
    parts = [f"mlclip {__version__}", method if is_text(method) else "", f"CLIP {teacher}" if is_text(teacher) else ""]
    return ", ".join(part for part in parts if part)


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
    if truth:
        reviewed = any(task.votes for task in found)
        found = [task for task in found if task.votes or not reviewed]
    classes = list(dict.fromkeys(name for task in found for name in task.names()))
    rows: dict[str, Mapping[str, float] | None] = {}
    for task in found:
        if task.path in rows:
            raise InputError(f"{file} has two tasks of {task.path[:80]!r}. Remove one.")
        rows[task.path] = task.row(classes, truth=truth)
    return table_of(rows, classes, file, size=file.stat().st_size)


class _Task:
    """What a task says about its photo: the choices of each annotation and of the last prediction, and our scores."""

    def __init__(self, path: str, votes: list[set[str]], predicted: list[str], scores: Mapping[str, float | None]):
        self.path, self.votes, self.predicted, self.scores = path, votes, predicted, scores

    def names(self) -> Iterator[str]:
        yield from self.scores
        yield from self.predicted
        for vote in self.votes:
            yield from sorted(vote)

    def row(self, classes: list[str], *, truth: bool) -> Mapping[str, float]:
        if self.votes:
            shares = {name: sum(name in vote for vote in self.votes) / len(self.votes) for name in classes}
            return {name: share if share in (0, 1) else float("nan") for name, share in shares.items()}
        if truth or not self.scores:
            return dict.fromkeys(self.predicted, 1.0)
        known = {name: score for name, score in self.scores.items() if score is not None}
        return dict.fromkeys(classes, float("nan")) | known


def _read_task(task: Any, file: Path, number: int) -> _Task:
    try:
        noted = task.get("meta", {}) or {}
        own = noted.get("mlclip") if isinstance(noted, dict) else None
        own = own if isinstance(own, dict) else {}
        path = photo_path(own["path"] if is_text(own.get("path")) else path_of_url(_url(task["data"])))
        scores = own.get("scores", {})
        if not path or not is_dict_of(is_text, _is_score)(scores):
            raise ValueError("no photo, or scores that are not from 0 to 1")
        annotations = task.get("annotations", task.get("completions")) or []
        votes = [set(_choices(each)) for each in annotations if not each.get("was_cancelled")]
        predictions = task.get("predictions") or []
        return _Task(path, votes, _choices(predictions[-1]) if predictions else [], scores)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {str(error)[:60]}"
        raise InputError(f"{file}: task {number} is not one of Label Studio ({reason}). Export it again.") from error


def _is_score(value: Any) -> bool:
    return value is None or (is_number(value) and 0 <= value <= 1)


def _choices(answer: Mapping[str, Any]) -> list[str]:
    """The classes that an annotation or a prediction chooses, without repeats."""
    results = [each for each in answer["result"] if each.get("type") == "choices"]
    ours = [each for each in results if each.get("from_name") == CONTROL]
    names = [name for each in ours or results for name in each["value"]["choices"]]
    if not all(is_text(name) and name for name in names):
        raise ValueError("a choice that is not text")
    return list(dict.fromkeys(names))


def _url(data: Mapping[str, Any]) -> str:
    """The photo's URL in a task's data: "image", or else the first text."""
    values = [data.get(OBJECT), *data.values()]
    return next(value for value in values if is_text(value)) if any(map(is_text, values)) else ""


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
