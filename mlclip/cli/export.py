"""`mlclip export`: a student as ONNX or safetensors, its thresholds, or a table of labels for another tool."""

from __future__ import annotations

import os
from pathlib import Path

import click

from . import options

TOOLS = {  # for --to: the default output, and what a person does with it
    "label-studio": ("label-studio.json", "create a project with the configuration {1}, and import {0}"),
    "coco": ("coco.json", "it can also be read here: mlclip evaluate --labels FILE --truth coco:{0}"),
    "csv": ("export.csv", "open it in a spreadsheet or with pandas"),
    "exiftool": ("keywords.csv", 'exiftool -csv={0} -sep "; " PHOTOS writes the keywords into the photos'),
    "folders": ("by-class", "look into {0}: a folder for each class, with links to its photos"),
}
OF_MODELS, OF_TABLES = ("model", "variant", "photos"), ("labels", "root", "threshold", "url_prefix")


@click.command()
@options.model(help="The model that `mlclip train` wrote, .pt or .safetensors.")
@options.place(
    "-o",
    "--output",
    show_default="model.onnx, or named after --to",
    help="The file: .onnx or .safetensors for the model, .csv or .json for its thresholds; with --to the table.",
)
@options.choice(
    "--variant", choices=["fp32", "int8"], help="Of ONNX: int8 is a quarter of the size, and faster on most CPUs."
)
@options.place(
    "--photos", multiple=True, metavar="IMAGES", help="int8 needs photos like those that it will see; 128 are used."
)
@click.option(
    "--to", "tool", type=click.Choice(list(TOOLS)), help="Instead of a model, write a table of labels for this tool."
)
@options.labels(help="For --to: the table, .pt, .csv, .json or .jsonl, or another form of `mlclip evaluate --labels`.")
@options.root
@options.threshold
@click.option(
    "--url-prefix",
    default="/data/local-files/?d=",
    show_default=True,
    help="For --to label-studio: what stands before the path of a photo in its URL. The default is for Label Studio's local "
    "files; an empty text gives relative paths.",
)
@options.overwrite
@options.quiet
@click.pass_context
def export(ctx, model, output, variant, photos, tool, labels, root, threshold, url_prefix, overwrite, progress):
    """Write the model for others, only its thresholds, or a table of labels for another tool.

    The ONNX model takes uint8 pixels (N, 3, size, size) and returns scores (N, C) in [0, 1]. The metadata of the file
    holds the class names and thresholds, so that `mlclip predict --model model.onnx` needs no other file. The scores are
    compared with PyTorch's, on --photos or on random images. This needs more packages: pip install onnx onnxscript onnxruntime.

    With -o model.safetensors, the weights and what is recorded about the model are written, and model.md, a card for people.
    All commands take the file as --model. This needs pip install safetensors. With -o FILE.csv or FILE.json, only the thresholds
    are written. Edit them and pass the file to `mlclip predict --threshold`.

    With --to, a table of labels is written for an annotation tool or a photo manager; docs/formats.md has recipes for others:

    \b
      mlclip export --to label-studio

    A photo gets the classes that reach their thresholds. `mlclip evaluate`, `report` and `train` read the corrected labels
    as label-studio:FILE or coco:FILE.
    """
    given = click.core.ParameterSource.COMMANDLINE
    for param in ctx.command.params:
        if param.name in (OF_MODELS if tool else OF_TABLES) and ctx.get_parameter_source(param.name) == given:
            why = "has no effect with --to" if tool else "needs --to"
            raise click.UsageError(f"{param.opts[-1]} {why}. Remove {'one of them' if tool else 'it, or add --to'}.")
    if tool:
        return _table(tool, labels, root, threshold, url_prefix, output, overwrite, progress)
    return _model(model, output or "model.onnx", variant, photos, overwrite, progress)


def _table(tool, file, root, threshold, url_prefix, output, overwrite, progress) -> int:
    from dataclasses import replace

    from ..labels.table import export_labels, read_labels

    labels = read_labels(file)
    labels = replace(labels, root=root or labels.root)
    options.set_thresholds(labels, threshold, file, progress)
    default_output, what_next = TOOLS[tool]
    written = export_labels(labels, output or default_output, tool, url_prefix=url_prefix, overwrite=overwrite)
    progress.log(f"{written[0]}: {len(labels)} photos; next: {what_next.format(*written)}")
    return 0


def _model(model, output, variant, photos, overwrite, progress) -> int:
    from ..files import check_output
    from ..images import find_images
    from ..labels.class_files import write_thresholds
    from ..student.card import hand_over
    from ..student.checkpoint import load_checkpoint
    from ..student.export import export_onnx

    suffix = Path(output).suffix.lower()
    if suffix in (".csv", ".json", ".safetensors") and (photos or variant != "fp32"):
        raise click.UsageError(f"--variant and --photos are for ONNX files. Remove them, or replace -o {output}.")
    if suffix == ".safetensors":
        card = hand_over(model, output, overwrite=overwrite)
        progress.log(f"{output}: next: mlclip predict PHOTO --model {output}; {card} says what is in it")
        return 0
    check_output(output, overwrite=overwrite)
    checkpoint = load_checkpoint(model)
    if suffix in (".csv", ".json"):
        write_thresholds(Path(output), checkpoint.model.classes, checkpoint.thresholds.tolist())
        progress.log(f"{output}: next: mlclip predict PHOTO --threshold {output}")
        return 0
    found = find_images(photos) if photos else None
    try:
        difference = export_onnx(checkpoint, output, variant=variant, photos=found)
    except KeyboardInterrupt:  # an orderly end takes seconds: Python clears away all that torch's exporter has imported
        click.echo("mlclip: interrupted", err=True)
        os._exit(130)
    progress.log(f"{output}: {difference}")
    if "hierarchy" in checkpoint.meta:
        without = "does not know the hierarchy and groups of the classes"
        progress.log(f"warning: {output} {without}; its scores and thresholds can contradict them")
    return 0
