"""The student's training, written out in order: CDUL's weight steps and label steps in turns.

Letters: N photos, C classes, B photos of one weight step, H W pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .cdul import bernoulli_entropy, bernoulli_kl_with_logits, update_latent
from .checkpoint import Checkpoint, save_checkpoint
from .classifier import Classifier
from .config import InputError, OptionError, TrainConfig
from .epochlog import REPORT_ONLY, EpochLog, epoch_line
from .files import check_output
from .images import Photo, PhotoViews, photo_batches
from .labels import Labels, mean_average_precision, write_labels
from .predict import autocast, score_photos
from .run import Run, resume_file, resume_run, save_run, start_run
from .talk import SILENT, Talk
from .workers import Workers

DEFAULT_THRESHOLD = 0.5
PREDICT_BATCH = 32  # photos of one pass through the network in a label step


def train(
    labels: Labels,
    output: str | Path,
    *,
    config: TrainConfig | None = None,
    truth: Labels | None = None,
    save_labels: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    offline: bool = False,
    loaders: int = 2,
    workers: Workers | None = None,
    talk: Talk = SILENT,
) -> Checkpoint:
    """Train a student on pseudo labels and write it to `output`: CDUL (ICCV 2023), step 2, gradient alignment.

    With `config.method` "cdul" weights and labels learn in turns; with "fixed" the labels stay. The refined labels go to
    `save_labels`. Labels that are NaN (not known) take no part and stay so. Photos that cannot be read are left out and
    listed in `meta["skipped"]`. `truth` adds mAPs to what is reported of every epoch, and changes nothing else.

    Every epoch's end is kept beside `output` (`model.resume.pt`), so that `resume` loses at most one epoch and ends
    as if never stopped; its facts are in `model.log.csv`. Raises InputError for labels or settings that do not fit, and
    when the loss is not finite.
    """
    config, workers = config or TrainConfig(), workers or Workers()
    kept = resume_file(output)
    if workers.is_main:
        _check_outputs(config, output, save_labels, kept, resume, overwrite)
    run = start_run(labels, config, offline, workers, talk)
    if resume:
        resume_run(run, kept)
    _announce(run, talk)
    log = EpochLog(output, run.log) if workers.is_main else None

    while run.epochs < config.epochs:
        # Weight steps: the labels stand still.
        before = run.targets  # (N, C)
        loss, speed = weight_epoch(run, before, loaders, talk)

        # Label step: the weights stand still.
        moves = label_step_due(config, run.epochs + 1)
        predictions = predict_all(run, loaders, talk) if moves or truth else None  # (N, C)
        if moves:
            run.latent = label_step(run.latent, predictions, config)

        # Report.
        run.epochs += 1
        row = {"epoch": run.epochs, "loss": loss, "photos_per_second": speed, **label_facts(before, run.targets, moves)}
        if truth:
            row |= {
                "labels_mAP": _mean_ap(run, run.targets, truth),
                "predictions_mAP": _mean_ap(run, predictions, truth),
            }
        run.log.append({f"{k}_{REPORT_ONLY}" if k.endswith("mAP") else k: v for k, v in row.items()})
        talk.say(epoch_line(run.log[-1]))

        # Save.
        run.skipped = {path: reason for part in workers.gather(run.skipped) for path, reason in part.items()}
        if log:
            save_run(run, kept)
            log.write(run.log)
        workers.wait()

    checkpoint = _finished(run, labels)
    if log:
        log.close()
        if save_labels:
            write_labels(refined_labels(run, labels), save_labels, overwrite=overwrite)
        save_checkpoint(checkpoint, output)
        kept.unlink(missing_ok=True)
    return checkpoint


def weight_epoch(run: Run, targets: Tensor, loaders: int, talk: Talk) -> tuple[float, float]:
    """CDUL step 2, weight steps: one pass over the photos towards targets (N, C). The mean loss, and photos a second."""
    config, epoch = run.config, run.epochs
    started, seen, total = time.monotonic(), 0, 0.0
    with talk.bar(f"epoch {epoch + 1}/{config.epochs}", len(run.photos), "photos") as bar:
        for rows, pixels, bad in epoch_batches(run.photos, epoch, config, loaders, run.workers):
            run.skipped |= bad
            loss, count = weight_step(run.model, run.optimizer, pixels, targets[rows], run.workers)
            if not math.isfinite(loss):
                kept = f"epoch {epoch} is kept, --resume --epochs {epoch} writes it as a model"
                raise InputError(
                    f"the loss is not finite in epoch {epoch + 1}: lower --lr (now {config.lr:g}); "
                    + (kept if epoch else "nothing was kept")
                )
            seen, total = seen + count, total + loss * count
            bar.update(count, f"loss {total / max(1, seen):.4f}")
    if not seen:
        raise InputError(f"not one of {len(run.photos)} labelled photos can be read; see which with `mlclip predict`")
    return total / seen, seen / (time.monotonic() - started)


def weight_step(
    model: Classifier, optimizer: torch.optim.Optimizer, pixels: Tensor, targets: Tensor, workers: Workers
) -> tuple[float, int]:
    """One step on uint8 pixels (B, 3, H, W) towards targets (B, C) in [0, 1] or NaN: the mean Bernoulli KL, and B.

    B counts the photos of all processes, and the loss is their common mean: how many processes share a step changes
    neither the loss nor the gradient.
    """
    device = workers.device
    count = int(workers.sum(torch.tensor(len(pixels), device=device)))
    if not count:
        return 0.0, 0
    pixels = pixels.to(device, memory_format=torch.channels_last, non_blocking=True)
    targets = targets.to(device)
    known = ~targets.isnan()
    model.train()
    with autocast(device):
        logits = model(pixels)  # (B, C)
    logits = torch.where(known, logits.float(), 0.0)
    divergence = bernoulli_kl_with_logits(torch.where(known, targets, 0.5), logits)  # (B,); an unknown label adds 0
    loss = divergence.sum() / count
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    workers.sum_gradients(model.parameters())
    optimizer.step()
    return float(workers.sum(loss.detach())), count


def label_step_due(config: TrainConfig, epoch: int) -> bool:
    """Whether epoch number `epoch`, from 1, ends with a label step: every k-th one after the warm-up does.

    The last epoch's moves no weight any more, but the refined labels have it.
    """
    since = epoch - config.warmup
    return config.method == "cdul" and since > 0 and since % config.label_every == 0


def label_step(latent: Tensor, predictions: Tensor, config: TrainConfig) -> Tensor:
    """CDUL step 2, label step: the new latent labels (N, C); rows without a prediction (NaN) stay.

    All photos move together, by predictions (N, C) in [0, 1] made on the un-augmented photos after the epoch.
    """
    moved = update_latent(latent, predictions, config.label_rate, config.sigma)
    return torch.where(predictions.isnan(), latent, moved)


def predict_all(run: Run, loaders: int, talk: Talk) -> Tensor:
    """The student's scores (N, C) of the run's photos, un-augmented; the same on every process; NaN where unreadable."""
    workers = run.workers
    rows = workers.share(list(range(len(run.photos))))
    scores, unreadable = score_photos(
        run.model, [run.photos[row] for row in rows], device=workers.device, batch_size=PREDICT_BATCH, loaders=loaders,
        talk=talk, label="  predicting",
    )  # fmt: skip
    run.skipped |= {run.photos[rows[index]].path: reason for index, reason in unreadable}
    everyone = torch.full_like(run.given, float("nan"))
    for part, values in workers.gather((rows, scores)):
        everyone[part] = values
    return everyone


def label_facts(before: Tensor, after: Tensor, moved: bool) -> dict[str, float]:
    """Of labels (N, C) in [0, 1] or NaN: their mean entropy in nats after the epoch, and how many crossed ½ in it."""
    crossed = ((before >= 0.5) != (after >= 0.5)) & ~after.isnan()
    entropy = float(bernoulli_entropy(after).nanmean())
    return {"label_entropy": entropy, "labels_moved": int(moved), "labels_crossed_half": int(crossed.sum())}


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


def refined_labels(run: Run, labels: Labels) -> Labels:
    """The labels as the run left them, for the photos that could be read."""
    kept = [row for row, photo in enumerate(run.photos) if photo.path not in run.skipped]
    meta = {**labels.meta, "refined": run.identity["settings"], "skipped": sorted(map(list, run.skipped.items()))}
    return Labels([run.photos[row].path for row in kept], labels.classes, run.targets[kept], labels.root, meta)


def _check_outputs(
    config: TrainConfig, output: str | Path, save_labels: str | Path | None, kept: Path, resume: bool, overwrite: bool
) -> None:
    check_output(output, overwrite=overwrite)
    if kept.exists() and not (resume or overwrite):
        raise InputError(
            f"{kept} holds an unfinished training; add --resume to go on with it, or --overwrite to start anew"
        )
    if save_labels:
        if config.method == "fixed":
            raise OptionError("--save-labels: labels do not change with --method fixed; add --method cdul")
        check_output(save_labels, overwrite=overwrite)


def _announce(run: Run, talk: Talk) -> None:
    config = run.config
    if run.epochs:
        talk.say(f"going on after epoch {run.epochs}")
    if config.method == "cdul" and not any(label_step_due(config, n + 1) for n in range(config.epochs)):
        talk.say(
            f"warning: {config.epochs} epochs with --warmup {config.warmup} and --label-every {config.label_every} have no "
            "label step; the labels stay as they are"
        )


def _mean_ap(run: Run, scores: Tensor, truth: Labels) -> float:
    """mAP in [0, 1] of scores (N, C) of the run's photos. For the report: nothing else may call this."""
    known = (~scores.isnan().all(1)).nonzero().flatten().tolist()
    paths = [run.photos[row].path for row in known]
    return mean_average_precision(Labels(paths, run.model.classes, scores[known]), truth)[0]


def _finished(run: Run, labels: Labels) -> Checkpoint:
    meta = {**run.identity, "root": labels.root, "labels_meta": labels.meta}
    meta["skipped"] = sorted(map(list, run.skipped.items()))
    return Checkpoint(run.model.eval(), torch.full((len(labels.classes),), DEFAULT_THRESHOLD), meta)
