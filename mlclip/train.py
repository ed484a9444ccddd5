"""The student's training, written out in order.

Letters: N photos, C classes, B photos of one weight step, H W pixels.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from .cdul import bernoulli_kl_with_logits
from .checkpoint import Checkpoint, save_checkpoint
from .classifier import CLIP_ARCH, Classifier, clip_trunk, load_trunk, weights_of_file
from .clip import load_clip
from .config import InputError, TrainConfig
from .files import check_output, load_plain, save_plain
from .images import Photo, PhotoViews, photo_batches
from .labels import Labels
from .predict import autocast, fast_layout
from .talk import SILENT, Talk
from .workers import Workers

DEFAULT_THRESHOLD = 0.5
RAREST = 1e-3  # the head's first bias takes no class to be rarer than this


def train(
    labels: Labels,
    output: str | Path,
    *,
    config: TrainConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    offline: bool = False,
    loaders: int = 2,
    workers: Workers | None = None,
    talk: Talk = SILENT,
) -> Checkpoint:
    """Train a student on pseudo labels and write it to `output`.

    Every epoch's end is kept beside `output` (`model.resume.pt`), so that `resume` loses at most one epoch and ends
    as if never stopped; labels that are NaN (not known) take no part. Photos that cannot be read are left out and listed in
    `meta["skipped"]`. Raises InputError for labels or settings that do not fit, and when the loss is not finite.
    """
    config, workers = config or TrainConfig(), workers or Workers()
    kept = resume_file(output)
    if workers.is_main:
        check_output(output, overwrite=overwrite)
        if kept.exists() and not (resume or overwrite):
            raise InputError(
                f"{kept} holds an unfinished training; add --resume to go on with it, or --overwrite to start anew"
            )
    photos, skipped = labelled_photos(labels)
    _check_batch(config, len(photos), workers)
    targets = labels.scores[[row for row, _ in photos]]  # (N, C)
    torch.manual_seed(config.seed)
    model, origin = new_student(config, labels, offline)
    start_bias(model, targets)
    fast_layout(model, workers.device)
    optimizer = torch.optim.Adam(
        [
            {"params": model.trunk.parameters()},
            {"params": model.head.parameters(), "lr": config.lr * config.head_lr_factor},
        ],
        lr=config.lr,
    )
    run = {"settings": asdict(config), "labels": fingerprint(labels)}
    done = _load_state(kept, run, model, optimizer, workers) if resume else 0
    talk.say(f"going on after epoch {done}" if done else origin)

    for epoch in range(done, config.epochs):
        started, seen, total = time.monotonic(), 0, 0.0
        with talk.bar(f"epoch {epoch + 1}/{config.epochs}", len(photos), "photos") as bar:
            for rows, pixels, bad in epoch_batches([p for _, p in photos], epoch, config, loaders, workers):
                skipped |= bad
                loss, count = weight_step(model, optimizer, pixels, targets[rows], workers)
                if not math.isfinite(loss):
                    raise InputError(
                        f"the loss is not finite in epoch {epoch + 1}: lower --lr (now {config.lr:g}); "
                        + (
                            f"epoch {epoch} is kept, --resume --epochs {epoch} writes it as a model"
                            if epoch
                            else "nothing was kept"
                        )
                    )
                seen, total = seen + count, total + loss * count
                bar.update(count, f"loss {total / seen:.4f}")
        talk.say(f"epoch {epoch + 1}: loss {total / seen:.4f}, {seen / (time.monotonic() - started):.0f} photos/s")
        if workers.is_main:
            _save_state(kept, run, model, optimizer, epoch + 1)
        workers.wait()

    skipped = {path: reason for part in workers.gather(skipped) for path, reason in part.items()}
    meta = {**run, "root": labels.root, "labels_meta": labels.meta, "skipped": sorted(map(list, skipped.items()))}
    checkpoint = Checkpoint(model.eval(), torch.full((len(labels.classes),), DEFAULT_THRESHOLD), meta)
    if workers.is_main:
        save_checkpoint(checkpoint, output)
        kept.unlink(missing_ok=True)
    return checkpoint


def new_student(config: TrainConfig, labels: Labels, offline: bool) -> tuple[Classifier, str]:
    """The untrained student and a line on what it starts from.

    `init` "clip" takes the image ResNet of the labels' own teacher; so does arch "clip-resnet" with a CLIP's file.
    """
    if config.init == "clip":
        teacher = labels.meta.get("clip")
        if not teacher:
            raise InputError(
                f"--init clip: these labels do not say which CLIP made them; add --arch {CLIP_ARCH} --init FILE"
            )
        clip = load_clip(teacher["name"], offline=offline)
        if clip.sha256 != teacher["sha256"]:
            raise InputError(f"--init clip: {teacher['name']} is not the CLIP that made the labels (another sha256)")
        state, origin = clip.state_dict(), f"CLIP {teacher['name']}"
    elif config.arch == CLIP_ARCH:
        if config.init in ("imagenet", "none"):
            raise InputError(f"--arch {CLIP_ARCH} takes its shape from a CLIP: add --init clip, or --init FILE")
        state, origin = weights_of_file(config.init), config.init
    else:
        model = Classifier(config.arch, labels.classes, config.size)
        return model, load_trunk(model, config.init, offline=offline)
    model = Classifier(CLIP_ARCH, labels.classes, config.size, trunk=clip_trunk(state, origin))
    return model, f"the student starts from the image ResNet of {origin}"


@torch.no_grad()
def start_bias(model: Classifier, targets: Tensor) -> None:
    """Let the head's bias say each class's mean label from the start: targets (N, C) in [0, 1] or NaN.

    Most classes are absent from most photos. From a bias of 0 the whole network would first be bent to say so, which at
    these learning rates takes much of the training; and a bias is what says it best.
    """
    frequency = targets.nanmean(dim=0).nan_to_num(0.5)
    model.head.bias.copy_(torch.logit(frequency, eps=RAREST))


def weight_step(
    model: Classifier, optimizer: torch.optim.Optimizer, pixels: Tensor, targets: Tensor, workers: Workers
) -> tuple[float, int]:
    """One step on uint8 pixels (B, 3, H, W) towards targets (B, C) in [0, 1] or NaN: the mean Bernoulli KL, and B.

    B counts the photos of all processes, and the loss is their common mean: how many processes share a step changes
    neither the loss nor the gradient.
    """
    device = workers.device
    pixels = pixels.to(device, memory_format=torch.channels_last, non_blocking=True)
    targets = targets.to(device)
    known = ~targets.isnan()
    model.train()
    with autocast(device):
        logits = model(pixels)  # (B, C)
    logits = torch.where(known, logits.float(), 0.0)
    divergence = bernoulli_kl_with_logits(torch.where(known, targets, 0.5), logits)  # (B,); an unknown label adds 0
    count = workers.sum(torch.tensor(len(pixels), device=device))
    loss = divergence.sum() / count.clamp(min=1)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    workers.sum_gradients(model.parameters())
    optimizer.step()
    return float(workers.sum(loss.detach())), int(count)


def epoch_batches(
    photos: list[Photo], epoch: int, config: TrainConfig, loaders: int, workers: Workers
) -> Iterator[tuple[Tensor, Tensor, dict[str, str]]]:
    """This process's part of every weight step of an epoch: rows (B,), uint8 pixels (B, 3, H, W), unreadable photos.

    Order and flips depend on the seed and the epoch alone, not on batch size, loader processes, or process count.
    Every process gets the same number of steps; a part may be empty.
    """
    chance = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
    torch.manual_seed(config.seed * 100_003 + epoch)  # for trunks with stochastic depth
    order = torch.randperm(len(photos), generator=chance).tolist()
    flipped = torch.rand(len(photos), generator=chance) < 0.5
    dataset = PhotoViews(photos, config.size)
    local = config.batch_size // workers.size
    batches = iter(photo_batches(dataset, batch_size=local, workers=loaders, order=workers.share(order)))
    for _ in range(math.ceil(len(photos) / config.batch_size)):
        rows, pixels, unreadable = next(batches, (torch.empty(0, dtype=torch.long), None, []))
        bad = {photos[index].path: reason for index, reason in unreadable}
        if pixels is None:
            yield rows, torch.empty(0, 3, config.size, config.size, dtype=torch.uint8), bad
            continue
        pixels = pixels[:, 0]  # (B, 3, H, W)
        flip = flipped[rows]
        pixels[flip] = pixels[flip].flip(-1)
        yield rows, pixels, bad


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


def _check_batch(config: TrainConfig, photos: int, workers: Workers) -> None:
    if config.batch_size % workers.size:
        raise InputError(
            f"--batch-size {config.batch_size} cannot be shared evenly by {workers.size} processes; make it a multiple"
        )
    if photos < 2:
        raise InputError(f"{photos} labelled photo is too few to train on; label at least 2")


def fingerprint(labels: Labels) -> str:
    """A hash of what a training run depends on in its labels: classes, paths and scores."""
    digest = hashlib.sha256(repr((labels.classes, labels.paths)).encode("utf-8", "surrogateescape"))
    digest.update(labels.scores.numpy().tobytes())
    return digest.hexdigest()


def resume_file(output: str | Path) -> Path:
    """Where training towards `output` keeps what it needs to go on: `model.pt` -> `model.resume.pt`."""
    return Path(output).with_suffix(".resume.pt")


def _save_state(file: Path, run: dict, model: Classifier, optimizer: torch.optim.Optimizer, epochs: int) -> None:
    content = {"format": "mlclip.resume", "version": 1, "run": run, "epochs": epochs}
    save_plain({**content, "weights": model.state_dict(), "optimizer": optimizer.state_dict()}, file)


def _load_state(file: Path, run: dict, model: Classifier, optimizer: torch.optim.Optimizer, workers: Workers) -> int:
    """Restore the last epoch's end; the number of epochs done, 0 where there is nothing to go on from."""
    if not file.exists():
        return 0
    state = load_plain(file, kind="resume", made_by="mlclip train --overwrite")
    held = state["run"]
    changed = [k for k, v in run["settings"].items() if k != "epochs" and held["settings"].get(k) != v]
    if held["labels"] != run["labels"]:
        changed.append("labels")
    if changed:
        raise InputError(
            f"{file} was trained with another {', '.join(changed)}; --resume needs the same; --overwrite starts anew"
        )
    model.load_state_dict(state["weights"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["epochs"])
