"""From labels and photos to a student: what `mlclip train` and `mlclip.train` do before and around the epochs of `loop`."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..clip import load_clip
from ..clip.pixels import pixels_of
from ..config import (
    CLIP_HEAD,
    LABELS_FILE,
    MODEL_FILE,
    InputError,
    OptionError,
    TableOptions,
    TrainConfig,
    train_config,
)
from ..distributed import Distributed, Runtime, describe_device, restarted, start_distributed
from ..files import cache_folder, locked
from ..labels.matching import match_tables
from ..labels.metrics import name_of, read_known, truth_for
from ..labels.parts import LabelFiles, label_files
from ..labels.review import Corrections, correct, read_corrections
from ..labels.table import Labels, read_labels
from ..machine import default_workers
from ..progress import SILENT, LineProgress, Progress
from ..student.checkpoint import Checkpoint, check_model_output
from ..teacher.scoring import Teacher
from .loop import train_student


def train(
    labels: Labels | LabelFiles = LABELS_FILE,
    output: str | Path = MODEL_FILE,
    *,
    root: str | Path | None = None,
    clip: str | None = None,
    corrections: Corrections | str | Path | None = None,
    truth: Labels | str | Path | None = None,
    tables: TableOptions | None = None,
    save_labels: str | Path | None = None,
    resume: bool = False,
    offline: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    num_workers: int | None = None,
    distributed: Distributed | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Checkpoint:
    """Train a student on labels and their photos, as `mlclip train` does, and write it to `output`.

    `labels`: a table, its file, or several files as `read_labels` takes them. `root`: the photos' folder, where it is not
    `labels.root`. `clip`: for method "ccd", where the labels' own CLIP is. `corrections`: a file of lines `path,class,value`, or
    {path: {class: 1 or 0}}; these labels do not change and count `correction_weight` times. `truth` adds mAPs to the report of every
    epoch and changes nothing else. `tables` says how a .csv of another program is read; its `split` chooses rows of the labels.
    `resume` continues after the last finished epoch of a stopped training. `settings` are fields of TrainConfig, such as
    `arch="mobilenet_v2"`. With several ranks, the main one reads the labels and `truth` for all; every rank reads the photos. A job
    that torchrun restarts continues as with `resume`, unless `overwrite` is set. Raises InputError.
    """
    distributed = distributed or start_distributed(device)
    config = train_config(settings, distributed.device.type)
    read = [file for file in label_files(labels) if os.path.exists(file)] if not isinstance(labels, Labels) else []
    if save_labels and os.path.exists(save_labels) and any(os.path.samefile(save_labels, file) for file in read):
        raise OptionError(f"`save_labels` {save_labels} would replace the labels that are read; choose another file")
    progress, output, tables = progress or LineProgress(), Path(output), tables or TableOptions()
    with distributed.session(), ExitStack() as locks:
        table, known = distributed.on_main(lambda: _labels_and_truth(labels, truth, tables, corrections, progress))
        if root:
            table = replace(table, root=os.fspath(root))
        place = f"{table.root}; {describe_device(distributed.device)}; cache {cache_folder()}"
        progress.detail(f"labels of {len(table)} photos in {place}")
        with distributed.together():
            if distributed.is_main:
                check_model_output(output, overwrite=True)
                locks.enter_context(locked(output.with_name(f".{output.name}.lock"), str(output)))
            teacher = _update_teacher(config, table, clip, offline, distributed, progress)
        return train_student(
            table,
            output,
            config=config,
            teacher=teacher,
            truth=known,
            save_labels=save_labels,
            resume=resume or (any(distributed.all_gather(restarted())) and not overwrite),
            overwrite=overwrite,
            offline=offline,
            runtime=Runtime(distributed, default_workers() if num_workers is None else num_workers, progress),
        )


def _labels_and_truth(
    labels: Labels | LabelFiles,
    truth: Labels | str | Path | None,
    tables: TableOptions,
    corrections: Corrections | str | Path | None,
    progress: Progress,
) -> tuple[Labels, Labels | None]:
    """The corrected labels, and the true labels of their photos with the same names; a line about what matched."""
    table = labels if isinstance(labels, Labels) else read_labels(labels, tables, progress=progress)
    if corrections is not None:
        given = isinstance(corrections, dict)
        result = correct(table, corrections if given else read_corrections(corrections))
        for line in result.summary("corrections" if given else os.fspath(corrections)):
            progress.log(line)
        table = result.labels
    if truth is None:
        return table, None
    known = read_known(truth, table.classes, replace(tables, split=None), progress)
    match = match_tables(table, known)
    first, second = name_of(labels, "the labels"), name_of(truth, "the truth")
    for line in match.summary(first, second):
        progress.log(line)
    return table, truth_for(table, known, match)


def _update_teacher(
    config: TrainConfig, labels: Labels, clip: str | None, offline: bool, distributed: Distributed, progress: Progress
) -> Teacher | None:
    """The CLIP that CCD's label update and a CLIP head need: the labels' own unless `clip` names one; None where none is needed."""
    made, head = labels.meta.get("clip") or {}, config.arch == CLIP_HEAD
    needed = config.updates_labels or head
    if clip and not needed:
        raise OptionError('`clip` is only used by `method="ccd"` with a label update and `arch="clip-head"`; remove it')
    if head and not (clip or made):
        raise InputError(f'`arch="{CLIP_HEAD}"`: the labels do not say which CLIP made them. Pass one as `clip`.')
    if not needed or not (clip or made):
        return None
    as_made = {}  # another CLIP than the labels' has an activation and pixels of its own
    if made and (not clip or clip == made["name"] or Path(clip).is_file()):
        as_made = {"activation": made.get("activation"), "pixels": pixels_of(made.get("pixels"))}
    on_main = progress if distributed.is_main else SILENT
    model = load_clip(clip or made["name"], **as_made, offline=offline, progress=on_main)
    precision, on_cpu = made.get("precision", "fp32"), distributed.device.type == "cpu"
    if head:  # the labels' own precision, so that their store can be used
        return Teacher(model, distributed.device, "auto" if not made or (on_cpu and precision == "fp16") else precision)
    return Teacher(model, distributed.device, precision if on_cpu else "auto")
