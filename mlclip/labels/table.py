"""Files of `Labels`: mlclip's own, a .csv of any program, and the forms of other tools and data sets.

Letters: N photos (rows), C classes (columns).
"""

from __future__ import annotations

import json
import math
import os
import posixpath
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch

from ..config import InputError, TableOptions
from ..files import FORMAT_VERSION, beside, check_output, existing_file, is_special, load_plain, save_plain
from ..plain import check_fields
from ..progress import SILENT, Progress
from ..spelling import shorten
from .class_files import read_thresholds, write_thresholds
from .csv_table import read_csv
from .datasets import folders_in, is_image_folder, read_image_folder, read_nuswide, read_voc, voc_homes
from .exchange import (
    CONFIG,
    coco_files,
    read_coco,
    read_label_studio,
    write_coco,
    write_folders,
    write_keywords,
    write_label_studio,
)
from .labels import Labels as Labels
from .parts import LabelFiles, join_parts, label_files, missing_numbers
from .sheet import (
    RECIPES,
    TABLE_SUFFIXES,
    check_names,
    check_table_output,
    json_in,
    load_text,
    save_csv,
    save_text,
    table_suffix,
)

MADE_BY = "mlclip pseudolabel"
THRESHOLDS = ".thresholds.csv"  # the file with the thresholds beside a table that has no place for them
READ_SUFFIXES = (*TABLE_SUFFIXES, ".tsv", ".txt")
DATASETS = {"voc": read_voc, "coco": read_coco, "nuswide": read_nuswide, "imagefolder": read_image_folder}
Names = Collection[str]
FORMS = "voc:DIR[:split], coco:FILE, nuswide:DIR[:split], imagefolder:DIR[:split], label-studio:FILE"


