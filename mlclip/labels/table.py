"""Tables of labels and true labels from files: mlclip's own, a .csv of any program, data sets, Label Studio and COCO.

Letters: N photos (rows), C classes (columns).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import InputError, TableOptions
from ..files import FORMAT_VERSION, check_output, existing_file, is_special, load_plain, parse_json, save_plain
from ..plain import check_fields
from ..progress import SILENT, Progress
from .csv_table import read_csv
from .datasets import DATASETS, looks_like, read_coco
from .label_studio import read_label_studio
from .labels import Labels as Labels
from .sheet import check_names, load_text, save_csv, save_text

MADE_BY = "mlclip pseudolabel"
SUFFIXES = (".pt", ".csv", ".json", ".jsonl")
CSV_SUFFIXES = (".csv", ".tsv", ".txt")  # text with columns, as it is read
READ_SUFFIXES = (*SUFFIXES, *CSV_SUFFIXES[1:])
FORMS = "voc:DIR[:split], coco:FILE, nuswide:DIR[:split], imagefolder:DIR[:split], label-studio:FILE"


def write_labels(labels: Labels, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the table as .pt, .csv, .json or .jsonl, according to the suffix. The file is never half-written.

    .pt and .json store everything. .csv (a `path` column and one column per class, empty = unknown) and .jsonl (one line
    `{"path": ..., "scores": {class: score or null}}` per photo) do not store `root` and `meta`. Scores are read back exactly.
    Raises InputError for another suffix, a file that exists without `overwrite`, or a folder that cannot be written.
    """
    suffix = _suffix(path)
    path = check_output(path, overwrite=overwrite)
    content = {"format": "mlclip.labels", "version": FORMAT_VERSION, "root": labels.root, "paths": labels.paths}
    content |= {"classes": labels.classes, "scores": labels.scores.clone(), "meta": labels.meta}
    if suffix == ".pt":
        _check_plain(labels.meta, "meta")
        save_plain(content, path)
    elif suffix == ".json":
        content["scores"] = _short(labels.scores)
        save_text(json.dumps(content, indent=1, default=lambda tensor: tensor.tolist()) + "\n", path)
    elif suffix == ".jsonl":
        rows = [dict(zip(labels.classes, row, strict=True)) for row in _short(labels.scores)]
        lines = [json.dumps({"path": name, "scores": row}) + "\n" for name, row in zip(labels.paths, rows, strict=True)]
        save_text("".join(lines), path)
    else:
        if "path" in labels.classes:
            raise InputError(f"{path} cannot have a class named 'path'. Write a .pt, .json or .jsonl file.")
        rows = [["" if score is None else f"{score:.9g}" for score in row] for row in _short(labels.scores)]
        save_csv(
            [["path", *labels.classes], *([name, *row] for name, row in zip(labels.paths, rows, strict=True))], path
        )


def read_labels(
    path: str | Path,
    options: TableOptions | None = None,
    *,
    progress: Progress = SILENT,
    known_classes: Collection[str] = (),
) -> Labels:
    """Read the table in a .pt, .csv, .json or .jsonl file. InputError says what is wrong with the file, and in which line.

    A .csv (also .tsv and .txt) can be one of a spreadsheet, pandas, or another program: `progress` gets a line about what is
    unusual in it, `options` decides where two readings are possible, and `known_classes`, the classes of a table that this one
    is compared with, help to read a column of class names. "label-studio:FILE" and "coco:FILE" are tables of these tools,
    with the scores in them.
    """
    kind, _, place = str(path).partition(":")
    if kind in ("label-studio", "coco"):
        return read_label_studio(place) if kind == "label-studio" else read_coco(place, scores=True)
    suffix = _suffix(path, READ_SUFFIXES)
    path = existing_file(path, f"Make a labels file with `{MADE_BY}`.")
    try:
        if suffix == ".pt":
            labels = _from_content(load_plain(path, kind="labels", made_by=MADE_BY))
        elif suffix == ".json":
            content = _json(load_text(path), path, 1)
            listed = isinstance(content, list)
            labels = _from_objects(enumerate(content, start=1), path) if listed else _read_json(content, path)
        elif suffix == ".jsonl":
            lines = enumerate(load_text(path).split("\n"), start=1)
            labels = _from_objects([(n, _json(line, path, n)) for n, line in lines if line.strip()], path)
        else:
            paths, classes, rows = read_csv(path, options, progress.log, known_classes)
            labels = Labels(paths, classes, _tensor(rows, len(classes)))
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from error
    if not labels.classes:
        raise InputError(f"{path} contains no classes. Make a labels file with `{MADE_BY}`.")
    return labels


