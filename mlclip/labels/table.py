"""The table of photos × classes: its type, its files, and how well two tables agree.

Pseudo labels, predictions and ground truth are all `Labels`. Letters: N photos (rows), C classes (columns).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import InputError
from ..files import check_output, load_plain, save_plain
from . import text_formats as tables
from .class_names import shorten

MADE_BY = "mlclip pseudolabel"
DEFAULT_THRESHOLD = 0.5
SUFFIXES = (".pt", ".csv", ".json", ".jsonl")


@dataclass(eq=False)
class Labels:
    """Scores in [0, 1] of N photos for C classes; NaN = not known. Truth is 1, 0 or NaN.

    `paths` are relative to the folder `root`, with forward slashes; `scores` is float32 (N, C); `meta` holds how the
    scores came about, in plain containers. Raises InputError for a wrong shape, a duplicate, a score out of range.
    """

    paths: list[str]
    classes: list[str]
    scores: Tensor
    root: str = "."
    meta: dict = field(default_factory=dict)

    def __post_init__(self):
        self.paths, self.classes = list(self.paths), list(self.classes)
        self.scores = torch.as_tensor(self.scores, dtype=torch.float32, device="cpu").detach()
        _check_names(self.paths, "path")
        _check_names(self.classes, "class")
        shape, wanted = tuple(self.scores.shape), (len(self.paths), len(self.classes))
        if shape != wanted:
            raise InputError(f"scores have the shape {shape}, but there are {wanted[0]} paths and {wanted[1]} classes")
        wrong = ~((self.scores >= 0) & (self.scores <= 1) | self.scores.isnan())
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            where = f"{self.paths[row]!r}, class {self.classes[column]!r}"
            raise InputError(f"the score of {where} is {self.scores[row, column]:g}; scores must lie in [0, 1]")

    def __len__(self) -> int:
        return len(self.paths)

    def aligned(self, paths: Sequence[str], classes: Sequence[str]) -> Labels:
        """The same table with just these rows and columns, in this order. InputError names those that are not in it."""
        rows = _positions(self.paths, paths, "paths")
        columns = _positions(self.classes, classes, "classes")
        scores = self.scores[rows][:, columns]  # (len(paths), len(classes))
        meta, given = dict(self.meta), self.meta.get("thresholds")
        if isinstance(given, list) and len(given) == len(self.classes):
            meta["thresholds"] = [given[column] for column in columns]
        return Labels(list(paths), list(classes), scores, self.root, meta)

    @property
    def thresholds(self) -> Tensor:
        """(C,) the score from which on a label counts as given, by `meta["thresholds"]`; ½ where that says nothing.

        Raises InputError where it is damaged.
        """
        given = self.meta.get("thresholds", DEFAULT_THRESHOLD)
        if isinstance(given, dict):
            given = [given.get(name, DEFAULT_THRESHOLD) for name in self.classes]
        wrong = InputError(
            f"the labels' thresholds are not numbers from 0 to 1 for {len(self.classes)} classes; make the labels again"
        )
        try:
            thresholds = torch.as_tensor(given, dtype=torch.float32).expand(len(self.classes))
        except (TypeError, ValueError, RuntimeError) as error:
            raise wrong from error
        if not ((thresholds >= 0) & (thresholds <= 1)).all():
            raise wrong
        return thresholds


def _check_names(names: list[str], kind: str) -> None:
    if not all(isinstance(name, str) and name for name in names):
        raise InputError(f"a {kind} of the labels is blank or not text; every {kind} needs a name")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"the {kind} {twice[0]!r} stands in the labels twice ({len(twice)} such); keep one of each")


def _positions(have: Sequence[str], want: Sequence[str], kind: str) -> list[int]:
    position = {name: i for i, name in enumerate(have)}
    missing = [name for name in want if name not in position]
    if missing:
        raise InputError(f"the labels lack these {kind}: {shorten(missing)}; they have {shorten(have)}")
    return [position[name] for name in want]


def write_labels(labels: Labels, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the table as .pt, .csv, .json or .jsonl, by the file's suffix; never half-written.

    .pt and .json hold everything; .csv (a `path` column and one per class, empty = not known) and .jsonl (a line
    `{"path": ..., "scores": {class: score or null}}` per photo) leave out `root` and `meta`. Scores come back exactly.
    Raises InputError for another suffix, a file that exists unless `overwrite`, a place that cannot be written.
    """
    suffix = _suffix(path)
    path = check_output(path, overwrite=overwrite)
    content = {"format": "mlclip.labels", "version": 1, "root": labels.root, "paths": labels.paths}
    content |= {"classes": labels.classes, "scores": labels.scores.clone(), "meta": labels.meta}
    if suffix == ".pt":
        _check_plain(labels.meta, "meta")
        save_plain(content, path)
    elif suffix == ".json":
        tables.write_json(path, content | {"scores": _short(labels.scores)})
    else:
        write = tables.write_csv if suffix == ".csv" else tables.write_jsonl
        write(path, labels.paths, labels.classes, _short(labels.scores))


