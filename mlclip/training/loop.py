"""The student's training, written out in order: weight steps, what happens to the labels, report, save.

Letters: N photos, C classes.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from torch import Tensor

from ..config import InputError, OptionError, TrainConfig
from ..distributed import Distributed
from ..files import beside, check_output
from ..labels.table import Labels, write_labels
from ..methods import ccd
from ..methods.thresholds import match_expected_positives
from ..progress import SILENT, Progress
from ..student.checkpoint import Checkpoint, save_checkpoint
from ..teacher.scoring import Teacher
from .crop_labels import crop_scorer_for
from .epoch_log import EpochLog, epoch_line
from .label_step import epoch_facts, label_step, predict_all, refined_labels, update_labels
from .local_views import Annotated
from .schedule import label_step_due, label_update_due, stopping_measure_due
from .state import TrainingState, resume_file, resume_state, save_state, start_training
from .weight_step import weight_epoch


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
    num_workers: int = 2,
    distributed: Distributed | None = None,
    progress: Progress = SILENT,
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
    config, distributed = config or TrainConfig(), distributed or Distributed()
    kept, parts = resume_file(output), beside(output, ".update")
    if distributed.is_main:
        _check_outputs(config, output, save_labels, kept, resume, overwrite)
    state = start_training(labels, config, offline, distributed, progress)
    scorer = crop_scorer_for(labels, teacher, other_teacher=other_teacher) if config.updates_labels else None
    if resume:
        resume_state(state, kept)
    _announce(state, progress)
    log = EpochLog(output, state.log) if distributed.is_main else None

    predictions = None
    while state.epochs < config.epochs and ccd.acceleration(state.history) is None:
        # CCD's label update, once: the student points, the teacher looks again.
        if label_update_due(config, state.epochs) and not state.update:
            state.given, state.update = update_labels(state, scorer, annotated, parts, num_workers, progress)

        # Weight steps: the labels stand still.
        before = state.targets  # (N, C)
        loss, speed = weight_epoch(state, before, num_workers, progress)

        # CDUL's label step: the weights stand still.
        moves, measured = label_step_due(config, state.epochs + 1), stopping_measure_due(config, state.epochs + 1)
        predictions = predict_all(state, num_workers, progress) if moves or measured or truth else None  # (N, C)
        if moves:
            state.latent = label_step(state.latent, predictions, config)

        # Report.
        state.epochs += 1
        facts = {"epoch": state.epochs, "loss": loss, "photos_per_second": speed}
        facts |= epoch_facts(state, before, predictions, truth, moved=moves, measured=measured)
        state.log.append(facts)
        progress.log(epoch_line(facts))

        # Save.
        state.skipped = {
            path: reason for part in distributed.all_gather(state.skipped) for path, reason in part.items()
        }
        if log:
            save_state(state, kept)
            log.write(state.log)
        distributed.barrier()

    scores = (
        predictions if predictions is not None else predict_all(state, num_workers, progress)
    )  # (N, C) of the final weights
    checkpoint = _finished(state, labels, scores, progress)
    if log:
        log.close()
        if save_labels:
            write_labels(refined_labels(state, labels), save_labels, overwrite=overwrite)
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
        if config.method != "cdul" and not config.updates_labels:
            raise OptionError("--save-labels: labels do not change so; add --method cdul, or ccd with local views")
        check_output(save_labels, overwrite=overwrite)


def _announce(state: TrainingState, progress: Progress) -> None:
    config = state.config
    if state.epochs:
        progress.log(f"going on after epoch {state.epochs}")
    if config.method == "cdul" and not any(label_step_due(config, n + 1) for n in range(config.epochs)):
        progress.log(
            f"warning: --epochs {config.epochs} with --warmup {config.warmup} and --label-every {config.label_every} has no "
            "label step; the labels stay as they are"
        )
    if config.two_views and config.warmup >= config.epochs:
        lost = "no label update, no strong views" if config.method == "ccd" else "no strong views"
        progress.log(f"warning: --epochs {config.epochs} is all warm-up (--warmup {config.warmup}): {lost}")


def _remove(folder: Path) -> None:
    """The finished parts of a label update, and only those."""
    for file in folder.glob("part-*.pt"):
        file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _finished(state: TrainingState, labels: Labels, scores: Tensor, progress: Progress) -> Checkpoint:
    """The model as it leaves training, with thresholds; `scores` (N, C) are its own of the photos it learned."""
    if state.epochs < state.config.epochs:
        why = "the label-free measure accelerates (--no-stopping goes on)"
        progress.log(f"stopped after epoch {state.epochs} of {state.config.epochs}: {why}")
    meta = {**state.identity, "root": labels.root, "labels_meta": labels.meta}
    meta["skipped"] = sorted(map(list, state.skipped.items()))
    return Checkpoint(state.student.eval(), match_expected_positives(scores, state.targets), meta)
