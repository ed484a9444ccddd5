"""CSV in three forms: scores or 0/1 with one column per class, or one line per photo and class."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ..table import Labels
from ..text_files import save_text
from ..text_formats import write_csv as write_wide

LONG_HEADER = ("path", "class", "score", "label")


def write_csv(labels: Labels, file: Path, form: str) -> list[Path]:
    """Write the table as `form`; an unknown cell is empty, or has no line. Returns the file.

    "scores": a `path` column and a column of scores per class. "binary": the same with 1 for a class that reaches its threshold,
    else 0. "long": lines path,class,score,label, where label is 1 or 0.
    """
    if form == "long":
        _write_long(labels, file)
    else:
        table = labels.scores if form == "scores" else _binary(labels)
        write_wide(file, labels.paths, labels.classes, [[None if x != x else x for x in row] for row in table.tolist()])
    return [file]


def _binary(labels: Labels):
    reached = (labels.scores >= labels.thresholds).float()  # (N, C)
    return reached.masked_fill(labels.scores.isnan(), float("nan"))


def _write_long(labels: Labels, file: Path) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(LONG_HEADER)
    tables = zip(labels.paths, labels.scores.tolist(), _binary(labels).tolist(), strict=True)
    for path, scores, marks in tables:
        cells = zip(labels.classes, scores, marks, strict=True)
        writer.writerows([path, name, f"{score:.7g}", int(mark)] for name, score, mark in cells if score == score)
    save_text(text.getvalue(), file)
