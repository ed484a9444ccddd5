"""`mlclip evaluate`: scores compared with true labels."""

from __future__ import annotations

import json
import math

import click

from ..config import InputError
from . import options
from .console import table
from .photos import predict_with


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGES...]")
@click.option("--labels", "labels_file", help="A table of scores: .pt, .csv, .json or .jsonl.")
@click.option("--model", help="Or a model, whose predictions on IMAGES are judged.")
@click.option("--truth", required=True, help="voc:DIR[:split], coco:FILE, nuswide:DIR, or a table such as FILE.csv.")
@click.option("--only", help="CropScorer only these classes: a list, a preset or a FILE.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print it.",
)
@options.encode_batch(64)
@options.running
def evaluate(images, labels_file, model, truth, only, form, batch_size, device, num_workers, quiet):
    """CropScorer scores by true labels: average precision of each class, their mean (mAP), and the calibration error (ECE).

    Rows are matched by path and classes by name. Classes without a positive are listed and not counted; labels that
    are not known (difficult objects, empty cells) are ignored. The ECE is how far scores are from the share of positives,
    over all cells in 15 bins.
    """
    from ..labels.class_names import shorten
    from ..labels.datasets import read_truth
    from ..labels.metrics import matched_cells, mean_average_precision
    from ..labels.table import read_labels
    from ..methods.calibration import expected_calibration_error

    if (labels_file is None) == (model is None):
        raise click.UsageError("give either --labels FILE, or --model FILE and IMAGES")
    if model and not images:
        raise click.UsageError("--model needs IMAGES to predict")
    if labels_file and images:
        raise click.UsageError("--labels is a finished table: leave the IMAGES away, or give --model")
    judged = (model, images, batch_size, device, num_workers, quiet)
    scores = predict_with(*judged) if model else read_labels(labels_file)
    known = read_truth(truth)
    if only:
        known = known.aligned(known.paths, _chosen(only, known.classes))
    mean, per_class = mean_average_precision(scores, known)
    error = expected_calibration_error(*matched_cells(scores, known))
    judged = [name for name, value in per_class.items() if not math.isnan(value)]
    empty = [name for name in per_class if name not in judged]
    if not judged:
        raise InputError(f"{truth} has no positive of {shorten(empty)} in these photos: there is nothing to judge by")
    if form == "json":
        means = {name: None if math.isnan(value) else value for name, value in (("mAP", mean), ("ECE", error))}
        result = {**means, "AP": {n: per_class[n] for n in judged}, "without_positives": empty}
        click.echo(json.dumps(result, indent=1))
    else:
        rows = [[name, f"{100 * per_class[name]:.1f}"] for name in judged]
        click.echo(table(["class", "AP (%)"], [*rows, ["mAP", f"{100 * mean:.1f}"]], right=[1]))
        if empty:
            click.echo(f"no positives, not counted: {', '.join(empty)}", err=True)
        click.echo(f"expected calibration error (ECE): {100 * error:.1f} %", err=True)
    return options.report_skipped(scores.meta.get("skipped", []), None) if model else 0


def _chosen(only: str, classes: list[str]) -> list[str]:
    from ..labels.class_names import parse_classes

    names = list(parse_classes(only))
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise InputError(
            f"--only names {', '.join(unknown)}, which the truth does not have; it has {', '.join(classes)}"
        )
    return names
