"""The state of a training between two epochs, what it depends on, and the file in which it is saved.

Letters: N photos, C classes.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..config import InputError, TrainConfig
from ..distributed import Distributed, Runtime
from ..files import FORMAT_VERSION, beside, load_plain, refused, save_plain
from ..images import Photo
from ..labels.review import corrected_cells, corrections_of
from ..labels.table import Labels
from ..student.model import Classifier

if TYPE_CHECKING:
    from .input_cache import InputCache
    from .weight_step import WeightAverage


@dataclass
class TrainingState:
    """Everything that the next epoch needs. `epochs` are done; `log` has one row of facts for each of them."""

    config: TrainConfig
    runtime: Runtime
    model: Classifier
    optimizer: torch.optim.Optimizer
    photos: list[Photo]  # N
    labels: Tensor  # (N, C) the labels at the start, or after CCD's label update, in [0, 1] or NaN
    latent: Tensor | None  # (N, C) CDUL's ỹ, row = photo; None for methods without label steps
    corrected: Tensor | None  # (N, C) corrections: 1, 0, or NaN for none; None if nothing was corrected
    identity: dict = field(default_factory=dict)  # settings and labels, see `identity_of`
    epochs: int = 0
    skipped: dict[str, str] = field(default_factory=dict)  # path -> reason
    log: list[dict[str, float]] = field(default_factory=list)
    update: dict = field(default_factory=dict)  # facts of CCD's label update for the report; empty before it
    average: WeightAverage | None = None  # of the model's weights so far; None without averaging
    network: nn.Module | None = None  # the model, or torch's DistributedDataParallel around it
    precision: str = "fp32"  # of the weight steps: "fp32" or "bf16"
    cache: InputCache | None = None  # of the decoded photos; None where every epoch decodes them
    forecast: str = ""  # how long the training takes, as it was told

    def __post_init__(self):
        self.network = self.network or self.model

    @property
    def distributed(self) -> Distributed:
        return self.runtime.distributed

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


def identity_of(labels: Labels, config: TrainConfig) -> dict:
    """What a training depends on: its settings and its labels. A resumed training must have the same.

    The cache of its photos changes nothing, and a training may be continued with or without it.
    """
    settings = {name: value for name, value in asdict(config).items() if name != "cache"}
    digest = hashlib.sha256(repr((labels.classes, labels.paths)).encode("utf-8", "surrogateescape"))
    digest.update(labels.scores.numpy().tobytes())
    if corrections_of(labels):
        digest.update(corrected_cells(labels, labels.paths).numpy().tobytes())
    return {"settings": settings, "labels": digest.hexdigest()}


OF_PHOTOS = ("content", "fitted")  # of a table's `meta`: a hash of each photo, and what the labels were fitted to


def model_meta(identity: dict, labels: Labels, skipped: dict[str, str]) -> dict:
    """The `meta` of a trained model. `skipped`: path -> reason."""
    hierarchy = {"hierarchy": labels.meta["hierarchy"]} if "hierarchy" in labels.meta else {}
    meta = {name: value for name, value in labels.meta.items() if name not in OF_PHOTOS}
    facts = {"root": labels.root, "labels_meta": meta, "skipped": sorted(map(list, skipped.items()))}
    return {**identity, **hierarchy, **facts}


def resume_file(output: str | Path) -> Path:
    """The file with the state of an unfinished training that writes `output`: `model.pt` -> `model.resume.pt`."""
    return beside(output, ".resume.pt")


def save_state(state: TrainingState, file: Path) -> None:
    """Save the training after its last finished epoch, atomically."""
    content: dict[str, Any] = {
        "format": "mlclip.resume",
        "version": FORMAT_VERSION,
        "run": state.identity,
        "epochs": state.epochs,
        "weights": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "given": state.labels,
        "latent": state.latent,
        "update": state.update,
        "average": state.average.state_dict() if state.average else None,
        "precision": state.precision,
        "photos": [photo.path for photo in state.photos],
        "skipped": state.skipped,
        "log": state.log,
    }
    save_plain(content, file)


def read_state(file: Path, identity: dict) -> dict:
    """The content of a file that `save_state` wrote. InputError if its settings (other than `epochs`) or labels differ."""
    saved = load_plain(file, kind="resume", made_by="mlclip train --overwrite")
    settings = saved["run"]["settings"]
    changed = [
        f"`{name}` was {settings.get(name)}, is {value}"
        for name, value in identity["settings"].items()
        if name not in ("epochs", "preset") and settings.get(name) != value
    ]
    if saved["run"]["labels"] != identity["labels"]:
        changed.append("the labels have changed")
    if changed:
        remedy = "`resume=True` needs the same settings and labels; `overwrite=True` starts again."
        raise InputError(f"{file} cannot be continued: {', '.join(changed)}. {remedy}")
    return saved


def restore(state: TrainingState, saved: dict, file: Path) -> None:
    """Set a new training to the state that `save_state` wrote to `file`. InputError if its photos differ, or if it is damaged."""
    paths = [photo.path for photo in state.photos]
    lost, new = sorted(set(saved["photos"]) - set(paths)), sorted(set(paths) - set(saved["photos"]))
    if saved["photos"] != paths:
        when, which = ("now", lost) if lost else ("then", new)
        what = f"photos missing {when}: {len(which)}, such as {which[0]}" if which else "the photos have another order"
        remedy = "Put the photos back as they were, or pass `overwrite=True` to start again."
        raise InputError(f"{file} cannot be continued: {what}. {remedy}")
    what = f"{file} is damaged: it does not fit {state.config.arch} with {state.labels.shape[1]} classes"
    damaged = (RuntimeError, ValueError, LookupError, TypeError, AttributeError)
    with refused(what, "`overwrite=True` starts again.", *damaged):
        if saved["given"].shape != state.labels.shape:
            raise ValueError(f"'given' has shape {tuple(saved['given'].shape)}, not {tuple(state.labels.shape)}")
        if (saved["latent"] is None) != (state.latent is None):
            raise ValueError("'latent' is of another method")
        state.model.load_state_dict(saved["weights"])
        groups = state.optimizer.state_dict()["param_groups"]  # equal to the saved ones, as the settings are
        state.optimizer.load_state_dict({"state": saved["optimizer"]["state"], "param_groups": groups})
        for parameter, moments in state.optimizer.state.items():
            shapes = {name: tuple(moment.shape) for name, moment in moments.items()}
            if shapes != {"step": (), "exp_avg": tuple(parameter.shape), "exp_avg_sq": tuple(parameter.shape)}:
                raise ValueError("'optimizer' has other tensors than Adam's")
        if state.average:
            state.average.load_state_dict(saved["average"])
            if state.average.n_averaged < 0:
                raise ValueError("'average' has a negative number of steps")
    state.labels, state.latent, state.update = saved["given"], saved["latent"], saved["update"]
    state.epochs, state.log = int(saved["epochs"]), saved["log"]
    state.skipped |= saved["skipped"]
    if saved["precision"] != "fp16":  # of an earlier version
        state.precision = saved["precision"]
