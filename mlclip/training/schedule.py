"""When each part of a training happens: the four questions that the loop asks of every epoch.

Epochs are counted from 1; `epochs_done` counts finished ones.
"""

from __future__ import annotations

from ..config import TrainConfig


def strong_views_due(config: TrainConfig, epochs_done: int) -> bool:
    """CCD step 2, consistency: the next epoch compares two views of each photo. True for every epoch after the warm-up."""
    return config.two_views and config.consistency > 0 and epochs_done >= config.warmup


def label_step_due(config: TrainConfig, epoch: int) -> bool:
    """CDUL step 2, label step: `epoch` ends with one. True for every k-th epoch after the warm-up, k = `label_every`.

    The step of the last epoch changes no weight any more, but the refined labels include it.
    """
    since = epoch - config.warmup
    return config.method == "cdul" and since > 0 and since % config.label_every == 0


def label_update_due(config: TrainConfig, epochs_done: int) -> bool:
    """CCD step 2, label update: it comes before the next epoch. True once, when the warm-up is over."""
    return config.updates_labels and epochs_done == config.warmup


def stopping_measure_due(config: TrainConfig, epoch: int) -> bool:
    """CCD step 2, label-free stopping: `epoch` ends with its measure. True for every epoch after the warm-up."""
    return config.method == "ccd" and config.stopping and epoch > config.warmup
