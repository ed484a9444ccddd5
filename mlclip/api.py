"""The Python front door: what the commands do, as functions with the same defaults.

    import mlclip

    labels = mlclip.pseudolabel("photos/", ["cat", "dog", "car"], output="labels.pt")
    model = mlclip.train(labels, "model.pt")
    print(mlclip.predict("new/", model).above_threshold())

Every function takes paths where it takes objects, uses the GPU where there is one, and reports its progress on stderr
(`progress=mlclip.SILENT` turns that off). A wrong input raises InputError: one line that says what to do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import (
    CLIP_HEAD,
    LABELS_FILE,
    MODEL_FILE,
    InputError,
    OptionError,
    PseudolabelConfig,
    TableOptions,
    TrainConfig,
    default_workers,
)
from .distributed import Distributed, choose_device, restarted, start_distributed
from .files import cache_folder, check_output, locked
from .images import Found, find_images
from .labels.class_choice import Classes, find_classes, find_contrast, templates_for
from .labels.class_names import CLASS_PRESETS, as_prompts, check_class_count
from .labels.corrections import Corrections, correct, read_corrections
from .labels.datasets import read_boxes, read_truth
from .labels.matching import Match, match_tables, refuse_small_match
from .labels.metrics import matched_cells, mean_average_precision, truth_for
from .labels.table import Labels, read_labels, write_labels
from .line_progress import LineProgress
from .methods.calibration import expected_calibration_error
from .progress import SILENT, Progress
from .spelling import did_you_mean, nearest

if TYPE_CHECKING:
    from .student.checkpoint import Checkpoint
    from .teacher.check import TeacherCheck
    from .teacher.scoring import Teacher

Images = str | os.PathLike | Sequence[str | os.PathLike] | Found


def pseudolabel(
    images: Images,
    classes: Classes | None = None,
    *,
    output: str | Path | None = None,
    clip: str | None = None,
    clip_activation: str | None = None,
    clip_pixels: str | None = None,
    precision: str = "auto",
    contrast: Classes | None = None,
    templates: str | Sequence[str] = (),
    store: str | Path | None = None,
    batch_size: int = 64,
    offline: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    num_workers: int | None = None,
    distributed: Distributed | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Labels:
    """Label photos with CLIP, as `mlclip pseudolabel` does. The labels are returned, and written where `output` says.

    `images`: a folder, a file, a pattern, "@list.txt", several of these, or the result of `find_images`.
    `classes`: a list of names, a dict label -> prompt name, a preset ("voc", "coco", "nuswide"), a class file, or
    "cat,dog=a small dog". None looks for classes.txt beside the photos, else takes the preset "coco".
    `precision` of CLIP's image encoder: "auto", "fp32", "bf16" or "fp16"; auto takes the fastest that is safe.
    `contrast`: names that compete with the classes and are then dropped, in the same forms. `clip`: the teacher, a name
    from `available_models()`, a weight file, a folder, or a name of open_clip, see `load_clip`; None takes the default of the
    device. `clip_activation` and `clip_pixels` say how a weight file was trained, where nothing else does. `settings` are
    fields of PseudolabelConfig, such as `method="cdul"`. Raises InputError.
    """
    from .teacher.pseudolabel import pseudolabel as label_photos

    config = _config(PseudolabelConfig, settings)
    progress = progress or LineProgress()
    distributed = distributed or start_distributed(device)
    with distributed.session():
        with distributed.together():
            if output is not None and distributed.is_main:
                check_output(output, overwrite=overwrite)
            found = images if isinstance(images, Found) else find_images(images)
            progress.detail(f"{len(found.photos)} photos in {found.root}; {_place(distributed.device)}")
            names = find_classes(classes, found.root, progress.log)
            others = find_contrast(contrast, names, progress.log)
            check_class_count(names, others)
            progress.detail(f"cache: {cache_folder()}")
            teacher = _teacher(clip, clip_activation, clip_pixels, precision, offline, distributed, progress)
            if settings.get("method") is None and teacher.is_resnet:
                config = replace(config, method="dense")
        labels = label_photos(
            found,
            names,
            teacher,
            config=config,
            templates=templates_for(templates, config.method),
            contrast=others,
            store=store,
            batch_size=batch_size,
            num_workers=_workers(num_workers),
            distributed=distributed,
            progress=progress,
        )
        with distributed.together():
            if output is not None and distributed.is_main:
                write_labels(labels, output, overwrite=overwrite)
    return labels


def train(
    labels: Labels | str | Path = LABELS_FILE,
    output: str | Path = MODEL_FILE,
    *,
    root: str | Path | None = None,
    clip: str | None = None,
    other_teacher: bool = False,
    boxes: str | None = None,
    corrections: Corrections | str | Path | None = None,
    truth: Labels | str | Path | None = None,
    partial: bool = False,
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

    `labels`: a table or its file. `root`: the photos' folder, where it is not `labels.root`. `clip`: for method "ccd", where the
    labels' own CLIP is; `other_teacher` allows a different one. `boxes`: "voc:DIR", "coco:FILE" or another form of
    `read_boxes`, for `local_views` "boxes" and "around". `corrections`: a file of lines `path,class,value`, or {path: {class: 1 or 0}};
    these labels do not change and count `correction_weight` times. `truth` adds mAPs to the report of every epoch and changes
    nothing else; `partial` accepts one of which less than half matches. `tables` says how a .csv of another program is read; its
    `split` chooses rows of the labels. `resume` continues after the last finished epoch of a stopped training. `settings` are
    fields of TrainConfig, such as `arch="mobilenet_v2"`. With several ranks, the main one reads the labels, `truth` and
    `boxes` for all; every rank reads the photos. A job that torchrun restarts continues as with `resume`, unless `overwrite`
    is set. Raises InputError.
    """
    from .training.loop import train as train_student

    distributed = distributed or start_distributed(device)
    config = train_config(settings, distributed.device.type)
    if save_labels and not isinstance(labels, Labels) and _same_file(save_labels, labels):
        raise OptionError(f"`save_labels` {save_labels} would replace the labels that are read; choose another file")
    progress, output = progress or LineProgress(), Path(output)
    lock = output.with_name(f".{output.name}.lock")
    with distributed.session(), ExitStack() as locks:
        table, known, annotated = distributed.on_main(
            lambda: (
                *_labels_and_truth(labels, truth, tables or TableOptions(), partial, progress, corrections),
                _boxes(config, boxes),
            )
        )
        for note in annotated.notes if annotated else []:
            progress.log(note)
        if root:
            table = replace(table, root=os.fspath(root))
        progress.detail(
            f"labels of {len(table)} photos in {table.root}; {_place(distributed.device)}; cache {cache_folder()}"
        )
        with distributed.together():
            if distributed.is_main:
                locks.enter_context(locked(lock, str(output)))
            teacher = _update_teacher(config, table, clip, offline, distributed, progress)
        return train_student(
            table,
            output,
            config=config,
            teacher=teacher,
            other_teacher=other_teacher,
            annotated=annotated,
            truth=known,
            save_labels=save_labels,
            resume=resume or (any(distributed.all_gather(restarted())) and not overwrite),
            overwrite=overwrite,
            offline=offline,
            num_workers=_workers(num_workers),
            distributed=distributed,
            progress=progress,
        )


