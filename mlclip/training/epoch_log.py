"""The report of every epoch: its facts, as a line of text, and in a CSV file beside the model, `model.log.csv`.

Letters: N photos, C classes.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..files import atomic
from ..images import Photo
from ..labels.metrics import average_precision, mean_average_precision
from ..labels.table import Labels
from ..methods.cdul import bernoulli_entropy
from .schedule import label_step_due, stopping_measure_due
from .state import TrainingState

REPORT_ONLY = "report_only"  # suffix of the name of every number that uses true labels


def epoch_facts(
    state: TrainingState, epoch: int, before: Tensor, predictions: Tensor | None, truth: Labels | None
) -> dict[str, float]:
    """The numbers that the log of `epoch` has about labels and predictions (N, C). `before` are the labels of its weight steps."""
    after = state.targets
    crossed = ((before >= 0.5) != (after >= 0.5)) & ~after.isnan()
    facts = {"label_entropy": float(bernoulli_entropy(after).nanmean())}  # nats
    facts |= {"labels_moved": int(label_step_due(state.config, epoch)), "labels_crossed_half": int(crossed.sum())}
    if stopping_measure_due(state.config, epoch):
        facts["stopping_measure"] = stopping_measure(predictions, after)
    if truth:
        tables = {"labels": after, "predictions": predictions}
        facts |= true_facts(tables, state.photos, state.student.classes, truth)
    return facts


def stopping_measure(predictions: Tensor, labels: Tensor) -> float:
    """CCD's label-free measure: mAP in [0, 1] of predictions (N, C); the positives are the labels (N, C) that are exactly 1.

    NaN if no label is exactly 1.
    """
    positive = (labels == 1).float()
    values = [average_precision(predictions[:, c], positive[:, c]) for c in range(labels.shape[1])]
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def true_facts(tables: dict[str, Tensor], photos: list[Photo], classes: list[str], truth: Labels) -> dict[str, float]:
    """mAP in [0, 1] of each table of scores (N, C) against the truth. For the report only: no decision may use it."""
    facts = {}
    for name, scores in tables.items():
        known = (~scores.isnan().all(1)).nonzero().flatten().tolist()
        table = Labels([photos[row].path for row in known], classes, scores[known])
        facts[f"{name}_mAP_{REPORT_ONLY}"] = mean_average_precision(table, truth)[0]
    return facts


def epoch_line(row: dict[str, float]) -> str:
    """One row of the log as a line of text."""
    line = f"epoch {row['epoch']}: loss {row['loss']:.4f}, {row['photos_per_second']:.0f} photos/s"
    if row["labels_moved"]:
        line += f", {row['labels_crossed_half']} labels crossed ½"
    measure = row.get("stopping_measure")
    if measure is not None and math.isnan(measure):
        line += ", no stopping measure: no label is exactly 1"
    elif measure is not None:
        line += f", {100 * measure:.1f} mAP against labels that are exactly 1"
    report = [(name, value) for name, value in row.items() if name.endswith(REPORT_ONLY)]
    return line + report_line(dict(report), "; ")


def report_line(facts: dict[str, float], start: str = "") -> str:
    """The numbers that use true labels as text; "" without any."""
    known = {
        name.removesuffix(f"_{REPORT_ONLY}").replace("_", " "): v for name, v in facts.items() if not math.isnan(v)
    }
    shown = [f"{name} {100 * value:.1f}" for name, value in known.items()]
    return f"{start}report only: {', '.join(shown)}" if shown else ""


def write_rows(file: Path, rows: Sequence[dict[str, float]]) -> None:
    """Write rows of numbers as a CSV file, which is replaced atomically. Rows may lack some columns."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: str(v) if isinstance(v, int) else f"{v:.6g}" for name, v in row.items()})
    with atomic(file) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")
