"""`mlclip pseudolabel`: photos to a table of labels."""

from __future__ import annotations

import click

from ..config import LABELS_FILE, PseudolabelConfig
from . import options
from .class_options import class_names, contrast_names, prompt_templates
from .console import Console, table


def _numbers(_context, parameter, value) -> tuple[int, ...]:
    """A comma list of whole numbers."""
    if isinstance(value, tuple):
        return value
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no list of whole numbers such as 1,2,3", param=parameter) from error


def _teacher(clip: str | None, activation: str, device: str, offline: bool, progress: Console):
    from ..clip import load_clip
    from ..distributed import start_distributed
    from ..teacher.scoring import Teacher, default_clip

    distributed = start_distributed(device)
    if not distributed.is_main:
        progress = Console(quiet=True)
    if clip is None:
        clip = default_clip(distributed.device)
        progress.log(
            f"teacher: CLIP {clip}, the default on {distributed.device.type}; --clip takes another (see `mlclip models`)"
        )
    return (
        Teacher(load_clip(clip, activation=activation, offline=offline, progress=progress), distributed.device),
        distributed,
        progress,
    )


def _from(labels) -> str:
    """From which score on a label counts as given, in words."""
    low, high = (float(edge) for edge in labels.thresholds.aminmax())
    return f"at {low:.2g} or more" if low == high else f"at each class's own threshold ({low:.2f} to {high:.2f})"


def _say_what_they_are_worth(labels, progress: Console) -> None:
    """How many photos have each class and how surely, and what looks wrong."""
    from ..labels.diagnosis import diagnose

    found = diagnose(labels)
    if len(found.classes) <= options.CLASSES_SHOWN:
        rows = sorted(zip(found.classes, found.photos, found.sure, strict=True), key=lambda row: -row[1])
        shown = [[name, str(photos), f"{sure:.2f}" if photos else "–"] for name, photos, sure in rows]
        progress.log(table(["class", "photos", "how sure"], shown, right=[1, 2]))
    if found.empty and not found.many_empty:
        progress.log(f"{len(found.empty)} of {found.known} photos fit no class; `mlclip report` names them")
    for line in found.advice:
        progress.log(options.printable(f"look at: {line}"))


