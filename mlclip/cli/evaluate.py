"""`mlclip evaluate`: scores compared with true labels."""

from __future__ import annotations

import json

import click

from ..config import LABELS_FILE, TableOptions
from ..labels.class_tree import ClassTree
from . import options
from .console import printable, table
from .settings import settings


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGES...]", type=click.Path())
@options.place(
    "--labels",
    show_default=f"{LABELS_FILE}, without --model",
    help="A table of scores: .pt, .csv, .json or .jsonl, or 'labels-*.pt'; or label-studio:FILE or coco:FILE.",
)
@options.place("--model", help="Instead of --labels: a model, .pt, .safetensors or .onnx; it predicts IMAGES.")
@options.place(
    "--truth",
    required=True,
    help="The true labels: voc:DIR[:split], coco:FILE, nuswide:DIR[:split], imagefolder:DIR[:split], label-studio:FILE, a folder "
    "that looks like a data set, or a table such as FILE.csv, with a column `path` and one column per class (1, 0, or empty for "
    "unknown) or one column `labels` with their names. docs/formats.md has recipes for other formats.",
)
@click.option("--only", help="Evaluate only these classes: a FILE, a preset, or names separated by commas.")
@options.choice("--format", "form", choices=["table", "json"], help="How the result is printed.")
@options.running
@settings(tables=TableOptions)
def evaluate(images, labels, model, truth, only, form, tables, **running):
    """Compare scores with true labels.

    The result is the average precision (AP) of each class, their mean (mAP), and the expected calibration error (ECE). The ECE
    says how far the scores are from the share of positives, in 15 bins over all cells.

    Rows are matched by path and classes by name: equal names first, then names that differ in letter case, slashes, an absolute
    folder or a missing file suffix, where only one pair fits. What matched and what did not is listed on stderr. Unknown labels
    (difficult objects, empty cells) are ignored. Classes without a positive or without a negative photo do not count in the mAP.
    """
    from ..labels.metrics import compare_consistency
    from ..labels.metrics import evaluate as compare

    if not (labels or model or images):
        labels = LABELS_FILE
    if (labels is None) == (model is None):
        raise click.UsageError("Pass either --labels FILE, or --model FILE and IMAGES.")
    if bool(model) != bool(images):
        raise click.UsageError("IMAGES and --model belong together: the model predicts the images.")
    progress = running["progress"]
    scores, own = _predicted(images, model, running) if model else (labels, None)
    found = compare(scores, truth, only=only, tables=tables, progress=progress)
    for line in found.match.summary(labels or "the predictions", truth):
        progress.log(line)
    if form == "json":
        match, error = found.match, found.calibration_error
        content = {
            "mAP": found.mean_average_precision,
            "ECE": error if error == error else None,  # NaN
            "AP": found.average_precision,
            "without_positives": found.without_positives,
            "without_negatives": found.without_negatives,
            "photos_matched": len(match.rows),
            "photos": len(match.rows) + len(match.paths_only_first),
            "classes_matched": len(match.classes),
            "classes": len(match.classes) + len(match.classes_only_first),
            "unmatched": {
                "photos": match.paths_only_first,
                "classes": match.classes_only_first,
                "truth_photos": match.paths_only_second,
                "truth_classes": match.classes_only_second,
            },
            "matched_by": match.notes,
        }
        click.echo(json.dumps(content, indent=1))
    else:
        rows = [[name, f"{100 * value:.1f}"] for name, value in found.average_precision.items()]
        click.echo(table(["class", "AP (%)"], [*rows, ["mAP", f"{100 * found.mean_average_precision:.1f}"]], right=[1]))
        for kind, names in (("positive", found.without_positives), ("negative", found.without_negatives)):
            if names:
                click.echo(printable(f"no {kind} photo, not in the mAP: {', '.join(names)}"), err=True)
        click.echo(f"expected calibration error (ECE): {100 * found.calibration_error:.1f} %", err=True)
    if own is not None:
        for line in compare_consistency(own, found.truth, ClassTree.of(scores.meta)):
            progress.log(line)  # what the hierarchy and the groups of the classes change
    return options.report_skipped(scores.meta.get("skipped", [])) if model else 0


def _predicted(images, model, running):
    """A model's scores; and the network's own, if its classes have a hierarchy or groups that the scores agree with."""
    from dataclasses import replace

    from ..labels.metrics import consistent_labels
    from ..student.checkpoint import load_checkpoint
    from ..student.onnx_model import is_onnx
    from ..student.predict import predict

    checkpoint = None if is_onnx(model) else load_checkpoint(model)
    tree = ClassTree.of(checkpoint.meta if checkpoint else {})
    if not tree:
        return predict(images, checkpoint or model, **running), None
    own = predict(images, replace(checkpoint, consistent=False), **running)
    return consistent_labels(own, tree), own
