"""The state of a training between two epochs: how it starts, how it is saved, how it is restored.

Letters: N photos, C classes.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config import InputError, TrainConfig
from ..distributed import Distributed
from ..files import beside, load_plain, save_plain
from ..images import Photo
from ..images.names import photo_file
from ..images.shards import locate
from ..labels.corrections import corrected_cells, corrections_of
from ..labels.table import Labels
from ..methods.cdul import latent_of
from ..progress import Progress
from ..student.init import new_student, start_bias
from ..student.model import Classifier
from ..student.predict import fast_layout
from ..teacher.shared_store import check_same_photos
from .batch_norm import sync_batch_norm
from .input_cache import InputCache
from .precision import choose_training_precision
from .weight_average import WeightAverage, start_average


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

    def read() -> dict | None:
        return _read_state(resume_from, identity_of(labels, config)) if resume_from and resume_from.exists() else None

    saved = distributed.on_main(read)  # ranks never start in different epochs
    state = _new_training(labels, config, offline, distributed, progress)
    if saved:
        _check_photos(state.photos, saved.get("photos"), resume_from)
        try:
            _restore(state, saved)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"{resume_from} is damaged: it does not fit {config.arch} with {len(labels.classes)} classes ({reason}). "
                "`overwrite=True` starts again."
            ) from error
        progress.log(f"continuing after epoch {state.epochs}")
    return state


def _check_photos(photos: list[Photo], saved: object, file: Path | None) -> None:
    """InputError unless the photos are those of the saved training; files from before photos were saved have none."""
    paths = [photo.path for photo in photos]
    if saved is None or saved == paths:
        return
    before = set(saved) if isinstance(saved, list) else set()
    lost, new = sorted(before - set(paths)), sorted(set(paths) - before)
    what = (
        f"photos missing now: {len(lost)}, such as {lost[0]}"
        if lost
        else f"photos missing then: {len(new)}, such as {new[0]}"
    )
    raise InputError(
        f"{file} cannot be continued: {what}. Put the photos back as they were, or pass `overwrite=True` to start again."
    )


def _new_training(
    labels: Labels, config: TrainConfig, offline: bool, distributed: Distributed, progress: Progress
) -> TrainingState:
    if config.batch_size % distributed.world_size:
        size = distributed.world_size
        raise InputError(
            f"`batch_size={config.batch_size}` cannot be divided evenly among {size} processes. Use a multiple of {size}."
        )
    photos, scores, missing = training_photos(labels, config, distributed)
    model = new_model(labels, scores, config, offline, distributed, progress)
    sync_batch_norm(model, distributed)
    return TrainingState(
        config,
        distributed,
        model,
        _optimizer(model, config),
        photos,
        scores,
        latent_of(scores) if config.method == "cdul" else None,
        corrected_photos(labels, photos),
        identity_of(labels, config),
        skipped=missing,
        average=start_average(model, config.average) if config.average else None,
        network=_data_parallel(model, distributed),
        precision=distributed.all_gather(choose_training_precision(config.precision, config.arch, distributed.device))[
            0
        ],
    )


def training_photos(
    labels: Labels, config: TrainConfig, distributed: Distributed
) -> tuple[list[Photo], Tensor, dict[str, str]]:
    """The N labelled photos that exist, their labels (N, C), and path -> reason of the others.

    InputError if they are too few, or if the ranks have different photos, labels or settings.
    """
    _check_same_training(identity_of(labels, config), distributed)
    with distributed.together():
        found, missing = labelled_photos(labels)
    check_same_photos([photo for _, photo in found], distributed)
    if len(found) < 2:
        raise InputError(f"{len(found)} labelled photo is not enough to train on. Label at least 2.")
    scores = labels.scores[[row for row, _ in found]]  # (N, C)
    if scores.isnan().all():
        raise InputError(
            "no label is known: all scores of the photos that were found are empty. Label the photos again."
        )
    return [photo for _, photo in found], scores, missing


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


def new_model(
    labels: Labels, scores: Tensor, config: TrainConfig, offline: bool, distributed: Distributed, progress: Progress
) -> Classifier:
    """The student before training, on its device. `scores` (N, C) are the labels of the photos that exist."""
    torch.manual_seed(config.seed)
    with distributed.together():
        model, origin = new_student(config, labels, offline)
    progress.log(origin)
    start_bias(model, scores)
    model = fast_layout(model, distributed.device)
    distributed.copy_from_main(model)
    return model


def _data_parallel(model: Classifier, distributed: Distributed) -> nn.Module:
    """On several GPUs, `model` in torch's DistributedDataParallel, which sends gradients while others are still computed."""
    if distributed.world_size == 1 or distributed.device.type != "cuda":
        return model
    return DistributedDataParallel(
        model, process_group=distributed.group, broadcast_buffers=False, gradient_as_bucket_view=True
    )


