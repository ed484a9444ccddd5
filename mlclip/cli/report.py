"""`mlclip report`: a table of labels as an HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from ..config import LABELS_FILE
from . import completion, options
from .console import Console


@click.command()
@click.option(
    "--labels",
    default=LABELS_FILE,
    show_default=True,
    shell_complete=completion.files,
    help="The table to show: .pt, .csv, .json or .jsonl.",
)
@click.option("--truth", help="True labels to compare with, as for `mlclip evaluate`.")
@click.option(
    "--root", metavar="DIR", help="The folder of the photos, if the photos have moved or the labels are a .csv."
)
@options.threshold_file
@click.option("--limit", type=click.IntRange(0), default=60, show_default=True, help="Number of photos in the gallery.")
@click.option("-o", "--output", default="report.html", show_default=True, help="Where the page is written.")
@options.overwrite
@options.quiet
def report(labels, truth, root, threshold_file, limit, output, overwrite, quiet):
    """Write an HTML page about labels.

    The page is self-contained. It shows the classes, the scores, and a gallery of photos.

    Predictions can be shown, too:

    \b
      mlclip predict PHOTOS --format csv > p.csv
      mlclip export -o thresholds.csv
      mlclip report --labels p.csv --root PHOTOS --threshold-file thresholds.csv

    Without --threshold-file, the thresholds are those in the labels, or 0.5 for a .csv.
    """
    from dataclasses import replace

    from ..files import atomic, check_output
    from ..labels.datasets import read_truth
    from ..labels.metrics import match_tables
    from ..labels.table import read_labels
    from ..report.build import render_report

    check_output(output, overwrite=overwrite)
    progress, table = Console(quiet=quiet), read_labels(labels)
    if root:
        table = replace(table, root=root)
    if threshold_file:
        defaults = table.thresholds.tolist()
        table.meta["thresholds"] = options.thresholds_of(threshold_file, table.classes, defaults)
    known = read_truth(truth) if truth else None
    page = render_report(table, truth=known, title=Path(labels).name, limit=limit)
    with atomic(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    if known is not None:
        for line in match_tables(table, known).summary(labels, truth):
            progress.log(line)
    progress.log(f"{output}: open it in a browser")
    return 0
