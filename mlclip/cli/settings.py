"""Options from the fields of settings dataclasses, --set for those that people rarely change, and settings in a TOML file.

The keys of a file are the names of options without the dashes at the front, and of the settings of --set. They stand in the sections
[pseudolabel], [train] and [predict], or above all sections, where they hold for every command that reads the file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from typing import Any, get_args, get_origin, get_type_hints

import click

from ..config import InputError
from ..files import existing_file
from ..spelling import did_you_mean

SECTIONS = ("pseudolabel", "train", "predict")
SET_IN_FILE = "mlclip.set_in_file"  # key in the `meta` of click's context: NAME=VALUE of rare settings in a file
_NOT_SETTINGS = ("config", "changed", "verbose", "progress", "help")  # parameters that no file can set


class Listed(click.ParamType):
    """Values separated by commas, as a tuple."""

    name = "list"

    def __init__(self, item: type):
        self.item = item

    def convert(self, value: str | tuple, param: click.Parameter | None, ctx: click.Context | None) -> tuple:
        if isinstance(value, tuple):  # the default
            return value
        try:
            return tuple(self.item(part.strip()) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 1,2,3", param, ctx)


class RareSettings(click.Option):
    """`--set NAME=VALUE`: the settings without an option of their own. The command gets {name: value}."""

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
        found = {}
        if "help" in given:
            click.echo("\n\n".join(map(_described, self.fields.values())))
            ctx.exit()
        for text in (*ctx.meta.get(SET_IN_FILE, ()), *given):
            name, separator, value = text.partition("=")
            name = name.strip().replace("-", "_")
            if not separator:
                raise click.BadParameter(f"{text!r} is not NAME=VALUE, such as {next(iter(self.fields))}=...")
            if name not in self.fields:
                raise click.BadParameter(f"there is no setting {name!r}{did_you_mean(name, self.fields) or '.'}")
            try:
                found[name] = self.types[name].convert(value.strip(), None, ctx)
            except click.BadParameter as error:
                raise click.BadParameter(f"{name}: {error.message}") from error
        return found


def _described(field: Field) -> str:
    """A setting as text: name and default, then the methods that use it, its help and its choices."""
    facts, default = field.metadata, field.default
    default = facts.get("if_none") or (",".join(map(str, default)) if type(default) is tuple else default)
    methods = f"[{', '.join(facts['methods'])}] " if facts["methods"] else ""
    choices = f" One of {', '.join(facts['choices'])}." if "choices" in facts else ""
    text = click.formatting.wrap_text(f"{methods}{facts['help']}{choices}", 100, "    ", "    ")
    return f"{field.name} = {default}\n{text}"


def settings(*configs: type, **grouped: type) -> Callable:
    """Options for the fields of settings dataclasses, in their order, and --set for those that are rare.

    The command gets the values by the fields' names; of the rare ones only those that were set. The fields of a `grouped` class
    come as one object with that name.
    """
    everything = (*configs, *grouped.values())
    types = {name: hint for config in everything for name, hint in get_type_hints(config).items()}
    all_fields = [field for config in everything for field in fields(config)]
    rare = {field.name: field for field in all_fields if field.metadata["rare"]}
    shown = [_option(field, types[field.name]) for field in all_fields if field.name not in rare]
    to_set = RareSettings(rare, {name: _click_type(field, types[name]) for name, field in rare.items()})

    def apply(command: Callable) -> Callable:
        @functools.wraps(command)
        def run(*args: Any, changed: dict[str, Any], **values: Any) -> Any:
            values |= changed
            groups = {
                name: config(**{field.name: values[field.name] for field in fields(config) if field.name in values})
                for name, config in grouped.items()
            }
            left = {name: value for name, value in values.items() if not any(name in vars(g) for g in groups.values())}
            return command(*args, **left, **groups)

        run.__click_params__ = [*getattr(command, "__click_params__", []), to_set, *reversed(shown)]  # last first
        return run

    return apply


def _click_type(field: Field, hint: Any) -> click.ParamType:
    """The click type of a field: its choices, or the type in its annotation, `int` of `int | None`."""
    if "choices" in field.metadata:
        return click.Choice(field.metadata["choices"])
    if get_origin(hint) is tuple:
        return Listed(get_args(hint)[0])
    return click.types.convert_type(get_args(hint)[0] if get_args(hint) else hint)


def _option(field: Field, hint: Any) -> click.Option:
    """The option of one field: name, type and default come from the field, the help from its metadata."""
    name, help = "--" + field.name.replace("_", "-"), field.metadata["help"]
    if hint is bool:
        return click.Option([f"{name}/--no-{name[2:]}"], default=field.default, show_default=True, help=help)
    shown = field.metadata.get("if_none", True)
    return click.Option([name], type=_click_type(field, hint), default=field.default, show_default=shown, help=help)


# Settings in a file


def _read_config(ctx: click.Context, _: click.Parameter, file: str | None) -> None:
    """Settings of the file become the defaults of this call, as text: the command line comes first, and click converts them."""
    if not file or ctx.resilient_parsing:
        return
    rare = next((param.fields for param in ctx.command.params if isinstance(param, RareSettings)), {})
    own = [param for param in ctx.command.params if param.name not in _NOT_SETTINGS]
    options = {name[2:]: param for param in own for name in param.opts if name.startswith("--")}
    ctx.default_map, ctx.meta[SET_IN_FILE] = {}, []
    for key, value in _section(file, ctx.command.name).items():
        if isinstance(value, dict) or "\0" in str(value):
            raise InputError(f"{file}: {key[:60]!r} must have one value, or a list of values.")
        option, name = options.get(key.replace("_", "-")), key.replace("-", "_")
        values = [str(each) for each in (value if isinstance(value, list) else [value])]
        if option:
            ctx.default_map[option.name] = values if option.multiple else ",".join(values)
        elif name in rare:
            ctx.meta[SET_IN_FILE].append(f"{name}={','.join(values)}")
        else:
            near = did_you_mean(key, [*options, *rare])
            raise InputError(f"{file}: {key[:60]!r} is not an option of `mlclip {ctx.command.name}`.{near}")


def _section(file: str, command: str) -> dict[str, Any]:
    """The keys of the file that are for one command: those above all sections, and those of its section."""
    try:
        import tomllib
    except ImportError as error:
        raise InputError("--config needs Python 3.11 or newer. Pass the options on the command line.") from error
    try:
        content = tomllib.loads(existing_file(file, "docs/settings.md lists the settings.").read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # tomllib's errors are ValueErrors
        raise InputError(f"{file} cannot be read as settings in TOML ({error}). Correct it.") from error
    for name, value in content.items():
        if isinstance(value, dict) and name not in SECTIONS:
            near = did_you_mean(name, SECTIONS)
            raise InputError(f"{file}: there is no section [{name}].{near} The sections are {', '.join(SECTIONS)}.")
    own = content.get(command, {})
    common = {name: value for name, value in content.items() if not isinstance(value, dict)}
    return common | (own if isinstance(own, dict) else {})


config_file = click.option(
    "--config",
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    type=click.Path(),
    help="Read options from a TOML file, `name = value` or in a section of the command. The command line comes first.",
)
