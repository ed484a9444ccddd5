"""`mlclip review`: which labels a person should look at next."""

from __future__ import annotations

import click

from ..config import InputError
from . import options
from .console import table


@click.command()
@options.labels(help="The table to look at: .pt, .csv, .json or .jsonl.")
@options.place("--predictions", help="A model's scores of the photos, as a table: what it contradicts comes first.")
@options.place("--model", help="Instead of --predictions: a model, .pt, .safetensors or .onnx, to predict them.")
@options.place("--corrections", help="Lines `path,class,value`: these labels need no second look.")
@click.option("-n", "count", type=click.IntRange(1), default=20, show_default=True, help="Number of labels.")
@options.choice(
    "--format", "form", choices=["table", "csv"], help="How they are printed; csv can become a file of corrections."
)
@options.quiet
def review(labels, predictions, model, corrections, count, form, progress):
    """Name the labels that are most worth a look.

    These are labels near their threshold and labels that a model contradicts, of different classes and of photos that
    differ. Answer them in the page of `mlclip report`, or in a file with lines `path,class,value` (1 or 0), and train
    again:

    \b
      mlclip train --corrections corrections.csv -o corrected.pt

    A model that contradicts labels should not have learned them by heart; the model of --method probe is a good choice. If its
    photos have moved, or to choose the device: mlclip predict PHOTOS -o scores.pt, then --predictions scores.pt.
    """
    from ..labels.review import correct, questions, read_corrections
    from ..labels.table import read_labels

    if predictions and model:
        raise click.UsageError("Pass either --predictions or --model.")
    known = read_labels(labels)
    if corrections:
        known = correct(known, read_corrections(corrections)).labels
    scores = read_labels(predictions) if predictions else None
    if model:
        from ..images import Found
        from ..student.predict import predict
        from ..training.start import labelled_photos

        try:
            found = Found(known.root, [photo for _, photo in labelled_photos(known)[0]], [], 0)
        except InputError:  # a .csv does not store the folder of its photos: they may be in one below this
            found = known.root
        scores = predict(found, model, progress=progress)
    rows = [[q.path, q.name, f"{q.score:.3f}", q.reason] for q in questions(known, scores, count)]
    header = ["path", "class", "score", "reason"]
    if form == "csv":
        options.write_rows(header, rows)
    else:
        click.echo(table(header, rows, right=[2]))
    return options.report_skipped(scores.meta.get("skipped", [])) if model else 0
