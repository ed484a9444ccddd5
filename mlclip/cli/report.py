"""`mlclip report`: a table of labels as an HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from ..config import LABELS_FILE
from . import options
from .console import Console


@click.command()
@click.option("--labels", "labels_file", default=LABELS_FILE, show_default=True, help="The table to show.")
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

    from ..files import atomic, check_output
    from ..labels.datasets import read_truth
    from ..labels.table import read_labels
    from ..report.build import render_report

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
    Console(quiet=quiet).log(f"{output}: open it in a browser")
    return 0
