"""`mlclip predict`: the student's scores of photos, printed in several formats."""

from __future__ import annotations

import json
import os
import shlex
from contextlib import suppress
from pathlib import Path

import click

from ..config import InputError
from ..files import atomic, check_output, locked
from ..labels.sheet import check_table_output
from . import options
from .console import table
from .settings import config_file

MAPS_SHOWN = 5  # heat maps per photo, for the classes with the highest scores


@click.command()
@options.images
@options.exclude
@options.model(help="The model that `mlclip train` wrote, or the .safetensors or .onnx file of `mlclip export`.")
@options.choice(
    "--format", "form", choices=["table", "json", "jsonl", "csv"], help="csv has every score and no thresholds."
)
@options.place(
    "-o",
    "--output",
    help="Instead of printing, write all scores and thresholds to this table, .pt, .csv, .json or .jsonl.",
)
@click.option("--append", is_flag=True, help="With -o: keep the rows of the table, and predict what it lacks.")
@options.threshold
@click.option("--topk", type=click.IntRange(1), metavar="K", help="Print the K classes with the highest scores.")
@options.place(
    "--heatmaps", metavar="DIR", help="Also write a picture of each photo to DIR: where the student sees its classes."
)
@click.option("--overwrite", is_flag=True, help="Replace the table of -o, and write to a --heatmaps DIR with files.")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Photos at once; fewer need less memory.",
)
@options.running
@options.verbose
@config_file
@click.pass_context
def predict(ctx, images, exclude, model, form, output, append, threshold, topk, heatmaps, overwrite, **running):
    """Print which classes photos show.

    IMAGES are folders (with all subfolders), files, patterns such as "imgs/*.jpg", @list.txt (one path per line),
    @table.csv:COLUMN (also .tsv and .parquet), or .tar shards, whose photos are read in place.

    Only the student runs; CLIP is not needed, except for a model of `mlclip train --arch clip-head`. An .onnx model runs in
    onnxruntime, on the CPU or with --device cuda, without torch. The result goes to stdout, messages go to stderr.
    """
    from ..images import find_images
    from ..student.onnx_model import is_onnx

    if threshold is not None and topk:
        raise click.UsageError("--topk cannot be combined with --threshold. Remove one of them.")
    if output and (topk or ctx.get_parameter_source("form") == click.core.ParameterSource.COMMANDLINE):
        raise click.UsageError("-o writes every score, in the form of its suffix. Remove --topk and --format, or -o.")
    if append and (not output or overwrite):
        raise click.UsageError("--append continues the table of -o. Add -o FILE, without --overwrite.")
    if threshold is not None and form == "csv" and not heatmaps:
        raise click.UsageError("--threshold has no effect with --format csv: it has every score. Use --format json.")
    if heatmaps and is_onnx(model):
        raise click.UsageError(f"--heatmaps needs a model.pt: {model} contains no class activation maps.")
    if heatmaps and os.path.isdir(heatmaps) and os.listdir(heatmaps) and not overwrite:
        raise InputError(
            f"--heatmaps {heatmaps} is not empty. Add --overwrite to write there, or choose another folder."
        )
    if heatmaps:
        check_output(os.path.join(heatmaps, "picture"), overwrite=True)
    student, classes, thresholds = options.load_student(model, running["device"])
    thresholds = options.thresholds_of(threshold, classes, thresholds)
    found, known = find_images(images, exclude), None
    if output:  # what is wrong with the inputs comes first
        check_table_output(output, overwrite=overwrite or append)
    if append:
        ctx.with_resource(locked(_hidden(output, "lock"), output))  # another --append would lose its rows
    if append and os.path.exists(output):
        found, known = _without_known(found, output, classes, thresholds, running["progress"])
    labels = _predicted(found, student, **running)
    labels.meta["thresholds"] = thresholds
    chosen = [_chosen(scores, classes, thresholds, topk) for scores in labels.scores.tolist()]
    if output:
        _write(labels, output, known, running["progress"])
    else:
        _print(labels, chosen, thresholds, topk, form)
    if heatmaps:
        _draw_heatmaps(labels, chosen, thresholds, student, heatmaps, **running)
    return options.report_skipped(labels.meta["skipped"], output)


def _without_known(found, output: str, classes: list[str], thresholds: list[float], progress):
    """The photos that the table `output` does not have or that are newer, and the table without these.

    InputError if another model made the table, or if its photos are in another folder.
    """
    from dataclasses import replace

    from ..labels.table import read_labels

    known = read_labels(output)
    pairs = zip(known.thresholds.tolist(), thresholds, strict=False)
    if known.classes != classes or any(abs(one - other) > 1e-4 for one, other in pairs):
        remedy = "Use the model that made it, or make the table again: --overwrite instead of --append."
        raise InputError(f"{output} has other classes or thresholds than the model. {remedy}")
    root, note = known.root, ""
    if not _stores_root(output):
        file = _hidden(output, "root")
        root = os.fsdecode(file.read_bytes()) if file.exists() else found.root
        note = f" If they have moved, delete {file}."
    if root != found.root:
        remedy = f"Name IMAGES in this way, or choose another -o.{note}"
        raise InputError(f"the photos in {output} are in {root}. {remedy}")
    written, there = os.stat(output).st_mtime_ns, {*known.paths}
    new = [photo for photo in found.photos if photo.path not in there or _newer(photo, written)]
    progress.log(f"{output} has {len(found.photos) - len(new)} of {len(found.photos)} photos: {len(new)} are new")
    there -= {photo.path for photo in new}
    known = known.aligned([path for path in known.paths if path in there], known.classes)
    return replace(found, photos=new, known=len(found.photos) - len(new)), known


