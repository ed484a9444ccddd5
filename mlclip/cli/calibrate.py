"""`mlclip calibrate`: fit a model's scores and thresholds to a few true labels."""

from __future__ import annotations

import math

import click

from ..config import MODEL_FILE, TableOptions
from . import options
from .console import Console


@click.command(cls=options.Command)
@options.images
@click.option(
    "--model",
    default=MODEL_FILE,
    show_default=True,
    type=click.Path(),
    help="The model that `mlclip train` wrote, .pt or .safetensors.",
)
@click.option(
    "--truth",
    type=click.Path(),
    required=True,
    help="True labels of some of the IMAGES: a table such as FILE.csv, or another form of `mlclip evaluate`.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    default="calibrated.pt",
    show_default=True,
    help="Where the calibrated model is written.",
)
@options.overwrite
@options.running
@options.settings(TableOptions)
@options.tables
def calibrate(images, model, truth, output, overwrite, tables, quiet, **running):
    """Fit scores and thresholds to a few true labels.

    Label twenty photos or more. Choose them at random from photos like those that the model will see: the labels also
    show how frequent each class is.

    Within each class, the order of the photos does not change, and neither does the average precision. With fewer
    labels, the result stays closer to the model after training. An earlier calibration is undone first.
    """
    from ..files import check_output
    from ..labels.matching import match_tables, refuse_small_match
    from ..labels.metrics import read_known
    from ..student.calibrate import calibrate as fit
    from ..student.calibrate import check_truth, undo_calibration
    from ..student.checkpoint import load_checkpoint, save_checkpoint
    from ..student.predict import predict

    check_output(output, overwrite=overwrite)
    progress = Console(quiet=quiet)
    checkpoint = undo_calibration(load_checkpoint(model))
    known = read_known(truth, checkpoint.model.classes, tables, progress)
    check_truth(checkpoint.model.classes, known)
    predicted = predict(images, checkpoint, progress=progress, **running)
    match = match_tables(predicted, known)
    refuse_small_match(match, "the predictions", truth, partial=tables.partial)
    before, found = checkpoint.thresholds.tolist(), fit(checkpoint, predicted, known)
    save_checkpoint(found.checkpoint, output)
    for line in match.summary("the predictions", truth):
        progress.log(line)
    _show_result(found, before, progress)
    progress.log(f"{output}: next: mlclip predict PHOTO --model {output}")
    return options.report_skipped(predicted.meta["skipped"], output)


def _show_result(found, before: list[float], progress: Console) -> None:
    """Print how many labels there were, the thresholds before and after, and the quality on these photos."""
    from ..spelling import shorten
    from ..student.calibrate import ENOUGH, FEWEST

    after = found.checkpoint.thresholds.tolist()
    if found.photos < ENOUGH:
        progress.log(
            f"warning: only {found.photos} photos have true labels; with fewer than {ENOUGH} the result may be worse than before"
        )
    if len(after) <= options.CLASSES_SHOWN:
        lines = zip(found.checkpoint.model.classes, before, after, strict=True)
        rows = [[name, str(found.positives.get(name, "–")), f"{b:.2f}", f"{a:.2f}"] for name, b, a in lines]
        progress.table(["class", "positives", "old threshold", "new threshold"], rows, right=[1, 2, 3])
    if found.kept:
        progress.log(
            f"fewer than {FEWEST} positive photos of {shorten(found.kept)}: these thresholds move only with the scores, and "
            "select the same photos as before"
        )
    if found.untouched:
        progress.log(f"no true labels of {shorten(found.untouched)}: not changed")
    error = [_percent(quality.calibration_error) for quality in (found.before, found.after)]
    f1 = [_percent(quality.macro_f1) for quality in (found.before, found.after)]
    progress.log(
        f"on the {found.photos} photos used for the fit (other photos will be worse): expected calibration error {error[0]} -> "
        f"{error[1]}, macro-F1 {f1[0]} -> {f1[1]}"
    )


def _percent(share: float) -> str:
    return "unknown" if math.isnan(share) else f"{100 * share:.1f} %"
