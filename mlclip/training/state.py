"""The state of a training between two epochs.

Letters: N photos, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..distributed import Distributed
from ..images import Photo
from ..labels.corrections import corrected_cells
from ..labels.table import Labels
from ..student.model import Classifier
from .input_cache import InputCache
from .weight_average import WeightAverage


@dataclass
class TrainingState:
    """Everything that the next epoch needs. `epochs` are done; `log` has one row of facts for each of them."""

    config: TrainConfig
    distributed: Distributed
    model: Classifier
    optimizer: torch.optim.Optimizer
    photos: list[Photo]  # N
    labels: Tensor  # (N, C) the labels at the start, or after CCD's label update, in [0, 1] or NaN
    latent: Tensor | None  # (N, C) CDUL's ỹ, row = photo; None for methods without label steps
    corrected: Tensor | None  # (N, C) corrections: 1, 0, or NaN for none; None if nothing was corrected
    identity: dict  # settings and the fingerprint of the labels, which a resumed training must share
    epochs: int = 0
    skipped: dict[str, str] = field(default_factory=dict)  # path -> reason
    log: list[dict[str, float]] = field(default_factory=list)
    update: dict = field(default_factory=dict)  # facts of CCD's label update for the report; empty before it
    average: WeightAverage | None = None  # of the model's weights so far; None without averaging
    network: nn.Module | None = None  # the model, or torch's DistributedDataParallel around it
    precision: str = "fp32"  # of the weight steps: "fp32", "bf16" or "fp16"
    cache: InputCache | None = None  # of the decoded photos; None where every epoch decodes them
    forecast: str = ""  # how long the training takes, as it was told

    def __post_init__(self):
        self.network = self.network or self.model

    @property
    def student(self) -> Classifier:
        """The model that predicts, gives class maps and is saved: the average of the trained model, or that model itself."""
        return self.average.module if self.average else self.model

    @property
    def history(self) -> list[float]:
        """CCD's stopping measure of every epoch that has one."""
        measured = [row["stopping_measure"] for row in self.log if "stopping_measure" in row]
        return [value for value in measured if not math.isnan(value)]

    @property
    def targets(self) -> Tensor:
        """(N, C) the current labels in [0, 1], NaN where not known."""
        return self.labels if self.latent is None else pinned(self.latent.sigmoid(), self.corrected)

    @property
    def weights(self) -> Tensor | None:
        """(N, C) factors of the labels' losses; None is 1 for all."""
        return label_weights(self.corrected, self.config)


def corrected_photos(labels: Labels, photos: list[Photo]) -> Tensor | None:
    """The corrections of photos (N, C), see `corrected_cells`; None if there are none."""
    cells = corrected_cells(labels, [photo.path for photo in photos])
    return None if cells.isnan().all() else cells


def label_weights(corrected: Tensor | None, config: TrainConfig) -> Tensor | None:
    """Factors (N, C) of the labels' losses: `correction_weight` for corrected labels, 1 for all others."""
    return None if corrected is None else torch.where(corrected.isnan(), 1.0, config.correction_weight)


def pinned(labels: Tensor, corrected: Tensor | None) -> Tensor:
    """Labels (N, C) with the corrected ones set to what the person said."""
    return labels if corrected is None else torch.where(corrected.isnan(), labels, corrected)


def share_skipped(state: TrainingState) -> None:
    """Give every rank the skipped photos of all ranks."""
    for skipped in state.distributed.all_gather(state.skipped):
        state.skipped = state.skipped | skipped
