"""The table of photos × classes and its files.

Pseudo labels, predictions and ground truth are all `Labels`. Letters: N photos (rows), C classes (columns).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config import InputError, TableOptions
from ..files import check_output, load_plain, save_plain
from ..progress import SILENT, Progress
from ..schema import SCHEMAS
from . import text_formats as tables
from .class_names import shorten
from .csv_table import read_csv

if TYPE_CHECKING:
    import pandas

MADE_BY = "mlclip pseudolabel"
DEFAULT_THRESHOLD = 0.5
SUFFIXES = (".pt", ".csv", ".json", ".jsonl")
CSV_SUFFIXES = (".csv", ".tsv", ".txt")  # text with columns, as it is read
READ_SUFFIXES = (*SUFFIXES, *CSV_SUFFIXES[1:])


@dataclass(eq=False)
class Labels:
    """Scores in [0, 1] of N photos for C classes; NaN = unknown. True labels are 1, 0 or NaN.

    `paths` are relative to the folder `root`, with forward slashes. `scores` is float32 (N, C). `meta` tells how the scores
    were made, in plain containers. Raises InputError for a wrong shape, a duplicate name, or a score out of range.

    >>> labels = Labels(["a.jpg", "b.jpg"], ["cat", "dog"], torch.tensor([[0.6, 0.9], [0.2, 0.1]]))
    >>> labels.above_threshold()
    [['dog', 'cat'], []]
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
            raise InputError(f"scores have shape {shape}, but there are {wanted[0]} paths and {wanted[1]} classes.")
        wrong = ~((self.scores >= 0) & (self.scores <= 1) | self.scores.isnan())
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            where = f"{self.paths[row]!r}, class {self.classes[column]!r}"
            raise InputError(f"the score of {where} is {self.scores[row, column]:g}. Scores must be from 0 to 1.")

    def __len__(self) -> int:
        return len(self.paths)

    def aligned(self, paths: Sequence[str], classes: Sequence[str]) -> Labels:
        """The table with only these rows and columns, in this order. Raises InputError for names that it does not have."""
        rows = _positions(self.paths, paths, "paths")
        columns = _positions(self.classes, classes, "classes")
        scores = self.scores[rows][:, columns]  # (len(paths), len(classes))
        meta, thresholds = dict(self.meta), self.meta.get("thresholds")
        if isinstance(thresholds, list) and len(thresholds) == len(self.classes):
            meta["thresholds"] = [thresholds[column] for column in columns]
        if isinstance(meta.get("content"), Tensor):
            meta["content"] = meta["content"][rows]
        return Labels(list(paths), list(classes), scores, self.root, meta)

    @property
    def thresholds(self) -> Tensor:
        """The threshold of each class (C,): a photo has the class if its score is at least this.

        They come from `meta["thresholds"]`, or are ½ if that is missing. Raises InputError if they are damaged.
        """
        numbers = self.meta.get("thresholds", DEFAULT_THRESHOLD)
        if isinstance(numbers, dict):
            numbers = [numbers.get(name, DEFAULT_THRESHOLD) for name in self.classes]
        wrong = InputError(
            f"the thresholds of the labels are not numbers from 0 to 1 for {len(self.classes)} classes. Make the labels again."
        )
        try:
            thresholds = torch.as_tensor(numbers, dtype=torch.float32).expand(len(self.classes))
        except (TypeError, ValueError, RuntimeError) as error:
            raise wrong from error
        if not ((thresholds >= 0) & (thresholds <= 1)).all():
            raise wrong
        return thresholds

    def above_threshold(self) -> list[list[str]]:
        """The names of the classes that reach their threshold, for each photo, best score first."""
        reached = (self.scores >= self.thresholds).tolist()
        order = self.scores.nan_to_num(-1).argsort(dim=1, descending=True, stable=True).tolist()
        return [
            [self.classes[column] for column in columns if reaches[column]]
            for columns, reaches in zip(order, reached, strict=True)
        ]

    def to_pandas(self) -> pandas.DataFrame:
        """A DataFrame of the scores: index "path", one column per class, NaN = unknown. Raises InputError without pandas."""
        try:
            import pandas
        except ImportError as error:
            raise InputError("pandas is not installed. Install it with `pip install pandas`.") from error
        index = pandas.Index(self.paths, name="path", dtype=object)  # pyarrow refuses names that are not UTF-8
        return pandas.DataFrame(self.scores.numpy(), index=index, columns=self.classes, copy=True)


