"""`mlclip calibrate`: a few true labels, and a model's scores and thresholds fitted to them."""

from __future__ import annotations

import math

import click

from ..config import MODEL_FILE
from . import options
from .console import Console, table
from .photos import predict_photos

OUTPUT = "calibrated.pt"


@click.command()
@options.images
@click.option("--model", default=MODEL_FILE, show_default=True, help="What `mlclip train` wrote.")
@click.option(
    "--truth",
    required=True,
    help="True labels of some of IMAGES: a table such as FILE.csv, or as for `mlclip evaluate`.",
)
@click.option("-o", "--output", default=OUTPUT, show_default=True, help="Where the calibrated model goes.")
@options.overwrite
@options.encode_batch(64)
@options.running
def calibrate(images, model, truth, output, overwrite, batch_size, device, num_workers, quiet):
    """Fit a model's scores and thresholds to a few photos with true labels.

    Take photos like those the model will see, not chosen by what they show: the labels also say how frequent a class is.
    The order of the photos in each class stays as it was, and so does the average precision. The fewer labels,
    the nearer the result stays to what training left, to which an earlier calibration is first put back. Take twenty or more.
    """
    from ..files import check_output
    from ..labels.datasets import read_truth
    from ..student.calibrate import calibrate as fit
    from ..student.calibrate import check_truth, undo_calibration
    from ..student.checkpoint import load_checkpoint, save_checkpoint

    check_output(output, overwrite=overwrite)
    checkpoint, known = undo_calibration(load_checkpoint(model)), read_truth(truth)
    check_truth(checkpoint.model.classes, known)
    predicted = predict_photos(checkpoint, images, batch_size, device, num_workers, quiet)
    thresholds, found = checkpoint.thresholds, fit(checkpoint, predicted, known)
    save_checkpoint(found.checkpoint, output)
    _say(found, len(predicted), thresholds.tolist(), Console(quiet=quiet))
    Console(quiet=quiet).log(f"{output}: next: mlclip predict PHOTO --model {output}")
    return options.report_skipped(predicted.meta["skipped"], output)


def _say(found, predicted: int, before: list[float], progress: Console) -> None:
    """What there was to fit to, which classes had too few, and what came of it on these very photos."""
    from ..labels.class_names import shorten
    from ..student.calibrate import ENOUGH, FEWEST

    after = found.checkpoint.thresholds.tolist()
    progress.log(f"{found.photos} of {predicted} photos have true labels")
    if found.photos < ENOUGH:
        progress.log(f"fewer than {ENOUGH}: what so few say may be chance, and worse than what training left")
    if found.unmatched:
        progress.log(options.printable(f"of the truth match no class or photo here: {shorten(found.unmatched)}"))
    if len(after) <= options.CLASSES_SHOWN:
        lines = zip(found.checkpoint.model.classes, before, after, strict=True)
        rows = [[name, str(found.positives.get(name, "–")), f"{b:.2f}", f"{a:.2f}"] for name, b, a in lines]
        progress.log(table(["class", "positives", "threshold was", "is"], rows, right=[1, 2, 3]))
    if found.kept:
        progress.log(
            f"fewer than {FEWEST} positives for {shorten(found.kept)}: named in the same photos as before, the threshold moves "
            "only with the scores"
        )
    if found.untouched:
        progress.log(f"the truth says nothing of {shorten(found.untouched)}: left as they were")
    errors = [_percent(judged.calibration_error) for judged in (found.before, found.after)]
    f1 = [_percent(judged.macro_f1) for judged in (found.before, found.after)]
    progress.log(
        f"on the photos it was fitted to, so flattering: expected calibration error {errors[0]} -> {errors[1]}, "
        f"macro-F1 {f1[0]} -> {f1[1]}"
    )


def _percent(share: float) -> str:
    return "not known" if math.isnan(share) else f"{100 * share:.1f} %"
