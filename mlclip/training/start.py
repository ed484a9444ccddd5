"""How a training starts: its photos, labels and model, or the state of a training that was stopped.

Letters: N photos, C classes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config import InputError, TrainConfig
from ..distributed import Distributed
from ..images import Photo
from ..images.names import photo_file
from ..images.shards import locate
from ..labels.table import Labels
from ..methods.cdul import latent_of
from ..progress import Progress
from ..student.init import new_student, start_bias
from ..student.model import Classifier
from ..student.predict import fast_layout
from ..teacher.fill import check_same_photos
from ..teacher.store import contents_of
from .batch_norm import sync_batch_norm
from .identity import check_same_training, identity_of
from .precision import choose_training_precision
from .resume import check_photos, read_state, restore
from .state import TrainingState, corrected_photos
from .weight_average import start_average

PHOTOS_AT_ONCE = 256  # whose content is compared, between two steps of the progress bar


def start_training(
    labels: Labels,
    config: TrainConfig,
    offline: bool,
    num_workers: int,
    distributed: Distributed,
    progress: Progress,
    resume_from: Path | None = None,
) -> TrainingState:
    """A training before its first epoch, or in the state saved in `resume_from` if that file exists.

    Raises InputError if labels, photos and settings do not fit together, or do not match the saved training.
    """

    def read() -> dict | None:
        return read_state(resume_from, identity_of(labels, config)) if resume_from and resume_from.exists() else None

    saved = distributed.on_main(read)  # ranks never start in different epochs
    state = _new_training(labels, config, offline, num_workers, distributed, progress)
    if saved:
        check_photos(state.photos, saved.get("photos"), resume_from)
        try:
            restore(state, saved)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"{resume_from} is damaged: it does not fit {config.arch} with {len(labels.classes)} classes ({reason}). "
                "`overwrite=True` starts again."
            ) from error
        progress.log(f"continuing after epoch {state.epochs}")
    return state


def _new_training(
    labels: Labels,
    config: TrainConfig,
    offline: bool,
    num_workers: int,
    distributed: Distributed,
    progress: Progress,
) -> TrainingState:
    if config.batch_size % distributed.world_size:
        size = distributed.world_size
        raise InputError(
            f"`batch_size={config.batch_size}` cannot be divided evenly among {size} processes. Use a multiple of {size}."
        )
    photos, scores, missing = training_photos(labels, config, num_workers, distributed, progress)
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
    labels: Labels, config: TrainConfig, num_workers: int, distributed: Distributed, progress: Progress
) -> tuple[list[Photo], Tensor, dict[str, str]]:
    """The N labelled photos that exist, their labels (N, C), and path -> reason of the others.

    Says how many photos have changed since they were labelled. InputError if they are too few, or if the ranks have different
    photos, labels or settings.
    """
    check_same_training(identity_of(labels, config), distributed)
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
    if distributed.is_main:
        _warn_of_changed(labels, found, num_workers, progress)
    return [photo for _, photo in found], scores, missing


def _warn_of_changed(labels: Labels, found: list[tuple[int, Photo]], num_workers: int, progress: Progress) -> None:
    """Say how many of the photos (row of the labels, photo) have another content than when they were labelled.

    `meta["content"]` has the hash of each labelled photo, uint8 (N, 16). Nothing is said about labels without it.
    """
    hashes = labels.meta.get("content")
    if not isinstance(hashes, Tensor) or len(hashes) != len(labels.paths):
        return
    changed = []
    with progress.bar("comparing photos", len(found), "photos") as bar:
        for first in range(0, len(found), PHOTOS_AT_ONCE):
            part = found[first : first + PHOTOS_AT_ONCE]
            contents = contents_of([photo for _, photo in part], num_workers)
            changed += [
                photo.path
                for (row, photo), content in zip(part, contents, strict=True)
                if content
                not in (None, hashes[row].numpy().tobytes())  # None: the training says that it cannot be read
            ]
            bar.update(len(part))
    if changed:
        progress.log(
            f"{len(changed):,} of {len(found):,} photos changed since they were labelled, such as {changed[0]}. They keep their "
            "old labels; label them again with `mlclip pseudolabel`"
        )


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
