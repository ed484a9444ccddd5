"""From photos to pseudo labels: encode the views, score them against the class names, and apply a method.

Letters: N photos, V views per photo (the whole photo first), C classes, D the joint embedding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import InputError, PseudolabelConfig
from ..distributed import Distributed
from ..images import Found, Skip
from ..labels.class_names import as_prompts, check_class_count, shorten
from ..labels.table import Labels
from ..methods.hierarchy import raise_parents
from ..methods.thresholds import thresholds_of_labels
from ..progress import SILENT, Progress
from .embed import embed_images
from .embed_kinds import embed_kinds
from .embedding_store import Store
from .facts import teacher_facts
from .label_by_kinds import label_by_kinds
from .label_from_store import label_by_ccd, label_by_cdul, label_by_centring
from .scoring import Teacher, class_embeddings
from .view_batches import MEMORY_LIMIT, ViewBatches

LABEL_BY = {"cdul": label_by_cdul, "ccd": label_by_ccd, "centred": label_by_centring}
FLAT_MARGIN = 0.02  # a mean top-1 probability this close to 1/C means that the temperature is wrong


def pseudolabel(
    found: Found,
    classes: Mapping[str, str] | Sequence[str],
    teacher: Teacher,
    *,
    config: PseudolabelConfig | None = None,
    templates: Sequence[str] = ("a photo of a {}",),
    contrast: Mapping[str, str] | Sequence[str] | None = None,
    store: str | Path | None = None,
    batch_size: int = 64,
    num_workers: int = 2,
    distributed: Distributed | None = None,
    progress: Progress = SILENT,
) -> Labels:
    """Label the photos of `find_images` by step 1 of CDUL (ICCV 2023) or CCD (CVPR 2025), or by centring (see `centred`).

    CDUL compares the whole photo and its snippets with the class names, aggregates and fuses. CCD compares the whole photo
    at a larger size and debiases; the biases are in `meta["bias"]`. Centring takes the cosines of views of several sizes and
    first subtracts the level of each class; the levels are in `meta["levels"]`, a list for each grid. Dense labels do the same
    for the cells of CLIP's feature map, too, and average; `meta["kinds"]` has the agreements and levels of each kind of views.

    `classes` are names, or a mapping of label names to prompt names. If they have a hierarchy (see `parse_classes`), no parent gets
    a lower score than its children; it is stored in `meta["hierarchy"]` with the exclusive groups, for the student.

    The names of `contrast`, in the same forms, compete in the softmax and are then dropped: they are for photos that may show
    none of the classes. Photos that cannot be read get no row; `meta["skipped"]` lists them with the reasons. A class counts
    as present from its score in `meta["thresholds"]` on. With several ranks, the main one computes the labels, and all return
    them. Raises InputError for a single class, or if no photo can be read.
    """
    config, distributed = config or PseudolabelConfig(), distributed or Distributed()
    classes, contrast = as_prompts(classes), as_prompts(contrast) if contrast else {}
    check_class_count(classes, contrast)
    size = _view_size(config, teacher)
    names = [*classes.values(), *contrast.values()]
    text = class_embeddings(teacher, names, templates, compound=config.compound)  # (C + contrast, D)
    opened, cells, unreadable = _embedded(
        found, teacher, config, size, store=store, batch_size=batch_size, num_workers=num_workers, distributed=distributed,
        progress=progress,
    )  # fmt: skip
    skipped = sorted([*found.skipped, *unreadable], key=lambda skip: skip.path)

    def label() -> Labels:
        photos = [photo for photo in found.photos if all(photo in store for store in (opened, *cells.values()))]
        if not photos:
            raise _none_readable(found, skipped)
        logit_scale = teacher.logit_scale if config.temperature is None else 1 / config.temperature
        limit = MEMORY_LIMIT // (1 + len(cells))
        views, *kinds = (ViewBatches(store, photos, teacher.device, limit) for store in (opened, *cells.values()))
        label_by = LABEL_BY.get(config.method) or partial(label_by_kinds, dict(zip(cells, kinds, strict=True)))
        scores, summary = label_by(views, text.to(teacher.device), len(classes), logit_scale, config)
        if not scores.isfinite().all():
            raise InputError(
                f"the labels contain NaN or infinite numbers. The weights of {teacher.name} may be damaged."
            )
        scores = raise_parents(scores, classes.tree.parent_columns(list(classes)))
        _report_agreements(summary, progress)
        _report_unestimated(summary, list(classes), progress)
        _check_sharpness(summary["mean_top1"], len(text), config, progress)
        meta = _meta(config, teacher_facts(teacher, logit_scale, size), templates, classes, contrast, skipped, scores)
        if classes.tree:
            meta["hierarchy"] = classes.tree.plain()
        if store:
            meta["store"] = os.path.abspath(store)
        return Labels([photo.path for photo in photos], list(classes), scores, root=found.root, meta=meta | summary)

    return distributed.on_main(label)


def _embedded(
    found: Found, teacher: Teacher, config: PseudolabelConfig, size: int, **running: Any
) -> tuple[Store, dict[str, Store], list[Skip]]:
    """The store of the views, the stores of the cells of dense labels, and the photos that cannot be read."""
    grids = {"cdul": (1, config.snippets), "ccd": (1,)}.get(config.method, config.grids)
    if config.method == "dense":
        kinds, attention = config.kinds, config.attention
        return embed_kinds(
            found.photos, teacher, root=found.root, grids=grids, kinds=kinds, attention=attention, **running
        )
    opened, unreadable = embed_images(found.photos, teacher, root=found.root, grids=grids, size=size, **running)
    return opened, {}, unreadable


def _none_readable(found: Found, skipped: Sequence[Skip]) -> InputError:
    first = f" (first: {skipped[0].path}: {skipped[0].reason})" if skipped else ""
    total = len(found.photos) + len(found.skipped)
    return InputError(f"0 of {total} photos in {found.root} are readable{first}. No labels were written.")


def _meta(
    config: PseudolabelConfig,
    clip: dict,
    templates: Sequence[str],
    classes: Mapping[str, str],
    contrast: Mapping[str, str],
    skipped: Sequence[Skip],
    scores: Tensor,
) -> dict:
    """How the labels were made, as plain containers for the labels' `meta`."""
    return {
        "method": config.method,
        "settings": asdict(config),
        "clip": clip,
        "templates": list(templates),
        "prompts": list(classes.values()),
        "contrast": list(contrast.values()),
        "skipped": [[skip.path, skip.reason] for skip in skipped],
        "thresholds": thresholds_of_labels(scores, config.method),
    }