@click.command()
@options.images
@click.option(
    "--classes",
    help='FILE (a name per line, `label = prompt name`), a preset (voc, coco, nuswide), or "cat,dog=a small dog".',
)
@click.option(
    "--contrast",
    help="Names, given as --classes are, that take part in the comparison and are then dropped: what else is in the photos. "
    "Wanted where many photos show none of the classes; names of what is not there do harm.",
)
@click.option(
    "--clip",
    help="The teacher: a name from `mlclip models`, or a weight FILE.  [default: ViT-B/32 on a CPU, RN50x64 on a GPU]",
)
@click.option(
    "--clip-activation",
    type=click.Choice(["quick_gelu", "gelu"]),
    default="quick_gelu",
    show_default=True,
    help="What the weights were trained with: OpenAI's quick_gelu, LAION's mostly gelu.",
)
@click.option(
    "--template",
    multiple=True,
    help="A prompt with {} for the class name, or a set: paper-cdul, paper-ccd, ensemble. Repeatable.  [default: the method's paper's]",
)
@options.setting(
    PseudolabelConfig,
    "method",
    "--method",
    type=click.Choice(PseudolabelConfig.METHODS),
    help="cdul: whole photo and snippets, fused. ccd: whole photo at a larger size, debiased. centred: views of several "
    "sizes, each class's own level taken out first.",
)
@options.setting(
    PseudolabelConfig,
    "part",
    "--part",
    type=click.Choice(PseudolabelConfig.PARTS),
    help="cdul: the final labels, or one of the two they are made of.",
)
@options.setting(PseudolabelConfig, "snippets", "--snippets", type=int, help="cdul: n of the n×n grid of local views.")
@options.setting(
    PseudolabelConfig,
    "zeta",
    "--zeta",
    type=float,
    help="cdul: ζ; a class some snippet scores so high takes its maximum, else its minimum; 0 is always the maximum.",
)
@options.setting(
    PseudolabelConfig,
    "temperature",
    "--temperature",
    type=float,
    help="τ of the softmax.  [default: CLIP's own, 0.01 for OpenAI's]",
)
@options.setting(
    PseudolabelConfig,
    "disagreement",
    "--lambda",
    type=float,
    help="cdul: λ, weight of |global − aggregate| in the final labels.",
)
@options.setting(
    PseudolabelConfig,
    "view_size",
    "--view-size",
    type=int,
    help="ccd: side of the squeezed photo in pixels.  [default: 10/7 of CLIP's own]",
)
@options.setting(
    PseudolabelConfig, "max_entropy", "--max-entropy", type=float, help="ccd: nats up to which a photo is confident."
)
@options.setting(
    PseudolabelConfig, "floor", "--floor", type=float, help="ccd: scores are raised to it before they are debiased."
)
@options.setting(
    PseudolabelConfig, "debias", "--debias/--no-debias", help="ccd: divide by each class's bias, or do not."
)
@options.setting(
    PseudolabelConfig,
    "grids",
    "--grids",
    callback=_numbers,
    help="centred: the views, n×n for each n; 1 is the whole photo.",
)
@options.setting(
    PseudolabelConfig,
    "rank_scale",
    "--rank-scale",
    type=float,
    help="centred: softmax within a view, of CLIP's own scale.",
)
@options.setting(
    PseudolabelConfig,
    "prior_photos",
    "--prior-photos",
    type=float,
    help="centred: how many photos' weight the other classes have in the fit of one.",
)
@options.setting(
    PseudolabelConfig,
    "profiles",
    "--profiles/--no-profiles",
    help="centred: ask a second opinion, what views that surely show each class look like.",
)
@click.option(
    "--store", type=click.Path(file_okay=False), help="Folder of the view embeddings.  [default: in the cache]"
)
@click.option(
    "-o", "--output", default=LABELS_FILE, show_default=True, help="Where the labels go: .pt, .csv, .json or .jsonl."
)
@options.overwrite
@options.offline
@options.encode_batch(64)
@options.running
def pseudolabel(
    images,
    classes,
    contrast,
    clip,
    clip_activation,
    template,
    store,
    output,
    overwrite,
    offline,
    batch_size,
    device,
    num_workers,
    quiet,
    **settings,
):
    """Label photos with CLIP: folders (with all below), files, globs or @list.txt.

    Looks at each photo whole and in snippets, compares every view with the class names, and writes one table of
    scores. What CLIP saw is kept: other class names, prompts or settings take seconds, and a run that was stopped
    goes on where it was.
    """
    from ..files import check_output
    from ..images import find_images
    from ..labels.class_names import check_class_count
    from ..labels.table import write_labels
    from ..teacher.pseudolabel import pseudolabel as label_photos

    progress, config = Console(quiet=quiet), PseudolabelConfig(**settings)
    check_output(output, overwrite=overwrite)
    found = find_images(images)
    names = class_names(classes, found.root, progress.log)
    contrast = contrast_names(contrast, names, progress.log)
    check_class_count(names, contrast)
    teacher, distributed, progress = _teacher(clip, clip_activation, device, offline, progress)
    labels = label_photos(
        found, names, teacher, config=config, templates=prompt_templates(template, config.method), contrast=contrast, store=store,
        batch_size=batch_size, num_workers=num_workers, distributed=distributed, progress=progress,
    )  # fmt: skip
    if not distributed.is_main:
        return 0
    write_labels(labels, output, overwrite=overwrite)
    per_photo = float((labels.scores >= labels.thresholds).sum()) / len(labels)
    progress.log(
        f"{output}: {len(labels)} photos × {len(labels.classes)} classes, {per_photo:.2f} a photo {_from(labels)}"
    )
    _say_what_they_are_worth(labels, progress)
    progress.log(f"next: mlclip train --labels {output}")
    return options.report_skipped(labels.meta["skipped"], output)
