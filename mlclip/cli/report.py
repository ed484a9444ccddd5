"""`mlclip report`: a table of labels as an HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from ..config import LABELS_FILE, ReportConfig, TableOptions
from . import options
from .console import Console


@click.command(cls=options.Command)
@click.option(
    "--labels",
    default=LABELS_FILE,
    show_default=True,
    type=click.Path(),
    help="The table to show: .pt, .csv, .json or .jsonl.",
)
@click.option("--truth", type=click.Path(), help="True labels to compare with, as for `mlclip evaluate`.")
@click.option(
    "--root",
    type=click.Path(),
    metavar="DIR",
    help="The folder of the photos, if the photos have moved or the labels are a .csv.",
)
@options.threshold
@click.option(
    "--predictions",
    type=click.Path(),
    metavar="FILE",
    help="A model's scores of the same photos, as a table: the page shows where it contradicts the labels.",
)
@click.option(
    "-o", "--output", type=click.Path(), default="report.html", show_default=True, help="Where the page is written."
)
@click.option(
    "--where", is_flag=True, help="Run CLIP again on a few photos, and show where in them it sees their labels."
)
@options.overwrite
@options.quiet
@options.settings(ReportConfig, TableOptions)
@options.tables
def report(labels, truth, root, threshold, predictions, output, where, overwrite, tables, quiet, **page):
    """Write an HTML page about labels, to look at them and to correct them.

    The page shows the photos with their labels and scores, a view of each class, and a report. Press ? in it for the keys.
    Mark labels as right or wrong, download corrections.csv, and train again with `mlclip train --corrections corrections.csv`.
    The page loads nothing from the network, and sends nothing.

    Predictions can be shown instead of labels:

    \b
      mlclip predict PHOTOS --format csv > p.csv
      mlclip export -o thresholds.csv
      mlclip report --labels p.csv --root PHOTOS --threshold thresholds.csv

    Without --threshold, the thresholds are those in the labels, or 0.5 for a .csv.
    """
    from dataclasses import asdict, replace

    from ..files import check_output
    from ..labels.matching import match_tables, refuse_small_match
    from ..labels.metrics import read_known
    from ..labels.table import read_labels
    from ..report.work_page import write_page

    check_output(output, overwrite=overwrite)
    page = asdict(ReportConfig(**page))
    progress = Console(quiet=quiet)
    table = read_labels(labels, tables.for_scores if truth else tables, progress=progress)
    if root:
        table = replace(table, root=root)
    if threshold:
        table.meta["thresholds"] = options.thresholds_of(threshold, table.classes, table.thresholds.tolist())
    if where:
        from ..distributed import choose_device
        from ..teacher.where import maps_of_labels, teacher_of

        teacher = teacher_of(table, choose_device("auto"), progress=progress)
        table.meta["where"] = maps_of_labels(table, teacher, num_workers=0, progress=progress)
    known = read_known(truth, table.classes, tables, progress) if truth else None
    match = match_tables(table, known) if truth else None
    if match:
        refuse_small_match(match, labels, truth, partial=tables.partial)
    scores = read_labels(predictions, tables.for_scores, progress=progress) if predictions else None
    made = write_page(
        table, output, predictions=scores, truth=known, title=Path(labels).name, progress=progress, **page
    )
    for line in match.summary(labels, truth) if match else ():
        progress.log(line)
    if made.failed:
        progress.log(f"warning: {made.failed} photos could not be opened in {table.root}; `root` is their folder")
    if made.folder:
        progress.log(f"{made.folder}: the thumbnails; the page needs them beside it")
    progress.log(f"{output}: open it in a browser")
    return 0