def _view_size(config: PseudolabelConfig, teacher: Teacher) -> int:
    """The side in pixels of the square that the photo is resized to."""
    if config.method != "ccd":
        return teacher.input_size
    size = config.view_size or teacher.larger_size()
    if size % teacher.stride:
        near = max(1, round(size / teacher.stride)) * teacher.stride
        raise InputError(
            f"`view_size` is {size}: this CLIP needs a multiple of {teacher.stride} pixels, such as {near}."
        )
    return size


def _report_agreements(summary: dict, progress: Progress) -> None:
    kinds = summary.get("kinds", {})
    told = ", ".join(f"{kind} {' and '.join(f'{a:.2f}' for a in facts['agreements'])}" for kind, facts in kinds.items())
    if told:
        progress.log(f"agreement of each kind of views with the centred labels, own and second opinion: {told}")


def _report_unestimated(summary: dict, classes: list[str], progress: Progress) -> None:
    missing = [name for name, photos in zip(classes, summary.get("bias_photos", []), strict=False) if not photos]
    if missing:
        progress.log(
            f"no confident photo has {shorten(missing)} as its top class ({len(missing)} of {len(classes)} classes). "
            "Their bias is the mean of the other classes."
        )


def _check_sharpness(mean_top1: float, names: int, config: PseudolabelConfig, progress: Progress) -> None:
    """Detect a logit scale that was divided by instead of multiplied: all probabilities are then about 1 / `names`."""
    if mean_top1 > 1 / names + FLAT_MARGIN:
        return
    line = (
        f"the mean top-1 probability is {mean_top1:.3f} for {names} names, about 1/{names}: the scores are almost equal and "
        "say nothing about the classes"
    )
    if config.temperature is not None:
        raise InputError(f"{line}. `temperature` {config.temperature:g} is too high; OpenAI's models need 0.01.")
    progress.log(f"warning: {line}. This CLIP may not know these classes, or its weights may be untrained.")
