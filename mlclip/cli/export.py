"""`mlclip export`: a student as ONNX, or its thresholds as a table."""

from __future__ import annotations

import click

from ..config import MODEL_FILE
from . import options
from .console import Console


@click.command()
@click.option("--model", default=MODEL_FILE, show_default=True, help="What `mlclip train` wrote.")
@click.option("-o", "--output", default="model.onnx", show_default=True, help="Where it goes: .onnx, or .csv or .json.")
@options.overwrite
@options.quiet
def export(model, output, overwrite, quiet):
    """Write the model as ONNX: uint8 pixels (N, 3, size, size) in, scores (N, C) in [0, 1] out.

    Needs the extra: pip install "mlclip[onnx]". Class names and thresholds travel in the file's metadata. With -o FILE.csv
    or FILE.json only the thresholds are written, to be changed and given to `mlclip predict --threshold-file`.
    """
    from pathlib import Path

    from ..files import check_output
    from ..labels.text_formats import write_thresholds
    from ..student.checkpoint import load_checkpoint
    from ..student.export import export_onnx

    check_output(output, overwrite=overwrite)
    checkpoint = load_checkpoint(model)
    if Path(output).suffix.lower() in (".csv", ".json"):
        write_thresholds(Path(output), checkpoint.model.classes, checkpoint.thresholds.tolist())
        Console(quiet=quiet).log(f"{output}: next: mlclip predict PHOTO --threshold-file {output}")
        return 0
    difference = export_onnx(checkpoint, output)
    Console(quiet=quiet).log(f"{output}: scores differ from PyTorch's by at most {difference:.1e} on a random picture")
    return 0
