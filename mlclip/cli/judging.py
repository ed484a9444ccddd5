"""`mlclip evaluate` and `report`: tables of labels, judged and shown."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click

from ..config import InputError
from . import options
from .console import Console, table
from .labelling import OUTPUT as LABELS


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGES...]")
@click.option("--labels", "labels_file", help="A table of scores: .pt, .csv, .json or .jsonl.")
@click.option("--model", help="Or a model, whose predictions on IMAGES are judged.")
@click.option("--truth", required=True, help="voc:DIR[:split], coco:FILE, nuswide:DIR, or a table such as FILE.csv.")
@click.option("--only", help="Judge only these classes: a list, a preset or a FILE.")
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
def evaluate(images, labels_file, model, truth, only, form, batch_size, device, loaders, quiet):
    """Judge scores by true labels: average precision of each class, their mean (mAP), and the calibration error (ECE).

    Rows are matched by path and classes by name. Classes without a positive are listed and not counted; labels that
    are not known (difficult objects, empty cells) are ignored. The ECE is how far scores are from the share of positives,
    over all cells in 15 bins.
    """
    from ..calibration import expected_calibration_error
    from ..datasets import read_truth
    from ..labels import matched_cells, mean_average_precision, read_labels
    from ..presets import shorten

    if (labels_file is None) == (model is None):
        raise click.UsageError("give either --labels FILE, or --model FILE and IMAGES")
    if model and not images:
        raise click.UsageError("--model needs IMAGES to predict")
    if labels_file and images:
        raise click.UsageError("--labels is a finished table: leave the IMAGES away, or give --model")
    judged = (model, images, batch_size, device, loaders, quiet)
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
    from ..presets import parse_classes

    names = list(parse_classes(only))
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise InputError(
            f"--only names {', '.join(unknown)}, which the truth does not have; it has {', '.join(classes)}"
        )
    return names


def predict_with(model: str, images, batch_size: int, device: str, loaders: int, quiet: bool):
    """The Labels that the model file `model` predicts for the photos a user named."""
    from ..checkpoint import load_checkpoint

    return predict_photos(load_checkpoint(model), images, batch_size, device, loaders, quiet)


def predict_photos(checkpoint, images, batch_size: int, device: str, loaders: int, quiet: bool):
    """The Labels that an opened model predicts for the photos a user named."""
    from ..images import find_images
    from ..predict import predict
    from ..workers import choose_device

    talk, chosen = Console(quiet=quiet), choose_device(device)
    return predict(find_images(images), checkpoint, device=chosen, batch_size=batch_size, loaders=loaders, talk=talk)


@click.command()
@click.option("--labels", "labels_file", default=LABELS, show_default=True, help="The table to show.")
@click.option("--truth", help="True labels to report against, as for `mlclip evaluate`.")
@click.option("--root", help="The photos' folder, if it is not where the labels say, as with a .csv.")
@options.threshold_file
@click.option(
    "--limit", type=click.IntRange(0), default=60, show_default=True, help="How many photos the gallery shows."
)
@click.option("-o", "--output", default="report.html", show_default=True, help="The page.")
@options.overwrite
@options.quiet
def report(labels_file, truth, root, threshold_file, limit, output, overwrite, quiet):
    """Show labels as one self-contained HTML page: classes, confidences, and a gallery of photos.

    Predictions are labels too: mlclip predict PHOTOS --format csv > p.csv and mlclip export -o thresholds.csv, then
    --labels p.csv --root PHOTOS --threshold-file thresholds.csv; without a file of thresholds a score counts from one half on.
    """
    from dataclasses import replace

    from ..datasets import read_truth
    from ..files import atomic, check_output
    from ..labels import read_labels
    from ..report import render_report

    check_output(output, overwrite=overwrite)
    labels = read_labels(labels_file)
    if root:
        labels = replace(labels, root=root)
    if threshold_file:
        own = labels.thresholds.tolist()
        labels.meta["thresholds"] = options.thresholds_of(threshold_file, labels.classes, own)
    page = render_report(labels, truth=read_truth(truth) if truth else None, title=Path(labels_file).name, limit=limit)
    with atomic(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    Console(quiet=quiet).say(f"{output}: open it in a browser")
    return 0
