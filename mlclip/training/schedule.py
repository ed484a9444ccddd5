"""When each part of a training happens. No other module decides this.

Epochs are counted from 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..config import TrainConfig
from ..methods import ccd


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


def changes_labels(config: TrainConfig) -> bool:
    """Whether the method of the training changes labels."""
    return config.method == "cdul" or config.updates_labels


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
