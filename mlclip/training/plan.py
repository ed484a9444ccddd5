"""What a training is going to do, and how long it will take."""

from __future__ import annotations

import math

import torch

from .schedule import label_update_due, predictions_due, strong_views_due
from .state import TrainingState

FORECAST_STEPS = (
    20  # the time of all epochs is estimated from these first weight steps of a training; the very first does not count
)
FORWARD_SHARE = 1 / 3  # of the time of a weight step: predicting the same photos


def plan_line(state: TrainingState) -> str:
    """One line about the training before its first step: network, photos, steps, precision and device."""
    config, distributed = state.config, state.distributed
    left, photos = config.epochs - state.epochs, len(state.photos)
    line = f"training {config.arch} ({config.size} px, {len(state.model.classes)} classes) on {photos:,} photos: "
    line += f"{left} epoch{'s' * (left != 1)} of {steps_per_epoch(state)} steps of {config.batch_size} photos"
    where = f"{state.precision} on {distributed.device.type}"
    if distributed.world_size > 1:
        where += f", {distributed.world_size} processes"
    if distributed.device.type == "cpu":
        where += f", {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() != 1)}"
    return f"{line}, {where}"


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
    line = f"about {duration(work * steps_per_epoch(state) * seconds_per_step)} for {len(epochs)} epoch"
    line += f"{'s' * (len(epochs) != 1)}, from the first {steps} batches"
    return line + ", without the label update" * any(label_update_due(config, e) for e in epochs)


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