def _newer(photo, written: int) -> bool:
    """Whether a photo was changed, or put in its place, after a time in nanoseconds: a camera uses its names again."""
    with suppress(OSError):  # a member of a shard has no times of its own
        status = os.stat(photo.file)  # on Windows, ctime is when a file was created, also where it was replaced
        changed = status.st_mtime_ns if os.name == "nt" else os.lstat(photo.file).st_ctime_ns
        return max(status.st_ctime_ns, changed) > written
    return photo.mtime_ns > written


def _hidden(output: str, ending: str) -> Path:
    """The hidden file beside a table that locks it, or that keeps the folder of its photos."""
    return Path(output).with_name(f".{Path(output).name}.{ending}")


def _stores_root(output: str) -> bool:
    return output.lower().endswith((".pt", ".json"))


def _write(labels, output: str, known, progress) -> None:
    """Write the table, after the rows of the `known` one."""
    import torch

    from ..labels.table import Labels, write_labels

    paths, scores = labels.paths, torch.as_tensor(labels.scores)
    if known:
        paths, scores = [*known.paths, *paths], torch.cat([known.scores, scores])
    table = Labels(paths, labels.classes, scores, labels.root, labels.meta)
    write_labels(table, output, overwrite=True)
    root = "" if _stores_root(output) else f" --root {shlex.quote(table.root)}"
    if root:
        with atomic(_hidden(output, "root")) as temporary:
            temporary.write_bytes(os.fsencode(table.root))
    progress.log(f"{output}: {len(table)} photos; next: mlclip report --labels {shlex.quote(output)}{root}")


def _predicted(found, student, *, device, **running):
    """The scores of the photos. For a .onnx without torch, which `student.predict` would import."""
    from ..student.onnx_model import OnnxModel, predict_onnx

    if isinstance(student, OnnxModel):
        return predict_onnx(found, student, **running)
    from ..student.predict import predict as predict_photos

    return predict_photos(found, student, device=device, **running)


Named = list[tuple[str, float]]  # (class, score)


def _chosen(scores: list[float], classes: list[str], thresholds: list[float], topk: int | None) -> Named:
    """The classes of one photo, highest score first: the `topk` highest, or all that reach their thresholds."""
    ranked = sorted(zip(classes, scores, thresholds, strict=True), key=lambda item: -item[1])
    return [(name, score) for name, score, limit in (ranked[:topk] if topk else ranked) if topk or score >= limit]


def _nearest(scores: list[float], classes: list[str], thresholds: list[float]) -> tuple[str, float]:
    """(class, score) of the class that is closest to its threshold."""
    photo = zip(classes, scores, thresholds, strict=True)
    _, score, name = max((score - limit, score, name) for name, score, limit in photo)
    return name, score


def _print(labels, chosen: list[Named], thresholds: list[float], topk: int | None, form: str) -> None:
    """Print the classes or the scores of all photos in one of the formats."""
    photos = list(zip(labels.paths, labels.scores.tolist(), chosen, strict=True))
    limit_of = dict(zip(labels.classes, thresholds, strict=True))

    def from_limit(name: str) -> str:
        return "" if topk else f" (from {limit_of[name]:.2f})"

    if form == "table":
        rows = []
        for path, scores, named in photos:
            text = ", ".join(f"{name} {score:.2f}{from_limit(name) if score < 0.5 else ''}" for name, score in named)
            if not named:
                name, score = _nearest(scores, labels.classes, thresholds)
                text = f"(none reaches its threshold; closest: {name} {score:.2f}{from_limit(name)})"
            rows.append([path, text])
        click.echo(table(["photo", "classes"], rows))
    elif form == "csv":
        rows = []
        for path, scores, _ in photos:
            limit = sorted(scores, reverse=True)[topk - 1] if topk and topk < len(scores) else 0.0
            rows.append([path, *(f"{score:.6g}" if score >= limit else "" for score in scores)])
        options.write_rows(["path", *labels.classes], rows)
    else:
        items = []
        for path, scores, named in photos:
            shown = dict(named) if topk else dict(zip(labels.classes, scores, strict=True))
            items.append({"path": path, "labels": [name for name, _ in named], "scores": shown})
        click.echo(json.dumps(items, indent=1) if form == "json" else "\n".join(map(json.dumps, items)))


def _draw_heatmaps(labels, chosen, thresholds, checkpoint, folder, *, device, num_workers, progress, **_) -> None:
    """Draw the classes that are printed; where none is, the class closest to its threshold."""
    from ..distributed import choose_device
    from ..images import Photo
    from ..student.heatmaps import write_heatmaps

    column, drawn = {name: c for c, name in enumerate(labels.classes)}, []
    for scores, named in zip(labels.scores.tolist(), chosen, strict=True):
        named = named or [_nearest(scores, labels.classes, thresholds)]
        drawn.append([(column[name], score) for name, score in named[:MAPS_SHOWN]])
    photos = [Photo(path, os.path.join(labels.root, path), 0, 0) for path in labels.paths]
    running = {"device": choose_device(device), "num_workers": num_workers, "progress": progress}
    count = write_heatmaps(photos, drawn, checkpoint, folder, **running)
    progress.log(f"{folder}: {count} heat maps")
