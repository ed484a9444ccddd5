"""`mlclip export`: a student as an ONNX file, or its thresholds as a table."""

from __future__ import annotations

import click

from ..config import MODEL_FILE
from . import completion, options
from .console import Console


@click.command()
@click.option(
    "--model",
    default=MODEL_FILE,
    show_default=True,
    shell_complete=completion.files,
    help="The model that `mlclip train` wrote.",
)
@click.option(
    "-o",
    "--output",
    shell_complete=completion.files,
    default="model.onnx",
    show_default=True,
    help="Where the result is written: .onnx for the model, .csv or .json for its thresholds.",
)
@click.option(
    "--variant",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Numbers inside the ONNX file: fp16 is half the size, for GPUs; int8 is a quarter, for CPUs.",
)
@click.option(
    "--photos",
    shell_complete=completion.files,
    multiple=True,
    metavar="IMAGES",
    help="Photos like those that will be predicted, without labels. int8 needs them; 128 are used.",
)
@options.overwrite
@options.quiet
def export(model, output, variant, photos, overwrite, quiet):
    """Write the model as ONNX, or only its thresholds.

    The ONNX model takes uint8 pixels (N, 3, size, size) and returns scores (N, C) in [0, 1]. The metadata of the file
    holds the class names and thresholds, so that `mlclip predict --model model.onnx` needs no other file. The scores are
    compared with PyTorch's, on --photos or on random images. This needs an extra: pip install "mlclip[onnx]".

    With -o FILE.csv or FILE.json, only the thresholds are written. Edit them and pass the file to `mlclip predict
    --threshold-file`.
    """
    from pathlib import Path

    from ..files import check_output
    from ..images import find_images
    from ..labels.text_formats import write_thresholds
    from ..student.checkpoint import load_checkpoint
    from ..student.export import export_onnx

    only_thresholds = Path(output).suffix.lower() in (".csv", ".json")
    if only_thresholds and (photos or variant != "fp32"):
        raise click.UsageError(f"--variant and --photos are for ONNX files. Remove them, or replace -o {output}.")
    check_output(output, overwrite=overwrite)
    checkpoint, progress = load_checkpoint(model), Console(quiet=quiet)
    if only_thresholds:
        write_thresholds(Path(output), checkpoint.model.classes, checkpoint.thresholds.tolist())
        progress.log(f"{output}: next: mlclip predict PHOTO --threshold-file {output}")
        return 0
    found = find_images(photos) if photos else None
    difference = export_onnx(checkpoint, output, variant=variant, photos=found)
    progress.log(f"{output}: {difference}")
    if "hierarchy" in checkpoint.meta:
        progress.log(
            f"warning: {output} does not know the hierarchy and groups of the classes; its scores and thresholds can contradict them"
        )
    return 0
