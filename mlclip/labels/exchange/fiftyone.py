"""FiftyOne: a data set of its type FiftyOneImageClassificationDataset, with several classes per photo.

The folder holds `labels.json` and `data.json`, which says where the photos are. No photo is copied.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...config import InputError
from ...files import atomic
from ...images import SUFFIXES
from ...plain import is_dict_of, is_list_of, is_number, is_text
from ..datasets.source import photo_path, read_json, table_of
from ..table import Labels
from .chosen import checked_paths, chosen, photo_file

LABELS, DATA, PHOTOS = "labels.json", "data.json", "data"
Marks = dict[str, float]


def write_fiftyone(labels: Labels, folder: Path) -> list[Path]:
    """Write `labels.json`, `data.json` and an empty `data` in `folder`: the classes that reach their thresholds, with confidences.

    The keys of the labels are the absolute files of the photos. Returns both files.
    """
    files = {path: os.fspath(photo_file(labels, path)) for path in checked_paths(labels)}
    entries = {
        files[path]: [{"label": name, "confidence": score} for name, score in names.items()]
        for path, names in chosen(labels)
    }
    (folder / PHOTOS).mkdir(parents=True, exist_ok=True)  # FiftyOne wants the folder, even where it is empty
    for name, content in ((DATA, files), (LABELS, {"classes": labels.classes, "labels": entries})):
        with atomic(folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return [folder / LABELS, folder / DATA]


def read_fiftyone(folder: str | Path, *, truth: bool = False) -> Labels:
    """The labels in a FiftyOneImageClassificationDataset: one class or a list of classes for each photo.

    A class has its confidence, or 1 where there is none; with `truth`, it is always 1. The other classes are 0. A photo with
    null is not labelled: NaN. Paths are relative to the folder of the photos. Raises InputError for another folder.
    """
    folder = Path(folder)
    file = folder / LABELS
    content = read_json(file)
    labels = content.get("labels") if isinstance(content, dict) else None
    classes = content.get("classes") or [] if isinstance(content, dict) else []
    if not isinstance(labels, dict) or not is_list_of(is_text)(classes):
        raise InputError(f"{file} is not the labels.json of FiftyOne. Export a FiftyOneImageClassificationDataset.")
    root, paths = _paths(folder, list(labels))
    rows: dict[str, Marks | None] = {}
    for key, path in paths.items():
        if not path or path in rows:
            raise InputError(f"{file} names the photo {key[:80]!r} twice, or without a name. Export it again.")
        rows[path] = _marks(labels[key], classes, file, truth=truth)
    found = dict.fromkeys([*classes, *(name for marks in rows.values() for name in marks or ())])
    return table_of(rows, found, file, size=file.stat().st_size, root=root)


def _marks(target: Any, classes: list[str], file: Path, *, truth: bool) -> Marks | None:
    """{class: score} of one photo's entry; None where it is not labelled."""
    if target is None:
        return None
    marks: Marks = {}
    for item in target if isinstance(target, list) else [target]:
        label, score = (item.get("label"), item.get("confidence")) if isinstance(item, dict) else (item, None)
        if type(label) is int and 0 <= label < len(classes):
            label = classes[label]
        score = 1.0 if score is None else score
        if not is_text(label) or not label or not is_number(score) or not 0 <= score <= 1:
            raise InputError(f"{file}: {str(item)[:60]!r} is not a class with a confidence. Export it again.")
        marks[label] = max(marks.get(label, 0.0), 1.0 if truth else float(score))
    return marks


def _paths(folder: Path, keys: list[str]) -> tuple[Path, dict[str, str]]:
    """The folder of the photos, and the path of each key. A key is an absolute file, or a path without its suffix."""
    manifest = _manifest(folder)
    if all(map(os.path.isabs, keys)):
        named = {file: path for path, file in manifest.items()}
        if all(key in named for key in keys):
            return _common_root(named, keys), {key: photo_path(named[key]) for key in keys}
        root = os.path.commonpath([os.path.dirname(key) for key in keys]) if keys else "."
        return Path(root), {key: photo_path(os.path.relpath(key, root)) for key in keys}
    known = {os.path.splitext(path)[0]: path for path in manifest or _photos(folder / PHOTOS)}
    return folder / PHOTOS, {key: photo_path(known.get(key, key)) for key in keys}


def _common_root(named: Mapping[str, str], keys: list[str]) -> Path:
    """The folder of the photos, where the first file is root/path."""
    file, path = (keys[0], named[keys[0]]) if keys else ("", "")
    ending = "/" + path
    return Path(file.removesuffix(ending) or "/") if file.endswith(ending) else Path(".")


def _manifest(folder: Path) -> dict[str, str]:
    """{path: file} of `data.json`; empty where there is none."""
    file = folder / DATA
    content = read_json(file) if file.is_file() else {}
    if not is_dict_of(is_text, is_text)(content):
        raise InputError(f"{file} is not the data.json of FiftyOne. Export it again.")
    return content


def _photos(folder: Path) -> list[str]:
    found = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    return [os.path.relpath(file, folder).replace(os.sep, "/") for file in found if file.lower().endswith(SUFFIXES)]
