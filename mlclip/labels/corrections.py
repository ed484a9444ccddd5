"""What a person says: corrections of single labels, in a file.

A file of corrections has lines `path,class,value`; the value is 1 (the photo shows the class) or 0. The page of `mlclip report`
writes such files. Corrections are kept in the `meta` of the table that they correct. Letters: N photos, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..config import InputError
from ..files import existing_file
from ..spelling import one_line
from .labels import Labels
from .sheet import read_sheet

HEADER = ["path", "class", "value"]

Corrections = dict[str, dict[str, int]]  # path -> class -> 1 or 0
Lines = list[tuple[str, str, int]]  # the same as path, class, value


@dataclass(frozen=True)
class CorrectedLabels:
    """`labels` with corrections, how many were `used`, how many `changed` a yes to a no or back, and those left out."""

    labels: Labels
    used: int
    changed: int
    unknown: Lines  # corrections of classes or photos that the labels do not have

    def summary(self, source: str) -> list[str]:
        """What happened to the corrections of `source`, one or two lines."""
        changed = f"{self.changed} of them other than CLIP's or the earlier labels"
        left_out = [f"warning: {source}: {said_unknown(self.unknown)}; left out"] if self.unknown else []
        return [f"{source}: {self.used} corrected labels, {changed}", *left_out]


def read_corrections(path: str | Path) -> Corrections:
    """Read a file of corrections. One may be there twice, so files can be appended, but not with two values: InputError."""
    path = existing_file(path, "The page of `mlclip report` writes corrections, or write path,class,value.")
    sheet = read_sheet(path)
    if sheet.header != HEADER:
        raise InputError(f"{path}, line 1: the line is not `path,class,value`. Write it, then one correction per line.")
    found: Corrections = {}
    lines: dict[tuple[str, str], int] = {}
    for line, cells in zip(sheet.lines, sheet.rows, strict=True):
        if cells == HEADER:  # of an appended file
            continue
        photo, name, text = cells[0], cells[1].strip(), cells[2].strip()
        if not photo or not name:
            raise InputError(f"{path}, line {line}: the path or the class is empty. Complete or remove the line.")
        if text not in ("0", "1"):
            raise InputError(f"{path}, line {line}: {text[:40]!r} is not a value. Write 1 (the photo shows it) or 0.")
        value, first = int(text), lines.setdefault((photo, name), line)
        if found.setdefault(photo, {}).setdefault(name, value) != value:
            what = f"{value} for {name!r:.200} in {one_line(photo, 200)}"
            raise InputError(f"{path}, line {line}: {what}, but line {first} says {1 - value}. Remove one.")
    return found


def correct(labels: Labels, corrections: Corrections) -> CorrectedLabels:
    """The labels with the corrected cells set to 1 or 0, and all corrections, new and earlier ones, in `meta["corrections"]`.

    Those of photos and classes that the labels do not have are left out and named in the result. InputError if all are.
    """
    new, unknown = sorted_out(corrections, labels)
    if unknown and not new:
        raise InputError(f"no correction fits the labels: {said_unknown(unknown)}. Correct the paths and the classes.")
    merged = joined(corrections_of(labels), new)
    result = replace(labels, meta={**labels.meta, "corrections": merged})
    values = corrected_cells(result, labels.paths)  # (N, C)
    result.scores = torch.where(values.isnan(), labels.scores, values)
    changed = ((labels.scores >= labels.thresholds) != (values >= 0.5)) & ~values.isnan()
    return CorrectedLabels(result, len(new), int(changed.sum()), unknown)


def joined(corrections: Corrections, new: Lines) -> Corrections:
    """Corrections, and over them new ones."""
    found = {path: dict(cells) for path, cells in corrections.items()}
    for path, name, value in new:
        found.setdefault(path, {})[name] = value
    return found


def sorted_out(corrections: Corrections, labels: Labels) -> tuple[Lines, Lines]:
    """The corrections of photos and classes that the labels have, and all others."""
    photos, classes = set(labels.paths), set(labels.classes)
    lines = [(path, name, value) for path, cells in corrections.items() for name, value in cells.items()]
    fitting = [line for line in lines if line[0] in photos and line[1] in classes]
    return fitting, [line for line in lines if line[0] not in photos or line[1] not in classes]


def said_unknown(unknown: Lines) -> str:
    path, name, _ = unknown[0]
    count = f"{len(unknown)} of the corrections are of classes or photos that the labels do not have"
    return f"{count}, such as {name!r:.200} in {one_line(path, 200)}"


def corrections_of(labels: Labels) -> Corrections:
    """The corrections that labels hold, those of other classes too; {} if there are none."""
    found = labels.meta.get("corrections")
    return found if isinstance(found, dict) else {}


def corrected_cells(labels: Labels, paths: Sequence[str]) -> Tensor:
    """The corrected labels of photos (len(paths), C): 1, 0, or NaN where nothing was corrected.

    >>> labels = Labels(["a", "b"], ["cat"], torch.tensor([[0.3], [0.6]]))
    >>> corrected_cells(correct(labels, {"a": {"cat": 1}}).labels, ["a", "b"])
    tensor([[1.],
            [nan]])
    """
    column = {name: place for place, name in enumerate(labels.classes)}
    values, corrections = torch.full((len(paths), len(labels.classes)), torch.nan), corrections_of(labels)
    for row, path in enumerate(paths):
        for name, value in corrections.get(path, {}).items():
            if name in column:
                values[row, column[name]] = value
    return values