def _check_names(names: list[str], kind: str) -> None:
    if not all(isinstance(name, str) and name for name in names):
        raise InputError(f"a {kind} of the labels is blank or not text. Give every {kind} a name.")
    if kind == "path" and any("\0" in name for name in names):
        raise InputError("a path of the labels contains a NUL character. No file has such a name; remove the row.")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(
            f"the {kind} {twice[0]!r} is in the labels twice (duplicates: {len(twice)}). Keep one of each."
        )


def _positions(have: Sequence[str], want: Sequence[str], kind: str) -> list[int]:
    position = {name: i for i, name in enumerate(have)}
    missing = [name for name in want if name not in position]
    if missing:
        raise InputError(f"the labels do not have these {kind}: {shorten(missing)}. They have {shorten(have)}.")
    return [position[name] for name in want]


def write_labels(labels: Labels, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the table as .pt, .csv, .json or .jsonl, according to the suffix. The file is never half-written.

    .pt and .json store everything. .csv (a `path` column and one column per class, empty = unknown) and .jsonl (one line
    `{"path": ..., "scores": {class: score or null}}` per photo) do not store `root` and `meta`. Scores are read back exactly.
    Raises InputError for another suffix, a file that exists without `overwrite`, or a folder that cannot be written.
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


def read_labels(
    path: str | Path,
    options: TableOptions | None = None,
    *,
    progress: Progress = SILENT,
    known_classes: Collection[str] = (),
) -> Labels:
    """Read the table in a .pt, .csv, .json or .jsonl file. InputError says what is wrong with the file, and in which line.

    A .csv (also .tsv and .txt) can be one of a spreadsheet, pandas, or another program. Then `progress` gets a line for each rule
    that was applied, and `options` decides where two readings are possible. `known_classes` are the classes of a table that
    this one is compared with; they help to read a column of class names. Files of other tools have a prefix, as in
    "cvat:FILE"; `labels.exchange.read_scores` names these.
    """
    from .exchange import read_scores  # which imports this module

    if (exchanged := read_scores(path)) is not None:
        return exchanged
    path = Path(path)
    suffix = _suffix(path, READ_SUFFIXES)
    if not path.is_file():
        raise InputError(f"{path} not found. Make a labels file with `{MADE_BY}`.")
    try:
        if suffix in (".pt", ".json"):
            content = load_plain(path, kind="labels", made_by=MADE_BY) if suffix == ".pt" else _from_json(path)
            labels = _from_plain(content)
        else:
            text = suffix in CSV_SUFFIXES
            paths, classes, rows = (
                read_csv(path, options, progress.log, known_classes) if text else tables.read_jsonl(path)
            )
            labels = Labels(paths, classes, _tensor(rows, len(classes)))
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from error
    if not labels.classes:
        raise InputError(f"{path} contains no classes. Make a labels file with `{MADE_BY}`.")
    return labels


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


def _from_json(path: Path) -> dict:
    content = tables.read_json(path)
    if content.get("format") != "mlclip.labels" or content.get("version") != 1:
        raise InputError(f"{path} is not a labels file of version 1. Make one with `{MADE_BY}`.")
    classes = content.get("classes")
    content |= {"scores": _tensor(content["scores"], len(classes) if isinstance(classes, list) else 0)}
    SCHEMAS["labels"].check(content, str(path), f"Make the file again with `{MADE_BY}`.")
    return content


def _from_plain(content: dict) -> Labels:
    return Labels(**{name: content[name] for name in ("paths", "classes", "scores", "root", "meta")})


def _tensor(rows: list[list[float]], classes: int) -> Tensor:
    if any(len(row) != classes for row in rows):
        raise InputError(f"some rows of scores do not have {classes} numbers, one per class. Make the file again.")
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), classes)


def _short(scores: Tensor) -> list[list[float | None]]:
    """Rows of Python floats with the fewest digits that give the same float32 again; None for NaN."""
    text = scores.numpy().astype(str)  # (N, C)
    return [[None if cell == "nan" else float(cell) for cell in row] for row in text.tolist()]
