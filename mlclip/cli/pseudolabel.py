"""`mlclip pseudolabel`: photos to a table of labels."""

from __future__ import annotations

from pathlib import Path

import click

from ..config import LABELS_FILE, EncodingConfig, PseudolabelConfig, TeacherConfig, train_config
from . import options
from .console import Console
from .settings import config_file, settings


@click.command()
@options.images
@options.exclude
@click.option(
    "--classes",
    help="The classes: a FILE (one name per line, or `label = prompt name`, or `animal > dog` for a class below another; also "
    'JSON, or YAML with `names:`), a preset (voc, coco, nuswide), or "cat,dog=a small dog".  '
    "[default: classes.txt in or next to the folder of the photos, else coco]",
)
@click.option(
    "--contrast",
    help="Further names, in the same forms as --classes, that compete with the classes and are then dropped. Name what "
    "else the photos show if many of them show none of the classes. Names of things that are not there do harm.",
)
@click.option(
    "--clip",
    help="The teacher: a name from `mlclip models`, a weight FILE, a folder DIR of open_clip or Hugging Face, or "
    "open_clip:NAME/TAG.  [default: ViT-B/32 on a CPU, RN50x64 on a GPU]",
)
@click.option(
    "--like",
    metavar="LABELS",
    type=click.Path(),
    help="Label new photos as those of this file were: its classes, prompts, teacher, method, and all that was fitted. A label then does "
    "not depend on the other photos of the folder.",
)
@options.output(default=LABELS_FILE, help="Where the labels are written: .pt, .csv, .json or .jsonl.")
@settings(PseudolabelConfig, TeacherConfig, EncodingConfig)
@click.option(
    "--template",
    "templates",
    multiple=True,
    help="A prompt with {} for the class name, or a set of prompts: paper-cdul, paper-ccd or ensemble. Can be repeated.  "
    "[default: the prompts of the method's paper]",
)
@options.place("--store", metavar="DIR", help="Folder for the embeddings.  [default: in the cache]")
@options.overwrite
@options.running
@options.verbose
@options.offline
@config_file
def pseudolabel(images, output, device, progress, **more):
    """Label photos with CLIP.

    IMAGES are folders (with all subfolders), files, patterns such as "imgs/*.jpg", @list.txt (one path per line),
    @table.csv:COLUMN (also .tsv and .parquet), or .tar shards, whose photos are read in place.

    CLIP sees each photo whole and in parts, and compares every view with the class names. The result is one table of
    scores, in labels.pt.

    The embeddings are kept, see `mlclip cache`: the next run with other class names, prompts or settings takes seconds,
    and an interrupted run continues where it stopped.
    """
    import torch

    from ..distributed import choose_device, start_distributed
    from ..labels.class_names import CLASS_PRESETS, DEFAULT_NAMES, DEFAULT_PRESET
    from ..teacher.pseudolabel import pseudolabel as label

    distributed = start_distributed(device)
    progress.quiet |= not distributed.is_main
    if more["like"] and click.get_current_context().get_parameter_source("views").name == "DEFAULT":
        del more["views"]  # a default that nobody chose changes nothing
    labels = label(images, output=output, distributed=distributed, progress=progress, **more)
    if not distributed.is_main:
        return 0
    per_photo = float((labels.scores >= labels.thresholds).sum()) / len(labels)
    size = f"{len(labels)} photos × {len(labels.classes)} classes"
    low, high = (float(edge) for edge in labels.thresholds.aminmax())
    limit = f"{low:.2g} or more" if low == high else f"at least the threshold of the class, {low:.2f} to {high:.2f}"
    progress.log(f"{output}: {size}, {per_photo:.2f} labels per photo (score {limit})")
    _show_diagnosis(labels, progress)
    if not (more["classes"] or more["like"]) and labels.classes == list(CLASS_PRESETS[DEFAULT_PRESET]):
        progress.log(
            f"no class names were given: {DEFAULT_NAMES}. Name your own with --classes FILE or --classes cat,dog"
        )
    progress.log(f"next: mlclip train --labels {output}")
    arch = train_config({}, choose_device(device).type).arch
    if not any(Path(torch.hub.get_dir(), "checkpoints").glob(f"{arch}-*.pth")):
        progress.log(
            f"it will download torchvision's ImageNet weights of {arch}; without the network, give --init a file of weights, or none"
        )
    return options.report_skipped(labels.meta["skipped"], output)


def _show_diagnosis(labels, progress: Console) -> None:
    """Print how many photos have each class and how sure the labels are, and what looks wrong."""
    from ..labels.review import diagnose

    found = diagnose(labels)
    if len(found.classes) <= options.CLASSES_SHOWN:
        rows = sorted(zip(found.classes, found.photos, found.sure, strict=True), key=lambda row: -row[1])
        shown = [[name, str(photos), f"{sure:.2f}" if photos else "–"] for name, photos, sure in rows]
        progress.table(["class", "photos", "how sure"], shown, right=[1, 2])
    if found.empty and not found.many_empty:
        progress.log(f"{len(found.empty)} of {found.known} photos fit no class; `mlclip report` names them")
    for line in found.advice:
        progress.log(f"look at: {line}")
