"""`mlclip predict`: the student's scores of photos, printed in several formats."""

from __future__ import annotations

import csv
import json
import os
import sys

import click

from ..config import MODEL_FILE, InputError
from . import options, settings_file
from .console import Console, printable, table

MAPS_SHOWN = 5  # heat maps per photo, for the classes with the highest scores


@click.command()
@options.images
@click.option(
    "--model",
    default=MODEL_FILE,
    show_default=True,
    type=click.Path(),
    help="The model that `mlclip train` wrote, or the .safetensors or .onnx file of `mlclip export`.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "jsonl", "csv"]),
    default="table",
    show_default=True,
    help="How the result is printed. csv holds every score and no thresholds.",
)
@options.threshold
@click.option(
    "--topk", type=click.IntRange(1), metavar="K", help="Print the K classes with the highest scores instead."
)
@click.option(
    "--heatmaps",
    type=click.Path(),
    metavar="DIR",
    help="Also write one picture per photo to DIR: heat maps of where the student sees each printed class.",
)
@click.option("--overwrite", is_flag=True, help="Write to --heatmaps DIR even if it is not empty.")
@options.batch_size
@options.running
@options.verbose
@settings_file.config_file
def predict(images, model, form, threshold, topk, heatmaps, overwrite, quiet, **running):
    """Print which classes photos show.

    IMAGES are folders (with all subfolders), files, patterns such as "imgs/*.jpg", @list.txt (one path per line),
    @table.csv:COLUMN (also .tsv and .parquet), or .tar shards, whose photos are read in place.

    Only the student runs; CLIP is not needed, except for a model of `mlclip train --arch clip-head`. The result goes to stdout,
    messages go to stderr.

    An .onnx model runs in onnxruntime, on the CPU or with --device cuda. torch is not needed.
    """
    from ..files import check_output
    from ..student.onnx_model import is_onnx

    if threshold is not None and topk:
        raise click.UsageError("--topk cannot be combined with --threshold. Remove one of them.")
    if threshold is not None and form == "csv" and not heatmaps:
        raise click.UsageError(
            "--threshold has no effect with --format csv, which holds every score. Remove it, or use --format json."
        )
    if heatmaps and is_onnx(model):
        raise click.UsageError(f"--heatmaps needs a model.pt: {model} contains no class activation maps.")
    if heatmaps and os.path.isdir(heatmaps) and os.listdir(heatmaps) and not overwrite:
        raise InputError(
            f"--heatmaps {heatmaps} is not empty. Add --overwrite to write there, or choose another folder."
        )
    if heatmaps and os.path.exists(heatmaps) and not os.path.isdir(heatmaps):
        raise InputError(f"--heatmaps {heatmaps} is a file. Choose a folder.")
    if heatmaps:
        check_output(os.path.join(heatmaps, "picture"), overwrite=True)
    progress = Console(quiet=quiet)
    loaded, classes, thresholds, run = (_onnx_student if is_onnx(model) else _torch_student)(model, running["device"])
    thresholds = options.thresholds_of(threshold, classes, thresholds)
    labels = run(images, progress, **running)
    if form == "json":
        click.echo(json.dumps(list(_objects(labels, thresholds, topk)), indent=1))
    elif form == "jsonl":
        for item in _objects(labels, thresholds, topk):
            click.echo(json.dumps(item))
    else:
        (_write_csv if form == "csv" else _write_table)(labels, thresholds, topk)
    if heatmaps:
        place = (running["device"], running["num_workers"])
        _draw_heatmaps(labels, thresholds, topk, loaded, heatmaps, *place, progress)
    return options.report_skipped(labels.meta["skipped"], None)


def _torch_student(file, device):
    """The model of a `model.pt`, its classes and thresholds, and the function that predicts photos."""
    from ..student.checkpoint import load_checkpoint
    from ..student.predict import predict as predict_photos
    from ..student.predict import thresholds_of

    checkpoint = load_checkpoint(file)

    def run(images, progress, **running):
        return predict_photos(images, checkpoint, progress=progress, **running)

    return checkpoint, checkpoint.model.classes, thresholds_of(checkpoint).tolist(), run


