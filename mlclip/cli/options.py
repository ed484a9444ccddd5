"""Options that several commands share, and options built from the fields of a settings dataclass."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import click

from ..config import TableOptions
from ..machine import default_workers
from . import completion
from .console import VERBOSE
from .messages import printable

SKIPPED = 3  # exit status: done, but some inputs were skipped and are listed
CLASSES_SHOWN = 40  # with more classes, no table per class is printed; `mlclip report` shows them
SKIPPED_SHOWN = 10  # skipped photos named on stderr; the file beside the output names all
OPTION_NAMES = {"disagreement": "--lambda"}  # where an option does not have the name of its field


class Command(click.Command):
    """A command whose help lists the options that only some methods use, or that are about tables, in sections at the end."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        common, special, table = [], [], []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record and isinstance(param, click.Option):
                kinds = {MethodOption: special, TableOption: table}
                kinds.get(type(param), common).append(record)
        titles = ("Options", "Options for some methods, named in [brackets]", "Options for a .csv of another program")
        for title, records in zip(titles, (common, special, table), strict=True):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class MethodOption(click.Option):
    """An option that only some methods use; their names stand in brackets before its help."""

    def __init__(self, *args: Any, methods: Sequence[str], help: str, **more: Any):
        super().__init__(*args, help=f"[{', '.join(methods)}] {help}", **more)


class TableOption(click.Option):
    """An option that says how a .csv of another program is read."""


class Numbers(click.ParamType):
    """Whole numbers separated by commas, as a tuple."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            return value if isinstance(value, tuple) else tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 1,2,3", param, ctx)


class Words(click.ParamType):
    """Words separated by commas, as a tuple."""

    name = "words"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(","))


def settings(config: type) -> Callable:
    """One option for every field of a settings dataclass, in the order of the fields."""
    hints = get_type_hints(config)
    return combine(*(_setting(setting, hints[setting.name]) for setting in fields(config)))


def _setting(setting: Field, hint: Any, **more: Any) -> Callable:
    """The option of one field: name, type and default come from the field, the help from its metadata."""
    told, default = setting.metadata, setting.default
    name = OPTION_NAMES.get(setting.name, "--" + setting.name.replace("_", "-"))
    more |= {"help": told["help"], "show_default": told.get("if_none", True)}
    if "known" in told:
        more["shell_complete"] = completion.names_or_files(lambda: told["known"])
    if "choices" in told:
        more["type"] = click.Choice(told["choices"])
    elif hint is bool:
        name = f"{name}/--no-{name.removeprefix('--')}"
    elif get_origin(hint) is tuple:
        more["type"] = Words() if get_args(hint)[0] is str else Numbers()
        default = ",".join(map(str, default))
    else:
        more["type"] = get_args(hint)[0] if get_args(hint) else hint  # `int` of `int | None`
    if told["methods"]:
        more.update(cls=MethodOption, methods=told["methods"])
    return click.option(name, setting.name, default=default, **more)


def combine(*decorators: Callable) -> Callable:
    """Several option decorators as one; the help lists their options in this order."""

    def apply(command: Callable) -> Callable:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


class Photos(click.Argument):
    """The photos of a command. They may be missing where the command only prints its settings."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        if ctx.params.get("print_config") and self.value_is_missing(value):
            return ()
        return super().process_value(ctx, value)


def _set_verbose(ctx: click.Context, _: click.Parameter, verbose: bool) -> None:
    ctx.meta[VERBOSE] = verbose  # the console reads it


images = click.argument(
    "images", nargs=-1, required=True, metavar="IMAGES...", cls=Photos, shell_complete=completion.files
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
offline = click.option("--offline", is_flag=True, help="Never use the network.")
quiet = click.option("-q", "--quiet", is_flag=True, help="Print only warnings and errors on stderr.")
verbose = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    expose_value=False,
    callback=_set_verbose,
    help="Also print which files, stores and devices are used, and the time of each step.",
)
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    shell_complete=lambda ctx, param, text: [name for name in completion.devices() if name.startswith(text)],
    help="auto, cpu, cuda, cuda:N or mps.",
)
num_workers = click.option(
    "--workers",
    "num_workers",
    type=click.IntRange(0, 256),
    default=default_workers,
    show_default="one per core, at most 8",
    help="Dataloader workers that decode photos, or on a CPU threads; 0 decodes in the main process.",
)
running = combine(device, num_workers, quiet, verbose)
weight_facts = combine(
    click.option(
        "--clip-activation",
        type=click.Choice(["quick_gelu", "gelu"]),
        help="For a weight FILE: the activation that it was trained with, quick_gelu for OpenAI's, gelu for most of LAION's.  "
        "[default: what the json in DIR says; quick_gelu for a FILE]",
    ),
    click.option(
        "--clip-pixels",
        metavar="TEXT",
        help="For a weight FILE: how its images were normalised, openai, half, or MEAN/STD such as "
        '"0.48,0.46,0.41/0.27,0.26,0.28".  [default: what the json in DIR says; openai for a FILE]',
    ),
)
batch_size = click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Images per forward pass; use fewer if memory runs out.",
)
partial = click.option(
    "--partial",
    is_flag=True,
    help="Accept true labels of which fewer than half of the photos or classes match (of the smaller table).",
)


def tables(command: Callable) -> Callable:
    """The fields of TableOptions as options; the command gets one argument, `tables`."""

    @functools.wraps(command)
    def run(*args: Any, **settings: Any) -> Any:
        chosen = {setting.name: settings.pop(setting.name) for setting in fields(TableOptions)}
        return command(*args, tables=TableOptions(**chosen), **settings)

    hints = get_type_hints(TableOptions)
    return combine(*(_setting(f, hints[f.name], cls=TableOption) for f in fields(TableOptions)))(run)


threshold_file = click.option(
    "--threshold-file",
    metavar="FILE",
    shell_complete=completion.files,
    help="Thresholds per class: lines `class,threshold`, or {class: threshold} in a .json file. Other classes keep theirs.",
)


def thresholds_of(file: str, classes: Sequence[str], defaults: Sequence[float]) -> list[float]:
    """One threshold per class: from the file of --threshold-file, else from `defaults`."""
    from ..labels.thresholds import read_thresholds

    return read_thresholds(Path(file), classes, defaults)


def report_skipped(skipped: Sequence[Sequence[str]], output: str | Path | None) -> int:
    """List skipped photos on stderr and in `<output>.skipped.csv`; return the exit status, 0 or SKIPPED."""
    from ..files import atomic, beside

    report = beside(output, ".skipped.csv") if output else None
    if not skipped:
        if report:
            report.unlink(missing_ok=True)  # the list of an earlier run would be misleading
        return 0
    click.echo(f"{len(skipped)} skipped:", err=True)
    for path, reason in skipped[:SKIPPED_SHOWN]:
        click.echo(f"  {printable(path)}: {printable(reason)}", err=True)
    if len(skipped) > SKIPPED_SHOWN:
        click.echo(f"  and {len(skipped) - SKIPPED_SHOWN} more", err=True)
    if report:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([["path", "reason"], *skipped])
        with atomic(report) as temporary:
            temporary.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
        click.echo(f"  listed in {printable(str(report))}", err=True)
    return SKIPPED