def load_model(
    path: str | Path = MODEL_FILE, *, device: str = "auto", clip: str | None = None, offline: bool = False
) -> Checkpoint:
    """The student in a `model.pt` or `model.safetensors`, ready to predict. Raises InputError where the file is missing or damaged.

    For a model of `arch="clip-head"` its CLIP is loaded too: from the file `clip`, else by the name or path in the model. It is
    downloaded if it is missing, unless `offline`.
    """
    from .student.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path, choose_device(device))
    if checkpoint.model.arch == CLIP_HEAD:
        checkpoint.model.load_encoder(clip, offline=offline)
    elif clip:
        raise OptionError(f"{path} does not run CLIP; remove `clip`")
    return checkpoint


def predict(
    images: Images,
    model: Checkpoint | str | Path = MODEL_FILE,
    *,
    batch_size: int = 64,
    device: str = "auto",
    num_workers: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Labels:
    """Scores in [0, 1] of photos, as `mlclip predict` computes them; CLIP is only needed for a model of `arch="clip-head"`.

    `images` as for `pseudolabel`; `model` is a file (.pt, or .safetensors or .onnx of `mlclip export`) or what `load_model` or `train`
    returned. Photos that cannot be read get no row; `meta["skipped"]` lists them. Raises InputError.
    """
    from .student.checkpoint import Checkpoint, load_checkpoint
    from .student.onnx_model import is_onnx
    from .student.predict import predict as predict_photos

    if is_onnx(model):
        return _predict_onnx(images, model, batch_size, device, num_workers, progress)
    checkpoint = model if isinstance(model, Checkpoint) else load_checkpoint(model)
    progress = progress or LineProgress()
    if checkpoint.model.arch == CLIP_HEAD:
        checkpoint.model.load_encoder(offline=offline, progress=progress)
    found = images if isinstance(images, Found) else find_images(images)
    chosen = choose_device(device)
    progress.detail(f"{len(found.photos)} photos in {found.root}; {checkpoint.model.arch}; {_place(chosen)}")
    return predict_photos(
        found,
        checkpoint,
        device=chosen,
        batch_size=batch_size,
        num_workers=_workers(num_workers),
        progress=progress,
    )


def _predict_onnx(
    images: Images, file: Any, batch_size: int, device: str, num_workers: int | None, progress: Progress | None
) -> Labels:
    from .student.onnx_model import load_onnx, predict_onnx

    model, found = load_onnx(file, device), images if isinstance(images, Found) else find_images(images)
    table = predict_onnx(
        found, model, batch_size=batch_size, num_workers=_workers(num_workers), progress=progress or LineProgress()
    )
    return Labels(table.paths, table.classes, table.scores, table.root, table.meta)


def check_clip(
    clip: str,
    *,
    clip_activation: str | None = None,
    clip_pixels: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> tuple[Teacher, TeacherCheck]:
    """Load a teacher without the network and let it name one drawn picture of each kind, as `mlclip models --check` does.

    Returns the teacher and what it said. Raises InputError if it cannot be loaded, or if its embeddings are not finite.
    """
    import numpy as np
    import torch

    from .clip import load_clip
    from .demo import KINDS, draw_single
    from .images import view_pixels
    from .teacher.check import check_teacher
    from .teacher.scoring import Teacher

    model = load_clip(
        clip, activation=clip_activation, pixels=clip_pixels, offline=True, progress=progress or LineProgress()
    )
    teacher = Teacher(model, choose_device(device))
    rng = np.random.default_rng(0)
    drawn = [view_pixels(draw_single(kind, rng, teacher.input_size), teacher.input_size)[0] for kind in KINDS]
    return teacher, check_teacher(teacher, torch.stack(drawn), range(len(KINDS)), KINDS)


@dataclass(frozen=True)
class Evaluation:
    """How good scores are by true labels; all numbers in [0, 1]."""

    mean_average_precision: float  # over the classes that have a positive photo
    average_precision: dict[str, float]  # of each class with a positive photo
    without_positives: list[str]
    calibration_error: float  # expected calibration error over all known cells
    match: Match  # which photos and classes both tables have
    truth: Labels  # the true labels


def evaluate(
    labels: Labels | str | Path,
    truth: Labels | str | Path,
    *,
    only: Classes | None = None,
    partial: bool = False,
    tables: TableOptions | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Average precision of each class, their mean, and the calibration error, as `mlclip evaluate` computes them.

    `truth`: a table or its file, or a form of `read_truth` such as "voc:DIR" or "coco:FILE". `only` limits the classes. `tables`
    says how a .csv of another program is read; its `split` and `empty_cells` are for the truth. Raises InputError where no photo
    or no class is in both tables, where fewer than half of those of the smaller table are (unless `partial`), or where no class
    has a positive photo.
    """
    tables, progress = tables or TableOptions(), progress or LineProgress()
    scores = labels if isinstance(labels, Labels) else read_labels(labels, tables.for_scores, progress=progress)
    known = read_known(truth, scores.classes, tables, progress)
    if only is not None:
        known = known.aligned(known.paths, _chosen(only, known.classes))
    match = match_tables(scores, known)
    first, second = _name_of(labels, "the predictions"), _name_of(truth, "the truth")
    refuse_small_match(match, first, second, partial=partial)
    mean, per_class = mean_average_precision(scores, known, match)
    judged = {name: value for name, value in per_class.items() if value == value}  # without NaN
    if not judged:
        raise InputError("no class has a positive photo among those that both tables have; nothing can be evaluated")
    error = expected_calibration_error(*matched_cells(scores, known, match))
    empty = [name for name in per_class if name not in judged]
    return Evaluation(mean, judged, empty, error, match, known)


def read_known(truth: Labels | str | Path, classes: Sequence[str], tables: TableOptions, progress: Progress) -> Labels:
    """The true labels, from where `truth` says. `classes` are those of the scores; they help to read a column of names."""
    if isinstance(truth, Labels):
        return truth
    return read_truth(os.fspath(truth), tables, progress=progress, known_classes=classes)


def _labels_and_truth(
    labels: Labels | str | Path,
    truth: Labels | str | Path | None,
    tables: TableOptions,
    partial: bool,
    progress: Progress,
    corrections: Corrections | str | Path | None,
) -> tuple[Labels, Labels | None]:
    """The corrected labels, and the true labels of their photos with the same names; a line about what matched."""
    table = labels if isinstance(labels, Labels) else read_labels(labels, tables, progress=progress)
    table = _corrected(table, corrections, progress)
    if truth is None:
        return table, None
    known = read_known(truth, table.classes, replace(tables, split=None), progress)
    match = match_tables(table, known)
    first, second = _name_of(labels, "the labels"), _name_of(truth, "the truth")
    refuse_small_match(match, first, second, partial=partial)
    for line in match.summary(first, second):
        progress.log(line)
    return table, truth_for(table, known, match)


def _name_of(table: Labels | str | Path, words: str) -> str:
    return words if isinstance(table, Labels) else os.fspath(table)


def train_config(settings: dict[str, Any], device_type: str) -> TrainConfig:
    """The settings of a training: those given, and where nothing is given, those of the preset for the device ("cpu", "cuda", ...)."""
    preset = settings.get("preset") or ("laptop" if device_type == "cpu" else "paper")
    return _config(TrainConfig, {**settings, "preset": preset})


def _config(config: type, settings: dict[str, Any]) -> Any:
    names = [field.name for field in fields(config)]
    for name in settings:
        if name not in names:
            near = nearest(name, names)
            hint = f"did you mean `{near}`?" if near else f"there are {', '.join(names)}"
            raise OptionError(f"there is no setting `{name}`; {hint}")
    return config(**settings)


def _place(device: Any) -> str:
    """The device and what computes on it, for a message."""
    import torch

    count = torch.get_num_threads()
    threads = f", {count} thread{'' if count == 1 else 's'}" if device.type == "cpu" else ""
    return f"device {device}{threads}, torch {torch.__version__}"


def _workers(num_workers: int | None) -> int:
    return default_workers() if num_workers is None else num_workers


def _corrected(labels: Labels, corrections: Corrections | str | Path | None, progress: Progress) -> Labels:
    if corrections is None:
        return labels
    given = isinstance(corrections, dict)
    found = correct(labels, corrections if given else read_corrections(corrections))
    for line in found.summary("corrections" if given else os.fspath(corrections)):
        progress.log(line)
    return found.labels


def _same_file(first: str | Path, second: str | Path) -> bool:
    return os.path.exists(first) and os.path.exists(second) and os.path.samefile(first, second)


def _chosen(only: Classes, classes: list[str]) -> list[str]:
    names = list(as_prompts(only))
    unknown = [name for name in names if name not in classes]
    if unknown:
        hint = did_you_mean(unknown[0], [*classes, *CLASS_PRESETS])
        raise InputError(
            f"`only` names {', '.join(unknown)}, which the truth does not have.{hint} It has {', '.join(classes)}"
        )
    return names


def _teacher(
    clip: str | None,
    activation: str | None,
    pixels: str | None,
    precision: str,
    offline: bool,
    distributed: Distributed,
    progress: Progress,
) -> Teacher:
    from .clip import load_clip
    from .teacher.scoring import Teacher, default_clip

    if clip is None:
        clip = default_clip(distributed.device)
        progress.log(f"teacher: CLIP {clip}, the default on {distributed.device.type}; choose another with `clip`")
    told = progress if distributed.is_main else SILENT  # one warning, not one per rank
    model = load_clip(clip, activation=activation, pixels=pixels, offline=offline, progress=told)
    return Teacher(model, distributed.device, precision)


def _update_teacher(
    config: TrainConfig, labels: Labels, clip: str | None, offline: bool, distributed: Distributed, progress: Progress
) -> Teacher | None:
    """The CLIP that CCD's label update needs: the labels' own unless `clip` names one; None where none is needed."""
    from .clip import load_clip
    from .teacher.scoring import Teacher

    made = labels.meta.get("clip")
    head = config.arch == CLIP_HEAD
    if not (config.updates_labels or head):
        if clip:
            raise OptionError(
                '`clip` is only used by `method="ccd"` with a label update and `arch="clip-head"`; remove it'
            )
        return None
    if head and not (clip or made):
        raise InputError(f'`arch="{CLIP_HEAD}"`: the labels do not say which CLIP made them. Pass one as `clip`.')
    if not (clip or made):
        return None
    told = progress if distributed.is_main else SILENT
    model = load_clip(clip or made["name"], **_as_made(made, clip), offline=offline, progress=told)
    made = made or {}
    precision = made.get("precision", "fp32")
    on_cpu = distributed.device.type == "cpu"
    if head:  # the labels' own precision, so that their store can be used
        return Teacher(model, distributed.device, "auto" if not made or (on_cpu and precision == "fp16") else precision)
    return Teacher(model, distributed.device, precision if on_cpu else "auto")


def _as_made(made: dict | None, clip: str | None) -> dict[str, Any]:
    """The activation and pixels that the labels were made with, for `load_clip`. Another CLIP than theirs has its own."""
    from .clip.pixels import pixels_of

    if not made or (clip and clip != made["name"] and not Path(clip).is_file()):
        return {}
    return {"activation": made.get("activation"), "pixels": pixels_of(made.get("pixels"))}


def _boxes(config: TrainConfig, boxes: str | None) -> Any:
    if (config.local_views in config.ANNOTATED_VIEWS) != (boxes is not None):
        raise OptionError('`local_views="boxes"` or "around" and `boxes` belong together: pass both, or neither')
    return read_boxes(boxes) if boxes is not None else None
