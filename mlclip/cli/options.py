"""Options that several commands share, and what several commands do with them."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..config import LABELS_FILE, MODEL_FILE
from ..machine import default_workers
from .console import VERBOSE, Console, printable

SKIPPED = 3  # exit status: done, but some inputs were skipped and are listed
CLASSES_SHOWN = 40  # with more classes, no table per class is printed; `mlclip report` shows them
SKIPPED_SHOWN = 10  # skipped photos named on stderr; the file beside the output names all


def place(*names: str, help: str, metavar: str = "FILE", **more: Any) -> Callable:
    """An option that takes the name of a file or folder."""
    more = {"show_default": "default" in more, **more}
    return click.option(*names, type=click.Path(), metavar=metavar, help=help, **more)


labels = partial(place, "--labels", default=LABELS_FILE)
model = partial(place, "--model", default=MODEL_FILE)
output = partial(place, "-o", "--output")


def choice(*names: str, choices: Sequence[str], help: str) -> Callable:
    """An option for one of several words; the first is the default."""
    return click.option(*names, type=click.Choice(choices), default=choices[0], show_default=True, help=help)


def running(command: Callable) -> Callable:
    """The options device, num_workers and progress."""
    return device(num_workers(quiet(command)))


images = click.argument("images", nargs=-1, required=True, metavar="IMAGES...", type=click.Path())
exclude = click.option(
    "--exclude",
    metavar="GLOB",
    multiple=True,
    help='Leave out files and folders with such a name, as "*_mask.png", or such a path, as "2019/thumbs". Can be repeated.',
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
offline = click.option("--offline", is_flag=True, help="Never use the network.")
quiet = click.option(
    "-q",
    "--quiet",
    "progress",
    is_flag=True,
    callback=lambda ctx, _, quiet: Console(quiet=quiet),
    help="Print only warnings and errors on stderr.",
)
verbose = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    expose_value=False,
    callback=lambda ctx, _, verbose: ctx.meta.update({VERBOSE: verbose}),  # the console reads it
    help="Also print which files, stores and devices are used, and the time of each step.",
)
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
num_workers = click.option(
    "--workers",
    "num_workers",
    type=click.IntRange(0, 256),
    default=default_workers,
    show_default="one per core, at most 8",
    help="Dataloader workers that decode photos, or on a CPU threads; 0 decodes in the main process.",
)
root = place("--root", metavar="DIR", help="The folder of the photos, if they have moved or the labels are a .csv.")
threshold = click.option(
    "--threshold",
    metavar="NUMBER|FILE",
    help="One threshold for all classes, or a FILE with those of some classes: a model, lines `class,threshold`, or "
    "{class: threshold} in a .json file.  [default: the threshold of each class in the model or table]",
)


def load_student(file: str, device: str = "auto") -> tuple[Any, list[str], list[float]]:
    """The model in a file, its classes and its thresholds. For a .onnx, torch is not imported."""
    from ..student.onnx_model import is_onnx, load_onnx

    if is_onnx(file):
        model = load_onnx(file, device)
        return model, model.classes, model.thresholds
    from ..student.checkpoint import load_checkpoint, thresholds_of

    checkpoint = load_checkpoint(file)
    return checkpoint, checkpoint.model.classes, thresholds_of(checkpoint).tolist()


def thresholds_of(given: str | None, classes: Sequence[str], defaults: Sequence[float]) -> list[float]:
    """One threshold per class: the number or the file of --threshold, else `defaults`."""
    from ..labels.class_files import read_thresholds

    if given is None:
        return list(defaults)
    if Path(given).suffix.lower() in (".pt", ".safetensors", ".onnx"):
        found = dict(zip(*load_student(given)[1:], strict=True))
        return [found.get(name, value) for name, value in zip(classes, defaults, strict=True)]
    try:
        number = float(given)
    except ValueError:
        return read_thresholds(Path(given), classes, defaults)
    if not 0 <= number <= 1:
        raise click.UsageError(f"--threshold is {given}: it must be a number from 0 to 1, or a file.")
    return [number] * len(classes)


def set_thresholds(labels, given: str | None, file: str, progress: Console) -> None:
    """The thresholds of --threshold for a table; where neither has any, a line says that ½ is used."""
    if given is not None:
        labels.meta["thresholds"] = thresholds_of(given, labels.classes, labels.thresholds.tolist())
    elif "thresholds" not in labels.meta:
        progress.log(f"{file} has no thresholds: 0.5 is used. --threshold takes a number, a file or the model")


def report_skipped(skipped: Sequence[Sequence[str]], output: str | Path | None = None) -> int:
    """List skipped photos on stderr and in `<output>.skipped.csv`; return the exit status, 0 or SKIPPED."""
    from ..files import beside
    from ..labels.sheet import save_csv

    report = beside(output, ".skipped.csv") if output else None
    if not skipped:
        if report:
            report.unlink(missing_ok=True)  # the list of an earlier run would be misleading
        return 0
    lines = [f"{len(skipped)} skipped:", *(f"  {path}: {reason}" for path, reason in skipped[:SKIPPED_SHOWN])]
    if len(skipped) > SKIPPED_SHOWN:
        lines.append(f"  and {len(skipped) - SKIPPED_SHOWN} more")
    if report:
        save_csv([["path", "reason"], *skipped], report)
        lines.append(f"  listed in {report}")
    click.echo("\n".join(map(printable, lines)), err=True)
    return SKIPPED


def write_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as CSV. A terminal gets safe text; a file or a pipe keeps the exact paths."""
    shown = printable if sys.stdout.isatty() else str
    csv.writer(sys.stdout).writerows([header, *([shown(cell) for cell in row] for row in rows)])
    sys.stdout.flush()
