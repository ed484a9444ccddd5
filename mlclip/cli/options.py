"""Options that several commands share, and options built from the fields of a settings dataclass."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import click

from ..config import TableOptions
from ..machine import default_workers
from ..spelling import did_you_mean
from .console import VERBOSE, printable

SKIPPED = 3  # exit status: done, but some inputs were skipped and are listed
CLASSES_SHOWN = 40  # with more classes, no table per class is printed; `mlclip report` shows them
SKIPPED_SHOWN = 10  # skipped photos named on stderr; the file beside the output names all
SET_IN_FILE = "mlclip.set_in_file"  # key in the `meta` of click's context: {rare setting: value} of --config's file


class Command(click.Command):
    """A command whose help lists the options that only some methods use in a section at the end."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        common, special = [], []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record and isinstance(param, click.Option):
                (special if isinstance(param, MethodOption) else common).append(record)
        for title, records in (("Options", common), ("Options for some methods, named in [brackets]", special)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class MethodOption(click.Option):
    """An option that only some methods use; their names stand in brackets before its help."""

    def __init__(self, *args: Any, methods: Sequence[str], help: str, **more: Any):
        super().__init__(*args, help=f"[{', '.join(methods)}] {help}", **more)


class Listed(click.ParamType):
    """Values separated by commas, as a tuple."""

    name = "list"

    def __init__(self, item: type):
        self.item = item

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple:
        try:
            return tuple(self.item(part.strip()) for part in value.split(",")) if isinstance(value, str) else value
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 1,2,3", param, ctx)


class RareSettings(click.Option):
    """`--set NAME=VALUE`: the settings without an option of their own. The command gets {name: value}.

    `fields` are those settings by name; `set_in_file` in the context's `meta` holds what a file of --config sets.
    """

    def __init__(self, fields: dict[str, Field], types: dict[str, click.ParamType]):
        self.fields, self.types = fields, types
        super().__init__(
            ["--set", "changed"],
            multiple=True,
            metavar="NAME=VALUE",
            callback=self._parse,
            help=f"Change a setting that has no option of its own, such as {' or '.join(list(fields)[:2])}; --set help lists "
            "them. Can be repeated.",
        )

    def _parse(self, ctx: click.Context, _: click.Parameter, given: Sequence[str]) -> dict[str, Any]:
        found = dict(ctx.meta.get(SET_IN_FILE, {}))
        if "help" in given:
            click.echo("\n\n".join(self.describe(field) for field in self.fields.values()))
            ctx.exit()
        for text in given:
            name, separator, value = text.partition("=")
            name = name.strip().replace("-", "_")
            if not separator:
                self.fail_on(ctx, f"{text!r} is not NAME=VALUE, such as {next(iter(self.fields))}=...")
            found[name] = self.value_of(name, value.strip(), ctx)
        return found

    def value_of(self, name: str, value: Any, ctx: click.Context) -> Any:
        """The value of one setting, converted. BadParameter for an unknown name or a value of another type."""
        if name not in self.fields:
            self.fail_on(ctx, f"there is no setting {name!r}{did_you_mean(name, self.fields) or '.'}")
        if isinstance(value, list):
            value = ",".join(map(str, value))
        try:
            return self.types[name].convert(value, None, ctx)
        except click.BadParameter as error:
            self.fail_on(ctx, f"{name}: {error.message}")

    def describe(self, field: Field) -> str:
        """One setting as text: name and default, then the methods that use it, its help and its choices."""
        facts, default = field.metadata, field.default
        default = facts.get("if_none") or (",".join(map(str, default)) if type(default) is tuple else default)
        methods = f"[{', '.join(facts['methods'])}] " if facts["methods"] else ""
        choices = f" One of {', '.join(facts['choices'])}." if "choices" in facts else ""
        text = f"{methods}{facts['help']}{choices}"
        return f"{field.name} = {default}\n{click.formatting.wrap_text(text, 100, '    ', '    ')}"

    def fail_on(self, ctx: click.Context, message: str) -> NoReturn:
        raise click.BadParameter(message, ctx, self)


def settings(*configs: type) -> Callable:
    """Options for the fields of settings dataclasses, in their order, and --set for those that are rare.

    The command gets the values by the fields' names; of the rare ones only those that were set.
    """
    hints = {name: hint for config in configs for name, hint in get_type_hints(config).items()}
    all_fields = [field for config in configs for field in fields(config)]
    rare = {field.name: field for field in all_fields if field.metadata.get("rare")}
    shown = [_option(field, hints[field.name]) for field in all_fields if field.name not in rare]
    types = {name: _click_type(field, hints[name]) for name, field in rare.items()}

    def apply(command: Callable) -> Callable:
        @functools.wraps(command)
        def run(*args: Any, changed: dict[str, Any], **more: Any) -> Any:
            return command(*args, **more, **changed)

        params = getattr(command, "__click_params__", [])
        run.__click_params__ = [*params, RareSettings(rare, types)]
        return combine(*shown)(run)

    return apply


def _click_type(field: Field, hint: Any) -> click.ParamType:
    """The click type of a field: its choices, or the type in its annotation, `int` of `int | None`."""
    if "choices" in field.metadata:
        return click.Choice(field.metadata["choices"])
    if get_origin(hint) is tuple:
        return Listed(get_args(hint)[0])
    return click.types.convert_type(get_args(hint)[0] if get_args(hint) else hint)


def _option(field: Field, hint: Any) -> Callable:
    """The option of one field: name, type and default come from the field, the help from its metadata."""
    facts, name = field.metadata, "--" + field.name.replace("_", "-")
    more = {"help": facts["help"], "show_default": facts.get("if_none", True)}
    if hint is bool:
        name = f"{name}/--no-{name.removeprefix('--')}"
    else:
        more["type"] = _click_type(field, hint)
    if facts["methods"]:
        more.update(cls=MethodOption, methods=facts["methods"])
    return click.option(name, field.name, default=field.default, **more)


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


images = click.argument("images", nargs=-1, required=True, metavar="IMAGES...", cls=Photos, type=click.Path())
overwrite = click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
offline = click.option("--offline", is_flag=True, help="Never use the network.")
quiet = click.option("-q", "--quiet", is_flag=True, help="Print only warnings and errors on stderr.")
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
running = combine(device, num_workers, quiet)
batch_size = click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Images per forward pass; use fewer if memory runs out.",
)


def tables(command: Callable) -> Callable:
    """The fields of TableOptions as settings of --set; the command gets one argument, `tables`."""

    @functools.wraps(command)
    def run(*args: Any, **settings: Any) -> Any:
        chosen = {field.name: settings.pop(field.name) for field in fields(TableOptions) if field.name in settings}
        return command(*args, tables=TableOptions(**chosen), **settings)

    return run


threshold = click.option(
    "--threshold",
    metavar="NUMBER|FILE",
    help="One threshold for all classes, or a FILE with those of some classes: lines `class,threshold`, or {class: threshold} in "
    "a .json file.  [default: the threshold of each class in the model or table]",
)


def thresholds_of(given: str | None, classes: Sequence[str], defaults: Sequence[float]) -> list[float]:
    """One threshold per class: the number or the file of --threshold, else `defaults`."""
    from ..labels.corrections import read_thresholds

    if given is None:
        return list(defaults)
    try:
        number = float(given)
    except ValueError:
        return read_thresholds(Path(given), classes, defaults)
    if not 0 <= number <= 1:
        raise click.UsageError(f"--threshold is {given}: it must be a number from 0 to 1, or a file.")
    return [number] * len(classes)


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
