"""From photos to pseudo labels: encode the views, score them against the class names, and apply a method.

Letters: N photos, V views per photo (the whole photo first), C classes, D the joint embedding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..clip import load_clip
from ..clip.pixels import pixels_of
from ..config import EncodingConfig, InputError, PseudolabelConfig, config_of
from ..distributed import Distributed, Runtime, describe_device, start_distributed
from ..files import cache_folder
from ..images import Found, Images, Photo, find_images
from ..images.find import Skip
from ..labels.class_names import (
    Classes,
    as_prompts,
    check_class_count,
    find_classes,
    find_contrast,
    shorten,
    show_prompts,
    templates_for,
)
from ..labels.class_tree import ancestors
from ..labels.sheet import check_table_output
from ..labels.table import Labels, write_labels
from ..machine import default_workers
from ..methods.calibration import thresholds_of_labels
from ..methods.hierarchy import raise_parents
from ..progress import SILENT, LineProgress, Progress
from .encode import encoded_views
from .fitted import Like, other_kind, read_like
from .in_blocks import label_stored
from .scoring import FLAT_MARGIN, Teacher, check_same_teacher, class_embeddings, default_clip, teacher_facts
from .store import Store, as_tensor, identity


def pseudolabel(
    images: Images,
    classes: Classes | None = None,
    *,
    like: str | Path | Labels | None = None,
    exclude: Sequence[str] = (),
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

    `images` and `exclude`: see `find_images`, whose result can also be passed. `classes`: a list of names, a dict label -> prompt
    name, a preset ("voc", "coco", "nuswide"), a class file, or "cat,dog=a small dog". None looks for classes.txt beside the photos,
    else takes the preset "coco". `contrast`: names that compete with the classes and are then dropped, in the same forms. `clip`: see
    `load_clip`; None takes the default of the device. `clip_activation`, `clip_pixels`, `precision`: see TeacherConfig. `settings` are
    fields of PseudolabelConfig. `like`: labels or their file, which give all of this and all that was fitted. Raises InputError.
    """
    given = {"classes": classes, "contrast": contrast, "templates": templates}
    facts = {"clip_activation": clip_activation, "clip_pixels": clip_pixels}
    own, chosen = (config_of(PseudolabelConfig, settings), *given.values()), settings | given | facts
    EncodingConfig(batch_size)  # is it allowed?
    progress, distributed = progress or LineProgress(), distributed or start_distributed(device)
    runtime = Runtime(distributed, default_workers() if num_workers is None else num_workers, progress)
    with distributed.session():
        as_before = None if like is None else distributed.on_main(lambda: read_like(like, chosen))
        config, classes, contrast, templates = as_before[1:5] if as_before else own
        with distributed.together():
            found = find_images(images, exclude)
            found.say_left_out(progress)
            place = f"{found.root}; {describe_device(distributed.device)}; cache {cache_folder()}"
            progress.detail(f"{len(found.photos)} photos in {place}")
            names = find_classes(classes, found.root, progress.log)
            others = find_contrast(contrast, names, progress.log)
            check_class_count(names, others)
            if output is not None and distributed.is_main:  # what is wrong with the inputs comes first
                check_table_output(output, overwrite=overwrite)
            teacher = _load_teacher(clip, precision, facts, offline, as_before, runtime)
            if not as_before and settings.get("method") is None and teacher.is_resnet:
                config = replace(config, method="dense")
        prompts = templates_for(templates, config.method)
        show_prompts(prompts, names | others, getattr(teacher.clip, "english", True), progress.log)
        how = {"config": config, "templates": prompts, "contrast": others, "like": as_before}
        labels = label_photos(found, names, teacher, **how, store=store, batch_size=batch_size, runtime=runtime)
        if output is not None:
            distributed.on_main(lambda: write_labels(labels, output, overwrite=overwrite))
        return labels


