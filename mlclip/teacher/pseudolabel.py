"""View embeddings -> pseudo labels: the step between the photos and a student.

Letters: N photos, V views per photo (the whole photo first), C classes, D the joint embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ..config import InputError, PseudolabelConfig
from ..distributed import Distributed
from ..images import Found
from ..labels.class_names import check_class_count, shorten
from ..labels.table import Labels
from ..methods.thresholds import thresholds_of_labels
from ..progress import SILENT, Progress
from .embed import embed_images
from .label_from_store import label_by_ccd, label_by_cdul, label_by_centring
from .scoring import Teacher, class_embeddings

FLAT_MARGIN = 0.02  # a mean top-1 probability within this of 1/C cannot come from a sound temperature


def pseudolabel(
    found: Found,
    classes: Mapping[str, str],
    teacher: Teacher,
    *,
    config: PseudolabelConfig | None = None,
    templates: Sequence[str] = ("a photo of a {}",),
    contrast: Mapping[str, str] | None = None,
    store: str | Path | None = None,
    batch_size: int = 64,
    num_workers: int = 2,
    distributed: Distributed | None = None,
    progress: Progress = SILENT,
) -> Labels:
    """Label the photos of `find_images` by step 1 of CDUL (ICCV 2023) or CCD (CVPR 2025), or by centring (see `centred`).

    CDUL: similarities of the whole photo and its snippets, aggregated and fused. CCD: similarities of the whole photo at
    a larger size, debiased; the biases are in `meta["bias"]`. Centred: cosines of views of several sizes, each class's level
    taken out first; the levels are in `meta["levels"]`, a list for each grid.

    `classes` maps label names to prompt names; the names of `contrast` take part in the softmax and are then dropped,
    for photos that may show none of the classes. Photos that cannot be read get no row; they are listed with their
    reasons in `meta["skipped"]`. From `meta["thresholds"]` on a class's label counts as given. Raises InputError for a single
    class, or when no photo can be read.
    """
    config, contrast, distributed = config or PseudolabelConfig(), contrast or {}, distributed or Distributed()
    check_class_count(classes, contrast)
    size = _view_size(config, teacher)
    text = class_embeddings(teacher, [*classes.values(), *contrast.values()], templates)  # (C + contrast, D)
    grids = {"cdul": (1, config.snippets), "ccd": (1,), "centred": config.grids}[config.method]
    opened, unreadable = embed_images(
        found.photos, teacher, root=found.root, grids=grids, size=size, store=store, batch_size=batch_size, num_workers=num_workers,
        distributed=distributed, progress=progress,
    )  # fmt: skip
    skipped = sorted([*found.skipped, *unreadable], key=lambda skip: skip.path)
    photos = [photo for photo in found.photos if photo in opened]
    if not photos:
        first = f" (first: {skipped[0].path}: {skipped[0].reason})" if skipped else ""
        raise InputError(
            f"0 of {len(found.photos) + len(found.skipped)} photos in {found.root} are readable{first}; nothing was written"
        )
    logit_scale = teacher.logit_scale if config.temperature is None else 1 / config.temperature
    label = {"cdul": label_by_cdul, "ccd": label_by_ccd, "centred": label_by_centring}[config.method]
    scores, summary = label(opened, photos, text, len(classes), logit_scale, config)
    if not scores.isfinite().all():
        raise InputError(f"the labels are not finite numbers; the weights of {teacher.name} may be damaged")
    _say_unestimated(summary, list(classes), progress)
    _check_sharpness(summary["mean_top1"], len(text), config, progress)
    meta = {"method": config.method, "settings": asdict(config), "clip": _clip_facts(teacher, logit_scale, size)}
    meta |= {"templates": list(templates), "prompts": list(classes.values()), "contrast": list(contrast.values())}
    meta |= {"skipped": [[skip.path, skip.reason] for skip in skipped]}
    meta |= {"thresholds": thresholds_of_labels(scores, config.method), **summary}
    return Labels([photo.path for photo in photos], list(classes), scores, root=found.root, meta=meta)


def _clip_facts(teacher: Teacher, logit_scale: float, view_size: int) -> dict:
    """Which CLIP made the labels, and how it looked: what a label update must do again."""
    facts = {"name": teacher.name, "sha256": teacher.sha256, "activation": teacher.clip.activation}
    return facts | {"logit_scale": logit_scale, "view_size": view_size}


def _view_size(config: PseudolabelConfig, teacher: Teacher) -> int:
    """The side in pixels that the photo is squeezed to."""
    if config.method != "ccd":
        return teacher.input_size
    size = config.view_size or teacher.larger_size()
    if size % teacher.stride:
        near = max(1, round(size / teacher.stride)) * teacher.stride
        raise InputError(f"--view-size {size}: this CLIP looks in steps of {teacher.stride} pixels; try {near}")
    return size


def _say_unestimated(summary: dict, classes: list[str], progress: Progress) -> None:
    none = [name for name, photos in zip(classes, summary.get("bias_photos", []), strict=False) if not photos]
    if none:
        progress.log(
            f"no confident photo shows {shorten(none)} above all else ({len(none)} of {len(classes)} classes): their bias is "
            "taken to be the mean of the others"
        )


def _check_sharpness(mean_top1: float, classes: int, config: PseudolabelConfig, progress: Progress) -> None:
    """Catch a logit scale that was divided by instead of multiplied: all probabilities are then about 1/C."""
    if mean_top1 > 1 / classes + FLAT_MARGIN:
        return
    line = (
        f"the mean top-1 probability is {mean_top1:.3f} for {classes} names, about 1/{classes}: the scores are flat and "
        "no label can be told from another"
    )
    if config.temperature is not None:
        raise InputError(f"{line}; --temperature {config.temperature:g} is too high, OpenAI's models want 0.01")
    progress.log(f"warning: {line}; this CLIP may not know these classes, or its weights are not trained")
