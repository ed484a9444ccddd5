"""What looks wrong in a table of labels, which labels a person should look at next, and what the person says: corrections.

A file of corrections has lines `path,class,value`; the value is 1 (the photo shows the class) or 0. The page of `mlclip report`
writes such files. Corrections are kept in the `meta` of the table that they correct. Letters: N photos, C classes.
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

DOUBT = 0.5  # a label is doubtful if it is nearer to its threshold than this share of the way to 0 or to 1
# Methods whose labels often lie in the middle: CDUL halves what only one of its two views shows.
UNSURE = ("cdul", "ccd")
MOST = 0.5  # a class in more than this share of the photos may include photos that show none of the classes
FEW_PHOTOS = 20  # with fewer photos, a class in all or none of them is not suspicious
CONFUSED = 0.5  # two classes are confused if at least this share of the photos with either have both (Jaccard index)
FEWEST = 5  # with fewer photos that have both, a pair is due to chance
MANY_EMPTY = 0.2  # share of photos without a class that is worth a line of advice
MOST_PAIRS = 5
CLASSES_AT_ONCE = 256
ALIKE = 0.1  # two photos whose beliefs differ by less in every class may be near duplicates


@dataclass(frozen=True)
class Diagnosis:
    """What was found. `photos` and `sure` have one number per class: photos with the class, and their mean score (NaN if none)."""

    classes: list[str]
    photos: list[int]
    sure: list[float]
    dead: list[str]  # no photo has it
    frequent: list[str]  # more than half of the photos have it
    doubtful: list[str]  # it has more doubtful photos than photos with the class
    confused: list[tuple[str, str, float]]  # pairs of classes, and the share of the photos with either that have both
    empty: list[str]  # paths of photos without any class
    known: int  # number of photos with at least one known score

    @property
    def many_empty(self) -> bool:
        """Whether so many photos have no class that it is worth a line of advice."""
        return len(self.empty) >= max(1, MANY_EMPTY * self.known)

    @property
    def advice(self) -> list[str]:
        """What looks wrong, one line each, with something to try."""
        lines = []
        if self.dead:
            lines.append(f"No photo shows {shorten(self.dead)}. Remove it, or use other words (label = other words).")
        if self.frequent:
            remedy = "If that is wrong, try a narrower name, or name with `contrast` what photos of no class show."
            lines.append(f"More than half of the photos show {shorten(self.frequent)}. {remedy}")
        if self.doubtful:
            remedy = 'Use other words (label = other words), or more prompts with `templates="ensemble"`.'
            lines.append(f"The labels of {shorten(self.doubtful)} are more often doubtful than certain. {remedy}")
        for first, second, share in self.confused:
            both = f"both in {share:.0%} of the photos with either"
            lines.append(f"{first} and {second} are found in the same photos ({both}). Use other words, or merge them.")
        if self.many_empty:
            none = f"{len(self.empty)} of {self.known} photos show none of the classes"
            lines.append(f"{none}, for example {', '.join(self.empty[:3])}. Name what they show with `contrast`.")
        return lines


def diagnose(labels: Labels) -> Diagnosis:
    """Check labels. A photo has a class if its score is at least `labels.thresholds`; NaN is unknown and ignored."""
    scores, thresholds, names = labels.scores, labels.thresholds, labels.classes
    positive = scores >= thresholds  # (N, C)
    photos = positive.sum(0)  # (C,)
    known = (~scores.isnan()).sum(0)  # (C,)
    share = torch.where(known >= FEW_PHOTOS, photos / known, torch.nan).tolist()
    sure = torch.where(positive, scores, 0).sum(0) / photos  # (C,)
    without = (~positive.any(1) & ~scores.isnan().all(1)).nonzero().flatten().tolist()
    near = ((scores > DOUBT * thresholds) & (scores < 1 - DOUBT * (1 - thresholds))).sum(0)  # (C,)
    counts = zip(names, photos.tolist(), near.tolist(), strict=True)
    doubtful = [name for name, certain, many in counts if 0 < certain < many]
    return Diagnosis(
        names,
        photos.tolist(),
        sure.tolist(),
        [name for name, part in zip(names, share, strict=True) if part == 0],
        [name for name, part in zip(names, share, strict=True) if part > MOST],
        [] if labels.meta.get("method") in UNSURE else doubtful,
        _confused(positive.float(), names),
        [labels.paths[row] for row in without],
        int((~scores.isnan()).any(1).sum()),
    )


def _confused(positive: Tensor, names: list[str]) -> list[tuple[str, str, float]]:
    count, pairs = positive.sum(0), []
    for rows in torch.arange(len(names)).split(CLASSES_AT_ONCE):
        both = positive[:, rows].T @ positive  # (rows, C)
        share = both / (count[rows, None] + count - both).clamp(min=1)
        share = torch.where(both >= FEWEST, share, 0).triu(int(rows[0]) + 1)
        pairs += [(names[rows[a]], names[b], float(share[a, b])) for a, b in (share >= CONFUSED).nonzero().tolist()]
    return sorted(pairs, key=lambda pair: -pair[2])[:MOST_PAIRS]


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


# -- corrections

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