def _load_teacher(
    clip: str | None, precision: str, facts: dict, offline: bool, like: Like | None, runtime: Runtime
) -> Teacher:
    """The CLIP that is asked for; else that of `like`, or the default. InputError if it is not that of `like`."""
    progress, device, made = runtime.progress, runtime.distributed.device, like.labels.meta["clip"] if like else {}
    facts = {"activation": facts["clip_activation"], "pixels": facts["clip_pixels"], "offline": offline}
    if like:
        facts |= {"activation": made.get("activation"), "pixels": pixels_of(made.get("pixels"))}
        same = made.get("precision", "fp32")
        precision = same if precision == "auto" and (device.type, same) != ("cpu", "fp16") else precision
    elif clip is None:
        progress.log(f"teacher: CLIP {default_clip(device)}, the default on {device.type}; choose another with `clip`")
    on_main = progress if runtime.distributed.is_main else SILENT  # one warning, not one per rank
    teacher = Teacher(
        load_clip(clip or made.get("name") or default_clip(device), **facts, progress=on_main), device, precision
    )
    if like:
        check_same_teacher(made, teacher, otherwise="")
    return teacher


def label_photos(
    found: Found,
    classes: Mapping[str, str] | Sequence[str],
    teacher: Teacher,
    *,
    config: PseudolabelConfig | None = None,
    templates: Sequence[str] = ("a photo of a {}",),
    contrast: Mapping[str, str] | Sequence[str] | None = None,
    like: Like | None = None,
    store: str | Path | None = None,
    batch_size: int = 64,
    runtime: Runtime | None = None,
) -> Labels:
    """Label the photos of `find_images` by the method of `config`; `label.py` has the methods one below the other.

    `classes` are names, or a mapping of label names to prompt names. If they have a hierarchy (see `parse_classes`), no parent gets
    a lower score than its children; it is stored in `meta["hierarchy"]` with the exclusive groups, for the student.

    The names of `contrast`, in the same forms, compete in the softmax and are then dropped: they are for photos that may show
    none of the classes. Photos that cannot be read get no row; `meta["skipped"]` lists them with the reasons. `meta["content"]`
    (N, 16) has the hash of each photo's bytes. A class counts as present from its score in `meta["thresholds"]` on. With several
    ranks, the main one computes the labels, and all return them. Raises InputError for a single class, or if no photo can be read.
    """
    config, runtime = config or PseudolabelConfig(), runtime or Runtime()
    classes, contrast = as_prompts(classes), as_prompts(contrast) if contrast else {}
    check_class_count(classes, contrast)
    size = _view_size(config, teacher)
    logit_scale = teacher.logit_scale if config.temperature is None else 1 / config.temperature
    text = class_embeddings(teacher, [*classes.values(), *contrast.values()], templates)
    views = {"grids": {"cdul": (1, config.snippets), "ccd": (1,)}.get(config.method, config.grids), "size": size}
    if config.method == "dense":
        views |= {"view_sets": config.views, "attention": config.attention}
    running = {"store": store, "batch_size": batch_size, "runtime": runtime}
    with encoded_views(found.photos, teacher, root=found.root, **views, **running) as (stores, unreadable):
        skipped = sorted([*found.skipped, *unreadable], key=lambda skip: skip.path)

        def label() -> Labels:
            photos = _readable(found, stores, skipped)
            parents = classes.tree.parent_columns(list(classes))
            fitted = like.labels.meta["fitted"] if like else None
            made_of = (text.to(teacher.device), parents, logit_scale, config, fitted, runtime.progress)
            scores, summary = label_stored(stores, photos, *made_of)
            if not scores.isfinite().all():
                raise InputError(f"the labels are not all finite. The weights of {teacher.name} may be damaged.")
            scores = raise_parents(scores, parents)
            _report(summary, [*classes, *contrast], classes.tree.parents, config, runtime.progress, fitted)
            summary.pop("seen")
            meta = _meta(config, templates, classes, contrast) | summary
            meta["thresholds"] = like.thresholds if like else thresholds_of_labels(scores, config.method)
            meta["clip"] = teacher_facts(teacher, logit_scale, size)
            meta["content"] = as_tensor([stores[0].contents[identity(photo)] for photo in photos])
            meta["skipped"] = [[skip.path, skip.reason] for skip in skipped]
            if store:
                meta["store"] = os.path.abspath(store)
            return Labels([photo.path for photo in photos], list(classes), scores, root=found.root, meta=meta)

        return runtime.distributed.on_main(label)


