"""`mlclip calibrate`: fit a model's scores and thresholds to a few true labels."""

from __future__ import annotations

import math

import click

from ..config import TableOptions
from . import options
from .console import Console
from .settings import settings


@click.command()
@options.images
@options.model(help="The model that `mlclip train` wrote, .pt or .safetensors.")
@options.place(
    "--truth", required=True, help="True labels of some of the IMAGES: a table, or another form of `mlclip evaluate`."
)
@options.output(default="calibrated.pt", help="Where the calibrated model is written.")
@options.overwrite
@options.running
@settings(tables=TableOptions)
def calibrate(images, model, truth, output, overwrite, tables, **running):
    """Fit scores and thresholds to a few true labels.

    Label twenty photos or more. Choose them at random from photos like those that the model will see: the labels also
    show how frequent each class is.

    Within each class, the order of the photos does not change, and neither does the average precision. With fewer
    labels, the result stays closer to the model after training. An earlier calibration is undone first.
    """
    from ..labels.matching import enough_match
    from ..labels.metrics import read_known
    from ..student.calibrate import calibrate as fit
    from ..student.calibrate import check_truth, undo_calibration
    from ..student.checkpoint import check_model_output, load_checkpoint, save_checkpoint
    from ..student.predict import predict

    progress = running["progress"]
    check_model_output(output, overwrite=overwrite)
    checkpoint = undo_calibration(load_checkpoint(model))
    known = read_known(truth, checkpoint.model.classes, tables, progress)
    check_truth(checkpoint.model.classes, known)
    predicted = predict(images, checkpoint, **running)
    match = enough_match(predicted, known, "the predictions", truth, partial=tables.partial)
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
        few = f"only {found.photos} photos have true labels; with fewer than {ENOUGH} the result may be worse"
        progress.log(f"warning: {few} than before")
    if len(after) <= options.CLASSES_SHOWN:
        lines = zip(found.checkpoint.model.classes, before, after, strict=True)
        rows = [[name, str(found.positives.get(name, "–")), f"{b:.2f}", f"{a:.2f}"] for name, b, a in lines]
        progress.table(["class", "positives", "old threshold", "new threshold"], rows, right=[1, 2, 3])
    if found.kept:
        few = f"fewer than {FEWEST} positive photos of {shorten(found.kept)}"
        progress.log(f"{few}: these thresholds move only with the scores, and select the same photos as before")
    if found.untouched:
        progress.log(f"no true labels of {shorten(found.untouched)}: not changed")
    before, after = found.before, found.after
    error = f"{_percent(before.calibration_error)} -> {_percent(after.calibration_error)}"
    f1 = f"{_percent(before.macro_f1)} -> {_percent(after.macro_f1)}"
    used = f"on the {found.photos} photos used for the fit (other photos will be worse)"
    progress.log(f"{used}: expected calibration error {error}, macro-F1 {f1}")


def _percent(share: float) -> str:
    return "unknown" if math.isnan(share) else f"{100 * share:.1f} %"