def read_labels(path: str | Path) -> Labels:
    """The table in a .pt, .csv, .json or .jsonl file. InputError says what is wrong with it, and on which line."""
    suffix, path = _suffix(path), Path(path)
    if not path.is_file():
        raise InputError(f"{path} not found; `{MADE_BY}` makes a labels file")
    try:
        if suffix in (".pt", ".json"):
            content = load_plain(path, kind="labels", made_by=MADE_BY) if suffix == ".pt" else _from_json(path)
            labels = _from_plain(content)
        else:
            paths, classes, rows = (tables.read_csv if suffix == ".csv" else tables.read_jsonl)(path)
            labels = Labels(paths, classes, _tensor(rows, len(classes)))
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from error
    if not labels.classes:
        raise InputError(f"{path} holds no classes; `{MADE_BY}` makes a labels file")
    return labels


def _suffix(path: str | Path) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: a labels file is named .pt, .csv, .json or .jsonl; choose one of the four")
    return suffix


def _check_plain(value: Any, where: str) -> None:
    """TypeError where `value` holds what `torch.load(..., weights_only=True)` would refuse."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item, where)
    elif type(value) not in (str, bool, int, float, type(None), Tensor):
        raise TypeError(
            f"{where} of Labels holds a {type(value).__name__}; only plain numbers, text, lists and dicts do"
        )


def _from_json(path: Path) -> dict:
    content = tables.read_json(path)
    if content.get("format") != "mlclip.labels" or content.get("version") != 1:
        raise InputError(f"{path} is not a labels file of version 1; `{MADE_BY}` makes one")
    classes = content.get("classes")
    return content | {"scores": _tensor(content["scores"], len(classes) if isinstance(classes, list) else 0)}


def _from_plain(content: dict) -> Labels:
    parts = {"paths": list, "classes": list, "scores": Tensor, "root": str, "meta": dict}
    for name, kind in parts.items():
        if not isinstance(content.get(name), kind):
            raise InputError(f"`{name}` is missing or of another type; make the file again with `{MADE_BY}`")
    scores = content["scores"]
    if scores.layout != torch.strided or scores.device.type != "cpu" or scores.dtype != torch.float32:
        raise InputError(f"`scores` is not a plain float32 table; make the file again with `{MADE_BY}`")
    return Labels(**{name: content[name] for name in parts})


def _tensor(rows: list[list[float]], classes: int) -> Tensor:
    if any(len(row) != classes for row in rows):
        raise InputError(f"not every row of scores has {classes} numbers, one for each class; make the file again")
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), classes)


def _short(scores: Tensor) -> list[list[float | None]]:
    """Rows of Python floats with the fewest digits that come back as the same float32; None for NaN."""
    text = scores.numpy().astype(str)  # (N, C)
    return [[None if cell == "nan" else float(cell) for cell in row] for row in text.tolist()]