def _optimizer(model: Classifier, config: TrainConfig) -> torch.optim.Optimizer:
    head = {"params": list(model.head.parameters()), "lr": config.lr * config.head_lr_factor}
    groups = [{"params": list(model.trunk.parameters())}, head]  # lists: they may be read twice
    try:
        return torch.optim.Adam(groups, lr=config.lr, fused=True)
    except RuntimeError:  # a device without a fused Adam
        return torch.optim.Adam(groups, lr=config.lr)


def labelled_photos(labels: Labels) -> tuple[list[tuple[int, Photo]], dict[str, str]]:
    """(row of labels, photo) for every row whose file exists, and path -> reason for the other rows.

    InputError if a path leads out of the folder `labels.root`.
    """
    found, missing = [], {}
    for row, path in enumerate(labels.paths):
        file = photo_file(labels.root, path)
        try:
            place = locate(file)
            found.append((row, Photo(path, file, place.size, place.mtime_ns)))
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            missing[path] = getattr(error, "strerror", None) or "not a valid path"
    if not found:
        raise InputError(
            f"none of the {len(labels.paths)} labelled photos is in {labels.root}. Pass the folder of the photos as `root`."
        )
    return found, missing


def identity_of(labels: Labels, config: TrainConfig) -> dict:
    """What a training depends on: its settings and its labels. A resumed training must have the same.

    The cache of its photos changes nothing, and a training may be continued with or without it.
    """
    settings = {name: value for name, value in asdict(config).items() if name != "cache"}
    return {"settings": settings, "labels": fingerprint(labels)}


def _check_same_training(identity: dict, distributed: Distributed) -> None:
    """InputError on every rank, unless all ranks have the same labels and settings."""
    every = distributed.all_gather(identity)
    for rank, other in enumerate(every):
        settings = zip(other["settings"].items(), every[0]["settings"].values(), strict=True)
        differ = [f"`{name}`" for (name, value), main in settings if value != main]
        differ += ["the labels"] if other["labels"] != every[0]["labels"] else []
        if differ:
            raise InputError(
                f"rank {rank} and rank 0 differ in {', '.join(differ)}. Every rank needs the same labels and settings."
            )


def model_meta(identity: dict, labels: Labels, skipped: dict[str, str]) -> dict:
    """The `meta` of a trained model. `skipped`: path -> reason."""
    hierarchy = {name: labels.meta[name] for name in ("hierarchy",) if name in labels.meta}
    facts = {"root": labels.root, "labels_meta": labels.meta, "skipped": sorted(map(list, skipped.items()))}
    return {**identity, **hierarchy, **facts}


def fingerprint(labels: Labels) -> str:
    """A hash of the parts of the labels that a training depends on: classes, paths, scores and corrections."""
    digest = hashlib.sha256(repr((labels.classes, labels.paths)).encode("utf-8", "surrogateescape"))
    digest.update(labels.scores.numpy().tobytes())
    if corrections_of(labels):
        digest.update(corrected_cells(labels, labels.paths).numpy().tobytes())
    return digest.hexdigest()


def resume_file(output: str | Path) -> Path:
    """The file with the state of an unfinished training that writes `output`: `model.pt` -> `model.resume.pt`."""
    return beside(output, ".resume.pt")


def save_state(state: TrainingState, file: Path) -> None:
    """Save the training after its last finished epoch, atomically."""
    content: dict[str, Any] = {"format": "mlclip.resume", "version": 1, "run": state.identity, "epochs": state.epochs}
    content |= {"weights": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}
    content |= {"given": state.labels, "latent": state.latent, "update": state.update}
    content |= {"average": state.average.state_dict() if state.average else None, "precision": state.precision}
    content |= {"photos": [photo.path for photo in state.photos]}
    save_plain(content | {"skipped": state.skipped, "log": state.log}, file)


def _read_state(file: Path, identity: dict) -> dict:
    """The content of a file that `save_state` wrote. InputError if its settings (other than `epochs`) or labels differ."""
    saved = load_plain(file, kind="resume", made_by="mlclip train --overwrite")
    older = {
        "average": 0.0,
        "precision": "auto",
        "head_init": "labels",
        "augment": "flip",
        "correction_weight": TrainConfig.correction_weight,
    }  # files without these settings
    settings = {**older, **saved["run"]["settings"]}
    changed = [
        f"`{name}` was {settings.get(name)}, is {value}"
        for name, value in identity["settings"].items()
        if name not in ("epochs", "preset") and settings.get(name) != value
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
    precision = saved.get("precision", state.precision if state.distributed.device.type == "cuda" else "fp32")
    if precision != "fp16" or state.distributed.device.type == "cuda":  # which a GPU may have saved
        state.precision = precision


def share_skipped(state: TrainingState) -> None:
    """Give every rank the skipped photos of all ranks."""
    for skipped in state.distributed.all_gather(state.skipped):
        state.skipped = state.skipped | skipped
