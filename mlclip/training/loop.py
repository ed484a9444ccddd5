"""The training of the student. Each epoch is: label update, weight steps, label step, report, save (see `run_epochs`).

The methods, `TrainConfig.method`:
- "fixed": the labels do not change.
- "probe": as "fixed", and only the head learns, on features that the trunk computes once (see `train_probe`). With
  `arch="clip-head"`, the features are the `teacher`'s own embeddings.
- "consistent": CCD's student without its teacher. The labels do not change, positive cells of the class maps are boosted,
  and after a warm-up a strong view must agree with the weak one.
- "cdul": weights and labels learn alternately, by gradient alignment.
- "ccd": as "consistent", and after the warm-up the labels are updated once, from the scores that the `teacher` gives to
  the local views. The training ends early when its label-free measure rises faster.

Letters: N photos, C classes.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..config import TrainConfig
from ..distributed import Distributed, Runtime, choose_device
from ..files import beside
from ..labels.table import Labels, write_labels
from ..student.checkpoint import Checkpoint, save_checkpoint
from ..student.predict import fitted_thresholds
from ..teacher.scoring import Teacher
from .input_cache import open_input_cache
from .label_step import label_step, predict_all, refined_labels, update_labels
from .local_views import CropScorer, crop_scorer_for
from .probe import start_from_probe, train_probe
from .schedule import (
    epoch_facts,
    epoch_line,
    label_step_due,
    label_update_due,
    plan_line,
    predictions_due,
    schedule_warnings,
    training_is_over,
    write_rows,
)
from .start import check_outputs, start_training
from .state import TrainingState, model_meta, resume_file, save_state
from .weight_step import weight_epoch


def train_student(
    labels: Labels,
    output: str | Path,
    *,
    config: TrainConfig | None = None,
    teacher: Teacher | None = None,
    truth: Labels | None = None,
    save_labels: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    offline: bool = False,
    runtime: Runtime | None = None,
) -> Checkpoint:
    """Train a student on pseudo labels and write it to `output`: step 2 of CDUL (ICCV 2023) and of CCD (CVPR 2025).

    The arguments are those of `train.train`, with what it has read: the table, its `truth`, and the `teacher` that made the labels.
    Labels that are NaN (not known) do not enter the loss and do not change. Corrected labels do not change either, and their losses
    count `config.correction_weight` times. Photos that cannot be read are listed in `meta["skipped"]`. The state after every epoch
    is in `model.resume.pt` beside `output`, its facts in `model.log.csv`; a training that is resumed has the result of one that
    was not stopped. The student that predicts and is written has the average of the weights over the last `config.average` of the
    training. Its thresholds give each class as many training photos as the labels expect. Raises InputError.
    """
    config, runtime = config or TrainConfig(), runtime or Runtime(Distributed(device=choose_device()))
    distributed, state_file = runtime.distributed, resume_file(output)
    distributed.on_main(lambda: check_outputs(config, output, save_labels, resume, overwrite))
    if config.method == "probe":
        checkpoint = train_probe(labels, output, config, runtime, teacher=teacher, truth=truth, offline=offline)
    else:
        state = start_training(labels, config, runtime, offline=offline, resume_from=state_file if resume else None)
        if config.head_init == "probe" and not state.epochs:
            start_from_probe(state, labels.root)
        with distributed.together():
            scorer = crop_scorer_for(labels, teacher, config.other_teacher) if config.updates_labels else None
        for line in [*schedule_warnings(config), plan_line(state)]:
            runtime.progress.log(line)
        if config.cache and 1 < config.epochs > state.epochs:  # one epoch decodes every photo once anyway
            state.cache = open_input_cache(state.photos, config.size, runtime)
        scores = run_epochs(state, scorer, truth, output)
        meta = model_meta(state.identity, labels, state.skipped)
        thresholds = fitted_thresholds(scores, state.targets, labels.classes, meta)
        checkpoint = Checkpoint(state.student.eval(), thresholds, meta)
        with distributed.together():
            if distributed.is_main and save_labels:
                write_labels(refined_labels(state, labels), save_labels, overwrite=overwrite)
    with distributed.together():
        if distributed.is_main:
            save_checkpoint(checkpoint, output)
            state_file.unlink(missing_ok=True)
    return checkpoint


def run_epochs(state: TrainingState, scorer: CropScorer | None, truth: Labels | None, output: str | Path) -> Tensor:
    """The epochs that are left. Returns the trained student's predictions (N, C) for the training photos.

    `scorer` is the teacher of CCD's label update.
    """
    config, distributed, progress, predictions = state.config, state.distributed, state.runtime.progress, None
    while not training_is_over(config, state.epochs, state.history):
        epoch = state.epochs + 1

        # Label update (CCD): the teacher scores local views. It happens once, after the warm-up.
        if label_update_due(config, epoch):
            state.labels, state.update = update_labels(state, scorer)

        # Weight steps: the labels are fixed.
        targets = state.targets  # (N, C)
        loss, speed = weight_epoch(state, targets)

        # Label step (CDUL): the weights are fixed.
        predictions = predict_all(state) if predictions_due(config, epoch) or truth else None  # (N, C)
        if label_step_due(config, epoch):
            state.latent = label_step(state.latent, predictions, config, state.corrected)

        # Report.
        facts = {"epoch": epoch, "loss": loss, "photos_per_second": speed}
        facts |= epoch_facts(state, epoch, targets, predictions, truth)

        # Save. Then the epoch is reported, so that an interrupt after the line finds it saved.
        state.epochs = epoch
        state.log.append(facts)
        for skipped in distributed.all_gather(state.skipped):
            state.skipped = state.skipped | skipped
        with distributed.together():
            if distributed.is_main:
                save_state(state, resume_file(output))
                write_rows(beside(output, ".log.csv"), state.log)
        progress.log(epoch_line(facts))

    if state.epochs < config.epochs:
        epochs = f"epoch {state.epochs} of {config.epochs}"
        progress.log(f"stopped after {epochs}: the label-free measure rises faster (`stopping=False` does not stop)")
    return predict_all(state) if predictions is None else predictions
