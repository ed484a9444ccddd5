"""The training loop of the student. One epoch is: label update, weight steps, label step, report, save (see `train`, `_epoch`).

Letters: N photos, C classes.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from ..config import CLIP_HEAD, InputError, OptionError, TrainConfig
from ..distributed import Distributed, choose_device
from ..files import beside, check_output
from ..labels.table import Labels, write_labels
from ..progress import SILENT, Progress
from ..student.checkpoint import Checkpoint, save_checkpoint
from ..student.predict import fitted_thresholds
from ..teacher.scoring import Teacher
from .clip_head import train_clip_head
from .crop_labels import crop_scorer_for
from .epoch_log import EpochLog, epoch_line
from .identity import model_meta
from .input_cache import open_input_cache
from .label_step import epoch_facts, label_step, predict_all, refined_labels, update_labels
from .plan import plan_line
from .probe import start_from_probe, train_probe
from .resume import resume_file, save_state
from .schedule import (
    changes_labels,
    label_step_due,
    label_update_due,
    predictions_due,
    schedule_warnings,
    training_is_over,
)
from .start import start_training
from .state import TrainingState, share_skipped
from .weight_step import weight_epoch


def train(
    labels: Labels,
    output: str | Path,
    *,
    config: TrainConfig | None = None,
    teacher: Teacher | None = None,
    other_teacher: bool = False,
    truth: Labels | None = None,
    save_labels: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    offline: bool = False,
    num_workers: int = 2,
    device: str | torch.device | None = None,
    distributed: Distributed | None = None,
    progress: Progress = SILENT,
) -> Checkpoint:
    """Train a student on pseudo labels and write it to `output`: step 2 of CDUL (ICCV 2023) and of CCD (CVPR 2025).

    `config.method` is one of:
    - "fixed": the labels do not change.
    - "probe": as "fixed", and only the head learns, on features that the trunk computes once (see `train_probe`). With
      `arch="clip-head"`, the features are the `teacher`'s own embeddings (see `train_clip_head`).
    - "consistent": CCD's student without its teacher. The labels do not change, positive cells of the class maps are boosted,
      and after a warm-up a strong view must agree with the weak one.
    - "cdul": weights and labels learn alternately, by gradient alignment.
    - "ccd": as "consistent", and after the warm-up the labels are updated once, from the scores that the `teacher` gives to
      the local views. The training ends early when its label-free measure rises faster.

    `teacher` must be the CLIP that made the labels, unless `other_teacher` is True. `save_labels` is the file for the
    labels at the end of the training. `truth` adds mAPs to the report of every epoch and has no other effect. `device`
    (None: a GPU where there is one) is used where `distributed` is None.

    Labels that are NaN (not known) do not enter the loss and do not change. Corrected labels (see `labels.corrections`) do not
    change either, and their losses count `config.correction_weight` times. Photos that cannot be read are skipped and
    listed in `meta["skipped"]`. The state after every epoch is saved beside `output` (`model.resume.pt`), its facts in
    `model.log.csv`. An interrupted training needs `resume=True` to continue; the result is then the same as without the
    interruption. With more than one epoch the photos are decoded once, by `num_workers` threads (see `input_cache`); with
    `config.cache` off, `num_workers` processes decode them again in every epoch. The result is the same.

    The student that predicts and is written has the average of the weights over the last `config.average` of the training
    (0, as in the papers: the weights of the last step). Its thresholds give each class as many training photos as the labels
    expect. Raises InputError if labels, settings and files do not fit together, or if the loss is not finite.
    """
    config = config or TrainConfig()
    distributed = distributed or Distributed(device=choose_device(device or "auto"))
    state_file, update_folder = resume_file(output), beside(output, ".update")
    distributed.on_main(lambda: _check_outputs(config, output, save_labels, state_file, resume, overwrite))
    if config.method == "probe":
        more = {"truth": truth, "num_workers": num_workers, "distributed": distributed, "progress": progress}
        if config.arch == CLIP_HEAD:
            checkpoint = train_clip_head(labels, output, config, teacher, other_teacher=other_teacher, **more)
        else:
            checkpoint = train_probe(labels, output, config, offline=offline, **more)
        _write(checkpoint, output, state_file, update_folder, distributed)
        return checkpoint
    state = start_training(labels, config, offline, num_workers, distributed, progress, state_file if resume else None)
    if config.head_init == "probe" and not state.epochs:
        start_from_probe(state, labels.root, num_workers, progress)
    with distributed.together():
        scorer = crop_scorer_for(labels, teacher, other_teacher=other_teacher) if config.updates_labels else None
        log = EpochLog(output, state.log) if distributed.is_main else None
    for line in [*schedule_warnings(config), plan_line(state)]:
        progress.log(line)
    if config.cache and 1 < config.epochs > state.epochs:  # one epoch decodes every photo once anyway
        state.cache = open_input_cache(state.photos, config.size, num_workers, distributed, progress)

    scores = None  # (N, C) predictions of the student for the training photos
    while not training_is_over(config, state.epochs, state.history):
        if label_update_due(config, state.epochs + 1):  # CCD: the teacher scores local views
            state.labels, state.update = update_labels(state, scorer, update_folder, num_workers, progress)
        scores = _epoch(state, truth, num_workers, progress)
        with distributed.together():
            if log:
                save_state(state, state_file)
                log.write(state.log)

    scores = predict_all(state, num_workers, progress) if scores is None else scores
    checkpoint = _finished(state, labels, scores, progress)
    with distributed.together():  # no rank reads photos any more
        if log:
            log.close()
            if save_labels:
                write_labels(refined_labels(state, labels), save_labels, overwrite=overwrite)
    _write(checkpoint, output, state_file, update_folder, distributed)
    return checkpoint


def _epoch(state: TrainingState, truth: Labels | None, num_workers: int, progress: Progress) -> Tensor | None:
    """Weight steps, then the label step, and the report. Returns predictions (N, C) where the epoch needed them."""
    config, epoch = state.config, state.epochs + 1

    # Weight steps: the labels are fixed.
    targets = state.targets  # (N, C)
    loss, speed = weight_epoch(state, targets, num_workers, progress)

    # Label step (CDUL): the weights are fixed.
    needed = predictions_due(config, epoch) or truth
    predictions = predict_all(state, num_workers, progress) if needed else None  # (N, C)
    if label_step_due(config, epoch):
        state.latent = label_step(state.latent, predictions, config, state.corrected)

    # Report.
    facts = {"epoch": epoch, "loss": loss, "photos_per_second": speed}
    facts |= epoch_facts(state, epoch, targets, predictions, truth)
    progress.log(epoch_line(facts))
    state.epochs = epoch
    state.log.append(facts)
    share_skipped(state)
    return predictions


def _write(
    checkpoint: Checkpoint, output: str | Path, state_file: Path, update_folder: Path, distributed: Distributed
) -> None:
    """Write the model and delete what only an unfinished training needs."""
    with distributed.together():
        if distributed.is_main:
            save_checkpoint(checkpoint, output)
            state_file.unlink(missing_ok=True)
        _remove_parts(update_folder)


def _check_outputs(
    config: TrainConfig,
    output: str | Path,
    save_labels: str | Path | None,
    state_file: Path,
    resume: bool,
    overwrite: bool,
) -> None:
    check_output(output, overwrite=overwrite)
    if state_file.exists() and config.method == "probe" and not overwrite:
        raise InputError(
            f"{state_file} holds an unfinished training, and a probe has no epochs to continue. Use the `method` of that training, "
            "or `overwrite=True` to start again."
        )
    if state_file.exists() and not (resume or overwrite):
        raise InputError(
            f"{state_file} holds an unfinished training. Pass `resume=True` to continue it, or `overwrite=True` to start again."
        )
    if overwrite and not resume:
        state_file.unlink(missing_ok=True)  # else a later `resume` would continue the older training
    if save_labels:
        if not changes_labels(config):
            raise OptionError(
                "`save_labels` needs a training that changes the labels. "
                'Use `method="cdul"`, or `method="ccd"` with local views.'
            )
        check_output(save_labels, overwrite=overwrite)


def _finished(state: TrainingState, labels: Labels, scores: Tensor, progress: Progress) -> Checkpoint:
    """The trained student with its thresholds. `scores` (N, C) are its own predictions for the training photos."""
    if state.epochs < state.config.epochs:
        progress.log(
            f"stopped after epoch {state.epochs} of {state.config.epochs}: the label-free measure rises faster "
            "(`stopping=False` does not stop)"
        )
    meta = model_meta(state.identity, labels, state.skipped)
    return Checkpoint(state.student.eval(), fitted_thresholds(scores, state.targets, labels.classes, meta), meta)


def _remove_parts(update_folder: Path) -> None:
    """Delete the parts of a label update, and nothing else."""
    for file in update_folder.glob("part-*.pt"):
        file.unlink(missing_ok=True)
    with suppress(OSError):
        update_folder.rmdir()  # only succeeds if the folder is empty