def _readable(found: Found, stores: Sequence[Store], skipped: Sequence[Skip]) -> list[Photo]:
    """The photos that all stores have. InputError if there is none."""
    photos = [photo for photo in found.photos if all(photo in store for store in stores)]
    if not photos:
        first = f" (first: {skipped[0].path}: {skipped[0].reason})" if skipped else ""
        total = len(found.photos) + len(found.skipped)
        raise InputError(f"0 of {total} photos in {found.root} are readable{first}. No labels were written.")
    return photos


def _meta(
    config: PseudolabelConfig, templates: Sequence[str], classes: Mapping[str, str], contrast: Mapping[str, str]
) -> dict[str, Any]:
    """How the labels were made, as plain containers for the labels' `meta`."""
    hierarchy = {"hierarchy": classes.tree.plain()} if classes.tree else {}
    settings = {"method": config.method, "settings": asdict(config), "templates": list(templates)}
    return hierarchy | settings | {"prompts": list(classes.values()), "contrast": list(contrast.values())}


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


def _report(
    summary: dict,
    names: list[str],
    parents: Mapping[str, str],
    config: PseudolabelConfig,
    progress: Progress,
    fitted: Mapping | None,
) -> None:
    """Say what a user should know about the labels. InputError if the temperature makes them useless.

    `names` (K,) are the classes, then the contrast names. `parents` are {child: parent}; such pairs are not named.
    """
    if fitted:
        if warning := other_kind(summary["seen"], fitted["seen"], names):
            progress.log(warning)
        summary = {"mean_top1": summary["mean_top1"]}  # the rest is about the photos of the fit
    pairs = [(names[a], names[b]) for a, b, _ in summary.get("same_names", [])]
    same = [f"{a} and {b}" for a, b in pairs if a not in ancestors(b, parents) and b not in ancestors(a, parents)]
    if same:
        progress.log(
            f"names with nearly the same scores in all views: {shorten(same)}. They do not compete, and get similar labels. "
            "Remove one of a pair, or give it other words (label = other words)."
        )
    if "view_sets" in summary:
        _report_view_sets(summary, progress)
    bias_photos = summary.get("bias_photos", [])  # (C,)
    missing = [name for name, photos in zip(names, bias_photos, strict=False) if not photos]
    if missing:
        progress.log(
            f"no confident photo has {shorten(missing)} as its top class ({len(missing)} of {len(bias_photos)} classes). "
            "Their bias is the mean of the other classes."
        )
    if summary["mean_top1"] > 1 / len(names) + FLAT_MARGIN:
        return
    line = (  # as with a logit scale that was divided by instead of multiplied
        f"the mean top-1 probability is {summary['mean_top1']:.3f} for {len(names)} names, about 1/{len(names)}: the scores are "
        "almost equal and say nothing about the classes"
    )
    if config.temperature is not None:
        raise InputError(f"{line}. `temperature` {config.temperature:g} is too high; OpenAI's models need 0.01.")
    progress.log(f"warning: {line}. This CLIP may not know these classes, or its weights may be untrained.")


def _report_view_sets(summary: dict, progress: Progress) -> None:
    """Say how well the view sets of dense labels agree, and which of them do not count."""
    found = {name: part["agreements"] for name, part in summary["view_sets"].items()}
    least, reference = summary["least_agreement"], "centred labels" if "mixture" in summary else "mean of all"
    listed = ", ".join(f"{name} {' and '.join(f'{a:.2f}' for a in agreements)}" for name, agreements in found.items())
    progress.detail(f"agreement of each view set with the {reference}, by levels and by Gaussians: {listed}")
    if "mixture" not in summary:
        progress.log("without views, sets that err alike agree, too: trust such labels of a CLIP with a ResNet only")
    useless = [name for name, agreements in found.items() if agreements[0] < least]
    for name in useless:
        progress.log(
            f"view set {name} does not count: its agreement is {found[name][0]:.2f}, below {least:.2f}, halfway from chance to 0.9. "
            "These patch features of this CLIP say too little about the classes."
        )
    if len(useless) == len(found):
        progress.log(f"no view set counts: the labels are the {reference}")
