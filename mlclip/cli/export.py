"""`mlclip export`: a student as an ONNX file, or its thresholds as a table."""

from __future__ import annotations

import click

from ..config import MODEL_FILE
from . import options
from .console import Console


@click.command()
@click.option("--model", default=MODEL_FILE, show_default=True, help="The model that `mlclip train` wrote.")
@click.option(
    "-o",
    "--output",
    default="model.onnx",
    show_default=True,
    help="Where the result is written: .onnx for the model, .csv or .json for its thresholds.",
)
@options.overwrite
@options.quiet
def export(model, output, overwrite, quiet):
    """Write the model as ONNX, or only its thresholds.

    The ONNX model takes uint8 pixels (N, 3, size, size) and returns scores (N, C) in [0, 1]. The metadata of the file
    holds the class names and thresholds. This needs an extra: pip install "mlclip[onnx]".

    With -o FILE.csv or FILE.json, only the thresholds are written. Edit them and pass the file to `mlclip predict
    --threshold-file`.
    """
    from pathlib import Path

    from ..files import check_output
    from ..labels.text_formats import write_thresholds
    from ..student.checkpoint import load_checkpoint
    from ..student.export import export_onnx

    check_output(output, overwrite=overwrite)
    checkpoint, progress = load_checkpoint(model), Console(quiet=quiet)
    if Path(output).suffix.lower() in (".csv", ".json"):
        write_thresholds(Path(output), checkpoint.model.classes, checkpoint.thresholds.tolist())
        progress.log(f"{output}: next: mlclip predict PHOTO --threshold-file {output}")
        return 0
    difference = export_onnx(checkpoint, output)
    progress.log(f"{output}: on a random image, its scores differ from PyTorch's by at most {difference:.1e}")
    return 0
