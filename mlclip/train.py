"""The student's training, written out in order: weight steps, what happens to the labels, report, save.

Letters: N photos, C classes.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from torch import Tensor

from . import ccd
from .checkpoint import Checkpoint, save_checkpoint
from .config import InputError, OptionError, TrainConfig
from .epochlog import EpochLog, epoch_line
from .files import check_output
from .judge import judge_of
from .labels import Labels, write_labels
from .labelsteps import (
    epoch_facts,
    label_step,
    label_step_due,
    measure_due,
    predict_all,
    refined_labels,
    update_due,
    update_labels,
)
from .localviews import Annotated
from .run import Run, resume_file, resume_run, save_run, start_run
from .talk import SILENT, Talk
from .teacher import Teacher
from .thresholds import match_expected_positives
from .weightsteps import weight_epoch
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
    kept, parts = resume_file(output), Path(output).with_suffix(".update")
    if workers.is_main:
        _check_outputs(config, output, save_labels, kept, resume, overwrite)
    run = start_run(labels, config, offline, workers, talk)
    judge = judge_of(labels, teacher, other_teacher=other_teacher) if config.looks_again else None
    if resume:
        resume_run(run, kept)
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
        facts |= epoch_facts(run, before, predictions, truth, moved=moves, measured=measured)
        run.log.append(facts)
        talk.say(epoch_line(facts))

        # Save.
        run.skipped = {path: reason for part in workers.gather(run.skipped) for path, reason in part.items()}
        if log:
            save_run(run, kept)
            log.write(run.log)
        workers.wait()

    scores = predictions if predictions is not None else predict_all(run, loaders, talk)  # (N, C) of the final weights
    checkpoint = _finished(run, labels, scores, talk)
    if log:
        log.close()
        if save_labels:
            write_labels(refined_labels(run, labels), save_labels, overwrite=overwrite)
        save_checkpoint(checkpoint, output)
        kept.unlink(missing_ok=True)
        _remove(parts)
    return checkpoint


def _check_outputs(
    config: TrainConfig, output: str | Path, save_labels: str | Path | None, kept: Path, resume: bool, overwrite: bool
) -> None:
    check_output(output, overwrite=overwrite)
    if kept.exists() and not (resume or overwrite):
        raise InputError(
            f"{kept} holds an unfinished training; add --resume to go on with it, or --overwrite to start anew"
        )
    if save_labels:
        if config.method != "cdul" and not config.looks_again:
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
