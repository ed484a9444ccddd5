"""`mlclip predict`: the student alone, and the ways to print what it says."""

from __future__ import annotations

import csv
import json
import math
import os
import sys

import click

from ..config import MODEL_FILE, InputError
from . import options
from .console import Console, table
from .photos import predict_photos

MAPS_SHOWN = 5  # heat maps of one photo, the best classes


@click.command()
@options.images
@click.option("--model", default=MODEL_FILE, show_default=True, help="What `mlclip train` wrote.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "jsonl", "csv"]),
    default="table",
    show_default=True,
    help="How to print the result.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="One threshold for all classes.  [default: the model's own, per class]",
)
@options.threshold_file
@click.option("--topk", type=click.IntRange(1), help="Show so many of the best classes, whatever their scores.")
@click.option(
    "--heatmaps",
    type=click.Path(),
    metavar="DIR",
    help="Also draw where the student saw each class it names: a picture for every photo, in DIR.",
)
@options.overwrite
@options.encode_batch(64)
@options.running
def predict(
    images, model, form, threshold, threshold_file, topk, heatmaps, overwrite, batch_size, device, num_workers, quiet
):
    """Say what is in photos: folders (with all below), files, globs or @list.txt. CLIP is not needed."""
    from ..student.checkpoint import load_checkpoint

    _check_choice(form, threshold, threshold_file, topk, heatmaps)
    if heatmaps:
        _check_folder(heatmaps, overwrite)
    checkpoint = load_checkpoint(model)
    classes, thresholds = checkpoint.model.classes, checkpoint.thresholds.tolist()
    if threshold is not None:
        thresholds = [threshold] * len(classes)
    if threshold_file:
        thresholds = options.thresholds_of(threshold_file, classes, thresholds)
    labels = predict_photos(checkpoint, images, batch_size, device, num_workers, quiet)
    _WRITERS[form](labels, thresholds, topk)
    if heatmaps:
        _draw_heatmaps(labels, thresholds, topk, checkpoint, heatmaps, device, num_workers, Console(quiet=quiet))
    return options.report_skipped(labels.meta["skipped"], None)


def _check_choice(form, threshold, threshold_file, topk, heatmaps) -> None:
    """Refuse options that would be ignored."""
    if threshold is not None and threshold_file:
        raise click.UsageError("--threshold is for all classes, --threshold-file for each: give one of the two")
    given = "--threshold" if threshold is not None else "--threshold-file" if threshold_file else None
    if threshold is not None and math.isnan(threshold):
        raise click.UsageError("--threshold is nan: it must be a number from 0 to 1")
    if given and topk:
        raise click.UsageError(f"--topk shows the best classes whatever their scores: leave it or {given} away")
    if given and form == "csv" and not heatmaps:
        raise click.UsageError(
            f"--format csv holds every score: {given} has no part in it; --format json names classes"
        )


def _check_folder(folder: str, overwrite: bool) -> None:
    from ..files import check_output

    if os.path.isdir(folder) and os.listdir(folder) and not overwrite:
        raise InputError(f"--heatmaps {folder} is not empty; add --overwrite to draw there, or choose another folder")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f"--heatmaps {folder} is a file; give a folder")
    check_output(os.path.join(folder, "picture"), overwrite=True)


def _draw_heatmaps(labels, thresholds, topk, checkpoint, folder, device, num_workers, progress) -> None:
    """Pictures of the classes that the other output names; of the nearest one where it names none."""
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
    """(class, score), best first: the best `topk`, or all that reach their thresholds."""
    ranked = sorted(zip(classes, scores, thresholds, strict=True), key=lambda item: -item[1])
    if topk:
        return [(name, score) for name, score, _ in ranked[:topk]]
    return [(name, score) for name, score, least in ranked if score >= least]


def _nearest(scores: list[float], classes: list[str], thresholds: list[float]) -> tuple[str, float]:
    """(class, score) of the class that is least short of its threshold."""
    _, score, name = max(
        (score - least, score, name) for name, score, least in zip(classes, scores, thresholds, strict=True)
    )
    return name, score


def _write_table(labels, thresholds, topk) -> None:
    rows = []
    for path, scores in zip(labels.paths, labels.scores.tolist(), strict=True):
        chosen = _chosen(scores, labels.classes, thresholds, topk)
        text = ", ".join(f"{name} {score:.2f}" for name, score in chosen)
        if not chosen:
            name, score = _nearest(scores, labels.classes, thresholds)
            text = f"(none above its threshold; nearest {name} {score:.2f})"
        rows.append([options.printable(path), text])
    click.echo(table(["photo", "classes"], rows))


def _objects(labels, thresholds, topk):
    for path, scores in zip(labels.paths, labels.scores.tolist(), strict=True):
        chosen = _chosen(scores, labels.classes, thresholds, topk)
        every = dict(zip(labels.classes, scores, strict=True))
        yield {"path": path, "labels": [name for name, _ in chosen], "scores": dict(chosen) if topk else every}


def _write_json(labels, thresholds, topk) -> None:
    click.echo(json.dumps(list(_objects(labels, thresholds, topk)), indent=1))


def _write_jsonl(labels, thresholds, topk) -> None:
    for item in _objects(labels, thresholds, topk):
        click.echo(json.dumps(item))


def _write_csv(labels, thresholds, topk) -> None:
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")
    writer = csv.writer(sys.stdout)
    writer.writerow(["path", *labels.classes])
    for path, scores in zip(labels.paths, labels.scores.tolist(), strict=True):
        least = sorted(scores, reverse=True)[topk - 1] if topk and topk < len(scores) else 0.0
        writer.writerow([path, *(f"{score:.6g}" if score >= least else "" for score in scores)])
    sys.stdout.flush()


_WRITERS = {"table": _write_table, "json": _write_json, "jsonl": _write_jsonl, "csv": _write_csv}
