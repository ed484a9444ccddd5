"""Which labels a person should look at next, and corrections: what a person says about single labels.

Corrections are kept in the `meta` of the table that they correct.

A file of corrections has lines `path,class,value`; the value is 1 (the photo shows the class) or 0. The review page of
`mlclip report` writes such files. Letters: N photos, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import InputError
from ..files import existing_file
from ..spelling import one_line, shorten
from .labels import Labels
from .matching import match_tables, placed
from .sheet import read_sheet

HEADER = ["path", "class", "value"]
ALIKE = 0.1  # two photos whose beliefs differ by less in every class may be near duplicates

Corrections = dict[str, dict[str, int]]  # path -> class -> 1 or 0


@dataclass(frozen=True)
class CorrectedLabels:
    """`labels` with corrections, how many were `used`, how many `changed` a yes to a no or back, and `unknown` photos."""

    labels: Labels
    used: int
    changed: int
    unknown: list[str]  # paths of corrections that the labels do not have

    def summary(self, source: str) -> list[str]:
        """What happened to the corrections of `source`, one or two lines."""
        lines = [
            f"{source}: {self.used} corrected labels, {self.changed} of them other than CLIP's or the earlier labels"
        ]
        if self.unknown:
            lines.append(f"warning: {source} has photos that the labels do not have: {shorten(self.unknown)}")
        return lines


def read_corrections(path: str | Path) -> Corrections:
    """Read a file of lines `path,class,value`. InputError says which line is wrong.

    The same correction twice is allowed, so files can be appended; two different values for one label are not.
    """
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
        value = int(text)
        first = lines.setdefault((photo, name), line)
        if found.setdefault(photo, {}).setdefault(name, value) != value:
            raise InputError(
                f"{path}, line {line}: {value} for {name!r:.200} in {one_line(photo, 200)}, but line {first} says {1 - value}. Remove one."
            )
    return found


def correct(labels: Labels, corrections: Corrections) -> CorrectedLabels:
    """The labels with the corrected cells set to 1 or 0, and all corrections in `meta["corrections"]`.

    Corrections that the labels already have stay, unless there is a new value. Photos that the labels do not have are left
    out and named in the result. Raises InputError for a class that the labels do not have, or if no photo is in the labels.
    """
    place, known = {path: row for row, path in enumerate(labels.paths)}, set(labels.classes)
    strange = list(dict.fromkeys(name for cells in corrections.values() for name in cells if name not in known))
    if strange:
        raise InputError(
            f"the corrections have classes that the labels do not have: {shorten(strange)}. The labels have "
            f"{shorten(labels.classes, 20)}."
        )
    unknown = [path for path in corrections if path not in place]
    if corrections and len(unknown) == len(corrections):
        raise InputError(
            f"no photo of the corrections is in the labels (paths such as {unknown[0]!r}). Use the corrections of these labels."
        )
    new = {path: cells for path, cells in corrections.items() if path in place}
    merged = dict(corrections_of(labels))
    for path, cells in new.items():
        merged[path] = {**merged.get(path, {}), **cells}
    result = replace(labels, meta={**labels.meta, "corrections": merged})
    values = corrected_cells(result, labels.paths)  # (N, C)
    result.scores = torch.where(values.isnan(), labels.scores, values)
    changed = ((labels.scores >= labels.thresholds) != (values >= 0.5)) & ~values.isnan()
    return CorrectedLabels(result, sum(map(len, new.values())), int(changed.sum()), unknown)


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


# -- which labels to look at


class Question(NamedTuple):
    """A label to look at. `score` is the label's, in [0, 1]; `wrong` is how probable it is that the label is wrong."""

    path: str
    name: str  # of the class
    score: float
    wrong: float
    reason: str


def belief(labels: Labels) -> Tensor:
    """How probable each label is (N, C), in [0, 1]: the score, stretched so that the threshold of its class is ½. NaN stays NaN.

    >>> belief(Labels(["a", "b"], ["cat"], torch.tensor([[0.2], [0.7]]), meta={"thresholds": [0.4]}))
    tensor([[0.2500],
            [0.7500]])
    """
    scores, thresholds = labels.scores, labels.thresholds.clamp(1e-6, 1 - 1e-6)
    above = 0.5 + (scores - thresholds) / (1 - thresholds) / 2
    return torch.where(scores < thresholds, scores / thresholds / 2, above).clamp(0, 1)


def matched_belief(labels: Labels, predictions: Labels) -> Tensor:
    """The beliefs of a model in the rows and columns of `labels` (N, C); NaN where `predictions` has no such photo or class."""
    return placed(belief(predictions), match_tables(labels, predictions), labels.scores.shape)


def wrong_labels(label: Tensor, model: Tensor | None = None) -> Tensor:
    """How probable it is that labels with these beliefs (N, C) are wrong, in [0, 1]. Labels without belief (NaN) get ½.

    The probability of a class is the mean of the beliefs of the label and, where it has one, of the model. So a label is
    suspicious if it is near its threshold, or if the model contradicts it.

    >>> wrong_labels(torch.tensor([[0.9, 0.6]]), torch.tensor([[0.1, float("nan")]]))
    tensor([[0.5000, 0.4000]])
    """
    label = label.nan_to_num(0.5)
    mean = label if model is None else torch.where(model.isnan(), label, (label + model) / 2)
    return torch.where(label >= 0.5, 1 - mean, mean)


def questions(labels: Labels, predictions: Labels | None = None, count: int = 20) -> list[Question]:
    """The `count` labels that are most worth a look, the best first. Corrected labels are left out.

    One after the other, the label with the highest probability of being wrong is chosen, after three deductions, so that the
    questions differ. A class that has been asked k times counts 1/(k + 1). A photo that is like one already chosen counts as
    little as it differs (see ALIKE); a photo itself is asked about once, until all have been. With `predictions`, labels that a
    model contradicts come first. Raises InputError if the predictions share no photo or no class with the labels.
    """
    label, model = belief(labels), None if predictions is None else matched_belief(labels, predictions)
    wrong = wrong_labels(label, model)
    wrong[~corrected_cells(labels, labels.paths).isnan()] = -1
    rows = label.nan_to_num(0.5) if model is None else torch.cat([label, model], 1).nan_to_num(0.5)  # (N, C or 2·C)
    new, asked, chosen = torch.ones(len(labels)), torch.zeros(len(labels.classes)), []
    for _ in range(min(count, int((wrong >= 0).sum()))):
        value = wrong * new[:, None] / (1 + asked)  # (N, C); below 0 where corrected or asked
        place = int(value.argmax())
        if float(value.flatten()[place]) <= 0:  # every photo has been asked about: begin again
            new.fill_(1.0)
            place = int((wrong / (1 + asked)).argmax())
        row, column = divmod(place, len(labels.classes))
        believed, predicted = float(label[row, column]), math.nan if model is None else float(model[row, column])
        if believed != believed:
            reason = "not labelled"
        elif predicted == predicted and (predicted >= 0.5) != (believed >= 0.5):
            reason = "label yes, model no" if believed >= 0.5 else "label no, model yes"
        else:
            reason = "doubtful yes" if believed >= 0.5 else "doubtful no"
        score, doubt = float(labels.scores[row, column]), float(wrong[row, column])
        chosen.append(Question(labels.paths[row], labels.classes[column], score, doubt, reason))
        distance = (rows - rows[row]).abs().amax(1)  # (N,)
        new = torch.minimum(new, (distance / ALIKE).clamp(max=1))
        new[row], wrong[row, column] = 0, -1
        asked[column] += 1
    return chosen
