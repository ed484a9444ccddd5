"""`mlclip pseudolabel`: photos to a table of labels."""

from __future__ import annotations

from dataclasses import fields

import click

from ..config import LABELS_FILE, PseudolabelConfig, TeacherConfig, used_settings
from . import options, settings_file
from .console import Console


@click.command(cls=options.Command)
@options.images
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
    "-o",
    "--output",
    default=LABELS_FILE,
    show_default=True,
    type=click.Path(),
    help="Where the labels are written: .pt, .csv, .json or .jsonl.",
)
@options.settings(PseudolabelConfig, TeacherConfig)
@click.option(
    "--template",
    "templates",
    multiple=True,
    help="A prompt with {} for the class name, or a set of prompts: paper-cdul, paper-ccd or ensemble. Can be repeated.  "
    "[default: the prompts of the method's paper]",
)
@click.option(
    "--store",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Folder for the embeddings.  [default: in the cache]",
)
@options.overwrite
@options.batch_size
@options.running
@options.verbose
@options.offline
@settings_file.config_file
@settings_file.print_config
def pseudolabel(images, output, device, quiet, print_config, **settings):
    """Label photos with CLIP.

    IMAGES are folders (with all subfolders), files, patterns such as "imgs/*.jpg", @list.txt (one path per line),
    @table.csv:COLUMN (also .tsv and .parquet), or .tar shards, whose photos are read in place.

    CLIP sees each photo whole and in parts, and compares every view with the class names. The result is one table of
    scores, in labels.pt.

    The embeddings are kept, see `mlclip cache`: the next run with other class names, prompts or settings takes seconds,
    and an interrupted run continues where it stopped.
    """
    from ..distributed import start_distributed
    from ..teacher.pseudolabel import pseudolabel as label

    if print_config:
        return settings_file.print_settings(_resolved(settings, device))
    distributed = start_distributed(device)
    progress = Console(quiet=quiet or not distributed.is_main)
    labels = label(images, output=output, distributed=distributed, progress=progress, **settings)
    if not distributed.is_main:
        return 0
    per_photo = float((labels.scores >= labels.thresholds).sum()) / len(labels)
    size = f"{len(labels)} photos × {len(labels.classes)} classes"
    progress.log(f"{output}: {size}, {per_photo:.2f} labels per photo (score {_limit(labels)})")
    _show_diagnosis(labels, progress)
    progress.log(f"next: mlclip train --labels {output}")
    return options.report_skipped(labels.meta["skipped"], output)


def _resolved(settings: dict, device: str) -> dict:
    """The settings of the labelling; None for a setting that the method does not use. CLIP is the default of the device.

    A method that nobody chose stays open: it depends on the CLIP."""
    from ..distributed import choose_device
    from ..teacher.scoring import default_clip

    names = [field.name for field in fields(PseudolabelConfig)]
    config = PseudolabelConfig(**{name: settings[name] for name in names if name in settings})
    clip = settings["clip"] or default_clip(choose_device(device))
    resolved = {"clip": clip} | dict.fromkeys(names) | used_settings(config)
    return resolved | {"method": config.method if settings["method"] or config.method == "dense" else None}


def _limit(labels) -> str:
    """From which score a class counts as a label, in words."""
    low, high = (float(edge) for edge in labels.thresholds.aminmax())
    return f"{low:.2g} or more" if low == high else f"at least the threshold of the class, {low:.2f} to {high:.2f}"


def _show_diagnosis(labels, progress: Console) -> None:
    """Print how many photos have each class and how sure the labels are, and what looks wrong."""
    from ..labels.diagnosis import diagnose

    found = diagnose(labels)
    if len(found.classes) <= options.CLASSES_SHOWN:
        rows = sorted(zip(found.classes, found.photos, found.sure, strict=True), key=lambda row: -row[1])
        shown = [[name, str(photos), f"{sure:.2f}" if photos else "–"] for name, photos, sure in rows]
        progress.table(["class", "photos", "how sure"], shown, right=[1, 2])
    if found.empty and not found.many_empty:
        progress.log(f"{len(found.empty)} of {found.known} photos fit no class; `mlclip report` names them")
    for line in found.advice:
        progress.log(f"look at: {line}")
