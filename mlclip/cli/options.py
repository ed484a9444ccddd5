"""Options that several commands share, and what they turn into."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from ..config import default_of

SKIPPED = 3  # exit status: done, but some inputs were skipped and are listed
CLASSES_SHOWN = 40  # a table with more classes is left to `mlclip report`
LISTED = 10  # skipped photos named on stderr; the skip report names all


def setting(config: type, field: str, *names: str, **rest) -> Callable:
    """A click option whose default is the configuration's own field."""
    default = default_of(config, field)
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    return click.option(*names, field, default=default, show_default=default is not None, **rest)


images = click.argument("images", nargs=-1, required=True, metavar="IMAGES...")
overwrite = click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
offline = click.option("--offline", is_flag=True, help="Never use the network.")
quiet = click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors on stderr.")
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
num_workers = click.option(
    "--workers",
    "num_workers",
    type=click.IntRange(0, 256),
    default=lambda: min(8, os.cpu_count() or 1),
    show_default="one per core, at most 8",
    help="Processes that decode photos; 0 decodes in the main one.",
)

threshold_file = click.option(
    "--threshold-file",
    metavar="FILE",
    help="Thresholds of classes: lines `class,threshold`, or {class: threshold} in a .json. Others keep theirs.",
)


def thresholds_of(file: str, classes: Sequence[str], own: Sequence[float]) -> list[float]:
    """What --threshold-file says of `classes`, and `own` where it is silent."""
    from ..labels.text_formats import read_thresholds

    return read_thresholds(Path(file), classes, own)


def encode_batch(default: int) -> Callable:
    return click.option(
        "--batch-size",
        type=click.IntRange(1),
        default=default,
        show_default=True,
        help="Pictures in one pass through the network; lower it when memory runs out.",
    )


def combine(*decorators: Callable) -> Callable:
    """Several option decorators as one, listed in the help in this order."""

    def apply(command):
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


running = combine(device, num_workers, quiet)


def report_skipped(skipped: Sequence[Sequence[str]], output: str | Path | None) -> int:
    """List skipped photos on stderr and in `<output>.skipped.csv`; the exit status that follows from them."""
    from ..files import atomic, beside

    report = beside(output, ".skipped.csv") if output else None
    if not skipped:
        if report:
            report.unlink(missing_ok=True)  # an older run's list would be taken for this one's
        return 0
    click.echo(f"{len(skipped)} skipped:", err=True)
    for path, reason in skipped[:LISTED]:
        click.echo(f"  {printable(path)}: {reason}", err=True)
    if len(skipped) > LISTED:
        click.echo(f"  and {len(skipped) - LISTED} more", err=True)
    if report:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([["path", "reason"], *skipped])
        with atomic(report) as temporary:
            temporary.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
        click.echo(f"  listed in {report}", err=True)
    return SKIPPED


def printable(path: str) -> str:
    """A path as one line of valid text: control characters and undecodable bytes are escaped."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").translate(_CONTROL)


_CONTROL = {code: f"\\x{code:02x}" for code in [*range(32), 127]}
