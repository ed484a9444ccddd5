"""Photos to pseudo labels, and the teacher that makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import PseudolabelConfig
from ..distributed import Distributed, Runtime, choose_device, describe_device, start_distributed
from ..files import cache_folder, check_output
from ..labels.class_names import Classes, check_class_count, find_classes, find_contrast, templates_for
from ..labels.table import Labels, write_labels
from ..line_progress import LineProgress
from ..progress import SILENT, Progress
from .inputs import Images, config_of, found_images, workers_or_default

if TYPE_CHECKING:
    from ..teacher.scoring import Teacher, TeacherCheck


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
    from ..teacher.pseudolabel import pseudolabel as label_photos

    config = config_of(PseudolabelConfig, settings)
    progress = progress or LineProgress()
    distributed = distributed or start_distributed(device)
    with distributed.session():
        with distributed.together():
            if output is not None and distributed.is_main:
                check_output(output, overwrite=overwrite)
            found = found_images(images)
            progress.detail(f"{len(found.photos)} photos in {found.root}; {describe_device(distributed.device)}")
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
            runtime=Runtime(distributed, workers_or_default(num_workers), progress),
        )
        with distributed.together():
            if output is not None and distributed.is_main:
                write_labels(labels, output, overwrite=overwrite)
    return labels


def _teacher(
    clip: str | None,
    activation: str | None,
    pixels: str | None,
    precision: str,
    offline: bool,
    distributed: Distributed,
    progress: Progress,
) -> Teacher:
    from ..clip import load_clip
    from ..teacher.scoring import Teacher, default_clip

    if clip is None:
        clip = default_clip(distributed.device)
        progress.log(f"teacher: CLIP {clip}, the default on {distributed.device.type}; choose another with `clip`")
    told = progress if distributed.is_main else SILENT  # one warning, not one per rank
    model = load_clip(clip, activation=activation, pixels=pixels, offline=offline, progress=told)
    return Teacher(model, distributed.device, precision)


def check_clip(
    clip: str,
    *,
    clip_activation: str | None = None,
    clip_pixels: str | None = None,
    precision: str = "auto",
    device: str = "auto",
    progress: Progress | None = None,
) -> tuple[Teacher, TeacherCheck]:
    """Load a teacher without the network and let it name one drawn picture of each kind, as `mlclip models --check` does.

    Returns the teacher and what it said. Raises InputError if it cannot be loaded, or if its embeddings are not finite.
    """
    import numpy as np
    import torch

    from ..clip import load_clip
    from ..demo import KINDS, draw_single
    from ..images import view_pixels
    from ..teacher.scoring import Teacher, check_teacher

    model = load_clip(
        clip, activation=clip_activation, pixels=clip_pixels, offline=True, progress=progress or LineProgress()
    )
    teacher = Teacher(model, choose_device(device), precision)
    rng = np.random.default_rng(0)
    drawn = [view_pixels(draw_single(kind, rng, teacher.input_size), teacher.input_size)[0] for kind in KINDS]
    return teacher, check_teacher(teacher, torch.stack(drawn), range(len(KINDS)), KINDS)
