"""How a training starts: its photos, labels and model, or the state of a training that was stopped.

Letters: N photos, C classes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config import InputError, OptionError, TrainConfig
from ..distributed import Distributed, Runtime
from ..files import check_output
from ..images import Photo
from ..images.names import photo_file
from ..images.shards import locate
from ..labels.sheet import check_table_output
from ..labels.table import Labels
from ..methods.cdul import latent_of
from ..student.init import new_student, start_bias
from ..student.model import Classifier
from ..student.predict import fast_layout
from ..teacher.fill import check_same
from ..teacher.store import contents_of
from .state import TrainingState, corrected_photos, identity_of, read_state, restore, resume_file
from .weight_step import WeightAverage, choose_training_precision

PHOTOS_AT_ONCE = 256  # whose content is compared, between two steps of the progress bar


def check_outputs(
    config: TrainConfig, output: str | Path, save_labels: str | Path | None, resume: bool, overwrite: bool
) -> None:
    """InputError if a file is there that the training must not replace, or a state that it must not forget."""
    state_file = resume_file(output)
    check_output(output, overwrite=overwrite)
    probe = config.method == "probe"
    if state_file.exists() and not overwrite and (probe or not resume):
        other = "A probe has no epochs to continue: use the `method` of that training"
        remedy = other if probe else "Pass `resume=True` to continue it"
        raise InputError(f"{state_file} holds an unfinished training. {remedy}, or `overwrite=True` to start again.")
    if overwrite and not resume:
        state_file.unlink(missing_ok=True)  # else a later `resume` would continue the older training
    if save_labels:
        if not (config.method == "cdul" or config.updates_labels):
            ways = '`method="cdul"`, or `method="ccd"` with local views'
            raise OptionError(f"`save_labels` needs a training that changes the labels. Use {ways}.")
        check_table_output(save_labels, overwrite=overwrite)


def start_training(
    labels: Labels, config: TrainConfig, runtime: Runtime, *, offline: bool = False, resume_from: Path | None = None
) -> TrainingState:
    """A training before its first epoch, or in the state saved in `resume_from` if that file exists."""
    distributed, identity, saved = runtime.distributed, identity_of(labels, config), None
    ranks = distributed.world_size
    if resume_from:  # ranks never start in different epochs
        saved = distributed.on_main(lambda: read_state(resume_from, identity) if resume_from.exists() else None)
    if config.batch_size % ranks:
        raise InputError(f"`batch_size={config.batch_size}` must be a multiple of {ranks}, the number of processes.")
    photos, scores, missing = training_photos(labels, config, runtime)
    model = new_model(labels, scores, config, runtime, offline)
    sync_batch_norm(model, distributed)
    precision = choose_training_precision(config.precision, config.arch, distributed.device)
    precision = distributed.all_gather(precision)[0]
    network = model
    if ranks > 1 and distributed.device.type == "cuda":  # it sends gradients while others are computed
        settings = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
        network = DistributedDataParallel(model, process_group=distributed.group, **settings)
    head = {"params": list(model.head.parameters()), "lr": config.lr * config.head_lr_factor}
    groups = [{"params": list(model.trunk.parameters())}, head]  # lists: they may be read twice
    try:
        optimizer = torch.optim.Adam(groups, lr=config.lr, fused=True)
    except RuntimeError:  # a device without a fused Adam
        optimizer = torch.optim.Adam(groups, lr=config.lr)
    latent = latent_of(scores) if config.method == "cdul" else None
    state = TrainingState(config, runtime, model, optimizer, photos, scores, latent, corrected_photos(labels, photos))
    state.identity, state.skipped, state.network, state.precision = identity, missing, network, precision
    state.average = WeightAverage(model, config.average) if config.average else None
    if saved:
        restore(state, saved, resume_from)
        runtime.progress.log(f"continuing after epoch {state.epochs}")
    return state


def training_photos(
    labels: Labels, config: TrainConfig, runtime: Runtime
) -> tuple[list[Photo], Tensor, dict[str, str]]:
    """The N labelled photos that exist, their labels (N, C), and path -> reason of the others.

    Says how many photos have changed since they were labelled. InputError if they are too few, or if the ranks have different
    photos, labels or settings.
    """
    distributed, identity = runtime.distributed, identity_of(labels, config)
    facts = {f"`{name}`": value for name, value in identity["settings"].items()} | {"the labels": identity["labels"]}
    with distributed.together():
        found, missing = labelled_photos(labels)
    check_same(facts, [photo for _, photo in found], distributed)
    if len(found) < 2:
        raise InputError(f"{len(found)} labelled photo is not enough to train on. Label at least 2.")
    scores = labels.scores[[row for row, _ in found]]  # (N, C)
    if scores.isnan().all():
        raise InputError("no label is known: the scores of all photos that were found are empty. Label them again.")
    if distributed.is_main:
        _warn_of_changed(labels, found, runtime)
    return [photo for _, photo in found], scores, missing


def _warn_of_changed(labels: Labels, found: list[tuple[int, Photo]], runtime: Runtime) -> None:
    """Say how many of the photos (row of the labels, photo) have another content than when they were labelled.

    `meta["content"]` has the hash of each labelled photo, uint8 (N, 16). Nothing is said about labels without it.
    """
    hashes, changed = labels.meta.get("content"), []
    if not isinstance(hashes, Tensor) or len(hashes) != len(labels.paths):
        return
    with runtime.progress.bar("comparing photos", len(found), "photos") as bar:
        for first in range(0, len(found), PHOTOS_AT_ONCE):
            part = found[first : first + PHOTOS_AT_ONCE]
            contents = contents_of([photo for _, photo in part], runtime.num_workers)
            for (row, photo), content in zip(part, contents, strict=True):
                if content not in (None, hashes[row].numpy().tobytes()):
                    changed.append(photo.path)
            bar.update(len(part))
    if changed:
        what = f"{len(changed):,} of {len(found):,} photos changed since they were labelled, such as {changed[0]}"
        runtime.progress.log(f"{what}. They keep their old labels; label them again with `mlclip pseudolabel`")


def labelled_photos(labels: Labels) -> tuple[list[tuple[int, Photo]], dict[str, str]]:
    """(row of labels, photo) for every row whose file exists, and path -> reason for the other rows."""
    found, missing = [], {}
    for row, path in enumerate(labels.paths):
        file = photo_file(labels.root, path)
        try:
            place = locate(file)
            found.append((row, Photo(path, file, place.size, place.mtime_ns)))
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            missing[path] = getattr(error, "strerror", None) or "not a valid path"
    if not found:
        raise InputError(f"none of the {len(labels.paths)} labelled photos is in {labels.root}. Pass their `root`.")
    return found, missing


def new_model(labels: Labels, scores: Tensor, config: TrainConfig, runtime: Runtime, offline: bool) -> Classifier:
    """The student before training, on its device. `scores` (N, C) are the labels of the photos that exist."""
    torch.manual_seed(config.seed)
    with runtime.distributed.together():
        model, origin = new_student(config, labels, offline)
    runtime.progress.log(origin)
    start_bias(model, scores)
    model = fast_layout(model, runtime.device)
    runtime.distributed.copy_from_main(model)
    return model


def sync_batch_norm(model: nn.Module, distributed: Distributed) -> None:
    """Let every batch norm of `model` use the photos of all ranks, in place. With one rank nothing changes."""
    if distributed.world_size == 1:
        return
    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if type(norm) is not nn.BatchNorm2d:
                continue
            if distributed.device.type == "cuda":
                made = GpuSyncBatchNorm(norm.num_features, norm.eps, norm.momentum, process_group=distributed.group)
            else:
                made = CpuSyncBatchNorm(norm.num_features, norm.eps, norm.momentum)
            for key, tensor in [*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)]:
                setattr(made, key, tensor)
            setattr(parent, name, made.train(norm.training))


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches (B, C, H, W) of all ranks together. B may be 0 on this rank.

    It is used on the CPU, where torch's own SyncBatchNorm does not run. The result equals `nn.BatchNorm2d` on the whole
    batch, up to rounding.
    """

    def forward(self, features: Tensor) -> Tensor:
        from torch.distributed.nn.functional import all_reduce  # the sum over the ranks, differentiable

        if not self.training:
            return super().forward(features)
        axes, wide = (0, 2, 3), features.float()
        cells = features.numel() // features.shape[1]
        sums = all_reduce(torch.cat([wide.sum(axes), wide.new_tensor([float(cells)])]))  # (C + 1,)
        count = sums[-1].detach()
        mean = sums[:-1] / count  # (C,)
        centred = wide - mean[:, None, None]
        variance = all_reduce(centred.square().sum(axes)) / count  # (C,)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(features.dtype)


class GpuSyncBatchNorm(nn.SyncBatchNorm):
    """torch's SyncBatchNorm for mixed precision with an empty batch on some ranks.

    torch communicates float32 statistics for a batch in half precision, but half-precision zeros for an empty one. The
    messages of the ranks would then have different sizes.
    """

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features if len(features) else features.float())
