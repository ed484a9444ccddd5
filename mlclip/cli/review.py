"""`mlclip review`: which labels a person should look at next."""

from __future__ import annotations

import csv
import sys

import click

from ..config import LABELS_FILE
from . import options
from .console import Console, printable, table


@click.command()
@click.option(
    "--labels",
    type=click.Path(),
    default=LABELS_FILE,
    show_default=True,
    help="The table to look at: .pt, .csv, .json or .jsonl.",
)
@click.option(
    "--predictions",
    type=click.Path(),
    help="A model's scores of the same photos, as a table: labels that it contradicts come first.",
)
@click.option(
    "--model",
    type=click.Path(),
    help="Instead of --predictions: a model, .pt or .onnx; it predicts the labelled photos.",
)
@click.option(
    "--root", type=click.Path(), metavar="DIR", help="For --model: the folder of the photos, if they have moved."
)
@click.option(
    "--corrections",
    type=click.Path(),
    metavar="FILE",
    help="Lines `path,class,value`: these labels need no second look.",
)
@click.option("-n", "count", type=click.IntRange(1), default=20, show_default=True, help="Number of labels.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv"]),
    default="table",
    show_default=True,
    help="How they are printed; csv can be edited into a file of corrections.",
)
@options.running
def review(labels, predictions, model, root, corrections, count, form, quiet, **running):
    """Name the labels that are most worth a look.

    These are labels near their threshold and labels that a model contradicts, of different classes and of photos that
    differ. Answer them in the page of `mlclip report`, or in a file with lines `path,class,value` (1 or 0), and train
    again:

    \b
      mlclip train --corrections corrections.csv --method probe --overwrite

    A model that contradicts labels should not have learned them by heart; the model of --method probe is a good choice.
    """
    from ..labels.corrections import correct, read_corrections
    from ..labels.diagnosis import questions
    from ..labels.table import read_labels

    if predictions and model:
        raise click.UsageError("Pass either --predictions or --model.")
    progress, known = Console(quiet=quiet), read_labels(labels)
    if corrections:
        known = correct(known, read_corrections(corrections)).labels
    scores = read_labels(predictions) if predictions else None
    if model:
        from ..student.predict import predict

        scores = predict([root or known.root], model, progress=progress, **running)
    rows = [[q.path, q.name, f"{q.score:.3f}", q.reason] for q in questions(known, scores, count)]
    header = ["path", "class", "score", "reason"]
    if form == "csv":
        shown = printable if sys.stdout.isatty() else str  # a file keeps the exact paths
        csv.writer(sys.stdout, lineterminator="\n").writerows(
            [header, *([shown(cell) for cell in row] for row in rows)]
        )
        sys.stdout.flush()
    else:
        click.echo(table(header, rows, right=[2]))
    return options.report_skipped(scores.meta.get("skipped", []), None) if model else 0
