"""`mlclip report`: a table of labels as an HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from ..config import ReportConfig, TableOptions
from . import options
from .settings import settings


@click.command()
@options.labels(help="The table to show: .pt, .csv, .json or .jsonl, or 'labels-*.pt' for several files.")
@options.place("--truth", help="True labels to compare with, as for `mlclip evaluate`.")
@options.root
@options.threshold
@options.place(
    "--predictions", help="A model's scores of the photos, as a table: the page shows where it contradicts the labels."
)
@options.output(default="report.html", help="Where the page is written.")
@options.place("--corrections", help="Lines `path,class,value` of an earlier page: they are marked at first.")
@options.overwrite
@options.quiet
@settings(page=ReportConfig, tables=TableOptions)
def report(labels, truth, root, threshold, predictions, corrections, output, overwrite, page, tables, progress):
    """Write an HTML page about labels, to look at them and to correct them.

    The page shows the photos with their labels and scores, a view of each class, and a report. Press ? in it for the keys.
    Mark labels as right or wrong, download corrections.csv, and train again with `mlclip train --corrections corrections.csv`.
    The page loads nothing from the network, and sends nothing.

    For `mlclip calibrate`: sort by random in the page, correct each of the first twenty photos or more and press c (all its
    labels are correct). Download complete.csv, and run `mlclip calibrate PHOTOS --truth complete.csv`.

    Predictions can be shown instead of labels:

    \b
      mlclip predict PHOTOS -o scores.pt
      mlclip report --labels scores.pt

    Without --threshold, the thresholds are those of the labels; 0.5 for a table that has none.
    """
    from dataclasses import replace

    from ..files import check_output
    from ..labels.matching import enough_match
    from ..labels.metrics import read_known
    from ..labels.review import corrections_of, joined, read_corrections, said_unknown, sorted_out
    from ..labels.table import read_labels
    from ..report.work_page import write_page

    check_output(output, overwrite=overwrite)
    table = read_labels(labels, tables.for_scores if truth else tables, progress=progress)
    table = replace(table, root=root or table.root)
    options.set_thresholds(table, threshold, labels, progress)
    if corrections:
        fitting, others = sorted_out(read_corrections(corrections), table)
        table.meta["corrections"] = joined(corrections_of(table), fitting + others)
        if others:
            progress.log(f"warning: {corrections}: {said_unknown(others)}; the page keeps them for its corrections.csv")
    if page.where:
        from ..distributed import choose_device
        from ..teacher.where import maps_of_labels, teacher_of

        teacher = teacher_of(table, choose_device("auto"), progress=progress)
        table.meta["where"] = maps_of_labels(table, teacher, num_workers=0, progress=progress)
    known = None
    if truth:
        known = read_known(truth, table.classes, tables, progress)
        match = enough_match(table, known, labels, truth, partial=tables.partial)
        for line in match.summary(labels, truth):
            progress.log(line)
    scores = read_labels(predictions, tables.for_scores, progress=progress) if predictions else None
    title = f"{Path(table.root).absolute().name} · {Path(labels).name}"
    made = write_page(table, output, predictions=scores, truth=known, title=title, looks=page, progress=progress)
    if made.failed:
        progress.log(f"warning: {made.failed} photos could not be opened in {table.root}; `root` is their folder")
    if made.folder:
        progress.log(f"{made.folder}: the thumbnails; the page needs them beside it")
    progress.log(f"{output}: open it in a browser")
    return 0
