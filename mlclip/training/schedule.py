"""When each part of a training happens, how long all of it takes, and the report of every epoch. No other module decides this.

Epochs are counted from 1. Letters: N photos, C classes.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config import TrainConfig
from ..files import atomic
from ..images import Photo
from ..labels.metrics import average_precision, mean_average_precision
from ..labels.table import Labels
from ..methods import ccd
from ..methods.cdul import bernoulli_entropy
from .state import TrainingState

FORECAST_STEPS = 20  # first weight steps of a training, from which its time is estimated; the very first does not count
REPORT_ONLY = "report_only"  # suffix of the name of every number that uses true labels
FORWARD_SHARE = 1 / 3  # of the time of a weight step: predicting the same photos


def training_is_over(config: TrainConfig, epochs_done: int, history: Sequence[float]) -> bool:
    """Whether no epoch follows: all are done, or CCD's stopping measures so far, `history`, rise faster (see `acceleration`)."""
    return epochs_done >= config.epochs or ccd.acceleration(history) is not None


def strong_views_due(config: TrainConfig, epoch: int) -> bool:
    """CCD step 2, consistency: whether `epoch` compares two views of each photo. True for every epoch after the warm-up."""
    return config.two_views and config.consistency > 0 and epoch > config.warmup


def label_update_due(config: TrainConfig, epoch: int) -> bool:
    """CCD step 2, label update: whether `epoch` begins with it. True once, for the first epoch after the warm-up."""
    return config.updates_labels and epoch == config.warmup + 1


def label_step_due(config: TrainConfig, epoch: int) -> bool:
    """CDUL step 2, label step: whether `epoch` ends with it. True for every k-th epoch after the warm-up, k = `label_every`.

    The step of the last epoch does not change the weights any more, but the refined labels include it.
    """
    since = epoch - config.warmup
    return config.method == "cdul" and since > 0 and since % config.label_every == 0


def stopping_measure_due(config: TrainConfig, epoch: int) -> bool:
    """CCD step 2, label-free stopping: whether `epoch` ends with its measure. True for every epoch after the warm-up."""
    return config.method == "ccd" and config.stopping and epoch > config.warmup


def predictions_due(config: TrainConfig, epoch: int) -> bool:
    """Whether the end of `epoch` needs predictions of all photos."""
    return label_step_due(config, epoch) or stopping_measure_due(config, epoch)


def schedule_warnings(config: TrainConfig) -> list[str]:
    """A line for each part of the method that does not happen within `config.epochs`."""
    lines, epochs = [], range(1, config.epochs + 1)
    if config.method == "cdul" and not any(label_step_due(config, epoch) for epoch in epochs):
        lines.append(
            f"warning: the labels do not change: `epochs={config.epochs}` with `warmup={config.warmup}` and "
            f"`label_every={config.label_every}` has no label step"
        )
    if config.two_views and config.warmup >= config.epochs:
        missing = "no label update and no strong views" if config.method == "ccd" else "no strong views"
        lines.append(f"warning: all epochs are warm-up (`epochs={config.epochs}`, `warmup={config.warmup}`): {missing}")
    return lines


def plan_line(state: TrainingState) -> str:
    """One line about the training before its first step: network, photos, steps, precision and device."""
    config, distributed, threads = state.config, state.distributed, torch.get_num_threads()
    line = f"training {config.arch} ({config.size} px, {len(state.model.classes)} classes) on {len(state.photos):,} photos: "
    line += f"{_count(config.epochs - state.epochs, 'epoch')} of {steps_per_epoch(state)} steps of {config.batch_size} photos"
    line += f", {state.precision} on {distributed.device.type}"
    line += f", {distributed.world_size} processes" if distributed.world_size > 1 else ""
    return line + (f", {_count(threads, 'thread')}" if distributed.device.type == "cpu" else "")


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def steps_per_epoch(state: TrainingState) -> int:
    return math.ceil(len(state.photos) / state.config.batch_size)


def forecast_line(state: TrainingState, seconds_per_step: float, steps: int) -> str:
    """How long all epochs that are left will take, if a step with one view of each photo takes `seconds_per_step`.

    `steps` is the number of steps that were timed. Strong views count twice, and predictions FORWARD_SHARE of an epoch.
    """
    config = state.config
    epochs = range(state.epochs + 1, config.epochs + 1)
    work = sum(1 + strong_views_due(config, e) + FORWARD_SHARE * predictions_due(config, e) for e in epochs)
    work += FORWARD_SHARE * (not predictions_due(config, config.epochs))  # for the thresholds
    line = f"about {duration(work * steps_per_epoch(state) * seconds_per_step)} for {_count(len(epochs), 'epoch')}"
    line += f", from the first {steps} batches"
    return line + (", without the label update" if any(label_update_due(config, e) for e in epochs) else "")


def duration(seconds: float) -> str:
    """A number of seconds in words, to two digits.

    >>> duration(8.3), duration(740), duration(9000), duration(200_000)
    ('8 s', '12 min', '2.5 h', '56 h')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"


# The report of every epoch: its facts, as a line of text, and in `model.log.csv` beside the model


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
    facts, there = {}, {*truth.paths}
    for name, scores in tables.items():
        known = [row for row in (~scores.isnan().all(1)).nonzero().flatten().tolist() if photos[row].path in there]
        table = Labels([photos[row].path for row in known], classes, scores[known])
        facts[f"{name}_mAP_{REPORT_ONLY}"] = mean_average_precision(table, truth)[0] if known else math.nan
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
    known = [(name.removesuffix(f"_{REPORT_ONLY}"), value) for name, value in facts.items() if not math.isnan(value)]
    shown = [f"{name.replace('_', ' ')} {100 * value:.1f}" for name, value in known]
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