def read_truth(
    spec: str,
    options: TableOptions | None = None,
    *,
    progress: Progress = SILENT,
    known_classes: Collection[str] = (),
) -> Labels:
    """True labels by a short name, or from a table.

    `voc:DIR`, `nuswide:DIR`, `imagefolder:DIR` and `coco:DIR` may be followed by a split, as in `voc:DIR:val`; `coco:FILE` and
    `label-studio:FILE` have none. A DIR or a .json without a prefix is taken for what it looks like, if it can only be one
    of these; `meta["notes"]` says which. Other files are tables for `read_labels`, which gets `options` and `known_classes`.
    `progress` gets a line about everything unusual. Raises InputError for another name, or if the files are missing or damaged.
    """
    kind, colon, place = str(spec).partition(":")
    kind = kind.lower()
    notes = []
    if not (colon and kind in (*DATASETS, "label-studio")):
        kind, place = looks_like(str(spec)), str(spec)
        if kind is None:
            if Path(spec).suffix.lower() not in READ_SUFFIXES and not is_special(spec):
                raise InputError(
                    f"{spec!r:.200} is not a source of true labels. Give {FORMS} or a .csv file; docs/formats.md has others."
                )
            existing_file(spec, "A table of true labels has a path column, and 1, 0 or an empty cell for each class.")
            return read_labels(spec, options, progress=progress, known_classes=known_classes)
        notes = [f"{place} looks like {kind} and is read as {kind}:{place}"]
    folder, colon, split = place.rpartition(":")
    try:
        if kind == "label-studio":
            found = read_label_studio(place, truth=True)
        elif not colon or os.path.exists(place):  # a colon in the name of an existing file or folder
            found = DATASETS[kind](place)
        else:
            found = DATASETS[kind](folder, split or None)
    except OSError as error:  # a folder without permission, a broken disk
        raise InputError(f"{spec} cannot be read ({error.strerror}). Check the path and its permissions.") from error
    found.meta["notes"] = notes + found.meta["notes"]
    for note in found.meta["notes"]:
        progress.log(note)
    return found


def _suffix(path: str | Path, suffixes: Sequence[str] = SUFFIXES) -> str:
    suffix = Path(path).suffix.lower()
    if suffix in (".xlsx", ".xls", ".ods"):
        raise InputError(f"{path} is a spreadsheet. Save its table as .csv (CSV UTF-8 in Excel).")
    if suffix not in suffixes:
        raise InputError(f"{path} is not a name for a labels file. It must end in .pt, .csv, .json or .jsonl.")
    return suffix


def _check_plain(value: Any, where: str) -> None:
    """TypeError if `value` contains something that `files.load_plain` refuses."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item, where)
    elif type(value) not in (str, bool, int, float, type(None), Tensor):
        raise TypeError(
            f"{where} of Labels contains a {type(value).__name__}; use only numbers, text, lists, dicts and tensors"
        )


def _read_json(content: Any, path: Path) -> Labels:
    """The labels in the object of a .json of `write_labels`."""
    if not isinstance(content, dict) or not isinstance(content.get("scores"), list):
        raise InputError(f"{path} is not a labels file. If it has one object per line, rename it to .jsonl.")
    if content.get("format") != "mlclip.labels" or content.get("version") != FORMAT_VERSION:
        raise InputError(f"{path} is not a labels file of version {FORMAT_VERSION}. Make one with `{MADE_BY}`.")
    classes, rows = content.get("classes"), content["scores"]
    if not isinstance(classes, list) or not all(isinstance(row, list) for row in rows):
        raise InputError(f"{path}: `scores` must contain one list per photo. Write the file again.")
    scores = [[_score(cell, str(path)) for cell in row] for row in rows]
    content |= {"scores": _tensor(scores, len(classes))}
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
        if not (
            isinstance(photo, dict) and isinstance(photo.get("path"), str) and isinstance(photo.get("scores"), dict)
        ):
            raise InputError(
                f'{path}, line {line}: the line does not look like {{"path": ..., "scores": {{"cat": 0.9}}}}. Correct it.'
            )
        paths.append(photo["path"])
        lines.append(line)
        found.append({name: _score(cell, f"{path}, line {line}") for name, cell in photo["scores"].items()})
    check_names(paths, lines, path, "path")
    classes = list(dict.fromkeys(name for scores in found for name in scores))
    rows = [[scores.get(name, math.nan) for name in classes] for scores in found]
    return Labels(paths, classes, _tensor(rows, len(classes)))


def _json(text: str, path: Path, line: int) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        where = line + error.lineno - 1
        raise InputError(f"{path}, line {where}: not JSON ({error.msg}). Write the file again.") from error
    except ValueError as error:  # too many brackets; a number of thousands of digits
        raise InputError(f"{path}, line {line}: the file is not a table in JSON. Write it again.") from error


def _score(cell: Any, where: str) -> float:
    if cell is None:
        return math.nan
    if isinstance(cell, int | float) and (0 <= cell <= 1 or cell != cell):
        return float(cell)
    raise InputError(
        f"{where}: {str(cell)[:40]!r} is not a score. Write a number from 0 to 1, or null if it is unknown."
    )


def _tensor(rows: list[list[float]], classes: int) -> Tensor:
    if any(len(row) != classes for row in rows):
        raise InputError(f"some rows of scores do not have {classes} numbers, one per class. Make the file again.")
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), classes)


def _short(scores: Tensor) -> list[list[float | None]]:
    """Rows of Python floats with the fewest digits that give the same float32 again; None for NaN."""
    text = scores.numpy().astype(str)  # (N, C)
    return [[None if cell == "nan" else float(cell) for cell in row] for row in text.tolist()]