def write_labels(labels: Labels, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the table as .pt, .csv, .json or .jsonl, according to the suffix. The file is never half-written.

    .pt and .json store everything. .csv (a `path` column and one column per class, empty = unknown) and .jsonl (one line
    `{"path": ..., "scores": {class: score or null}}` per photo) do not store `root` and `meta`, but for the thresholds, which are in
    a file beside it, `scores.thresholds.csv`. Scores are read back exactly.
    """
    path = check_table_output(path, overwrite=overwrite)
    suffix = path.suffix.lower()
    content = {"format": "mlclip.labels", "version": FORMAT_VERSION, "root": labels.root, "paths": labels.paths}
    content |= {"classes": labels.classes, "scores": labels.scores.clone(), "meta": labels.meta}
    if suffix == ".pt":
        _check_plain(labels.meta, "meta")
        save_plain(content, path)
        return
    digits = labels.scores.numpy().astype(str).tolist()  # the fewest that give the same float32 again
    scores = [[None if cell == "nan" else float(cell) for cell in row] for row in digits]
    if suffix == ".json":
        text = json.dumps(content | {"scores": scores}, indent=1, default=_finite)
        save_text(text + "\n", path)
    elif suffix == ".jsonl":
        rows = [dict(zip(labels.classes, row, strict=True)) for row in scores]
        lines = [json.dumps({"path": name, "scores": row}) + "\n" for name, row in zip(labels.paths, rows, strict=True)]
        save_text("".join(lines), path)
    else:
        if "path" in labels.classes:
            raise InputError(f"{path} cannot have a class named 'path'. Write a .pt, .json or .jsonl file.")
        rows = [["" if score is None else f"{score:.9g}" for score in row] for row in scores]
        lines = [[name, *row] for name, row in zip(labels.paths, rows, strict=True)]
        save_csv([["path", *labels.classes], *lines], path)
    if suffix != ".json":
        limits = beside(path, THRESHOLDS)
        if "thresholds" in labels.meta:
            write_thresholds(limits, labels.classes, labels.thresholds.tolist())
        else:
            limits.unlink(missing_ok=True)  # those of an earlier table would be wrong


def _finite(tensor: torch.Tensor) -> list:
    """A tensor of `meta` as lists; JSON has no −∞, the offset of a class without a sure photo, so it becomes the lowest number."""
    tensor = torch.as_tensor(tensor)
    limits = torch.finfo(tensor.dtype) if tensor.is_floating_point() else None
    return (tensor.clamp(limits.min, limits.max) if limits else tensor).tolist()


def export_labels(
    labels: Labels, path: str | Path, tool: str, *, url_prefix: str, overwrite: bool = False
) -> list[str]:
    """Write the table for another tool, and return the files. `labels.thresholds` say which classes a photo has."""
    path = Path(path)
    if not len(labels):
        raise InputError("the labels have no photos, so there is nothing to write.")
    if tool == "folders" and path.is_dir() and any(path.iterdir()) and not overwrite:
        raise InputError(f"{path} is not empty. Pass `overwrite=True` to write there, or choose another output.")
    for file in {"label-studio": [path, beside(path, CONFIG)], "folders": [path / "link"]}.get(tool, [path]):
        check_output(file, overwrite=overwrite)
    if tool == "csv":
        write_labels(labels, path, overwrite=overwrite)
        return [str(path)]
    for name in labels.paths:
        parts = name.replace("\\", "/").split("/")
        if posixpath.isabs(name) or os.path.isabs(name) or ".." in parts or ":" in parts[0][1:2]:
            raise InputError(f"the path {name[:80]!r} of the labels leads out of their folder. Remove the row.")
    if tool == "label-studio":
        return list(map(str, write_label_studio(labels, path, url_prefix)))
    {"coco": write_coco, "folders": write_folders, "exiftool": write_keywords}[tool](labels, path)
    return [str(path)]


# -- reading


def read_labels(
    source: LabelFiles, options: TableOptions | None = None, *, progress: Progress = SILENT, known_classes: Names = ()
) -> Labels:
    """Read the table in a .pt, .csv, .json or .jsonl file. InputError says what is wrong with the file, and in which line.

    A pattern such as "labels-*.pt", or a list of files, means one table of all of them; see `join_parts`.

    A .csv (also .tsv and .txt) can be one of a spreadsheet, pandas, or another program: `progress` gets a line about what is
    unusual in it, `options` decides where two readings are possible, and `known_classes`, the classes of a table that this one
    is compared with, help to read a column of class names. "label-studio:FILE" and "coco:FILE" are tables of these tools,
    with the scores in them.
    """
    files = label_files(source)
    if not files:
        raise InputError(f"{source}: no file has such a name. Make a labels file with `{MADE_BY}`.")
    if len(files) > 1:
        if missing := missing_numbers(files):
            progress.log(
                f"warning: {files[0]} to {files[-1]}: there is no file with number {shorten(list(map(str, missing)))}"
            )
        return join_parts(
            [read_labels(file, options, progress=progress, known_classes=known_classes) for file in files], files
        )
    path = files[0]
    kind, _, place = path.partition(":")
    if kind in ("label-studio", "coco"):
        return read_label_studio(place) if kind == "label-studio" else read_coco(place, scores=True)
    suffix = table_suffix(path, READ_SUFFIXES)
    path = existing_file(path, f"Make a labels file with `{MADE_BY}`.")
    try:
        if suffix == ".pt":
            labels = _from_content(load_plain(path, kind="labels", made_by=MADE_BY))
        elif suffix == ".json":
            content = json_in(load_text(path), path)
            listed = isinstance(content, list)
            labels = _from_objects(enumerate(content, start=1), path) if listed else _read_json(content, path)
        elif suffix == ".jsonl":
            lines = enumerate(load_text(path).split("\n"), start=1)
            labels = _from_objects([(n, json_in(line, path, n)) for n, line in lines if line.strip()], path)
        else:
            labels = _from_rows(*read_csv(path, options, progress.log, known_classes))
        limits = beside(path, THRESHOLDS)
        if suffix != ".pt" and "thresholds" not in labels.meta and limits.is_file():
            labels.meta["thresholds"] = read_thresholds(limits, labels.classes, labels.thresholds.tolist())
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from error
    if not labels.classes:
        raise InputError(f"{path} contains no classes. Make a labels file with `{MADE_BY}`.")
    return labels


def read_truth(
    spec: str, options: TableOptions | None = None, *, progress: Progress = SILENT, known_classes: Names = ()
) -> Labels:
    """True labels by a short name, or from a table.

    `voc:DIR`, `nuswide:DIR`, `imagefolder:DIR` and `coco:DIR` may be followed by a split, as in `voc:DIR:val`; `coco:FILE` and
    `label-studio:FILE` have none. A DIR or a .json without a prefix is taken for what it looks like, if it can only be one
    of these; `meta["notes"]` says which. Other files are tables for `read_labels`, which gets `options` and `known_classes`.
    `progress` gets a line about everything unusual. Raises InputError for another name, or if the files are missing or damaged.
    """
    options = options or TableOptions()
    found, notes = _read_source(spec, options, progress, known_classes)
    unseen = found.scores.isnan().all(1)  # (N,)
    if unseen.any():
        if options.empty == "absent":
            found.scores[unseen] = 0
        some = f"{int(unseen.sum())} of {len(found)} photos (first: {found.paths[int(unseen.nonzero()[0])]:.100})"
        notes.append(f"{spec}: nobody annotated {some}: their classes are {options.empty} (`empty`)")
    found.meta["notes"] = notes
    for note in notes:
        progress.log(note)
    return found


def _read_source(spec: str, options: TableOptions, progress: Progress, known: Names) -> tuple[Labels, list[str]]:
    """The labels, and notes about how they were read."""
    kind, colon, place = str(spec).partition(":")
    kind = kind.lower()
    notes = []
    if not (colon and kind in (*DATASETS, "label-studio")):
        kind, place = _looks_like(str(spec)), str(spec)
        if kind is None:
            if Path(spec).suffix.lower() not in READ_SUFFIXES and not is_special(spec):
                raise InputError(f"{spec!r:.200} is no source of true labels. Give {FORMS} or a .csv file; {RECIPES}.")
            existing_file(spec, "A table of true labels has a path column, and 1, 0 or an empty cell for each class.")
            return read_labels(spec, options, progress=progress, known_classes=known), []
        notes = [f"{place} looks like {kind} and is read as {kind}:{place}"]
    folder, colon, split = place.rpartition(":")
    try:
        if kind == "label-studio":
            found = read_label_studio(place, truth=True)
        elif not colon or os.path.exists(place):  # a colon in the name of an existing file or folder
            found = DATASETS[kind](place)
        else:
            found = DATASETS[kind](folder, split or None)
    except (OSError, ValueError) as error:  # a folder without permission, a broken disk; a NUL character in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{spec} cannot be read ({reason}). Check the path and its permissions.") from error
    return found, notes + found.meta["notes"]


def _looks_like(place: str) -> str | None:
    """The prefix of what a path without one looks like; None for a table. InputError if a folder is unclear."""
    if place.lower().endswith(".json") and os.path.isfile(place):
        content = json_in(load_text(Path(place)), Path(place))
        keys = {"images", "annotations", "categories"}
        return "coco" if isinstance(content, dict) and keys <= content.keys() else None
    folder = Path(place)
    if not os.path.isdir(folder):
        return None
    nuswide = any(name.lower() == "groundtruth" for name in folders_in(folder))
    found = {"voc": voc_homes(folder), "coco": coco_files(folder), "nuswide": nuswide}
    kinds = [kind for kind, there in found.items() if there]
    if not kinds and is_image_folder(folder):
        return "imagefolder"
    if len(kinds) != 1:
        what = f"could be {' or '.join(kinds)}" if kinds else "looks like no data set that is known here"
        forms = ", ".join(f"{kind}:{place}" for kind in kinds or DATASETS)
        raise InputError(f"{place} {what}. Say how to read it: {forms}; docs/formats.md has others.")
    return kinds[0]


def _check_plain(value: Any, where: str) -> None:
    """TypeError if `value` contains something that `files.load_plain` refuses."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in inner:
        _check_plain(item, f"{where}[{key!r}]")
    if type(value) not in (str, bool, int, float, type(None), torch.Tensor, list, tuple, dict):
        kind = type(value).__name__
        raise TypeError(f"{where} of Labels contains a {kind}; use only numbers, text, lists, dicts and tensors")


def _read_json(content: Any, path: Path) -> Labels:
    """The labels in the object of a .json of `write_labels`."""
    if not isinstance(content, dict) or content.get("format") != "mlclip.labels":
        raise InputError(f"{path} is not a labels file. If it has one object per line, rename it to .jsonl.")
    if content.get("version") != FORMAT_VERSION:
        raise InputError(f"{path} is not a labels file of version {FORMAT_VERSION}. Make one with `{MADE_BY}`.")
    try:
        rows = [[_score(cell, str(path)) for cell in row] for row in content["scores"]]
        scores = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(content["classes"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: `scores` must be one list of numbers per photo. Write it again.") from error
    content |= {"scores": scores}
    check_fields("labels", content, path, MADE_BY)
    return _from_content(content)


def _from_content(content: dict) -> Labels:
    return Labels(**{name: content[name] for name in ("paths", "classes", "scores", "root", "meta")})


def _from_objects(objects: Iterable[tuple[int, Any]], path: Path) -> Labels:
    """The labels in the numbered lines of a .jsonl, or in the list that `mlclip predict --format json` prints.

    Other keys than `path` and `scores` are ignored. A class that is missing in an object is unknown for that photo.
    """
    paths, lines, found = [], [], []
    for line, photo in objects:
        fits = isinstance(photo, dict) and isinstance(photo.get("path"), str) and isinstance(photo.get("scores"), dict)
        if not fits:
            raise InputError(f'{path}, line {line}: it is not like {{"path": "a.jpg", "scores": {{"cat": 0.9}}}}.')
        paths.append(photo["path"])
        lines.append(line)
        found.append({name: _score(cell, f"{path}, line {line}") for name, cell in photo["scores"].items()})
    check_names(paths, lines, path, "path")
    classes = list(dict.fromkeys(name for scores in found for name in scores))
    return _from_rows(paths, classes, [[scores.get(name, math.nan) for name in classes] for scores in found])


def _from_rows(paths: list[str], classes: list[str], rows: list[list[float]]) -> Labels:
    return Labels(paths, classes, torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(classes)))


def _score(cell: Any, where: str) -> float:
    if cell is None:
        return math.nan
    if isinstance(cell, int | float) and (0 <= cell <= 1 or cell != cell):
        return float(cell)
    raise InputError(f"{where}: {str(cell)[:40]!r} is not a score. Write a number from 0 to 1, or null (unknown).")
