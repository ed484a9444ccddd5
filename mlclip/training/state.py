"""The state of a training between two epochs: how it starts, how it is saved, how it is restored.

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
    """Everything that the next epoch needs. `epochs` are done; `log` has one row of facts for each of them."""

    config: TrainConfig
    distributed: Distributed
    model: Classifier
    optimizer: torch.optim.Optimizer
    photos: list[Photo]  # N
    labels: Tensor  # (N, C) the labels at the start, or after CCD's label update, in [0, 1] or NaN
    latent: Tensor | None  # (N, C) CDUL's ỹ, row = photo; None for methods without label steps
    identity: dict  # settings and the fingerprint of the labels, which a resumed training must share
    epochs: int = 0
    skipped: dict[str, str] = field(default_factory=dict)  # path -> reason
    log: list[dict[str, float]] = field(default_factory=list)
    update: dict = field(default_factory=dict)  # facts of CCD's label update for the report; empty before it
    average: AveragedModel | None = None  # of the model's weights so far; None without averaging

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
        return self.labels if self.latent is None else self.latent.sigmoid()


def start_training(
    labels: Labels,
    config: TrainConfig,
    offline: bool,
    distributed: Distributed,
    progress: Progress,
    resume_from: Path | None = None,
) -> TrainingState:
    """A training before its first epoch, or in the state saved in `resume_from` if that file exists.

    Raises InputError if labels, photos and settings do not fit together, or do not match the saved training.
    """
    saved = _read_state(resume_from, identity_of(labels, config)) if resume_from and resume_from.exists() else None
    state = _new_training(labels, config, offline, distributed, progress)
    if saved:
        _restore(state, saved)
        progress.log(f"continuing after epoch {state.epochs}")
    return state


def _new_training(
    labels: Labels, config: TrainConfig, offline: bool, distributed: Distributed, progress: Progress
) -> TrainingState:
    photos, missing = labelled_photos(labels)
    if config.batch_size % distributed.world_size:
        size = distributed.world_size
        raise InputError(
            f"`batch_size={config.batch_size}` cannot be divided evenly among {size} processes. Use a multiple of {size}."
        )
    if len(photos) < 2:
        raise InputError(f"{len(photos)} labelled photo is not enough to train on. Label at least 2.")
    scores = labels.scores[[row for row, _ in photos]]  # (N, C)
    if scores.isnan().all():
        raise InputError(
            "no label is known: all scores of the photos that were found are empty. Label the photos again."
        )
    torch.manual_seed(config.seed)
    model, origin = new_student(config, labels, offline)
    progress.log(origin)
    start_bias(model, scores)
    fast_layout(model, distributed.device)
    sync_batch_norm(model, distributed)
    return TrainingState(
        config,
        distributed,
        model,
        _optimizer(model, config),
        [photo for _, photo in photos],
        scores,
        latent_of(scores) if config.method == "cdul" else None,
        identity_of(labels, config),
        skipped=missing,
        average=start_average(model, config.average) if config.average else None,
    )


def _optimizer(model: Classifier, config: TrainConfig) -> torch.optim.Optimizer:
    head = {"params": model.head.parameters(), "lr": config.lr * config.head_lr_factor}
    return torch.optim.Adam([{"params": model.trunk.parameters()}, head], lr=config.lr)


def labelled_photos(labels: Labels) -> tuple[list[tuple[int, Photo]], dict[str, str]]:
    """(row of labels, photo) for every row whose file exists, and path -> reason for the other rows."""
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
            f"none of the {len(labels.paths)} labelled photos is in {labels.root}. Pass the folder of the photos as `root`."
        )
    return found, missing


def identity_of(labels: Labels, config: TrainConfig) -> dict:
    """What a training depends on: its settings and its labels. A resumed training must have the same."""
    return {"settings": asdict(config), "labels": fingerprint(labels)}


def fingerprint(labels: Labels) -> str:
    """A hash of the parts of the labels that a training depends on: classes, paths and scores."""
    digest = hashlib.sha256(repr((labels.classes, labels.paths)).encode("utf-8", "surrogateescape"))
    digest.update(labels.scores.numpy().tobytes())
    return digest.hexdigest()


def resume_file(output: str | Path) -> Path:
    """The file with the state of an unfinished training that writes `output`: `model.pt` -> `model.resume.pt`."""
    return beside(output, ".resume.pt")


def save_state(state: TrainingState, file: Path) -> None:
    """Save the training after its last finished epoch, atomically."""
    content: dict[str, Any] = {"format": "mlclip.resume", "version": 1, "run": state.identity, "epochs": state.epochs}
    content |= {"weights": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}
    content |= {"given": state.labels, "latent": state.latent, "update": state.update}
    content |= {"average": state.average.state_dict() if state.average else None}
    save_plain(content | {"skipped": state.skipped, "log": state.log}, file)


def _read_state(file: Path, identity: dict) -> dict:
    """The content of a file that `save_state` wrote. InputError if its settings (other than `epochs`) or labels differ."""
    saved = load_plain(file, kind="resume", made_by="mlclip train --overwrite")
    settings = {"average": 0.0, **saved["run"]["settings"]}  # files from before weights were averaged have no `average`
    changed = [
        f"`{name}` was {settings.get(name)}, is {value}"
        for name, value in identity["settings"].items()
        if name != "epochs" and settings.get(name) != value
    ]
    if saved["run"]["labels"] != identity["labels"]:
        changed.append("the labels have changed")
    if changed:
        raise InputError(
            f"{file} cannot be continued: {', '.join(changed)}. `resume=True` needs the same settings and labels; "
            "`overwrite=True` starts again."
        )
    return saved


def _restore(state: TrainingState, saved: dict) -> None:
    """Set a new training to the state that `save_state` wrote."""
    state.model.load_state_dict(saved["weights"])
    state.optimizer.load_state_dict(saved["optimizer"])
    if state.average:
        state.average.load_state_dict(saved["average"])
    state.labels, state.latent, state.update = saved["given"], saved["latent"], saved["update"]
    state.epochs, state.log = int(saved["epochs"]), saved["log"]
    state.skipped |= saved["skipped"]


def share_skipped(state: TrainingState) -> None:
    """Give every rank the skipped photos of all ranks."""
    for skipped in state.distributed.all_gather(state.skipped):
        state.skipped = state.skipped | skipped
