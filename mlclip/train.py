"""The student's training, written out in order: weight steps, what happens to the labels, report, save.

Letters: N photos, C classes, B photos of one weight step, H W pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from . import ccd
from .augment import jitter_table, shake_colours
from .cdul import bernoulli_kl_with_logits
from .checkpoint import Checkpoint, save_checkpoint
from .classifier import Classifier
from .config import InputError, OptionError, TrainConfig
from .epochlog import EpochLog, epoch_line
from .files import check_output
from .images import Photo, PhotoViews, photo_batches
from .judge import judge_of
from .labels import Labels, write_labels
from .labelsteps import (
    label_facts,
    label_step,
    label_step_due,
    measure_due,
    predict_all,
    refined_labels,
    stopping_measure,
    true_facts,
    update_due,
    update_labels,
)
from .localviews import Annotated
from .predict import autocast
from .run import Run, resume_file, resume_run, save_run, start_run
from .talk import SILENT, Talk
from .teacher import Teacher
from .thresholds import match_expected_positives
from .workers import Workers


def train(
    labels: Labels,
    output: str | Path,
    *,
    config: TrainConfig | None = None,
    teacher: Teacher | None = None,
    other_teacher: bool = False,
    annotated: Annotated | None = None,
    truth: Labels | None = None,
    save_labels: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    offline: bool = False,
    loaders: int = 2,
    workers: Workers | None = None,
    talk: Talk = SILENT,
) -> Checkpoint:
    """Train a student on pseudo labels and write it to `output`: step 2 of CDUL (ICCV 2023) and of CCD (CVPR 2025).

    `config.method` "fixed": the labels stay. "consistent": they stay, positive cells of the class maps are boosted, and after
    a warm-up a strong view must agree with the weak one: CCD's student without its teacher. "cdul": weights and labels learn
    in turns, by gradient alignment. "ccd": as "consistent", and when the warm-up is over the `teacher`, the CLIP that made the
    labels unless `other_teacher` allows another, looks again where the student points and the labels are updated once; the
    training ends where the label-free measure accelerates. `annotated` boxes are for `config.local_views` "boxes" and "around".

    The labels as they are in the end go to `save_labels`. Labels that are NaN (not known) take no part and stay so. Photos
    that cannot be read are left out and listed in `meta["skipped"]`. `truth` adds mAPs to what is reported of every epoch,
    and changes nothing else. Every epoch's end is kept beside `output` (`model.resume.pt`), so that `resume` loses at most
    one epoch and ends as if never stopped; its facts are in `model.log.csv`.

    The student that is written, and that predicts and points on the way, is the average of the weights over the last
    `config.average` of the training (0, as in the papers: the weights of the last step). Its thresholds are such that of the
    training photos as many have each class as the labels expect. Raises InputError for labels or settings that do not fit,
    and when the loss is not finite.
    """
    config, workers = config or TrainConfig(), workers or Workers()
    parts = Path(output).with_suffix(".update")  # of CCD's label update, as far as it has come
    if workers.is_main:
        _check_outputs(config, output, save_labels, resume, overwrite)
    run = start_run(labels, config, offline, workers, talk)
    asks = config.method == "ccd" and config.local_views != "none"
    judge = judge_of(labels, teacher, other_teacher=other_teacher) if asks else None
    if resume:
        resume_run(run, resume_file(output))
    _announce(run, talk)
    log = EpochLog(output, run.log) if workers.is_main else None

    predictions = None
    while run.epochs < config.epochs and ccd.acceleration(run.history) is None:
        # CCD's label update, once: the student points, the teacher looks again.
        if update_due(run):
            run.given, run.update = update_labels(run, judge, annotated, parts, loaders, talk)

        # Weight steps: the labels stand still.
        before = run.targets  # (N, C)
        loss, speed = weight_epoch(run, before, loaders, talk)

        # CDUL's label step: the weights stand still.
        moves, measured = label_step_due(config, run.epochs + 1), measure_due(config, run.epochs + 1)
        predictions = predict_all(run, loaders, talk) if moves or measured or truth else None  # (N, C)
        if moves:
            run.latent = label_step(run.latent, predictions, config)

        # Report.
        run.epochs += 1
        facts = {"epoch": run.epochs, "loss": loss, "photos_per_second": speed}
        facts |= label_facts(before, run.targets, moves)
        facts |= {"stopping_measure": stopping_measure(predictions, run.targets)} if measured else {}
        facts |= true_facts(run, predictions, truth) if truth else {}
        run.log.append(facts)
        talk.say(epoch_line(facts))

        # Save.
        run.skipped = {path: reason for part in workers.gather(run.skipped) for path, reason in part.items()}
        if log:
            save_run(run, resume_file(output))
            log.write(run.log)
        workers.wait()

    checkpoint = _finished(run, labels, predict_all(run, loaders, talk) if predictions is None else predictions, talk)
    if log:
        log.close()
        if save_labels:
            write_labels(refined_labels(run, labels), save_labels, overwrite=overwrite)
        save_checkpoint(checkpoint, output)
        resume_file(output).unlink(missing_ok=True)
        _remove(parts)
    return checkpoint


def weight_epoch(run: Run, targets: Tensor, loaders: int, talk: Talk) -> tuple[float, float]:
    """One pass of weight steps over the photos towards targets (N, C): the mean loss, and photos a second."""
    config, epoch = run.config, run.epochs
    shakes = None
    if strong_views(config, epoch):
        shakes = jitter_table(len(run.photos), torch.Generator().manual_seed(config.seed * 100_003 + epoch))  # (N, 8)
    started, seen, total = time.monotonic(), 0, 0.0
    with talk.bar(f"epoch {epoch + 1}/{config.epochs}", len(run.photos), "photos") as bar:
        for rows, pixels, bad in epoch_batches(run.photos, epoch, config, loaders, run.workers):
            run.skipped |= bad
            strong = () if shakes is None else (shakes[rows], config.consistency)
            loss, count = weight_step(run.model, run.optimizer, pixels, targets[rows], run.workers, *strong)
            if not math.isfinite(loss):
                kept = f"epoch {epoch} is kept, --resume --epochs {epoch} writes it as a model"
                raise InputError(
                    f"the loss is not finite in epoch {epoch + 1}: lower --lr (now {config.lr:g}); "
                    + (kept if epoch else "nothing was kept")
                )
            if run.average:
                run.average.update_parameters(run.model)
            seen, total = seen + count, total + loss * count
            bar.update(count, f"loss {total / max(1, seen):.4f}")
    if not seen:
        raise InputError(f"not one of {len(run.photos)} labelled photos can be read; see which with `mlclip predict`")
    return total / seen, seen / (time.monotonic() - started)


def weight_step(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    pixels: Tensor,
    targets: Tensor,
    workers: Workers,
    shakes: Tensor | None = None,
    consistency: float = 1.0,
) -> tuple[float, int]:
    """One step on uint8 pixels (B, 3, H, W) towards targets (B, C) in [0, 1] or NaN: the mean loss, and B.

    The loss is the Bernoulli KL divergence, binary cross-entropy but for a constant. With `shakes` (B, 8), rows of
    `augment.jitter_table`, CCD's consistency between the photo and its strong view is added, times `consistency`. B counts
    the photos of all processes and the loss is their common mean: how many share a step changes neither it nor the gradient.
    """
    device = workers.device
    count = int(workers.sum(torch.tensor(len(pixels), device=device)))
    if not count:
        return 0.0, 0
    pixels = pixels.to(device, memory_format=torch.channels_last, non_blocking=True)
    views = pixels if shakes is None else torch.cat([pixels, shake_colours(pixels, shakes)])  # (B or 2·B, 3, H, W)
    targets = targets.to(device)
    known = ~targets.isnan()
    model.train()
    with autocast(device):
        logits = model(views)  # (B or 2·B, C)
    weak, strong = logits[: len(pixels)].float(), logits[len(pixels) :].float()
    seen = torch.where(known, weak, 0.0)
    losses = bernoulli_kl_with_logits(torch.where(known, targets, 0.5), seen)  # (B,); an unknown label adds 0
    if shakes is not None:
        losses = losses + consistency * ccd.consistency_loss(weak, strong)
    loss = losses.sum() / count
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    workers.sum_gradients(model.parameters())
    optimizer.step()
    return float(workers.sum(loss.detach())), count


def strong_views(config: TrainConfig, epochs_done: int) -> bool:
    """Whether the next epoch has CCD's consistency loss: every one after the warm-up."""
    return config.two_views and config.consistency > 0 and epochs_done >= config.warmup


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


