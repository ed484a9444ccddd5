"""A training between two epochs: how it starts, what is kept of it, how it is taken up again.

Letters: N photos, C classes.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from ..config import InputError, TrainConfig
from ..distributed import Distributed, sync_batch_norm
from ..files import beside, load_plain, save_plain
from ..images import Photo
from ..labels.table import Labels
from ..methods.cdul import latent_of
from ..progress import Progress
from ..student.init import new_student, start_bias
from ..student.model import Classifier
from ..student.predict import fast_layout
from .weight_average import start_average


@dataclass
class TrainingState:
    """Everything that the next epoch needs; `epochs` are done, `log` has a row of facts for each."""

    config: TrainConfig
    distributed: Distributed
    model: Classifier
    optimizer: torch.optim.Optimizer
    photos: list[Photo]  # N
    given: Tensor  # (N, C) the labels that came with the photos, or CCD's update of them, in [0, 1] or NaN
    latent: Tensor | None  # (N, C) CDUL's ỹ, row = photo; None where labels do not learn
    identity: dict  # settings, and the labels' fingerprint: what a resumed run must share
    epochs: int = 0
    skipped: dict[str, str] = field(default_factory=dict)  # path -> reason
    log: list[dict[str, float]] = field(default_factory=list)
    update: dict = field(default_factory=dict)  # how CCD's label update came about, once it is made
    average: AveragedModel | None = None  # of the model's weights so far; None where the last step's are what counts

    @property
    def student(self) -> Classifier:
        """Who predicts, points and is saved: the average of the model that takes the weight steps, or that model itself."""
        return self.average.module if self.average else self.model

    @property
    def history(self) -> list[float]:
        """CCD's label-free measure of every epoch that has it."""
        measured = [row["stopping_measure"] for row in self.log if "stopping_measure" in row]
        return [value for value in measured if not math.isnan(value)]

    @property
    def targets(self) -> Tensor:
        """(N, C) the labels of the moment in [0, 1], NaN where not known."""
        return self.given if self.latent is None else self.latent.sigmoid()


def start_training(
    labels: Labels, config: TrainConfig, offline: bool, distributed: Distributed, progress: Progress
) -> TrainingState:
    """The run before its first epoch. Raises InputError where labels, photos and settings do not fit together."""
    photos, missing = labelled_photos(labels)
    if config.batch_size % distributed.world_size:
        raise InputError(
            f"--batch-size {config.batch_size} cannot be shared evenly by {distributed.world_size} processes; make it a multiple"
        )
    if len(photos) < 2:
        raise InputError(f"{len(photos)} labelled photo is too few to train on; label at least 2")
    given = labels.scores[[row for row, _ in photos]]  # (N, C)
    if given.isnan().all():
        raise InputError("the labels say nothing: not one score of the photos that are here is known; label them again")
    torch.manual_seed(config.seed)
    model, origin = new_student(config, labels, offline)
    progress.log(origin)
    start_bias(model, given)
    fast_layout(model, distributed.device)
    sync_batch_norm(model, distributed)
    optimizer = torch.optim.Adam(
        [
            {"params": model.trunk.parameters()},
            {"params": model.head.parameters(), "lr": config.lr * config.head_lr_factor},
        ],
        lr=config.lr,
    )
    latent = latent_of(given) if config.method == "cdul" else None
    identity = {"settings": asdict(config), "labels": fingerprint(labels)}
    average = start_average(model, config.average) if config.average else None
    return TrainingState(
        config, distributed, model, optimizer, [p for _, p in photos], given, latent, identity, skipped=missing, average=average
    )  # fmt: skip


def labelled_photos(labels: Labels) -> tuple[list[tuple[int, Photo]], dict[str, str]]:
    """(row of labels, photo) for every row whose file is there, and path -> reason for the others."""
    found, missing = [], {}
    for row, path in enumerate(labels.paths):
        file = os.path.join(labels.root, path)
        try:
            stat = os.stat(file)
            found.append((row, Photo(path, file, stat.st_size, stat.st_mtime_ns)))
        except OSError as error:
            missing[path] = error.strerror
    if not found:
        raise InputError(
            f"none of the {len(labels.paths)} labelled photos is under {labels.root}; say where they are with --root"
        )
    return found, missing


def fingerprint(labels: Labels) -> str:
    """A hash of what a training run depends on in its labels: classes, paths and scores."""
    digest = hashlib.sha256(repr((labels.classes, labels.paths)).encode("utf-8", "surrogateescape"))
    digest.update(labels.scores.numpy().tobytes())
    return digest.hexdigest()


def resume_file(output: str | Path) -> Path:
    """Where training towards `output` keeps what it needs to go on: `model.pt` -> `model.resume.pt`."""
    return beside(output, ".resume.pt")


def save_state(state: TrainingState, file: Path) -> None:
    """Keep the run as it stands after its last epoch, atomically."""
    content: dict[str, Any] = {"format": "mlclip.resume", "version": 1, "run": state.identity, "epochs": state.epochs}
    content |= {"weights": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}
    content |= {"given": state.given, "latent": state.latent, "update": state.update}
    content |= {"average": state.average.state_dict() if state.average else None}
    save_plain(content | {"skipped": state.skipped, "log": state.log}, file)


def resume_state(state: TrainingState, file: Path) -> None:
    """Put a fresh run where `save_state` left it; nothing happens where there is no such file.

    Raises InputError where the file belongs to other labels or other settings; a different --epochs is allowed.
    """
    if not file.exists():
        return
    saved = load_plain(file, kind="resume", made_by="mlclip train --overwrite")
    held = saved["run"]
    settings = {"average": 0.0, **held["settings"]}  # trainings of before there was an average had none
    changed = [k for k, v in state.identity["settings"].items() if k != "epochs" and settings.get(k) != v]
    if held["labels"] != state.identity["labels"]:
        changed.append("labels")
    if changed:
        raise InputError(
            f"{file} was trained with another {', '.join(changed)}; --resume needs the same; --overwrite starts anew"
        )
    state.model.load_state_dict(saved["weights"])
    state.optimizer.load_state_dict(saved["optimizer"])
    if state.average:
        state.average.load_state_dict(saved["average"])
    state.given, state.latent, state.update = saved["given"], saved["latent"], saved["update"]
    state.epochs, state.log = int(saved["epochs"]), saved["log"]
    state.skipped |= saved["skipped"]