def _onnx_student(file, device):
    """The same for a `model.onnx`, without torch: `student.predict` would import it."""
    from ..images import find_images
    from ..student.onnx_model import load_onnx, predict_onnx

    model = load_onnx(file, device)

    def run(images, progress, batch_size, num_workers, **_):
        return predict_onnx(
            find_images(images), model, batch_size=batch_size, num_workers=num_workers, progress=progress
        )

    return model, model.classes, model.thresholds, run


def _draw_heatmaps(labels, thresholds, topk, checkpoint, folder, device, num_workers, progress) -> None:
    """Draw the classes that are printed; where none is, the class closest to its threshold."""
    from ..distributed import choose_device
    from ..images import Photo
    from ..student.heatmaps import write_heatmaps

    column, chosen = {name: c for c, name in enumerate(labels.classes)}, []
    for scores in labels.scores.tolist():
        named = _chosen(scores, labels.classes, thresholds, topk) or [_nearest(scores, labels.classes, thresholds)]
        chosen.append([(column[name], score) for name, score in named[:MAPS_SHOWN]])
    photos = [Photo(path, os.path.join(labels.root, path), 0, 0) for path in labels.paths]
    drawn = write_heatmaps(
        photos, chosen, checkpoint, folder, device=choose_device(device), num_workers=num_workers, progress=progress
    )
    progress.log(f"{folder}: {drawn} heat maps")


def _chosen(
    scores: list[float], classes: list[str], thresholds: list[float], topk: int | None
) -> list[tuple[str, float]]:
    """(class, score), highest first: the `topk` highest, or all that reach their thresholds."""
    ranked = sorted(zip(classes, scores, thresholds, strict=True), key=lambda item: -item[1])
    if topk:
        return [(name, score) for name, score, _ in ranked[:topk]]
    return [(name, score) for name, score, limit in ranked if score >= limit]


def _nearest(scores: list[float], classes: list[str], thresholds: list[float]) -> tuple[str, float]:
    """(class, score) of the class that is closest to its threshold."""
    _, score, name = max(
        (score - limit, score, name) for name, score, limit in zip(classes, scores, thresholds, strict=True)
    )
    return name, score


def _write_table(labels, thresholds, topk) -> None:
    rows = []
    for path, scores in zip(labels.paths, labels.scores.tolist(), strict=True):
        chosen = _chosen(scores, labels.classes, thresholds, topk)
        text = ", ".join(f"{name} {score:.2f}" for name, score in chosen)
        if not chosen:
            name, score = _nearest(scores, labels.classes, thresholds)
            text = f"(none reaches its threshold; closest: {name} {score:.2f})"
        rows.append([path, text])
    click.echo(table(["photo", "classes"], rows))


def _objects(labels, thresholds, topk):
    for path, scores in zip(labels.paths, labels.scores.tolist(), strict=True):
        chosen = _chosen(scores, labels.classes, thresholds, topk)
        all_scores = dict(zip(labels.classes, scores, strict=True))
        yield {"path": path, "labels": [name for name, _ in chosen], "scores": dict(chosen) if topk else all_scores}


def _write_csv(labels, thresholds, topk) -> None:
    shown = printable if sys.stdout.isatty() else str  # a file keeps the exact paths
    writer = csv.writer(sys.stdout)
    writer.writerow(["path", *labels.classes])
    for path, scores in zip(labels.paths, labels.scores.tolist(), strict=True):
        limit = sorted(scores, reverse=True)[topk - 1] if topk and topk < len(scores) else 0.0
        writer.writerow([shown(path), *(f"{score:.6g}" if score >= limit else "" for score in scores)])
    sys.stdout.flush()