def _check_outputs(
    config: TrainConfig, output: str | Path, save_labels: str | Path | None, resume: bool, overwrite: bool
) -> None:
    check_output(output, overwrite=overwrite)
    kept = resume_file(output)
    if kept.exists() and not (resume or overwrite):
        raise InputError(
            f"{kept} holds an unfinished training; add --resume to go on with it, or --overwrite to start anew"
        )
    if save_labels:
        if config.method in ("fixed", "consistent") or config.local_views == "none":
            raise OptionError("--save-labels: labels do not change so; add --method cdul, or ccd with local views")
        check_output(save_labels, overwrite=overwrite)


def _announce(run: Run, talk: Talk) -> None:
    config = run.config
    if run.epochs:
        talk.say(f"going on after epoch {run.epochs}")
    if config.method == "cdul" and not any(label_step_due(config, n + 1) for n in range(config.epochs)):
        talk.say(
            f"warning: --epochs {config.epochs} with --warmup {config.warmup} and --label-every {config.label_every} has no "
            "label step; the labels stay as they are"
        )
    if config.two_views and config.warmup >= config.epochs:
        lost = "no label update, no strong views" if config.method == "ccd" else "no strong views"
        talk.say(f"warning: --epochs {config.epochs} is all warm-up (--warmup {config.warmup}): {lost}")


def _remove(folder: Path) -> None:
    """The finished parts of a label update, and only those."""
    for file in folder.glob("part-*.pt"):
        file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _finished(run: Run, labels: Labels, scores: Tensor, talk: Talk) -> Checkpoint:
    """The model as it leaves training, with thresholds; `scores` (N, C) are its own of the photos it learned."""
    if run.epochs < run.config.epochs:
        why = "the label-free measure accelerates (--no-stopping goes on)"
        talk.say(f"stopped after epoch {run.epochs} of {run.config.epochs}: {why}")
    meta = {**run.identity, "root": labels.root, "labels_meta": labels.meta}
    meta["skipped"] = sorted(map(list, run.skipped.items()))
    return Checkpoint(run.student.eval(), match_expected_positives(scores, run.targets), meta)
