"""The table of photos × classes: its type, its files, and how well two tables agree.

Pseudo labels, predictions and ground truth are all `Labels`. Letters: N photos (rows), C classes (columns).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import tables
from .config import InputError
from .files import check_output, load_plain, save_plain
from .presets import shorten

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


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """Area under the precision-recall curve without interpolation, in [0, 1]; NaN if nothing is positive.

    `scores` and `truth` are 1-D, (N,); truth is 1, 0, or NaN = left out. Equal scores are taken together, so their
    order does not matter. A score of NaN ranks below all others: not answering never helps.
    Example: scores 0.9 0.8 0.7 and truth 1 0 1 -> (1/1 + 2/3) / 2 = 0.8333.
    """
    known = ~truth.isnan()
    ranks, hits = (part[known].double().nan_to_num(nan=-1.0).cpu().numpy() for part in (scores, truth))
    if not np.isin(hits, (0, 1)).all():
        raise InputError("the truth holds numbers other than 1 and 0; leave a cell empty where it is not known")
    if not hits.any():
        return math.nan
    order = np.argsort(-ranks, kind="stable")
    ranks, found = ranks[order], hits[order].cumsum()
    last = np.append(ranks[1:] != ranks[:-1], True).nonzero()[0]  # of each group of equal scores
    precision = found[last] / (last + 1)
    return float((precision * np.diff(found[last], prepend=0)).sum() / found[-1])


@dataclass(frozen=True, eq=False)
class Match:
    """What two tables share: `rows` (row in the first, row in the second) and `classes`; and what only one has."""

    rows: list[tuple[int, int]]
    classes: list[str]
    paths_only_first: list[str]
    paths_only_second: list[str]
    classes_only_first: list[str]
    classes_only_second: list[str]


def match_tables(labels: Labels, truth: Labels) -> Match:
    """Rows by path, classes by name. Where no path is equal, by file name alone, if it is unique in each table.

    Raises InputError if no photo or no class is in both.
    """
    rows = _match_rows(labels.paths, truth.paths) or _match_rows(_unique_names(labels), _unique_names(truth))
    answered = set(truth.classes)
    classes = [name for name in labels.classes if name in answered]
    if not rows:
        example = f"{labels.paths[0]!r} and {truth.paths[0]!r}" if len(labels) and len(truth) else "one has none"
        raise InputError(f"no photo is in both tables (paths such as {example}); give the truth of these very photos")
    if not classes:
        both = f"{shorten(labels.classes, 20)} | {shorten(truth.classes, 20)}"
        raise InputError(f"no class is in both tables ({both}); name them alike, with `label = prompt name` if need be")
    first, second, shared = {i for i, _ in rows}, {j for _, j in rows}, set(classes)
    return Match(
        rows,
        classes,
        [path for i, path in enumerate(labels.paths) if i not in first],
        [path for j, path in enumerate(truth.paths) if j not in second],
        [name for name in labels.classes if name not in shared],
        [name for name in truth.classes if name not in shared],
    )


def _match_rows(first: Sequence[str | None], second: Sequence[str | None]) -> list[tuple[int, int]]:
    position = {name: j for j, name in enumerate(second) if name is not None}
    return [(i, position[name]) for i, name in enumerate(first) if name in position]


def _unique_names(labels: Labels) -> list[str | None]:
    """Each path's last part, None where another path ends in it too."""
    names = [path.rsplit("/", 1)[-1] for path in labels.paths]
    counts = Counter(names)
    return [name if counts[name] == 1 else None for name in names]


def matched_cells(labels: Labels, truth: Labels) -> tuple[Tensor, Tensor]:
    """Scores and truth of the photos and classes that both tables have (see `match_tables`), two tensors of one shape."""
    match = match_tables(labels, truth)
    first, second = torch.tensor(match.rows).T
    columns = [[table.classes.index(name) for name in match.classes] for table in (labels, truth)]
    return labels.scores[first][:, columns[0]], truth.scores[second][:, columns[1]]


def mean_average_precision(labels: Labels, truth: Labels) -> tuple[float, dict[str, float]]:
    """mAP and {class: AP}, both in [0, 1], over the photos and classes that both tables have (see `match_tables`).

    A class without a positive photo has the AP NaN and is not counted; the mAP is NaN if no class has one.
    Raises InputError if the tables share no photo or no class, or if `truth` holds other numbers than 1, 0 and NaN.
    """
    scores, answers = matched_cells(labels, truth)  # (matched, C of both)
    shared = set(truth.classes)
    names = [name for name in labels.classes if name in shared]
    result = {name: average_precision(scores[:, c], answers[:, c]) for c, name in enumerate(names)}
    counted = [ap for ap in result.values() if not math.isnan(ap)]
    return (sum(counted) / len(counted) if counted else math.nan), result
